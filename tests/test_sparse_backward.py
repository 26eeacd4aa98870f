"""Gradients of spikes where the surrogate derivative is not zero: those of a dense backward pass, whoever looks on."""

from __future__ import annotations

import contextlib
import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d
from torch.nn.grad import conv2d_input

import norse_fast as nf
from norse_fast._kernels.sparse_backward import MOST_ACTIVE, MOST_ACTIVE_OF_IMAGES, _lost
from norse_fast.functional.threshold import SURROGATES
from norse_fast.functional.threshold import threshold as spike

from .models import FEED_FORWARD, Model, model_id
from .opcheck import opcheck
from .test_operators import forward_arguments

pytestmark = pytest.mark.usefixtures("products_of_any_size")

OPS = torch.ops.norse_fast
COMPACT = [("rectangle", 5.0), ("triangle_width", 5.0)]
#: Rows, inputs, outputs: around the 64 columns of a panel, the 1024 rows of a block, and the 1024 rows of a task.
SHAPES = [(1, 1, 1), (5, 70, 3), (64, 128, 65), (30, 1023, 130), (30, 2100, 128), (1030, 70, 70)]


def bits_of(active: torch.Tensor) -> torch.Tensor:
    bits: torch.Tensor = OPS.spike_bits(active.flatten(1), 1.0)[0]
    return bits


def ran(name: str, function: Any) -> bool:
    """Whether a call runs an operator."""
    with torch.profiler.profile() as profile:
        function()
    return any(event.name == f"norse_fast::{name}" for event in profile.events())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_at_active_elements(shape: tuple[int, int, int], share: float, dtype: torch.dtype, generator):
    rows, inputs, outputs = shape
    active = torch.rand(rows, inputs, generator=generator) < share
    grads, weight = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((rows, outputs), (outputs, inputs)))
    actual = OPS.active_linear(bits_of(active), inputs, grads, weight)
    expected = (grads @ weight) * active
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)
    assert not actual[~active].any()


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "padding", "dilation"),
    [
        (2, 5, (3, 3), (1, 1), (0, 0), (1, 1)),
        (20, 50, (5, 5), (1, 1), (2, 1), (1, 1)),
        (3, 70, (3, 2), (2, 1), (1, 0), (1, 1)),
        (3, 4, (2, 3), (1, 3), (0, 2), (1, 2)),
        (1, 1, (1, 1), (2, 2), (0, 0), (1, 1)),
    ],
)
def test_a_convolution_at_active_elements(channels, outputs, kernel, stride, padding, dilation, generator):
    shape = (3, channels, 11, 9)
    active = torch.rand(shape, generator=generator) < 0.2
    weight = torch.randn(outputs, channels, *kernel, generator=generator, dtype=torch.float64)
    grads = torch.randn_like(conv2d(torch.zeros(shape).double(), weight, None, stride, padding, dilation))
    actual = OPS.active_conv2d(bits_of(active), shape[2:], grads, weight, stride, padding, dilation)
    expected = conv2d_input(shape, weight, grads, stride, padding, dilation) * active
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [(2, 2, 0, 1), (3, 1, 1, 1), (2, 2, 1, 1), (2, 3, 0, 2)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6])
def test_a_pool_hands_on_where_its_gradient_goes(window: tuple[int, int, int, int], density: float, generator):
    shape = (5, 3, 9, 7)
    x, active = ((torch.rand(shape, generator=generator) < share).float() for share in (density, 0.3))
    pairs = [[n, n] for n in window]
    _, indices = max_pool2d(x, *window, return_indices=True)
    bits, count = OPS.spike_max_pool2d_active(bits_of(x.bool()), bits_of(active.bool()), 3, shape[2:], *pairs)
    expected = active.flatten(2).gather(2, indices.flatten(2))
    assert torch.equal(bits, bits_of(expected))
    assert int(count) == int(expected.sum())


SPIKING = [model for model in FEED_FORWARD if model.spikes]


