"""Fills in the figures of README.md and of the pages in docs from benchmarks/results: ``make figures``.

A page has a block for each group of figures, between the comments ``<!-- figures: name -->`` and ``<!-- end -->``, whose
text is written here. With ``--check`` nothing is written; blocks that are not as the results say are named.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from norse_fast.benchmark.machine import BUSY_CORES, BUSY_LOAD
from norse_fast.benchmark.models import MODELS
from norse_fast.benchmark.networks import FAST_DENSE, PEER
from norse_fast.benchmark.neurons import CLONE, CLONE_REUSED, FAST, FAST_FRESH, NORSE, NORSE_CELL, TRAINED_CLONE
from norse_fast.benchmark.recurrent import RNN
from norse_fast.benchmark.tables import format_number, format_seconds

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LONG, SHORT = [1000, 32, 1024], [100, 32, 512]

Rows = list[dict[str, Any]]


def load(name: str) -> dict[str, Any]:
    """The results of a program."""
    results: dict[str, Any] = json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())
    return results


def pick(rows: Rows, **wanted: Any) -> dict[str, dict[str, Any]]:
    """Per contender, the row with these values; other types and devices than the usual ones do not count."""
    wanted = {"dtype": "float32", "device": "cpu", **wanted}
    chosen = [row for row in rows if all(row.get(key, value) == value for key, value in wanted.items())]
    return {row["contender"]: row for row in chosen}


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def span(values: list[float]) -> str:
    """The range of numbers, in two digits."""
    low, high = (f"{number:.0f}" if number >= 10 else f"{number:.1f}" for number in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def seconds(row: dict[str, Any] | None) -> str:
    """The median of a row."""
    return "-" if row is None else format_seconds(row["median"])


def size_of(row: dict[str, Any]) -> str:
    """The size of a row."""
    return "×".join(map(str, row["size"]))


def percent(share: float, digits: int = 0) -> str:
    """A share in percent."""
    return f"{100 * share:.{digits}f} %"


def prose(text: str) -> str:
    """Text in lines of the usual length."""
    return textwrap.fill(text, 126, break_on_hyphens=False, break_long_words=False) + "\n"


def machine(results: dict[str, Any], *more: str, part: str = "") -> str:
    """What the results, or a part of them, were measured on, and whether it was busy."""
    m = results.get("machines", {}).get(part, results["machine"])
    isa = {"avx2": "AVX2", "avx512": "AVX-512"}.get(m["backends"]["cpu"], m["backends"]["cpu"])
    facts = [
        f"{m['cores']} cores of an {m['cpu']} with {isa}",
        f"torch {m['torch'].split('+')[0]}",
        *more,
        m["date"][:10],
    ]
    facts += [f"commit {m['commit']}"] if m.get("commit") else []
    busy = f" **The machine was busy**: its load was {m['load']} before the run." if m["load"] > BUSY_LOAD else ""
    return f"{', '.join(facts)}.{busy}"


def networks(results: dict[str, Any]) -> str:
    """Whole networks, with sums over spikes and without, beside Norse's and the nearest peer's."""
    others = {FAST_DENSE: "its dense products", NORSE: "Norse", PEER: PEER}
    others = {name: said for name, said in others.items() if any(row["contender"] == name for row in results["times"])}
    rows = []
    for check in results["checks"]:
        for mode in ("inference", "training"):
            row = pick(results["times"], network=check["network"], mode=mode)
            gains = [f"{seconds(row[name])} ({1 / row[FAST]['over'][name]:.1f})" for name in others]
            rows.append([f"{check['network']}, {mode}, {size_of(check)}", f"**{seconds(row[FAST])}**", *gains])
    return table(["whole network", "norse_fast", *others.values()], rows)


def how_fast() -> str:
    """Times beside Norse's."""
    results = load("benchmark")
    times = results["neurons"]["times"]
    rows = []
    for size in (LONG, SHORT):
        for mode in ("inference", "training"):
            row = pick(times, part="layer", model="LIF", size=size, mode=mode)
            norse = [f"{seconds(row[n])}{said}" for n, said in ((NORSE, ""), (NORSE_CELL, " its cell")) if n in row]
            fresh = f", {seconds(row[FAST_FRESH])} in fresh memory" if FAST_FRESH in row else ""
            reused = f", {seconds(row[CLONE_REUSED])} in reused memory" if CLONE_REUSED in row else ""
            copy = seconds(row[CLONE]) + reused
            rows.append(
                [f"LIF layer, {mode}, {size_of(row[FAST])}", f"**{seconds(row[FAST])}**{fresh}", ", ".join(norse), copy]
            )
    for mode, said in (
        ("step", "a step without gradient"),
        ("step + backward", "a step and its backward"),
        ("step of 100 + backward", "a step of 100 with one backward"),
    ):
        row = pick(times, part="cell", model="LIF", size=[1, 10], mode=mode)
        rows.append([f"LIF cell, B×N = 1×10, {said}", f"**{seconds(row[FAST])}**", seconds(row[NORSE]), ""])
    recurrent = results["recurrent"]["times"]
    for part, mode, size in (
        ("rates", "inference", [100, 32, 512, 512]),
        ("rates", "training", [100, 32, 512, 512]),
        ("long", "training", [1000, 32, 512, 512]),
    ):
        row = pick(recurrent, part=part, model="LIF", mode=mode, size=size, rate=0.08)
        others = f"{seconds(row[NORSE])}; `torch.nn.RNN` {seconds(row[RNN])}"
        rows.append(
            [
                f"LIFRecurrent, {mode}, T×B×inputs×N = {size_of(row[FAST])}, 8 % firing",
                f"**{seconds(row[FAST])}**",
                others,
                "",
            ]
        )
    kept = pick(results["neurons"]["memory"], model="LIF")
    per = [format_number(kept[name]["bytes_per_neuron_step"]) for name in (FAST, NORSE)]
    rows.append(["memory kept for training, bytes per neuron-step", f"**{per[0]}**", per[1], ""])
    sides = results["train"][0]["sides"]
    told = [
        f"{format_seconds(sides[n]['epoch_seconds'])}, {percent(sides[n]['accuracies'][-1], 1)}" for n in (FAST, NORSE)
    ]
    rows.append(["digits classifier (Linear, LIF, Linear, LI; T = 100), an epoch", f"**{told[0]}**", told[1], ""])
    equal = all(check["equal"] for check in results["neurons"]["checks"])
    threads = f"{results['neurons']['effort']['threads']} threads"
    versions = (f"Norse {results['machine']['norse']}", "float32", threads, "medians")
    said = machine(results, *versions, part="neurons")
    of_networks = machine(results, *versions, part="networks")
    checked = "are equal, bit for bit" if equal else "differ in some cases"
    intro = prose(f"{said} Outputs were compared before anything was timed: they {checked}.")
    rates = "; ".join(
        f"{check['network']} {' and '.join(percent(rate) for rate in check['spike_rates'])}"
        for check in results["networks"]["checks"]
    )
    brackets = f"In brackets: how many times as long. In a step so many neurons of each layer spike: {rates}."
    said = prose(brackets + (f" Whole networks: {of_networks}" if of_networks != said else ""))
    return "\n".join(
        [intro, networks(results["networks"]), said, table(["", "norse_fast", "Norse", "`x.clone()`"], rows)]
    )


