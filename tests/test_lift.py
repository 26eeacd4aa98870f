"""Lift gives what a loop over the steps gives, whatever it runs at once."""

from __future__ import annotations

import copy
import functools
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast.module._layers import RULES, plan
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
random_stacks = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
shapes = st.tuples(st.integers(3, 5), st.integers(2, 3))


@random_stacks
@given(stacks(VECTOR), shapes, st.booleans(), st.booleans(), st.integers(0, 5))
def test_stacks_of_vectors(modules, shape, training, hidden, drop):
    x = 15 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_stack(modules, x, training, hidden, drop)


@random_stacks
@given(stacks(IMAGE), shapes, st.booleans(), st.booleans(), st.integers(0, 5))
def test_stacks_of_images(modules, shape, training, hidden, drop):
    x = 15 * torch.randn(*shape, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_stack([*modules, nn.Flatten(), nf.LICell()], x, training, hidden, drop)


EXACT = {
    **{name: make for name, make in CELLS.items() if name != "foreign cell"},
    **{
        name: VECTOR[name]
        for name in ("BatchNorm1d", "Dropout", "Flatten", "Softmax", "Noise", "Wiretap", "Counting", "RandomStart")
    },
    **{name: VECTOR[name] for name in ("Softmax over the batch", "foreign cell", "LIF", "Delay", "Lift")},
    "ReLU": nn.ReLU,
    "LayerNorm": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "MaxPool1d": lambda: nn.Sequential(nn.Unflatten(-1, (1, WIDTH)), nn.MaxPool1d(3, 1, 1), nn.Flatten(1)),
    "AvgPool1d": lambda: nn.Sequential(nn.Unflatten(1, (-1, WIDTH)), nn.AvgPool1d(3, 1, 1), nn.Flatten(-2)),
}


@random_stacks
@given(stacks(EXACT), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.booleans())
def test_without_matrix_products_all_is_exact(modules, dtype, training):
    # The sums of the gradients of weights over the steps are in another order, so there are none.
    model = nf.SequentialState(*modules).to(dtype).requires_grad_(False).train(training)
    x = (15 * torch.randn(4, 3, WIDTH, generator=torch.Generator().manual_seed(1))).to(dtype)
    assert_same(model, x, exact=True)


# Arguments and the size of one sample, for every module without state that has a rule.
STATELESS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "Linear": ((4, 3), {}, (4,)),
    "SpikeLinear": ((4, 3), {}, (4,)),
    "SpikeConv2d": ((2, 3, 2), {}, (2, 4, 4)),
    "SpikeMaxPool2d": ((2,), {}, (2, 4, 4)),
    "SpikeAvgPool2d": ((2,), {}, (2, 4, 4)),
    "LayerNorm": ((4,), {}, (4,)),
    "RMSNorm": ((4,), {}, (4,)),
    "PixelShuffle": ((2,), {}, (4, 3, 3)),
    "PixelUnshuffle": ((2,), {}, (1, 4, 4)),
    "Softmax2d": ((), {}, (3, 4, 4)),
    "Threshold": ((0.1, 2.0), {}, (4,)),
    **{
        f"{pad}Pad{n}d": ((1, *value), {}, (2, *(3,) * n))
        for n in (1, 2, 3)
        for pad, value in (
            ("Constant", (1.5,)),
            ("Zero", ()),
            ("Reflection", ()),
            ("Replication", ()),
            ("Circular", ()),
        )
    },
    **{name: ((-1,), {}, (3, 4)) for name in ("Softmax", "LogSoftmax", "Softmin", "GLU")},
    "Dropout": ((), {}, (4,)),
    "AlphaDropout": ((), {}, (4,)),
    "FeatureAlphaDropout": ((), {}, (2, 4)),
    "RReLU": ((), {}, (4,)),
    "PReLU": ((3,), {}, (3, 4)),
    "Flatten": ((), {}, (2, 3)),
    "Unflatten": ((1, (2, 2)), {}, (4, 3)),
    "GroupNorm": ((2, 4), {}, (4, 3)),
    "LocalResponseNorm": ((2,), {}, (4, 3)),
    "ChannelShuffle": ((2,), {}, (4, 3, 3)),
    "Upsample": ((), {"scale_factor": 2, "mode": "bilinear"}, (2, 3, 3)),
    "UpsamplingNearest2d": ((), {"scale_factor": 2}, (2, 3, 3)),
    "UpsamplingBilinear2d": ((), {"scale_factor": 2}, (2, 3, 3)),
    **{f"BatchNorm{n}d": ((2,), {}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": ((2,), {"affine": True}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"Dropout{n}d": ((), {}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"{conv}{n}d": ((2, 3, 2), {}, (2, *(4,) * n)) for n in (1, 2, 3) for conv in ("Conv", "ConvTranspose")},
    **{
        f"{pool}Pool{n}d": ((2,), {}, (2, *(4,) * n))
        for n in (1, 2, 3)
        for pool in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
    },
    **{f"LPPool{n}d": ((2, 2), {}, (2, *(4,) * n)) for n in (1, 2, 3)},
}
ELEMENTWISE = {kind.__name__ for kind in RULES if kind.__module__ == "torch.nn.modules.activation"} - set(STATELESS)
NEED_A_BATCH = {
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "LocalResponseNorm",
    "ChannelShuffle",
    "PReLU",
}
NEED_A_BATCH |= {"Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"}
OTHERS = {"Embedding", "RNN", "LSTM", "GRU", "Identity"}


def test_every_rule_has_a_case():
    assert {kind.__name__ for kind in RULES if kind.__module__.split(".")[0] in ("torch", "norse_fast")} == (
        STATELESS.keys() | ELEMENTWISE | OTHERS
    )
    assert len(ELEMENTWISE) > 15


# Dropout2d warns without a batch.
UNBATCHED = (STATELESS.keys() | ELEMENTWISE) - NEED_A_BATCH - {"Dropout2d"}
CASES = [(name, (3,)) for name in sorted(STATELESS.keys() | ELEMENTWISE)] + [(name, ()) for name in sorted(UNBATCHED)]


@pytest.mark.parametrize(("name", "batch"), CASES, ids=lambda value: value if isinstance(value, str) else len(value))
def test_stateless_modules(name: str, batch: tuple[int, ...]):
    arguments, options, sample = STATELESS.get(name, ((), {}, (4,)))
    if name == "Flatten" and not batch:
        arguments = (0,)
    if name == "Unflatten" and not batch:
        arguments = (0, (2, 2))
    module = getattr(nf if name.startswith("Spike") else nn, name)(*arguments, **options).double().eval()
    assert decisions(module) == {"": True}
    assert_same(module, torch.randn(4, *batch, *sample, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(NEED_A_BATCH))
def test_modules_that_need_a_batch_say_so_without(name: str):
    """Or do what they do with a first dimension that is not a batch."""
    arguments, options, sample = STATELESS[name]
    module, x = getattr(nn, name)(*arguments, **options).eval(), torch.randn(4, *sample)
    outcomes = []
    for run in (loop, lift):
        try:
            outcomes.append(run(module, x)[0])
        except (RuntimeError, ValueError, NotImplementedError) as error:
            outcomes.append(error)
    expected, actual = outcomes
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert type(actual) is type(expected)


def test_embedding():
    x = torch.randint(0, 5, (4, 3))
    for options, fused in (({}, True), ({"max_norm": 0.5}, False), ({"scale_grad_by_freq": True}, False)):
        module = nn.Embedding(5, 2, **options)
        other = copy.deepcopy(module)
        assert decisions(module) == {"": fused}
        output, expected = nf.Lift(module)(x), torch.stack([other(frame) for frame in x])
        assert torch.equal(output, expected)
        assert torch.equal(module.weight, other.weight)
        output.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(module.weight.grad, other.weight.grad)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.BatchNorm1d(4), "takes the statistics of each step's batch"),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), "takes the statistics of each step's batch"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "updates its running statistics at each step"),
        (nn.Dropout(), "random in training"),
        (nn.RReLU(), "random in training"),
        (nn.MaxPool1d(2, return_indices=True), "returns indices too"),
        (nn.Softmax(dim=1), "its dim may be the batch; negative ones are not"),
        (nn.LSTM(4, 4), "takes a sequence at each step"),
        (nn.Bilinear(4, 4, 4), "not known; see norse_fast.register_stateless"),
        (parametrized(), "a parametrization computes its weights at each step"),
        (foreign_cell(), "its step function is not one of norse_fast"),
        (Wiretap(), "not known; see norse_fast.register_stateless"),
        (nf.LIF(record_states=True), "records its states"),
        (nf.LIF(output="sum"), "returns one output for each sequence"),
        (nf.LIFMCRecurrentCell(4, 4), "has no form for all time steps"),
        (nf.RecurrentSequential(nn.Linear(4, 4)), "not known; see norse_fast.register_stateless"),
        (nf.Lift(nf.LIFCell()), "takes a sequence at each step"),
        (nn.Sequential(nf.LIFCell()), "not known; see norse_fast.register_stateless"),
        (nn.Dropout(p=0.0), None),
        (nn.InstanceNorm1d(4), None),
        (Tuned(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_why_a_module_is_stepped(module: nn.Module, why: str | None):
    (layer,) = plan(module)
    assert (layer.over_time is None) == (why is not None)
    assert why in (None, layer.why)


def test_modules_that_are_watched_or_replaced_are_stepped():
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        module = nn.Linear(WIDTH, WIDTH)
        handle = getattr(module, f"register_{register}")(lambda *arguments: None)
        assert plan(module)[0].why == "hooks watch each step"
        handle.remove()
        assert decisions(module) == {"": True}
        handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *arguments: None)
        network = nf.SequentialState(nf.LIFCell(), nf.LICell())
        assert decisions(network) == {"": False}
        with torch.no_grad():
            _, state = nf.Lift(network)(torch.randn(3, WIDTH))
            _, state = nf.Lift(network)(torch.randn(3, WIDTH), state)
        assert [type(entry) for entry in state] == [nf.LIFFeedForwardState, nf.LIState]
        handle.remove()
    module.forward = lambda x: x + 1
    assert plan(module)[0].why == "its forward was replaced"
    assert torch.equal(nf.Lift(module)(torch.zeros(2, 1, 1)), torch.ones(2, 1, 1))


@pytest.mark.parametrize(
    "module",
    [
        nf.LIFCell(),
        nf.LIFRecurrentCell(WIDTH, WIDTH),
        nf.LILinearCell(WIDTH, WIDTH),
        nf.DelayCell(2),
        nf.SequentialState(nf.LIFCell()),
        nn.Sequential(nn.Identity()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_forward_that_is_replaced_in_its_class_sees_each_step(module: nn.Module, monkeypatch: pytest.MonkeyPatch):
    kind = next(base for base in type(module).__mro__ if "forward" in vars(base))
    forward, calls = kind.forward, []

    @functools.wraps(forward)
    def forward_and_count(*arguments: Any) -> Any:
        calls.append(arguments)
        return forward(*arguments)

    monkeypatch.setattr(kind, "forward", forward_and_count)
    nf.Lift(module)(torch.ones(5, 2, WIDTH))
    assert len(calls) == 5


def test_only_what_must_be_is_stepped():
    def network(*extra: nn.Module) -> nf.SequentialState:
        linears = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        return nf.SequentialState(
            linears[0], nf.LIFCell(), *extra[:1], nf.SequentialState(linears[1], *extra[1:2], nf.LIFCell()), linears[2]
        )

    def stepped(*extra: nn.Module) -> list[str]:
        return [name for name, fused in decisions(network(*extra)).items() if not fused]

    assert stepped() == []
    assert stepped(nn.Dropout()) == ["2"]
    assert stepped(nn.BatchNorm1d(WIDTH)) == ["2"]
    # Each has statistics of its own.
    assert stepped(nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)) == ["2", "3.1"]
    # Both draw from one generator, or update the same statistics.
    assert stepped(nn.Dropout(), nn.Dropout()) == ["2", "3.0", "3.1"]
    assert stepped(nn.Dropout(), nn.BatchNorm1d(WIDTH)) == ["2", "3.1"]
    # An initial state may be random.
    assert stepped(RandomStart()) == []
    assert stepped(RandomStart(), nn.Dropout()) == ["2", "3.0", "3.1"]
    shared = nn.BatchNorm1d(WIDTH)
    assert stepped(shared, shared) == ["2", "3.0", "3.1"]
    model = network(nn.Identity())
    model[3].register_forward_hook(lambda *arguments: None)
    assert decisions(model) == {"0": True, "1": True, "2": True, "3": False, "4": True}
    model.register_forward_hook(lambda *arguments: None)
    assert decisions(model) == {"": False}


def test_explanation():
    model = nf.SequentialState(nn.Linear(4, 4), nn.Dropout(), nn.ReLU(), nf.SequentialState(nn.Dropout(), nf.LIFCell()))
    assert nf.Lift(model).explain().splitlines() == [
        "layer  module   runs     why",
        "0      Linear   fused    one call for all time steps; sums over spikes, where they come in",
        "1      Dropout  stepped  random in training",
        "2      ReLU     stepped  between 1 and 3.0, the order of whose calls may count",
        "3.0    Dropout  stepped  random in training",
        "3.1    LIFCell  fused    one kernel for all time steps",
    ]


def test_nested_container_with_hidden_outputs():
    class Sum(nn.Module):
        def forward(self, xs):
            return sum(xs)

    inner = nf.SequentialState(nn.Linear(WIDTH, WIDTH), nf.LIFCell(), return_hidden=True)
    model = nf.SequentialState(
        nn.Linear(WIDTH, WIDTH), inner, Sum(), nn.Sequential(nn.ReLU()), return_hidden=True
    ).double()
    assert decisions(model) == {"0": True, "1": False, "2": False, "3.0": True}
    state = assert_same(model, torch.randn(3, 2, WIDTH, dtype=torch.float64))
    assert [entry is None for entry in state] == [True, False, True, True]


class Halving(nn.Module):
    """Changes its input in place."""

    def forward(self, x):
        return x.mul_(0.5)


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("last", [Halving(), nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True)])
def test_modules_that_work_in_place(last: nn.Module, hidden: bool):
    hidden = hidden and not isinstance(last, Halving)
    model = nf.SequentialState(
        nn.Linear(WIDTH, WIDTH), nf.LIFCell(), nn.Linear(WIDTH, WIDTH), last, return_hidden=hidden
    )
    assert_same(model.double(), torch.randn(3, 2, WIDTH, dtype=torch.float64))
    assert decisions(model)["0"]


class Doubling(nn.Module):
    """Changes the weights of another layer at each step, as plasticity does."""

    def __init__(self, other: list[nn.Linear], how: str) -> None:
        super().__init__()
        self.other, self.how = other, how

    @torch.no_grad()
    def forward(self, x):
        if self.how == "in place":
            self.other[0].weight.mul_(2)
        else:
            self.other[0].weight = nn.Parameter(self.other[0].weight * 2)
        return x


@pytest.mark.parametrize("how", ["in place", "anew"])
@pytest.mark.parametrize("before", [True, False])
def test_changing_the_weights_of_a_fused_layer_is_an_error(before: bool, how: str):
    linear = nn.Linear(WIDTH, WIDTH)
    doubling = Doubling([linear], how)
    model = nf.SequentialState(*([linear, doubling] if before else [doubling, linear]))
    with pytest.raises(
        RuntimeError, match=rf"weights {0 if before else 1}\.weight that changed .* in a loop over time"
    ):
        nf.Lift(model)(torch.randn(3, 2, WIDTH))


def test_outputs_that_nobody_asks_for_are_freed():
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Watched(nn.Module):
        def forward(self, x):
            alive.append(sum(output() is not None for output in outputs))
            y = x + 1
            outputs.append(weakref.ref(y))
            return y

    nf.register_stateless(Watched, lambda module, x: module.forward(x))
    try:
        with torch.no_grad():
            nf.Lift(nf.SequentialState(*(Watched() for _ in range(4))))(torch.ones(2, 1, 3))
    finally:
        del RULES[Watched]
    # Its input, and nothing before.
    assert alive == [0, 1, 1, 1]


@pytest.mark.parametrize("training", [True, False])
def test_large_outputs_are_computed_a_few_steps_at_a_time(training: bool, monkeypatch):
    monkeypatch.setattr("norse_fast.module._running._LARGEST_OUTPUT", 3 * 2 * 8 * 36 * 8)
    steps: list[int] = []
    monkeypatch.setattr(nn.Conv2d, "forward", spy(nn.Conv2d.forward, lambda module, x: steps.append(x.shape[0])))
    model = nf.SequentialState(
        nn.Conv2d(1, 8, 3, padding=1),
        nf.LIFCell(),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(72, 3),
        nf.LICell(),
    )
    x = 4 * torch.randn(7, 2, 1, 6, 6, dtype=torch.float64)
    assert_same(model.double().train(training), x)
    assert steps == [2] * 7 + [6, 6, 2]
    # No parts where their outputs would have to be copied.
    for whole in (nf.SequentialState(*model[:2]), nf.SequentialState(*model, return_hidden=True)):
        steps.clear()
        nf.Lift(whole)(x)
        assert steps == [14]


def spy(function: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        look(*arguments)
        return function(*arguments)

    return call


def test_states_go_in_and_out():
    x = torch.randn(4, 2, WIDTH)
    cell = nf.Lift(nf.LIFCell())
    assert cell.is_stateful
    z, state = cell(x[:2])
    assert isinstance(state, nf.LIFFeedForwardState)
    for carried in (cell((x[2:], state)), cell(x[2:], state), cell(x[2:], state=state)):
        assert torch.equal(torch.cat([z, carried[0]]), cell(x)[0])
    linear = nf.Lift(nn.Linear(WIDTH, 3))
    assert not linear.is_stateful
    assert linear(x).shape == (4, 2, 3)
    assert linear((x, None)).shape == (4, 2, 3)
    network = nf.SequentialState(linear, cell, nf.Lift(nn.Flatten()))
    assert network.stateful_layers == [False, True, False]
    z, states = network(x)
    assert torch.equal(states[1].v, cell(linear(x))[1].v)
    assert torch.equal(network(x, states)[0], cell(linear(x), states[1])[0])
    assert list(network.state_dict()) == ["0.lifted_module.weight", "0.lifted_module.bias"]
    assert torch.equal(pickle.loads(pickle.dumps(network))(x)[0], z)


def test_tracers_that_replace_all_calls_see_each(monkeypatch):
    called, call = [], nn.Module.__call__

    def trace(module, *arguments, **options):
        called.append(type(module).__name__)
        return call(module, *arguments, **options)

    lift = nf.Lift(nf.SequentialState(nn.Linear(WIDTH, WIDTH), nf.LIFCell()))
    x = 20 * torch.rand(3, 2, WIDTH)
    expected = lift(x)[0]
    monkeypatch.setattr(nn.Module, "__call__", trace)
    torch.testing.assert_close(lift(x)[0], expected)
    assert called == ["Lift", *3 * ["SequentialState", "Linear", "LIFCell"]]


def test_errors():
    lift = nf.Lift(nf.SequentialState(nf.LIFCell(), nf.SequentialState(nf.LICell())))
    for x in (torch.tensor(1.0), torch.ones(0, 3)):
        with pytest.raises(ValueError, match=r"x: got shape \(.*\), expected \(T, \.\.\.\) with T of 1 or more"):
            lift(x)
    with pytest.raises(TypeError, match="x: got list, expected a tensor"):
        lift([1.0])
    with pytest.raises(ValueError, match="state: got 1 entries, expected 2"):
        lift(torch.ones(2, 3), [None])
    with pytest.raises(ValueError, match="state: got 2 entries, expected 1"):
        lift(torch.ones(2, 3), [None, [None, None]])
    with pytest.raises(TypeError, match=r"kind: got .*, expected a subclass of torch\.nn\.Module"):
        nf.register_stateless(nn.ReLU())


def test_sparse_input():
    x = (torch.rand(3, 2, WIDTH) < 0.3).float() * 20
    expected, _ = nf.Lift(nf.LIFCell())(x)
    z, _ = nf.Lift(nf.SequentialState(nf.LIFCell()))(x.to_sparse())
    assert z.is_sparse
    assert torch.equal(z.to_dense(), expected)


class Block(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


def test_registered_modules(monkeypatch):
    monkeypatch.setattr("norse_fast.module.lift.RULES", rules := dict(RULES))
    monkeypatch.setattr("norse_fast.module._layers.RULES", rules)
    x = torch.randn(3, 2, WIDTH, dtype=torch.float64)
    block = Block(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Sigmoid()).double()
    assert decisions(block) == {"": False}
    nf.register_stateless(Block)
    assert plan(block)[0].why == "takes the statistics of each step's batch"
    assert decisions(block.eval()) == {"": True}
    assert_same(nf.SequentialState(block, nf.LIFCell()), x)
    block.inner[0].register_forward_hook(lambda *arguments: None)
    assert decisions(block) == {"": False}
    assert decisions(type("Derived", (Block,), {})()) == {"": False}
    nf.register_stateless(Noise, unless=lambda module: "random")
    assert plan(Noise())[0].why == "random"
    nf.register_stateless(Halving, lambda module, x: x / 2)
    assert torch.equal(nf.Lift(Halving())(x), x / 2)


@pytest.mark.parametrize("training", [True, False])
def test_compiled(training: bool, generator):
    model = nf.SequentialState(
        nn.Conv2d(1, 2, 3),
        nf.LIFCell(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nf.SequentialState(nn.Linear(8, 6), nn.BatchNorm1d(6), nf.LIFCell()),
        nf.LIFRecurrentCell(6, 5),
        nf.LILinearCell(5, 3),
        return_hidden=True,
    )
    lift = nf.Lift(model).double().train(training)
    other = copy.deepcopy(lift)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    x = 4 * torch.randn(5, 2, 1, 6, 6, generator=generator, dtype=torch.float64)

    def twice(run):
        first, state = run(x[:3])
        # torch.compile warns about inputs that have a history.
        return first, run(x[3:], pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, state))[0]

    (first, hidden), (compiled_first, compiled_hidden) = twice(lift), twice(compiled)
    assert max(float(h.detach().sum()) for h in hidden[1:5]) > 0
    for actual, expected in zip([*compiled_first, *compiled_hidden], [*first, *hidden]):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    sum(h.sum() for h in hidden).backward()
    sum(h.sum() for h in compiled_hidden).backward()
    for p, q in zip(lift.parameters(), other.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-10, atol=1e-10)
    for a, b in zip(lift.buffers(), other.buffers()):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_norse_gives_the_same(norse, generator):
    linear = nn.Linear(WIDTH, WIDTH)
    x = 20 * torch.rand(6, 2, WIDTH, generator=generator)
    theirs, their_state = norse.Lift(norse.SequentialState(linear, norse.LIFCell(), nn.ReLU(), norse.LICell()))(x)
    ours, state = nf.Lift(nf.SequentialState(linear, nf.LIFCell(), nn.ReLU(), nf.LICell()))(x)
    assert theirs.abs().sum() > 0
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(state[1].v, their_state[1].v)


def constant_step(x, state=None, p=1.0):
    state = torch.zeros_like(x) if state is None else state
    return x + state, state + p


def test_lifted_step_functions(generator):
    x = 5 * torch.rand(5, 2, 3, generator=generator)
    zeros = torch.zeros(2, 3)
    for step, state, p in (
        (nf.lif_feed_forward_step, nf.LIFFeedForwardState(zeros, zeros), nf.LIFParameters()),
        (nf.lif_box_feed_forward_step, nf.LIFBoxFeedForwardState(zeros), nf.LIFBoxParameters()),
        (nf.izhikevich_feed_forward_step, nf.IzhikevichState(zeros - 65, zeros), nf.tonic_spiking.p),
        (constant_step, None, 2.0),
        (constant_step, zeros, 2.0),
    ):
        expected, last = [], state
        for frame in x:
            output, last = step(frame, last, p)
            expected.append(output)
        lifted = pickle.loads(pickle.dumps(nf.lift(step, p)))
        for output, found in (lifted(x, state=state), nf.lift(step)(x, state=state, p=p)):
            assert torch.equal(output, torch.stack(expected))
            assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(last)))
    # An argument of the call goes before the one of lift.
    assert not nf.lift(nf.lif_feed_forward_step, nf.LIFParameters(v_th=torch.tensor(1e9)))(
        x, state=nf.LIFFeedForwardState(zeros, zeros)
    )[0].any()
    assert nf.lift(nf.lif_feed_forward_step, nf.LIFParameters(v_th=torch.tensor(1e9)))(
        x, state=nf.LIFFeedForwardState(zeros, zeros), p=nf.LIFParameters()
    )[0].any()


def test_lifted_recurrent_step(generator):
    x = 5 * torch.rand(5, 2, 3, generator=generator)
    zeros = torch.zeros(2, 4)
    weights = {"input_weights": torch.randn(4, 3), "recurrent_weights": torch.randn(4, 4)}
    state = nf.LIFState(zeros, zeros, zeros)
    output, last = nf.lift(nf.lif_step, nf.LIFParameters())(x, state=state, **weights)
    expected = []
    for frame in x:
        z, state = nf.lif_step(frame, state, *weights.values(), nf.LIFParameters())
        expected.append(z)
    assert torch.equal(output, torch.stack(expected))
    torch.testing.assert_close(last.v, state.v)
    # One that has no form for all time steps.
    state = nf.LIState(zeros, zeros)
    v, _ = nf.lift(nf.li_step)(x, state=state, input_weights=weights["input_weights"])
    assert torch.equal(v[0], nf.li_step(x[0], state, weights["input_weights"])[0])


def test_lifted_step_without_what_it_needs():
    lifted = nf.lift(nf.lif_feed_forward_step)
    with pytest.raises(TypeError, match="missing a required argument: 'state'"):
        lifted(torch.ones(3, 2))
    with pytest.raises(TypeError, match="missing a required argument: 'p'"):
        lifted(torch.ones(3, 2), state=nf.LIFFeedForwardState(torch.zeros(2), torch.zeros(2)))
    with pytest.raises(ValueError, match="input_tensor: got no time steps"):
        nf.lift(constant_step)(torch.ones(0, 2))


@pytest.mark.usefixtures("products_of_any_size")
def test_checkpoints_of_windows(generator):
    """As docs/layer_by_layer.md has it, also with a context, which backward must be given."""
    model = nf.Lift(
        nf.SequentialState(nn.Linear(5, 40), nf.LIFRecurrentCell(40, 30), nn.Linear(30, 3), nf.LICell())
    ).double()
    x = 3 * torch.rand(35, 2, 5, generator=generator, dtype=torch.float64)

    def windows(x: torch.Tensor, **options: Any) -> torch.Tensor:
        outputs, state = [], None
        for window in x.split(10):
            y, state = checkpoint(model, window, state, use_reentrant=False, **options)
            outputs.append(y)
        return torch.cat(outputs)

    def gradients(output: torch.Tensor) -> list[torch.Tensor]:
        return [*torch.autograd.grad(output.square().sum(), list(model.parameters()))]

    expected = gradients(model(x)[0])
    assert all(gradient.any() for gradient in expected)
    torch.testing.assert_close(gradients(windows(x)), expected, rtol=1e-9, atol=1e-12)
    with nf.dense_products():
        output = windows(x, context_fn=lambda: (nf.dense_products(), nf.dense_products()))
    torch.testing.assert_close(gradients(output), expected, rtol=1e-9, atol=1e-12)
