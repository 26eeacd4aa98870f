"""Modules of leaky integrators without a synapse; the equations are in
:mod:`norse_fast.functional.leaky_integrator_box`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.leaky_integrator_box import LIBoxParameters, LIBoxState, li_box_feed_forward_step
from ..functional.leaky_integrator_box import li_box_step as li_box_step
from ._initial import initial_voltage, uniform
from ._parameters import checked
from .snn import SNN, SNNCell

__all__ = ["LIBox", "LIBoxCell"]


class LIBoxCell(SNNCell[LIBoxState]):
    """One time step of leaky integrators without a synapse and without weights.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.leaky_integrator_box.li_box_feed_forward_step`. The state starts at ``v = v_leak``.
    Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("tau_mem_inv",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> v, state = LIBoxCell()(torch.ones(1, 2))
        >>> v.detach()
        tensor([[0.1000, 0.1000]])
    """

    def __init__(self, p: LIBoxParameters = LIBoxParameters(), **kwargs: Any) -> None:
        super().__init__(li_box_feed_forward_step, self.initial_state, checked(p, LIBoxParameters), **kwargs)

    def initial_state(self, input_tensor: torch.Tensor) -> LIBoxState:
        """The state before the first step."""
        return LIBoxState(v=initial_voltage(self.p.v_leak, input_tensor))


class LIBox(SNN[LIBoxState]):
    """All time steps of leaky integrators without a synapse, in one kernel.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.leaky_integrator_box.li_box_feed_forward_step`. The state starts at ``v = v_leak``.
    Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LIBoxCell`.
        dt: length of a step in seconds.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> v, state = LIBox()(torch.ones(3, 1, 1))
        >>> v.flatten().detach()
        tensor([0.1000, 0.1900, 0.2710])
    """

    def __init__(self, p: LIBoxParameters = LIBoxParameters(), dt: float = 0.001, **kwargs: Any) -> None:
        super().__init__(li_box_feed_forward_step, self.initial_state, checked(p, LIBoxParameters), dt, **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIBoxState:
        """The state before the first step."""
        return LIBoxState(v=initial_voltage(self.p.v_leak, input_tensor))
