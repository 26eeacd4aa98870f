"""Delays against plain loops over time: one or many, whole or between two steps, fixed or learned."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap

import norse_fast as nf

from .packages import find

# Of torch's own forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

T, B, N, D = 12, 3, 5, 4
#: What broadcasts to inputs (B, N) of one step.
SHAPES = [(), (1,), (N,), (B, 1), (B, N)]


def whole(*shape: int) -> torch.Tensor:
    return torch.randint(0, D + 1, shape)


def fractional(*shape: int) -> torch.Tensor:
    """Multiples of 1/8, so that products with small whole numbers are exact."""
    return torch.randint(0, 8 * D + 1, shape) / 8


def numbers(*shape: int) -> torch.Tensor:
    """Small whole numbers, whose sums and products are exact."""
    return torch.randint(-9, 10, shape).float()


def at(x: torch.Tensor, t: int, place: tuple[int, ...]) -> float:
    return x[(t, *place)].item() if t >= 0 else 0.0


def interpolated(x: torch.Tensor, t: int, delay: float, place: tuple[int, ...]) -> float:
    before = math.floor(delay)
    share = delay - before
    return (1 - share) * at(x, t - before, place) + share * at(x, t - before - 1, place)


def looped(x: torch.Tensor, delays: torch.Tensor) -> torch.Tensor:
    delays = delays.expand(x.shape[1:])
    y = torch.empty_like(x)
    for t, *place in itertools.product(*map(range, x.shape)):
        y[(t, *place)] = interpolated(x, t, delays[tuple(place)].item(), tuple(place))
    return y


def stepped(cell: torch.nn.Module, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    outputs = []
    for frame in x.unbind(0):
        y, state = cell(frame, state)
        outputs.append(y)
    return torch.stack(outputs), state


def linear(**options: Any) -> nf.DelayedLinear:
    """Weights with delays that are exact in float32."""
    layer = nf.DelayedLinear(N, 2, D, **{"delays": fractional(2, N), **options})
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.copy_(numbers(*parameter.shape))
    return layer


def as_cell(layer: nf.DelayedLinear) -> nf.DelayedLinearCell:
    cell = nf.DelayedLinearCell(layer.in_features, layer.out_features, D, bias=layer.bias is not None)
    cell.load_state_dict(layer.state_dict())
    return cell.to(layer.weight.dtype)


# One delay, or one per neuron.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [whole, fractional])
def test_delays_of_every_shape(make, shape):
    delays, x = make(*shape), numbers(T, B, N)
    expected = looped(x, delays)
    y, state = nf.Delay(delays, max_delay=D)(x)
    assert torch.equal(y, expected)
    assert torch.equal(state.inputs, x[-D:])
    y, state = stepped(nf.DelayCell(delays, max_delay=D), x)
    assert torch.equal(y, expected)
    assert torch.equal(state.inputs, x[-D:])


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_numbers_of_either_dtype_give_the_same_bits(shape):
    delays, x = whole(*shape), torch.randn(T, B, N)
    assert torch.equal(nf.Delay(delays)(x)[0], nf.Delay(delays.double())(x)[0])


def test_channels_of_images():
    delays, x = torch.tensor([0.0, 1.5])[:, None, None], numbers(T, B, 2, 4, 4)
    assert torch.equal(nf.Delay(delays)(x)[0], looped(x, delays))


def test_single_neuron_without_a_batch():
    x = numbers(T)
    assert torch.equal(nf.Delay(2.5)(x)[0], looped(x, torch.tensor(2.5)))
    assert torch.equal(stepped(nf.DelayCell(2.5), x)[0], looped(x, torch.tensor(2.5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [whole, lambda *shape: D * torch.rand(shape)])
def test_steps_splits_and_sequences_give_the_same_bits(make, dtype):
    delays, x = make(N), torch.randn(T, B, N).to(dtype)
    layer, cell = (kind(delays, D).to(dtype) for kind in (nf.Delay, nf.DelayCell))
    y, state = layer(x)
    assert y.dtype == state.inputs.dtype == dtype
    others = [stepped(cell, x), nf.Lift(cell)(x)]
    for split in range(1, T):
        first, carried = layer(x[:split])
        second, end = layer(x[split:], carried)
        others.append((torch.cat((first, second)), end))
    for other, end in others:
        assert torch.equal(other, y)
        assert torch.equal(end.inputs, state.inputs)


def test_gradients_of_steps_and_sequences_are_the_same():
    delays = D * torch.rand(N, dtype=torch.float64)
    results = []
    for kind, run in ((nf.Delay, lambda module, *given: module(*given)), (nf.DelayCell, stepped)):
        module = kind(delays, D, learnable=True)
        torch.manual_seed(1)
        x = torch.randn(T, B, N, dtype=torch.float64, requires_grad=True)
        state = nf.DelayState(torch.randn(D, B, N, dtype=torch.float64, requires_grad=True))
        y, end = run(module, x, state)
        ((y * torch.randn_like(y)).sum() + end.inputs.pow(2).sum()).backward()
        results.append((x.grad, state.inputs.grad, module.delays.grad))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
        assert one.abs().min() > 0 or one.shape == state.inputs.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives(shape):
    # Not too near to whole numbers, where the derivative jumps.
    delays = whole(*shape).clamp(max=D - 1) + 0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)
    x, inputs = (torch.randn(steps, B, N, dtype=torch.float64) for steps in (T, D))

    def run(*values):
        y, state = nf.delay_sequence(values[0], nf.DelayState(values[1]), values[2])
        return y, state.inputs

    values = [value.requires_grad_() for value in (x, inputs, delays)]
    assert gradcheck(run, values, check_forward_ad=True)
    assert gradgradcheck(run, values)


@pytest.mark.parametrize(
    ("delay", "later"), [(0.0, 1), (2.0, 3), (D, D), (-0.5, 1), (-7.0, 1), (D + 0.3, D), (99.0, D)]
)
def test_derivative_at_whole_numbers_and_beyond_the_bounds(delay, later):
    delays = torch.tensor(float(delay), dtype=torch.float64, requires_grad=True)
    x = torch.randn(T, dtype=torch.float64)
    layer = nf.Delay(0.0, max_delay=D, learnable=True)
    layer.delays = torch.nn.Parameter(delays)
    y, _ = layer(x)
    assert torch.equal(y, nf.Delay(min(max(int(delay), 0), D), D)(x)[0])
    y[-1].backward()
    assert layer.delays.grad == x[T - 1 - later] - x[T - later]


@pytest.mark.parametrize("start", [-1.0, 0.0, 6.0, 9.0])
def test_delay_is_found_even_from_beyond_the_bounds(start):
    # Smooth, so that the derivative points the way.
    x = torch.sin(torch.arange(60) / 6)[:, None]
    expected = nf.Delay(3.3)(x)[0]
    layer = nf.Delay(0.0, max_delay=6, learnable=True)
    layer.load_state_dict({"delays": torch.tensor(start)})
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x)[0] - expected).pow(2).mean().backward()
        optimizer.step()
    assert abs(layer.delays.item() - 3.3) < 0.02


def test_nan_of_a_learned_delay_is_seen():
    layer = nf.Delay([1.0, 1.0], max_delay=2, learnable=True)
    layer.load_state_dict({"delays": torch.tensor([1.0, math.nan])})
    y, _ = layer(torch.ones(3, 2))
    assert y[:, 1].isnan().all()
    assert y[:, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_inputs_of_other_dtypes(dtype):
    x = torch.randint(0, 2, (T, B, N)).to(dtype)
    for delays in (2, 2.5):
        y, state = nf.Delay(delays)(x)
        assert torch.equal(y, nf.Delay(delays)(x.float())[0])
        assert y.dtype == state.inputs.dtype == torch.float32
        assert torch.equal(stepped(nf.DelayCell(delays), x)[0], y)


def test_integer_delays_of_few_bits_with_a_long_state():
    x = torch.randn(600, 1)
    assert torch.equal(nf.Delay(torch.tensor(200, dtype=torch.uint8), max_delay=500)(x)[0][200:], x[:-200])


def test_no_time_steps_and_no_samples():
    layer, state = nf.Delay([0.5] * N, D), nf.DelayState(torch.randn(D, B, N))
    y, end = layer(torch.empty(0, B, N), state)
    assert y.shape == (0, B, N)
    assert torch.equal(end.inputs, state.inputs)
    assert layer(torch.empty(T, 0, N))[0].shape == (T, 0, N)
    assert nf.DelayedLinear(N, 2, D)(torch.empty(T, 0, N))[0].shape == (T, 0, 2)


def test_state_keeps_no_more_than_the_last_inputs():
    _, state = nf.Delay(1, max_delay=D)(torch.randn(100, B, N))
    assert state.inputs.untyped_storage().nbytes() == 4 * D * B * N


def test_state_is_not_changed_by_later_steps():
    cell, x = nf.DelayCell(1, max_delay=D), torch.randn(B, N)
    _, state = cell(x)
    before = state.inputs.clone()
    cell(x, state)
    assert torch.equal(state.inputs, before)


def test_what_delays_are_made_of():
    given = torch.tensor([1.0, 2.5])
    fixed, learned = nf.Delay(given), nf.Delay([1, 3], learnable=True)
    given.zero_()
    assert fixed.delays.tolist() == [1.0, 2.5]
    assert fixed.max_delay == learned.max_delay == 3
    assert nf.Delay(0).max_delay == 1
    assert list(fixed.state_dict()) == list(learned.state_dict()) == ["delays"]
    assert not list(fixed.parameters())
    assert learned.delays.is_floating_point()
    assert nf.Delay([1, 3]).half().delays.dtype == torch.int64
    assert repr(nf.DelayCell(2)) == "DelayCell(delays=2, max_delay=2, learnable=False)"


# What modules go through.


def modules(learnable: bool = True) -> list[torch.nn.Module]:
    delays = D * torch.rand(N)
    return [
        nf.Delay(delays, D, learnable),
        nf.DelayCell(delays, D, learnable),
        nf.DelayedLinear(N, 2, D, learnable=learnable),
        nf.DelayedLinearCell(N, 2, D, learnable=learnable),
    ]


@pytest.fixture(params=range(4), ids=["Delay", "DelayCell", "DelayedLinear", "DelayedLinearCell"])
def module(request):
    torch.manual_seed(2)
    return modules()[request.param]


def example_input(module: torch.nn.Module) -> torch.Tensor:
    return torch.randn(B, N) if type(module).__name__.endswith("Cell") else torch.randn(T, B, N)


def test_compiled(module):
    x = example_input(module)
    y, state = module(*[x])
    y, state = module(x, state)
    expected = torch.autograd.grad((y * y).sum(), list(module.parameters()))
    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        z, end = compiled(x)
        z, end = compiled(x, end)
        assert torch.equal(z, y)
        assert torch.equal(end.inputs, state.inputs)
        for one, other in zip(torch.autograd.grad((z * z).sum(), list(module.parameters())), expected):
            torch.testing.assert_close(one, other)


def test_functional_call_and_transforms(module):
    x = example_input(module)
    _, state = module(x)
    values = {name: value.detach() + 0.1 for name, value in module.named_parameters()}

    def loss(values, x):
        return functional_call(module, values, (x, state))[0].pow(2).sum()

    changed = copy.deepcopy(module)
    changed.load_state_dict(values)
    changed(x, state)[0].pow(2).sum().backward()
    assert torch.equal(loss(values, x), changed(x, state)[0].pow(2).sum())
    for name, value in grad(loss)(values, x).items():
        torch.testing.assert_close(value, changed.get_parameter(name).grad)
    inputs = torch.stack((x, 2 * x))
    each = vmap(grad(loss), in_dims=(None, 0))(values, inputs)
    for name, value in grad(loss)(values, inputs[1]).items():
        torch.testing.assert_close(each[name][1], value)


def test_copies_and_pickles(module):
    x = example_input(module)
    y, state = module(x)
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        fresh.delays.add_(1)
    fresh.load_state_dict(module.state_dict())
    for other in (fresh, pickle.loads(pickle.dumps(module))):
        z, end = other(x, pickle.loads(pickle.dumps(None)))
        assert torch.equal(z, y)
        assert torch.equal(end.inputs, state.inputs)
        assert type(pickle.loads(pickle.dumps(end))) is nf.DelayState
    assert state.to(torch.float64).inputs.dtype == torch.float64


def test_fixed_delays_do_not_learn():
    for module in modules(learnable=False):
        assert "delays" not in dict(module.named_parameters())
        assert "delays" in module.state_dict()


def test_in_a_network_step_by_step_and_lifted():
    cells = nf.SequentialState(
        nf.DelayedLinearCell(N, 6, D), nf.LIFCell(), nf.DelayCell(D * torch.rand(6)), torch.nn.Linear(6, 2), nf.LICell()
    ).double()
    layers = nf.SequentialState(nf.DelayedLinear(N, 6, D), nf.LIF(), nf.Delay([0.0] * 6, D), cells[3], nf.LI()).double()
    layers.load_state_dict(cells.state_dict())
    x = 20 * torch.rand(T, B, N, dtype=torch.float64)
    expected, _ = stepped(cells, x)
    for y, _ in (nf.Lift(cells)(x), layers(x)):
        torch.testing.assert_close(y, expected)
    assert nf.Lift(cells).explain().splitlines()[1:4] == [
        "0      DelayedLinearCell  fused  one convolution for all time steps",
        "1      LIFCell            fused  one kernel for all time steps",
        "2      DelayCell          fused  one gather for all time steps",
    ]
    first, state = nf.Lift(cells)(x[:5])
    second, _ = nf.Lift(cells)(x[5:], state)
    torch.testing.assert_close(torch.cat((first, second)), expected)


def test_layers_take_each_lifted_step_as_a_sequence():
    x = numbers(3, T, B, N)
    for layer in (nf.Delay(fractional(N), D), linear()):
        y, state = nf.Lift(layer)(x)
        expected, end = layer(x.flatten(0, 1))
        assert torch.equal(y.flatten(0, 1), expected)
        assert torch.equal(state.inputs, end.inputs)


# Errors.


DELAYS = {
    "text": ("fast", TypeError, "delays: got str, expected a number"),
    "flags": ([True, False], TypeError, r"delays: got dtype torch\.bool, expected a number"),
    "complex": (1j * torch.ones(2), TypeError, r"delays: got dtype torch\.complex64, expected a number"),
    "negative": (torch.tensor([2.0, -0.5]), ValueError, r"delays: got -0\.5, expected 0 or more.*\.clamp\(min=0\)"),
    "negative integer": (-1, ValueError, "delays: got -1, expected 0 or more"),
    "NaN": ([1.0, math.nan], ValueError, "delays: got NaN or infinity, expected finite.*replace"),
    "infinite": (math.inf, ValueError, "delays: got NaN or infinity, expected finite.*replace"),
    "long": ([1.0, D + 0.5], ValueError, r"delays: got 4\.5, expected at most max_delay=4; raise max_delay"),
}


@pytest.mark.parametrize("name", DELAYS)
def test_wrong_delays(name):
    delays, error, message = DELAYS[name]
    for learnable in (False, True):
        for kind in (nf.Delay, nf.DelayCell):
            with pytest.raises(error, match=message):
                kind(delays, max_delay=D, learnable=learnable)
        with pytest.raises(error, match=message):
            nf.DelayedLinear(2, 2, D, delays=delays, learnable=learnable)


@pytest.mark.parametrize("max_delay", [0, -1, 2.5, True, "4"])
def test_wrong_longest_delay(max_delay):
    message = "max_delay: got .*, expected an integer of 1 or more; pass"
    with pytest.raises(ValueError, match=message):
        nf.Delay(0, max_delay)
    with pytest.raises(ValueError, match=message):
        nf.DelayedLinear(2, 2, max_delay)


def test_delays_of_a_wrong_shape():
    message = (
        r"delays: got shape \(4,\), expected one that broadcasts to \(3, 5\), the input at one time step; pass one"
    )
    for learnable in (False, True):
        with pytest.raises(ValueError, match=message):
            nf.Delay([1.0] * 4, learnable=learnable)(torch.ones(T, B, N))
        with pytest.raises(ValueError, match=message):
            nf.DelayCell([1.0] * 4, learnable=learnable)(torch.ones(B, N))
    # Nor may the delays make the input larger.
    with pytest.raises(ValueError, match=r"delays: got shape \(3, 5\), expected one that broadcasts to \(5,\)"):
        nf.DelayCell(torch.ones(B, N))(torch.ones(N))
    with pytest.raises(
        ValueError, match=r"delays: got shape \(2,\), expected .* \(2, 5\), the weights; .*\(5,\) for one"
    ):
        nf.DelayedLinear(N, 2, D, delays=[1.0, 2.0])


@pytest.mark.parametrize("steps", [D - 1, D + 1])
def test_states_of_another_length_are_refused(steps):
    """They would stand for other delays."""
    x, state = torch.ones(T, B, N), nf.DelayState(torch.zeros(steps, B, N))
    for make in (nf.Delay, nf.DelayCell):
        with pytest.raises(ValueError, match=rf"state\.inputs: got {steps} steps, expected max_delay={D}"):
            make(1.0, D)(x, state)
    for make in (nf.DelayedLinear, nf.DelayedLinearCell):
        with pytest.raises(ValueError, match=rf"state\.inputs: got {steps} steps, expected max_delay={D}"):
            make(N, 2, D)(x, state)


@pytest.mark.parametrize(
    ("delays", "message"),
    [
        (5.0, "delays: got 5, expected at most max_delay=3"),
        (-1.0, "got -1, expected 0 or more"),
        (2.5, "got fractions"),
    ],
)
def test_checkpoints_hold_delays_that_the_constructor_would_take(delays, message):
    for module in (nf.Delay(3), nf.DelayedLinear(2, 2, 3, delays=3, learnable=False)):
        state = module.state_dict()
        with pytest.raises(RuntimeError, match=message):
            module.load_state_dict({**state, "delays": torch.full_like(state["delays"], delays, dtype=torch.float32)})
        assert torch.equal(module.delays, state["delays"])
        module.load_state_dict({**state, "delays": torch.full_like(state["delays"], 2.0, dtype=torch.float32)})
        assert (module.delays == 2).all()
    # Learned ones act as if within the bounds.
    learned = nf.Delay(3.0, learnable=True)
    learned.load_state_dict({"delays": torch.tensor(5.0)})
    x = torch.arange(1.0, 7.0).view(6, 1)
    assert torch.equal(learned(x)[0], nf.Delay(3)(x)[0])


def test_wrong_inputs_and_states():
    layer, weights = nf.Delay(1.0, D), nf.DelayedLinear(N, 2, D)
    x = torch.ones(T, B, N)
    for module in (layer, weights):
        with pytest.raises(TypeError, match="input_tensor: got list, expected a tensor"):
            module([1.0])
        with pytest.raises(ValueError, match="input_tensor: got a 0-dim tensor"):
            module(torch.ones(()))
        with pytest.raises(TypeError, match="state: got tuple, expected a DelayState; pass the state"):
            module(x, (torch.zeros(D, B, N),))
        for wrong in (torch.zeros(D, N), torch.zeros(D, B + 1, N), torch.zeros(0, B, N)):
            with pytest.raises(
                ValueError, match=r"state\.inputs: got shape .*, expected \(D, 3, 5\) with D of 1 or more"
            ):
                module(x, nf.DelayState(wrong))
    for wrong in (torch.ones(T, B, 2), torch.ones(0, B, N), torch.ones(N)):
        with pytest.raises(
            ValueError, match=r"input_tensor: got shape .*, expected \(T, \.\.\., 5\) with at least one"
        ):
            weights(wrong)
    with pytest.raises(TypeError, match=r"input_tensor: got dtype torch\.float64, expected torch\.float32.*\.to\(\)"):
        weights(x.double())


@pytest.mark.filterwarnings("ignore:.*quantize.*", "ignore:.*quantized.*")
def test_quantised_inputs_are_refused():
    x = torch.quantize_per_tensor(torch.ones(T, B, N), 0.1, 0, torch.quint8)
    for module in (nf.Delay(1.0, D), nf.DelayedLinear(N, 2, D)):
        with pytest.raises(TypeError, match="input_tensor: got a quantised tensor"):
            module(x)


# NIR.


@pytest.mark.needs("nir")
@pytest.mark.parametrize("dt", [0.001, 0.0003, 1.0])
@pytest.mark.parametrize(
    "delays", [3, torch.arange(N), 2.25, torch.linspace(0, 3.7, N), torch.tensor([1e-3, 1, 2, 3, 97])]
)
def test_delays_return_from_nir(delays, dt, tmp_path):
    nir = find("nir")
    cell, x = nf.DelayCell(delays, dt=dt), torch.randn(120, B, N)
    expected, _ = nf.Delay(delays)(x)
    back = nf.from_nir(nf.to_nir(cell), dt=dt)
    assert type(back) is nf.DelayCell
    assert torch.equal(back.delays, cell.delays.expand(back.delays.shape))
    assert back.delays.dtype == cell.delays.dtype
    assert torch.equal(stepped(back, x)[0], expected)
    model = nf.SequentialState(nf.Delay(delays, dt=dt, learnable=True), nf.IAF())
    graph = nf.to_nir(model, sample_data=x)
    torch.testing.assert_close(
        torch.from_numpy(graph.nodes["_0"].delay), (cell.delays * dt).double().expand(N), rtol=1e-6, atol=0.0
    )
    nir.write(tmp_path / "model.nir", graph)
    spikes, _ = model(x)
    assert spikes.sum() > 0
    assert torch.equal(stepped(nf.from_nir(tmp_path / "model.nir", dt=dt), x)[0], spikes)


@pytest.mark.needs("nir")
def test_layer_of_delays_takes_a_sample_over_time():
    model = nf.SequentialState(nf.Delay(2), torch.nn.Linear(N, 2))
    graph = nf.to_nir(model, sample_data=torch.ones(T, B, N))
    assert graph.nodes["_0"].delay.tolist() == [0.002] * N


@pytest.mark.needs("nir")
def test_delays_in_seconds_of_float32_are_whole_steps():
    nir = find("nir")
    steps = torch.arange(1, 300)
    node = nir.Delay((steps * 1e-3).float().numpy())
    assert torch.equal(nf.from_nir(node).delays, steps)
    delays = nf.from_nir(node, dt=0.002).delays
    assert torch.equal(delays[1::2], (steps // 2)[1::2].float())
    torch.testing.assert_close(delays, steps / 2)


@pytest.mark.needs("nir")
def test_delays_between_layers_of_a_recurrent_graph(tmp_path):
    nir = find("nir")
    model = nf.RecurrentSequential(torch.nn.Linear(N, N), nf.LIFBoxCell(), nf.DelayCell(torch.arange(N)))
    with torch.no_grad():
        model.module[0].weight.mul_(20)
    x = 20 * torch.rand(60, B, N)
    expected, _ = stepped(model, x)
    assert expected.sum() > 0
    nir.write(tmp_path / "model.nir", nf.to_nir(model))
    assert torch.equal(stepped(nf.from_nir(tmp_path / "model.nir"), x)[0], expected)


@pytest.mark.needs("nir")
def test_what_nir_cannot_say_of_delays():
    nir = find("nir")
    learned = nf.DelayCell([1.0, 1.0], max_delay=2, learnable=True)
    learned.load_state_dict({"delays": torch.tensor([-1.0, 9.0])})
    assert nf.to_nir(learned, time_scaling_factor=1000).delay.tolist() == [0.0, 2.0]
    for kind in (nf.DelayedLinear, nf.DelayedLinearCell):
        with pytest.raises(TypeError, match=r"got a DelayedLinear.*, expected modules that have a counterpart in NIR"):
            nf.to_nir(kind(2, 2, D))
    for wrong in (-0.001, math.nan):
        with pytest.raises(ValueError, match=r"delays: got .*, expected"):
            nf.from_nir(nir.Delay(torch.tensor([0.0, wrong]).numpy()))


@pytest.mark.parametrize("delay", [math.inf, -math.inf])
def test_infinite_delays_count_as_the_bounds(delay: float):
    x, state = torch.rand(5, 2), nf.DelayState(torch.rand(3, 2))
    bound = torch.tensor(3.0 if delay > 0 else 0.0)
    found = nf.delay_sequence(x, state, torch.tensor(delay))[0]
    assert torch.equal(found, nf.delay_sequence(x, state, bound)[0])
    assert nf.delay_sequence(x, state, torch.tensor(math.nan))[0].isnan().any()


def test_empty_batches_check_delays_and_give_them_gradients():
    weight, delays = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    x, state = torch.rand(4, 0, 3), nf.DelayState(torch.rand(2, 0, 3))
    y = nf.delayed_linear_sequence(x, state, weight, delays)[0]
    assert y.shape == (4, 0, 2)
    y.sum().backward()
    assert delays.grad.tolist() == weight.grad.tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match=r"delays: got shape \(7,\)"):
        nf.delayed_linear_sequence(x, state, weight, torch.rand(7))


def test_complex_inputs_are_refused():
    x = torch.ones(2, 3, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"input_tensor: got dtype torch\.complex64, expected a real one"):
        nf.delay_sequence(x, nf.DelayState(torch.zeros(1, 3)), torch.tensor(1.0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize(("inputs", "outputs"), [(0, 3), (3, 0)])
def test_no_width(inputs: int, outputs: int):
    torch.manual_seed(0)
    for layer in (nf.DelayedLinear(inputs, outputs, 2), nf.DelayedLinearCell(inputs, outputs, 2)):
        x = torch.rand(5, 2, inputs, requires_grad=True)
        y, _ = layer(x)
        assert torch.equal(y, layer.bias.expand(5, 2, outputs))
        y.sum().backward()
        assert x.grad.shape == x.shape
