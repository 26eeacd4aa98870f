"""``accelerate``: the same objects, the same spikes and gradients, with our neurons at work."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels
from norse_fast.utils.pytree import tree_map_only

from .accelerated import (
    INPUTS,
    MODULES,
    NEURONS,
    PARAMETERS,
    STEPS,
    SURROGATES,
    OwnCell,
    Rates,
    assert_loads_without_norse,
    build,
    drive,
    norse,
    reported,
    results,
    run,
    snapshot,
    snn,
)
from .models import fields

pytestmark = pytest.mark.needs("norse")


def network() -> torch.nn.Module:
    return norse.SequentialState(
        torch.nn.Linear(INPUTS, NEURONS),
        norse.LIFCell(),
        norse.LIFRecurrentCell(NEURONS, NEURONS),
        torch.nn.Linear(NEURONS, 3),
        norse.LICell(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "surrogate"),
    [
        pytest.param(name, surrogate, id=f"{name}-{surrogate.get('method', 'default')}")
        for name in MODULES
        for surrogate in SURROGATES
        if not surrogate or PARAMETERS.get(name) not in ("LIParameters", "LIBoxParameters")
    ],
)
def test_same_results(name: str, surrogate: dict[str, Any], dtype: torch.dtype):
    module, x = build(name, **surrogate).to(dtype), drive(name, dtype)
    keys, expected = list(module.state_dict()), results(module, x)
    assert reported(module).swapped == {"": name}
    assert isinstance(module, getattr(nf, name))
    assert isinstance(module, getattr(norse, name))  # for whoever asks
    assert list(module.state_dict()) == keys
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    for key, value in results(module, x).items():
        if key == "output" and dtype == torch.float32:
            assert torch.equal(value, expected[key]), "a spike differs"
        limit = tolerance * float(expected[key].abs().max())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=limit, msg=lambda m, key=key: f"{key}: {m}")
    assert type(nf.revert(module)) is getattr(norse, name)
    assert all(torch.equal(value, expected[key]) for key, value in results(module, x).items())


@pytest.mark.parametrize("name", MODULES)
def test_states_and_parameters_of_either_package(name: str):
    module, x = build(name), drive(name)
    middle = STEPS // 2
    expected, _ = run(module, x)
    theirs = run(module, x[:middle])[1]
    nf.accelerate(module, report=None)
    ours = run(module, x[:middle])[1]
    assert type(ours).__module__.startswith("norse_fast.")
    assert torch.equal(run(module, x[middle:], theirs)[0], expected[middle:])
    weights, p = module.state_dict(), module.p
    nf.revert(module)
    assert torch.equal(run(module, x[middle:], ours)[0], expected[middle:])
    for library, parameters in ((nf, module.p), (norse, p)):
        other = build(name, parameters, library)
        other.load_state_dict(weights)
        assert torch.equal(run(other, x)[0], expected)


@pytest.mark.parametrize("reset", ["reset_value", "reset_subtract"])
def test_reset_of_norse(reset: str):
    p = norse.LIFBoxParameters(reset_method=getattr(norse, reset))
    module, x = norse.LIFBoxCell(p), 5 * drive("LIFBoxCell")
    expected = run(module, x)[0]
    assert torch.equal(run(nf.accelerate(module, report=None), x)[0], expected)
    assert module.p.reset_method is getattr(nf, reset)
    assert torch.equal(run(nf.LIFBoxCell(p), x)[0], expected)


def test_model_stays_the_same_objects():
    model = network()
    parameters, before = list(model.parameters()), snapshot(model)
    keys = list(model.state_dict())
    nf.accelerate(model, report=None)
    kinds = [torch.nn.Linear, nf.LIFCell, nf.LIFRecurrentCell, torch.nn.Linear, nf.LICell]
    assert all(isinstance(part, kind) for part, kind in zip(model, kinds, strict=True))
    assert [id(part) for part in model.modules()] == [identity for identity, _, _ in before.values()]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == keys
    nf.revert(model)
    assert snapshot(model) == before


def test_training_goes_on_as_it_would():
    x, target = torch.rand(20, 5, INPUTS, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0, 1])
    x = 20 * x.double()

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        for _ in range(5):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(run(model, x)[0].amax(0), target)
            loss.backward()
            optimizer.step()
        return loss.item()

    torch.manual_seed(3)
    model = network().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer)
    reference = network().double()
    reference.load_state_dict(model.state_dict())
    nf.accelerate(model, report=None)
    assert torch.equal(run(model, x)[0], run(reference, x)[0])
    twin = torch.optim.Adam(reference.parameters(), lr=0.01)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = [p.detach().clone() for p in model.parameters()]
    assert train(model, optimizer) == pytest.approx(train(reference, twin), rel=1e-9)
    for start, a, b in zip(before, model.parameters(), reference.parameters(), strict=True):
        assert not torch.equal(a, start)
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert not model[2].recurrent_weights.diagonal().any()


def test_hooks_stay_and_can_be_removed():
    model, seen, x = network(), [], drive("LILinearCell")[0]
    model.register_forward_state_hooks(lambda module, _, output: seen.append((module, output[1].i)))
    handle = model[1].register_forward_pre_hook(lambda module, arguments: (2 * arguments[0], *arguments[1:]))
    model(x)
    nf.accelerate(model, report=None)
    model(x)
    assert [module for module, _ in seen] == 2 * [model[1], model[2], model[4]]
    doubled = seen[0][1]
    assert torch.equal(seen[3][1], doubled)
    handle.remove()
    model(x)
    assert torch.equal(2 * seen[6][1], doubled)
    model.remove_forward_state_hooks()
    model(x)
    assert len(seen) == 9


def test_mode_buffers_and_registered_parameters_stay():
    rates = torch.nn.Parameter(torch.linspace(50, 150, NEURONS))
    cell = norse.LIFCell(norse.LIFParameters(tau_mem_inv=rates))
    cell.register_parameter("rates", rates)
    cell.register_buffer("count", torch.zeros(1))
    model = torch.nn.Sequential(cell).eval()
    x = drive("LIFCell")
    run(cell, x)[1].v.sum().backward()
    expected, rates.grad = rates.grad, None
    nf.accelerate(model, report=None)
    assert not cell.training
    assert cell.p.tau_mem_inv is rates is next(model.parameters())
    assert list(model.state_dict()) == ["0.rates", "0.count"]
    run(cell, x)[1].v.sum().backward()
    torch.testing.assert_close(rates.grad, expected, rtol=1e-4, atol=0)
    model.train()
    assert nf.revert(model)[0].training


def test_shared_modules_stay_shared():
    shared = norse.LIFCell()
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.ModuleList([shared, norse.LICell()])})
    assert reported(model).swapped == {"a": "LIFCell", "b.1": "LICell"}
    assert model["a"] is model["b"][0] is shared
    nf.revert(model)
    assert type(model["b"][0]) is norse.LIFCell


def test_what_is_assigned_later_outlives_revert():
    cell = nf.accelerate(norse.LIFCell(), report=None)
    cell.p = cell.p._replace(v_th=torch.tensor(0.5))
    cell.dt = 0.002
    nf.revert(cell)
    assert type(cell) is norse.LIFCell
    assert cell.p.v_th == 0.5
    assert cell.dt == 0.002
    assert cell(torch.ones(2))[0].shape == (2,)


@pytest.mark.parametrize("name", ["LIFCell", "LIFRefracCell", "LIFRecurrentCell", "LIFRecurrent", "LSNNRecurrentCell"])
def test_parameters_of_norse_that_are_assigned_later_are_read_as_norse_reads_them(name: str):
    """As where a program makes them anew at each call, from time constants that it learns."""

    def gradient(accelerated: bool) -> torch.Tensor:
        torch.manual_seed(0)
        rates = torch.full((NEURONS,), 100.0, requires_grad=True)
        cell = build(name)
        if accelerated:
            nf.accelerate(cell, report=None)
        kind = getattr(norse, PARAMETERS[name])
        p = norse.LIFParameters(tau_mem_inv=rates)
        cell.p = kind(lif=p) if "lif" in kind._fields else kind(tau_mem_inv=rates)
        run(cell, drive(name))[0].sum().backward()
        return rates.grad

    expected = gradient(accelerated=False)
    assert expected.any()
    torch.testing.assert_close(gradient(accelerated=True), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # by torch.compile
def test_parameters_of_norse_that_are_assigned_in_a_graph():
    class Learning(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates = torch.nn.Parameter(torch.full((NEURONS,), 100.0))
            self.cell = norse.LIFCell()

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            self.cell.p = norse.LIFParameters(tau_mem_inv=self.rates)
            return self.cell(x, state)

    def gradient(model: Any, step: Any) -> torch.Tensor:
        run(step, drive("LIFCell")[:5])[0].sum().backward()
        return model.rates.grad

    theirs, ours = Learning(), nf.accelerate(Learning(), report=None)
    expected = gradient(theirs, theirs)
    assert expected.any()
    # The surrogates in plain PyTorch break the graph by themselves.
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=has_kernels("cpu"))
    torch.testing.assert_close(gradient(ours, compiled), expected, rtol=1e-4, atol=1e-6)


def test_parts_of_parameters_that_are_assigned_later():
    cell = nf.accelerate(norse.LIFRefracCell(), report=None)
    cell.p = cell.p._replace(lif=norse.LIFParameters(v_th=torch.tensor(0.5)))
    assert type(cell.p.lif) is nf.LIFParameters
    assert cell.p.lif.v_th == 0.5
    assert cell.p.lif.alpha == 1
    # Those of norse_fast mean what they say, and so do those of one's own.
    cell.p = cell.p._replace(lif=nf.LIFParameters())
    assert cell.p.lif.alpha == 100
    cell.p = own = types.SimpleNamespace(lif=cell.p.lif, rho_reset=cell.p.rho_reset)
    assert cell.p is own


class OwnParameters(norse.LIFParameters):
    """Of Norse's fields, and so of what Norse makes of them."""


