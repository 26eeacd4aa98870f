"""Modules with a state, for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import torch
from typing_extensions import TypeVar

__all__ = ["State", "Stateful"]

#: The tuple that a module hands from step to step.
State = TypeVar("State", default=Any)


class Stateful(torch.nn.Module, Generic[State]):
    """A module that takes and returns a state. It says so to type checkers, where torch declares that calls of modules take
    and return anything; so does each ``__call__`` beside a ``forward``."""

    if TYPE_CHECKING:

        def __call__(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]: ...
