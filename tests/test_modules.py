"""What every module promises, over the table of models."""

from __future__ import annotations

import collections
import contextlib
import copy
import inspect
import io
import pickle
from typing import NamedTuple

import pytest
import torch

import norse_fast as nf
from norse_fast.utils.pytree import tree_map_only

from .models import MODELS, Model, fields, model_id, potential_of, random_params

LAYERS = [model for model in MODELS if model.layer is not None]
CELLS = [model for model in MODELS if model.cell is not None]
MODULES = [
    pytest.param(model, cell, id=f"{model.name}-{'cell' if cell else 'layer'}")
    for model in CELLS
    for cell in (True, False)
    if cell or model.layer is not None
]
INPUTS, NEURONS = 5, 7


def make(model: Model, cell: bool, **kwargs):
    torch.manual_seed(7)
    sizes = () if model.kind == "ff" else (INPUTS, NEURONS)
    factory = model.cell if cell else model.layer
    assert factory is not None
    return factory(*sizes, **kwargs)


def make_input(model: Model, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    width = NEURONS if model.kind == "ff" else INPUTS
    return 60 * torch.randn(*shape, width, generator=generator, dtype=dtype)


def numbers(p):
    """Parameters with every 0-dim tensor as a Python number."""
    return type(p)(
        *(
            numbers(value) if hasattr(value, "_fields") else value.item() if isinstance(value, torch.Tensor) else value
            for value in p
        )
    )


def replace_threshold(p, value):
    """Parameters with another threshold, or another leak potential where there is none."""
    inner = next((name for name in ("lif", "lif_adex") if name in p._fields), None)
    if inner is not None:
        return p._replace(**{inner: replace_threshold(getattr(p, inner), value)})
    return p._replace(**{next(name for name in ("v_th", "v_thresh", "v_leak") if name in p._fields): value})


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_layer_is_its_cell_over_time(model: Model):
    p = random_params(model, (NEURONS,), torch.float64, torch.Generator().manual_seed(1))
    layer, cell = make(model, False, p=p).double(), make(model, True, p=p).double()
    x = make_input(model, 40, 3, dtype=torch.float64)
    output, final = layer(x)
    state, outputs = layer.state_fallback(x), []
    for step in x:
        z, state = cell(step, state)
        outputs.append(z)
    # Only matrix products round differently, because those of the layer are over all steps at once.
    tolerance = {"rtol": 0.0, "atol": 0.0} if model.kind == "ff" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(output, torch.stack(outputs), **tolerance)
    for name, value in fields(state).items():
        torch.testing.assert_close(fields(final)[name], value, msg=name, **tolerance)


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_record_states(model: Model):
    x = make_input(model, 4, 3)
    output, states = make(model, False, record_states=True)(x)
    _, final = make(model, False)(x)
    assert type(states) is model.state
    for name, value in fields(states).items():
        assert value.shape == (4, 3, NEURONS)
        torch.testing.assert_close(value[-1], fields(final)[name], rtol=0, atol=0)
    if "z" in states._fields:
        assert torch.equal(states.z, output)


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recorded_states_do_not_change_with_the_output(model: Model, steps: int, plain: bool):
    """As by a ReLU in place that follows."""
    layer, x = make(model, False, record_states=True), make_input(model, steps, 3)
    with torch.no_grad(), nf.kernels_disabled() if plain else contextlib.nullcontext():
        output, states = layer(x)
        before = {name: value.clone() for name, value in fields(states).items()}
        output.add_(1)
    for name, value in fields(states).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("model", "cell"), MODULES)
