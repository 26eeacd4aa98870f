"""Products of spikes: a linear layer and convolutions, by the share of ones, against PyTorch's operators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ..functional.spike_products import dense_products, spike_conv2d, spike_linear
from .timing import Effort, compare

__all__ = ["DENSE", "DENSITIES", "PRODUCTS", "SUMS", "Product", "run_product"]

SUMS, DENSE = "sums over spikes", "product"
DENSITIES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 1.0)
# Against PyTorch's product, relative to the largest value, in float32.
TOLERANCE = 1e-4


class Product(NamedTuple):
    """A layer with weights.

    Args:
        input: shape of the input, rows or images first.
        weight: shape of the weight; one of four dimensions is that of a convolution.
        padding: zeros at the sides of the images.
    """

    input: tuple[int, ...]
    weight: tuple[int, ...]
    padding: int = 0

    def __str__(self) -> str:
        kind = "linear" if len(self.weight) == 2 else "conv"
        return f"{kind} {'x'.join(map(str, self.input))} to {self.weight[0]}"

    def run(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The output of the layer."""
        if len(self.weight) == 2:
            return spike_linear(x, weight, bias)
        return spike_conv2d(x, weight, bias, padding=self.padding)


PRODUCTS = (
    *(Product((rows, 1000), (1000, 1000)) for rows in (32, 100, 3200)),
    Product((3200, 1000), (10, 1000)),
    Product((1600, 20, 12, 12), (50, 20, 5, 5)),
    Product((800, 32, 16, 16), (64, 32, 3, 3), padding=1),
)


def _calls(product: Product, x: torch.Tensor, how: Any) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Forward, and the gradient of the weight."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(product.weight, generator=generator).requires_grad_()
    bias = torch.randn(product.weight[0], generator=generator)
    with how():
        output = product.run(x, weight, bias)
    g = torch.randn(output.shape, generator=generator)

    def forward() -> torch.Tensor:
        with torch.no_grad(), how():
            return product.run(x, weight, bias)

    yield "forward", forward
    yield "gradient", lambda: torch.autograd.grad(output, weight, g, retain_graph=True)[0]


def run_product(product: Product, density: float, effort: Effort) -> list[dict[str, Any]]:
    """Check that sums over spikes and a product of matrices give the same, and time both.

    Args:
        product: the layer.
        density: share of ones in its input.
        effort: how long to measure.

    Returns:
        A row of times for each mode and contender.

    Raises:
        RuntimeError: results differ by more than rounding.
    """
    x = (torch.rand(product.input, generator=torch.Generator().manual_seed(0)) < density).float()
    calls = {SUMS: dict(_calls(product, x, contextlib.nullcontext)), DENSE: dict(_calls(product, x, dense_products))}
    rows = []
    for mode, call in calls[SUMS].items():
        actual, expected = call(), calls[DENSE][mode]()
        difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not difference < TOLERANCE:
            raise RuntimeError(
                f"products {product} at {density:.1%}: {mode} differs by {difference:.0e} from a product."
            )
        times = compare({name: of[mode] for name, of in calls.items()}, effort)
        shared = {"product": str(product), "density": density, "mode": mode, "difference": difference}
        rows += [{**shared, "contender": name, **result} for name, result in times.items()]
    return rows
