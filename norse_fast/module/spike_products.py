"""Modules with weights for spikes; how they work is in :mod:`norse_fast.functional.spike_products`."""

from __future__ import annotations

import torch

from ..functional.spike_products import spike_linear

__all__ = ["SpikeLinear"]


class SpikeLinear(torch.nn.Linear):
    """A linear layer that is fast for spikes on the CPU.

    Constructor, parameters and ``state_dict`` are those of ``torch.nn.Linear``, and so is the output, but for rounding. What
    it does, and when it is the same as ``torch.nn.Linear``, is in
    :func:`norse_fast.functional.spike_products.spike_linear`.

    Example:
        >>> layer = SpikeLinear(3, 2, bias=False)
        >>> layer(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Sums of weights, ``(..., outputs)``, over the spikes of ``input``, ``(..., inputs)``."""
        return spike_linear(input, self.weight, self.bias)
