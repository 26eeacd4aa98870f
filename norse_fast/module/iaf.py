"""Modules of integrate-and-fire neurons; the equations are in :mod:`norse_fast.functional.iaf`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.iaf import IAFFeedForwardState, IAFParameters, iaf_feed_forward_step
from ._initial import initial_voltage, uniform
from ._parameters import Parameters, checked
from .snn import SNN, SNNCell

__all__ = ["IAF", "IAFCell"]


class _IAF(Parameters):
    """The arguments and initial state of :class:`IAFCell` and :class:`IAF`."""

    def __init__(self, p: IAFParameters = IAFParameters(), dt: float = 0.001, **kwargs: Any) -> None:
        super().__init__(iaf_feed_forward_step, self.initial_state, checked(p, IAFParameters), dt, **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> IAFFeedForwardState:
        """The state before the first step."""
        # Not detached: a reset potential that requires grad gets the gradient of the initial potential too.
        return IAFFeedForwardState(v=initial_voltage(self.p.v_reset, input_tensor, detach=False))


class IAFCell(_IAF, SNNCell[IAFFeedForwardState]):
    """One time step of integrate-and-fire neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.iaf.iaf_feed_forward_step`. The state
    starts at ``v = v_reset``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, which changes nothing.

    Example:
        >>> cell = IAFCell()
        >>> z, state = cell(torch.tensor([[0.5, 0.7]]))
        >>> z, state = cell(torch.tensor([[0.5, 0.7]]), state)
        >>> z.detach()
        tensor([[0., 1.]])
    """


class IAF(_IAF, SNN[IAFFeedForwardState]):
    """All time steps of integrate-and-fire neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.iaf.iaf_feed_forward_step`. The state
    starts at ``v = v_reset``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`IAFCell`.
        dt: length of a step in seconds, which changes nothing.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = IAF()(torch.full((4, 1, 1), 0.6))
        >>> z.flatten().detach()
        tensor([0., 1., 0., 1.])
    """
