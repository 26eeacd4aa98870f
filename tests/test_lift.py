"""Lift gives what a loop over the steps gives, whatever it runs at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast.module._layers import RULES, plan

WIDTH = 4


def loop(model: nn.Module, x: torch.Tensor, state: Any = None) -> tuple[Any, Any]:
    outputs = []
    for step in range(x.shape[0]):
        output, state = model(x[step], state)
        outputs.append(output)
    return pytree.tree_map(lambda *steps: torch.stack(steps), *outputs), state


def results(
    run: Callable[..., Any], model: nn.Module, x: torch.Tensor, state: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Output and state of a run with gradients and what it did to the model, under a fixed seed."""
    x = x.clone().requires_grad_()
    state = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(), state)
    given = [t for t in pytree.tree_leaves(state) if isinstance(t, torch.Tensor)]
    model.zero_grad()
    torch.manual_seed(3)
    # Not the leaf itself, which nothing may change in place.
    output, state = run(model, x * 1, state)
    found = [t for t in pytree.tree_leaves((output, state)) if isinstance(t, torch.Tensor) and t.requires_grad]
    sum((t * torch.linspace(0.5, 1.5, t.numel()).reshape(t.shape).to(t)).sum() for t in found).backward()
    values = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    values |= {f"gradient of state {k}": t.grad for k, t in enumerate(given) if t.grad is not None}
    values |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    return (output, state), values | {"gradient of x": x.grad, "random": torch.rand(2)}


def assert_same(model: nn.Module, x: torch.Tensor, state: Any = None, exact: bool = False) -> Any:
    """Compare Lift with the loop; return its state."""
    other = copy.deepcopy(model)
    expected, expected_values = results(loop, other, x, state)
    actual, actual_values = results(lambda m, *arguments: nf.Lift(m)(*arguments), model, x, state)

    expected_leaves, expected_structure = pytree.tree_flatten(expected)
    leaves, structure = pytree.tree_flatten(actual)
    assert structure == expected_structure
    assert actual_values.keys() == expected_values.keys()
    pairs = [(f"result {k}", *pair) for k, pair in enumerate(zip(leaves, expected_leaves))]
    pairs += [(name, actual_values[name], value) for name, value in expected_values.items()]
    for name, a, b in pairs:
        if not isinstance(b, torch.Tensor):
            assert a is b or a == b
        elif exact or not b.is_floating_point():
            assert torch.equal(a, b), name
        else:
            a, b = a.detach(), b.detach()
            assert torch.isfinite(b).all(), name
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert (a - b).abs().max() <= 1e-10 * max(1.0, float(b.abs().max())), name
    return actual[1]


def decisions(module: nn.Module) -> dict[str, bool]:
    """Whether each layer is fused."""
    return {layer.name: layer.over_time is not None for layer in plan(module)}


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.inner(x).tanh()


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Wiretap(nf.LIFCell):
    """A subclass whose forward is another."""

    def forward(self, input_tensor, state=None):
        z, state = super().forward(input_tensor, state)
        return z * state.v.mean(), state


class Tuned(nf.LIFCell):
    """A subclass that only chooses parameters."""

    def __init__(self) -> None:
        super().__init__(nf.LIFParameters(v_th=torch.tensor(0.5)))


class Counting(nn.Module):
    """Numbers the steps that it has seen, in a state of its own kind."""

    def forward(self, x, state=None):
        count = torch.zeros((), dtype=x.dtype) if state is None else state
        return x + count, count + 1


def foreign_cell() -> nf.SNNCell:
    def step(x, state, p, dt):
        return (state + x).relu(), 0.9 * state + x

    return nf.SNNCell(step, torch.zeros_like, None)


def parametrized() -> nn.Module:
    # Each access of the weight is another iteration.
    return nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))


