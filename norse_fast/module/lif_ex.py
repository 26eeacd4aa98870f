"""Modules of exponential integrate-and-fire neurons; the equations are in :mod:`norse_fast.functional.lif_ex`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..functional.lif_ex import (
    LIFExFeedForwardState,
    LIFExParameters,
    LIFExState,
    lif_ex_feed_forward_step,
    lif_ex_step,
)
from ._initial import initial_voltage, uniform, zeros
from ._parameters import Parameters, checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LIFEx", "LIFExCell", "LIFExRecurrent", "LIFExRecurrentCell"]


def _initial_state(p: LIFExParameters, shape: Sequence[int], input_tensor: torch.Tensor) -> LIFExFeedForwardState:
    v = initial_voltage(p.v_leak, input_tensor, shape)
    return LIFExFeedForwardState(v=v, i=zeros(shape, input_tensor))


class _LIFEx(Parameters):
    """The arguments and initial state of :class:`LIFExCell` and :class:`LIFEx`."""

    def __init__(self, p: LIFExParameters = LIFExParameters(), **kwargs: Any) -> None:
        super().__init__(lif_ex_feed_forward_step, self.initial_state, checked(p, LIFExParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFExFeedForwardState:
        """The state before the first step."""
        return _initial_state(self.p, self._neuron_shape(input_tensor), input_tensor)


class LIFExCell(_LIFEx, SNNCell[LIFExFeedForwardState]):
    """One time step of LIFEx neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_ex.lif_ex_feed_forward_step`. The
    state starts at ``v = v_leak`` and ``i = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> z, state = LIFExCell()(torch.tensor([[0.0, 20.0]]))
        >>> z.detach(), state.i.detach()
        (tensor([[0., 1.]]), tensor([[ 0., 16.]]))
    """


class LIFEx(_LIFEx, SNN[LIFExFeedForwardState]):
    """All time steps of LIFEx neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_ex.lif_ex_feed_forward_step`. The
    state starts at ``v = v_leak`` and ``i = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFExCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = LIFEx()(torch.full((4, 1, 2), 5.0))
        >>> z.sum(0).detach()
        tensor([[3., 3.]])
    """


class _LIFExRecurrent(Weights):
    """The arguments and initial state of :class:`LIFExRecurrentCell` and :class:`LIFExRecurrent`."""

    def __init__(
        self, input_size: int, hidden_size: int, p: LIFExParameters = LIFExParameters(), **kwargs: Any
    ) -> None:
        super().__init__(
            lif_ex_step, self.initial_state, input_size, hidden_size, checked(p, LIFExParameters), **kwargs
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFExState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return LIFExState(zeros(shape, input_tensor), *_initial_state(self.p, shape, input_tensor))


class LIFExRecurrentCell(_LIFExRecurrent, SNNRecurrentCell[LIFExState]):
    """One time step of a recurrent LIFEx layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_ex.lif_ex_step`. The state starts
    at ``v = v_leak``, ``i = 0`` and ``z = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFExCell`.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Example:
        >>> z, state = LIFExRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class LIFExRecurrent(_LIFExRecurrent, SNNRecurrent[LIFExState]):
    """All time steps of a recurrent LIFEx layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_ex.lif_ex_step`. The state starts
    at ``v = v_leak``, ``i = 0`` and ``z = 0``. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LIFExCell`.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Example:
        >>> z, state = LIFExRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
