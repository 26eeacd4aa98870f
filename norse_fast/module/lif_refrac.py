"""Modules of LIF neurons with a refractory period; the equations are in :mod:`norse_fast.functional.lif_refrac`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..functional.lif import LIFFeedForwardState, LIFState
from ..functional.lif import LIFParameters as LIFParameters
from ..functional.lif_refrac import (
    LIFRefracFeedForwardState,
    LIFRefracParameters,
    LIFRefracState,
    lif_refrac_feed_forward_step,
    lif_refrac_step,
    lif_refrac_step_sparse,
)
from ._initial import initial_voltage, uniform, zeros
from ._parameters import Parameters, as_tensors, checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LIFRefrac", "LIFRefracCell", "LIFRefracRecurrent", "LIFRefracRecurrentCell"]


def _initial_recurrent_state(
    v: torch.Tensor, shape: Sequence[int], input_tensor: torch.Tensor, dtype: torch.dtype | None = None
) -> LIFRefracState:
    z = zeros(shape, input_tensor)
    lif = LIFState(z=z.to_sparse() if input_tensor.is_sparse else z, v=v, i=zeros(shape, input_tensor, dtype))
    return LIFRefracState(lif=lif, rho=zeros(shape, input_tensor, dtype))


class _LIFRefrac(Parameters):
    """The arguments and initial state of :class:`LIFRefracCell` and :class:`LIFRefrac`."""

    def __init__(self, p: LIFRefracParameters = LIFRefracParameters(), **kwargs: Any) -> None:
        super().__init__(lif_refrac_feed_forward_step, self.initial_state, checked(p, LIFRefracParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFRefracFeedForwardState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        v = initial_voltage(self.p.lif.v_leak, input_tensor, shape)
        lif = LIFFeedForwardState(v=v, i=zeros(shape, input_tensor))
        return LIFRefracFeedForwardState(lif=lif, rho=zeros(shape, input_tensor))


class LIFRefracCell(_LIFRefrac, SNNCell[LIFRefracFeedForwardState]):
    """One time step of LIF neurons with a refractory period, without weights.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.lif_refrac.lif_refrac_feed_forward_step`. The state starts at ``v = v_leak``, ``i = 0``
    and ``rho = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Raises:
        ValueError: the surrogate is unknown.
        NotImplementedError: the surrogate is ``"adjoint"``.

    Example:
        >>> z, state = LIFRefracCell()(torch.tensor([[0.0, 20.0]]))
        >>> z.detach(), state.rho.detach()
        (tensor([[0., 1.]]), tensor([[0., 5.]]))
    """


class LIFRefrac(_LIFRefrac, SNN[LIFRefracFeedForwardState]):
    """All time steps of LIF neurons with a refractory period, without weights, in one kernel. Norse has no such module.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.lif_refrac.lif_refrac_feed_forward_step`. The state starts at ``v = v_leak``, ``i = 0``
    and ``rho = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFRefracCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Raises:
        ValueError: the surrogate is unknown.
        NotImplementedError: the surrogate is ``"adjoint"``.

    Example:
        >>> z, state = LIFRefrac()(torch.full((9, 1, 1), 20.0))
        >>> z.flatten().detach()
        tensor([1., 0., 0., 0., 0., 0., 1., 0., 0.])
    """


class _LIFRefracRecurrent(Weights):
    """The arguments of :class:`LIFRefracRecurrentCell` and :class:`LIFRefracRecurrent`."""

    _prepared: Callable[[Any, Any], Any] = staticmethod(checked)

    def __init__(
        self, input_size: int, hidden_size: int, p: LIFRefracParameters = LIFRefracParameters(), **kwargs: Any
    ) -> None:
        super().__init__(
            lif_refrac_step,
            self.initial_state,
            input_size,
            hidden_size,
            self._prepared(p, LIFRefracParameters),
            activation_sparse=lif_refrac_step_sparse,
            **kwargs,
        )


class LIFRefracRecurrentCell(_LIFRefracRecurrent, SNNRecurrentCell[LIFRefracState]):
    """One time step of a recurrent layer of LIF neurons with a refractory period.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_refrac.lif_refrac_step`. The state
    starts at ``v = v_leak`` and ``z = i = rho = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFRefracCell`.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Example:
        >>> z, state = LIFRefracRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """

    def initial_state(self, input_tensor: torch.Tensor) -> LIFRefracState:
        """The state before the first step."""
        v = initial_voltage(self.p.lif.v_leak, input_tensor)
        return _initial_recurrent_state(v, self._neuron_shape(input_tensor), input_tensor)


class LIFRefracRecurrent(_LIFRefracRecurrent, SNNRecurrent[LIFRefracState]):
    """All time steps of a recurrent layer of LIF neurons with a refractory period.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_refrac.lif_refrac_step`. The state
    starts at ``v = v_leak`` and ``z = i = rho = 0``. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFRefracCell`.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Example:
        >>> z, state = LIFRefracRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """

    # Norse rounds the numbers of this class alone to the default dtype.
    _prepared = staticmethod(as_tensors)

    def initial_state(self, input_tensor: torch.Tensor) -> LIFRefracState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        v = initial_voltage(self.p.lif.v_leak, input_tensor, shape, torch.float32)
        return _initial_recurrent_state(v, shape, input_tensor, torch.float32)
