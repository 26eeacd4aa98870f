"""Surrogates that Python has a part in: derivatives of the user's, and gradients of alpha.

The reference is a loop over plain PyTorch steps, whose spikes are ``H(u) + f(u, alpha) - f(u, alpha).detach()``: backward is
autograd's, of the function ``f`` whose derivative the surrogate is.
"""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels import neuron as neurons
from norse_fast._kernels import recurrent
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional.threshold import SURROGATES, by_alpha, threshold

from .models import FEED_FORWARD, MODELS, NESTED, Model, fields, model_id, random_params, set_surrogate
from .test_gradients import requiring_grad
from .test_recurrent import LAYERS, layer_of, make_case

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

SPIKING = [model for model in FEED_FORWARD if model.spikes]


def own(u: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return alpha / (1 + (alpha * u) ** 2)


def hill(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(-1, 1)
    return x - x * x.abs() / 2


FUNCTIONS: dict[Any, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "super": lambda u, a: u / (1 + a * u.abs()),
    "triangle": lambda u, a: a * hill(u),
    "tanh": lambda u, a: torch.tanh(a * u) / a,
    "circ": lambda u, a: a * u / torch.sqrt(a * a + u * u),
    "heavi_erfc": lambda u, a: math.sqrt(math.pi) / 1.7724539041519165 * torch.erf(a * u) / a,
    "atan": lambda u, a: torch.atan(math.pi / 2 * a * u) / math.pi,
    "sigmoid": lambda u, a: torch.sigmoid(a * u),
    "rectangle": lambda u, a: (a * u).clamp(-0.5, 0.5),
    "triangle_width": lambda u, a: hill(a * u),
    own: lambda u, a: torch.atan(a * u),
}
METHODS = [pytest.param(method, id=method if isinstance(method, str) else "own") for method in FUNCTIONS]


@contextmanager
def reference(method: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain PyTorch, with spikes whose gradient is autograd's."""

    def spike_function(_: Any, alpha: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def spike(u: torch.Tensor) -> torch.Tensor:
            value = FUNCTIONS[method](u, alpha)
            return (u > 0).to(u.dtype) + (value - value.detach())

        return spike

    with monkeypatch.context() as patch, kernels_disabled():
        patch.setattr(neurons, "spike_function", spike_function)
        patch.setattr(recurrent, "spike_function", spike_function)
        yield


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    assert len(actual) == len(expected) > 0
    for grad, value in zip(actual, expected):
        assert grad.shape == value.shape
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(grad, value, rtol=tolerance, atol=tolerance * scale)


def gradients(output: torch.Tensor, final: Any, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for value in (output, *fields(final).values()):
        if not value.is_floating_point():  # bytes have no gradient
            continue
        loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def compare(run: Callable[[], tuple[Any, Any]], leaves: list[torch.Tensor], method: Any, monkeypatch: Any) -> None:
    """Kernels, the same in PyTorch, and the reference."""
    output, final = run()
    actual = gradients(output, final, leaves)
    with kernels_disabled():
        in_pytorch = gradients(*run(), leaves)
    with reference(method, monkeypatch):
        expected_output, expected_final = run()
        expected = gradients(expected_output, expected_final, leaves)
    assert torch.equal(output, expected_output)
    assert_close(actual, expected)
    assert_close(in_pytorch, expected)


def names_of(kind: Any, field: str) -> list[str]:
    """A field of a state, or those of the tuple in it."""
    return [f"{field}.{name}" for name in NESTED[kind]._fields] if field.startswith("lif") else [field]


def case_of(
    model: Model, steps: int, per_neuron: bool, generator: torch.Generator, method: Any
) -> tuple[torch.Tensor, Any, Any, list[torch.Tensor]]:
    x = (4 * torch.rand(steps, 3, 5, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    names = [n for field in model.state._fields for n in names_of(model.state, field)]
    values = {name: torch.rand(3, 5, generator=generator, dtype=torch.float64) for name in names}
    spikes = {name: (value > 0.7).double() for name, value in values.items() if name.split(".")[-1] == "z"}
    state = requiring_grad(model.pack(model.state, values | spikes))
    params = random_params(model, (5,) if per_neuron else (), torch.float64, generator)
    alpha = (1 + torch.rand((5,) if per_neuron else (), generator=generator, dtype=torch.float64)).requires_grad_()
    params = set_surrogate(requiring_grad(params), method, alpha)
    leaves = [x, *fields(state).values(), *(v for v in fields(params).values() if isinstance(v, torch.Tensor))]
    return x, state, params, leaves if method is not own else [leaf for leaf in leaves if leaf is not alpha]


@pytest.mark.parametrize("steps", [1, 32, 70])
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "atan"])
@pytest.mark.parametrize("model", SPIKING, ids=model_id)
def test_layers(model: Model, method: Any, per_neuron: bool, steps: int, generator, monkeypatch):
    x, state, params, leaves = case_of(model, steps, per_neuron, generator, method)
    for record in (False, True):
        compare(
            lambda r=record: model.neuron(x, state, params, 0.001, sequence=True, record=r), leaves, method, monkeypatch
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [nf.lif_feed_forward_step, nf.lif_adex_refrac_feed_forward_step])
def test_every_name(method: Any, step: Any, generator, monkeypatch):
    model = next(m for m in SPIKING if m.step is step)
    x, state, params, leaves = case_of(model, 40, False, generator, method)
    assert 0 < model.neuron(x, state, params, 0.001, sequence=True)[0].mean() < 1
    compare(lambda: model.neuron(x, state, params, 0.001, sequence=True), leaves, method, monkeypatch)


@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "sigmoid"])
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recurrent_layers(model: Model, per_neuron: bool, method: Any, generator, monkeypatch):
    x, state, weights, p, learned = make_case(
        model, 40, (2,), 5, 20, generator, torch.float64, per_neuron=per_neuron, learn=True, rate=0.1
    )
    alpha = torch.full((20,) if per_neuron else (), 1.5, dtype=torch.float64, requires_grad=True)
    p = set_surrogate(p, method, alpha)
    leaves = [x, *weights, *fields(state).values(), *learned, *([] if method is own else [alpha])]
    compare(lambda: layer_of(model)(x, state, *weights, p, 0.001), leaves, method, monkeypatch)


@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "triangle_width"])
@pytest.mark.parametrize("model", [m for m in MODELS if m.spikes], ids=model_id)
def test_single_steps(model: Model, method: Any, generator, monkeypatch):
    """Of every step function, those of cells with several compartments too."""
    x, state, params, leaves = case_of(model, 12, False, generator, method)
    rest = []
    if model.kind in ("rec", "mc"):
        rest = [torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    if model.kind in ("mcff", "mc"):
        rest.append(torch.rand(5, 5, generator=generator, dtype=torch.float64))
    leaves += [w.requires_grad_() for w in rest]
    drive = {"izhikevich_recurrent_step": 100, "coba_lif_step": 0.2}.get(model.name, 10 if rest else 1)

    def run() -> tuple[Any, Any]:
        outputs, now = [], state
        for frame in x:
            z, now = model.step(drive * frame, now, *rest, params, 0.001)
            outputs.append(z)
        return torch.stack(outputs), now

    compare(run, leaves, method, monkeypatch)


@pytest.mark.parametrize("kind", ["uint8", "sum", "mean", "last"])
@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "super"])
def test_outputs(method: Any, kind: str, generator, monkeypatch):
    x, state, params, leaves = case_of(SPIKING[0], 70, True, generator, method)
    compare(lambda: SPIKING[0].neuron(x, state, params, 0.001, True, kind=kind), leaves, method, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (2, 3, 4)], ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype, shape: tuple[int, ...], generator):
    """A derivative is asked in the dtype of the computation, of several steps at once; alpha comes in that dtype, too."""
    seen = []

    def derivative(u: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        seen.append((u.dtype, u.shape[1:], alpha.dtype))
        return own(u, alpha)

    x = torch.rand(40, *shape, generator=generator).to(dtype)
    x = (x.transpose(0, -1).contiguous().transpose(0, -1) if shape else x).requires_grad_()
    layer = nf.LIF(nf.LIFParameters(method=derivative, alpha=2.0))
    layer.p = layer.p._replace(alpha=2.0)  # a number reaches the operators as one
    z, _ = layer(x)
    (grad,) = torch.autograd.grad(z.sum(), x)
    assert grad.dtype == dtype
    assert set(seen) == {(torch.float32, torch.Size(shape or (1,)) if shape else torch.Size(), torch.float32)}
    with kernels_disabled():
        (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-4)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("disabled", [False, True], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("steps", [1, 70])
@pytest.mark.parametrize(
    ("derivative", "error", "message"),
    [
        (lambda u, alpha: 1.0, TypeError, r"got float from .*<lambda>\(u, alpha\), expected a tensor"),
        (lambda u, alpha: u.double(), TypeError, r"got torch.float64 from .*, expected torch.float32; end it with"),
        (lambda u, alpha: u.sum(-1), ValueError, r"got shape \(.*3,?\) on cpu from .*, expected \(.*3, 4\) on cpu"),
        (lambda u, alpha: alpha, ValueError, r"got shape \(\) on cpu from .* with .expand_as\(u\)"),
        (lambda u: u, TypeError, "positional argument but 2"),
    ],
)
def test_errors_of_derivatives(derivative: Any, error: Any, message: str, steps: int, disabled: bool, learned: bool):
    x = torch.ones(steps, 3, 4, requires_grad=True)
    layer = nf.LIF(nf.LIFParameters(method=derivative), learn="v_th" if learned else ())
    with kernels_disabled() if disabled else torch.enable_grad():
        z, _ = layer(x)
        with pytest.raises(error, match=message):
            z.sum().backward()


@pytest.mark.parametrize("method", ["nope", None, 3, nf.LIF, torch.ones(1), [own]])
def test_what_is_no_surrogate(method: Any):
    for make in (
        lambda: nf.LIF(nf.LIFParameters(method=method)),
        lambda: nf.LIFRefracRecurrent(2, 3, nf.LIFRefracParameters(nf.LIFParameters(method=method))),
        lambda: threshold(torch.ones(1), method, 1.0),
    ):
        with pytest.raises(
            ValueError, match=r"method: got .* or a function derivative\(u, alpha\); the default is 'super'"
        ):
            make()


@pytest.mark.parametrize("name", SURROGATES)
def test_alpha_against_finite_differences(name: str):
    """Of the functions whose derivatives the surrogates are, which have the same value at 0 for all alpha."""
    step, alpha = 1e-6, torch.tensor(1.7, dtype=torch.float64)
    u = torch.linspace(-2, 2, 60, dtype=torch.float64)
    found = by_alpha(SURROGATES[name])
    if found is None:
        assert name == "heaviside"
        return
    function = FUNCTIONS[name]
    expected = (function(u, alpha + step) - function(u, alpha - step)) / (2 * step)
    torch.testing.assert_close(found(u, alpha), expected, rtol=1e-7, atol=1e-8)
    x = u.clone().requires_grad_()
    derivative = torch.autograd.grad(threshold(x, name, alpha).sum(), x)[0]
    x = u.clone().requires_grad_()
    torch.testing.assert_close(derivative, torch.autograd.grad(function(x, alpha).sum(), x)[0], rtol=1e-9, atol=1e-12)
    assert function(torch.zeros(1), alpha) == function(torch.zeros(1), 2 * alpha)


@pytest.mark.parametrize("name", ["tanh", "heavi_erfc"])
def test_alpha_zero(name: str):
    alpha = torch.zeros((), requires_grad=True)
    z, _ = nf.LIF(nf.LIFParameters(method=name, alpha=alpha))(torch.ones(40, 3))
    z.sum().backward()
    assert alpha.grad.item() == 0


def test_spike_functions(generator):
    """``threshold``, as Norse has it, takes functions, and alpha of any shape that broadcasts."""
    x = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    for method, function in FUNCTIONS.items():
        for shape in ((), (4,), (3, 1), (6, 3, 4)):
            alpha = (1 + torch.rand(shape, generator=generator)).double().requires_grad_()
            weights = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)
            inputs = [x] if method is own else [x, alpha]
            actual = torch.autograd.grad((weights * threshold(x, method, alpha)).sum(), inputs)
            assert_close(actual, torch.autograd.grad((weights * function(x, alpha)).sum(), inputs))
    z = threshold(x, own, 2.0)
    assert torch.equal(z, (x > 0).double())
    p = nf.LIFParameters(method=own, alpha=torch.tensor(2.0))
    spikes = nf.lif_feed_forward_step_sparse(
        x.float(), nf.LIFFeedForwardState(torch.zeros(6, 3, 4), torch.zeros(6, 3, 4)), p
    )
    assert spikes[0].is_sparse


def test_more_than_one_derivative(generator):
    """Where PyTorch runs the step, it differentiates the function, and forwards too."""
    x = torch.rand(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    state = nf.LIFFeedForwardState(x.detach(), x.detach())

    def run(x: torch.Tensor, method: Any = own) -> torch.Tensor:
        z, new = nf.lif_feed_forward_step(x, state, nf.LIFParameters(method=method, alpha=torch.tensor(1.2)))
        return (z + new.v * new.i).sum()

    (first,) = torch.autograd.grad(run(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.any()
    forwards = torch.func.jvp(run, (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(forwards, first.sum())
    (batched,) = torch.autograd.grad(run(x), x, torch.ones(2, dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(batched[0], first)
    torch.testing.assert_close(torch.func.grad(run)(x.detach()), first)


def test_forward_mode_in_alpha(generator):
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    alpha = torch.tensor(1.5, dtype=torch.float64)
    for name, function in FUNCTIONS.items():
        if name is not own:
            tangents = (torch.full_like(x, 2.0), torch.tensor(3.0, dtype=torch.float64))
            actual = torch.func.jvp(lambda x, a, n=name: threshold(x, n, a), (x, alpha), tangents)[1]
            torch.testing.assert_close(actual, torch.func.jvp(function, (x, alpha), tangents)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [nf.LIF, lambda p: nf.LIFRecurrent(4, 5, p), nf.LIFCell], ids=["ff", "rec", "cell"])
def test_forward_mode_in_alpha_of_neurons(make: Any):
    x = torch.full((40, 3, 4), 60.0, dtype=torch.float64)
    alpha, one = torch.full((), 1.5, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    module = make(nf.LIFParameters(method="atan", alpha=alpha)).double()

    def run(alpha: torch.Tensor) -> torch.Tensor:
        module.p = module.p._replace(alpha=alpha)
        return module(x)[0].sum()

    with torch.autograd.forward_ad.dual_level():
        tangent = torch.autograd.forward_ad.unpack_dual(run(torch.autograd.forward_ad.make_dual(alpha, one))).tangent
    torch.testing.assert_close(tangent, torch.func.grad(run)(alpha))


MODULES = [
    lambda p, **k: nf.LIF(p, **k),
    lambda p, **k: nf.LIFCell(p, **k),
    lambda p, **k: nf.LIFRecurrent(4, 5, p, **k),
    lambda p, **k: nf.LIFRefrac(nf.LIFRefracParameters(lif=p), **k),
]


@pytest.mark.parametrize("make", MODULES)
def test_learned_alpha(make: Any):
    torch.manual_seed(1)
    module = make(nf.LIFParameters(method="atan", alpha=torch.tensor(2.0)), learn=("alpha", "v_th"))
    assert {"alpha", "v_th"} <= dict(module.named_parameters()).keys()
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    z, _ = module(torch.full((40, 3, 4), 3.0))
    z.sum().backward()
    optimiser.step()
    assert module.alpha.item() != 2.0
    copied = copy.deepcopy(module)
    copied.load_state_dict(module.state_dict())
    assert pickle.loads(pickle.dumps(copied)).alpha == module.alpha


@pytest.mark.parametrize("make", MODULES)
def test_modules_with_functions(make: Any):
    """They are copied, stored and lifted like others."""
    torch.manual_seed(1)
    module = make(nf.LIFParameters(method=own, alpha=2))
    x = torch.full((40, 3, 4), 3.0, requires_grad=True)
    expected = torch.autograd.grad(module(x)[0].sum(), x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(torch.autograd.grad(other(x)[0].sum(), x)[0], expected)
    with pytest.raises(ValueError, match="learn: got 'alpha', expected names of fields of p that get a gradient"):
        make(nf.LIFParameters(method=own), learn="alpha")
    with pytest.raises(ValueError, match="learn: got 'alpha'"):
        make(nf.LIFParameters(method="heaviside"), learn="alpha")


def test_lift():
    cell = nf.LIFCell(nf.LIFParameters(method=own, alpha=2.0))
    x = torch.full((40, 3, 4), 3.0, requires_grad=True)
    z, _ = nf.Lift(nf.SequentialState(cell))(x)
    grad = torch.autograd.grad(z.sum(), x)[0]
    assert torch.equal(grad, torch.autograd.grad(nf.LIF(cell.p)(x)[0].sum(), x)[0])


@pytest.mark.parametrize("layer", [nf.LIF, lambda p, **k: nf.LIFRecurrent(4, 5, p, **k)])
@pytest.mark.parametrize("learned", [False, True], ids=["own", "alpha"])
def test_compile_leaves_the_graph(layer: Any, learned: bool):
    torch.manual_seed(1)
    p = nf.LIFParameters(method="atan" if learned else own, alpha=torch.tensor(2.0))
    module = layer(p, learn="alpha" if learned else ())
    x = torch.full((40, 3, 4), 3.0, requires_grad=True)
    leaves = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x)[0].sum(), leaves)
    torch._dynamo.reset()
    run = torch.compile(module, backend="aot_eager")
    for _ in range(2):
        assert_close(torch.autograd.grad(run(x)[0].sum(), leaves), expected, 1e-6)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="backward goes through Python, one segment of time after"):
        torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    with torch.no_grad():  # where there is nothing to leave it for
        torch._dynamo.reset()
        assert torch.equal(torch.compile(module, backend="aot_eager", fullgraph=True)(x)[0], module(x)[0])


MEMORY = """
import resource, sys, torch, norse_fast as nf
def own(u, alpha):
    return alpha / (1 + (alpha * u) ** 2)
method, learn = (own, ()) if sys.argv[1] == "own" else (sys.argv[1], "alpha")
layer = nf.LIF(nf.LIFParameters(method=method, alpha=torch.tensor(2.0)), learn=learn)
v = torch.zeros(64, 1024, requires_grad=True)
state = nf.LIFFeedForwardState(v, torch.zeros(64, 1024))
x = torch.full((1, 1, 1), 3.0)
z, _ = layer(x.expand(40, 64, 1024), state)
z.sum().backward()
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, steps = most(), 1000
z, _ = layer(x.expand(steps, 64, 1024), state)
z.sum().backward()
print(most() - before - steps * v.numel() * 4 / 2**20, steps * v.numel() / 2**20)
"""


@pytest.mark.parametrize("method", ["own", "atan"])
def test_memory(method: str):
    """Less than a byte for each neuron and step, besides the output."""
    result = subprocess.run([sys.executable, "-c", MEMORY, method], capture_output=True, text=True, check=True)
    used, neuron_steps = map(float, result.stdout.split())
    assert used < neuron_steps
