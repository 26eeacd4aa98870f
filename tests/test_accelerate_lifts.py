"""``accelerate`` of models with a ``Lift``, and what the report says is to gain."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import norse_fast as nf

from .accelerated import (
    INPUTS,
    NEURONS,
    PARAMETERS,
    STEPS,
    OwnCell,
    Rates,
    assert_loads_without_norse,
    build,
    drive,
    has_weights,
    norse,
    reported,
    snapshot,
)

pytestmark = pytest.mark.needs("norse")


def lifted_network(library: Any) -> torch.nn.Module:
    """Lifts of a layer without state, and of cells in nested containers, around a layer over time."""
    cells = library.SequentialState(
        torch.nn.Linear(NEURONS, NEURONS),
        library.LIFCell(),
        library.SequentialState(torch.nn.Linear(NEURONS, NEURONS), library.LIFRecurrentCell(NEURONS, NEURONS)),
        library.LICell(),
    )
    return library.SequentialState(library.Lift(torch.nn.Linear(INPUTS, NEURONS)), library.LIF(), library.Lift(cells))


def results_over_time(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, state, and gradients of a model over time whose output may have a state."""
    leaves = {"input": x.detach().clone().requires_grad_(), **dict(model.named_parameters())}
    values = [t for t in torch.utils._pytree.tree_leaves(model(leaves["input"])) if isinstance(t, torch.Tensor)]
    loss = sum((t * torch.linspace(0.5, 1.5, t.numel()).view_as(t).to(t)).sum() for t in values if t.requires_grad)
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    named = {f"value {k}": value for k, value in enumerate(values)}
    return {k: v.detach() for k, v in (named | {f"grad.{n}": g for n, g in zip(leaves, gradients)}).items()}


