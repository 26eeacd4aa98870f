"""Modules: what PyTorch expects of any, and what the reference's have: names, seeds, autapses, states."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import pytest
import torch

import norse_fast as nf

from .models import MODELS, Model, fields, model_id

WITH_CELL = [m for m in MODELS if m.cell]
WITH_LAYER = [m for m in MODELS if m.layer]
SIZES = (4, 6)


def build(model: Model, kind: str, **kwargs):
    factory = model.layer if kind == "layer" else model.cell
    return factory(*(() if model.kind == "ff" else SIZES), **kwargs)


def example(model: Model, kind: str, generator):
    width = 6 if model.kind == "ff" else 4
    return 5 * torch.rand((8, 2, width) if kind == "layer" else (2, width), generator=generator)


EVERY = [
    pytest.param(m, kind, id=f"{m.name}-{kind}")
    for m in MODELS
    for kind in ("layer", "cell")
    if (m.layer if kind == "layer" else m.cell)
]


@pytest.mark.parametrize(("model", "kind"), EVERY)
def test_copies_and_pickles(model: Model, kind: str, generator):
    module = build(model, kind)
    x = example(model, kind, generator)
    expected = module(x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)]
    for other in copies:
        output, state = other(x)
        assert torch.equal(output, expected[0])
        assert type(state) is type(expected[1])
        assert {k: v.tolist() for k, v in fields(state).items()} == {
            k: v.tolist() for k, v in fields(expected[1]).items()
        }


@pytest.mark.parametrize(("model", "kind"), EVERY)
def test_states_pickle(model: Model, kind: str, generator):
    _, state = build(model, kind)(example(model, kind, generator))
    detached = type(state)(*(v.detach() for v in fields(state).values()))
    again = pickle.loads(pickle.dumps(detached))
    assert type(again) is type(state)
    assert all(torch.equal(a, b) for a, b in zip(again, detached))


@pytest.mark.parametrize(("model", "kind"), EVERY)
def test_state_dict(model: Model, kind: str):
    keys = {"ff": [], "lin": ["input_weights"], "rec": ["input_weights", "recurrent_weights"]}[model.kind]
    assert list(build(model, kind).state_dict()) == keys


@pytest.mark.parametrize("model", [m for m in WITH_LAYER if m.kind in ("ff", "rec")], ids=model_id)
def test_layer_equals_cell_in_a_loop(model: Model, generator):
    torch.manual_seed(3)
    layer = build(model, "layer")
    torch.manual_seed(3)
    cell = build(model, "cell")
    x = example(model, "layer", generator)
    output, final = layer(x)
    outputs, state = [], None
    for frame in x:
        z, state = cell(frame, state)
        outputs.append(z)
    torch.testing.assert_close(torch.stack(outputs), output, rtol=0 if model.kind == "ff" else 1e-5, atol=0)
    for name, value in fields(final).items():
        torch.testing.assert_close(fields(state)[name], value, rtol=0 if model.kind == "ff" else 1e-5, atol=1e-6)


@pytest.mark.parametrize("model", WITH_LAYER, ids=model_id)
def test_record_states(model: Model, generator):
    layer = build(model, "layer", record_states=True)
    x = example(model, "layer", generator)
    output, states = layer(x)
    layer.record_states = False
    again, last = layer(x)
    assert torch.equal(output, again)
    for name, value in fields(states).items():
        assert value.shape == (8, 2, 6)
        assert torch.equal(value[-1], fields(last)[name])
    _, state = layer(x[:4])
    for name, value in fields(state).items():
        assert torch.equal(fields(states)[name][3], value)


@pytest.mark.parametrize("model", WITH_LAYER, ids=model_id)
def test_chunks_with_carried_state(model: Model, generator):
    layer = build(model, "layer")
    x = example(model, "layer", generator)
    output, final = layer(x)
    state, parts = None, []
    for chunk in x.split([1, 4, 3]):
        part, state = layer(chunk, state)
        parts.append(part)
    assert torch.equal(torch.cat(parts), output)
    for name, value in fields(final).items():
        assert torch.equal(fields(state)[name], value)


def test_same_seed_same_weights_as_the_reference():
    torch.manual_seed(7)
    layer = nf.LIFRecurrent(3, 5)
    torch.manual_seed(7)
    input_weights = torch.randn(5, 3) * math.sqrt(2 / 5)
    recurrent_weights = torch.randn(5, 5) * math.sqrt(2 / 5)
    recurrent_weights.fill_diagonal_(0)
    torch.testing.assert_close(layer.input_weights.detach(), input_weights, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.recurrent_weights.detach(), recurrent_weights, rtol=1e-6, atol=0)
    torch.manual_seed(7)
    readout = nf.LILinearCell(3, 5)
    torch.manual_seed(7)
    torch.testing.assert_close(readout.input_weights.detach(), torch.randn(5, 3) / math.sqrt(3), rtol=1e-6, atol=0)


def diagonal_gradient(module, x):
    module(x)[0].sum().backward()
    return module.recurrent_weights.grad.diagonal().abs().sum().item()


@pytest.mark.parametrize("factory", [nf.LIFRecurrent])
def test_autapses(factory, generator):
    x = 5 * torch.rand(10, 2, 4, generator=generator)
    module = factory(4, 6)
    assert module.recurrent_weights.diagonal().abs().sum() == 0
    for other in (
        module,
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(copy.deepcopy(module)),
    ):
        other.zero_grad()
        assert diagonal_gradient(other, x) == 0
        assert other.recurrent_weights.grad.abs().sum() > 0
    with_autapses = factory(4, 6, autapses=True)
    assert with_autapses.recurrent_weights.diagonal().abs().sum() > 0
    assert diagonal_gradient(with_autapses, x) > 0


def test_saving_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(nf.LIFRecurrent(2, 3), io.BytesIO())


def test_given_weights():
    weights = torch.ones(3, 2), torch.ones(3, 3)
    cell = nf.LIFRecurrentCell(2, 3, input_weights=weights[0], recurrent_weights=weights[1])
    assert cell.input_weights is weights[0]
    assert weights[1].diagonal().sum() == 0
    assert weights[1].requires_grad
    assert list(cell.state_dict()) == []


def test_repr():
    p = nf.LIParameters()
    assert repr(nf.LICell(p)) == f"LICell(p={p}, dt=0.001)"
    layer = nf.LIFRecurrent(2, 3, dt=0.01)
    expected = f"LIFRecurrent(input_size=2, hidden_size=3, p={layer.p}, autapses=False, dt=0.01)"
    assert repr(layer) == expected


@pytest.mark.parametrize("factory", [nf.LIFCell, nf.LIF])
def test_number_parameters(factory, generator):
    x = 3 * torch.rand(5, 4, generator=generator)
    numbers = nf.LIFParameters(tau_syn_inv=150.0, tau_mem_inv=80, v_leak=0.1, v_th=0.5, v_reset=-0.1, alpha=50)
    tensors = nf.LIFParameters(*(v if isinstance(v, str) else torch.tensor(float(v)) for v in numbers))
    assert torch.equal(factory(numbers)(x)[0], factory(tensors)(x)[0])


def test_learnable_parameters_are_learnt(generator):
    tau = torch.nn.Parameter(torch.full((4,), 100.0))
    layer = nf.LIF(nf.LIFParameters(tau_mem_inv=tau))
    assert layer.p.tau_mem_inv is tau
    layer(3 * torch.rand(20, 2, 4, generator=generator))[0].sum().backward()
    assert tau.grad.shape == (4,)
    assert tau.grad.abs().min() > 0


@pytest.mark.parametrize("factory", [nf.LIFCell, nf.LIF, nf.LICell, nf.LI])
def test_per_neuron_leak_is_the_initial_voltage(factory):
    p = nf.LIFParameters if "LIF" in factory.__name__ else nf.LIParameters
    v_leak = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    module = factory(p(v_leak=v_leak))
    x = torch.zeros(4, 2, 3) if factory in (nf.LIF, nf.LI) else torch.zeros(2, 3)
    output, state = module(x)
    torch.testing.assert_close(state.v, v_leak.expand(2, 3))
    output.sum().backward()
    assert v_leak.grad is None or v_leak.grad.shape == (3,)


def test_defaults_are_not_touched():
    before = [copy.deepcopy(m.params()) for m in MODELS]
    for model, kind in [p.values for p in EVERY]:
        module = build(model, kind)
        output, _ = module(torch.ones((3, 2, 6 if model.kind == "ff" else 4)))
        output.sum().backward()
    for model, saved in zip(MODELS, before):
        for name, value in fields(model.params()).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, fields(saved)[name])
                assert not value.requires_grad
                assert value.grad is None


def test_subclass_with_other_initial_state():
    class Started(nf.LIFCell):
        def initial_state(self, input_tensor):
            return nf.LIFFeedForwardState(v=torch.full_like(input_tensor, 0.5), i=torch.zeros_like(input_tensor))

    assert torch.all(Started()(torch.zeros(2, 3))[1].v > 0)


def custom_step(x, state, p, dt):
    v = state.v + dt * p * (x - state.v)
    return v, nf.LIState(v, state.i)


def custom_recurrent_step(x, state, input_weights, recurrent_weights, p, dt):
    v = state.v + dt * p * (x @ input_weights.T + state.v @ recurrent_weights.T - state.v)
    return v, nf.LIState(v, state.i)


def test_custom_activations(generator):
    """Any step function works in the base classes, step by step; the gradient is that of the loop."""

    def initial(x):
        return nf.LIState(torch.zeros(2, 3), torch.zeros(2, 3))

    x = torch.rand(6, 2, 3, generator=generator, requires_grad=True)
    layer = nf.SNN(custom_step, initial, 10.0, record_states=True)
    output, states = layer(x)
    cell, state, outputs = nf.SNNCell(custom_step, initial, 10.0), None, []
    for frame in x:
        v, state = cell(frame, state)
        outputs.append(v)
    assert torch.equal(output, torch.stack(outputs))
    assert torch.equal(states.v, output)
    recurrent = nf.SNNRecurrent(custom_recurrent_step, initial, 3, 3, 10.0)
    cell = nf.SNNRecurrentCell(
        custom_recurrent_step,
        initial,
        3,
        3,
        10.0,
        input_weights=recurrent.input_weights,
        recurrent_weights=recurrent.recurrent_weights,
    )
    output, _ = recurrent(x)
    state, outputs = None, []
    for frame in x:
        v, state = cell(frame, state)
        outputs.append(v)
    assert torch.equal(output, torch.stack(outputs))
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (output, torch.stack(outputs))]
    assert torch.equal(*gradients)


def test_sparse(generator):
    x = (torch.rand(5, 2, 4, generator=generator) > 0.5).float() * 5
    cell, recurrent = nf.LIFCell(), nf.LIFRecurrentCell(4, 6)
    z, state = cell(x[0].to_sparse())
    assert z.is_sparse
    assert torch.equal(z.to_dense(), cell(x[0])[0])
    z, state = recurrent(x[0].to_sparse())
    assert z.is_sparse
    assert state.z.is_sparse
    torch.testing.assert_close(z.to_dense(), recurrent(x[0])[0])
    z, state = recurrent(x[1].to_sparse(), state)
    assert z.shape == (2, 6)
    z, state = nf.LIF()(x.to_sparse())
    assert torch.equal(z.to_dense(), nf.LIF()(x)[0])
    layer = nf.LIFRecurrent(4, 6, input_weights=recurrent.input_weights, recurrent_weights=recurrent.recurrent_weights)
    torch.testing.assert_close(layer(x.to_sparse())[0].to_dense(), layer(x)[0])


def test_state_tuples():
    p = nf.LIFParameters().to(torch.float64)
    assert isinstance(p, nf.StateTuple)
    assert p.v_th.dtype == torch.float64
    state = nf.LIFState(z=torch.tensor(0.0), v=torch.tensor(0.5, requires_grad=True), i=torch.ones(2, 3))
    full = state.broadcast(torch.zeros(2, 3))
    assert full.v.shape == (2, 3)
    assert full.v.requires_grad
    assert nf.LIFState._fields == ("z", "v", "i")
    assert nf.LIFParameters.bio_default(v_th=torch.tensor(-50.0)).v_th == -50
    assert nf.LIParameters.bio_default().v_leak == -70


def test_half_precision_modules(generator):
    """A half-precision network keeps half-precision spikes, step after step."""
    for dtype in (torch.float16, torch.bfloat16):
        model = nf.SequentialState(
            torch.nn.Linear(4, 8), nf.LIFCell(), torch.nn.Linear(8, 8), nf.LIFRecurrentCell(8, 5), nf.LILinearCell(5, 2)
        ).to(dtype)
        state = None
        for frame in torch.rand(3, 2, 4, generator=generator).to(dtype):
            v, state = model(frame, state)
        assert v.dtype == dtype
        assert state[1].v.dtype == torch.float32
