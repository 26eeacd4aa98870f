"""The logic of the CUDA library without a GPU: its kernels and operators, compiled for an emulated one.

The kernels must give what those of the CPU give, bit for bit where no product of matrices is involved.
"""

from __future__ import annotations

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.ops import RECURRENT_SEGMENT
from norse_fast._kernels.outputs import NUMBERS, REDUCED
from norse_fast._kernels.recurrent import RECURRENT

from .models import (
    FEED_FORWARD,
    MODELS,
    Model,
    fields,
    model_id,
    potential_of,
    random_params,
    random_state,
    set_surrogate,
)
from .native import build
from .test_recurrent import assert_same, gradients, layer_of, make_case
from .test_surrogates_of_ones_own import own

H200 = (132, 227 * 1024)
#: How lanes are stored, and how many of them a thread computes.
STORED = [
    pytest.param(dtype, width, id=f"{str(dtype).removeprefix('torch.')}-{width}")
    for dtype, widths in {
        torch.float32: (1, 2),
        torch.float64: (1,),
        torch.float16: (1, 2),
        torch.bfloat16: (1, 2),
    }.items()
    for width in widths
]


@pytest.fixture(scope="session")
def library():
    torch.ops.load_library(build("emulated", "NORSE_FAST_EMULATION"))
    return torch.ops.norse_fast_emulated


RECURRENT_MODELS = [m for m in MODELS if m.kind == "rec"]
SEQUENCE_MODELS = FEED_FORWARD


@pytest.fixture
def on_gpu(library):
    """Returns a context in which the operators of a neuron are those of the emulated GPU."""

    class OnGpu:
        def __init__(self, neuron, path=None, limits=H200, width=None):
            self.neuron, self.limits = neuron, limits
            self.variables = {"NORSE_FAST_RECURRENT_PATH": path, "NORSE_FAST_LANES_PER_THREAD": width}

        def __enter__(self):
            library.set_limits(*self.limits)
            self.patch = pytest.MonkeyPatch()
            for name, value in self.variables.items():
                if value is not None:
                    self.patch.setenv(name, str(value))
            recurrent = (
                ("recurrent_forward", "recurrent_backward") if hasattr(self.neuron, "recurrent_forward_op") else ()
            )
            for kind in ("forward", "backward", *recurrent):
                op = getattr(library, f"{self.neuron.name}_{kind}").default
                self.patch.setattr(self.neuron, f"{kind}_op", op)
            # The node in C++ has the kernels of the CPU.
            self.patch.setattr(self.neuron, "model", None)

        def __exit__(self, *exc):
            self.patch.undo()

    return OnGpu


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize(("dtype", "width"), STORED)
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("model", SEQUENCE_MODELS, ids=model_id)
def test_sequences_equal_those_of_the_cpu(
    model: Model, per_neuron: bool, learned: bool, dtype: torch.dtype, width: int, on_gpu, library, generator
):
    """Steps beyond a segment, more lanes than a block has, gradients without and with those of parameters, all bits."""
    shape = (3, 94)
    x = (torch.rand(75, *shape, generator=generator) * 2).to(dtype).requires_grad_()
    state = random_state(model, shape, compute_dtype(dtype), generator)
    p = random_params(model, shape[-1:] if per_neuron else (), compute_dtype(dtype), generator)
    leaves = [x, *(v.requires_grad_() for v in fields(state).values())]
    if learned:
        values = [v for k, v in fields(p).items() if isinstance(v, torch.Tensor) and k.split(".")[-1] != "alpha"]
        leaves += [v.requires_grad_() for v in values]
    results = []
    for context in (torch.enable_grad(), on_gpu(model.neuron, width=width)):
        with context:
            output, final = model.neuron(x, state, p, 0.001, sequence=True)
            forward_threads = library.threads()
            results.append((output, final, gradients(output, final, leaves, torch.Generator().manual_seed(1))))
    # A float32 is paired in backward alone.
    assert (forward_threads < output[0].numel()) == (width == 2 and dtype != torch.float32)
    assert (library.threads() < output[0].numel()) == (width == 2 and not learned)
    (expected, expected_final, expected_grads), (actual, final, grads) = results
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    for a, b in zip(grads, expected_grads):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "width"), STORED)
@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if kind != "all"])
@pytest.mark.parametrize("model", SEQUENCE_MODELS, ids=model_id)
def test_outputs_equal_those_of_the_cpu(model: Model, kind: str, dtype: torch.dtype, width: int, on_gpu, generator):
    x = (torch.rand(75, 3, 94, generator=generator) * 2).to(dtype).requires_grad_()
    state = random_state(model, (3, 94), compute_dtype(dtype), generator)
    results = []
    for context in (torch.enable_grad(), on_gpu(model.neuron, width=width)):
        with context:
            output, final = model.neuron(x, state, model.defaults(), 0.001, sequence=True, kind=kind)
            # Bytes have no gradient.
            loss = output if kind in REDUCED else next(iter(fields(final).values()))
            results.append((output, final, torch.autograd.grad(loss.sum(), x)[0]))
    (expected, expected_final, expected_grad), (actual, final, grad) = results
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("model", SEQUENCE_MODELS, ids=model_id)
def test_one_value_for_the_state_of_all_lanes(model: Model, learned: bool, on_gpu, generator):
    x, grad = torch.rand(2, 75, 3, 94, generator=generator).mul(2).unbind()
    values = random_state(model, (), torch.float32, generator)
    results = []
    for context, shape in ((torch.no_grad(), (3, 94)), (on_gpu(model.neuron), ())):
        with context:
            surrogate, _, _, params, alpha = model.neuron.prepare(x[0], values, model.defaults(), 0.001)
            state = [v.expand(shape) for v in fields(values).values()]
            operands = [x, *state, *params]
            *forward, checkpoints, _ = model.neuron.forward_op(*operands, 0.001, True, True, False, 0)
            arguments = (alpha, checkpoints, grad, *[None] * len(state), [], surrogate, 0, 0.001, True, True, learned)
            *backward, grad_params, _ = model.neuron.backward_op(*operands, *arguments, [], 0)
            results.append((*forward, *backward, grad_params))
    for expected, actual in zip(*results):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "atan"])
