"""What NIR says of states: each module has its own, which goes to its next call and nowhere else."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import norse_fast as nf

from .packages import find

nir = find("nir")
pytestmark = pytest.mark.needs("nir")


def run(model: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    outputs, state = [], None
    for frame in x:
        z, state = model(frame, state)
        outputs.append(z)
    return torch.stack(outputs)


class Model(nn.Module):
    """Two layers with neurons, called as a function says."""

    def __init__(self, call: Callable[[Model, torch.Tensor, Any], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.c, self.d = nf.LIFBoxCell(), nf.LIFBoxCell()
        self.both = nf.SequentialState(nn.Linear(3, 3), nf.LIFCell())
        self.unused = nn.Linear(3, 3)
        self.call = call
        for layer in (self.a, self.b, self.both[0]):
            nn.init.uniform_(layer.weight, 2.0, 3.0)  # so that neurons fire

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        return self.call(self, x, state)


def in_order(m: Model, x: torch.Tensor, state: Any) -> Any:
    first, second = (None, None) if state is None else state
    z, first = m.c(m.a(x), first)
    z, second = m.d(m.b(z), second)
    return z, (first, second)


def by_name(m: Model, x: torch.Tensor, state: Any) -> Any:
    state = {} if state is None else state
    z, first = m.c(state=state.get("c"), input_tensor=m.a(x))
    z, second = m.d(m.b(z), state=state.get("d"))
    return z, {"c": first, "d": second}


def nested(m: Model, x: torch.Tensor, state: Any) -> Any:
    first, second = (None, None) if state is None else state
    z, first = m.both(x, first)
    y, second = m.d(m.b(z) + z, second)
    return y, [first, second]


def detached(m: Model, x: torch.Tensor, state: Any) -> Any:
    """As truncated backpropagation does."""
    if state is not None:
        state = nf.LIFBoxFeedForwardState(state[0].v.detach()), state[1]
    return in_order(m, x, state)


def with_the_output(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, own = m.c(m.a(x), None if state is None else state[1])
    return z, (z, own)


@pytest.mark.parametrize("call", [in_order, by_name, nested, detached, with_the_output, lambda m, x, s: m.c(m.a(x), s)])
def test_states_of_its_modules_come_back(call: Callable[[Model, torch.Tensor, Any], Any]):
    model, x = Model(call), 9 * torch.rand(20, 2, 3)
    expected = run(model, x)
    assert expected.any()
    assert torch.equal(run(nf.from_nir(nf.to_nir(model, x[0])), x), expected)


def fed_back(m: Model, x: torch.Tensor, state: Any) -> Any:
    before, own = (None, None) if state is None else state
    h = m.a(x) if before is None else m.a(x) + m.b(before)
    z, own = m.c(h, own)
    return z, (z, own)


def fed_back_scaled(m: Model, x: torch.Tensor, state: Any) -> Any:
    before, own = (None, None) if state is None else state
    z, own = m.c(m.a(x) if before is None else m.a(x) + 40 * m.b(before), own)
    return z, (z, own)


def of_another(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, state = m.c(m.a(x), state)
    return m.d(m.b(z), state)


def exchanged(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, (first, second) = in_order(m, x, state)
    return z, (second, first)


def forgotten(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, state = m.c(m.a(x), state)
    return m.d(m.b(z))[0], state


def summed(m: Model, x: torch.Tensor, state: Any) -> Any:
    total, own = (None, None) if state is None else state
    z, own = m.c(m.a(x), own)
    total = z if total is None else total + z
    return total, (total, own)


def of_the_step_before(m: Model, x: torch.Tensor, state: Any) -> Any:
    before, own = (None, None) if state is None else state
    z, own = m.c(m.a(x), own)
    return (z if before is None else before), (z, own)


def switching(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, (first, second) = in_order(m, x, state)
    return (z if state is None else m.a(x)), (first, second)


def turned_round(m: Model, x: torch.Tensor, state: Any) -> Any:
    return m.both(x, None if state is None else [None, nf.LIFFeedForwardState(state[1].i, state[1].v)])


def silenced(m: Model, x: torch.Tensor, state: Any) -> Any:
    return m.both(x, None if state is None else [None, nf.LIFFeedForwardState(state[1].v, 0.0)])


def scaled(m: Model, x: torch.Tensor, state: Any) -> Any:
    return m.c(m.a(x), None if state is None else nf.LIFBoxFeedForwardState(state.v * 0.5))


def behind(m: Model, x: torch.Tensor, state: Any) -> Any:
    z, state = m.c(m.a(x), state)
    return state, z


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (fed_back, "other connections after the first step"),
        (fed_back_scaled, "the operation 'mul'"),
        (of_another, "a state that 'd' did not return"),
        (exchanged, "a state that 'c' did not return"),
        (forgotten, "no state for 'd' after the first step"),
        (behind, "a state that 'c' did not return"),
        (summed, "other connections after the first step"),
        (of_the_step_before, "other connections after the first step"),
        (switching, "other connections after the first step"),
        (scaled, "the operation 'mul'"),
        (turned_round, "the operation 'LIFFeedForwardState'"),
        (silenced, "the operation 'LIFFeedForwardState'"),
        (lambda m, x, s: {"out": m.a(x)}, "a dictionary of outputs"),
        (lambda m, x, s: (m.c(m.a(x))[0], in_order(m, x, s)[1]), "two calls of 'c' in one step"),
    ],
)
def test_states_that_go_elsewhere_are_refused(call: Callable[[Model, torch.Tensor, Any], Any], message: str):
    with pytest.raises(ValueError, match=f"module: got {message} in a Model, expected"):
        nf.to_nir(Model(call), torch.rand(2, 3))


class Separate(Model):
    """With an argument for each state."""

    def forward(self, x: torch.Tensor, c: Any = None, d: Any = None, mask: Any = None) -> Any:  # type: ignore[override]
        z, c = self.c(self.a(x), c)
        z, d = self.d(self.b(z), d)
        return z, c, d, mask


class Exchanged(Separate):
    def forward(self, x: torch.Tensor, c: Any = None, d: Any = None) -> Any:  # type: ignore[override]
        z, c, d, _ = super().forward(x, c, d)
        return z, d, c


class Flagged(Separate):
    def forward(self, x: torch.Tensor, hidden: Any = None, flag: bool = True) -> Any:  # type: ignore[override]
        return exchanged(self, x, hidden)


class Unpaired(Separate):
    def forward(self, x: torch.Tensor, c: Any = None, d: Any = None, e: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, c, d)[:3]


class Required(Model):
    def forward(self, x: torch.Tensor, state: Any) -> Any:
        z, first = self.c(self.a(x), state[0])
        z, second = self.d(self.b(z), state[1])
        return z, (first, second)


def test_states_in_arguments_of_their_own():
    x = torch.rand(2, 3)
    edges = nf.to_nir(Model(in_order), x).edges
    assert nf.to_nir(Separate(in_order), x).edges == edges
    with pytest.raises(ValueError, match="got a state that 'c' did not return in a Exchanged"):
        nf.to_nir(Exchanged(in_order), x)
    with pytest.raises(ValueError, match="got no default of 'state' in a Required, expected None"):
        nf.to_nir(Required(in_order), x)
    with pytest.raises(ValueError, match="got a state that 'c' did not return in a Flagged"):
        nf.to_nir(Flagged(in_order), x)
    with pytest.raises(ValueError, match="got 2 states for 3 arguments in a Unpaired, expected one for each"):
        nf.to_nir(Unpaired(in_order), x)


def test_states_that_are_looked_at_are_told():
    def looking(m: Model, x: torch.Tensor, state: Any) -> Any:
        if state is not None and state[0].v.shape != x.shape:
            state = None
        return in_order(m, x, state)

    def checking(m: Model, x: torch.Tensor, state: Any) -> Any:
        assert state is None or isinstance(state[0], nf.LIFBoxFeedForwardState)
        return in_order(m, x, state)

    x = torch.rand(2, 3)
    for call, error in ((looking, "TraceError"), (checking, "AssertionError")):
        with pytest.warns(UserWarning, match=rf"got a Model whose second step torch.fx cannot trace \({error}: "):
            graph = nf.to_nir(Model(call), x)
        assert graph.edges == nf.to_nir(Model(in_order), x).edges

    def doubling(m: Model, x: torch.Tensor, state: Any) -> Any:
        return looking(m, x + x, state)

    with pytest.raises(ValueError, match="got one output added twice in a Model"):
        nf.to_nir(Model(doubling), x)


class Optional(Model):
    def forward(self, x: Any = None, state: Any = None) -> Any:
        return in_order(self, x, state)


class Lifts(nn.Module):
    """Of one class, and one of them without a state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nf.Lift(nf.SequentialState(nn.Linear(3, 3), nf.LIFBoxCell())),
            nf.Lift(nn.Linear(3, 3)),
        )

    def forward(self, x: torch.Tensor, state: Any = None) -> torch.Tensor:
        z, state = self.first(x, state)
        return self.second(z)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_models_that_nothing_keeps_from_being_written():
    x = torch.rand(2, 3)
    edges = nf.to_nir(Model(in_order), x).edges
    assert nf.to_nir(Optional(in_order), x).edges == edges
    compiled = Model(in_order)
    compiled.compile(backend="eager")
    assert nf.to_nir(compiled, x).edges == edges
    assert nf.to_nir(nf.SequentialState(nn.Linear(3, 0), nf.LIFBoxCell()), x).nodes["_1"].tau.shape == (0,)
    assert nf.to_nir(Lifts(), torch.rand(4, 2, 3)).edges == [("x", "first"), ("first", "second"), ("second", "output")]


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell, self.state = nn.Linear(3, 3), nf.LIFBoxCell(), None
        nn.init.uniform_(self.layer.weight, 2.0, 3.0)
        self.outputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, self.state = self.cell(self.layer(x), self.state)
        self.outputs.append(z)
        self.last = z
        return z


