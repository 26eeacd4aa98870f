"""Modules of coupled LIF neurons with a refractory period; see :mod:`norse_fast.functional.lif_mc_refrac`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.lif import LIFState as LIFState
from ..functional.lif_mc_refrac import lif_mc_refrac_step
from ..functional.lif_refrac import LIFRefracParameters, LIFRefracState
from ._initial import zeros
from ._parameters import checked
from .lif_mc import CoupledCell
from .snn import SNNRecurrentCell as SNNRecurrentCell

__all__ = ["LIFMCRefracRecurrentCell"]


class LIFMCRefracRecurrentCell(CoupledCell[LIFRefracState]):
    """One time step of a recurrent layer of coupled LIF neurons with a refractory period.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_mc_refrac.lif_mc_refrac_step`. The
    state starts at ``v = v_leak``, all else at 0. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`norse_fast.module.lif_mc.LIFMCRecurrentCell`.
        g_coupling: coupling, shape ``(N, N)``; by default a parameter, normal with variance ``1 / N``.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Raises:
        TypeError: a weight is not a tensor.
        ValueError: a weight has another shape.

    Example:
        >>> z, state = LIFMCRefracRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFRefracParameters = LIFRefracParameters(),
        g_coupling: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            lif_mc_refrac_step, input_size, hidden_size, checked(p, LIFRefracParameters), g_coupling, **kwargs
        )

    def initial_state(self, input_tensor: torch.Tensor) -> LIFRefracState:
        """The state before the first step."""
        lif = self.initial_lif_state(self.p.lif, input_tensor)
        return LIFRefracState(lif, rho=zeros(tuple(lif.v.shape), input_tensor))
