"""Default parameters are the same whatever was going on when the package was imported or a module was built."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import norse_fast as nf
from norse_fast._constants import constant

from .models import Model, fields
from .test_modules import MODULES, make, make_input

#: Trains every module, and prints the values and kinds of all default parameters; for a process of its own.
PROGRAM = """
import sys, torch
torch.set_num_threads(1)
with {mode}:
    import norse_fast as nf
from norse_fast.functional import coba_lif, parameter
torch.set_default_dtype(torch.float32)
torch.set_default_device(None)

def leaves(value):
    if isinstance(value, torch.Tensor):
        assert value.device.type == "cpu" and not value.is_inference(), value
        yield value.dtype, value.detach().tolist()
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from leaves(inner)

found = {{}}
for name, thing in sorted(vars(nf).items()):
    if isinstance(thing, type) and hasattr(thing, "_field_defaults"):
        found[name] = list(leaves(tuple(thing._field_defaults.values())))
    elif isinstance(thing, tuple):
        found[name] = list(leaves(thing))
found["bio"] = list(leaves(parameter.DEFAULT_BIO_PARAMS))
found["coba"] = list(leaves(tuple(value for value in vars(coba_lif).values() if isinstance(value, tuple))))
pattern = nf.create_izhikevich_spiking_behavior(0.02, 0.2, -65, 6, -65, -65.0)
found["pattern"] = list(leaves(pattern))

def train(module, x):
    output, state = module(x)
    output, state = module(x, state)
    (output.sum() + sum(s.sum() for s in torch.utils._pytree.tree_leaves(state))).backward()

for name in ("LIF", "LI", "LIBox", "LIFBox", "IAF", "LIFEx", "LIFAdEx", "LIFRefrac", "LIFAdExRefrac", "LSNN", "CobaLIF"):
    train(getattr(nf, name)(), torch.rand(3, 2, 4, requires_grad=True))
    cell = getattr(nf, name + ("FeedForwardCell" if name == "CobaLIF" else "Cell"))
    train(cell(), torch.rand(2, 4, requires_grad=True))
    for kind in (name + "Recurrent", name + "RecurrentCell", name + "Cell" if name == "CobaLIF" else ""):
        if hasattr(nf, kind):
            train(getattr(nf, kind)(4, 5), torch.rand(*((3,) if kind.endswith("Recurrent") else ()), 2, 4))
for kind in (nf.LIFMCRecurrentCell, nf.LIFMCRefracRecurrentCell, nf.LILinearCell):
    train(kind(4, 5), torch.rand(2, 4))
