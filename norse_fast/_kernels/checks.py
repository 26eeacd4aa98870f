"""What arguments are checked for, and turned into, before a kernel or PyTorch takes them."""

from __future__ import annotations

import numbers
from typing import Any

import torch

from .._constants import constant
from .autograd import has_tangent, in_transform

__all__ = [
    "as_dense",
    "as_dt",
    "as_floating",
    "as_real_tensor",
    "check_broadcast",
    "check_device",
    "check_dt",
    "check_real",
    "check_tensor",
    "is_autocast",
    "moved",
    "takes_default_dtype",
]


def as_dt(dt: Any) -> Any:
    """The length of a step as a number, or as a tensor where that has a gradient or rounds otherwise.

    Raises:
        TypeError: it is neither a real number nor a tensor of real numbers.
    """
    if isinstance(dt, torch.Tensor):
        check_real("dt", dt)
        dt = as_dense(dt)
        tracked = (dt.requires_grad and torch.is_grad_enabled()) or has_tangent(dt) or in_transform()
        if torch.compiler.is_compiling() or tracked or dt.dim() or dt.dtype is not torch.float32 or not dt.is_cpu:
            return dt
        return float(dt)
    if isinstance(dt, (numbers.Real, torch.SymFloat, torch.SymInt)):
        return float(dt)
    raise TypeError(
        f"dt: got {type(dt).__name__}, expected a number of seconds, for example 0.001; convert it with float."
    )


def check_dt(dt: Any, device: torch.device, shape: torch.Size) -> None:
    """Raise if ``dt`` is a tensor that does not broadcast to the neurons, or is on another device."""
    if not isinstance(dt, torch.Tensor):
        return
    if dt.dim():
        check_broadcast("dt", dt, shape, "use one value, or one per neuron")
    if dt.dim() or not dt.is_cpu:
        check_device("dt", dt, device, "make it there")


def check_device(name: str, value: torch.Tensor, device: torch.device, fix: str = "") -> None:
    """Raise if a tensor, a state's by default, is not on the device of the input."""
    if value.device != device:
        fix = fix or f"move the state with .to({str(device)!r})"
        raise ValueError(f"{name}: got a tensor on {value.device}, expected it on {device} as the input; {fix}.")


def is_autocast(kind: str) -> bool:
    """Whether autocast is on for a type of device. For "meta" torch.is_autocast_enabled raises."""
    return kind != "meta" and torch.is_autocast_enabled(kind)


def moved(name: str, value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; one on "meta" has no values to be moved."""
    if value.device.type == "meta" and device.type != "meta":
        raise ValueError(
            f"{name}: got a tensor on meta, which has no values, expected it on {device} as the input; set it, for example "
            "by .to_empty() and .load_state_dict() of its module."
        )
    return value.to(device)


def takes_default_dtype(value: torch.Tensor) -> bool:
    """Whether the product of an integer and dt has another dtype than float32, which kernels compute it in."""
    return value.dtype is torch.int64 and torch.get_default_dtype() is not torch.float32


def check_tensor(name: str, value: Any) -> None:
    """Raise if an argument is no tensor; a tuple is probably what a neuron returned."""
    if not isinstance(value, torch.Tensor):
        fix = "pass its first element, as SequentialState does" if isinstance(value, tuple) else _CONVERT
        raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor; {fix}.")


_CONVERT = "convert it with torch.as_tensor"


def as_dense(input: torch.Tensor, name: str = "input") -> torch.Tensor:
    """An input of whatever sparse layout as a dense one, since potentials are dense whatever arrives."""
    check_tensor(name, input)
    return input if input.layout is torch.strided else input.to_dense()


def as_real_tensor(name: str, value: Any) -> torch.Tensor:
    """A state variable or parameter as a tensor: Python numbers enter tensor arithmetic in double precision."""
    if isinstance(value, torch.Tensor):
        check_real(name, value)
        return value
    # torch.compile can ask for the type of its own numbers, and not for their attributes.
    if isinstance(value, (int, float, numbers.Real)) or (
        hasattr(value, "__float__") and getattr(value, "shape", ()) == ()
    ):
        return constant(float(value), torch.float64)
    raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor or a number; {_CONVERT}.")


def check_real(name: str, value: Any) -> None:
    """Raise if a value is no tensor, or a quantised or complex one."""
    check_tensor(name, value)
    if value.is_quantized:
        raise TypeError(f"{name}: got a quantised tensor of {value.dtype}, expected a plain one; call .dequantize().")
    if value.is_complex():
        raise TypeError(f"{name}: got dtype {value.dtype}, expected a real one; take .real or .abs().")


def as_floating(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor as it is, if it is floating point, or else in a dtype that is.

    Raises:
        TypeError: it is no tensor, quantised or complex.
    """
    check_real(name, value)
    return value if value.is_floating_point() else value.to(dtype)


def check_broadcast(
    name: str, value: torch.Tensor, shape: torch.Size, fix: str, whose: str = "the input at one time step"
) -> None:
    """Raise if a tensor does not broadcast to a shape, that of the neurons by default."""
    # Not torch.broadcast_shapes, whose first call imports much of torch.compile, which takes a second.
    # And not `own in (1, size)`: torch.compile does not find a number among sizes that it takes as unknown.
    fits = value.dim() <= len(shape) and all(
        own == 1 or own == size for own, size in zip(value.shape[::-1], shape[::-1])
    )
    if not fits:
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, expected one that broadcasts to {tuple(shape)}, {whose}; {fix}."
        )
