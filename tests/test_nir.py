"""NIR: models go out and come back the same, and graphs mean what they mean in Norse and in NIR."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import norse_fast as nf
from norse_fast.utils.import_nir import CubaLIF, Scale

from .packages import find

nir = find("nir")
pytestmark = pytest.mark.needs("nir")

FOLDER = Path(__file__).parent / "nir"
N = 5


def uniform(low, high, *shape):
    return low + (high - low) * torch.rand(shape)


def array(low, high, *shape):
    return uniform(low, high, *(shape or (N,))).numpy()


def strong(module):
    """Weights with which neurons spike."""
    with torch.no_grad():
        module.weight.mul_(20)
    return module


def run(model, x):
    """Outputs of all steps."""
    outputs, state = [], None
    with torch.no_grad():
        for step in x:
            output, state = model(step, state)
            outputs.append(output)
    return torch.stack(outputs)


def inputs(*shape, steps=100, high=20.0):
    return uniform(0.0, high, steps, 2, *shape)


def check_equal(model, other, x):
    expected = run(model, x)
    assert expected.abs().sum() > 0
    assert torch.equal(run(other, x), expected)


CELLS = {
    "LIF": (
        nf.LIFCell,
        lambda: nf.LIFParameters(
            uniform(100, 300, N), uniform(50, 200, N), uniform(-0.1, 0.1, N), uniform(0.5, 1, N), uniform(-0.2, 0.2, N)
        ),
    ),
    "LIF with numbers": (nf.LIFCell, lambda: nf.LIFParameters(tau_mem_inv=137.0, v_reset=-0.3)),
    "LI": (nf.LICell, lambda: nf.LIParameters(uniform(100, 300, N), torch.tensor(90.0), torch.tensor(0.3))),
    "LIFBox": (
        nf.LIFBoxCell,
        lambda: nf.LIFBoxParameters(uniform(50, 200, N), uniform(-0.1, 0.1, N), uniform(0.5, 1, N), torch.tensor(0.2)),
    ),
    "LIBox": (nf.LIBoxCell, lambda: nf.LIBoxParameters(uniform(50, 200, N), torch.nn.Parameter(torch.tensor(0.5)))),
    "IAF": (nf.IAFCell, lambda: nf.IAFParameters(uniform(0.5, 1, N), torch.tensor(0.2))),
}
LAYERS = {nf.LIFCell: nf.LIF, nf.LICell: nf.LI, nf.LIFBoxCell: nf.LIFBox, nf.LIBoxCell: nf.LIBox, nf.IAFCell: nf.IAF}


@pytest.mark.filterwarnings("ignore:p. got an nn.Parameter")
@pytest.mark.parametrize("name", CELLS)
def test_cell_returns(name):
    cell, parameters = CELLS[name]
    model = cell(parameters(), dt=0.002)
    back = nf.from_nir(nf.to_nir(model), dt=0.002)
    assert type(back) is cell
    check_equal(model, back, inputs(N))


@pytest.mark.filterwarnings("ignore:p. got an nn.Parameter")
@pytest.mark.parametrize("name", CELLS)
def test_layer_returns_as_cell(name):
    cell, parameters = CELLS[name]
    p = parameters()
    x = inputs(N)
    graph = nf.to_nir(nf.SequentialState(LAYERS[cell](p)), sample_data=x)
    outputs, _ = LAYERS[cell](p)(x)
    assert torch.equal(run(nf.from_nir(graph), x), outputs.detach())


@given(st.floats(2**-20, 2**20, width=32))
def test_every_rate_returns(rate):
    back = nf.from_nir(nf.to_nir(nf.LIBoxCell(nf.LIBoxParameters(tau_mem_inv=torch.tensor(rate)))))
    assert back.p.tau_mem_inv.item() == rate


def convolutional():
    return nf.SequentialState(
        strong(torch.nn.Conv2d(1, 4, 3, bias=False)),
        nf.LIFCell(nf.LIFParameters(tau_mem_inv=137.0)),
        torch.nn.AvgPool2d(2),
        nf.SequentialState(strong(torch.nn.Conv2d(4, 4, 3, padding="same")), nf.LIFBoxCell()),
        torch.nn.LPPool2d(1, 3),
        torch.nn.Flatten(),
        strong(torch.nn.Linear(4, N)),
        nf.LIFCell(),
        strong(torch.nn.Linear(N, 3, bias=False)),
        nf.LICell(),
    )


def test_model_returns_through_a_file(tmp_path):
    model, x = convolutional(), inputs(1, 8, 8, steps=20)
    nir.write(tmp_path / "model.nir", nf.to_nir(model, x[0]))
    graph = nir.read(tmp_path / "model.nir")
    shapes = {name: tuple(node.output_type["output"]) for name, node in graph.nodes.items()}
    assert shapes["input_tensor"] == (1, 8, 8)
    assert shapes["_1"] == (4, 6, 6)
    assert shapes["_5"] == (4,)
    assert shapes["output"] == (3,)
    check_equal(model, nf.from_nir(graph), x)
    check_equal(model, nf.from_nir(str(tmp_path / "model.nir")), x)
    check_equal(model, nf.from_nir(tmp_path / "model.nir"), x)


def test_lifted_model_returns():
    model, x = nf.Lift(convolutional()), inputs(1, 8, 8, steps=20)
    back = nf.from_nir(nf.to_nir(model, x))
    outputs = run(back, x)
    assert outputs.abs().sum() > 0
    torch.testing.assert_close(model(x)[0].detach(), outputs)
    assert torch.equal(nf.Lift(back)(x)[0].detach(), outputs)
    part = nf.SequentialState(nf.Lift(nf.SequentialState(strong(torch.nn.Linear(N, N)), nf.LIFCell())), nf.LIF())
    x = inputs(N)
    torch.testing.assert_close(run(nf.from_nir(nf.to_nir(part)), x), part(x)[0].detach())


def test_one_dimensional_convolution_returns(tmp_path):
    model = nf.SequentialState(strong(torch.nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2)), nf.LIFBoxCell())
    x = inputs(4, 9, steps=20)
    # Grouped convolutions pass the type check of graphs in memory only: that of files ignores the groups.
    nir.write(tmp_path / "model.nir", nf.to_nir(model, x[0]))
    back = nf.from_nir(tmp_path / "model.nir")
    assert back.get_submodule("_0").in_channels == 4
    check_equal(model, back, x)


def test_flatten_of_the_last_dimensions_returns():
    model = nf.SequentialState(torch.nn.Flatten(2), nf.LIFBoxCell())
    graph = nf.to_nir(model, torch.zeros(1, 2, 3, 4))
    assert tuple(graph.nodes["output"].output_type["output"]) == (2, 12)
    check_equal(model, nf.from_nir(graph), inputs(2, 3, 4))


class Skip(torch.nn.Module):
    """Branches, an addition, a module list, states in a tuple."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.ModuleList([strong(torch.nn.Linear(N, N)), strong(torch.nn.Linear(N, N))])
        self.lif = nf.LIFCell()
        self.readout = nf.LICell()

    def forward(self, x, states=None):
        lif, readout = (None, None) if states is None else states
        z, lif = self.lif(self.linear[0](x), lif)
        y, readout = self.readout(self.linear[1](z) + z, readout)
        return y, (lif, readout)


