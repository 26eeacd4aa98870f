"""What is special to neurons with a refractory period."""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf
from norse_fast.functional import lif_adex_refrac, lif_refrac

from .models import fields


def lif_state(v, i, rho):
    return nf.LIFRefracFeedForwardState(nf.LIFFeedForwardState(v, i), rho)


@pytest.mark.parametrize("length", [1.0, 4.0])
@pytest.mark.parametrize(
    ("layer", "kind"),
    [(nf.LIFRefrac, nf.LIFRefracParameters), (nf.LIFAdExRefrac, nf.LIFAdExRefracParameters)],
)
def test_the_period_lasts_rho_reset_steps(layer, kind, length):
    z, _ = layer(kind(rho_reset=torch.tensor(length)))(torch.full((12, 1), 50.0))
    spikes = z.flatten().nonzero().flatten()
    assert (spikes.diff() == length + 1).all()
    assert len(spikes) > 2


def test_the_voltage_stands_still_and_the_current_does_not():
    state = lif_state(torch.tensor([0.5]), torch.zeros(1), torch.tensor([2.0]))
    z, new = nf.lif_refrac_feed_forward_step(torch.tensor([20.0]), state)
    assert z.item() == 0
    assert new.lif.v.item() == 0.5
    assert new.lif.i.item() == 16.0
    assert new.rho.item() == 1.0


def test_the_mask_carries_a_gradient():
    # At rho = 0 the surrogate derivative is 1, so rho gets the difference between standing still and moving.
    rho = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    state = lif_state(torch.tensor([0.5], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), rho)
    _, new = nf.lif_refrac_feed_forward_step(torch.tensor([2.0], dtype=torch.float64), state)
    new.lif.v.backward()
    assert rho.grad.item() == pytest.approx(0.5 - new.lif.v.item())


def test_adaptation_jumps_also_where_a_spike_is_suppressed():
    inner = nf.LIFAdExFeedForwardState(*torch.zeros(3, 1))
    z, new = nf.lif_adex_refrac_feed_forward_step(
        torch.tensor([20.0]), nf.LIFAdExRefracFeedForwardState(inner, rho=torch.tensor([3.0]))
    )
    assert z.item() == 0
    assert new.lif_adex.a.item() == pytest.approx(0.02)


@pytest.mark.parametrize("rho", [[0.0, 0.0], [3.0, 0.5]])
def test_the_update_of_the_refractory_period_alone(rho):
    g = torch.Generator().manual_seed(0)
    x, v, i = 20 * torch.rand(3, 2, generator=g)
    state = lif_state(v, i, torch.tensor(rho))
    p = nf.LIFRefracParameters()
    z, new = nf.lif_refrac_feed_forward_step(x, state, p)
    z_inner, inner = nf.lif_feed_forward_step(x, state.lif, p.lif)
    v_new, z_new, rho_new = lif_refrac.compute_refractory_update(state, z_inner, inner.v, p)
    assert torch.equal(z_new, z)
    assert torch.equal(v_new, new.lif.v)
    assert torch.equal(rho_new, new.rho)

    inner_state = nf.LIFAdExFeedForwardState(v, i, torch.zeros(2))
    state = nf.LIFAdExRefracFeedForwardState(inner_state, torch.tensor(rho))
    z, new = nf.lif_adex_refrac_feed_forward_step(x, state)
    z_inner, inner = nf.lif_adex_feed_forward_step(x, inner_state)
    v_new, z_new, rho_new = lif_adex_refrac.compute_refractory_update(state, z_inner, inner.v)
    assert torch.equal(z_new, z)
    assert torch.equal(v_new, new.lif_adex.v)
    assert torch.equal(rho_new, new.rho)


def weights():
    g = torch.Generator().manual_seed(0)
    return {"input_weights": 9 * torch.rand(4, 3, generator=g), "recurrent_weights": torch.randn(4, 4, generator=g)}


def test_sparse_input_gives_the_same_spikes():
    x = (torch.rand(20, 2, 3, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    layer = nf.LIFRefracRecurrent(3, 4, **weights())
    cell = nf.LIFRefracRecurrentCell(3, 4, **weights())
    with torch.no_grad():
        z, last = layer(x)
        z_sparse, last_sparse = layer(x.to_sparse())
        z_cell, state = cell(x[0].to_sparse())
    assert 0 < z.mean() < 1
    assert z_sparse.is_sparse
    assert z_cell.is_sparse
    assert state.lif.z.is_sparse
    assert torch.equal(z_sparse.to_dense(), z)
    assert torch.equal(z_cell.to_dense(), z[0])
    for name, value in fields(last).items():
        torch.testing.assert_close(fields(last_sparse)[name].to_dense(), value)


def test_the_reset_is_detached_in_the_recurrent_step_only():
    def gradient(step, *weights):
        v = torch.full((1, 2), 0.99, dtype=torch.float64, requires_grad=True)
        zeros = torch.zeros(1, 2, dtype=torch.float64)
        inner = nf.LIFState(zeros, v, zeros) if weights else nf.LIFFeedForwardState(v, zeros)
        kind = nf.LIFRefracState if weights else nf.LIFRefracFeedForwardState
        _, new = step(torch.full((1, 2), 2.0, dtype=torch.float64), kind(inner, zeros - 1), *weights)
        new.lif.v.sum().backward()
        return v.grad

    eye, none = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    assert gradient(nf.lif_refrac_feed_forward_step).abs().min() > 0
    assert gradient(nf.lif_refrac_step, eye, none).count_nonzero() == 0


def test_the_spikes_of_a_nested_state_are_checked():
    state = nf.LIFRefracState(nf.LIFState(*torch.zeros(3, 2, 5)), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"state.lif.z: got shape \(2, 5\), expected \(..., 4\)"):
        nf.lif_refrac_step(torch.zeros(2, 3), state, *weights().values())


@pytest.mark.parametrize("module", [nf.LIFRefrac, nf.LIFRefracCell])
def test_an_unknown_surrogate_is_refused_at_construction(module):
    p = nf.LIFRefracParameters(lif=nf.LIFParameters(method="supper"))
    with pytest.raises(ValueError, match=r"method: got 'supper', expected one of 'super'"):
        module(p)


@pytest.mark.parametrize("recurrent", [False, True])
def test_numbers_are_not_rounded_in_double_precision(recurrent: bool):
    p = nf.LIFRefracParameters(nf.LIFParameters(tau_syn_inv=220.0, tau_mem_inv=110.0))
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    module = nf.LIFRefracRecurrentCell(3, 3, p).double() if recurrent else nf.LIFRefracCell(p)
    weights = (module.input_weights, module.recurrent_weights) if recurrent else ()
    state = module.initial_state(x)
    for _ in range(3):
        _, expected = module.activation(x, state, *weights, p)
        _, state = module(x, state)
        assert all(torch.equal(a, b) for a, b in zip(fields(state).values(), fields(expected).values(), strict=True))
    if not recurrent:
        _, last = nf.LIFRefrac(p)(torch.stack([x] * 3))
        assert all(torch.equal(a, b) for a, b in zip(fields(state).values(), fields(last).values(), strict=True))
