"""From spikes back to numbers.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 7.2, for
rates as counts of spikes.
"""

from __future__ import annotations

import torch

__all__ = ["sum_decode"]


def sum_decode(tensor: torch.Tensor, dimension: int = 0) -> torch.Tensor:
    """Sum over time: the number of spikes of each neuron.

    Args:
        tensor: spikes or voltages over time, ``(T, ...)``; integers and booleans are summed as ``int64``.
        dimension: which dimension is time.

    Returns:
        The sums, ``(...)``.

    Raises:
        IndexError: the tensor has no such dimension.

    Example:
        >>> sum_decode(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        tensor([1., 2.])
    """
    return tensor.sum(dimension)
