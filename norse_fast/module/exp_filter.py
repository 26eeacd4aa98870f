r"""A readout that smooths spikes; its step and source are in :mod:`norse_fast.functional.filter`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .._constants import constant
from ..functional.filter import exp_filter_step

__all__ = ["ExpFilter"]


class ExpFilter(torch.nn.Module):
    r"""Linear weights and an exponential filter over time.

    .. math::
        s(t) = e^{-dt\, \tau^{-1}} s(t - dt) + W x(t) + b, \qquad s(0) = W x(0) + b

    Args:
        input_size: number of inputs.
        output_size: number of outputs.
        tau_filter_inv: inverse time constant :math:`\tau^{-1}` in 1/s.
        dt: length of a step in seconds.
        input_weights: initial weights :math:`W`, ``(outputs, inputs)``; by default those of ``torch.nn.Linear``.
        bias: whether to add :math:`b`.

    Raises:
        ValueError: the weights have another shape.

    Example:
        >>> smooth = ExpFilter(1, 1, tau_filter_inv=1000 * math.log(2), input_weights=torch.ones(1, 1), bias=False)
        >>> smooth(torch.tensor([[1.0], [0.0], [1.0]])).flatten().detach()
        tensor([1.0000, 0.5000, 1.2500])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        tau_filter_inv: float = 1e3,
        dt: float = 1e-3,
        input_weights: torch.Tensor | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.input_size: torch.Tensor = constant(input_size)
        self.output_size: torch.Tensor = constant(output_size)
        self.parameter: float = math.exp(-dt * tau_filter_inv)
        self.linear: torch.nn.Linear = torch.nn.Linear(input_size, output_size, bias=bias)
        if input_weights is not None:
            if input_weights.shape != self.linear.weight.shape:
                raise ValueError(
                    f"input_weights: got shape {tuple(input_weights.shape)}, expected {tuple(self.linear.weight.shape)}; its "
                    "rows are the outputs, its columns the inputs."
                )
            with torch.no_grad():
                self.linear.weight.copy_(input_weights)

    def extra_repr(self) -> str:
        """The sizes and what remains after a step."""
        return f"input_size={self.input_size}, output_size={self.output_size}, parameter={self.parameter}"

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        """The filtered outputs ``(T, ..., outputs)`` of inputs over time, ``(T, ..., inputs)``."""
        projected = self.linear(input_tensor)
        filtered: list[torch.Tensor] = []
        for y in projected.unbind(0):
            filtered.append(exp_filter_step(filtered[-1], y, self.parameter) if filtered else y)
        return torch.stack(filtered) if filtered else projected

    if TYPE_CHECKING:

        def __call__(self, input_tensor: torch.Tensor) -> torch.Tensor: ...
