"""Encoders: spikes as the reference's, in the right dtype and on the right device, and of the right statistics."""

from __future__ import annotations

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels
from norse_fast.functional import encode
from norse_fast.functional.lif import lif_current_encoder

from .models import is_fused

LIF_PARAMETERS = {
    "default": nf.LIFParameters(),
    "leak": nf.LIFParameters(v_leak=torch.tensor(0.3), tau_mem_inv=torch.tensor(131.0)),
    "reset": nf.LIFParameters(v_leak=torch.tensor(0.1), v_reset=torch.tensor(-0.37)),
    "numbers": nf.LIFParameters(tau_mem_inv=90.0, v_leak=0.1, v_th=0.7, v_reset=0.0),
    "per neuron": nf.LIFParameters(tau_mem_inv=torch.linspace(50, 200, 40), v_th=torch.linspace(0.5, 2, 40)),
}


def steps(current: torch.Tensor, length: int, p: nf.LIFParameters, dt: float = 0.001) -> torch.Tensor:
    """The definition: one current encoder step after the other."""
    v, spikes = torch.zeros_like(current), []
    for _ in range(length):
        z, v = lif_current_encoder(current, v, p, dt)
        spikes.append(z)
    return torch.stack(spikes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LIF_PARAMETERS)
def test_constant_current_is_the_step_repeated(name: str, dtype: torch.dtype, generator):
    p = LIF_PARAMETERS[name]
    current = 10 * torch.rand(3, 40, generator=generator, dtype=dtype) - 1
    spikes = nf.constant_current_lif_encode(current, 60, p)
    assert 0.05 < spikes.mean() < 0.5
    assert spikes.dtype == dtype
    assert torch.equal(spikes, steps(current, 60, p))


@pytest.mark.parametrize("name", ["default", "reset"])
def test_gradients_of_the_current(name: str, generator):
    results = []
    for function in (nf.constant_current_lif_encode, steps):
        current = (
            12 * torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ).requires_grad_()
        v_th = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        p = LIF_PARAMETERS[name]._replace(v_th=v_th, alpha=10.0)
        (function(current, 30, p) * torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]).sum().backward()
        results.append((current.grad, v_th.grad))
    for ours, expected in zip(*results):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_one_kernel_runs_all_steps_where_the_reset_is_zero():
    current = torch.full((4,), 8.0, requires_grad=True)
    spikes = {p: nf.constant_current_lif_encode(current, 5, LIF_PARAMETERS[p]) for p in ("default", "reset")}
    assert is_fused(spikes["default"]) == has_kernels("cpu")
    assert spikes["reset"].grad_fn.name() == "StackBackward0"


def test_compiled_encoders_of_changing_numbers():
    x = torch.rand(3)
    for call in (nf.population_encode, nf.constant_current_lif_encode):
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
        for number in (4, 5, 7):
            assert torch.equal(compiled(x, number), call(x, number))


@pytest.mark.parametrize("p", ["default", "reset"])
def test_compiled_encoder(p: str, generator):
    encoder = nf.ConstantCurrentLIFEncoder(5, LIF_PARAMETERS[p])
    current = 12 * torch.rand(40, generator=generator)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(current), encoder(current))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_spikes_come_in_the_dtype_of_the_input(dtype: torch.dtype):
    x = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)
    for encoder in (
        nf.ConstantCurrentLIFEncoder(5),
        nf.ConstantCurrentLIFEncoder(5, LIF_PARAMETERS["reset"]),
        nf.SpikeLatencyLIFEncoder(5),
        nf.PoissonEncoder(5),
        nf.PoissonEncoderStep(),
        nf.SignedPoissonEncoder(5),
        nf.SignedPoissonEncoderStep(),
        nf.PopulationEncoder(4),
        nf.SpikeLatencyEncoder(),
    ):
        assert encoder(x).dtype == dtype, encoder


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integers_are_converted(dtype: torch.dtype):
    x = torch.tensor([0, 1, 1]).to(dtype)
    assert torch.equal(nf.PoissonEncoder(3, f_max=1000)(x), x.float().expand(3, 3))
    assert torch.equal(nf.PopulationEncoder(3)(x), nf.PopulationEncoder(3)(x.float()))
    assert torch.equal(nf.ConstantCurrentLIFEncoder(30)(x), nf.ConstantCurrentLIFEncoder(30)(x.float()))
    assert nf.SpikeLatencyEncoder()(torch.stack([x, x])).dtype == dtype


