"""Recurrent layers as one operator: the same as one step after another, whatever the threads, pieces and rates."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast._kernels.ops import RECURRENT_SEGMENT
from norse_fast._kernels.recurrent import RECURRENT, Recurrent

from .models import (
    FEED_FORWARD,
    MODELS,
    Model,
    fields,
    gradients_of_each,
    model_id,
    potential_of,
    random_params,
    set_surrogate,
)
from .opcheck import opcheck
from .test_operators import compiled

LAYERS = [model for model in MODELS if model.kind == "rec"]
needs_kernels = pytest.mark.skipif(not RECURRENT[nf.lif_step].is_fused("cpu"), reason="runs without kernels")


def layer_of(model: Model) -> Recurrent:
    return RECURRENT[model.step]


def make_state(model: Model, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator):
    """Spikes of 0 and 1, other states around rest."""
    layer = layer_of(model)
    values = {n: torch.rand(shape, generator=generator, dtype=dtype).requires_grad_() for n in layer.neuron.state}
    z = (torch.rand(shape, generator=generator) < 0.3).to(dtype).requires_grad_()
    return layer.pack(z, *values.values())


def make_case(model: Model, steps: int, batch: tuple[int, ...], inputs: int, neurons: int, generator, dtype, **options):
    """Input, state, weights and parameters of a layer that fires now and then."""
    exact, rate, per_neuron = options.get("exact", False), options.get("rate", 0.3), options.get("per_neuron", False)
    x = (torch.rand(steps, *batch, inputs, generator=generator) < rate).to(dtype)
    weights = []
    for width, scale in ((inputs, 24.0), (neurons, 8.0)):
        scale *= {"izhikevich_recurrent_step": 10, "coba_lif_step": 0.1}.get(model.name, 1)
        w = torch.randn(neurons, width, generator=generator, dtype=torch.float64) * scale / width**0.5
        # Multiples of 1/16 have exact sums, in whatever order.
        weights.append((w.mul(16).round().div(16) if exact else w).to(dtype).requires_grad_())
    p = random_params(model, (neurons,) if per_neuron else (), dtype, generator)
    leaves = [value.requires_grad_() for value in fields_of(p)] if options.get("learn") else []
    return x.requires_grad_(), make_state(model, (*batch, neurons), dtype, generator), tuple(weights), p, leaves


def fields_of(p) -> list[torch.Tensor]:
    """The parameters of a (nested) tuple that can be learned; alpha cannot."""
    return [v for name, v in fields(p).items() if isinstance(v, torch.Tensor) and name.split(".")[-1] != "alpha"]


def step_by_step(model: Model, x, state, weights, p, dt=0.001):
    outputs = []
    for frame in x:
        output, state = model.step(frame, state, *weights, p, dt)
        outputs.append(output)
    return torch.stack(outputs), state


def gradients(output, final, leaves, generator):
    loss = (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()
    for value in fields(final).values():
        loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def assert_same(actual, expected, **tolerance):
    for name, value in fields(expected).items():
        if tolerance:
            torch.testing.assert_close(fields(actual)[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(fields(actual)[name], value), name


@needs_kernels
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_spikes_equal_those_of_single_steps(model: Model, generator):
    """On 128 sequences per model, more than 1,000 in all: with exact sums there is no rounding left to differ in."""
    x, state, weights, p, _ = make_case(model, 60, (128,), 20, 40, generator, torch.float32, exact=True)
    with torch.no_grad():
        output, final = layer_of(model)(x, state, *weights, p, 0.001)
        expected, expected_final = step_by_step(model, x, state, weights, p)
    assert 0.001 < expected.mean() < 0.9, "too few or too many spikes to tell"
    assert torch.equal(output, expected)
    assert_same(final, expected_final)


@pytest.mark.parametrize(
    ("dtype", "steps"),
    [(torch.float64, 2 * RECURRENT_SEGMENT + 3), (torch.float32, 4 * RECURRENT_SEGMENT + 6)],
    ids=str,
)
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_gradients_equal_those_of_pytorch(model: Model, per_neuron: bool, dtype: torch.dtype, steps: int, generator):
    """More steps than a segment, gradients of everything."""
    exact, double = dtype == torch.float32, dtype == torch.float64  # sums that round would make other spikes
    tolerance, state_tolerance = (1e-9, 1e-10) if double else (1e-5, 1e-5)
    x, state, weights, p, learned = make_case(
        model, steps, (2, 2), 5, 70, generator, dtype, per_neuron=per_neuron, learn=True, exact=exact, rate=0.1
    )
    leaves = [x, *weights, *fields(state).values(), *learned]
    results = []
    for disabled in (False, True):
        context = kernels_disabled() if disabled else torch.enable_grad()
        with context:
            output, final = layer_of(model)(x, state, *weights, p, 0.001)
            results.append((output, final, gradients(output, final, leaves, torch.Generator().manual_seed(1))))
    (output, final, actual), (expected, expected_final, expected_grads) = results
    assert torch.equal(output, expected)
    assert_same(final, expected_final, rtol=state_tolerance, atol=state_tolerance)
    for grad, value in zip(actual, expected_grads):
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(grad, value, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("method", ["super", "triangle", "heaviside"])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_gradients_are_finite_where_those_of_pytorch_are(model: Model, learn: bool, method: str, generator):
    """With a potential that is no number, where no spike passes a gradient: they are detached, or of that surrogate."""
    x, state, weights, p, learned = make_case(model, 20, (2,), 3, 5, generator, torch.float64, learn=learn)
    potential_of(state).data[0, 0] = torch.nan
    p = set_surrogate(p, method, 1.0)
    leaves = {str(k): leaf for k, leaf in enumerate([x, *weights, *fields(state).values(), *learned])}

    def gradients() -> dict[str, torch.Tensor]:
        output, final = layer_of(model).variants["value", method != "heaviside"](x, state, *weights, p, 0.001)
        return gradients_of_each({"output": output, **fields(final)}, leaves)

    actual = gradients()
    with kernels_disabled():
        expected = gradients()
    for name, gradient in expected.items():
        known = gradient.isfinite()
        torch.testing.assert_close(actual[name][known], gradient[known], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("model", [LAYERS[0], FEED_FORWARD[0]], ids=model_id)
def test_what_is_computed_again_is_read_once(model: Model, twice: bool, generator):
    """As torch.utils.checkpoint demands, also where PyTorch differentiates the gradients."""
    torch.manual_seed(1)
    layer = model.layer(*(() if model.kind == "ff" else (4, 4)), learn="v_th").double()
    x = 20 * torch.rand(40, 2, 4, generator=generator, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        z, state = layer(x)
        return z.sum() + state.v.pow(2).sum()

    results = []
    for run in (loss, lambda x: checkpoint(loss, x, use_reentrant=False)):
        x = x.detach().requires_grad_()
        gradients = torch.autograd.grad(run(x), [x, *layer.parameters()], create_graph=twice)
        results.append(torch.autograd.grad(gradients[0].pow(2).sum(), x) if twice else gradients)
    assert results[0][0].any()
    torch.testing.assert_close(*results)


@needs_kernels
@settings(deadline=None, max_examples=40)
@given(
    model=st.sampled_from(LAYERS),
    steps=st.integers(1, 40),
    batch=st.lists(st.integers(0, 4), max_size=2).map(tuple),
    inputs=st.integers(1, 70),
    neurons=st.integers(1, 140),
    rate=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    record=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shape(model, steps, batch, inputs, neurons, rate, record, seed):
    generator = torch.Generator().manual_seed(seed)
    x, state, weights, p, learned = make_case(
        model, steps, batch, inputs, neurons, generator, torch.float64, rate=rate, exact=True, learn=True
    )
    leaves = [x, *weights, *fields(state).values(), *learned]
    output, final = layer_of(model)(x, state, *weights, p, 0.001, record)
    with kernels_disabled():
        expected, expected_final = layer_of(model)(x, state, *weights, p, 0.001, record)
    assert torch.equal(output, expected)
    assert_same(final, expected_final, rtol=1e-10, atol=1e-10)
    seeds = [torch.Generator().manual_seed(seed) for _ in range(2)]
    for actual, value in zip(
        gradients(output, final, leaves, seeds[0]), gradients(expected, expected_final, leaves, seeds[1])
    ):
        scale = max(1.0, value.abs().max().item() if value.numel() else 0.0)
        torch.testing.assert_close(actual, value, rtol=1e-8, atol=1e-8 * scale)


@needs_kernels
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_chunks_make_no_difference(model: Model, generator):
    x, state, weights, p, _ = make_case(model, 50, (3,), 9, 130, generator, torch.float32)
    layer = layer_of(model)
    whole, final = layer(x, state, *weights, p, 0.001)
    pieces, chunk_state = [], state
    for chunk in x.split([1, 7, 16, 25, 1]):
        piece, chunk_state = layer(chunk, chunk_state, *weights, p, 0.001)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces), whole)
    assert_same(chunk_state, final)


@needs_kernels
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_parts_of_the_backward_pass_make_no_difference(model: Model, generator):
    """It goes back through 16 steps at a time. Of the gradients of weights and parameters, only the sums over parts round."""
    x, state, weights, p, learned = make_case(model, 150, (3,), 9, 70, generator, torch.float64, learn=True)
    leaves = [x, *fields(state).values(), *weights, *learned]
    results = []
    for cut in (150, 23, 64):
        first, middle = layer_of(model)(x[:cut], state, *weights, p, 0.001)
        output, final = layer_of(model)(x[cut:], middle, *weights, p, 0.001) if cut < 150 else (x[:0, :, :1], middle)
        output = torch.cat([first, output.expand(-1, -1, 70)])
        results.append(gradients(output, final, leaves, torch.Generator().manual_seed(1)))
    whole, *others = results
    for other in others:
        for actual, expected in zip(other, whole):
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11 * scale)


THREADS = """
import sys, torch, norse_fast as nf
torch.set_num_threads(int(sys.argv[1]))
results = []
for layer, batch, steps in (
    (nf.LIFRecurrent(40, 200), 5, 40), (nf.CobaLIFRecurrent(40, 200), 5, 40), (nf.LSNNRecurrent(40, 2100), 1, 20),
    (nf.CobaLIFRecurrent(10, 1500), 1, 20),
):
    generator = torch.Generator().manual_seed(0)
    for w in layer.parameters():
        w.data = torch.randn(w.shape, generator=generator) * 9 / w.shape[1] ** 0.5
    x = (torch.rand(steps, batch, layer.input_size, generator=generator) < 0.3).float().requires_grad_()
    z, state = layer(x)
    assert z.any()
    (z * torch.randn(z.shape, generator=generator)).sum().backward()
    results += [z.detach(), *[s.detach() for s in state], x.grad, *(w.grad for w in layer.parameters())]
