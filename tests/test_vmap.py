"""torch.func.vmap and what is made of it, through the kernels: bit for bit what separate calls give."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels
from norse_fast._kernels.neuron import Neuron
from norse_fast._kernels.outputs import NUMBERS
from norse_fast._kernels.recurrent import Recurrent
from norse_fast.functional.threshold import threshold, triangle_fn

from .models import FEED_FORWARD, Model, fields, model_id, random_params, random_state
from .test_recurrent import LAYERS, layer_of, make_case

SIZE = 3


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    """Where there are kernels, nothing here may run in PyTorch's own operators."""
    if not has_kernels("cpu"):
        return

    def refuse(*arguments, **options):
        raise AssertionError("PyTorch's own operators ran")

    monkeypatch.setattr(Neuron, "run_in_pytorch", refuse)
    monkeypatch.setattr(Recurrent, "run_in_pytorch", refuse)


def separate(function, in_dims, *arguments):
    """What vmap must give."""

    def pick(tree, dim, k):
        return tree if dim is None else pytree.tree_map(lambda t: t.select(dim, k), tree)

    results = [function(*(pick(a, d, k) for a, d in zip(arguments, in_dims))) for k in range(SIZE)]
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *results)


def assert_equal(actual, expected):
    actual, expected = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert torch.equal(a, e)


def case(model: Model, generator, sequence=True, dtype=torch.float64, per_neuron=True, **options):
    """A function of input, state and parameters, and a batch of each."""
    x = (3 if sequence else 60) * torch.rand(
        SIZE, *((40,) if sequence else ()), 2, 4, generator=generator, dtype=torch.float64
    )
    state = fields(random_state(model, (SIZE, 2, 4), torch.float64, generator))
    p = random_params(model, (SIZE, *((4,) if per_neuron else ())), torch.float64, generator)
    values = fields(model.defaults())
    names = [n for n, v in values.items() if isinstance(v, torch.Tensor) and n.split(".")[-1] != "alpha"]

    def run(x, state, params):
        packed = model.pack(model.params, values | params)
        states = model.pack(model.state, state)
        output, final = model.neuron(x, states, packed, 0.001, sequence=sequence, **options)
        return output, fields(final)

    return run, pytree.tree_map(lambda t: t.to(dtype), (x, state, {n: fields(p)[n] for n in names}))