@pytest.mark.parametrize("model", [m for m in SEQUENCE_MODELS if m.spikes], ids=model_id)
def test_surrogates_of_python(model: Model, method: object, on_gpu, generator):
    """Of the distances and of the gradients of spikes, all bits."""
    x = (torch.rand(75, 3, 94, generator=generator) * 2).requires_grad_()
    state = random_state(model, (3, 94), torch.float32, generator)
    alpha = torch.full((94,), 0.3, requires_grad=method is not own)
    p = set_surrogate(random_params(model, (), torch.float32, generator), method, alpha)
    leaves = [x, *(v.requires_grad_() for v in fields(state).values()), *([alpha] if alpha.requires_grad else [])]
    results = []
    for context in (torch.enable_grad(), on_gpu(model.neuron)):
        with context:
            output, final = model.neuron(x, state, p, 0.001, sequence=True)
            results.append(gradients(output, final, leaves, torch.Generator().manual_seed(1)))
    assert any(grad.any() for grad in results[0])
    for expected, actual in zip(*results):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("method", ["super", "atan", "heaviside"])
@pytest.mark.parametrize("model", [m for m in SEQUENCE_MODELS if m.spikes], ids=model_id)
def test_a_potential_that_is_no_number(model: Model, method: str, on_gpu, generator):
    """It has no part in gradients that do not pass it, on either device."""
    x = torch.rand(40, 1, 6, generator=generator).requires_grad_()
    state = random_state(model, (1, 6), torch.float32, generator)
    potential_of(state)[0, 0] = torch.nan
    p = set_surrogate(random_params(model, (), torch.float32, generator), method, 1.0)
    neuron = model.neuron.variants["value", method != "heaviside"]
    results = []
    for context in (torch.enable_grad(), on_gpu(neuron)):
        with context:
            _, final = neuron(x, state, p, 0.001, sequence=True)
            results.append(torch.autograd.grad(sum(fields(final).values()).sum(), x)[0])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("path", ["persistent", "stepwise"])
@pytest.mark.parametrize("method", [pytest.param(own, id="own"), "atan"])
@pytest.mark.parametrize("model", RECURRENT_MODELS, ids=model_id)
def test_surrogates_of_python_in_recurrent_layers(model: Model, method: object, path: str, on_gpu, generator):
    x, state, weights, p, learned = make_case(model, 40, (3,), 5, 40, generator, torch.float64, learn=True)
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=method is not own)
    p = set_surrogate(p, method, alpha)
    leaves = [x, *weights, *fields(state).values(), *learned, *([alpha] if alpha.requires_grad else [])]
    results = []
    for context in (torch.enable_grad(), on_gpu(layer_of(model).neuron, path)):
        with context:
            output, final = layer_of(model)(x, state, *weights, p, 0.001)
            results.append(gradients(output, final, leaves, torch.Generator().manual_seed(1)))
    for expected, actual in zip(*results):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * scale)