@pytest.mark.parametrize("name", ["poisson_encode", "signed_poisson_encode"])
def test_poisson_statistics(name: str):
    """Rates are dt f_max |x|, independent from step to step, with the sign of x."""
    x = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, -0.5])
    length = 20000
    spikes = getattr(nf, name)(x, length, f_max=800, generator=torch.Generator().manual_seed(1))
    signed = name.startswith("signed")
    expected = (0.8 * (x.abs() if signed else x.clamp(min=0))).clamp(max=1)
    deviation = (expected * (1 - expected) / length).sqrt()
    assert ((spikes.abs().mean(0) - expected).abs() <= 4 * deviation).all()
    assert torch.equal(spikes.sum(0).sign(), x.sign() if signed else x.sign().clamp(min=0))
    assert set(spikes.unique().tolist()) == ({-1.0, 0.0, 1.0} if signed else {0.0, 1.0})
    following = (spikes[1:].abs() * spikes[:-1].abs()).mean(0)
    assert ((following - expected**2).abs() <= 5 * deviation).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: nf.poisson_encode(torch.full((100,), 0.5), 10, 1000, generator=g),
        lambda g: nf.poisson_encode_step(torch.full((100,), 0.5), generator=g),
        lambda g: nf.signed_poisson_encode(torch.full((100,), -0.5), 10, 1000, generator=g),
        lambda g: nf.signed_poisson_encode_step(torch.full((100,), -0.5), generator=g),
    ],
)
def test_the_generator_decides(draw):
    first, second = draw(torch.Generator().manual_seed(3)), draw(torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(torch.Generator().manual_seed(4)))
    before = torch.get_rng_state()
    draw(torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(draw(None), first)


def test_encoders_stay_on_the_device_of_the_input():
    x = torch.ones(2, 3, device="meta")
    for encoder in (
        nf.ConstantCurrentLIFEncoder(5),
        nf.PoissonEncoder(5),
        nf.SignedPoissonEncoder(5),
        nf.SignedPoissonEncoderStep(),
        nf.PopulationEncoder(5, scale=1.0),
        nf.SpikeLatencyEncoder(),
    ):
        assert encoder(x).device.type == "meta", encoder


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=3, max_size=3), min_size=0, max_size=8))
def test_latency_keeps_the_first_spike(rows: list[list[float]]):
    spikes = torch.tensor(rows).reshape(-1, 3)
    kept = nf.spike_latency_encode(spikes)
    for n in range(3):
        train = spikes[:, n].tolist()
        first = next((t for t, z in enumerate(train) if z), None)
        assert kept[:, n].tolist() == [z if t == first else 0.0 for t, z in enumerate(train)]


def test_latency_code_orders_by_strength():
    currents = torch.tensor([[20.0, 9.0, 5.0, 3.0, 0.9]])
    spikes = nf.SpikeLatencyLIFEncoder(100)(currents)[:, 0]
    assert spikes.sum(0).tolist() == [1, 1, 1, 1, 0]
    times = spikes.argmax(0)[:4].tolist()
    assert times == sorted(times)
    assert len(set(times)) == 4


def test_population_peaks_at_its_preferred_value(generator):
    rates = nf.population_encode(torch.tensor([[0.0, 0.25], [0.5, 1.0]]), 5)
    assert rates.argmax(-1).tolist() == [[0, 1], [2, 4]]
    assert rates.max() == 1
    x = torch.rand(4, 3, generator=generator)
    scales = torch.tensor([0.5, 1.0, 2.0])
    together = nf.population_encode(x, 6, scales)
    for n, scale in enumerate(scales.tolist()):
        torch.testing.assert_close(together[:, n], nf.population_encode(x[:, n], 6, scale))
    custom = nf.population_encode(x, 6, 1.0, torch.neg, lambda a, b: (a - b).abs())
    torch.testing.assert_close(custom, -(x[..., None] - torch.linspace(0, 1, 6)).abs())


def test_encoders_copy_and_pickle():
    x = torch.rand(2, 3)
    for encoder in (nf.ConstantCurrentLIFEncoder(4), nf.SpikeLatencyLIFEncoder(4), nf.PopulationEncoder(4)):
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(other(x), encoder(x))
        assert "4" in repr(encoder)
    assert "f_max=100" in repr(nf.PoissonEncoder(4))
    assert "f_max=1000" in repr(nf.SignedPoissonEncoderStep())


