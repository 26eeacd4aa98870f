"""Encoders of Norse that accelerate swaps: the same random numbers, the same spikes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import norse_fast as nf

from .accelerated import (
    norse,
    reported,
    snapshot,
)

pytestmark = pytest.mark.needs("norse")


ENCODERS = {
    "ConstantCurrentLIFEncoder": lambda library: library.ConstantCurrentLIFEncoder(40),
    "SpikeLatencyLIFEncoder": lambda library: library.SpikeLatencyLIFEncoder(40),
    "PoissonEncoder": lambda library: library.PoissonEncoder(40),
    "PoissonEncoderStep": lambda library: library.module.encode.PoissonEncoderStep(),
    "SignedPoissonEncoder": lambda library: library.SignedPoissonEncoder(40),
    "SignedPoissonEncoderStep": lambda library: library.module.encode.SignedPoissonEncoderStep(),
}


def encode(encoder: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The spikes, and where there is one the gradient of the input, with the same random numbers each time."""
    torch.manual_seed(7)
    x = x.clone().requires_grad_(x.is_floating_point())
    spikes = encoder(x)
    if not spikes.requires_grad:
        return spikes, None
    weights = torch.arange(spikes.numel()).view_as(spikes)
    return spikes.detach(), torch.autograd.grad((spikes * weights).sum(), x, allow_unused=True)[0]


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{dtype}")
        for name in ENCODERS
        for dtype in (torch.float32, torch.float64, torch.int64)
        if (name, dtype) != ("SpikeLatencyLIFEncoder", torch.int64)  # an error in Norse
    ],
)
def test_encoders(name: str, dtype: torch.dtype, default: torch.dtype):
    """Also where Norse's results have another dtype than ours, or other random numbers."""
    x = (torch.randn(3, 5) * 8 if "LIF" in name else torch.rand(3, 5) * 2 - 0.5).to(dtype)
    encoder = ENCODERS[name](norse)
    torch.set_default_dtype(default)
    try:
        expected, gradient = encode(encoder, x)
        assert reported(encoder).swapped == {"": name}
        actual, actual_gradient = encode(encoder, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
    assert expected.any() or dtype is torch.int64
    assert (actual_gradient is None) is (gradient is None)
    if gradient is not None:
        torch.testing.assert_close(actual_gradient, gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_there_and_back(name: str):
    encoder = ENCODERS[name](norse)
    before = snapshot(encoder)
    assert not reported(encoder).left
    x = torch.rand(4) * 2
    expected, _ = encode(encoder, x)
    ours = getattr(nf.module.encode, name)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert isinstance(other, (ours, getattr(norse.module.encode, name)))
        assert torch.equal(encode(other, x)[0], expected)
    assert isinstance(encoder, ours)
    assert not reported(encoder).swapped
    assert snapshot(nf.revert(encoder)) == before
