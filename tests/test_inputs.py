"""What every step function, cell and layer takes as input: integers, booleans, and tensors of every sparse layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled

from .models import MODELS, NESTED, Model, model_id
from .test_modules import INPUTS, MODULES, NEURONS, make

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support is in beta:UserWarning")

#: Each makes another form of a dense tensor of zeros and ones.
FORMS = {
    "bool": lambda x: x.bool(),
    "uint8": lambda x: x.byte(),
    "int64": lambda x: x.long(),
    "coo": lambda x: x.to_sparse(),
    "hybrid coo": lambda x: x.to_sparse(1),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
    "bsr": lambda x: x.to_sparse_bsr((1, x.shape[-1])),
    "bsc": lambda x: x.to_sparse_bsc((1, x.shape[-1])),
    "coo of bool": lambda x: x.bool().to_sparse(),
    "csr of int64": lambda x: x.long().to_sparse_csr(),
}


def spikes(*shape: int) -> torch.Tensor:
    """Zeros and ones, with as many ones in each matrix, which the compressed layouts demand."""
    frames = torch.zeros(shape)
    frames.view(-1, shape[-1])[::2, :3] = 1.0
    frames.view(-1, shape[-1])[1::2, 1:4] = 1.0
    return frames


def assert_same(results: Any, expected: Any) -> None:
    """Equal bit for bit, dense or not."""
    results, expected = pytree.tree_leaves(results), pytree.tree_leaves(expected)
    assert len(results) == len(expected)
    for result, value in zip(results, expected):
        result, value = result.detach(), value.detach()
        assert result.dtype == value.dtype
        assert torch.equal(result.to_dense() if result.is_sparse else result, value)


def names_of(kind: type) -> list[str]:
    """The dotted names of the tensors of a state tuple, of which the first field may be a tuple."""
    if kind not in NESTED:
        return list(kind._fields)
    first, *rest = kind._fields
    return [f"{first}.{name}" for name in names_of(NESTED[kind])] + rest


def state_of(model: Model, generator: torch.Generator) -> Any:
    values = {name: torch.rand(2, NEURONS, generator=generator).round() for name in names_of(model.state)}
    return model.pack(model.state, values)


def weights_of(model: Model, dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Multiples of 1/16, whose sums are exact in any order."""
    kinds = {"ff": (), "mcff": (NEURONS,), "lin": (INPUTS,), "rec": (INPUTS, NEURONS), "mc": (INPUTS, NEURONS, NEURONS)}
    return tuple(
        torch.randint(-8, 24, (NEURONS, width), generator=generator).to(dtype).div(16).requires_grad_()
        for width in kinds[model.kind]
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS, ids=model_id)
def test_step_functions(model: Model, form: str, generator):
    x = spikes(2, NEURONS if model.kind in ("ff", "mcff") else INPUTS)
    state, weights = state_of(model, generator), weights_of(model, torch.float32, generator)
    for run in (model.call, kernels_disabled()(model.call)):
        found = []
        for y in (FORMS[form](x), x):
            results = run(y, state, weights, model.defaults(), 0.001)
            loss = sum(value.sum() for value in pytree.tree_leaves(results[1]))
            found.append((results, torch.autograd.grad(loss, weights) if weights else ()))
        assert_same(*found)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(2), np.uint8(2)])
@pytest.mark.parametrize("model", MODELS, ids=model_id)
def test_numbers_of_numpy(model: Model, number: Any, generator):
    x = spikes(2, NEURONS if model.kind in ("ff", "mcff") else INPUTS)
    weights = weights_of(model, torch.float32, generator)
    results = []
    for value in (number, number.item()):
        p = pytree.tree_map(lambda t: value if isinstance(t, torch.Tensor) else t, model.defaults())  # noqa: B023
        spread = {name: torch.full((2, NEURONS), float(value)) for name in names_of(model.state)}
        # Only potentials, currents and the like may be numbers, and spikes are not.
        given = {name: t if name.split(".")[-1] == "z" else value for name, t in spread.items()}
        states = (given if model.kind == "ff" else spread), spread
        results.append([model.call(x, model.pack(model.state, s), weights, p, 0.001) for s in states])
    assert_same(*results)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("model", "cell"), MODULES)
def test_modules(model: Model, cell: bool, form: str):
    module = make(model, cell)
    for weight in module.parameters():
        weight.data.mul_(64).round_().div_(16)
    x = spikes(*(() if cell else (9,)), 2, NEURONS if model.kind == "ff" else INPUTS)
    given = FORMS[form](x)
    for run in (module, kernels_disabled()(module.__call__)):
        expected, state = run(x)
        results = run(given)
        assert_same(results, (expected, state))
        assert results[0].is_sparse == (given.is_sparse and getattr(module, "activation_sparse", None) is not None)
        assert_same(run(given, results[1]), run(x, state))


@pytest.mark.parametrize("form", ["bool", "int64", "coo of bool", "csr of int64"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("model", [model for model in MODELS if model.kind not in ("ff", "mcff")], ids=model_id)
def test_integers_take_the_dtype_of_the_weights(model: Model, dtype: torch.dtype, form: str, generator):
    x = spikes(2, INPUTS)
    state, weights = state_of(model, generator), weights_of(model, dtype, generator)
    results, expected = (model.call(y, state, weights, model.defaults(), 0.001) for y in (FORMS[form](x), x.to(dtype)))
    assert_same(results, expected)
    assert results[0].dtype == dtype


@pytest.mark.parametrize(("form", "cell"), [("coo", False), ("csr", True)])
@pytest.mark.parametrize("model", [model for model in MODELS if model.layer is not None], ids=model_id)
def test_sparse_input_has_its_gradient(model: Model, form: str, cell: bool):
    # By default, that alone differs between the steps for sparse and for dense input.
    module = make(model, cell, **({"detach_reset": False} if model.spikes else {}))
    x = spikes(*(() if cell else (9,)), 2, NEURONS if model.kind == "ff" else INPUTS)
    given = FORMS[form](x).requires_grad_()
    at = x.bool()  # the gradient of a sparse tensor is that of its values
    x.requires_grad_()
    for y in (x, given):
        sum(value.sum() for value in pytree.tree_leaves(module(y)[1])).backward()
    assert given.grad is not None
    assert given.grad.layout is given.layout
    torch.testing.assert_close(given.grad.to_dense()[at], x.grad[at])


def test_lift_and_containers():
    model = nf.SequentialState(nf.LIFCell(), nf.LICell())
    x = 20 * spikes(9, 2, 5)
    assert_same(nf.Lift(nf.LICell())(x.to_sparse()), nf.Lift(nf.LICell())(x))
    assert_same(nf.Lift(model)(x.to_sparse()), nf.Lift(model)(x))
    assert_same(nf.SequentialState(nf.LIF(), nf.LI())(x.to_sparse()), nf.SequentialState(nf.LIF(), nf.LI())(x))
