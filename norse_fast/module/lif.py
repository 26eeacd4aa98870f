"""Modules of leaky integrate-and-fire neurons; the equations are in :mod:`norse_fast.functional.lif`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.lif import (
    LIFFeedForwardState,
    LIFParameters,
    LIFState,
    lif_feed_forward_step,
    lif_feed_forward_step_sparse,
    lif_step,
    lif_step_sparse,
)
from ..utils.clone import clone_tensor as clone_tensor
from ._initial import initial_voltage, uniform, zeros
from ._parameters import as_tensors
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LIF", "LIFCell", "LIFRecurrent", "LIFRecurrentCell"]


class LIFCell(SNNCell[LIFFeedForwardState]):
    """One time step of LIF neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif.lif_feed_forward_step`. The state
    starts at ``v = v_leak`` and ``i = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Raises:
        ValueError: the surrogate is unknown.
        NotImplementedError: the surrogate is ``"adjoint"``.

    Example:
        >>> cell = LIFCell()
        >>> z, state = cell(torch.tensor([[0.0, 20.0]]))
        >>> z, state = cell(torch.tensor([[0.0, 20.0]]), state)
        >>> z.detach()
        tensor([[0., 1.]])
    """

    def __init__(self, p: LIFParameters = LIFParameters(), **kwargs: Any) -> None:
        super().__init__(
            lif_feed_forward_step,
            self.initial_state,
            as_tensors(p, LIFParameters),
            activation_sparse=lif_feed_forward_step_sparse,
            **kwargs,
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFFeedForwardState:
        """The state before the first step."""
        return LIFFeedForwardState(
            v=initial_voltage(self.p.v_leak, input_tensor), i=zeros(input_tensor.shape, input_tensor, torch.float32)
        )


class LIF(SNN[LIFFeedForwardState]):
    """All time steps of LIF neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif.lif_feed_forward_step`. The state
    starts at ``v = v_leak`` and ``i = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Raises:
        ValueError: the surrogate is unknown.
        NotImplementedError: the surrogate is ``"adjoint"``.

    Example:
        >>> z, state = LIF()(torch.full((4, 1, 2), 5.0))
        >>> z.sum(0).detach()
        tensor([[3., 3.]])
    """

    def __init__(self, p: LIFParameters = LIFParameters(), **kwargs: Any) -> None:
        super().__init__(
            lif_feed_forward_step,
            self.initial_state,
            as_tensors(p, LIFParameters),
            activation_sparse=lif_feed_forward_step_sparse,
            **kwargs,
        )

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFFeedForwardState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return LIFFeedForwardState(
            v=initial_voltage(self.p.v_leak, input_tensor, shape, torch.float32),
            i=zeros(shape, input_tensor, torch.float32),
        )


class _LIFRecurrent(Weights):
    """The arguments and initial state of :class:`LIFRecurrentCell` and :class:`LIFRecurrent`."""

    def __init__(self, input_size: int, hidden_size: int, p: LIFParameters = LIFParameters(), **kwargs: Any) -> None:
        super().__init__(
            lif_step,
            self.initial_state,
            input_size,
            hidden_size,
            as_tensors(p, LIFParameters),
            activation_sparse=lif_step_sparse,
            **kwargs,
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        z = zeros(shape, input_tensor)
        return LIFState(
            z=z.to_sparse() if input_tensor.is_sparse else z,
            v=initial_voltage(self.p.v_leak, input_tensor, shape, torch.float32),
            i=zeros(shape, input_tensor, torch.float32),
        )


class LIFRecurrentCell(_LIFRecurrent, SNNRecurrentCell[LIFState]):
    """One time step of a recurrent LIF layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif.lif_step`. The state starts at
    ``v = v_leak``, ``i = 0`` and ``z = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFCell`.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Example:
        >>> z, state = LIFRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class LIFRecurrent(_LIFRecurrent, SNNRecurrent[LIFState]):
    """All time steps of a recurrent LIF layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif.lif_step`. The state starts at
    ``v = v_leak``, ``i = 0`` and ``z = 0``. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFCell`.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Example:
        >>> z, state = LIFRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