def test_own_module_with_a_skip_connection_returns():
    model = Skip()
    back = nf.from_nir(nf.to_nir(model))
    check_equal(model, back, inputs(N))


def test_recurrent_sequential_returns(tmp_path):
    model = nf.RecurrentSequential(strong(torch.nn.Linear(N, N)), nf.LIFCell(), output_modules=-1)
    without = nf.SequentialState(*model.module)
    x = inputs(N)
    assert not torch.equal(run(model, x), run(without, x))
    check_equal(model, nf.from_nir(nf.to_nir(model)), x)
    first = nf.SequentialState(model, torch.nn.Linear(N, 2))
    nir.write(tmp_path / "model.nir", nf.to_nir(first))
    check_equal(first, nf.from_nir(nir.read(tmp_path / "model.nir")), x)
    between = nf.SequentialState(torch.nn.Linear(3, N), model, torch.nn.Linear(N, 2))
    check_equal(between, nf.from_nir(nf.to_nir(between)), inputs(3))


def test_recurrent_sequential_with_the_output_of_an_inner_module_returns():
    model = nf.RecurrentSequential(nf.LIFCell(), torch.nn.Linear(N, 2), output_modules=0)
    check_equal(model, nf.from_nir(nf.to_nir(model, torch.zeros(1, N))), inputs(N))


