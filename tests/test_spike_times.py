"""Spikes to times: values and gradients, for silent neurons too; and sums over time."""

from __future__ import annotations

import copy
import math
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import norse_fast as nf
from norse_fast.functional.decode import sum_decode
from norse_fast.functional.spikes_to_times_decoder import ToSpikeTimes

TRAINS = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=10)


@settings(deadline=None, max_examples=50)
@given(TRAINS, st.integers(1, 12))
def test_times_and_gradients(rows: list[list[bool]], count: int):
    spikes = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    times = ToSpikeTimes.apply(spikes, count)
    kept = min(count, len(rows))
    assert times.shape == (kept, 4)
    weights = torch.arange(1.0, kept * 4 + 1).reshape(kept, 4)
    torch.where(times.isfinite(), weights * times, 0).sum().backward()
    for n in range(4):
        expected = [t for t, row in enumerate(rows) if row[n]][:kept]
        assert times[:, n].tolist() == expected + [math.inf] * (kept - len(expected))
        gradient = torch.zeros(len(rows), dtype=torch.float64)
        for k, t in enumerate(expected):
            gradient[t] = -weights[k, n]
        assert torch.equal(spikes.grad[:, n], gradient)


def test_a_silent_neuron_among_others():
    """The reference's backward fails here."""
    spikes = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]], requires_grad=True)
    times = nf.SpikesToTimesDecoder(dt=0.5)(spikes)
    assert times.tolist() == [[[0.0, math.inf, 0.5]]]
    times[times.isfinite()].sum().backward()
    assert spikes.grad.tolist() == [[[-0.5, 0.0, 0.0]], [[0.0, 0.0, -0.5]]]


def test_an_infinite_loss_does_not_reach_silent_neurons():
    spikes = torch.tensor([[1.0, 0.0]], requires_grad=True)
    nf.SpikesToTimesDecoder()(spikes).sum().backward()
    torch.testing.assert_close(spikes.grad, torch.tensor([[-0.001, 0.0]]))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_late_times_are_exact_in_every_dtype(dtype: torch.dtype):
    spikes = torch.zeros(5000, 1)
    spikes[4999] = 1
    times = ToSpikeTimes.apply(spikes.to(dtype), 1)
    assert times.dtype == (dtype if dtype is torch.float64 else torch.float32)
    assert times.item() == 4999
    if dtype.is_floating_point:
        half = spikes.to(dtype).requires_grad_()
        ToSpikeTimes.apply(half, 1).sum().backward()
        assert half.grad.dtype == dtype
        assert half.grad[4999] == -1


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16])
def test_late_times_are_exact_whatever_the_default_dtype(default: torch.dtype):
    before = torch.get_default_dtype()
    spikes = torch.zeros(3000, 1, dtype=default)
    spikes[2501] = 1
    spikes.requires_grad_()
    torch.set_default_dtype(default)
    try:
        times = [ToSpikeTimes.apply(z, 1) for z in (spikes, spikes.detach().bool())]
    finally:
        torch.set_default_dtype(before)
    times[0].sum().backward()
    assert [t.item() for t in times] == [2501, 2501]
    assert spikes.grad.nonzero().tolist() == [[2501, 0]]


def test_device_and_bare_time():
    assert ToSpikeTimes.apply(torch.ones(3, 2, device="meta"), 2).shape == (2, 2)
    assert ToSpikeTimes.apply(torch.tensor([0.0, 1.0, 1.0]), 2).tolist() == [1, 2]
    assert ToSpikeTimes.apply(torch.zeros(0, 3), 2).shape == (0, 3)


def test_torch_func():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    gradient = torch.func.grad(lambda s: ToSpikeTimes.apply(s, 1).sum())(x)
    assert gradient.tolist() == [[0.0, -1.0], [-1.0, 0.0]]


@pytest.mark.parametrize("count", [0, torch.tensor(0)])
def test_no_spikes_are_asked_for(count):
    spikes = torch.ones(3, 2, requires_grad=True)
    times = nf.SpikesToTimesDecoder(count)(spikes)
    assert times.shape == (0, 2)
    times.sum().backward()
    assert torch.equal(spikes.grad, torch.zeros(3, 2))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"spike_count: got -1, expected 0 or more"):
        nf.SpikesToTimesDecoder(-1)(torch.ones(2, 1, 1))
    with pytest.raises(ValueError, match=r"spike_input: got a 0-dim tensor, expected \(T, ...\)"):
        nf.SpikesToTimesDecoder()(torch.tensor(1.0))


def test_decoder_copies_and_pickles():
    decoder = nf.SpikesToTimesDecoder(torch.tensor(2), convert_indices_to_times=False)
    spikes = torch.tensor([[0.0], [1.0], [1.0]])
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert other(spikes).flatten().tolist() == [1, 2]
    assert "convert_indices_to_times=False" in repr(decoder)


def test_sum_decode(generator):
    spikes = torch.rand(5, 2, 3, generator=generator).round()
    assert torch.equal(sum_decode(spikes), spikes.sum(0))
    assert torch.equal(sum_decode(spikes, -1), spikes.sum(-1))


@pytest.mark.parametrize("count", [1, 3, 30])
def test_against_norse(norse, count: int, generator):
    spikes = (torch.rand(20, 3, 5, generator=generator) < 0.7).float()
    pairs = []
    for decoder in (nf.SpikesToTimesDecoder(count, dt=0.01), norse.SpikesToTimesDecoder(torch.tensor(count), dt=0.01)):
        x = spikes.clone().requires_grad_()
        times = decoder(x)
        # The reference's gradient needs as many spikes of every neuron.
        if count < 4:
            (times * torch.linspace(1, 2, times.numel()).view_as(times)).sum().backward()
        pairs.append((times, x.grad))
    assert torch.equal(pairs[0][0], pairs[1][0])
    if count < 4:
        assert torch.equal(pairs[0][1], pairs[1][1])
