"""Trains the same spiking network with Norse and with norse_fast: to read digits, or to recall after a delay."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

import norse_fast

from ..functional.lif import LIFParameters
from .models import UNIT_ALPHA, import_norse

__all__ = ["TASKS", "Training", "check_equal", "memory_meter", "round_weights", "run_training"]

PIXELS, DIGITS = 64, 10
MAX_RATE = 0.2  # spikes per step of the brightest pixel: 200 Hz at steps of 1 ms
# Scales the default weights so that about a tenth of the hidden neurons spike in a step before training.
WEIGHT_SCALE = 10.0
TEST_SAMPLES = 360

CUES, GROUP = 4, 5  # what is to be recalled, and inputs for each cue and for the question
CUE_RATE, NOISE_RATE = 0.2, 0.005  # spikes per step
CUE_SHARE = 6  # cue and question last this part of the steps


class Training(NamedTuple):
    """What both sides train.

    Args:
        task: a name of ``TASKS``.
        hidden: number of hidden neurons.
        steps: time steps T.
        epochs: passes over the training samples.
        samples: number of training samples, of digits at most 1437.
        batch: samples per update.
        seed: seed of the spike trains, the initial weights and the order of the samples.
        device: name of the device.
        threads: threads of PyTorch on the CPU.
    """

    task: str = "digits"
    hidden: int = 128
    steps: int = 100
    epochs: int = 12
    samples: int = 1437
    batch: int = 64
    seed: int = 0
    device: str = "cpu"
    threads: int = 2


class Task(NamedTuple):
    """What is learned, and how.

    Args:
        load: makes the spike trains ``(samples, T, inputs)`` and their labels; the last samples are the test.
        build: makes a sequence of modules from the module of a library and the number of hidden neurons.
        spiking: position in the sequence of the hidden neurons.
        logits: makes the logits from the voltages ``(T, B, classes)`` of the last module.
        regularise: makes an addend of the loss from the hidden spikes ``(T, B, N)``.
        max_norm: largest norm of the gradient.
        last_rate: the learning rate at the end, relative to that at first.
    """

    load: Callable[[Training], tuple[torch.Tensor, torch.Tensor]]
    build: Callable[[ModuleType, int], list[torch.nn.Module]]
    spiking: int
    logits: Callable[[torch.Tensor], torch.Tensor]
    regularise: Callable[[torch.Tensor], torch.Tensor | float] = lambda spikes: 0.0
    max_norm: float = float("inf")
    last_rate: float = 1.0


def _load_digits(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """Poisson spike trains of handwritten digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # The digits are ordered by writer.
    chosen = torch.randperm(len(digits.target))[: training.samples + TEST_SAMPLES]
    rates = torch.from_numpy(digits.data)[chosen].float() / digits.data.max() * MAX_RATE
    rates = rates.unsqueeze(1).expand(-1, training.steps, -1)
    return torch.rand(rates.shape) < rates, torch.from_numpy(digits.target)[chosen]


def _build_reader(library: ModuleType, hidden: int) -> list[torch.nn.Module]:
    first, second = torch.nn.Linear(PIXELS, hidden), torch.nn.Linear(hidden, DIGITS)
    with torch.no_grad():
        first.weight *= WEIGHT_SCALE
    lif = norse_fast.LIF(LIFParameters(alpha=UNIT_ALPHA)) if library is norse_fast else library.LIF()
    return [first, lif, second, library.LI()]


