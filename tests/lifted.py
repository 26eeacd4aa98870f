"""Models, and a loop over the steps, against which Lift is compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast.module._layers import plan
from norse_fast.utils.state import _is_module_stateful

WIDTH = 4


def loop(model: nn.Module, x: torch.Tensor, state: Any = None) -> tuple[Any, Any]:
    outputs = []
    for step in range(x.shape[0]):
        if _is_module_stateful(model):
            output, state = model(x[step], state)
        else:
            output = model(x[step])
        outputs.append(output)
    return pytree.tree_map(lambda *steps: torch.stack(steps), *outputs), state


def lift(model: nn.Module, x: torch.Tensor, state: Any = None) -> tuple[Any, Any]:
    lifted = nf.Lift(model)
    return lifted(x, state) if lifted.is_stateful else (lifted(x), state)


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
    actual, actual_values = results(lift, model, x, state)

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


class RandomStart(nf.LIFCell):
    def initial_state(self, input_tensor):
        return nf.LIFFeedForwardState(v=torch.rand_like(input_tensor), i=torch.zeros_like(input_tensor))


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
    "DelayCell": lambda: nf.DelayCell(torch.arange(WIDTH)),
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
    "learned DelayCell": lambda: nf.DelayCell(torch.linspace(0.0, 2.5, WIDTH), learnable=True),
    "DelayedLinearCell": lambda: nf.DelayedLinearCell(WIDTH, WIDTH, max_delay=2),
    "LIFMCRecurrentCell": lambda: nf.LIFMCRecurrentCell(WIDTH, WIDTH),
    "Unknown": Unknown,
    "Noise": Noise,
    "Wiretap": Wiretap,
    "RandomStart": RandomStart,
    "empty": nn.Sequential,
    "empty with state": nf.SequentialState,
    "Counting": Counting,
    "foreign cell": foreign_cell,
    "parametrized": parametrized,
    "Sequential": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), nn.ReLU()),
    "LSTM": lambda: nn.LSTM(WIDTH, WIDTH),
    "LIF": nf.LIF,
    "LIFRecurrent": lambda: nf.LIFRecurrent(WIDTH, WIDTH),
    "Delay": lambda: nf.Delay(torch.arange(WIDTH)),
    "DelayedLinear": lambda: nf.DelayedLinear(WIDTH, WIDTH, max_delay=2),
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
