"""The table of modules and features, cell by cell; docs/supported.md is printed from it."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

import norse_fast as nf

from . import matrix
from .accelerated import build
from .matrix import FEATURES, PAGE, ROWS, Row

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:A model attribute .lifted_tensor:UserWarning"),  # parameters are constants
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
]


def make(row: Row) -> torch.nn.Module:
    """A module that spikes; twice the same."""
    torch.manual_seed(7)
    module = row.make()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "delay" not in name:
                parameter.mul_(8)
    return module


def output_of(result) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def total(result) -> torch.Tensor:
    return sum((t.double() - 0.4).square().sum() for t in pytree.tree_leaves(result) if t is not None)


def same(actual, expected, tolerance: float = 1e-5) -> None:
    actual, expected = ([t for t in pytree.tree_leaves(r) if t is not None] for r in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), e.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)


def gradients(module, x, **options):
    leaves = [x.clone().requires_grad_(), *module.parameters()]
    found = torch.autograd.grad(total(module(leaves[0])), leaves, allow_unused=True, materialize_grads=True, **options)
    return leaves, found


def eager(row, module, x):
    expected = module(x)
    assert total(expected) > 0  # from rest, not all fire in one step
    with nf.kernels_disabled():
        same(expected, module(x))


def backward(row, module, x):
    _, found = gradients(module, x)
    assert sum(g.abs().sum() for g in found) > 0
    with nf.kernels_disabled():
        same(found, gradients(module, x)[1], 1e-4)


def state(row, module, x):
    if row.over_time:
        first, state = module(x[:5])
        second, state = module(x[5:], state)
        same((torch.cat([first, second]), state), module(x))
        return
    first = module(x)
    second = module(x, first[1])
    assert any(not torch.equal(a, b) for a, b in zip(*map(pytree.tree_leaves, (first, second))) if a is not None)


def compile(row, module, x):
    torch._dynamo.reset()
    state = () if isinstance(module(x), torch.Tensor) else module(x)[1:]
    same(torch.compile(module, backend="eager", fullgraph=True)(x, *state), module(x, *state))


def export(row, module, x):
    file = io.BytesIO()
    with torch.no_grad():
        torch.export.save(torch.export.export(module, (x,)), file)
        file.seek(0)
        same(torch.export.load(file).module()(x), module(x))


def trace(row, module, x):
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, (x,)), file)
        file.seek(0)
        loaded = torch.jit.load(file)
        assert "norse_fast::" not in str(loaded.inlined_graph)
        same(loaded(x), module(x))


def batch(row, x):
    return torch.stack([x, 1 - x])


def vmapped(row, module, x):
    with torch.no_grad():
        found = vmap(lambda q: output_of(module(q)))(batch(row, x))
        same(found, torch.stack([output_of(module(q)) for q in batch(row, x)]))


def per_sample(row, module, x):
    params = {name: p.detach() for name, p in module.named_parameters()}

    def loss(params, q):
        return total(output_of(functional_call(module, params, (q,))))

    found = vmap(grad(loss, (0, 1)), (None, 0))(params, batch(row, x))
    expected = [grad(loss, (0, 1))(params, q) for q in batch(row, x)]
    same(found, pytree.tree_map(lambda *t: torch.stack(t), *expected), 1e-4)


def double(row, module, x):
    def twice():
        leaves, found = gradients(module, x, create_graph=True)
        return torch.autograd.grad(total(found), leaves, allow_unused=True, materialize_grads=True)

    found = twice()
    with nf.kernels_disabled():
        expected = twice()
    same(found, expected, 1e-3 * max(1.0, *(g.abs().max().item() for g in expected)))


def autocast(row, module, x):
    with torch.autocast("cpu", torch.bfloat16):
        result = module(x)
    assert output_of(result).isfinite().all()
    assert output_of(result).shape == output_of(module(x)).shape


def meta(row, module, x):
    with torch.device("meta"):
        other = row.make()
    assert all(p.is_meta for p in other.parameters())
    other.to_empty(device="cpu")
    other.load_state_dict(module.state_dict())
    same(other(x), module(x), 0)


def copied(row, module, x):
    expected = module(x)
    same(copy.deepcopy(module)(x), expected, 0)
    same(pickle.loads(pickle.dumps(module))(x), expected, 0)


def state_dict(row, module, x):
    file, other = io.BytesIO(), row.make()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    same(other(x), module(x), 0)


def inference(row, module, x):
    with torch.inference_mode():
        result = module(x)
    same(result, module(x), 0)


def sparse(row, module, x):
    dense = lambda t: t.to_dense() if isinstance(t, torch.Tensor) and t.is_sparse else t  # noqa: E731
    same(pytree.tree_map(dense, module(x.to_sparse())), module(x))


def integers(row, module, x):
    for dtype in (torch.bool, torch.int64):
        same(output_of(module(x.to(dtype))).to(x.dtype), output_of(module(x)))


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory):
    """One for all: where a wrapper is the last that holds its group, PyTorch may wait for a thread that waits for Python."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    gc.collect()
    torch.distributed.destroy_process_group()


