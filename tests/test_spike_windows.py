"""The operators on images of spikes: windows of any size and step, tiles, and lines of many words, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d
from torch.nn.grad import conv2d_input, conv2d_weight

OPS = torch.ops.norse_fast
#: Images, channels, size; outputs, kernel; stride, padding, dilation.
CONVOLUTIONS = [
    ((3, 1, 28, 28), (20, 5, 5), 1, 0, 1),
    ((40, 20, 12, 12), (50, 5, 5), 1, 0, 1),
    ((5, 32, 16, 16), (64, 3, 3), 1, 1, 1),
    ((2, 3, 9, 200), (7, 3, 70), 1, (0, 33), 1),  # spans of more than a word, lines of several
    ((2, 2, 7, 130), (65, 2, 60), (1, 5), 2, 1),  # steps too wide to read windows together
    ((300, 4, 3, 3), (5, 3, 3), 1, 0, 1),  # an image for each place
    ((9, 2, 20, 20), (33, 3, 3), (3, 2), 1, (2, 3)),
    ((2, 2, 300, 5), (4, 5, 1), 2, (3, 0), 2),
    ((1, 1, 1, 1), (1, 1, 1), 1, 0, 1),
    ((2, 200, 6, 6), (130, 1, 1), 1, 0, 1),  # more channels than a block, more outputs than a panel
    ((2, 5, 11, 64), (10, 4, 9), (1, 4), (1, 4), (1, 7)),
    ((600, 1, 9, 9), (64, 3, 3), 1, 1, 1),
]
POOLS = [
    ((3, 20, 24, 24), 2, 2, 0, 1),
    ((3, 5, 8, 8), 2, 2, 0, 1),
    ((2, 3, 5, 7), 2, 2, 0, 1),  # a row and a column are left over
    ((2, 2, 6, 63), 2, 2, 0, 1),
    ((2, 2, 64, 64), 2, 2, 0, 1),
    ((2, 2, 70, 66), 2, 2, 0, 1),
    ((2, 2, 9, 33), 2, 2, 0, 1),
    ((2, 3, 9, 8), 3, 2, 1, 1),
    ((2, 1, 90, 7), (2, 3), (1, 2), (1, 0), (3, 2)),
]
DTYPES = [torch.float32, torch.float64]


def pair(value: int | tuple[int, int]) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value, value]


def spikes(shape: tuple[int, ...], density: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and their bits."""
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density).to(dtype)
    bits, count = OPS.spike_bits(x.flatten(1), 1.0)
    assert int(count) == int(x.sum())
    return x, bits


def exact(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(1)).to(dtype) / 64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: Any, density: float, dtype: torch.dtype):
    shape, (outputs, *kernel), *how = case
    x, bits = spikes(shape, density, dtype)
    how = [pair(value) for value in how]
    weight, bias = exact(outputs, shape[1], *kernel, dtype=dtype), exact(outputs, dtype=dtype)
    y = OPS.spike_conv2d(bits, shape[2:], weight, bias, *how)
    assert torch.equal(y, conv2d(x, weight, bias, *how))
    gradient = exact(*y.shape, dtype=dtype)
    of_weight, of_bias = OPS.spike_conv2d_outer(bits, shape[1], shape[2:], gradient, kernel, *how)
    assert torch.equal(of_weight, conv2d_weight(x, weight.shape, gradient, *how))
    assert torch.equal(of_bias, gradient.sum((0, 2, 3)))
    assert torch.equal(
        OPS.conv2d_input(shape[2:], weight, gradient, *how), conv2d_input(x.shape, weight, gradient, *how)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_do_not_depend_on_tiles(dtype: torch.dtype):
    x, bits = spikes((300, 3, 20, 20), 0.2, dtype)
    weight = torch.randn(70, 3, 5, 5, dtype=dtype, generator=torch.Generator().manual_seed(2))
    how = ([1, 1], [2, 2], [1, 1])
    whole = OPS.spike_conv2d(bits, [20, 20], weight, None, *how)
    assert whole.nbytes > 1 << 23  # so it is streamed
    for rows in (1, 7, 150):
        parts = [OPS.spike_conv2d(part, [20, 20], weight, None, *how) for part in bits.split(rows)]
        assert torch.equal(torch.cat(parts), whole)
    # The same with other images beside them, which may be many more spikes.
    dense = OPS.spike_bits(torch.ones_like(x).flatten(1), 1.0)[0]
    assert torch.equal(OPS.spike_conv2d(torch.cat([bits[:5], dense]), [20, 20], weight, None, *how)[:5], whole[:5])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.0])
def test_weights_of_no_spike_do_not_count(value: float):
    weight = torch.full((3, 2, 3, 3), value)
    weight[:, 1] = 1.0
    x = torch.zeros(4, 2, 6, 6)
    x[:, 1, 2:4] = 1.0
    bits, _ = OPS.spike_bits(x.flatten(1), 1.0)
    bias = torch.full((3,), -0.0)
    y = OPS.spike_conv2d(bits, [6, 6], weight, bias, [1, 1], [0, 0], [1, 1])
    assert torch.equal(y, conv2d(x[:, 1:], weight[:, 1:]))
    silent = OPS.spike_conv2d(torch.zeros_like(bits), [6, 6], weight, bias, [1, 1], [0, 0], [1, 1])
    assert torch.signbit(silent).all()
    assert not silent.any()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools(case: Any, density: float, dtype: torch.dtype):
    shape, *how = case
    x, bits = spikes(shape, density, dtype)
    how = [pair(value) for value in how]
    like = torch.empty(0, dtype=dtype)
    y = OPS.spike_max_pool2d(bits, shape[1], shape[2:], like, *how)
    assert y.dtype is dtype
    numbers = x.double().requires_grad_()
    expected = max_pool2d(numbers, *how)
    assert torch.equal(y.double(), expected)
    if dtype is not torch.uint8:
        gradient = exact(*y.shape, dtype=dtype)
        (wanted,) = torch.autograd.grad(expected, numbers, gradient.double())
        assert torch.equal(OPS.spike_max_pool2d_backward(bits, shape[1], shape[2:], gradient, *how).double(), wanted)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8, torch.bool], ids=str)
def test_bits_of_rows(count: int, dtype: torch.dtype):
    x = (torch.rand(3, count, generator=torch.Generator().manual_seed(0)) < 0.4).to(dtype)
    bits, found = OPS.spike_bits(x, 1.0)
    assert int(found) == int(x.sum())
    places = torch.arange(bits.shape[1] * 64)
    words = (bits[:, places // 64] >> places % 64) & 1
    assert torch.equal(words[:, :count], x.long())
    assert not words[:, count:].any()
    if dtype in DTYPES:
        assert torch.equal(OPS.spike_values(bits, count, x), x)


@pytest.mark.parametrize("place", [0, 5, 63, 64, 99])
@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, 0.5), (torch.float64, torch.nan), (torch.uint8, 2)], ids=str
)
def test_other_numbers_are_seen_wherever_they_are(place: int, dtype: torch.dtype, value: float):
    x = torch.zeros(1, 100, dtype=dtype)
    x[0, place] = value
    _, found = OPS.spike_bits(x, 1.0)
    assert int(found) == -1