def all_models() -> str:
    """All models beside a copy and Norse's cells, and whole networks."""
    results = load("benchmark")
    times = results["models"]["times"]

    def over(name: str, contender: str, other: str, **wanted: Any) -> float:
        return float(pick(times, model=name, **wanted)[contender]["over"][other])

    # A model that is newer than the results is not in them.
    measured = {row["model"]: MODELS[row["model"]] for row in times}

    def ratios(exact: bool, mode: str) -> str:
        names = [name for name, model in measured.items() if model.exact == exact]
        return span([over(name, FAST, CLONE, size=LONG, mode=mode) for name in names])

    short = {"size": SHORT, "mode": "training"}
    gains = {name: 1 / over(name, FAST, NORSE_CELL, **short) for name, model in measured.items() if not model.no_norse}
    least = min(gains, key=lambda name: gains[name])
    most = span([gain for name, gain in gains.items() if name != least])
    copy = 1 / over(least, TRAINED_CLONE, NORSE_CELL, **short)
    cells = [
        (1 / row["over"][NORSE], row["model"])
        for row in results["neurons"]["times"]
        if row["part"] == "cell" and row["contender"] == FAST and row["mode"] != "step"
    ]
    low, high = (f"{gain:.1f} times ({model})" for gain, model in (min(cells), max(cells)))
    text = (
        f"At 1000×32×1024 all models without `exp` take {ratios(True, 'inference')} times as long as `x.clone()` for "
        f"inference and {ratios(True, 'training')} times for training; those with `exp` {ratios(False, 'inference')} and "
        f"{ratios(False, 'training')}. At 100×32×512 training is {most} times faster than Norse's cells in all models but "
        f"{least}: {gains[least]:.0f}, where a mere `x.clone()` and its backward pass would be {copy:.0f} times faster. "
        f"A cell with gradients is {low} to {high} faster than Norse's. "
    )
    networks = results["networks"]
    for row in networks["times"]:
        if row["contender"] == FAST and row.get("mode", "training") == "training":
            name, gain = row["network"], 1 / row["over"][NORSE]
            profile = next(
                p["seconds"] for p in networks["profiles"] if p["network"] == name and p["contender"] == FAST
            )
            share = percent(profile["neurons"] / sum(profile.values()))
            text += f"The network {name} trains {gain:.1f} times faster than in Norse; {share} of our time is the neurons'. "
    return prose(text)


