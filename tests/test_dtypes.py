"""Half types are storage, integers are promoted, and any memory layout gives the same answer."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import FEED_FORWARD, Model, fields, model_id, random_params, random_state

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_half_is_storage(model: Model, dtype: torch.dtype, generator):
    x = (3 * torch.rand(70, 3, 11, generator=generator)).to(dtype)
    state = random_state(model, (3, 11), torch.float32, generator)
    wide = x.float().requires_grad_()
    narrow = x.clone().requires_grad_()
    output, final = model.neuron(narrow, state, model.defaults(), 0.001, sequence=True)
    expected, expected_final = model.neuron(wide, state, model.defaults(), 0.001, sequence=True)
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    for name, value in fields(final).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, fields(expected_final)[name])
    gradient = torch.randn(x.shape, generator=generator).to(dtype)
    output.backward(gradient)
    expected.backward(gradient.float())
    assert narrow.grad.dtype == dtype
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


def test_every_half_is_read_right():
    """LI with dt = 0 and a state of 0 keeps i' = x, so the final current shows what was read."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    zeros = torch.zeros(bits.numel())
    for dtype in HALVES:
        x = bits.view(dtype)
        _, state = nf.li_feed_forward_step(x, nf.LIState(zeros, zeros), dt=0.0)
        finite = x.isfinite()
        assert torch.equal(state.i[finite], x.float()[finite])


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_to_half(dtype: torch.dtype, generator):
    """LI with dt = 0 outputs its voltage, which shows how float32 is rounded on the way out."""
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32)
    edges = torch.tensor(
        [65519.996, 65520.0, 65504.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3e-8, 6.1e-5, -0.0, float("inf")]
    )
    halfway = torch.arange(2**10).float() * 2.0**-24 + 2.0**-25
    v = torch.cat([bits.view(torch.float32), edges, halfway, 1.0 + torch.arange(2**12) * 2.0**-12])
    v = v[~v.isnan()]
    x = torch.zeros(v.numel(), dtype=dtype)
    p = nf.LIParameters(tau_mem_inv=torch.tensor(0.0))
    output, _ = nf.li_feed_forward_step(x, nf.LIState(v, torch.zeros_like(v)), p, dt=0.0)
    finite = v.isfinite()
    assert torch.equal(output[finite], v[finite].to(dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_integers_are_promoted(dtype: torch.dtype):
    x = torch.ones(5, 2, 3).to(dtype)
    z, _ = nf.LIF()(x)
    assert z.dtype == torch.float32
    assert torch.equal(z, nf.LIF()(x.float())[0])
    assert torch.equal(nf.LIFCell()(x[0])[1].i, nf.LIFCell()(x[0].float())[1].i)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every_other_step": lambda x: torch.stack([x, -x], 1).flatten(0, 1)[::2],
    "every_other_neuron": lambda x: torch.stack([x, -x], -1).flatten(-2)[..., ::2],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "flipped": lambda x: x.flip(0).flip(0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_layouts(model: Model, layout: str, generator):
    x = 3 * torch.rand(40, 3, 8, generator=generator)
    strange = LAYOUTS[layout](x).detach()
    assert torch.equal(x, strange)
    gradient = torch.randn(x.shape, generator=generator)
    state = random_state(model, (3, 8), torch.float32, generator)
    results = []
    for value, g in ((x, gradient), (strange, LAYOUTS[layout](gradient))):
        value.requires_grad_()
        output, _ = model.neuron(value, state, model.defaults(), 0.001, sequence=True)
        output.backward(g)
        results.append((output, value.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", [(1, 3, 8), (40, 1, 1), (40, 3, 1), (1, 1, 1)])
def test_expanded_input_and_gradient(shape: tuple[int, ...], generator):
    narrow = 3 * torch.rand(shape, generator=generator)
    x = narrow.expand(40, 3, 8).requires_grad_()
    dense = x.detach().clone().requires_grad_()
    gradient = torch.randn(shape, generator=generator).expand(40, 3, 8)
    z, _ = nf.LIF()(x)
    expected, _ = nf.LIF()(dense)
    assert torch.equal(z, expected)
    grad = torch.autograd.grad(z, x, gradient)[0]
    assert torch.equal(grad, torch.autograd.grad(expected, dense, gradient.clone())[0])


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0), (5, 0)])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_empty(model: Model, shape: tuple[int, ...]):
    x = torch.ones(shape, requires_grad=True)
    values = {name: torch.full(shape[1:], 0.5, requires_grad=True) for name in model.neuron.state}
    params = random_params(model, (), torch.float32, torch.Generator())
    next(iter(fields(params).values())).requires_grad_()
    output, state = model.neuron(x, model.pack(model.state, values), params, 0.001, sequence=True)
    assert output.shape == shape
    total = output.sum() + sum(value.sum() for value in fields(state).values())
    total.backward()
    assert x.grad.shape == shape
    if shape[0] == 0:
        for name, value in fields(state).items():
            assert torch.equal(value, values[name])
            assert torch.equal(values[name].grad, torch.ones(shape[1:]))


def test_scalar_input():
    z, _ = nf.LIFCell()(torch.tensor(20.0))
    assert z.shape == ()
    assert z.item() == 1.0


def test_double_state_makes_double():
    zeros = torch.zeros(2, dtype=torch.float64)
    z, state = nf.lif_feed_forward_step(torch.ones(2), nf.LIFFeedForwardState(zeros, zeros), nf.LIFParameters())
    assert z.dtype == torch.float64
    assert state.v.dtype == torch.float64


def test_fallback_keeps_half():
    with kernels_disabled():
        z, state = nf.LIF()(torch.ones(3, 2, dtype=torch.bfloat16))
    assert z.dtype == torch.bfloat16
    assert state.v.dtype == torch.float32


#: Layers over time, with how many inputs if they have weights.
LAYERS = [
    *(
        nf.LIF,
        nf.LI,
        nf.LIBox,
        nf.LIFBox,
        nf.IAF,
        nf.QIF,
        nf.LIFEx,
        nf.LIFAdEx,
        nf.LIFRefrac,
        nf.LIFAdExRefrac,
        nf.LSNN,
    ),
    *(nf.CobaLIF, lambda: nf.Izhikevich(nf.tonic_spiking)),
    *(lambda kind=kind: kind(3, 3) for kind in (nf.LIFRecurrent, nf.LIFExRecurrent, nf.LIFAdExRecurrent)),
    *(lambda kind=kind: kind(3, 3) for kind in (nf.LIFRefracRecurrent, nf.LIFAdExRefracRecurrent, nf.LSNNRecurrent)),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", LAYERS)
def test_no_state_starts_rounded(make, dtype: torch.dtype):
    """A parameter that half precision rounds, as the threshold of the LSNN, is not rounded by the initial state."""
    torch.manual_seed(0)
    layer, x = make(), torch.rand(4, 2, 3).to(dtype)
    starts = zip(*(pytree.tree_leaves(layer.initial_state(y)) for y in (x, x.float())))
    assert all(t.dtype is torch.float32 or not t.any() for t, _ in starts)
    assert all(torch.equal(t.float(), single) for t, single in starts)


def test_a_threshold_that_half_precision_rounds():
    p = nf.LSNNParameters(v_th=torch.tensor(1.003))
    x = torch.full((400, 1, 1), 0.2002, dtype=torch.bfloat16)  # the potential ends below it, and above 1
    assert nf.LSNN(p)(x.float())[0].sum() == 0
    assert nf.LSNN(p)(x)[0].sum() == 0
    with kernels_disabled():
        assert nf.LSNN(p)(x)[0].sum() == 0


@pytest.mark.parametrize("learn", [(), ("v_leak",)], ids=str)
@pytest.mark.parametrize("layer", [nf.LIF, nf.LSNN, nf.LIFRefrac, nf.LIFAdEx], ids=lambda layer: layer.__name__)
def test_float64_parameters_of_each_neuron_mean_the_same_with_and_without_gradients(layer, learn: tuple[str, ...]):
    v = torch.full((1,), 0.1, dtype=torch.float64)  # at rest, exactly at threshold
    p = nf.LIFParameters(v_leak=v, v_th=v)
    if layer is nf.LIFRefrac:
        p = nf.LIFRefracParameters(lif=p)
    elif layer is not nf.LIF:
        p = {nf.LSNN: nf.LSNNParameters, nf.LIFAdEx: nf.LIFAdExParameters}[layer](v_leak=v, v_th=v)
    module, x = layer(p, learn=learn), torch.zeros(3, 1, 1)
    expected = module(x)[0]
    assert torch.equal(module(x.clone().requires_grad_())[0], expected)
    with torch.no_grad():
        assert torch.equal(module(x)[0], expected)
