"""Lift gives what a loop over the steps gives, whatever it runs at once."""

from __future__ import annotations

import copy
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
from norse_fast.module import _running
from norse_fast.module._layers import RULES, plan

from .lifted import (
    CELLS,
    IMAGE,
    VECTOR,
    WIDTH,
    Noise,
    assert_same,
    decisions,
)


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
    watched = spy(nn.functional.conv2d, lambda x, *_: steps.append(x.shape[0]))
    monkeypatch.setattr(nn.functional, "conv2d", watched)
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


@pytest.mark.usefixtures("products_of_any_size")
@pytest.mark.parametrize("training", [True, False])
def test_large_outputs_of_kernels_are_computed_more_steps_at_a_time(training: bool, monkeypatch):
    of_a_step = 2 * 8 * 36 * 4
    for name, steps in (("_LARGEST_OUTPUT", 1), ("_LARGEST_IN_TRAINING", 4), ("_LARGEST_OUTPUT_OF_KERNELS", 8)):
        monkeypatch.setattr(_running, name, steps * of_a_step)
    parts: list[int] = []
    monkeypatch.setattr(_running, "_run_layers", spy(_running._run_layers, lambda *a: parts.append(a[2].shape[0])))
    layers = [nn.Conv2d(1, 8, 3, padding=1), nf.LIFCell(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3), nf.LICell()]
    model = nf.Lift(nf.SequentialState(*layers))

    def parts_of(x: torch.Tensor) -> list[int]:
        parts.clear()
        with torch.set_grad_enabled(training):
            model(x)
        return parts

    spikes = (torch.rand(12, 2, 1, 6, 6) < 0.2).float()
    assert parts_of(spikes) == ([4] * 3 if training else [6, 6])
    assert parts_of(2 * spikes) == [1] * 12
    # What is seen of the steps before counts more than what was expected.
    spikes[1:] = 1
    assert parts_of(spikes) == ([4] if training else [6]) + [1] * (8 if training else 6)
    with nf.dense_products():
        assert parts_of(spikes) == [1] * 12
    # Nor do outputs of PyTorch's own become larger.
    spikes = (spikes * (torch.rand_like(spikes) < 0.2)).float()
    for own in (nn.ReLU(), nf.SpikeConv2d(8, 8, 1, groups=2)):
        model = nf.Lift(nf.SequentialState(*layers[:2], own, *layers[2:]))
        assert parts_of(spikes)[-1] == 1


def test_large_input_of_a_layer_without_outputs(monkeypatch):
    monkeypatch.setattr(_running, "_LARGEST_OUTPUT", 8)
    with pytest.warns(UserWarning, match="zero-element"):
        model = nf.SequentialState(nn.Linear(5, 0), nf.LICell())
    x = torch.rand(6, 2, 5)
    assert nf.Lift(model)(x)[0].shape == (6, 2, 0)


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


class Total(nn.Module):
    """Returns what it keeps, and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, WIDTH, dtype=torch.float64))

    def forward(self, x):
        return self.total.add_(x.detach())


@pytest.mark.parametrize("behind", [nn.ReLU, nn.Flatten, lambda: nn.Linear(WIDTH, WIDTH).double()])
@pytest.mark.parametrize("grad", [False, True])
def test_a_module_that_returns_what_it_changes_later(behind: Callable[[], nn.Module], grad: bool):
    torch.manual_seed(0)
    model, x = nn.Sequential(Total(), behind()), torch.rand(5, 1, WIDTH, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        other = copy.deepcopy(model)
        expected = torch.stack([other(frame).clone() for frame in x])
        torch.testing.assert_close(nf.Lift(model)(x), expected, rtol=1e-12, atol=0)
    assert not torch.equal(expected[0], expected[-1])


@pytest.mark.parametrize("learn", [(), ("tau_mem_inv",)])
def test_changing_the_parameters_of_a_fused_neuron_is_an_error(learn: tuple[str, ...]):
    class Homeostasis(nn.Module):
        def forward(self, z):
            cell.p.v_th.add_(0.5 * z.mean())
            return z

    class Replace(nn.Module):
        def forward(self, z):
            cell.p = cell.p._replace(v_th=cell.p.v_th + 0.5)
            return z

    x = torch.full((5, 2, 3), 20.0)
    for after in (Homeostasis(), Replace())[: 1 if learn else 2]:
        cell = nf.LIFCell(nf.LIFParameters(v_th=torch.tensor(1.0)), learn=learn)
        nf.Lift(nf.SequentialState(cell, nn.Identity()))(x)  # those that nobody changes
        with torch.no_grad(), pytest.raises(RuntimeError, match=r"weights 0\.p\.v_th that changed"):
            nf.Lift(nf.SequentialState(cell, after))(x)


@pytest.mark.parametrize("stepped", [Noise, lambda: nn.Dropout(0.1)], ids=["unknown", "Dropout"])
def test_transforms_over_the_weights_beside_a_layer_that_is_stepped(stepped: Callable[[], nn.Module]):
    layers = nn.Linear(WIDTH, WIDTH), nf.LIFCell(), stepped(), nn.Linear(WIDTH, 2), nf.LICell()
    model = nf.SequentialState(*layers).double()
    lifted, x = nf.Lift(model), torch.ones(5, 2, WIDTH, dtype=torch.float64)
    weights = {name: p.detach() for name, p in lifted.named_parameters()}

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.func.functional_call(lifted, weights, (x,))[0].sum()

    gradients = torch.func.grad(loss)(weights)
    torch.manual_seed(0)
    expected = torch.autograd.grad(lifted(x)[0].sum(), list(model.parameters()))
    for name, gradient in zip(weights, expected):
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("output", "kind"), [((None,), "NoneType"), ({"n": 3}, "int")])
def test_outputs_that_cannot_be_stacked(output: Any, kind: str):
    class More(nn.Module):
        def forward(self, x):
            return x, output

    with pytest.raises(TypeError, match=f"got {kind} in the output of layer '1' \\(More\\), expected tensors"):
        nf.Lift(nn.Sequential(nn.Linear(WIDTH, WIDTH), More()))(torch.ones(3, 2, WIDTH))
