"""Times contenders side by side, and cases apart."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.benchmark import Timer

__all__ = ["Effort", "alone", "compare", "malloc_trim"]

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


def compare(contenders: dict[str, Callable[[], Any]], effort: Effort) -> dict[str, dict[str, Any]]:
    """Median and interquartile range of the seconds that each contender takes, and ratios of the medians.

    The contenders take turns, so that whatever else runs on the machine slows all of them alike.

    Args:
        contenders: a function without arguments per name.
        effort: how long to measure.

    Returns:
        Per name the keys ``median``, ``iqr``, and ``over``: the median divided by that of every other contender.
    """
    timers = {name: Timer("f()", globals={"f": f}, num_threads=effort.threads) for name, f in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(effort.rounds):
        for name, timer in timers.items():
            # What one contender frees, glibc may keep, and whoever allocates next would skip its page faults, by luck of
            # the order. So each starts from memory that the system must hand out anew.
            malloc_trim(0)
            samples[name] += timer.blocked_autorange(min_run_time=effort.seconds).times
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    quartiles = {
        name: torch.tensor(times, dtype=torch.float64).quantile(shares).tolist() for name, times in samples.items()
    }
    return {
        name: {
            "median": median,
            "iqr": upper - lower,
            "over": {other: median / quartiles[other][1] for other in contenders if other != name},
        }
        for name, (lower, median, upper) in quartiles.items()
    }
