"""No neuron excites itself unless it may: the diagonal of recurrent weights does not act and gets no gradient.

That holds for whatever tensor a module has for its weights at the time of the call, however it came there.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
import torch.utils.checkpoint
from torch.fx.experimental.proxy_tensor import make_fx

import norse_fast as nf

from .models import MODELS, Model, model_id
from .test_operators import compiled

N = 5
RECURRENT = [model for model in MODELS if model.kind in ("rec", "mc") and model.cell is not None]
CLASSES = [
    pytest.param(kind, steps, id=f"{model.name}-{'layer' if steps else 'cell'}")
    for model in RECURRENT
    for kind, steps in ((model.layer, 7), (model.cell, None))
    if kind is not None
]


def make(kind, **options):
    torch.manual_seed(1)
    return kind(3, N, **{"autapses": False, **options})


def inputs(steps: int | None, **options) -> torch.Tensor:
    return 200 * torch.rand(*(() if steps is None else (steps,)), 4, 3, **options)


def run(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A number that depends on all outputs and states, after some calls: a first step has no spikes before it."""
    return total(*module(x, after(module, x)))


def after(module: torch.nn.Module, x: torch.Tensor):
    state = None
    for _ in range(8):
        _, state = module(x, state)
    return state


def total(output: torch.Tensor, state) -> torch.Tensor:
    return sum((leaf * leaf).sum() for leaf in torch.utils._pytree.tree_leaves((output, state)))


def diagonal(n: int = N) -> torch.Tensor:
    return torch.eye(n, dtype=torch.bool)


def gradient(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(run(module, x), module.recurrent_weights)
    return result


def check(module, expected: torch.Tensor, gradient_expected: torch.Tensor, x: torch.Tensor, owner=None) -> None:
    result = run(module, x)
    assert torch.equal(result.detach(), expected)
    (actual,) = torch.autograd.grad(result, (owner or module).recurrent_weights)
    assert not actual.diagonal().any()
    assert torch.equal(actual, gradient_expected)


def assign_state(module):
    state = {name: value.detach().clone().float() for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def new_parameter(module):
    module.recurrent_weights = torch.nn.Parameter(module.recurrent_weights.detach().clone())


def empty_then_load(module):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.to_empty(device="cpu")
    module.load_state_dict(state)


def swap(module):
    torch.utils.swap_tensors(module.recurrent_weights, torch.nn.Parameter(module.recurrent_weights.detach().clone()))


def unshard(module):
    """As FSDP2 does: the parameter of the forward pass is another object than the one before."""
    whole = torch.nn.Parameter(module.recurrent_weights.detach().clone())
    module._parameters["recurrent_weights"] = whole


def set_diagonal(module):
    with torch.no_grad():
        module.recurrent_weights.fill_diagonal_(100.0)


def set_data(module):
    module.recurrent_weights.data.fill_diagonal_(-50.0)


def nan_diagonal(module):
    set_data(module)
    module.recurrent_weights.data.fill_diagonal_(float("nan"))


CHANGES = [assign_state, new_parameter, empty_then_load, swap, unshard, set_diagonal, set_data, nan_diagonal]
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "save": lambda m: torch.load(_saved(m), weights_only=False),
}


def _saved(module: torch.nn.Module) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("kind", "steps"), CLASSES)
def test_weights_may_be_replaced(kind, steps, change):
    x = inputs(steps)
    module = make(kind)
    expected, gradient_expected = run(module, x).detach(), gradient(module, x)
    assert gradient_expected.any()
    change(module)
    check(module, expected, gradient_expected, x)
    with torch.no_grad():
        assert torch.equal(run(module, x), expected)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(("kind", "steps"), CLASSES)
def test_copies_keep_the_rule_and_what_is_frozen(kind, steps, how):
    x = inputs(steps)
    module = make(kind)
    check(COPIES[how](module), run(module, x).detach(), gradient(module, x), x)
    assert not COPIES[how](module.requires_grad_(False)).recurrent_weights.requires_grad


@pytest.mark.parametrize(("kind", "steps"), CLASSES)
def test_given_weights_stay_as_frozen_as_they_are(kind, steps):
    weights = torch.rand(N, N)
    module = make(kind, recurrent_weights=weights)
    assert not weights.requires_grad
    assert not weights.diagonal().any()
    assert module.recurrent_weights is weights
    learned = torch.nn.Parameter(torch.rand(N, N))
    assert make(kind, recurrent_weights=learned).recurrent_weights.requires_grad


