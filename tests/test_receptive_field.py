"""Receptive fields: numbers of the reference, properties of Gaussians, and layers that learn their parameters."""

from __future__ import annotations

import copy
import importlib
import math
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

import norse_fast as nf
from norse_fast.functional import receptive_field as rf

from .models import GOLDEN

ONE = torch.tensor([1.0])
SAMPLES = {
    "scales": torch.tensor([1.0, 2.0]),
    "angles": torch.tensor([0.0, 0.7]),
    "ratios": torch.tensor([0.5, 1.0]),
}
LEARNING = [nf.SampledSpatialReceptiveField2d, nf.ParameterizedSpatialReceptiveField2d]


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "receptive_fields.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def test_parameters_of_the_reference(golden):
    samples = [golden[name] for name in ("scales", "angles", "ratios")]
    centres = {name: golden[name] for name in ("x", "y")}
    assert torch.equal(rf.spatial_parameters(*samples, 2, **centres), golden["rows"])
    every = rf.spatial_parameters(*samples, [(0, 0), (1, 0)], **centres, include_replicas=True)
    assert torch.equal(every, golden["rows_with_replicas"])


def test_fields_of_the_reference(golden):
    rows = golden["rows"].clone().requires_grad_()
    fields = rf.spatial_receptive_fields_with_derivatives(rows, 9, domain=8)
    torch.testing.assert_close(fields, golden["fields"], rtol=1e-5, atol=1e-6)
    fields.backward(golden["grad_fields"])
    torch.testing.assert_close(rows.grad, golden["grad_rows"], rtol=1e-4, atol=1e-4)
    for row, expected in zip(golden["rows"][::7], golden["fields"][::7]):
        scale, angle, ratio, x, y, dx, dy = row.tolist()
        field = rf.spatial_receptive_field(scale, angle, ratio, x, y, 9, int(dx), int(dy), domain=8)
        torch.testing.assert_close(field, expected, rtol=1e-5, atol=1e-6)


def test_against_norse(norse):
    """The installed release has neither centres nor the reference's axes of derivatives."""
    expected = norse.spatial_receptive_field(torch.tensor(2.0), torch.tensor(0.3), torch.tensor(0.7), 9)
    torch.testing.assert_close(rf.spatial_receptive_field(2.0, 0.3, 0.7, 0.0, 0.0, 9), expected)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.5, 2), st.floats(-3, 3), st.floats(0.7, 1.4), st.floats(-1, 1), st.floats(-1, 1))
@example(2.0, 0.0, 0.71875, 0.0, 1.0)
@example(2.0, 0.0, 0.7, 1.0, 1.0)
@example(2.0, 0.0, 1.4, 1.0, 1.0)
@example(2.0, 0.8, 0.7, 1.0, 1.0)
def test_moments(scale: float, angle: float, ratio: float, x: float, y: float):
    """A field has the mass, mean and covariance of its Gaussian."""
    size, domain = 97, 15.0  # beyond 6 standard deviations, so that what the grid cuts off does not matter
    arguments = [torch.tensor(v, dtype=torch.float64) for v in (scale, angle, ratio, x, y)]
    field = rf.spatial_receptive_field(*arguments, size, domain=domain)
    grid = torch.linspace(-domain, domain, size, dtype=torch.float64)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    assert math.isclose(field.sum().item(), 1.0, rel_tol=1e-9)
    assert math.isclose((field * columns).sum().item(), x, abs_tol=1e-5)
    assert math.isclose((field * rows).sum().item(), y, abs_tol=1e-5)
    u = torch.stack([columns - x, rows - y], -1)
    covariance = torch.einsum("ij,ijm,ijn->mn", field, u, u)
    expected = scale * rf.covariance_matrix(*arguments[2:3], 1 / arguments[2], arguments[1])
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-4)
    density = rf.gaussian_kernel(size, expected, *arguments[3:], domain=domain)
    torch.testing.assert_close(density * (2 * domain / (size - 1)) ** 2, field, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.6, 2.0])
