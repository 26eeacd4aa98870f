"""Tables of the results for the terminal, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from .machine import BUSY_CORES
from .neurons import CLONE, FAST, NORSE, NORSE_CELL, TRAINED_CLONE

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "busy_mark",
    "case_name",
    "check_table",
    "format_number",
    "format_seconds",
    "length_table",
    "memory_table",
    "model_table",
    "network_memory_table",
    "network_table",
    "product_table",
    "profile_table",
    "recurrent_memory_table",
    "recurrent_table",
    "time_table",
    "train_table",
]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right", no_wrap=True)
    if text_columns == 1:
        for row in rows:
            table.add_row(*row)
        return table
    # The rows of a case are one section, which names the case once.
    previous = ""
    for case, *cells in rows:
        if previous and case != previous:
            table.add_section()
        table.add_row("" if case == previous else case, *cells)
        previous = case
    return table


def format_seconds(seconds: float) -> str:
    """Seconds with three digits and a unit.

    Example:
        >>> format_seconds(0.00123)
        '1.23 ms'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{format_number(seconds * scale)} {unit}"
    return f"{format_number(seconds * 1e9)} ns"


def format_number(number: float) -> str:
    """A number with at least three digits, without an exponent where it is large.

    Example:
        >>> format_number(1234.5), format_number(0.12345)
        ('1234', '0.123')
    """
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _size(row: dict[str, Any]) -> str:
    return "x".join(map(str, row["size"]))


def case_name(row: dict[str, Any]) -> str:
    """Size of a case, with its type and device where they are not the usual ones, and a mark where the machine was busy.

    Example:
        >>> case_name({"size": (100, 32, 512), "dtype": "float32", "device": "cpu"})
        '100x32x512'
    """
    extra = [value for value, usual in ((row["dtype"], "float32"), (row["device"], "cpu")) if value != usual]
    return " ".join([_size(row), *extra, *busy_mark(row)])


def busy_mark(row: dict[str, Any]) -> list[str]:
    """A warning where other programs ran while a row was measured.

    Example:
        >>> busy_mark({"others": 1.5}), busy_mark({"others": None})
        (['(busy)'], [])
    """
    return ["(busy)"] if (row.get("others") or 0) > BUSY_CORES else []


def check_table(checks: list[dict[str, Any]]) -> Table:
    """Agreement of norse_fast with the other implementations."""
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in checks:
        cases.setdefault((f"{row['model']} {row['part']}", case_name(row)), []).append(row)
    rows = [
        (
            *case,
            ", ".join(row["against"] for row in group),
            _largest([row["gradient_difference"] for row in group if "gradient_difference" in row]),
            f"{group[0]['mean_output']:.3f}",
        )
        for case, group in cases.items()
    ]
    columns = ("", "size", "outputs bit-equal to those of", "gradient\ndifference", "mean\noutput")
    return _table("Checked before timing", columns, rows, text_columns=3)


def _largest(differences: list[float]) -> str:
    return f"{max(differences):.0e}" if differences else "-"


def time_table(title: str, times: list[dict[str, Any]]) -> Table:
    """Times of the contenders, and what they are relative to ``x.clone()`` and to Norse."""
    # Norse may be missing, and so may be its layer's training in some rows.
    references = [name for name in (NORSE, NORSE_CELL) if any(name in row["over"] for row in times)]
    rows = []
    for row in times:
        over = row["over"]
        rows.append(
            (
                f"{row['model']} {case_name(row)}",
                row["contender"],
                format_seconds(row["median"]),
                format_seconds(row["iqr"]),
                format_number(over[CLONE]) if CLONE in over else "-",
                *(format_number(1 / over[name]) if name in over else "-" for name in references),
            )
        )
    columns = ("", "", "median", "IQR", "time over\nx.clone()", *(f"speed-up\non {name}" for name in references))
    return _table(title, columns, rows, text_columns=2)


def model_table(times: list[dict[str, Any]]) -> Table:
    """All models: the layer relative to ``x.clone()``, and its training relative to Norse's cell called step by step."""
    models: dict[str, list[dict[str, Any]]] = {}
    for row in times:
        models.setdefault(row["model"], []).append(row)
    rows = []
    for model, group in models.items():
        long = {row["mode"]: row for row in group if "no_norse" not in row and row["contender"] == FAST}
        short = {row["contender"]: row for row in group if "no_norse" in row}
        cells = [model]
        for row in (long["inference"], long["training"]):
            cells += [_spread(row), format_number(row["over"][CLONE])]
        if NORSE_CELL in short:
            cells += [_spread(short[NORSE_CELL])]
            cells += [format_number(1 / short[name]["over"][NORSE_CELL]) for name in (FAST, TRAINED_CLONE)]
        else:
            cells += [short[FAST]["no_norse"], "-", "-"]
        rows.append(cells)
    columns = (
        "",
        *("inference\nmedian ± IQR", "over\nx.clone()", "training\nmedian ± IQR", "over\nx.clone()"),
        *("Norse cell,\ntraining", "speed-up\non it", "and that of\nx.clone()"),
    )
    # Each model has the same cases: its first rows are those against Norse, its last the long ones.
    title = f"All models at {case_name(times[-1])}; training against Norse's cell at {case_name(times[0])}"
    return _table(title, columns, rows)


def _spread(row: dict[str, Any]) -> str:
    return f"{format_seconds(row['median'])} ±{row['iqr'] / row['median']:.0%}"


