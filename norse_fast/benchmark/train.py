"""Trains the same spiking classifier of handwritten digits with Norse and with norse_fast."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
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


def _train(side: str, training: Training, report: Callable[[str, Any], None]) -> None:
    """Train one side, reporting ``("batch", None)`` after each update and ``("result", {...})`` at the end."""
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
    accuracies, seconds = [accuracy()], []
    for _ in range(training.epochs):
        synchronize()
        start = time.perf_counter()
        for indices in torch.randperm(training.samples).split(training.batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(forward(indices)[1], labels[indices].to(device))
            loss.backward()
            optimizer.step()
            report("batch", None)
        synchronize()
        seconds.append(time.perf_counter() - start)
        accuracies.append(accuracy())
    result = {
        "hidden_spikes": hidden_spikes,
        "logits": logits,
        "accuracies": accuracies,
        "seconds": seconds,
        "peak_bytes": peak(),
    }
    report("result", result)


def _run_in_child(side: str, training: Training, connection: Connection) -> None:
    _train(side, training, lambda *message: connection.send(message))


def run_training(side: str, training: Training, advance: Callable[[], None]) -> dict[str, Any]:
    """Train one side in a process of its own, whose memory is not touched by anything else.

    Args:
        side: ``"norse_fast"`` or ``"Norse"``.
        training: what to train.
        advance: called after each update.

    Returns:
        Test accuracies before training and after each epoch, seconds of each epoch, peak memory in bytes or None where
        it is unknown, and the spikes and logits of one batch before training.

    Raises:
        RuntimeError: the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_in_child, args=(side, training, sender))
    process.start()
    # Only the child may hold the sending end, or its death would go unnoticed.
    sender.close()
    result = None
    try:
        while result is None:
            message, content = receiver.recv()
            if message == "batch":
                advance()
            else:
                result = content
    except EOFError:
        raise RuntimeError(f"training with {side} ended without a result; its error is printed above.") from None
    finally:
        receiver.close()
        process.join()
    answer: dict[str, Any] = result
    return answer


def check_equal(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the two models before training, and take the compared outputs out of the results.

    Args:
        results: what :func:`run_training` returned, per side.

    Returns:
        Whether the hidden spikes are equal, their rate, and the largest difference of the logits.

    Raises:
        RuntimeError: the spikes differ.
    """
    spikes = [result.pop("hidden_spikes") for result in results.values()]
    logits = [result.pop("logits") for result in results.values()]
    different = int((spikes[0] != spikes[-1]).sum())
    if different:
        raise RuntimeError(f"train: {different} of {spikes[0].size} hidden spikes of {' and '.join(results)} differ.")
    return {
        "equal": True,
        "spikes_per_step": float(spikes[0].mean()),
        "logit_difference": float(abs(logits[0] - logits[-1]).max()),
    }
