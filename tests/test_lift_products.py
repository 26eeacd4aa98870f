"""Lift takes sums over spikes for modules of PyTorch, which stay what they are, and says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast.benchmark.train import round_weights
from norse_fast.module import _rules, _running, _sparse_backward

pytestmark = pytest.mark.usefixtures("products_of_any_size")


def spikes(*shape: int, density: float = 0.1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density).to(dtype)


def exact(model: nn.Module, scale: float = 8.0) -> nn.Module:
    """With weights whose sums have no rounding, so that sums over spikes and products are the same, bit for bit."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(round_weights(p * scale))
    return model


def connected(*between: nn.Module) -> nf.SequentialState:
    torch.manual_seed(0)
    layers = (nn.Linear(70, 40), nf.LIFCell(), *between, nn.Linear(40, 5), nf.LICell())
    return exact(nf.SequentialState(*layers))


def convolutional() -> nf.SequentialState:
    torch.manual_seed(0)
    first = (nn.Conv2d(1, 4, 3, padding=1), nf.LIFCell(), nn.MaxPool2d(2))
    second = (nn.Conv2d(4, 6, 3), nf.LIFCell(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 3))
    return exact(nf.SequentialState(*first, *second, nf.LICell()).eval())


def explained(lifted: nf.Lift) -> dict[str, str]:
    """By layer, how it runs and why."""
    lines = lifted.explain().splitlines()
    column = lines[0].index("runs")
    return {line.split()[0]: line[column:] for line in lines[1:]}


def summed(lifted: nf.Lift) -> list[str]:
    """The layers that took sums in the last call."""
    return [name for name, text in explained(lifted).items() if "of the input" in text]


def results(lifted: nf.Lift, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y, state = lifted(x)
    grads = torch.autograd.grad(y.mul(torch.linspace(-1, 1, y.shape[-1]).to(y)).sum(), [x, *lifted.parameters()])
    return [y.detach(), *(t.detach() for each in state if each is not None for t in each), *grads]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["connected", "convolutional"])
def test_equal_those_of_pytorch_where_sums_are_exact(kind: str, dtype: torch.dtype):
    """Outputs and states bit for bit; gradients, in which numbers of any kind are summed, but for rounding."""
    model, size = (connected(), (70,)) if kind == "connected" else (convolutional(), (1, 14, 10))
    lifted, x = nf.Lift(model.to(dtype)), spikes(24, 3, *size, dtype=dtype)
    actual = results(lifted, x)
    products = {"connected": ["0", "2"], "convolutional": ["0", "2", "3", "5", "8"]}[kind]
    assert summed(lifted) == products
    with nf.dense_products():
        expected = results(lifted, x)
    assert summed(lifted) == []
    assert expected[0].any()
    count = len(actual) - len(list(model.parameters())) - 1
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        if k < count:
            assert torch.equal(a, e)
        else:
            torch.testing.assert_close(a, e, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_equal_those_of_pytorch_where_sums_are_exact(dtype: torch.dtype):
    """Of layers without neurons, whose gradients are no multiples of 1/4096."""
    for layer, size in ((nn.Linear(70, 9), (70,)), (nn.Conv2d(3, 5, 3), (3, 8, 8)), (nn.MaxPool2d(2), (3, 8, 8))):
        lifted, found = nf.Lift(exact(layer.to(dtype))), []
        for dense in (False, True):
            x = spikes(6, 4, *size, dtype=dtype).requires_grad_()
            with nf.dense_products() if dense else torch.enable_grad():
                y = lifted(x)
            assert bool(summed(lifted)) != dense
            g = torch.randint(-64, 65, y.shape, generator=torch.Generator().manual_seed(1)).to(dtype) / 64
            found.append((y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), g)))
        assert all(torch.equal(a, e) for a, e in zip(*found))


def test_modules_stay_what_they_are():
    model = connected()
    types, keys, before = [type(m) for m in model.modules()], list(model.state_dict()), model.state_dict()
    lifted = nf.Lift(model)
    lifted(spikes(20, 4, 70))
    assert [type(m) for m in model.modules()] == types
    assert list(model.state_dict()) == keys
    assert list(lifted.state_dict()) == [f"lifted_module.{key}" for key in keys]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for other in (copy.deepcopy(lifted), pickle.loads(pickle.dumps(lifted))):
        assert torch.equal(other(spikes(20, 4, 70))[0], lifted(spikes(20, 4, 70))[0])