def test_derivatives_are_directional(angle: float):
    """dx derives along the angle, dy across it, each multiplied by the scale; rows are y and columns x."""
    size, domain, scale = 81, 8.0, 2.0
    plane = torch.linspace(-domain, domain, size, dtype=torch.float64)
    step = 2 * domain / (size - 1)
    field = rf.spatial_receptive_field(
        torch.tensor(scale, dtype=torch.float64), angle, 1.0, 0.0, 0.0, size, domain=domain
    )
    for dx, dy, direction in ((1, 0, angle), (0, 1, angle + math.pi / 2)):
        derived = rf.spatial_receptive_field(
            torch.tensor(scale, dtype=torch.float64), angle, 1.0, 0.0, 0.0, size, dx, dy, domain
        )
        along = math.cos(direction) * plane[None, :] + math.sin(direction) * plane[:, None]
        exact = -along / scale * field * step * scale
        torch.testing.assert_close(derived[1:-1, 1:-1], exact[1:-1, 1:-1], rtol=0, atol=1e-2 * exact.abs().max().item())


def test_number_of_fields():
    few = [torch.rand(n) + 2 for n in (2, 3, 4)]
    assert rf.spatial_parameters(*few, 0).shape == (24, 7)
    assert rf.spatial_parameters(*few, 1).shape == (24 * 3, 7)
    assert rf.spatial_parameters(*few, 3).shape == (24 * 15, 7)
    few[2][1] = 1
    assert rf.spatial_parameters(*few, [(0, 1), (2, 0)]).shape == ((2 * 3 * 3 + 2) * 2, 7)
    assert rf.spatial_parameters(*few, torch.tensor([[0, 1]]), include_replicas=True).shape == (24, 7)
    assert rf.spatial_parameters(ONE, ONE, ONE, 0, x=torch.tensor([1.0, 2.0]))[:, 3].tolist() == [1, 2]


def test_space_and_time():
    rows = rf.spatio_temporal_parameters(*SAMPLES.values(), 1, torch.tensor([5.0, 6.0]))
    spatial = rf.spatial_parameters(*SAMPLES.values(), 1)
    assert torch.equal(rows[::2, :-1], spatial)
    assert torch.equal(rows[:, -1], torch.tensor([5.0, 6.0]).repeat(len(spatial)))


def test_temporal_scales_against_norse(norse):
    from norse.torch.functional.receptive_field import temporal_scale_distribution as reference

    for arguments in ((1,), (4,), (5, 2.0), (3, 1.0, None, 1.7)):
        torch.testing.assert_close(rf.temporal_scale_distribution(*arguments), reference(*arguments))


def test_temporal_scales_span_their_range():
    """The reference goes the other way from the greatest scale, past it."""
    scales = rf.temporal_scale_distribution(4, 2.0, 54.0)
    torch.testing.assert_close(scales[[0, -1]] ** 2, torch.tensor([2.0, 54.0]))
    ratios = scales[1:] / scales[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(3))
    assert rf.temporal_scale_distribution(1, 4.0, 9.0).tolist() == [2.0]


def test_bad_arguments():
    for derivatives in ("x", [1, 2], torch.ones(2, 3), None):
        with pytest.raises(ValueError, match=r"(?s)derivatives: got .*, expected a number or pairs"):
            rf.spatial_parameters(ONE, ONE, ONE, derivatives)
    with pytest.raises(ValueError, match=r"combinations: got shape \(2, 6\), expected \(n, 7\) with the columns scale"):
        rf.spatial_receptive_fields_with_derivatives(torch.ones(2, 6), 9)


@pytest.mark.parametrize("optimize", [True, False])
def test_layer_needs_all_columns(optimize: bool):
    with pytest.raises(ValueError, match=r"rf_parameters: got shape \(1, 6\), expected \(n, 7\)"):
        nf.SpatialReceptiveField2d(1, 9, torch.ones(1, 6), optimize_fields=optimize)