def ddp(row, module, x):
    network = nf.SequentialState(torch.nn.Linear(row.inputs, row.inputs), module)
    parallel = DistributedDataParallel(network)
    expected = gradients(network, x)[1][1:]
    total(parallel(x)).backward()
    same([p.grad for p in network.parameters()], expected, 1e-4)


def functional(row, module, x):
    params = {name: 2 * p.detach() for name, p in module.named_parameters()}
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(params[name])
    same(functional_call(module, params, (x,)), other(x), 0)


def in_nir(row, module, x):
    back = nf.from_nir(nf.to_nir(nf.SequentialState(module), x))
    x = x if row.over_time else x.expand(matrix.STEPS, *x.shape)
    state, outputs = None, []
    for frame in x:
        output, state = back(frame, state)
        outputs.append(output)
    expected = output_of(module(x) if row.over_time else nf.Lift(module)(x))
    same(torch.stack(outputs), expected)


def accelerated(row, module, x):
    theirs = build(row.name)
    assert not isinstance(theirs, type(module))
    nf.accelerate(theirs)
    assert isinstance(theirs, type(module))


def lifted(row, module, x):
    steps = torch.stack([x, 1 - x, x])
    state, outputs = None, []
    for frame in steps:
        result = module(frame) if state is None else module(frame, state)
        state = result[1] if isinstance(result, tuple) else None
        outputs.append(output_of(result))
    same(output_of(nf.Lift(module)(steps)), torch.stack(outputs))


CHECKS = dict(
    zip(
        FEATURES,
        (
            *(eager, backward, state, compile, export, trace, vmapped, per_sample, double, autocast, meta, copied),
            *(state_dict, inference, sparse, integers, ddp, functional, in_nir, accelerated, lifted),
        ),
        strict=True,
    )
)
NEEDS = {"NIR": "nir", "accelerate": "norse"}


def check(row: Row, feature: str, request: pytest.FixtureRequest) -> None:
    if feature == "DDP":
        request.getfixturevalue("process_group")
    CHECKS[feature](row, make(row), row.input())


def cells(lacking: bool):
    for row in ROWS:
        for feature in FEATURES:
            if (feature in row.lacks) == lacking:
                marks = [pytest.mark.needs(NEEDS[feature])] if feature in NEEDS else []
                if feature == "export" and row not in matrix.OTHERS:
                    marks.append(pytest.mark.slow_to_compile)  # test_deployment.py exports neurons for all lengths
                yield pytest.param(row, feature, marks=marks, id=f"{row.name}-{feature}")


@pytest.mark.parametrize(("row", "feature"), list(cells(False)))
def test_supported(row: Row, feature: str, request):
    check(row, feature, request)


@pytest.mark.parametrize(("row", "feature"), [c for c in cells(True) if c.values[1] not in ("accelerate", "Lift")])
def test_not_supported(row: Row, feature: str, request):
    """What comes to be supported must leave the table's exceptions."""
    with pytest.raises((RuntimeError, TypeError, NotImplementedError, IndexError)):
        check(row, feature, request)


def test_every_module_is_in_the_table():
    modules = {
        n
        for n in dir(nf.module)
        if isinstance(kind := getattr(nf.module, n), type) and issubclass(kind, torch.nn.Module)
    }
    assert {row.name for row in ROWS} | set(matrix.OUTSIDE) == modules
    assert not {row.name for row in ROWS} & set(matrix.OUTSIDE)
    assert all(set(row.lacks) <= set(FEATURES) for row in ROWS)


def test_page():
    assert PAGE.read_text() == matrix.page(), "run python -m tests.matrix"
