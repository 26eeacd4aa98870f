"""What layers return of their outputs over time: bytes, and reductions that never hold them all."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast._kernels.outputs import NUMBERS, REDUCED

from .models import FEED_FORWARD, Model, fields, is_fused, model_id, random_params, random_state
from .test_gradients import leaves_of, requiring_grad
from .test_node import python_autograd
from .test_operators import compiled

SPIKES = [m for m in FEED_FORWARD if m.neuron.surrogate]
KINDS = [k for k in NUMBERS if k != "all"]
CASES = [(m, k) for m in FEED_FORWARD for k in KINDS if m in SPIKES or k in REDUCED]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PATHS: dict[str, Callable[[], Any]] = {"C++": nullcontext, "Python": python_autograd, "PyTorch": kernels_disabled}

over_cases = pytest.mark.parametrize(("model", "kind"), CASES, ids=[f"{m.name}-{k}" for m, k in CASES])
over_paths = pytest.mark.parametrize("path", PATHS)


def computing(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def reduced(outputs: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    """What a kind is of the outputs of all steps, added up in the order of time."""
    if kind not in REDUCED:
        return outputs.to(getattr(torch, kind))
    result = outputs[-1]
    if kind != "last":
        result = outputs[0]
        for output in outputs[1:]:
            result = result + output
    return (result / len(outputs) if kind == "mean" else result).to(dtype)


def differentiably(outputs: torch.Tensor, kind: str) -> torch.Tensor:
    return outputs[-1] if kind == "last" else getattr(outputs, kind)(0)


def assert_same_states(actual, expected):
    for name, value in fields(expected).items():
        assert torch.equal(fields(actual)[name], value), name


@pytest.mark.parametrize("path", ["C++", "PyTorch"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@over_cases
def test_values(model: Model, kind: str, dtype: torch.dtype, path: str, generator):
    """Bit for bit, also where blocks and segments, which kernels alone have, are not filled."""
    params = model.defaults()
    sizes = [(1, 7), (33, 16)] if path == "PyTorch" else [(1, 1025), (31, 7), (32, 16), (33, 1), (100, 600)]
    for steps, width in sizes:
        x = (3 * torch.rand(steps, width, generator=generator)).to(dtype)
        state = random_state(model, (width,), computing(dtype), generator)
        with PATHS[path]():
            outputs, final = model.neuron(x.to(computing(dtype)), state, params, 0.001, sequence=True)
            actual, actual_final = model.neuron(x, state, params, 0.001, sequence=True, kind=kind)
        assert torch.equal(actual, reduced(outputs, kind, dtype))
        assert actual.dtype == (dtype if kind in REDUCED else getattr(torch, kind))
        assert_same_states(actual_final, final)
    assert model not in SPIKES or outputs.any()


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_and_pytorch_agree(kind: str, generator):
    """Of the models whose outputs are equal, since none has an exponential."""
    for model in [m for m, k in CASES if m.exact and k == kind]:
        x = 3 * torch.rand(50, 33, generator=generator)
        state = random_state(model, (33,), torch.float32, generator)
        actual, _ = model.neuron(x, state, model.defaults(), 0.001, sequence=True, kind=kind)
        with kernels_disabled():
            expected, _ = model.neuron(x, state, model.defaults(), 0.001, sequence=True, kind=kind)
        assert torch.equal(actual, expected)


@over_paths
@pytest.mark.parametrize("record", [False, True])
@over_cases
def test_gradients(model: Model, kind: str, record: bool, path: str):
    """Of input, state and parameters, as those through the outputs of all steps."""

    def run(kind: str | None) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(1)
        x = (3 * torch.rand(70, 2, 5, generator=generator, dtype=torch.float64)).requires_grad_()
        state = requiring_grad(random_state(model, (2, 5), torch.float64, generator))
        params = requiring_grad(random_params(model, (5,), torch.float64, generator))
        outputs, states = model.neuron(x, state, params, 0.001, sequence=True, record=record, kind=kind or "all")
        results = list(fields(states).values())
        if wanted in REDUCED:
            results.append(outputs if kind else differentiably(outputs, wanted))
        else:
            assert outputs.requires_grad == (kind is None)
        seeds = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
        return results, torch.autograd.grad(results, list(leaves_of(x, state, params).values()), seeds)

    wanted = kind
    with PATHS[path]():
        (actual, grads), (expected, expected_grads) = run(kind), run(None)
    assert is_fused(actual[0]) == (path != "PyTorch")
    assert all(g.any() for g in expected_grads[:2])
    for a, b in zip((*actual, *grads), (*expected, *expected_grads)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * max(1.0, b.abs().max().item()))


@over_paths
@pytest.mark.parametrize("kind", REDUCED)
def test_gradients_alone(kind: str, path: str, generator):
    """Only the input needs one, and only the output has one; the gradient itself is an expanded number."""
    for dtype in DTYPES:
        x = (3 * torch.rand(70, 33, generator=generator)).to(dtype).requires_grad_()
        with PATHS[path]():
            gradient = torch.autograd.grad(nf.LIF(output=kind)(x)[0].sum(), x)[0]
            # In single precision: a mean of half precision would round its gradient at each step.
            wide = x.detach().to(computing(dtype)).requires_grad_()
            expected = torch.autograd.grad(differentiably(nf.LIF()(wide)[0], kind).sum(), wide)[0]
        assert gradient.any()
        assert torch.equal(gradient, expected.to(dtype))


@over_paths
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(kind: str, path: str, generator):
    x = 3 * torch.rand(40, 6, 50, generator=generator)
    for view in (x.transpose(1, 2), x[:, :1].expand(40, 6, 50), x[::2, :, ::3], x.flip(0), x[:, :, 0], x[:, 0, 0]):
        with PATHS[path]():
            assert torch.equal(nf.LIF(output=kind)(view)[0], reduced(nf.LIF()(view)[0], kind, x.dtype))


@over_paths
def test_integers_as_input(path: str):
    with PATHS[path]():
        z, _ = nf.LIF(output="sum")(torch.full((9, 3), 5))
        assert z.dtype == torch.float32
        assert torch.equal(z, nf.LIF()(torch.full((9, 3), 5.0))[0].sum(0))


@over_paths
@pytest.mark.parametrize("kind", ["uint8", "bool", "sum"])
def test_no_steps(kind: str, path: str):
    x = torch.ones(0, 2, 3, requires_grad=True)
    with PATHS[path]():
        z, state = nf.LIF(output=kind)(x)
    if kind == "sum":
        assert torch.equal(z, torch.zeros(2, 3))
    else:
        assert z.shape == (0, 2, 3)
        assert z.dtype == getattr(torch, kind)
    assert torch.equal(state.v, torch.zeros(2, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 0), (5, 0, 3)])
def test_no_neurons(kind: str, shape):
    z, _ = nf.LIF(output=kind)(torch.ones(shape))
    assert z.shape == (shape[1:] if kind in REDUCED else shape)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_ones_own(kind: str):
    """A step function that is called once per step: no more outputs are held than are asked for."""
    alive: list[weakref.ref] = []
    counts = []

    def step(x, state, p, dt):
        counts.append(sum(ref() is not None for ref in alive))
        z = (x > p).to(x.dtype)
        alive.append(weakref.ref(z))
        return z, state + 1

    def run(kind: str, x: torch.Tensor) -> torch.Tensor:
        alive.clear()
        counts.clear()
        return nf.SNN(step, lambda x: torch.zeros(()), 0.5, output=kind)(x)[0]

    for dtype in DTYPES:
        x = torch.rand(300, 7).to(dtype)
        expected = reduced(run("all", x).to(computing(dtype)), kind, dtype)
        assert torch.equal(run(kind, x), expected)
        assert kind not in REDUCED or max(counts) <= 2
    booleans = nf.SNN(lambda x, s, p, dt: (x > p, s), lambda x: None, 0.5, output=kind)(x)[0]
    assert torch.equal(booleans.float(), expected.float()) or kind in ("sum", "mean")
    assert kind != "sum" or torch.equal(booleans, (x > 0.5).sum(0).float())


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_input(kind: str, generator):
    x = 3 * (torch.rand(9, 2, 4, generator=generator) < 0.5).float()
    z, _ = nf.LIF(output=kind)(x.to_sparse())
    assert torch.equal(z.to_dense(), nf.LIF(output=kind)(x)[0])


MEASURE = """
import resource, torch, norse_fast as nf
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
layer = nf.LIF(output="{kind}")
layer(torch.ones(1, 1))[0].sum().backward()
x = torch.full((1, 16384), 5.0).expand(4000, -1)
before = peak()
z, _ = layer(x)
z.sum().backward()
assert z.any()
print((peak() - before) / (4 * x.numel()))
"""


@pytest.mark.parametrize("kind", REDUCED)
def test_memory(kind: str):
    """Forward and backward hold less than a tenth of the outputs: the states every 32 steps."""
    result = subprocess.run([sys.executable, "-c", MEASURE.format(kind=kind)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.1


@pytest.mark.parametrize("model", [m for m in FEED_FORWARD if m.layer], ids=model_id)
def test_layers(model: Model, generator):
    x = 3 * torch.rand(20, 2, 5, generator=generator)
    outputs, final = model.layer()(x)
    for kind in [k for m, k in CASES if m is model]:
        layer = model.layer(output=kind)
        assert layer.extra_repr().endswith(f", output={kind!r}")
        for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            z, state = same(x)
            assert torch.equal(z, reduced(outputs, kind, x.dtype))
            assert_same_states(state, final)
    assert "output" not in model.layer().extra_repr()


def test_layers_without_a_choice():
    """As they were pickled before there was one, or made of a module of Norse."""
    layer = nf.LIF()
    del vars(layer)["output"]
    assert layer(torch.ones(4, 3))[0].shape == (4, 3)
    assert "output" not in repr(layer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [nf.LIF, nf.LI])
def test_compile(layer, kind: str, generator):
    if layer is nf.LI and kind not in REDUCED:
        return
    x = (3 * torch.rand(40, 2, 5, generator=generator)).requires_grad_()

    module = layer(output=kind)

    def run(x):
        z, state = module(x)
        return z, z.sum() + state.v.sum()

    (z, loss), (fused, fused_loss) = run(x), compiled(run)(x)
    assert z.dtype == fused.dtype
    assert torch.equal(z, fused)
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.autograd.grad(fused_loss, x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_functorch(kind: str, generator):
    x = 3 * torch.rand(40, 3, generator=generator, dtype=torch.float64)

    def loss(value):
        z, state = nf.LIF(output=kind)(value)
        return z.sum() + state.v.sum()

    expected = x.clone().requires_grad_()
    loss(expected).backward()
    assert torch.equal(torch.func.grad(loss)(x), expected.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_lift_takes_each_step_as_a_sequence(kind: str, generator):
    x = 3 * torch.rand(3, 20, 5, generator=generator)
    outputs, state = [], None
    for frame in x:
        output, state = nf.LIF(output=kind)(frame, state)
        outputs.append(output)
    lifted, final = nf.Lift(nf.LIF(output=kind))(x)
    assert torch.equal(lifted, torch.stack(outputs))
    assert_same_states(final, state)


def test_networks(generator):
    """A reduced output ends a network, and spikes as bytes go into the next layer of neurons."""
    x = 5 * torch.rand(30, 2, 4, generator=generator)
    linear = torch.nn.Linear(4, 3)
    v, _ = nf.SequentialState(nf.LIF(), linear, nf.LI())(x)
    mean, _ = nf.SequentialState(nf.LIF(), linear, nf.LI(output="mean"))(x)
    torch.testing.assert_close(mean, v.mean(0))
    last, _ = nf.Lift(nf.SequentialState(nf.LIFCell(), linear, nf.LICell()))(x)
    assert torch.equal(last, v)
    z, _ = nf.SequentialState(nf.LIF(output="uint8"), nf.LIF())(x)
    assert torch.equal(z, nf.SequentialState(nf.LIF(), nf.LIF())(x)[0])
