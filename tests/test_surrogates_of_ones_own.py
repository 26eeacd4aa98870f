"""Surrogates that Python has a part in: derivatives of the user's, and gradients of alpha.

The reference is a loop over plain PyTorch steps, whose spikes are ``H(u) + f(u, alpha) - f(u, alpha).detach()``: backward is
autograd's, of the function ``f`` whose derivative the surrogate is.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels import neuron as neurons
from norse_fast._kernels import recurrent
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional.threshold import SURROGATES, by_alpha, threshold

from .models import FEED_FORWARD, MODELS, NESTED, Model, fields, model_id, random_params
from .test_gradients import requiring_grad, set_surrogate
from .test_recurrent import LAYERS, layer_of, make_case

SPIKING = [model for model in FEED_FORWARD if model.spikes]


def own(u: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return alpha / (1 + (alpha * u) ** 2)


def hill(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(-1, 1)
    return x - x * x.abs() / 2


FUNCTIONS: dict[Any, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "super": lambda u, a: u / (1 + a * u.abs()),
    "triangle": lambda u, a: a * hill(u),
    "tanh": lambda u, a: torch.tanh(a * u) / a,
    "circ": lambda u, a: a * u / torch.sqrt(a * a + u * u),
    "heavi_erfc": lambda u, a: math.sqrt(math.pi) / 1.7724539041519165 * torch.erf(a * u) / a,
    "atan": lambda u, a: torch.atan(math.pi / 2 * a * u) / math.pi,
    "sigmoid": lambda u, a: torch.sigmoid(a * u),
    "rectangle": lambda u, a: (a * u).clamp(-0.5, 0.5),
    "triangle_width": lambda u, a: hill(a * u),
    own: lambda u, a: torch.atan(a * u),
}
METHODS = [pytest.param(method, id=method if isinstance(method, str) else "own") for method in FUNCTIONS]


@contextmanager
def reference(method: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain PyTorch, with spikes whose gradient is autograd's."""

    def spike_function(_: Any, alpha: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def spike(u: torch.Tensor) -> torch.Tensor:
            value = FUNCTIONS[method](u, alpha)
            return (u > 0).to(u.dtype) + (value - value.detach())

        return spike

    with monkeypatch.context() as patch, kernels_disabled():
        patch.setattr(neurons, "spike_function", spike_function)
        patch.setattr(recurrent, "spike_function", spike_function)
        yield


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    assert len(actual) == len(expected) > 0
    for grad, value in zip(actual, expected):
        assert grad.shape == value.shape
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(grad, value, rtol=tolerance, atol=tolerance * scale)


def gradients(output: torch.Tensor, final: Any, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=output.dtype)
    for value in (output, *fields(final).values()):
        loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def compare(run: Callable[[], tuple[Any, Any]], leaves: list[torch.Tensor], method: Any, monkeypatch: Any) -> None:
    """Kernels, the same in PyTorch, and the reference."""
    output, final = run()
    actual = gradients(output, final, leaves)
    with kernels_disabled():
        in_pytorch = gradients(*run(), leaves)
    with reference(method, monkeypatch):
        expected_output, expected_final = run()
        expected = gradients(expected_output, expected_final, leaves)
    assert torch.equal(output, expected_output)
    assert_close(actual, expected)
    assert_close(in_pytorch, expected)


def names_of(kind: Any, field: str) -> list[str]:
    """A field of a state, or those of the tuple in it."""
    return [f"{field}.{name}" for name in NESTED[kind]._fields] if field.startswith("lif") else [field]


def case_of(
    model: Model, steps: int, per_neuron: bool, generator: torch.Generator, method: Any
) -> tuple[torch.Tensor, Any, Any, list[torch.Tensor]]:
    x = (4 * torch.rand(steps, 3, 5, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    names = [n for field in model.state._fields for n in names_of(model.state, field)]
    values = {name: torch.rand(3, 5, generator=generator, dtype=torch.float64) for name in names}
    spikes = {name: (value > 0.7).double() for name, value in values.items() if name.split(".")[-1] == "z"}
    state = requiring_grad(model.pack(model.state, values | spikes))
    params = random_params(model, (5,) if per_neuron else (), torch.float64, generator)
    alpha = (1 + torch.rand((5,) if per_neuron else (), generator=generator, dtype=torch.float64)).requires_grad_()
    params = set_surrogate(requiring_grad(params), method, alpha)
    leaves = [x, *fields(state).values(), *(v for v in fields(params).values() if isinstance(v, torch.Tensor))]
    return x, state, params, leaves if method is not own else [leaf for leaf in leaves if leaf is not alpha]


@pytest.mark.parametrize("steps", [1, 32, 70])
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "atan"])
@pytest.mark.parametrize("model", SPIKING, ids=model_id)
def test_layers(model: Model, method: Any, per_neuron: bool, steps: int, generator, monkeypatch):
    x, state, params, leaves = case_of(model, steps, per_neuron, generator, method)
    for record in (False, True):
        compare(
            lambda r=record: model.neuron(x, state, params, 0.001, sequence=True, record=r), leaves, method, monkeypatch
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [nf.lif_feed_forward_step, nf.lif_adex_refrac_feed_forward_step])
def test_every_name(method: Any, step: Any, generator, monkeypatch):
    model = next(m for m in SPIKING if m.step is step)
    x, state, params, leaves = case_of(model, 40, False, generator, method)
    assert 0 < model.neuron(x, state, params, 0.001, sequence=True)[0].mean() < 1
    compare(lambda: model.neuron(x, state, params, 0.001, sequence=True), leaves, method, monkeypatch)


@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "sigmoid"])
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recurrent_layers(model: Model, per_neuron: bool, method: Any, generator, monkeypatch):
    x, state, weights, p, learned = make_case(
        model, 40, (2,), 5, 20, generator, torch.float64, per_neuron=per_neuron, learn=True
    )
    alpha = torch.full((20,) if per_neuron else (), 1.5, dtype=torch.float64, requires_grad=True)
    p = set_surrogate(p, method, alpha)
    leaves = [x, *weights, *fields(state).values(), *learned, *([] if method is own else [alpha])]
    compare(lambda: layer_of(model)(x, state, *weights, p, 0.001), leaves, method, monkeypatch)


@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "triangle_width"])
@pytest.mark.parametrize("model", [m for m in MODELS if m.spikes], ids=model_id)
def test_single_steps(model: Model, method: Any, generator, monkeypatch):
    """Of every step function, those of cells with several compartments too."""
    x, state, params, leaves = case_of(model, 12, False, generator, method)
    rest = []
    if model.kind in ("rec", "mc"):
        rest = [torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    if model.kind in ("mcff", "mc"):
        rest.append(torch.rand(5, 5, generator=generator, dtype=torch.float64))
    leaves += [w.requires_grad_() for w in rest]
    drive = {"izhikevich_recurrent_step": 100, "coba_lif_step": 0.2}.get(model.name, 10 if rest else 1)

    def run() -> tuple[Any, Any]:
        outputs, now = [], state
        for frame in x:
            z, now = model.step(drive * frame, now, *rest, params, 0.001)
            outputs.append(z)
        return torch.stack(outputs), now

    compare(run, leaves, method, monkeypatch)