def test_a_centre_far_away_keeps_its_gradient():
    layer = nf.SpatialReceptiveField2d(1, 9, torch.tensor([[1.0, 0.0, 1.0, 95.0, 0.0, 0.0, 0.0]]), domain=100.0)
    layer(torch.rand(1, 1, 9, 9)).sum().backward()
    assert layer.log_rf_parameters.grad.isfinite().all()


@pytest.mark.parametrize("aggregate", [True, False])
def test_layer_is_a_convolution_with_the_fields(aggregate: bool, golden):
    rows = golden["rows"][:5]
    layer = nf.SpatialReceptiveField2d(3, 9, rows, aggregate=aggregate, stride=2, padding=4)
    pictures = torch.rand(2, 3, 16, 12)
    assert layer(pictures).shape == (2, layer.out_channels, 8, 6)
    assert layer.out_channels == (5 if aggregate else 15)
    channels = [
        torch.nn.functional.conv2d(pictures[:, c : c + 1], golden["fields"][:5, None], stride=2, padding=4)
        for c in range(3)
    ]
    expected = sum(channels) if aggregate else torch.cat(channels, 1)
    torch.testing.assert_close(layer(pictures), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("log", [True, False])
def test_fields_are_learned(log: bool):
    rows = rf.spatial_parameters(*SAMPLES.values(), 1)
    layer = nf.SpatialReceptiveField2d(1, 9, rows, optimize_log=log)
    assert list(layer.state_dict()) == ["log_rf_parameters" if log else "rf_parameters"]
    torch.testing.assert_close(layer.rf_parameters, rows)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    picture = torch.rand(1, 1, 12, 12)
    before = layer(picture)
    with torch.no_grad():
        layer(picture)  # leaves nothing behind that a step with gradients would use
    for _ in range(2):
        optimiser.zero_grad()
        layer(picture).square().sum().backward()
        optimiser.step()
    gradient = next(layer.parameters()).grad
    assert gradient[:, :5].abs().sum(0).all()
    assert not gradient[:, 5:].any()
    assert not torch.allclose(layer(picture), before)
    assert torch.equal(layer.rf_parameters[:, 5:], rows[:, 5:])


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("kind", LEARNING)
def test_combinations_are_learned(kind, log: bool):
    layer = kind(2, 9, **SAMPLES, derivatives=1, optimize_log=log, optimize_x=False)
    names = {"log_scales" if log else "scales", "angles", "log_ratios" if log else "ratios", "y"}
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()} == names
    torch.testing.assert_close(layer.rf_parameters, rf.spatial_parameters(*SAMPLES.values(), 1))
    fields = layer.out_channels
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
    picture = torch.rand(1, 2, 12, 12)
    for _ in range(2):
        optimiser.zero_grad()
        layer(picture).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
        optimiser.step()
    # Round fields may become elliptic, but there are no more of them.
    assert layer.out_channels == layer(picture).shape[1] == fields
    assert not torch.allclose(layer.ratios, kind(2, 9, **SAMPLES, derivatives=1).ratios)
    shared = kind is nf.SampledSpatialReceptiveField2d
    assert layer.scales.numel() == (2 if shared else fields)


@pytest.mark.parametrize("kind", LEARNING)
def test_nothing_learned_is_computed_once(kind):
    fixed = {f"optimize_{name}": False for name in ("scales", "angles", "ratios", "x", "y")}
    layer = kind(2, 9, **SAMPLES, derivatives=0, **fixed)
    assert not list(layer.parameters())
    assert layer.state_dict() == {}
    assert layer.weights is layer.weights
    assert layer.to(torch.float64)(torch.ones(1, 2, 9, 9, dtype=torch.float64)).dtype == torch.float64
    torch.testing.assert_close(
        layer.float()(torch.ones(1, 2, 9, 9)), kind(2, 9, **SAMPLES, derivatives=0)(torch.ones(1, 2, 9, 9))
    )


