"""One figure of all results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from .neurons import CLONE, CLONE_REUSED, FAST, FAST_FRESH, NORSE, NORSE_CELL, PURE
from .recurrent import RNN, STEPPED
from .tables import case_name, format_number

__all__ = ["plot"]

COLORS = {
    FAST: "#0072b2",
    FAST_FRESH: "#56b4e9",
    CLONE: "#999999",
    CLONE_REUSED: "#cccccc",
    PURE: "#e69f00",
    STEPPED: "#56b4e9",
    RNN: "#009e73",
    NORSE_CELL: "#cc79a7",
    NORSE: "#d55e00",
}
COLUMNS = 3


def _bars(axes: Any, rows: list[dict[str, Any]], value: str, label: str) -> None:
    """Horizontal bars, one group per case and in it one bar per contender, each with its number."""
    groups = list(dict.fromkeys(_group(row) for row in rows))
    contenders = [name for name in COLORS if any(row["contender"] == name for row in rows)]
    height = 0.8 / len(contenders)
    for row in rows:
        position = groups.index(_group(row)) + (contenders.index(row["contender"]) + 0.5) * height - 0.4
        axes.barh(position, row[value], height, color=COLORS[row["contender"]])
        axes.annotate(
            format_number(row[value]),
            (row[value], position),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter("")  # numbers between the powers of ten would overlap
    values = [row[value] for row in rows]
    # Room for the number beside the longest bar.
    axes.set_xlim(min(values) / 2, max(values) * (max(values) / min(values)) ** 0.2 * 2)
    _legend(axes, contenders)


def _legend(axes: Any, names: list[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLORS[name], label=name) for name in names]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize=8, frameon=False)


def _group(row: dict[str, Any]) -> str:
    rate = f"\n{100 * row['rate']:.0f} % spikes" if "rate" in row else ""
    return f"{row['model']}\n{case_name(row)}{rate}"


def _lengths(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Time per neuron-step over the number of steps; a horizontal line is time linear in the steps."""
    for mode, style in (("inference", "--"), ("training", "-")):
        for name, color in COLORS.items():
            chosen = [row for row in rows if row["contender"] == name and row["mode"] == mode]
            if not chosen or (name == CLONE and mode == "training"):
                continue
            steps = [row["size"][0] for row in chosen]
            nanoseconds = [1e9 * row["per_neuron_step"] for row in chosen]
            label = name if name == CLONE else f"{name}, {mode}"
            axes.plot(steps, nanoseconds, style, marker="o", ms=4, color=color, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    steps = sorted({row["size"][0] for row in rows})
    axes.set_xticks(steps, steps)
    axes.minorticks_off()
    axes.set_xlabel(f"time steps T, at {'x'.join(map(str, rows[0]['size'][1:]))} neurons")
    axes.set_ylabel("ns per neuron-step")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8, frameon=False, handlelength=3)


def _accuracy(axes: Any, runs: list[dict[str, Any]]) -> None:
    for index, run in enumerate(runs):
        for name, side in run["sides"].items():
            seconds = [0.0, *accumulate(side["seconds"])]
            accuracies = [100 * accuracy for accuracy in side["accuracies"]]
            label = None if index else name
            axes.plot(seconds, accuracies, marker="o", ms=4, color=COLORS[name], label=label)
    axes.set_ylim(0, 100)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _panels(results: dict[str, Any]) -> dict[str, Callable[[Any], None]]:
    """What to draw, by title."""
    panels: dict[str, Callable[[Any], None]] = {}
    if "neurons" in results:
        times = [{**row, "ms": 1e3 * row["median"], "us": 1e6 * row["median"]} for row in results["neurons"]["times"]]

        def chosen(part: str, mode: str) -> list[dict[str, Any]]:
            return [row for row in times if row["part"] == part and row["mode"] == mode]

        for mode in ("inference", "training"):
            if layer := chosen("layer", mode):
                panels[f"Layer, {mode}"] = partial(_bars, rows=layer, value="ms", label="ms")
        for mode in ("step", "step of 100 + backward"):
            if cell := [row for row in chosen("cell", mode) if row["contender"] != CLONE]:
                panels[f"Cell, {mode}"] = partial(_bars, rows=cell, value="us", label="µs per step")
        first = results["neurons"]["times"][0]
        length = [
            row
            for row in times
            if row["part"] == "length" and all(row[key] == first[key] for key in ("model", "dtype", "device"))
        ]
        panels[f"Layer of {first['model']}, time per neuron-step"] = partial(_lengths, rows=length)
    if recurrent := [{**row, "ms": 1e3 * row["median"]} for row in results.get("recurrent", {}).get("times", [])]:
        for mode in ("inference", "training"):
            rows = [row for row in recurrent if row["part"] == "rates" and row["mode"] == mode]
            panels[f"Recurrent layer, {mode}"] = partial(_bars, rows=rows, value="ms", label="ms")
    for title, part in (("Training on digits", "train"), ("Training to recall", "recall")):
        runs: dict[str, list[dict[str, Any]]] = {}
        for run in results.get(part, []):
            runs.setdefault(run["settings"]["device"], []).append(run)
        for device, group in runs.items():
            panels[f"{title}, {device}"] = partial(_accuracy, runs=group)
    return panels


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the results of all parts but models, if there are any.

    Args:
        results: what the command line writes as JSON.
        path: file of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(results)
    if not panels:
        return
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * rows + 0.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for index, (title, draw) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        draw(axes)
        axes.set_title(title)
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("norse_fast", "norse", "torch") if machine[name])
    figure.suptitle(f"{versions}; {', '.join([machine['cpu'], *machine['gpus']])}", fontsize=10)
    figure.savefig(path)
