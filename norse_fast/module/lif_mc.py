"""Modules of coupled LIF neurons; the equations are in :mod:`norse_fast.functional.lif_mc`."""

from __future__ import annotations

import math
from typing import Any

import torch

from .._kernels.weights import check_weights
from ..functional.lif import LIFParameters, LIFState
from ..functional.lif_mc import lif_mc_step
from ._initial import initial_voltage, zeros
from ._parameters import checked
from ._stateful import State
from ._weights import check_weight
from .snn import FeedforwardActivation, SNNRecurrentCell

__all__ = ["LIFMCRecurrentCell"]


class CoupledCell(SNNRecurrentCell[State]):
    """A recurrent cell with a coupling matrix: ``activation`` takes ``g_coupling`` after the weights."""

    def __init__(
        self,
        activation: FeedforwardActivation,
        input_size: int,
        hidden_size: int,
        p: Any,
        g_coupling: torch.Tensor | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, self.initial_state, input_size, hidden_size, p, **kwargs)
        if g_coupling is None:
            g_coupling = torch.nn.Parameter(torch.randn(hidden_size, hidden_size) / math.sqrt(max(hidden_size, 1)))
        check_weight("g_coupling", g_coupling, (hidden_size, hidden_size))
        self.g_coupling = g_coupling

    def forward(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Run one step.

        Args:
            input_tensor: input of one step, ``(..., inputs)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The spikes, ``(..., N)``, and the new state.

        Raises:
            ValueError: the input has another width.
        """
        check_weights(input_tensor, state, self.input_weights)
        if state is None:
            state = self.state_fallback(input_tensor)
        weights = (self.input_weights, self._weights_of_step(), self.g_coupling)
        return self.activation(input_tensor, state, *weights, self.p, self.dt, **self.reset_options)

    def initial_state(self, input_tensor: torch.Tensor) -> Any:
        """The state before the first step."""
        raise NotImplementedError

    def initial_lif_state(self, p: LIFParameters, input_tensor: torch.Tensor) -> LIFState:
        """The state of LIF neurons before the first step."""
        shape = self._neuron_shape(input_tensor)
        return LIFState(
            z=zeros(shape, input_tensor), v=initial_voltage(p.v_leak, input_tensor, shape), i=zeros(shape, input_tensor)
        )


class LIFMCRecurrentCell(CoupledCell[LIFState]):
    """One time step of a recurrent layer of coupled LIF neurons.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_mc.lif_mc_step`. The state starts
    at ``v = v_leak``, ``i = 0`` and ``z = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        g_coupling: coupling, shape ``(N, N)``; by default a parameter, normal with variance ``1 / N``.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Raises:
        TypeError: a weight is not a tensor.
        ValueError: a weight has another shape.

    Example:
        >>> z, state = LIFMCRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFParameters = LIFParameters(),
        g_coupling: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(lif_mc_step, input_size, hidden_size, checked(p, LIFParameters), g_coupling, **kwargs)

    def initial_state(self, input_tensor: torch.Tensor) -> LIFState:
        """The state before the first step."""
        return self.initial_lif_state(self.p, input_tensor)