@pytest.mark.parametrize("kind", ["default", "numbers", "per_neuron", "parameter"])
def test_kinds_of_parameters(model: Model, cell: bool, kind: str):
    p = model.defaults()
    if kind == "numbers":
        p = numbers(p)
    elif kind == "per_neuron":
        p = random_params(model, (NEURONS,), torch.float32, torch.Generator().manual_seed(1))
    held = torch.nn.ParameterList([torch.full((NEURONS,), 0.9)])
    learnt = held[0]
    if kind == "parameter":
        p = replace_threshold(p, learnt)
    module = make(model, cell, p=p)
    x = make_input(model, 3) if cell else make_input(model, 4, 3)
    output, state = module(x)
    if cell:
        output, state = module(x, state)
    output.sum().backward()
    assert output.shape == (*x.shape[:-1], NEURONS)
    assert torch.isfinite(output).all()
    if kind == "parameter":
        assert learnt.grad is not None
        assert learnt.grad.shape == (NEURONS,)


@pytest.mark.parametrize("model", CELLS, ids=model_id)
def test_defaults_stay_untouched(model: Model):
    shared = [nf.tonic_spiking.s.v, nf.tonic_spiking.s.u]
    if model.default is None:
        shared = [value for value in fields(model.params()).values() if isinstance(value, torch.Tensor)]
    before = [(value, value.clone(), value.requires_grad) for value in shared]
    output, state = make(model, True)(make_input(model, 3))
    (output.sum() + potential_of(state).sum()).backward()
    for value, copied, required in before:
        assert torch.equal(value, copied)
        assert value.requires_grad == required
        assert value.grad is None


@pytest.mark.parametrize("model", CELLS, ids=model_id)
def test_initial_states_are_independent(model: Model):
    cell, x = make(model, True), make_input(model, 3)
    first, second = cell.initial_state(x), cell.initial_state(x)
    for name, value in fields(first).items():
        assert value.data_ptr() != fields(second)[name].data_ptr()
    assert potential_of(first).requires_grad
    assert potential_of(first).is_leaf


@pytest.mark.parametrize("model", CELLS, ids=model_id)
def test_initial_states_take_no_part_where_the_input_does(model: Model):
    x = make_input(model, 3)
    cell = make(model, True)
    assert potential_of(cell.initial_state(x)).requires_grad
    assert not potential_of(cell.initial_state(x.requires_grad_())).requires_grad
    output, _ = cell(x)
    assert output.requires_grad


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("shape", [(), (NEURONS,)], ids=["shared", "per_neuron"])
@pytest.mark.parametrize("model", [model for model in LAYERS if model.kind == "ff"], ids=model_id)
def test_layers_start_from_their_initial_state(model: Model, shape: tuple[int, ...], kernels: bool):
    """Without tensors of it, where one value for all neurons does; that changes no bit of a result or gradient."""
    p = random_params(model, shape, torch.float32, torch.Generator().manual_seed(1))
    learnt = [v.requires_grad_() for n, v in fields(p).items() if isinstance(v, torch.Tensor) and "alpha" not in n]
    x = make_input(model, 70, 3).requires_grad_()
    layer = make(model, False, p=p, record_states=True)
    results = []
    with contextlib.nullcontext() if kernels else nf.kernels_disabled():
        for state in (None, layer.initial_state(x)):
            output, states = layer(x, state)
            last = list(fields(states).values())[-1]  # so that other states have no gradient
            gradients = torch.autograd.grad((output.sum(), last.sum()), [x, *learnt], allow_unused=True)
            with torch.no_grad():
                results.append([output, *fields(states).values(), *gradients, layer(x, state)[0]])
    for actual, expected in zip(*results):
        assert actual is expected is None or torch.equal(actual, expected)


