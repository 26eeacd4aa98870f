"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extras import require
from .machine import BUSY_LOAD, describe_machine
from .models import MODELS, WITH_DETAILS, import_norse
from .networks import FAST_DENSE, NETWORKS, PEER, run_network, run_network_memory
from .neurons import FAST, NORSE, QUADRATIC_STEPS, Case, run_case, run_memory, run_model
from .plot import plot
from .products import DENSITIES, PRODUCTS, SUMS, Product, run_product
from .recurrent import run_recurrent, run_recurrent_long, run_recurrent_memory
from .tables import (
    check_table,
    length_table,
    memory_table,
    model_table,
    network_memory_table,
    network_table,
    product_table,
    profile_table,
    recurrent_memory_table,
    recurrent_table,
    time_table,
    train_table,
)
from .timing import Effort, alone
from .train import Training, check_equal, run_training

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SIZES = [(1000, 32, 1024), (100, 32, 512), (1, 10), (32, 512)]
LENGTHS = [(100, 32, 512), (200, 32, 512), (1000, 32, 512), (4000, 32, 512)]
MEMORY = (1000, 32, 512)
MODEL_SIZES = ((1000, 32, 1024), (100, 32, 512))
RECURRENT_MODELS = ("LIF", "LSNN")
RECURRENT_RATES = [0.02, 0.08, 0.5]
RECURRENT_RATE = 0.08
# T, B, inputs, N: mostly as many inputs as neurons, as where one layer follows another.
RECURRENT_SIZE, RECURRENT_LONG = (100, 32, 512, 512), [(1000, 32, 512, 512), (1000, 32, 128, 512)]
RECURRENT_SIZES = (
    *((100, 32, neurons, neurons) for neurons in (64, 256, 1024, 2048)),
    *((100, batch, 512, 512) for batch in (1, 8, 128)),
    (100, 32, 128, 512),
)
RECALL_SEEDS = (0, 1, 2)
PARTS = ("train", "recall", "neurons", "models", "recurrent", "networks", "products")

# Title, part and mode of the tables of times.
TABLES = [
    ("Layers, inference", "layer", "inference"),
    ("Layers, training: forward and backward", "layer", "training"),
    ("Cells, one step without gradient", "cell", "step"),
    ("Cells, one step forward and backward", "cell", "step + backward"),
    ("Cells, per step of 100 steps forward and one backward", "cell", "step of 100 + backward"),
]

RECURRENT_TABLES = [
    ("Recurrent layers by rate", "rates"),
    ("Recurrent layers over many steps", "long"),
    ("Recurrent layers by size", "sizes"),
]

NO_NORSE = (
    "Norse is not installed, so there is no comparison with it: pip install --no-deps norse==1.1.0 nir nirtorch h5py"
)


def _size(text: str) -> tuple[int, ...]:
    size = tuple(int(part) for part in text.split("x"))
    if len(size) not in (2, 3) or min(size) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected TxBxN for a layer or BxN for a cell")
    return size


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m norse_fast.benchmark",
        description="Compares norse_fast with Norse as shipped, with Norse's cell called step by step, with "
        "norse_fast's own pure-PyTorch path and with x.clone(), which is the cost of reading and writing once. Outputs "
        "are checked to be equal before anything is timed. Prints tables, writes benchmark.json and benchmark.png.",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="train: a classifier of handwritten digits; recall: a recurrent network that remembers; neurons: single "
        f"layers and cells of {' and '.join(WITH_DETAILS)}; models: the layers of all models; recurrent: recurrent layers; "
        "networks: whole networks layer by layer; products: products of spikes; both on the CPU in float32 (default: all); "
        "parts that are left out stay in the results as an earlier run left them, with what that ran on",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=_size,
        metavar="SIZE",
        help="sizes of part neurons, TxBxN for a layer and BxN for a cell (default: "
        + " ".join("x".join(map(str, size)) for size in SIZES)
        + ")",
    )
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="for example cpu cuda (default: cpu)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "float64", "float16", "bfloat16"),
        default=["float32"],
        help="data types of parts neurons, models and recurrent; Norse takes part in float32 and float64 (default: float32)",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU (default: 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="directory of the results (default: benchmarks/results)",
    )
    return parser.parse_args(argv)