class Similar(NamedTuple):
    tau_syn_inv: torch.Tensor = torch.tensor(200.0)
    tau_mem_inv: torch.Tensor = torch.tensor(100.0)
    v_leak: torch.Tensor = torch.tensor(0.0)
    v_th: torch.Tensor = torch.tensor(1.0)
    v_reset: torch.Tensor = torch.tensor(0.0)
    method: str = "super"
    alpha: torch.Tensor = torch.tensor(100.0)


@pytest.mark.parametrize("kind", [OwnParameters, Similar])
def test_tuples_of_ones_own_mean_the_same_when_they_are_assigned_later(kind: Callable[[], Any]):
    x = torch.full((1, 4), 5.0, requires_grad=True)

    def gradient(cell: torch.nn.Module) -> torch.Tensor:
        state, total = None, torch.zeros(1, 4)
        for _ in range(6):
            z, state = cell(x, state)
            total = total + z
        return torch.autograd.grad(total.sum(), x)[0]

    expected = gradient(norse.LIFCell(kind()))
    assert expected.any()
    for cell in (nf.accelerate(norse.LIFCell(kind()), report=None), nf.accelerate(norse.LIFCell(), report=None)):
        cell.p = kind()
        torch.testing.assert_close(gradient(cell), expected)


def test_a_steepness_changed_in_place_is_that_of_one_module():
    first, second = (nf.accelerate(norse.LIFCell(), report=None) for _ in range(2))
    first.p.alpha.fill_(50.0)
    assert second.p.alpha == nf.accelerate(norse.LIFCell(), report=None).p.alpha == 1