def layouts(dtype: torch.dtype, steps: int) -> dict[str, tuple[torch.Tensor, bool]]:
    """Rows of 6 lanes or, where they are odd, 5, and whether two neighbours are one aligned word in every row."""
    flat = (2 * torch.rand(8 * steps * 6, generator=torch.Generator().manual_seed(2))).to(dtype)
    rows = flat[: steps * 6].view(steps, 6)
    return {
        "dense": (rows, True),
        "odd": (flat[: steps * 5].view(steps, 5), False),
        "misaligned": (flat[1 : steps * 6 + 1].view(steps, 6), False),
        "offset": (flat[2 : steps * 6 + 2].view(steps, 6), True),
        "every other step": (flat[: 2 * steps * 6].view(2 * steps, 6)[::2], True),
        "rows an odd way apart": (flat[: steps * 7].view(steps, 7)[:, :6], False),
        "the same step again": (flat[:6].expand(steps, 6), True),
        "one value for all lanes": (flat[: steps * 3 : 3].view(steps, 1).expand(steps, 6), False),
        "transposed": (flat[: (steps + 1) * 6].view(6, steps + 1).T[:steps], True),  # which is copied
    }


@pytest.mark.parametrize("steps", [1, 16, 33])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("of", ["input", "gradient"])
@pytest.mark.parametrize("layout", layouts(torch.float16, 1))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_pairs_where_memory_has_them(
    dtype: torch.dtype, layout: str, of: str, learned: bool, steps: int, on_gpu, library, generator
):
    model = FEED_FORWARD[0]
    rows, paired = layouts(dtype, steps)[layout]
    dense = (2 * torch.rand(rows.shape, generator=generator)).to(dtype)
    x, grad = (rows, dense) if of == "input" else (dense, rows)
    x = x.detach().requires_grad_()
    state = random_state(model, x.shape[1:], torch.float32, generator)
    p = random_params(model, (), torch.float32, generator)
    leaves = [x, *(v.requires_grad_() for v in fields(state).values())]
    if learned:
        leaves.append(p.v_th.requires_grad_())
    results = []
    for context in (torch.enable_grad(), on_gpu(model.neuron, width=2)):
        with context:
            output, final = model.neuron(x, state, p, 0.001, sequence=True, record=learned)
            forward_width = library.lanes_per_thread(x.detach(), True, False)
            results.append((output, final, torch.autograd.grad((output, *final), leaves, (grad, *final))))
    # One block, of 128 lanes in backward.
    forward_paired = dtype != torch.float32 and (paired or (of == "gradient" and layout != "odd"))
    assert forward_width == (2 if forward_paired else 1)
    assert library.threads() == (64 if paired and not learned else 128)
    (expected, expected_final, expected_grads), (actual, final, grads) = results
    assert torch.equal(actual, expected)
    assert_same(final, expected_final)
    for a, b in zip(grads, expected_grads):
        assert torch.equal(a, b)


def test_choice_of_lanes_per_thread(library, monkeypatch):
    def choice(lanes: int, dtype: torch.dtype = torch.float16, backward: bool = False) -> int:
        return library.lanes_per_thread(torch.empty(2, lanes, dtype=dtype), True, backward)

    many = 32 * 1024
    assert choice(many) == choice(many, torch.bfloat16) == choice(many + 2) == choice(many, torch.float32, True) == 2
    assert choice(many - 2) == choice(many + 1) == choice(many, torch.float32) == choice(many, torch.float64, True) == 1
    monkeypatch.setenv("NORSE_FAST_LANES_PER_THREAD", "1")
    assert choice(many) == 1
    monkeypatch.setenv("NORSE_FAST_LANES_PER_THREAD", "2")
    assert choice(2) == 2
    assert choice(2, torch.float32) == choice(3) == 1
    monkeypatch.setenv("NORSE_FAST_LANES_PER_THREAD", "4")
    with pytest.raises(RuntimeError, match="NORSE_FAST_LANES_PER_THREAD: got 4, expected 1 or 2"):
        choice(2)


