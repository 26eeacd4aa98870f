"""What torch.compile must know of the compiled operators: the shapes and dtypes of their results."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .outputs import BYTES, NUMBERS

__all__ = [
    "KEEP",
    "KEEP_COMPILED",
    "RECURRENT_SEGMENT",
    "SEGMENT",
    "register_fakes",
    "register_recurrent_fakes",
    "register_shared_fakes",
]

#: Backward keeps the states of every this many steps (kSegment in csrc/core/launch.h).
SEGMENT = 32
#: The same for recurrent layers (kRecurrentSegment).
RECURRENT_SEGMENT = 16
#: What asks the operators to keep them, and under torch.compile for two rows more: it makes graphs of their own for sizes
#: of 0 and 1.
KEEP, KEEP_COMPILED = 1, 3


def _state_dtype(input: torch.Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _check_devices(input: torch.Tensor, *others: Any) -> None:
    """Raise if a tensor lies elsewhere than the input; a value on the CPU may, because the host reads it."""
    for t in pytree.tree_leaves(others):
        if isinstance(t, torch.Tensor) and t.device != input.device and (t.dim() or t.device.type != "cpu"):
            raise RuntimeError(f"norse_fast: got tensors on {input.device} and {t.device}, expected all on one device.")


def _checkpoint_count(steps: Any, segment: int) -> Any:
    # Written so that it also holds for T = 0 with symbolic T.
    return (steps + segment - 1) // segment - (1 if steps > 0 else 0)


@functools.cache  # neurons may share a kernel
def register_fakes(name: str, states: int, params: int, thresholds: int) -> None:
    """Register the fake kernels of a model's two operators."""

    def forward(input: torch.Tensor, *args: Any) -> Any:
        _check_devices(input, args)
        sequence, checkpoint, record, output = args[-4:]
        steps, step = (input.shape[0], input.shape[1:]) if sequence else (1, input.shape)
        dtype = _state_dtype(input)

        def kept(count: Any) -> list[torch.Tensor]:
            return [input.new_empty((count, *step), dtype=dtype) for _ in range(states)]

        final = [input.new_empty(step, dtype=dtype) for _ in range(states)]
        checkpoints = kept(_checkpoint_count(steps, SEGMENT) + checkpoint - 1) if checkpoint else []
        if output >= NUMBERS["sum"]:
            result = input.new_empty(step, dtype=dtype)
        else:
            result = input.new_empty(input.shape, dtype=(input.dtype, *BYTES.values())[output])
        return (result, *final, checkpoints, kept(steps) if record else [])

    def backward(input: torch.Tensor, *args: Any) -> Any:
        _check_devices(input, args)
        sequence, want_input, want_params, _, spikes = args[-5:]
        step = input.shape[1:] if sequence else input.shape
        dtype = _state_dtype(input)
        grad_input = input.new_empty(input.shape if want_input else 0)
        grad_params = input.new_empty((params, *step) if want_params else 0, dtype=dtype)
        steps = input.shape[0] if sequence else 1
        of_spikes = [input.new_empty((steps, *step), dtype=dtype) for _ in range(thresholds if spikes else 0)]
        return (grad_input, *(input.new_empty(step, dtype=dtype) for _ in range(states)), grad_params, of_spikes)

    def activity(input: torch.Tensor, *args: Any) -> torch.Tensor:
        _check_devices(input, args)
        return input.new_empty(input.shape, dtype=torch.uint8)

    if hasattr(torch.ops.norse_fast, f"{name}_activity"):  # models with spikes
        torch.library.register_fake(f"norse_fast::{name}_activity", activity)
    torch.library.register_fake(f"norse_fast::{name}_forward", forward)
    torch.library.register_fake(f"norse_fast::{name}_backward", backward)


@functools.cache
def register_recurrent_fakes(name: str, states: int, params: int, thresholds: int) -> None:
    """Register the fake kernels of the two operators of a model's recurrent layer."""

    def forward(input: torch.Tensor, input_weights: Any, z: torch.Tensor, *args: Any) -> Any:
        _check_devices(input, input_weights, z, args)
        checkpoint, record = args[-2:]

        def kept(count: Any) -> list[torch.Tensor]:
            return [z.new_empty((count, *z.shape)) for _ in range(states)]

        steps = input.shape[0]
        final = [z.new_empty(z.shape) for _ in range(states)]
        checkpoints = kept(_checkpoint_count(steps, RECURRENT_SEGMENT) + checkpoint - 1) if checkpoint else []
        return (z.new_empty((steps, *z.shape)), *final, checkpoints, kept(steps) if record else [])

    def backward(input: torch.Tensor, input_weights: Any, z: torch.Tensor, *args: Any) -> Any:
        _check_devices(input, input_weights, z, args)
        want_input, want_input_weights, want_z, want_weights, want_params, _, spikes = args[-7:]

        def gradient(wanted: bool, like: torch.Tensor | None) -> torch.Tensor:
            return z.new_empty(like.shape if wanted and like is not None else 0)

        return (
            gradient(want_input, input),
            gradient(want_input_weights, input_weights),
            gradient(want_z, z),
            *(z.new_empty(z.shape) for _ in range(states)),
            gradient(want_weights, args[states]),
            z.new_empty((params, *z.shape) if want_params else 0),
            [z.new_empty((input.shape[0], *z.shape)) for _ in range(thresholds if spikes else 0)],
        )

    torch.library.register_fake(f"norse_fast::{name}_recurrent_forward", forward)
    torch.library.register_fake(f"norse_fast::{name}_recurrent_backward", backward)


