"""What the system may refuse or ask for: memory, stacks, processes, an end. Then there is an error, and no crash."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import kernels_disabled
from norse_fast.functional.threshold import SURROGATES

from .models import MODELS, Model, fields, random_params, set_surrogate

MIB = 1 << 20

# Programs run as ``python -c`` in a process of their own, where a crash is a result.


def alone(call: str, **environment: str) -> str:
    """What a function of this file prints in a process of its own, which must end well."""
    code = f"from tests import test_faults; test_faults.{call}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, f"{call} ended with {result.returncode}: {result.stdout}{result.stderr[-3000:]}"
    return result.stdout


def make(
    factory: Callable[..., torch.nn.Module], model: Model, *, dtype=torch.float32, method: str = "super", learn=True
):
    """A module with an input for one step, and all that is learned."""
    generator = torch.Generator().manual_seed(0)
    params = set_surrogate(random_params(model, (), dtype, generator), method, torch.tensor(2.0))
    learned = [v for n, v in fields(params).items() if isinstance(v, torch.Tensor) and n.split(".")[-1] != "alpha"]
    torch.manual_seed(0)
    module = factory(*(() if model.kind == "ff" else (5, 70)), p=params).to(dtype)
    return module, [*(v.requires_grad_(learn) for v in learned), *module.parameters()]


def make_input(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = True) -> torch.Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul_(9)
    return x.to(dtype).requires_grad_(grad)


def run(module: Callable[..., Any], x: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs, states and gradients of a call, as far as there are any."""
    output, state = module(x)
    results = [output, *fields(state).values()]
    chosen = [r for r in results if r.requires_grad]
    leaves = [leaf for leaf in (x, *leaves) if leaf.requires_grad]
    grads = torch.autograd.grad(sum(r.sum() for r in chosen), leaves, allow_unused=True) if leaves and chosen else ()
    return [r.detach() for r in (*results, *grads) if r is not None]