def length_table(times: list[dict[str, Any]]) -> Table:
    """Time per neuron-step over the number of steps."""
    contenders = list(dict.fromkeys(row["contender"] for row in times))
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for row in times:
        sizes = cells.setdefault(f"{row['model']} {row['mode']}", {})
        sizes.setdefault(case_name(row), {})[row["contender"]] = format_seconds(row["per_neuron_step"])
    rows = [
        (case, size, *(values.get(name, "-") for name in contenders))
        for case, sizes in cells.items()
        for size, values in sizes.items()
    ]
    return _table("Time per neuron-step", ("", "TxBxN", *contenders), rows, text_columns=2)


def memory_table(rows: list[dict[str, Any]]) -> Table:
    """Bytes that training keeps."""
    return _table(
        "Training memory beyond input, output and their gradients",
        ("", "", "bytes per neuron-step"),
        [(f"{r['model']} {case_name(r)}", r["contender"], f"{r['bytes_per_neuron_step']:.2f}") for r in rows],
        text_columns=2,
    )


def network_table(times: list[dict[str, Any]], contenders: Sequence[str], fast: str, dense: str) -> Table:
    """Times of whole networks, how many times faster sums over spikes make them, and how many times faster all does."""
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in times:
        cells.setdefault((row["network"], row["mode"]), {})[row["contender"]] = row
    rows = [
        (
            " ".join([case[0], *busy_mark(found[fast])]),
            case[1],
            *(format_seconds(found[name]["median"]) if name in found else "not installed" for name in contenders),
            *(format_number(1 / found[fast]["over"][name]) if name in found else "-" for name in (dense, NORSE)),
        )
        for case, found in cells.items()
    ]
    columns = ("", "", *(name.replace(", ", ",\n") for name in contenders), "speed-up\non dense", "speed-up\non Norse")
    return _table("Whole networks, and a training step of them", columns, rows, text_columns=2)


def network_memory_table(rows: list[dict[str, Any]]) -> Table:
    """Bytes that training whole networks keeps and takes."""
    cells = [(r["network"], r["contender"], _mebibytes(r["kept_bytes"]), _mebibytes(r["peak_bytes"])) for r in rows]
    title = "Training memory of whole networks"
    return _table(title, ("", "", "kept for\nbackward", "peak"), cells, text_columns=2)


def product_table(times: list[dict[str, Any]], sums: str) -> Table:
    """How many times faster sums over spikes are than a product of matrices, by the share of ones."""
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for row in times:
        if row["contender"] == sums:
            (over,) = row["over"].values()
            cells.setdefault((row["product"], row["mode"]), {})[row["density"]] = format_number(1 / over)
    densities = sorted({row["density"] for row in times})
    rows = [(*case, *(found[density] for density in densities)) for case, found in cells.items()]
    columns = ("", "", *(f"{density:.1%}".replace(".0", "") for density in densities))
    return _table("Sums over spikes: speed-up on PyTorch, by the share of ones", columns, rows, text_columns=2)


def profile_table(profiles: list[dict[str, Any]]) -> Table:
    """Where the time of a training step goes, and the share of it."""
    contenders = list(dict.fromkeys(row["contender"] for row in profiles))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in profiles:
        total = sum(row["seconds"].values())
        for kind, seconds in row["seconds"].items():
            text = f"{format_seconds(seconds)} {seconds / total:4.0%}" if seconds else "-"
            cells.setdefault((row["network"], kind), {})[row["contender"]] = text
    rows = [
        (*case, *(texts[name] for name in contenders)) for case, texts in cells.items() if set(texts.values()) != {"-"}
    ]
    return _table("Where the time goes, as a profiler sees it", ("", "", *contenders), rows, text_columns=2)


def recurrent_table(title: str, times: list[dict[str, Any]]) -> Table:
    """Time of recurrent layers, and how many times faster norse_fast is than the others."""
    others = list(dict.fromkeys(row["contender"] for row in times if row["contender"] != FAST))
    rows = [
        (
            f"{row['model']} {case_name(row)}",
            f"{100 * row['rate']:.0f} %",
            row["mode"],
            format_seconds(row["median"]),
            *(format_number(1 / row["over"][name]) if name in row["over"] else "-" for name in others),
        )
        for row in times
        if row["contender"] == FAST
    ]
    columns = ("", "rate", "", FAST, *(f"speed-up\non {name}" for name in others))
    return _table(title, columns, rows, text_columns=3)


def recurrent_memory_table(rows: list[dict[str, Any]]) -> Table:
    """Bytes that training recurrent layers takes."""
    cells = []
    for r in rows:
        peak = r["peak_bytes_per_neuron_step"]
        kept = f"{r['bytes_per_neuron_step']:.2f}"
        cells.append((f"{r['model']} {case_name(r)}", r["contender"], kept, "-" if peak is None else f"{peak:.2f}"))
    title = "Training memory beyond input, output, weights and their gradients, bytes per neuron-step"
    return _table(title, ("", "", "kept for\nbackward", "peak"), cells, text_columns=2)


def train_table(title: str, runs: list[dict[str, Any]]) -> Table:
    """Accuracies, time and memory of training, side by side, over runs with different seeds."""
    sides: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, side in run["sides"].items():
            sides.setdefault(name, []).append(side)
    rows = [
        ("test accuracy", *(", ".join(f"{r['accuracies'][-1]:.1%}" for r in side) for side in sides.values())),
        ("time per epoch", *(format_seconds(median(r["epoch_seconds"] for r in side)) for side in sides.values())),
        ("peak memory", *(_mebibytes(side[0]["peak_bytes"]) for side in sides.values())),
    ]
    return _table(title, ("", *sides), rows)


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f} MiB"