@pytest.mark.parametrize("kind", LEARNING)
def test_layers_copy_pickle_and_move(kind):
    layer = kind(1, 9, **SAMPLES, derivatives=[(0, 0), (2, 1)], padding=1, domain=5.0)
    picture = torch.rand(1, 1, 12, 12)
    expected = layer(picture)
    restored = kind(1, 9, **{k: v + 0.1 for k, v in SAMPLES.items()}, derivatives=0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(picture), expected)
    if kind is nf.SampledSpatialReceptiveField2d:
        restored.load_state_dict(layer.state_dict())
        torch.testing.assert_close(restored.scales, layer.scales)
    assert layer.to("meta").rf_parameters.device.type == "meta"
    assert "out_channels=12" in repr(layer)


def test_temporal_field(generator):
    layer = nf.TemporalReceptiveField((2, 5), n_scales=3)
    assert layer.ps.shape == (3, 2, 1)
    assert list(layer.state_dict()) == ["ps"]
    x, state = torch.rand(6, 4, 2, 5, generator=generator), None
    cells, states = (
        [nf.LIBoxCell(nf.LIBoxParameters(tau_mem_inv=rate)) for rate in layer.ps[:, 0, 0].detach()],
        [None] * 3,
    )
    for frame in x:
        v, state = layer(frame, state)
        for k, cell in enumerate(cells):
            expected, states[k] = cell(frame, states[k])
            assert torch.equal(v[:, k], expected)
    v.sum().backward()
    assert layer.ps.grad.abs().sum() > 0
    assert v.shape == (4, 3, 2, 5)


def test_temporal_field_over_time_and_of_other_neurons(generator):
    x = torch.rand(6, 4, 2, generator=generator)
    rates = torch.tensor([[900.0, 300.0], [200.0, 100.0], [50.0, 20.0], [10.0, 5.0], [2.0, 1.0]])
    arguments = {"time_constants": rates, "activation_state_map": lambda t: nf.LIParameters(tau_mem_inv=t)}
    cell = nf.TemporalReceptiveField((2,), activation=nf.LICell, **arguments)
    layer = nf.TemporalReceptiveField((2,), activation=nf.LI, **arguments)
    assert cell.n_scales == 5
    state, steps = None, []
    for frame in x:
        v, state = cell(frame, state)
        steps.append(v)
    torch.testing.assert_close(layer(x)[0], torch.stack(steps))
    moved = copy.deepcopy(cell)
    assert moved.neurons.p.tau_mem_inv is moved.ps


def test_temporal_field_against_norse(norse, generator):
    ours, expected = (
        nf.TemporalReceptiveField((2, 3, 4), 4, dt=0.01),
        norse.TemporalReceptiveField((2, 3, 4), 4, dt=0.01),
    )
    torch.testing.assert_close(ours.ps, expected.ps)
    expected.load_state_dict(ours.state_dict())
    state = other = None
    for frame in torch.rand(5, 1, 2, 3, 4, generator=generator):
        (v, state), (w, other) = ours(frame, state), expected(frame, other)
        torch.testing.assert_close(v, w)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_covariance_of_one_element(shape: tuple[int, ...], norse):
    values = [torch.full(shape, v) for v in (2.0, 1.0, 0.5)]
    actual = rf.covariance_matrix(*values)
    assert actual.shape == (2, 2)
    expected = norse.functional.receptive_field.covariance_matrix(2.0, 1.0, 0.5)
    torch.testing.assert_close(actual, expected)
    assert rf.covariance_matrix(torch.ones(1), 2.0, 0.5).shape == (2, 2)
    assert rf.covariance_matrix(torch.ones(3), 2.0, torch.ones(1)).shape == (3, 2, 2)


