"""Traces, exported programs and the page about deployment."""

from __future__ import annotations

import io

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