@pytest.mark.parametrize("layer", [False, True])
def test_recurrent_lif_returns(layer):
    model = nf.LIFRecurrentCell(3, N, p=nf.LIFParameters(v_th=uniform(0.5, 1, N)))
    x = inputs(3, high=5.0)
    exported = model
    if layer:
        exported = nf.LIFRecurrent(
            3, N, model.p, input_weights=model.input_weights, recurrent_weights=model.recurrent_weights
        )
    back = nf.from_nir(nf.to_nir(exported))
    # The sum of both products and the current is rounded in another order.
    check_equal(model, back, x)


def recurrent_graph(neuron):
    weight = 2 * torch.randn(N, N).numpy()
    nodes = {
        "input": nir.Input(np.array([N])),
        "neuron": neuron,
        "rec": nir.Affine(weight, array(-1, 1)),
        "output": nir.Output(np.array([N])),
    }
    edges = [("input", "neuron"), ("neuron", "rec"), ("rec", "neuron"), ("neuron", "output")]
    return nir.NIRGraph(nodes, edges)


def lif(**kwargs):
    default = dict(
        tau=array(0.005, 0.02), r=np.ones(N, np.float32), v_leak=array(-0.1, 0.1), v_threshold=array(0.5, 1.0)
    )
    return nir.LIF(**(default | kwargs))


def cuba_lif(**kwargs):
    default = dict(
        tau_syn=array(0.002, 0.008),
        tau_mem=array(0.005, 0.02),
        r=array(0.5, 2.0),
        v_leak=np.zeros(N, np.float32),
        v_threshold=array(0.5, 1.0),
        w_in=array(1.0, 5.0),
    )
    return nir.CubaLIF(**(default | kwargs))


def test_recurrent_graph_returns():
    graph = recurrent_graph(cuba_lif())
    graph.nodes["if"] = nir.IF(np.ones(N, np.float32), array(0.5, 1.0))
    graph.edges += [("neuron", "if"), ("if", "rec")]
    model = nf.from_nir(graph)
    again = nf.to_nir(copy.deepcopy(model))
    assert set(again.edges) == set(graph.edges)
    np.testing.assert_array_equal(again.nodes["neuron"].w_in, graph.nodes["neuron"].w_in)
    check_equal(model, nf.from_nir(again), inputs(N))


def test_node_that_listens_to_itself():
    graph = nir.NIRGraph.from_list(lif(), type_check=False)
    graph.edges.append(("lif", "lif"))
    cell, x = nf.from_nir(graph.nodes["lif"]), inputs(N, high=5.0)
    z, state, expected = torch.zeros(()), None, []
    for step in x:
        z, state = cell(step + z, state)
        expected.append(z)
    assert torch.equal(run(nf.from_nir(graph), x), torch.stack(expected).detach())


def test_recurrent_graph_runs_in_half_precision():
    model = nf.from_nir(recurrent_graph(lif())).bfloat16()
    z = run(model, inputs(N).bfloat16())
    assert z.dtype == torch.bfloat16
    assert z.sum() > 0


