"""The spike functions in PyTorch: exact steps, and the derivatives of the table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast.functional.threshold import SURROGATES, CircDist, Logistic, sign, threshold

FORMULAS = {
    "super": lambda x, a: 1 / (a * x.abs() + 1) ** 2,
    "triangle": lambda x, a: a * (1 - x.abs()).clamp(min=0),
    "tanh": lambda x, a: 1 - torch.tanh(a * x) ** 2,
    "circ": lambda x, a: a**3 / (a * a + x * x) ** 1.5,
    "heavi_erfc": lambda x, a: 2 * torch.exp(-((a * x) ** 2)) / math.sqrt(math.pi),
    "atan": lambda x, a: a / 2 / (1 + (math.pi / 2 * a * x) ** 2),
    "sigmoid": lambda x, a: a * torch.sigmoid(a * x) * (1 - torch.sigmoid(a * x)),
    "rectangle": lambda x, a: a * (a * x.abs() < 0.5).to(x.dtype),
    "triangle_width": lambda x, a: a * (1 - a * x.abs()).clamp(min=0),
}


@pytest.mark.parametrize("make", [nf.LIF, nf.LIFCell])
@pytest.mark.parametrize("learn", [(), "alpha"], ids=["fixed", "learned"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (4, 1), (2, 1, 1, 1)], ids=str)
def test_alpha_of_channels(shape: tuple[int, ...], learn: Any, make: Any, generator):
    """Also where a call starts from the state of another, so that nothing else needs preparation."""
    alpha = 1 + torch.rand(shape, generator=generator)
    module = make(nf.LIFParameters(method="atan", alpha=alpha), learn=learn)
    x = 60 * torch.rand(20, 2, 3, 4, 5, generator=generator)
    x = (x if make is nf.LIF else x[0]).requires_grad_()
    state = module(x.detach())[1].detach()
    found = []
    for context in (torch.enable_grad(), nf.kernels_disabled()):
        with context:
            loss = module(x, state)[0].sum()
            found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    wrong = make(nf.LIFParameters(method="atan", alpha=torch.ones(7)), learn=learn)
    with pytest.raises(ValueError, match=r"p.alpha: got shape \(7,\), expected one that broadcasts to"):
        wrong(x, state)


@pytest.mark.parametrize("alpha", [torch.tensor(2, dtype=torch.int32), torch.tensor(True)], ids=str)
@pytest.mark.parametrize("make", [nf.LIF, nf.LIFCell, lambda p: nf.LIFRecurrent(5, 5, p)], ids=["ff", "cell", "rec"])
def test_alpha_of_any_dtype(make: Any, alpha: torch.Tensor):
    x = torch.full((20, 3, 5), 60.0, requires_grad=True)
    grads = []
    for value in (alpha, alpha.float()):
        torch.manual_seed(1)
        z, _ = make(nf.LIFParameters(alpha=value))(x)
        grads += torch.autograd.grad(z.sum(), x)
    assert torch.equal(*grads)


def test_derivatives_may_work_in_place():
    """Distances that a function was given are its own, with and without kernels."""

    def in_place(u: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return u.mul_(alpha).abs_().add_(1).pow_(-2)

    x = torch.linspace(-1, 1, 5, requires_grad=True)
    z = threshold(x, in_place, 2.0)
    for _ in range(2):
        (grad,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
        torch.testing.assert_close(grad, FORMULAS["super"](x.detach(), 2.0))
    assert torch.equal(x, torch.linspace(-1, 1, 5))


@pytest.mark.parametrize("method", SURROGATES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_threshold(method: str, as_tensor: bool):
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    z = threshold(x, method, torch.tensor(2.0, requires_grad=True) if as_tensor else 2.0)
    assert torch.equal(z, (x > 0).double())
    if method == "heaviside":
        assert not z.requires_grad
        return
    grad = torch.autograd.grad(3 * z.sum(), x)[0]
    torch.testing.assert_close(grad, 3 * FORMULAS[method](x.detach(), 2.0), rtol=1e-7, atol=1e-12)


def test_heaviside():
    x = torch.tensor([-1.0, 0.0, -0.0, 1e-45, 1.0, float("nan"), float("inf")])
    assert nf.heaviside(x).tolist() == [0, 0, 0, 1, 1, 0, 1]
    assert nf.heaviside(x.half()).dtype == torch.float16


def test_sign():
    assert sign(torch.tensor([-1.0, 0.0, 1.0]), "super", 100.0).tolist() == [-1, -1, 1]


@pytest.mark.parametrize(("function", "rate"), [(Logistic, lambda x: 0.5 + 0.5 * torch.tanh(x)), (CircDist, None)])
def test_stochastic_spikes(function, rate):
    x = torch.full((20_000,), 0.3, requires_grad=True)
    z = function.apply(x, 1.0)
    expected = rate(torch.tensor(0.3)) if rate else 0.5 + 0.5 * 0.3 / math.sqrt(0.3**2 + 1)
    assert abs(z.mean().item() - float(expected)) < 0.02
    assert set(z.unique().tolist()) == {0.0, 1.0}
    z.sum().backward()
    formula = FORMULAS["tanh" if function is Logistic else "circ"]
    torch.testing.assert_close(x.grad, formula(x.detach(), 1.0))


def test_resets():
    z, v = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5])
    reset, th = torch.tensor(0.25), torch.tensor(1.0)
    assert nf.reset_value(z, v, reset, th).tolist() == [0.5, 0.25]
    assert nf.reset_subtract(z, v, reset, th).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.1, 3.0])
@pytest.mark.parametrize("method", sorted(set(SURROGATES) - {"heaviside"}))
def test_the_gradient_of_alpha_in_single_precision(method: str, alpha: float):
    """Where alpha x is small, the derivative of tanh(alpha x) / alpha is a small difference of large numbers."""
    distances = torch.linspace(-1.7, 2.3, 41)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        steepness = torch.full((41,), alpha, dtype=dtype, requires_grad=True)
        threshold(distances.to(dtype), method, steepness).sum().backward()
        gradients.append(steepness.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize("method", sorted(set(SURROGATES) - {"heaviside"}))
def test_alpha_in_single_precision_is_not_rounded_further(method: str):
    """As LIF has it: a 0-dim tensor, whose powers and multiples would be float32 beside distances in float64."""
    u = torch.linspace(-2, 2, 41, dtype=torch.float64)
    single = torch.tensor(3.0186)
    gradients = []
    for alpha in (single, single.double()):
        x = u.clone().requires_grad_()
        threshold(x, method, alpha).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", sorted(SURROGATES.keys() - {"heaviside"}))
def test_half_precision_is_computed_in_float32(method: str, dtype: torch.dtype):
    """Cubes and squares of what half precision holds overflow there."""
    x = torch.tensor([0.25, -0.5, 100.0, -300.0, 60_000.0])
    for value in (0.5, 100.0, 3000.0):
        grads = []
        for convert in (lambda t: t.to(dtype), lambda t: t.to(dtype).float()):
            u, alpha = convert(x).requires_grad_(), convert(torch.tensor(value)).requires_grad_()
            grads.append(torch.autograd.grad(threshold(u, method, alpha).sum(), (u, alpha)))
        for half, single in zip(*grads):
            assert half.dtype == dtype
            assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize("x", [torch.tensor(300.0, dtype=torch.float16), torch.tensor(1e20), torch.tensor(3e38)])
def test_stochastic_spikes_far_from_the_threshold(x: torch.Tensor):
    assert CircDist.of(x.expand(100), 1.0).sum() == 100
    assert CircDist.of(-x.expand(100), 1.0).sum() == 0


def test_alpha_of_more_elements_than_spikes_is_refused():
    for shape in ((2, 3), (2,)):
        with pytest.raises(ValueError, match=r"alpha: got shape .* expected one that broadcasts to \(3,\), that of x"):
            threshold(torch.ones(3), "super", torch.ones(shape))
