"""Logic, exponential filters, regularisation, convolutions over time, and helpers around state tuples."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle

import pytest
import torch

import norse_fast as nf
from norse_fast.functional import logical
from norse_fast.functional.filter import exp_filter_step
from norse_fast.utils import pytree
from norse_fast.utils.pytree import broadcast_input

BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).T
TABLES = {
    "logical_and": (2, lambda x, y: x and y),
    "logical_or": (2, lambda x, y: x or y),
    "logical_xor": (2, lambda x, y: x != y),
    "muller_c": (3, lambda y, a, b: a if a == b else y),
    "posedge_detector": (2, lambda z, before: z and not before),
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("name", TABLES)
def test_truth_tables(name: str, dtype: torch.dtype):
    inputs, expected = TABLES[name]
    result = getattr(logical, name)(*BITS[:inputs].to(dtype))
    assert result.dtype == dtype
    assert result.tolist() == [float(bool(expected(*bits))) for bits in BITS[:inputs].T.tolist()]


@pytest.mark.parametrize("dtypes", [*itertools.permutations([torch.bool, torch.uint8, torch.int64, torch.float32], 3)])
@pytest.mark.parametrize("name", TABLES)
def test_gates_of_several_dtypes(name: str, dtypes: tuple[torch.dtype, ...], norse):
    inputs, expected = TABLES[name]
    bits = [row.to(dtype) for row, dtype in zip(BITS[:inputs], dtypes)]
    result = getattr(logical, name)(*bits)
    assert result.dtype == functools.reduce(torch.promote_types, dtypes[:inputs])
    assert result.tolist() == [float(bool(expected(*column))) for column in BITS[:inputs].T.tolist()]
    # It can subtract no booleans.
    if name not in ("logical_xor", "posedge_detector") or torch.bool not in dtypes:
        theirs = getattr(norse.functional.logical, name)(*bits)
        assert (theirs.dtype, theirs.tolist()) == (result.dtype, result.tolist())


@pytest.mark.parametrize("name", TABLES)
def test_gates_with_single_values(name: str, norse):
    inputs, expected = TABLES[name]
    for value in (1.0, torch.tensor(1.0, dtype=torch.float64)):
        bits = [BITS[0].half(), *[value] * (inputs - 1)]
        result = getattr(logical, name)(*bits)
        assert result.tolist() == [float(bool(expected(x, *[1.0] * (inputs - 1)))) for x in BITS[0].tolist()]
        assert result.dtype == getattr(norse.functional.logical, name)(*bits).dtype


def test_gates_are_differentiable():
    for name, (inputs, _) in TABLES.items():
        x = BITS[:inputs].clone().requires_grad_()
        getattr(logical, name)(*x).sum().backward()
        assert x.grad.abs().sum() > 0


def test_filter_is_a_sum_of_exponentials(generator):
    x = torch.rand(20, 3, 2, generator=generator)
    smooth = nf.ExpFilter(2, 4, tau_filter_inv=100.0, dt=0.002)
    y = smooth.linear(x)
    decay = math.exp(-0.2)
    expected = torch.stack([sum(decay ** (t - s) * y[s] for s in range(t + 1)) for t in range(20)])
    torch.testing.assert_close(smooth(x), expected)
    assert sorted(smooth.state_dict()) == ["linear.bias", "linear.weight"]
    assert smooth(x[:0]).shape == (0, 3, 4)


def test_filter_weights():
    weights = torch.rand(4, 2)
    smooth = nf.ExpFilter(2, 4, input_weights=weights, bias=False)
    assert torch.equal(smooth.linear.weight, weights)
    assert smooth.linear.bias is None
    with pytest.raises(ValueError, match=r"input_weights: got shape \(2, 4\), expected \(4, 2\)"):
        nf.ExpFilter(2, 4, input_weights=weights.T)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_filter_against_norse(norse, generator):
    from norse.torch.module.exp_filter import ExpFilter

    torch.manual_seed(0)
    ours = nf.ExpFilter(3, 4, 200.0)
    torch.manual_seed(0)
    expected = ExpFilter(3, 4, 200.0)
    x = torch.rand(6, 2, 3, generator=generator)
    assert torch.equal(ours(x), expected(x))
    assert ours.extra_repr() == expected.extra_repr()
    assert exp_filter_step(x[0], x[1], 0.5).equal(0.5 * x[0] + x[1])


def test_regularisation_accumulates_over_steps(generator):
    x = 20 * torch.rand(5, 2, 3, generator=generator)
    count, volts, cell = nf.RegularizationCell(), nf.RegularizationCell(nf.voltage_accumulator), nf.LIFCell()
    state, spikes, sums = None, 0, torch.zeros(2, 3)
    for frame in x:
        z, state = cell(frame, state)
        out, total = count(z, state)
        assert out is z
        _, voltage = volts(z, state)
        spikes, sums = spikes + z.sum(), sums + state.v
    assert total.item() == spikes.item() > 0
    assert torch.equal(voltage, sums)
    assert torch.equal(count.state, total)


def test_reset_allows_another_backward():
    """Without it, the second backward would go through the history of the first."""
    weight = torch.nn.Parameter(torch.tensor(3.0))
    regularize = nf.RegularizationCell(lambda z, s, state: (0 if state is None else state) + z.pow(2).sum())
    for _ in range(2):
        regularize.reset()
        for _ in range(3):
            loss = regularize(weight * torch.ones(2), None)[1]
        loss.backward()
    assert loss.item() == 3 * 2 * 9
    assert weight.grad.item() == 2 * 3 * 2 * 2 * 3
    start = nf.RegularizationCell(state=torch.tensor(5.0))
    assert start(torch.ones(2), None)[1] == 7
    start.reset()
    assert start(torch.ones(2), None)[1] == 7
    in_place = nf.RegularizationCell(lambda z, s, state: state.add_(z.sum()), torch.zeros(()))
    for _ in range(2):
        assert in_place(torch.ones(3), None)[1] == 3
        in_place.reset()


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "pairs": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_lifted_convolution_is_one_per_step(name: str, generator):
    layer = nf.LConv2d(4, 6, **CONVOLUTIONS[name])
    x = torch.rand(5, 2, 4, 8, 7, generator=generator)
    flat = torch.nn.Conv2d(4, 6, bias=False, **CONVOLUTIONS[name])
    flat.load_state_dict({"weight": layer.weight.detach()[..., 0]})
    torch.testing.assert_close(layer(x), torch.stack([flat(frame) for frame in x]), rtol=1e-5, atol=1e-6)
    assert list(layer.state_dict()) == ["weight"]
    assert layer(x[:0]).shape[0] == 0


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_lifted_convolution_against_norse(norse, name: str, generator):
    torch.manual_seed(0)
    ours = nf.LConv2d(4, 6, **CONVOLUTIONS[name])
    torch.manual_seed(0)
    expected = norse.LConv2d(4, 6, **CONVOLUTIONS[name])
    assert torch.equal(ours.weight, expected.weight)
    x = torch.rand(5, 2, 4, 8, 7, generator=generator)
    torch.testing.assert_close(ours(x), expected(x), rtol=1e-5, atol=1e-6)
    ours(x).square().sum().backward()
    expected(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, expected.weight.grad, rtol=1e-4, atol=1e-4)


def test_lifted_convolution_details():
    same = nf.LConv2d(1, 1, 3, padding="same", dtype=torch.float64)
    assert same(torch.ones(2, 1, 1, 5, 4, dtype=torch.float64)).shape == (2, 1, 1, 5, 4)
    with pytest.raises(ValueError, match=r"input_tensor: got shape \(1, 1, 5, 5\), expected \(T, N, C, H, W\)"):
        same(torch.ones(1, 1, 5, 5))
    assert nf.LConv2d(1, 1, 3, device="meta").weight.device.type == "meta"


def test_modules_copy_and_pickle():
    for module, x in ((nf.LConv2d(1, 2, 3), torch.ones(2, 1, 1, 4, 4)), (nf.ExpFilter(2, 2), torch.ones(3, 2))):
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(x), module(x))


def test_broadcast_input():
    template = torch.zeros(2, 3, dtype=torch.float64)
    for value in (2, 2.0, torch.tensor(2), torch.tensor([2.0]), torch.full((3,), 2.0), torch.full((2, 3), 2.0)):
        filled = broadcast_input(value, template)
        assert torch.equal(filled, torch.full((2, 3), 2.0, dtype=torch.float64))
        filled += 1  # memory of its own
    assert broadcast_input(torch.tensor(0.5), torch.zeros(2, dtype=torch.int64)).tolist() == [0.5, 0.5]
    with pytest.raises(
        ValueError, match=r"potential_scalar: got shape \(2,\), expected one that broadcasts to \(2, 3\)"
    ):
        broadcast_input(torch.zeros(2), template)
    with pytest.raises(TypeError, match=r"potential_scalar: got str"):
        broadcast_input("2", template)


def test_state_tuples_convert():
    state = nf.LIFState(
        torch.tensor(1.0), torch.tensor(0.75, dtype=torch.float64, requires_grad=True), torch.tensor(2.0)
    )
    assert [x.dtype for x in state.int()] == [torch.int32] * 3
    assert not state.int().v.requires_grad
    assert state.float().v.dtype == torch.float32
    assert state.float().v.requires_grad
    assert state.to("meta").v.device.type == "meta"
    assert nf.LIFParameters().int().method == "super"


def test_state_tuples_against_norse(norse):
    template = torch.zeros(2, 3, dtype=torch.float64)
    for ours, expected in zip(nf.LIFParameters().broadcast(template), norse.LIFParameters().broadcast(template)):
        assert ours is expected if isinstance(ours, str) else torch.equal(ours, expected)


class Scaled:
    def scaled(self, factor: float) -> Scaled:
        return type(self)(*(value * factor for value in self))

    def cpu(self) -> str:
        return "of the base"


class Named(pytree.StateTuple, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    """Declared as Norse does it."""

    x: torch.Tensor
    y: torch.Tensor = torch.tensor([1.5])

    def total(self) -> torch.Tensor:
        return self.x + self.y

    def __repr__(self) -> str:
        return "named"


class Mixed(Scaled, pytree.StateTuple, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    x: torch.Tensor
    y: torch.Tensor = torch.tensor([1.5])

    def total(self) -> torch.Tensor:
        return self.x + self.y


class Bare(metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    x: torch.Tensor
    y: torch.Tensor = torch.tensor([1.5])

    def total(self) -> torch.Tensor:
        return self.x + self.y


class MyLIF(nf.LIFParameters, Scaled, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    """Without fields of its own."""


@pytest.mark.parametrize("kind", [Named, Mixed, Bare])
def test_tuples_declared_with_the_metaclass(kind: type):
    value = kind(torch.zeros(2))
    assert kind._fields == ("x", "y")
    assert kind._field_defaults.keys() == {"y"}
    assert isinstance(value, (kind, tuple, nf.StateTuple))
    assert issubclass(kind, nf.StateTuple)
    assert not isinstance((1, 2), nf.StateTuple)
    assert value.total().tolist() == [1.5, 1.5]
    assert value.to(torch.float64).y.dtype == torch.float64
    assert type(value.broadcast(torch.zeros(3, 2))) is kind
    doubled = torch.utils._pytree.tree_map(lambda t: 2 * t, value)
    assert type(doubled) is kind
    assert doubled.y.item() == 3
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert type(other) is kind
        assert torch.equal(other.total(), value.total())

    def step(state):
        return state.total(), state._replace(x=state.x + 1)

    out, state = torch.compile(step, fullgraph=True, backend="eager")(value)
    assert type(state) is kind
    assert torch.equal(out, value.total())


def test_bases_of_state_tuples():
    value = Mixed(torch.zeros(2))
    assert isinstance(value, Scaled)
    assert value.scaled(2.0).y.item() == 3
    assert value.cpu() == "of the base"
    assert repr(Named(torch.zeros(2))) == "named"
    p = MyLIF(v_th=torch.tensor(0.5))
    assert isinstance(p, nf.LIFParameters)
    assert isinstance(p, Scaled)
    assert type(pickle.loads(pickle.dumps(p))) is MyLIF
    x = torch.full((20, 3), 4.0)
    assert torch.equal(nf.LIF(p)(x)[0], nf.LIF(nf.LIFParameters(v_th=torch.tensor(0.5)))(x)[0])
    with pytest.raises(TypeError, match="Wrong: got new fields b beside those of its bases, x, y; expected all fields"):

        class Wrong(Named, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
            b: torch.Tensor


def test_registered_tuples():
    class Pair(nf.IAFState):
        pass

    pytree.register_tuple(Pair)
    pair = pytree.tree_map_only(torch.Tensor, lambda t: t + 1, Pair(torch.zeros(1), 2))
    assert type(pair) is Pair
    assert pair == (1, 2)
    add = pytree.map_only((int, float))(lambda x: x + 1)
    assert [add(x) for x in (1, 2.0, "x")] == [2, 3.0, "x"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_exp_filter_of_integers(dtype: torch.dtype):
    old, new = torch.tensor([1, 0, 1], dtype=dtype), torch.tensor([1, 1, 0], dtype=dtype)
    for parameter in (1, 0.5, torch.tensor(1)):
        filtered = exp_filter_step(old, new, parameter)
        assert filtered.dtype == torch.float32
        assert torch.equal(filtered, parameter * old.float() + new.float())
    assert exp_filter_step(old.double(), new, 1).dtype == torch.float64
    # Integers of few bits wrap around where they are multiplied.
    large = torch.tensor([100, 0, 100], dtype=dtype)
    for kind in (torch.float16, torch.float32, torch.float64):
        filtered = exp_filter_step(large, torch.full((3,), 0.5, dtype=kind), torch.tensor(3))
        assert filtered.dtype == torch.promote_types(torch.float32, kind)
        assert torch.equal(filtered, 3 * large.to(filtered.dtype) + 0.5)


def test_exp_filter_of_integers_beyond_half_precision():
    old, new = torch.tensor([100_000, 2049]), torch.ones(2, dtype=torch.float16)
    assert exp_filter_step(old, new, 0.5).tolist() == [50_001.0, 1025.5]