def calls_of_linear(model: torch.nn.Module, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often products are taken with the weights of such modules, whose forward stays what it is."""
    weights, calls, linear = [m.weight for m in model.modules() if type(m) is torch.nn.Linear], [], F.linear

    def count(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.extend(w for w in weights if w is weight)
        return linear(x, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", count)
        model(x)
    return len(calls)


def test_lifts_run_layer_by_layer(monkeypatch):
    torch.manual_seed(0)
    model, x = lifted_network(norse).double(), 20 * drive("LILinearCell", torch.float64)
    before, keys, expected = snapshot(model), list(model.state_dict()), results_over_time(model, x)
    assert expected["value 0"].any()
    assert calls_of_linear(model, x, monkeypatch) == 3 * STEPS

    report = reported(model, lift=True)
    assert report.swapped == {
        "1": "LIF",
        "2.lifted_module.1": "LIFCell",
        "2.lifted_module.2.1": "LIFRecurrentCell",
        "2.lifted_module.3": "LICell",
        "0": "Lift",
        "2": "Lift",
        "2.lifted_module": "SequentialState",
        "2.lifted_module.2": "SequentialState",
    }
    assert list(report.left) == [""]
    assert "may round differently: 0, 2\n" in str(report)
    assert "lift=True" not in str(report)
    for part in (model[0], model[2], model[2].lifted_module):
        kind = type(part).__name__
        assert isinstance(part, getattr(nf, kind))
        assert isinstance(part, getattr(norse, kind))
    assert "stepped" not in model[2].explain()
    assert calls_of_linear(model, x, monkeypatch) == 3

    assert list(model.state_dict()) == keys
    actual = results_over_time(model, x)
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        limit = 1e-9 * float(expected[key].abs().max())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=limit, msg=lambda m, key=key: f"{key}: {m}")
    assert not reported(model, lift=True).swapped
    assert snapshot(nf.revert(model)) == before
    assert all(torch.equal(value, expected[key]) for key, value in results_over_time(model, x).items())


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name.endswith("Cell") and not has_weights(name)])
def test_lifts_without_products_are_exact(name: str):
    """With gradients, against the accelerated cell step by step; and with the spikes of Norse."""
    x = 3 * drive(name)
    model = norse.Lift(norse.SequentialState(build(name), torch.nn.Dropout(0.0), torch.nn.Flatten(1)))
    output = model(x)[0]
    stepped = results_over_time(nf.accelerate(model, report=None), x)
    assert torch.equal(model(x)[0], output) or "Ex" in name
    assert reported(model, lift=True).swapped == {"": "Lift", "lifted_module": "SequentialState"}
    lifted = results_over_time(model, x)
    assert lifted.keys() == stepped.keys()
    assert all(torch.equal(value, stepped[key]) for key, value in lifted.items())


def test_states_of_lifts_go_on():
    x = 20 * drive("LIFCell")
    model = norse.Lift(norse.SequentialState(norse.LIFCell(), norse.LICell()))
    expected, last = model(x)
    _, theirs = model(x[:10])
    nf.accelerate(model, report=None, lift=True)
    assert model.is_stateful
    _, ours = model(x[:10])
    for state in (theirs, ours):
        output, end = model((x[10:], state))
        assert torch.equal(output, expected[10:])
        assert torch.equal(end[1].v, last[1].v)


def test_lifts_in_lifts(monkeypatch):
    """The inner one takes its time at each step of the outer one, which steps it."""
    inner = norse.Lift(torch.nn.Linear(NEURONS, NEURONS))
    model = norse.Lift(norse.SequentialState(torch.nn.Linear(INPUTS, NEURONS), inner, norse.LICell())).double()
    x = torch.randn(7, 5, 3, INPUTS, dtype=torch.float64)
    expected = results_over_time(model, x)
    report = reported(model, lift=True)
    assert report.swapped == {
        "lifted_module.2": "LICell",
        "": "Lift",
        "lifted_module": "SequentialState",
        "lifted_module.1": "Lift",
    }
    assert report.notes["stepped all the same, takes a sequence at each step"] == ["lifted_module.1"]
    assert calls_of_linear(model, x, monkeypatch) == 1 + 7
    for key, value in results_over_time(model, x).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)
    assert type(nf.revert(model).lifted_module[1]) is norse.Lift


def test_random_layers_in_lifts_draw_the_same():
    model = norse.Lift(norse.SequentialState(norse.LIFCell(), torch.nn.Dropout(), norse.LICell(), torch.nn.Dropout()))
    x = 20 * drive("LIFCell")
    torch.manual_seed(1)
    expected = model(x)[0]
    report = reported(model, lift=True)
    torch.manual_seed(1)
    assert torch.equal(model(x)[0], expected)
    assert report.notes["stepped all the same, random in training"] == ["lifted_module.1", "lifted_module.3"]
    assert isinstance(model, nf.Lift)


def hooked(module: torch.nn.Module) -> torch.nn.Module:
    module.register_forward_hook(lambda *arguments: None)
    return module


def own_lift() -> torch.nn.Module:
    lift = norse.Lift(torch.nn.Linear(2, 2))
    lift.forward = lambda x: x
    return lift


def exchanged(container: torch.nn.Module, name: str, module: torch.nn.Module) -> torch.nn.Module:
    setattr(container, name, module)
    return container


STAY = {
    "feedback": (
        lambda: norse.Lift(norse.RecurrentSequential(torch.nn.Linear(2, 2), norse.LIFCell())),
        "nothing in it can run over time; RecurrentSequential: not known",
    ),
    "own cell": (lambda: norse.Lift(OwnCell()), "nothing in it can run over time; OwnCell: not known"),
    "hooks": (
        lambda: norse.Lift(hooked(torch.nn.Linear(2, 2))),
        "nothing in it can run over time; Linear: hooks watch each step",
    ),
    "hooks of a container": (
        lambda: norse.Lift(hooked(norse.SequentialState(norse.LIFCell()))),
        "nothing in it can run over time; SequentialState: hooks watch each step",
    ),
    "random": (lambda: norse.Lift(torch.nn.Dropout()), "Dropout: random in training"),
    "empty": (lambda: norse.Lift(norse.SequentialState()), "nothing in it can run over time; it is empty"),
    "lift in lift": (
        lambda: norse.Lift(own_lift()),
        "nothing in it can run over time; Lift: its forward was replaced",
    ),
    "forward": (own_lift, "its forward is one of your own"),
    "exchanged": (
        lambda: exchanged(norse.Lift(torch.nn.Linear(2, 2)), "lifted_module", norse.LIFCell()),
        "its module was exchanged",
    ),
    "container with another module": (
        lambda: norse.Lift(exchanged(norse.SequentialState(torch.nn.Linear(2, 2)), "0", norse.LIFCell())),
        "nothing in it can run over time; SequentialState: not known",
    ),
}


@pytest.mark.parametrize("case", STAY)
def test_lifts_that_stay_say_why(case: str):
    make, reason = STAY[case]
    model = make()
    report = reported(model, lift=True)
    assert type(model) is norse.Lift
    assert reason in report.left[""]
    assert f"(model) left: {report.left['']}" in " ".join(str(report).split())
    assert not any(isinstance(part, (nf.Lift, nf.SequentialState)) for part in model.modules())
    assert not reported(model).gains


def test_lifts_in_containers_of_ours():
    """Those hand a state to Lifts of norse_fast with one, and take those of Norse for modules without."""
    x = 20 * drive("LIFCell")
    model = nf.SequentialState(norse.Lift(torch.nn.Linear(NEURONS, 3)), nf.LIF(), norse.Lift(nf.LICell()))
    (expected, state), states = model(x)
    report = reported(model, lift=True)
    assert report.swapped == {"0": "Lift"}
    assert report.left == {"2": "it is in a SequentialState of norse_fast, which would hand it a state"}
    (actual, last), others = model(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(last.v, state.v)
    assert [each is None for each in others] == [each is None for each in states]
    alone = norse.Lift(nf.SequentialState(nf.LIFCell()))
    expected = alone(x)[0]
    assert reported(alone, lift=True).swapped == {"": "Lift"}
    assert torch.equal(alone(x)[0], expected)


def test_lifts_are_copied_and_pickled(tmp_path):
    torch.manual_seed(0)
    model, x = lifted_network(norse), 20 * drive("LILinearCell")
    nf.accelerate(model, report=None, lift=True)
    expected = model(x)[0][0]
    other = copy.deepcopy(model)
    assert torch.equal(other(x)[0][0], expected)
    assert type(nf.revert(other)[2]) is norse.Lift
    assert isinstance(model[2], nf.Lift)
    lift = model[2]
    spikes = (torch.rand(STEPS, 3, NEURONS) < 0.5).float()
    claim = "type(module) is nf.Lift and type(module.lifted_module) is nf.SequentialState"
    assert_loads_without_norse(tmp_path / "lift.pt", lift, spikes, claim)


def test_report_of_what_is_to_gain(capsys):
    model = lifted_network(norse)
    nf.accelerate(model)
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "  fast now: 4 of 7 modules (1, 2.lifted_module.1, 2.lifted_module.2.1, 2.lifted_module.3)",
        "  still to gain: Lift of 1 layer: lift=True (0)",
        "  still to gain: Lift of 3 cells: lift=True (2)",
        "  still to gain: 2 Linear layers fed by spikes: products=True (2.lifted_module.0, 2.lifted_module.2.0)",
    ]
    assert reported(model, lift=True, products=True).gains == {}
    # What is fast already counts too.
    assert len(reported(model).fast) == 7


def test_gains_are_of_layers_that_spikes_feed():
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2),
        norse.LIFCell(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(1, 1, 1),
        torch.nn.Conv2d(1, 1, 1),  # fed by numbers
        OwnCell(),
        torch.nn.Conv2d(2, 2, 1, groups=2),
        norse.LIFCell(),
        torch.nn.Dropout(),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
        norse.LICell(),
        torch.nn.Linear(2, 2),
        norse.PoissonEncoder(3),
        torch.nn.Linear(2, 2),
        norse.LIFCell(),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.Linear(2, 2),
    )
    report = reported(model)
    assert report.fast == ["1", "7", "11", "13", "15"]
    assert len(report.others) == 13
    assert report.gains == {
        "1 MaxPool2d layer fed by spikes: products=True": ["2"],
        "1 Conv2d layer fed by spikes: products=True": ["3"],
        "2 Linear layers fed by spikes: products=True": ["14", "17"],
    }
    # Dropout scales spikes in training; there is nothing to gain in half precision, nor elsewhere than on the CPU.
    assert reported(model.eval()).gains["3 Linear layers fed by spikes: products=True"] == ["10", "14", "17"]
    assert reported(model.half()).gains == {}
    assert reported(model.float().to("meta")).gains == {}


def test_what_counts_as_a_module_that_computes():
    shared = norse.LIFCell()
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    model = torch.nn.ModuleList([shared, torch.nn.Sequential(shared), linear, norse.LIBoxCell(Rates()), Rates()])
    model[3].p.v_leak = torch.tensor(0.0)
    report = reported(model)
    assert report.fast == ["0", "3"]
    assert report.others == ["2"]


@pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")
def test_graphs_that_norse_writes_of_lifts():
    pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    model = norse.Lift(norse.SequentialState(torch.nn.Linear(3, 3), norse.LIFBoxCell()))
    expected = norse.to_nir(model, torch.rand(1, 2, 3))
    nf.accelerate(model, report=None, lift=True)
    actual = norse.to_nir(model, torch.rand(1, 2, 3))
    assert {name: type(node) for name, node in actual.nodes.items()} == {
        name: type(node) for name, node in expected.nodes.items()
    }
    assert len(actual.nodes) == 4
    assert sorted(actual.edges) == sorted(expected.edges)
    assert isinstance(model, nf.Lift)
