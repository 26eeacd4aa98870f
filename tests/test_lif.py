"""LIF and LI modules and their base classes: names, seeds, autapses, sparse input, own step functions."""

from __future__ import annotations

import contextlib
import copy
import doctest
import io
import math
import pickle
import warnings
from pathlib import Path

import pytest
import torch

import norse_fast as nf


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
    assert not weights[1].requires_grad
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


@pytest.mark.filterwarnings("ignore:p. got an nn.Parameter")
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


def test_subclass_with_other_initial_state():
    class Started(nf.LIFCell):
        def initial_state(self, input_tensor):
            return nf.LIFFeedForwardState(v=torch.full_like(input_tensor, 0.5), i=torch.zeros_like(input_tensor))

    assert torch.all(Started()(torch.zeros(2, 3))[1].v > 0)


def test_layer_with_other_initial_state():
    class Started(nf.LIF):
        def initial_state(self, input_tensor):
            return nf.LIFFeedForwardState(v=torch.full_like(input_tensor[0], 0.5), i=torch.zeros_like(input_tensor[0]))

    assert torch.all(Started()(torch.zeros(2, 2, 3, requires_grad=True))[1].v > 0)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_state_of_numbers(shape, dtype, kernels, generator):
    """As tensors of one value: numbers enter tensor arithmetic in double precision, so they take on any dtype."""
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = nf.LIFFeedForwardState(torch.full(shape, 0.1, dtype=compute), torch.full(shape, 1.0, dtype=compute))
    with contextlib.nullcontext() if kernels else nf.kernels_disabled():
        z, state = nf.lif_feed_forward_step(x, nf.LIFFeedForwardState(0.1, 1), nf.LIFParameters())
        expected, expected_state = nf.lif_feed_forward_step(x, tensors, nf.LIFParameters())
    for actual, value in zip((z, *state), (expected, *expected_state)):
        assert actual.dtype == value.dtype
        assert torch.equal(actual, value)
    assert torch.equal(torch.autograd.grad(state.v.sum(), x)[0], torch.autograd.grad(expected_state.v.sum(), x)[0])


def test_gradient_of_one_recorded_variable_of_a_layer_that_starts_from_numbers(generator):
    """The others' gradients are zeros in the dtype of the computation, not of the numbers."""
    x = torch.randn(5, 2, 3, generator=generator).requires_grad_()
    layer = nf.LIF(record_states=True)
    for state in (nf.LIFFeedForwardState(0.0, 0.0), None):
        (grad,) = torch.autograd.grad(layer(x, state)[1].i.sum(), x)
        expected = torch.autograd.grad(layer(x, layer.initial_state(x))[1].i.sum(), x)[0]
        assert torch.equal(grad, expected)


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


@pytest.mark.parametrize("cell", [nf.LIFRecurrentCell, nf.LIFRefracRecurrentCell])
def test_sparse_spikes_are_multiplied_as_such(cell, generator):
    """As dense ones they would take many times as long in a wide layer."""
    recurrent = cell(4, 6)
    x = torch.rand(2, 4, generator=generator).to_sparse()
    _, state = recurrent(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        recurrent(x, state)
    names = [event.name for event in profile.events()]
    assert names.count("aten::_sparse_mm") == 2
    assert "aten::to_dense" not in names


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


def test_page_of_a_neuron_of_ones_own():
    page = Path(__file__).parents[1] / "docs" / "own_neuron.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 24)
