"""The building blocks of the CPU driver by themselves, against NumPy: events, products, sums over spikes, memory."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

DTYPES = {"float": np.float32, "double": np.float64}
#: Around the borders of vectors, of words of bits, of tiles, and of panels.
SIZES = (0, 1, 2, 5, 6, 7, 31, 32, 33, 63, 64, 65, 127, 129, 300)

dtypes = pytest.mark.parametrize("dtype", list(DTYPES))


def spikes(random, shape, dtype, rate=0.3):
    return (random.random(shape) < rate).astype(DTYPES[dtype])


@dtypes
@pytest.mark.parametrize("size", SIZES)
def test_events_are_the_nonzero_elements(core, dtype, size):
    random = np.random.default_rng(size)
    for rate in (0.0, 0.05, 0.5, 1.0):
        z = spikes(random, size, dtype, rate) * DTYPES[dtype](-0.5)
        np.testing.assert_array_equal(getattr(core, f"collect_{dtype}")(z), np.flatnonzero(z))


@dtypes
def test_nan_is_an_event_and_negative_zero_none(core, dtype):
    z = np.array([-0.0, np.nan, np.inf, 5e-324] * 20, DTYPES[dtype])
    np.testing.assert_array_equal(getattr(core, f"collect_{dtype}")(z), np.flatnonzero(z))


@dtypes
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 8, 16, 65])
def test_panels_are_columns_and_zeros(core, dtype, transposed, rows):
    panel = getattr(core, f"panel_{dtype}")
    matrix = np.random.default_rng(rows).normal(size=(rows, 2 * panel)).astype(DTYPES[dtype])
    stored = np.ascontiguousarray(matrix.T) if transposed else matrix
    for first, columns in ((0, panel), (3, panel), (panel, 1), (5, panel - 1)):
        packed = getattr(core, f"pack_{dtype}")(stored, first, columns, transposed)
        np.testing.assert_array_equal(packed[:, :columns], matrix[:, first : first + columns])
        assert not packed[:, columns:].any()


@dtypes
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    rows=st.integers(1, 15),
    depth=st.sampled_from((0, 1, 3, 255, 256, 257, 600)),
    columns=st.integers(1, 140),
    add=st.booleans(),
)
def test_products_of_integers_are_exact(core, dtype, rows, depth, columns, add):
    random = np.random.default_rng(rows * depth + columns)
    a, b, start = (
        random.integers(-8, 9, shape).astype(DTYPES[dtype])
        for shape in ((rows, depth), (depth, columns), (rows, columns))
    )
    result = getattr(core, f"multiply_{dtype}")(a, b, start, add)
    np.testing.assert_array_equal(result, a @ b + (start if add else 0))


@dtypes
@pytest.mark.parametrize("width", SIZES[1:])
@pytest.mark.parametrize("binary", [True, False])
def test_sums_of_events_have_one_order(core, dtype, width, binary):
    """Row after row, whatever their rate, and in blocks where there are many: not a bit differs."""
    random = np.random.default_rng(width)
    panel = random.normal(size=(width, getattr(core, f"panel_{dtype}"))).astype(DTYPES[dtype])
    for rate in (0.02, 0.15, 0.6):
        z = spikes(random, (5, width), dtype, rate)
        if not binary:
            z *= 2  # a factor that does not round
            z[0, 0] = 2
        expected = np.zeros((5, panel.shape[1]), DTYPES[dtype])
        for row, sums in zip(z, expected):
            for event in np.flatnonzero(row):
                sums += row[event] * panel[event]
        np.testing.assert_array_equal(getattr(core, f"sum_events_{dtype}")(z, panel), expected)


def unpacked(bits, size):
    return np.unpackbits(bits.view(np.uint8), bitorder="little")[:size]


@dtypes
@pytest.mark.parametrize("size", SIZES)
def test_bits_are_the_nonzero_elements(core, dtype, size):
    random = np.random.default_rng(size)
    z = spikes(random, size, dtype)
    bits, binary = getattr(core, f"scan_{dtype}")(z)
    np.testing.assert_array_equal(unpacked(bits, size), z)
    assert binary
    as_bytes, binary = core.scan_bytes(z.astype(np.uint8))
    np.testing.assert_array_equal(as_bytes, bits)
    assert binary
    # What is behind the last is no spike.
    assert sum(int(word).bit_count() for word in bits) == z.sum()


@dtypes
@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, np.nan, np.inf])
def test_one_element_that_is_no_spike(core, dtype, value):
    for size in SIZES[1:]:
        for place in {0, size // 2, size - 1}:
            z = np.zeros(size, DTYPES[dtype])
            z[place] = value
            assert not getattr(core, f"scan_{dtype}")(z)[1]


def test_bytes_that_are_no_spikes(core):
    for value in (2, 255):
        assert not core.scan_bytes(np.array([0] * 70 + [value], np.uint8))[1]


@dtypes
@pytest.mark.parametrize("quarters", [1, 2, 3, 4])
@pytest.mark.parametrize("adds", [True, False])
def test_sums_of_lists_have_one_order(core, dtype, quarters, adds):
    """At least the columns that are asked for are summed, from a start or from what is there."""
    random = np.random.default_rng(quarters)
    panel = random.normal(size=(50, getattr(core, f"panel_{dtype}"))).astype(DTYPES[dtype])
    columns = panel.shape[1] // 4 * quarters
    lists = [sorted(random.choice(50, count, replace=False).tolist()) for count in (0, 1, 7, 50)]
    out = random.normal(size=(len(lists), panel.shape[1])).astype(DTYPES[dtype])
    expected = out.copy() if adds else np.repeat(out[:1], len(lists), 0)
    for events, sums in zip(lists, expected):
        for event in events:
            sums += panel[event]
    result = getattr(core, f"sum_lists_{dtype}")(panel, lists, columns, out, adds)
    np.testing.assert_array_equal(result[:, :columns], expected[:, :columns])


MIB = 1 << 20


@pytest.fixture
def pool(core):
    limit = core.set_waiting_limit(64 * MIB)
    core.release_waiting()
    yield core
    core.fail_allocation(0)
    core.release_waiting()
    core.set_waiting_limit(limit)


def test_what_was_given_back_is_handed_out_again(pool):
    data = pool.reserve(3 * MIB)
    pool.release(data, 3 * MIB)
    assert pool.waiting_bytes() >= 3 * MIB
    assert pool.reserve(3 * MIB) == data
    assert pool.waiting_bytes() == 0
    other = pool.reserve(3 * MIB)
    assert other not in (0, data)
    for address in (data, other):
        pool.release(address, 3 * MIB)


def test_small_memory_does_not_wait(pool):
    assert pool.reserve(1000) == 0
    assert pool.waiting_bytes() == 0


def test_the_limit_of_what_waits(pool):
    assert pool.set_waiting_limit(4 * MIB) == 64 * MIB
    first, second = pool.reserve(3 * MIB), pool.reserve(3 * MIB)
    pool.release(first, 3 * MIB)
    pool.release(second, 3 * MIB)
    assert 3 * MIB <= pool.waiting_bytes() <= 4 * MIB
    assert pool.release_waiting() >= 3 * MIB
    assert pool.waiting_bytes() == 0


def test_an_allocation_that_fails_says_how_much_was_asked_for(pool):
    pool.fail_allocation(0)
    for k in (1, 2):
        pool.fail_allocation(k)
        for _ in range(k - 1):
            pool.allocate_and_free(1 << 20)
        with pytest.raises(RuntimeError, match=r"1048576|1\.0 MiB|1 MiB"):
            pool.allocate_and_free(1 << 20)
        pool.allocate_and_free(1 << 20)  # once
    with pytest.raises(RuntimeError, match="bytes"):
        pool.allocate_and_free((1 << 63) - 1)