@pytest.mark.parametrize(("surrogate", "alpha"), [(8, 3.0), (9, 3.0)])
@pytest.mark.parametrize("model", SPIKING, ids=model_id)
def test_activity_is_where_the_gradient_of_the_output_counts(model: Model, surrogate: int, alpha: float, generator):
    """By the backward pass of the model itself: what comes in elsewhere changes nothing."""
    neuron = model.neuron
    arguments = forward_arguments(model, generator, True, True, torch.float64, checkpoint=True)
    operands = (arguments[0] * 3, *arguments[1 : 1 + len(neuron.state) + len(neuron.kernel_params)])
    a = torch.tensor(alpha, dtype=torch.float64)
    active = getattr(OPS, f"{neuron.name}_activity")(*operands, a, surrogate, 0.0, 0.001, True).bool()
    assert 0 < active.float().mean() < 1
    none = [None] * len(neuron.state)
    checkpoints = neuron.forward_op(*operands, 0.001, True, True, False, 0)[1 + len(none)]
    gradient = torch.randn(active.shape, generator=generator, dtype=torch.float64)
    results = [
        neuron.backward_op(*operands, a, checkpoints, g, *none, [], surrogate, 0, 0.001, True, True, False, [], 0)[:-1]
        for g in (gradient, gradient * active)
    ]
    assert all(torch.equal(whole, part) for whole, part in zip(*results))


@pytest.mark.parametrize("shape", [(0, 2, 3), (3, 0, 3), (0, 0)], ids=str)
@pytest.mark.parametrize("model", SPIKING, ids=model_id)
def test_no_element_is_active(model: Model, shape: tuple[int, ...]):
    neuron = model.neuron
    state = [torch.zeros(shape[1:]) for _ in neuron.state]
    params = [torch.tensor(1.0) for _ in neuron.kernel_params]
    active = getattr(OPS, f"{neuron.name}_activity")(
        torch.zeros(shape), *state, *params, torch.tensor(100.0), 0, 0.001, 0.001, True
    )
    assert active.shape == shape
    assert active.dtype == torch.uint8


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["rectangle", "triangle_width", "super", "sigmoid", "triangle"])
def test_activity_by_its_definition(method: str, dtype: torch.dtype, threshold: float, generator):
    """Without a reset, the recorded potential is what the surrogate sees."""
    x = torch.randn(70, 3, 30, generator=generator, dtype=dtype) * 3
    alpha = torch.tensor([2.0, 7.0] * 15, dtype=dtype)
    layer = nf.LIF(nf.LIFParameters(method=method, alpha=alpha), reset="none", record_states=True).to(dtype)
    with torch.no_grad():
        v = layer(x)[1].v
    u = (v - 1).requires_grad_()
    peak, derivative = (
        torch.autograd.grad(spike(at, method, alpha).sum(), at)[0] for at in (torch.zeros_like(u).requires_grad_(), u)
    )
    values = [torch.tensor(value) for value in (200.0, 100.0, 0.0, 1.0, 0.0, 3.0)]
    rest = torch.zeros(3, 30, dtype=dtype)
    number = SURROGATES[method]
    actual = OPS.lif_activity(x, rest, rest, *values, alpha, number, threshold, 0.001, True)
    assert torch.equal(actual.bool(), derivative.abs() > threshold * peak)


def lif(method: str, alpha: float, cell: bool = True, **kwargs: Any) -> torch.nn.Module:
    p = nf.LIFParameters(method=method, alpha=torch.tensor(alpha))
    return nf.LIFCell(p, **kwargs) if cell else nf.LIF(p, **kwargs)


def network(kind: str, method: str, alpha: float, cell: bool, dtype: torch.dtype = torch.float64) -> nf.SequentialState:
    torch.manual_seed(0)
    neurons = [lif(method, alpha, cell) for _ in range(3)]
    last = nf.LICell() if cell else nf.LI()
    if kind == "linear":
        layers = [
            nf.SpikeLinear(40, 100),
            neurons[0],
            nf.SpikeLinear(100, 90),
            neurons[1],
            nf.SpikeLinear(90, 70),
            last,
        ]
    else:
        convolutions = nf.SpikeConv2d(1, 6, 5), nf.SpikeConv2d(6, 10, 3)
        pools = [nf.SpikeMaxPool2d(2) for _ in range(2)]
        flat = torch.nn.Flatten(1 if cell else 2)
        layers = [convolutions[0], neurons[0], pools[0], convolutions[1], neurons[1], pools[1], flat]
        layers += [nf.SpikeLinear(40, 70), neurons[2], nf.SpikeLinear(70, 70), last]
    model = nf.SequentialState(*layers).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("weight"):
                weight.mul_(6 if kind == "linear" else 2.5)
    return model


