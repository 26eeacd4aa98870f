"""``python -m norse_fast.benchmark.gpu``: the CUDA kernels against the bandwidth of the memory, and against others.

Everything is compared with a device-to-device copy, or another contender, of the same run.
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

from .._extension import BUILD, kernels_disabled
from .._extras import require
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
LINEAR = (512, 4096, 16384)

Run = Callable[[torch.Tensor], torch.Tensor]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m norse_fast.benchmark.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast")
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
    """Its layer, with each of the backends that it has for the device."""
    try:
        from spikingjelly.activation_based import functional, neuron
    except ImportError:
        return {}

    def make(backend: str) -> Run:
        node = neuron.LIFNode(step_mode="m", detach_reset=True, backend=backend).to(device)

        def run(x: torch.Tensor) -> torch.Tensor:
            functional.reset_net(node)
            spikes: torch.Tensor = node(x)
            return spikes

        return run

    backends = ["torch"]
    if torch.device(device).type == "cuda":
        backends = [name for name in neuron.LIFNode(step_mode="m").supported_backends if name != "torch"]
    return {f"{SPIKINGJELLY} {backend}": make(backend) for backend in backends}


def _rows(part: str, case: str, mode: str, functions: dict[str, Callable[[], Any]], effort: Effort, **more: Any) -> Any:
    for name, result in compare(functions, effort).items():
        yield {"part": part, "case": case, "mode": mode, "contender": name, **result, **more}


def _check(run: Run, other: Run, x: torch.Tensor) -> None:
    with torch.no_grad():
        if not torch.equal(run(x), other(x)):
            raise RuntimeError("outputs of norse_fast and of pure PyTorch differ")


def _sequences(sizes: Any, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """LIF at large and small sizes: the share of the bandwidth of a copy, the peers, and the peak of memory."""
    model, norse = MODELS["LIF"], import_norse()
    layer = model.build(norse_fast, "layer")
    for size in sizes:
        x = _input(*size, device=device)
        target = torch.empty_like(x)
        contenders: dict[str, Run] = {FAST: _outputs(layer)}
        _check(contenders[FAST], _pure(contenders[FAST]), x[:, :1, :64].contiguous())
        contenders.update(_spikingjelly(device))
        if norse is not None:
            contenders[NORSE] = _stepwise(model.build(norse, "cell").to(device))
        for mode, prepare in (("inference", _infer), ("training", _train)):
            functions: dict[str, Callable[[], Any]] = {name: prepare(run, x) for name, run in contenders.items()}
            functions[HALF] = prepare(contenders[FAST], x.bfloat16())
            functions[COPY] = partial(target.copy_, x)
            rows = list(_rows("sequence", "x".join(map(str, size)), mode, functions, effort))
            copy = next(row for row in rows if row["contender"] == COPY)
            for row in rows:
                moved = BYTES.get(row["contender"])
                share = moved and moved[mode] / BYTES[FAST]["inference"] * copy["median"] / row["median"]
                yield {
                    **row,
                    "bandwidth_share": share,
                    "peak_bytes": _peak(functions[row["contender"]], device),
                }
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
    for mode, prepare in (("inference", _infer), ("training", _train)):
        functions = {}
        for name, model in MODELS.items():
            layer = model.build(norse_fast, "layer")
            x = _input(*size, device=device) + model.drive
            functions[name] = prepare(_outputs(layer), x)
        yield from _rows("model", "x".join(map(str, size)), mode, functions, effort)


def _steps(size: tuple[int, ...], device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """One step of a cell, and the loop over steps that torch.compile runs in CUDA graphs."""
    model = MODELS["LIF"]
    x = _input(20, *size, device=device)
    cell = model.build(norse_fast, "cell")
    cells: dict[str, Callable[..., Any]] = {FAST: cell}
    if (norse := import_norse()) is not None:
        cells[NORSE] = model.build(norse, "cell").to(device)
    runs: dict[str, Run] = {name: _stepwise(one) for name, one in cells.items()}
    runs[EAGER] = _pure(_stepwise(cell))
    for mode, prepare in (("inference", _infer), ("training", _train)):
        yield from _rows(
            "20 steps", "x".join(map(str, size)), mode, {k: prepare(r, x) for k, r in runs.items()}, effort
        )
    if torch.device(device).type == "cuda":
        with kernels_disabled():
            compiled = torch.compile(_stepwise(cell), mode="reduce-overhead")
            functions = {FAST: _infer(_outputs(norse_fast.LIF(model.p)), x), COMPILED: _infer(_pure(compiled), x)}
            functions[COMPILED]()
        yield from _rows("20 steps at once", "x".join(map(str, size)), "inference", functions, effort)


def _linear(widths: Sequence[int], steps: int, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """The workload of the Open Neuromorphic benchmark: Linear(n, n) and LIF, B = 16, and the linear layer alone."""
    for n in widths:
        x = torch.randn(steps, 16, n, device=device)
        linear, layer = torch.nn.Linear(n, n, bias=False).to(device), norse_fast.LIF()
        runs: dict[str, Run] = {
            FAST: _outputs(lambda x, linear=linear, layer=layer: layer(linear(x))),
            "linear layer alone": linear,
        }
        for mode, prepare in (("inference", _infer), ("training", _train)):
            yield from _rows("Linear + LIF", f"n={n}", mode, {k: prepare(r, x) for k, r in runs.items()}, effort)


def _recurrent(sizes: Any, device: str, effort: Effort) -> Iterator[dict[str, Any]]:
    """Recurrent LIF layers, by both paths; seconds per step."""
    for steps, batch, neurons in sizes:
        layer = norse_fast.LIFRecurrent(neurons, neurons).to(device)
        with torch.no_grad():
            layer.input_weights.mul_(10)
        x = (torch.rand(steps, batch, neurons, device=device) < 0.05).float()
        run = _outputs(layer)
        rate = float(run(x).detach().mean())
        for path in ("", "stepwise"):
            _force_path(path)
            for mode, prepare in (("inference", _infer), ("training", _train)):
                name = f"{FAST} {path}".strip()
                case = f"{steps}x{batch}x{neurons}"
                for row in _rows("recurrent", case, mode, {name: prepare(run, x)}, effort, firing_rate=rate):
                    yield {**row, "per_step": row["median"] / steps}
        _force_path("")
        short = x[: min(steps, 50)]
        functions = {EAGER: _infer(_pure(run), short)}
        for row in _rows("recurrent", f"{len(short)}x{batch}x{neurons}", "inference", functions, effort):
            yield {**row, "per_step": row["median"] / len(short)}


def _force_path(path: str) -> None:
    """Chooses the path of recurrent layers; the library reads the variable at each call."""
    if path:
        os.environ["NORSE_FAST_RECURRENT_PATH"] = path
    else:
        os.environ.pop("NORSE_FAST_RECURRENT_PATH", None)


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
    """Run all parts, and write gpu.json and gpu.png."""
    arguments = _parse(argv)
    require("norse_fast.benchmark.gpu", "bench", "matplotlib", "rich")
    device, quick = arguments.device, arguments.quick
    torch.manual_seed(0)
    effort = Effort(1, rounds=2, seconds=0.002) if quick else Effort(1, rounds=5, seconds=0.1)
    facts = {"versions": _versions(), "gpu_before": _query_gpu()}
    parts = [
        _sequences([(20, 2, 32)] if quick else [*LARGE, *SMALL], device, effort),
        _all_models((20, 2, 32) if quick else (500, 4, 16384), device, effort),
        _steps((2, 32) if quick else (32, 512), device, effort),
        _linear((16,) if quick else LINEAR, 10 if quick else 500, device, effort),
        _recurrent([(10, 2, 32)] if quick else RECURRENT, device, effort),
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for part in parts:
        # Time on a GPU is scarce: what has been measured is kept, whatever becomes of the rest.
        try:
            rows.extend(part)
        except Exception:
            failures.append(traceback.format_exc())
            print(failures[-1], file=sys.stderr)
        results = {**facts, "gpu_after": _query_gpu(), "effort": effort._asdict(), "failures": failures, "rows": rows}
        (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    from rich.console import Console

    Console(width=120).print(_table(rows))
    _plot(rows, arguments.output / "gpu.png")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
