"""The autograd node in C++ against the autograd.Function in Python: the same bits, and the same manners."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import norse_fast as nf
from norse_fast._kernels import autograd, extension
from norse_fast.benchmark.neurons import count_saved_bytes

from .models import FEED_FORWARD, Model, fields, is_fused, model_id, random_params, random_state
from .test_gradients import leaves_of, requiring_grad

pytestmark = pytest.mark.skipif(
    os.environ.get("NORSE_FAST_PYTHON_AUTOGRAD") == "1", reason="the node is switched off on request"
)


@contextmanager
def python_autograd() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "_native", None)
        yield


@pytest.fixture
def only_cpp(monkeypatch):
    """Python's way to the kernels is closed."""
    monkeypatch.setattr(autograd, "_apply", None)
    for model in FEED_FORWARD:
        monkeypatch.setattr(model.neuron, "forward_op", None)


def is_cpp(t: torch.Tensor) -> bool:
    return is_fused(t) and not isinstance(t.grad_fn, torch.autograd.function.BackwardCFunction)


def step(x=None, state=None, p=nf.LIFParameters()):  # noqa: B008
    x = torch.full((2, 3), 5.0, requires_grad=True) if x is None else x
    state = nf.LIFFeedForwardState(torch.full((2, 3), 0.5), torch.ones(2, 3)) if state is None else state
    return x, *nf.lif_feed_forward_step(x, state, p)


def outputs_and_gradients(model: Model, x, state, params, sequence, record, used, generator):
    """All that a call gives, with gradients of a random function of the outputs that are in use."""
    leaves = [t for t in leaves_of(x, state, params).values() if t.requires_grad]
    output, states = model.neuron(x, state, params, 0.001, sequence=sequence, record=record)
    results = [output, *fields(states).values()]
    chosen = [r for k, r in enumerate(results) if used(k)]
    seeds = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in chosen]
    return results, torch.autograd.grad(chosen, leaves, seeds, allow_unused=True)


