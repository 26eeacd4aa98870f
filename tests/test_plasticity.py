"""Learning rules of synapses: STDP of weights, STDP sensors, short-term plasticity."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import norse_fast as nf
from norse_fast.functional import stdp

from .packages import find

ALGORITHMS = ["additive", "additive_step", "multiplicative_pow", "multiplicative_relu"]


def spikes(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, dtype=torch.float64) < 0.4).double()


def linear_by_hand(z_pre, z_post, w, t_pre, t_post, p):
    """The rule of each synapse, in loops."""
    changed = w.clone()
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            plus = sum(z_post[b, i] * t_pre[b, j] for b in range(len(z_pre)))
            minus = sum(t_post[b, i] * z_pre[b, j] for b in range(len(z_pre)))
            above, below = p.w_max - w[i, j], w[i, j] - p.w_min
            factor = {
                "additive": lambda d: 1.0,
                "additive_step": lambda d: float(d > 0),
                "multiplicative_pow": lambda d: d**p.mu,
                "multiplicative_relu": lambda d: max(d, 0.0),
            }[p.stdp_algorithm]
            changed[i, j] += p.eta_plus * factor(above) * plus - p.eta_minus * factor(below) * minus
    return changed.clamp(p.w_min, p.w_max) if p.hardbound else changed


@pytest.mark.parametrize("hardbound", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_linear_weights(algorithm: str, hardbound: bool):
    p = nf.STDPParameters(
        eta_plus=0.2, eta_minus=0.3, stdp_algorithm=algorithm, mu=0.4, hardbound=hardbound, w_min=-0.5, w_max=1.5
    )
    w, state = torch.rand(4, 3, dtype=torch.float64), nf.STDPState(torch.zeros(()), torch.zeros(()))
    t_pre, t_post = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    for _ in range(3):
        z_pre, z_post = spikes(5, 3), spikes(5, 4)
        t_pre = t_pre + 0.001 * p.tau_pre_inv * (z_pre - t_pre)
        t_post = t_post + 0.001 * p.tau_post_inv * (z_post - t_post)
        expected = linear_by_hand(z_pre, z_post, w, t_pre, t_post, p)
        w, same = nf.stdp_step_linear(z_pre, z_post, w, state, p)
        assert same is state
        torch.testing.assert_close(w, expected)
        torch.testing.assert_close(state.t_pre, t_pre)
        torch.testing.assert_close(state.t_post, t_post)


def test_pre_before_post_strengthens_and_post_before_pre_weakens():
    def change(first: str) -> float:
        w, state = torch.full((1, 1), 0.5), nf.STDPState(torch.zeros(1, 1), torch.zeros(1, 1))
        on, off = torch.ones(1, 1), torch.zeros(1, 1)
        order = [(on, off), (off, on)] if first == "pre" else [(off, on), (on, off)]
        for z_pre, z_post in order:
            w, state = nf.stdp_step_linear(z_pre, z_post, w, state)
        return w.item() - 0.5

    assert change("pre") > 0 > change("post")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolution_is_the_linear_rule_over_shared_weights(stride: int, padding: int, dilation: int):
    """Each output position is a dense layer on its patch; the changes of all positions add up."""
    p = nf.STDPParameters(
        eta_plus=0.2, eta_minus=0.3, stride=stride, padding=padding, dilation=dilation, hardbound=False
    )
    z_pre, w = spikes(2, 3, 7, 6), torch.rand(4, 3, 2, 3, dtype=torch.float64)
    shape = torch.nn.functional.conv2d(z_pre, w, None, stride, padding, dilation).shape
    z_post = spikes(*shape)
    traces = torch.rand(z_pre.shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64)
    new, state = nf.stdp_step_conv2d(z_pre, z_post, w, nf.STDPState(*traces), p)

    def patches(x):
        return torch.nn.functional.unfold(x, (2, 3), dilation, padding, stride).mT.flatten(0, 1)

    flat_post = z_post.flatten(2).mT.flatten(0, 1)
    flat_trace = nf.STDPState(patches(traces[0]), traces[1].flatten(2).mT.flatten(0, 1))
    expected, _ = nf.stdp_step_linear(patches(z_pre), flat_post, w.flatten(1), flat_trace, p)
    torch.testing.assert_close(new, expected.view_as(w))
    assert state.t_pre.shape == z_pre.shape


def test_parameters_and_states_pickle_and_copy():
    p = nf.STDPParameters(stdp_algorithm="multiplicative_relu")
    w = torch.rand(3, 3)
    for other in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert torch.equal(other.A_plus(w), p.A_plus(w))
        assert torch.equal(other.bounding_func(2 * w), p.bounding_func(2 * w))


def test_bounds_may_be_tensors():
    p = nf.STDPParameters(w_min=torch.tensor([0.0, 0.2]), w_max=1.0)
    assert p.bounding_func(torch.tensor([-1.0, -1.0])).tolist() == pytest.approx([0.0, 0.2])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"stdp_algorithm: got 'hebb', expected one of 'additive'"):
        nf.STDPParameters(stdp_algorithm="hebb")
    state = nf.STDPState(torch.zeros(()), torch.zeros(()))
    with pytest.raises(ValueError, match=r"w: got shape \(3, 4\), expected \(post, pre\)"):
        nf.stdp_step_linear(torch.ones(1, 3), torch.ones(1, 4), torch.ones(3, 4), state)
    with pytest.raises(ValueError, match=r"w: got shape \(2, 1\), expected \(D, C, kh, kw\)"):
        nf.stdp_step_conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 2, 3, 3), torch.ones(2, 1), state)
    with pytest.raises(ValueError, match=r"z_post: got shape \(1, 2, 4, 4\), expected \(1, 2, 3, 3\)"):
        nf.stdp_step_conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 2, 4, 4), torch.ones(2, 1, 2, 2), state)


def test_sensor_decays_and_jumps():
    state = nf.STDPSensorState(torch.tensor([1.0, 1.0]), torch.tensor([2.0]))
    p = nf.STDPSensorParameters(eta_p=0.5, eta_m=0.25, tau_ac_inv=1e9)
    state = nf.stdp_sensor_step(torch.tensor([0.0, 1.0]), torch.tensor([1.0]), state, p, dt=0.01)
    torch.testing.assert_close(state.a_pre, torch.tensor([0.9, 1.4]))
    torch.testing.assert_close(state.a_post, torch.tensor([2.05]))


def test_short_term_plasticity_depresses_or_facilitates():
    def release(**p) -> list[float]:
        state, out = nf.TsodyksMakramState(torch.zeros(1), torch.ones(1)), []
        for t in range(60):
            current, state = nf.stp_step(torch.tensor([float(t % 10 == 0)]), state, nf.TsodyksMakramParameters(**p))
            assert 0 <= state.u.item() <= 1
            assert 0 <= state.x.item() <= 1
            if t % 10 == 0:
                out.append(current.item())
        return out

    depressing = release(U=0.8)
    assert depressing == sorted(depressing, reverse=True)
    facilitating = release(U=0.05, tau_f_inv=1.0, tau_d_inv=50.0)
    assert facilitating[:4] == sorted(facilitating[:4])


class TestAgainstNorse:
    """What the installed release of the reference computes."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_stdp(self, norse, algorithm: str, generator):
        import norse.torch.functional.stdp as reference

        results = []
        for module in (stdp, reference):
            torch.manual_seed(0)
            p = module.STDPParameters(
                stdp_algorithm=algorithm, mu=0.3, eta_plus=0.1, eta_minus=0.05, convolutional=True, padding=1
            )
            w, state = torch.rand(4, 3), module.STDPState(torch.zeros(2, 3), torch.zeros(2, 4))
            kernel = torch.rand(4, 3, 3, 3)
            maps = module.STDPState(torch.zeros(2, 3, 5, 5), torch.zeros(2, 4, 5, 5))
            for _ in range(5):
                w, state = module.stdp_step_linear(torch.rand(2, 3).round(), torch.rand(2, 4).round(), w, state, p)
                z_pre, z_post = torch.rand(2, 3, 5, 5).round(), torch.rand(2, 4, 5, 5).round()
                kernel, maps = module.stdp_step_conv2d(z_pre, z_post, kernel, maps, p)
            results.append((w, state.t_pre, state.t_post, kernel, maps.t_post))
        for ours, expected in zip(*results):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)

    def test_sensor_and_short_term_plasticity(self, norse, generator):
        z_pre, z_post = (torch.rand(10, 2, 3, generator=generator).round() for _ in range(2))
        ours = nf.STDPSensorState(torch.zeros(2, 3), torch.zeros(2, 3))
        expected = norse.STDPSensorState(*ours)
        synapse = nf.TsodyksMakramState(torch.zeros(2, 3), torch.ones(2, 3))
        reference = norse.TsodyksMakramState(*synapse)
        for x, y in zip(z_pre, z_post):
            ours, expected = nf.stdp_sensor_step(x, y, ours), norse.stdp_sensor_step(x, y, expected)
            current, synapse = nf.stp_step(x, synapse, nf.TsodyksMakramParameters())
            other, reference = norse.stp_step(x, reference, norse.TsodyksMakramParameters())
            assert torch.equal(current, other)
        for a, b in zip((*ours, *synapse), (*expected, *reference)):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16])
