"""What a spike does to the potential: set it to a value, subtract the threshold, nothing; with a gradient, or detached."""

from __future__ import annotations

import copy
import pickle
import warnings
from itertools import product
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast._kernels.reset import RESETS

from .models import MODELS, Model, fields
from .test_learn import SIZES, build, make_input, names_of

CHOICES = list(product(RESETS, (False, True)))
SPIKING = [
    pytest.param(model, kind, id=f"{model.name}-{kind}")
    for model in MODELS
    for kind in ("layer", "cell")
    if getattr(model, kind) is not None and model.spikes
]


# Of a potential that grows by itself, nothing but a reset to a value leaves a number for long.
RUNAWAY = ("izhikevich", "lif_ex", "lif_adex", "qif")


def run(model: Model, kind: str, **kwargs: Any) -> tuple[list[torch.Tensor], list[Any]]:
    """Outputs and states of two calls from potentials around the threshold, and all gradients; in float64."""
    module = build(model, kind, model.defaults(), learn=tuple(names_of(model)), **kwargs).double()
    x = make_input(kind).double()
    if model.name.startswith(RUNAWAY):
        module.dt = 1e-5
        x = x[:4] if kind == "layer" else x
    x.requires_grad_()
    values = fields(module.state_fallback(x))
    threshold = next(v for name, v in fields(model.defaults()).items() if name.split(".")[-1] in ("v_th", "v_thresh"))
    noise = torch.randn(3, 6 if model.kind == "ff" else 4, dtype=x.dtype, generator=torch.Generator().manual_seed(7))
    values = {name: threshold + noise if name.split(".")[-1] == "v" else v.double() for name, v in values.items()}
    state = model.pack(model.state, values)
    outputs = []
    for _ in range(2):
        z, state = module(x, state)
        outputs += [z, *fields(state).values()]
    # Weights that differ from place to place, so that nothing cancels.
    loss = sum(
        ((k + 1) * torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view_as(o) * o).sum()
        for k, o in enumerate(outputs)
    )
    gradients = torch.autograd.grad(loss, [x, *module.parameters()], allow_unused=True)
    return outputs, list(gradients)


@pytest.mark.parametrize(("reset", "detach_reset"), CHOICES)
@pytest.mark.parametrize(("model", "kind"), SPIKING)
def test_kernels_and_pytorch_agree(model, kind, reset, detach_reset):
    options = {"reset": reset, "detach_reset": detach_reset}
    outputs, gradients = run(model, kind, **options)
    with kernels_disabled():
        expected_outputs, expected_gradients = run(model, kind, **options)
    assert outputs[0].any()
    assert all(output.isfinite().all() for output in outputs)
    for got, expected in zip(outputs, expected_outputs, strict=True):
        if model.exact:
            assert torch.equal(got, expected)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for got, expected in zip(gradients, expected_gradients, strict=True):
        if expected is None or got is None:
            assert all(g is None or not g.any() for g in (got, expected))
            continue
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * max(1.0, expected.abs().max().item()))


def lif_loop(x: torch.Tensor, p: Any, reset: str, detach: bool, weights: Any = None) -> tuple[torch.Tensor, Any]:
    """LIF neurons, written out."""
    dt, hidden = 0.001, x.shape[-1] if weights is None else weights[0].shape[0]
    v = i = z = torch.zeros(*x.shape[1:-1], hidden, dtype=x.dtype)
    spikes = []
    for frame in x:
        i = i + frame if weights is None else i + frame @ weights[0].t() + z @ weights[1].t()
        v = v + dt * p.tau_mem_inv * ((p.v_leak - v) + i)
        i = i - dt * p.tau_syn_inv * i
        u = v - p.v_th
        z = nf.functional.threshold.threshold(u, "super", p.alpha)
        s = z.detach() if detach else z
        v = {"value": v - s * (v - p.v_reset), "subtract": v - s * p.v_th, "none": v}[reset]
        spikes.append(z)
    return torch.stack(spikes), v


