"""What torch.compile must know of the compiled operators: the shapes and dtypes of their results."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["SEGMENT", "register_fakes"]

#: Backward keeps the states of every this many steps (kSegment in csrc/launch.h).
SEGMENT = 32


def _state_dtype(input: torch.Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def register_fakes(name: str, states: int, params: int) -> None:
    """Register the fake kernels of a model's two operators."""

    def forward(input: torch.Tensor, *args: Any) -> Any:
        sequence, checkpoint, record = args[-3:]
        steps, step = (input.shape[0], input.shape[1:]) if sequence else (1, input.shape)
        dtype = _state_dtype(input)

        def kept(count: Any) -> list[torch.Tensor]:
            return [input.new_empty((count, *step), dtype=dtype) for _ in range(states)]

        final = [input.new_empty(step, dtype=dtype) for _ in range(states)]
        # Written so that it also holds for T = 0 with symbolic T.
        checkpoints = kept((steps + SEGMENT - 1) // SEGMENT - (1 if steps > 0 else 0)) if checkpoint else []
        return (input.new_empty(input.shape), *final, checkpoints, kept(steps) if record else [])

    def backward(input: torch.Tensor, *args: Any) -> Any:
        sequence, want_input, want_params = args[-3:]
        step = input.shape[1:] if sequence else input.shape
        dtype = _state_dtype(input)
        grad_input = input.new_empty(input.shape if want_input else 0)
        grad_params = input.new_empty((params, *step) if want_params else 0, dtype=dtype)
        return (grad_input, *(input.new_empty(step, dtype=dtype) for _ in range(states)), grad_params)

    torch.library.register_fake(f"norse_fast::{name}_forward", forward)
    torch.library.register_fake(f"norse_fast::{name}_backward", backward)
