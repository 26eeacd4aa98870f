"""Modules of LIF neurons without a synapse; the equations are in :mod:`norse_fast.functional.lif_box`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from ..utils.clone import clone_tensor as clone_tensor
from ._initial import initial_voltage, uniform
from ._parameters import Parameters, checked
from .snn import SNN, SNNCell

__all__ = ["LIFBox", "LIFBoxCell"]


class _LIFBox(Parameters):
    """The arguments and initial state of :class:`LIFBoxCell` and :class:`LIFBox`."""

    def __init__(self, p: LIFBoxParameters = LIFBoxParameters(), dt: float = 0.001, **kwargs: Any) -> None:
        super().__init__(lif_box_feed_forward_step, self.initial_state, checked(p, LIFBoxParameters), dt, **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIFBoxFeedForwardState:
        """The state before the first step."""
        return LIFBoxFeedForwardState(v=initial_voltage(self.p.v_leak, input_tensor))


class LIFBoxCell(_LIFBox, SNNCell[LIFBoxFeedForwardState]):
    """One time step of LIF neurons without a synapse and without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_box.lif_box_feed_forward_step`.
    The state starts at ``v = v_leak``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds.

    Example:
        >>> z, state = LIFBoxCell()(torch.tensor([[1.0, 15.0]]))
        >>> z.detach(), state.v.detach()
        (tensor([[0., 1.]]), tensor([[0.1000, 0.0000]]))
    """


class LIFBox(_LIFBox, SNN[LIFBoxFeedForwardState]):
    """All time steps of LIF neurons without a synapse, in one kernel unless the parameters bring a reset of their own.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_box.lif_box_feed_forward_step`.
    The state starts at ``v = v_leak``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIFBoxCell`.
        dt: length of a step in seconds.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = LIFBox()(torch.full((4, 1, 1), 6.0))
        >>> z.flatten().detach()
        tensor([0., 1., 0., 1.])
    """