def test_explain_tells_the_density():
    lifted, x = nf.Lift(connected()), spikes(20, 4, 70)
    before = explained(lifted)
    assert before["0"] == "fused  one call for all time steps; sums over spikes, where they come in"
    lifted(x)
    share = f"{x.mean().item():.1%}"
    assert explained(lifted)["0"] == f"fused  one call for all time steps; sums over spikes, {share} of the input"
    z = nf.Lift(lifted.lifted_module[:2])(x)[0]
    assert f"{z.mean().item():.1%} of the input" in explained(lifted)["2"]
    lifted(torch.zeros_like(x))
    assert "sums over spikes, 0.0% of the input" in explained(lifted)["0"]


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.rand(6, 4, 70), "dense: not all of the input is 0 or 1"),
        (torch.ones(6, 4, 70), "dense: more than 30% of the input are 1"),
        (spikes(20, 4, 70, density=0.5), "dense: more than 30% of the input are 1"),
    ],
)
def test_other_inputs_are_those_of_pytorch(x: torch.Tensor, why: str):
    lifted = nf.Lift(nn.Linear(70, 9))
    assert torch.equal(lifted(x), lifted.lifted_module(x))
    assert why in lifted.explain()


def test_small_products_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    lifted, x = nf.Lift(nn.Linear(70, 9)), spikes(20, 4, 70)
    assert torch.equal(lifted(x), lifted.lifted_module(x))
    assert "dense: too small" in lifted.explain()


def test_steps_in_parts_are_counted_together(monkeypatch: pytest.MonkeyPatch):
    for name in ("_LARGEST_OUTPUT", "_LARGEST_IN_TRAINING"):
        monkeypatch.setattr(_running, name, 40_000)
    model = nf.SequentialState(nn.Linear(70, 90), nf.LIFCell(), nn.Linear(90, 2), nf.LICell())
    lifted, x = nf.Lift(exact(model)), torch.cat([spikes(30, 4, 70, density=0.05), spikes(30, 4, 70, density=0.6)])
    lifted(x)
    text = explained(lifted)["0"]
    assert "sums over spikes" in text
    assert "dense: more than 30% of the input are 1" in text


#: What may stand between a neuron and a layer that takes sums, and whether spikes come through.
BETWEEN: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "Identity": (nn.Identity, True),
    "Flatten": (nn.Flatten, True),
    "Unflatten": (lambda: nn.Sequential(nn.Unflatten(1, (4, 10)), nn.Flatten()), True),
    "Dropout of nothing": (lambda: nn.Dropout(0.0), True),
    "Dropout in evaluation": (lambda: nn.Dropout().eval(), True),
    "Dropout in training": (nn.Dropout, False),
    "Tanh": (nn.Tanh, False),
    "LayerNorm": (lambda: nn.LayerNorm(40), False),
    "LICell": (nf.LICell, False),
    "SpikeLinear": (lambda: nf.SpikeLinear(40, 40), False),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_lies_between(name: str):
    make, through = BETWEEN[name]
    lifted, x = nf.Lift(connected(make())), spikes(20, 4, 70)
    y = lifted(x)[0]
    last = str(len(lifted.lifted_module) - 2)
    assert (last in summed(lifted)) == through
    if not through:
        assert "dense: no spikes come in" in explained(lifted)[last]
    if name != "Dropout in training":
        with nf.dense_products():
            torch.testing.assert_close(y, lifted(x)[0])


def test_averages_are_no_spikes():
    lifted = nf.Lift(nf.SequentialState(nf.LIFCell(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 3)))
    lifted(torch.full((5, 4, 2, 8, 8), 9.0))
    assert "dense: no spikes come in" in explained(lifted)["2"]


def test_unknown_modules_may_return_spikes():
    class Sign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 1).to(x)

    lifted = nf.Lift(nn.Sequential(Sign(), nn.Linear(70, 9)))
    lifted(torch.randn(6, 4, 70))
    assert summed(lifted) == ["1"]


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def hooked() -> nn.Module:
    layer = nn.Linear(70, 9)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def replaced() -> nn.Module:
    layer = nn.Linear(70, 9)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[method-assign]
    return layer


