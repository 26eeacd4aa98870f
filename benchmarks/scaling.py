"""Time and memory of LIF layers over steps, batch, neurons and threads, and beside a busy core: ``make bench-scaling``.

Each curve is measured in one process, its points turn by turn, in reused memory unless it says otherwise. The slope that is
expected is 1 for time over anything but threads, so a flat line in time per neuron-step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import norse_fast as nf
from norse_fast.benchmark.machine import BUSY_CORES, Neighbours, describe_machine
from norse_fast.benchmark.timing import alone, malloc_trim, quartiles
from norse_fast.benchmark.train import memory_meter

MODES = ("inference", "training")
STEPS = [(steps, 32, 1024) for steps in (100, 300, 1000, 4000)]
BATCH = [(100, batch, 512) for batch in (1, 4, 16, 64, 256)]
NEURONS = [(100, 32, neurons) for neurons in (16, 64, 256, 1024, 4096)]
BESIDE = (100, 32, 512)
ROUNDS = 5

Call = Callable[[], Any]


def _calls(size: tuple[int, ...]) -> dict[str, Call]:
    """Inference and training of a LIF layer, and the same of PyTorch's own operators on the same tensors."""
    layer, x, g = nf.LIF(), 3 * torch.randn(size), torch.randn(size)
    leaf = x.detach().requires_grad_()

    @torch.no_grad()
    def inference() -> None:
        layer(x)

    def training() -> None:
        leaf.grad = None
        layer(leaf)[0].backward(g)

    @torch.no_grad()
    def pytorch() -> None:
        x * 2 + x.exp()

    return {"inference": inference, "training": training, "pytorch": pytorch}


def _seconds(call: Call, least: float = 0.05) -> tuple[float, float]:
    """The median of the seconds of some calls, and the seconds of all cores that a call took on average.

    The latter do not count the time in which other programs had the cores.
    """
    times: list[float] = []
    before = time.process_time()
    while sum(times) < least or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), (time.process_time() - before) / len(times)


def _fresh(call: Call) -> float:
    """The seconds of one call in fresh memory."""
    nf.memory.release()
    malloc_trim(0)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _curve(sizes: Sequence[tuple[int, ...]], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the points of a curve; ratios are those to the first point in the same turn."""
    torch.set_num_threads(threads)
    points = {size: _calls(size) for size in sizes}
    rows = []
    for mode in MODES:
        for calls in points.values():
            calls[mode]()
        neighbours = Neighbours()
        turns = [{size: _seconds(calls[mode]) for size, calls in points.items()} for _ in range(rounds)]
        fresh = [{size: _fresh(calls[mode]) for size, calls in points.items()} for _ in range(rounds)]
        others = neighbours.cores()
        first = sizes[0]
        for size in sizes:
            # Time and time of cores, per neuron-step, relative to those of the first point.
            ratios = [
                [turn[size][k] / turn[first][k] * math.prod(first) / math.prod(size) for turn in turns] for k in (0, 1)
            ]
            rows.append(
                {
                    "size": size,
                    "threads": threads,
                    "mode": mode,
                    "per_neuron_step": quartiles([turn[size][0] / math.prod(size) for turn in turns]),
                    "core_time": quartiles([turn[size][1] / math.prod(size) for turn in turns]),
                    "fresh_memory": quartiles([turn[size] / math.prod(size) for turn in fresh]),
                    "ratio": quartiles(ratios[0]),
                    "core_time_ratio": quartiles(ratios[1]),
                    "others": others,
                }
            )
    return rows


def _peak(size: tuple[int, ...]) -> float | None:
    """Bytes per neuron-step that training takes beyond the input and the gradient of the output."""
    calls = _calls(size)
    small = _calls((2, 2, 8))
    small["training"]()
    malloc_trim(0)
    peak = memory_meter(torch.device("cpu"))
    calls["training"]()
    found = peak()
    return None if found is None else found / math.prod(size)


def _beside(size: tuple[int, ...], threads: int, rounds: int) -> dict[str, Any]:
    """What a layer and PyTorch's own operators suffer from a process that keeps one core busy, turn by turn."""
    torch.set_num_threads(threads)
    calls = _calls(size)
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        quiet = {name: _seconds(call, 0.3)[0] for name, call in calls.items()}
        # A process of its own program: one that was forked would share the threads' state.
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.2)
            for name, call in calls.items():
                ratios[name].append(_seconds(call, 0.3)[0] / quiet[name])
        finally:
            burner.kill()
            burner.wait()
    return {"size": size, "threads": threads, **{name: quartiles(values) for name, values in ratios.items()}}


