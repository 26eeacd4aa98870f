"""Whole networks: a training step layer by layer, against Norse step by step, and where the time goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import norse_fast

from ..functional.lif import LIFParameters
from ..module.lift import Lift
from .models import UNIT_ALPHA, import_norse
from .neurons import FAST, NORSE, Run, over_time
from .timing import Effort, compare

__all__ = ["FAST_STEPPED", "NETWORKS", "run_network"]

FAST_STEPPED = "norse_fast, stepped"
CLASSES = 10
INPUT_RATE = 0.1  # spikes per step of an input
# Matrix products over more samples may add in another order. In float64 that must not change a spike.
TOLERANCE = 1e-9

Cell = Callable[[], nn.Module]


class Network(NamedTuple):
    """A network of LIF neurons with leaky integrators as readout.

    Args:
        layers: its modules, from constructors of the two cells.
        sample: size of the input of one sample at one step.
        steps: time steps T.
        batch: samples B.
        weight_scale: factor on the default weights, so that about a tenth of the neurons spike in a step.
    """

    layers: Callable[[Cell, Cell], list[nn.Module]]
    sample: tuple[int, ...]
    steps: int
    batch: int
    weight_scale: float

    def build(self, library: ModuleType) -> nn.Module:
        """The network of a library, with the same weights for all of them."""
        torch.manual_seed(0)
        lif = (lambda: library.LIFCell(LIFParameters(alpha=UNIT_ALPHA))) if library is norse_fast else library.LIFCell
        model: nn.Module = library.SequentialState(*self.layers(lif, library.LICell))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("weight"):
                    weight.mul_(self.weight_scale)
        return model


def _fully_connected(lif: Cell, li: Cell) -> list[nn.Module]:
    return [nn.Linear(784, 1000), lif(), nn.Linear(1000, 1000), lif(), nn.Linear(1000, CLASSES), li()]


def _convolutional(lif: Cell, li: Cell) -> list[nn.Module]:
    first = [nn.Conv2d(1, 20, 5), lif(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(20, 50, 5), lif(), nn.MaxPool2d(2)]
    return [*first, *second, nn.Flatten(), nn.Linear(800, CLASSES), li()]


NETWORKS = {
    "784-1000-1000-10": Network(_fully_connected, (784,), 100, 32, 8.0),
    "conv 20-50": Network(_convolutional, (1, 28, 28), 100, 16, 8.0),
}

#: What takes time, by the names of the profiler; the first that fits.
KINDS = {
    "neurons": re.compile(r"norse_fast::|^Fused$|FusedBackward"),
    "convolutions": re.compile("(?i)conv"),
    "matrix products": re.compile("(?i)(^aten::|[: ]|^)(add)?mm($|Backward)"),
    "pooling": re.compile("(?i)pool"),
    "rest": re.compile(""),
}


def _training_step(run: Run, model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Forward and backward; the loss takes the largest membrane potentials of the readout."""
    labels = torch.arange(x.shape[1], device=x.device) % CLASSES

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        v = run(x)
        nn.functional.cross_entropy(v.amax(0), labels).backward()
        return v.detach()

    return step


def _steps(models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The training steps of all contenders."""
    lifted = Lift(models[FAST])
    runs: dict[str, Run] = {name: over_time(model) for name, model in models.items()}
    runs[FAST] = lambda x: lifted(x)[0]
    return {name: _training_step(run, models[name], x) for name, run in runs.items()}


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def _check(name: str, models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, Any]:
    """Compare outputs and gradients in float64, and say how far outputs are from each other in float32."""
    row: dict[str, Any] = {"network": name, "against": [other for other in models if other != FAST]}
    for dtype in (torch.float64, torch.float32):
        outputs = {
            key: step() for key, step in _steps({k: m.to(dtype) for k, m in models.items()}, x.to(dtype)).items()
        }
        worst = max(_difference(outputs[FAST], outputs[other]) for other in row["against"])
        row[f"{str(dtype).split('.')[1]}_difference"] = worst
        if dtype == torch.float32:
            continue
        gradients = {
            key: torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            for key, model in models.items()
        }
        row["gradient_difference"] = max(_difference(gradients[FAST], gradients[other]) for other in row["against"])
        if not max(worst, row["gradient_difference"]) < TOLERANCE:
            raise RuntimeError(f"networks {name}: norse_fast and {row['against']} differ in float64: {row}.")
    return row


def _spike_rates(model: nn.Module, x: torch.Tensor) -> list[float]:
    """Spikes per step and neuron, of each layer of LIF neurons."""
    rates: list[float] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, norse_fast.LIFCell):
            rates.append(float(output[0].mean()))

    assert isinstance(model, norse_fast.SequentialState)
    model.register_forward_state_hooks(record)
    with torch.no_grad():
        over_time(model)(x)
    model.remove_forward_state_hooks()
    layers = len(rates) // x.shape[0]
    return [sum(rates[layer::layers]) / x.shape[0] for layer in range(layers)]


def _profile(step: Callable[[], Any], threads: int, repetitions: int) -> dict[str, float]:
    """Seconds per training step that each kind of operation takes."""
    torch.set_num_threads(threads)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repetitions):
            step()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        kind = next(kind for kind, pattern in KINDS.items() if pattern.search(event.key))
        seconds[kind] += event.self_cpu_time_total / 1e6 / repetitions
    return seconds


def run_network(
    name: str, effort: Effort, quick: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Check that a network computes the same in all ways, time its training and profile it, on the CPU in float32.

    Args:
        name: a name of ``NETWORKS``.
        effort: how long to measure.
        quick: with a few steps and samples only.

    Returns:
        The row of the check, rows of times and rows of the profile.

    Raises:
        RuntimeError: a contender computes something else.
    """
    network = NETWORKS[name]
    if quick:
        network = network._replace(steps=3, batch=2)
    libraries = {FAST: norse_fast, FAST_STEPPED: norse_fast, NORSE: import_norse()}
    models = {key: network.build(library) for key, library in libraries.items() if library is not None}
    size = (network.steps, network.batch, *network.sample)
    x = (torch.rand(size, generator=torch.Generator().manual_seed(1)) < INPUT_RATE).float()
    check = {**_check(name, models, x), "size": size, "spike_rates": _spike_rates(models[FAST], x)}
    steps = _steps(models, x)
    times = [{"network": name, "contender": key, **result} for key, result in compare(steps, effort).items()]
    profiles = [
        {"network": name, "contender": key, "seconds": _profile(step, effort.threads, effort.rounds)}
        for key, step in steps.items()
    ]
    return check, times, profiles
