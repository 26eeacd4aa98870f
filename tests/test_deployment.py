"""Traces, exported programs and the page about deployment."""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import norse_fast as nf

from .models import Model
from .test_inputs import assert_same
from .test_modules import MODULES, make, make_input

#: PyTorch deprecates TorchScript, and warns of sizes that become constants in a trace.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit"),
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_trace(model: Model, cell: bool, grad: bool):
    module = make(model, cell)
    x = (make_input(model, 3) if cell else make_input(model, 6, 3)) / 20
    with torch.set_grad_enabled(grad):
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert "norse_fast::" not in str(loaded.inlined_graph)
    other = x.flip(-1)[..., :2, :]  # a batch of another size
    with torch.no_grad(), nf.kernels_disabled():
        assert_same(loaded(other), module(other))


def test_a_trace_sends_no_gradient_through_spikes_in_silence():
    x = torch.rand(2, 3, requires_grad=True)
    z, _ = torch.jit.trace(nf.LIFCell(), (x.detach(),))(x)
    with pytest.raises(RuntimeError, match="derivative for aten::heaviside is not implemented"):
        z.sum().backward()


def test_info_as_a_program():
    told = subprocess.run([sys.executable, "-m", "norse_fast"], capture_output=True, text=True, check=True).stdout
    assert told == nf.info() + "\n"
    for name, value in nf.backends().items():
        row = next(line for line in told.splitlines() if line.split("  ")[0].endswith(name))
        assert row.endswith("PyTorch" if value == "none" else value)


def test_page():
    page = Path(__file__).parents[1] / "docs" / "deployment.md"
    assert doctest.testfile(str(page), module_relative=False).failed == 0
