"""Products of spikes with weights: those of PyTorch, exactly where sums are exact, with every derivative."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import avg_pool2d, conv2d, linear, max_pool2d

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional import spike_products
from norse_fast.functional.spike_products import MOST_SPIKES

from .opcheck import opcheck

pytestmark = pytest.mark.usefixtures("products_of_any_size")
OPS = torch.ops.norse_fast
DTYPES = [torch.float32, torch.float64]
#: Rows, inputs, outputs: around the 64 bits of a word, the columns of a panel, and the rows of a block.
SHAPES = [
    (1, 1, 1),
    (5, 70, 3),
    (23, 64, 64),
    (24, 65, 64),
    (64, 128, 65),
    (300, 1000, 130),
    (1100, 33, 70),
    (70, 33000, 5),
]


def spikes(*shape: int, density: float = 0.1, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density).to(dtype)


def exact(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    """Multiples of 1/4096, whose sums have no rounding."""
    return torch.randint(-4096, 4097, shape, generator=torch.Generator().manual_seed(seed)).to(dtype) / 4096


def summed(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> bool:
    """Whether a call takes sums."""
    with torch.profiler.profile() as profile:
        nf.spike_linear(x, w, b)
    return any(event.name == "norse_fast::spike_linear" for event in profile.events())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_those_of_pytorch_where_sums_are_exact(shape, density: float, dtype: torch.dtype):
    rows, inputs, outputs = shape
    results = []
    for function in (nf.spike_linear, linear):
        x = spikes(rows, inputs, density=density, dtype=dtype).requires_grad_()
        w, b = (exact(*s, dtype=dtype).requires_grad_() for s in ((outputs, inputs), (outputs,)))
        y = function(x, w, b)
        results.append((y.detach(), *torch.autograd.grad(y, (x, w, b), exact(rows, outputs, dtype=dtype, seed=2))))
    if rows * inputs > 100:
        assert summed(x, w, b)
    for actual, expected in zip(*results):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_close_to_those_of_pytorch(dtype: torch.dtype, generator):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    x = spikes(10, 32, 500, dtype=dtype).requires_grad_()
    w, b = (torch.randn(*s, generator=generator, dtype=dtype).requires_grad_() for s in ((150, 500), (150,)))
    g = torch.randn(10, 32, 150, generator=generator, dtype=dtype)
    for bias in (b, None):
        leaves = (x, w) if bias is None else (x, w, b)
        actual, expected = nf.spike_linear(x, w, bias), linear(x, w, bias)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        grads = torch.autograd.grad(actual, leaves, g)
        for a, e in zip(grads, torch.autograd.grad(expected, leaves, g)):
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * e.abs().max().item())


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2])
def test_one_order_of_summation(density: float, generator):
    """The same bits for one and two threads, and for a sequence in pieces of any length."""
    x, w = spikes(600, 700, density=density), torch.randn(90, 700, generator=generator, requires_grad=True)
    g = torch.randn(600, 90, generator=generator)
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        y = nf.spike_linear(x, w)
        results.append((y.detach(), *torch.autograd.grad(y, w, g)))
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    for lengths in ([1] * 600, [23, 577], [24, 76, 500]):
        pieces = [nf.spike_linear(piece, w) for piece in x.split(lengths)]
        assert torch.equal(torch.cat(pieces), results[0][0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
def test_spikes_as_bytes(dtype: torch.dtype):
    x, w = spikes(40, 70), exact(9, 70).requires_grad_()
    y = nf.spike_linear(x.to(dtype), w)
    assert torch.equal(y, linear(x, w))
    assert summed(x.to(dtype), w)
    dense = torch.ones(40, 70, dtype=dtype)
    assert torch.equal(nf.spike_linear(dense, w), linear(dense.float(), w))


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_layouts(layout: str):
    x, w = spikes(40, 64), exact(9, 20)
    views = {"transposed": spikes(20, 40).t(), "expanded": x[:1, :20].expand(40, 20), "sliced": x[::2, 3:63:3]}
    assert torch.equal(nf.spike_linear(views[layout], w), linear(views[layout], w))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (4, 0), (70,), (2, 3, 4, 70)], ids=str)
def test_leading_dimensions(shape: tuple[int, ...]):
    x, w, b = spikes(*shape).requires_grad_(), exact(6, shape[-1]).requires_grad_(), exact(6).requires_grad_()
    y = nf.spike_linear(x, w, b)
    expected = linear(x, w, b)
    assert torch.equal(y, expected)
    for a, e in zip(torch.autograd.grad(y.sum(), (x, w, b)), torch.autograd.grad(expected.sum(), (x, w, b))):
        assert torch.equal(a, e)


@pytest.mark.parametrize("what", ["half", "nan", "negative", "dense", "ones"])
def test_other_inputs_are_those_of_pytorch(what: str, generator):
    x, w = spikes(40, 70), torch.randn(9, 70, generator=generator)
    if what in ("dense", "ones"):
        x = spikes(40, 70, density=MOST_SPIKES + 0.1) if what == "dense" else torch.ones(40, 70)
    else:
        x[3, 5] = {"half": 0.5, "nan": torch.nan, "negative": -1.0}[what]
    assert not summed(x, w)
    torch.testing.assert_close(nf.spike_linear(x, w), linear(x, w), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("outputs", "trained", "limit"), [(31, False, 0.03), (31, True, 0.15), (32, False, MOST_SPIKES)]
)
def test_few_outputs_are_summed_where_it_pays(monkeypatch, outputs: int, trained: bool, limit: float):
    monkeypatch.setattr(spike_products, "MANY_OUTPUTS", 32)
    w = torch.randn(outputs, 70, requires_grad=trained)
    assert summed(spikes(400, 70, density=limit - 0.01), w)
    assert not summed(spikes(400, 70, density=limit + 0.02), w)


def test_weights_of_silent_inputs_do_not_count():
    """Not even if they are infinite or NaN, where a matrix product multiplies them by zero."""
    x, w = torch.zeros(30, 70), torch.ones(9, 70)
    x[:, 3] = 1
    w[:, 5], w[:, 6] = torch.nan, torch.inf
    assert torch.equal(nf.spike_linear(x, w), torch.ones(30, 9))


@pytest.mark.parametrize("has_gradient", [False, True])
def test_weights_that_change_before_backward(has_gradient: bool):
    """As in PyTorch, which needs them for the gradient of the input alone."""
    x, w, _ = (t.detach() for t in case())
    x.requires_grad_(has_gradient)
    w.requires_grad_()
    for function in (nf.spike_linear, linear):
        y = function(x, w)
        with torch.no_grad():
            w.mul_(2)
        if has_gradient:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            (gradient,) = torch.autograd.grad(y.sum(), w)
            assert torch.equal(gradient, x.sum(0).expand_as(w))


def test_kept_memory(generator):
    """Backward keeps a bit for each element, and the weights."""
    x, w = spikes(640, 640).requires_grad_(), torch.randn(10, 640, generator=generator, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.untyped_storage().nbytes()) or t, lambda t: t
    ):
        nf.spike_linear(x, w)
    assert sum(kept) <= x.numel() // 8 + w.numel() * 4 + 64


@pytest.mark.parametrize("switch", [nf.dense_products, kernels_disabled])
def test_switches(switch, generator):
    x, w = spikes(40, 70), torch.randn(9, 70, generator=generator)
    with switch():
        assert not summed(x, w)
        assert torch.equal(nf.spike_linear(x, w), linear(x, w))
    assert summed(x, w)


#: Images, channels, size; outputs, kernel, stride, padding, dilation.
CONVOLUTIONS = [
    (3, 2, (7, 9), 5, (3, 3), (1, 1), (0, 0), (1, 1)),
    (5, 3, (12, 12), 70, (5, 5), (1, 1), (2, 2), (1, 1)),
    (40, 4, (12, 13), 33, (5, 5), (1, 1), (0, 0), (1, 1)),
    (9, 4, (17, 70), 6, (3, 5), (2, 3), (1, 2), (2, 1)),
    (300, 1, (4, 4), 2, (2, 2), (2, 2), (0, 0), (1, 1)),
    (4, 1, (1, 1), 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 1, (30, 30), 3, (3, 3), (1, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("sizes", CONVOLUTIONS, ids=str)
def test_convolutions_equal_those_of_pytorch(sizes, density: float, dtype: torch.dtype):
    images, channels, size, outputs, kernel, *how = sizes
    results = []
    for function in (nf.spike_conv2d, conv2d):
        x = spikes(images, channels, *size, density=density, dtype=dtype).requires_grad_()
        w = exact(outputs, channels, *kernel, dtype=dtype).requires_grad_()
        b = exact(outputs, dtype=dtype).requires_grad_()
        y = function(x, w, b, *how)
        # So coarse that the gradient of the input has no rounding either.
        g = exact(*y.shape, dtype=dtype, seed=2).mul(4).round() / 4
        results.append((y.detach(), *torch.autograd.grad(y, (x, w, b), g)))
    for actual, expected in zip(*results):
        assert torch.equal(actual, expected)


def test_convolutions_have_one_order_of_summation(generator):
    x, w = spikes(70, 3, 12, 12), torch.randn(20, 3, 5, 5, generator=generator, requires_grad=True)
    g = torch.randn(70, 20, 8, 8, generator=generator)
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        y = nf.spike_conv2d(x, w)
        results.append((y.detach(), *torch.autograd.grad(y, w, g)))
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert torch.equal(torch.cat([nf.spike_conv2d(piece, w) for piece in x.split([1, 9, 60])]), results[0][0])
    torch.testing.assert_close(results[0][0], conv2d(x, w).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [{"groups": 3}, {"padding": "same"}, {"padding": "valid"}, {"stride": (1, 2)}], ids=str)
def test_other_convolutions(how):
    x, w = spikes(4, 3, 8, 8), exact(6, 3 // how.get("groups", 1), 3, 3)
    assert torch.equal(nf.spike_conv2d(x, w, **how), conv2d(x, w, **how))
    assert torch.equal(nf.spike_conv2d(x[0], w, **how), conv2d(x[0], w, **how))


#: Window, stride, padding, dilation.
WINDOWS = [(2, 2, 0, 1), (3, 2, 1, 1), ((2, 3), (1, 2), (1, 0), 1), (2, 1, 1, 2), (1, 1, 0, 1)]


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 70)], ids=str)
@pytest.mark.parametrize("how", WINDOWS, ids=str)
def test_pools_equal_those_of_pytorch(how, size, density: float):
    """With the gradient of windows without a spike, which goes to their first element."""
    results = []
    for function in (nf.spike_max_pool2d, max_pool2d):
        x = spikes(5, 3, *size, density=density).requires_grad_()
        y = function(x, *how)
        results.append((y.detach(), *torch.autograd.grad(y, x, exact(*y.shape, seed=2))))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("size", [(1, 9), (9, 2)], ids=str)
def test_windows_that_lie_in_the_padding_are_left_to_pytorch(size):
    """Where steps within a window are larger than the image: PyTorch has no largest element, and no sound gradient."""
    x = spikes(5, 3, *size)
    how = (2, 1, 1, tuple(1 if n == 9 else n + 1 for n in size))
    y = nf.spike_max_pool2d(x, *how)
    assert torch.equal(y, max_pool2d(x, *how))
    assert y.isinf().any()


@pytest.mark.parametrize("layer", [torch.nn.MaxPool2d, nf.SpikeMaxPool2d, torch.nn.AvgPool2d, nf.SpikeAvgPool2d])
@pytest.mark.parametrize("size", [[2, 2], np.int64(2), (np.int64(2), 2)], ids=repr)
def test_sizes_as_lists_and_of_numpy(layer, size):
    """As PyTorch takes them, by themselves and in Lift."""
    x = spikes(4, 5, 2, 8, 8)
    expected = torch.stack([layer(2)(step) for step in x])
    for pool in (layer(size), layer(2, stride=size)):
        assert torch.equal(nf.Lift(pool)(x), expected)
        assert torch.equal(torch.stack([pool(step) for step in x]), expected)


#: Window, stride, padding, whether to round up, whether to count what pads, divisor.
AVERAGES = [
    (2,),
    (3, 2, 1),
    ((2, 3), (1, 2), (1, 0), True),
    (3, 2, 1, True, False),
    (2, None, 0, False, True, 3),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", AVERAGES, ids=str)
def test_averages_equal_those_of_pytorch(how, dtype: torch.dtype, generator):
    for images in (torch.randn(5, 3, 9, 7, generator=generator).to(dtype), spikes(5, 3, 9, 7, dtype=dtype)):
        results = []
        for function in (nf.spike_avg_pool2d, avg_pool2d, nf.SpikeAvgPool2d(*how), torch.nn.AvgPool2d(*how)):
            x = images.clone().requires_grad_()
            y = function(x) if isinstance(function, torch.nn.Module) else function(x, *how)
            results.append((y.detach(), *torch.autograd.grad(y, x, exact(*y.shape, dtype=dtype, seed=2))))
        for others in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.9])
def test_maxima_of_bytes(dtype: torch.dtype, density: float):
    x = (torch.rand(5, 2, 3, 9, 8, generator=torch.Generator().manual_seed(0)) < density).to(dtype)
    pooled = nf.spike_max_pool2d(x, 3, 2, 1)
    assert pooled.dtype is dtype
    expected = torch.nn.functional.max_pool2d(x.flatten(0, 1).float(), 3, 2, 1).unflatten(0, (5, 2))
    assert torch.equal(pooled, expected.to(dtype))
    assert torch.equal(nf.SpikeMaxPool2d(3, 2, 1)(x), pooled)
    with torch.profiler.profile() as profile:
        nf.spike_max_pool2d(x, 3, 2, 1)
    assert any(event.name == "norse_fast::spike_max_pool2d" for event in profile.events())


@pytest.mark.parametrize("leading", [(), (4,), (3, 4), (2, 3, 4), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64], ids=str)
def test_averages_of_bytes_and_leading_dimensions(dtype: torch.dtype, leading: tuple[int, ...]):
    x = spikes(*leading, 2, 6, 6, density=0.4)
    expected = avg_pool2d(x.reshape(-1, 2, 6, 6), 2).reshape(*leading, 2, 3, 3)
    for call in (lambda x: nf.spike_avg_pool2d(x, 2), nf.SpikeAvgPool2d(2)):
        y = call(x.to(dtype))
        assert y.dtype == (dtype if dtype.is_floating_point else torch.float32)
        assert torch.equal(y.float(), expected)
        with nf.dense_products():
            assert torch.equal(call(x.to(dtype)), y)


def test_averages_of_bytes_have_the_default_dtype():
    x = spikes(2, 1, 4, 4).bool()
    torch.set_default_dtype(torch.float64)
    try:
        assert nf.spike_avg_pool2d(x, 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_averages_compiled():
    x = spikes(3, 2, 2, 6, 6).requires_grad_()
    compiled = torch.compile(nf.SpikeAvgPool2d(2), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), nf.spike_avg_pool2d(x, 2))
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 0.25))
    assert torch.equal(compiled(x.detach().bool()), nf.spike_avg_pool2d(x, 2))


def test_average_pools_are_those_of_pytorch_to_whoever_asks():
    ours, theirs = nf.SpikeAvgPool2d(3, 2, padding=1, count_include_pad=False), torch.nn.AvgPool2d(3, 2, 1)
    assert isinstance(ours, torch.nn.AvgPool2d)
    assert ours.state_dict() == theirs.state_dict() == {}
    with pytest.raises(RuntimeError):
        ours(torch.zeros(2, 1, 0, 0))
    assert type(nf.accelerate(torch.nn.Sequential(theirs), report=None, products=True)[0]) is torch.nn.AvgPool2d


def test_convolutions_and_pools_of_other_inputs(generator):
    x, w = torch.randn(4, 3, 8, 8, generator=generator), torch.randn(6, 3, 3, 3, generator=generator)
    assert torch.equal(nf.spike_conv2d(x, w), conv2d(x, w))
    assert torch.equal(nf.spike_max_pool2d(x, 2), max_pool2d(x, 2))
    assert torch.equal(nf.spike_max_pool2d(x.half(), 2), max_pool2d(x.half(), 2))


@pytest.mark.parametrize("kind", ["conv", "pool"])
def test_derivatives_of_derivatives_of_images(kind: str):
    results = []
    for ours in (True, False):
        x = spikes(4, 3, 8, 8, dtype=torch.float64).requires_grad_()
        w = exact(6, 3, 3, 3, dtype=torch.float64).requires_grad_()
        if kind == "conv":
            leaves, y = (x, w), (nf.spike_conv2d if ours else conv2d)(x, w)
        else:
            leaves, y = (x,), (nf.spike_max_pool2d if ours else max_pool2d)(x * 1.0, 2)
        grads = torch.autograd.grad(y, leaves, y.detach() + 0.5 * y, create_graph=True)
        results.append([g.detach() for g in grads])
        results[-1] += torch.autograd.grad(sum(g.pow(2).sum() for g in grads), leaves)
    for a, e in zip(*results):
        torch.testing.assert_close(a, e)


def test_modules_of_images():
    """In a network over time, made fast in place, with leading dimensions of time and batch."""
    torch.manual_seed(0)
    model = nf.SequentialState(
        torch.nn.Conv2d(1, 4, 3), nf.LIFCell(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 5)
    )
    x = spikes(10, 2, 1, 8, 8)
    lifted = nf.Lift(model)
    expected = lifted(x)[0]
    nf.accelerate(model, report=None, products=True)
    assert [type(m).__name__ for m in model.children()][::2] == ["SpikeConv2d", "SpikeMaxPool2d", "SpikeLinear"]
    torch.testing.assert_close(nf.Lift(model)(x)[0], expected)
    assert "step by step" not in str(nf.Lift(model).explain())
    conv = nf.SpikeConv2d(1, 4, 3)
    assert torch.equal(conv(x), conv(x.flatten(0, 1)).unflatten(0, (10, 2)))
    for mode in ("reflect", "circular"):
        padded = nf.SpikeConv2d(1, 4, 3, padding=1, padding_mode=mode)
        assert torch.equal(padded(x)[3], torch.nn.Conv2d.forward(padded, x[3]))
    indices = nf.SpikeMaxPool2d(2, return_indices=True)(x[0])[1]
    assert torch.equal(indices, max_pool2d(x[0], 2, return_indices=True)[1])
    assert torch.equal(nf.SpikeMaxPool2d(3, ceil_mode=True)(x[0]), max_pool2d(x[0], 3, ceil_mode=True))


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shapes = ((9, 70), (9,))
    return spikes(40, 70, dtype=torch.float64).requires_grad_(), *(
        exact(*s, dtype=torch.float64).requires_grad_() for s in shapes
    )


def test_derivatives_of_derivatives():
    results = []
    for function in (nf.spike_linear, linear):
        leaves = case()
        grads = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), leaves))
    for a, e in zip(*results):
        torch.testing.assert_close(a, e)


def test_batched_gradients():
    results = []
    for function in (nf.spike_linear, linear):
        leaves = case()
        batch = exact(3, 40, 9, dtype=torch.float64, seed=5)
        results.append(torch.autograd.grad(function(*leaves), leaves, batch, is_grads_batched=True))
    for a, e in zip(*results):
        torch.testing.assert_close(a, e)


TRANSFORMS = {
    "grad": lambda f, leaves, _: torch.func.grad(lambda *a: f(*a).pow(2).sum(), argnums=(0, 1, 2))(*leaves),
    "jvp": lambda f, leaves, tangents: torch.func.jvp(f, leaves, tangents),
    "vmap": lambda f, leaves, _: torch.func.vmap(f, in_dims=(0, None, None))(*leaves),
}


# PyTorch compiles its own formulas as they are first asked for.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str):
    x, w, b = leaves = tuple(t.detach() for t in case())
    tangents = tuple(exact(*t.shape, dtype=t.dtype, seed=7) for t in leaves)
    for a, e in zip(*(TRANSFORMS[name](function, leaves, tangents) for function in (nf.spike_linear, linear))):
        torch.testing.assert_close(a, e)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangents[0])
        y = forward_ad.unpack_dual(nf.spike_linear(dual, w, b))
    torch.testing.assert_close(y.tangent, linear(tangents[0], w))


def test_compiled():
    x, w, b = case()
    y = torch.compile(nf.spike_linear, backend="aot_eager", fullgraph=True)(x, w, b)
    torch.testing.assert_close(y, linear(x, w, b))
    assert torch.autograd.grad(y.sum(), w)[0].any()


def test_autocast_is_left_to_pytorch():
    x, w = spikes(40, 70), exact(9, 70)
    with torch.autocast("cpu", torch.bfloat16):
        assert nf.spike_linear(x, w).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("x", "w", "b"),
    [
        (spikes(4, 5), exact(3, 6), None),
        (spikes(4, 5), exact(3, 5), exact(4)),
        (spikes(4, 5), exact(3, 5, dtype=torch.float64), None),
    ],
)
def test_errors_are_those_of_pytorch(x, w, b):
    with pytest.raises(RuntimeError):
        nf.spike_linear(x, w, b)


@pytest.mark.parametrize(
    "layer", [nf.SpikeLinear(2, 2), nf.SpikeConv2d(2, 2, 2), nf.SpikeMaxPool2d(2), nf.SpikeAvgPool2d(2)], ids=repr
)
def test_what_a_neuron_returns_is_no_input(layer):
    with pytest.raises(TypeError, match="x: got tuple, expected a tensor; pass its first element"):
        layer(nf.LIFCell()(torch.ones(1, 2)))
    with pytest.raises(TypeError, match="x: got list, expected a tensor; convert it"):
        layer([1.0, 2.0])


@pytest.mark.parametrize("function", [nf.spike_linear, nf.spike_conv2d])
def test_weights_are_tensors(function):
    with pytest.raises(TypeError, match="weight: got list"):
        function(torch.ones(1, 2), [[1.0, 2.0]])


def test_module():
    torch.manual_seed(0)
    ours = nf.SpikeLinear(70, 9)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(70, 9)
    assert isinstance(ours, torch.nn.Linear)
    ours.load_state_dict(theirs.state_dict())
    x = spikes(20, 4, 70)
    torch.testing.assert_close(ours(x), theirs(x))
    assert summed(x, ours.weight, ours.bias)
    ours(x).sum().backward()
    theirs(x).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_lift_runs_it_over_time():
    model = nf.SequentialState(nf.SpikeLinear(70, 9), nf.LIFCell())
    x = spikes(20, 4, 70)
    expected = nf.SequentialState(model[0], nf.LIF())(x)[0]
    lifted = nf.Lift(model)
    assert torch.equal(lifted(x)[0], expected)
    assert "step by step" not in str(lifted.explain())


def test_operators():
    x = spikes(70, 130)
    bits, count = OPS.spike_bits(x, 1.0)
    assert count == x.sum()
    w, b, g = exact(9, 130), exact(9), exact(70, 9)
    for name, arguments in {
        "spike_bits": (x, 1.0),
        "spike_linear": (bits, 130, w, b, 0.1),
        "spike_outer": (bits, 130, g, 0.1),
        "spike_values": (bits, 130, w),
    }.items():
        opcheck(getattr(OPS, name).default, arguments, traced=False)
    images, _ = OPS.spike_bits(spikes(3, 2 * 8 * 8), 1.0)
    how = ([1, 1], [0, 0], [1, 1])
    for name, arguments in {
        "spike_conv2d": (images, [8, 8], exact(5, 2, 3, 3), exact(5), *how),
        "spike_conv2d_outer": (images, 2, [8, 8], exact(3, 5, 6, 6), [3, 3], *how),
        "conv2d_input": ([8, 8], exact(5, 2, 3, 3), exact(3, 5, 6, 6), *how),
        "spike_max_pool2d": (images, 2, [8, 8], w, [2, 2], [2, 2], [0, 0], [1, 1]),
        "spike_max_pool2d_backward": (images, 2, [8, 8], exact(3, 2, 4, 4), [2, 2], [2, 2], [0, 0], [1, 1]),
    }.items():
        opcheck(getattr(OPS, name).default, arguments, traced=False)
    assert torch.equal(OPS.spike_values(bits, 130, w), x)
    assert OPS.spike_bits(x + 0.5, 1.0)[1] == -1
    assert OPS.spike_bits(x, 0.05)[1] == -2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: OPS.spike_conv2d(b, [13, 10], exact(5, 1, 3, 3), None, [1], [0, 0], [1, 1]), "two numbers each"),
        (lambda b: OPS.spike_conv2d(b, [13, 10], exact(5, 1, 3, 3), None, [0, 1], [0, 0], [1, 1]), "do not fit"),
        (lambda b: OPS.spike_conv2d(b, [13, 10], exact(5, 1, 14, 3), None, [1, 1], [0, 0], [1, 1]), "do not fit"),
        (lambda b: OPS.spike_conv2d(b, [13, 15], exact(5, 1, 3, 3), None, [1, 1], [0, 0], [1, 1]), "rows of 195"),
        (
            lambda b: OPS.spike_conv2d_outer(b, 1, [13, 10], exact(70, 5, 6, 6), [3, 3], [1, 1], [0, 0], [1, 1]),
            "grads are not of 70 images of 11 times 8",
        ),
        (
            lambda b: OPS.spike_max_pool2d(b, 1, [13, 10], exact(1), [2, 2], [2, 2], [2, 0], [1, 1]),
            "padding is more than half a window",
        ),
        (
            lambda b: OPS.spike_max_pool2d_backward(
                b, 1, [1, 130], exact(70, 1, 1, 131), [2, 2], [1, 1], [1, 1], [2, 1]
            ),
            "dilation is more than the image",
        ),
        (
            lambda b: OPS.spike_max_pool2d_backward(b, 1, [13, 10], exact(70, 1, 6, 6), [2, 2], [2, 2], [0, 0], [1, 1]),
            "grads have another shape",
        ),
        (lambda b: OPS.spike_bits(torch.ones(3), 1.0), "spike_bits: x is not a matrix"),
        (lambda b: OPS.spike_bits(torch.ones(3, 3, dtype=torch.int64), 1.0), "spike_bits: x is not a matrix"),
        (lambda b: OPS.spike_linear(b, 200, exact(9, 200), None, 0.1), "bits are not those of rows of 200"),
        (lambda b: OPS.spike_linear(b, -1, exact(9, 130), None, 0.1), "bits are not those of rows of -1"),
        (lambda b: OPS.spike_linear(b, 130, exact(9, 131), None, 0.1), "weight has not 130 columns"),
        (lambda b: OPS.spike_linear(b, 130, exact(9, 130), exact(8), 0.1), "bias does not fit the weight"),
        (lambda b: OPS.spike_linear(b, 130, exact(9, 130).half(), None, 0.1), "weight is not one of float32"),
        (lambda b: OPS.spike_linear(b.t(), 130, exact(9, 130), None, 0.1), "bits are not"),
        (lambda b: OPS.spike_outer(b, 130, exact(71, 9), 0.1), "grads have not 70 rows"),
        (lambda b: OPS.spike_outer(b, 129, exact(70, 9), 0.1), "bits have spikes beyond column 129"),
        (
            lambda b: OPS.conv2d_input([8, 8], exact(5, 2, 3, 3), exact(3, 4, 6, 6), [1, 1], [0, 0], [1, 1]),
            "grads have another shape",
        ),
        (lambda b: OPS.spike_values(b, 130, torch.ones(1, dtype=torch.int64)), "like is not one of float32"),
    ],
)
def test_operators_check_what_they_take(call, message: str):
    bits, _ = OPS.spike_bits(spikes(70, 130), 1.0)
    with pytest.raises(RuntimeError, match=message):
        call(bits)


def test_accelerate_and_revert():
    model = torch.nn.Sequential(torch.nn.Linear(70, 9), torch.nn.ReLU())
    x, before = spikes(30, 70), model[0]
    expected, keys = model(x), list(model.state_dict())
    assert nf.accelerate(model, report=None) is model
    assert type(model[0]) is torch.nn.Linear
    reports: list[nf.AccelerationReport] = []
    nf.accelerate(model, report=reports.append, products=True)
    assert model[0] is before
    assert type(before) is nf.SpikeLinear
    assert reports[0].swapped == {"0": "SpikeLinear"}
    assert "round differently" in str(reports[0])
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected)
    assert type(nf.revert(model)[0]) is torch.nn.Linear
    assert torch.equal(model(x), expected)


def test_page(monkeypatch):
    monkeypatch.undo()
    page = Path(__file__).parents[1] / "docs" / "products.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 9)


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["mkldnn", "CSR", "nested"])
def test_layouts_of_pytorch_alone(kind: str):
    """Linear layers of PyTorch take them, of the input or of the weights."""
    x, w = spikes(40, 30), exact(20, 30)
    if kind == "nested":
        parts = torch.nested.nested_tensor([x[:10], x[10:]])
        actual, expected = (f(parts, w).to_padded_tensor(0.0) for f in (nf.spike_linear, linear))
    else:
        other = x.to_mkldnn() if kind == "mkldnn" else x.to_sparse_csr()
        actual, expected = (f(other, w).to_dense() for f in (nf.spike_linear, linear))
    assert torch.equal(actual, expected)
    if kind == "CSR":
        assert torch.equal(nf.spike_linear(x, w.to_sparse_csr()), linear(x, w.to_sparse_csr()))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_bytes_where_pytorch_pads(mode: str, dtype: torch.dtype):
    layer, x = nf.SpikeConv2d(2, 4, 3, padding=1, padding_mode=mode), spikes(5, 3, 2, 8, 8)
    assert torch.equal(layer(x.to(dtype)), layer(x))


@pytest.mark.parametrize("shape", [(2, 9, 9), (4, 2, 9, 9), (5, 4, 2, 9, 9), (2, 3, 4, 2, 9, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_pools_of_pytorch_take_what_others_take(shape: tuple[int, ...], dtype: torch.dtype):
    x = spikes(*shape)
    images = x.flatten(0, -4) if x.dim() > 4 else x
    expected, places = max_pool2d(images, 2, ceil_mode=True, return_indices=True)
    expected, places = (t.view(*shape[:-2], *t.shape[-2:]) for t in (expected, places))
    pooled = nf.SpikeMaxPool2d(2, ceil_mode=True)(x.to(dtype))
    assert pooled.dtype is dtype
    assert torch.equal(pooled.float(), expected)
    pooled, found = nf.SpikeMaxPool2d(2, ceil_mode=True, return_indices=True)(x.to(dtype))
    assert torch.equal(pooled.float(), expected)
    assert torch.equal(found, places)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [12, 200])
def test_maxima_with_channels_last(dtype: torch.dtype, size: int):
    x = spikes(1, size, size, 3).permute(0, 3, 1, 2)
    for how in ({}, {"stride": 1}, {"ceil_mode": True}, {"return_indices": True}):
        expected = max_pool2d(x.contiguous(), 3, **how)
        found = nf.SpikeMaxPool2d(3, **how)(x.to(dtype))
        if "return_indices" in how:
            (found, indices), (expected, places) = found, expected
            assert torch.equal(indices, places)
        assert found.dtype is dtype
        assert torch.equal(found.float(), expected)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_traced_by_make_fx(mode: str):
    """Where the number of spikes is not known."""
    x, images = spikes(64, 512), spikes(8, 16, 32, 32)
    weight, kernels = exact(512, 512), exact(16, 16, 3, 3)

    def run(x: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
        return [nf.spike_linear(x, weight), nf.spike_max_pool2d(images, 2), nf.spike_conv2d(images, kernels)]

    traced = make_fx(run, tracing_mode=mode, _allow_non_fake_inputs=True)(x, images)
    for found, expected in zip(traced(x, images), run(x, images), strict=True):
        assert torch.equal(found, expected)


def test_sparse_gradients():
    x, weight = spikes(64, 512).requires_grad_(), exact(512, 512).requires_grad_()
    found = []
    for sparse in (True, False):
        gathered = nf.spike_linear(x, weight).gather(1, torch.zeros(64, 1, dtype=torch.int64), sparse_grad=sparse)
        found.append(torch.autograd.grad(gathered.sum(), (x, weight)))
    assert all(torch.equal(a, b) for a, b in zip(*found))
