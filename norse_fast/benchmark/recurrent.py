"""Speed and memory of recurrent layers.

Beside Norse's layer stand ``torch.nn.RNN``, which is a recurrent layer without spikes, and norse_fast's own cell, called
step by step with dense products.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

import norse_fast

from .._kernels.recurrent import RECURRENT
from .models import MODELS, import_norse
from .neurons import FAST, NORSE, QUADRATIC_STEPS, Case, Run, check_runs, count_saved_bytes, time_runs
from .timing import Effort, alone, malloc_trim
from .train import memory_meter, round_weights

__all__ = ["RNN", "STEPPED", "calibrate", "draw_input", "run_recurrent", "run_recurrent_long", "run_recurrent_memory"]

STEPPED, RNN = "stepped", "nn.RNN"
INPUT_RATE = 0.05  # spikes per input and step
RECURRENT_SCALE = 0.5  # standard deviation of the recurrent weights, times the root of their number
CALIBRATION_STEPS = 100

Weights = tuple[torch.Tensor, torch.Tensor]


def draw_input(case: Case) -> torch.Tensor:
    """Spikes of the inputs."""
    size, device, dtype = case.size[:3], case.device, getattr(torch, case.dtype)
    return (torch.rand(size, device=device) < INPUT_RATE).to(dtype)


def _output_size(case: Case) -> tuple[int, int, int]:
    steps, batch, _, neurons = case.size
    return steps, batch, neurons


def calibrate(case: Case, x: torch.Tensor, rate: float) -> Weights:
    """Weights with which a share ``rate`` of the neurons spikes in a step, at least in the first steps."""
    inputs, neurons = case.size[2:]
    # With more excitation than inhibition, any rate can be reached.
    drawn = 1 + case.random(neurons, inputs)
    recurrent = round_weights(case.random(neurons, neurons) * RECURRENT_SCALE / neurons**0.5).fill_diagonal_(0)
    low, high = 0.0, 64.0
    for _ in range(14):
        scale = (low + high) / 2
        weights = round_weights(drawn * scale), recurrent
        with torch.no_grad():
            share = float(_build(FAST, case, weights).run(x[:CALIBRATION_STEPS]).mean())
        low, high = (scale, high) if share < rate else (low, scale)
    return weights


class Contender(NamedTuple):
    """A layer, as a function of its input, and its weights."""

    run: Run
    weights: list[torch.Tensor]


def _build(name: str, case: Case, weights: Weights) -> Contender:
    layer: Any
    if name == RNN:
        layer = torch.nn.RNN(*case.size[2:], nonlinearity="relu", bias=False)
    else:
        cls = getattr(import_norse() if name == NORSE else norse_fast, f"{case.model}Recurrent")
        layer = cls(*case.size[2:], *([] if name == NORSE else [MODELS[case.model].p]))
    layer = layer.to(case.device, getattr(torch, case.dtype))
    with torch.no_grad():
        for own, weight in zip(layer.parameters(), weights if name != RNN else ()):
            own.copy_(weight)

    def stepped(x: torch.Tensor) -> Any:
        state, outputs = layer.state_fallback(x), []
        step, weights = RECURRENT[layer.activation].one_step, layer.masked_weights()
        for frame in x.unbind(0):
            output, state = step(frame, state, layer.input_weights, weights, layer.p, layer.dt)
            outputs.append(output)
        return torch.stack(outputs), state

    module = stepped if name == STEPPED else layer
    return Contender(lambda x: module(x)[0], list(layer.parameters()))


def _prepare(case: Case, rate: float) -> tuple[dict[str, Contender], torch.Tensor, torch.Tensor]:
    """The contenders, their input, and a gradient of their output."""
    x = draw_input(case)
    weights = calibrate(case, x, rate)
    names = (FAST, STEPPED, *([NORSE] if import_norse() else []), RNN)
    return {name: _build(name, case, weights) for name in names}, x, case.random(*_output_size(case))


def _check(case: Case, contenders: dict[str, Contender], x: torch.Tensor, g: torch.Tensor) -> list[dict[str, Any]]:
    """Compare spikes, bit by bit, and where Norse can be trained, gradients."""
    same = {name: contender for name, contender in contenders.items() if name != RNN}
    rows = list(check_runs(case, {name: contender.run for name, contender in same.items()}, x, None))
    if case.size[0] >= QUADRATIC_STEPS:
        return rows
    x = x.detach().requires_grad_()
    gradients = {name: torch.autograd.grad(run(x), (x, *weights), g) for name, (run, weights) in same.items()}
    for row in rows:
        pairs = zip(gradients[row["against"]], gradients[FAST])
        difference = max(float((theirs - ours).abs().max() / ours.abs().max()) for theirs, ours in pairs)
        if not difference < torch.finfo(x.dtype).eps ** 0.5:
            raise RuntimeError(
                f"{case.part} {case}: gradients of norse_fast and {row['against']} differ by {difference:.1e} of the largest."
            )
        row["gradient_difference"] = difference
    return rows


def _runs(contenders: dict[str, Contender]) -> dict[str, Run]:
    return {name: contender.run for name, contender in contenders.items()}


def _complete(case: Case, rate: float, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        row["rate"] = rate
        if "median" in row:
            row["per_neuron_step"] = row["median"] / math.prod(_output_size(case))
    return rows


def run_recurrent(case: Case, rate: float, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Check that all contenders with spikes compute the same, then time them.

    Training includes the gradients of the input and of both weights.

    Args:
        case: the layer, of size ``(T, B, inputs, N)``; of its model, the recurrent one.
        rate: share of the neurons that spike in a step.
        effort: how long to measure.

    Returns:
        Rows of checks and rows of times.

    Raises:
        RuntimeError: a contender computes something else.
    """
    contenders, x, g = _prepare(case, rate)
    checks, runs = _check(case, contenders, x, g), _runs(contenders)
    times = list(time_runs(case, "inference", runs, x, None, effort, clone=False))
    times += time_runs(case, "training", runs, x, g, effort, clone=False)
    return _complete(case, rate, checks), _complete(case, rate, times)


