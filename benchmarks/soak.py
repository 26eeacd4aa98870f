"""Many training steps, whose memory must not grow: `make soak`.

Networks with and without recurrence, compiled and not, are trained in turn, on batches and lengths that change from step
to step, each from the state that its last step left. Prints resident memory over time; fails if, from step 2,000 to the
end, it grows by 1 % or more.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import norse_fast as nf

SETTLED = 2_000
LIMIT = 0.01
READ_EVERY = 50
PRINT_EVERY = 1_000
#: Readings that are averaged before they are compared: allocators keep a little more or less from one to the next.
WINDOW = 10
INPUTS, CLASSES = 24, 10
# Not 1: torch.compile makes a graph of its own for each size of 1.
BATCHES = (2, 3, 5, 7, 8)
LENGTHS = (2, 70)


def resident_mib() -> float:
    """What the process holds of the machine's memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Training:
    """One network and its optimiser, and for each size of a batch the state where the last step left it."""

    def __init__(self, name: str, network: torch.nn.Module, compiled: bool) -> None:
        self.name = name
        self.call = torch.compile(network, dynamic=True) if compiled else network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        self.states: dict[int, Any] = {}

    def step(self, steps: int, batch: int) -> None:
        """Train on random spikes and labels."""
        x = (torch.rand(steps, batch, INPUTS) < 0.2).float()
        voltage, state = self.call(x, self.states.get(batch))
        loss = torch.nn.functional.cross_entropy(voltage.mean(0), torch.randint(CLASSES, (batch,)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if not loss.isfinite():
            raise RuntimeError(f"{self.name}: the loss is {loss.item()}, expected a finite one")
        self.states[batch] = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, state)


def feed_forward() -> torch.nn.Module:
    """Large enough for memory that is used again."""
    return nf.SequentialState(
        torch.nn.Linear(INPUTS, 256),
        nf.LIF(),
        torch.nn.Linear(256, 64),
        nf.LSNN(),
        torch.nn.Linear(64, CLASSES),
        nf.LI(),
    )


def recurrent() -> torch.nn.Module:
    """Two layers over time."""
    return nf.SequentialState(
        nf.LIFRecurrent(INPUTS, 64), nf.LSNNRecurrent(64, 32), torch.nn.Linear(32, CLASSES), nf.LI()
    )


def run(steps: int, seed: int, console: Console) -> list[float]:
    """Resident memory in MiB, every READ_EVERY steps."""
    torch.manual_seed(seed)
    choose = random.Random(seed)
    trainings = [
        Training(f"{make.__name__}{', compiled' if compiled else ''}", make(), compiled)
        for make in (feed_forward, recurrent)
        for compiled in (False, True)
    ]
    readings = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("training", total=steps)
        for k in range(1, steps + 1):
            choose.choice(trainings).step(choose.randint(*LENGTHS), choose.choice(BATCHES))
            progress.advance(task)
            if k % READ_EVERY == 0:
                gc.collect()
                readings.append(resident_mib())
                progress.update(task, description=f"{readings[-1]:.1f} MiB")
            if k % PRINT_EVERY == 0:
                console.print(f"step {k:6,}: {readings[-1]:.1f} MiB")
    return readings


def growth(readings: list[float]) -> float:
    """From step SETTLED to the end, as a part of what there was."""
    first = SETTLED // READ_EVERY
    start = statistics.mean(readings[first : first + WINDOW])
    return statistics.mean(readings[-WINDOW:]) / start - 1


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if memory grew, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    least = SETTLED + 2 * WINDOW * READ_EVERY
    if options.steps < least:
        parser.error(f"--steps: got {options.steps}, expected {least} or more, because memory settles in {SETTLED}")
    console = Console()
    grown = growth(run(options.steps, options.seed, console))
    console.print(
        f"from step {SETTLED:,} to step {options.steps:,} memory grew by {grown:.2%}; the limit is {LIMIT:.0%}"
    )
    return 1 if grown >= LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
