"""Where large outputs lie: memory that was given back is used again, up to a limit, and never before."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels

pytestmark = pytest.mark.skipif(not has_kernels("cpu"), reason="the kernels are not built")

MIB = 1 << 20


def drive(mib: int) -> torch.Tensor:
    return torch.full((1,), 200.0).expand(16, mib * MIB // 4 // 16)


def resident_mib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // MIB


@torch.no_grad()
def test_memory_is_used_again():
    x = drive(4)
    z = nf.LIF()(x)[0]
    address, expected = z.data_ptr(), z.clone()
    del z
    z = nf.LIF()(x)[0]
    assert z.data_ptr() == address
    assert torch.equal(z, expected)


@torch.no_grad()
def test_memory_in_use_is_left_alone():
    x = drive(4)
    first = nf.LIF()(x)[0]
    view, expected = first[3:], first[3:].clone()
    del first
    second = nf.LIF()(torch.zeros_like(x))[0]
    assert view.data_ptr() != second.data_ptr()
    assert torch.equal(view, expected)
    assert not second.any()


def test_gradients_in_reused_memory(generator):
    """Every sum of gradients would show what was there before."""
    x = torch.rand(40, 4, 8192, generator=generator).mul_(10).requires_grad_()
    grads = []
    for _ in range(3):
        z, state = nf.LIF()(x)
        grads.append(torch.autograd.grad(z.sum() + state.v.sum(), x)[0].clone())
        del z, state
    assert grads[0].any()
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


@pytest.fixture
def limit_256_mib():
    before = nf.memory.set_limit(256 * MIB)
    yield
    nf.memory.set_limit(before)


@torch.no_grad()
def test_what_waits_has_a_limit(limit_256_mib: None):
    outputs = [nf.LIF()(drive(64))[0] for _ in range(6)]
    alive = resident_mib()
    del outputs
    assert resident_mib() <= alive - 120
    z = nf.LIF()(drive(300))[0]
    alive = resident_mib()
    del z
    assert resident_mib() <= alive - 290


def limit_of_a_container() -> float:
    files = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    found = [file.read_text().strip() for file in files if file.exists()]
    return min([float("inf"), *(float(text) for text in found if text != "max")])


def test_the_usual_limit_is_a_share_of_the_memory():
    program = "import norse_fast as nf; print(nf.memory.set_limit(0))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert int(done.stdout) == min(min(physical, limit_of_a_container()) // 16, 4 << 30), done.stderr


@torch.no_grad()
def test_results_of_half_a_gigabyte_are_used_again():
    """As much as 4000 steps of 32 times 1024 neurons."""
    before = nf.memory.set_limit(1 << 30)
    try:
        nf.memory.release()
        z = nf.LIF()(drive(500))[0]
        address = z.data_ptr()
        del z
        assert nf.memory.waiting() >= 500 * MIB
        assert nf.LIF()(drive(500))[0].data_ptr() == address
    finally:
        nf.memory.set_limit(0)
        nf.memory.set_limit(before)


def spikes_in_child(connection) -> None:
    with torch.no_grad():
        torch.set_num_threads(1)
        z = nf.LIF()(drive(4))[0]
        connection.send(z.sum().item())


@torch.no_grad()
def test_a_forked_process():
    expected = nf.LIF()(drive(4))[0].sum().item()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=spikes_in_child, args=(there,))
    process.start()
    assert here.poll(60)
    assert here.recv() == expected
    process.join(60)
    assert process.exitcode == 0


CHANGE = """
import torch
import norse_fast as nf
from tests.test_memory import drive, resident_mib

with torch.no_grad():
    z = nf.LIF()(drive(64))[0]
    alive, spikes = resident_mib(), z.sum().item()
    del z
    print(alive - resident_mib() > 60, spikes)
"""


def run_with_memory(mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHANGE],
        env={**os.environ, "NORSE_FAST_MEMORY": mode},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )


@torch.no_grad()
def test_memory_off_and_poisoned():
    """What sanitizers need changes no result."""
    spikes = nf.LIF()(drive(64))[0].sum().item()
    for mode, given_back in [("", False), ("off", True), ("poison", False)]:
        assert run_with_memory(mode).stdout.split() == [str(given_back), str(spikes)]


def test_unknown_memory():
    result = run_with_memory("on")
    assert result.returncode == 1
    assert "NORSE_FAST_MEMORY: got 'on', expected off or poison; unset it" in result.stderr
