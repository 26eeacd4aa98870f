"""Step functions that are lifted."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf


def constant_step(x, state=None, p=1.0):
    state = torch.zeros_like(x) if state is None else state
    return x + state, state + p


def test_lifted_step_functions(generator):
    x = 5 * torch.rand(5, 2, 3, generator=generator)
    zeros = torch.zeros(2, 3)
    for step, state, p in (
        (nf.lif_feed_forward_step, nf.LIFFeedForwardState(zeros, zeros), nf.LIFParameters()),
        (nf.lif_box_feed_forward_step, nf.LIFBoxFeedForwardState(zeros), nf.LIFBoxParameters()),
        (nf.izhikevich_feed_forward_step, nf.IzhikevichState(zeros - 65, zeros), nf.tonic_spiking.p),
        (constant_step, None, 2.0),
        (constant_step, zeros, 2.0),
    ):
        expected, last = [], state
        for frame in x:
            output, last = step(frame, last, p)
            expected.append(output)
        lifted = pickle.loads(pickle.dumps(nf.lift(step, p)))
        for output, found in (lifted(x, state=state), nf.lift(step)(x, state=state, p=p)):
            assert torch.equal(output, torch.stack(expected))
            assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(last)))
    # An argument of the call goes before the one of lift.
    assert not nf.lift(nf.lif_feed_forward_step, nf.LIFParameters(v_th=torch.tensor(1e9)))(
        x, state=nf.LIFFeedForwardState(zeros, zeros)
    )[0].any()
    assert nf.lift(nf.lif_feed_forward_step, nf.LIFParameters(v_th=torch.tensor(1e9)))(
        x, state=nf.LIFFeedForwardState(zeros, zeros), p=nf.LIFParameters()
    )[0].any()


def test_lifted_recurrent_step(generator):
    x = 5 * torch.rand(5, 2, 3, generator=generator)
    zeros = torch.zeros(2, 4)
    weights = {"input_weights": torch.randn(4, 3), "recurrent_weights": torch.randn(4, 4)}
    state = nf.LIFState(zeros, zeros, zeros)
    output, last = nf.lift(nf.lif_step, nf.LIFParameters())(x, state=state, **weights)
    expected = []
    for frame in x:
        z, state = nf.lif_step(frame, state, *weights.values(), nf.LIFParameters())
        expected.append(z)
    assert torch.equal(output, torch.stack(expected))
    torch.testing.assert_close(last.v, state.v)
    # One that has no form for all time steps.
    state = nf.LIState(zeros, zeros)
    v, _ = nf.lift(nf.li_step)(x, state=state, input_weights=weights["input_weights"])
    assert torch.equal(v[0], nf.li_step(x[0], state, weights["input_weights"])[0])


def test_lifted_step_without_what_it_needs():
    lifted = nf.lift(nf.lif_feed_forward_step)
    with pytest.raises(TypeError, match="missing a required argument: 'state'"):
        lifted(torch.ones(3, 2))
    with pytest.raises(TypeError, match="missing a required argument: 'p'"):
        lifted(torch.ones(3, 2), state=nf.LIFFeedForwardState(torch.zeros(2), torch.zeros(2)))
    with pytest.raises(ValueError, match="input_tensor: got no time steps"):
        nf.lift(constant_step)(torch.ones(0, 2))