HALF = torch.tensor(0.5)
OLD_CALLS = {
    "derivatives": (
        lambda: rf.spatial_receptive_field(ONE[0], HALF, HALF, 9, 1, 0),
        TypeError,
        "9, 1, 0, which are size",
    ),
    "no derivative": (
        lambda: rf.spatial_receptive_field(ONE[0], HALF, HALF, 9, 0, 0),
        TypeError,
        "9, 0, 0, which are size",
    ),
    "one": (lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, 9, 1, 1), TypeError, r"pass .*, 0\.0, 0\.0, 9, 1, 1"),
    "two": (lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, 9, 2, 2, 8), TypeError, "9, 2, 2, which are size"),
    "size alone": (lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, 9), TypeError, "got no centre.*Norse 1.1.0"),
    "size by name": (
        lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, size=9),
        TypeError,
        "got no centre.*Norse 1.1.0",
    ),
    "one derivative": (lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, 9, 1), TypeError, "9, 1, 0, which are size"),
    "size 0": (lambda: rf.spatial_receptive_field(1.0, 0.0, 0.5, 0.0, 0.0, 0), ValueError, "size: got 0"),
    "kernel": (lambda: rf.gaussian_kernel(9, torch.eye(2)), TypeError, "got no centre.*Norse 1.1.0"),
    "kernel and domain": (lambda: rf.gaussian_kernel(9, torch.eye(2), 4), TypeError, "got no centre.*Norse 1.1.0"),
    "replicas": (lambda: rf.spatial_parameters(*SAMPLES.values(), 0, True), TypeError, "x: got bool.*Norse 1.1.0"),
    "columns": (
        lambda: rf.spatial_receptive_fields_with_derivatives(torch.ones(2, 5), 9),
        UserWarning,
        "five columns, as in Norse 1.1.0, which derives along other axes",
    ),
    "layer": (
        lambda: nf.SpatialReceptiveField2d(1, 9, torch.ones(2, 5)),
        UserWarning,
        "five columns, as in Norse 1.1.0",
    ),
    "sampled": (
        lambda: nf.SampledSpatialReceptiveField2d(1, 9, *SAMPLES.values(), 0, False, True, True),
        TypeError,
        "x: got bool.*Norse 1.1.0.*by keyword",
    ),
    "parametrized": (
        lambda: nf.ParameterizedSpatialReceptiveField2d(1, 9, *SAMPLES.values(), 0, True),
        TypeError,
        "x: got bool.*Norse 1.1.0",
    ),
}


@pytest.mark.parametrize("name", OLD_CALLS)
def test_calls_for_norse_1_1_0_are_told(name: str):
    call, error, message = OLD_CALLS[name]
    with pytest.raises(error, match=message):
        call()


def test_centres_that_look_like_sizes():
    """As floating point numbers, or where there are as many pixels, they are centres."""
    for centre in ((9.0, 1.0), (torch.tensor(9), 1)):
        assert rf.spatial_receptive_field(1.0, 0.0, 1.0, *centre, 5).shape == (5, 5)
    assert rf.spatial_receptive_field(1.0, 0.0, 1.0, 3, 2, 9).shape == (9, 9)


FIVE = torch.tensor([[1.5, 0.4, 1.7, 0.0, 0.0], [0.7, 1.1, 0.5, 0.0, 0.0]])
SEVEN = torch.cat((FIVE[:, :3], torch.zeros(2, 4)), 1)


def test_five_columns_have_their_centre_in_the_middle():
    fields = rf.spatial_receptive_fields_with_derivatives(FIVE, 9, 8)
    assert torch.equal(fields, rf.spatial_receptive_fields_with_derivatives(SEVEN, 9, 8))
    assert torch.equal(
        nf.SpatialReceptiveField2d(1, 9, FIVE).weights[:, 0], nf.SpatialReceptiveField2d(1, 9, SEVEN).weights[:, 0]
    )
    rows = FIVE.clone().requires_grad_()
    rf.spatial_receptive_fields_with_derivatives(rows, 9, 8).pow(2).sum().backward()
    assert rows.grad[:, :3].abs().min() > 0


