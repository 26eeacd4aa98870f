"""Convolutional networks of LIF neurons for small pictures.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, *Gradient-based learning applied to document recognition*, Proceedings of
the IEEE 86 (1998), 2278-2324, for the layers; here their activation is a LIF neuron, and the readout a leaky integrator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import max_pool2d

from .._constants import constant
from ..functional._surrogate import Method
from ..functional.lif import LIFParameters
from ..module.leaky_integrator import LILinearCell
from ..module.lif import LIFCell

__all__ = ["ConvNet", "ConvNet4"]

_CLASSES = 10
# The second convolution sees spikes, and its sums would rarely reach the threshold.
_GAIN = 10


class _ConvNet(torch.nn.Module):
    """Two convolutions and a linear layer, of given widths, with LIF neurons; and a readout."""

    lif0: LIFCell
    lif1: LIFCell
    lif2: LIFCell

    def __init__(
        self,
        channels: tuple[int, int, int],
        hidden: int,
        thresholds: tuple[float, float, float],
        feature_size: int,
        method: Method,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        #: Height and width of what the second pool gives.
        self.features: int = ((feature_size - 4) // 2 - 4) // 2
        self.conv1: torch.nn.Conv2d = torch.nn.Conv2d(*channels[:2], 5)
        self.conv2: torch.nn.Conv2d = torch.nn.Conv2d(*channels[1:], 5)
        self.fc1: torch.nn.Linear = torch.nn.Linear(self.features**2 * channels[2], hidden)
        self.out: LILinearCell = LILinearCell(hidden, _CLASSES)
        self.lif0, self.lif1, self.lif2 = (
            LIFCell(LIFParameters(v_th=constant(v_th), method=method)) for v_th in thresholds
        )
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run all time steps.

        Args:
            x: pictures over time, ``(T, B, channels, size, size)``.

        Returns:
            The readout's potential at each step, ``(T, B, 10)``.
        """
        s0: Any = None
        s1: Any = None
        s2: Any = None
        so: Any = None
        voltages = []
        for frame in x.unbind(0):
            z, s0 = self.lif0(self.conv1(frame), s0)
            z, s1 = self.lif1(_GAIN * self.conv2(max_pool2d(z, 2)), s1)
            z, s2 = self.lif2(self.fc1(max_pool2d(z, 2).flatten(1)), s2)
            # Spikes stay as they are; as in Norse, silent neurons of this layer get no gradient.
            v, so = self.out(torch.relu(z), so)
            voltages.append(v.to(self.dtype))
        return torch.stack(voltages) if voltages else x.new_zeros((0, x.shape[1], _CLASSES), dtype=self.dtype)


class ConvNet(_ConvNet):
    """A network of two convolutions, with 20 and 50 channels, and 500 hidden neurons, for ten classes.

    The names and shapes of its parameters are those of Norse.

    Args:
        num_channels: channels of the pictures.
        feature_size: their height and width in pixels.
        method: surrogate derivative of the neurons, see :func:`norse_fast.functional.threshold.threshold`.
        dtype: dtype of the output.

    Example:
        >>> ConvNet()(torch.rand(4, 2, 1, 28, 28)).shape
        torch.Size([4, 2, 10])
    """

    def __init__(
        self, num_channels: int = 1, feature_size: int = 28, method: Method = "super", dtype: torch.dtype = torch.float
    ) -> None:
        super().__init__((num_channels, 20, 50), 500, (1.0, 1.0, 1.0), feature_size, method, dtype)


class ConvNet4(_ConvNet):
    """A wider :class:`ConvNet`, with 32 and 64 channels and 1024 hidden neurons; the first two thresholds are 0.7.

    Args:
        num_channels: channels of the pictures.
        feature_size: their height and width in pixels.
        method: surrogate derivative of the neurons, see :func:`norse_fast.functional.threshold.threshold`.
        dtype: dtype of the output.

    Example:
        >>> ConvNet4()(torch.rand(4, 2, 1, 28, 28)).shape
        torch.Size([4, 2, 10])
    """

    def __init__(
        self, num_channels: int = 1, feature_size: int = 28, method: Method = "super", dtype: torch.dtype = torch.float
    ) -> None:
        super().__init__((num_channels, 32, 64), 1024, (0.7, 0.7, 1.0), feature_size, method, dtype)