@pytest.mark.parametrize(
    ("path", "limits"),
    [
        pytest.param("persistent", (8, 227 * 1024), id="persistent-groups"),
        pytest.param("persistent", (3, 64 * 1024), id="persistent-one-group"),
        pytest.param("stepwise", H200, id="stepwise"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", RECURRENT_MODELS, ids=model_id)
def test_recurrent_layers_equal_those_of_the_cpu(model: Model, dtype, path, limits, on_gpu, generator):
    """With exact sums of weights, all outputs and states are equal; gradients differ by the order of their sums."""
    per_neuron = record = dtype == torch.float64
    x, state, weights, p, learned = make_case(
        model, RECURRENT_SEGMENT + 3, (3, 1), 9, 70, generator, dtype, exact=True, per_neuron=per_neuron, learn=True
    )
    leaves = [x, *weights, *fields(state).values(), *learned]
    layer = layer_of(model)
    results = []
    for context in (torch.enable_grad(), on_gpu(layer.neuron, path, limits)):
        with context:
            output, final = layer(x, state, *weights, p, 0.001, record)
            results.append((output, final, gradients(output, final, leaves, torch.Generator().manual_seed(1))))
    (expected, expected_final, expected_grads), (output, final, grads) = results
    assert 0.001 < expected.mean() < 0.9
    assert torch.equal(output, expected)
    assert_same(final, expected_final)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for actual, value in zip(grads, expected_grads):
        torch.testing.assert_close(actual, value, rtol=tolerance, atol=tolerance * max(1.0, value.abs().max().item()))


@pytest.mark.parametrize(("batch", "neurons", "limits"), [(1, 1, H200), (60, 33, (3, 200_000)), (2, 300, (20, 50_000))])
def test_recurrent_sizes(batch: int, neurons: int, limits, on_gpu, generator):
    """One neuron; several rows of the batch per warp; blocks of fewer neurons than a warp has lanes."""
    model = next(m for m in RECURRENT_MODELS if m.step is nf.lif_step)
    x, state, weights, p, learned = make_case(
        model, 20, (batch,), 5, neurons, generator, torch.float32, exact=True, learn=True
    )
    leaves = [x, *weights, *fields(state).values(), *learned]
    layer = layer_of(model)
    expected, expected_final = layer(x, state, *weights, p, 0.001)
    expected_grads = gradients(expected, expected_final, leaves, torch.Generator().manual_seed(1))
    with on_gpu(layer.neuron, "persistent", limits):
        output, final = layer(x, state, *weights, p, 0.001)
        grads = gradients(output, final, leaves, torch.Generator().manual_seed(1))
    assert torch.equal(output, expected)
    assert_same(final, expected_final)
    for actual, value in zip(grads, expected_grads):
        torch.testing.assert_close(actual, value, rtol=1e-4, atol=1e-4 * max(1.0, value.abs().max().item()))


def test_initial_spikes_need_not_be_0_or_1(on_gpu, generator):
    model = next(m for m in RECURRENT_MODELS if m.step is nf.lif_step)
    x, state, weights, p, _ = make_case(model, 3, (2,), 4, 40, generator, torch.float64, exact=True)
    state = state._replace(z=torch.full((2, 40), 0.5, dtype=torch.float64))
    layer = layer_of(model)
    expected, expected_final = layer(x, state, *weights, p, 0.001)
    with on_gpu(layer.neuron, "persistent"):
        output, final = layer(x, state, *weights, p, 0.001)
    assert torch.equal(output, expected)
    assert_same(final, expected_final)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("limits", [H200, (108, 163 * 1024), (46, 99 * 1024), (1, 0)])
@pytest.mark.parametrize(("channels", "element_size"), [(1, 4), (2, 4), (1, 8)])
def test_plans(library, channels, element_size, limits, backward):
    multiprocessors, shared = limits
    fits = []
    for neurons in (1, 31, 32, 33, 64, 100, 256, 512, 1000, 1024, 2048, 2500, 4096, 100_000):
        for batch in (1, 2, 8, 16, 31, 128, 512, 10_000):
            persistent, width, blocks, groups, warps, used = library.plan(
                neurons, batch, channels, element_size, backward, multiprocessors, shared
            )
            assert width * blocks >= neurons > width * (blocks - 1)
            assert 1 <= width <= 32
            assert 1 <= groups <= batch
            assert 1 <= warps <= 16
            if persistent:
                assert blocks * groups <= multiprocessors, "not all blocks would be resident"
                assert channels * neurons * width * element_size < used <= shared
                fits.append((neurons, batch))
            else:
                assert used == 0
    if limits == H200:
        assert (512, 16) in fits
        assert ((2048, 16) in fits) == (channels * element_size == 4)
    assert (4096, 1) not in fits
    assert bool(fits) == (shared > 0)


def test_forced_path_that_does_not_fit(on_gpu):
    layer = nf.LIFRecurrent(3, 400)
    with (
        on_gpu(RECURRENT[nf.lif_step].neuron, "persistent", (4, 50_000)),
        pytest.raises(RuntimeError, match="400 neurons and a batch of 2 does not fit this GPU; unset it"),
    ):
        layer(torch.rand(5, 2, 3))
    with (
        on_gpu(RECURRENT[nf.lif_step].neuron, "quick"),
        pytest.raises(RuntimeError, match="got quick, expected persistent or stepwise"),
    ):
        layer(torch.rand(5, 2, 3))
