"""Runs cases in forked processes, so that one that dies is a finding, and the others go on."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Protocol

import torch

import norse_fast as nf

from .draw import Draw, Finding, minimise

#: Cases of one process.
BATCH = 200
#: Seconds without a word after which a process hangs. A case may take several, of which the largest take some seconds.
PATIENCE = 120
#: What sanitizers write to stderr.
REPORTS = ("SUMMARY: ", "runtime error: ", "WARNING: ThreadSanitizer")


class Case(Protocol):
    """A program that is run as it is printed."""

    @property
    def target(self) -> str: ...

    @property
    def printed(self) -> str: ...

    @property
    def last(self) -> bool:
        """Whether the next case needs a new process."""
        ...


class Fuzz(Protocol):
    """What draws cases, and finds out what is wrong with one; it also names how it ended."""

    def draw_case(self, d: Draw) -> Case: ...

    def check(self, case: Any) -> tuple[str, Finding | None]: ...


class Death(Finding):
    """A process that did not end as it should."""


Send = Callable[[Any], None]


def in_child(work: Callable[[Send], None], memory: int) -> Iterator[Any]:
    """What ``work`` sends from a process of its own, and at last a :class:`Death` if that died or a sanitizer complained.

    Args:
        work: gets a function that sends what JSON can tell.
        memory: bytes of addresses that it may take; 0 for no limit.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as errors:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _work_in_child(work, writer, errors.fileno(), memory)
        os.close(writer)
        hung, rest, status = False, b"", None
        try:
            while not hung:
                hung = not select.select([reader], [], [], PATIENCE)[0]
                chunk = b"" if hung else os.read(reader, 2**16)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
        finally:
            os.close(reader)
            if hung or sys.exc_info()[0] is not None:
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        errors.seek(0)
        text = errors.read().decode(errors="replace").splitlines()
    report = next((line for mark in REPORTS for line in text if mark in line), None)
    if hung:
        yield Death(f"gave no sign for {PATIENCE} s")
    elif report:
        yield Death(report.strip())
    elif status:
        name = signal.Signals(status).name if status in set(signal.Signals) else f"status {status}"
        yield Death(f"died of {name}", "\n".join(text[-8:]))


def _work_in_child(work: Callable[[Send], None], writer: int, errors: int, memory: int) -> None:
    os.dup2(errors, 2)
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        work(lambda message: [os.write(writer, json.dumps(message).encode() + b"\n"), None][1])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _warm_up() -> None:
    """What is done once and takes long, without threads, which do not survive a fork."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for context in (nf.kernels_disabled, nullcontext):
        with context():
            nf.LIF()(torch.ones(1, 1, requires_grad=True))[0].sum().backward()


class Run:
    """A run over the seeds ``first`` to ``first + cases``.

    Args:
        fuzz: what is run.
        first: the first seed.
        cases: how many.
        memory: bytes that a process may take; 0 for no limit.
        show: of how many kinds of findings the smallest program is looked for and printed.
    """

    def __init__(self, fuzz: Fuzz, first: int, cases: int, memory: int, show: int) -> None:
        self.fuzz, self.first, self.end, self.memory, self.show = fuzz, first, first + cases, memory, show
        self.endings: Counter[str] = Counter()
        #: Seeds by kind of finding and target.
        self.findings: dict[tuple[str, str], list[int]] = {}

    def run(self) -> bool:
        """Run all cases and print what is found; True if nothing is."""
        _warm_up()
        began, seed = time.monotonic(), self.first
        advance = _progress(self.end - self.first)
        while seed < self.end:
            last = min(seed + BATCH, self.end)
            current = seed - 1
            for message in in_child(partial(self._run_batch, seed, last), self.memory):
                if isinstance(message, Death):
                    self._report_death(seed, current, last, message)
                elif "start" in message:
                    current = message["start"]
                    advance()
                else:
                    self.endings[message["ending"]] += 1
                    if "found" in message:
                        self._report(current, Finding(*message["found"]))
            seed = current + 1
        print(f"\n{self.end - self.first} cases from seed {self.first} in {time.monotonic() - began:.0f} s: ", end="")
        print(", ".join(f"{count} {ending}" for ending, count in self.endings.most_common()))
        for (kind, target), seeds in sorted(self.findings.items(), key=lambda item: -len(item[1])):
            print(f"{len(seeds):6} {target}: {kind}; seeds {', '.join(map(str, seeds[:5]))}")
        print(f"{sum(map(len, self.findings.values()))} findings of {len(self.findings)} kinds")
        return not self.findings

    def _run_batch(self, first: int, last: int, send: Send) -> None:
        for seed in range(first, last):
            send({"start": seed})
            case = self.fuzz.draw_case(Draw(seed))
            ending, found = self.fuzz.check(case)
            send({"ending": ending} if found is None else {"ending": ending, "found": found})
            if case.last:
                break

    def _report_death(self, first: int, current: int, last: int, death: Death) -> None:
        # A sanitizer's report may belong to any case of the process, and so may broken memory.
        for seed in (current, *range(first, current)):
            found, _ = self._attempt_in_child(seed, {})
            if isinstance(found, Death):
                self.endings["died"] += 1
                return self._report(seed, found)
        print(f"\nOnly together: python -m tests.fuzz ... --seed {first} --cases {current + 1 - first}\n{death}")
        self.findings.setdefault((death.kind, "several cases together"), []).append(first)
        return None

    def _report(self, seed: int, found: Finding) -> None:
        target = self.fuzz.draw_case(Draw(seed)).target
        seeds = self.findings.setdefault((found.kind, target), [])
        seeds.append(seed)
        if len(seeds) > 1 or len(self.findings) > self.show:
            return
        forced = self._minimise(seed, found, target)
        smallest, _ = self._attempt_in_child(seed, forced)
        print(f"\n# Case {seed}, {target}: {smallest or found}")
        print(self.fuzz.draw_case(Draw(seed, forced)).printed, flush=True)

    def _minimise(self, seed: int, found: Finding, target: str) -> dict[str, int]:
        if not isinstance(found, Death):
            attempt = partial(self._attempt, seed, target=target)
            messages = list(in_child(lambda send: send(minimise(attempt)), self.memory))
            if len(messages) == 1 and isinstance(messages[0], dict):
                return messages[0]
        try:
            return minimise(partial(self._attempt_in_child, seed, target=target))
        except AssertionError:
            return {}  # it does not fail alone

    def _attempt(self, seed: int, forced: dict[str, int], target: str) -> tuple[Finding | None, dict[str, int]]:
        d = Draw(seed, forced)
        case = self.fuzz.draw_case(d)
        return (self.fuzz.check(case)[1] if case.target == target else None), d.made

    def _attempt_in_child(
        self, seed: int, forced: dict[str, int], target: str = ""
    ) -> tuple[Finding | None, dict[str, int]]:
        d = Draw(seed, forced)
        case, found = self.fuzz.draw_case(d), None
        if target and case.target != target:
            return None, d.made
        for message in in_child(lambda send: send(self.fuzz.check(case)[1]), self.memory):
            found = message if isinstance(message, Death) or message is None else Finding(*message)
        return found, d.made


def _progress(total: int) -> Callable[[], object]:
    """A function to be called at each case, which shows how many there were."""
    if sys.stderr.isatty():
        with suppress(ImportError):
            from tqdm import tqdm

            return tqdm(total=total, unit="case", smoothing=0.01).update
    count = iter(range(1, total + 1))

    def advance() -> None:
        number = next(count, total)
        if number % 1000 == 0:
            print(f"{number} of {total}", flush=True)

    return advance