def test_spikes_of_other_dtypes(dtype: torch.dtype):
    """They are those that layers give, and what they do is what floating-point spikes do."""

    def results(convert):
        w, state = nf.stdp_step_linear(
            convert(dense[0]),
            convert(dense[1]),
            torch.full((4, 3), 0.5),
            nf.STDPState(torch.zeros(2, 3), torch.ones(2, 4)),
        )
        k, pictures = nf.stdp_step_conv2d(
            convert(images[0]),
            convert(images[1]),
            torch.full((1, 1, 2, 2), 0.5),
            nf.STDPState(torch.zeros(1, 1, 4, 5), torch.ones(1, 1, 3, 4)),
        )
        zeros = torch.zeros(2, 3, 4)
        sensors = nf.correlation_sensor_step(
            convert(dense[0]), convert(dense[1]), nf.CorrelationSensorState(zeros, zeros + 0.5, zeros + 0.5)
        )
        return [w, state.t_pre, state.t_post, k, pictures.t_pre, *sensors]

    dense = spikes(2, 3).float(), spikes(2, 4).float()
    images = spikes(1, 1, 4, 5).float(), spikes(1, 1, 3, 4).float()
    for found, expected in zip(results(lambda x: x.to(dtype)), results(lambda x: x)):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (1, 1, 1, 20), (2, 1, 4, 5)])
