"""Constants that are the same whatever was going on when they were made."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["HALF", "constant"]

#: Dtypes that are only stored: what is computed is float32.
HALF = (torch.float16, torch.bfloat16)


def constant(value: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of a number, on the CPU; floating point numbers have the given dtype, integers are int64.

    It depends on neither the default device nor the default dtype, and is an ordinary tensor in inference mode too. So
    training works in a process that first imported the package there, and a module that is built on the device "meta" has
    its parameters. What is a tensor already stays as it is.
    """
    if isinstance(value, torch.Tensor):
        return value
    with torch.inference_mode(False):
        return torch.as_tensor(value, dtype=dtype if isinstance(value, float) else None, device="cpu")
