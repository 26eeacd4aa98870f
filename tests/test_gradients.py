"""Gradients of the kernels against autograd through the pure-PyTorch steps, most in float64."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

import norse_fast as nf
from norse_fast._kernels import autograd
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional.threshold import SURROGATES

from .models import (
    FEED_FORWARD,
    Model,
    fields,
    gradients_of_each,
    model_id,
    potential_of,
    random_params,
    random_state,
    set_surrogate,
)
from .test_modules import MODULES, make, make_input


def leaves_of(x, state, params):
    return {
        "input": x,
        **{f"state.{k}": v for k, v in fields(state).items()},
        **{
            f"p.{k}": v
            for k, v in fields(params).items()
            if isinstance(v, torch.Tensor) and k.split(".")[-1] != "alpha"
        },
    }


def gradients(model: Model, x, state, params, weights, record=False):
    """Gradients of a random linear function of the outputs and states, for every leaf that requires grad."""
    leaves = {k: v for k, v in leaves_of(x, state, params).items() if v.requires_grad}
    output, final = model.neuron(x, state, params, 0.001, sequence=True, record=record)
    results = [output, *fields(final).values()]
    loss = sum((weight * value).sum() for weight, value in zip(weights, results))
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found)}


def assert_gradients_match(model: Model, x, state, params, generator, record=False, tolerance=1e-9):
    output, final = model.neuron(x.detach(), state, params, 0.001, sequence=True, record=record)
    results = [output, *fields(final).values()]
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    actual = gradients(model, x, state, params, weights, record)
    with kernels_disabled():
        expected = gradients(model, x, state, params, weights, record)
    assert actual.keys() == expected.keys()
    assert actual
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        scale = max(1.0, value.abs().max().item()) if value.numel() else 0.0
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda m, name=name: f"{name}: {m}"
        )


def requiring_grad(tree):
    """All but alpha, whose gradient leads through Python: test_surrogates_of_ones_own.py."""
    for name, value in fields(tree).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name.split(".")[-1] != "alpha":
            value.requires_grad_()
    return tree


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_everything_at_once(model: Model, data):
    """Any length, batch and width, any parameter shape, any surrogate, gradients through the last or through all states."""
    steps = data.draw(st.sampled_from([1, 2, 5, 31, 32, 33, 64, 65, 100]), "T")
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 5), (2, 3, 4), (1, 70), (2, 600)]), "neurons")
    param_shape = data.draw(st.sampled_from([(), shape[-1:], shape, (1,) * len(shape)]), "parameters")
    method = data.draw(st.sampled_from(list(SURROGATES)), "surrogate")
    record = data.draw(st.booleans(), "record")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), "seed"))
    x = (4 * torch.rand(steps, *shape, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    state = requiring_grad(random_state(model, shape, torch.float64, generator))
    params = random_params(model, param_shape, torch.float64, generator)
    requiring_grad(params)
    params = set_surrogate(params, method, torch.tensor(2.0, dtype=torch.float64))
    assert_gradients_match(model, x, state, params, generator, record)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("steps", [33, 70])
@pytest.mark.parametrize("shape", [(), (9,), (3, 9)], ids=str)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_single_precision(model: Model, shape: tuple[int, ...], steps: int, record: bool, generator):
    """Of everything, over more than one segment."""
    x = (3 * torch.rand(steps, 3, 9, generator=generator)).requires_grad_()
    state = requiring_grad(random_state(model, (3, 9), torch.float32, generator))
    params = requiring_grad(random_params(model, shape, torch.float32, generator))
    params = set_surrogate(params, "super", torch.tensor(10.0))
    assert_gradients_match(model, x, state, params, generator, record, tolerance=1e-5)


@pytest.mark.parametrize("needs", ["input", "state", "params", "one parameter"])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_only_what_is_needed(model: Model, needs: str, generator):
    x = torch.rand(40, 2, 5, generator=generator, dtype=torch.float64) * 3
    state = random_state(model, (2, 5), torch.float64, generator)
    params = random_params(model, (5,), torch.float64, generator)
    if needs == "input":
        x.requires_grad_()
    elif needs == "state":
        requiring_grad(state)
    elif needs == "params":
        params = set_surrogate(requiring_grad(params), "super", 10.0)
    else:
        next(iter(fields(params).values())).requires_grad_()
    assert_gradients_match(model, x, state, params, generator)


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_scalar_broadcast_state_gets_its_gradient(model: Model, generator):
    x = 3 * torch.rand(5, 2, 4, generator=generator, dtype=torch.float64)
    state = requiring_grad(random_state(model, (), torch.float64, generator))
    assert_gradients_match(model, x, state, model.defaults(), generator)


@pytest.mark.parametrize("steps", [1, 10, 40])
def test_gradcheck_li(steps: int, generator):
    def run(x, v, i, tau_syn_inv, tau_mem_inv, v_leak):
        p = nf.LIParameters(tau_syn_inv, tau_mem_inv, v_leak)
        output, state = nf.functional.leaky_integrator._li(x, nf.LIState(v, i), p, 0.001, sequence=True)
        return output, *state

    def leaf(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, v, i = leaf(steps, 2, 3), leaf(2, 3), leaf(2, 3)
    rates = [(100 * leaf(*s)).detach().requires_grad_() for s in [(3,), ()]]
    assert torch.autograd.gradcheck(run, (x, v, i, *rates, leaf(2, 1)))


def test_alpha_per_neuron(generator):
    x = 3 * torch.rand(20, 2, 4, generator=generator, dtype=torch.float64)
    params = nf.LIFParameters(alpha=torch.tensor([1.0, 5.0, 20.0, 100.0]))
    state = random_state(FEED_FORWARD[0], (2, 4), torch.float64, generator)
    assert_gradients_match(FEED_FORWARD[0], x.requires_grad_(), state, params, generator)


def test_unused_outputs(generator):
    """A loss on the final state alone, and one on a single field of the recorded states."""
    x = (3 * torch.rand(40, 2, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    for record in (False, True):
        layer = nf.LIF(record_states=record)
        grad = torch.autograd.grad(layer(x)[1].i.sum(), x)[0]
        with kernels_disabled():
            expected = torch.autograd.grad(layer(x)[1].i.sum(), x)[0]
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


def test_input_changed_in_place_is_noticed():
    x = torch.ones(3, 2).requires_grad_()
    y = x * 2
    z, _ = nf.LIF()(y)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_parameter_changed_in_place_is_noticed():
    p = nf.LIFParameters(v_th=torch.tensor(0.5))
    z, _ = nf.lif_feed_forward_step(torch.ones(2, requires_grad=True), nf.LIFFeedForwardState(*torch.zeros(2, 2)), p)
    p.v_th.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_bare_cell_and_layer_can_run_backward():
    for z in (nf.LIFCell()(torch.ones(2, 3))[0], nf.LIF()(torch.ones(4, 2, 3))[0]):
        z.sum().backward()
    with torch.no_grad():
        assert not nf.LIFCell()(torch.ones(2, 3))[0].requires_grad


@pytest.mark.parametrize("model", [m for m in FEED_FORWARD if m.layer], ids=model_id)
def test_saved_memory(model: Model):
    """Beyond the input, less than a byte per neuron-step and state variable is kept for backward."""
    steps, batch, width = 1000, 4, 64
    x = torch.rand(steps, batch, width, requires_grad=True)
    saved = []

    def pack(t):
        if t.data_ptr() != x.data_ptr():
            saved.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.layer()(x)
    assert 0 < sum(saved) < 0.5 * len(model.neuron.state) * x.numel()
    if len(model.neuron.state) <= 2:
        assert sum(saved) < 1.0 * x.numel()


def test_functorch_grad(generator):
    x = torch.rand(40, 3, generator=generator, dtype=torch.float64) * 3

    def loss(value):
        return nf.LIF()(value)[0].sum()

    expected = x.clone().requires_grad_()
    loss(expected).backward()
    assert torch.equal(torch.func.grad(loss)(x), expected.grad)


def test_no_grad_skips_the_function(monkeypatch):
    monkeypatch.setattr(autograd, "_apply", None)
    with torch.no_grad():
        nf.LIF()(torch.ones(3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_an_infinite_potential_that_no_gradient_reaches(model: Model, dtype: torch.dtype, generator):
    """The last one is in no sum: what would be NaN of it, PyTorch does not compute."""
    x = 3 * torch.rand(20, 1, 2, generator=generator, dtype=dtype)
    x[-1, 0, 0] = torch.inf
    leaf = x.requires_grad_()

    def gradient() -> torch.Tensor:
        state = model.pack(model.state, {name: torch.zeros(1, 2, dtype=dtype) for name in model.neuron.state})
        output, _ = model.neuron(leaf, state, model.defaults(), 0.001, sequence=True)
        return torch.autograd.grad(output[torch.isfinite(output)].sum(), leaf)[0].isnan()

    actual = gradient()
    with kernels_disabled():
        assert torch.equal(actual, gradient())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("reset", ["value", "subtract", "none"])
@pytest.mark.parametrize("method", ["super", "triangle", "heaviside"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_what_does_not_depend_on_a_potential_that_is_no_number(
    model: Model, learned: bool, method: str, reset: str, value: float, generator
):
    """Such as the synaptic current; and what passes no spike: resets are detached, or the surrogate has no gradient."""
    x = torch.rand(20, 1, 2, generator=generator, dtype=torch.float64).requires_grad_()
    state = {name: torch.zeros(1, 2, dtype=torch.float64) for name in model.neuron.state}
    p = set_surrogate(random_params(model, (), torch.float64, generator), method, 1.0)
    neuron, start = model.neuron, model.pack(model.state, state)
    potential_of(start)[0, 0] = value
    if neuron.reset is not None:
        neuron = neuron.variants[reset, method != "heaviside"]
    leaves = leaves_of(x, start, requiring_grad(p) if learned else p)
    leaves = {k: leaf for k, leaf in leaves.items() if leaf.requires_grad}

    def gradients() -> dict[str, torch.Tensor]:
        output, final = neuron(x, start, p, 0.001, sequence=True)
        return gradients_of_each({"output": output, **fields(final)}, leaves)

    actual = gradients()
    with kernels_disabled():
        torch.testing.assert_close(actual, gradients(), equal_nan=True)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_sparse_gradients(model: Model, cell: bool, create_graph: bool):
    """As that of torch.gather may be."""
    module, x = make(model, cell), make_input(model, *(() if cell else (5,)), 2).requires_grad_()
    state = tree_map(torch.Tensor.detach, module(x.detach())[1])
    leaves = [x, *module.parameters()]

    def pulled(sparse: bool) -> list[torch.Tensor]:
        y, _ = module(x, state)
        gathered = y.gather(-1, torch.zeros(*y.shape[:-1], 1, dtype=torch.int64), sparse_grad=sparse)
        grads = torch.autograd.grad(
            gathered.sum(), leaves, allow_unused=True, materialize_grads=True, create_graph=create_graph
        )
        return [g.detach().to_dense() for g in grads]

    for found, expected in zip(pulled(True), pulled(False), strict=True):
        assert torch.equal(found, expected)
