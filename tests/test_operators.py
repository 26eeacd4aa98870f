"""The raw operators: what torch.library.opcheck demands, and torch.compile without graph breaks."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.outputs import NUMBERS

from .models import FEED_FORWARD, Model, fields, model_id, random_params, random_state
from .opcheck import opcheck

OPTIONS = [(sequence, per_neuron) for sequence in (True, False) for per_neuron in (True, False)]


def forward_arguments(
    model: Model, generator, sequence, per_neuron, dtype=torch.float32, checkpoint=False, record=False, output=0
):
    shape = (2, 5)
    x = torch.rand((70, *shape) if sequence else shape, generator=generator).to(dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    state = fields(random_state(model, shape, compute, generator)).values()
    p = random_params(model, shape[-1:] if per_neuron else (), compute, generator)
    params = attrgetter(*model.neuron.params)(p)
    params = model.neuron.make_coefficients(params, 0.001)
    return (x, *state, *(torch.as_tensor(v) for v in params), 0.001, sequence, checkpoint, record, output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("sequence", "per_neuron"), OPTIONS)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_opcheck_forward(model: Model, sequence: bool, per_neuron: bool, dtype: torch.dtype, generator):
    for checkpoint, record in [(False, False), (True, True)]:
        arguments = forward_arguments(model, generator, sequence, per_neuron, dtype, checkpoint, record)
        opcheck(model.neuron.forward_op, arguments, traced=record and per_neuron and dtype is torch.float32)


@pytest.mark.parametrize(("sequence", "per_neuron"), OPTIONS)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_opcheck_backward(model: Model, sequence: bool, per_neuron: bool, generator):
    arguments = forward_arguments(model, generator, sequence, per_neuron, checkpoint=True)
    for wanted in [(True, True), (False, True), (True, False)]:
        check_backward(model, arguments, sequence, *wanted, traced=sequence and per_neuron)


def check_backward(
    model: Model, arguments, sequence: bool, want_input: bool, want_params: bool, kind: int = 0, traced: bool = False
):
    states = len(model.neuron.state)
    output, *rest = model.neuron.forward_op(*arguments)
    head = (
        *arguments[: 1 + states + len(model.neuron.kernel_params)],
        torch.tensor(10.0),
        rest[states],
        torch.ones_like(output) if output.is_floating_point() else None,
        *([None] * states),
        [],
        0,
        kind,
        0.001,
        sequence,
    )
    opcheck(model.neuron.backward_op, (*head, want_input, want_params, [], 0), traced)
    if want_input and want_params and model.spikes:
        *_, distances = model.neuron.backward_op(*head, False, False, [], 1)
        derivatives = [torch.full_like(u, 1e-3) for u in distances]
        with pytest.raises(RuntimeError, match="no derivatives are taken"):
            model.neuron.backward_op(*head, False, False, derivatives, 1)
        opcheck(model.neuron.backward_op, (*head, False, False, [], 1), traced)
        opcheck(model.neuron.backward_op, (*head, True, True, derivatives, 2), traced)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("kind", sorted({number for number in NUMBERS.values() if number}))
def test_opcheck_of_outputs(kind: int, sequence: bool, dtype: torch.dtype, generator):
    model = FEED_FORWARD[0]
    arguments = forward_arguments(model, generator, sequence, False, dtype, checkpoint=True, output=kind)
    traced = dtype is torch.float32
    opcheck(model.neuron.forward_op, arguments, traced)
    check_backward(model, arguments, sequence, True, True, kind, traced)


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


#: Those that differ most: in what they take, in states, in parameters. `make test-compile` runs all.
COMPILED = (
    "lif_feed_forward_step",
    "lif_adex_refrac_feed_forward_step",
    "izhikevich_feed_forward_step",
    "coba_lif_feed_forward_step",
)


def with_few_compiled(models: list[Model]) -> list[Any]:
    slow = pytest.mark.slow_to_compile
    return [pytest.param(m, id=m.name, marks=[] if m.name in COMPILED else slow) for m in models]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("model", with_few_compiled([m for m in FEED_FORWARD if m.layer]))
def test_layers_compile_without_graph_break(model: Model, plain: bool, generator):
    """With nothing given, and with parameters for each neuron and a state."""
    layer = model.layer() if plain else model.layer(random_params(model, (5,), torch.float32, generator))
    state = None if plain else random_state(model, (2, 5), torch.float32, generator)
    x = (3 * torch.rand(40, 2, 5, generator=generator)).requires_grad_()
    output, final = layer(x, state)
    fused, fused_final = compiled(layer)(x, state)
    assert torch.equal(output, fused)
    for name, value in fields(final).items():
        assert torch.equal(value, fields(fused_final)[name])
    gradient = torch.randn(x.shape, generator=generator)
    expected = torch.autograd.grad(output, x, gradient)[0]
    assert torch.equal(torch.autograd.grad(fused, x, gradient)[0], expected)


@pytest.mark.parametrize("model", with_few_compiled([m for m in FEED_FORWARD if m.cell]))
def test_cells_compile_without_graph_break(model: Model, generator):
    cell = model.cell()

    def loop(x):
        state, total = None, 0.0
        for frame in x:
            output, state = cell(frame, state)
            total = total + output
        return total

    x = (3 * torch.rand(4, 2, 5, generator=generator)).requires_grad_()
    expected, actual = loop(x), compiled(loop)(x)
    assert torch.equal(expected, actual)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (expected, actual)]
    assert torch.equal(*gradients)


def test_networks_compile_without_graph_break(generator):
    model = nf.SequentialState(
        torch.nn.Linear(4, 6), nf.LIF(), torch.nn.Linear(6, 5), nf.LIFRecurrent(5, 5), nf.LI(), torch.nn.Linear(5, 2)
    )
    x = torch.rand(6, 2, 4, generator=generator)
    output, _ = model(x)
    fused, _ = compiled(model)(x)
    torch.testing.assert_close(fused, output)
    expected = torch.autograd.grad(output.sum(), list(model.parameters()))
    for actual, value in zip(torch.autograd.grad(fused.sum(), list(model.parameters())), expected):
        torch.testing.assert_close(actual, value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_inductor(generator):
    """The default compiler, once, because it takes long."""
    torch._dynamo.reset()
    layer = nf.LIF()
    x = torch.rand(40, 2, 5, generator=generator, requires_grad=True)
    fused, _ = torch.compile(layer, fullgraph=True)(x)
    fused.sum().backward()
    expected = torch.autograd.grad(layer(x)[0].sum(), x)[0]
    assert torch.equal(x.grad, expected)
