"""Speed and memory of single layers and cells, through the public modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

import norse_fast

from .. import memory
from .._kernels.extension import kernels_disabled
from .models import MODELS, import_norse
from .timing import Effort, compare

__all__ = [
    "Case",
    "Run",
    "check_runs",
    "count_saved_bytes",
    "over_time",
    "run_case",
    "run_memory",
    "run_model",
    "time_runs",
]

FAST, PURE, NORSE, NORSE_CELL, CLONE = "norse_fast", "pure PyTorch", "Norse", "Norse cell", "x.clone()"
# What it takes to copy the input and, in the backward pass, the gradient: hardly any layer trains faster.
TRAINED_CLONE = "x.clone(), trained"
# Fresh memory is such as the system has just handed out, which it clears first; reused memory was in use before. A copy lies
# in fresh memory, and what the kernels return in reused memory, where there is some of that size; these are the reverse.
FAST_FRESH, CLONE_REUSED = "norse_fast, fresh memory", "x.clone(), reused memory"

# Norse's layer indexes its input at each step, and the backward of each index adds zeros of the shape of the whole
# input: 1000 steps take minutes.
QUADRATIC_STEPS = 1000
LOOP_STEPS = 100
# The share of neurons of which models with exp may emit another spike: kernels and PyTorch have an exp of their own each,
# which differ in the last place.
INEXACT_SHARE = 1e-3

Run = Callable[[torch.Tensor], torch.Tensor]


class Case(NamedTuple):
    """What is measured.

    Args:
        part: ``"layer"``, ``"cell"``, ``"length"``: the layer at different numbers of steps, or ``"model"``: the layer of
            each model.
        model: a name of ``MODELS``.
        size: ``(T, B, N)``, or ``(B, N)`` for a cell.
        dtype: name of the data type.
        device: name of the device.
    """

    part: str
    model: str
    size: tuple[int, ...]
    dtype: str
    device: str

    def __str__(self) -> str:
        return f"{self.model} {'x'.join(map(str, self.size))} {self.dtype} {self.device}"

    def random(self, *size: int) -> torch.Tensor:
        """Standard normal numbers of a size."""
        return torch.randn(size, dtype=getattr(torch, self.dtype), device=self.device)

    def input(self, *size: int) -> torch.Tensor:
        """Input that makes about a tenth of the default LIF neurons spike in each step."""
        return 3 * self.random(*size) + MODELS[self.model].drive


def _in_pytorch(run: Run) -> Run:
    def run_in_pytorch(x: torch.Tensor) -> torch.Tensor:
        with kernels_disabled():
            return run(x)

    return run_in_pytorch


def _layer(layer: torch.nn.Module) -> Run:
    return lambda x: layer(x)[0]


def over_time(cell: torch.nn.Module) -> Run:
    """A cell, or a container of them, called once per time step."""

    def run(inputs: torch.Tensor) -> torch.Tensor:
        outputs, state = [], None
        for x in inputs.unbind(0):
            output, state = cell(x, state)
            outputs.append(output)
        return torch.stack(outputs)

    return run


def _step(cell: torch.nn.Module, x: torch.Tensor) -> Run:
    with torch.no_grad():
        state = cell(x)[1]
    return lambda x: cell(x, state)[0]


def _contenders(case: Case, fast: Callable[[torch.nn.Module], Run], kind: str) -> dict[str, Run]:
    """The same computation by norse_fast, by its pure-PyTorch path and by Norse."""
    model = MODELS[case.model]
    run = fast(model.build(norse_fast, kind))
    contenders = {FAST: run, PURE: _in_pytorch(run)}
    norse = _norse(case)
    if norse is not None:
        contenders[NORSE] = fast(model.build(norse, kind))
        if kind == "layer":
            contenders[NORSE_CELL] = over_time(model.build(norse, "cell"))
    return contenders


def _norse(case: Case) -> Any:
    # Norse computes the 16-bit types in 16 bits, norse_fast in float32: their results are not comparable.
    return import_norse() if case.dtype in ("float32", "float64") else None


def _trainable(case: Case, contenders: dict[str, Run]) -> dict[str, Run]:
    too_long = len(case.size) == 3 and case.size[0] >= QUADRATIC_STEPS
    return {name: run for name, run in contenders.items() if not (name == NORSE and too_long)}


def _gradient(run: Run, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    run(x).backward(g)
    assert x.grad is not None
    return x.grad


def check_runs(
    case: Case, contenders: dict[str, Run], x: torch.Tensor, g: torch.Tensor | None
) -> Iterator[dict[str, Any]]:
    """Compare the outputs, bit by bit, and with a gradient ``g`` the gradients of all contenders with norse_fast's."""
    with torch.no_grad():
        expected = contenders[FAST](x)
    gradient = None if g is None else _gradient(contenders[FAST], x, g)
    trainable = _trainable(case, contenders)
    share = 0.0 if MODELS[case.model].exact else INEXACT_SHARE
    for name, run in contenders.items():
        if name == FAST:
            continue
        with torch.no_grad():
            # A neuron that once spikes differently has another future.
            same = (run(x) == expected).all(0)
        different = int((~same).sum())
        if different > share * same.numel():
            raise RuntimeError(
                f"{case.part} {case}: outputs of {different} of {same.numel()} neurons of norse_fast and {name} differ."
            )
        row = {
            **case._asdict(),
            "against": name,
            "equal": different == 0,
            "mean_output": float(expected.double().mean()),
        }
        if gradient is not None and g is not None and name in trainable:
            # The order of additions is free in a backward pass, so gradients agree to rounding. They are compared per
            # neuron, because those of some models grow from step to step, in some neurons beyond what the dtype holds.
            distance = (_gradient(run, x, g) - gradient).abs().amax(0) / gradient.abs().amax(0)
            difference = float(distance[same & gradient.isfinite().all(0)].max())
            if not difference < torch.finfo(x.dtype).eps ** 0.5:
                raise RuntimeError(
                    f"{case.part} {case}: gradients of norse_fast and {name} differ by {difference:.1e} of the largest."
                )
            row["gradient_difference"] = difference
        yield row


