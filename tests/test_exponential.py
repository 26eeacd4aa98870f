"""What is special to neurons with an exponential: rounding, the defaults, and the encoders."""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import FEED_FORWARD, Model, fields, model_id, random_params, random_state

EXPONENTIAL = [m for m in FEED_FORWARD if not m.exact]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", EXPONENTIAL, ids=model_id)
def test_a_step_rounds_as_pytorch_does_to_two_units_in_the_last_place(model: Model, dtype):
    """From the same state, so that errors do not add up; the unit is that of the threshold's magnitude, 1."""
    g = torch.Generator().manual_seed(3)
    state = random_state(model, (64, 33), dtype, g)
    p = random_params(model, (), dtype, g)
    spikes = 0.0
    for _ in range(50):
        x = torch.rand(64, 33, generator=g, dtype=dtype) * 1.5 - 0.5
        with kernels_disabled():
            expected, expected_state = model.step(x, state, p, 0.001)
        output, new_state = model.step(x, state, p, 0.001)
        assert torch.equal(output, expected)
        for name, value in fields(expected_state).items():
            tolerance = 2 * torch.finfo(dtype).eps if name.split(".")[-1] == "v" else 0
            assert (fields(new_state)[name] - value).abs().max() <= tolerance, name
        spikes += output.mean().item()
        state = expected_state
    assert spikes > 0


@pytest.mark.parametrize("step", [nf.lif_ex_feed_forward_step, nf.lif_adex_feed_forward_step])
def test_the_state_is_zero_unless_given(step):
    x = torch.tensor([[1.0, 20.0]], dtype=torch.float64)
    z, state = step(x)
    assert z.tolist() == [[0.0, 1.0]]
    again, _ = step(x)
    assert torch.equal(again, z)
    assert all(value.shape == x.shape and value.dtype == x.dtype for value in state)


def test_the_integer_default_is_read_by_the_kernel():
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    state = nf.LIFAdExFeedForwardState(*torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(1)))
    p = nf.LIFAdExParameters()
    assert p.adaptation_current.dtype == torch.int64
    z, new = nf.lif_adex_feed_forward_step(x, state, p)
    z_float, new_float = nf.lif_adex_feed_forward_step(x, state, p._replace(adaptation_current=torch.tensor(4.0)))
    assert torch.equal(z, z_float)
    assert all(torch.equal(a, b) for a, b in zip(new, new_float))


@pytest.mark.parametrize(
    ("kind", "layer", "expected"),
    [
        (nf.LIFExParameters, nf.LIFEx, {"delta_T": 0}),
        (
            nf.LIFAdExParameters,
            nf.LIFAdEx,
            {"adaptation_current": 0, "adaptation_spike": 0.01, "delta_T": 2.0, "tau_ada_inv": 0.01},
        ),
    ],
)
def test_bio_parameters(kind, layer, expected):
    p = kind.bio_default(v_th=torch.tensor(-50.0))
    expected = {**expected, "tau_syn_inv": 0.5, "tau_mem_inv": 0.1, "v_leak": -70.0, "v_th": -50.0, "v_reset": -70.0}
    for name, value in expected.items():
        assert getattr(p, name).item() == pytest.approx(value)
    z, state = layer(p, dt=1.0)(torch.full((60, 1, 2), 15.0))
    assert 0 < z.mean() < 1
    assert all(value.isfinite().all() for value in state)


def test_overflow_gives_nan_and_no_spike_as_in_the_reference():
    state = nf.LIFExFeedForwardState(v=torch.tensor([1e4, 0.0]), i=torch.zeros(2))
    z, new = nf.lif_ex_feed_forward_step(torch.zeros(2), state)
    assert z.tolist() == [1.0, 0.0]
    assert new.v.isnan().tolist() == [True, False]
    z, _ = nf.lif_ex_feed_forward_step(torch.zeros(2), new)
    assert z.tolist() == [0.0, 0.0]


def test_the_adaptation_of_the_current_encoder_diverges_as_in_the_reference():
    v, a = torch.zeros(1), torch.zeros(1)
    adaptation = []
    for _ in range(5):
        _, v, a = nf.lif_adex_current_encoder(torch.ones(1), v, a)
        adaptation.append(a.item())
    assert adaptation == pytest.approx([0.85, -0.76, 3.8, -7.8, 22.5], rel=0.02)


def test_the_current_encoder_is_a_neuron_without_a_synapse():
    v = torch.tensor([0.0, 0.5])
    # A synapse that forgets within the step: i' = 0 when dt * tau_syn_inv = 1.
    p = nf.LIFExParameters(tau_syn_inv=torch.tensor(1000.0))
    current = torch.tensor([2.0, 12.0])
    z, v_new = nf.lif_ex_current_encoder(current, v, p)
    z_neuron, state = nf.lif_ex_feed_forward_step(current, nf.LIFExFeedForwardState(v, torch.zeros(2)), p)
    assert torch.equal(z, z_neuron)
    torch.testing.assert_close(v_new, state.v)


def test_initial_state_of_the_cell_by_name():
    """Its argument is called x, as in Norse, and input_tensor everywhere else."""
    assert nf.LIFAdExCell().initial_state(x=torch.ones(2)).i.tolist() == [0, 0]
    assert nf.LIFAdEx().initial_state(input_tensor=torch.ones(3, 2)).i.shape == (2,)
