"""Modules of leaky integrators; the equations are in :mod:`norse_fast.functional.leaky_integrator`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .._kernels.weights import check_weights
from ..functional.leaky_integrator import LIParameters, LIState, li_feed_forward_step, li_step
from ._initial import initial_voltage, uniform, zeros
from ._parameters import Parameters, checked
from ._stateful import Stateful
from .snn import SNN, SNNCell

__all__ = ["LI", "LICell", "LILinearCell"]


class LICell(SNNCell[LIState]):
    """One time step of leaky integrators without weights.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.leaky_integrator.li_feed_forward_step`. The state starts at ``v = v_leak`` and
    ``i = 0``. Input and output have the same shape, for example ``(B, N)``.

    Args:
        p: parameters; they may be numbers or tensors of any shape that broadcasts to the neurons.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> v, state = LICell()(torch.ones(1, 2))
        >>> v.detach()
        tensor([[0.1000, 0.1000]])
    """

    def __init__(self, p: LIParameters = LIParameters(), **kwargs: Any) -> None:
        super().__init__(li_feed_forward_step, self.initial_state, checked(p, LIParameters), **kwargs)

    def initial_state(self, input_tensor: torch.Tensor) -> LIState:
        """The state before the first step."""
        return LIState(v=initial_voltage(self.p.v_leak, input_tensor), i=zeros(input_tensor.shape, input_tensor))


class LI(SNN[LIState]):
    """All time steps of leaky integrators without weights, in one kernel.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.leaky_integrator.li_feed_forward_step`. The state starts at ``v = v_leak`` and
    ``i = 0``. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LICell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> v, state = LI()(torch.ones(3, 1, 1))
        >>> v.flatten().detach()
        tensor([0.1000, 0.2700, 0.4870])
    """

    def __init__(self, p: LIParameters = LIParameters(), **kwargs: Any) -> None:
        super().__init__(li_feed_forward_step, self.initial_state, checked(p, LIParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LIState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return LIState(
            v=initial_voltage(self.p.v_leak, input_tensor, shape, torch.float32),
            i=zeros(shape, input_tensor, torch.float32),
        )


class LILinearCell(Parameters, Stateful[LIState]):
    """One time step of leaky integrators behind a linear layer without bias.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.leaky_integrator.li_step`. The state
    starts at ``v = v_leak`` and ``i = 0``. Input is ``(B, inputs)``, output ``(B, N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LICell`.
        dt: length of a step in seconds.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.

    Example:
        >>> v, state = LILinearCell(2, 4)(torch.ones(3, 2))
        >>> v.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIParameters = LIParameters(),
        dt: float = 0.001,
        *,
        learn: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        weights = torch.randn(hidden_size, input_size) / math.sqrt(max(input_size, 1))
        self.input_weights: torch.nn.Parameter = torch.nn.Parameter(weights)
        self._set_parameters(checked(p, LIParameters), learn)
        self.dt = dt

    def extra_repr(self) -> str:
        """Sizes, parameters and the time step."""
        return f"input_size={self.input_size}, hidden_size={self.hidden_size}, p={self.p}, dt={self.dt}"

    def initial_state(self, input_tensor: torch.Tensor) -> LIState:
        """The state before the first step."""
        shape = (*input_tensor.shape[:-1], self.hidden_size)
        return LIState(v=initial_voltage(self.p.v_leak, input_tensor), i=zeros(shape, input_tensor))

    def forward(self, input_tensor: torch.Tensor, state: LIState | None = None) -> tuple[torch.Tensor, LIState]:
        """Run one step.

        Args:
            input_tensor: input of one step, ``(B, inputs)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The membrane potential, ``(B, N)``, and the new state.

        Raises:
            ValueError: the input has another width.
        """
        if state is None:
            check_weights(input_tensor, None, self.input_weights)
            state = self.initial_state(input_tensor)
        return li_step(input_tensor, state, self.input_weights, self.p, self.dt)
