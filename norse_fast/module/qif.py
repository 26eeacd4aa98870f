"""Modules of quadratic integrate-and-fire neurons; the equations are in :mod:`norse_fast.functional.qif`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.qif import QIFFeedForwardState, QIFParameters, qif_feed_forward_step
from ._initial import initial_voltage, uniform
from ._parameters import Parameters, checked
from .snn import SNN, SNNCell

__all__ = ["QIF", "QIFCell"]


class _QIF(Parameters):
    """The arguments and initial state of :class:`QIFCell` and :class:`QIF`."""

    def __init__(self, p: QIFParameters = QIFParameters(), **kwargs: Any) -> None:
        super().__init__(qif_feed_forward_step, self.initial_state, checked(p, QIFParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> QIFFeedForwardState:
        """The state before the first step."""
        return QIFFeedForwardState(v=initial_voltage(self.p.v_rest, input_tensor))


class QIFCell(_QIF, SNNCell[QIFFeedForwardState]):
    """One time step of quadratic integrate-and-fire neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.qif.qif_feed_forward_step`. The state
    starts at ``v = v_rest``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_crit",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> z, state = QIFCell()(torch.tensor([[0.0, 20.0]]))
        >>> z.detach()
        tensor([[0., 1.]])
    """


class QIF(_QIF, SNN[QIFFeedForwardState]):
    """All time steps of quadratic integrate-and-fire neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.qif.qif_feed_forward_step`. The state
    starts at ``v = v_rest``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`QIFCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = QIF()(torch.full((20, 1, 1), 2.0))
        >>> z.flatten().nonzero().flatten()
        tensor([ 5, 11, 17])
    """
