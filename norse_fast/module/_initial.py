"""Initial states of neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from .._constants import HALF, constant
from .._kernels.autograd import in_transform
from .._kernels.checks import check_broadcast

Initial = TypeVar("Initial", bound=Callable[..., Any])


def leaf(v: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    """An initial membrane potential that requires grad, so that ``z.sum().backward()`` works on a bare neuron.

    Where the input requires grad, it works anyway, and a gradient that nobody asked for would be summed over all neurons.
    Inside torch.compile and torch.func a new tensor cannot require grad, and nothing there needs it to.
    """
    if input_tensor.requires_grad or torch.compiler.is_compiling() or in_transform():
        return v
    return v.requires_grad_()


def float_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a tensor, or the default one where it holds anything but floating point numbers."""
    return x.dtype if x.is_floating_point() and not x.is_quantized else torch.get_default_dtype()


class _AnyInput:
    """Stands for the input where its shape does not matter: :func:`zeros`, :func:`filled` and :func:`copied` then return
    what broadcasts to all neurons, and make no tensors, which takes longer than a small layer."""

    shape = ()
    requires_grad = True


ANY_INPUT: Any = _AnyInput()
UNIFORM: set[Callable[..., Any]] = set()


def uniform(initial_state: Initial) -> Initial:
    """Marks an ``initial_state`` that makes its tensors by :func:`zeros`, :func:`filled` and :func:`copied` alone."""
    UNIFORM.add(initial_state)
    return initial_state


def zeros(shape: Sequence[int], input_tensor: torch.Tensor, dtype: torch.dtype | None = None) -> Any:
    """An initial state variable on the input's device, by default in the input's float dtype."""
    if input_tensor is ANY_INPUT:
        return 0.0
    return torch.zeros(shape, device=input_tensor.device, dtype=dtype or float_dtype(input_tensor))


def copied(value: Any, input_tensor: torch.Tensor, detach: bool = True) -> Any:
    """A parameter, a number or a tensor, without its memory and history, on the device of the input."""
    v = _without_history(value, detach)
    if input_tensor is ANY_INPUT:
        return v
    v = constant(v, torch.get_default_dtype())
    return v.to(input_tensor.device, float_dtype(v), copy=True)


def filled(
    value: Any, shape: Sequence[int], input_tensor: torch.Tensor, dtype: torch.dtype | None = None, detach: bool = True
) -> Any:
    """A parameter as :func:`copied`, filled to a shape, by default in the dtype that the state is computed in: that of the
    input, but not half precision, which would round the parameter."""
    v = _without_history(value, detach)
    if input_tensor is ANY_INPUT:
        return v
    v = constant(v, torch.get_default_dtype())
    if dtype is None:
        dtype = float_dtype(input_tensor)
        dtype = torch.float32 if dtype in HALF else dtype
    if v.dim():
        check_broadcast(
            "p", v, torch.Size(shape), "pass one value, or one per neuron", "the neurons, in the initial state"
        )
    return v.to(input_tensor.device, dtype).expand(shape).clone()


def _without_history(value: Any, detach: bool) -> Any:
    if not (detach and isinstance(value, torch.Tensor) and value.requires_grad):
        return value
    if torch.compiler.is_compiling():
        return value.detach()
    # torch.jit.trace takes no constants that require grad, not even to detach them.
    trace = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return value.detach()
    finally:
        torch._C._set_tracing_state(trace)  # type: ignore[attr-defined]


def initial_voltage(
    value: Any,
    input_tensor: torch.Tensor,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    detach: bool = True,
) -> torch.Tensor:
    """An initial membrane potential, a :func:`leaf`: a parameter :func:`filled`, or without shape :func:`copied`."""
    if shape is None:
        return leaf(copied(value, input_tensor, detach), input_tensor)
    return leaf(filled(value, shape, input_tensor, dtype, detach), input_tensor)
