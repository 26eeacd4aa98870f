"""The weights of recurrent modules."""

from __future__ import annotations

import math
import operator
from typing import Any, cast

import torch
from torch.autograd import forward_ad

from .._constants import constant
from .._kernels.autograd import in_transform
from .._kernels.recurrent import RECURRENT
from ._parameters import Parameters

__all__ = ["Weights", "as_size", "check_weight"]


def _initial_weights(hidden_size: int, columns: int) -> torch.Tensor:
    return torch.randn(hidden_size, columns) * math.sqrt(2.0 / max(hidden_size, 1))


def as_size(name: str, value: Any) -> int:
    """A number of neurons or inputs.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is negative.
    """
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, expected a whole number; convert it with int().") from None
    if size < 0:
        raise ValueError(f"{name}: got {size}, expected a number that is not negative; 0 makes an empty layer.")
    return size


class Weights(Parameters):
    """Input and recurrent weights, and the rule that neurons do not excite themselves."""

    recurrent_weights: Any

    def _set_weights(
        self,
        input_size: int,
        hidden_size: int,
        input_weights: torch.Tensor | None,
        recurrent_weights: torch.Tensor | None,
        autapses: bool,
    ) -> None:
        input_size, hidden_size = as_size("input_size", input_size), as_size("hidden_size", hidden_size)
        # Plain tensors, as in the reference: neither in the state_dict nor moved.
        self.input_size: torch.Tensor = constant(input_size)
        self.hidden_size: torch.Tensor = constant(hidden_size)
        self.autapses = autapses
        # Input weights first: the same seed then gives the same weights as the reference.
        if input_weights is None:
            input_weights = torch.nn.Parameter(_initial_weights(hidden_size, input_size))
        if recurrent_weights is None:
            recurrent_weights = torch.nn.Parameter(_initial_weights(hidden_size, hidden_size))
        check_weight("input_weights", input_weights, (hidden_size, input_size))
        check_weight("recurrent_weights", recurrent_weights, (hidden_size, hidden_size))
        self.input_weights = input_weights
        self.recurrent_weights = recurrent_weights
        if not autapses:
            if any(
                size > 1 and not stride for size, stride in zip(recurrent_weights.shape, recurrent_weights.stride())
            ):
                raise ValueError(
                    "recurrent_weights: got an expanded tensor, expected one with memory for each weight, because those from "
                    "a neuron to itself are set to zero; pass recurrent_weights.clone(), or autapses=True."
                )
            # What does not act should not be seen either, or be saved.
            with torch.inference_mode(recurrent_weights.is_inference()), torch.no_grad():
                recurrent_weights.fill_diagonal_(0.0)

    def extra_repr(self) -> str:
        """Sizes, parameters and the time step."""
        return (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, p={self.p}, "
            f"autapses={self.autapses}, dt={self.dt}{self._shown_reset()}"
        )

    def masked_weights(self) -> torch.Tensor:
        """The recurrent weights that act: without those from a neuron to itself, unless ``autapses``."""
        return self._masked_weights(alone=False)

    @property
    def _has_own_weights(self) -> bool:
        """Whether the weights that act are made in another way, which may draw them anew at each step."""
        return "masked_weights" in vars(self) or type(self).masked_weights is not Weights.masked_weights

    def _weights_of_step(self) -> torch.Tensor:
        """The weights that act, for the step function alone."""
        return self.masked_weights() if self._has_own_weights else self._masked_weights(alone=True)

    def _masked_weights(self, alone: bool) -> torch.Tensor:
        if self.autapses:
            return cast(torch.Tensor, self.recurrent_weights)
        weights = self.recurrent_weights
        if not _is_plain(weights) or weights.diagonal().count_nonzero():
            return _without_diagonal(weights)
        if not (torch.is_grad_enabled() and weights.requires_grad):
            return cast(torch.Tensor, weights)
        # The diagonal is zero, as it is unless someone assigned other weights. To copy the matrix and its gradient in each
        # step would take a third of the time of a cell of 512 neurons. The gradient of our own step functions is new memory.
        in_place = alone and getattr(self, "activation", None) in RECURRENT
        return cast(torch.Tensor, _NoGradientOfDiagonal.apply(weights, in_place))


class _NoGradientOfDiagonal(torch.autograd.Function):
    """``apply(weights, in_place)``: weights as they are; the diagonal of their gradient is zero.

    In place where the gradient is nobody else's.
    """

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, in_place: bool) -> torch.Tensor:
        ctx.in_place = in_place
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        if ctx.in_place and not torch.is_grad_enabled() and _is_plain(gradient):
            return gradient.fill_diagonal_(0.0), None
        return _without_diagonal(gradient), None


def _without_diagonal(weights: torch.Tensor) -> torch.Tensor:
    return weights.masked_fill(torch.eye(weights.shape[0], dtype=torch.bool, device=weights.device), 0.0)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor can be looked at, without waiting for a device and with no transform watching."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and not torch.compiler.is_compiling()
        and not in_transform()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def check_weight(name: str, weight: Any, shape: tuple[int, int]) -> None:
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{name}: got {type(weight).__name__}, expected a tensor of shape {shape}.")
    if weight.layout is not torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {weight.layout}, expected a dense one; call .to_dense().")
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"{name}: got shape {tuple(weight.shape)}, expected {shape}; its rows are the hidden neurons, its columns what "
            "they listen to."
        )
