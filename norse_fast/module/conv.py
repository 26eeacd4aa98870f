"""Convolutions over space that know of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.utils import _pair

__all__ = ["LConv2d"]

_Size = int | tuple[int, int]


class LConv2d(torch.nn.Conv3d):
    r"""A two-dimensional convolution without bias of every time step: ``torch.nn.Conv2d`` lifted over time.

    The weight has the shape :math:`(C_{out}, C_{in} / groups, k_h, k_w, 1)` and the default initialisation of a convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel in pixels, a number or a pair; likewise the next three.
        stride: steps of the kernel.
        padding: zeros on each side, or ``"same"`` or ``"valid"``.
        dilation: distance between the elements of the kernel.
        groups: number of groups of channels that do not see each other.
        device: where the weight is made.
        dtype: dtype of the weight; the input must have it too.

    Raises:
        ValueError: channels do not divide by ``groups``, or the input is not ``(T, N, C, H, W)``.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, *Gradient-based learning applied to document recognition*,
    Proceedings of the IEEE 86 (1998), 2278-2324.

    Example:
        >>> LConv2d(3, 4, kernel_size=3)(torch.ones(10, 2, 3, 8, 8)).shape
        torch.Size([10, 2, 4, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size | str = 0,
        dilation: _Size = 1,
        groups: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            (*_pair(kernel_size), 1),
            (*_pair(stride), 1),
            padding if isinstance(padding, str) else (*_pair(padding), 0),
            (*_pair(dilation), 1),
            groups,
            bias=False,
            device=device,
            dtype=dtype,
        )

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        """Convolve each step.

        Args:
            input_tensor: pictures over time, ``(T, N, C, H, W)``.

        Returns:
            Pictures over time, ``(T, N, C_out, H_out, W_out)``.

        Raises:
            ValueError: the input has another number of dimensions.
        """
        if input_tensor.dim() != 5:
            raise ValueError(
                f"input_tensor: got shape {tuple(input_tensor.shape)}, expected (T, N, C, H, W); use unsqueeze for a single "
                "time step or picture."
            )
        # To a convolution, time is just more pictures.
        padding = self.padding if isinstance(self.padding, str) else self.padding[:2]
        output = torch.nn.functional.conv2d(
            input_tensor.flatten(0, 1),
            self.weight.squeeze(-1),
            None,
            self.stride[:2],
            padding,
            self.dilation[:2],
            self.groups,
        )
        return output.unflatten(0, input_tensor.shape[:2])

    if TYPE_CHECKING:

        def __call__(self, input_tensor: torch.Tensor) -> torch.Tensor: ...
