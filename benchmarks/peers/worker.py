"""A process of one library. It reads commands from its input and writes answers to its output, a line of JSON each."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def _resident(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024


def _give_back() -> None:
    """Returns freed memory to the system, so that contenders that wait hold little."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


class Worker:
    """What the commands do; each is a method, and its answer a dictionary."""

    def __init__(self, library: str) -> None:
        self.library: Any = importlib.import_module(library)
        self.work: Any = None

    def hello(self) -> dict[str, Any]:
        """What the library is and takes part in."""
        return {
            "version": getattr(self.library, "VERSION", "") or importlib.metadata.version(self.library.PACKAGE),
            "package": self.library.PACKAGE,
            "contenders": self.library.CONTENDERS,
        }

    def build(self, name: str, case: dict[str, Any], data: str) -> dict[str, Any]:
        """Makes a contender for a case and warms it up; says what it cannot do."""
        self.drop()
        with np.load(data) as loaded:
            arrays = dict(loaded)
        start = time.perf_counter()
        made = self.library.build(name, case, arrays)
        if isinstance(made, str):
            return {"cannot": made}
        self.work = made
        if case["kind"] == "digits":
            return {}
        answer: dict[str, Any] = {"warm_up": {}}
        answer["output_mean"] = float(self.work.output().mean())
        answer["warm_up"]["inference"] = time.perf_counter() - start
        start = time.perf_counter()
        self.work.training()
        answer["warm_up"]["training"] = time.perf_counter() - start
        answer["peak"] = self._peak()
        return answer

    def save(self, path: str) -> dict[str, Any]:
        """Writes the outputs."""
        np.save(path, self.work.output())
        return {}

    def turn(self, mode: str, seconds: float) -> dict[str, Any]:
        """Times calls for so long, and one at least."""
        call, times = getattr(self.work, mode), []
        while sum(times) < seconds:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        _give_back()
        return {"seconds": times}

    def epoch(self, batches: list[list[int]], test: list[list[int]]) -> dict[str, Any]:
        """Trains for an epoch."""
        start = time.perf_counter()
        self.work.epoch(batches)
        return {"seconds": time.perf_counter() - start, "accuracy": self.work.accuracy(test)}

    def drop(self) -> dict[str, Any]:
        """Forgets the contender."""
        self.work = None
        _give_back()
        return {}

    def _peak(self) -> int | None:
        """The most bytes that a training call takes at once besides its input, where the system tells."""
        getattr(self.library, "release", lambda: None)()
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        except OSError:
            return None
        before = _resident("VmRSS")
        self.work.training()
        peak = _resident("VmHWM") - before
        _give_back()
        return peak


def main(library: str) -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(library)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # a library's failure is a result
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
