"""What every neuron module promises, whatever the model: over the rows of the table that have modules."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from norse_fast._extension import kernels_disabled

from .models import FEED_FORWARD, MODELS, Model, fields, model_id, random_params, random_state

STEPS, BATCH, INPUTS, NEURONS = 37, 3, 5, 7
LAYERS = [m for m in MODELS if m.layer is not None and m.kind == "ff"]
RECURRENT_LAYERS = [m for m in MODELS if m.layer is not None and m.kind == "rec"]
WITH_MODULES = [*LAYERS, *RECURRENT_LAYERS]

for_layers = pytest.mark.parametrize("model", LAYERS, ids=model_id)
for_recurrent = pytest.mark.parametrize("model", RECURRENT_LAYERS, ids=model_id)
for_modules = pytest.mark.parametrize("model", WITH_MODULES, ids=model_id)
for_steps = pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequence(model: Model, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Input over time that makes every model spike now and then."""
    scale = 2.0 if model.name.startswith("iaf") else 12.0
    width = NEURONS if model.kind == "ff" else INPUTS
    return (torch.rand((STEPS, BATCH, width), generator=generator(), dtype=torch.float64) * scale - scale / 4).to(dtype)


def build(model: Model, module, *args, **kwargs) -> torch.nn.Module:
    torch.manual_seed(5)
    return module(*(() if model.kind == "ff" else (INPUTS, NEURONS)), *args, **kwargs)


def step_through(cell, x):
    """Outputs and states of a cell over time, from its own initial state."""
    outputs, states, state = [], [], None
    for x_t in x:
        output, state = cell(x_t, state)
        outputs.append(output)
        states.append(fields(state))
    return torch.stack(outputs), {name: torch.stack([s[name] for s in states]) for name in states[0]}


def assert_it_spikes(model: Model, output: torch.Tensor) -> None:
    if "method" in str(model.params._fields) or model.nested:
        assert 0 < output.mean() < 1


@for_layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_equals_stepping_the_cell(model, dtype):
    x = sequence(model, dtype)
    with torch.no_grad():
        output, states = step_through(build(model, model.cell), x)
        layer_output, last = build(model, model.layer)(x)
        _, recorded = build(model, model.layer, record_states=True)(x)
    assert_it_spikes(model, output)
    assert torch.equal(layer_output, output)
    assert fields(last).keys() == fields(recorded).keys() == states.keys()
    for name in states:
        assert torch.equal(fields(last)[name], states[name][-1])
        assert torch.equal(fields(recorded)[name], states[name])


