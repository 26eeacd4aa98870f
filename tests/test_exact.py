"""Kernels against eager PyTorch, bit for bit: any length, any width, every dtype, shared and per-neuron parameters."""

from __future__ import annotations

import pytest
import torch

from norse_fast._kernels.extension import kernels_disabled

from .models import FEED_FORWARD, Model, fields, model_id, random_params, random_state

STEPS = (1, 2, 31, 32, 33, 450)
WIDTHS = (1, 7, 1023, 1024, 1025, 5000)


def in_pytorch(model: Model, x, state, params, dt=0.001):
    with kernels_disabled():
        return model.neuron(x, state, params, dt, sequence=True)


def assert_equal(model: Model, actual, expected):
    """Outputs, and states by their names."""
    (output, final), (expected_output, expected_final) = actual, expected
    pairs = [("output", output, expected_output)]
    pairs += [(name, fields(final)[name], value) for name, value in fields(expected_final).items()]
    for name, value, right in pairs:
        if model.exact:
            assert torch.equal(value, right), f"{name} differs at {(value != right).nonzero()[:3].tolist()}"
        else:
            torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-6)


def assert_same(model: Model, x, state, params, dt=0.001):
    actual = model.neuron(x, state, params, dt, sequence=True)
    assert_equal(model, actual, in_pytorch(model, x, state, params, dt))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_lengths_and_widths(model: Model, steps: int, dtype: torch.dtype, generator):
    """A narrow layer is the first neurons of the widest, which PyTorch computes once."""
    x = 3 * torch.rand(steps, WIDTHS[-1], generator=generator, dtype=dtype)
    state = random_state(model, (WIDTHS[-1],), dtype, generator)
    output, final = in_pytorch(model, x, state, model.defaults())

    def first(width: int, state):
        return model.pack(model.state, {name: value[:width].clone() for name, value in fields(state).items()})

    for width in WIDTHS:
        narrow = x[:, :width].clone()
        actual = model.neuron(narrow, first(width, state), model.defaults(), 0.001, sequence=True)
        assert_equal(model, actual, (output[:, :width], first(width, final)))
        assert actual[0].dtype == dtype
        assert actual[0].shape == narrow.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_large_results_equal_those_of_a_part(model: Model, dtype: torch.dtype, generator):
    """From 8 MiB on, results go past the caches."""
    x = 3 * torch.rand(140, 32, 512, generator=generator, dtype=dtype)
    g = torch.randn(x.shape, generator=generator, dtype=dtype)
    values = {name: torch.rand(x.shape[1:], generator=generator, dtype=dtype) for name in model.neuron.state}

    def run(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x[:, rows].clone().requires_grad_()
        state = model.pack(model.state, {name: value[rows] for name, value in values.items()})
        output, _ = model.neuron(leaf, state, model.defaults(), 0.001, sequence=True)
        return output.detach(), torch.autograd.grad(output, leaf, g[:, rows])[0]

    part = slice(0, 14)
    assert x[:, part].nbytes < 2**23 < x.nbytes
    for whole, expected in zip(run(slice(None)), run(part)):
        assert torch.equal(whole[:, part], expected)


@pytest.mark.parametrize("shape", [(), (13,), (4, 13), (1, 13), (4, 1), (3, 1, 1), (3, 4, 13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_parameter_shapes(model: Model, dtype: torch.dtype, shape: tuple[int, ...], generator):
    x = 3 * torch.rand(40, 3, 4, 13, generator=generator, dtype=dtype)
    params = random_params(model, shape, dtype, generator)
    assert_same(model, x, random_state(model, (3, 4, 13), dtype, generator), params)


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_single_precision_parameters_with_double_input(model: Model, generator):
    """`dt * rate` rounds in the parameter's own dtype, as it does in PyTorch."""
    x = 3 * torch.rand(40, 5, generator=generator, dtype=torch.float64)
    state = random_state(model, (5,), torch.float64, generator)
    for shape in [(), (5,)]:
        assert_same(model, x, state, random_params(model, shape, torch.float32, generator), dt=0.003)


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_steps_equal_sequence(model: Model, generator):
    x = 3 * torch.rand(70, 2, 9, generator=generator)
    state = random_state(model, (2, 9), torch.float32, generator)
    params = model.defaults()
    whole, final = model.neuron(x, state, params, 0.001, sequence=True)
    outputs, stepped = [], state
    for frame in x:
        output, stepped = model.step(frame, stepped, params)
        outputs.append(output)
    assert torch.equal(whole, torch.stack(outputs))
    for name, value in fields(final).items():
        assert torch.equal(fields(stepped)[name], value)


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_special_values(model: Model):
    x = torch.tensor([0.0, -0.0, 1e38, -1e38, float("inf"), -float("inf"), float("nan"), 1e-45]).repeat(5, 1)
    state = model.pack(model.state, {name: torch.zeros(8) for name in model.neuron.state})
    output, final = model.neuron(x, state, model.defaults(), 0.001, sequence=True)
    with kernels_disabled():
        expected, expected_final = model.neuron(x, state, model.defaults(), 0.001, sequence=True)
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)
    for name, value in fields(expected_final).items():
        torch.testing.assert_close(fields(final)[name], value, rtol=0 if model.exact else 1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("layer", [m for m in FEED_FORWARD if m.layer], ids=model_id)
def test_layers_equal_eager(layer: Model, generator):
    x = 3 * torch.rand(50, 4, 33, generator=generator)
    module = layer.layer()
    output, state = module(x)
    with kernels_disabled():
        expected, expected_state = module(x)
    compare = torch.equal if layer.exact else torch.allclose
    assert compare(output, expected)
    for name, value in fields(expected_state).items():
        assert compare(fields(state)[name], value)


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_threads_do_not_change_results(model: Model, generator):
    """Neither a value nor a gradient, of anything."""
    x = 3 * torch.rand(40, 16, 600, generator=generator)
    state = random_state(model, (16, 600), torch.float32, generator)
    params = random_params(model, (600,), torch.float32, generator)
    learned = {name: value for name, value in fields(params).items() if name.split(".")[-1] not in ("alpha", "method")}
    leaves = {"input": x, **fields(state), **{f"p.{k}": v for k, v in learned.items() if isinstance(v, torch.Tensor)}}
    for leaf in leaves.values():
        leaf.requires_grad_()
    seeds = [torch.randn(x.shape, generator=generator), *torch.randn(len(fields(state)), 16, 600, generator=generator)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output, final = model.neuron(x, state, params, 0.001, sequence=True)
            results = {"output": output, **{f"final {name}": value for name, value in fields(final).items()}}
            gradients = torch.autograd.grad(list(results.values()), list(leaves.values()), seeds)
            found.append({**results, **{f"gradient of {name}": g for name, g in zip(leaves, gradients)}})
    finally:
        torch.set_num_threads(before)
    one, *others = found
    assert output.any()
    assert gradients[0].any()
    for other in others:
        for name, value in one.items():
            assert torch.equal(other[name], value), name
