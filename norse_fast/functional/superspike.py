"""The SuperSpike surrogate.

Source: F. Zenke, S. Ganguli, *SuperSpike: Supervised Learning in Multilayer Spiking Neural Networks*, Neural Computation 30
(2018), 1514-1541.
"""

from __future__ import annotations

from typing import Any

import torch

from .heaviside import heaviside

__all__ = ["SuperSpike", "super_fn"]


class SuperSpike(torch.autograd.Function):
    r"""Heaviside step with the surrogate :math:`\sigma'(x) = 1 / (\alpha |x| + 1)^2`.

    ``SuperSpike.apply(x, alpha)`` takes a tensor ``alpha``; :func:`super_fn` also a number.

    Example:
        >>> SuperSpike.apply(torch.tensor([-1.0, 1.0]), torch.tensor(100.0))
        tensor([0., 1.])
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Spikes."""
        ctx.save_for_backward(x, alpha)
        return heaviside(x)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The surrogate gradient."""
        x, alpha = ctx.saved_tensors
        return grad_output / (alpha * x.abs() + 1.0).pow(2), None


def super_fn(x: torch.Tensor, alpha: Any = 100.0) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`SuperSpike`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        alpha: steepness of the surrogate in the inverse unit of ``x``, a number or a tensor that broadcasts; it gets no
            gradient.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> super_fn(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """
    return SuperSpike.apply(x, torch.as_tensor(alpha))


superspike_fn = super_fn
