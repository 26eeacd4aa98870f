"""What NIR cannot express is refused, and what a graph says is computed, with its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import norse_fast as nf

from .packages import find

pytestmark = pytest.mark.needs("nir")


class Model(nn.Module):
    """Three layers and a neuron, called as a function says."""

    def __init__(self, call: Callable[[Model, torch.Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))
        self.neurons = nf.LIFBoxCell()
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


def spike_twice(m: Model, x: torch.Tensor) -> torch.Tensor:
    z, state = m.neurons(m.a(x), None)
    return m.neurons(z, state)[0]


def double(x: torch.Tensor) -> torch.Tensor:
    return x + x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.c(m.a(x) + 1), "an addition with a number"),
        (lambda m, x: m.c(1 + m.a(x)), "an addition with a number"),
        (lambda m, x: m.a(x).add(m.b(x), alpha=3), "an addition with a number"),
        (lambda m, x: m.c(double(m.a(x))), "one output added twice"),
        (lambda m, x: m.c(x + x), "one output added twice"),
        (lambda m, x: m.c(m.a(x) + x + x), "one output added twice"),
        (lambda m, x: m.a(x) + m.b.bias, "the tensor 'b.bias'"),
        (lambda m, x: (m.a(x), m.b(x)), "several outputs"),
        (lambda m, x: m.a(x) * 2, "the operation 'mul'"),
        (lambda m, x: m.a(x).relu(), "the operation 'relu'"),
        (lambda m, x: torch.relu(m.a(x)), "the operation 'relu'"),
        (spike_twice, "two calls of 'neurons' in one step"),
    ],
)
def test_operations_without_counterpart(call: Callable[[Model, torch.Tensor], Any], message: str):
    with pytest.raises(ValueError, match=f"module: got {message} in a Model, expected"):
        nf.to_nir(Model(call), torch.rand(2, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.c(m.a(x) + m.b(x)),
        lambda m, x: m.c(m.a(x) + x),
        lambda m, x: m.a(x) + m.b(x),
        lambda m, x: m.a(x) + m.b(x) + m.c(x),
        lambda m, x: m.a(m.a(x)),
        lambda m, x: m.neurons(m.a(x) + m.b(x))[0],
        lambda m, x: m.neurons(m.a(x)),
    ],
)
def test_sums_come_back(call: Callable[[Model, torch.Tensor], Any]):
    model, x = Model(call), torch.randn(2, 3)
    expected = model(x)
    found = nf.from_nir(nf.to_nir(model, x))(x)
    assert len(found) == 2
    torch.testing.assert_close(found[0], expected[0] if isinstance(expected, tuple) else expected)


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class DoubledCell(nf.LIFCell):
    def forward(self, input_tensor: torch.Tensor, state: Any = None) -> Any:
        z, state = super().forward(input_tensor, state)
        return 2 * z, state


class Renamed(nn.Linear):
    pass


def hooked(register: str, hook: Callable[..., Any]) -> nn.Module:
    layer = nn.Linear(3, 3)
    getattr(layer, register)(hook)
    return layer


def patched() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: 2 * x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: Doubled(3, 3), "another forward in a Doubled"),
        (DoubledCell, "another forward in a DoubledCell"),
        (patched, "another forward in a Linear"),
        (lambda: hooked("register_forward_hook", lambda m, i, o: 2 * o), "a hook on a Linear"),
        (lambda: hooked("register_forward_pre_hook", lambda m, i: (2 * i[0],)), "a hook on a Linear"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_modules_that_do_something_else(make: Callable[[], nn.Module], got: str, alone: bool):
    module = make() if alone else nn.Sequential(nn.Linear(3, 3), make())
    with pytest.raises(TypeError, match=f"module: got {got}, expected one that computes what its class does"):
        nf.to_nir(module, torch.rand(2, 3))


@pytest.mark.parametrize("kind", [Renamed, nf.SpikeLinear])
def test_subclasses_that_do_the_same(kind: type[nn.Linear]):
    layer = kind(3, 3)
    np.testing.assert_array_equal(nf.to_nir(layer).weight, layer.weight.detach().numpy())


def test_pruned_weights_are_those_of_the_next_call():
    layer = nn.Linear(3, 3)
    prune.random_unstructured(layer, "weight", amount=4)
    with torch.no_grad():
        layer.weight_orig.mul_(2)
    np.testing.assert_array_equal(nf.to_nir(layer).weight, (layer.weight_orig * layer.weight_mask).detach().numpy())


def test_sums_over_windows_have_gradients_in_silence():
    nir = find("nir")
    pool = nf.from_nir(nir.SumPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)))
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])[None].requires_grad_()
    y = pool(x)
    assert y.flatten().tolist() == [0.0, 0.0]
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


EYE = np.eye(3, dtype=np.float32)


def graph(edges: list[tuple[str, str]], type_check: bool = False) -> Any:
    nir = find("nir")
    ends = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([3])})}
    return nir.NIRGraph({**ends, "a": nir.Linear(2 * EYE), "b": nir.Linear(3 * EYE)}, edges, type_check=type_check)


PATH = [("input", "a"), ("a", "output")]


@pytest.mark.parametrize("edges", [PATH, [*PATH, ("input", "b")], [*PATH, ("a", "b")], [*PATH, ("b", "b")]])
def test_nodes_that_lead_nowhere_are_left_out(edges: list[tuple[str, str]]):
    x = torch.rand(2, 3)
    torch.testing.assert_close(nf.from_nir(graph(edges))(x)[0], 2 * x)


@pytest.mark.parametrize("edges", [[*PATH, ("b", "a")], [*PATH, ("b", "output")], [*PATH, ("b", "b"), ("b", "a")]])
def test_nodes_without_input_are_named(edges: list[tuple[str, str]]):
    with pytest.raises(ValueError, match="node: got a graph in which nothing leads from the input to 'b', expected"):
        nf.from_nir(graph(edges))


def test_several_outputs_are_named():
    with pytest.raises(ValueError, match="node: got a graph with 'output', 'output_b', expected one Output"):
        nf.from_nir(graph([*PATH, ("input", "b")], type_check=True))