def spikes(kind: str, steps: int = 40, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    shape = (40,) if kind == "linear" else (1, 16, 16)
    return (torch.rand(steps, 5, *shape, generator=torch.Generator().manual_seed(3)) < 0.15).to(dtype)


def gradients(model: torch.nn.Module, x: torch.Tensor, loss: Any = None) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    v = model(x)[0]
    (v.square().sum() if loss is None else loss(v)).backward()
    return [p.grad.clone() for p in model.parameters()]


def run(model: nf.SequentialState, cell: bool) -> torch.nn.Module:
    return nf.Lift(model) if cell else model


def assert_as_dense(model: torch.nn.Module, x: torch.Tensor, operator: str) -> None:
    """The gradients of a model that runs an operator are those of a dense backward."""
    with nf.dense_products():
        expected = gradients(model, x)
    assert ran(operator, lambda: gradients(model, x))
    for actual, dense in zip(gradients(model, x), expected):
        assert dense.any()
        torch.testing.assert_close(actual, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", [True, False], ids=["lifted", "layers"])
@pytest.mark.parametrize(("method", "alpha"), COMPACT)
@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_networks_have_the_gradients_of_a_dense_backward(kind: str, method: str, alpha: float, cell: bool):
    model, x = run(network(kind, method, alpha, cell), cell), spikes(kind)
    with nf.dense_products():
        expected = gradients(model, x)
    operator = "active_linear" if kind == "linear" else "active_conv2d"
    assert ran(operator, lambda: gradients(model, x))
    for actual, dense in zip(gradients(model, x), expected):
        assert dense.any()
        torch.testing.assert_close(actual, dense, rtol=1e-10, atol=1e-10)


def test_a_product_of_the_rows_of_a_pooled_image():
    """Where a row of the product is not an image, the marks of a pool do not fit, and the gradient is dense."""
    torch.manual_seed(0)
    layers = [nf.SpikeConv2d(1, 6, 5), lif("rectangle", 5.0), nf.SpikeMaxPool2d(2), nf.SpikeLinear(6, 90), nf.LICell()]
    model, x = nf.Lift(nf.SequentialState(*layers).double()), spikes("convolutional")
    with torch.no_grad():
        layers[0].weight.mul_(2.5)
    assert_as_dense(model, x, "spike_max_pool2d_active")


@pytest.mark.parametrize("make", [nf.LIFBoxCell, nf.LIFExCell, nf.LIFAdExCell, nf.LSNNCell, nf.IAFCell])
def test_other_neurons(make: Any):
    p, compact = make().p, {"method": "rectangle", "alpha": torch.tensor(5.0)}
    torch.manual_seed(0)
    layers = [nf.SpikeLinear(40, 100), make(p._replace(**compact)), nf.SpikeLinear(100, 90), nf.LICell()]
    model, x = nf.Lift(nf.SequentialState(*layers).double()), spikes("linear")
    with torch.no_grad():
        layers[0].weight.mul_(8)
    assert_as_dense(model, x, "active_linear")


@pytest.mark.parametrize("options", [{"reset": "subtract"}, {"detach_reset": True}, {"learn": ("v_th", "tau_mem_inv")}])
def test_resets_and_learned_parameters(options: dict[str, Any]):
    torch.manual_seed(0)
    layers = [nf.SpikeLinear(40, 100), lif("rectangle", 5.0, **options), nf.SpikeLinear(100, 90), nf.LICell()]
    model, x = nf.Lift(nf.SequentialState(*layers).double()), spikes("linear")
    with torch.no_grad():
        layers[0].weight.mul_(6)
    assert_as_dense(model, x, "active_linear")


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_any_number_of_threads_and_any_split_with_the_state_carried(kind: str):
    threads = torch.get_num_threads()
    model, x = nf.Lift(network(kind, "rectangle", 5.0, cell=True)), spikes(kind, steps=30)
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(gradients(model, x))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0]))

    model.zero_grad(set_to_none=True)
    outputs, state = [], None
    for piece in x.split([1, 9, 20]):
        v, state = model(piece, state)
        outputs.append(v)
    torch.cat(outputs).square().sum().backward()
    for p, whole in zip(model.parameters(), results[0]):
        torch.testing.assert_close(p.grad, whole, rtol=1e-10, atol=1e-10)


def test_the_decision_is_explained():
    x = spikes("linear", dtype=torch.float32)

    def explained(method: str, alpha: float) -> str:
        model = nf.Lift(network("linear", method, alpha, cell=True, dtype=torch.float32))
        assert "gradient" not in model.explain()
        gradients(model, x)
        return model.explain().splitlines()[3]

    assert "gradient where " in explained("rectangle", 5.0)
    assert "% are active" in explained("rectangle", 5.0)
    assert "gradient everywhere: " in explained("triangle", 0.3)
    assert "gradient everywhere: the derivative of 'super' is zero nowhere" in explained("super", 100.0)
    with nf.sparse_backward(0.01):
        assert "gradient where " in explained("super", 100.0)
        assert "gradient everywhere: " in explained("super", 1.0)
    with nf.sparse_backward(0.1):
        assert "threshold 0.1 would drop 3" in explained("super", 100.0)