def _in_fresh_memory(call: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        memory.release()
        call()

    return run


def time_runs(
    case: Case,
    mode: str,
    contenders: dict[str, Run],
    x: torch.Tensor,
    g: torch.Tensor | None,
    effort: Effort,
    steps: int = 1,
    clone: bool = True,
) -> Iterator[dict[str, Any]]:
    """Time all contenders and ``x.clone()``, with the backward pass where there is a gradient ``g`` of the output."""

    def infer(run: Run) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            run(x)

        return call

    def train(run: Run) -> Callable[[], None]:
        leaf = x.detach().requires_grad_()

        def call() -> None:
            run(leaf).backward(g)
            leaf.grad = None

        return call

    prepare = infer if g is None else train
    functions = {name: prepare(run) for name, run in contenders.items()}
    if case.part == "layer":
        functions[FAST_FRESH] = _in_fresh_memory(functions[FAST])
        functions[CLONE_REUSED] = infer(torch.empty_like(x).copy_)
    if clone:
        functions[CLONE] = infer(torch.clone)
    neuron_steps = x.numel()
    for name, result in compare(functions, effort).items():
        yield {
            **case._asdict(),
            "mode": mode,
            "contender": name,
            "median": result["median"] / steps,
            "iqr": result["iqr"] / steps,
            **{key: result[key] for key in ("over", "over_quartiles", "others")},
            "per_neuron_step": result["median"] / neuron_steps,
        }


def run_case(case: Case, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Check that all contenders compute the same, then time them.

    Args:
        case: what to measure.
        effort: how long to measure.

    Returns:
        Rows of checks and rows of times.

    Raises:
        RuntimeError: a contender computes something else.
    """
    if case.part == "cell":
        return _run_cell(case, effort)
    x, g = case.input(*case.size), case.random(*case.size)
    contenders = _contenders(case, _layer, "layer")
    if case.part == "length":
        contenders = {name: run for name, run in contenders.items() if name in (FAST, NORSE)}
    checks = list(check_runs(case, contenders, x, g))
    times = list(time_runs(case, "inference", contenders, x, None, effort))
    times += time_runs(case, "training", _trainable(case, contenders), x, g, effort)
    return checks, times


def _run_cell(case: Case, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    x, g = case.input(LOOP_STEPS, *case.size), case.random(LOOP_STEPS, *case.size)
    loops = _contenders(case, over_time, "cell")
    steps = _contenders(case, lambda cell: _step(cell, x[0]), "cell")
    checks = list(check_runs(case, loops, x, g))
    times = list(time_runs(case, "step", steps, x[0], None, effort))
    times += time_runs(case, "step + backward", steps, x[0], g[0], effort)
    times += time_runs(case, "step of 100 + backward", loops, x, g, effort, LOOP_STEPS)
    return checks, times


def run_model(long: Case, short: Case, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Check and time the layer of a model on many steps, and its training on few steps against Norse's cell.

    Args:
        long: the layer on many steps.
        short: the layer on few steps, since Norse's memory grows with their number.
        effort: how long to measure.

    Returns:
        Rows of checks and rows of times. Those of ``short`` say under ``no_norse`` why they lack Norse, or nothing.

    Raises:
        RuntimeError: a contender computes something else.
    """
    model = MODELS[long.model]
    fast = _layer(model.build(norse_fast, "layer"))
    contenders = {FAST: fast, PURE: _in_pytorch(fast)}
    norse = _norse(short)
    reason = model.no_norse or ("" if norse else "not compared" if import_norse() else "not installed")
    if not reason:
        contenders[NORSE_CELL] = over_time(model.build(norse, "cell"))
    x, g = short.input(*short.size), short.random(*short.size)
    checks = list(check_runs(short, contenders, x, g))
    del contenders[PURE]
    contenders[TRAINED_CLONE] = torch.clone
    times = [{**row, "no_norse": reason} for row in time_runs(short, "training", contenders, x, g, effort)]
    x, g = long.input(*long.size), long.random(*long.size)
    # Not the gradients: pure PyTorch keeps gigabytes for them.
    checks += check_runs(long, {FAST: fast, PURE: _in_pytorch(fast)}, x, None)
    times += time_runs(long, "inference", {FAST: fast}, x, None, effort)
    times += time_runs(long, "training", {FAST: fast}, x, g, effort)
    return checks, times


def count_saved_bytes(run: Run, x: torch.Tensor, besides: Iterable[torch.Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass, without those of the input and the output.

    Args:
        run: the computation.
        x: its input.
        besides: other tensors that do not count.

    Example:
        >>> count_saved_bytes(lambda x: x.exp().sin(), torch.ones(10))
        40
    """
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = run(x.detach().requires_grad_())
    for tensor in (x, output, *besides):
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(saved.values())


def run_memory(case: Case) -> list[dict[str, Any]]:
    """Memory that training takes beyond the input, the output and their gradients, per neuron-step.

    Args:
        case: a layer.
    """
    x = case.input(*case.size)
    return [
        {**case._asdict(), "contender": name, "bytes_per_neuron_step": count_saved_bytes(run, x) / x.numel()}
        for name, run in _contenders(case, _layer, "layer").items()
    ]