def test_twice_changes_nothing():
    model = network()
    before = snapshot(model)
    nf.accelerate(model, report=None)
    once = snapshot(model)
    assert reported(model).swapped == {}
    assert snapshot(model) == once
    assert snapshot(nf.revert(nf.revert(model))) == before


def test_modules_as_parameters():
    cell = norse.LIBoxCell(Rates(v_leak=torch.tensor(0.0)))
    x = drive("LIBoxCell")
    expected = results(cell, x)
    assert reported(cell).swapped == {"": "LIBoxCell"}
    assert list(cell.state_dict()) == ["p.tau_mem_inv"]
    for key, value in results(cell, x).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-4)


def test_bases_with_steps_of_norse():
    def initial(x: torch.Tensor) -> Any:
        return norse.LIFFeedForwardState(v=torch.full(x.shape[1:], 0.5), i=torch.zeros(x.shape[1:]))

    layer = snn.SNN(norse.lif_feed_forward_step, initial, norse.LIFParameters(), record_states=True)
    x = drive("LIF")
    expected, states = layer(x)
    assert reported(layer).swapped == {"": "SNN"}
    output, recorded = layer(x)
    assert torch.equal(output, expected)
    assert torch.equal(recorded.v, states.v)
    assert layer.state_fallback is initial
    assert layer.activation is nf.lif_feed_forward_step