def test_five_columns_with_derivatives_are_those_of_the_main_branch():
    with pytest.warns(UserWarning, match="derives along other axes"):
        fields = rf.spatial_receptive_fields_with_derivatives(FIVE + torch.tensor([0.0, 0, 0, 1, 0]), 9, 8)
    expected = rf.spatial_receptive_fields_with_derivatives(SEVEN + torch.tensor([0.0, 0, 0, 0, 0, 1, 0]), 9, 8)
    assert torch.equal(fields, expected)


def test_fields_of_the_installed_norse(norse):
    theirs = importlib.import_module("norse.torch.functional.receptive_field")
    expected = theirs.spatial_receptive_fields_with_derivatives(FIVE, 9, 8)
    torch.testing.assert_close(rf.spatial_receptive_fields_with_derivatives(FIVE, 9, 8), expected, rtol=0, atol=3e-7)
    for order, scale, gamma in ((1, 2.0, 1), (2, 3.0, 0.5), (3, 0.7, 0.25)):
        value = theirs.calculate_normalization(order, scale, gamma)
        assert rf.calculate_normalization(order, scale, gamma) == pytest.approx(value, rel=1e-12)


OLD = (torch.tensor([1.0, 2.0]), torch.tensor([0.3, 1.0]), torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("kind", ["ParameterizedSpatialReceptiveField2d", "SampledSpatialReceptiveField2d"])
def test_checkpoints_of_norse_1_1_0(norse, kind: str, log: bool):
    theirs = getattr(norse, kind)(2, 9, *(values * 1.25 for values in OLD), [(0, 0)])
    ours = getattr(nf, kind)(2, 9, *OLD, [(0, 0)], optimize_log=log)
    model = torch.nn.Sequential(ours)
    saved = {f"0.{name}": value for name, value in theirs.state_dict().items()}
    names = set(saved)
    model.load_state_dict(saved)
    assert set(saved) == names
    x = torch.rand(1, 2, 12, 12)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-6)
    assert not ours.x.any()


def test_checkpoints_of_norse_1_1_0_in_rows(norse):
    theirs = norse.SpatialReceptiveField2d(1, 9, FIVE * 1.25)
    ours = nf.SpatialReceptiveField2d(1, 9, FIVE)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 1, 12, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_checkpoints_of_norse_1_1_0_with_more_fields(norse):
    """Round fields, and derivatives as a number, make other numbers of fields; rows of the checkpoint do."""
    scales, angles, ratios = OLD[0], OLD[1], torch.tensor([0.5, 1.0])
    saved = norse.ParameterizedSpatialReceptiveField2d(1, 9, scales, angles, ratios, 1).state_dict()
    ours = nf.ParameterizedSpatialReceptiveField2d(1, 9, scales, angles, ratios, 1)
    with pytest.raises(RuntimeError, match=r"log_scales: got 32 values, expected 18.*from_1_1_0\.md"):
        ours.load_state_dict(saved)


def test_other_checkpoints_are_loaded_as_ever():
    ours, other = (nf.ParameterizedSpatialReceptiveField2d(1, 9, *OLD, 0, x=torch.tensor([x])) for x in (0.0, 1.0))
    ours.load_state_dict(other.state_dict())
    assert torch.equal(ours.x, other.x)
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({name: value for name, value in other.state_dict().items() if name != "x"})
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})


@pytest.mark.parametrize(("scale", "x", "size"), [(0.1, 15.0, 5), (0.01, 0.0, 4), (1e-30, 0.3, 8)])
def test_fields_far_from_every_pixel(scale: float, x: float, size: int):
    """Densities that are zero in float32 still sum to 1, as the nearest pixels have it all, and have gradients."""
    values = [torch.tensor(v, requires_grad=True) for v in (scale, 0.2, 1.5, x, 0.0)]
    field = rf.spatial_receptive_field(*values, size=size, domain=8)
    torch.testing.assert_close(field.sum(), torch.tensor(1.0))
    field[0, 0].backward()
    assert all(v.grad.isfinite() for v in values)


