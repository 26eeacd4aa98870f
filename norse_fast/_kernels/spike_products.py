"""Products of spikes and their gradients, as functions of autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.grad import conv2d_input, conv2d_weight

from .autograd import dense, wants_more

__all__ = ["SumConv2d", "SumLinear", "SumMaxPool2d", "is_for_pytorch", "link"]

# PyTorch's gradient of images is for so many channels, or a multiple; it computes what is missing as well.
_CHANNELS_TOGETHER = 16


def is_for_pytorch(channels: int) -> bool:
    """Whether PyTorch computes the gradient of images of so many channels."""
    return channels % _CHANNELS_TOGETHER == 0


def link(x: torch.Tensor) -> torch.Tensor | None:
    """Stands for a tensor in the graph, where it is in one."""
    return _Link.apply(x) if x.requires_grad and torch.is_grad_enabled() else None


class _Link(torch.autograd.Function):
    """A tensor without its memory: one element, expanded."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Values(torch.autograd.Function):
    """The spikes again, from their bits, for derivatives of derivatives and for transforms of backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        link: torch.Tensor | None, bits: torch.Tensor, shape: Sequence[int], dtype: torch.dtype
    ) -> torch.Tensor:
        like = torch.empty((), dtype=dtype, device=bits.device)
        values: torch.Tensor = torch.ops.norse_fast.spike_values(bits, math.prod(shape[1:]), like)
        return values.view(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient if ctx.needs_input_grad[0] else None, None, None, None


class SumLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        link: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        columns: int,
        bits: torch.Tensor,
        density: float,
        active: torch.Tensor | None,
    ) -> torch.Tensor:
        # Where the input has no gradient the weights may change before backward, as in torch.nn.functional.linear.
        ctx.save_for_backward(link, None if link is None else weight, bits, active)
        ctx.columns, ctx.density = columns, density
        y: torch.Tensor = torch.ops.norse_fast.spike_linear(bits, columns, weight, bias, density)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        link, weight, bits, active = ctx.saved_tensors
        (gradient,) = dense([gradient])
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        more = wants_more((gradient,))
        grad_x = grad_weight = None
        if want_x and active is not None and not more:
            grad_x = torch.ops.norse_fast.active_linear(active, ctx.columns, gradient, weight)
        elif want_x:
            grad_x = gradient @ weight
        grad_bias = gradient.sum(0) if want_bias else None
        if want_weight and more:
            grad_weight = gradient.mT @ _Values.apply(link, bits, (bits.shape[0], ctx.columns), gradient.dtype)
        elif want_weight:
            grad_weight = torch.ops.norse_fast.spike_outer(bits, ctx.columns, gradient, ctx.density)
        return grad_x, grad_weight, grad_bias, None, None, None, None


class SumConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        link: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        shape: list[int],
        how: list[list[int]],
        bits: torch.Tensor,
        active: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(link, weight, bits, active)
        ctx.shape, ctx.how = shape, how
        y: torch.Tensor = torch.ops.norse_fast.spike_conv2d(bits, shape[2:], weight, bias, *how)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        link, weight, bits, active = ctx.saved_tensors
        (gradient,) = dense([gradient])
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        more = wants_more((gradient,))
        grad_x = grad_weight = grad_bias = None
        if want_x and active is not None and not more:
            grad_x = torch.ops.norse_fast.active_conv2d(active, ctx.shape[2:], gradient, weight, *ctx.how)
        elif want_x and (more or is_for_pytorch(ctx.shape[1])):
            grad_x = conv2d_input(ctx.shape, weight, gradient, *ctx.how)
        elif want_x:
            grad_x = torch.ops.norse_fast.conv2d_input(ctx.shape[2:], weight, gradient, *ctx.how)
        if want_weight and more:
            values = _Values.apply(link, bits, ctx.shape, weight.dtype)
            grad_weight = conv2d_weight(values, weight.shape, gradient, *ctx.how)
        elif want_weight:
            channels, *size = ctx.shape[1:]
            arguments = (bits, channels, size, gradient, list(weight.shape[2:]), *ctx.how)
            grad_weight, grad_bias = torch.ops.norse_fast.spike_conv2d_outer(*arguments)
        if want_bias and grad_bias is None:
            grad_bias = gradient.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias if want_bias else None, None, None, None, None


class SumMaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        link: torch.Tensor | None,
        like: torch.Tensor,
        shape: list[int],
        how: list[list[int]],
        bits: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(link, like, bits)
        ctx.shape, ctx.how = shape, how
        y: torch.Tensor = torch.ops.norse_fast.spike_max_pool2d(bits, shape[1], shape[2:], like, *how)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        link, like, bits = ctx.saved_tensors
        (gradient,) = dense([gradient])
        channels, *size = ctx.shape[1:]
        if wants_more((gradient,)):
            values = _Values.apply(link, bits, ctx.shape, like.dtype)
            _, indices = torch.nn.functional.max_pool2d(values, *ctx.how, return_indices=True)
            planes = gradient.shape[:2]  # not flatten: gradients may be batched
            spread = gradient.new_zeros(*planes, size[0] * size[1])
            spread = spread.scatter_add(2, indices.reshape(*planes, -1), gradient.reshape(*planes, -1))
            return spread.view(ctx.shape), None, None, None, None
        spread = torch.ops.norse_fast.spike_max_pool2d_backward(bits, channels, size, gradient, *ctx.how)
        return spread, None, None, None, None
