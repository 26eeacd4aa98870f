"""What NIR graphs say of order, names, inputs and states: a file gives the network that the graph in memory gives."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast.utils.import_nir import CubaLIF

from .packages import find

nir = find("nir")
pytestmark = pytest.mark.needs("nir")


def run(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    outputs, state = [], None
    for frame in x:
        y, state = model(frame, state)
        outputs.append(y.detach())
    return torch.stack(outputs)


def from_file(graph: Any, folder: Path) -> nn.Module:
    nir.write(folder / "graph.nir", graph)
    return nf.from_nir(folder / "graph.nir")


class Branching(nn.Module):
    """Its names are not in the order of its calls."""

    def __init__(self, neuron: bool) -> None:
        super().__init__()
        self.late, self.early = nn.Linear(3, 3), nn.Linear(3, 3)
        self.neuron = nf.LIBoxCell() if neuron else None

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        x = x + self.late(x)
        if self.neuron is not None:
            x, state = self.neuron(x, state)
        return self.early(x), state


class Plain(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.early(x + self.late(x))


@pytest.mark.parametrize("make", [lambda: Plain(False), lambda: Branching(True)])
def test_feedback_arrives_a_step_later_from_files_too(make, tmp_path: Path):
    torch.manual_seed(0)
    model, x = nf.RecurrentSequential(make()), torch.rand(9, 1, 3)
    graph = nf.to_nir(model, x[0])
    expected = run(model, x)
    for back in (nf.from_nir(graph), from_file(graph, tmp_path), nf.from_nir(nf.to_nir(nf.from_nir(graph)))):
        torch.testing.assert_close(run(back, x), expected)


def test_order_of_other_graphs_is_that_of_their_edges(tmp_path: Path):
    """Whatever that of their nodes."""
    weights = {name: np.array([[value]], dtype=np.float32) for name, value in (("zeta", 0.5), ("kappa", 0.7))}
    nodes = {
        "input": nir.Input(np.array([1])),
        **{name: nir.Linear(weight) for name, weight in weights.items()},
        "output": nir.Output(np.array([1])),
    }
    edges = [("input", "zeta"), ("zeta", "kappa"), ("kappa", "zeta"), ("kappa", "output")]
    expected, last, x = [], torch.zeros(1, 1), torch.ones(5, 1, 1)
    for frame in x:
        last = 0.7 * (0.5 * (frame + last))
        expected.append(last)
    for order in itertools.permutations(nodes):
        graph = nir.NIRGraph({name: nodes[name] for name in order}, list(edges), type_check=False)
        for model in (nf.from_nir(graph), from_file(graph, tmp_path)):
            torch.testing.assert_close(run(model, x), torch.stack(expected))


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n, self.m = nf.LIBoxCell(), nf.LIBoxCell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b = (None, None) if state is None else state
        y, a = self.n(x, a)
        z, b = self.m(x, b)
        return y + z, (a, b)


def test_feedback_that_would_not_be_late_is_refused():
    with pytest.raises(ValueError, match=r"got a RecurrentSequential whose output '.*n' comes before another module"):
        nf.to_nir(nf.RecurrentSequential(Parallel()), torch.ones(1, 1))


def test_states_that_go_in_stay_as_they_are():
    """So what torch.utils.checkpoint computes again is the same."""
    model = nf.SequentialState(nn.Linear(3, 3), nf.LIFCell(), nf.LIFRecurrentCell(3, 2), nf.LICell())
    back = nf.from_nir(nf.to_nir(model))
    x = 5 * torch.rand(20, 2, 3)
    _, state = back(x[0])
    before = str(state)
    first, second = (back(x[1], state)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert str(state) == before

    def part(frames: torch.Tensor, state: Any) -> Any:
        for frame in frames:
            y, state = back(frame, state)
        return y, state

    def gradients(again: bool) -> tuple[torch.Tensor, ...]:
        state, total = None, torch.zeros(())
        for frames in x.split(5):
            y, state = checkpoint(part, frames, state, use_reentrant=False) if again else part(frames, state)
            total = total + y.sum()
        return torch.autograd.grad(total, list(back.parameters()))

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("names", [("a.b", "a_b"), ("code", "training"), ("type", "self"), ("graph", "nir_node_graph")])
def test_nodes_of_any_name(names: tuple[str, str]):
    weights = [nir.Linear(np.array([[value]], dtype=np.float32)) for value in (2.0, 3.0)]
    nodes = {"input": nir.Input(np.array([1])), **dict(zip(names, weights)), "output": nir.Output(np.array([1]))}
    edges = [("input", names[0]), names, (names[1], "output")]
    model = nf.from_nir(nir.NIRGraph(nodes, edges))
    assert model(torch.ones(1, 1))[0].item() == 6
    again = nf.from_nir(nf.to_nir(model))
    assert again(torch.ones(1, 1))[0].item() == 6
    assert pickle.loads(pickle.dumps(model))(torch.ones(1, 1))[0].item() == 6


def test_pickled_models_keep_their_states():
    model = nf.from_nir(nf.to_nir(nf.SequentialState(nn.Linear(3, 3), nf.LIFRecurrentCell(3, 2), nf.LICell())))
    x = 9 * torch.rand(20, 2, 3)
    expected = run(model, x)
    assert expected.any()
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), x), expected)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, arguments: (100 * arguments[0], *arguments[1:]))
    return module


def replaced(module: nn.Module) -> nn.Module:
    module.forward = lambda x, state=None: (x, state)  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("change", [hooked, replaced])
@pytest.mark.parametrize("place", ["root", "in Lift", "in RecurrentSequential", "imported"])
def test_what_a_root_does_besides_is_refused(change, place: str):
    model = nf.SequentialState(nn.Linear(2, 2), nf.LIFCell())
    if place == "imported":
        model = change(nf.from_nir(nf.to_nir(model)))
    elif place == "in RecurrentSequential":
        model = nf.RecurrentSequential(nn.Linear(2, 2), nf.LIFCell())
        change(model.module)
    else:
        model = nf.Lift(change(model)) if place == "in Lift" else change(model)
    with pytest.raises(TypeError, match=r"got (a hook on|another forward in) a "):
        nf.to_nir(model)


class TwoInputs(nn.Module):
    def __init__(self, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.call = nn.Linear(3, 3), nn.Linear(3, 3), call

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.call(self.b, y)


class StateGiven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.neuron = nf.LIBoxCell()

    def forward(self, x: torch.Tensor, state: Any) -> Any:
        return self.neuron(x, state)


@pytest.mark.parametrize("call", [lambda b, y: y, lambda b, y: b(y), lambda b, y: b(input=y)])
def test_a_second_input_is_refused(call: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
    with pytest.raises(ValueError, match="got the input 'y' too in a TwoInputs, expected one input"):
        nf.to_nir(TwoInputs(call))
    # A state is none.
    assert len(nf.to_nir(StateGiven(), torch.ones(1, 3)).nodes) == 3


@pytest.mark.parametrize("last", [[], [nn.Linear(8, 3)]])
def test_flatten_behind_layers_over_time(last: list[nn.Module]):
    model, x = nf.SequentialState(nf.LIF(), nn.Flatten(2), *last), 5 * torch.rand(10, 2, 2, 2, 2)
    torch.testing.assert_close(run(nf.from_nir(nf.to_nir(model, x)), x), model(x)[0].detach())
    cells = nf.Lift(nf.SequentialState(nf.LIFCell(), nn.Flatten(1), *last))
    torch.testing.assert_close(run(nf.from_nir(nf.to_nir(cells, x)), x), cells(x)[0].detach())
    with pytest.raises(ValueError, match=r"got a Flatten with start_dim=1, .* time and the batch"):
        nf.to_nir(nf.SequentialState(nf.LIF(), nn.Flatten(1)), x)


@pytest.mark.parametrize("output", [True, False])
def test_sums_do_not_depend_on_the_names_of_nodes(output: bool):
    """Nor on the process, in which sets of names have an order of their own."""
    values, found = (1e8, 1.0, -1e8, 0.5), set()
    one = nir.Linear(np.array([[1.0]], dtype=np.float32))
    for k in range(12):
        names = [f"{'abcdefghijkl'[k]}{j}" for j in (3, 1, 4, 2)]
        branches = {name: nir.Linear(np.array([[v]], dtype=np.float32)) for name, v in zip(names, values)}
        last = "output" if output else "sum"
        nodes = {"input": nir.Input(np.array([1])), **branches, "sum": one, "output": nir.Output(np.array([1]))}
        edges = [("input", name) for name in names] + [(name, last) for name in names]
        edges += [] if output else [("sum", "output")]
        if output:
            del nodes["sum"]
        found.add(nf.from_nir(nir.NIRGraph(nodes, edges))(torch.ones(1, 1))[0].item())
    assert found == {0.5}


class Skipping(nn.Module):
    def __init__(self, neuron: bool) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(3, 3), nf.LIBoxCell() if neuron else None

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        z = x
        if self.n is not None:
            z, state = self.n(x, state)
        return self.a(x) + z, state


@pytest.mark.parametrize("neuron", [True, False])
def test_skip_connections_return(neuron: bool, tmp_path: Path):
    model, x = Skipping(neuron), torch.rand(6, 2, 3)
    graph = nf.to_nir(model, x[0])
    for back in (nf.from_nir(graph), from_file(graph, tmp_path)):
        torch.testing.assert_close(run(back, x), run(model, x))


def test_several_dt_are_told():
    with pytest.warns(UserWarning, match=r"got modules with dt 0\.001 and 0\.01, which a graph does not keep"):
        nf.to_nir(nf.SequentialState(nn.Linear(3, 3), nf.LIFCell(dt=0.01), nf.LIBoxCell()))
    # Neurons that integrate per step have none.
    nf.to_nir(nf.SequentialState(nn.Linear(3, 3), nf.LIFCell(dt=0.01), nf.IAFCell()))


@pytest.mark.parametrize("dt", [0, -1.0, float("inf"), float("nan")])
def test_a_step_of_no_length_is_refused(dt: float):
    with pytest.raises(ValueError, match=r"dt: got .*, expected a positive number"):
        nf.from_nir(nf.to_nir(nf.LIFCell()), dt=dt)


def test_short_time_constants_tell_dt_apart():
    cell = nf.LIFCell(nf.LIFParameters(tau_syn_inv=torch.tensor(1e6), tau_mem_inv=torch.tensor(5e5)), dt=1e-7)
    node = nf.to_nir(cell)
    assert isinstance(nf.from_nir(node, dt=1e-7), nf.LIFCell)
    assert isinstance(nf.from_nir(node, dt=1.01e-7), CubaLIF)


def test_neurons_alone_take_the_shape_of_the_sample():
    assert nf.to_nir(nf.LIFCell(), torch.ones(2, 3)).v_threshold.shape == (3,)


@pytest.mark.parametrize(
    ("synapse", "message"),
    [
        (nf.LIBoxCell(nf.LIBoxParameters(v_leak=torch.tensor(0.1))), "a synapse with v_leak other than 0"),
        (nf.LIBoxCell(dt=0.01), "another dt in the synapse"),
    ],
)
def test_what_a_node_cannot_say_of_a_synapse(synapse: nn.Module, message: str):
    neurons = CubaLIF(torch.tensor(5.0), synapse, torch.tensor(1.0), nf.LIFBoxCell())
    dts = pytest.warns(UserWarning, match="got modules with dt") if "dt" in message else nullcontext()
    with pytest.raises(ValueError, match=message), dts:
        nf.to_nir(neurons)