def helper_replaced() -> nn.Module:
    layer = nn.Conv2d(2, 4, 3)
    layer._conv_forward = lambda x, weight, bias: nn.functional.conv2d(x, weight / weight.std(), bias)  # type: ignore
    return nn.Sequential(nn.Unflatten(-1, (2, 5, 7)), layer)


def compiled() -> nn.Module:
    layer = nn.Linear(70, 9)
    layer.compile(backend="eager")
    return layer


OTHERS = {
    "subclass": lambda: Doubled(70, 9),
    "hook": hooked,
    "forward replaced": replaced,
    "helper replaced": helper_replaced,
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(70, 9)),
    "compiled": compiled,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_modules_are_called(name: str):
    lifted, x = nf.Lift(OTHERS[name]()), spikes(20, 4, 70)
    torch.testing.assert_close(lifted(x), torch.stack([lifted.lifted_module(step) for step in x]))
    assert summed(lifted) == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(3, ceil_mode=True),
    ],
    ids=str,
)
def test_other_options_are_those_of_pytorch(layer: nn.Module):
    lifted, x = nf.Lift(layer), spikes(5, 4, 2, 8, 8)
    assert torch.equal(lifted(x), layer(x.flatten(0, 1)).unflatten(0, (5, 4)))
    assert "dense: its options" in lifted.explain()


@pytest.mark.parametrize("shape", [(5, 4, 2, 8, 8), (5, 2, 8, 8)], ids=str)
@pytest.mark.parametrize("layer", [nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)], ids=str)
def test_images_with_and_without_batch(layer: nn.Module, shape: tuple[int, ...]):
    lifted, x = nf.Lift(exact(layer)), spikes(*shape)
    assert torch.equal(lifted(x), torch.stack([layer(step) for step in x]))
    assert len(summed(lifted)) == 1


def test_layers_of_norse_fast_tell_too():
    lifted = nf.Lift(nf.accelerate(connected(), report=None, products=True))
    lifted(spikes(20, 4, 70))
    assert [type(m) for m in lifted.lifted_module][::2] == [nf.SpikeLinear, nf.SpikeLinear]
    assert summed(lifted) == ["0", "2"]


def test_accelerate_names_no_gain_that_a_lift_has():
    reports: list[nf.AccelerationReport] = []
    nf.accelerate(nf.Lift(connected()), report=reports.append)
    nf.accelerate(connected(), report=reports.append)
    assert [list(report.gains) for report in reports] == [[], ["1 Linear layer fed by spikes: products=True"]]


def test_compiled_lift():
    torch._dynamo.reset()
    lifted, x = nf.Lift(connected()), spikes(20, 4, 70)
    expected = results(lifted, x)
    compiled = nf.Lift(lifted.lifted_module)
    for a, e in zip(results(torch.compile(compiled, backend="aot_eager", fullgraph=True), x), expected, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
    assert "where they come in" in compiled.explain()


def test_autocast():
    lifted = nf.Lift(nn.Linear(70, 9))
    with torch.autocast("cpu", torch.bfloat16):
        assert lifted(spikes(20, 4, 70)).dtype == torch.bfloat16
    assert "dense: autocast" in lifted.explain()


def test_derivatives_of_derivatives():
    lifted, found = nf.Lift(nn.Sequential(nn.Linear(70, 9), nn.Tanh()).double()), []
    for dense in (False, True):
        x = spikes(6, 4, 70, dtype=torch.float64).requires_grad_()
        with nf.dense_products() if dense else torch.enable_grad():
            grads = torch.autograd.grad(lifted(x).pow(3).sum(), [x, *lifted.parameters()], create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), [x, *lifted.parameters()]))
    for a, e in zip(*found):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant: bool):
    lifted, x = nf.Lift(connected()), spikes(20, 4, 70)
    expected = results(lifted, x)

    def again(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda x: lifted(x)[0], x, use_reentrant=reentrant)

    x = x.requires_grad_()
    again(x).mul(torch.linspace(-1, 1, 5)).sum().backward()
    grads = [x.grad, *(p.grad for p in lifted.parameters())]
    for a, e in zip(grads, expected[-len(grads) :], strict=True):
        assert torch.equal(a, e)