def test_imported_model_learns():
    model = nf.from_nir(
        nf.to_nir(nf.SequentialState(strong(torch.nn.Linear(N, 3)), nf.LIFCell(), torch.nn.Linear(3, 2)))
    )
    state = None
    for x in inputs(N, steps=20):
        y, state = model(x, state)
    y.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert len(gradients) == 4
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


# What NIR means.


@pytest.mark.parametrize(
    "node", [lif, lambda: nir.IF(np.ones(N, np.float32), array(0.5, 1.0)), lambda: nir.LI(*(array(0.01, 0.1),) * 3)]
)
def test_resistance_scales_the_input(node):
    node = node()
    node.r = np.ones(N, np.float32)
    scaled = copy.deepcopy(node)
    scaled.r = array(0.5, 2.0)
    x = inputs(N)
    expected = run(nf.from_nir(node), torch.from_numpy(scaled.r) * x)
    assert expected.sum() > 0
    model = nf.from_nir(nir.NIRGraph.from_list(scaled))
    assert torch.equal(run(model, x), expected)
    assert torch.equal(run(nf.from_nir(nf.to_nir(model)), x), expected)


def test_neurons_reset_to_their_reset_potential():
    for node in (lif, cuba_lif, lambda **kwargs: nir.IF(np.ones(N, np.float32), array(0.5, 1.0), **kwargs)):
        reset = array(-0.5, 0.5)
        model = nf.from_nir(nir.NIRGraph.from_list(node(v_reset=reset)))
        z, state = model(torch.full((1, N), 1e4))
        for _ in range(3):
            z, state = model(torch.full((1, N), 1e4), state)
        assert z.all()
        neuron = next(value for value in state.values() if value is not None)
        v = neuron[1].v if isinstance(neuron, tuple) and not hasattr(neuron, "v") else neuron.v
        np.testing.assert_array_equal(v.detach()[0], reset)


def test_leak_potential_leaves_the_synaptic_current_alone():
    model = nf.from_nir(cuba_lif(v_leak=array(0.1, 0.2)))
    _, (synapse, neuron) = model(torch.zeros(1, N))
    assert not synapse.v.any()
    assert neuron.v.all()


def test_reset_method_holds_for_all_neurons():
    for node in (lif(), cuba_lif()):
        model = nf.from_nir(node, reset_method=nf.reset_subtract)
        assert getattr(model, "lif", model).p.reset_method is nf.reset_subtract


@pytest.mark.parametrize(
    "model",
    [
        lambda: nf.LIFBoxCell(nf.LIFBoxParameters(reset_method=nf.reset_subtract)),
        # The weights are those of a LIFCell, but the metadata say nothing of one.
        lambda: nf.from_nir(
            cuba_lif(tau_syn=np.full(N, 0.005), w_in=np.full(N, 5.0), r=np.ones(N)), reset_method=nf.reset_subtract
        ),
    ],
)
def test_reset_by_subtraction_returns_with_a_warning(model):
    model = model()
    with pytest.warns(UserWarning, match="reset_method=reset_subtract, which NIR does not know"):
        node = nf.to_nir(model)
    check_equal(model, nf.from_nir(node), inputs(N))


def test_graph_does_not_change_with_the_model():
    model = torch.nn.Linear(N, N)
    node = nf.to_nir(model)
    before = node.weight.copy()
    strong(model)
    np.testing.assert_array_equal(node.weight, before)


def test_sum_pool_with_padding():
    node = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1]))
    pool = nf.from_nir(node)
    np.testing.assert_array_equal(pool(torch.ones(1, 1, 2, 2))[0, 0], np.ones((2, 2)))
    back = nf.to_nir(pool)
    assert isinstance(back, nir.SumPool2d)
    np.testing.assert_array_equal(back.padding, [1, 1])


def test_flatten_that_does_not_count_the_batch():
    graph = nir.NIRGraph.from_list(nir.Flatten(np.array([2, 3]), 0, -1))
    assert nf.from_nir(graph)(torch.ones(4, 2, 3))[0].shape == (4, 6)


