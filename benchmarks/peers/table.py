"""The table of the comparison."""

from __future__ import annotations

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
            f"{'same outputs' if share == 0 else f'{share:.1%} of neurons differ from'} {row['same_model_as']}"
        )
    if "difference" in row:
        found.append(f"outputs differ from {row['same_model_as']} by {row['difference']:.0e} of the largest")
    return "; ".join(found)


def is_busy(row: dict[str, Any]) -> bool:
    """Whether other programs ran while the row was measured."""
    return (row["others"] or 0) > BUSY_CORES


def _cells(row: dict[str, Any]) -> list[str]:
    if row.get("epochs"):
        last = row["epochs"][-1]
        seconds = sorted(epoch["seconds"] for epoch in row["epochs"] if "seconds" in epoch)
        epoch = f"{format_seconds(seconds[len(seconds) // 2])} an epoch" if seconds else "-"
        return ["-", "-", epoch, "-", "-", "-", f"{last.get('accuracy', 0):.1%} right"]
    if "training" not in row:
        return ["-"] * 7
    cells = []
    for mode in ("inference", "training"):
        cells += [format_seconds(row[mode]["seconds"][1]), ratio_text(row, mode)]
    peak = "-" if row["peak"] is None else f"{row['peak'] / 2**20:.0f} MiB"
    return [*cells, format_seconds(sum(row["warm_up"].values())), peak, f"{row['output_mean']:.3f}"]


def peers_table(results: dict[str, Any]) -> Table:
    """All rows, by case; a busy machine is marked."""
    table = Table(title="norse_fast and others", title_justify="left", title_style="bold")
    for index, column in enumerate(COLUMNS):
        last = index == len(COLUMNS) - 1
        table.add_column(column, justify="left" if index < 2 or last else "right", no_wrap=not last)
    before = ""
    for row in results["rows"]:
        case = case_name(row)
        if before and case != before:
            table.add_section()
        busy = f" (busy: {row['others']:.1f} cores used by others)" if is_busy(row) else ""
        table.add_row("" if case == before else case + busy, row["contender"], *_cells(row), remark(row))
        before = case
    return table
