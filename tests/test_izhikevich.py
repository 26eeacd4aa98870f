"""What is special to Izhikevich's neuron: parameters that are numbers, and firing patterns."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import norse_fast as nf
from norse_fast.functional import izhikevich

BEHAVIORS = {name: value for name, value in vars(izhikevich).items() if isinstance(value, nf.IzhikevichSpikingBehavior)}


def test_all_patterns_are_exported():
    assert len(BEHAVIORS) == 20
    for name, behavior in BEHAVIORS.items():
        assert getattr(nf, name) is behavior


@pytest.mark.parametrize("name", BEHAVIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_round_as_in_tensor_arithmetic(name: str, dtype: torch.dtype):
    p, rest = BEHAVIORS[name]
    x = 40 * torch.randn(200, 11, generator=torch.Generator().manual_seed(2), dtype=dtype)
    v, u = (s.detach().to(dtype).expand(11) for s in rest)
    spikes = []
    for current in x:
        v_decayed = v + p.tau_inv * 0.001 * (p.sq * v**2 + p.mn * v + p.bias - u + current)
        u_decayed = u + p.tau_inv * 0.001 * p.a * (p.b * v - u)
        z = (v_decayed > p.v_th).to(dtype)
        v = (1 - z) * v_decayed + z * p.c
        u = (1 - z) * u_decayed + z * (u_decayed + p.d)
        spikes.append(z)
    output, final = nf.Izhikevich(BEHAVIORS[name])(x)
    assert torch.equal(output, torch.stack(spikes))
    assert torch.equal(final.v, v)
    assert torch.equal(final.u, u)


@pytest.mark.filterwarnings("ignore:p. got an nn.Parameter")
def test_rates_may_be_learnt():
    p = nf.tonic_spiking.p._replace(
        a=torch.nn.Parameter(torch.full((3,), 0.02)), tau_inv=torch.nn.Parameter(torch.tensor(250.0))
    )
    cell = nf.Izhikevich(nf.tonic_spiking._replace(p=p))
    output, final = cell(torch.full((50, 2, 3), 14.0))
    (output.sum() + final.u.sum()).backward()
    assert p.a.grad.abs().min() > 0
    assert p.tau_inv.grad.abs() > 0


def test_class_1_neurons_have_their_own_polynomial():
    assert nf.class_1_exc.p.mn == nf.integrator.p.mn == 4.1
    assert nf.class_1_exc.p.bias == nf.integrator.p.bias == 108


def test_accommodation_rests_at_an_integer():
    assert nf.accomodation.s.u.dtype == torch.int64
    output, state = nf.IzhikevichCell(nf.accomodation)(torch.zeros(2))
    assert state.u.dtype == torch.float32
    assert torch.equal(output.detach(), torch.zeros(2))


def test_patterns_can_be_pickled():
    p, s = pickle.loads(pickle.dumps(nf.dap))
    assert p == nf.dap.p
    assert torch.equal(s.v, nf.dap.s.v)


def test_weights_may_be_positional():
    weights = torch.ones(3, 2), torch.zeros(3, 3)
    layer = nf.IzhikevichRecurrent(2, 3, nf.tonic_spiking, *weights)
    assert layer.input_weights is weights[0]
    assert layer(torch.ones(4, 1, 2))[0].shape == (4, 1, 3)


def test_wrong_parameters_are_named():
    with pytest.raises(TypeError, match=r"p: got LIFParameters, expected a tuple with the fields tau_inv, a"):
        nf.izhikevich_feed_forward_step(torch.zeros(2), nf.tonic_spiking.s, nf.LIFParameters())


def test_recovery_at_rest_follows_the_potential():
    """``u_rest`` is a potential; the recovery variable is at rest at b times it."""
    pattern = nf.create_izhikevich_spiking_behavior(0.02, 0.2, -65, 6, -65, -65.0)
    assert pattern.s.u.item() == -13
    assert pattern.s.v.item() == -65
    assert pattern.s.v.requires_grad
    assert nf.create_izhikevich_spiking_behavior(0.02, -1.0, -60, 8, -63.8, -63.8).s.u.item() == pytest.approx(63.8)
    b = torch.tensor([0.2, 0.4], requires_grad=True)
    per_neuron = nf.create_izhikevich_spiking_behavior(0.02, b, -65, 6, -65, -65)
    assert torch.equal(per_neuron.s.u, -65 * b.detach())
    copy.deepcopy(nf.Izhikevich(per_neuron))
    _, state = nf.IzhikevichCell(per_neuron)(torch.zeros(3, 2))
    assert state.u.shape == (3, 2)


def test_made_patterns_are_those_of_norse(norse):
    arguments = (0.03, 0.25, -60, 4, -64, -60.5, 200)
    ours, theirs = (m.create_izhikevich_spiking_behavior(*arguments) for m in (nf, norse))
    assert ours.s.u.item() == theirs.s.u.item()
    assert ours.s.v.item() == theirs.s.v.item()
    assert tuple(ours.p)[:9] == tuple(theirs.p)[:9]


@pytest.mark.parametrize("name", BEHAVIORS)
def test_named_patterns_are_those_of_norse(name: str, norse):
    ours, theirs = getattr(izhikevich, name), getattr(norse.functional.izhikevich, name)
    assert ours.s.u.item() == theirs.s.u.item()
    assert ours.s.v.item() == theirs.s.v.item()
    assert ours.p[:9] == tuple(theirs.p)[:9]
