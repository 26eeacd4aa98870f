"""Whole networks layer by layer, with sums over spikes and without, against others step by step; and where the time goes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import norse_fast

from ..functional.lif import LIFParameters
from ..functional.spike_products import dense_products
from ..module.lift import Lift
from .models import UNIT_ALPHA, import_norse
from .neurons import FAST, NORSE, Run, count_saved_bytes, over_time
from .timing import Effort, alone, compare, malloc_trim
from .train import memory_meter

__all__ = ["FAST_DENSE", "FAST_STEPPED", "NETWORKS", "PEER", "run_network", "run_network_memory"]

#: Lifted, with PyTorch's products; and in a loop.
FAST_DENSE, FAST_STEPPED = "norse_fast, dense", "norse_fast, stepped"
#: The package besides Norse whose neurons are nearest to these: a current, and a potential that a spike sets to 0.
PEER = "snnTorch"
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
        return self.scale(library.SequentialState(*self.layers(lif, library.LICell)))

    def scale(self, model: nn.Module) -> nn.Module:
        """Scale the weights of a model."""
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


class _PeerCell(nn.Module):
    """A neuron of the peer with Norse's interface, and, with its defaults, Norse's time constants."""

    def __init__(self, spikes: bool) -> None:
        super().__init__()
        package = importlib.import_module("snntorch")
        # It adds the input to the potential as a whole, where Norse adds a tenth.
        options = {} if spikes else {"reset_mechanism": "none"}
        self.neuron = package.Synaptic(alpha=0.8, beta=0.9, threshold=1.0, **{"reset_mechanism": "zero", **options})
        self.spikes = spikes

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        current, potential = self.neuron.reset_mem() if state is None else state
        z, current, potential = self.neuron(0.1 * x, current, potential)
        return (z if self.spikes else potential), (current, potential)


def _build_peer(network: Network) -> nn.Module | None:
    """The network of the peer, or None where it is not installed."""
    try:
        importlib.import_module("snntorch")
    except ImportError:
        return None
    torch.manual_seed(0)
    layers = network.layers(lambda: _PeerCell(spikes=True), lambda: _PeerCell(spikes=False))
    return network.scale(_Stepped(layers))


class _Stepped(nn.ModuleList):
    """Layers one after the other, with the states of the peer's cells."""

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        states = [None] * len(self) if state is None else state
        for index, layer in enumerate(self):
            if isinstance(layer, _PeerCell):
                x, states[index] = layer(x, states[index])
            else:
                x = layer(x)
        return x, states


#: What takes time, by the names of the profiler; the first that fits.
KINDS = {
    "sums over spikes": re.compile(r"norse_fast::(spike_|conv2d_)|^_(Spike|Link)"),
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


def _lifted(model: nn.Module, how: Callable[[], AbstractContextManager[None]]) -> Run:
    lifted = Lift(model)

    def run(x: torch.Tensor) -> torch.Tensor:
        with how():
            return cast(torch.Tensor, lifted(x)[0])

    return run


def _runs(models: dict[str, nn.Module]) -> dict[str, Run]:
    """How each contender makes outputs from inputs."""
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {FAST: nullcontext, FAST_DENSE: dense_products}
    return {name: _lifted(model, ways[name]) if name in ways else over_time(model) for name, model in models.items()}


def _steps(models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The training steps of all contenders."""
    return {name: _training_step(run, models[name], x) for name, run in _runs(models).items()}


def _inferences(models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    return {name: torch.no_grad()(partial(run, x)) for name, run in _runs(models).items()}


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


def _input(network: Network) -> torch.Tensor:
    size = (network.steps, network.batch, *network.sample)
    return (torch.rand(size, generator=torch.Generator().manual_seed(1)) < INPUT_RATE).float()


def _network(name: str, quick: bool) -> Network:
    return NETWORKS[name]._replace(steps=3, batch=2) if quick else NETWORKS[name]


def run_network(
    name: str, effort: Effort, quick: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Check that a network computes the same in all ways, time it and profile its training, on the CPU in float32.

    Args:
        name: a name of ``NETWORKS``.
        effort: how long to measure.
        quick: with a few steps and samples only.

    Returns:
        The row of the check, rows of times and rows of the profile. The peer, which computes nearly the same, is timed alone.

    Raises:
        RuntimeError: a contender computes something else.
    """
    network = _network(name, quick)
    norse = import_norse()
    models = {key: network.build(norse_fast) for key in (FAST, FAST_DENSE, FAST_STEPPED)}
    if norse is not None:
        models[NORSE] = network.build(norse)
    x = _input(network)
    check = {**_check(name, models, x), "size": tuple(x.shape), "spike_rates": _spike_rates(models[FAST], x)}
    profiled = _steps(models, x)
    if (peer := _build_peer(network)) is not None:
        models[PEER] = peer
    times = [
        {"network": name, "mode": mode, "contender": key, **result}
        for mode, calls in (("inference", _inferences(models, x)), ("training", _steps(models, x)))
        for key, result in compare(calls, effort).items()
    ]
    profiles = [
        {"network": name, "contender": key, "seconds": _profile(step, effort.threads, effort.rounds)}
        for key, step in profiled.items()
    ]
    return check, times, profiles


def _measure_peak(name: str, contender: str, threads: int, quick: bool) -> int | None:
    """Peak of the bytes that a training step takes.

    Code that runs for the first time and threads that start do not count, so a small step runs before.
    """
    torch.set_num_threads(threads)
    network = _network(name, quick)
    step, start = (
        _steps({contender: each.build(norse_fast)}, _input(each))[contender]
        for each in (network, network._replace(steps=2))
    )
    start()
    malloc_trim(0)
    peak = memory_meter(torch.device("cpu"))
    step()
    return peak()


def run_network_memory(
    name: str, threads: int, quick: bool = False, measure: Callable[..., Any] = alone
) -> list[dict[str, Any]]:
    """Bytes that training takes with sums over spikes and without.

    Counted are those that autograd keeps from the forward to the backward pass, without input, output and weights, and
    measured, in a process of its own, the peak during both.

    Args:
        name: a name of ``NETWORKS``.
        threads: threads of PyTorch on the CPU.
        quick: with a few steps and samples only.
        measure: calls a function with arguments, in a process of its own unless the figure is of no interest.
    """
    network = _network(name, quick)
    model, rows = network.build(norse_fast), []
    for contender in (FAST_DENSE, FAST):
        kept = count_saved_bytes(_runs({contender: model})[contender], _input(network), model.parameters())
        peak = measure(_measure_peak, name, contender, threads, quick)
        rows.append({"network": name, "contender": contender, "kept_bytes": kept, "peak_bytes": peak})
    return rows
