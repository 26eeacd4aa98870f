"""How wide a surrogate derivative should be: accuracy, active neurons and time, for docs/sparse_backward.md.

Trains networks of two hidden layers on handwritten digits and on words in the format of the Heidelberg digits, with the
data of the examples. Writes all runs and draws the picture: ``PYTHONPATH=examples python benchmarks/sparse_backward.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from common import BLUE, GREEN, GREY, ORANGE, digits, plt, save, spikes
from heidelberg_digits import CHANNELS, Bins, Words, make
from torch import nn
from torch.nn.functional import cross_entropy

import norse_fast as nf

RUNS = Path(__file__).parent / "results" / "sparse_backward.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "sparse_backward.png"
WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # of the support
THRESHOLDS = (0.0, 1e-3, 1e-2)  # for super
BATCH, HIDDEN = 64, 256
ACTIVE = re.compile(r"gradient (?:where|everywhere:) ([\d.]+)% are active")

Batches = Callable[[bool], Iterator[tuple[torch.Tensor, torch.Tensor]]]


class Task(NamedTuple):
    """A task: its batches for training, shuffled, and for the test; its sizes and epochs."""

    batches: Batches
    inputs: int
    classes: int
    epochs: int


def digits_task() -> Task:
    """Handwritten digits as spike trains of 50 steps."""
    images, labels, test_images, test_labels = digits()

    def batches(training: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        x, y = (images, labels) if training else (test_images, test_labels)
        order = torch.randperm(len(y)) if training else torch.arange(len(y))
        for part in order.split(BATCH):
            yield spikes(x[part].flatten(1), 50), y[part]

    return Task(batches, 64, 10, 10)


def words_task(folder: Path) -> Task:
    """Made words of 100 steps, whose spikes of one step and channel count once."""
    data = {}
    for training, count in ((True, 1024), (False, 512)):
        make(folder / f"{training}.h5", count, seed=int(training))
        words = Words(folder / f"{training}.h5")
        x, y = Bins(100)([words[k] for k in range(len(words))])
        data[training] = x.clamp_(max=1).bool(), y

    def batches(training: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        x, y = data[training]
        order = torch.randperm(len(y)) if training else torch.arange(len(y))
        for part in order.split(BATCH):
            yield x[:, part].float(), y[part]

    return Task(batches, CHANNELS, 20, 10)


def network(task: Task, method: str, alpha: float) -> nf.Lift:
    """Two hidden layers of LIF neurons and a leaky readout."""

    def lif() -> nn.Module:
        return nf.LIFCell(nf.LIFParameters(method=method, alpha=torch.tensor(alpha)), detach_reset=True)

    first, second = nf.SpikeLinear(task.inputs, HIDDEN), nf.SpikeLinear(HIDDEN, HIDDEN)
    with torch.no_grad():
        first.weight *= 3 if task.inputs < CHANNELS else 5
        second.weight *= 4
    return nf.Lift(nf.SequentialState(first, lif(), second, lif(), nf.SpikeLinear(HIDDEN, task.classes), nf.LICell()))


def train(task: Task, method: str, alpha: float, threshold: float, seed: int) -> dict[str, float]:
    """Accuracy after training; the means over it of the share of active neurons; the time of a step by a dense one."""
    torch.manual_seed(seed)
    model = network(task, method, alpha)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    active: list[float] = []

    def context() -> Any:
        return nf.sparse_backward(threshold) if threshold else contextlib.nullcontext()

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(10 * model(x)[0].mean(0), y).backward()
        optimizer.step()

    start = time.process_time()
    for _ in range(task.epochs):
        for x, y in task.batches(True):
            with context():
                step(x, y)
            if found := ACTIVE.search(model.explain()):
                active.append(float(found[1]) / 100)
    seconds = (time.process_time() - start) / task.epochs
    with torch.no_grad():
        right = [model(x)[0].mean(0).argmax(1) == y for x, y in task.batches(False)]
    ratios = []
    for x, y in [next(task.batches(True))] * 7:
        took = []
        for kind in (nf.dense_products, context):
            start = time.process_time()
            with kind():
                step(x, y)
            took.append(time.process_time() - start)
        ratios.append(took[0] / took[1])
    accuracy = torch.cat(right).float().mean().item()
    return {
        "accuracy": accuracy,
        "active": mean(active) if active else 1.0,
        "seconds": seconds,
        "faster": median(ratios),
    }


def settings() -> list[tuple[str, float, float, float]]:
    """Method, alpha, threshold, and the width of the support; 0: there is none."""
    compact = [
        (method, scale / w, 0.0, w) for method, scale in (("rectangle", 1), ("triangle_width", 2)) for w in WIDTHS
    ]
    return [*(("super", 100.0, threshold, 0.0) for threshold in THRESHOLDS), *compact]


def draw(runs: list[dict[str, Any]]) -> None:
    """Accuracy, active neurons and speed over the width, with the mean and range of the seeds."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    figure, grid = plt.subplots(len(tasks), 3, figsize=(9, 5), sharex=True, squeeze=False)
    for row, task in zip(grid, tasks):
        for axes, (name, scale, label) in zip(
            row,
            (("accuracy", 100, "test accuracy in %"), ("active", 100, "active in %"), ("faster", 1, "times faster")),
        ):
            for method, color in (("rectangle", BLUE), ("triangle_width", ORANGE)):
                values = {
                    w: [scale * r[name] for r in runs if (r["task"], r["method"], r["width"]) == (task, method, w)]
                    for w in WIDTHS
                }
                means = [mean(values[w]) for w in WIDTHS]
                axes.plot(WIDTHS, means, "o-", color=color, ms=3, label=method)
                axes.fill_between(WIDTHS, *([f(values[w]) for w in WIDTHS] for f in (min, max)), color=color, alpha=0.2)
            for threshold, color in zip(THRESHOLDS, (GREY, GREEN, "black")):
                found = [
                    scale * r[name]
                    for r in runs
                    if (r["task"], r["method"], r["threshold"]) == (task, "super", threshold)
                ]
                text = f"super, threshold {threshold:g}" if threshold else "super"
                axes.axhline(mean(found), color=color, lw=1, ls="--", label=text)
            axes.set(xscale="log", ylabel=label, title=task if name == "accuracy" else "")
    for axes in grid[-1]:
        axes.set_xlabel("width of the support")
    grid[0, 1].legend(fontsize=7)
    figure.tight_layout()
    save(figure, PICTURE)


def main() -> None:
    """Run what is missing in the results, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each setting (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else []
    done = {(r["task"], r["method"], r["alpha"], r["threshold"], r["seed"]) for r in runs}
    with TemporaryDirectory() as folder:
        tasks = {"digits": digits_task(), "words": words_task(Path(folder))}
        for seed in range(options.seeds):
            for name, task in tasks.items():
                for method, alpha, threshold, width in settings():
                    key = {"task": name, "method": method, "alpha": alpha, "threshold": threshold, "seed": seed}
                    if tuple(key.values()) in done:
                        continue
                    runs.append({**key, "width": width, **train(task, method, alpha, threshold, seed)})
                    RUNS.write_text(json.dumps(runs, indent=1) + "\n")
                    print(runs[-1], flush=True)
    draw(runs)


if __name__ == "__main__":
    main()