def share_by_a_part(kind: str, alpha: float, line: int, batches: int) -> float:
    """What the line of a product says where a part of the batch tells."""
    model, x = nf.Lift(network(kind, "rectangle", alpha, cell=True)), spikes(kind)
    gradients(model, x.repeat(1, batches, *[1] * (x.dim() - 2)))
    return float(model.explain().splitlines()[line].split("gradient everywhere: ")[1].split("%")[0]) / 100


@pytest.mark.parametrize("batches", [1, 7])
def test_where_many_are_active_a_part_of_them_tells_it(batches: int):
    assert share_by_a_part("linear", 0.3, 3, batches) > MOST_ACTIVE
    # To ask all of them would take as long as the dense gradient.
    assert MOST_ACTIVE_OF_IMAGES < share_by_a_part("convolutional", 0.8, 4, batches) < MOST_ACTIVE


@pytest.mark.parametrize("cell", [True, False], ids=["lifted", "layers"])
def test_who_sees_the_spikes_sees_their_whole_gradient(cell: bool):
    x = spikes("linear")
    seen: list[torch.Tensor] = []

    def watch(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        output[0].register_hook(seen.append)

    model = network("linear", "rectangle", 5.0, cell)
    expected = gradients(run(model, cell), x)
    model[1].register_forward_hook(watch)
    for actual, dense in zip(gradients(run(model, cell), x), expected):
        torch.testing.assert_close(actual, dense, rtol=1e-10, atol=1e-10)
    whole = torch.stack(seen[::-1]) if cell else seen[0]
    assert whole.ne(0).float().mean() > 0.9

    model = network("linear", "rectangle", 5.0, cell)
    model.return_hidden = True
    hidden = run(model, cell)(x)[0]
    assert torch.autograd.grad(hidden[-1].square().sum(), hidden[1])[0].ne(0).float().mean() > 0.9


def test_derivatives_of_derivatives():
    results = []
    for dense in (True, False):
        model = network("linear", "triangle_width", 5.0, cell=False)
        weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
        with nf.dense_products() if dense else nf.sparse_backward(0.01):
            v = model(spikes("linear", steps=8))[0]
            first = torch.autograd.grad(v.square().sum(), weights, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    for dense, ours in zip(*results):
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("what", ["no gradient", "random state"])
def test_what_is_left_to_the_dense_product(what: str):
    x = spikes("linear", dtype=torch.float32)
    model = network("linear", "rectangle", 5.0, cell=True, dtype=torch.float32)
    if what == "no gradient":
        with torch.no_grad():
            assert not ran("lif_activity", lambda: nf.Lift(model)(x))
        return
    model[1].state_fallback = model[3].state_fallback = lambda x: nf.LIFFeedForwardState(
        torch.zeros_like(x), torch.rand_like(x) * 0
    )
    assert not ran("active_linear", lambda: gradients(nf.Lift(model), x))


def test_products_of_pytorch_in_lift():
    """Lift calls them as those of norse_fast."""
    x, model = spikes("linear"), network("linear", "rectangle", 5.0, cell=True)
    for index in (2, 4):
        product = torch.nn.Linear(model[index].in_features, model[index].out_features).double()
        product.load_state_dict(model[index].state_dict())
        model[index] = product
    lifted = nf.Lift(model)
    with nf.dense_products():
        expected = gradients(lifted, x)
    assert ran("active_linear", lambda: gradients(lifted, x))
    for actual, dense in zip(gradients(lifted, x), expected):
        torch.testing.assert_close(actual, dense, rtol=1e-10, atol=1e-10)
    assert "gradient where " in lifted.explain()


@pytest.mark.parametrize(("threshold", "error"), [(1e-3, 0.05), (1e-2, 0.15)])
def test_a_threshold_leaves_a_small_error(threshold: float, error: float):
    """Of surrogates with tails; without a threshold, there is none."""
    model, x = nf.Lift(network("linear", "super", 100.0, cell=True)), spikes("linear")
    exact = gradients(model, x)
    with nf.sparse_backward(threshold=threshold):
        assert ran("active_linear", lambda: gradients(model, x))
        approximate = gradients(model, x)
    assert not ran("active_linear", lambda: gradients(model, x))
    for a, e in zip(approximate[:4], exact):
        assert 0 < (a - e).norm() / e.norm() < error


@pytest.mark.parametrize("threshold", ["0.001", None])
def test_a_threshold_that_is_no_number(threshold: Any):
    with pytest.raises(TypeError, match=r"^threshold: got \w+, expected a number;"), nf.sparse_backward(threshold):
        pass


@pytest.mark.parametrize("threshold", [0.0, -1.0, 0.2, float("nan")])
def test_a_threshold_out_of_range(threshold: float):
    with (
        pytest.raises(ValueError, match=r"^threshold: got .*, expected a number above 0 and at most 0.1;"),
        nf.sparse_backward(threshold),
    ):
        pass


def test_opcheck(generator):
    active = torch.rand(6, 75, generator=generator) < 0.3
    bits = bits_of(active)
    opcheck(OPS.active_linear, (bits, 75, torch.randn(6, 9), torch.randn(9, 75)))
    how = ([1, 1], [0, 0], [1, 1])
    images = (bits, [5, 5], torch.randn(6, 4, 3, 3), torch.randn(4, 3, 3, 3), *how)
    opcheck(OPS.active_conv2d, images)
    opcheck(OPS.spike_max_pool2d_active, (bits, bits, 3, [5, 5], [2, 2], [2, 2], [0, 0], [1, 1]))
    arguments = forward_arguments(SPIKING[0], generator, True, True)[:-5]
    opcheck(OPS.lif_activity, (*arguments, torch.tensor(1.0), 8, 0.0, 0.001, True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: OPS.active_linear(b, 75, torch.ones(5, 9), torch.ones(9, 75)), "do not fit each other"),
        (lambda b: OPS.active_linear(b, 75, torch.ones(6, 9), torch.ones(9, 75).double()), "do not fit each other"),
        (lambda b: OPS.active_linear(b, 750, torch.ones(6, 9), torch.ones(9, 750)), "not those of rows of 750"),
        (
            lambda b: OPS.active_conv2d(b, [5, 5], torch.ones(6, 4, 3, 2), torch.ones(4, 3, 3, 3), *[[1, 1]] * 3),
            "grads are not those of the output",
        ),
        (
            lambda b: OPS.spike_max_pool2d_active(b, b[:5], 3, [5, 5], [2, 2], [2, 2], [0, 0], [1, 1]),
            "not as many images",
        ),
        (
            lambda b: OPS.lif_activity(
                *[torch.ones(3, 2)] + [torch.ones(2)] * 2, *[torch.tensor(1.0)] * 7, 99, 0.0, 0.001, True
            ),
            "surrogate is 99",
        ),
        (
            lambda b: OPS.lif_activity(
                *[torch.ones(3, 2)] + [torch.ones(2)] * 2, *[torch.tensor(1.0)] * 7, 8, 2.0, 0.001, True
            ),
            "threshold is 2",
        ),
    ],
)
def test_operators_check_what_they_take(call: Any, message: str):
    with pytest.raises(RuntimeError, match=message):
        call(bits_of(torch.ones(6, 75, dtype=torch.bool)))


def test_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # its products are large enough
    page = Path(__file__).parents[1] / "docs" / "sparse_backward.md"
    assert doctest.testfile(str(page), module_relative=False).failed == 0


@pytest.mark.parametrize("between", [torch.nn.Flatten(0, 1), torch.nn.Flatten(1, 2)], ids=repr)
def test_images_that_are_cut_anew_between_two_pools(between: torch.nn.Module):
    """Where a gradient is needed is not known of other images: it is computed everywhere."""
    torch.manual_seed(0)
    first = (torch.nn.Conv2d(2, 16, 3, padding=1), lif("rectangle", 5.0), torch.nn.MaxPool2d(2))
    width = 16 if between.start_dim == 0 else 256
    last = (torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(width, 70), nf.LICell())
    model, x = nf.SequentialState(*first, between, *last), torch.rand(6, 4, 2, 16, 16)
    gradients = []
    for context in (contextlib.nullcontext, nf.dense_products):
        model.zero_grad()
        with context():
            nf.Lift(model)(x)[0].sum().backward()
        gradients.append(model[0].weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_where_the_default_device_holds_no_data(generator):
    model = nf.SequentialState(nf.LIF(nf.LIFParameters(alpha=torch.tensor(50.0))), nf.SpikeLinear(128, 128))
    x = (9 * torch.rand(10, 4, 128, generator=generator)).requires_grad_()

    def run():
        with nf.sparse_backward(0.001):
            return torch.autograd.grad(model(x)[0].sum(), x)[0]

    expected = run()
    _lost.cache_clear()
    with torch.device("meta"):
        assert torch.equal(run(), expected)
