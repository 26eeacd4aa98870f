"""Times contenders side by side, and cases apart."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.benchmark import Timer

from .machine import Neighbours

__all__ = ["Effort", "alone", "compare", "malloc_trim", "quartiles"]

Result = TypeVar("Result")


class Effort(NamedTuple):
    """How long to measure.

    Args:
        threads: threads of PyTorch on the CPU.
        rounds: how often every contender has its turn.
        seconds: least duration of one turn.
    """

    threads: int
    rounds: int
    seconds: float


# glibc's function that hands freed memory back to the system; other C libraries have none.
malloc_trim: Callable[[int], Any] = getattr(
    None if os.name == "nt" else ctypes.CDLL(None), "malloc_trim", lambda pad: 0
)


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process of its own, where random numbers start from seed 0.

    What it measures then does not depend on the memory that others before it left to the allocators of the process.

    Args:
        function: a function of a module.
        arguments: its arguments; they and the result are pickled.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_call_with_seed, function, arguments).result()


def _call_with_seed(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    torch.manual_seed(0)
    return function(*arguments)


def quartiles(values: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper one.

    Example:
        >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
        [2.0, 3.0, 4.0]
    """
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).quantile(shares).tolist()


def compare(contenders: dict[str, Callable[[], Any]], effort: Effort) -> dict[str, dict[str, Any]]:
    """Median and interquartile range of the seconds that each contender takes, and of the ratios within a turn.

    The contenders take turns, so that whatever else runs on the machine slows all of them alike. A ratio is that of the
    medians of one turn, so that what lasts longer than a turn does not show in it.

    Args:
        contenders: a function without arguments per name.
        effort: how long to measure.

    Returns:
        Per name the keys ``median`` and ``iqr`` of the seconds; ``over``: the median of the ratios to every other
        contender's time in the same turn, and ``over_quartiles``; and ``others``: the cores that other programs used
        meanwhile, or None where the system does not tell.
    """
    timers = {name: Timer("f()", globals={"f": f}, num_threads=effort.threads) for name, f in contenders.items()}
    turns: dict[str, list[list[float]]] = {name: [] for name in contenders}
    neighbours = Neighbours()
    for _ in range(effort.rounds):
        for name, timer in timers.items():
            # What one contender frees, glibc may keep, and whoever allocates next would skip its page faults, by luck of
            # the order. So each starts from fresh memory, which the system must hand out.
            malloc_trim(0)
            turns[name].append(timer.blocked_autorange(min_run_time=effort.seconds).times)
    others = neighbours.cores()
    medians = {name: [statistics.median(times) for times in taken] for name, taken in turns.items()}
    result = {}
    for name, taken in turns.items():
        lower, median, upper = quartiles([seconds for times in taken for seconds in times])
        ratios = {
            other: quartiles([a / b for a, b in zip(medians[name], medians[other])])
            for other in contenders
            if other != name
        }
        result[name] = {
            "median": median,
            "iqr": upper - lower,
            "over": {other: middle for other, (_, middle, _) in ratios.items()},
            "over_quartiles": {other: [low, high] for other, (low, _, high) in ratios.items()},
            "others": others,
        }
    return result
