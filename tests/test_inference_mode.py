"""What was made in inference mode can be trained with afterwards, with the gradients of what was not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import MODELS, Model, model_id
from .test_inputs import INPUTS, state_of, weights_of
from .test_modules import MODULES, NEURONS, make, make_input


def inferred(values: Any) -> Any:
    """The same values, made in inference mode."""
    with torch.inference_mode():
        copies = pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, values)
    assert all(v.is_inference() for v in pytree.tree_leaves(copies) if isinstance(v, torch.Tensor))
    return copies


def assert_same_gradients(run: Callable[..., Any], given: tuple[Any, ...], leaves: tuple[torch.Tensor, ...]) -> None:
    """That ``run`` has the same results and gradients whether what it is given was made in inference mode or not."""
    found = []
    for arguments in (given, inferred(given)):
        results = pytree.tree_leaves(run(*arguments))
        found.append((*results, *torch.autograd.grad(sum(r.sum() for r in results), leaves, allow_unused=True)))
    for value, expected in zip(*found):
        assert (value is None) == (expected is None)
        assert value is None or torch.equal(value, expected)


@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_states_and_inputs_of_modules(model: Model, cell: bool):
    module = make(model, cell)
    x = (make_input(model, 3) if cell else make_input(model, 40, 3)) / 20
    weights = tuple(module.parameters())
    with torch.no_grad():
        _, state = module(x)
    y = x.clone().requires_grad_()
    for run in (module, kernels_disabled()(module.__call__)):
        assert_same_gradients(lambda state, run=run: run(y, state), (state,), (y, *weights))
        if weights:
            assert_same_gradients(run, (x, state), weights)


@pytest.mark.parametrize("model", MODELS, ids=model_id)
def test_every_argument_of_step_functions(model: Model, generator):
    x = torch.rand(2, NEURONS if model.kind in ("ff", "mcff") else INPUTS, generator=generator).requires_grad_()
    state, weights, p = state_of(model, generator), weights_of(model, torch.float32, generator), model.defaults()
    for run in (model.call, kernels_disabled()(model.call)):
        assert_same_gradients(lambda s, p, run=run: run(x, s, weights, p, 0.001), (state, p), (x, *weights))
        if weights:
            still = tuple(w.detach() for w in weights)
            assert_same_gradients(lambda s, w, p, run=run: run(x, s, w, p, 0.001), (state, still, p), (x,))


def test_gradients_reach_parameters_made_in_inference_mode():
    x, expected = 5 * torch.rand(40, 2, 3), torch.tensor(0.9, requires_grad=True)
    with torch.inference_mode():
        threshold = torch.tensor(0.9).requires_grad_()
        layer = nf.LIFRecurrent(3, 4)
    for v_th in (threshold, expected):
        state = nf.LIFFeedForwardState(torch.zeros(2, 3), torch.zeros(2, 3))
        nf.lif_feed_forward_integral(x, state, nf.LIFParameters(v_th=v_th))[0].sum().backward()
    assert threshold.is_inference()
    assert expected.grad is not None
    assert torch.equal(threshold.grad, expected.grad)
    layer(x)[0].sum().backward()
    other = nf.LIFRecurrent(3, 4)
    other.load_state_dict(layer.state_dict())
    other(x)[0].sum().backward()
    assert torch.equal(layer.input_weights.grad, other.input_weights.grad)
    assert torch.equal(layer.recurrent_weights.grad, other.recurrent_weights.grad)


@pytest.mark.parametrize("make_network", [
    lambda: nf.SequentialState(torch.nn.Linear(3, 4), nf.LIF(), nf.LSNNRecurrent(4, 4), torch.nn.Linear(4, 2), nf.LI()),
    lambda: nf.Lift(nf.SequentialState(torch.nn.Linear(3, 4), nf.LIFCell(), nf.LSNNRecurrentCell(4, 4), nf.LICell())),
    lambda: nf.DelayedLinear(3, 4, max_delay=5),
    lambda: nf.Delay(3, max_delay=5),
])  # fmt: skip
def test_networks_and_delays(make_network):
    network = make_network()
    x = 5 * torch.rand(20, 2, 3)
    with torch.inference_mode():
        _, state = network(x)
    with torch.no_grad():
        _, expected = network(x)
    leaves = (x.requires_grad_(), *network.parameters())
    found = [torch.autograd.grad(network(x, s)[0].sum(), leaves, allow_unused=True) for s in (state, expected)]
    for value, wanted in zip(*found):
        assert value is wanted or torch.equal(value, wanted)


def test_another_error_stays_as_it_is():
    state = nf.LIFFeedForwardState(torch.zeros(2, 3, device="meta"), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"state\.v: got a tensor on meta"):
        nf.lif_feed_forward_step(torch.ones(2, 3, requires_grad=True), state, nf.LIFParameters())
