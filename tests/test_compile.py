"""torch.compile with its default backend: the results and gradients of eager mode, for any batch and any number of steps.

The first size is compiled as it is, the second with a symbol in its place; ``aot_eager`` shows neither what the compiler
makes of symbols nor what it makes of operators. ``make test-compile`` runs all of this, ``pytest`` alone a selection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.outputs import NUMBERS

from .models import FEED_FORWARD, MODELS, Model, fields, model_id, random_params

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    # The compiler looks for the gradient of every argument, also of the states that a cell hands on.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
slow = pytest.mark.slow_to_compile

#: (T, B): another batch second, then other lengths, around the borders of segments, which are 16 or 32 steps long.
SHAPES = [
    *((40, 8), (40, 5), (33, 5), (65, 3), (64, 3), (32, 2), (31, 4), (17, 4), (16, 2), (15, 3), (2, 3)),
    *((1, 3), (1, 2), (1, 1), (40, 1)),
]
#: A few of them, and the batches of cells.
FEW = [(40, 8), (40, 5), (17, 3), (16, 4), (1, 2)]
BATCHES = [(4, 8), (4, 5), (4, 3), (4, 1), (4, 2)]
INPUTS, NEURONS = 4, 6

LAYERS = [m for m in FEED_FORWARD if m.layer]
CELLS = [m for m in FEED_FORWARD if m.cell]
RECURRENT_LAYERS = [m for m in MODELS if m.kind == "rec" and m.layer]
WEIGHTED_CELLS = [m for m in MODELS if m.kind != "ff" and m.cell]


def compiled(function: Callable[..., Any], fullgraph: bool = True, **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=fullgraph, **options)


def learned(params: Any) -> dict[str, torch.Tensor]:
    """The parameters of a neuron, which from now on are learned."""
    values = {f"p.{name}": value for name, value in fields(params).items() if isinstance(value, torch.Tensor)}
    return {name: value.requires_grad_() for name, value in values.items() if name.split(".")[-1] != "alpha"}


def make(model: Model, factory: Callable[..., torch.nn.Module], shape: tuple[int, ...], dtype: torch.dtype, generator):
    """A module that spikes, and all of it that is learned."""
    params = random_params(model, shape, dtype if dtype == torch.float64 else torch.float32, generator)
    leaves = learned(params)
    sizes = () if model.kind == "ff" else (INPUTS, NEURONS)
    torch.manual_seed(1)
    module = factory(*sizes, p=params).to(dtype)
    return module, {**leaves, **dict(module.named_parameters())}


def make_input(model: Model, *leading: int, generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width, scale = (NEURONS, 3) if model.kind == "ff" else (INPUTS, 60)
    return (scale * torch.rand(*leading, width, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def make_state(model: Model, module: torch.nn.Module, x: torch.Tensor, generator) -> Any:
    """A state that needs a gradient, for one step of an input or all."""
    values = {}
    for name in fields(module.initial_state(x)):
        leading = x.shape[-2:-1]
        value = torch.rand(*leading, NEURONS, generator=generator, dtype=x.dtype)
        values[name] = ((value < 0.3).to(x.dtype) if name.split(".")[-1] == "z" else value).requires_grad_()
    return model.pack(model.state, values)


def run(function: Callable[..., Any], arguments: tuple[Any, ...], leaves: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Outputs, states, and the gradients of a random function of all of them."""
    output, state = function(*arguments)
    results = {"output": output, **{f"state.{name}": value for name, value in fields(state).items()}}
    generator = torch.Generator().manual_seed(2)
    chosen = [value for value in results.values() if value.requires_grad]
    seeds = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in chosen]
    gradients = torch.autograd.grad(chosen, list(leaves.values()), seeds, allow_unused=True, materialize_grads=True)
    return {**results, **{f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients)}}


