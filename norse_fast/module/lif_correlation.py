"""LIF neurons with correlation sensors; the equations are in :mod:`norse_fast.functional.lif_correlation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .._kernels.weights import check_weights
from ..functional.correlation_sensor import CorrelationSensorState
from ..functional.lif import LIFState
from ..functional.lif_correlation import LIFCorrelationParameters, LIFCorrelationState, lif_correlation_step
from ._initial import copied, zeros
from ._parameters import Parameters, checked

__all__ = ["LIFCorrelation"]


class LIFCorrelation(Parameters):
    """One time step of a recurrent LIF layer with correlation sensors, whose weights are passed to every call.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lif_correlation.lif_correlation_step`.
    The state starts at ``v = v_leak``, all else at 0.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters.
        dt: length of a step in seconds.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.

    Example:
        >>> weights = torch.ones(4, 2), torch.zeros(4, 4)
        >>> z, state = LIFCorrelation(2, 4)(torch.ones(3, 2), *weights)
        >>> z.shape, state.input_correlation_state.correlation_trace.shape
        (torch.Size([3, 4]), torch.Size([3, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LIFCorrelationParameters = LIFCorrelationParameters(),
        dt: float = 0.001,
        *,
        learn: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self._set_parameters(checked(p, LIFCorrelationParameters), learn)
        self.dt = dt

    def extra_repr(self) -> str:
        """Sizes, parameters and the time step."""
        return f"input_size={self.input_size}, hidden_size={self.hidden_size}, p={self.p}, dt={self.dt}"

    def initial_state(self, input_tensor: torch.Tensor) -> LIFCorrelationState:
        """The state before the first step."""
        batch = input_tensor.shape[:-1]

        def of_shape(*shape: int) -> torch.Tensor:
            return zeros((*batch, *shape), input_tensor)

        def sensors(sources: int) -> CorrelationSensorState:
            return CorrelationSensorState(*(of_shape(sources, self.hidden_size) for _ in range(3)))

        v = copied(self.p.lif_parameters.v_leak, input_tensor)
        return LIFCorrelationState(
            lif_state=LIFState(z=of_shape(self.hidden_size), v=v, i=of_shape(self.hidden_size)),
            input_correlation_state=sensors(self.input_size),
            recurrent_correlation_state=sensors(self.hidden_size),
        )

    def forward(
        self,
        input_tensor: torch.Tensor,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        state: LIFCorrelationState | None = None,
    ) -> tuple[torch.Tensor, LIFCorrelationState]:
        """Run one step.

        Args:
            input_tensor: input spikes of one step, ``(B, inputs)``.
            input_weights: shape ``(N, inputs)``.
            recurrent_weights: shape ``(N, N)``.
            state: state of neurons and sensors, or None for the initial one.

        Returns:
            Spikes, ``(B, N)``, and the new state.

        Raises:
            ValueError: a width differs.
        """
        check_weights(input_tensor, None, input_weights)
        if state is None:
            state = self.initial_state(input_tensor)
        return lif_correlation_step(input_tensor, state, input_weights, recurrent_weights, self.p, self.dt)

    if TYPE_CHECKING:

        def __call__(
            self,
            input_tensor: torch.Tensor,
            input_weights: torch.Tensor,
            recurrent_weights: torch.Tensor,
            state: LIFCorrelationState | None = None,
        ) -> tuple[torch.Tensor, LIFCorrelationState]: ...
