"""Many threads of Python at once, whose results must equal, bit for bit, those of one thread.

Jobs of all kinds are first computed one after the other. Then threads draw from the same jobs, in an order of their own,
and with a number of torch's threads of their own, and compare. `run.sh stress` does so under ThreadSanitizer, and
tests/test_threads.py without.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
import threading
from collections.abc import Callable

import torch

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels

Tensors = list[torch.Tensor]
Job = Callable[[], Tensors]

# Enough neuron-steps to be shared between torch's threads, and bytes to lie in memory that is used again.
STEPS, BATCH, NEURONS = 70, 4, 512


class Helpers:
    """Threads that finish what others began; without any, who asks does it itself."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[tuple[Callable[[], Tensors], queue.Queue[Tensors | Exception]] | None] = queue.Queue()
        self.threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        self.threads = [threading.Thread(target=self.serve, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()

    def serve(self) -> None:
        while (task := self.tasks.get()) is not None:
            work, answer = task
            try:
                answer.put(work())
            except Exception as error:
                answer.put(error)

    def ask(self, work: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Have the work begun, and return what waits for its results."""
        if not self.threads:
            return work
        answer: queue.Queue[Tensors | Exception] = queue.Queue()
        self.tasks.put((work, answer))

        def wait() -> Tensors:
            found = answer.get(timeout=300)
            if isinstance(found, Exception):
                raise found
            return found

        return wait


def drive(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < 0.3).float() * 10


def fields_of(state: object) -> Tensors:
    return [field for field in torch.utils._pytree.tree_leaves(state) if field is not None]


def loss_of(output: torch.Tensor, state: object) -> torch.Tensor:
    return output.float().square().sum() + sum((field.sum() for field in fields_of(state)), torch.zeros(()))


def train(module: torch.nn.Module, x: torch.Tensor) -> Tensors:
    """Output and all gradients; modules are shared, so these are not added up in their parameters."""
    x = x.clone().requires_grad_()
    output, state = module(x)
    wanted = [x, *module.parameters()]
    return [output.detach(), *torch.autograd.grad(loss_of(output, state), wanted)]


def infer(module: torch.nn.Module, x: torch.Tensor) -> Tensors:
    with torch.no_grad():
        output, state = module(x)
    return [output, *fields_of(state)]


def step(cell: torch.nn.Module, x: torch.Tensor) -> Tensors:
    """A cell's loop, which goes through the autograd node in C++."""
    x = x.clone().requires_grad_()
    state, total = None, torch.zeros(())
    for row in x:
        output, state = cell(row, state)
        total = total + output.sum()
    return [*torch.autograd.grad(loss_of(total, state), [x, *cell.parameters()])]


def in_pure_pytorch(module: torch.nn.Module, x: torch.Tensor) -> Tensors:
    """Kernels are off in this thread alone."""
    with nf.kernels_disabled():
        results = train(module, x)
        assert not has_kernels("cpu")
    return results


def backward_elsewhere(module: torch.nn.Module, x: torch.Tensor, helpers: Helpers) -> Tensors:
    """Forward here, backward in another thread, where the memory of both is given back as well."""
    x = x.clone().requires_grad_()
    output, state = module(x)
    loss, wanted, kept = loss_of(output, state), [x, *module.parameters()], output.detach().clone()
    del output, state
    return [kept, *helpers.ask(lambda: list(torch.autograd.grad(loss, wanted)))()]


def backward_twice_at_once(module: torch.nn.Module, x: torch.Tensor, helpers: Helpers) -> Tensors:
    """Two threads walk back through one graph, whose nodes keep no state of a walk."""
    x = x.clone().requires_grad_()
    loss, wanted = loss_of(*module(x)), [x, *module.parameters()]
    there = helpers.ask(lambda: list(torch.autograd.grad(loss, wanted, retain_graph=True)))
    return [*torch.autograd.grad(loss, wanted, retain_graph=True), *there()]


def backward_in_backward(module: torch.nn.Module, x: torch.Tensor) -> Tensors:
    """Hooks that walk back through graphs of their own; from a depth of 60 on, threads of autograd's pool do."""

    @torch.enable_grad()
    def walk(depth: int) -> torch.Tensor:
        y = x.clone().requires_grad_()
        output, state = module(y)
        if depth > 0:
            output.register_hook(lambda grad: grad + walk(depth - 1).mean())
        return torch.autograd.grad(loss_of(output, state), y)[0]

    return [walk(64)]


def hold(size: int, held: queue.Queue[torch.Tensor]) -> Tensors:
    """Memory that one thread takes and another gives back."""
    with torch.no_grad():
        output = nf.LI()(torch.full((1,), 2.0).expand(16, size))[0]
    result = output[-1].clone()
    held.put(output)
    if held.qsize() > 6:
        held.get()
    return [result]


def make_jobs(helpers: Helpers) -> dict[str, Job]:
    torch.manual_seed(0)
    tau_mem_inv = torch.nn.Parameter(torch.full((NEURONS,), 90.0))
    learned = nf.SequentialState(nf.LIF(nf.LIFParameters(tau_mem_inv=tau_mem_inv)), nf.LI())
    learned.tau_mem_inv = tau_mem_inv  # so that it is among the parameters
    layers = {
        "lif": nf.LIF(),
        "lif learned": learned,
        "lif bytes": nf.LIF(output="uint8"),
        "lif sum": nf.LIF(output="sum"),
        "lif_ex": nf.LIFEx(),
        "lif_adex_refrac": nf.LIFAdExRefrac(),
        "lsnn": nf.LSNN(),
        "li": nf.LI(),
        "box": nf.SequentialState(nf.LIFBox(), nf.LIBox()),
    }
    recurrent = {
        "lif recurrent": (nf.LIFRecurrent(40, 96), (40, 6, 40)),
        "lsnn recurrent": (nf.LSNNRecurrent(40, 96), (40, 6, 40)),
        "coba recurrent": (nf.CobaLIFRecurrent(40, 96), (34, 6, 40)),
        # One sequence, whose neurons the threads share.
        "wide recurrent": (nf.LIFRecurrent(10, 1100), (18, 1, 10)),
    }
    held: queue.Queue[torch.Tensor] = queue.Queue()
    jobs: dict[str, Job] = {}

    def add(name: str, work: Callable[..., Tensors], *arguments: object) -> None:
        jobs[name] = lambda: work(*arguments)

    for k, (name, layer) in enumerate(layers.items()):
        x = drive(k, STEPS, BATCH, NEURONS)
        add(f"infer {name}", infer, layer, x)
        if "bytes" not in name:
            add(f"train {name}", train, layer, x)
            add(f"backward of {name} elsewhere", backward_elsewhere, layer, x, helpers)
    for k, (name, (layer, shape)) in enumerate(recurrent.items()):
        x = drive(k, *shape)
        add(f"infer {name}", infer, layer, x)
        add(f"train {name}", train, layer, x)
        add(f"backward of {name} elsewhere", backward_elsewhere, layer, x, helpers)
        add(f"backward of {name} twice at once", backward_twice_at_once, layer, x, helpers)
    add("backward twice at once", backward_twice_at_once, learned, drive(0, STEPS, 2, NEURONS), helpers)
    add("backward in backward", backward_in_backward, layers["lif"], drive(0, 40, 1, 64))
    add("cell", step, nf.LIFCell(), drive(0, 30, 2, 10))
    add("wide cell", step, nf.LIFCell(), drive(0, 6, 4, 4096))
    add("recurrent cell", step, nf.LIFRecurrentCell(20, 30), drive(0, 12, 3, 20))
    add("pure pytorch", in_pure_pytorch, layers["lif"], drive(0, 5, 2, 16))
    for size in (1 << 12, 1 << 13, 1 << 17):
        add(f"hold {size}", hold, size, held)
    return jobs


def difference(found: Tensors, expected: Tensors) -> str | None:
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not torch.equal(a, b):
            return f"result {k} differs in {int((a != b).sum())} of {a.numel()} places"
    return None


class Stress:
    """Runs the jobs, first here, then in threads; what goes wrong is in `problems`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.problems: list[str] = []
        self.helpers = Helpers()
        self.jobs = make_jobs(self.helpers)
        self.expected: dict[str, Tensors] = {}

    def draw(self, thread: int, rounds: int) -> None:
        choose = random.Random(self.seed * 1000 + thread)
        for _ in range(rounds):
            name = choose.choice(list(self.jobs))
            torch.set_num_threads(choose.choice((1, 2)))
            try:
                problem = difference(self.jobs[name](), self.expected[name])
                if not has_kernels("cpu"):
                    problem = "kernels are off outside of kernels_disabled()"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                self.problems.append(f"{name}, thread {thread}: {problem}")

    def run(self, threads: int, rounds: int) -> None:
        torch.set_num_threads(1)
        self.expected = {name: job() for name, job in self.jobs.items()}
        self.helpers.start(max(1, threads // 2))
        workers = [threading.Thread(target=self.draw, args=(k, rounds)) for k in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.helpers.stop()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=60, help="jobs that each thread draws")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not has_kernels("cpu"):
        parser.error("the kernels are not built, or NORSE_FAST_PURE_PYTORCH is set; this would test nothing")
    stress = Stress(options.seed)
    stress.run(options.threads, options.rounds)
    for problem in stress.problems:
        print(problem)
    print(
        f"{options.threads} threads, {options.rounds} jobs each of {len(stress.jobs)} kinds, seed {options.seed}: "
        f"{len(stress.problems)} problems"
    )
    return 1 if stress.problems else 0


if __name__ == "__main__":
    sys.exit(main())
