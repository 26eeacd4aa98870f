"""Correlation sensors, alone and on the synapses of LIF neurons."""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf


def sensors(*shape: int) -> nf.CorrelationSensorState:
    return nf.CorrelationSensorState(*(torch.zeros(*shape) for _ in range(3)))


def test_pre_then_post():
    state = nf.correlation_sensor_step(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 3), sensors(1, 2, 3))
    assert state.correlation_trace[0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not state.post_pre.any()
    state = nf.correlation_sensor_step(torch.zeros(1, 2), torch.tensor([[0.0, 1.0, 0.0]]), state)
    assert state.anti_correlation_trace[0].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert state.post_pre[0].tolist() == [[0, 1, 0], [0, 1, 0]]
    # The causal trace decays until the post-synaptic spike, the anti-causal one from then on.
    state = nf.correlation_sensor_step(torch.zeros(1, 2), torch.zeros(1, 3), state)
    torch.testing.assert_close(state.correlation_trace[0, 0], torch.tensor([0.99**2, 0.99, 0.99**2]))
    torch.testing.assert_close(state.anti_correlation_trace[0, 0], torch.tensor([0.0, 0.99, 0.0]))


def test_batch_elements_are_independent():
    z_pre, z_post = (torch.rand(4, n, generator=torch.Generator().manual_seed(n)).round() for n in (2, 3))
    together = nf.correlation_sensor_step(z_pre, z_post, sensors(4, 2, 3))
    for b in range(4):
        alone = nf.correlation_sensor_step(z_pre[b : b + 1], z_post[b : b + 1], sensors(1, 2, 3))
        for value, expected in zip(together, alone):
            assert torch.equal(value[b : b + 1], expected)


def test_spikes_must_fit_the_sensors():
    with pytest.raises(ValueError, match=r"state.post_pre: got shape \(1, 3, 2\), expected \(1, 2, 3\)"):
        nf.correlation_sensor_step(torch.zeros(1, 2), torch.zeros(1, 3), sensors(1, 3, 2))
    for pre, post in ((1, 4), (4, 1)):
        with pytest.raises(ValueError, match=rf"z_pre has shape \({pre}, 2\) and z_post \({post}, 3\)"):
            nf.correlation_sensor_step(torch.zeros(pre, 2), torch.zeros(post, 3), sensors(1, 2, 3))


def test_sparse_input_is_that_of_dense_one():
    cell, weights = nf.LIFCorrelation(3, 2), (torch.full((2, 3), 9.0), torch.zeros(2, 2))
    x = torch.tensor([[1.0, 0.0, 1.0]])
    z, state = cell(x.to_sparse(), *weights)
    expected, expected_state = cell(x, *weights)
    assert torch.equal(z, expected)
    assert torch.equal(
        state.input_correlation_state.correlation_trace, expected_state.input_correlation_state.correlation_trace
    )


def test_update_changes_weights_and_resets_traces_every_few_steps():
    state = sensors(2, 3)._replace(correlation_trace=torch.arange(6.0).reshape(2, 3))
    weights = torch.zeros(3, 2)
    linear = torch.nn.Linear(12, 6, bias=False)
    assert nf.correlation_based_update(1, linear, weights, state, 0.1, 5) is weights
    expected = 0.1 * linear(torch.cat([state.correlation_trace.flatten(), torch.zeros(6)])).detach().reshape(3, 2)
    torch.testing.assert_close(nf.correlation_based_update(5, linear, weights, state, 0.1, 5), expected)
    assert not state.correlation_trace.any()


def test_update_refuses_a_batch():
    with pytest.raises(ValueError, match="sum or average them over the batch"):
        nf.correlation_based_update(0, torch.nn.Identity(), torch.zeros(3, 2), sensors(4, 2, 3), 0.1, 5)


def test_neurons_are_those_of_lif_step():
    torch.manual_seed(0)
    weights = 10 * torch.randn(4, 3), torch.randn(4, 4)
    module = nf.LIFCorrelation(3, 4)
    x = torch.rand(6, 2, 3).round()
    state, lif = None, nf.LIFState(*(torch.zeros(2, 4) for _ in range(3)))
    for step in x:
        z, state = module(step, *weights, state)
        expected, lif = nf.lif_step(step, lif, *weights, nf.LIFParameters())
        assert torch.equal(z, expected)
    assert torch.equal(state.lif_state.v, lif.v)
    assert state.recurrent_correlation_state.correlation_trace.shape == (2, 4, 4)
    assert not module.initial_state(x[0]).lif_state.v.requires_grad
