"""What a layer returns of its outputs over time, by name."""

from __future__ import annotations

from typing import Any

import torch

from .._constants import HALF

__all__ = ["BYTES", "NUMBERS", "REDUCED", "Outputs", "finish"]

#: The number under which the kernels know each kind (Output in csrc/core/launch.h); a mean is a sum until it is finished.
NUMBERS = {"all": 0, "uint8": 1, "bool": 2, "sum": 3, "mean": 3, "last": 4}
#: Kinds that return spikes of all steps as bytes.
BYTES = {"uint8": torch.uint8, "bool": torch.bool}
#: Kinds that return as much as one step has.
REDUCED = ("sum", "mean", "last")


def finish(result: torch.Tensor, kind: str, steps: Any, dtype: torch.dtype) -> torch.Tensor:
    """What a layer returns, of what its kernel does: reductions come in the computing type."""
    if kind == "mean":
        # By a tensor: a GPU multiplies by the reciprocal of a number, which rounds once more.
        result = result / torch.full((), steps, dtype=result.dtype, device=result.device)
    return result.to(dtype) if kind in REDUCED else result


class Outputs:
    """Takes the output of one step after another, and keeps no more of them than is asked for.

    Args:
        kind: a key of NUMBERS.
        dtype: that of the result, unless it is bytes; by default that of the outputs.
    """

    def __init__(self, kind: str, dtype: torch.dtype | None = None) -> None:
        self.kind, self.dtype = kind, dtype
        self.kept: list[torch.Tensor] = []
        self.steps = 0

    def add(self, output: torch.Tensor) -> None:
        self.steps += 1
        if self.kind not in REDUCED:
            dtype = BYTES.get(self.kind, self.dtype)
            self.kept.append(output if dtype is None else output.to(dtype))
            return
        if not output.is_floating_point():
            output = output.to(torch.get_default_dtype())
        if self.dtype is None:
            self.dtype = output.dtype
        if output.dtype in HALF:
            output = output.float()
        self.kept = [self.kept[0] + output if self.kept and self.kind != "last" else output]

    def raw(self) -> torch.Tensor:
        """What a kernel returns of one step or more."""
        return self.kept[0] if self.kind in REDUCED else torch.stack(self.kept)

    def result(self) -> torch.Tensor:
        """What is asked for, of one step or more."""
        if self.kind not in REDUCED:
            return self.raw()
        assert self.dtype is not None
        return finish(self.raw(), self.kind, self.steps, self.dtype)
