"""Modules of LIFAdEx neurons with a refractory period.

The equations are in :mod:`norse_fast.functional.lif_adex_refrac`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..functional.lif_adex import LIFAdExFeedForwardState, LIFAdExState
from ..functional.lif_adex_refrac import (
    LIFAdExRefracFeedForwardState,
    LIFAdExRefracParameters,
    LIFAdExRefracState,
    lif_adex_refrac_feed_forward_step,
    lif_adex_refrac_step,
)
from ._initial import initial_voltage, uniform, zeros
from ._parameters import checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LIFAdExRefrac", "LIFAdExRefracCell", "LIFAdExRefracRecurrent", "LIFAdExRefracRecurrentCell"]


def _initial_state(v: torch.Tensor, shape: Sequence[int], input_tensor: torch.Tensor) -> LIFAdExRefracFeedForwardState:
    lif_adex = LIFAdExFeedForwardState(v=v, i=zeros(shape, input_tensor), a=zeros(shape, input_tensor))
    return LIFAdExRefracFeedForwardState(lif_adex=lif_adex, rho=zeros(shape, input_tensor))


class LIFAdExRefracCell(SNNCell[LIFAdExRefracFeedForwardState]):
    """One time step of LIFAdEx neurons with a refractory period, without weights.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.lif_adex_refrac.lif_adex_refrac_feed_forward_step`. The state starts at ``v = v_leak``
    and ``i = a = rho = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> z, state = LIFAdExRefracCell()(torch.tensor([[0.0, 20.0]]))
        >>> z.detach(), state.rho.detach()
        (tensor([[0., 1.]]), tensor([[0., 5.]]))
    """

    def __init__(self, p: LIFAdExRefracParameters = LIFAdExRefracParameters(), **kwargs: Any) -> None:
        super().__init__(
            lif_adex_refrac_feed_forward_step, self.initial_state, checked(p, LIFAdExRefracParameters), **kwargs
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFAdExRefracFeedForwardState:
        """The state before the first step."""
        v = initial_voltage(self.p.lif_adex.v_leak, input_tensor)
        return _initial_state(v, self._neuron_shape(input_tensor), input_tensor)


class LIFAdExRefrac(SNN[LIFAdExRefracFeedForwardState]):
    """All time steps of LIFAdEx neurons with a refractory period, in one kernel. Norse has no such module.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.lif_adex_refrac.lif_adex_refrac_feed_forward_step`. The state starts at ``v = v_leak``
    and ``i = a = rho = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFAdExRefracCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = LIFAdExRefrac()(torch.full((9, 1, 1), 20.0))
        >>> z.flatten().detach()
        tensor([1., 0., 0., 0., 0., 0., 1., 0., 0.])
    """

    def __init__(self, p: LIFAdExRefracParameters = LIFAdExRefracParameters(), **kwargs: Any) -> None:
        super().__init__(
            lif_adex_refrac_feed_forward_step, self.initial_state, checked(p, LIFAdExRefracParameters), **kwargs
        )

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFAdExRefracFeedForwardState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return _initial_state(initial_voltage(self.p.lif_adex.v_leak, input_tensor, shape), shape, input_tensor)


class _LIFAdExRefracRecurrent(Weights):
    """The arguments and initial state of :class:`LIFAdExRefracRecurrentCell` and :class:`LIFAdExRefracRecurrent`."""

    def __init__(
        self, input_size: int, hidden_size: int, p: LIFAdExRefracParameters = LIFAdExRefracParameters(), **kwargs: Any
    ) -> None:
        super().__init__(
            lif_adex_refrac_step,
            self.initial_state,
            input_size,
            hidden_size,
            checked(p, LIFAdExRefracParameters),
            **kwargs,
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFAdExRefracState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        v = initial_voltage(self.p.lif_adex.v_leak, input_tensor, shape)
        lif_adex, rho = _initial_state(v, shape, input_tensor)
        return LIFAdExRefracState(LIFAdExState(zeros(shape, input_tensor), *lif_adex), rho)


class LIFAdExRefracRecurrentCell(_LIFAdExRefracRecurrent, SNNRecurrentCell[LIFAdExRefracState]):
    """One time step of a recurrent layer of LIFAdEx neurons with a refractory period.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex_refrac.lif_adex_refrac_step`.
    The state starts at ``v = v_leak`` and ``z = i = a = rho = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFAdExRefracCell`.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Example:
        >>> z, state = LIFAdExRefracRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class LIFAdExRefracRecurrent(_LIFAdExRefracRecurrent, SNNRecurrent[LIFAdExRefracState]):
    """All time steps of a recurrent layer of LIFAdEx neurons with a refractory period.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_adex_refrac.lif_adex_refrac_step`.
    The state starts at ``v = v_leak`` and ``z = i = a = rho = 0``. Input is ``(T, ..., inputs)``, output
    ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFAdExRefracCell`.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Example:
        >>> z, state = LIFAdExRefracRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
