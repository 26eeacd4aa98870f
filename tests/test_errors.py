"""Bad input gets an error that names the argument, what came, what was expected and the fix."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional.parameter import default_bio_parameters
from norse_fast.functional.threshold import SURROGATES, threshold
from norse_fast.utils.clone import clone_tensor

from .models import MODELS, Model, fields, model_id, random_state

X = torch.ones(2, 3)
STATE = nf.LIFFeedForwardState(torch.zeros(2, 3), torch.zeros(2, 3))
P = nf.LIFParameters()
X4, W, R = torch.ones(2, 4), torch.ones(3, 4), torch.zeros(3, 3)
LSNN_STATE = nf.LSNNState(*(torch.zeros(2, 3) for _ in range(4)))


def step(x=X, state=STATE, p=P):
    return nf.lif_feed_forward_step(x, state, p)


BAD = {
    "input is a list": (lambda: step([1.0]), TypeError, r"input: got list, expected a tensor.*torch\.as_tensor"),
    "input is complex": (lambda: step(X + 0j), TypeError, r"input: got dtype torch\.complex64.*\.real"),
    "state is of another width": (
        lambda: step(torch.ones(2, 4)),
        ValueError,
        r"state\.v: got shape \(2, 3\), expected one that broadcasts to \(2, 4\)",
    ),
    "state would widen the input": (
        lambda: step(torch.ones(3)),
        ValueError,
        r"state\.v: got shape \(2, 3\), expected one that broadcasts to \(3,\)",
    ),
    "state is None": (lambda: step(state=None), TypeError, r"state: got NoneType.*fields v, i.*LIFFeedForwardState"),
    "state is a tuple": (
        lambda: step(state=(X, X)),
        TypeError,
        r"state: got tuple, expected a tuple with the fields v, i",
    ),
    "state holds a string": (
        lambda: step(state=nf.LIFFeedForwardState("0.0", X)),
        TypeError,
        r"state\.v: got str, expected a tensor or a number; convert it with torch\.as_tensor",
    ),
    "state is complex": (
        lambda: step(state=nf.LIFFeedForwardState(X + 0j, X)),
        TypeError,
        r"state\.v: got dtype torch\.complex64",
    ),
    "state is on another device": (
        lambda: step(state=nf.LIFFeedForwardState(X.to("meta"), X)),
        ValueError,
        r"state\.v: got a tensor on meta, expected it on cpu.*\.to\('cpu'\)",
    ),
    "parameters are of another neuron": (
        lambda: step(p=nf.LIParameters()),
        TypeError,
        r"p: got LIParameters, expected a tuple with the fields tau_syn_inv, tau_mem_inv, v_leak, v_th",
    ),
    "parameter does not broadcast": (
        lambda: step(p=P._replace(v_th=torch.ones(4))),
        ValueError,
        r"p\.v_th: got shape \(4,\), expected one that broadcasts to \(2, 3\).*one per neuron",
    ),
    "parameter is a string": (lambda: step(p=P._replace(v_th="1")), TypeError, r"p\.v_th: got str"),
    "parameter is complex": (lambda: step(p=P._replace(v_th=X + 0j)), TypeError, r"p\.v_th: got dtype"),
    "surrogate is unknown": (
        lambda: step(p=P._replace(method="arctan")),
        ValueError,
        r"method: got 'arctan', expected one of 'super', 'triangle', .*'atan', .*'fast_sigmoid'",
    ),
    "surrogate is adjoint": (
        lambda: step(p=P._replace(method="adjoint")),
        NotImplementedError,
        r"method: got 'adjoint'",
    ),
    "module with unknown surrogate": (lambda: nf.LIF(P._replace(method="x")), ValueError, r"method: got 'x'"),
    "threshold with unknown surrogate": (lambda: threshold(X, "x", 1.0), ValueError, r"method: got 'x'"),
    "layer gets a number": (lambda: nf.LIF()(1.0), TypeError, r"input_tensor: got float"),
    "layer gets no time": (
        lambda: nf.LIF()(torch.tensor(1.0)),
        ValueError,
        r"input_tensor: got a 0-dim tensor.*time first",
    ),
    "recurrent layer without steps": (
        lambda: nf.LIFRecurrent(2, 3)(torch.ones(0, 1, 2)),
        ValueError,
        r"input: got shape \(0, 1, 2\), expected \(T, \.\.\., inputs\)",
    ),
    "recurrent input is a list": (lambda: nf.LIFRecurrentCell(2, 3)([1.0, 2.0]), TypeError, r"input: got list"),
    "recurrent input is too wide": (
        lambda: nf.LIFRecurrentCell(2, 3)(torch.ones(1, 5)),
        ValueError,
        r"input: got 5 features in shape \(1, 5\), expected 2, the width of input_weights \(3, 2\)",
    ),
    "recurrent input is 0-dim": (
        lambda: nf.LIFRecurrentCell(2, 3)(torch.tensor(1.0)),
        ValueError,
        r"input: got a 0-dim",
    ),
    "recurrent state of another layer": (
        lambda: nf.LIFRecurrentCell(2, 3)(torch.ones(1, 2), nf.LIFRecurrentCell(2, 4)(torch.ones(1, 2))[1]),
        ValueError,
        r"state\.z: got shape \(1, 4\), expected \(\.\.\., 3\)",
    ),
    "recurrent state without spikes": (
        lambda: nf.lif_step(torch.ones(1, 2), STATE, torch.ones(3, 2), torch.ones(3, 3), P),
        TypeError,
        r"state: got LIFFeedForwardState, expected a tuple with a tensor field z",
    ),
    "recurrent weights are not square": (
        lambda: nf.lif_step(torch.ones(1, 2), nf.LIFState(X, X, X), torch.ones(3, 2), torch.ones(3, 2), P),
        ValueError,
        r"recurrent_weights: got shape \(3, 2\), expected \(3, 3\)",
    ),
    "given weights of another shape": (
        lambda: nf.LIFRecurrent(2, 3, input_weights=torch.ones(2, 3)),
        ValueError,
        r"input_weights: got shape \(2, 3\), expected \(3, 2\)",
    ),
    "given weights are a list": (
        lambda: nf.LIFRecurrent(2, 3, recurrent_weights=[1.0]),
        TypeError,
        r"recurrent_weights: got list, expected a tensor of shape \(3, 3\)",
    ),
    "readout of another width": (
        lambda: nf.LILinearCell(2, 3)(torch.ones(1, 5)),
        ValueError,
        r"input: got 5 features in shape \(1, 5\), expected 2",
    ),
    "custom layer without steps": (
        lambda: nf.SNN(lambda x, s, p, dt: (x, s), lambda x: None, None)(torch.ones(0, 2)),
        ValueError,
        r"input_tensor: got shape \(0, 2\), expected at least one time step",
    ),
    "output is unknown": (
        lambda: nf.LIF(output="max"),
        ValueError,
        r"output: got 'max', expected one of 'all', 'uint8', 'bool', 'sum', 'mean', 'last'; leave it out",
    ),
    "output is a list": (lambda: nf.LIF(output=["sum"]), ValueError, r"output: got \['sum'\], expected one of 'all'"),
    "potentials as bytes": (
        lambda: nf.LI(output="uint8"),
        ValueError,
        r"output: got 'uint8', expected one of 'all', 'sum', 'mean', 'last', because the output is a membrane potential",
    ),
    "mean of no step": (
        lambda: nf.LIF(output="mean")(torch.ones(0, 2)),
        ValueError,
        r"input_tensor: got shape \(0, 2\), expected at least one time step for output='mean'",
    ),
    "last of no step": (
        lambda: nf.LI(output="last")(torch.ones(0, 2)),
        ValueError,
        r"expected at least one time step for output='last'",
    ),
    "output of a recurrent layer": (
        lambda: nf.LIFRecurrent(2, 3, output="sum"),
        TypeError,
        r"unexpected keyword argument 'output'",
    ),
    "too few states": (
        lambda: nf.SequentialState(nf.LIFCell(), nf.LICell())(X, [None]),
        ValueError,
        r"state: got 1 entries, expected 2",
    ),
    "feedback of another shape": (
        lambda: (lambda m: m(X, m(X)[1]))(nf.RecurrentSequential(torch.nn.Linear(3, 4))),
        ValueError,
        r"x: got shape \(2, 3\), expected \(2, 4\), that of the output which is fed back",
    ),
    "unknown biological model": (lambda: default_bio_parameters("x"), KeyError, r"model: got 'x', expected one of"),
    "clone of a string": (lambda: clone_tensor("x"), ValueError, r"x: got str, expected a tensor or a number"),
    "number": (lambda: nf.SequentialState(nf.LIF())(X, 3), TypeError, "state: got int, expected a list of 1 states"),
    "that of a layer": (
        lambda: nf.RecurrentSequential(nf.LIFCell())(X, STATE),
        TypeError,
        "state: got LIFFeedForwardState, expected a RecurrentSequentialState",
    ),
    "sparse weights": (
        lambda: nf.LIFRecurrent(3, 4, recurrent_weights=torch.eye(4).to_sparse()),
        TypeError,
        r"recurrent_weights: got a tensor of layout torch\.sparse_coo, expected a dense one",
    ),
    "potentials of too many neurons": (
        lambda: nf.LIF(nf.LIFParameters(v_leak=torch.ones(7)))(torch.ones(5, 2, 3)),
        ValueError,
        r"p: got shape \(7,\), expected one that broadcasts to \(2, 3\), the neurons, in the initial state",
    ),
    "dt of another width": (
        lambda: nf.LIF(dt=torch.full((7,), 0.001))(torch.ones(5, 2, 3)),
        ValueError,
        r"dt: got shape \(7,\), expected one that broadcasts to \(2, 3\)",
    ),
    "dt of another width, recurrent": (
        lambda: nf.LIFRecurrent(4, 3, dt=torch.full((7,), 0.001))(torch.ones(5, 2, 4)),
        ValueError,
        r"dt: got shape \(7,\), expected one that broadcasts to \(2, 3\)",
    ),
    "dt of too many dimensions": (
        lambda: nf.LIFCell(dt=torch.full((1, 1, 1), 0.001))(X),
        ValueError,
        r"dt: got shape \(1, 1, 1\), expected one that broadcasts to \(2, 3\)",
    ),
    "dt of coupled neurons": (
        lambda: nf.functional.lif_mc.lif_mc_feed_forward_step(X, STATE, R, dt=torch.ones(7)),
        ValueError,
        r"dt: got shape \(7,\), expected one that broadcasts to \(2, 3\)",
    ),
    "complex parameter of another library": (
        lambda: nf.LIF(P._replace(v_th=np.complex64(1))),
        TypeError,
        r"p\.v_th: got complex64, expected a real number",
    ),
    "dt without values": (
        lambda: nf.LIF(dt=torch.ones((), device="meta"))(torch.ones(5, 2, 3)),
        ValueError,
        "dt: got a tensor on meta, expected it on cpu",
    ),
    "parameter without values": (
        lambda: nf.LIF(P._replace(v_th=torch.ones((), device="meta")))(torch.ones(5, 2, 3)),
        ValueError,
        r"p\.v_th: got a tensor on meta, which has no values",
    ),
    "alpha without values": (
        lambda: nf.LIF(P._replace(alpha=torch.ones(3, device="meta")))(torch.ones(5, 2, 3)),
        ValueError,
        r"p\.alpha: got a tensor on meta, which has no values",
    ),
    "parameter is None": (lambda: nf.LIF(P._replace(tau_syn_inv=None)), TypeError, r"p\.tau_syn_inv: got NoneType"),
    "alpha is a string": (lambda: nf.LSNN(nf.LSNNParameters(alpha="a")), TypeError, r"p\.alpha: got str"),
    "alpha is a list": (
        lambda: step(torch.ones(2, 3, requires_grad=True), p=P._replace(alpha=[1.0])),
        TypeError,
        r"p\.alpha: got list, expected a tensor or a number",
    ),
    "nested input": (
        lambda: step(torch.nested.nested_tensor([torch.ones(2, 3)], layout=torch.jagged)),
        TypeError,
        "got a nested tensor, expected a plain one",
    ),
    "state is a number": (
        lambda: nf.LIFMCRefracRecurrentCell(4, 3)(X4, 3),
        TypeError,
        r"state: got int, expected a tuple with a tensor field lif\.z",
    ),
    "state of coupled neurons": (
        lambda: nf.functional.lif_mc.lif_mc_feed_forward_step(torch.ones(2, 3), None, R),
        TypeError,
        "state: got NoneType, expected a tuple with the fields v, i",
    ),
    "state of sensors": (
        lambda: nf.LIFCorrelation(4, 3)(X4, W, R, 3),
        TypeError,
        "state: got int, expected a tuple with the fields lif_state, input_correlation_state",
    ),
    "no input weights": (lambda: nf.LIFCorrelation(4, 3)(X4, None, R), TypeError, "input_weights: got NoneType"),
    "no recurrent weights": (
        lambda: nf.LIFCorrelation(4, 3)(X4, W, None),
        TypeError,
        "recurrent_weights: got NoneType",
    ),
    "input of a linear cell": (lambda: nf.LILinearCell(4, 3)([1.0]), TypeError, "input: got list, expected a tensor"),
    "parameters are a number": (
        lambda: nf.ada_lif_step(X4, LSNN_STATE, W, R, 10),
        TypeError,
        "p: got int, expected a tuple with the fields tau_syn_inv",
    ),
    "ada_lif with the state of another batch": (
        lambda: nf.ada_lif_step(X4, LSNN_STATE._replace(b=torch.zeros(5, 3)), W, R),
        ValueError,
        r"state\.b: got shape \(5, 3\), expected one that broadcasts to \(2, 3\)",
    ),
    "negative size": (lambda: nf.LIFRecurrent(-1, 3), ValueError, "input_size: got -1, expected a number"),
    "no such module": (
        lambda: nf.RecurrentSequential(nf.LIFCell(), output_modules=7),
        ValueError,
        "output_modules: got 7, expected the index of one of the 1 modules",
    ),
    "no module": (
        lambda: nf.RecurrentSequential(nf.LIFCell(), output_modules=[]),
        ValueError,
        r"output_modules: got \[\], expected",
    ),
    "steps are a boolean": (lambda: nf.PoissonEncoder(True)(X), TypeError, "seq_length: got bool, expected an integer"),
    "features are a string": (lambda: nf.PopulationEncoder("x")(X), TypeError, "out_features: got str"),
    "negative features": (lambda: nf.PopulationEncoder(-1)(X), ValueError, "out_features: got -1"),
    "input of an encoder": (lambda: nf.PoissonEncoderStep()([1.0]), TypeError, "input_values: got list"),
    "input of coupled neurons": (
        lambda: nf.functional.lif_mc_refrac.lif_mc_refrac_feed_forward_step([1.0], None, R),
        TypeError,
        "input: got list, expected a tensor",
    ),
    "input of sensors": (lambda: nf.LIFCorrelation(4, 3)([1.0], W, R), TypeError, "input: got list, expected a tensor"),
    "input of receptive fields": (
        lambda: nf.TemporalReceptiveField((3,), 2)([1.0]),
        TypeError,
        "x: got list, expected a tensor",
    ),
    "spikes before sensors": (lambda: nf.correlation_sensor_step([1.0], X, None), TypeError, "z_pre: got list"),
    "spikes behind sensors": (lambda: nf.correlation_sensor_step(X, [1.0], None), TypeError, "z_post: got list"),
    "state of correlation sensors": (
        lambda: nf.correlation_sensor_step(X, X, None),
        TypeError,
        "state: got NoneType, expected a tuple with the fields post_pre, correlation_trace, anti_correlation_trace",
    ),
    "state of STDP sensors": (
        lambda: nf.stdp_sensor_step(X, X, 3),
        TypeError,
        "state: got int, expected a tuple with the fields a_pre, a_post",
    ),
    "state of plastic synapses": (
        lambda: nf.stp_step(X, None, nf.TsodyksMakramParameters()),
        TypeError,
        "s: got NoneType, expected a tuple with the fields u, x",
    ),
    "filtered signal": (lambda: nf.exp_filter_step(None, X, 0.5), TypeError, "old_value: got NoneType"),
    "spikes to count": (lambda: nf.regularize_step([1.0], None), TypeError, "z: got list, expected a tensor"),
}


@pytest.mark.parametrize("path", ["kernel", "pytorch"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, path: str):
    call, error, message = BAD[name]
    if path == "pytorch":
        with kernels_disabled(), pytest.raises(error, match=message):
            call()
    else:
        with pytest.raises(error, match=message):
            call()


def test_raw_operators_check_what_they_would_read():
    """Called past the Python checks, the operators refuse rather than read out of bounds."""
    forward = torch.ops.norse_fast.li_forward
    x, v = torch.ones(4, 2, 3), torch.zeros(2, 3)
    params = [torch.tensor(1.0)] * 3
    options = (0.001, True, False, False, 0)
    with pytest.raises(RuntimeError, match="v has another shape than the input"):
        forward(x, v[:1], v, *params, *options)
    with pytest.raises(RuntimeError, match="i has another dtype"):
        forward(x, v, v.double(), *params, *options)
    with pytest.raises(RuntimeError, match="does not match the trailing dimensions"):
        forward(x, v, v, torch.ones(2), *params[1:], *options)
    with pytest.raises(RuntimeError, match="must be of a floating point dtype"):
        forward(x.int(), v, v, *params, *options)
    with pytest.raises(RuntimeError, match="needs a time dimension"):
        forward(torch.tensor(1.0), v, v, *params, *options)
    with pytest.raises(RuntimeError, match="output is 5, which is none"):
        forward(x, v, v, *params, *options[:-1], 5)
    with pytest.raises(RuntimeError, match="there is no step to reduce"):
        forward(x[:0], v, v, *params, *options[:-1], 3)
    backward = torch.ops.norse_fast.li_backward
    arguments = (
        x,
        v,
        v,
        *params,
        torch.tensor(1.0),
        [],
        torch.ones(4, 2, 2),
        None,
        None,
        [],
        0,
        0,
        0.001,
        True,
        True,
        True,
        [],
        0,
    )
    with pytest.raises(RuntimeError, match="grad_output has another shape"):
        backward(*arguments)
    with pytest.raises(RuntimeError, match="spikes is 3"):
        backward(*arguments[:8], None, *arguments[9:-1], 3)
    with pytest.raises(RuntimeError, match="where the distances are wanted, no gradients are computed"):
        backward(*arguments[:8], None, *arguments[9:-1], 1)
    with pytest.raises(RuntimeError, match="derivatives has 1 tensors, expected 0 or none"):
        backward(*arguments[:8], None, *arguments[9:-2], [torch.ones(2, 2, 3)], 0)
    with pytest.raises(RuntimeError, match="grad_output has another shape"):
        backward(*arguments[:8], x, *arguments[9:13], 3, *arguments[14:])
    long = torch.ones(40, 2, 3)
    with pytest.raises(RuntimeError, match="checkpoints are missing"):
        backward(long, *arguments[1:8], torch.ones_like(long), *arguments[9:])
    with pytest.raises(RuntimeError, match=f"surrogate is {len(SURROGATES)}"):
        backward(*arguments[:8], None, None, None, [], len(SURROGATES), *arguments[13:])
    with pytest.raises(RuntimeError, match="output is -1"):
        backward(*arguments[:8], None, None, None, [], 0, -1, *arguments[14:])


def test_default_bio_parameters_are_a_function():
    """In Norse 1.1.0 a tuple has this name."""
    zeros = torch.zeros(3)
    calls = (
        lambda p: nf.LIFCell(p),
        lambda p: nf.LIFRecurrent(2, 3, p),
        lambda p: nf.lif_feed_forward_step(zeros, nf.LIFFeedForwardState(zeros, zeros), p),
        lambda p: nf.lif_step(zeros, nf.LIFState(zeros, zeros, zeros), torch.eye(3), torch.eye(3), p),
    )
    for call in calls:
        with pytest.raises(TypeError, match=r"p: got function, .*LIFParameters.bio_default\(\); .*Norse 1.1.0"):
            call(default_bio_parameters)
        call(nf.LIFParameters.bio_default())


@pytest.mark.parametrize("model", [m for m in MODELS if m.kind != "ff" and m.layer is not None], ids=model_id)
def test_recurrent_modules_name_what_is_complex_or_elsewhere(model: Model):
    """Complex numbers would lose their imaginary part."""
    x = torch.ones(6, 2, 3)
    for make, given in ((model.layer, x), (model.cell, x[0])):
        module = make(3, 4)
        with pytest.raises(TypeError, match=r"input: got dtype torch\.complex64, expected a real one"):
            module(given + 0j)
        with pytest.raises(ValueError, match=r"input: got a tensor on meta, expected it on cpu, as input_weights"):
            module(given.to("meta"))
        for name in ("input_weights", "recurrent_weights"):
            other = make(3, 4)
            setattr(other, name, torch.nn.Parameter(getattr(other, name).detach() + 0j))
            with pytest.raises(TypeError, match=rf"{name}: got dtype torch\.complex64, expected a real one"):
                other(given)


def test_complex_inputs_of_other_modules_with_weights():
    x = torch.ones(6, 2, 3, dtype=torch.complex64)
    calls = [lambda: nf.LILinearCell(3, 4)(x[0]), lambda: nf.Delay(2)(x), lambda: nf.DelayCell(2)(x[0])]
    calls += [lambda: nf.DelayedLinear(3, 4, 2)(x), lambda: nf.DelayedLinearCell(3, 4, 2)(x[0])]
    for call in calls:
        with pytest.raises(TypeError, match=r"input.*: got dtype torch\.complex64, expected a real one"):
            call()


def test_sizes_that_are_no_whole_numbers():
    with pytest.raises(TypeError, match=r"hidden_size: got 5\.5, expected a whole number"):
        nf.LIFRecurrent(4, 5.5)
    with pytest.raises(TypeError, match="input_size: got '4', expected a whole number"):
        nf.LIFRecurrentCell("4", 5)


@pytest.mark.parametrize("model", [m for m in MODELS if m.kind == "ff" and m.cell is not None], ids=model_id)
def test_cells_name_an_input_that_is_no_tensor(model: Model):
    with pytest.raises(TypeError, match="got ndarray, expected a tensor"):
        model.cell()(torch.ones(2, 3).numpy())


def test_lift_names_what_is_no_module():
    with pytest.raises(TypeError, match=r"module: got str, expected a torch\.nn\.Module"):
        nf.Lift("a")


RECURRENT_CELLS = [m for m in MODELS if m.kind in ("rec", "mc") and m.cell is not None]


@pytest.mark.parametrize("model", RECURRENT_CELLS, ids=model_id)
def test_recurrent_cells_name_a_field_that_does_not_fit(model: Model):
    """Those that the currents join too, which are added before the neurons see the state."""
    cell, x = model.cell(4, 3), torch.ones(2, 4)
    state, other = cell(x)[1], cell(torch.ones(5, 4))[1]
    for name, value in fields(other).items():
        if not isinstance(value, torch.Tensor):
            continue
        broken = {
            r"got shape \(5, 3\), expected one that broadcasts to \(2, 3\)": value,
            r"got shape \(2, 1, 3\), expected one that broadcasts to \(2, 3\)": value[:2, None],
            "got a tensor on meta, expected it on cpu": value[:2].to("meta"),
            "expected a (tuple with a )?tensor": None,
        }
        for message, given in broken.items():
            with pytest.raises((TypeError, ValueError), match=rf"^state(\.{name})?: .*({message})"):
                cell(x, model.pack(type(state), {**fields(state), name: given}))


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain"])
def test_one_sample_stays_one(plain: bool):
    """A state of more samples would make more outputs of it."""
    cell = nf.CobaLIFCell(4, 3)
    five, one = cell(torch.rand(5, 4))[1], cell(torch.rand(1, 4))[1]
    for name in ("z", "v", "g_e", "g_i"):
        state = one._replace(**{name: getattr(five, name)})
        with (
            kernels_disabled() if plain else contextlib.nullcontext(),
            pytest.raises(
                ValueError, match=rf"state\.{name}: got shape \(5, 3\), expected one that broadcasts to \(1, 3\)"
            ),
        ):
            cell(torch.rand(1, 4), state)


@pytest.mark.parametrize("model", [m for m in MODELS if m.kind == "ff" and m.layer is not None], ids=model_id)
def test_sparse_states_count_as_dense(model: Model):
    x = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    dense = random_state(model, (2, 3), torch.float32, torch.Generator().manual_seed(2))
    names = list(fields(dense))
    sparse = model.pack(model.state, {name: value.to_sparse() for name, value in fields(dense).items()})
    layer = model.layer()
    results = []
    for state in (dense, sparse):
        output, final = layer(x, state)
        results.append((output, *(fields(final)[name] for name in names), torch.autograd.grad(output.sum(), x)[0]))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["tau_syn_inv", "alpha"])
def test_sparse_parameters_count_as_dense(name: str):
    x = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1)).mul(9).requires_grad_()
    gradients = []
    for sparse in (False, True):
        value = torch.tensor([100.0, 200.0, 300.0])
        value = (value.to_sparse() if sparse else value).requires_grad_()
        output, _ = nf.LIF(P._replace(**{name: value}))(x)
        gradients.append([g.to_dense() for g in torch.autograd.grad(output.sum(), (x, value))])
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected)
        assert found.any()