def test_nothing_to_encode():
    assert nf.poisson_encode(torch.rand(2), 0).shape == (0, 2)
    assert nf.constant_current_lif_encode(torch.rand(2), 0).shape == (0, 2)
    assert nf.constant_current_lif_encode(torch.rand(2), 0, LIF_PARAMETERS["reset"]).shape == (0, 2)
    assert nf.spike_latency_lif_encode(torch.rand(2), 0).shape == (0, 2)
    assert nf.poisson_encode(torch.rand(0), 3).shape == (3, 0)
    for function in (nf.poisson_encode, nf.constant_current_lif_encode):
        with pytest.raises(ValueError, match="seq_length: got -1"):
            function(torch.rand(2), -1)


class TestAgainstNorse:
    """What the installed release of the reference computes."""

    def test_lif_encoders(self, norse, generator):
        current = 20 * torch.rand(3, 5, generator=generator) - 2
        for name in ("constant_current_lif_encode", "spike_latency_lif_encode"):
            for p in ({}, {"v_reset": torch.tensor(-0.3)}, {"v_th": torch.tensor(0.4)}):
                expected = getattr(norse, name)(current, 50, norse.LIFParameters(**p))
                assert torch.equal(getattr(nf, name)(current, 50, nf.LIFParameters(**p)), expected)

    def test_poisson(self, norse):
        x = torch.rand(3, 5) * 2 - 1
        for name, arguments in {
            "poisson_encode": (20, 500),
            "signed_poisson_encode": (20, 500),
            "poisson_encode_step": (),
            "signed_poisson_encode_step": (),
        }.items():
            torch.manual_seed(5)
            expected = getattr(norse, name)(x, *arguments)
            torch.manual_seed(5)
            assert torch.equal(getattr(nf, name)(x, *arguments), expected)

    def test_population(self, norse, generator):
        x = torch.rand(3, 5, generator=generator) * 3
        for scale in (None, 2.0, torch.tensor(0.7), 0):
            assert torch.equal(nf.population_encode(x, 7, scale), norse.population_encode(x, 7, scale))
        assert torch.equal(encode.gaussian_rbf(x, 0.3), norse.gaussian_rbf(x, 0.3))

    def test_latency(self, norse, generator):
        spikes = (torch.rand(20, 3, 5, generator=generator) < 0.1).float()
        assert torch.equal(nf.spike_latency_encode(spikes), norse.spike_latency_encode(spikes))


def test_gradients_of_a_population():
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: nf.population_encode(v, 5, 1.0), x)
    scales = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, s: nf.population_encode(v, 5, s), (x, scales))
    nf.population_encode(x, 5).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64], ids=str)
def test_the_smallest_integer_has_a_magnitude(dtype: torch.dtype):
    x = torch.tensor([torch.iinfo(dtype).min, -1, 0, 1], dtype=dtype)
    assert nf.SignedPoissonEncoderStep(1000)(x).tolist() == [-1.0, -1.0, 0.0, 1.0]
    assert nf.SignedPoissonEncoder(2, 1000)(x).tolist() == [[-1.0, -1.0, 0.0, 1.0]] * 2


def test_signed_encoders_take_booleans():
    x = torch.tensor([True, False])
    assert nf.SignedPoissonEncoderStep(1000)(x).tolist() == [1.0, 0.0]
    assert nf.SignedPoissonEncoder(1, 1000)(x).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_reset_in_half_precision(dtype: torch.dtype):
    """It is computed in float32, with the kernel and in the loop for other reset potentials."""
    current = (torch.rand(2000) * 5).to(dtype)
    encoded = encode.constant_current_lif_encode(current, 50, nf.LIFParameters(v_reset=torch.tensor(1e-30)))
    assert encoded.dtype == dtype
    assert torch.equal(encoded.float(), encode.constant_current_lif_encode(current.float(), 50))


def test_gradient_of_an_encoder_in_half_precision():
    current = torch.full((1,), 13.0, dtype=torch.float16, requires_grad=True)
    p = nf.LIFParameters(method="circ", v_reset=torch.tensor(-0.1))
    encode.constant_current_lif_encode(current, 5, p).sum().backward()
    assert current.grad.isfinite().all()
    assert current.grad.any()


def test_parameters_that_do_not_fit_the_current_are_named_with_any_reset():
    for v_reset in (0.0, 0.1):
        p = nf.LIFParameters(v_th=torch.ones(2, 3), v_reset=torch.tensor(v_reset))
        with pytest.raises(ValueError, match=r"\(2, 3\), expected .* broadcast"):
            encode.constant_current_lif_encode(torch.ones(3), 5, p)


def test_spikes_behind_the_first_are_removed_whatever_they_are():
    spikes = torch.tensor([1.0, float("nan"), float("inf")])[:, None]
    assert encode.spike_latency_encode(spikes).flatten().tolist() == [1.0, 0.0, 0.0]
    assert encode.spike_latency_encode(spikes.bool()).flatten().tolist() == [True, False, False]