CELLS = {
    "LIFCell": nf.LIFCell,
    "LICell": nf.LICell,
    "LIFBoxCell": nf.LIFBoxCell,
    "IAFCell": nf.IAFCell,
    "LIFRefracCell": nf.LIFRefracCell,
    "LSNNCell": nf.LSNNCell,
    "Tuned": Tuned,
}
# Each maps (B, WIDTH) to the same shape.
VECTOR = {
    **CELLS,
    "Linear": lambda: nn.Linear(WIDTH, WIDTH),
    "LayerNorm": lambda: nn.LayerNorm(WIDTH),
    "BatchNorm1d": lambda: nn.BatchNorm1d(WIDTH),
    "Dropout": nn.Dropout,
    "in place": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)),
    "random in place": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2, inplace=True)),
    "Softplus": nn.Softplus,
    "Softmax": lambda: nn.Softmax(dim=-1),
    "Softmax over the batch": lambda: nn.Softmax(dim=0),
    "PReLU": lambda: nn.PReLU(WIDTH),
    "Flatten": nn.Flatten,
    "LIFRecurrentCell": lambda: nf.LIFRecurrentCell(WIDTH, WIDTH),
    "LSNNRecurrentCell": lambda: nf.LSNNRecurrentCell(WIDTH, WIDTH),
    "LILinearCell": lambda: nf.LILinearCell(WIDTH, WIDTH),
    "LIFMCRecurrentCell": lambda: nf.LIFMCRecurrentCell(WIDTH, WIDTH),
    "Unknown": Unknown,
    "Noise": Noise,
    "Wiretap": Wiretap,
    "Counting": Counting,
    "foreign cell": foreign_cell,
    "parametrized": parametrized,
    "Sequential": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), nn.ReLU()),
    "LSTM": lambda: nn.LSTM(WIDTH, WIDTH),
    "LIF": nf.LIF,
    "LIFRecurrent": lambda: nf.LIFRecurrent(WIDTH, WIDTH),
    "Lift": lambda: nf.Lift(nf.LIFCell()),
}
# Each maps (B, 2, 6, 6) to the same shape.
IMAGE = {
    "LIFCell": nf.LIFCell,
    "Conv2d": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 2, 3, padding=1),
    "MaxPool2d": lambda: nn.MaxPool2d(3, 1, 1),
    "AvgPool2d": lambda: nn.AvgPool2d(3, 1, 1),
    "BatchNorm2d": lambda: nn.BatchNorm2d(2),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(2, track_running_stats=True),
    "GroupNorm": lambda: nn.GroupNorm(1, 2),
    "Dropout2d": nn.Dropout2d,
    "Upsample": lambda: nn.Upsample(6, mode="nearest"),
    "PReLU": lambda: nn.PReLU(2),
}


@st.composite
def stacks(draw: st.DrawFn, kinds: dict[str, Callable[[], nn.Module]], depth: int = 1) -> list[nn.Module]:
    """Modules one after another, some of them in containers, some in several places, some with hooks."""
    torch.manual_seed(draw(st.integers(0, 100)))
    modules: list[nn.Module] = []
    for name in draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=5)):
        module = kinds[name]()
        if draw(st.integers(0, 15)) == 0:
            module.register_forward_hook(count_up)
        modules.append(module)
    if draw(st.booleans()):
        # Where it was again, so that it has as many dimensions.
        modules.append(draw(st.sampled_from(modules)))
    if depth and draw(st.booleans()):
        inner = draw(stacks(kinds, depth=depth - 1))
        nested = nf.SequentialState(*inner)
        if draw(st.integers(0, 7)) == 0:
            nested.register_forward_hook(count_up)
        modules.insert(draw(st.integers(0, len(modules))), nested)
    return modules


CALLS: list[Any] = []


def count_up(module: nn.Module, inputs: Any, output: Any) -> None:
    tensor = output if isinstance(output, torch.Tensor) else output[0]
    CALLS.append((type(module), tuple(tensor.shape)))


def check_stack(modules: list[nn.Module], x: torch.Tensor, training: bool, hidden: bool, drop: int) -> None:
    model = nf.SequentialState(*modules, return_hidden=hidden).double().train(training)
    CALLS.clear()
    state = assert_same(model, x[:2])
    half = len(CALLS) // 2
    assert CALLS[:half] == CALLS[half:]
    # A state that is carried over; one entry starts anew.
    state[drop % len(state)] = None
    state = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, state)
    assert_same(model, x[2:], state)


# Without a deadline: the machine may be busy.
random_stacks = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
shapes = st.tuples(st.integers(3, 5), st.integers(2, 3))


@random_stacks
@given(stacks(VECTOR), shapes, st.booleans(), st.booleans(), st.integers(0, 5))
def test_stacks_of_vectors(modules, shape, training, hidden, drop):
    x = 4 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_stack(modules, x, training, hidden, drop)


@random_stacks
@given(stacks(IMAGE), shapes, st.booleans(), st.booleans(), st.integers(0, 5))
def test_stacks_of_images(modules, shape, training, hidden, drop):
    x = 4 * torch.randn(*shape, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_stack([*modules, nn.Flatten(), nf.LICell()], x, training, hidden, drop)
