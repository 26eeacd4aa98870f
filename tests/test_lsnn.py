"""What is special to the LSNN: a late input, a detached reset, and its unfused sibling."""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf
from norse_fast.functional.lsnn import ada_lif_step


@pytest.mark.parametrize("cls", [nf.LSNN, nf.LSNNCell])
def test_adjoint_is_refused(cls):
    with pytest.raises(NotImplementedError, match="adjoint: got True"):
        cls(adjoint=True)


@pytest.mark.parametrize("cls", [nf.LSNNRecurrent, nf.LSNNRecurrentCell])
def test_adjoint_is_refused_with_weights(cls):
    with pytest.raises(NotImplementedError, match="adjoint: got True"):
        cls(2, 3, adjoint=True)


def test_answers_one_step_after_lif():
    x = torch.full((3, 1, 1), 20.0)
    p = nf.LSNNParameters(beta=0.0)
    assert nf.LIF()(x)[0].flatten().tolist() == [1, 1, 1]
    assert nf.LSNN(p)(x)[0].flatten().tolist() == [0, 1, 1]


def test_every_spike_raises_the_threshold():
    _, states = nf.LSNN(nf.LSNNParameters(tau_adapt_inv=0.0), record_states=True)(torch.full((4, 1, 1), 20.0))
    torch.testing.assert_close(states.b.flatten().detach(), torch.tensor([1.0, 2.8, 4.6, 6.4]))


def test_reset_and_adaptation_are_detached_in_the_recurrent_step_only():
    i = torch.tensor([[12.0]], requires_grad=True)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    p = nf.LSNNParameters(alpha=1.0)
    _, attached = nf.lsnn_feed_forward_step(zero, nf.LSNNFeedForwardState(zero, i, one), p)
    (grad,) = torch.autograd.grad(attached.b.sum(), i)
    assert grad.item() > 0
    _, detached = nf.lsnn_step(zero, nf.LSNNState(zero, zero, i, one), zero, zero, p)
    (grad,) = torch.autograd.grad(detached.b.sum(), i)
    assert grad.item() == 0


def test_bio_default():
    p = nf.LSNNParameters.bio_default(beta=torch.tensor(1.0))
    assert (p.v_th.item(), p.beta.item(), round(p.tau_adapt_inv.item(), 6)) == (-55.0, 1.0, 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ada_lif_keeps_its_state_in_single_precision(dtype: torch.dtype, generator):
    """As all models do; only what comes in and goes out is rounded."""
    x = (torch.rand(30, 4, 3, generator=generator) < 0.5).to(dtype)
    weights = [torch.randn(5, n, generator=generator).mul(3).to(dtype) for n in (3, 5)]
    zeros = torch.zeros(4, 5)
    state = nf.LSNNState(zeros, zeros, zeros, zeros)
    spikes = 0.0
    for step in x:
        z, state = ada_lif_step(step, state, *weights)
        assert z.dtype is dtype
        assert state.v.dtype is state.i.dtype is state.b.dtype is torch.float32
        spikes += z.sum().item()
    assert spikes > 20


def test_ada_lif_subtracts_the_adaptation_from_the_current():
    zero = torch.zeros(1, 1)
    state = nf.LSNNState(z=zero, v=zero, i=torch.tensor([[6.0]]), b=torch.tensor([[2.0]]))
    z, after = ada_lif_step(torch.ones(1, 1), state, torch.ones(1, 1), zero, nf.LSNNParameters(tau_adapt_inv=100.0))
    assert z.item() == 0
    torch.testing.assert_close(torch.cat(after[1:]).flatten(), torch.tensor([0.4, 0.8 * 6 + 1, 0.9 * 2]))
