"""The CUDA kernels on a GPU; deselected where there is none (see conftest.py)."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels, kernels_disabled
from norse_fast._kernels.outputs import NUMBERS, REDUCED
from norse_fast.functional.threshold import SURROGATES

from .models import FEED_FORWARD, MODELS, Model, fields, model_id, random_params, random_state, set_surrogate
from .test_operators import compiled
from .test_recurrent import LAYERS, assert_same, fields_of, gradients, layer_of, make_case

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PATHS = ["persistent", "stepwise"]


def to(device: Any, tree: Any) -> Any:
    """A copy of a (nested) tuple on a device, of leaves that need a gradient where the originals do."""

    def move(t: Any) -> Any:
        return t.detach().to(device).requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t

    return pytree.tree_map(move, tree)


def make_sequence(model: Model, generator, dtype=torch.float32, steps=75, shape=(3, 47), per_neuron=False):
    """Input, state and parameters on the CPU, all needing gradients."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    x = (torch.rand(steps, *shape, generator=generator) * 2).to(dtype).requires_grad_()
    state = random_state(model, shape, compute, generator)
    p = random_params(model, shape[-1:] if per_neuron else (), compute, generator)
    for value in (*fields(state).values(), *fields_of(p)):
        value.requires_grad_()
    return x, state, p


def run_sequence(model: Model, x, state, p, kind="all"):
    """Output, final state and all gradients, on the CPU."""
    output, final = model.neuron(x, state, p, 0.001, sequence=True, kind=kind)
    leaves = [v for v in (x, *fields(state).values(), *fields_of(p)) if v.requires_grad]
    generator = torch.Generator().manual_seed(1)
    # Of all results, so that one that carries no gradient does not change the weights of the others.
    results = [output, *fields(final).values()]
    weights = [torch.randn(v.shape, generator=generator).to(v) for v in results]
    loss = sum((v * w).sum().to(torch.float64) for v, w in zip(results, weights))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return to("cpu", (output.detach(), final, grads))


def assert_close_gradients(actual, expected, tolerance):
    for a, e in zip(actual, expected):
        scale = max(1.0, e.abs().max().item() if e.numel() else 0.0)
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * scale)


