"""What accelerate leaves as it is, and the reason that it gives."""

from __future__ import annotations

import functools
import types
from typing import Any

import pytest
import torch

import norse_fast as nf

from .accelerated import (
    OwnCell,
    Rates,
    build,
    norse,
    reported,
    snapshot,
    snn,
)

pytestmark = pytest.mark.needs("norse")


def own_step(x: torch.Tensor, state: Any, p: Any, dt: float) -> Any:
    return x, state


def wrapped_step() -> Any:
    # A function of its own: wraps renames the one that it is given.
    return functools.wraps(norse.lif_feed_forward_step)(lambda *arguments: own_step(*arguments))


def replaced(name: str, value: Any) -> torch.nn.Module:
    cell = norse.LIFCell()
    setattr(cell, name, value)
    return cell


@pytest.mark.parametrize(
    ("kind", "name", "wrapped"),
    [("LIFCell", "forward", False), ("LIFCell", "initial_state", True), ("LIFRecurrent", "forward", True)],
)
def test_methods_that_were_replaced_in_a_class_of_norse_are_seen(monkeypatch, kind: str, name: str, wrapped: bool):
    method = getattr(getattr(norse, kind), name)
    # Where it is defined, which may be a class above.
    owner = next(base for base in getattr(norse, kind).__mro__ if name in vars(base))

    def own(self, *arguments):
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, functools.wraps(method)(own) if wrapped else own)
    assert reported(build(kind)).left == {"": f"its {name} is one of your own"}


def test_a_step_that_was_replaced_in_the_module_of_a_class_of_norse_is_seen(monkeypatch):
    monkeypatch.setattr("norse.torch.module.lif_mc.lif_mc_step", own_step)
    assert reported(build("LIFMCRecurrentCell")).left == {"": "its lif_mc_step is one of your own"}


def threshold_module() -> torch.nn.Module:
    p = Rates(v_th=torch.tensor(1.0), v_leak=torch.tensor(0.0), method="super", alpha=100.0)
    p.v_reset, p.reset_method = torch.tensor(0.0), norse.reset_value
    return norse.LIFBoxCell(p)


def with_diagonal(module: torch.nn.Module) -> torch.nn.Module:
    """As after an initialisation of one's own: Norse zeroes the diagonal only when it makes the module."""
    torch.nn.init.constant_(module.recurrent_weights, 0.5)
    return module


LEFT = {
    "subclass": (OwnCell, "OwnCell is a subclass of Norse's LIFCell"),
    "step": (
        lambda: snn.SNNCell(own_step, lambda x: x, None),
        "its activation is own_step, no step function of Norse",
    ),
    "lifted": (
        lambda: snn.SNNCell(norse.lift(norse.lif_feed_forward_step), lambda x: x, norse.LIFParameters()),
        "its activation is _Lifted, no step",
    ),
    "partial": (lambda: replaced("activation", functools.partial(norse.lif_feed_forward_step)), "is partial, no step"),
    "wrapped step": (
        lambda: snn.SNNCell(wrapped_step(), lambda x: x, norse.LIFParameters()),
        "its activation is lif_feed_forward_step, no step function of Norse",
    ),
    "forward": (lambda: replaced("forward", lambda x, state=None: (x, state)), "its forward is one of your own"),
    "adjoint": (lambda: norse.LSNNCell(adjoint=True), "its gradients are adjoint ones"),
    "adjoint method": (lambda: norse.LIFCell(norse.LIFParameters(method="adjoint")), "its gradients are adjoint ones"),
    "dt": (lambda: norse.LICell(dt=torch.tensor(0.001)), "its dt is a Tensor, and norse_fast takes a number"),
    "builtin step": (lambda: snn.SNNCell(torch.lerp, lambda x: x, None), "its activation is lerp, no step function"),
    "coba": (lambda: norse.CobaLIFCell(2, 3), "the coba_lif_step of Norse ignores its input"),
    "coba step": (
        lambda: snn.SNNRecurrentCell(norse.coba_lif_step, lambda x: x, 2, 3, norse.CobaLIFParameters()),
        "the coba_lif_step of Norse ignores its input",
    ),
    "dataclass": (
        lambda: snn.SNNCell(norse.lif_feed_forward_step, lambda x: x, types.SimpleNamespace(method="super", alpha=9.0)),
        "Norse ignores its alpha, which cannot be replaced in a SimpleNamespace",
    ),
    "parameters": (threshold_module, "Norse ignores its alpha, which cannot be replaced in a Rates"),
    "encoder": (lambda: norse.PopulationEncoder(3), "PopulationEncoder is no neuron or encoder of norse_fast"),
    "diagonal": (
        lambda: with_diagonal(norse.LIFRecurrentCell(2, 3)),
        "its recurrent weights lead from neurons to themselves",
    ),
    "diagonal over time": (
        lambda: with_diagonal(norse.LSNNRecurrent(2, 3)),
        "which acts in Norse; zero their diagonal",
    ),
    "signed spikes": (lambda: norse.SpikeLatencyEncoder(), "Norse lets spikes pass after a negative one"),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_with_a_reason(case: str):
    make, reason = LEFT[case]
    module = make()
    before = snapshot(module)
    report = reported(torch.nn.Sequential(module, norse.LIFCell()))
    assert snapshot(module) == before
    assert report.swapped == {"1": "LIFCell"}
    assert list(report.left) == ["0"]
    assert reason in report.left["0"]
    assert f"0  left: {report.left['0']}" in str(report)


def test_a_diagonal_that_is_wanted_or_zero_is_accelerated():
    wanted = with_diagonal(norse.LIFRecurrentCell(2, 3, autapses=True))
    zeroed = with_diagonal(norse.LIFRecurrentCell(2, 3))
    zeroed.recurrent_weights.data.fill_diagonal_(0.0)
    unknown = norse.LIFRecurrentCell(2, 3).to("meta")
    assert len(reported(torch.nn.Sequential(wanted, zeroed, unknown)).swapped) == 3


def test_parametrized_modules_are_left():
    cell = norse.LIFRecurrentCell(2, 3)
    torch.nn.utils.parametrize.register_parametrization(cell, "input_weights", torch.nn.Identity())
    assert "subclass of Norse's LIFRecurrentCell" in reported(cell).left[""]


def test_what_was_parametrized_later_must_be_undone_first():
    model = torch.nn.Sequential(norse.LIFCell(), norse.LIFRecurrentCell(2, 3))
    nf.accelerate(model, report=None)
    torch.nn.utils.parametrize.register_parametrization(model[1], "input_weights", torch.nn.Identity())
    with pytest.raises(ValueError, match="module '1' has become a ParametrizedLIFRecurrentCell"):
        nf.revert(model)
    assert isinstance(model[0], nf.LIFCell)
    torch.nn.utils.parametrize.remove_parametrizations(model[1], "input_weights")
    nf.revert(model)
    assert [type(part) for part in model] == [norse.LIFCell, norse.LIFRecurrentCell]
