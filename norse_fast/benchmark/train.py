"""Trains the same spiking classifier of handwritten digits with Norse and with norse_fast."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..functional.lif import LIFParameters
from ..module.leaky_integrator import LI
from ..module.lif import LIF
from ..module.sequential import SequentialState
from .models import UNIT_ALPHA, import_norse

__all__ = ["Training", "check_equal", "run_training"]

PIXELS, CLASSES = 64, 10
MAX_RATE = 0.2  # spikes per step of the brightest pixel: 200 Hz at steps of 1 ms
# Scales the default weights so that about a tenth of the hidden neurons spike in a step before training.
WEIGHT_SCALE = 10.0
TEST_SAMPLES = 360


class Training(NamedTuple):
    """What both sides train.

    Args:
        hidden: number of LIF neurons.
        steps: time steps T.
        epochs: passes over the training samples.
        samples: number of training samples, at most 1437.
        batch: samples per update.
        seed: seed of the spike trains, the initial weights and the order of the samples.
        device: name of the device.
        threads: threads of PyTorch on the CPU.
    """

    hidden: int = 128
    steps: int = 100
    epochs: int = 12
    samples: int = 1437
    batch: int = 64
    seed: int = 0
    device: str = "cpu"
    threads: int = 2


def _load_spikes(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """Poisson spike trains of the digits, ``(samples, T, pixels)``, and their labels; the last are the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # The digits are ordered by writer.
    chosen = torch.randperm(len(digits.target))[: training.samples + TEST_SAMPLES]
    rates = torch.from_numpy(digits.data)[chosen].float() / digits.data.max() * MAX_RATE
    rates = rates.unsqueeze(1).expand(-1, training.steps, -1)
    return torch.rand(rates.shape) < rates, torch.from_numpy(digits.target)[chosen]


def _build(side: str, hidden: int) -> torch.nn.Module:
    first, second = torch.nn.Linear(PIXELS, hidden), torch.nn.Linear(hidden, CLASSES)
    with torch.no_grad():
        first.weight *= WEIGHT_SCALE
    if side == "norse_fast":
        lif = LIF(LIFParameters(alpha=UNIT_ALPHA))
        return SequentialState(first, lif, second, LI(), return_hidden=True)
    norse = import_norse()
    assert norse is not None
    model: torch.nn.Module = norse.SequentialState(first, norse.LIF(), second, norse.LI(), return_hidden=True)
    return model


def _resident_kib(field: str) -> int | None:
    # Not getrusage: its peak includes that of the parent process, from before this program was loaded.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text().split(field + ":")[1].split()[0])


def _memory_meter(device: torch.device) -> Callable[[], int | None]:
    """A function that returns the peak of the bytes taken since now."""
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
    spikes, labels = _load_spikes(training)
    model = _build(side, training.hidden).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    peak = _memory_meter(device)

    def forward(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = model(spikes[indices].transpose(0, 1).to(device, torch.float32, copy=True))
        return hidden[1], hidden[-1].amax(0)

    test = torch.arange(training.samples, len(labels)).split(training.batch)

    @torch.no_grad()
    def accuracy() -> float:
        right = sum(int((forward(indices)[1].argmax(1).cpu() == labels[indices]).sum()) for indices in test)
        return right / TEST_SAMPLES

    with torch.no_grad():
        hidden_spikes, logits = (output.cpu().numpy() for output in forward(test[0]))
    connection.send({"hidden_spikes": hidden_spikes, "logits": logits, "accuracies": [accuracy()], "seconds": []})
    for _ in range(training.epochs):
        connection.recv()
        synchronize()
        start = time.perf_counter()
        for indices in torch.randperm(training.samples).split(training.batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(forward(indices)[1], labels[indices].to(device))
            loss.backward()
            optimizer.step()
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