def _progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _measure_with(arguments: argparse.Namespace) -> Callable[..., Any]:
    """How a case is measured: in a process of its own, but where only whether it runs is of interest."""
    return _call if arguments.quick else alone


def _train(arguments: argparse.Namespace, training: Training, console: Console) -> dict[str, Any]:
    training = training._replace(threads=arguments.threads)
    if arguments.quick:
        training = training._replace(hidden=16, steps=20, epochs=1, samples=128)
    batches = training.epochs * -(-training.samples // training.batch)
    sides = (NORSE, FAST) if import_norse() else (FAST,)
    with _progress(console) as progress:
        tasks = {
            side: progress.add_task(f"{training.task} {side} ({training.device})", total=batches) for side in sides
        }
        results = run_training(sides, training, lambda side: progress.advance(tasks[side]))
    check = check_equal(results) if len(results) == 2 else {}
    for result in results.values():
        result["epoch_seconds"] = statistics.median(result["seconds"])
        for compared in ("hidden_spikes", "logits"):
            result.pop(compared, None)
    return {"settings": training._asdict(), "check": check, "sides": results}


def _neurons(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    measure = _measure_with(arguments)
    effort = Effort(arguments.threads, rounds=5, seconds=0.1)
    sizes, lengths, memory_size = arguments.sizes or SIZES, LENGTHS, MEMORY
    if arguments.quick:
        effort = Effort(arguments.threads, rounds=2, seconds=0.002)
        sizes, lengths, memory_size = arguments.sizes or [(20, 4, 32), (1, 10)], [(20, 4, 32), (40, 4, 32)], (40, 4, 32)
    parts = [("layer" if len(size) == 3 else "cell", size) for size in sizes] + [("length", size) for size in lengths]
    variants = [(dtype, device) for device in arguments.devices for dtype in arguments.dtypes]
    cases = [
        Case(part, model, size, dtype, device)
        for dtype, device in variants
        for part, size in parts
        for model in WITH_DETAILS
    ]
    checks, times, memory = [], [], []
    torch.manual_seed(0)
    with _progress(console) as progress:
        task = progress.add_task("neurons", total=len(cases) + len(variants) * len(WITH_DETAILS))
        for case in cases:
            progress.update(task, description=str(case))
            case_checks, case_times = measure(run_case, case, effort)
            checks += case_checks
            times += case_times
            progress.advance(task)
        for dtype, device in variants:
            for model in WITH_DETAILS:
                memory += run_memory(Case("memory", model, memory_size, dtype, device))
                progress.advance(task)
    return {"effort": effort._asdict(), "checks": checks, "times": times, "memory": memory}


def _models(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    measure = _measure_with(arguments)
    effort, sizes = Effort(arguments.threads, rounds=5, seconds=0.1), MODEL_SIZES
    if arguments.quick:
        effort, sizes = Effort(arguments.threads, rounds=2, seconds=0.002), ((20, 4, 32), (10, 4, 32))
    variants = [
        (model, dtype, device) for device in arguments.devices for dtype in arguments.dtypes for model in MODELS
    ]
    checks, times = [], []
    torch.manual_seed(0)
    with _progress(console) as progress:
        task = progress.add_task("models", total=len(variants))
        for model, dtype, device in variants:
            long, short = (Case("model", model, size, dtype, device) for size in sizes)
            progress.update(task, description=str(long))
            model_checks, model_times = measure(run_model, long, short, effort)
            checks += model_checks
            times += model_times
            progress.advance(task)
    return {"effort": effort._asdict(), "checks": checks, "times": times}


def _networks(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    measure = _measure_with(arguments)
    # Turns of several training steps each, as in training, where a step finds the memory of the one before.
    effort = Effort(arguments.threads, rounds=5, seconds=0.5)
    if arguments.quick:
        effort = Effort(arguments.threads, rounds=2, seconds=0.002)
    checks, times, profiles, memory = [], [], [], []
    with _progress(console) as progress:
        task = progress.add_task("networks", total=len(NETWORKS))
        for name in NETWORKS:
            progress.update(task, description=name)
            check, network_times, network_profiles = measure(run_network, name, effort, arguments.quick)
            checks.append(check)
            times += network_times
            profiles += network_profiles
            memory += run_network_memory(name, arguments.threads, arguments.quick, measure)
            progress.advance(task)
    return {"effort": effort._asdict(), "checks": checks, "times": times, "profiles": profiles, "memory": memory}


def _products(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    measure = _measure_with(arguments)
    effort, products = Effort(arguments.threads, rounds=5, seconds=0.03), PRODUCTS
    densities: Sequence[float] = DENSITIES
    if arguments.quick:
        effort, densities = Effort(arguments.threads, rounds=2, seconds=0.002), DENSITIES[2:4]
        products = (Product((40, 70), (9, 70)), Product((3, 2, 6, 6), (4, 2, 3, 3)))
    times = []
    with _progress(console) as progress:
        task = progress.add_task("products", total=len(products) * len(densities))
        for product in products:
            for density in densities:
                progress.update(task, description=str(product))
                times += measure(run_product, product, density, effort)
                progress.advance(task)
    return {"effort": effort._asdict(), "times": times}


def _recurrent(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    measure = _measure_with(arguments)
    effort, models, rates = Effort(arguments.threads, rounds=5, seconds=0.1), RECURRENT_MODELS, RECURRENT_RATES
    size, long, sizes = RECURRENT_SIZE, RECURRENT_LONG, RECURRENT_SIZES
    if arguments.quick:
        effort, rates = Effort(arguments.threads, rounds=2, seconds=0.002), RECURRENT_RATES[1:]
        size, long, sizes = (10, 4, 16, 32), [(40, 4, 16, 32)], ((10, 1, 16, 32),)
    variants = [(dtype, device) for device in arguments.devices for dtype in arguments.dtypes]
    few = effort._replace(rounds=2)
    results: dict[str, Any] = {"effort": effort._asdict(), "checks": [], "times": [], "memory": []}
    torch.manual_seed(0)
    with _progress(console) as progress:
        rows = len(models) * (len(rates) + len(long) + 1) + len(sizes)
        task = progress.add_task("recurrent", total=len(variants) * rows)

        def add(measured: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
            results["checks"] += measured[0]
            results["times"] += measured[1]
            progress.advance(task)

        for dtype, device in variants:

            def case(part: str, model: str, size: tuple[int, ...], variant: tuple[str, str] = (dtype, device)) -> Case:
                case = Case(part, model, size, *variant)
                progress.update(task, description=f"recurrent {case}")
                return case

            for model in models:
                for rate in rates:
                    add(measure(run_recurrent, case("rates", model, size), rate, effort))
                for long_size in long:
                    add(measure(run_recurrent_long, case("long", model, long_size), RECURRENT_RATE, few))
                for memory_size in (size, *long):
                    case_ = case("memory", model, memory_size)
                    results["memory"] += run_recurrent_memory(case_, RECURRENT_RATE, arguments.threads, measure)
                progress.advance(task)
            for other in sizes:
                add(measure(run_recurrent, case("sizes", models[0], other), RECURRENT_RATE, few))
    return results


def keep_other_parts(results: dict[str, Any], path: Path) -> None:
    """Add to results the parts that an earlier run left in a file, and under ``machines`` what each of them ran on."""
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    machines = earlier.get("machines", {})
    for part in PARTS:
        if part in earlier and part not in results:
            results[part] = earlier[part]
            results.setdefault("machines", {})[part] = machines.get(part, earlier["machine"])


def main(argv: Sequence[str]) -> None:
    """Run the benchmarks.

    Args:
        argv: arguments of the command line.
    """
    arguments = _parse(argv)
    require("norse_fast.benchmark", "bench", "matplotlib", "rich", "sklearn")
    from rich.console import Console

    console = Console(width=112)
    command = shlex.join(["python", "-m", "norse_fast.benchmark", *argv])
    results: dict[str, Any] = {"machine": describe_machine(command, arguments.devices, arguments.output)}
    console.print({key: value for key, value in results["machine"].items() if value})
    if results["machine"]["load"] > BUSY_LOAD:
        console.print("Other programs are running: threads that wait for each other stall, times are unreliable.")
    if import_norse() is None:
        console.print(NO_NORSE)
    if "train" in arguments.parts:
        trainings = [Training(device=device) for device in arguments.devices]
        results["train"] = [_train(arguments, training, console) for training in trainings]
        for train in results["train"]:
            console.print(train_table("Handwritten digits", [train]))
            settings, check = train["settings"], train["check"]
            console.print(
                f"Linear({settings['hidden']}) - LIF - Linear(10) - LI, {settings['steps']} steps, "
                f"{settings['epochs']} epochs on {settings['device']}."
            )
            if check:
                console.print(
                    f"Before training: all hidden spikes equal, logits differ by at most {check['logit_difference']:.1e}."
                )
    if "recall" in arguments.parts:
        results["recall"] = []
        recall = Training(task="recall", hidden=64, steps=200, epochs=5, samples=1024)
        for device in arguments.devices:
            trainings = [recall._replace(device=device, seed=seed) for seed in RECALL_SEEDS]
            runs = [_train(arguments, training, console) for training in trainings[: 1 if arguments.quick else None]]
            results["recall"] += runs
            settings = runs[0]["settings"]
            console.print(train_table("Recall of a cue after a delay", runs))
            console.print(
                f"LSNNRecurrent({settings['hidden']}) - Linear(4) - LI, {settings['steps']} steps, {settings['epochs']} "
                f"epochs on {device}, one run per seed. Before training, all hidden spikes are equal."
            )
    if "neurons" in arguments.parts:
        results["neurons"] = neurons = _neurons(arguments, console)
        console.print(check_table(neurons["checks"]))
        for title, part, mode in TABLES:
            if rows := [row for row in neurons["times"] if row["part"] == part and row["mode"] == mode]:
                console.print(time_table(title, rows))
        console.print(length_table([row for row in neurons["times"] if row["part"] == "length"]))
        console.print(memory_table(neurons["memory"]))
        console.print(
            f"-: Norse's layer is not trained on {QUADRATIC_STEPS} steps or more, since the time of its backward grows "
            "with the square of their number. Norse cell: the same called step by step, which avoids that."
        )
    if "models" in arguments.parts:
        results["models"] = models = _models(arguments, console)
        for variant in dict.fromkeys((row["dtype"], row["device"]) for row in models["times"]):
            console.print(model_table([row for row in models["times"] if (row["dtype"], row["device"]) == variant]))
        equal = sum(check["equal"] for check in models["checks"])
        console.print(
            f"Checked before timing against pure PyTorch and Norse's cell: outputs are bit-equal in {equal} of "
            f"{len(models['checks'])} comparisons, as they must be without exp, and gradients equal to rounding. Training "
            "includes the gradient of the input. no such cell: Norse's has weights."
        )
    if "networks" in arguments.parts:
        results["networks"] = networks = _networks(arguments, console)
        for check in networks["checks"]:
            rates = " and ".join(f"{rate:.3f}" for rate in check["spike_rates"])
            console.print(
                f"{check['network']} at {'x'.join(map(str, check['size']))}, spikes per step and neuron {rates}. Before "
                f"timing, outputs differ from those of {' and '.join(check['against'])} by at most "
                f"{check['float64_difference']:.0e} of the largest in float64 and {check['float32_difference']:.0e} in "
                f"float32, gradients by {check['gradient_difference']:.0e} in float64."
            )
        contenders = (NORSE, FAST_DENSE, FAST, PEER)
        console.print(network_table(networks["times"], contenders, FAST, FAST_DENSE))
        console.print(network_memory_table(networks["memory"]))
        console.print(profile_table(networks["profiles"]))
        console.print("What Norse's neurons take is part of its rest: they are many small operations.")
    if "products" in arguments.parts:
        results["products"] = products = _products(arguments, console)
        console.print(product_table(products["times"], SUMS))
    if "recurrent" in arguments.parts:
        results["recurrent"] = recurrent = _recurrent(arguments, console)
        for title, part in RECURRENT_TABLES:
            console.print(recurrent_table(title, [row for row in recurrent["times"] if row["part"] == part]))
        console.print(recurrent_memory_table(recurrent["memory"]))
        console.print(
            "Sizes are T x B x inputs x neurons. stepped: norse_fast's cell, step by step, with dense products. "
            "Spikes of all but nn.RNN were checked to be equal, bit for bit, before timing. "
            "Training includes the gradients of input and weights; on many steps Norse makes one run."
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "benchmark.json"
    keep_other_parts(results, path)
    path.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, arguments.output / "benchmark.png")
    console.print(f"Results are in {arguments.output}.")


if __name__ == "__main__":
    main(sys.argv[1:])