def draw(results: dict[str, Any], path: Path) -> None:
    """Curves of the time per neuron-step; horizontal is the slope expected."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for index, (name, axis) in enumerate((("steps", 0), ("batch", 1), ("neurons", 2))):
        axes = figure.add_subplot(1, 3, index + 1)
        for mode, color in (("inference", "#56b4e9"), ("training", "#0072b2")):
            for threads, style in ((1, "--"), (results["threads"], "-")):
                rows = [r for r in results[name] if r["mode"] == mode and r["threads"] == threads]
                along = [row["size"][axis] for row in rows]
                label = f"{mode}, {threads} thread{'s' if threads > 1 else ''}"
                axes.plot(
                    along,
                    [1e9 * r["per_neuron_step"][1] for r in rows],
                    style,
                    color=color,
                    marker="o",
                    ms=4,
                    label=label,
                )
                if threads == results["threads"]:
                    fresh = [1e9 * row["fresh_memory"][1] for row in rows]
                    axes.plot(along, fresh, ":", color=color, marker=".", label=f"{mode}, fresh memory")
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = [row["size"] for row in results[name]]
        fixed = "×".join("·" if k == axis else str(n) for k, n in enumerate(sizes[0]))
        axes.set_title(f"LIF at {fixed}")
        axes.set_xlabel(name)
        axes.set_ylabel("ns per neuron-step; expected: flat")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    machine = results["machine"]
    figure.suptitle(f"{machine['cpu']}, load {machine['load']} before, commit {machine['commit']}", fontsize=10)
    figure.savefig(path)


def main(argv: Sequence[str]) -> None:
    """Measures all curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args(argv)
    rounds = 2 if arguments.quick else ROUNDS
    curves = {"steps": STEPS, "batch": BATCH, "neurons": NEURONS}
    beside = BESIDE
    if arguments.quick:
        curves, beside = {name: [(5, 2, 8), (5, 4, 16)] for name in curves}, (5, 2, 8)
    machine = describe_machine("make bench-scaling", (), arguments.output)
    results: dict[str, Any] = {"machine": machine, "threads": arguments.threads}
    for name, sizes in curves.items():
        results[name] = []
        for threads in dict.fromkeys((1, arguments.threads)):
            results[name] += alone(_curve, sizes, threads, rounds)
        for row in results[name]:
            middle = 1e9 * row["per_neuron_step"][1]
            busy = " (busy)" if (row["others"] or 0) > BUSY_CORES else ""
            low, ratio, high = row["ratio"]
            print(
                f"{name} {row['size']} {row['mode']}, {row['threads']} threads{busy}: {middle:.3f} ns per neuron-step, "
                f"{ratio:.2f} ({low:.2f} to {high:.2f}) of the first, {row['core_time_ratio'][1]:.2f} in time of cores; "
                f"{1e9 * row['fresh_memory'][1]:.3f} ns in fresh memory"
            )
    results["peaks"] = [{"size": size, "bytes_per_neuron_step": alone(_peak, size)} for size in curves["steps"]]
    print("peak of training beyond input and gradient, bytes per neuron-step:", results["peaks"])
    if arguments.threads > 1:
        results["beside"] = alone(_beside, beside, arguments.threads, rounds)
        print("time beside a busy core over that without:", results["beside"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, arguments.output / "scaling.png")


if __name__ == "__main__":
    main(sys.argv[1:])