def total(results):
    output, states = results
    weights = torch.linspace(0, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return (output * weights).sum() + sum((v**2).sum() for v in states.values())


@pytest.mark.parametrize("per_neuron", [True, False])
@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_calls(model: Model, sequence: bool, per_neuron: bool, generator):
    run, batch = case(model, generator, sequence, torch.float32, per_neuron)
    first = pytree.tree_map(lambda t: t[0], batch)
    for chosen in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        in_dims = tuple(0 if c else None for c in chosen)
        arguments = [b if c else f for c, b, f in zip(chosen, batch, first)]
        expected = separate(run, in_dims, *arguments)
        assert_equal(vmap(run, in_dims)(*arguments), expected)
    assert expected[0].any() or not sequence  # in one step a refractory neuron does not fire
    moved = batch[0].movedim(0, -1)
    assert_equal(vmap(run, (-1, None, None))(moved, *first[1:]), separate(run, (-1, None, None), moved, *first[1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(NUMBERS))
def test_outputs_and_records(kind: str, dtype: torch.dtype, generator):
    run, batch = case(FEED_FORWARD[0], generator, dtype=dtype, kind=kind, record=True)
    assert_equal(vmap(run)(*batch), separate(run, (0, 0, 0), *batch))


@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_gradients(model: Model, generator):
    """Sums over the batch and over shared arguments may round otherwise."""
    run, batch = case(model, generator)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # noqa: E731

    def loss(*arguments):
        return total(run(*arguments))

    expected = separate(grad(loss, (0, 1, 2)), (0, 0, 0), *batch)
    assert all(g.any() for g in pytree.tree_leaves(expected))
    close(vmap(grad(loss, (0, 1, 2)))(*batch), expected)
    close(grad(lambda *arguments: vmap(loss)(*arguments).sum(), (0, 1, 2))(*batch), expected)
    leaves = pytree.tree_map(lambda t: t.clone().requires_grad_(), batch)
    flat = pytree.tree_leaves(leaves)
    close(torch.autograd.grad(vmap(loss)(*leaves).sum(), flat), tuple(pytree.tree_leaves(expected)))
    # An ensemble that shares its input, per-sample gradients of shared parameters, and a batch of batches.
    for in_dims in ((None, None, 0), (0, 0, None)):
        arguments = [pytree.tree_map(lambda t: t[0], b) if d is None else b for b, d in zip(batch, in_dims)]
        close(vmap(grad(loss, (0, 1, 2)), in_dims)(*arguments), separate(grad(loss, (0, 1, 2)), in_dims, *arguments))
    inner = lambda *arguments: vmap(grad(loss), (None, None, 0))(*arguments)  # noqa: E731
    close(vmap(inner, (0, 0, None))(*batch), separate(inner, (0, 0, None), *batch))


def batches_of_alpha():
    for make in (nf.LIF, nf.LIFCell, lambda p: nf.LIFRecurrent(4, 4, p), lambda p: nf.LIFRecurrentCell(4, 4, p)):
        torch.manual_seed(1)
        module = make(nf.LIFParameters(method="atan")).double()
        scale = 60 if isinstance(module, (nf.LIFCell, nf.LIFRecurrentCell)) else 3

        def run(x, alpha, module=module, scale=scale):
            module.p = module.p._replace(alpha=alpha)
            z, state = module(scale * x)
            return z.sum() + state.v.pow(2).sum()

        yield run
    yield lambda x, alpha: threshold(x, "atan", alpha).sum()
    yield lambda x, alpha: triangle_fn(x, alpha).sum()


@pytest.mark.parametrize("disabled", [False, True], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("index", range(6))
def test_batches_of_alpha(index: int, disabled: bool, generator, monkeypatch):
    """Spikes do not depend on it, and yet each has gradients of its own."""
    monkeypatch.undo()
    run = list(batches_of_alpha())[index]
    x = torch.rand(40, 2, 4, generator=generator, dtype=torch.float64)
    alpha = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    with nf.kernels_disabled() if disabled else torch.enable_grad():
        every = [grad(run, (0, 1))(x, a) for a in alpha]
        expected = torch.stack([g for g, _ in every]).sum(0), torch.stack([g for _, g in every])
        assert expected[1].all()
        total = lambda x, alpha: vmap(run, (None, 0))(x, alpha).sum()  # noqa: E731
        torch.testing.assert_close(grad(total, (0, 1))(x, alpha), expected)
        leaves = [x.requires_grad_(), alpha.requires_grad_()]
        torch.testing.assert_close(torch.autograd.grad(total(*leaves), leaves), expected)


def test_jacobians(generator):
    run, batch = case(FEED_FORWARD[0], generator)
    x, state, params = pytree.tree_map(lambda t: t[0], batch)

    def short(q):
        return run(torch.cat([q, q.new_zeros(37, 2, 4)]), state, params)[1]["v"][0]

    jacobian = jacrev(short)(x[:3])
    rows = [grad(lambda q, n=n: short(q)[n])(x[:3]) for n in range(4)]
    assert_equal(jacobian, torch.stack(rows))
    assert jacobian.any()


@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recurrent_layers(model: Model, generator):
    """With weights of their own, each of the batch has a call of its own."""
    cases = [make_case(model, 24, (2,), 3, 4, generator, torch.float64, per_neuron=True)[:4] for _ in range(SIZE)]
    pick = lambda t: t.detach() if isinstance(t, torch.Tensor) else t  # noqa: E731
    x, state, weights, _ = pytree.tree_map(
        lambda *t: torch.stack(t).detach() if isinstance(t[0], torch.Tensor) else t[0], *cases
    )
    p = pytree.tree_map(pick, cases[0][3])

    def run(x, state, weights):
        output, final = layer_of(model)(x, state, *weights, p, 0.001)
        return output, fields(final)

    def loss(*arguments):
        output, final = run(*arguments)
        return output[-3:].sum() + sum((v**2).sum() for n, v in final.items() if n.split(".")[-1] != "z")

    batch = (x, state, weights)
    for in_dims in ((0, 0, 0), (0, None, None), (None, None, 0), (None, 0, None)):
        arguments = [pytree.tree_map(lambda t: t[0], b) if d is None else b for b, d in zip(batch, in_dims)]
        expected = separate(run, in_dims, *arguments)
        assert expected[0].any()
        torch.testing.assert_close(vmap(run, in_dims)(*arguments), expected, rtol=1e-12, atol=1e-12)
        gradient = grad(loss, (0, 2))
        expected = separate(gradient, in_dims, *arguments)
        torch.testing.assert_close(vmap(gradient, in_dims)(*arguments), expected, rtol=1e-9, atol=1e-9)


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 6)
        self.cell = nf.LIFCell(learn=("tau_mem_inv", "v_th"))
        self.layers = nf.SequentialState(
            nf.LIFRecurrent(6, 6, learn="tau_syn_inv"), torch.nn.Linear(6, 5), nf.LIF(learn="v_th"), nf.LI()
        )
        self.lifted = nf.Lift(nf.SequentialState(torch.nn.Linear(5, 3), nf.LIFAdExCell()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, outputs = None, []
        for frame in 40 * self.first(x):
            z, state = self.cell(frame, state)
            outputs.append(z)
        voltages, _ = self.layers(torch.stack(outputs))
        return voltages.sum(0) + self.lifted(voltages)[0].sum()


def test_ensembles():
    networks = [Network() for _ in range(SIZE)]
    for network in networks:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    x = torch.rand(20, 2, 4)
    params, buffers = stack_module_state(networks)
    params = {name: value.detach() for name, value in params.items()}

    def run(params, buffers, x):
        return functional_call(networks[0], (params, buffers), (x,))

    def loss(params, buffers, x):
        return run(params, buffers, x).pow(2).sum()

    expected = torch.stack([network(x) for network in networks])
    assert expected.any()
    torch.testing.assert_close(vmap(run, (0, 0, None))(params, buffers, x), expected)
    found = vmap(grad(loss), (0, 0, None))(params, buffers, x)
    for k, network in enumerate(networks):
        gradients = torch.autograd.grad(network(x).pow(2).sum(), list(network.parameters()))
        for name, gradient in zip(dict(network.named_parameters()), gradients, strict=True):
            torch.testing.assert_close(found[name][k], gradient, rtol=1e-4, atol=1e-4)


def test_transforms_within_torch_compile(monkeypatch):
    """They run outside of it: torch.compile would lose gradients in silence."""
    torch._dynamo.reset()
    layer, x = nf.LIF(), 5 * torch.rand(SIZE, 20, 2, 3)

    def loss(x):
        z, state = layer(x)
        return z.sum() + state.v.pow(2).sum()

    expected = vmap(grad(loss))(x)
    assert expected.any()
    assert torch.equal(torch.compile(lambda x: vmap(grad(loss))(x), backend="aot_eager")(x), expected)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph"):
        torch.compile(lambda x: vmap(layer)(x), backend="aot_eager", fullgraph=True)(x)
    # Spike functions alone, and what runs in PyTorch, lose them no more than kernels do.
    u, alpha = torch.randn(SIZE, 5), torch.tensor([1.0, 2.0, 3.0])
    for method in ("atan", lambda u, alpha: torch.exp(-alpha * u.abs())):
        function = grad(lambda u, alpha, m=method: threshold(u, m, alpha).sum())
        expected_grad = vmap(function)(u, alpha)
        assert expected_grad.any()
        compiled = torch.compile(lambda *a, f=function: vmap(f)(*a), backend="aot_eager")
        torch.testing.assert_close(compiled(u, alpha), expected_grad)
    monkeypatch.undo()
    with nf.kernels_disabled():
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: vmap(grad(loss))(x), backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
    torch._dynamo.reset()
    # What is compiled may be transformed.
    assert torch.equal(vmap(grad(torch.compile(loss, backend="aot_eager")))(x), expected)


@pytest.mark.usefixtures("products_of_any_size")
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: nf.SpikeLinear(30, 20), (50, 30)),
        (lambda: nf.SpikeConv2d(2, 20, 3), (5, 2, 9, 9)),
        (lambda: nf.SpikeMaxPool2d(2), (4, 2, 8, 8)),
        (lambda: nf.Lift(torch.nn.Linear(30, 20)), (7, 5, 30)),
    ],
)
@pytest.mark.parametrize("batched", [vmap, "is_grads_batched"])
def test_backward_of_products_of_spikes(module, shape, batched, generator):
    """Of many gradients at once, as of a Jacobian."""
    module = module()
    x = (torch.rand(shape, generator=generator) < 0.2).float().requires_grad_()
    y = module(x)[0] if isinstance(module, nf.Lift) else module(x)
    leaves = [x, *module.parameters()]
    seeds = torch.randn(SIZE, *y.shape, generator=generator)
    expected = [torch.autograd.grad(y, leaves, seed, retain_graph=True) for seed in seeds]
    if batched is vmap:
        actual = vmap(lambda seed: torch.autograd.grad(y, leaves, seed, retain_graph=True))(seeds)
    else:
        actual = torch.autograd.grad(y, leaves, seeds, is_grads_batched=True)
    for a, e in zip(actual, zip(*expected), strict=True):
        torch.testing.assert_close(a, torch.stack(e))
