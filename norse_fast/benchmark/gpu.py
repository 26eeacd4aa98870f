"""``python -m norse_fast.benchmark.gpu``: the CUDA kernels against the bandwidth of the memory, and against others.

Everything is compared with a device-to-device copy, or another contender, of the same run. ``--parts`` measures some; the
rows of the others stay in the file of results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import norse_fast

from .._extras import require
from .._kernels.extension import BUILD, kernels_disabled
from .models import MODELS, import_norse
from .timing import Effort, compare
from .train import memory_meter

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["main"]

FAST, COPY, EAGER, COMPILED, NORSE, SPIKINGJELLY = (
    "norse_fast", "copy", "pure PyTorch", "compiled step", "Norse", "SpikingJelly",
)  # fmt: skip
HALF = f"{FAST} bfloat16"
#: Bytes that a neuron-step moves at least: input and output; in training also both again, as the gradients, and a state
#: of float32 now and then.
BYTES = {FAST: {"inference": 8.0, "training": 20.5}, HALF: {"inference": 4.0, "training": 10.5}}
LARGE = ((500, 16, 16384), (1000, 32, 8192))
SMALL = ((1000, 16, 1024), (1000, 4, 128))
RECURRENT = ((1000, 16, 512), (1000, 1, 128), (1000, 128, 1024), (200, 16, 4096))
LINEAR = ((512, 4096, 16384), 500)

Run = Callable[[torch.Tensor], torch.Tensor]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m norse_fast.benchmark.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="directory of the results")
    return parser.parse_args(argv)


def _query_gpu() -> dict[str, str]:
    fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,memory.total"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields.split(","), map(str.strip, found.split(","))))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"torch": torch.__version__, "cuda": torch.version.cuda, **BUILD}
    found["norse_fast"] = norse_fast.__version__
    for name in ("norse", "spikingjelly", "triton"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _input(*size: int, device: str) -> torch.Tensor:
    return 3 * torch.randn(size, device=device)


def _outputs(layer: Callable[..., Any]) -> Run:
    return lambda x: layer(x)[0]


def _infer(run: Run, x: torch.Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def call() -> None:
        run(x)

    return call


def _train(run: Run, x: torch.Tensor) -> Callable[[], None]:
    leaf = x.detach().requires_grad_()
    with torch.no_grad():
        g = torch.randn_like(run(x))

    def call() -> None:
        run(leaf).backward(g)
        leaf.grad = None

    return call


MODES = {"inference": _infer, "training": _train}


def _pure(run: Run) -> Run:
    def in_pytorch(x: torch.Tensor) -> torch.Tensor:
        with kernels_disabled():
            return run(x)

    return in_pytorch


def _stepwise(cell: Callable[..., Any]) -> Run:
    def run(inputs: torch.Tensor) -> torch.Tensor:
        outputs, state = [], None
        for x in inputs.unbind(0):
            output, state = cell(x, state)
            outputs.append(output)
        return torch.stack(outputs)

    return run


def _spikingjelly(device: str) -> dict[str, Run]:
    """Its layer, with the kernels that it chooses for the device."""
    try:
        from spikingjelly.activation_based import functional, neuron
    except ImportError:
        return {}
    node = neuron.LIFNode(step_mode="m", detach_reset=True).to(device)

    def run(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        spikes: torch.Tensor = node(x)
        return spikes

    return {SPIKINGJELLY: run}


def _rows(part: str, case: str, mode: str, functions: dict[str, Callable[[], Any]], effort: Effort, **more: Any) -> Any:
    for name, result in compare(functions, effort).items():
        yield {"part": part, "case": case, "mode": mode, "contender": name, **result, **more}


def _check(run: Run, other: Run, x: torch.Tensor) -> None:
    with torch.no_grad():
        if not torch.equal(run(x), other(x)):
            raise RuntimeError("outputs of norse_fast and of pure PyTorch differ")


def _share_of_bandwidth(rows: list[dict[str, Any]], mode: str) -> Iterator[dict[str, Any]]:
    copy = next(row for row in rows if row["contender"] == COPY)
    for row in rows:
        moved = BYTES.get(row["contender"])
        share = moved and moved[mode] / BYTES[FAST]["inference"] * copy["median"] / row["median"]
        yield {**row, "bandwidth_share": share}


def _layers(sizes: Any, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """LIF in float32 and bfloat16 at large sizes: the share of the bandwidth of a copy, and the peak of memory."""
    run = _outputs(MODELS["LIF"].build(norse_fast, "layer"))
    for size in sizes:
        x = _input(*size, device=device)
        target = torch.empty_like(x)
        _check(run, _pure(run), x[:, :1, :64].contiguous())
        for mode, prepare in MODES.items():
            functions: dict[str, Callable[[], Any]] = {
                FAST: prepare(run, x),
                HALF: prepare(run, x.bfloat16()),
                COPY: partial(target.copy_, x),
            }
            rows = list(_rows("layer", "x".join(map(str, size)), mode, functions, effort))
            for row in _share_of_bandwidth(rows, mode):
                yield {**row, "peak_bytes": _peak(functions[row["contender"]], device)}


def _peers(sizes: Any, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """The LIF layer beside SpikingJelly's, and beside a loop over steps: ours in PyTorch, eager and compiled, and Norse's."""
    model, norse = MODELS["LIF"], import_norse()
    cell = model.build(norse_fast, "cell")
    runs: dict[str, Run] = {FAST: _outputs(model.build(norse_fast, "layer")), **_spikingjelly(device)}
    if torch.device(device).type == "cuda":
        with kernels_disabled():
            runs[COMPILED] = _pure(_stepwise(torch.compile(cell)))
    runs[EAGER] = _pure(_stepwise(cell))
    if norse is not None:
        runs[NORSE] = _stepwise(model.build(norse, "cell").to(device))
    for size in sizes:
        x = _input(*size, device=device)
        for mode, prepare in MODES.items():
            functions = {}
            for name, run in runs.items():
                try:
                    functions[name] = prepare(run, x)
                    functions[name]()
                except Exception as error:  # a peer that does not run here takes no other with it
                    functions.pop(name, None)
                    print(f"{name}, {mode}, {size}: {type(error).__name__}: {error}", file=sys.stderr)
            yield from _rows("peers", "x".join(map(str, size)), mode, functions, effort)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _peak(run: Callable[[], Any], device: str) -> int | None:
    """Peak of the bytes that a run takes on a GPU, None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    peak = memory_meter(torch.device(device))
    run()
    return peak()


