"""The SuperSpike surrogate.

Source: F. Zenke, S. Ganguli, *SuperSpike: Supervised Learning in Multilayer Spiking Neural Networks*, Neural Computation 30
(2018), 1514-1541.
"""

from __future__ import annotations

from typing import Any

import torch

from ._surrogate import Surrogate, wide
from .heaviside import heaviside as heaviside

__all__ = ["SuperSpike", "super_fn"]


class SuperSpike(Surrogate):
    r"""Heaviside step with the surrogate :math:`\sigma'(x) = 1 / (\alpha |x| + 1)^2`.

    ``SuperSpike.apply(x, alpha)`` takes a number or a tensor ``alpha``, as :func:`super_fn` does.

    Example:
        >>> SuperSpike.apply(torch.tensor([-1.0, 1.0]), torch.tensor(100.0))
        tensor([0., 1.])
    """

    @classmethod
    def chain(cls, gradient: torch.Tensor, x: torch.Tensor, k: Any, *given: Any) -> torch.Tensor:
        """The surrogate gradient, by a division as in the reference."""
        return (wide(gradient) / (k * wide(x).abs() + 1.0).pow(2)).to(x.dtype)

    @staticmethod
    def by_k(x: torch.Tensor, k: Any) -> torch.Tensor:
        """The derivative of :math:`x / (k |x| + 1)` by :math:`k`."""
        x = wide(x)
        return -x * x.abs() / (k * x.abs() + 1.0).pow(2)


def super_fn(x: torch.Tensor, alpha: Any = 100.0) -> torch.Tensor:
    """Heaviside step with the surrogate :class:`SuperSpike`.

    Args:
        x: distance of the membrane potential to the threshold, any shape and floating dtype.
        alpha: steepness of the surrogate in the inverse unit of ``x``, a number or a tensor that broadcasts.

    Returns:
        Spikes, 0 or 1, in the shape and dtype of ``x``.

    Example:
        >>> super_fn(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """
    return SuperSpike.of(x, alpha)


superspike_fn = super_fn