train(nf.Izhikevich(nf.tonic_spiking), torch.rand(3, 2, 4, requires_grad=True))
train(nf.IzhikevichCell(pattern), torch.rand(2, 4, requires_grad=True))
train(nf.IzhikevichRecurrent(4, 5, nf.tonic_bursting), torch.rand(3, 2, 4))
nf.ExpFilter(4, 2)(torch.rand(3, 2, 4)).sum().backward()
nf.ConstantCurrentLIFEncoder(3)(torch.rand(4, requires_grad=True)).sum().backward()
one = torch.tensor([1.0])
nf.SampledSpatialReceptiveField2d(1, 3, one, one, one, 1)(torch.rand(1, 1, 3, 3)).sum().backward()
nf.TemporalReceptiveField((2, 3, 3))(torch.rand(1, 2, 3, 3))[0].sum().backward()
nf.SpikesToTimesDecoder()(torch.ones(3, 1, requires_grad=True)).sum().backward()
weights, x = torch.rand(5, 4), torch.rand(1, 4)
nf.LIFCorrelation(4, 5)(x, weights.requires_grad_(), torch.rand(5, 5))[1].lif_state.v.sum().backward()
print(found)
"""


def outcome(mode: str, before: str = "import torch") -> str:
    program = textwrap.dedent(before) + PROGRAM.format(mode=mode)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ordinary() -> str:
    return outcome("torch.enable_grad()")


@pytest.mark.parametrize(
    ("mode", "before"),
    [
        ("torch.inference_mode()", "import torch"),
        ("torch.no_grad()", "import torch\ntorch.set_default_device('meta')"),
        ("torch.device('meta')", "import torch"),
        ("torch.enable_grad()", "import torch\ntorch.set_default_dtype(torch.float64)"),
        ("torch.inference_mode()", "import torch\ntorch.set_default_dtype(torch.float16)"),
    ],
)
def test_first_import(mode: str, before: str, ordinary: str):
    assert "torch.float32" in ordinary
    assert outcome(mode, before) == ordinary


@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "meta"])
@pytest.mark.parametrize("value", [0.1, 3, True, [0.5, 1.0]])
def test_constant(value, mode):
    with mode():
        made = constant(value)
        assert constant(made) is made
    assert made.is_cpu
    assert not made.is_inference()
    assert made.requires_grad_().requires_grad if made.is_floating_point() else made.dtype in (torch.int64, torch.bool)
    assert torch.equal(made.detach(), torch.tensor(value))


def tensors(p) -> dict[str, torch.Tensor]:
    return {name: value for name, value in fields(p).items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("kind", ["default", "numbers", "given"])
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_modules_on_the_device_meta(model: Model, cell: bool, kind: str):
    """Weights are meta, parameters are what they are; and with weights from elsewhere the module works."""
    p = model.defaults()
    if kind == "numbers":
        p = _map(p, lambda v: float(v) if isinstance(v, torch.Tensor) else v)
    ordinary = make(model, cell, p=p)
    with torch.device("meta"):
        module = make(model, cell, p=p)
    assert all(weight.is_meta for weight in module.parameters())
    assert repr(module) == repr(ordinary)
    assert int(getattr(module, "hidden_size", 0)) == int(getattr(ordinary, "hidden_size", 0))
    expected = tensors(ordinary.p)
    for name, value in tensors(module.p).items():
        assert value.is_cpu
        assert torch.equal(value, expected[name])
    module.to_empty(device="cpu")
    module.load_state_dict(ordinary.state_dict(), assign=True)
    x = make_input(model, 3) if cell else make_input(model, 4, 3)
    for actual, wanted in zip(tree(module(x)), tree(ordinary(x)), strict=True):
        assert torch.equal(actual, wanted)


def _map(p, function):
    return type(p)(*(_map(v, function) if hasattr(v, "_fields") else function(v) for v in p))


def tree(value) -> list[torch.Tensor]:
    return [t.detach() for t in torch.utils._pytree.tree_leaves(value)]


@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_modules_where_the_default_device_is_another(model: Model, cell: bool):
    """What a module makes in a call is on the device of its input."""
    ordinary = make(model, cell)
    x = make_input(model, 3) if cell else make_input(model, 4, 3)
    expected = tree(ordinary(x))
    with torch.device("meta"):
        actual = tree(ordinary(x))
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


def test_other_modules_on_the_device_meta():
    values = [torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.7]), torch.tensor([0.5, 1.0])]
    picture = torch.rand(1, 1, 9, 9)
    for kind in (nf.SampledSpatialReceptiveField2d, nf.ParameterizedSpatialReceptiveField2d):
        with torch.device("meta"):
            field = kind(1, 9, *values, 1)
        assert torch.equal(field(picture), kind(1, 9, *values, 1)(picture))
    with torch.device("meta"):
        smooth, correlation = nf.ExpFilter(2, 3), nf.LIFCorrelation(2, 3)
    assert int(smooth.output_size) == 3
    assert correlation.p.lif_parameters.v_th.item() == 1


@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_parameters_made_in_inference_mode(model: Model, cell: bool):
    with torch.inference_mode():
        p = _map(model.defaults(), lambda v: v.clone() if isinstance(v, torch.Tensor) else v)
    assert all(v.is_inference() for v in tensors(p).values())
    x = make_input(model, 3) if cell else make_input(model, 4, 3)
    results = []
    for module in (make(model, cell, p=p), make(model, cell)):
        leaf = x.clone().requires_grad_()
        output, state = module(leaf)
        (output.sum() + sum(s.sum() for s in torch.utils._pytree.tree_leaves(state))).backward()
        results.append(leaf.grad)
    assert torch.equal(*results)
