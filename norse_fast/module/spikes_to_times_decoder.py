"""Spike times as a readout; the gradient is that of :class:`norse_fast.functional.spikes_to_times_decoder.ToSpikeTimes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._constants import constant
from ..functional.spikes_to_times_decoder import ToSpikeTimes

__all__ = ["SpikesToTimesDecoder"]


class SpikesToTimesDecoder(torch.nn.Module):
    """The times of each neuron's first spikes, in ascending order; infinity where there are no more.

    See :class:`norse_fast.functional.spikes_to_times_decoder.ToSpikeTimes` for dtypes and gradients.

    Args:
        spike_count: how many spikes of each neuron, a number or a 0-dim tensor.
        convert_indices_to_times: whether to return seconds, else numbers of time steps.
        dt: length of a step in seconds.

    Raises:
        ValueError: in the forward pass, if the input has no time dimension or ``spike_count`` is negative.

    Example:
        >>> spikes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> SpikesToTimesDecoder(spike_count=2, dt=0.5)(spikes)
        tensor([[0.5000,    inf],
                [1.0000,    inf]])
    """

    def __init__(
        self,
        spike_count: int | torch.Tensor = constant(1),
        convert_indices_to_times: bool = True,
        dt: float = 1e-3,
    ) -> None:
        super().__init__()
        self.spike_count = spike_count
        self.convert_to_time = convert_indices_to_times
        self.dt = dt

    def extra_repr(self) -> str:
        """The number of spikes, the unit and the time step."""
        return f"spike_count={self.spike_count}, convert_indices_to_times={self.convert_to_time}, dt={self.dt}"

    def forward(self, spike_input: torch.Tensor) -> torch.Tensor:
        """Times ``(min(spike_count, T), ...)`` of spikes ``(T, ...)``."""
        steps = ToSpikeTimes.apply(spike_input, self.spike_count)
        return steps * self.dt if self.convert_to_time else steps

    if TYPE_CHECKING:

        def __call__(self, spike_input: torch.Tensor) -> torch.Tensor: ...
