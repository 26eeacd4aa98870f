"""What the examples share: arguments, data, a progress bar and the look of the pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import norse_fast as nf

try:
    import matplotlib
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    sys.exit(f"got no package {error.name!r}, expected those of the examples; pip install '.[examples]'.")

matplotlib.use("Agg")

import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#777777"
TEST_SAMPLES = 360

plt.style.use(Path(__file__).parents[1] / "docs" / "figures.mplstyle")


def arguments(
    description: str | None,
    epochs: int,
    steps: int,
    epoch: str = "passes over the training data",
    more: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> argparse.Namespace:
    """The options of an example, which also seeds PyTorch; ``more`` are those that only it has."""
    script = Path(sys.argv[0])
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs, help=f"{epoch} (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help="time steps of 1 ms (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=script.parent / "images" / f"{script.stem}.png",
        help="file of the picture (default: %(default)s)",
    )
    for name, details in more.items():
        parser.add_argument(name, **details)
    torch.manual_seed(0)
    return parser.parse_args()


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Handwritten digits: training images (B, 8, 8) between 0 and 1 and their labels, test images and their labels."""
    data = load_digits()
    # They are ordered by writer.
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float()[order] / 16
    labels = torch.from_numpy(data.target)[order]
    return images[TEST_SAMPLES:], labels[TEST_SAMPLES:], images[:TEST_SAMPLES], labels[:TEST_SAMPLES]


def spikes(images: torch.Tensor, steps: int) -> torch.Tensor:
    """Spike trains (T, ...) of images: in each step a spike with the probability of the brightness."""
    return (torch.rand(steps, *images.shape) < images).float()


def classifier(hidden: int = 128) -> nf.SequentialState:
    """A network of spike trains (T, B, 8, 8): LIF neurons and a leaky readout, whose potentials (T, B, 10) it returns."""
    lif = nf.LIF(nf.LIFParameters(alpha=torch.tensor(10.0)))
    model = nf.SequentialState(nn.Flatten(2), nn.Linear(64, hidden), lif, nn.Linear(hidden, 10), nf.LI())
    with torch.no_grad():
        model[1].weight *= 3  # a spike raises a potential by at most a quarter of its weight
    return model


def progress() -> Progress:
    """A progress bar whose description tells how the training goes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn())


def raster(axes: plt.Axes, spikes: torch.Tensor, color: str, **kwargs: float) -> None:
    """Draw spikes (T, N), a row per neuron."""
    time, neuron = spikes.nonzero(as_tuple=True)
    axes.scatter(time, neuron, marker="|", color=color, **{"s": 12, "linewidths": 0.8, **kwargs})
    axes.set_xlim(0, len(spikes))
    axes.set_ylim(-1, spikes.shape[1])


def training_curves(axes: plt.Axes, losses: list[float], accuracies: list[float]) -> None:
    """Draw the loss of each update, and the test accuracy before training and after each epoch."""
    axes.plot(losses, color=GREY, lw=0.8)
    axes.set(xlabel="update", ylabel="loss", ylim=0)
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    updates = torch.linspace(0, len(losses), len(accuracies))
    right.plot(updates, [100 * accuracy for accuracy in accuracies], color=BLUE, marker="o", ms=4)
    right.set_ylim(0, 103)
    right.set_ylabel("test accuracy in %", color=BLUE)
    axes.set_title(f"Test accuracy {accuracies[-1]:.1%}", loc="left")


def confusion_matrix(axes: plt.Axes, labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> None:
    """Draw how often each class (row) is taken for each (column)."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((labels, predicted), torch.tensor(1), accumulate=True)
    axes.imshow(confusion.sqrt().numpy(), cmap="Blues")
    for row, column in confusion.nonzero().tolist():
        color = "white" if confusion[row, column] > confusion.max() / 3 else "black"
        axes.text(
            column, row, confusion[row, column].item(), ha="center", va="center", fontsize=80 / classes, color=color
        )
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.tick_params(labelsize=8)
    axes.set(xlabel="predicted", ylabel="true")


def save(figure: plt.Figure, path: Path) -> None:
    """Write a picture and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")
