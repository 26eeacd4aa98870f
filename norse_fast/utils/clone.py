"""Copies of parameters that share neither memory nor history with the original."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["clone_tensor"]


def clone_tensor(x: Any, device: torch.device | None = None) -> torch.Tensor:
    """A detached copy of a tensor, or a new tensor from a number.

    Args:
        x: a tensor, or a number.
        device: where the copy goes, by default where ``x`` is.

    Returns:
        A tensor with memory of its own and without history, in the shape and dtype of ``x``.

    Raises:
        ValueError: ``x`` is neither.

    Example:
        >>> clone_tensor(2.0)
        tensor(2.)
    """
    if isinstance(x, torch.Tensor):
        return x.detach().clone().to(device)
    if isinstance(x, (int, float)):
        return torch.tensor(x, device=device)
    raise ValueError(f"x: got {type(x).__name__}, expected a tensor or a number.")