def _all_models(size: tuple[int, ...], device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """Every model at one size, over LIF."""
    for mode, prepare in MODES.items():
        functions = {}
        for name, model in MODELS.items():
            layer = model.build(norse_fast, "layer")
            x = _input(*size, device=device) + model.drive
            functions[name] = prepare(_outputs(layer), x)
        yield from _rows("models", "x".join(map(str, size)), mode, functions, effort)


def _steps(size: tuple[int, ...], device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """One step of a cell, in training with its backward pass."""
    x = _input(*size, device=device)
    cell = MODELS["LIF"].build(norse_fast, "cell")
    state = cell(x)[1]
    runs: dict[str, Run] = {FAST: _outputs(partial(_detached, cell, state))}
    runs[EAGER] = _pure(runs[FAST])
    if (norse := import_norse()) is not None:
        norses = MODELS["LIF"].build(norse, "cell").to(device)
        runs[NORSE] = _outputs(partial(_detached, norses, norses(x)[1]))
    for mode, prepare in MODES.items():
        functions = {name: prepare(run, x) for name, run in runs.items()}
        yield from _rows("cell", "x".join(map(str, size)), mode, functions, effort)


def _detached(cell: Callable[..., Any], state: Any, x: torch.Tensor) -> Any:
    return cell(x, type(state)(*(value.detach() for value in state)))


def _graphs(size: tuple[int, ...], device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """20 steps at once: the layer, and the loop over steps that torch.compile runs in CUDA graphs."""
    if torch.device(device).type != "cuda":
        return
    x = _input(20, *size, device=device)
    model = MODELS["LIF"]
    with kernels_disabled():
        compiled = torch.compile(_stepwise(model.build(norse_fast, "cell")), mode="reduce-overhead")
        functions = {FAST: _infer(_outputs(norse_fast.LIF(model.p)), x), COMPILED: _infer(_pure(compiled), x)}
        functions[COMPILED]()
    yield from _rows("graphs", "x".join(map(str, size)), "inference", functions, effort)


def _linear(sizes: tuple[Sequence[int], int], device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """The workload of the Open Neuromorphic benchmark: Linear(n, n) and LIF, B = 16, and the linear layer alone."""
    widths, steps = sizes
    for n in widths:
        x = torch.randn(steps, 16, n, device=device)
        linear, layer = torch.nn.Linear(n, n, bias=False).to(device), norse_fast.LIF()
        runs: dict[str, Run] = {
            FAST: _outputs(lambda x, linear=linear, layer=layer: layer(linear(x))),
            "linear layer alone": linear,
        }
        for mode, prepare in MODES.items():
            yield from _rows("linear", f"n={n}", mode, {k: prepare(r, x) for k, r in runs.items()}, effort)


def _recurrent(sizes: Any, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """Recurrent LIF layers, by both paths; seconds per step."""
    for steps, batch, neurons in sizes:
        layer = norse_fast.LIFRecurrent(neurons, neurons).to(device)
        with torch.no_grad():
            layer.input_weights.mul_(10)
        x = (torch.rand(steps, batch, neurons, device=device) < 0.05).float()
        run = _outputs(layer)
        case = f"{steps}x{batch}x{neurons}"
        rate = float(run(x).detach().mean())
        for mode, prepare in MODES.items():
            functions = {FAST: prepare(run, x), f"{FAST} stepwise": _with_path("stepwise", prepare(run, x))}
            for row in _rows("recurrent", case, mode, functions, effort, firing_rate=rate):
                yield {**row, "per_step": row["median"] / steps}


def _with_path(path: str, call: Callable[[], None]) -> Callable[[], None]:
    """Chooses the path of recurrent layers; the library reads the variable at each call."""

    def run() -> None:
        os.environ["NORSE_FAST_RECURRENT_PATH"] = path
        try:
            call()
        finally:
            del os.environ["NORSE_FAST_RECURRENT_PATH"]

    return run


#: What --parts names, in the order of its worth: what takes a device and an effort; sizes, and small ones to try it.
PARTS: dict[str, tuple[Any, Any, Any]] = {
    "layer": (_layers, LARGE, [(20, 2, 32)]),
    "cell": (_steps, (32, 512), (2, 32)),
    "recurrent": (_recurrent, RECURRENT[:1], [(10, 2, 32)]),
    "models": (_all_models, LARGE[0], (20, 2, 32)),
    "peers": (_peers, (LARGE[0], *SMALL), [(20, 2, 32)]),
    "linear": (_linear, LINEAR, ((16,), 10)),
    "sizes": (_recurrent, RECURRENT[1:], [(10, 2, 32)]),
    "graphs": (_graphs, (32, 512), (2, 32)),
}


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("part", "case", "mode", "contender", "ms", "of bandwidth", "µs per step", "peak MiB")
    for row in rows:
        share, step, peak = (row.get(key) for key in ("bandwidth_share", "per_step", "peak_bytes"))
        table.add_row(
            row["part"], row["case"], row["mode"], row["contender"], f"{1e3 * row['median']:.4g}",
            "" if share is None else f"{100 * share:.0f} %", "" if step is None else f"{1e6 * step:.3g}",
            "" if peak is None else f"{peak / 2**20:.0f}",
        )  # fmt: skip
    return table


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = list(dict.fromkeys(row["part"] for row in rows))
    figure, axes = plt.subplots(len(parts), 1, figsize=(10, 4 * len(parts)), squeeze=False, layout="constrained")
    for axis, part in zip(axes[:, 0], parts):
        chosen = [row for row in rows if row["part"] == part]
        labels = [f"{row['case']} {row['mode']}: {row['contender']}" for row in chosen]
        colors = ["#0072b2" if row["contender"].startswith(FAST) else "#999999" for row in chosen]
        axis.barh(labels, [1e3 * row["median"] for row in chosen], color=colors)
        axis.invert_yaxis()
        axis.set(title=part, xlabel="ms", xscale="log")
        axis.tick_params(labelsize=6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts, and write gpu.json and gpu.png."""
    arguments = _parse(argv)
    require("norse_fast.benchmark.gpu", "bench", "matplotlib", "rich")
    device, quick = arguments.device, arguments.quick
    torch.manual_seed(0)
    effort = Effort(1, rounds=2, seconds=0.002) if quick else Effort(1, rounds=5, seconds=0.1)
    facts = {"versions": _versions(), "gpu_before": _query_gpu()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "gpu.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": [], "failures": []}
    rows = [row for row in before["rows"] if row["part"] not in arguments.parts]
    failures: list[str] = []
    for name in arguments.parts:
        measure, sizes, small = PARTS[name]
        # Time on a GPU is scarce: what has been measured is kept, whatever becomes of the rest.
        try:
            for row in measure(small if quick else sizes, device, effort):
                rows.append({**row, "part": name})
        except Exception:
            failures.append(traceback.format_exc())
            print(failures[-1], file=sys.stderr)
        results = {**facts, "gpu_after": _query_gpu(), "effort": effort._asdict(), "failures": failures, "rows": rows}
        path.write_text(json.dumps(results, indent=1) + "\n")
    rows.sort(key=lambda row: list(PARTS).index(row["part"]))
    from rich.console import Console

    Console(width=120).print(_table([row for row in rows if row["part"] in arguments.parts]))
    if rows:
        _plot(rows, arguments.output / "gpu.png")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
