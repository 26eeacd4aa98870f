"""Choices drawn from a seed, and the way from a case that fails to the smallest one that fails alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Option = TypeVar("Option")


class Finding(NamedTuple):
    """What is wrong with a case: in words that are the same for cases that fail alike, and in detail."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Draw:
    """Choices by name. Each depends on the seed and its own name alone, so that forcing some leaves the others as they were.

    Args:
        seed: of the case.
        forced: by name, the largest index that may be drawn.
    """

    def __init__(self, seed: int, forced: Mapping[str, int] | None = None) -> None:
        self.seed, self.forced = seed, forced or {}
        self.made: dict[str, int] = {}

    def pick(self, name: str, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
        """One of the options, of which the first is the simplest."""
        generator = random.Random(f"{self.seed}/{name}")
        index = generator.choices(range(len(options)), weights)[0]
        self.made[name] = min(index, self.forced.get(name, index))
        return options[self.made[name]]

    def chance(self, name: str, probability: float) -> bool:
        return self.pick(name, (False, True), (1 - probability, probability))


#: Tries a case with forced choices, and tells what it found and the choices made.
Attempt = Callable[[dict[str, int]], tuple[Finding | None, dict[str, int]]]


def minimise(attempt: Attempt, limit: int = 300) -> dict[str, int]:
    """The simplest choices, to be forced, with which a case fails as it does without."""
    forced: dict[str, int] = {}
    original, made = attempt(forced)
    assert original is not None
    changed = True
    while changed:
        changed = False
        for name in list(made):
            # Straight to the simplest, else half way, else one down.
            for index in sorted({0, made.get(name, 0) // 2, made.get(name, 0) - 1}):
                if limit == 0 or not 0 <= index < made.get(name, 0):
                    continue
                limit -= 1
                found, choices = attempt({**forced, name: index})
                if found is not None and found.kind == original.kind:
                    forced[name], made, changed = index, choices, True
                    break
    return forced