def on_a_gpu() -> str:
    """What was seen on a GPU."""
    results = load("gpu")
    rows = [row for row in results["rows"] if row["part"] == "layer" and row["contender"] == FAST]
    share = {row["mode"]: row["bandwidth_share"] for row in rows if row["case"] == "500x16x16384"}
    inference, training = (percent(share[mode]) for mode in ("inference", "training"))
    return prose(
        f"On an {results['gpu_before']['name']} the LIF layer infers at {inference} of the bandwidth of a device-to-device "
        f"copy and trains at {training}."
    )


def a_billion() -> str:
    """What a billion neuron-steps of LIF take: measured on the machine of the results, and by arithmetic on GPUs."""
    times, size = load("benchmark")["neurons"]["times"], [500, 16, 16384]
    on_gpu = [row for row in load("gpu")["rows"] if row["part"] == "layer" and row["contender"] == FAST]
    rows = []
    for mode in ("inference", "training"):
        row = pick(times, part="layer", model="LIF", size=LONG, mode=mode)
        norse = row.get(NORSE, row[NORSE_CELL])
        seen = next(r["median"] for r in on_gpu if r["mode"] == mode and r["case"] == "x".join(map(str, size)))
        gpu = seen / math.prod(size)
        cells = [row[FAST]["per_neuron_step"], norse["per_neuron_step"], gpu, gpu / 8]
        rows.append([mode, *(format_seconds(1e9 * cell) for cell in cells)])
    columns = ["", "2 cores", "Norse on them", "one H100, arithmetic", "8 of them, arithmetic"]
    return table(columns, rows)


def peers() -> str:
    """norse_fast beside other libraries."""
    # The folder is not a package: its modules are those of a program.
    sys.path.insert(0, str(ROOT / "benchmarks/peers"))
    from table import COLUMNS, cells_of, remark, title

    results = load("peers")
    rows, before = [], ""
    for row in results["rows"]:
        case = title(row)
        rows.append(["" if case == before else case, row["contender"], *cells_of(row), remark(row)])
        before = case
    others = [row["others"] for row in results["rows"] if row["others"] is not None]
    said = [machine(results, ", ".join(f"{name} {v}" for name, v in results["versions"].items() if name != "torch"))]
    if others and max(others) > BUSY_CORES:
        said.append(f"Other programs used {span(others)} cores during the cases.")
    said += [f"{name} did not take part: {reason}." for name, reason in results["missing"].items()]
    return prose(" ".join(said)) + "\n" + table(list(COLUMNS), rows)


