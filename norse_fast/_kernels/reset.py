"""What a spike does to a neuron, as an argument of step functions: the kind of the reset, and whether it is detached."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch

from ..functional.reset import ResetMethod, reset_none, reset_subtract, reset_value

__all__ = ["ALL", "RESETS", "Reset", "Variants", "check_reset"]

#: By name; the kernels know each by its place, from 1 on, see csrc/neurons/reset.h.
RESETS: dict[str, ResetMethod] = {"value": reset_value, "subtract": reset_subtract, "none": reset_none}


class Reset(NamedTuple):
    """A reset of the membrane potential.

    Args:
        kind: a name of RESETS, or a function like those.
        detach: whether what a spike changes, the potential and an adaptation, sends no gradient into the spike.
    """

    kind: str | ResetMethod = "value"
    detach: bool = False

    @property
    def code(self) -> float:
        """The number that kernels are told."""
        # Any number does for a function, which no kernel sees.
        kind = list(RESETS).index(self.kind) + 1 if isinstance(self.kind, str) else 0
        return float(-kind if self.detach else kind)

    def spike(self, z: torch.Tensor) -> torch.Tensor:
        """Spikes as what they change sees them."""
        return z.detach() if self.detach else z

    def potential(self, z: torch.Tensor, v: torch.Tensor, v_reset: Any, v_th: Any) -> torch.Tensor:
        """The membrane potential after spikes."""
        method = RESETS[self.kind] if isinstance(self.kind, str) else self.kind
        return method(self.spike(z), v, v_reset, v_th)


#: All that kernels know.
ALL = tuple(Reset(kind, detach) for kind, detach in product(RESETS, (False, True)))


def check_reset(reset: Any, detach_reset: Any) -> None:
    """Raise if there is no such reset.

    Raises:
        TypeError: ``detach_reset`` is not a bool.
        ValueError: there is no reset of that name.
    """
    if not isinstance(detach_reset, bool):
        raise TypeError(f"detach_reset: got {type(detach_reset).__name__}, expected True or False.")
    if not isinstance(reset, str) or reset not in RESETS:
        raise ValueError(
            f"reset: got {reset!r}, expected one of {', '.join(map(repr, RESETS))}; the default is 'value'."
        )


class Variants(dict[Any, Any]):
    """What differs by its reset, by ``(reset, detach_reset)``; what has a function as its reset is not kept.

    Args:
        make: makes one for a reset.
    """

    def __init__(self, make: Callable[[Reset], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: tuple[Any, Any]) -> Any:
        if not callable(key[0]):
            check_reset(*key)
        return self.make(Reset(*key))