@pytest.mark.parametrize(("reset", "detach_reset"), CHOICES)
@pytest.mark.parametrize("recurrent", [False, True])
def test_a_loop_written_out(recurrent, reset, detach_reset):
    torch.manual_seed(0)
    p = nf.LIFParameters(
        *(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (200.0, 100.0, 0.1, 0.9, 0.2)),
        alpha=torch.tensor(10.0, dtype=torch.float64),
    )
    x = (4 * torch.rand(70, 2, 3, dtype=torch.float64)).requires_grad_()
    options = {"reset": reset, "detach_reset": detach_reset}
    leaves = [x, *p[:5]]
    if recurrent:
        layer = nf.LIFRecurrent(3, 4, p=p, **options).double()
        with torch.no_grad():
            layer.input_weights.abs_()
        weights = (layer.input_weights, layer.recurrent_weights)
        zeros = torch.zeros(2, 4, dtype=torch.float64)
        z, state = layer(x, nf.LIFState(zeros, zeros, zeros))
        leaves.append(layer.input_weights)
    else:
        weights = None
        zeros = torch.zeros(2, 3, dtype=torch.float64)
        z, state = nf.LIF(p, **options)(x, nf.LIFFeedForwardState(zeros, zeros))
    expected_z, expected_v = lif_loop(x, p, reset, detach_reset, weights)
    assert 0.02 < z.mean() < 0.98
    assert torch.equal(z, expected_z)
    torch.testing.assert_close(state.v, expected_v, rtol=1e-9, atol=1e-9)
    ramp = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).view_as(z)
    got = torch.autograd.grad((ramp * z).sum() + 2 * state.v.sum(), leaves)
    expected = torch.autograd.grad((ramp * expected_z).sum() + 2 * expected_v.sum(), leaves, allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        b = torch.zeros_like(a) if b is None else b  # the value that nothing is reset to
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, b.abs().max().item()))


def test_lsnn_subtracts_the_threshold_that_was_crossed():
    p = nf.LSNNParameters(v_th=torch.tensor(1.0), beta=torch.tensor(1.5))
    zeros = torch.zeros(1)
    state = nf.LSNNFeedForwardState(v=torch.full((1,), 5.0), i=zeros, b=torch.full((1,), 3.0))
    _, reset = nf.lsnn_feed_forward_step(zeros, state, p, reset="subtract")
    _, kept = nf.lsnn_feed_forward_step(zeros, state, p, reset="none")
    threshold = reset.b - p.beta
    assert threshold.item() == pytest.approx(3.0, abs=0.1)
    assert torch.equal(reset.v, kept.v - threshold)


@pytest.mark.parametrize(("model", "kind"), SPIKING)
def test_the_default_is_what_the_step_function_does(model, kind):
    detached = model.name in ("lif_step", "lsnn_step", "lif_refrac_step", "lif_mc_step")
    default = run(model, kind)
    named = run(model, kind, reset="value", detach_reset=detached)
    for a, b in zip((*default[0], *default[1]), (*named[0], *named[1]), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_one_of_the_two_is_enough():
    x = torch.full((20, 1, 3), 0.5)
    assert nf.LIFRecurrent(3, 4, reset="subtract").reset_options == {"reset": "subtract"}
    assert nf.LIF(detach_reset=True).reset_options == {"detach_reset": True}
    assert nf.LIF().reset_options == {}
    assert torch.equal(nf.LIF(detach_reset=True)(x)[0], nf.LIF()(x)[0])


@pytest.mark.parametrize("kind", [nf.LIFRecurrent, nf.LIFRecurrentCell])
def test_what_is_not_said_is_what_each_step_function_does(kind):
    """The step for sparse input does not detach its reset, and the one for dense input does."""
    x = 5 * torch.rand(*((6, 2, 3) if kind is nf.LIFRecurrent else (2, 3)), generator=torch.Generator().manual_seed(6))
    for inputs, detached in ((x, True), (x.to_sparse(), False)):
        results = []
        for options in ({"reset": "subtract"}, {"reset": "subtract", "detach_reset": detached}):
            torch.manual_seed(0)
            module = kind(3, 4, **options)
            v = module(inputs, None)[1].v
            results.append(torch.autograd.grad(v.sum(), module.input_weights)[0])
        assert torch.equal(*results)


def test_lif_box_has_a_reset_in_its_parameters_too():
    x = 8 * torch.rand(40, 2, 5, generator=torch.Generator().manual_seed(0))
    by_parameter = nf.LIFBox(nf.LIFBoxParameters(reset_method=nf.reset_subtract))(x)
    by_keyword = nf.LIFBox(reset="subtract")(x)
    assert torch.equal(by_parameter[0], by_keyword[0])
    assert torch.equal(by_parameter[1].v, by_keyword[1].v)
    own = nf.LIFBoxParameters(reset_method=lambda z, v, reset, th: v - z * (v - reset))
    assert torch.equal(nf.LIFBox(own)(x)[0], nf.LIFBox()(x)[0])
    assert torch.equal(nf.LIFBox(own, reset="subtract")(x)[1].v, by_keyword[1].v)


@pytest.mark.parametrize(("model", "kind"), SPIKING)
def test_copies_keep_it(model, kind):
    module = getattr(model, kind)(*SIZES[model.kind], p=model.defaults(), reset="none")
    x = make_input(kind)
    expected = module(x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x)[0], expected)
        assert "reset='none'" in repr(other)


