"""What the contenders compute: descriptions, and data in files that every library reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import norse_fast
from norse_fast.benchmark.networks import INPUT_RATE, NETWORKS
from norse_fast.benchmark.neurons import Case
from norse_fast.benchmark.recurrent import calibrate, draw_input
from norse_fast.benchmark.train import TASKS, TEST_SAMPLES, Training

LAYERS = [(steps, *size) for steps in (100, 1000) for size in ((8, 128), (32, 512), (32, 1024))]
#: T, B, inputs, N; and the share of neurons that spike in a step.
RECURRENT, RECURRENT_RATE = [(100, 32, 512, 512), (1000, 32, 128, 512)], 0.08


def layer(size: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A layer of neurons, whose input is normal."""
    x = 3 * np.random.default_rng(0).standard_normal(size, np.float32)
    return {"kind": "layer", "size": size}, {"x": x}


def recurrent(size: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A recurrent layer, whose input is spikes."""
    torch.manual_seed(0)
    case = Case("peers", "LIF", size, "float32", "cpu")
    x = draw_input(case)
    first, loop = calibrate(case, x, RECURRENT_RATE)
    return {"kind": "recurrent", "size": size}, {"x": x.numpy(), "weight0": first.numpy(), "weight1": loop.numpy()}


def _describe(modules: list[nn.Module]) -> tuple[list[list[Any]], dict[str, np.ndarray]]:
    """Kinds and sizes of modules, and their weights."""
    names = {
        **dict.fromkeys((norse_fast.LIFCell, norse_fast.LIF), "lif"),
        **dict.fromkeys((norse_fast.LICell, norse_fast.LI), "li"),
        nn.MaxPool2d: "pool",
        nn.Flatten: "flatten",
    }
    spec: list[list[Any]] = []
    arrays = {}
    for index, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            spec.append(["linear", module.in_features, module.out_features])
        elif isinstance(module, nn.Conv2d):
            spec.append(["conv", module.in_channels, module.out_channels, module.kernel_size[0]])
        else:
            spec.append([names[type(module)]])
            continue
        arrays |= {f"{name}{index}": getattr(module, name).detach().numpy() for name in ("weight", "bias")}
    return spec, arrays


def network(name: str, quick: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A network of part `networks` of the benchmark."""
    chosen = NETWORKS[name]._replace(steps=3, batch=2) if quick else NETWORKS[name]
    model = chosen.build(norse_fast)
    assert isinstance(model, norse_fast.SequentialState)
    spec, arrays = _describe(list(model))
    size = (chosen.steps, chosen.batch, *chosen.sample)
    x = np.random.default_rng(1).random(size) < INPUT_RATE
    arrays |= {"x": x.astype(np.float32), "labels": np.arange(chosen.batch) % spec[-2][2]}
    return {"kind": "network", "name": name, "size": size, "spec": spec}, arrays


def digits(quick: bool) -> tuple[dict[str, Any], dict[str, np.ndarray], list[list[int]], list[list[int]]]:
    """The classifier of digits of part `train`, and the batches of an epoch and of the test."""
    training = Training(hidden=16, steps=20, samples=128) if quick else Training()
    torch.manual_seed(training.seed)
    task = TASKS["digits"]
    spikes, labels = task.load(training)
    spec, arrays = _describe(task.build(norse_fast, training.hidden))
    arrays |= {"x": spikes.numpy(), "labels": labels.numpy()}
    order = torch.randperm(training.samples)
    test = torch.arange(training.samples, training.samples + TEST_SAMPLES)
    # Batches of one size: a compiled library would compile again for a smaller one.
    batches = [batch.tolist() for batch in order.split(training.batch) if len(batch) == training.batch]
    case = {"kind": "digits", "size": (training.steps, training.batch, training.hidden), "spec": spec}
    return case, arrays, batches, [batch.tolist() for batch in test.split(training.batch)]


def save(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    """Writes the data of a case, over those of the last one."""
    path = folder / "case.npz"
    np.savez(path, **arrays)
    return str(path)
