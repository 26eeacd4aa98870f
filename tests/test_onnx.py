"""Networks in onnxruntime: one step of cells, called 100 times with states in and out, and a layer with time unrolled."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import norse_fast as nf

pytestmark = [
    pytest.mark.needs("onnx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the exporter's packages
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.onnx"),
]


class Step(nn.Module):
    """A network of cells with the tensors of its state as arguments and results."""

    def __init__(self, network: nn.Module, state: object) -> None:
        super().__init__()
        self.network = network
        leaves, self.spec = pytree.tree_flatten(state)
        self.places = [k for k, leaf in enumerate(leaves) if leaf is not None]  # None of a layer without state
        self.count = len(leaves)

    def tensors(self, state: object) -> list[torch.Tensor]:
        leaves = pytree.tree_leaves(state)
        return [leaves[k] for k in self.places]

    def forward(self, x: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.places, tensors))
        state = pytree.tree_unflatten([given.get(k) for k in range(self.count)], self.spec)
        output, state = self.network(x, state)
        return output, *self.tensors(state)


def session(module: nn.Module, arguments: tuple[torch.Tensor, ...]):
    """What runs a module elsewhere, as a function of tensors."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(module.eval(), arguments, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    assert b"norse_fast" not in b"".join(node.domain.encode() for node in program.model.graph)
    loaded = onnxruntime.InferenceSession(file.getvalue())
    names = [given.name for given in loaded.get_inputs()]
    return lambda *tensors: [
        torch.from_numpy(a) for a in loaded.run(None, dict(zip(names, (t.numpy() for t in tensors), strict=True)))
    ]


def convolutional() -> tuple[nn.Module, torch.Tensor]:
    """The network of examples/convolutional_classifier.py."""
    p = nf.LIFParameters(alpha=torch.tensor(10.0))
    network = nf.SequentialState(
        *(nn.Conv2d(1, 16, 3, padding=1), nf.LIFCell(p), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nf.LIFCell(p), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10), nf.LICell()),
    )
    return network, (torch.rand(100, 2, 1, 8, 8) < 0.3).float()


def recurrent() -> tuple[nn.Module, torch.Tensor]:
    """The network of examples/memory_task.py, as cells."""
    network = nf.SequentialState(nf.LSNNRecurrentCell(20, 64), nn.Linear(64, 4), nf.LICell())
    return network, (torch.rand(100, 2, 20) < 0.2).float()


@pytest.mark.parametrize("make", [convolutional, recurrent])
@torch.no_grad()
def test_steps(make):
    network, x = make()
    for parameter in network.parameters():
        parameter.mul_(3)
    _, state = network(x[0])
    step = Step(network, state)
    state = elsewhere = step.tensors(state)
    run = session(step, (x[0], *state))
    seen = torch.tensor(0.0)
    for frame in x:
        output, *state = step(frame, *state)
        result, *elsewhere = run(frame, *elsewhere)
        torch.testing.assert_close([result, *elsewhere], [output, *state], rtol=1e-5, atol=1e-5)
        seen = torch.maximum(seen, output.abs().max())
    assert seen > 0.1  # spikes reach the readout


@torch.no_grad()
def test_a_layer():
    layer, x = nf.LIF(), 20 * torch.rand(7, 2, 5)
    state = nf.LIFFeedForwardState(torch.rand(2, 5), torch.rand(2, 5))
    step = Step(layer, state)
    expected = step(x, *state)
    assert expected[0].any()
    torch.testing.assert_close(session(step, (x, *state))(x, *state), list(expected), rtol=1e-5, atol=1e-5)
