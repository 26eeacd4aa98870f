"""Where the gradient of spikes is needed: at the neurons whose surrogate derivative is not zero.

The product that reads the spikes of a neuron gives their gradient, and the neuron multiplies it by its surrogate derivative.
Where that is zero, the gradient need not be computed. Only who calls both, the neuron and the product, knows that nobody else
reads the spikes, so it is the containers of modules that tell a product of it.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..functional._surrogate import Method
from ..functional.threshold import ALIASES, SURROGATES, threshold
from .neuron import Neuron
from .spike_products import is_for_pytorch

__all__ = ["Active", "decision", "find_active", "most_active", "needed", "reason_against", "share_threshold"]

#: The share of active neurons up to which gradients are computed at them alone; with more, a dense product is as fast.
MOST_ACTIVE = 0.25
#: The same before a convolution whose dense gradient is this package's, and nearly as fast as to ask where it is needed.
MOST_ACTIVE_OF_IMAGES = 0.1
#: How much of the integral of a surrogate derivative a threshold may drop.
MOST_LOST = 0.15
#: Surrogates whose derivative is zero far from the threshold.
COMPACT = frozenset({"rectangle", "triangle", "triangle_width"})
_COMPACT_NUMBERS = {SURROGATES[name] for name in COMPACT}
# A part of so many, or one sample of a smaller batch, tells first whether too many neurons are active, in a part of the time.
_PARTS, _LEAST_BATCH = 16, 4

#: Derivatives up to this share of the largest count as zero.
share_threshold = contextvars.ContextVar("sparse_backward", default=0.0)
#: Where the gradient of the input of the next product is needed; None: everywhere.
needed: contextvars.ContextVar[Active | None] = contextvars.ContextVar("needed", default=None)


def most_active(weight: torch.Tensor) -> float:
    """The share of active neurons up to which it pays to ask where the gradient of a product's input is needed."""
    fast = weight.dim() == 4 and not is_for_pytorch(weight.shape[1])
    return MOST_ACTIVE_OF_IMAGES if fast else MOST_ACTIVE


def decision(share: float, most: float = MOST_ACTIVE) -> str:
    """Where the gradient is computed if such a share of the neurons is active, in a few words."""
    return f"where {share:.1%} are active" if share <= most else f"everywhere: {share:.0%} are active"


class Active:
    """Where the gradient of spikes is needed.

    Args:
        where: bytes, in the order of the spikes.
    """

    def __init__(self, where: torch.Tensor) -> None:
        self.share: float | None = None
        self._bytes = where
        #: Of images that were pooled: the shape of the matrix, its bits and how many are set.
        self.pooled: tuple[tuple[int, int], torch.Tensor, torch.Tensor] | None = None

    def bits(self, rows: int, columns: int) -> torch.Tensor | None:
        """As bits, for a matrix of spikes; None where too many are active, or it is not a row for each image."""
        if self.pooled is not None and self.pooled[0] != (rows, columns):
            return None
        bits, count = self._marks(rows, columns)
        self.share = int(count) / max(rows * columns, 1)
        return bits if self.share <= MOST_ACTIVE else None

    def pool(self, bits: torch.Tensor, shape: Sequence[int], how: Sequence[list[int]], pooled: Sequence[int]) -> None:
        """Go on to where the gradient of a maximum pool of images is needed, whose spikes are given as bits.

        Args:
            bits: of the images.
            shape: of the images.
            how: sizes and steps of the windows.
            pooled: the shape of the result.
        """
        size = shape[0], math.prod(shape[1:])
        if self.pooled is not None and self.pooled[0] != size:
            return  # they were cut into other images in between
        active, _ = self._marks(*size)
        marks = torch.ops.norse_fast.spike_max_pool2d_active(bits, active, shape[1], shape[2:], *how)
        self.pooled = (pooled[0], math.prod(pooled[1:])), *marks

    def _marks(self, rows: int, columns: int) -> Sequence[torch.Tensor]:
        if self.pooled is not None:
            return self.pooled[1:]
        marks: Sequence[torch.Tensor] = torch.ops.norse_fast.spike_bits(self._bytes.view(rows, columns), 1.0)
        return marks


@functools.lru_cache(maxsize=128)
def _lost(method: str, alpha: float, share: float) -> float:
    """The part of the integral over [-1, 1] of a surrogate derivative that lies where it is below a share of its largest."""
    with torch.enable_grad():
        u = torch.linspace(-1, 1, 4001, dtype=torch.float64, device="cpu", requires_grad=True)
        derivative = torch.autograd.grad(threshold(u, method, alpha).sum(), u)[0].abs()
    total = float(derivative.sum())
    return float(derivative[derivative <= share * derivative.max()].sum()) / total if total > 0 else 0.0


def reason_against(method: Method, alpha: Any, share: float) -> str | None:
    """Why the gradient of spikes with this surrogate is computed everywhere; None where it need not be."""
    if callable(method):
        return "the surrogate is a function"
    if isinstance(alpha, torch.Tensor) and alpha.requires_grad:
        return "alpha gets a gradient"
    method = ALIASES.get(method, method)
    if method in COMPACT:
        return None
    if share == 0:
        return f"the derivative of {method!r} is zero nowhere"
    if method == "heaviside":
        return "there is no gradient"
    values = alpha.detach().double().flatten().unique().tolist() if isinstance(alpha, torch.Tensor) else [float(alpha)]
    lost = max((_lost(method, a, share) for a in values), default=0.0)
    if lost > MOST_LOST:
        return f"threshold {share:g} would drop {lost:.0%} of the derivative of {method!r}"
    return None


def find_active(
    neuron: Neuron, x: torch.Tensor, state: Any, p: Any, dt: float, most: float
) -> tuple[Active | None, float | None]:
    """Where the gradient of the spikes of a sequence is needed, and else the share of active neurons of a sample.

    Args:
        neuron: that of the sequence.
        x: its input.
        state: its state before the first step.
        p: its parameters.
        dt: the length of a step in seconds.
        most: the share of active neurons of a sample up to which all are asked.
    """
    with torch.no_grad():
        surrogate, example, values, params, alpha = neuron.prepare(x[0], state, p, dt)
        x = x.detach()
        if example.dtype != x.dtype:
            return None, None
        share = 0.0 if surrogate in _COMPACT_NUMBERS else share_threshold.get()
        activity = getattr(torch.ops.norse_fast, f"{neuron.name}_activity")

        def mark(first: int | None) -> torch.Tensor:
            few = [t[:first] if t.shape == example.shape else t for t in (*values, *params, alpha)]
            where: torch.Tensor = activity(x[:, :first], *few, surrogate, share, dt, True)
            return where

        if x.shape[1] >= _LEAST_BATCH:
            part = float(mark(max(x.shape[1] // _PARTS, 1)).float().mean())
            if part > most:
                return None, part
        return Active(mark(None)), None