@pytest.mark.parametrize(("kind", "steps"), CLASSES)
def test_functional_calls(kind, steps):
    x = inputs(steps)
    module = make(kind)
    expected, gradient_expected = run(module, x).detach(), gradient(module, x)
    weights = {name: value.detach().clone() for name, value in module.named_parameters()}
    weights["recurrent_weights"].fill_diagonal_(30.0)
    grads, value = torch.func.grad_and_value(lambda w: _call(module, w, x))(weights)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert not grads["recurrent_weights"].diagonal().any()
    torch.testing.assert_close(grads["recurrent_weights"], gradient_expected, rtol=1e-4, atol=1e-5)


def _call(module: torch.nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return run(lambda x, state: torch.func.functional_call(module, weights, (x, state)), x)


@pytest.mark.parametrize(("kind", "steps"), [(nf.LIFRecurrentCell, None), (nf.LIFRecurrent, 7)])
def test_compiled(kind, steps):
    x = inputs(steps)
    module = make(kind)
    with torch.no_grad():
        state = after(module, x)
    expected = total(*module(x, state))
    (gradient_expected,) = torch.autograd.grad(expected, module.recurrent_weights)
    set_diagonal(module)
    result = total(*compiled(module)(x, state))
    torch.testing.assert_close(result, expected)
    (actual,) = torch.autograd.grad(result, module.recurrent_weights)
    assert not actual.diagonal().any()
    torch.testing.assert_close(actual, gradient_expected)


@pytest.mark.parametrize("model", RECURRENT, ids=model_id)
def test_lifted_cells(model: Model):
    x = inputs(9)
    lifted = nf.Lift(make(model.cell))
    expected, gradient_expected = run(lifted, x).detach(), _gradient_of(lifted, x)
    set_diagonal(lifted.lifted_module)
    assert torch.equal(run(lifted, x).detach(), expected)
    assert torch.equal(_gradient_of(lifted, x), gradient_expected)
    assert not gradient_expected.diagonal().any()


def _gradient_of(lifted: nf.Lift, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(run(lifted, x), lifted.lifted_module.recurrent_weights)[0]


def test_training_never_moves_the_diagonal():
    torch.manual_seed(0)
    x = 5 * torch.rand(20, 2, 4)
    module = nf.LIFRecurrent(4, 8)
    module.load_state_dict(nf.LIFRecurrent(4, 8).state_dict(), assign=True)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(x)[0].sum().backward()
    optimizer.step()
    assert module.recurrent_weights.diagonal().abs().max() == 0


def test_step_functions_of_other_people():
    """Their gradients may be shared or expanded, so nothing is written into them."""
    seen = []

    def step(x, state, input_weights, recurrent_weights, p, dt):
        seen.append(recurrent_weights)
        loss = recurrent_weights.sum() + (recurrent_weights * torch.arange(9.0).view(3, 3)).sum()
        return x.new_zeros(x.shape[0], 3) + loss, state

    cell = nf.SNNRecurrentCell(step, lambda x: None, 2, 3, None)
    out, _ = cell(torch.ones(1, 2))
    out.sum().backward()
    expected = (3 * (1 + torch.arange(9.0).view(3, 3))).masked_fill(diagonal(3), 0)
    assert torch.equal(cell.recurrent_weights.grad, expected)
    set_diagonal(cell)
    cell(torch.ones(1, 2))
    assert not seen[-1].diagonal().any()
    assert (cell.recurrent_weights.diagonal() == 100).all()  # what someone assigned is theirs


def test_repeated_gradients():
    x = inputs(None)
    cell = make(nf.LIFRecurrentCell)
    z, state = cell(x)
    _, state = cell(x, state._replace(z=torch.ones_like(z)))
    loss = state.v.sum()
    first = torch.autograd.grad(loss, cell.recurrent_weights, retain_graph=True)[0]
    assert first.any()
    assert torch.equal(torch.autograd.grad(loss, cell.recurrent_weights)[0], first)


def current_step(x, state, input_weights, recurrent_weights, p, dt):
    """A step function that every transform of PyTorch knows."""
    i = x @ input_weights.t() + torch.tanh(state) @ recurrent_weights.t()
    return i, i


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated:DeprecationWarning")  # torch's own forward mode
def test_transforms():
    """vmap, both modes of derivatives, and batches of gradients."""
    cell = nf.SNNRecurrentCell(current_step, lambda x: None, 3, N, None, torch.ones(N, 3))

    def current(weights: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(cell, {"recurrent_weights": weights}, (torch.ones(4, 3), torch.ones(4, N)))[0]

    ensemble = torch.rand(2, N, N)
    without = ensemble.masked_fill(diagonal(), 0)
    torch.testing.assert_close(torch.vmap(current)(ensemble), torch.stack([current(w) for w in without]))
    jacobian = torch.func.jacrev(current)(ensemble[0])
    assert torch.equal(torch.func.jacfwd(current)(ensemble[0]), jacobian)
    expected = (torch.eye(N)[:, :, None] * ~diagonal()).expand(4, N, N, N) * torch.tanh(torch.tensor(1.0))
    assert torch.equal(jacobian, expected)
    weights = without[0].requires_grad_()
    batched = torch.autograd.functional.jacobian(current, weights, vectorize=True)
    assert torch.equal(batched, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(without[0].detach(), torch.ones(N, N))
        tangent = torch.autograd.forward_ad.unpack_dual(current(dual)).tangent
    torch.testing.assert_close(tangent, expected.sum((-1, -2)))


def test_second_derivatives_in_plain_pytorch():
    x = inputs(None)
    cell = make(nf.LIFRecurrentCell).double()
    state = nf.LIFState(*(torch.ones(4, N, dtype=torch.float64) for _ in range(3)))
    with nf.kernels_disabled():
        _, after = cell(x.double(), state)
        (first,) = torch.autograd.grad(after.i.pow(2).sum(), cell.recurrent_weights, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), cell.recurrent_weights)
    assert not first.diagonal().any()
    assert not second.diagonal().any()
    assert second.masked_fill(diagonal(), 1).ne(0).all()


def double(module):
    module.double().float()


def share_memory(module):
    module.share_memory()


@pytest.mark.parametrize(
    "change", [*(c for c in CHANGES if c is not swap), double, share_memory], ids=lambda f: f.__name__
)
def test_weights_may_be_replaced_within_a_sequence(change):
    """Whatever a forward pass left behind, the next step sees the weights of its time."""
    x = inputs(None)
    cell, reference = make(nf.LIFRecurrentCell), make(nf.LIFRecurrentCell)
    _, state = cell(x)
    change(cell)
    with torch.no_grad():
        cell.recurrent_weights.mul_(2)
        reference.recurrent_weights.mul_(2)
    state = type(state)(*(s.detach() for s in state))
    check(lambda *arguments: _from(cell, state, arguments), *_expected(reference, state, x), x, cell)


def _from(module, state, arguments):
    return module(*arguments) if len(arguments) > 1 and arguments[1] is not None else module(arguments[0], state)


def _expected(module, state, x):
    total_of = run(lambda *arguments: _from(module, state, arguments), x)
    return total_of.detach(), torch.autograd.grad(total_of, module.recurrent_weights)[0]


def test_unused_passes_leave_nothing_in_copies():
    """A pass without backward is forgotten by copies and pickles, and does not keep the module."""
    cell = make(nf.LIFRecurrentCell)
    x = inputs(None)
    expected, gradient_expected = run(cell, x).detach(), gradient(cell, x)
    cell(x)
    for copied in COPIES.values():
        check(copied(cell), expected, gradient_expected, x)
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_steps(reentrant: bool):
    x = inputs(None).requires_grad_()
    cell = make(nf.LIFRecurrentCell)
    start = cell.initial_state(x)
    run(cell, x).backward()
    expected = cell.recurrent_weights.grad
    cell.zero_grad()

    def flat(x, *state):
        z, after = cell(x, nf.LIFState(*state))
        return z, *after

    def step(x, state):
        state = start if state is None else state
        z, *after = torch.utils.checkpoint.checkpoint(flat, x, *state, use_reentrant=reentrant)
        return z, nf.LIFState(*after)

    run(step, x).backward()
    torch.testing.assert_close(cell.recurrent_weights.grad, expected)
    assert not cell.recurrent_weights.grad.diagonal().any()


@pytest.mark.parametrize("kind", [nf.LIFRecurrentCell, nf.LIFRecurrent])
def test_passes_without_backward_between_updates(kind):
    """As a validation that forgot no_grad."""
    module = make(kind)
    x = inputs(None if kind is nf.LIFRecurrentCell else 7)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    for _ in range(3):
        module(x)
        optimizer.zero_grad()
        run(module, x).backward()
        module(x)
        optimizer.step()
        module(x)
        module.load_state_dict(module.state_dict())
    assert not module.recurrent_weights.diagonal().any()


def test_two_models_with_the_same_weights():
    """One allows autapses and one does not; the weights belong to both."""
    x = inputs(None)
    strict = make(nf.LIFRecurrentCell)
    free = make(nf.LIFRecurrentCell, autapses=True, recurrent_weights=strict.recurrent_weights)
    free.input_weights = strict.input_weights
    together = torch.autograd.grad(run(strict, x) + run(free, x), strict.recurrent_weights)[0]
    torch.testing.assert_close(together.diagonal(), gradient(free, x).diagonal())
    torch.testing.assert_close(together, gradient(free, x) + gradient(strict, x))


def test_autapses_may_be_allowed():
    for kind, steps in ((nf.LIFRecurrentCell, None), (nf.LIFRecurrent, 7)):
        module = make(kind, autapses=True)
        assert module.masked_weights() is module.recurrent_weights
        assert gradient(module, inputs(steps)).diagonal().any()


def test_exported_weights_are_those_that_act():
    pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    cell = make(nf.LIFRecurrentCell)
    expected = cell.recurrent_weights.detach().clone()
    set_diagonal(cell)
    weight = torch.as_tensor(nf.to_nir(cell).nodes["recurrent_weights"].weight)
    assert torch.equal(weight, expected)


def test_saving_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _saved(make(nf.LIFRecurrent))


def test_weights_of_inference_mode():
    with torch.inference_mode():
        weights = torch.ones(3, 3)
    layer = nf.LIFRecurrent(2, 3, recurrent_weights=weights)
    assert layer.recurrent_weights is weights
    assert torch.equal(weights, 1 - torch.eye(3))


def test_weights_that_share_memory_are_refused():
    """Those from a neuron to itself are set to zero in place, which would be all of them."""
    weights = torch.ones(1, 1).expand(3, 3)
    with pytest.raises(ValueError, match="recurrent_weights: got an expanded tensor, expected one with memory"):
        nf.LIFRecurrent(2, 3, recurrent_weights=weights)
    assert torch.equal(
        nf.LIFRecurrent(2, 3, recurrent_weights=weights, autapses=True).masked_weights(), torch.ones(3, 3)
    )
    assert torch.equal(weights, torch.ones(3, 3))


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_traced_by_make_fx(mode: str):
    """Where values of weights are not known."""
    cell, x = nf.LIFRecurrentCell(3, 4), torch.rand(2, 3)
    traced = make_fx(lambda q: cell(q)[0], tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    x = torch.rand(2, 3)
    assert torch.equal(traced(x), cell(x)[0])


@pytest.mark.parametrize(("kind", "steps"), CLASSES)
def test_other_uses_of_the_weights_that_act(kind, steps):
    """The gradient of them is not the module's alone then."""
    module = make(kind)
    weights = module.recurrent_weights
    module.masked_weights().sum(1).pow(2).sum().backward()
    expected = 2 * weights.detach().sum(1, keepdim=True).expand(N, N).clone()
    torch.testing.assert_close(weights.grad, expected.fill_diagonal_(0.0))
    other = torch.ones(N, N, requires_grad=True)
    acting = module.masked_weights()
    (acting + other * 3).pow(2).sum().backward()
    torch.testing.assert_close(other.grad, 6 * (acting.detach() + 3))


def test_weights_of_ones_own(generator):
    class Raised(nf.LIFRecurrent):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.low, self.rank = (
                torch.nn.Parameter(torch.rand(shape, generator=generator)) for shape in ((4, 2), (2, 4))
            )

        def masked_weights(self):
            delta = self.low @ self.rank
            return super().masked_weights() + delta

    module, x = Raised(3, 4).double(), 5 * torch.rand(20, 2, 3, generator=generator, dtype=torch.float64)
    module(x)[1].v.sum().backward()
    low = module.low.detach().clone().requires_grad_()
    plain = nf.LIFRecurrent(3, 4, input_weights=module.input_weights.detach(), autapses=True)
    weights = module.recurrent_weights.detach() + low @ module.rank.detach()
    torch.func.functional_call(plain, {"recurrent_weights": weights}, (x,))[1].v.sum().backward()
    torch.testing.assert_close(module.low.grad, low.grad)
