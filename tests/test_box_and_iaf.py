"""What is special to neurons without a synapse: the reset is a parameter of LIFBox, and IAF starts at its own reset."""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels, kernels_disabled

from .models import is_fused

RESETS = [nf.reset_value, nf.reset_subtract]


def halve(z, v, v_reset, v_th):
    return v - 0.5 * z * v


def drive() -> torch.Tensor:
    return torch.rand(40, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30 - 5


@pytest.mark.parametrize("reset", RESETS)
def test_a_callable_that_does_the_same_as_a_fused_reset_gives_the_same(reset):
    results = []
    for method in (reset, lambda z, v, v_reset, v_th: reset(z, v, v_reset, v_th)):
        x = drive().requires_grad_()
        v_th = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
        p = nf.LIFBoxParameters(v_th=v_th, v_reset=torch.tensor(0.1), reset_method=method)
        z, states = nf.LIFBox(p, record_states=True)(x)
        (z.sum() + (states.v**2).sum()).backward()
        results.append((z, states.v, x.grad, v_th.grad))
    fused, plain = results
    assert 0 < fused[0].mean() < 1
    assert torch.equal(fused[0], plain[0])
    assert torch.equal(fused[1], plain[1])
    torch.testing.assert_close(fused[2], plain[2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fused[3], plain[3], rtol=1e-10, atol=1e-12)


def test_any_reset_may_be_given():
    p = nf.LIFBoxParameters(reset_method=halve)
    x = torch.tensor([[1.0, 15.0]])
    z, state = nf.LIFBoxCell(p)(x)
    assert z.tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(state.v, torch.tensor([[0.1, 0.75]]))
    z_layer, last = nf.LIFBox(p)(x[None])
    assert torch.equal(z_layer[0], z)
    assert torch.equal(last.v, state.v)


@pytest.mark.parametrize("reset", RESETS)
def test_each_fused_reset_reaches_its_kernel(reset):
    x = drive()
    p = nf.LIFBoxParameters(reset_method=reset)
    z, last = nf.LIFBox(p)(x)
    with kernels_disabled():
        expected_z, expected_last = nf.LIFBox(p)(x)
    assert torch.equal(z, expected_z)
    assert torch.equal(last.v, expected_last.v)
    assert is_fused(z) == has_kernels("cpu")


def test_subtraction_keeps_what_exceeds_the_threshold():
    state = nf.LIFBoxFeedForwardState(v=torch.zeros(1))
    p = nf.LIFBoxParameters(v_reset=torch.tensor(-3.0), reset_method=nf.reset_subtract)
    _, state = nf.lif_box_feed_forward_step(torch.tensor([15.0]), state, p)
    assert state.v.item() == 0.5


def test_iaf_ignores_the_length_of_a_step():
    x = drive() / 20
    fast, slow = nf.IAF(dt=0.001)(x)[0], nf.IAF(dt=1.0)(x)[0]
    assert 0 < fast.mean() < 1
    assert torch.equal(fast, slow)


@pytest.mark.filterwarnings("ignore:p. got an nn.Parameter")
@pytest.mark.parametrize("module", [nf.IAF, nf.IAFCell])
def test_a_learned_reset_potential_gets_the_gradient_of_the_start_too(module):
    p = nf.IAFParameters(v_reset=torch.nn.Parameter(torch.tensor(0.25)))
    x = torch.zeros(1, 3) if module is nf.IAF else torch.zeros(3)
    _, state = module(p)(x)
    state.v.sum().backward()
    assert p.v_reset.grad.item() == 3.0


def test_iaf_does_not_share_its_start_with_the_parameters():
    p = nf.IAFParameters(v_reset=torch.tensor(0.25))
    v = nf.IAFCell(p).initial_state(torch.zeros(3)).v
    assert v.requires_grad
    assert v is not p.v_reset
    assert not p.v_reset.requires_grad


def test_bio_parameters_of_iaf():
    p = nf.IAFParameters.bio_default()
    assert (p.v_th.item(), p.v_reset.item()) == (-55.0, -70.0)
    z, _ = nf.IAF(p)(torch.full((7, 1), 8.0))
    assert z.flatten().tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_recurrence_of_iaf_goes_to_the_voltage():
    state = nf.IAFState(z=torch.tensor([1.0, 0.0]), v=torch.zeros(2))
    recurrent = torch.tensor([[0.0, 0.0], [0.75, 0.0]])
    _, new = nf.iaf_step(torch.ones(1), state, torch.full((2, 1), 0.125), recurrent)
    assert new.v.tolist() == [0.125, 0.875]


def test_li_box_needs_input_of_the_width_of_its_weights():
    with pytest.raises(ValueError, match=r"input: got 4 features .*, expected 3, the width of input_weights"):
        nf.li_box_step(torch.ones(1, 4), nf.LIBoxState(v=torch.zeros(1, 2)), torch.ones(2, 3))