def test_synaptic_current_of_other_steps_follows_the_equation():
    node = nf.to_nir(nf.LIFCell())
    assert isinstance(nf.from_nir(node), nf.LIFCell)
    half = nf.from_nir(node, dt=0.0005)
    assert isinstance(half, CubaLIF)
    _, (synapse, _) = half(torch.ones(1, N))
    torch.testing.assert_close(synapse.v.detach(), torch.full((1, N), 0.5))


def test_the_fourth_argument_is_no_dt():
    """It is one in Norse 1.1.0."""
    model = nf.SequentialState(torch.nn.Linear(N, N), nf.LIFCell())
    with pytest.warns(UserWarning, match=r"time_scaling_factor: got 0.001, the dt of the model.*Norse 1.1.0"):
        nf.to_nir(model, torch.zeros(1, N), "norse", 0.001)
    with pytest.raises(TypeError, match=r"dt: got 0.001.*Norse 1.1.0"):
        nf.to_nir(model, torch.zeros(1, N), dt=0.001)
    for factor in (True, False, "1", None, torch.tensor(1.0)):
        with pytest.raises(TypeError, match=r"time_scaling_factor: got .*expected a number"):
            nf.to_nir(model, torch.zeros(1, N), "norse", factor)
    for factor in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"time_scaling_factor: got .*expected a positive number"):
            nf.to_nir(model, time_scaling_factor=factor)
    bio = nf.SequentialState(torch.nn.Linear(N, N), nf.LIFCell(nf.LIFParameters.bio_default(), dt=1))
    assert nf.to_nir(bio, time_scaling_factor=1).nodes["_1"].tau_mem[0] == pytest.approx(10)


def test_time_scaling_factor_leaves_results_alone():
    model = nf.SequentialState(strong(torch.nn.Linear(N, N)), nf.LIFCell(), nf.LIBoxCell(), nf.LICell())
    graph = nf.to_nir(model, time_scaling_factor=1000)
    np.testing.assert_allclose(graph.nodes["_1"].tau_mem, 10.0)
    x = inputs(N)
    torch.testing.assert_close(run(nf.from_nir(graph, dt=1.0), x), run(model, x))


def test_scale_returns():
    model = nf.SequentialState(Scale(torch.tensor(3.0)), nf.LIBoxCell())
    check_equal(model, nf.from_nir(nf.to_nir(model, torch.zeros(1, N))), inputs(N))


# What Norse does. Norse 1.1.0 reads and writes with functions that nirtorch deprecated.


deprecated = pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")


def conv2d():
    return nir.Conv2d((6, 6), array(-2, 2, 3, 2, 3, 2), (2, 1), (1, 0), (1, 2), 1, array(-1, 1, 3))


GRAPHS = {
    "LIF": lambda: nir.NIRGraph.from_list(lif()),
    "CubaLIF": lambda: nir.NIRGraph.from_list(cuba_lif()),
    "IF": lambda: nir.NIRGraph.from_list(nir.IF(np.ones(N, np.float32), array(0.5, 1.0))),
    "Affine": lambda: nir.NIRGraph.from_list(nir.Affine(array(-1, 1, N, N), array(-1, 1)), lif()),
    "Linear": lambda: nir.NIRGraph.from_list(nir.Linear(array(-1, 1, N, 3)), lif()),
    "convolution": lambda: nir.NIRGraph.from_list(
        conv2d(),
        nir.SumPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0])),
        nir.Flatten(np.array([3, 2, 3]), 1, -1),
        type_check=False,
    ),
    "recurrent LIF": lambda: recurrent_graph(lif()),
    "recurrent CubaLIF": lambda: recurrent_graph(cuba_lif()),
}