torch.save(results, sys.argv[2])
"""


@needs_kernels
def test_threads_make_no_difference(tmp_path):
    """Whether they share the batch or, in the last two layers, the neurons of one sequence."""
    for threads in ("1", "2", "3"):
        arguments = [sys.executable, "-c", THREADS, threads, str(tmp_path / threads)]
        subprocess.run(arguments, check=True, timeout=300)
    one, *others = (torch.load(tmp_path / threads) for threads in ("1", "2", "3"))
    for other in others:
        for a, b in zip(one, other):
            assert torch.equal(a, b)


@needs_kernels
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 60),
    width=st.integers(1, 90),
    columns=st.integers(1, 140),
    rate=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    binary=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_spike_product(rows, width, columns, rate, binary, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(rows, width, generator=generator) < rate).to(dtype)
    if not binary:
        z = z * torch.randn(rows, width, generator=generator).to(dtype)
    grads = torch.randn(rows, columns, generator=generator).to(dtype)
    total = torch.ops.norse_fast.spike_product(z, grads)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(total, grads.t() @ z, rtol=tolerance, atol=tolerance)


@needs_kernels
@pytest.mark.parametrize("size", [(1, 1, 1), (100, 70, 130), (97, 300, 64), (500, 128, 192), (3, 0, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product(size, dtype, generator):
    rows, depth, columns = size
    a, b = torch.randn(rows, depth, generator=generator), torch.randn(depth, columns, generator=generator)
    a, b = a.to(dtype), b.to(dtype)
    out = torch.ops.norse_fast.product(a, b)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(out, a @ b, rtol=tolerance, atol=tolerance)


@needs_kernels
@pytest.mark.parametrize("name", ["product", "spike_product"])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.uint8, torch.int8, torch.int64, torch.bool])
def test_products_are_of_floating_point_matrices(name, dtype):
    operator = getattr(torch.ops.norse_fast, name)
    with pytest.raises(RuntimeError, match="needs two matrices of float32, or of float64"):
        operator(torch.ones(4, 4, dtype=dtype), torch.ones(4, 4, dtype=dtype))
    with pytest.raises(RuntimeError, match="needs two matrices of float32, or of float64"):
        operator(torch.ones(4, 4), torch.ones(4, 4, dtype=dtype))
    with pytest.raises(RuntimeError, match="needs two matrices that fit"):
        operator(torch.ones(4, 3) if name == "product" else torch.ones(3, 4), torch.ones(4, 4))


@needs_kernels
def test_initial_spikes_need_not_be_0_or_1(generator):
    model = next(m for m in LAYERS if m.step is nf.lif_step)
    x, state, weights, p, _ = make_case(model, 3, (2,), 4, 6, generator, torch.float64)
    state = state._replace(z=torch.tensor(0.5, dtype=torch.float64).expand(2, 6))
    output, final = layer_of(model)(x, state, *weights, p, 0.001)
    expected, expected_final = step_by_step(model, x, state, weights, p)
    assert torch.equal(output, expected)
    assert_same(final, expected_final, rtol=1e-12, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_opcheck(model: Model, generator):
    layer = layer_of(model)
    neuron = layer.neuron
    x, state, weights, p, _ = make_case(model, 2 * RECURRENT_SEGMENT, (2,), 4, 6, generator, torch.float32)
    if layer.prepare is not None:
        weights = [layer.prepare(w) for w in weights]
    example = torch.zeros(2, 6)
    _, _, values, params, alpha = neuron.prepare(example, state, p, 0.001)
    values = [v.detach() for v in values]
    z = next(v for k, v in fields(state).items() if k.split(".")[-1] == "z").detach()
    problem = (x.detach(), weights[0].detach(), z, *values, weights[1].detach(), *params)
    opcheck(neuron.recurrent_forward_op, (*problem, 0.001, True, True))
    output, *rest = neuron.recurrent_forward_op(*problem, 0.001, True, False)
    checkpoints = rest[len(values)]
    for want_params in (False, True):
        wanted = (want_params, True, not want_params, True, want_params)
        head = (torch.ones_like(output), None, *[None] * len(values), [], 0, 0.001)
        head = (*problem, alpha, output, checkpoints, *head)
        opcheck(neuron.recurrent_backward_op, (*head, *wanted, [], 0), traced=want_params)
    distances = neuron.recurrent_backward_op(*head, *[False] * 5, [], 1)[-1]
    opcheck(neuron.recurrent_backward_op, (*head, *[False] * 5, [], 1), traced=False)
    derivatives = [torch.full_like(u, 0.1) for u in distances]  # as large ones, they would make gradients infinite
    opcheck(neuron.recurrent_backward_op, (*head, *wanted, derivatives, 2))
    opcheck(torch.ops.norse_fast.spike_product.default, (output[0], output[1]))
    opcheck(torch.ops.norse_fast.product.default, (output[0].t().contiguous(), output[1]))


@needs_kernels
@pytest.mark.parametrize("model", [m for m in LAYERS if m.layer], ids=model_id)
def test_compiles_without_graph_break(model: Model, generator):
    torch.manual_seed(1)
    layer = model.layer(4, 6)
    x = (60 * torch.rand(20, 2, 4, generator=generator)).requires_grad_()
    output, final = layer(x)
    fused, fused_final = compiled(layer)(x)
    assert torch.equal(output, fused)
    assert_same(fused_final, final)
    leaves = [x, *layer.parameters()]
    grads = [
        torch.autograd.grad(y.sum() + s.v.sum() if hasattr(s, "v") else y.sum(), leaves, allow_unused=True)
        for y, s in ((output, final), (fused, fused_final))
    ]
    for actual, expected in zip(*grads):
        torch.testing.assert_close(actual, expected)


@needs_kernels
def test_training_saves_less_than_a_byte_per_neuron_and_step():
    layer = nf.LIFRecurrent(8, 64)
    x = torch.rand(200, 4, 8)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        z, _ = layer(x)
    own = {id(x), id(z), *map(id, layer.parameters())}
    pointers = {x.data_ptr(), z.data_ptr(), *(w.data_ptr() for w in layer.parameters())}
    extra = sum(t.nbytes for t in saved if id(t) not in own and t.data_ptr() not in pointers)
    assert 0 < extra < z.numel()


@pytest.mark.parametrize(
    ("factory", "step"), [(nf.LIFRecurrent, nf.lif_step_sparse), (nf.LIFRefracRecurrent, nf.lif_refrac_step_sparse)]
)
def test_sparse_input_over_time(factory, step, generator):
    layer = factory(6, 5)
    with torch.no_grad():
        layer.input_weights.mul_(30)
    x = (torch.rand(20, 3, 6, generator=generator) < 0.3).float().to_sparse()
    z, final = layer(x)
    assert z.is_sparse
    assert z.shape == (20, 3, 5)
    assert z.to_dense().any()

    zeros = torch.zeros(3, 5)
    state = nf.LIFState(zeros.to_sparse(), zeros, zeros)
    state = nf.LIFRefracState(state, zeros) if factory is nf.LIFRefracRecurrent else state
    outputs = []
    for frame in x.to_dense():
        output, state = step(frame.to_sparse(), state, layer.input_weights, layer.recurrent_weights, layer.p)
        outputs.append(output.to_dense())
    assert torch.equal(z.to_dense(), torch.stack(outputs))
    for name, value in fields(state).items():
        torch.testing.assert_close(fields(final)[name].to_dense(), value.to_dense(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, generator):
    layer = nf.LIFRecurrent(4, 6).to(dtype)
    x = (100 * torch.rand(10, 2, 4, generator=generator)).to(dtype).requires_grad_()
    z, state = layer(x)
    assert z.dtype == dtype
    assert state.z.dtype == dtype
    assert state.v.dtype == torch.float32
    z.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.any()
    assert layer.recurrent_weights.grad.dtype == dtype


@needs_kernels
def test_autocast_projects_in_its_own_dtype(generator):
    layer = nf.LIFRecurrent(4, 6)
    x = 100 * torch.rand(10, 2, 4, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, state = layer(x)
        currents = torch.nn.functional.linear(x, layer.input_weights)
    assert currents.dtype == torch.bfloat16
    assert state.i.dtype == torch.float32
    expected, _ = RECURRENT[nf.lif_step](
        currents.float(), nf.LIFState(*torch.zeros(3, 2, 6)), torch.eye(6), layer.recurrent_weights, layer.p, layer.dt
    )
    assert torch.equal(z.float(), expected)


@needs_kernels
def test_functional_gradients():
    """torch.func.grad, as for the other layers."""
    layer = nf.LIFRecurrent(3, 4)
    x = 60 * torch.rand(20, 2, 3)

    def loss(weights):
        z, _ = torch.func.functional_call(layer, weights, (x,))
        return (z * torch.arange(4.0)).sum()

    weights = dict(layer.named_parameters())
    actual = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for a, e in zip(actual.values(), expected):
        # Outside of functional calls, a hook takes the gradient of the autapses away.
        torch.testing.assert_close(a * (1 - torch.eye(4)) if a.shape == (4, 4) else a, e)


NEEDS_PARAMETERS = {"lif_step": nf.LIFParameters(), "izhikevich_recurrent_step": nf.tonic_spiking.p}
DENSE = {step.__name__: step for step, layer in RECURRENT.items() if not layer.sparse}


def vectors_of_weights(step, neurons: int, *batch: int) -> tuple:
    """A call of a step function with weights as vectors, for one sample; the state has numbers for gradients."""
    layer = RECURRENT[step]
    values = [torch.rand(*batch, neurons, requires_grad=True) for _ in layer.neuron.state]
    state = layer.pack(torch.rand(*batch, neurons).round(), *values)
    p = NEEDS_PARAMETERS.get(step.__name__)
    return torch.rand(*batch, 4) * 20, state, torch.rand(4), torch.rand(neurons), *([] if p is None else [p])


@pytest.mark.parametrize("batch", [(), (1,)], ids=["sample", "batch of one"])
@pytest.mark.parametrize("neurons", [1, 3])
@pytest.mark.parametrize("name", DENSE)
def test_vectors_of_weights_are_the_row_of_every_neuron(name: str, neurons: int, batch: tuple[int, ...]):
    x, state, w, r, *p = vectors_of_weights(DENSE[name], neurons, *batch)
    w, r = w.requires_grad_(), r.requires_grad_()
    z, after = DENSE[name](x, state, w, r, *p)
    expected, expected_after = DENSE[name](x, state, w.expand(neurons, -1), r.expand(neurons, -1), *p)
    pairs = [(z, expected), *zip(*(torch.utils._pytree.tree_leaves(tree) for tree in (after, expected_after)))]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert z.shape == (*batch, neurons)
    gradients = [torch.autograd.grad(sum(t[k].sum() for t in pairs), (w, r), allow_unused=True) for k in (0, 1)]
    for gradient, other in zip(*gradients):
        assert (gradient is None) is (other is None)
        assert gradient is None or (gradient.dim() == 1 and torch.equal(gradient, other))


@pytest.mark.parametrize("batch", [(), (1,)], ids=["sample", "batch of one"])
@pytest.mark.parametrize(
    "name", [name for name in DENSE if name in ("lif_step", "iaf_step", "izhikevich_recurrent_step")]
)
def test_vectors_of_weights_as_in_norse(name: str, batch: tuple[int, ...], norse):
    x, state, w, r, *p = vectors_of_weights(DENSE[name], 3, *batch)
    p = p[0] if p else nf.IAFParameters()
    actual, expected = DENSE[name](x, state, w, r, p), getattr(norse, name)(x, state, w, r, p)
    assert torch.equal(actual[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(actual[1], expected[1]))


def test_vectors_of_weights_elsewhere():
    x, w, r, g = torch.rand(4) * 20, torch.rand(4), torch.rand(3), torch.rand(3, 3)
    zeros, matrices = torch.zeros(3), (w.expand(3, -1), r.expand(3, -1))
    lif = nf.LIFState(zeros, zeros, zeros)
    refrac = nf.LIFRefracState(lif, zeros)
    lsnn = nf.LSNNState(zeros, zeros, zeros, zeros)
    calls = {
        nf.lif_mc_step: ((lif,), (g,)),
        nf.lif_mc_refrac_step: ((refrac,), (g,)),
        nf.functional.lsnn.ada_lif_step: ((lsnn,), ()),
    }
    for step, (state, rest) in calls.items():
        for a, b in zip(*(torch.utils._pytree.tree_leaves(step(x, *state, *m, *rest)) for m in ((w, r), matrices))):
            assert torch.equal(a, b)
    assert torch.equal(
        nf.functional.leaky_integrator.li_step(x, nf.LIState(zeros, zeros), w)[0], (x @ w * 0.1).expand(3)
    )
    assert torch.equal(
        nf.li_step(x, nf.LIState(zeros, zeros), w)[0], nf.li_step(x, nf.LIState(zeros, zeros), matrices[0])[0]
    )


def test_vectors_of_weights_are_for_one_sample():
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"input_weights: got shape \(4,\), expected \(N, inputs\)"):
        nf.lif_step(
            torch.rand(2, 4), nf.LIFState(zeros, zeros, zeros), torch.rand(4), torch.rand(3, 3), nf.LIFParameters()
        )
    with pytest.raises(ValueError, match=r"input: got 5 features in shape \(5,\), expected 4"):
        nf.lif_step(torch.rand(5), nf.LIFState(*torch.zeros(3, 3)), torch.rand(4), torch.rand(3), nf.LIFParameters())
    with pytest.raises(TypeError, match="state: got NoneType"):
        nf.lif_step(torch.rand(4), None, torch.rand(4), torch.rand(3), nf.LIFParameters())


@pytest.mark.parametrize(
    ("weights_in", "input_in", "autocast"),
    [
        (torch.float32, torch.float32, True),
        (torch.float32, torch.bfloat16, True),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float16, torch.float16, False),
    ],
)
@pytest.mark.parametrize("model", [m for m in LAYERS if m.layer and m.cell], ids=model_id)
def test_layers_and_cells_agree_in_16_bits(
    model: Model, weights_in: torch.dtype, input_in: torch.dtype, autocast: bool, generator
):
    """A recurrent current that one of them rounded to 16 bits would move spikes."""
    torch.manual_seed(0)
    layer = model.layer(16, 40)
    cell = model.cell(16, 40)
    # Sums are exact in float32, in whatever order, but not in 16 bits.
    weights = {"input_weights": 8 * torch.randn(layer.input_weights.shape, generator=generator)}
    weights["recurrent_weights"] = 3 * torch.randn(layer.recurrent_weights.shape, generator=generator)
    layer.load_state_dict({name: w.mul(16).round().div(16) for name, w in weights.items()}, strict=False)
    cell.load_state_dict(layer.state_dict())
    layer, cell = layer.to(weights_in), cell.to(weights_in)
    x = torch.randint(0, 3, (60, 3, 16), generator=generator).to(input_in)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z, last = layer(x)
        with kernels_disabled():
            expected, expected_last = layer(x)
        state, steps = None, []
        for frame in x:
            step, state = cell(frame, state)
            steps.append(step)
    assert z.any()
    assert z.dtype == input_in
    for actual, final in ((expected, expected_last), (torch.stack(steps), state)):
        assert actual.dtype == z.dtype
        if model.exact:
            assert torch.equal(actual, z)
        assert (actual != z).float().mean() < 1e-3
        for a, b in zip(fields(final).values(), fields(last).values()):
            assert a.dtype == b.dtype