def test_pictures_of_another_shape_are_refused_before_traces_move(shape: tuple[int, ...]):
    x, y = torch.ones(1, 1, 5, 6), torch.ones(shape)
    state = nf.STDPState(torch.zeros_like(x), torch.zeros_like(y))
    with pytest.raises(ValueError, match="z_post: got"):
        nf.stdp_step_conv2d(x, y, torch.rand(1, 1, 2, 2), state)
    assert not state.t_pre.any()
    with pytest.raises(ValueError, match="z_post: got a batch of 3, expected 2"):
        nf.stdp_step_linear(torch.ones(2, 3), torch.ones(3, 4), torch.rand(4, 3), state)


def test_exclusive_or_of_unsigned_spikes():
    x, y = torch.tensor([0, 0, 1, 1], dtype=torch.uint8), torch.tensor([0, 1, 0, 1], dtype=torch.uint8)
    for dtype in (torch.uint8, torch.int64, torch.float32, torch.bool):
        assert nf.logical_xor(x.to(dtype), y.to(dtype)).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("number", [0.0, 1, np.float32(0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_traces_may_be_numbers(number: Any, dtype: torch.dtype):
    z_pre, z_post, w = torch.ones(2, 3, dtype=dtype), torch.ones(2, 4, dtype=dtype), torch.full((4, 3), 0.5)
    w = w.to(dtype) if dtype.is_floating_point else w
    full = lambda z: torch.full_like(z, float(number), dtype=w.dtype)  # noqa: E731
    expected, _ = nf.stdp_step_linear(z_pre, z_post, w, nf.STDPState(full(z_pre), full(z_post)))
    found, state = nf.stdp_step_linear(z_pre, z_post, w, nf.STDPState(number, number))
    torch.testing.assert_close(found, expected)
    assert state.t_pre.shape == (2, 3)


@pytest.mark.needs("norse")
@pytest.mark.parametrize("algorithm", ["additive", "additive_step", "multiplicative_pow", "multiplicative_relu"])
def test_parameters_of_norse(algorithm: str, generator):
    theirs = find("norse.torch.functional.stdp").STDPParameters
    arguments: dict[str, Any] = {"eta_plus": 0.1, "eta_minus": 0.05, "stdp_algorithm": algorithm}
    draw = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    z_pre, z_post, w = draw(2, 3).round(), draw(2, 4).round(), draw(4, 3)
    images, kernels = draw(2, 1, 5, 5).round(), draw(1, 1, 2, 2)
    results = []
    for p in (theirs(**arguments), nf.STDPParameters(**arguments)):
        linear, _ = nf.stdp_step_linear(z_pre, z_post, w, nf.STDPState(0.5 * z_pre, 0.5 * z_post), p)
        state = nf.STDPState(0.5 * images, torch.ones(2, 1, 4, 4))
        results.append((linear, nf.stdp_step_conv2d(images, torch.ones(2, 1, 4, 4), kernels, state, p)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results))