def test_there_are_kernels():
    assert has_kernels("cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_sequence_equals_that_of_the_cpu(model: Model, per_neuron: bool, dtype: torch.dtype, generator):
    """All bits of outputs and states; gradients to the rounding of the sums of parameters."""
    case = make_sequence(model, generator, dtype, per_neuron=per_neuron)
    expected, expected_final, expected_grads = run_sequence(model, *case)
    actual, final, grads = run_sequence(model, *to("cuda", case))
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    assert_close_gradients(grads, expected_grads, 1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if kind != "all"])
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_outputs_equal_those_of_the_cpu(model: Model, kind: str, dtype: torch.dtype, generator):
    if kind not in REDUCED and not model.neuron.surrogate:
        return
    case = make_sequence(model, generator, dtype)
    expected, expected_final, expected_grads = run_sequence(model, *case, kind)
    actual, final, grads = run_sequence(model, *to("cuda", case), kind)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    assert_close_gradients(grads, expected_grads, 1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("method", SURROGATES)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_surrogates_equal_those_of_pytorch(model: Model, method: str, generator):
    x, state, p = to("cuda", make_sequence(model, generator, torch.float64, steps=40, shape=(2, 5)))
    p = set_surrogate(p, method, torch.tensor(2.0, dtype=torch.float64))
    actual, final, grads = run_sequence(model, x, state, p)
    with kernels_disabled():
        expected, expected_final, expected_grads = run_sequence(model, x, state, p)
    assert torch.equal(actual, expected)
    assert_same(final, expected_final, rtol=1e-10, atol=1e-10)
    assert_close_gradients(grads, expected_grads, 1e-8)


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("shape", [(1,), (127,), (128,), (129,), (2, 3, 50)])
def test_edges_of_segments_and_blocks(steps: int, shape: tuple[int, ...], generator):
    model = FEED_FORWARD[0]
    case = make_sequence(model, generator, steps=steps, shape=shape)
    expected = run_sequence(model, *case)
    actual = run_sequence(model, *to("cuda", case))
    assert torch.equal(actual[0], expected[0])
    assert_same(actual[1], expected[1])


@pytest.mark.parametrize("lanes", [94, 141, 32 * 1024])
@pytest.mark.parametrize("width", ["1", "2", ""])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lanes_per_thread(dtype: torch.dtype, learned: bool, width: str, lanes: int, monkeypatch, generator):
    """Neither one lane per thread nor pairs, nor the choice between them, change a bit; NaN and inf included."""
    model = FEED_FORWARD[0]
    x, state, p = make_sequence(model, generator, dtype, steps=35, shape=(lanes,))
    for value in fields_of(p):
        value.requires_grad_(learned)
    with torch.no_grad():
        x[3, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    expected, expected_final, expected_grads = run_sequence(model, x, state, p)
    monkeypatch.setenv("NORSE_FAST_LANES_PER_THREAD", width)
    on_gpu = to("cuda", (x, state, p))
    pairs = lanes % 2 == 0 and (width == "2" or (not width and lanes >= 32 * 1024))
    assert torch.ops.norse_fast.lanes_per_thread(on_gpu[0].detach(), True, True) == (2 if pairs else 1)
    actual, final, grads = run_sequence(model, *on_gpu)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    for a, e in zip(fields(final).values(), fields(expected_final).values()):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)
    # Of the input and the state; those of parameters are sums over all lanes.
    for a, e in zip(grads[: 1 + len(fields(state))], expected_grads):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_to_do(shape: tuple[int, ...]):
    x = torch.rand(7, *shape, device="cuda", requires_grad=True)
    z, state = nf.LIF()(x)
    assert z.shape == x.shape
    z.sum().backward()
    assert x.grad.shape == x.shape
    assert state.v.shape == shape


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_layouts(layout: str, generator):
    x = torch.rand(40, 6, 50, generator=generator).cuda() * 2
    views = {"transposed": x.transpose(1, 2), "expanded": x[:, :1].expand(40, 6, 50), "strided": x[::2, :, ::3]}
    z, _ = nf.LIF()(views[layout])
    assert torch.equal(z.cpu(), nf.LIF()(views[layout].cpu())[0])


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", LAYERS, ids=model_id)
def test_recurrent_layer_equals_that_of_the_cpu(model: Model, dtype, path: str, learn: bool, monkeypatch, generator):
    """With exact sums of weights all outputs and states are equal."""
    x, state, weights, p, _ = make_case(
        model, 70, (5, 2), 30, 300, generator, dtype, exact=True, per_neuron=learn, learn=learn
    )
    results = []
    for device in ("cpu", "cuda"):
        if device == "cuda":
            monkeypatch.setenv("NORSE_FAST_RECURRENT_PATH", path)
        inputs = (x, state, weights, p) if device == "cpu" else to("cuda", (x, state, weights, p))
        output, final = layer_of(model)(inputs[0], inputs[1], *inputs[2], inputs[3], 0.001, record=learn)
        leaves = [inputs[0], *inputs[2], *fields(inputs[1]).values(), *(fields_of(inputs[3]) if learn else [])]
        # Of copies, so that the random weights of the loss are those of the CPU.
        own = gradients(
            output.cpu(), pytree.tree_map(torch.Tensor.cpu, final), leaves, torch.Generator().manual_seed(1)
        )
        results.append(to("cpu", (output.detach(), final, own)))
    (expected, expected_final, expected_grads), (actual, final, grads) = results
    assert 0.001 < expected.mean() < 0.9
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    assert_close_gradients(grads, expected_grads, 1e-10 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize(("batch", "neurons"), [(1, 1), (1, 33), (16, 512), (33, 1000), (300, 64), (2, 3000)])
def test_recurrent_sizes(batch: int, neurons: int, generator):
    """By the path that is chosen: the first sizes are persistent, the last is too large for it."""
    device = torch.cuda.current_device()
    path = torch.ops.norse_fast.recurrent_path(neurons, batch, 1, 4, False, device)
    if (batch, neurons) in ((1, 1), (2, 3000)):
        assert path == ("persistent" if neurons == 1 else "stepwise")
    model = next(m for m in LAYERS if m.step is nf.lif_step)
    x, state, weights, p, _ = make_case(model, 35, (batch,), 20, neurons, generator, torch.float32, exact=True)
    expected, expected_final = layer_of(model)(x, state, *weights, p, 0.001)
    x, state, weights, p = to("cuda", (x, state, weights, p))
    actual, final = layer_of(model)(x, state, *weights, p, 0.001)
    assert torch.equal(actual.cpu(), expected)
    assert_same(to("cpu", final), expected_final)
    actual.sum().backward()


@pytest.mark.parametrize("path", PATHS)
def test_recurrent_chunks_make_no_difference(path: str, monkeypatch, generator):
    monkeypatch.setenv("NORSE_FAST_RECURRENT_PATH", path)
    layer = nf.LSNNRecurrent(20, 200).cuda()
    with torch.no_grad():
        layer.input_weights.mul_(20)
    currents = torch.rand(60, 4, 20, generator=generator).cuda()
    whole, final = layer(currents)
    pieces, state = [], None
    for chunk in currents.split([1, 30, 29]):
        piece, state = layer(chunk, state)
        pieces.append(piece)
    assert whole.any()
    assert torch.equal(torch.cat(pieces), whole)
    assert_same(state, final)


def layers() -> dict[str, Any]:
    return {
        "LIF": lambda: nf.LIF(),
        "LSNN": lambda: nf.LSNN(),
        "LIFRecurrent": lambda: nf.LIFRecurrent(64, 64),
        "CobaLIFRecurrent": lambda: nf.CobaLIFRecurrent(64, 64),
    }


@pytest.fixture(params=[*layers(), "LIFRecurrent stepwise"])
def layer(request, monkeypatch) -> torch.nn.Module:
    torch.manual_seed(3)
    if request.param.endswith("stepwise"):
        monkeypatch.setenv("NORSE_FAST_RECURRENT_PATH", "stepwise")
    return layers()[request.param.split()[0]]().cuda()


def train(layer: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    z, state = layer(x)
    loss = z.sum() + sum(v.sum() for v in fields(state).values())
    return [z.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True, materialize_grads=True)]


def test_same_results_every_time(layer, generator):
    x = 20 * torch.rand(70, 8, 64, generator=generator).cuda()
    first = train(layer, x)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(train(layer, x), first))


def test_on_another_stream(layer, generator):
    x = 20 * torch.rand(70, 8, 64, generator=generator).cuda()
    expected = train(layer, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Without ordering by the stream, the layer would start before its input is there.
        torch.cuda._sleep(50_000_000)
        late = x.clone()
        actual = train(layer, late)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_graph_capture_and_replay(layer, generator):
    x = 20 * torch.rand(70, 8, 64, generator=generator).cuda()
    static = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        train(layer, static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train(layer, static)
    for scale in (1.0, 0.5):
        static.copy_(x * scale)
        graph.replay()
        expected = train(layer, x * scale)
        assert all(torch.equal(a, b) for a, b in zip(captured, expected))


@pytest.fixture
def no_synchronisation():
    """Makes it an error to wait for the GPU."""
    with warnings.catch_warnings():
        # That this mode is a prototype.
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("device", "shape", "learn"),
    [("cpu", (), False), *(("cuda", shape, learn) for shape in ((), (64,)) for learn in (False, True))],
)
def test_parameters_need_no_synchronisation(shape, device: str, learn: bool, generator, request):
    model = FEED_FORWARD[0]
    x, state, _ = to("cuda", make_sequence(model, generator, shape=(8, 64)))
    p = to(device, random_params(model, shape, torch.float32, generator))
    for value in fields_of(p):
        value.requires_grad_(learn)
    torch.cuda.synchronize()
    request.getfixturevalue("no_synchronisation")
    output, final = model.neuron(x, state, p, 0.001, sequence=True)
    (output.sum() + final.v.sum()).backward()


def test_layers_need_no_synchronisation(layer, generator, request):
    x = 20 * torch.rand(70, 8, 64, generator=generator).cuda()
    train(layer, x)
    request.getfixturevalue("no_synchronisation")
    train(layer, x)


def test_one_launch_forward_and_one_backward(generator):
    cell = nf.LIFCell()
    x = torch.rand(8, 64, generator=generator).cuda().requires_grad_()
    state = cell(x)[1]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        z, _ = cell(x, state)
        torch.autograd.grad(z, x, torch.ones_like(z))
        torch.cuda.synchronize()
    launches = [event.name for event in profile.events() if "norse_fast" in event.name]
    assert len(launches) == 2, launches


@pytest.mark.parametrize("index", range(max(torch.cuda.device_count(), 1)))
def test_every_device_also_where_another_is_current(index: int, generator):
    device = torch.device("cuda", index)
    x = 2 * torch.rand(70, 8, 64, generator=generator)
    expected, layer = nf.LIF()(x)[0], nf.LIFRecurrent(64, 64)
    with torch.cuda.device((index + 1) % torch.cuda.device_count()):
        z, state = nf.LIF()(x.to(device))
        assert z.device == state.v.device == device
        assert torch.equal(z.cpu(), expected)
        assert layer.to(device)(x.to(device))[0].device == device


def test_operands_on_different_devices_are_refused():
    with pytest.raises((RuntimeError, ValueError), match="device"):
        nf.lif_feed_forward_step(torch.rand(3).cuda(), nf.LIFFeedForwardState(torch.zeros(3), torch.zeros(3)))


def test_more_than_2_to_the_31_elements():
    """Every index beyond 32 bits is one that a mistake would show in: the last lanes, in the last step."""
    lanes, steps, tail = 2**30 + 64, 3, 64
    needed = lanes * (2 * 2 * steps + 4 * 4)
    if torch.cuda.mem_get_info()[0] < 1.2 * needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of free memory")
    x = torch.zeros(steps, lanes, dtype=torch.bfloat16, device="cuda")
    x[:, -tail:] = torch.linspace(0, 800, tail)
    with torch.no_grad():
        z, state = nf.LIF()(x)
    expected, expected_state = nf.LIF()(x[:, -tail:].cpu())
    assert torch.equal(z[:, -tail:].cpu(), expected)
    assert torch.equal(state.v[-tail:].cpu(), expected_state.v)
    assert expected.any()
    assert not z[:, :64].any()


def test_compiles_without_graph_break(layer, generator):
    x = 20 * torch.rand(20, 8, 64, generator=generator).cuda()
    expected = layer(x)[0]
    assert torch.equal(compiled(layer)(x)[0], expected)


@pytest.mark.parametrize("model", [m for m in MODELS if m.cell is not None and m.kind == "ff"], ids=model_id)
def test_step_under_reduce_overhead(model: Model, generator):
    """A cell, step by step, in CUDA graphs that torch.compile makes."""
    cell = model.cell()
    x = 2 * torch.rand(10, 8, 64, generator=generator).cuda()
    step = torch.compile(cell, mode="reduce-overhead")
    with torch.no_grad():
        state, own_state = cell(x[0])[1], cell(x[0])[1]
        for frame in x:
            torch.compiler.cudagraph_mark_step_begin()
            own_z, own_state = cell(frame, own_state)
            z, new_state = step(frame, state)
            state = pytree.tree_map(torch.clone, new_state)
            assert torch.equal(z, own_z)
    assert_same(state, own_state)