def test_rates_of_unsigned_distances():
    assert torch.equal(encode.gaussian_rbf(torch.tensor([1], dtype=torch.uint8)), encode.gaussian_rbf(torch.ones(1)))


def test_populations_keep_the_dtype_of_the_input():
    for scale in (torch.rand(2, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)):
        assert encode.population_encode(torch.rand(2), 3, scale=scale).dtype == torch.float32


@pytest.mark.parametrize(
    ("got", "value"), [("list", [1.0]), ("dtype torch.complex64", torch.ones(2, dtype=torch.complex64))]
)
def test_what_is_no_real_tensor_is_named(got: str, value: object):
    for call in (lambda x: encode.constant_current_lif_encode(x, 3), lambda x: encode.population_encode(x, 3)):
        with pytest.raises(TypeError, match=f"input: got {got}, expected"):
            call(value)


@pytest.mark.parametrize("encoder", [nf.PoissonEncoder(6), nf.SignedPoissonEncoder(6), nf.PoissonEncoderStep()])
def test_compiled_random_encoders_take_changing_batches(encoder):
    torch._dynamo.reset()
    compiled = torch.compile(encoder, backend="aot_eager", dynamic=None)
    for batch in (4, 6, 7):
        torch.manual_seed(1)
        spikes = compiled(torch.full((batch, 3), 0.5))
        torch.manual_seed(1)
        assert torch.equal(spikes, encoder(torch.full((batch, 3), 0.5)))


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_a_population_without_a_scale_is_no_constant():
    """Of a trace, of a function of batches, or of a tensor without values."""
    small, large = torch.rand(4, 3), 5 * torch.rand(4, 3)

    def function(x: torch.Tensor) -> torch.Tensor:
        return encode.population_encode(x, 6)

    assert torch.equal(torch.jit.trace(function, small, check_trace=False)(large), function(large))
    assert function(large.to("meta")).shape == (4, 3, 6)
    assert torch.equal(torch.func.vmap(function)(large), torch.stack([function(row) for row in large]))


@pytest.mark.parametrize(
    "sigma", [0, 0.0, 3, torch.tensor(0), torch.tensor(3, dtype=torch.uint8), torch.tensor(20).byte()]
)
def test_rates_of_any_width(sigma):
    distance = torch.tensor([1.0, 4.0])
    wide = float(sigma)
    expected = torch.exp(-distance / (2 * wide**2)) if wide else torch.zeros(2)
    for d in (distance, distance.byte(), distance.double()):
        torch.testing.assert_close(encode.gaussian_rbf(d, sigma), expected, check_dtype=False)


@pytest.mark.parametrize("v_reset", [0.0, 0.2])
def test_spikes_come_in_the_dtype_of_the_current_whatever_the_parameters(v_reset):
    p = nf.LIFParameters(
        v_th=torch.full((3,), 0.5).double(), tau_mem_inv=torch.full((3,), 100.0).double(), v_reset=v_reset
    )
    assert encode.constant_current_lif_encode(torch.full((3,), 9.0), 4, p).dtype == torch.float32


def test_constant_current_needs_no_parameters_of_a_synapse():
    current = torch.tensor([2.0, 8.0, 16.0])
    expected = encode.constant_current_lif_encode(current, 5)
    assert torch.equal(encode.constant_current_lif_encode(current, 5, nf.LIFBoxParameters()), expected)


def test_latency_codes_of_batches_and_of_nothing(generator):
    spikes = (torch.rand(5, 6, 3, generator=generator) < 0.4).float()
    expected = encode.spike_latency_encode(spikes)
    assert torch.equal(torch.func.vmap(encode.spike_latency_encode, 1, 1)(spikes), expected)
    assert encode.spike_latency_encode(spikes[:0]).shape == (0, 6, 3)
    with pytest.raises(IndexError):
        encode.spike_latency_encode(torch.tensor(1.0))


def test_arguments_of_other_types_are_named():
    for encoder in (encode.poisson_encode, encode.signed_poisson_encode, encode.constant_current_lif_encode):
        with pytest.raises(TypeError, match="seq_length: got float, expected an integer"):
            encoder(torch.rand(2), 5.5)
    with pytest.raises(TypeError, match="input_values: got list, expected a tensor"):
        encode.poisson_encode([0.1], 3)
    for steps in (np.int64(3), torch.tensor(3)):
        assert encode.poisson_encode(torch.rand(2), steps).shape == (3, 2)