@pytest.mark.parametrize(
    "make", [lambda: nf.LIFCell(reset="subtract"), lambda: nf.LIFRecurrentCell(5, 5, reset="none")]
)
def test_lift_and_steps(make):
    cell = make()
    x = 4 * torch.rand(35, 2, 5, generator=torch.Generator().manual_seed(3))
    lifted, _ = nf.Lift(cell)(x)
    state, outputs = None, []
    for frame in x:
        z, state = cell(frame, state)
        outputs.append(z)
    assert torch.equal(lifted, torch.stack(outputs))
    assert not torch.equal(lifted, nf.Lift(type(cell)(*((5, 5) if "Recurrent" in type(cell).__name__ else ())))(x)[0])


@pytest.mark.parametrize("reset", RESETS)
def test_compiled(reset):
    layer = nf.LIF(reset=reset, detach_reset=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = 4 * torch.rand(35, 2, 5, generator=torch.Generator().manual_seed(4))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (za, _), (zb, _) = layer(a), compiled(b)
    za.sum().backward(), zb.sum().backward()
    assert torch.equal(za, zb)
    assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(("reset", "detach_reset"), CHOICES)
def test_gradients_with_a_graph_of_their_own(reset, detach_reset):
    """They come from PyTorch's operators, which must do the same reset."""
    layer = nf.LIF(reset=reset, detach_reset=detach_reset)
    x = (4 * torch.rand(20, 2, 3, dtype=torch.float64)).requires_grad_()
    v = layer(x)[1].v
    (first,) = torch.autograd.grad(v.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(v.sum(), x, create_graph=True)
    torch.testing.assert_close(first, again, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nf.LIF(reset="soft"), ValueError, "reset: got 'soft', expected one of 'value', 'subtract', 'none'"),
        (lambda: nf.LIF(reset=1), ValueError, "reset: got 1, expected one of"),
        (lambda: nf.LIFCell(detach_reset="yes"), TypeError, "detach_reset: got str, expected True or False"),
        (lambda: nf.LI(reset="none"), TypeError, "reset: got 'none', but li_feed_forward_step has no such argument"),
        (lambda: nf.LI(detach_reset=True), TypeError, "detach_reset: got True, but li_feed_forward_step has no such"),
        (
            lambda: nf.lif_feed_forward_step(
                torch.ones(2), nf.LIFFeedForwardState(0.0, 0.0), nf.LIFParameters(), reset="x"
            ),
            ValueError,
            "reset: got 'x'",
        ),
        (
            lambda: nf.lif_feed_forward_step(
                torch.ones(2), nf.LIFFeedForwardState(0.0, 0.0), nf.LIFParameters(), detach_reset=None
            ),
            TypeError,
            "detach_reset: got NoneType",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.needs("nir")
def test_nir_says_which_it_was():
    with pytest.raises(ValueError, match="LIFCell with reset='subtract', expected 'value'"):
        nf.to_nir(nf.LIFCell(reset="subtract"), torch.ones(1, 3))
    with pytest.warns(UserWarning, match="reset='subtract', which NIR does not know"):
        graph = nf.to_nir(nf.LIFBoxCell(reset="subtract"), torch.ones(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        restored = nf.from_nir(graph)
    x = 8 * torch.rand(30, 1, 3, generator=torch.Generator().manual_seed(5))

    def steps(module: Any) -> torch.Tensor:
        state, outputs = None, []
        for frame in x:
            z, state = module(frame, state)
            outputs.append(z)
        return torch.stack(outputs)

    assert torch.equal(steps(restored), steps(nf.LIFBoxCell(reset="subtract")))
