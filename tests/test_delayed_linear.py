"""Weights with delays against plain loops over time: whole or between two steps, over any batch and dtype."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import norse_fast as nf

from .test_delay import B, D, N, T, as_cell, fractional, interpolated, linear, numbers, stepped, whole

# Of torch's own forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def looped_linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    delays = layer.delays.expand(layer.weight.shape)
    y = x.new_zeros(*x.shape[:2], layer.out_features)
    for t, b, o, i in itertools.product(*map(range, y.shape), range(x.shape[2])):
        y[t, b, o] += layer.weight[o, i].item() * interpolated(x, t, delays[o, i].item(), (b, i))
    return y if layer.bias is None else y + layer.bias.detach()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (N,), (2, 1), (2, N)])
@pytest.mark.parametrize("make", [whole, fractional])
def test_weights_with_delays(make, shape, bias):
    layer, x = linear(delays=make(*shape), bias=bias, learnable=False), numbers(T, B, N)
    expected = looped_linear(x, layer)
    y, state = layer(x)
    assert torch.equal(y, expected)
    assert torch.equal(state.inputs, x[-D:])
    cell = nf.DelayedLinearCell(N, 2, D, bias=bias, delays=layer.delays, learnable=False)
    cell.load_state_dict(layer.state_dict())
    y, state = stepped(cell, x)
    assert torch.equal(y, expected)
    assert torch.equal(state.inputs, x[-D:])
    assert torch.equal(nf.Lift(cell)(x)[0], expected)


def test_weights_with_delays_over_a_split_sequence():
    layer, x = linear(), numbers(T, B, N)
    y, state = layer(x)
    for split in range(1, T):
        first, carried = layer(x[:split])
        second, end = layer(x[split:], carried)
        assert torch.equal(torch.cat((first, second)), y)
        assert torch.equal(end.inputs, state.inputs)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_weights_with_delays_over_any_batch(batch):
    layer, x = linear(), numbers(T, *batch, N)
    y, _ = layer(x)
    assert y.shape == (T, *batch, 2)
    expected = looped_linear(x.reshape(T, -1, N), layer)
    assert torch.equal(y.reshape(T, -1, 2), expected)
    assert torch.equal(stepped(as_cell(layer), x)[0], y)


def test_delays_of_inputs_and_outputs_are_those_before_and_after_the_weights():
    x = numbers(T, B, N)
    layer = linear(delays=fractional(N), bias=False)
    assert torch.equal(layer(x)[0], torch.nn.functional.linear(nf.Delay(layer.delays, D)(x)[0], layer.weight))
    layer = linear(delays=fractional(2, 1), bias=False)
    after = nf.Delay(layer.delays[:, 0], D)
    assert torch.equal(layer(x)[0], after(torch.nn.functional.linear(x, layer.weight))[0])


@pytest.mark.parametrize("shape", [(N,), (2, 1), (2, N)])
def test_derivatives_of_weights_with_delays(shape):
    delays = whole(*shape).clamp(max=D - 1) + 0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)
    shapes = [(6, 2, N), (D, 2, N), (2, N), (2,)]
    x, inputs, weight, bias = (torch.randn(s, dtype=torch.float64) for s in shapes)

    def run(*values):
        y, state = nf.delayed_linear_sequence(values[0], nf.DelayState(values[1]), *values[2:])
        return y, state.inputs

    values = [value.requires_grad_() for value in (x, inputs, weight, delays, bias)]
    assert gradcheck(run, values, check_forward_ad=True)
    assert gradgradcheck(run, values)


@pytest.mark.parametrize(("delay", "later"), [(0.0, 1), (2.0, 3), (D, D), (-0.5, 1), (D + 0.3, D)])
def test_derivative_of_weights_at_whole_numbers_and_beyond_the_bounds(delay, later):
    layer = nf.DelayedLinear(1, 1, D, bias=False).double()
    layer.load_state_dict({"weight": torch.tensor([[2.0]]), "delays": torch.tensor([[delay]])})
    x = torch.randn(T, 1, dtype=torch.float64)
    layer(x)[0][-1].backward()
    torch.testing.assert_close(layer.delays.grad, 2 * (x[T - 1 - later] - x[T - later])[None])


def test_weights_start_as_those_of_linear():
    torch.manual_seed(4)
    expected = torch.nn.Linear(N, 2)
    torch.manual_seed(4)
    layer = nf.DelayedLinear(N, 2, 50)
    assert torch.equal(layer.weight, expected.weight)
    assert torch.equal(layer.bias, expected.bias)
    assert 0 <= layer.delays.min() < 10 < 30 < layer.delays.max() <= 50
    assert nf.DelayedLinear(N, 2, D, device="meta", dtype=torch.float64).delays.is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_dtypes(dtype):
    layer, x = linear().to(dtype), numbers(T, B, N)
    expected = looped_linear(x, layer)
    y, state = layer(x.to(dtype))
    assert y.dtype == state.inputs.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), rtol=0.01, atol=0.0)
    y, state = layer(x.to(torch.int64))
    assert state.inputs.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), rtol=0.01, atol=0.0)
    assert stepped(as_cell(layer), x > 0)[0].dtype == dtype


def test_weights_with_delays_under_autocast():
    layer, x = linear(), numbers(T, B, N)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x.bfloat16())
        second, _ = layer(x, state)
    assert y.dtype == second.dtype == torch.bfloat16