@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_copies(model: Model, cell: bool):
    module = make(model, cell)
    x = make_input(model, 3) if cell else make_input(model, 4, 3)
    expected, state = module(x)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    copies = [pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(saved, weights_only=False)]
    for other in copies:
        assert torch.equal(other(x)[0], expected)
        if hasattr(other, "recurrent_weights") and not other.autapses:
            other(x)[0].sum().backward()
            assert other.recurrent_weights.grad is None or not other.recurrent_weights.grad.diagonal().any()
    detached = tree_map_only(torch.Tensor, torch.Tensor.detach, state)
    loaded = pickle.loads(pickle.dumps(detached))
    assert type(loaded) is type(state)
    for name, value in fields(detached).items():
        assert torch.equal(fields(loaded)[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model", CELLS, ids=model_id)
def test_dtypes(model: Model, dtype: torch.dtype):
    cell = make(model, True).to(dtype)
    x = make_input(model, 3).to(dtype)
    state = None
    for _ in range(3):
        output, state = cell(x, state)
        assert output.dtype == dtype
    assert potential_of(state).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("model", [model for model in CELLS if model.kind == "ff"], ids=model_id)
def test_integers_and_booleans(model: Model):
    for x in (torch.ones(3, NEURONS, dtype=torch.bool), torch.ones(3, NEURONS, dtype=torch.int64)):
        output, _ = make(model, True)(x)
        assert output.dtype == torch.float32
        assert output.shape == x.shape


@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_state_dict(model: Model, cell: bool):
    keys = {
        "ff": [],
        "lin": ["input_weights"],
        "rec": ["input_weights", "recurrent_weights"],
        "mc": ["input_weights", "recurrent_weights", "g_coupling"],
    }
    assert sorted(make(model, cell).state_dict()) == sorted(keys[model.kind])


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_chunks_with_carried_state(model: Model):
    layer, x = make(model, False), make_input(model, 8, 3)
    output, final = layer(x)
    state, parts = None, []
    for chunk in x.split([1, 4, 3]):
        part, state = layer(chunk, state)
        parts.append(part)
    # Products over other numbers of steps may round differently.
    tolerance = {"rtol": 0.0, "atol": 0.0} if model.kind == "ff" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat(parts), output, **tolerance)
    for name, value in fields(final).items():
        torch.testing.assert_close(fields(state)[name], value, msg=name, **tolerance)


@pytest.mark.parametrize("model", [m for m in MODELS if m.kind == "ff"], ids=model_id)
def test_a_state_of_another_kind_is_named(model: Model):
    with pytest.raises(TypeError, match="state: got NoneType, expected a tuple with the fields"):
        model.call(make_input(model, 3), None, (), model.defaults(), 0.001)


@pytest.mark.parametrize(("inputs", "neurons"), [(3, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_widths_of_zero(model: Model, cell: bool, inputs: int, neurons: int):
    """Constructors and plain PyTorch."""
    factory = model.cell if cell else model.layer
    module = factory(*(() if model.kind == "ff" else (inputs, neurons)))
    width = neurons if model.kind == "ff" else inputs
    x = torch.rand(*(() if cell else (5,)), 2, width, requires_grad=True)
    with nf.kernels_disabled():
        output, state = module(x)
        output, state = module(x, state)
        output.sum().backward()
    assert output.shape == (*x.shape[:-1], neurons)
    assert all(value.shape[-1] == neurons for value in fields(state).values())
    assert x.grad.shape == x.shape


def test_widths_of_zero_elsewhere():
    correlation = nf.LIFCorrelation(0, 0)
    assert correlation(torch.ones(1, 0), torch.ones(0, 0), torch.ones(0, 0))[0].shape == (1, 0)
    lifted = nf.Lift(nf.SequentialState(nf.LILinearCell(0, 3), nf.LIFCell()))
    assert lifted(torch.ones(4, 2, 0))[0].shape == (4, 2, 3)
    assert nf.Lift(nf.LIFRecurrentCell(3, 0))(torch.ones(4, 2, 3))[0].shape == (4, 2, 0)


@pytest.mark.parametrize("path", ["kernel", "pytorch"])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_states_of_other_batches(model: Model, cell: bool, path: str):
    """The state of one sample serves all, and that of another batch is an error that names it."""
    module = make(model, cell)
    steps = () if cell else (4,)
    with contextlib.nullcontext() if path == "kernel" else nf.kernels_disabled():
        for before, batch in ((3, 4), (4, 1)):
            _, state = module(make_input(model, *steps, before))
            with pytest.raises(ValueError, match=rf"state[\w.]*: got shape \({before}, 7\), expected .*\({batch}, 7\)"):
                module(make_input(model, *steps, batch), state)
        _, one = module(make_input(model, *steps, 1))
        one = tree_map_only(torch.Tensor, lambda t: t.detach().requires_grad_(), one)
        all_samples = tree_map_only(torch.Tensor, lambda t: t.detach().expand(4, NEURONS).clone().requires_grad_(), one)
        x = make_input(model, *steps, 4)
        outcomes = []
        for state in (one, all_samples):
            output, after = module(x, state)
            loss = output.sum() + sum(value.sum() for value in fields(after).values())
            leaves = list(fields(state).values())
            outcomes.append((output, fields(after), torch.autograd.grad(loss, leaves, materialize_grads=True)))
    (output, after, grads), (expected, after_expected, grads_expected) = outcomes
    assert torch.equal(output, expected)
    for name, value in after_expected.items():
        assert torch.equal(after[name], value), name
    for grad, wanted in zip(grads, grads_expected, strict=True):
        torch.testing.assert_close(grad, wanted.sum(0, keepdim=True), rtol=1e-4, atol=1e-4)


def test_step_functions_take_one_state_for_all_samples():
    """Those whose spikes do not depend on the input of the same step return spikes for each sample nevertheless."""
    one, weights, coupling = torch.rand(1, 3), (torch.rand(3, 2), torch.rand(3, 3)), torch.rand(3, 3)
    lif = nf.LIFFeedForwardState(one, one)
    calls = [
        (nf.ada_lif_step, torch.rand(4, 2), nf.LSNNState(one, one, one, one), weights),
        (nf.lif_mc_step, torch.rand(4, 2), nf.LIFState(one, one, one), (*weights, coupling)),
        (
            nf.lif_mc_refrac_step,
            torch.rand(4, 2),
            nf.LIFRefracState(nf.LIFState(one, one, one), one),
            (*weights, coupling),
        ),
        (nf.lif_mc_feed_forward_step, torch.rand(4, 3), lif, (coupling,)),
        (nf.lif_mc_refrac_feed_forward_step, torch.rand(4, 3), nf.LIFRefracFeedForwardState(lif, one), (coupling,)),
    ]
    for step, x, state, arguments in calls:
        whole = tree_map_only(torch.Tensor, lambda t: t.expand(4, 3).clone(), state)
        actual, expected = step(x, state, *arguments), step(x, whole, *arguments)
        assert torch.equal(actual[0], expected[0])
        for name, value in fields(expected[1]).items():
            assert torch.equal(fields(actual[1])[name].expand(4, 3), value), name
        other = tree_map_only(torch.Tensor, lambda t: t.expand(5, 3).clone(), state)
        with pytest.raises(
            ValueError, match=r"state[\w.]*: got shape \(5, 3\), expected one that broadcasts to \(4, 3\)"
        ):
            step(x, other, *arguments)


#: All classes that take parameters, the firing patterns of Izhikevich's aside.
PARAMETRIZED = {
    name: kind
    for name, kind in vars(nf).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.nn.Module)
    and name not in ("SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell")
    and {"p", "spiking_method"} & set(inspect.signature(kind).parameters)
}


class Lacking(NamedTuple):
    """Parameters of nobody."""

    tau_mem_inv: float = 100.0


def parameters_of(name: str):
    argument = inspect.signature(PARAMETRIZED[name]).parameters.get("p")
    return nf.tonic_spiking.p if argument is None else argument.default


def construct(name: str, p):
    """A module with parameters, or with a firing pattern that has them."""
    signature = inspect.signature(PARAMETRIZED[name]).parameters
    sizes = {k: 3 for k in ("input_size", "hidden_size", "seq_length") if k in signature}
    if "p" in signature:
        return PARAMETRIZED[name](**sizes, p=p)
    return PARAMETRIZED[name](**sizes, spiking_method=nf.tonic_spiking._replace(p=p))


WRONG = {
    "int": lambda p: 10,
    "None": lambda p: None,
    "dict": lambda p: p._asdict(),
    "class": type,
    "tuple": tuple,
    "list": list,
    "lacking": lambda p: Lacking(),
    "other": lambda p: nf.LIParameters() if type(p) is nf.CobaLIFParameters else nf.CobaLIFParameters(),
    "more": lambda p: nf.LSNNParameters() if type(p) is not nf.LSNNParameters else nf.LIFRefracParameters(),
    "state": lambda p: nf.LIFState(0.0, 0.0, 0.0),
    "string": lambda p: "LIFParameters",
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_wrong_parameters_are_named(name: str, kind: str):
    right = parameters_of(name)
    construct(name, right)
    with pytest.raises(
        TypeError, match=rf"\bp: got .*, expected {type(right).__name__}.*; pass {type(right).__name__}"
    ):
        construct(name, WRONG[kind](right))


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_what_is_wrong_inside_parameters_is_named(name: str):
    right = parameters_of(name)
    for field, value in right._asdict().items():
        if hasattr(value, "_fields"):
            with pytest.raises(TypeError, match=rf"p\.{field}: got int, expected {type(value).__name__}"):
                construct(name, right._replace(**{field: 3}))


def with_method(p, method: str):
    if "method" in p._fields:
        return p._replace(method=method)
    inner = {k: with_method(v, method) for k, v in p._asdict().items() if hasattr(v, "_fields")}
    return p._replace(**{k: v for k, v in inner.items() if v is not None}) if any(inner.values()) else None


@pytest.mark.parametrize(
    "name", [name for name in PARAMETRIZED if with_method(parameters_of(name), "super") is not None]
)
def test_surrogates_are_checked_by_constructors(name: str):
    with pytest.raises(ValueError, match="method: got 'foo', expected one of 'super'"):
        construct(name, with_method(parameters_of(name), "foo"))
    with pytest.raises(NotImplementedError, match="method: got 'adjoint'"):
        construct(name, with_method(parameters_of(name), "adjoint"))


@pytest.mark.parametrize("name", [name for name in PARAMETRIZED if "Izhikevich" in name])
@pytest.mark.parametrize("wrong", [10, nf.tonic_spiking.p, nf.IzhikevichSpikingBehavior, None, {"p": 1, "s": 2}])
def test_wrong_firing_patterns_are_named(name: str, wrong):
    sizes = (3, 3) if "Recurrent" in name else ()
    with pytest.raises(
        TypeError, match=r"spiking_method: got .*, expected an IzhikevichSpikingBehavior.*tonic_spiking"
    ):
        PARAMETRIZED[name](*sizes, wrong)
    with pytest.raises(TypeError, match=r"spiking_method\.s: got int, expected IzhikevichState"):
        PARAMETRIZED[name](*sizes, nf.tonic_spiking._replace(s=3))


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_tuples_of_other_people_with_the_fields(name: str):
    right = parameters_of(name)
    theirs = collections.namedtuple("Theirs", right._fields)(*right)
    assert construct(name, theirs).p == theirs
    assert construct(name, type("Mine", (type(right),), {})(*right)) is not None


@pytest.mark.filterwarnings("ignore:.*quantize.*", "ignore:.*quantized.*")
@pytest.mark.parametrize("path", ["kernel", "pytorch"])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_quantised_tensors_are_refused(model: Model, cell: bool, path: str):
    module = make(model, cell)
    x = make_input(model, 3) if cell else make_input(model, 4, 3)

    def quantised(tensor: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(tensor.detach(), 0.1, 0, torch.quint8)

    with contextlib.nullcontext() if path == "kernel" else nf.kernels_disabled():
        _, state = module(x)
        with pytest.raises(TypeError, match=r"input: got a quantised tensor of torch.quint8.*call \.dequantize\(\)"):
            module(quantised(x))
        with pytest.raises(TypeError, match=r"state[\w.]*: got a quantised tensor"):
            module(x, tree_map_only(torch.Tensor, quantised, state))