def register_shared_fakes() -> None:
    """Register the fake kernels of the operators that no model owns."""

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        _check_devices(a, b)
        return a.new_empty(a.shape[0], b.shape[1])

    def spike_product(spikes: torch.Tensor, grads: torch.Tensor) -> torch.Tensor:
        _check_devices(spikes, grads)
        return spikes.new_empty(grads.shape[1], spikes.shape[1])

    def spike_bits(x: torch.Tensor, most: float) -> tuple[torch.Tensor, torch.Tensor]:
        words = (x.shape[1] + 63) // 64
        return x.new_empty(x.shape[0], words, dtype=torch.int64), x.new_empty((), dtype=torch.int64)

    def spike_linear(bits: torch.Tensor, columns: Any, weight: torch.Tensor, bias: Any, density: float) -> torch.Tensor:
        _check_devices(bits, weight, bias)
        return weight.new_empty(bits.shape[0], weight.shape[0])

    def spike_outer(bits: torch.Tensor, columns: Any, grads: torch.Tensor, density: float) -> torch.Tensor:
        _check_devices(bits, grads)
        return grads.new_empty(grads.shape[1], columns)

    def spike_values(bits: torch.Tensor, columns: Any, like: torch.Tensor) -> torch.Tensor:
        _check_devices(bits, like)
        return like.new_empty(bits.shape[0], columns)

    def spike_conv2d(bits: torch.Tensor, size: Any, weight: torch.Tensor, bias: Any, *how: Any) -> torch.Tensor:
        _check_devices(bits, weight, bias)
        kernel = weight.shape[2:]
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, *how)]
        return weight.new_empty(bits.shape[0], weight.shape[0], *out)

    def spike_conv2d_outer(
        bits: torch.Tensor, channels: Any, size: Any, grads: torch.Tensor, kernel: Any, *how: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _check_devices(bits, grads)
        return grads.new_empty(grads.shape[1], channels, *kernel), grads.new_empty(grads.shape[1])

    def conv2d_input(size: Any, weight: torch.Tensor, grads: torch.Tensor, *how: Any) -> torch.Tensor:
        _check_devices(weight, grads)
        return grads.new_empty(grads.shape[0], weight.shape[1], *size)

    def spike_max_pool2d(bits: torch.Tensor, channels: Any, size: Any, like: torch.Tensor, *how: Any) -> torch.Tensor:
        _check_devices(bits, like)
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, *how)]
        return like.new_empty(bits.shape[0], channels, *out)

    def spike_max_pool2d_backward(
        bits: torch.Tensor, channels: Any, size: Any, grads: torch.Tensor, *how: Any
    ) -> torch.Tensor:
        _check_devices(bits, grads)
        return grads.new_empty(bits.shape[0], channels, *size)

    def spike_max_pool2d_active(
        bits: torch.Tensor, active: torch.Tensor, channels: Any, size: Any, *how: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _check_devices(bits, active)
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, *how)]
        return bits.new_empty(bits.shape[0], (channels * out[0] * out[1] + 63) // 64), bits.new_empty(())

    def active_linear(active: torch.Tensor, columns: Any, grads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        _check_devices(active, grads, weight)
        return grads.new_empty(active.shape[0], columns)

    def active_conv2d(
        active: torch.Tensor, size: Any, grads: torch.Tensor, weight: torch.Tensor, *how: Any
    ) -> torch.Tensor:
        _check_devices(active, grads, weight)
        return grads.new_empty(active.shape[0], weight.shape[1], *size)

    for fake in (
        *(spike_bits, spike_linear, spike_outer, spike_values, spike_conv2d, spike_conv2d_outer),
        *(spike_max_pool2d, spike_max_pool2d_backward, spike_max_pool2d_active),
        *(conv2d_input, active_linear, active_conv2d),
    ):
        torch.library.register_fake(f"norse_fast::{fake.__name__}", fake)
    torch.library.register_fake("norse_fast::product", product)
    torch.library.register_fake("norse_fast::spike_product", spike_product)
