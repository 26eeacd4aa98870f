"""Traces, exported programs and the page about deployment."""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import norse_fast as nf

from .models import Model, fields
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


@pytest.mark.skipif(nf.backends()["autograd"] != "C++", reason="its library says so to PyTorch")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    "make", [nf.LICell, nf.LIF, lambda: nf.LIFRecurrent(4, 5)], ids=["LICell", "LIF", "LIFRecurrent"]
)
def test_a_program_sends_no_gradient_through_kernels_in_silence(make: Callable[[], torch.nn.Module], decomposed: bool):
    network, x = nf.SequentialState(torch.nn.Linear(3, 4), make()), torch.rand(6, 2, 3)
    program = torch.export.export(network, (x,))
    loaded = (program.run_decompositions() if decomposed else program).module()
    outputs = loaded(x)[0]
    assert torch.equal(outputs, network(x)[0])
    with pytest.raises(RuntimeError, match=r"derivative for norse_fast::li.*_forward is not implemented"):
        outputs.sum().backward()


class WithState(torch.nn.Module):
    """A module whose state is a dictionary of tensors."""

    def __init__(self, model: Model, module: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.module = model, module

    def forward(self, x, state):
        output, state = self.module(x, self.model.pack(self.model.state, state))
        return output, fields(state)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_export(model: Model, cell: bool):
    """Once, for all lengths and batches, with states in and out."""
    module = WithState(model, make(model, cell))
    steps, batch = torch.export.Dim("steps", min=1), torch.export.Dim("batch", min=1)

    def arguments(*shape):
        x = make_input(model, *shape) / 200
        _, state = module.module(x)
        return x, {name: value.detach() for name, value in fields(state).items()}

    with torch.no_grad():
        example = arguments(3) if cell else arguments(20, 3)
        shapes = {0: batch} if cell else {0: steps, 1: batch}
        shapes = (shapes, {name: {0: batch} for name in example[1]})
        file = io.BytesIO()
        torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        for shape in [(1,), (4,)] if cell else [(1, 2), (17, 1), (33, 4), (200, 3)]:
            given = arguments(*shape)
            expected = module(*given)
            assert_close = assert_same if model.kind == "ff" else torch.testing.assert_close  # products may round
            assert_close(loaded(*given), expected)


LIFTED = {
    "cells": lambda: nf.SequentialState(torch.nn.Linear(4, 7), nf.LIFCell(), torch.nn.Linear(7, 3), nf.LICell()),
    "recurrent": lambda: nf.SequentialState(nf.LIFRecurrentCell(4, 5), torch.nn.ReLU(), torch.nn.BatchNorm1d(5)),
    "delay": lambda: nf.SequentialState(nf.DelayCell(2, 6), nf.LIFCell()),
}
OVER_TIME = {
    **{f"Lift of {name}": lambda make=make: nf.Lift(make()) for name, make in LIFTED.items()},
    "Delay": lambda: nf.Delay(torch.tensor([0, 1, 4, 6]), 6),
    "DelayedLinear": lambda: nf.SequentialState(torch.nn.Linear(4, 4), nf.LIF(), nf.DelayedLinear(4, 3, 5), nf.LI()),
}


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.parametrize("name", OVER_TIME)
def test_export_of_any_length(name: str):
    """One graph, whose size is not that of the example, also on either side of a longest delay."""
    torch.manual_seed(0)
    module = OVER_TIME[name]().eval()
    steps, batch = torch.export.Dim("steps", min=1), torch.export.Dim("batch", min=1)
    with torch.no_grad():
        programs = [
            torch.export.export(module, (torch.rand(length, 3, 4),), dynamic_shapes=({0: steps, 1: batch},))
            for length in (5, 40)
        ]
        assert len({len(program.graph.nodes) for program in programs}) == 1
        for program in programs:
            for length in (1, 5, 6, 7, 40):
                x = 3 * torch.rand(length, 2, 4)
                torch.testing.assert_close(program.module()(x)[0], module(x)[0])


@pytest.mark.slow_to_compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_package_of_aot_inductor(tmp_path: Path):
    """In Python, and in the program of the page, built as the page says."""
    state = tuple(torch.zeros(2, 4) for _ in range(2))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nf.LIF()

        def forward(self, x, v, i):
            z, state = self.layer(x, nf.LIFFeedForwardState(v, i))
            return z, *state

    network = Network()
    steps, batch = torch.export.Dim("steps", min=1), torch.export.Dim("batch", min=1)
    shapes = ({0: steps, 1: batch}, {0: batch}, {0: batch})
    with torch.no_grad():
        program = torch.export.export(network, (torch.rand(20, 2, 4), *state), dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for shape in [(1, 3), (33, 1), (200, 2)]:
            given = (5 * torch.rand(*shape, 4), torch.rand(shape[1], 4), torch.rand(shape[1], 4))
            assert_same(tuple(loaded(*given)), network(*given))
        state, counts = tuple(torch.zeros(1, 4) for _ in range(2)), []
        for piece in (2 * torch.linspace(0, 1, 400).view(100, 1, 4)).split(30):
            z, *state = network(piece, *state)
            counts.append(z.sum().item())
    root = Path(__file__).parents[1]
    page = (root / "docs" / "deployment.md").read_text()
    commands = page[page.index("## Without Python") :].split("```sh\n")[1].split("```")[0]
    commands = commands.replace("examples/deploy.cpp", str(root / "examples" / "deploy.cpp"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *shown, voltages, _ = done.stdout.splitlines()
    assert [float(line) for line in shown] == counts
    assert counts[-1] > 0
    torch.testing.assert_close(torch.tensor([float(v) for v in voltages.split()]), state[0][0], rtol=1e-3, atol=1e-3)


def test_info_as_a_program():
    told = subprocess.run([sys.executable, "-m", "norse_fast"], capture_output=True, text=True, check=True).stdout
    assert told == nf.info() + "\n"
    for name, value in nf.backends().items():
        row = next(line for line in told.splitlines() if line.split("  ")[0].endswith(name))
        assert row.endswith("PyTorch" if value == "none" else value)


def test_page():
    page = Path(__file__).parents[1] / "docs" / "deployment.md"
    assert doctest.testfile(str(page), module_relative=False).failed == 0