@deprecated
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("dt", [0.001, 0.0003])
def test_graph_runs_as_in_norse(norse, name, dt):
    graph = GRAPHS[name]()
    x = inputs(*{"Linear": (3,), "convolution": (2, 6, 6)}.get(name, (N,)), steps=3 if name == "convolution" else 100)
    check_equal(norse.from_nir(graph, dt=dt), nf.from_nir(graph, dt=dt), x)


@deprecated
@pytest.mark.parametrize("dt", [0.001, 0.0003])
def test_reset_by_subtraction_as_in_norse(norse, dt):
    node = nir.NIRGraph.from_list(cuba_lif())
    check_equal(
        norse.from_nir(node, reset_method=norse.functional.reset.reset_subtract, dt=dt),
        nf.from_nir(node, reset_method=nf.reset_subtract, dt=dt),
        inputs(N),
    )


def model_of(library, parameters):
    """The modules that Norse 1.1.0 can write and read, with parameters per neuron: HDF5 does not compress single values."""
    lif_p, box_p, iaf_p = parameters
    torch.manual_seed(1)
    return library.SequentialState(
        strong(torch.nn.Linear(3, N)),
        library.LIFBoxCell(library.LIFBoxParameters(**box_p)),
        strong(torch.nn.Linear(N, N)),
        library.LIFCell(library.LIFParameters(**lif_p)),
        strong(torch.nn.Linear(N, N)),
        library.IAFCell(library.IAFParameters(**iaf_p)),
    )


def parameters():
    box = {"tau_mem_inv": uniform(50, 200, N), "v_leak": uniform(-0.1, 0.1, N), "v_th": uniform(0.5, 1, N)}
    leaky = box | {"v_leak": torch.zeros(N), "tau_syn_inv": uniform(100, 300, N), "v_reset": torch.zeros(N)}
    return leaky, box | {"v_reset": torch.zeros(N)}, {"v_th": uniform(0.5, 1, N), "v_reset": torch.zeros(N)}


@deprecated
def test_nodes_are_those_of_norse(norse):
    """With dt=1: Norse 1.1.0 multiplies time constants with dt, which its successor does not."""
    p = parameters()
    expected = norse.to_nir(model_of(norse, p), torch.zeros(1, 3), dt=1)
    graph = nf.to_nir(model_of(nf, p))
    assert len(graph.nodes) == len(expected.nodes)
    for index in range(6):
        node, other = graph.nodes[f"_{index}"], expected.nodes[str(index)]
        assert type(node) is type(other)
        for name, value in vars(other).items():
            # See test_norse_computes_what_we_write for the weights of the input.
            if name not in ("metadata", "input_type", "output_type", "w_in"):
                np.testing.assert_allclose(getattr(node, name), value, rtol=1e-6, err_msg=name)


@deprecated
def test_norse_computes_what_we_write(norse, tmp_path):
    model, x = model_of(nf, parameters()), inputs(3)
    nir.write(tmp_path / "model.nir", nf.to_nir(model))
    check_equal(model, norse.from_nir(str(tmp_path / "model.nir")), x)


def test_accelerated_model_returns(norse):
    model = model_of(norse, parameters())
    nf.accelerate(model, report=None)
    check_equal(model, nf.from_nir(nf.to_nir(model)), inputs(3))


@deprecated
def test_file_of_norse(norse, tmp_path):
    graph = norse.to_nir(model_of(norse, parameters()), torch.zeros(1, 3), dt=1)
    nir.write(tmp_path / "model.nir", graph)
    expected = norse.from_nir(nir.read(tmp_path / "model.nir", type_check=False))
    check_equal(expected, nf.from_nir(tmp_path / "model.nir"), inputs(3))


@deprecated
def test_time_constants_of_norse_with_its_default_dt(norse):
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor([50.0, 200.0]), v_leak=torch.zeros(2), v_th=torch.ones(2))
    model = norse.SequentialState(norse.LIFBoxCell(p), torch.nn.Linear(2, 2))
    cell = nf.from_nir(norse.to_nir(model, torch.zeros(1, 2)), dt=1e-6).get_submodule("0")
    torch.testing.assert_close(cell.dt * cell.p.tau_mem_inv, 0.001 * p.tau_mem_inv)


