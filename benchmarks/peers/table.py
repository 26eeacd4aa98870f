"""The table of the comparison."""

from __future__ import annotations

import statistics
from typing import Any

from rich.table import Table

from norse_fast.benchmark.machine import BUSY_CORES
from norse_fast.benchmark.tables import format_number, format_seconds

COLUMNS = (
    "",
    "",
    "inference",
    "over norse_fast",
    "training",
    "over norse_fast",
    "first calls",
    "peak",
    "output",
    "what differs",
)


def case_name(row: dict[str, Any]) -> str:
    """What a row is about."""
    size = "x".join(map(str, row["size"]))
    return row.get("name") or f"{row['kind']} {size}"


def ratio_text(row: dict[str, Any], mode: str) -> str:
    """The median of the ratios to norse_fast's time in the same turn, and their quartiles."""
    low, middle, high = map(format_number, row[mode]["ratio"])
    return f"{middle} ({low} to {high})"


def remark(row: dict[str, Any]) -> str:
    """How a contender differs, and how far its outputs are where the models coincide."""
    if "cannot" in row or "error" in row:
        return f"no: {row.get('cannot') or row['error']}"
    found = [row["differs"]] if row["differs"] else []
    if "neurons_that_differ" in row:
        share = row["neurons_that_differ"]
        found.append(
            f"{'same outputs as' if share == 0 else f'{share:.1%} of neurons differ from'} {row['same_model_as']}"
        )
    if "difference" in row:
        other, most = row["same_model_as"], row["difference"]
        found.append(
            f"outputs differ from {other} by {most:.0e} of the largest" if most else f"same outputs as {other}"
        )
    return "; ".join(found)


def is_busy(row: dict[str, Any]) -> bool:
    """Whether other programs ran while the row was measured."""
    return (row["others"] or 0) > BUSY_CORES


def cells_of(row: dict[str, Any]) -> list[str]:
    """The times, the first calls, which compile, the peak of training beyond input, and the mean output."""
    if row.get("epochs"):
        epochs = [epoch for epoch in row["epochs"] if "seconds" in epoch]
        # The first one compiles.
        usual = statistics.median(epoch["seconds"] for epoch in epochs[1:] or epochs)
        first = format_seconds(epochs[0]["seconds"]) if epochs[0]["seconds"] > 2 * usual else "-"
        right = f"{epochs[-1]['accuracy']:.1%} right after {len(epochs)}"
        return ["-", "-", f"{format_seconds(usual)} an epoch", right, first, "-", "-"]
    if "training" not in row:
        return ["-"] * 7
    cells = []
    for mode in ("inference", "training"):
        cells += [format_seconds(row[mode]["seconds"][1]), ratio_text(row, mode)]
    peak = "-" if row["peak"] is None else f"{row['peak'] / 2**20:.0f} MiB"
    return [*cells, format_seconds(sum(row["warm_up"].values())), peak, f"{row['output_mean']:.3f}"]


def title(row: dict[str, Any]) -> str:
    """The name of a row's case, and a warning where the machine was busy."""
    return case_name(row) + (f" (busy: {row['others']:.1f})" if is_busy(row) else "")


def peers_table(results: dict[str, Any]) -> Table:
    """All rows, by case; behind a case the cores that other programs used, where the machine was busy."""
    table = Table(title="norse_fast and others", title_justify="left", title_style="bold")
    for index, column in enumerate(COLUMNS):
        last = index == len(COLUMNS) - 1
        table.add_column(column, justify="left" if index < 2 or last else "right", no_wrap=not last, overflow="fold")
    before = ""
    for row in results["rows"]:
        case = title(row)
        if before and case != before:
            table.add_section()
        table.add_row("" if case == before else case, row["contender"], *cells_of(row), remark(row))
        before = case
    return table