def test_containers_of_norse_stay():
    x = drive("LILinearCell")
    weights = torch.nn.Linear(INPUTS, INPUTS)
    nested = norse.SequentialState(network(), norse.Lift(torch.nn.Linear(3, 3)), return_hidden=True)
    recurrent = norse.RecurrentSequential(weights, norse.LIFCell())
    lifted = norse.Lift(norse.SequentialState(weights, norse.LIFCell()))
    expected = [run(recurrent, x)[0], lifted(x)[0], network_over_time(nested, x)]
    for model, swapped in (
        (recurrent, {"module.1": "LIFCell"}),
        (lifted, {"lifted_module.1": "LIFCell"}),
        (nested, {"0.1": "LIFCell", "0.2": "LIFRecurrentCell", "0.4": "LICell"}),
    ):
        assert reported(model).swapped == swapped
    actual = [run(recurrent, x)[0], lifted(x)[0], network_over_time(nested, x)]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def network_over_time(nested: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    output, _ = run(nested[0], x)
    return nested[1](output)


def test_receptive_field():
    field = norse.TemporalReceptiveField((2, 3, 3), n_scales=2)
    x = drive("LIFCell")[:5, :, :2, None, None].expand(5, 3, 2, 3, 3)
    expected = run(field, x)[0]
    assert reported(field).swapped == {"neurons": "LIBoxCell"}
    assert torch.equal(run(field, x)[0], expected)
    assert field.neurons.p.tau_mem_inv is field.ps


def test_sparse_input():
    cell, x = norse.LIFRecurrentCell(INPUTS, NEURONS), drive("LIFRecurrentCell")[0].to_sparse()
    expected = cell(x)[0]
    assert torch.equal(nf.accelerate(cell, report=None)(x)[0].to_dense(), expected.to_dense())


def test_correlation():
    module = norse.LIFCorrelation(INPUTS, NEURONS)
    x = drive("LIFRecurrentCell")[0, :1]
    weights = torch.rand(NEURONS, INPUTS), torch.rand(NEURONS, NEURONS)
    expected, state = module(x, *weights, None)
    assert reported(module).swapped == {"": "LIFCorrelation"}
    output, ours = module(x, *weights, None)
    assert torch.equal(output, expected)
    for name, value in fields(state).items():
        torch.testing.assert_close(fields(ours)[name], value)


def test_copies_can_be_reverted():
    model = nf.accelerate(network(), report=None)
    other = copy.deepcopy(model)
    x = drive("LILinearCell")
    expected = run(model, x)[0]
    assert torch.equal(run(other, x)[0], expected)
    run(other, x)[0].sum().backward()
    assert not other[2].recurrent_weights.grad.diagonal().any()
    nf.revert(other)
    assert type(other[1]) is norse.LIFCell
    assert other[1].state_fallback.__self__ is other[1]
    assert isinstance(model[1], nf.LIFCell)
    assert type(model[1]) is type(nf.accelerate(norse.LIFCell(), report=None))
    assert torch.equal(run(other, x)[0], expected)


def test_pickles_need_no_norse():
    # Modules of Norse cannot be pickled at all, because their parameters cannot.
    model = torch.nn.Sequential(norse.LIFRecurrentCell(INPUTS, NEURONS), norse.LIFBoxCell(), norse.LIFRefracCell())
    nf.accelerate(model, report=None)
    saved = io.BytesIO()
    torch.save(model, saved)
    assert b"norse.torch" not in pickle.dumps(model)
    x = drive("LIFRecurrentCell")
    for other in (pickle.loads(pickle.dumps(model)), torch.load(io.BytesIO(saved.getvalue()), weights_only=False)):
        assert torch.equal(run(other[0], x)[0], run(model[0], x)[0])
        before = snapshot(other)
        with pytest.raises(ValueError, match="module '0' was accelerated and then pickled"):
            nf.revert(other)
        assert snapshot(other) == before


def test_norse_is_imported_by_nobody_else():
    code = (
        "import sys, torch, norse_fast as nf\n"
        "nf.revert(nf.accelerate(torch.nn.Sequential(nf.LIFCell(), torch.nn.Linear(2, 2))))\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'norse']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "norse_fast: the model has no modules of Norse",
        "  fast now: 1 of 2 modules (0)",
        "  still to gain: 1 Linear layer fed by spikes: products=True (1)",
    ]


class Policy(torch.nn.Module):
    """Observations as spikes of two encoders, hidden neurons, and the greatest potential of each action."""

    def __init__(self, library: Any, **surrogate: Any) -> None:
        super().__init__()
        self.encoder = library.ConstantCurrentLIFEncoder(40)
        self.hidden = torch.nn.Linear(8, 16, bias=False)
        self.lif = library.LIFCell(library.LIFParameters(**surrogate))
        self.actions = torch.nn.Linear(16, 2, bias=False)
        self.readout = library.LICell()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = torch.cat([self.encoder(torch.relu(sign * 50 * x)) for sign in (1, -1)], 2)
        state = readout = None
        potentials = []
        for frame in spikes:
            z, state = self.lif(self.hidden(frame), state)
            v, readout = self.readout(self.actions(z), readout)
            potentials.append(v)
        return torch.softmax(torch.stack(potentials).amax(0), -1)


def test_a_policy_computes_the_same_three_ways():
    """Norse 1.1.0, after sed with its steepness, and accelerated."""
    torch.manual_seed(0)
    theirs = Policy(norse)
    with torch.no_grad():
        theirs.hidden.weight.mul_(5)
    ours = Policy(nf, alpha=torch.tensor(1.0))
    ours.load_state_dict(theirs.state_dict())
    accelerated = copy.deepcopy(theirs)
    assert reported(accelerated).swapped.keys() == {"encoder", "lif", "readout"}
    x = torch.randn(3, 4)
    found = []
    for model in (theirs, ours, accelerated):
        output = model(x)
        output[:, 0].log().sum().backward()
        found.append([output.detach(), *(parameter.grad for parameter in model.parameters())])
    assert found[0][1].abs().max() > 0
    for others in found[1:]:
        assert torch.equal(others[0], found[0][0])
        for gradient, expected in zip(others[1:], found[0][1:]):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_encoders_run_our_kernels(monkeypatch):
    """Not those of Norse, step by step."""
    encoder = nf.accelerate(norse.ConstantCurrentLIFEncoder(10), report=None)
    monkeypatch.setattr(norse.functional.encode, "constant_current_lif_encode", None)
    assert encoder(input_currents=torch.full((2,), 20.0)).sum() > 0
    with pytest.raises(TypeError):
        encoder(torch.full((2,), 20.0, dtype=torch.float64))


def test_report(capsys):
    model = torch.nn.Sequential(norse.LIFCell(), norse.LIFExCell(), OwnCell(), norse.LI(), norse.LIFRecurrent(2, 2))
    nf.accelerate(model)
    assert capsys.readouterr().out.splitlines() == [
        "norse_fast: 4 accelerated, 1 left as they are",
        "  0  LIFCell",
        "  1  LIFExCell",
        "  3  LI",
        "  4  LIFRecurrent",
        "  2  left: OwnCell is a subclass of Norse's LIFCell and may compute something else; derive it from "
        "norse_fast.LIFCell",
        "  alpha is 1, not 100.0, as Norse ignores it and computes with 1: 0, 1, 4",
        "  exp may differ from that of PyTorch in the last place: 1",
        "  the input of all steps passes the weights in one product, which may round differently: 4",
        "  fast now: 4 of 5 modules (0, 1, 3, 4)",
    ]
    nf.accelerate(norse.LICell())
    assert "  (model)  LICell\n" in capsys.readouterr().out


def test_alpha_is_kept_where_norse_uses_it(monkeypatch):
    # Releases after 1.1.0 do.
    monkeypatch.setattr(sys.modules["norse_fast._counterparts"], "_norse_ignores_alpha", lambda: False)
    cell = norse.LIFCell()
    alpha = cell.p.alpha
    assert not reported(cell).notes
    assert cell.p.alpha is alpha


def test_what_is_no_report_changes_nothing():
    cell = norse.LIFCell()
    for report in (False, True, "quiet"):
        with pytest.raises(TypeError, match=f"report: got {report!r}, expected a function, as print, or None"):
            nf.accelerate(cell, report)
    assert type(cell) is norse.LIFCell


def test_alpha_without_a_value():
    with torch.device("meta"):
        assert nf.accelerate(norse.LIFExCell(), None).p.alpha == 1
    cell = norse.LIFCell(norse.LIFParameters(alpha=torch.ones((), device="meta")))
    assert nf.accelerate(cell, None).p.alpha == 1


def test_plain_tensors_as_weights():
    weights = torch.randn(NEURONS, INPUTS), torch.randn(NEURONS, NEURONS)
    cell = norse.LIFRecurrentCell(INPUTS, NEURONS, input_weights=weights[0], recurrent_weights=weights[1])
    x = drive("LIFRecurrentCell")
    expected = run(cell, x)[0]
    nf.accelerate(cell, report=None)
    assert cell.input_weights is weights[0]
    assert cell.recurrent_weights is weights[1]
    assert torch.equal(run(cell, x)[0], expected)


@pytest.mark.parametrize("function", [nf.accelerate, nf.revert])
def test_what_is_no_module(function):
    with pytest.raises(TypeError, match=r"model: got list, expected a torch\.nn\.Module"):
        function([norse.LIFCell()])


@settings(max_examples=25, deadline=None)
@given(st.recursive(st.sampled_from(MODULES), lambda inner: st.lists(inner, max_size=4), max_leaves=8))
def test_any_nesting_there_and_back(tree: Any):
    def grow(tree: Any) -> torch.nn.Module:
        return build(tree) if isinstance(tree, str) else torch.nn.ModuleList([grow(branch) for branch in tree])

    model = grow(tree)
    before, keys = snapshot(model), list(model.state_dict())
    report = reported(model)
    assert not report.left
    assert report.swapped == {
        name: kind.__name__ for name, (_, kind, _) in before.items() if kind is not torch.nn.ModuleList
    }
    assert not [part for part in model.modules() if type(part).__module__.startswith("norse.")]
    assert list(model.state_dict()) == keys
    assert snapshot(nf.revert(model)) == before


def test_functions_of_norse_take_our_tuples():
    x = drive("LIFCell")[0]
    ours = nf.LIFFeedForwardState(v=torch.zeros_like(x), i=torch.zeros_like(x))
    theirs = norse.LIFFeedForwardState(*ours)
    expected = norse.lif_feed_forward_step(x, theirs, norse.LIFParameters())[0]
    for step in (nf.lif_feed_forward_step, norse.lif_feed_forward_step):
        for state in (ours, theirs):
            for p in (nf.LIFParameters(), norse.LIFParameters()):
                assert torch.equal(step(x, state, p)[0], expected)
    moved = tree_map_only(torch.Tensor, torch.Tensor.double, theirs)
    assert nf.LIFCell()(x.double(), moved)[0].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")
@pytest.mark.parametrize("copied", [None, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", ["LIFCell", "LIFBoxCell", "LIBoxCell", "IAFCell"])
def test_graphs_that_norse_writes(name: str, copied: Any):
    """They are the same as before, because its to_nir asks for instances of Norse's classes."""
    pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    model = norse.SequentialState(torch.nn.Linear(3, 3), build(name), torch.nn.Linear(3, 2))
    expected = norse.to_nir(model, torch.rand(1, 3))
    model[1] = nf.accelerate(model[1], report=None)
    model[1] = model[1] if copied is None else copied(model[1])
    actual = norse.to_nir(model, torch.rand(1, 3))
    assert [type(node) for node in actual.nodes.values()] == [type(node) for node in expected.nodes.values()]
    assert None not in actual.nodes.values()
    assert actual.edges == expected.edges
    for key, node in expected.nodes.items():
        for field, value in vars(node).items():
            torch.testing.assert_close(vars(actual.nodes[key])[field], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODULES)
def test_copies_are_of_both_kinds_too(name: str):
    module = nf.accelerate(build(name), report=None)
    for other in (module, copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(other, getattr(norse, name))
        assert isinstance(other, getattr(nf, name))
        assert type(other) is type(module)
    assert repr(module).startswith(f"{name}(")
    assert not reported(module).swapped


def test_pickles_load_without_norse(tmp_path):
    module = nf.accelerate(norse.LIFRecurrentCell(2, 3), report=None)
    x = torch.rand(4, 2)
    assert_loads_without_norse(tmp_path / "module.pt", module, x, "type(module) is nf.LIFRecurrentCell")