def test_whole_numbers_as_scales():
    """They do not make whole numbers of angles and ratios."""
    one = torch.tensor([0.5]), torch.tensor([1.5])
    for learn in (True, False):
        fields = nf.SampledSpatialReceptiveField2d(1, 5, torch.tensor([1, 2]), *one, 0, optimize_scales=learn)
        assert torch.equal(fields.rf_parameters[:, 1:3], torch.tensor([[0.5, 1.5]]).expand(2, 2))
    kernel = torch.arange(9).view(3, 3)
    torch.testing.assert_close(rf.derive_kernel(kernel, math.pi / 2), rf.derive_kernel(kernel.float(), math.pi / 2))
    # Where all are whole, the fields are not.
    rows = rf.spatial_parameters(*(torch.tensor([n]) for n in (2, 0, 1)), 1, *(torch.tensor([n]) for n in (0, 1)))
    assert rows.dtype == torch.float32
    for whole in (rows.long(), rows.to(torch.uint8), rows.long()[:, [0, 1, 2, 5, 6]][:1]):
        fields = rf.spatial_receptive_fields_with_derivatives(whole, 5)
        assert torch.equal(fields, rf.spatial_receptive_fields_with_derivatives(whole.float(), 5))
        assert fields.any()
        for learn in (True, False):
            layer = nf.SpatialReceptiveField2d(1, 5, whole, domain=1, optimize_fields=learn)
            assert torch.equal(layer.weights.detach()[:, 0], fields)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_learned_fields_in_half_precision(dtype: torch.dtype):
    ones = torch.ones(1)
    fields = nf.SampledSpatialReceptiveField2d(1, 5, ones, ones * 0.5, ones * 1.5, 1)
    x = torch.rand(1, 1, 8, 8)
    expected = fields(x)
    half = copy.deepcopy(fields).to(dtype)
    found = half(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
    found.sum().backward()


def test_temporal_field_of_sparse_input(generator):
    layer = nf.TemporalReceptiveField((4,), 2)
    x = (torch.rand(3, 4, generator=generator) < 0.5).float()
    assert torch.equal(layer(x.to_sparse())[0], layer(x)[0])


def test_temporal_fields_keep_no_history():
    layer = nf.TemporalReceptiveField(
        (2, 3, 3), 3, activation_state_map=lambda ps: nf.LIBoxParameters(tau_mem_inv=ps.exp().clamp(max=900))
    )
    x = torch.rand(1, 2, 3, 3)
    expected = copy.deepcopy(layer)(x)[0]
    layer(x)[0].sum().backward()
    assert layer.ps.grad is not None
    assert torch.equal(copy.deepcopy(layer)(x)[0], expected)

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x,))[0].sum()

    torch.func.grad(loss)(dict(layer.named_parameters()))
    assert torch.equal(copy.deepcopy(layer)(x)[0], expected)


def test_temporal_field_called_within_a_call(generator):
    """As another thread may call it at any moment: each call has the parameters of its own."""
    field = nf.TemporalReceptiveField((2,), 3, activation_state_map=lambda r: nf.LIBoxParameters(tau_mem_inv=r * 1))
    with torch.no_grad():
        field.ps.mul_(0.5)
    x = torch.rand(5, 2, generator=generator)
    expected, _ = field(x)
    depth = []

    def call_again(*_):
        if not depth:
            depth.append(0)
            assert torch.equal(field(x)[0], expected)

    field.neurons.register_forward_pre_hook(call_again)
    actual, _ = field(x)
    assert depth
    assert torch.equal(actual, expected)
    assert torch.autograd.grad(actual.sum(), field.ps)[0].any()


def test_temporal_field_after_a_call_that_failed():
    field = nf.TemporalReceptiveField((2,), 3, activation_state_map=lambda r: nf.LIBoxParameters(tau_mem_inv=r * 1))
    with pytest.raises((RuntimeError, ValueError)):
        field(torch.rand(5, 7))
    assert torch.equal(copy.deepcopy(field)(torch.ones(5, 2))[0], field(torch.ones(5, 2))[0])