def best_peers() -> str:
    """The best peer in each case."""
    cases: dict[str, Rows] = {}
    for row in load("peers")["rows"]:
        if "training" in row:
            cases.setdefault(row.get("name") or f"{row['kind']} {size_of(row)}", []).append(row)
    rows = []
    for case, group in cases.items():
        cells = [case]
        for mode in ("inference", "training"):
            # LIFBox, without a synaptic current, is beside the peers of its kind, and does not count as ours here.
            ours = min(r[mode]["ratio"][1] for r in group if r["contender"] in (FAST, f"{FAST}, products"))
            theirs = {r["contender"]: r[mode]["ratio"][1] for r in group if not r["contender"].startswith(FAST)}
            best = min(theirs, key=lambda name: theirs[name])
            ratio = format_number(theirs[best] / ours)
            cells += [best, f"**{ratio}**" if theirs[best] < ours else ratio]
        rows.append(cells)
    return table(["", "best peer, inference", "its time over ours", "best peer, training", "its time over ours"], rows)


def scaling() -> str:
    """Time per neuron-step over the steps, and beside a busy core."""
    results = load("scaling")
    rows = []
    for row in results["steps"]:
        cells = [f"{format_number(1e9 * row[key][1])} ns" for key in ("per_neuron_step", "fresh_memory")]
        for key in ("ratio", "core_time_ratio"):
            low, ratio, high = map(format_number, row[key])
            cells.append(f"{ratio} ({low} to {high})")
        busy = " (busy)" if (row["others"] or 0) > BUSY_CORES else ""
        rows.append([f"{row['mode']}, threads: {row['threads']}{busy}", size_of(row), *cells])
    text = prose(machine(results)) + "\n"
    columns = [
        "LIF",
        "T×B×N",
        "a neuron-step in reused memory",
        "in fresh memory",
        "over the first T",
        "in time of cores",
    ]
    text += table(columns, rows)
    if beside := results.get("beside"):
        inference, training, pytorch = (format_number(beside[key][1]) for key in ("inference", "training", "pytorch"))
        text += "\n" + prose(
            f"Beside a process that keeps one core busy, the layer at {size_of(beside)} infers in {inference} times its time "
            f"without that process and trains in {training} times; PyTorch's `x * 2 + x.exp()` takes {pytorch} times as long "
            "(medians)."
        )
    return text


def draw_where_time_goes(path: Path) -> None:
    """Bars of what a training step of each network is made of, for each contender."""
    import matplotlib.pyplot as plt

    profiles = load("benchmark")["networks"]["profiles"]
    networks = list(dict.fromkeys(row["network"] for row in profiles))
    figure, panels = plt.subplots(1, len(networks), figsize=(11, 2.8), layout="constrained")
    for axes, network in zip(panels, networks):
        rows = [row for row in profiles if row["network"] == network and row.get("mode", "training") == "training"]
        rows.sort(key=lambda row: sum(row["seconds"].values()), reverse=True)
        start = [0.0] * len(rows)
        for kind in rows[0]["seconds"]:
            widths = [1e3 * row["seconds"].get(kind, 0.0) for row in rows]
            # Norse's neurons are many small operations, which a profiler cannot tell from the rest.
            axes.barh([row["contender"] for row in rows], widths, left=start, label=kind)
            start = [a + b for a, b in zip(start, widths)]
        axes.invert_yaxis()
        axes.set_title(network)
        axes.set_xlabel("ms of a training step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


FIGURES: dict[str, Callable[[], str]] = {
    "how-fast": how_fast,
    "all-models": all_models,
    "on-a-gpu": on_a_gpu,
    "a-billion": a_billion,
    "peers": peers,
    "scaling": scaling,
    "best-peers": best_peers,
}


def fill(text: str) -> str:
    """A page with its blocks as the results say."""
    return BLOCK.sub(lambda m: m[1] + FIGURES[m[2]]() + m[3], text)


def pages() -> list[Path]:
    """The pages that may have blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def stale() -> list[Path]:
    """The pages whose figures are not those of the results."""
    return [path for path in pages() if fill(path.read_text()) != path.read_text()]


def main(arguments: list[str]) -> int:
    """Fills in the pages, or checks them."""
    found = stale()
    for path in found:
        print(f"{path.relative_to(ROOT)}: {'stale; run make figures' if arguments == ['--check'] else 'written'}")
        if arguments != ["--check"]:
            path.write_text(fill(path.read_text()))
    if arguments != ["--check"]:
        draw_where_time_goes(ROOT / "docs/images/where_time_goes.png")
    return 1 if found and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
