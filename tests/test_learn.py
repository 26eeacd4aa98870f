"""Parameters of neurons that are parameters of their module: whatever replaces them acts."""

from __future__ import annotations

import copy
import doctest
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad
from torch.nn.utils import parametrize

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import MODELS, Model, fields

SIZES = {"ff": (), "rec": (6, 4), "lin": (6, 4), "mc": (6, 4)}
KINDS = [
    pytest.param(model, kind, id=f"{model.name}-{kind}")
    for model in MODELS
    for kind in ("layer", "cell")
    if getattr(model, kind) is not None
]


def names_of(model: Model) -> dict[str, Any]:
    """The fields that can be learned, by the names of their parameters."""
    numbers = {n: v for n, v in fields(model.defaults()).items() if not isinstance(v, str) and not callable(v)}
    return {name.split(".")[-1]: value for name, value in numbers.items()}


def build(model: Model, kind: str, p: Any, **kwargs: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return getattr(model, kind)(*SIZES[model.kind], p=p, **kwargs)


def make_input(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 20 * torch.rand(*((40, 3, 6) if kind == "layer" else (3, 6)), generator=generator)


def result_of(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Output and states of a few calls, in one sum."""
    total, state = torch.zeros((), dtype=torch.float64), None
    for _ in range(3):
        z, state = module(x, state)
        for number, value in enumerate((z, *fields(state).values())):
            total = total + (1 + number) * value.double().sum()
    return total


def as_tensors(p: Any, change: Any) -> Any:
    return type(p)(
        *(
            as_tensors(v, change) if hasattr(v, "_fields") else v if isinstance(v, str) or callable(v) else change(v)
            for v in p
        )
    )


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_every_field_of_every_module(model: Model, kind: str):
    """The same results and gradients as with tensors in p that require grad; and what replaces parameters acts."""
    names = names_of(model)
    p = as_tensors(model.defaults(), lambda v: torch.as_tensor(v, dtype=torch.float32).clone())
    x = make_input(kind)
    own = build(model, kind, as_tensors(p, lambda v: v.requires_grad_()))
    learned = build(model, kind, as_tensors(p, torch.Tensor.detach), learn=tuple(names))
    assert set(names) <= set(dict(learned.named_parameters()))

    expected = result_of(own, x)
    actual = result_of(learned, x)
    assert torch.equal(actual, expected)
    leaves = {name.split(".")[-1]: v for name, v in fields(own.p).items() if isinstance(v, torch.Tensor)}
    grads = torch.autograd.grad(expected, [leaves[n] for n in names], allow_unused=True, materialize_grads=True)
    own_grads = torch.autograd.grad(
        actual, [getattr(learned, n) for n in names], allow_unused=True, materialize_grads=True
    )
    assert all(torch.equal(a, e) for a, e in zip(own_grads, grads)), names

    others = {name: 1.25 * value.detach() + 0.01 for name, value in leaves.items() if name in names}
    changed = build(model, kind, as_tensors(learned.p, torch.Tensor.detach))
    changed.p = _with(changed.p, others)
    wanted = result_of(changed, x)
    assert torch.equal(functional_call(_Result(learned), {f"module.{k}": v for k, v in others.items()}, (x,)), wanted)
    learned.load_state_dict({**learned.state_dict(), **others}, assign=True)
    assert torch.equal(result_of(learned, x), wanted)
    for copied in (copy.deepcopy(learned), pickle.loads(pickle.dumps(learned))):
        assert torch.equal(result_of(copied, x), wanted)
    with kernels_disabled():
        torch.testing.assert_close(result_of(learned, x), wanted, rtol=1e-4, atol=1e-3)


def _with(p: Any, values: dict[str, torch.Tensor]) -> Any:
    return type(p)(*(_with(v, values) if hasattr(v, "_fields") else values.get(n, v) for n, v in p._asdict().items()))


class _Result(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return result_of(self.module, x)


X = 3 * torch.rand(30, 2, 5, generator=torch.Generator().manual_seed(0))


class Exp(torch.nn.Module):
    """A bound in one line: what is learned is the logarithm, so the rate stays positive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()

    def right_inverse(self, y: torch.Tensor) -> torch.Tensor:
        return y.log()


def test_parametrization():
    layer = nf.LIF(learn="tau_mem_inv")
    expected = layer(X)[0]
    parametrize.register_parametrization(layer, "tau_mem_inv", Exp())
    torch.testing.assert_close(layer.p.tau_mem_inv, torch.tensor(100.0))
    assert torch.equal(layer(X)[0], expected)
    layer(X)[0].sum().backward()
    raw = layer.parametrizations.tau_mem_inv.original
    assert raw.grad.abs() > 0
    with torch.no_grad():
        raw.sub_(1.0)
    assert not torch.equal(layer(X)[0], expected)


def test_func_grad_over_a_network():
    net = torch.nn.Sequential(nf.LIF(nf.LIFParameters(v_th=0.5), learn=("v_th", "tau_mem_inv")))

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(net, values, (X,))[0].sum()

    values = {name: value.detach() for name, value in net.named_parameters()}
    expected = torch.autograd.grad(net(X)[0].sum(), list(net.parameters()))
    for actual, wanted in zip(grad(loss)(values).values(), expected):
        torch.testing.assert_close(actual, wanted)


def test_shape_device_and_dtype():
    layer = nf.LIF(nf.LIFParameters(v_th=torch.full((5,), 0.5), tau_mem_inv=90), learn=("v_th", "tau_mem_inv"))
    assert layer.v_th.shape == (5,)
    assert layer.tau_mem_inv.dtype == torch.float32
    assert layer.double().p.v_th.dtype == torch.float64
    assert nf.LIF(learn="v_th").to("meta").p.v_th.is_meta


def test_defaults_are_not_shared():
    one, other = nf.LIF(learn="v_th"), nf.LIF(learn="v_th")
    with torch.no_grad():
        one.v_th.fill_(7.0)
    assert other.p.v_th == nf.LIF().p.v_th == 1.0


def test_learned_parameter_stays_the_object_that_was_given():
    v_th = torch.nn.Parameter(torch.tensor(0.5))
    assert nf.LIFCell(nf.LIFParameters(v_th=v_th), learn="v_th").v_th is v_th


def test_lift_and_sequences_see_it():
    cell = nf.LIFCell(learn="v_th")
    for model in (nf.Lift(cell), nf.SequentialState(nf.Lift(cell))):
        model(X)[0].sum().backward()
        assert cell.v_th.grad.abs() > 0
        cell.v_th.grad = None


@pytest.mark.parametrize(
    "make", [lambda: nf.LIF(nf.LIFParameters(v_th=torch.rand(4)), learn="v_th"), lambda: nf.Delay(torch.rand(4))]
)
def test_one_value_per_neuron_compiled_for_any_size(make: Callable[[], torch.nn.Module]):
    module, x = make(), 2 * torch.rand(5, 2, 4)
    assert torch.equal(torch.compile(module, backend="aot_eager", dynamic=True, fullgraph=True)(x)[0], module(x)[0])


def test_compiled():
    layer = nf.LIFRecurrent(5, 4, learn=("tau_mem_inv", "v_th"))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(compiled(X)[0], layer(X)[0])
        with torch.no_grad():
            layer.v_th.mul_(0.5)


@pytest.mark.parametrize("name", ["method", "nope", "lif"])
def test_errors_of_learn(name: str):
    with pytest.raises(ValueError, match=rf"learn: got '{name}', expected names .*'tau_mem_inv'"):
        nf.LIFRefrac(learn=("v_th", name))


@pytest.mark.parametrize("learn", [None, True])
def test_what_is_no_name(learn: object):
    with pytest.raises(TypeError, match=rf"learn: got {learn}, expected names of fields of p, such as 'tau_syn_inv'"):
        nf.LIFRecurrent(2, 3, learn=learn)


def test_new_parameters_do_not_replace_learned_ones():
    layer = nf.LIF(learn="v_th")
    with pytest.raises(AttributeError, match="p: got new parameters, but v_th"):
        layer.p = nf.LIFParameters()
    free = nf.LIF()
    free.p = nf.LIFParameters(v_th=0.1)
    assert torch.equal(free(X)[0], nf.LIF(nf.LIFParameters(v_th=0.1))(X)[0])


def test_lost_parameter_warns_once():
    layer = nf.LIF(nf.LIFParameters(v_th=torch.nn.Parameter(torch.tensor(0.5))))
    with pytest.warns(UserWarning, match=r"p: got an nn.Parameter as v_th .*learn=\('v_th',\)"):
        layer(X)
    layer(X)


def test_kept_parameters_do_not_warn():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            v_th = torch.nn.Parameter(torch.tensor(0.5))
            self.neurons = nf.LIF(nf.LIFParameters(v_th=v_th))
            self.v_th = v_th

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = Net()
        net.neurons(X)
        parameter = torch.nn.Parameter(torch.tensor(0.5))
        optimizer = torch.optim.SGD([parameter], 0.1)
        nf.LIF(nf.LIFParameters(v_th=parameter))(X)
        assert optimizer.param_groups


def test_receptive_field_sees_replaced_rates():
    layer = nf.TemporalReceptiveField((2, 3, 3), n_scales=2)
    x = torch.rand(4, 2, 3, 3)
    rates = layer.ps.detach() * 0.5
    expected = nf.TemporalReceptiveField((2, 3, 3), time_constants=rates)(x)[0]
    assert torch.equal(functional_call(layer, {"ps": rates}, (x,))[0], expected)
    assert not torch.equal(layer(x)[0], expected)
    layer.load_state_dict({"ps": rates}, assign=True)
    assert torch.equal(layer(x)[0], expected)


def test_page():
    page = Path(__file__).parents[1] / "docs" / "learning.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 39)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_counts_of_spikes_in_half_precision(dtype: torch.dtype):
    """Half precision cannot count beyond 256 or 2048, nor hold 70,000."""
    spikes = torch.ones(70_000, dtype=dtype)
    regularize = nf.RegularizationCell()
    for _ in range(2):
        _, count = regularize(spikes, None)
    assert count.dtype == torch.float32
    assert count.item() == 140_000


def test_copies_of_counts_have_no_history():
    regularize = nf.RegularizationCell()
    regularize(torch.ones(3, requires_grad=True), None)
    copied = copy.deepcopy(regularize)
    assert copied.state.item() == 3
    assert not copied.state.requires_grad
    assert regularize.state.requires_grad