@for_recurrent
def test_recurrent_layer_equals_stepping_the_cell(model):
    x = sequence(model, torch.float64)
    with torch.no_grad():
        output, states = step_through(build(model, model.cell).double(), x)
        layer_output, last = build(model, model.layer).double()(x)
        _, recorded = build(model, model.layer, record_states=True).double()(x)
    assert_it_spikes(model, output)
    assert torch.equal(layer_output, output)
    for name in states:
        # One matrix product for all steps rounds differently from one per step.
        torch.testing.assert_close(fields(last)[name], states[name][-1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(fields(recorded)[name], states[name], rtol=1e-10, atol=1e-12)


@for_steps
@pytest.mark.parametrize("record", [False, True])
def test_gradients_are_those_of_autograd(model, record):
    """Over more than one segment of the backward recomputation, with parameters per neuron."""

    def gradients():
        x = sequence(model, torch.float64).requires_grad_()
        g = generator(2)
        state = random_state(model, (BATCH, NEURONS), torch.float64, g)
        p = random_params(model, (NEURONS,), torch.float64, g)
        leaves = [x, *fields(state).values(), *model.neuron.read_params(p)]
        for leaf in leaves:
            leaf.requires_grad_()
        output, states = model.neuron(x, state, p, 0.001, sequence=True, record=record)
        loss = sum((s * torch.rand(s.shape, generator=g, dtype=s.dtype)).sum() for s in fields(states).values())
        (loss + (output * torch.rand(output.shape, generator=g, dtype=output.dtype)).sum()).backward()
        return [leaf.grad for leaf in leaves]

    actual = gradients()
    with kernels_disabled():
        expected = gradients()
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, torch.zeros_like(a) if e is None else e, rtol=1e-9, atol=1e-12)
    assert any(a.abs().sum() > 0 for a in actual)


def replace_parameters(p, convert):
    """Parameters with every floating-point tensor converted, also those of nested tuples; the steepness stays."""
    changes = {}
    for name in p._fields:
        value = getattr(p, name)
        if hasattr(value, "_fields"):
            changes[name] = replace_parameters(value, convert)
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and name != "alpha":
            changes[name] = convert(value)
    return p._replace(**changes)


def parameter_values(p):
    for value in p:
        if hasattr(value, "_fields"):
            yield from parameter_values(value)
        elif isinstance(value, torch.Tensor):
            yield value


@for_modules
@pytest.mark.parametrize("which", ["layer", "cell"])
def test_parameters_may_be_per_neuron(model, which):
    x = sequence(model)
    x = x if which == "layer" else x[0]
    kind = getattr(model, which)
    each = replace_parameters(model.params(), lambda t: t.expand(NEURONS).clone())
    output, state = build(model, kind)(x)
    output_each, state_each = build(model, kind, each)(x)
    assert torch.equal(output_each, output)
    for name, value in fields(state).items():
        assert torch.equal(fields(state_each)[name], value)


@for_modules
@pytest.mark.parametrize("which", ["layer", "cell"])
def test_parameters_may_be_numbers(model, which):
    # Powers of two, so that a product in double and one in float32 round to the same.
    p = replace_parameters(model.params(), lambda t: 2.0 ** torch.floor(torch.log2(t + 0.125)))
    numbers = replace_parameters(p, float)
    x = sequence(model)
    x = x if which == "layer" else x[0]
    kind = getattr(model, which)
    output, state = build(model, kind, p, dt=2.0**-10)(x)
    output_numbers, state_numbers = build(model, kind, numbers, dt=2.0**-10)(x)
    assert torch.equal(output_numbers, output)
    for name, value in fields(state).items():
        assert torch.equal(fields(state_numbers)[name], value)


@for_modules
@pytest.mark.parametrize("which", ["layer", "cell"])
def test_parameters_may_be_learned(model, which):
    x = sequence(model)
    x = x if which == "layer" else x[0]
    p = replace_parameters(model.params(), torch.nn.Parameter)
    output, state = build(model, getattr(model, which), p)(x)
    (output.sum() + sum(s.sum() for s in fields(state).values())).backward()
    learned = [value for value in parameter_values(p) if isinstance(value, torch.nn.Parameter)]
    assert learned
    assert all(value.grad is not None and value.grad.isfinite().all() for value in learned)


@for_modules
@pytest.mark.parametrize("which", ["layer", "cell"])
def test_bare_neurons_can_be_differentiated_without_touching_the_defaults(model, which):
    x = sequence(model)
    output, _ = build(model, getattr(model, which))(x if which == "layer" else x[0])
    assert output.requires_grad
    output.sum().backward()
    for value in parameter_values(model.params()):
        assert not value.requires_grad
        assert value.grad is None


def check_dtype(model, dtype, expected, convert):
    x = sequence(model).clamp(0, 20).to(dtype)
    layer, cell = convert(build(model, model.layer)), convert(build(model, model.cell))
    output, state = layer(x)
    assert output.dtype == cell(x[0])[0].dtype == expected
    again, _ = layer(x, state)
    assert again.shape == output.shape


@for_modules
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(model, dtype):
    check_dtype(model, dtype, dtype, lambda module: module.to(dtype))


@for_layers
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32])
def test_integers(model, dtype):
    check_dtype(model, dtype, torch.float32, lambda module: module)


@for_modules
@pytest.mark.parametrize("which", ["layer", "cell"])
def test_pickle_and_deepcopy(model, which):
    module = build(model, getattr(model, which))
    x = sequence(model)
    x = x if which == "layer" else x[0]
    output, state = module(x)

    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        twin_output, twin_state = twin(x)
        assert torch.equal(twin_output, output)
        assert type(twin_state) is type(state)
        if model.kind == "rec":
            twin_output.sum().backward()
            assert twin.recurrent_weights.grad.diagonal().count_nonzero() == 0
            assert twin.recurrent_weights is not module.recurrent_weights

    detached = type(state)(*_detach(state))
    assert_equal_tuples(pickle.loads(pickle.dumps(detached)), detached)
    assert_equal_tuples(pickle.loads(pickle.dumps(model.params())), model.params())


def _detach(state):
    return [type(s)(*_detach(s)) if hasattr(s, "_fields") else s.detach() for s in state]


def assert_equal_tuples(a, b):
    assert type(a) is type(b)
    for x, y in zip(a, b):
        if hasattr(x, "_fields"):
            assert_equal_tuples(x, y)
        elif isinstance(x, torch.Tensor):
            assert torch.equal(x, y)
        else:
            assert x == y


@for_recurrent
def test_neurons_may_excite_themselves_only_if_told_to(model):
    x = sequence(model)
    module = build(model, model.layer)
    output, state = module(x)
    (output.sum() + sum(s.sum() for s in fields(state).values())).backward()
    assert module.recurrent_weights.diagonal().count_nonzero() == 0
    assert module.recurrent_weights.grad.diagonal().count_nonzero() == 0
    assert build(model, model.layer, autapses=True).recurrent_weights.diagonal().count_nonzero() == NEURONS


@for_recurrent
def test_a_state_of_another_kind_is_named(model):
    cell = build(model, model.cell)
    with pytest.raises(TypeError, match=r"state: got Foreign, expected .*z"):
        cell(sequence(model)[0], Foreign(torch.zeros(BATCH, NEURONS)))


class Foreign(tuple):
    """Not a state."""

    def __new__(cls, *values):
        return super().__new__(cls, values)
