r"""Products of spikes with weights, as sums over the spikes that are there.

A layer of weights after spiking neurons multiplies by zeros most of the time. On the CPU, :func:`spike_linear` sums the
columns of the weights that belong to spikes instead. It is as exact as a matrix product: every output is a sum in the order
of the inputs, the same for any number of threads and however a sequence is cut. Rounding differs from that of
``torch.nn.functional.linear``, which sums in another order.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch

from .._kernels.autograd import beyond_kernels, in_transform, wants_more
from .._kernels.extension import has_kernels

__all__ = ["dense_products", "spike_linear"]

#: The share of ones up to which sums are taken; with more, a matrix product is as fast.
MOST_SPIKES = 0.3

_dense = contextvars.ContextVar("dense_products", default=False)


@contextlib.contextmanager
def dense_products() -> Iterator[None]:
    """Context in which products of spikes are those of PyTorch, for comparisons.

    It holds for the code inside it, as a context variable does: other threads and tasks go on as they were.

    Example:
        >>> with dense_products():
        ...     y = spike_linear(torch.ones(1, 2), torch.ones(1, 2))
        >>> y
        tensor([[2.]])
    """
    token = _dense.set(True)
    try:
        yield
    finally:
        _dense.reset(token)


def spike_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    r"""A linear layer for spikes: :math:`y = x W^T + b`.

    Where all elements of ``x`` are 0 or 1, and at most 30 % of them 1, the sums are taken over the ones; backward then keeps
    ``x`` as bits. Otherwise, and on other devices, under autocast, ``torch.compile``, ``torch.func`` and forward mode, it is
    ``torch.nn.functional.linear``.

    Args:
        x: spikes, ``(..., inputs)``, in the dtype of the weights, or bool or uint8.
        weight: :math:`W`, ``(outputs, inputs)``, float32 or float64; other dtypes are left to PyTorch.
        bias: :math:`b`, ``(outputs,)``.

    Returns:
        ``(..., outputs)``, in the dtype of the weights.

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> spike_linear(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([5.])
    """
    spikes = _as_bits(x, weight, bias)
    if spikes is None:
        if x.dtype in (torch.bool, torch.uint8):
            x = x.to(weight.dtype)
        return torch.nn.functional.linear(x, weight, bias)
    link = _Link.apply(x.reshape(-1, x.shape[-1])) if x.requires_grad and torch.is_grad_enabled() else None
    y: torch.Tensor = _SpikeLinear.apply(link, weight, bias, *spikes)
    return y.view(*x.shape[:-1], weight.shape[0])


def _as_bits(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, int, float] | None:
    """The spikes as bits, how many are in a row, and the share of ones; None where a matrix product is to be taken."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    if (
        torch.compiler.is_compiling()
        or _dense.get()
        or not all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.is_cpu and not t.is_sparse for t in tensors)
        or weight.dtype not in (torch.float32, torch.float64)
        or x.dtype not in (weight.dtype, torch.bool, torch.uint8)
        or (bias is not None and (bias.dtype != weight.dtype or bias.shape != weight.shape[:1]))
        or weight.dim() != 2
        or x.dim() == 0
        or x.shape[-1] != weight.shape[1]
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
        or in_transform()
        or beyond_kernels(tensors)
        or torch.jit.is_tracing()
        or not has_kernels("cpu")
    ):
        return None
    with torch.no_grad():
        bits, count = torch.ops.norse_fast.spike_bits(x.detach().reshape(-1, x.shape[-1]))
    found = int(count)
    if found < 0 or found > MOST_SPIKES * x.numel():
        return None
    return bits, x.shape[-1], found / x.numel()


class _Link(torch.autograd.Function):
    """Stands for a tensor in the graph without its memory: one element, expanded."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Values(torch.autograd.Function):
    """The spikes again, from their bits, for derivatives of derivatives."""

    @staticmethod
    def forward(
        ctx: Any, link: torch.Tensor | None, bits: torch.Tensor, columns: int, like: torch.Tensor
    ) -> torch.Tensor:
        values: torch.Tensor = torch.ops.norse_fast.spike_values(bits, columns, like)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None, None, None


class _SpikeLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        link: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        bits: torch.Tensor,
        columns: int,
        density: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(link, weight, bits)
        ctx.columns, ctx.density = columns, density
        y: torch.Tensor = torch.ops.norse_fast.spike_linear(bits, columns, weight, bias, density)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        link, weight, bits = ctx.saved_tensors
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        grad_x = gradient @ weight if want_x else None
        grad_bias = gradient.sum(0) if want_bias else None
        grad_weight = None
        if want_weight and wants_more((gradient,)):
            grad_weight = gradient.mT @ _Values.apply(link, bits, ctx.columns, weight)
        elif want_weight:
            grad_weight = torch.ops.norse_fast.spike_outer(bits, ctx.columns, gradient, ctx.density)
        return grad_x, grad_weight, grad_bias, None, None, None
