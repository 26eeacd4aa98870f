"""What is special to conductance-based neurons: signs of inputs and weights, where they start, biological units."""

from __future__ import annotations

import math

import torch

import norse_fast as nf
from norse_fast.functional import coba_lif


def rest(n: int) -> nf.CobaLIFState:
    zeros = torch.zeros(1, n)
    return nf.CobaLIFState(z=zeros, v=torch.full((1, n), -20.0), g_e=zeros, g_i=zeros)


def test_input_reaches_the_synapses():
    weights = torch.tensor([[2.0], [-3.0]]), torch.zeros(2, 2)
    _, state = nf.coba_lif_step(torch.ones(1, 1), rest(2), *weights, nf.CobaLIFParameters(), 0.0)
    assert state.g_e.tolist() == [[2.0, 0.0]]
    assert state.g_i.tolist() == [[0.0, 3.0]]


def test_recurrent_spikes_reach_the_synapses():
    recurrent = torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    before = rest(2)._replace(z=torch.ones(1, 2))
    _, state = nf.coba_lif_step(torch.zeros(1, 1), before, torch.ones(2, 1), recurrent, nf.CobaLIFParameters(), 0.0)
    assert state.g_e.tolist() == [[2.0, 0.0]]
    assert state.g_i.tolist() == [[0.0, 3.0]]


def test_an_input_without_sign_has_no_gradient():
    x = torch.tensor([0.0, -0.0, 1.0, -1.0], requires_grad=True)
    zeros = torch.zeros(4)
    state = nf.CobaLIFFeedForwardState(torch.full((4,), -20.0), zeros, zeros)
    _, after = nf.coba_lif_feed_forward_step(x, state)
    (after.g_e + after.g_i).sum().backward()
    assert (x.grad != 0).tolist() == [False, False, True, True]


def test_initial_states():
    x = torch.zeros(2, 3)
    assert nf.CobaLIFFeedForwardCell().initial_state(x).v.unique().item() == -20
    assert nf.CobaLIF().initial_state(x).v.shape == (3,)
    assert nf.CobaLIFCell(3, 4).initial_state(x).v.unique().item() == 0


def test_weights_start_as_those_of_the_reference():
    torch.manual_seed(5)
    cell = nf.CobaLIFCell(100, 400)
    torch.manual_seed(5)
    expected = torch.randn(400, 100) / math.sqrt(100), torch.randn(400, 400) / math.sqrt(400)
    assert torch.equal(cell.input_weights, expected[0])
    assert torch.equal(cell.recurrent_weights, expected[1])  # the diagonal too
    assert list(cell.state_dict()) == ["input_weights", "recurrent_weights"]


def test_biological_units():
    p, state = coba_lif.default_bio_parameters, coba_lif.default_bio_state
    z, after = nf.coba_lif_feed_forward_step(torch.zeros(3), state, p)
    assert z.tolist() == [0, 0, 0]
    assert after.v.tolist() == [-65, -65, -65]  # rest is a fixed point
