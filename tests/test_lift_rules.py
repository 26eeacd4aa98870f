"""Which modules Lift calls once for all time steps, and that this is right."""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

import pytest
import torch
from torch import nn

import norse_fast as nf
from norse_fast.module._layers import RULES, plan

from .lifted import (
    WIDTH,
    RandomStart,
    Tuned,
    Wiretap,
    assert_same,
    decisions,
    foreign_cell,
    lift,
    loop,
    parametrized,
)

# Arguments and the size of one sample, for every module without state that has a rule.
STATELESS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "Linear": ((4, 3), {}, (4,)),
    "SpikeLinear": ((4, 3), {}, (4,)),
    "SpikeConv2d": ((2, 3, 2), {}, (2, 4, 4)),
    "SpikeMaxPool2d": ((2,), {}, (2, 4, 4)),
    "SpikeAvgPool2d": ((2,), {}, (2, 4, 4)),
    "LayerNorm": ((4,), {}, (4,)),
    "RMSNorm": ((4,), {}, (4,)),
    "PixelShuffle": ((2,), {}, (4, 3, 3)),
    "PixelUnshuffle": ((2,), {}, (1, 4, 4)),
    "Softmax2d": ((), {}, (3, 4, 4)),
    "Threshold": ((0.1, 2.0), {}, (4,)),
    **{
        f"{pad}Pad{n}d": ((1, *value), {}, (2, *(3,) * n))
        for n in (1, 2, 3)
        for pad, value in (
            ("Constant", (1.5,)),
            ("Zero", ()),
            ("Reflection", ()),
            ("Replication", ()),
            ("Circular", ()),
        )
    },
    **{name: ((-1,), {}, (3, 4)) for name in ("Softmax", "LogSoftmax", "Softmin", "GLU")},
    "Dropout": ((), {}, (4,)),
    "AlphaDropout": ((), {}, (4,)),
    "FeatureAlphaDropout": ((), {}, (2, 4)),
    "RReLU": ((), {}, (4,)),
    "PReLU": ((3,), {}, (3, 4)),
    "Flatten": ((), {}, (2, 3)),
    "Unflatten": ((1, (2, 2)), {}, (4, 3)),
    "GroupNorm": ((2, 4), {}, (4, 3)),
    "LocalResponseNorm": ((2,), {}, (4, 3)),
    "ChannelShuffle": ((2,), {}, (4, 3, 3)),
    "Upsample": ((), {"scale_factor": 2, "mode": "bilinear"}, (2, 3, 3)),
    "UpsamplingNearest2d": ((), {"scale_factor": 2}, (2, 3, 3)),
    "UpsamplingBilinear2d": ((), {"scale_factor": 2}, (2, 3, 3)),
    **{f"BatchNorm{n}d": ((2,), {}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": ((2,), {"affine": True}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"Dropout{n}d": ((), {}, (2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"{conv}{n}d": ((2, 3, 2), {}, (2, *(4,) * n)) for n in (1, 2, 3) for conv in ("Conv", "ConvTranspose")},
    **{
        f"{pool}Pool{n}d": ((2,), {}, (2, *(4,) * n))
        for n in (1, 2, 3)
        for pool in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
    },
    **{f"LPPool{n}d": ((2, 2), {}, (2, *(4,) * n)) for n in (1, 2, 3)},
}
ELEMENTWISE = {kind.__name__ for kind in RULES if kind.__module__ == "torch.nn.modules.activation"} - set(STATELESS)
NEED_A_BATCH = {
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "LocalResponseNorm",
    "ChannelShuffle",
    "PReLU",
}
NEED_A_BATCH |= {"Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"}
OTHERS = {"Embedding", "RNN", "LSTM", "GRU", "Identity"}


def test_every_rule_has_a_case():
    # Not those that examples in docstrings define, which are run in the same process.
    kinds = [kind for kind in RULES if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind]
    names = {kind.__name__ for kind in kinds if kind.__module__.split(".")[0] in ("torch", "norse_fast")}
    assert names == STATELESS.keys() | ELEMENTWISE | OTHERS
    assert len(ELEMENTWISE) > 15


# Dropout2d warns without a batch.
UNBATCHED = (STATELESS.keys() | ELEMENTWISE) - NEED_A_BATCH - {"Dropout2d"}
CASES = [(name, (3,)) for name in sorted(STATELESS.keys() | ELEMENTWISE)] + [(name, ()) for name in sorted(UNBATCHED)]


@pytest.mark.parametrize(("name", "batch"), CASES, ids=lambda value: value if isinstance(value, str) else len(value))
def test_stateless_modules(name: str, batch: tuple[int, ...]):
    arguments, options, sample = STATELESS.get(name, ((), {}, (4,)))
    if name == "Flatten" and not batch:
        arguments = (0,)
    if name == "Unflatten" and not batch:
        arguments = (0, (2, 2))
    module = getattr(nf if name.startswith("Spike") else nn, name)(*arguments, **options).double().eval()
    assert decisions(module) == {"": True}
    assert_same(module, torch.randn(4, *batch, *sample, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(NEED_A_BATCH))
def test_modules_that_need_a_batch_say_so_without(name: str):
    """Or do what they do with a first dimension that is not a batch."""
    arguments, options, sample = STATELESS[name]
    module, x = getattr(nn, name)(*arguments, **options).eval(), torch.randn(4, *sample)
    outcomes = []
    for run in (loop, lift):
        try:
            outcomes.append(run(module, x)[0])
        except (RuntimeError, ValueError, NotImplementedError) as error:
            outcomes.append(error)
    expected, actual = outcomes
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert type(actual) is type(expected)


def test_embedding():
    x = torch.randint(0, 5, (4, 3))
    for options, fused in (({}, True), ({"max_norm": 0.5}, False), ({"scale_grad_by_freq": True}, False)):
        module = nn.Embedding(5, 2, **options)
        other = copy.deepcopy(module)
        assert decisions(module) == {"": fused}
        output, expected = nf.Lift(module)(x), torch.stack([other(frame) for frame in x])
        assert torch.equal(output, expected)
        assert torch.equal(module.weight, other.weight)
        output.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(module.weight.grad, other.weight.grad)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.BatchNorm1d(4), "takes the statistics of each step's batch"),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), "takes the statistics of each step's batch"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "updates its running statistics at each step"),
        (nn.Dropout(), "random in training"),
        (nn.RReLU(), "random in training"),
        (nn.MaxPool1d(2, return_indices=True), "returns indices too"),
        (nn.Softmax(dim=1), "its dim may be the batch; negative ones are not"),
        (nn.LSTM(4, 4), "takes a sequence at each step"),
        (nn.Bilinear(4, 4, 4), "not known; see norse_fast.register_stateless"),
        (parametrized(), "a parametrization computes its weights at each step"),
        (foreign_cell(), "its step function is not one of norse_fast"),
        (Wiretap(), "not known; see norse_fast.register_stateless"),
        (nf.LIF(record_states=True), "records its states"),
        (nf.LIF(output="sum"), "returns one output for each sequence"),
        (nf.LIFMCRecurrentCell(4, 4), "has no form for all time steps"),
        (nf.RecurrentSequential(nn.Linear(4, 4)), "not known; see norse_fast.register_stateless"),
        (nf.Lift(nf.LIFCell()), "takes a sequence at each step"),
        (nn.Sequential(nf.LIFCell()), "not known; see norse_fast.register_stateless"),
        (nn.Dropout(p=0.0), None),
        (nn.InstanceNorm1d(4), None),
        (Tuned(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_why_a_module_is_stepped(module: nn.Module, why: str | None):
    (layer,) = plan(module)
    assert (layer.over_time is None) == (why is not None)
    assert why in (None, layer.why)


def test_modules_that_are_watched_or_replaced_are_stepped():
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        module = nn.Linear(WIDTH, WIDTH)
        handle = getattr(module, f"register_{register}")(lambda *arguments: None)
        assert plan(module)[0].why == "hooks watch each step"
        handle.remove()
        assert decisions(module) == {"": True}
        handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *arguments: None)
        network = nf.SequentialState(nf.LIFCell(), nf.LICell())
        assert decisions(network) == {"": False}
        with torch.no_grad():
            _, state = nf.Lift(network)(torch.randn(3, WIDTH))
            _, state = nf.Lift(network)(torch.randn(3, WIDTH), state)
        assert [type(entry) for entry in state] == [nf.LIFFeedForwardState, nf.LIState]
        handle.remove()
    module.forward = lambda x: x + 1
    assert plan(module)[0].why == "its forward was replaced"
    assert torch.equal(nf.Lift(module)(torch.zeros(2, 1, 1)), torch.ones(2, 1, 1))


@pytest.mark.parametrize(
    "module",
    [
        nf.LIFCell(),
        nf.LIFRecurrentCell(WIDTH, WIDTH),
        nf.LILinearCell(WIDTH, WIDTH),
        nf.DelayCell(2),
        nf.SequentialState(nf.LIFCell()),
        nn.Sequential(nn.Identity()),
        nn.Linear(WIDTH, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.ReLU(),
        nf.SpikeLinear(WIDTH, WIDTH),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_forward_that_is_replaced_in_its_class_sees_each_step(module: nn.Module, monkeypatch: pytest.MonkeyPatch):
    kind = next(base for base in type(module).__mro__ if "forward" in vars(base))
    forward, calls = kind.forward, []

    @functools.wraps(forward)
    def forward_and_count(*arguments: Any) -> Any:
        calls.append(arguments)
        return forward(*arguments)

    monkeypatch.setattr(kind, "forward", forward_and_count)
    nf.Lift(module)(torch.ones(5, 2, WIDTH))
    assert len(calls) == 5


def test_only_what_must_be_is_stepped():
    def network(*extra: nn.Module) -> nf.SequentialState:
        linears = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        return nf.SequentialState(
            linears[0], nf.LIFCell(), *extra[:1], nf.SequentialState(linears[1], *extra[1:2], nf.LIFCell()), linears[2]
        )

    def stepped(*extra: nn.Module) -> list[str]:
        return [name for name, fused in decisions(network(*extra)).items() if not fused]

    assert stepped() == []
    assert stepped(nn.Dropout()) == ["2"]
    assert stepped(nn.BatchNorm1d(WIDTH)) == ["2"]
    # Each has statistics of its own.
    assert stepped(nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)) == ["2", "3.1"]
    # Both draw from one generator, or update the same statistics.
    assert stepped(nn.Dropout(), nn.Dropout()) == ["2", "3.0", "3.1"]
    assert stepped(nn.Dropout(), nn.BatchNorm1d(WIDTH)) == ["2", "3.1"]
    # An initial state may be random.
    assert stepped(RandomStart()) == []
    assert stepped(RandomStart(), nn.Dropout()) == ["2", "3.0", "3.1"]
    shared = nn.BatchNorm1d(WIDTH)
    assert stepped(shared, shared) == ["2", "3.0", "3.1"]
    model = network(nn.Identity())
    model[3].register_forward_hook(lambda *arguments: None)
    assert decisions(model) == {"0": True, "1": True, "2": True, "3": False, "4": True}
    model.register_forward_hook(lambda *arguments: None)
    assert decisions(model) == {"": False}


def test_explanation():
    model = nf.SequentialState(nn.Linear(4, 4), nn.Dropout(), nn.ReLU(), nf.SequentialState(nn.Dropout(), nf.LIFCell()))
    assert nf.Lift(model).explain().splitlines() == [
        "layer  module   runs     why",
        "0      Linear   fused    one call for all time steps; sums over spikes, where they come in",
        "1      Dropout  stepped  random in training",
        "2      ReLU     stepped  between 1 and 3.0, the order of whose calls may count",
        "3.0    Dropout  stepped  random in training",
        "3.1    LIFCell  fused    one kernel for all time steps",
    ]


TOO_FEW = [
    nn.Linear(4, 2),
    nf.SpikeLinear(4, 2),
    nn.LayerNorm((4, 3)),
    nn.RMSNorm((4, 3)),
    nn.Softmax(-2),
    nn.LogSoftmax(-2),
    nn.Softmin(-2),
    nn.GLU(-2),
    nn.ConstantPad2d(1, 0.5),
    nn.ZeroPad2d(1),
    nn.ZeroPad3d(1),
    nn.PixelShuffle(1),
    nn.PixelUnshuffle(1),
]


@pytest.mark.parametrize("layer", TOO_FEW, ids=repr)
def test_a_step_with_too_few_dimensions_fails_as_in_a_loop(layer: nn.Module):
    """Time must not take the place of a dimension that the module computes along."""
    of_lines, of_images = (nn.Linear, nf.SpikeLinear), (nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad3d)
    x = torch.ones((4,) if type(layer) in of_lines else (2, 4, 3) if type(layer) in of_images else (4, 3))
    layer(x)
    with pytest.raises((RuntimeError, IndexError, ValueError)) as expected:
        loop(layer, x)
    with pytest.raises(expected.type):
        lift(layer, x)


@pytest.mark.parametrize(
    "behind",
    [
        lambda: [nn.Hardtanh(0, 0.5, inplace=True)],
        lambda: [nn.Flatten(), nn.Hardtanh(0, 0.5, inplace=True)],
        lambda: [nn.ReLU(inplace=True), nn.Hardtanh(0, 0.5, inplace=True)],
        lambda: [nn.Identity(), nn.Hardtanh(0, 0.5, inplace=True), nn.Linear(5, 5)],
        lambda: [nn.Dropout(inplace=True)],
    ],
)
@pytest.mark.parametrize("cell", [nf.LIFRecurrentCell, nf.LSNNRecurrentCell, nf.LIFMCRecurrentCell])
def test_what_is_changed_in_place_is_fed_back(cell, behind):
    """In the loop the output of a recurrent cell is a part of its state."""
    model = nf.SequentialState(cell(5, 5), *behind()).double()
    x = torch.rand(10, 3, 5, dtype=torch.float64) * 6
    with torch.no_grad():
        torch.manual_seed(3)
        expected, state = [], None
        for step in x:
            output, state = model(step, state)
            expected.append(output.clone())
        torch.manual_seed(3)
        assert torch.equal(nf.Lift(model)(x)[0], torch.stack(expected))
    nf.Lift(nf.SequentialState(cell(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).double())(x)[0].sum().backward()


class Scaling(nn.Module):
    """Changes its input in place, and does not say so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(-0.5)


class Remembering(nn.Module):
    """Keeps its last output, which it returns, without a state."""

    last = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = 0.9 * self.last + x
        return self.last


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("between", [[], [nn.Flatten()]])
def test_changes_in_place_that_others_would_see_are_an_error(hidden: bool, grad: bool, between: list[nn.Module]):
    """What a recurrent cell feeds back, or what the model returns too."""
    first = nn.Linear(WIDTH, WIDTH) if hidden else nf.LIFRecurrentCell(WIDTH, WIDTH)
    model = nf.SequentialState(first, *between, Scaling(), return_hidden=hidden)
    message = r"lifted_module: got a layer '[12]' \(Scaling\) that changes its input in place"
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
        nf.Lift(model)(torch.ones(3, 2, WIDTH))


@pytest.mark.parametrize("grad", [True, False])
def test_what_a_module_remembers_may_be_changed_in_place(grad: bool):
    x = 4 * torch.randn(9, 3, WIDTH)
    with torch.set_grad_enabled(grad):
        model = nf.SequentialState(Remembering(), nn.ReLU(inplace=True), nn.Linear(WIDTH, 2))
        model.eval()
        model[0].last = torch.zeros(())
        expected = torch.stack([model(frame)[0] for frame in x])
        model[0].last = torch.zeros(())
        torch.testing.assert_close(nf.Lift(model)(x)[0], expected)


@pytest.mark.parametrize("alias", [nn.Flatten(), nn.Identity(), nn.Unflatten(1, (4, 1))], ids=str)
@pytest.mark.parametrize("last", [nn.Dropout(0.5, inplace=True), nn.RReLU(inplace=True)], ids=str)
def test_random_changes_in_place_behind_a_view(alias: nn.Module, last: nn.Module):
    assert_same(nf.SequentialState(nn.Linear(WIDTH, WIDTH), alias, last).double(), torch.randn(5, 2, WIDTH).double())


@pytest.mark.parametrize("what", ["weights", "plain weights", "dt", "slope"])
def test_changes_of_what_is_not_registered_are_an_error(what: str):
    """As plasticity would make of weights that are plain tensors, and hooks of numbers."""
    plain = torch.zeros(WIDTH, WIDTH)
    weights = nn.Parameter(plain) if what == "weights" else plain
    cell = nf.LIFRecurrentCell(WIDTH, WIDTH, recurrent_weights=weights)
    activation = nn.LeakyReLU(0.1)

    class Plasticity(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            if what == "dt":
                cell.dt *= 1.5
            elif what == "slope":
                activation.negative_slope *= 2
            else:
                weights.add_(1.0)
            return z

    model = nf.SequentialState(cell, Plasticity(), activation)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"got weights [02]\.\w+ that changed during the steps"):
        nf.Lift(model)(torch.rand(5, 2, WIDTH))


def test_an_embedding_that_changes_weights_of_others_is_an_error():
    embedding, readout = nn.Embedding(6, WIDTH, max_norm=1.0), nn.Linear(WIDTH, 6, bias=False)
    readout.weight = embedding.weight
    with pytest.raises(RuntimeError, match=r"got weights 1\.weight that changed"):
        nf.Lift(nn.Sequential(embedding, readout))(torch.tensor([[0, 1], [2, 3], [4, 5]]))


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_modules_of_torchscript():
    linear = nn.Linear(WIDTH, WIDTH)
    model, x = nf.SequentialState(torch.jit.script(linear), nf.LIFCell()), torch.rand(3, 2, WIDTH)
    expected, _ = nf.Lift(nf.SequentialState(linear, nf.LIFCell()))(x)
    assert torch.equal(nf.Lift(model)(x)[0], expected)
    assert torch.equal(loop(model, x)[0], expected)


def test_shapes_that_differ_from_step_to_step_are_told():
    class Crop(nn.Module):
        size = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.size += 1
            return x[..., : self.size]

    with pytest.raises(RuntimeError, match=r"layer '0' \(Crop\) that cannot be stacked, of shapes \(2, 1\), \(2, 2\)"):
        nf.Lift(nn.Sequential(Crop(), nn.ReLU()))(torch.ones(2, 2, 4))


class Dropped(nf.LIFRecurrentCell):
    """With other recurrent weights at each step."""

    def masked_weights(self) -> torch.Tensor:
        return nn.functional.dropout(super().masked_weights(), 0.5)


def test_recurrent_weights_of_ones_own_are_made_at_each_step(generator):
    cell, x = Dropped(WIDTH, WIDTH), 20 * torch.rand(30, 2, WIDTH, generator=generator)
    assert plan(cell)[0].why == "its masked_weights is one of your own"
    torch.manual_seed(0)
    outputs, state = [], None
    for frame in x:
        z, state = cell(frame, state)
        outputs.append(z)
    torch.manual_seed(0)
    assert torch.equal(nf.Lift(cell)(x)[0], torch.stack(outputs))