def test_kept_file_of_norse():
    """A file that Norse 1.1.0 wrote as above, with the input and output of Norse's own from_nir."""
    with np.load(FOLDER / "norse_1_1_0.npz") as golden:
        x, expected = (torch.from_numpy(golden[name]) for name in ("input", "output"))
    assert expected.sum() > 0
    assert torch.equal(run(nf.from_nir(FOLDER / "norse_1_1_0.nir"), x), expected)


# Errors.


@pytest.mark.parametrize("function", [nf.to_nir, nf.from_nir])
@pytest.mark.parametrize("package", ["nir", "nirtorch"])
def test_missing_packages_are_named(monkeypatch, function, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"got no package '{package}'.*pip install 'norse-fast\[nir\]'"):
        function(nf.LIFCell())


BAD = {
    "neuron": (nf.LSNNCell(), TypeError, "got a LSNNCell, expected modules that have a counterpart in NIR"),
    "PyTorch module": (
        nf.SequentialState(torch.nn.Linear(2, 2), torch.nn.ReLU()),
        TypeError,
        "got a ReLU, expected modules that have a counterpart",
    ),
    "batch": (torch.nn.Flatten(0), ValueError, "got a Flatten with start_dim=0.*batch"),
    "padding": (torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), ValueError, "with padding_mode='reflect'"),
    "ceil": (torch.nn.AvgPool2d(2, ceil_mode=True), ValueError, "AvgPool2d with ceil_mode=True, expected False"),
    "count": (torch.nn.AvgPool2d(2, 2, 1, count_include_pad=False), ValueError, "with count_include_pad=False"),
    "norm": (torch.nn.LPPool2d(2, 2), ValueError, "LPPool2d with norm_type=2, expected 1"),
    "reduction": (nf.LI(output="mean"), ValueError, "got a LI with output='mean', expected 'all'"),
    "outputs": (
        nf.SequentialState(nf.LIFCell(), return_hidden=True),
        ValueError,
        "return_hidden=True; set it to False",
    ),
    "feedback": (
        nf.RecurrentSequential(nf.LIFCell(), nf.LIFCell(), output_modules=[0, 1]),
        ValueError,
        r"output_modules=\[0, 1\], expected one",
    ),
    "shape": (nf.SequentialState(nf.LIFCell(), torch.nn.Linear(2, 2)), ValueError, "type check rejects.*sample_data"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_nir_cannot_say_is_an_error(name):
    module, error, message = BAD[name]
    with pytest.raises(error, match=message):
        nf.to_nir(module)


def test_without_type_check_shapes_may_be_unknown():
    graph = nf.to_nir(nf.SequentialState(nf.LIFCell(), torch.nn.Linear(2, 2)), type_check=False)
    assert graph.nodes["_0"].tau_mem.shape == (1,)


def test_sample_without_batch():
    with pytest.raises(ValueError, match=r"sample_data: got shape \(3,\), expected \(B, \.\.\.\)"):
        nf.to_nir(nf.SequentialState(nf.LIFCell()), torch.zeros(3))
    with pytest.raises(ValueError, match=r"sample_data: got shape \(1, 3\), expected \(T, B, \.\.\.\)"):
        nf.to_nir(nf.SequentialState(nf.LIF()), torch.zeros(1, 3))


def test_model_name_is_deprecated():
    with pytest.warns(DeprecationWarning, match="model_name"):
        nf.to_nir(nf.LIFCell(), model_name="model")


def test_unknown_nodes_are_named():
    graph = nir.NIRGraph.from_list(nir.I(np.ones(3)), nir.Threshold(np.ones(3)))
    with pytest.raises(ValueError, match="got a graph with I, Threshold, expected only Affine, AvgPool2d"):
        nf.from_nir(graph)