def test_what_a_module_remembers_stays_as_it_was():
    model, x = Remembering(), 9 * torch.rand(20, 2, 3)
    imported = nf.from_nir(nf.to_nir(model, x[0]))
    assert model.state is None
    assert model.outputs == []
    assert not hasattr(model, "last")
    expected = torch.stack([model(frame) for frame in x])
    assert expected.any()
    assert torch.equal(run(imported, x), expected)
    with pytest.raises(ValueError, match=r"a tensor that it holds in a Remembering.*let states be None at first"):
        nf.to_nir(model, x[0])
    assert len(model.outputs) == 20
    assert isinstance(model.state, nf.LIFBoxFeedForwardState)


class Elsewhere(Remembering):
    kept = types.SimpleNamespace(state=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, self.kept.state = self.cell(self.layer(x), self.kept.state)
        return z


def test_states_that_are_kept_elsewhere_are_told():
    with pytest.raises(
        ValueError, match=r"got a Elsewhere that nirtorch cannot write .*keep states in tuples, lists and"
    ):
        nf.to_nir(Elsewhere(), torch.rand(2, 3))


class Deciding(Remembering):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_told():
    with pytest.raises(
        ValueError, match=r"got a Deciding that torch.fx cannot trace \(TraceError: .*without conditions"
    ):
        nf.to_nir(Deciding(), torch.rand(2, 3))


def doubled(x: torch.Tensor, state: Any, *weights_and_p: Any, dt: float = 0.001) -> Any:
    *weights, p, dt = weights_and_p
    step: Any = nf.lif_step if weights else nf.lif_feed_forward_step
    return step(2 * x, state, *weights, p, dt)


def with_step(cell: Any, step: Callable[..., Any]) -> Any:
    cell.activation = step
    return cell


class Raised(nf.LIFCell):
    def initial_state(self, input_tensor: torch.Tensor) -> nf.LIFFeedForwardState:
        state = super().initial_state(input_tensor)
        return nf.LIFFeedForwardState(v=state.v + 0.5, i=state.i)


class Standardised(nn.Conv2d):
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Called(nn.Linear):
    def __call__(self, x: torch.Tensor) -> Any:
        return 2 * super().__call__(x)


class CalledModel(Model):
    def __call__(self, *arguments: Any) -> Any:
        return self.a(super().__call__(*arguments))


def patched(layer: nn.Module) -> nn.Module:
    layer._conv_forward = lambda x, weight, bias: x  # type: ignore[assignment]
    return layer


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: with_step(nf.LIFCell(), doubled), "another step function in a LIFCell"),
        (lambda: with_step(nf.LI(), nf.li_box_feed_forward_step), "another step function in a LI"),
        (lambda: with_step(nf.LIFBoxCell(), doubled), "another step function in a LIFBoxCell"),
        (lambda: with_step(nf.LIBoxCell(), nf.li_feed_forward_step), "another step function in a LIBoxCell"),
        (lambda: with_step(nf.IAFCell(), doubled), "another step function in a IAFCell"),
        (lambda: with_step(nf.LIFRecurrentCell(3, 3), doubled), "another step function in a LIFRecurrentCell"),
        (Raised, "another initial state in a Raised"),
    ],
)
def test_neurons_of_ones_own_are_refused(make: Callable[[], nn.Module], got: str, others: bool):
    module = nf.SequentialState(nn.Linear(3, 3), make()) if others else make()
    with pytest.raises(TypeError, match=f"module: got {got}, expected one that computes what its class does"):
        nf.to_nir(module, torch.rand(4, 2, 3))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: Standardised(3, 4, 3), "another _conv_forward in a Standardised"),
        (lambda: patched(nn.Conv1d(3, 4, 3)), "another _conv_forward in a Conv1d"),
        (lambda: Called(3, 3), "another __call__ in a Called"),
        (lambda: CalledModel(in_order), "another __call__ in a CalledModel"),
    ],
)
def test_products_of_ones_own_are_refused(make: Callable[[], nn.Module], got: str):
    with pytest.raises(TypeError, match=f"module: got {got}, expected one that computes what its class does"):
        nf.to_nir(make())


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        ((3, 2), {}),
        ((2, 3), {"padding": (1, 0), "stride": 2}),
        ((2, 3), {"padding": "valid", "dilation": 2}),
        ((1, 4), {"padding": (0, 2), "dilation": (1, 2), "stride": (2, 1)}),
        ((3, 5), {"padding": "same", "groups": 2}),
    ],
)
def test_kernels_that_are_not_square(kernel: tuple[int, int], how: dict[str, Any], file: bool, tmp_path):
    """nir takes all kernels to be square."""
    convolution, x = nn.Conv2d(2, 4, kernel, **how), 50 * torch.randn(5, 2, 2, 9, 8)
    model = nf.SequentialState(convolution, nf.LIFBoxCell(), nn.Flatten(), nn.Linear(convolution(x[0])[0].numel(), 2))
    graph: Any = nf.to_nir(model, x[0])
    np.testing.assert_array_equal(graph.nodes["_1"].tau.shape, convolution(x[0]).shape[1:])
    if file:
        graph = tmp_path / "graph.nir"
        nir.write(graph, nf.to_nir(model, x[0]))
    assert torch.equal(run(nf.from_nir(graph), x), run(model, x))