def assert_equal(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# Stacks.


def every_module() -> Iterator[tuple[Model, Callable[..., torch.nn.Module], tuple[int, ...]]]:
    """Of each public neuron: its model, how it is made, and the shape of an input, of more lanes than a block."""
    for model in MODELS:
        width = 600 if model.kind == "ff" else 5
        if model.cell is not None:
            yield model, model.cell, (3, width)
        if model.layer is not None:
            yield model, model.layer, (40, 3, width)


def use_little_stack(size: int) -> None:
    """Every module forward and backward, in a thread with a stack of that size; prints how many there were."""
    threading.stack_size(size)
    count, errors = 0, []

    def work() -> None:
        nonlocal count
        try:
            for model, factory, shape in every_module():
                for dtype, method in itertools.product((torch.float32, torch.float64), SURROGATES):
                    module, leaves = make(factory, model, dtype=dtype, method=method)
                    results = run(module, make_input(*shape, dtype=dtype), leaves)
                    assert not any(r.isnan().any() for r in results), model.name
                    count += 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    print(count)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_little_stack(threads: str):
    """128 KiB, which musl gives, in the thread that calls and in those that help it."""
    printed = alone("use_little_stack(128 * 1024)", OMP_STACKSIZE="128K", OMP_NUM_THREADS=threads)
    assert int(printed) == len(list(every_module())) * 2 * len(SURROGATES) > 400


# Processes.


def small_work() -> list[torch.Tensor]:
    results = []
    for model in MODELS:
        if model.layer is not None:
            module, leaves = make(model.layer, model, dtype=torch.float64)
            x = make_input(40, 3, 6 if model.kind == "ff" else 5, dtype=torch.float64)
            results += run(module, x, leaves)
    return results


def in_child(work: Callable[[], object]) -> None:
    """Run work in a fork of this process, and say how it ended."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    print(os.waitpid(pid, 0)[1], flush=True)


def fork_before_between_and_after() -> None:
    torch.set_num_threads(1)
    in_child(small_work)
    with kernels_disabled():
        expected = small_work()
    module, x = nf.LIFRecurrent(5, 7), torch.rand(40, 3, 5).mul_(60).requires_grad_()
    output, _ = module(x)
    in_child(lambda: output.sum().backward())
    output.sum().backward()
    gradient = x.grad.clone()

    def again() -> None:
        x.grad = None
        module(x)[0].sum().backward()
        assert torch.equal(x.grad, gradient)
        for actual, value in zip(small_work(), expected, strict=True):
            torch.testing.assert_close(actual, value, rtol=1e-6, atol=1e-6)

    in_child(again)
    in_child(lambda: in_child(again))
    again()


def test_fork_with_one_thread():
    """Before any work, between forward and backward, after both, and in a child of a child."""
    assert alone("fork_before_between_and_after()").split() == ["0"] * 5


# Sizes.


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "output"), [(nf.LIF, "uint8"), (nf.LIFAdExRefrac, "bool"), (nf.CobaLIF, "uint8")], ids=lambda v: str(v)
)
def test_bytes_past_two_billion(layer: Callable[..., torch.nn.Module], output: str, generator):
    """All neurons have the same input, which therefore takes no memory."""
    steps, width = 2**15, 2**16 + 3
    narrow = 3 * torch.rand(steps, 1, generator=generator)
    expected, last = layer(output=output)(narrow)
    z, final = layer(output=output)(narrow.expand(steps, width))
    assert z.numel() > 2**31
    assert expected.any()
    for k in (0, 1, 511, 512, width // 2, width - 2, width - 1):
        assert torch.equal(z[:, k], expected[:, 0])
    for name, value in fields(last).items():
        assert torch.equal(fields(final)[name], value.expand(width)), name


@torch.no_grad()
def test_many_steps_of_few_neurons(generator):
    """The last ones start past 2^31 elements."""
    steps, width = 2**25 + 2**17, 64
    narrow = 3 * torch.rand(1, width, generator=generator)
    z, final = nf.LIF(output="uint8")(narrow.expand(steps, width))
    assert z.numel() > 2**31
    # From a state that lies on the way.
    head = z[:1000]
    assert torch.equal(head, nf.LIF(output="uint8")(narrow.expand(1000, width))[0])
    _, state = nf.LIF(output="last")(narrow.expand(steps - 1000, width))
    tail, last = nf.LIF(output="uint8")(narrow.expand(1000, width), state)
    assert tail.any()
    assert torch.equal(z[-1000:], tail)
    for name, value in fields(last).items():
        assert torch.equal(fields(final)[name], value)


def test_gradients_past_two_billion(generator):
    """Of parameters; that of the input would not fit into memory."""
    steps, width = 2**15, 2**16 + 3
    narrow = 3 * torch.rand(steps, 1, generator=generator)
    found = []
    for x in (narrow, narrow.expand(steps, width)):
        v_th = torch.full((x.shape[1],), 0.7, requires_grad=True)
        output, _ = nf.LIF(nf.LIFParameters(v_th=v_th), output="sum")(x)
        found.append(torch.autograd.grad(output.sum(), v_th)[0])
    expected, actual = found
    assert expected.any()
    assert torch.equal(actual, expected.expand(width))


# An end.


def be_interrupted(calls: list[Callable[[], Callable[[], object]]], threads: int) -> None:
    """Print of each call after how many seconds its interrupt arrived, and go on working."""
    torch.set_num_threads(threads)
    expected = small_work()
    for start in calls:
        call, sent = start(), []

        def interrupt(sent: list[float] = sent) -> None:
            time.sleep(0.3)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            call()
        except KeyboardInterrupt:
            print(start.__name__, time.monotonic() - sent[0])
        assert_equal(small_work(), expected)


# Calls of well over ten seconds each, if nothing stops them; their inputs and outputs take little memory. Under
# AddressSanitizer a tenth of the steps takes as long, and the forward passes that come before must end in time.
SLOWNESS = 10 if "libasan" in os.environ.get("LD_PRELOAD", "") else 1


def long_layer() -> Callable[[], object]:
    x = torch.rand(1, 4096).mul_(3)
    return torch.no_grad()(functools.partial(nf.LIFAdExRefrac(output="sum"), x.expand(2_000_000, 4096)))


def long_layer_in_training() -> Callable[[], object]:
    x = torch.rand(1, 512).mul_(3).requires_grad_().expand(4_000_000, 512)
    return functools.partial(nf.LIFAdEx(output="sum"), x)


def long_layer_backward() -> Callable[[], object]:
    v_th = torch.full((512,), 0.7, requires_grad=True)
    layer, x = nf.LIFAdEx(nf.LIFAdExParameters(v_th=v_th), output="sum"), torch.rand(1, 512).mul_(3)
    return layer(x.expand(4_000_000 // SLOWNESS, 512))[0].sum().backward


def long_recurrent_layer() -> Callable[[], object]:
    torch.manual_seed(0)
    layer, x = nf.LIFRecurrent(8, 4000), torch.rand(1, 8, 8).mul_(60)
    layer.recurrent_weights.data.abs_()
    return torch.no_grad()(functools.partial(layer, x.expand(1500, 8, 8)))


def long_recurrent_layer_backward() -> Callable[[], object]:
    """With few spikes, which shorten the forward pass alone."""
    layer, x = nf.LIFRecurrent(8, 2000), torch.rand(1, 8, 8)
    return layer(x.expand(6000, 8, 8))[0].sum().backward


LONG = [long_layer, long_layer_in_training, long_layer_backward, long_recurrent_layer, long_recurrent_layer_backward]


@pytest.mark.parametrize(("threads", "calls"), [(2, LONG), (1, [long_layer, long_recurrent_layer])])
def test_interrupt(threads: int, calls: list[Callable[[], Callable[[], object]]]):
    """Ctrl-C is answered within half a second, or four times that on a busy machine."""
    names = [call.__name__ for call in calls]
    chosen = ", ".join(f"test_faults.{name}" for name in names)
    printed = [line.split() for line in alone(f"be_interrupted([{chosen}], {threads})").splitlines()]
    assert [name for name, _ in printed] == names, "the others came to their end before"
    assert all(float(seconds) < 2.0 for _, seconds in printed), printed


def be_interrupted_again_and_again() -> None:
    """Interrupts at moments that differ, of which no call may take memory with it."""
    call, peaks = long_recurrent_layer(), []
    for k in range(12):
        try:
            threading.Timer(0.02 * k, os.kill, (os.getpid(), signal.SIGINT)).start()
            call()
        except KeyboardInterrupt:
            peaks.append(resident_mib())
    print(len(peaks), peaks[-1] - peaks[3])


def test_interrupts_keep_no_memory():
    count, growth = alone("be_interrupted_again_and_again()").split()
    assert int(count) == 12
    assert int(growth) < 100


# Memory.


def resident_mib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // MIB


def fail(k: int) -> int:
    """Let the k-th allocation from now on fail, or none for 0; return how many there were since the last call."""
    return torch.ops.norse_fast.fail_allocation(k)


def fail_each(call: Callable[[], list[torch.Tensor]]) -> int:
    """Let every allocation of a call fail, one after the other; return how many there are.

    Each call comes after one that failed, and the last of them, which ends well, has the same results as the first.
    """
    expected = call()
    for k in itertools.count(1):
        fail(k)
        try:
            actual = call()
        except RuntimeError as error:
            message = str(error)
            fail(0)
        else:
            count = fail(0)
            assert_equal(actual, expected)
            assert count == k - 1, "an allocation failed, and the call did not"
            return count
        found = re.search(r"could not allocate (\d+) bytes", message)
        assert found, f"allocation {k}: {message}"
        assert int(found[1]) > 0
    raise AssertionError


#: Outputs of at least 2 MiB lie in memory of norse_fast's own.
LARGE = (70, 4, 2100)


def product(function: Callable[..., torch.Tensor], shape: tuple[int, ...], *weights: tuple[int, ...]):
    """Output and gradients of a product of spikes, of at least the size for which sums are taken, or of a pool."""
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(shape, generator=generator) < 0.05).float().requires_grad_()
    leaves = [x, *(torch.randn(weight, generator=generator).requires_grad_() for weight in weights)]

    def call() -> list[torch.Tensor]:
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y.pow(2).sum(), leaves)]

    return call


LIFTED = nf.Lift(nf.SequentialState(nf.LIFCell(), torch.nn.Linear(256, 256)))

Call = Callable[[], list[torch.Tensor]]


def of_module(
    factory: Callable[..., torch.nn.Module], model: Model, *shape: int, dtype=torch.float32, method="super", learn=True
) -> Callable[[], Call]:
    """What makes a call of a module, with an input of a shape."""

    def build() -> Call:
        module, leaves = make(factory, model, dtype=dtype, method=method, learn=learn)
        return functools.partial(run, module, make_input(*shape, dtype=dtype), leaves if learn else [])

    return build


def of_input(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Call]:
    """What makes a call of LIF with a large input that was changed."""

    def build() -> Call:
        x = change(make_input(*LARGE, grad=False))
        return functools.partial(run, nf.LIF(), x.requires_grad_(x.is_floating_point()), [])

    return build


#: What allocates is the same for all models; these are linear, have few states and many, and are recurrent.
IN_ALL_WAYS = (
    *("li_feed_forward_step", "lif_feed_forward_step", "lif_adex_refrac_feed_forward_step"),
    *("li_step", "lif_step", "lsnn_step"),
)


def allocating_calls() -> Iterator[tuple[str, Callable[[], Call]]]:
    """Calls of every kind that allocate, each as what makes it."""
    for model in MODELS:
        large = model.kind == "ff"
        if model.cell is not None:
            yield f"{model.name}-cell", of_module(model.cell, model, 300, 2100 if large else 5)
        if model.layer is None:
            continue
        shape = LARGE if large else (70, 3, 5)
        yield f"{model.name}-layer", of_module(model.layer, model, *shape)
        if model.name in IN_ALL_WAYS:
            of_input_alone = of_module(model.layer, model, *shape, learn=False)
            yield f"{model.name}-input_alone", of_input_alone
            yield f"{model.name}-no_grad", lambda build=of_input_alone: torch.no_grad()(build())
            recording = functools.partial(model.layer, record_states=True)
            yield f"{model.name}-record_states", of_module(recording, model, *shape, learn=False)
    lif, recurrent = MODELS[:2]
    yield "float64", of_module(nf.LIF, lif, *LARGE, dtype=torch.float64)
    yield "recurrent-float64", of_module(nf.LIFRecurrent, recurrent, 70, 3, 5, dtype=torch.float64)
    for method in SURROGATES:
        yield f"surrogate-{method}", of_module(nf.LIF, lif, *LARGE, method=method)
    for method in ("heaviside", "triangle_width"):  # one without gradient, and one with a width
        yield f"recurrent_surrogate-{method}", of_module(nf.LIFRecurrent, recurrent, 70, 3, 5, method=method)
    for output in ("uint8", "bool", "sum", "mean", "last"):
        yield f"output-{output}", of_module(functools.partial(nf.LIF, output=output), lif, *LARGE)
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        yield f"input-{dtype}", of_input(operator.methodcaller("to", dtype))
    yield "strided", of_input(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1))
    for name, arguments in {
        "spike_linear": (nf.spike_linear, (320, 256), (256, 256), (256,)),
        "spike_linear-few_rows": (nf.spike_linear, (20, 1000), (1000, 1000), (1000,)),
        "spike_conv2d": (nf.spike_conv2d, (64, 8, 16, 16), (32, 8, 3, 3), (32,)),
        "spike_max_pool2d": (lambda x: nf.spike_max_pool2d(x, 2), (40, 20, 16, 16)),
        "Lift": (lambda x: LIFTED(20 * x)[0], (80, 4, 256)),
    }.items():
        yield name, functools.partial(product, *arguments)


CALLS = dict(allocating_calls())


@pytest.mark.parametrize(
    ("name", "threads"),
    [*((name, 2) for name in CALLS), ("lif_feed_forward_step-layer", 1), ("lif_step-layer", 1)],
)
def test_every_allocation_may_fail(name: str, threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        count = fail_each(CALLS[name]())
    finally:
        torch.set_num_threads(before)
        fail(0)
    # A cell's results lie where torch puts them.
    assert count > 0 or name.endswith("-cell")


def test_compiled_calls_may_fail():
    """Where the operators are called from Python."""
    torch._dynamo.reset()
    for layer, x in ((nf.LIF(), make_input(*LARGE)), (nf.LIFRecurrent(5, 70), make_input(70, 3, 5))):
        function = torch.compile(layer, backend="aot_eager")
        assert fail_each(functools.partial(run, function, x, list(layer.parameters()))) > 0


def test_what_failed_is_given_back():
    calls = [CALLS[f"{step}-layer"]() for step in ("lif_feed_forward_step", "lif_step")]
    resident = []
    for _ in range(9):
        for call in calls:
            assert fail_each(call) > 0
        resident.append(resident_mib())
    # Each time, at least several outputs of more than 2 MiB and the checkpoints would be lost.
    assert resident[-1] - resident[3] < 20


def exceed_the_limit() -> None:
    """Ask for more memory than the system gives."""
    layer, x = nf.LIFRecurrent(8, 4000), torch.rand(2000, 32, 8)
    small = small_work()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 256 * MIB, -1))
    with pytest.raises(RuntimeError) as caught, torch.no_grad():
        layer(x)
    print(caught.value)
    assert_equal(small_work(), small)


def test_a_limit_of_the_system():
    """The output alone would take 1,024,000,000 bytes."""
    assert re.search(r"allocate \d{9,} bytes", alone("exceed_the_limit()"))