def stepped(cell: Callable[..., Any]) -> Callable[..., Any]:
    """A cell over time, in a loop that is not compiled."""

    def loop(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        outputs = []
        for frame in x:
            output, state = cell(frame, state)
            outputs.append(output)
        return torch.stack(outputs), state

    return loop


def assert_same(actual: dict[str, Any], expected: dict[str, Any], exact: bool, where: str) -> None:
    """Bit for bit where nothing is added up but in the kernel; gradients of parameters are, over the batch."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if exact and not name.startswith("gradient of p"):
            assert torch.equal(actual[name], value), f"{name} at {where}"
            continue
        tolerance = 1e-10 if value.dtype == torch.float64 else 2e-5
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n} at {where}: {m}"
        )


def check(
    model: Model,
    factory: Callable[..., torch.nn.Module] | None,
    shapes: list[tuple[int, ...]],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    per_neuron: bool = False,
    given: bool = True,
    options: dict[str, Any] | None = None,
) -> None:
    """Run a module eagerly and compiled, on one shape after the other: with one state that is given, or with none."""
    assert factory is not None
    over_time = stepped if factory is model.cell else lambda layer: layer
    module, leaves = make(model, factory, (NEURONS,) if per_neuron else (), dtype, generator)
    # Recurrent modules ask a tensor for the size of the state that they start from.
    function = compiled(module, fullgraph=given or model.kind == "ff", **(options or {}))
    for leading in shapes:
        x = make_input(model, *leading, generator=generator, dtype=dtype)
        state = make_state(model, module, x, generator) if given else None
        wanted = {"input": x, **({f"state.{n}": v for n, v in fields(state).items()} if given else {}), **leaves}
        expected = run(over_time(module), (x, state), wanted)
        assert leading != shapes[0] or expected["output"].any()
        assert_same(run(over_time(function), (x, state), wanted), expected, model.kind == "ff", str(leading))


quickly = {nf.lif_feed_forward_step, nf.lif_adex_refrac_feed_forward_step, nf.lif_step, nf.coba_lif_step}


def some(models: list[Model]) -> list[Any]:
    """The models as parameters of a test, most of them slow."""
    return [pytest.param(model, marks=() if model.step in quickly else slow, id=model.name) for model in models]


@pytest.mark.parametrize("model", some(LAYERS))
def test_layers(model: Model, generator):
    check(model, model.layer, SHAPES, generator, per_neuron=True)


@pytest.mark.parametrize("model", some(RECURRENT_LAYERS))
def test_recurrent_layers(model: Model, generator):
    check(model, model.layer, FEW, generator)


@slow
@pytest.mark.parametrize("model", RECURRENT_LAYERS, ids=model_id)
def test_recurrent_layers_at_all_lengths(model: Model, generator):
    check(model, model.layer, SHAPES, generator, torch.float64, per_neuron=True)


@pytest.mark.parametrize("model", some(CELLS))
def test_cells(model: Model, generator):
    check(model, model.cell, BATCHES, generator, per_neuron=True)


@slow
@pytest.mark.parametrize("model", WEIGHTED_CELLS, ids=model_id)
def test_cells_with_weights(model: Model, generator):
    check(model, model.cell, BATCHES, generator)


@slow
@pytest.mark.parametrize("model", [*LAYERS, *RECURRENT_LAYERS], ids=model_id)
def test_from_the_initial_state(model: Model, generator):
    check(model, model.layer, SHAPES, generator, given=False)


@slow
@pytest.mark.parametrize("model", [*CELLS, *WEIGHTED_CELLS], ids=model_id)
def test_cells_from_the_initial_state(model: Model, generator):
    check(model, model.cell, BATCHES, generator, given=False)


@pytest.mark.parametrize("given", [pytest.param(False, marks=slow, id="initial"), pytest.param(True, id="given")])
@pytest.mark.parametrize("model", some([m for m in MODELS if m.layer or m.cell]))
def test_graphs(model: Model, given: bool, generator):
    """One graph serves all lengths and batches; cells have another for their first step, which makes the state."""
    for factory in {model.layer, model.cell} - {None}:
        cell = factory is model.cell
        module, leaves = make(model, factory, (), torch.float32, generator)
        torch._dynamo.utils.counters.clear()
        function = compiled(module, fullgraph=given or model.kind == "ff", dynamic=True, backend="aot_eager")
        for leading in [
            (40, 8),
            (33, 5),
            (65, 3),
            (64, 3),
            (32, 2),
            (31, 4),
            (17, 4),
            (16, 2),
            (15, 3),
            (2, 3),
            (9, 7),
            (3, 6),
        ]:
            x = make_input(model, *leading, generator=generator)
            state = make_state(model, module, x, generator) if given else None
            output, state = function(x[0] if cell else x, state)
            if cell:
                output, state = function(x[1], state)
            torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == (2 if cell and not given else 1)


@slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_dtypes(model: Model, dtype: torch.dtype, generator):
    check(model, model.layer, FEW, generator, dtype)


@slow
@pytest.mark.parametrize("model", [*LAYERS, *RECURRENT_LAYERS], ids=model_id)
def test_symbols_from_the_start(model: Model, generator):
    check(model, model.layer, FEW, generator, options={"dynamic": True})


@slow
@pytest.mark.parametrize("model", [*LAYERS, *RECURRENT_LAYERS], ids=model_id)
def test_recorded_states(model: Model, generator):
    def factory(*sizes: int, p: Any) -> torch.nn.Module:
        return model.layer(*sizes, p=p, record_states=True)

    check(model, factory, FEW, generator)


@slow
@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if kind != "all"])
def test_outputs(kind: str, generator):
    """Bytes have no gradient; a reduction's is that of all steps."""
    model = next(m for m in LAYERS if m.step is nf.lif_feed_forward_step)

    def factory(*sizes: int, p: Any) -> torch.nn.Module:
        return nf.LIF(*sizes, p=p, output=kind)

    check(model, factory, FEW, generator)


@slow
@torch.no_grad()
@pytest.mark.parametrize("model", [*LAYERS, *RECURRENT_LAYERS], ids=model_id)
def test_without_gradients(model: Model, generator):
    module, _ = make(model, model.layer, (), torch.float32, generator)
    function = compiled(module, fullgraph=model.kind == "ff")
    for leading in SHAPES:
        x = make_input(model, *leading, generator=generator)
        output, state = module(x)
        actual, actual_state = function(x)
        assert torch.equal(actual, output)
        assert all(torch.equal(fields(actual_state)[name], value) for name, value in fields(state).items())


def test_a_network_in_training(generator):
    """The last batch of an epoch is a short one, and other lengths follow."""
    torch.manual_seed(1)
    network = nf.SequentialState(
        torch.nn.Linear(INPUTS, NEURONS),
        nf.LIF(),
        nf.LIFRecurrent(NEURONS, NEURONS),
        torch.nn.Linear(NEURONS, 3),
        nf.LI(),
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)
    other = copy.deepcopy(network)
    functions = {network: network, other: compiled(other, fullgraph=False)}
    optimizers = [torch.optim.Adam(model.parameters(), 0.05) for model in functions]
    before = [parameter.clone() for parameter in network.parameters()]
    for steps in (40, 20, 65):
        for batch in (8, 8, 5):
            x = 20 * torch.rand(steps, batch, INPUTS, generator=generator, dtype=torch.float64)
            for optimizer, function in zip(optimizers, functions.values()):
                optimizer.zero_grad()
                function(x)[0].pow(2).mean().backward()
                optimizer.step()
            for actual, expected in zip(other.parameters(), network.parameters()):
                torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters()))


def test_kernels_disabled_acts_on_what_is_compiled():
    """It is compiled again where that changes; no other graph is used, and none breaks."""
    kernels: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        kernels.append(graph.code.count("torch.ops.norse_fast."))
        return graph.forward

    layer = nf.LIF()
    function = torch.compile(lambda x: layer(x)[0], backend=backend, fullgraph=True)
    x = torch.full((3, 1), 5.0)
    expected = function(x)
    with nf.kernels_disabled():
        assert torch.equal(function(x), expected)
        assert torch.equal(function(x), expected)
    assert torch.equal(function(x), expected)
    assert kernels == [1, 0]