@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (nn.Conv2d(2, 4, 3), (2, 3, 5, 5)),
        (nn.Conv2d(2, 4, 3), (2, 2, 2, 2)),
        (nn.Conv2d(2, 4, 3), (2, 5, 5)),
        (nn.Conv2d(1, 4, 3), (2, 5, 5)),
        (nn.Conv1d(1, 4, 3), (2, 5)),
    ],
)
def test_pictures_that_a_convolution_does_not_take(convolution: nn.Module, shape: tuple[int, ...]):
    with pytest.raises(
        ValueError, match=r"module: got an input of shape .* for weights of a convolution of shape \(4, "
    ):
        nf.to_nir(nf.SequentialState(convolution, nf.LIFBoxCell()), torch.rand(shape))


class Dropped(nf.LIFRecurrentCell):
    def masked_weights(self) -> torch.Tensor:
        return nn.functional.dropout(super().masked_weights(), 0.5)


def test_recurrent_weights_at_random():
    with pytest.raises(ValueError, match="got a Dropped whose masked_weights differ from call to call"):
        nf.to_nir(Dropped(3, 20))


def test_pictures_of_which_nothing_is_left():
    with pytest.raises(ValueError, match=r"got an input of shape \(2, 1, 1\) for a AvgPool2d, expected a larger one"):
        nf.to_nir(nf.SequentialState(nn.AvgPool2d(2), nf.LIFBoxCell()), torch.rand(1, 2, 1, 1))


def test_arguments_of_other_types_are_named():
    with pytest.raises(TypeError, match=r"module: got <class .*LIFCell'>, expected a torch.nn.Module"):
        nf.to_nir(nf.LIFCell)
    with pytest.raises(TypeError, match="sample_data: got ndarray, expected a tensor"):
        nf.to_nir(nf.LIFCell(), np.ones((2, 3)))
    with pytest.raises(TypeError, match="dt: got str, expected a number"):
        nf.from_nir(nf.to_nir(nf.LIFCell()), dt="1 ms")


@pytest.mark.needs("norse")
def test_models_of_norse_must_be_accelerated_before(norse):
    model: nn.Module = norse.Lift(norse.SequentialState(nn.Linear(3, 3), norse.LIFCell()))
    x = torch.rand(4, 2, 3)
    for part, name in ((model, "Lift"), (model.lifted_module, "LIFCell")):
        with pytest.raises(ValueError, match=rf"replace its {name} of Norse by that of norse_fast"):
            nf.to_nir(part, x)
    nf.accelerate(model, None, lift=True)
    assert nf.to_nir(model, x).nodes["_1"].tau_mem.shape == (3,)
