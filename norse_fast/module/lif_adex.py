"""Modules of adaptive exponential integrate-and-fire neurons; the equations are in
:mod:`norse_fast.functional.lif_adex`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..functional.lif_adex import (
    LIFAdExFeedForwardState,
    LIFAdExParameters,
    LIFAdExState,
    lif_adex_feed_forward_step,
    lif_adex_step,
)
from ._initial import initial_voltage, uniform, zeros
from ._parameters import checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LIFAdEx", "LIFAdExCell", "LIFAdExRecurrent", "LIFAdExRecurrentCell"]


def _initial_state(p: LIFAdExParameters, shape: Sequence[int], input_tensor: torch.Tensor) -> LIFAdExFeedForwardState:
    v = initial_voltage(p.v_leak, input_tensor, shape)
    return LIFAdExFeedForwardState(v=v, i=zeros(shape, input_tensor), a=zeros(shape, input_tensor))


class LIFAdExCell(SNNCell[LIFAdExFeedForwardState]):
    """One time step of LIFAdEx neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex.lif_adex_feed_forward_step`.
    The state starts at ``v = v_leak`` and ``i = a = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> z, state = LIFAdExCell()(torch.tensor([[0.0, 20.0]]))
        >>> z.detach(), state.a.detach()
        (tensor([[0., 1.]]), tensor([[0.0000, 0.0200]]))
    """

    def __init__(self, p: LIFAdExParameters = LIFAdExParameters(), **kwargs: Any) -> None:
        super().__init__(lif_adex_feed_forward_step, self.initial_state, checked(p, LIFAdExParameters), **kwargs)

    def initial_state(self, x: torch.Tensor) -> LIFAdExFeedForwardState:
        """The state before the first step; the argument has another name in all other neurons, as in Norse."""
        return LIFAdExFeedForwardState(initial_voltage(self.p.v_leak, x), i=zeros(x.shape, x), a=zeros(x.shape, x))


class LIFAdEx(SNN[LIFAdExFeedForwardState]):
    """All time steps of LIFAdEx neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex.lif_adex_feed_forward_step`.
    The state starts at ``v = v_leak`` and ``i = a = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFAdExCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = LIFAdEx()(torch.full((4, 1, 2), 5.0))
        >>> z.sum(0).detach()
        tensor([[3., 3.]])
    """

    def __init__(self, p: LIFAdExParameters = LIFAdExParameters(), **kwargs: Any) -> None:
        super().__init__(lif_adex_feed_forward_step, self.initial_state, checked(p, LIFAdExParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFAdExFeedForwardState:
        """The state before the first step."""
        return _initial_state(self.p, self._neuron_shape(input_tensor), input_tensor)


class _LIFAdExRecurrent(Weights):
    """The arguments and initial state of :class:`LIFAdExRecurrentCell` and :class:`LIFAdExRecurrent`."""

    def __init__(
        self, input_size: int, hidden_size: int, p: LIFAdExParameters = LIFAdExParameters(), **kwargs: Any
    ) -> None:
        super().__init__(
            lif_adex_step, self.initial_state, input_size, hidden_size, checked(p, LIFAdExParameters), **kwargs
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFAdExState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return LIFAdExState(zeros(shape, input_tensor), *_initial_state(self.p, shape, input_tensor))


class LIFAdExRecurrentCell(_LIFAdExRecurrent, SNNRecurrentCell[LIFAdExState]):
    """One time step of a recurrent LIFAdEx layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex.lif_adex_step`. The state
    starts at ``v = v_leak`` and ``z = i = a = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFAdExCell`.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Example:
        >>> z, state = LIFAdExRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class LIFAdExRecurrent(_LIFAdExRecurrent, SNNRecurrent[LIFAdExState]):
    """All time steps of a recurrent LIFAdEx layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex.lif_adex_step`. The state
    starts at ``v = v_leak`` and ``z = i = a = 0``. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFAdExCell`.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Example:
        >>> z, state = LIFAdExRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