def _load_cues(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """One of the groups of inputs spikes at first; after a delay, the last group asks which it was."""
    count, duration = training.samples + TEST_SAMPLES, training.steps // CUE_SHARE
    labels = torch.randint(CUES, (count,))
    rates = torch.full((count, training.steps, CUES + 1), NOISE_RATE)
    rates[torch.arange(count), :duration, labels] = CUE_RATE
    rates[:, -duration:, -1] = CUE_RATE
    rates = rates.repeat_interleave(GROUP, dim=2)
    return torch.rand(rates.shape) < rates, labels


def round_weights(weights: torch.Tensor) -> torch.Tensor:
    """The nearest multiples of 1/4096, whose sums are exact in any order: spikes then are equal, bit for bit."""
    return weights.mul(4096).round().div(4096)


def _build_memory(library: ModuleType, hidden: int) -> list[torch.nn.Module]:
    # Each spike raises the threshold by 0.5 for about 400 ms, which is the memory. Of "super", Norse ignores the
    # steepness, and with one of 1 the task is not learned.
    p = library.LSNNParameters(
        v_th=torch.tensor(0.5), beta=torch.tensor(0.5), tau_adapt_inv=torch.tensor(2.5), method="triangle", alpha=0.3
    )
    layer = library.LSNNRecurrent((CUES + 1) * GROUP, hidden, p)
    with torch.no_grad():
        layer.input_weights.copy_(round_weights(3 * layer.input_weights))
        layer.recurrent_weights.copy_(round_weights(layer.recurrent_weights))
    return [layer, torch.nn.Linear(hidden, CUES), library.LI()]


TASKS = {
    "digits": Task(_load_digits, _build_reader, spiking=1, logits=lambda voltages: voltages.amax(0)),
    # Store-recall as in G. Bellec et al., Long short-term memory and learning-to-learn in networks of spiking neurons,
    # NeurIPS 2018.
    "recall": Task(
        _load_cues,
        _build_memory,
        spiking=0,
        logits=lambda voltages: 10 * voltages[-(len(voltages) // CUE_SHARE) :].mean(0),
        # Neurons that spike at 20 Hz have something to say, and threshold to gain.
        regularise=lambda spikes: 5 * (spikes.mean((0, 1)) - 0.02).pow(2).sum(),
        max_norm=0.1,
        last_rate=0.1,
    ),
}


def _resident_kib(field: str) -> int | None:
    # Not getrusage: its peak includes that of the parent process, from before this program was loaded.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text().split(field + ":")[1].split()[0])


def memory_meter(device: torch.device) -> Callable[[], int | None]:
    """A function that returns the peak of the bytes taken since now, or None where it is unknown."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        return lambda: torch.cuda.max_memory_allocated(device) - before
    resident = _resident_kib("VmRSS")

    def peak() -> int | None:
        highest = _resident_kib("VmHWM")
        return None if highest is None or resident is None else (highest - resident) * 1024

    return peak


def _train(side: str, training: Training, connection: Connection) -> None:
    """Run one side, an epoch for each message that it receives.

    It sends the outputs and the accuracy before training; then None after each update and a result after each epoch.
    """
    torch.manual_seed(training.seed)
    torch.set_num_threads(training.threads)
    device = torch.device(training.device)
    task = TASKS[training.task]
    spikes, labels = task.load(training)
    library = norse_fast if side == "norse_fast" else import_norse()
    assert library is not None
    model = library.SequentialState(*task.build(library, training.hidden), return_hidden=True).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    updates = training.epochs * -(-training.samples // training.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, task.last_rate, updates)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    peak = memory_meter(device)

    def forward(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = model(spikes[indices].transpose(0, 1).to(device, torch.float32, copy=True))
        return hidden[task.spiking], task.logits(hidden[-1])

    test = torch.arange(training.samples, len(labels)).split(training.batch)

    @torch.no_grad()
    def accuracy() -> float:
        right = sum(int((forward(indices)[1].argmax(1).cpu() == labels[indices]).sum()) for indices in test)
        return right / TEST_SAMPLES

    with torch.no_grad():
        before = dict(zip(("hidden_spikes", "logits"), (output.cpu().numpy() for output in forward(test[0]))))
    connection.send({**before, "accuracies": [accuracy()], "seconds": []})
    for _ in range(training.epochs):
        connection.recv()
        synchronize()
        start = time.perf_counter()
        for indices in torch.randperm(training.samples).split(training.batch):
            optimizer.zero_grad()
            hidden_spikes, logits = forward(indices)
            loss = torch.nn.functional.cross_entropy(logits, labels[indices].to(device))
            (loss + task.regularise(hidden_spikes)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), task.max_norm)
            optimizer.step()
            schedule.step()
            connection.send(None)
        synchronize()
        seconds = time.perf_counter() - start
        connection.send({"seconds": seconds, "accuracy": accuracy(), "peak_bytes": peak()})


def _receive(side: str, connection: Connection, advance: Callable[[str], None]) -> dict[str, Any]:
    try:
        while (message := connection.recv()) is None:
            advance(side)
    except EOFError:
        raise RuntimeError(f"training with {side} ended without a result; its error is printed above.") from None
    result: dict[str, Any] = message
    return result


def run_training(sides: Sequence[str], training: Training, advance: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Train each side in a process of its own, whose memory nothing else touches; the sides take turns, by epochs.

    Args:
        sides: ``"norse_fast"``, ``"Norse"``.
        training: what to train.
        advance: called with the side after each update.

    Returns:
        Per side, test accuracies before training and after each epoch, seconds of each epoch, peak memory in bytes or
        None where it is unknown, and the spikes and logits of one batch before training.

    Raises:
        RuntimeError: a process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for side in sides:
        connections[side], theirs = context.Pipe()
        processes.append(context.Process(target=_train, args=(side, training, theirs)))
        processes[-1].start()
        # Only the child may hold its end, or its death would go unnoticed.
        theirs.close()
    try:
        results = {side: _receive(side, connection, advance) for side, connection in connections.items()}
        for _ in range(training.epochs):
            for side, connection in connections.items():
                connection.send("epoch")
                epoch = _receive(side, connection, advance)
                results[side]["seconds"].append(epoch["seconds"])
                results[side]["accuracies"].append(epoch["accuracy"])
                results[side]["peak_bytes"] = epoch["peak_bytes"]
    finally:
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join()
    return results


def check_equal(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the two models before training.

    Args:
        results: what :func:`run_training` returned, per side.

    Returns:
        Whether the hidden spikes are equal, their rate, and the largest difference of the logits.

    Raises:
        RuntimeError: the spikes differ.
    """
    spikes = [result["hidden_spikes"] for result in results.values()]
    logits = [result["logits"] for result in results.values()]
    different = int((spikes[0] != spikes[-1]).sum())
    if different:
        raise RuntimeError(f"train: {different} of {spikes[0].size} hidden spikes of {' and '.join(results)} differ.")
    return {
        "equal": True,
        "spikes_per_step": float(spikes[0].mean()),
        "logit_difference": float(abs(logits[0] - logits[-1]).max()),
    }
