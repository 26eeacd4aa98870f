"""The reference's numbers: values bit for bit where rounding is the same, gradients to 1e-9 relative."""

from __future__ import annotations

import contextlib

import pytest
import torch

from norse_fast._kernels.extension import kernels_disabled
from norse_fast._kernels.recurrent import RECURRENT

from .models import MODELS, GoldenCase, fields, golden_cases


def run_steps(case: GoldenCase, leaves):
    state, weights, params = case.arguments(leaves)
    outputs = []
    for x in leaves["input"]:
        output, state = case.model.call(x, state, weights, params, case.meta["dt"])
        outputs.append(output)
    return torch.stack(outputs), state


def run_sequence(case: GoldenCase, leaves):
    state, weights, params = case.arguments(leaves)
    if case.model.kind == "rec":
        return RECURRENT[case.model.step](leaves["input"], state, *weights, params, case.meta["dt"])
    return case.model.neuron(leaves["input"], state, params, case.meta["dt"], sequence=True)


def check_values(case: GoldenCase, output, final):
    expected = {"out": case.tensor("out"), **case.named("final.")}
    actual = {"out": output, **fields(final)}
    double = case.meta["dtype"] == "float64"
    for name, value in expected.items():
        if case.model.exact and case.model.kind == "ff":
            assert torch.equal(actual[name], value), name
        else:
            tolerance = 1e-9 if double else case.model.tolerance
            torch.testing.assert_close(actual[name], value, rtol=tolerance, atol=tolerance * 1e-3, msg=name)
    if case.meta["rate"] is not None:
        assert torch.equal(output, expected["out"]), "a spike differs"


def check_gradients(case: GoldenCase, leaves, output, final):
    loss = (output * case.tensor("grad_out")).sum()
    final_fields = fields(final)
    for name, grad in case.named("grad_final.").items():
        loss = loss + (final_fields[name] * grad).sum()
    loss.backward()
    tolerance = 1e-9 if case.meta["dtype"] == "float64" else 2e-3
    checked = 0
    for name, expected in case.named("grad.").items():
        actual = leaves[name].grad
        if actual is None:
            actual = torch.zeros_like(expected)
        assert actual.shape == expected.shape
        scale = max(1.0, expected.abs().max().item()) if case.meta["dtype"] == "float32" else 1e-3
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=tolerance * scale, msg=lambda m, name=name: f"{name}: {m}"
        )
        checked += 1
    assert checked > 0


@pytest.mark.parametrize("path", ["kernel", "pytorch"])
@pytest.mark.parametrize("case", golden_cases(MODELS))
def test_steps(case: GoldenCase, path: str):
    leaves = case.leaves()
    with kernels_disabled() if path == "pytorch" else contextlib.nullcontext():
        output, final = run_steps(case, leaves)
    check_values(case, output, final)
    check_gradients(case, leaves, output, final)


@pytest.mark.parametrize("case", golden_cases([m for m in MODELS if m.kind in ("ff", "rec")]))
def test_sequence(case: GoldenCase):
    leaves = case.leaves()
    output, final = run_sequence(case, leaves)
    check_values(case, output, final)
    check_gradients(case, leaves, output, final)