@pytest.mark.parametrize("needs", ["input", "state", "params", "all"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_bit_for_bit(model: Model, dtype: torch.dtype, shape, needs: str):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for sequence, record, layout in [(False, False, 0), (True, False, 1), (True, True, 2)]:
        found = []
        for _ in range(2):
            generator = torch.Generator().manual_seed(0)
            x = 3 * torch.rand((70, 2, 5) if sequence else (2, 5), generator=generator)
            x = (x.to(dtype), x.to(dtype).mT.contiguous().mT, x.to(dtype)[..., :1].expand(x.shape))[layout]
            x = x.requires_grad_(needs in ("input", "all"))
            state = random_state(model, (2, 5), compute, generator)
            params = random_params(model, shape, compute, generator)
            state = requiring_grad(state) if needs in ("state", "all") else state
            params = requiring_grad(params) if needs in ("params", "all") else params
            used = (lambda k: True, lambda k: k == 0, lambda k: k == 1)[layout]
            arguments = (model, x, state, params, sequence, record, used, generator)
            if not found:
                found.append(outputs_and_gradients(*arguments))
                assert is_cpp(found[0][0][0])
            else:
                with python_autograd():
                    found.append(outputs_and_gradients(*arguments))
                assert not is_cpp(found[1][0][0])
        for (results, gradients), (expected, expected_gradients) in [found]:
            assert [r.requires_grad for r in results] == [r.requires_grad for r in expected]
            for a, b in zip((*results, *gradients), (*expected, *expected_gradients)):
                assert (a is None) == (b is None)
                assert a is None or (a.dtype == b.dtype and torch.equal(a, b))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", FEED_FORWARD, ids=model_id)
def test_one_value_as_state(model: Model, dtype: torch.dtype, state_dtype: torch.dtype, generator):
    """A state that all neurons share is spread in the node, and in Python by tensor operations."""
    for shape in [(40, 2, 5), (40,)]:
        x = (3 * torch.rand(shape, generator=generator)).to(dtype).requires_grad_()
        state = requiring_grad(random_state(model, (), state_dtype, generator))
        seed = generator.get_state()
        arguments = (model, x, state, model.defaults(), True, False, lambda k: True, generator)
        results, gradients = outputs_and_gradients(*arguments)
        generator.set_state(seed)
        with python_autograd():
            expected, expected_gradients = outputs_and_gradients(*arguments)
        for a, b in zip((*results, *gradients), (*expected, *expected_gradients)):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        assert is_cpp(results[0])


@pytest.mark.usefixtures("only_cpp")
@pytest.mark.parametrize("model", [m for m in FEED_FORWARD if m.cell], ids=model_id)
def test_cells_take_the_fast_way(model: Model, generator):
    """With the default parameters, and with one value per neuron."""
    for p in ((), (random_params(model, (5,), torch.float32, generator),)):
        cell = model.cell(*p)
        assert is_cpp(cell(torch.ones(2, 5))[0])
        state = random_state(model, (2, 5), torch.float32, generator)
        output, after = cell(torch.ones(2, 5, requires_grad=True), state)
        assert is_cpp(output)
        with torch.no_grad():
            assert not cell(torch.ones(2, 5), after)[0].requires_grad


@pytest.mark.usefixtures("only_cpp")
@pytest.mark.parametrize("model", [m for m in FEED_FORWARD if m.layer], ids=model_id)
def test_layers_take_the_fast_way(model: Model, generator):
    state = random_state(model, (2, 5), torch.float32, generator)
    assert is_cpp(model.layer()(torch.ones(4, 2, 5, requires_grad=True), state)[0])


def test_sequences_without_steps_or_lanes():
    for shape in [(0, 2, 3), (4, 0, 3)]:
        x = torch.ones(shape, requires_grad=True)
        z, state = nf.LIF()(x)
        assert z.shape == shape
        (z.sum() + state.v.sum()).backward()
        assert x.grad.shape == shape


def test_gradients_are_retained_or_released():
    x, z, _ = step()
    z.sum().backward(retain_graph=True)
    first = x.grad.clone()
    z.sum().backward()
    assert torch.equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        z.backward(torch.ones_like(z))


def test_nothing_stays_alive():
    """Saved tensors live as long as the graph, and no longer than until its backward."""

    def leaf():
        return (2 * torch.ones(2, 3, requires_grad=True)).mul(3)

    x = leaf()
    alive = weakref.ref(x)
    z, state = step(x)[1:]
    z.sum().backward()
    del x
    assert alive() is None
    x = leaf()
    alive = weakref.ref(x)
    z, state = step(x)[1:]
    del x, z
    assert alive() is not None  # for the graph of the state
    del state
    assert alive() is None


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_linear_models_keep_no_states(learned: bool):
    """Their gradients depend on the states only where a parameter has one."""
    x = torch.randn(100, 2, 3, requires_grad=True)
    p = nf.LIBoxParameters(tau_mem_inv=torch.tensor(100.0, requires_grad=learned))
    layer = nf.LIBox(p)
    kept = count_saved_bytes(lambda x: layer(x)[0], x, besides=(*p, *layer.initial_state(x)))
    checkpoints = 3 * 2 * 3 * 4
    assert (kept >= checkpoints) == learned


def test_long_chains_are_freed_without_recursion():
    cell, x = nf.LIFCell(), torch.ones(1, 1, requires_grad=True)
    state = None
    for _ in range(100_000):
        _, state = cell(x, state)
    del state


def test_changes_in_place_are_noticed():
    state = nf.LIFFeedForwardState(torch.ones(2, 3), torch.ones(2, 3))
    for p in (nf.LIFParameters(), nf.LIFParameters(v_leak=torch.tensor(0.5, requires_grad=True))):
        _, z, _ = step(state=state, p=p)
        state.v.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_changes_in_place_are_noticed_by_compiled_autograd():
    threshold = torch.tensor(0.5)
    _, z, _ = step(p=nf.LIFParameters(v_th=threshold))
    threshold.mul_(2)
    with (
        torch._dynamo.config.patch(compiled_autograd=True),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        torch.compile(lambda loss: loss.backward(), backend="eager")(z.sum())


def test_hooks():
    calls = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (calls.append("pack"), t + 0)[1], lambda t: t):
        x, z, _ = step()
    z.register_hook(lambda g: calls.append("output"))
    z.grad_fn.register_prehook(lambda g: calls.append(f"before {len(g)}"))
    z.grad_fn.register_hook(lambda g, _: calls.append(f"after {len(g)}"))
    z.sum().backward()
    assert calls == ["pack"] * 3 + ["output", "before 3", "after 3"]
    assert torch.equal(x.grad, torch.autograd.grad(step(x)[1].sum(), x)[0])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool):
    x, z, _ = step()
    z.sum().backward()
    expected, x.grad = x.grad, None
    checkpoint(lambda t: step(t)[1], x, use_reentrant=use_reentrant).sum().backward()
    assert torch.equal(x.grad, expected)


def test_anomalies_name_the_node():
    _, z, _ = step()
    with (
        pytest.warns(UserWarning, match="Anomaly Detection|Error detected in FusedBackward"),
        pytest.raises(RuntimeError, match=r"FusedBackward.*nan"),
        torch.autograd.detect_anomaly(),
    ):
        z.backward(torch.full_like(z, torch.nan))


@pytest.mark.parametrize("learned", [True, False])
def test_compiled_autograd(learned: bool):
    """The graph of a step that ran eagerly, compiled."""
    p = nf.LIFParameters(v_th=torch.full((3,), 0.5), v_leak=torch.tensor(0.1))
    p.v_leak.mul_(1)  # parameters have been changed before
    p.v_th.requires_grad_(learned)
    p.v_leak.requires_grad_(learned)
    x = torch.ones(70, 2, 3, requires_grad=True)
    state = nf.LIFFeedForwardState(torch.tensor(0.1, requires_grad=True), torch.zeros(2, 3))
    found = []
    for compiler in (None, torch.compile(backend="aot_eager", fullgraph=True)):
        torch._dynamo.reset()
        z, after = nf.LIF(p)(x, state)
        with torch._dynamo.compiled_autograd._enable(compiler) if compiler else torch.enable_grad():
            wanted = (x, state.v, *((p.v_th, p.v_leak) if learned else ()))
            found.append(torch.autograd.grad(z.sum() + after.v.sum(), wanted))
    for a, b in zip(*found):
        assert torch.equal(a, b)


def operators_seen(call) -> list[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    with Spy():
        call()
    return [name for name in names if name.startswith("norse_fast")]


def test_modes_see_the_operators():
    """Whoever watches operators (profilers of FLOPs, FakeTensorMode, make_fx) sees ours, in both passes."""
    x, z, _ = step()
    assert operators_seen(lambda: step(x)) == ["norse_fast::lif_forward"]
    assert operators_seen(lambda: z.sum().backward()) == ["norse_fast::lif_backward"]


@pytest.mark.parametrize("make", [nf.LIF, nf.LICell, lambda: nf.LIFRecurrent(3, 3)])
def test_profilers_show_names_and_sizes(make):
    module, x = make(), torch.rand(4, 2, 3, requires_grad=True)
    x = x if not isinstance(module, nf.LICell) else x[0].detach().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        module(x)[0].sum().backward()
    shapes = {event.name: event.input_shapes for event in profile.events() if event.name.startswith("norse_fast::")}
    forward, backward = sorted(shapes, reverse=True)
    assert forward.removesuffix("_forward") == backward.removesuffix("_backward")
    assert shapes[forward][0] == shapes[backward][0] == list(x.shape)


def test_fake_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        x = torch.ones(2, 3, requires_grad=True)
        z, _ = nf.LIFCell(nf.LIFParameters(*torch.ones(5).unbind(), alpha=torch.ones(())))(x)
        z.sum().backward()
    assert type(x.grad) is type(z) is not torch.Tensor


def test_subclasses_stay_subclasses():
    class Tagged(torch.Tensor):
        pass

    assert type(step(torch.ones(2, 3).as_subclass(Tagged))[1]) is Tagged
    assert is_cpp(step(torch.nn.Parameter(torch.ones(2, 3)))[1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_take_the_other_way():
    x, z, _ = step()
    expected = torch.autograd.grad(z.sum(), x)[0]
    assert torch.equal(torch.func.grad(lambda t: step(t)[1].sum())(x.detach()), expected)


def test_inference_mode():
    with torch.inference_mode():
        _, z, state = step(torch.ones(2, 3))
    assert z.is_inference()
    assert state.v.is_inference()
    x, z, state = step(state=state)  # its state becomes an ordinary one
    assert not state.v.is_inference()
    z.sum().backward()
    assert x.grad.any()


def test_autocast_changes_nothing():
    with torch.autocast("cpu"):
        _, z, _ = step()
    assert is_cpp(z)
    assert z.dtype == torch.float32


def test_numbers_as_parameters(generator):
    """Python numbers enter in double precision, as they do in tensor arithmetic."""
    x = 3 * torch.rand(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    state = random_state(FEED_FORWARD[0], (2, 5), torch.float64, generator)
    p = nf.LIFParameters(200.1, 100, 0.1, 0.7, -0.1, alpha=10.1)
    z, after = nf.lif_feed_forward_step(x, state, p)
    assert is_cpp(z)
    gradient = torch.autograd.grad(z.sum() + after.v.sum(), x)[0]
    with nf.kernels_disabled():
        expected, expected_after = nf.lif_feed_forward_step(x, state, p)
    assert torch.equal(z, expected)
    assert torch.equal(after.v, expected_after.v)
    with python_autograd():
        expected, expected_after = nf.lif_feed_forward_step(x, state, p)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum() + expected_after.v.sum(), x)[0])


def test_numbers_that_are_too_large():
    with pytest.raises(OverflowError, match="too large"):
        step(p=nf.LIFParameters(v_th=10**400))


def test_threads():
    """Steps and backward passes in several threads, long enough to let go of the interpreter."""
    x = torch.full((64, 512), 5.0)
    results = {}

    def work(name: int):
        y = x.expand(20, -1, -1).clone().requires_grad_()
        for _ in range(5):
            z, _ = nf.LIF()(y)
            results[name] = torch.autograd.grad(z.sum(), y)[0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(results[0], r) for r in results.values())


@pytest.mark.parametrize("dt", ["1", None])
def test_time_steps_that_are_no_numbers(dt):
    with pytest.raises(TypeError, match=r"dt: got (str|NoneType), expected a number of seconds"):
        nf.LIFCell(dt=dt)(torch.ones(2, 3))


def test_whole_numbers_as_time_step():
    z = [nf.LIFCell(nf.LIFParameters.bio_default(), dt=dt)(torch.full((2, 3), 500.0))[0] for dt in (1, 1.0)]
    assert torch.equal(*z)
    assert all(map(is_cpp, z))
