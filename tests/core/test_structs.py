"""The C++ structs by themselves, in float64: every vjp against finite differences, exp against NumPy."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
from hypothesis import strategies as st

from norse_fast.functional.threshold import SURROGATES


def test_vjp_of_every_model(core):
    """With the spikes held fixed (surrogate 0), a step is smooth and its vjp must be that of finite differences."""
    random = np.random.default_rng(0)
    checked = 0
    for name, model in core.models.items():
        for _ in range(200):
            state = random.uniform(0.1, 1.5, model["states"])
            params = random.uniform(0.2, 0.8, model["params"])
            x = random.uniform(-1.0, 2.0)
            u = model["thresholds"](state, x, params)
            if any(abs(value) < 1e-3 for value in u):
                continue
            weights = random.normal(size=1 + model["states"])
            surrogate = [0.0] * len(u)
            grads = model["vjp"](state, x, params, surrogate, weights[0], weights[1:])
            actual = np.concatenate([[grads[0]], grads[1], grads[2]])

            def loss(point, model=model, weights=weights):
                split = 1 + model["states"]
                output, new_state = model["step"](point[1:split], point[0], point[split:])
                return weights[0] * output + weights[1:] @ np.array(new_state)

            point = np.concatenate([[x], state, params])
            expected = []
            for k in range(point.size):
                h = 1e-6
                ahead, behind = point.copy(), point.copy()
                ahead[k] += h
                behind[k] -= h
                expected.append((loss(ahead) - loss(behind)) / (2 * h))
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=name)
            checked += 1
    assert checked > 100 * (len(core.models) - 2)


def test_surrogate_path_of_every_model(core):
    """The gradient that goes through H(u) is linear in the surrogate derivative."""
    random = np.random.default_rng(1)
    for name, model in core.models.items():
        state = random.uniform(0.1, 1.5, model["states"])
        params = random.uniform(0.2, 0.8, model["params"])
        thresholds = len(model["thresholds"](state, 0.3, params))
        if not thresholds:
            continue
        zero = np.zeros(model["states"])

        def grad_x(derivative, model=model, state=state, params=params, zero=zero):
            return model["vjp"](state, 0.3, params, derivative, 1.0, zero)[0]

        none, one, two = (grad_x([d] * thresholds) for d in (0.0, 1.0, 2.0))
        assert math.isclose(two - none, 2 * (one - none), rel_tol=1e-9, abs_tol=1e-12), name


@hypothesis.given(st.floats(-800, 800))
def test_exp(core, x):
    expected = np.exp(np.float64(x)) if x < 709.78 else (np.inf if x > 709.79 else None)
    if expected is not None:
        np.testing.assert_array_max_ulp(np.float64(core.exp(x)), expected, maxulp=1)


def test_exp_in_single_precision(core):
    for x in np.linspace(-103.0, 88.7, 20_000, dtype=np.float32):
        expected = np.float32(np.exp(np.float64(x)))
        np.testing.assert_array_max_ulp(np.float32(core.exp_float(x)), expected, maxulp=1)


def test_exp_of_special_values(core):
    assert core.exp(0.0) == 1.0
    assert core.exp(math.inf) == math.inf
    assert core.exp(-math.inf) == 0.0
    assert math.isnan(core.exp(math.nan))
    assert core.exp_float(100.0) == math.inf
    assert core.exp_float(-200.0) == 0.0


def test_exp_decay(core):
    """exp(-x) to its last normal numbers, then 0; never a denormal number, which is slow."""
    for x in np.linspace(0.0, 707.5, 20_000):
        np.testing.assert_array_max_ulp(np.float64(core.exp_decay(x)), np.float64(core.exp(-x)), maxulp=1)
    for x in np.linspace(0.0, 86.5, 20_000, dtype=np.float32):
        np.testing.assert_array_max_ulp(np.float32(core.exp_decay_float(x)), np.float32(core.exp_float(-x)), maxulp=1)
    assert core.exp_decay(707.5) > np.finfo(np.float64).tiny
    assert core.exp_decay_float(86.5) > np.finfo(np.float32).tiny
    for x in (708.0, 745.0, math.inf):
        assert core.exp_decay(x) == 0.0
    for x in (86.6, 100.0, math.inf):
        assert core.exp_decay_float(x) == 0.0
    assert math.isnan(core.exp_decay(math.nan))
    assert math.isnan(core.exp_decay_float(math.nan))


@hypothesis.given(st.floats(-30, 30))
def test_tanh_squared(core, x):
    assert math.isclose(core.tanh_squared(x), math.tanh(x) ** 2, rel_tol=1e-12, abs_tol=1e-15)


FORMULAS = {
    "super": lambda x, a: 1 / (a * abs(x) + 1) ** 2,
    "triangle": lambda x, a: a * max(0.0, 1 - abs(x)),
    "tanh": lambda x, a: 1 - math.tanh(a * x) ** 2,
    "circ": lambda x, a: a**3 / (a * a + x * x) ** 1.5,
    "heavi_erfc": lambda x, a: 2 * math.exp(-((a * x) ** 2)) / float(np.sqrt(np.float32(math.pi))),
    "heaviside": lambda x, a: 0.0,
    "atan": lambda x, a: a / (2 * (1 + (math.pi / 2 * a * x) ** 2)),
    "sigmoid": lambda x, a: a * math.exp(-abs(a * x)) / (1 + math.exp(-abs(a * x))) ** 2,
    "rectangle": lambda x, a: a if a * abs(x) < 0.5 else 0.0,
    "triangle_width": lambda x, a: a * max(0.0, 1 - a * abs(x)),
}


@hypothesis.given(x=st.floats(-5, 5), alpha=st.floats(0.01, 100))
def test_surrogates(core, x, alpha):
    assert list(FORMULAS) == list(SURROGATES) == core.surrogates
    for name, index in SURROGATES.items():
        expected = FORMULAS[name](x, alpha)
        assert math.isclose(core.surrogate(index, x, alpha), expected, rel_tol=1e-9, abs_tol=1e-12), name
