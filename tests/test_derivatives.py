"""Derivatives that the kernels do not compute: forward mode, batches, derivatives of derivatives, and that of dt.

All of them must be those of the same call in plain PyTorch.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import FEED_FORWARD, Model, fields, model_id, potential_of, random_params, random_state
from .test_recurrent import LAYERS, layer_of, make_case

# PyTorch's own, where it differentiates in forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def both(run):
    """The results with kernels and in plain PyTorch."""
    actual = run()
    with kernels_disabled():
        expected = run()
    assert expected is not None
    return actual, expected


def assert_equal_derivatives(run, rtol=1e-9):
    actual, expected = both(run)
    for a, e in zip(actual, expected, strict=True):
        assert e.abs().sum() > 0
        torch.testing.assert_close(a, e, rtol=rtol, atol=1e-11 * max(1.0, e.abs().max().item()))


@pytest.fixture(params=FEED_FORWARD, ids=model_id)
def sequence(request, generator):
    """A function of input, state and parameters over time, and arguments for it."""
    model: Model = request.param
    x = 3 * torch.rand(40, 2, 4, generator=generator, dtype=torch.float64)
    state = tuple(fields(random_state(model, (2, 4), torch.float64, generator)).values())
    p = random_params(model, (4,), torch.float64, generator)
    names = [n for n, v in fields(p).items() if isinstance(v, torch.Tensor) and n.split(".")[-1] != "alpha"]
    params = tuple(fields(p)[n] for n in names)

    def run(x, state, params):
        full = dict(zip(fields(p), fields(model.defaults()).values())) | dict(zip(names, params))
        packed = model.pack(model.params, full)
        states = model.pack(model.state, dict(zip(model.neuron.state, state)))
        output, final = model.neuron(x, states, packed, 0.001, sequence=True)
        return (output * torch.linspace(0, 1, 40, dtype=x.dtype).view(-1, 1, 1)).sum() + sum(
            (v**2).sum() for v in fields(final).values()
        )

    return run, (x, state, params)


def tangents_of(primals):
    return torch.utils._pytree.tree_map(
        lambda t: torch.cos(torch.arange(t.numel(), dtype=t.dtype)).view(t.shape), primals
    )


def test_forward_mode(sequence):
    run, primals = sequence
    assert_equal_derivatives(lambda: (torch.func.jvp(run, primals, tangents_of(primals))[1],))
    # The surrogates are the derivative in both directions.
    gradients = torch.func.grad(run, (0, 1, 2))(*primals)
    pairs = zip(*(torch.utils._pytree.tree_leaves(tree) for tree in (gradients, tangents_of(primals))))
    expected = sum((g * t).sum() for g, t in pairs)
    torch.testing.assert_close(torch.func.jvp(run, primals, tangents_of(primals))[1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grad", [True, False])
def test_dual_numbers(sequence, grad):
    run, (x, state, params) = sequence

    def tangent(place):
        arguments = [x, state, params]
        with forward_ad.dual_level(), contextlib.nullcontext() if grad else torch.no_grad():
            dual = lambda t: forward_ad.make_dual(t, torch.ones_like(t))  # noqa: E731
            arguments[place] = torch.utils._pytree.tree_map(dual, arguments[place])
            return forward_ad.unpack_dual(run(*arguments)).tangent

    for place in range(3):
        assert_equal_derivatives(lambda place=place: (tangent(place),))


def test_derivatives_of_derivatives(sequence):
    run, (x, state, params) = sequence

    def nested():
        leaves = [t.clone().requires_grad_() for t in (x, *state, *params)]
        states = len(state)
        total = run(leaves[0], tuple(leaves[1 : 1 + states]), tuple(leaves[1 + states :]))
        first = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
        norm = sum((g**2).sum() for g in first)
        return norm, *torch.autograd.grad(norm, leaves[:2])

    assert_equal_derivatives(nested, rtol=1e-7)

    def functional():
        inner = torch.func.grad(lambda q: run(q, state, params))
        return (torch.func.grad(lambda q: inner(q).pow(2).sum())(x),)

    assert_equal_derivatives(functional, rtol=1e-7)


def test_jacobians(sequence):
    run, (x, state, params) = sequence
    x = x[:3, :1, :2]
    state, params = tuple(s[:1, :2] for s in state), tuple(p[:2] for p in params)

    def short(q):
        q = torch.cat([q, q.new_zeros(37, 1, 2)])
        return torch.stack([run(q, state, params), run(2 * q, state, params)])

    assert_equal_derivatives(lambda: (torch.func.jacfwd(short)(x),))
    assert_equal_derivatives(lambda: (torch.func.jacrev(short)(x),))
    assert_equal_derivatives(lambda: (torch.autograd.functional.jacobian(short, x, vectorize=True),))


def test_vmap(sequence):
    run, (x, state, params) = sequence
    batch = torch.stack([x, 2 * x, -x])
    actual, expected = both(lambda: torch.func.vmap(lambda q: run(q, state, params))(batch))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual[1], run(2 * x, state, params), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", [m for m in FEED_FORWARD if m.cell], ids=model_id)
def test_cells(model: Model):
    cell, x = model.cell(), torch.linspace(1, 30, 6, dtype=torch.float64).view(2, 3)

    def run(q):
        _, state = cell(q)
        output, state = cell(q, state)
        return output.sum() + sum((v**2).sum() for v in fields(state).values())

    assert_equal_derivatives(lambda: (torch.func.jvp(run, (x,), (torch.ones_like(x),))[1],))
    assert_equal_derivatives(lambda: (torch.func.hessian(run)(x),), rtol=1e-7)
    rows = torch.eye(6, dtype=torch.float64).view(6, 2, 3)

    def batched():
        q = x.clone().requires_grad_()
        _, state = cell(q, cell(q)[1])
        return torch.autograd.grad(potential_of(state), q, rows, is_grads_batched=True)

    assert_equal_derivatives(batched)


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recurrent_layers(model: Model, generator):
    x, state, weights, p, _ = make_case(model, 24, (2,), 3, 4, generator, torch.float64)
    x, weights = x.detach(), tuple(w.detach() for w in weights)
    state = torch.utils._pytree.tree_map(torch.Tensor.detach, state)

    def run(q, w):
        output, final = layer_of(model)(q, state, w, weights[1], p, 0.001)
        return output[-3:].sum() + sum((v**2).sum() for n, v in fields(final).items() if n.split(".")[-1] != "z")

    tangents = (torch.ones_like(x), torch.ones_like(weights[0]))
    assert_equal_derivatives(lambda: (torch.func.jvp(run, (x, weights[0]), tangents)[1],))
    assert_equal_derivatives(lambda: (torch.func.jacfwd(run)(x, weights[0]),))

    def twice():
        leaves = [x.clone().requires_grad_(), weights[0].clone().requires_grad_()]
        first = torch.autograd.grad(run(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves)

    assert_equal_derivatives(twice, rtol=1e-7)

    def batched():
        leaf = x.clone().requires_grad_()
        output, _ = layer_of(model)(leaf, state, *weights, p, 0.001)
        g = torch.cos(torch.arange(3.0 * output.numel(), dtype=torch.float64)).view(3, *output.shape)
        return torch.autograd.grad(output, leaf, g, is_grads_batched=True)

    assert_equal_derivatives(batched)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_length_of_a_step(requires_grad):
    for make in (nf.LI, nf.LIF, nf.Izhikevich, lambda dt: nf.LIFRecurrent(3, 4, dt=dt)):
        for dtype in (torch.float32, torch.float64):
            if make is nf.Izhikevich:
                make = lambda dt: nf.Izhikevich(nf.tonic_spiking, dt=dt)  # noqa: E731
            torch.manual_seed(0)
            dt = torch.tensor(1e-3, dtype=dtype, requires_grad=requires_grad)
            layer, x = make(dt=dt), 10 * torch.rand(40, 2, 3)

            def run(layer=layer, x=x, dt=dt):
                output, final = layer(x)
                total = output.sum() + sum(v.sum() for v in fields(final).values())
                return (output, *fields(final).values(), *(torch.autograd.grad(total, dt) if requires_grad else ()))

            for a, e in zip(*both(run)):
                torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dt", ["1e-3", None, 1j, torch.tensor(1j)])
def test_step_of_no_length(dt):
    for layer in (nf.LIF(dt=dt), nf.LICell(dt=dt), nf.LIFRecurrent(3, 3, dt=dt), nf.LIFRecurrentCell(3, 3, dt=dt)):
        with pytest.raises(TypeError, match="dt: got"):
            layer(torch.rand(4, 2, 3))


def test_known_values():
    """Values by hand: the layer is linear, so its derivatives are those of a sum of exponentials."""
    torch.manual_seed(0)
    x = torch.rand(6, 1, 3, dtype=torch.float64)
    ones = torch.ones_like(x)

    def f(q):
        return nf.LI()(q)[0].pow(2).sum()

    values = {
        11.7270: [
            torch.func.jvp(f, (x,), (ones,))[1],
            torch.func.jacfwd(f)(x).sum(),
            torch.autograd.functional.jvp(f, x, ones)[1],
        ],
        34.0392: [torch.func.grad(lambda q: torch.func.grad(f)(q).pow(2).sum())(x).sum()],
    }
    for expected, found in values.items():
        for value in found:
            assert abs(value.item() - expected) < 1e-4


def test_switch_is_per_context():
    """Threads and instances that overlap do not switch each other."""
    import threading

    barrier, seen = threading.Barrier(2), []

    def disable():
        with kernels_disabled():
            barrier.wait()
            seen.append(nf.backends()["cpu"])
            barrier.wait()

    threads = [threading.Thread(target=disable) for _ in range(2)]
    outside = nf.backends()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == ["none", "none"]
    assert nf.backends() == outside
    switch = kernels_disabled()
    with switch:
        with switch:
            pass
        assert nf.backends()["cpu"] == "none"
    assert nf.backends() == outside


def test_derivatives_of_a_backward_pass_whose_forward_pass_is_over():
    """Only the level of torch.func at which a call ran may have its gradients from kernels."""
    layer, x = nf.LIF(), 5 * torch.rand(3, 40, 2, 3, dtype=torch.float64)

    def pulled():
        _, pull = torch.func.vjp(lambda q: layer(q)[0], x)
        first = torch.func.grad(lambda g: pull(g)[0].pow(2).sum())(x)
        return first, torch.func.jvp(lambda g: pull(g)[0], (x,), (x,))[1], torch.func.vmap(pull)(torch.stack([x]))[0]

    def of_a_batch():
        leaf = x.clone().requires_grad_()
        z = torch.func.vmap(lambda q: layer(q)[0])(leaf)
        (first,) = torch.autograd.grad(z.pow(2).sum(), leaf, create_graph=True)
        batch = torch.autograd.grad(z, leaf, torch.stack([x, 2 * x]), is_grads_batched=True, retain_graph=True)
        return first, *torch.autograd.grad(first.pow(2).sum(), leaf), *batch

    assert_equal_derivatives(pulled)
    assert_equal_derivatives(of_a_batch)


def pulled_twice(run, x):
    """What torch.func.vjp pulls back once it has returned, and the derivative of that by what is pulled."""
    y, pull = torch.func.vjp(run, x)
    (first,) = pull(torch.ones_like(y))
    seed = torch.linspace(1, 2, y.numel(), dtype=y.dtype).view_as(y).requires_grad_()
    return first, *torch.autograd.grad(pull(seed)[0].pow(2).sum(), seed)


def test_pulling_back_behind_a_transform(sequence):
    run, (x, state, params) = sequence
    assert_equal_derivatives(lambda: pulled_twice(lambda q: run(q, state, params), x), rtol=1e-7)
    for k in range(len(params)):
        replaced = lambda q, k=k: run(x, state, (*params[:k], q, *params[k + 1 :]))  # noqa: E731
        actual, expected = both(lambda k=k, replaced=replaced: torch.func.vjp(replaced, params[k])[1](x.new_ones(())))
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_pulling_recurrent_layers_back_behind_a_transform(model, generator):
    x, state, weights, p, _ = make_case(model, 33, (2,), 3, 4, generator, torch.float64, per_neuron=True)
    x, state, weights = torch.utils._pytree.tree_map(torch.Tensor.detach, (x, state, weights))
    run = lambda q, *w: layer_of(model)(q, state, *w, p, 0.001)[0]  # noqa: E731
    assert_equal_derivatives(lambda: pulled_twice(lambda q: run(q, *weights), x), rtol=1e-7)
    assert_equal_derivatives(lambda: torch.func.vjp(run, x, *weights)[1](torch.ones(33, 2, 4, dtype=x.dtype)))


@pytest.mark.parametrize(
    "make", [lambda: nf.LIF(learn="v_th"), lambda: nf.LIFRecurrent(4, 4)], ids=["LIF", "LIFRecurrent"]
)
def test_what_is_frozen_before_backward(make, generator):
    layer = make().double()
    x = (20 * torch.rand(20, 2, 4, generator=generator, dtype=torch.float64)).requires_grad_()

    def run():
        layer.requires_grad_(True)
        y, _ = layer(x)
        layer.requires_grad_(False)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return first, *torch.autograd.grad(first.pow(2).sum(), x)

    assert_equal_derivatives(run)


@pytest.mark.parametrize("kernels", [True, False])
def test_what_needs_a_gradient_after_forward_gets_none(kernels):
    v_th = torch.tensor(0.3, dtype=torch.float64)
    x = torch.linspace(0, 9, 60, dtype=torch.float64).view(20, 3).requires_grad_()
    with contextlib.nullcontext() if kernels else kernels_disabled():
        y, _ = nf.LIF(nf.LIFParameters(v_th=v_th))(x)
        v_th.requires_grad_()
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert torch.autograd.grad(first.pow(2).sum(), v_th, allow_unused=True) == (None,)


@pytest.mark.parametrize("make", [nf.LI, nf.LIF, lambda: nf.LIFRecurrent(4, 4)], ids=["LI", "LIF", "LIFRecurrent"])
@pytest.mark.parametrize("hooks", ["checkpoint", "save_on_cpu"])
def test_derivatives_of_derivatives_within_hooks_of_saved_tensors(make, hooks, generator):
    """Which torch.func does not stand."""
    layer = make().double()
    x = (90 * torch.rand(8, 2, 4, generator=generator, dtype=torch.float64)).requires_grad_()

    def penalty(x):
        y, _ = layer(x)
        return torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)[0]

    def run():
        if hooks == "checkpoint":
            first = checkpoint(penalty, x, use_reentrant=False)
        else:
            with torch.autograd.graph.save_on_cpu():
                first = penalty(x)
        return torch.autograd.grad(first.pow(2).sum(), x)[0]

    actual, expected = both(run)
    assert expected.any()
    torch.testing.assert_close(actual, expected)
