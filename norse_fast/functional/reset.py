"""What a spike does to the membrane potential."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["ResetMethod", "reset_subtract", "reset_value"]

#: A function of spikes, membrane potential, reset value and threshold that gives the membrane potential after the spikes.
ResetMethod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def reset_value(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    r"""Set the potential of neurons that spiked to a value: :math:`(1 - z) v + z v_{reset}`.

    Example:
        >>> reset_value(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor(0.1), torch.tensor(1.0))
        tensor([0.5000, 0.1000])
    """
    return (1 - z) * v + z * reset


def reset_subtract(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    r"""Subtract the threshold from the potential of neurons that spiked: :math:`(1 - z) v + z (v - v_{th})`.

    Example:
        >>> reset_subtract(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor(0.1), torch.tensor(1.0))
        tensor([0.5000, 0.5000])
    """
    return (1 - z) * v + z * (v - th)