def test_inference_mode():
    lifted, x = nf.Lift(connected()), spikes(20, 4, 70)
    expected = lifted(x)[0].detach()
    with torch.inference_mode():
        z: Any = lifted(x)[0]
    assert torch.equal(z, expected)


def test_memory_kept_for_backward():
    """Bits of spikes, and no spikes in numbers, but for the inputs of neurons."""
    model = nf.SequentialState(nn.Linear(640, 640), nf.LIFCell(), nn.Linear(640, 5))
    lifted, x, kept = nf.Lift(model), spikes(64, 10, 640), {False: 0, True: 0}
    for dense in kept:
        seen: set[int] = set()

        def keep(t: torch.Tensor, seen: set[int] = seen, dense: bool = dense) -> torch.Tensor:
            if t.untyped_storage().data_ptr() not in seen:
                seen.add(t.untyped_storage().data_ptr())
                kept[dense] += t.untyped_storage().nbytes()
            return t

        with (
            nf.dense_products() if dense else torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        ):
            lifted(x)
    weights = sum(p.nbytes for p in model.parameters())
    assert kept[True] - weights > 2 * x.nbytes
    assert kept[False] - weights < x.nbytes * 1.2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of the spikes that neurons hand to products, however few."""
    monkeypatch.setattr(_sparse_backward, "_MANY_SPIKES", 0)
    types: list[torch.dtype] = []

    def run_cell(cell, x, state, kind="all"):
        y, state = _rules.run_cell(cell, x, state, kind)
        types.append(y.dtype)
        return y, state

    monkeypatch.setattr(_running, "run_cell", run_cell)
    rule = _rules.RULES_BY_FORWARD[nf.LIFCell.forward]
    monkeypatch.setitem(_rules.RULES_BY_FORWARD, nf.LIFCell.forward, rule._replace(over_time=run_cell))
    return types


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_spikes_go_to_products_as_bytes_where_nobody_sees_them(seen: list[torch.dtype], dtype: torch.dtype):
    model = convolutional().to(dtype)
    x = spikes(9, 4, 1, 14, 10, dtype=dtype)
    with nf.dense_products():
        expected, last = nf.Lift(model)(x)
    assert set(seen) == {dtype}
    seen.clear()
    with torch.no_grad():
        y, state = nf.Lift(model)(x)
    assert seen == [torch.uint8, dtype, dtype]  # not where Dropout lies between, and not of the readout
    assert torch.equal(y, expected)
    assert y.dtype is dtype
    for a, b in zip(tree_leaves(state), tree_leaves(last), strict=True):
        assert (a is b is None) or torch.equal(a, b)


def test_spikes_that_somebody_sees_keep_their_type(seen: list[torch.dtype]):
    x = spikes(6, 3, 70)
    torch.manual_seed(0)
    pooled = (nn.Conv2d(1, 2, 3), nf.LIFCell(), nn.MaxPool2d(2))
    models: list[tuple[Any, torch.Tensor]] = [
        (nf.SequentialState(nn.Linear(70, 40), nf.LIFCell()), x),
        (nf.SequentialState(nn.Linear(70, 40), nf.LIFCell(), nn.ReLU(), nn.Linear(40, 2)), x),
        (nf.SequentialState(nn.Linear(70, 40), nf.LIFCell(), nn.Linear(40, 2), return_hidden=True), x),
        (nf.SequentialState(*pooled), spikes(6, 3, 1, 9, 9)),
    ]
    watched = nf.SequentialState(nn.Linear(70, 40), nf.LIFCell(), nn.Linear(40, 2))
    watched[2].register_forward_hook(lambda *_: None)
    for model, inputs in [*models, (watched, x)]:
        seen.clear()
        with torch.no_grad():
            y, _ = nf.Lift(model)(inputs)
        assert torch.uint8 not in seen
        assert all(t.dtype is torch.float32 for t in tree_leaves(y))


def test_spikes_of_another_type_than_the_weights_are_refused_as_before(seen: list[torch.dtype]):
    model = nf.SequentialState(nn.Identity(), nf.LIFCell(), nn.Linear(70, 2).double())
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        nf.Lift(model)(spikes(6, 3, 70))
    assert torch.uint8 not in seen