def run_recurrent_long(case: Case, rate: float, effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same for the training on many steps, of which Norse, whose time grows with the square, makes one run."""
    contenders, x, g = _prepare(case, rate)
    checks, runs = _check(case, contenders, x, g), _runs(contenders)
    norse = runs.pop(NORSE, None)
    times = list(time_runs(case, "training", runs, x, g, effort, clone=False))
    if norse is not None:
        leaf = x.requires_grad_()
        torch.set_num_threads(effort.threads)
        malloc_trim(0)
        start = time.perf_counter()
        norse(leaf).backward(g)
        seconds = time.perf_counter() - start
        once = {"median": seconds, "iqr": 0.0, "over": {row["contender"]: seconds / row["median"] for row in times}}
        for row in times:
            row["over"][NORSE] = row["median"] / seconds
        times.append({**times[0], **once, "contender": NORSE})
    return _complete(case, rate, checks), _complete(case, rate, times)


def _measure_peak(contender: str, case: Case, arrays: list[Any], threads: int) -> int | None:
    """Peak of the bytes that a forward and a backward pass take, without output and gradients, those of weights too.

    Code that runs for the first time and threads that start are not the layer's, so a small one runs before. It leaves no
    memory that the layer could use again, and what the C library keeps of freed memory goes back to the system: all that the
    layer touches counts, whether it is given back at the end or waits for the next pass.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs, recurrent = map(torch.from_numpy, arrays)
    run, weights = _build(contender, case, (inputs, recurrent))
    x, g = draw_input(case).requires_grad_(), case.random(*_output_size(case))
    small = _build(contender, case._replace(size=(2, 4, 8, 8)), (inputs[:8, :8], recurrent[:8, :8])).run
    start = x[:2, :4, :8].detach().requires_grad_()
    small(start).backward(g[:2, :4, :8])
    malloc_trim(0)
    peak = memory_meter(torch.device(case.device))
    output = run(x)
    output.backward(g)
    found = peak()
    assert x.grad is not None
    return None if found is None else found - output.nbytes - x.grad.nbytes - sum(w.nbytes for w in weights)


def run_recurrent_memory(
    case: Case, rate: float, threads: int, measure: Callable[..., Any] = alone
) -> Iterator[dict[str, Any]]:
    """Bytes per neuron-step of training, beyond input, output, weights and their gradients.

    Counted are those that autograd keeps from the forward to the backward pass, and measured, in a process of its own, the
    peak during both.

    Args:
        case: the layer, of size ``(T, B, inputs, N)``.
        rate: share of the neurons that spike in a step.
        threads: threads of PyTorch on the CPU.
        measure: calls a function with arguments, in a process of its own unless the figure is of no interest.
    """
    x = draw_input(case)
    weights = calibrate(case, x, rate)
    neuron_steps = math.prod(_output_size(case))
    for name in (FAST, *([NORSE] if import_norse() and case.size[0] < QUADRATIC_STEPS else [])):
        contender = _build(name, case, weights)
        saved = count_saved_bytes(contender.run, x, contender.weights)
        arrays = [weight.cpu().numpy() for weight in weights]
        peak = measure(_measure_peak, name, case, arrays, threads)
        yield {
            **case._asdict(),
            "rate": rate,
            "contender": name,
            "bytes_per_neuron_step": saved / neuron_steps,
            "peak_bytes_per_neuron_step": None if peak is None else peak / neuron_steps,
        }
