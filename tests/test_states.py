"""What state and parameter tuples can do: cut from their history, choose samples, be stored."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf

from .models import MODELS, Model, fields
from .test_learn import SIZES, make_input

CELLS = [pytest.param(model, id=model.name) for model in MODELS if model.cell is not None]


def step(model: Model) -> tuple[torch.nn.Module, torch.Tensor, Any]:
    """A cell, an input and the state after a step."""
    assert model.cell is not None
    torch.manual_seed(0)
    cell = model.cell(*SIZES[model.kind], p=model.defaults())
    x = make_input("cell").requires_grad_()
    return cell, x, cell(x)[1]


@pytest.mark.parametrize("model", CELLS)
def test_every_state(model):
    cell, x, state = step(model)
    values = fields(state)
    cut, copied = fields(state.detach()), fields(state.clone())
    mask = torch.tensor([True, False, True])
    chosen, kept = fields(state[mask]), fields(state.where(mask, pytree.tree_map(torch.zeros_like, state)))
    assert any(value.requires_grad for value in values.values())
    for name, value in values.items():
        assert torch.equal(cut[name], value)
        assert not cut[name].requires_grad
        assert torch.equal(copied[name], value)
        assert copied[name].data_ptr() != value.data_ptr()
        assert copied[name].requires_grad == value.requires_grad
        assert torch.equal(chosen[name], value[mask])
        assert torch.equal(kept[name], value * mask[:, None])
    for part in (state.detach(), state.clone(), state[mask]):
        assert type(part) is type(state)
    # As in any tuple.
    assert state[0] is next(iter(state))
    assert state[-1] is tuple(state)[-1]
    assert state[:1] == tuple(state)[:1]
    # The cell goes on with what was chosen.
    assert cell(x[mask], state.detach()[mask])[0].shape[0] == 2


def test_an_episode_that_ended_starts_anew():
    cell = nf.LIFCell()
    x = 5 * torch.rand(20, 4, 3, generator=torch.Generator().manual_seed(1))
    done = torch.tensor([False, True, False, True])
    _, state = nf.LIF()(x[:10])
    start = cell.initial_state(x[0]).broadcast(x[0])
    _, last = nf.LIF()(x[10:], state.detach().where(~done, start))
    whole, anew = nf.LIF()(x)[1], nf.LIF()(x[10:])[1]
    assert torch.equal(last.v[~done], whole.v[~done])
    assert torch.equal(last.v[done], anew.v[done])


def test_gradients_flow_where_they_should():
    state = nf.LIFFeedForwardState(torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True))
    other = nf.LIFFeedForwardState(torch.zeros(3, requires_grad=True), torch.zeros(3))
    mask = torch.tensor([True, False, True])
    chosen = state.where(mask, other)
    chosen.v.sum().backward()
    assert state.v.grad.tolist() == [1.0, 0.0, 1.0]
    assert other.v.grad.tolist() == [0.0, 1.0, 0.0]


def test_what_is_no_tensor_stays():
    kept = nf.LIFFeedForwardState(0.0, torch.ones(2)).where(
        torch.tensor([True, False]), nf.LIFFeedForwardState(1.0, torch.zeros(2))
    )
    assert kept.v.tolist() == [0.0, 1.0]
    assert nf.LIFParameters(v_leak=0.5).detach().v_leak == 0.5
    assert nf.LIFParameters(v_leak=0.5).detach().method == "super"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.where(torch.ones(3), s), TypeError, "mask: got dtype torch.float32, expected a boolean tensor"),
        (lambda s: s.where([True], s), TypeError, "mask: got list, expected a boolean tensor"),
        (
            lambda s: s.where(torch.ones(2) > 0, s),
            ValueError,
            r"mask: got shape \(2,\), expected \(3,\), the first",
        ),
        (lambda s: s.where(torch.ones(3) > 0, None), TypeError, "other: got NoneType, expected LIFFeedForwardState"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(nf.LIFFeedForwardState(torch.zeros(3), torch.zeros(3)))


@pytest.mark.parametrize("model", CELLS)
def test_stored(model):
    """With weights_only, which is the default of torch.load, and as pickles."""
    _, _, state = step(model)
    stored = (state.detach(), model.defaults())
    file = io.BytesIO()
    torch.save(stored, file)
    file.seek(0)
    for loaded in (torch.load(file, weights_only=True), pickle.loads(pickle.dumps(stored))):
        for part, other in zip(stored, loaded, strict=True):
            assert type(part) is type(other)
            for a, b in zip(fields(part).values(), fields(other).values(), strict=True):
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_exported_with_a_state():
    cell, x = nf.LIFRefracCell(), torch.rand(2, 3)
    _, state = cell(x)
    file = io.BytesIO()
    torch.export.save(torch.export.export(cell, (x, state.detach())), file)
    file.seek(0)
    z, new = torch.export.load(file).module()(x, state.detach())
    expected_z, expected = cell(x, state.detach())
    assert torch.equal(z, expected_z)
    assert torch.equal(new.lif.v, expected.lif.v)


def test_compiled():
    cell = nf.LIFCell()

    def run(x: torch.Tensor, state: Any) -> Any:
        z, state = cell(x, state.detach())
        return z, state.where(x[:, 0] > 0.5, state.clone().detach())[x[:, 0] > 0]

    x = torch.rand(3, 2)
    state = nf.LIFFeedForwardState(torch.zeros(3, 2), torch.zeros(3, 2))
    z, new = torch.compile(run, backend="eager")(x, state)
    expected_z, expected = run(x, state)
    assert torch.equal(z, expected_z)
    assert type(new) is nf.LIFFeedForwardState
    assert torch.equal(new.i, expected.i)


@pytest.mark.parametrize("neurons", [3, 4])
def test_the_initial_state_of_some_samples(neurons: int):
    """One potential for all, beside currents of each neuron: the mask is of samples, also where there are as many neurons."""
    cell, done, x = nf.LIFCell(), torch.tensor([True, False, False, False]), torch.zeros(4, neurons)
    start = cell.initial_state(x)
    state = start._replace(v=torch.tensor(0.9)).where(~done, start)
    assert torch.equal(state.v.expand(4, neurons), torch.where(done[:, None], 0.0, 0.9).expand(4, neurons))
    assert cell(x, state)[1].v.shape == (4, neurons)


@pytest.mark.parametrize("index", [torch.tensor([True, False, True]), torch.tensor([2, 0]), ...], ids=str)
def test_samples_of_an_initial_state(index: Any):
    """One number stands for all samples, whatever is chosen."""
    cell, x = nf.LIFRefracCell(), torch.rand(3, 4)
    state = cell.initial_state(x)
    state = state._replace(lif=state.lif._replace(v=torch.tensor(0.5)))
    chosen = state[index]
    assert chosen.lif.v.item() == 0.5
    assert torch.equal(chosen.lif.i, state.lif.i[index])
    assert torch.equal(cell(x[index], chosen)[1].lif.v, cell(x, state)[1].lif.v[index])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nf.RecurrentSequential(torch.nn.Linear(3, 3), nf.LIFCell())(torch.ones(1, 3))[1],
        lambda: nf.functional.STDPState(torch.ones(2), torch.zeros(3)),
        lambda: nf.functional.STDPParameters(mu=0.5),
    ],
    ids=["RecurrentSequentialState", "STDPState", "STDPParameters"],
)
def test_what_else_is_stored(make):
    state, file = make(), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded) is type(state)
    assert repr(vars(loaded) if hasattr(loaded, "__dict__") else loaded.detach()) == repr(
        vars(state) if hasattr(state, "__dict__") else state.detach()
    )


def test_a_shallow_copy_starts_from_its_own_parameters():
    cell = nf.LIFCell()
    copied = copy.copy(cell)
    copied.p = copied.p._replace(v_leak=torch.tensor(0.5))
    assert copied.state_fallback(torch.ones(2)).v.unique() == 0.5
    assert cell.state_fallback(torch.ones(2)).v.unique() == 0
    own = nf.LIFCell()
    own.state_fallback = cell.initial_state
    assert copy.copy(own).state_fallback == cell.initial_state
