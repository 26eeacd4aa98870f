"""Modules with weights for spikes; how they work is in :mod:`norse_fast.functional.spike_products`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from .._kernels.checks import check_tensor
from ..functional.spike_products import (
    as_numbers,
    poolable,
    spike_avg_pool2d,
    spike_conv2d,
    spike_linear,
    spike_max_pool2d,
)

__all__ = ["SpikeAvgPool2d", "SpikeConv2d", "SpikeLinear", "SpikeMaxPool2d"]


class SpikeLinear(torch.nn.Linear):
    """A linear layer that is fast for spikes on the CPU.

    Constructor, parameters and ``state_dict`` are those of ``torch.nn.Linear``, and so is the output, but for rounding. What
    it does, and when it is the same as ``torch.nn.Linear``, is in
    :func:`norse_fast.functional.spike_products.spike_linear`.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        bias: whether there is one.
        device: where the weights are made.
        dtype: dtype of the weights.

    Example:
        >>> layer = SpikeLinear(3, 2, bias=False)
        >>> layer(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Sums of weights, ``(..., outputs)``, over the spikes of ``input``, ``(..., inputs)``."""
        return spike_linear(input, self.weight, self.bias)

    if TYPE_CHECKING:

        def __call__(self, input: torch.Tensor) -> torch.Tensor: ...


class SpikeConv2d(torch.nn.Conv2d):
    """A convolution that is fast for images of spikes on the CPU.

    Constructor, parameters and ``state_dict`` are those of ``torch.nn.Conv2d``, and so is the output, but for rounding; the
    input may have any leading dimensions, for example ``(T, B, C, H, W)``. What it does, and when it is the same as
    ``torch.nn.Conv2d``, is in :func:`norse_fast.functional.spike_products.spike_conv2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel in pixels, a number or a pair; likewise the next three.
        stride: steps of the kernel.
        padding: zeros on each side, or ``"same"`` or ``"valid"``.
        dilation: distance between the elements of the kernel.
        groups: number of groups of channels that do not see each other.
        bias: whether there is one.
        padding_mode: what lies beyond the image: ``"zeros"``, or what PyTorch offers besides.
        device: where the weights are made.
        dtype: dtype of the weights.

    Example:
        >>> layer = SpikeConv2d(1, 2, kernel_size=3)
        >>> layer(torch.zeros(5, 4, 1, 8, 8)).shape
        torch.Size([5, 4, 2, 6, 6])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Sums of weights, ``(..., outputs, H', W')``, over the spikes of ``input``, ``(..., C, H, W)``."""
        if self.padding_mode != "zeros":
            check_tensor("x", input)
            input = as_numbers(input, self.weight.dtype)
            if input.dim() <= 4:
                return super().forward(input)
            return super().forward(input.flatten(0, -4)).unflatten(0, input.shape[:-3])
        return spike_conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    if TYPE_CHECKING:

        def __call__(self, input: torch.Tensor) -> torch.Tensor: ...


class SpikeMaxPool2d(torch.nn.MaxPool2d):
    """Max pooling that is fast for images of spikes on the CPU.

    Constructor and output are those of ``torch.nn.MaxPool2d``; the input may have any leading dimensions. What it does is in
    :func:`norse_fast.functional.spike_products.spike_max_pool2d`.

    Args:
        kernel_size: height and width of the window in pixels, a number or a pair; likewise the next three.
        stride: steps of the window, by default its size.
        padding: zeros on each side, at most half a window.
        dilation: distance between the elements of the window.
        return_indices: also return where the largest elements are; PyTorch does this.
        ceil_mode: let windows reach beyond the image; PyTorch does this.

    Example:
        >>> SpikeMaxPool2d(2)(torch.zeros(5, 4, 1, 8, 8)).shape
        torch.Size([5, 4, 1, 4, 4])
    """

    def forward(self, input: torch.Tensor) -> Any:
        """Whether there is a spike in each window, ``(..., C, H', W')``, of ``input``, ``(..., C, H, W)``."""
        if not (self.return_indices or self.ceil_mode):
            return spike_max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation)
        check_tensor("x", input)
        if input.dim() > 4:
            pooled = self.forward(input.flatten(0, -4))
            return tree_map(lambda y: y.unflatten(0, input.shape[:-3]), pooled)
        pooled = super().forward(poolable(input))
        return tree_map(lambda y: y.to(input.dtype) if y.dtype is torch.uint8 else y, pooled)

    if TYPE_CHECKING:

        def __call__(self, input: torch.Tensor) -> Any: ...


class SpikeAvgPool2d(torch.nn.AvgPool2d):
    """Average pooling that takes images of spikes as they come.

    Constructor and output are those of ``torch.nn.AvgPool2d``; the input may be bool or uint8, and have any leading
    dimensions. It is as fast as ``torch.nn.AvgPool2d``, see
    :func:`norse_fast.functional.spike_products.spike_avg_pool2d`.

    Args:
        kernel_size: height and width of the window in pixels, a number or a pair; likewise the next two.
        stride: steps of the window, by default its size.
        padding: zeros on each side, at most half a window.
        ceil_mode: let windows reach beyond the image.
        count_include_pad: count the zeros on the sides as elements of a window.
        divisor_override: what sums are divided by, by default the number of elements of the window.

    Example:
        >>> SpikeAvgPool2d(2)(torch.zeros(5, 4, 1, 8, 8, dtype=torch.bool)).shape
        torch.Size([5, 4, 1, 4, 4])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The share of spikes in each window, ``(..., C, H', W')``, of ``input``, ``(..., C, H, W)``."""
        return spike_avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    if TYPE_CHECKING:

        def __call__(self, input: torch.Tensor) -> torch.Tensor: ...
