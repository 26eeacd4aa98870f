"""The picture of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from table import case_name

COLUMNS = 4
COLORS = {"inference": "#56b4e9", "training": "#0072b2"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of the times over norse_fast's, a panel per case; whiskers are the quartiles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [row for row in results["rows"] if "training" in row]
    cases = list(dict.fromkeys(map(case_name, timed)))
    lines = -(-len(cases) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 3.2 * lines + 0.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for index, case in enumerate(cases):
        axes = figure.add_subplot(lines, COLUMNS, index + 1)
        rows = [row for row in timed if case_name(row) == case]
        for offset, (mode, color) in zip((-0.2, 0.2), COLORS.items()):
            ratios = [row[mode]["ratio"] for row in rows]
            middles = [middle for _, middle, _ in ratios]
            spread = [[m - low for low, m, _ in ratios], [high - m for _, m, high in ratios]]
            axes.barh([k + offset for k in range(len(rows))], middles, 0.4, xerr=spread, color=color, label=mode)
        axes.set_yticks(range(len(rows)), [row["contender"] for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")  # numbers between the powers of ten would overlap
        axes.axvline(1, color="black", lw=0.8)
        axes.set_title(case, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        if index == 0:
            axes.legend(fontsize=8)
    figure.supxlabel("time over that of norse_fast in the same turn: median and quartiles", fontsize=10)
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    figure.suptitle(
        f"{versions}; {machine['cpu']}, {results['threads']} threads, commit {machine['commit']}", fontsize=10
    )
    figure.savefig(path)
