"""Two networks learn handwritten digits with sums over spikes and with products of matrices: accuracies and times.

``python benchmarks/learn_products.py`` needs scikit-learn. Both sides see the same spikes in the same order and start from
the same weights; their epochs take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

import norse_fast as nf

SIDES = {"sums over spikes": contextlib.nullcontext, "products": nf.dense_products}
TEST_SAMPLES, BATCH = 360, 64
LIF = nf.LIFParameters(alpha=torch.tensor(10.0))


def connected() -> list[nn.Module]:
    """The digits classifier of the examples, of cells and with a second layer of neurons."""
    first = [nn.Flatten(), nn.Linear(64, 256), nf.LIFCell(LIF)]
    return [*first, nn.Linear(256, 256), nf.LIFCell(LIF), nn.Linear(256, 10), nf.LICell()]


def convolutional() -> list[nn.Module]:
    """The convolutional classifier of the examples."""
    first = [nn.Conv2d(1, 16, 3, padding=1), nf.LIFCell(LIF), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nf.LIFCell(LIF), nn.MaxPool2d(2)]
    return [*first, *second, nn.Flatten(), nn.Linear(128, 10), nf.LICell()]


NETWORKS = {"connected": connected, "convolutional": convolutional}


class Learner:
    """A network in training.

    Args:
        name: a name of ``NETWORKS``.
        side: a name of ``SIDES``.
        seed: seed of the weights, and of the spikes and the order of each epoch.
        epochs: how many there will be.
        steps: time steps.
    """

    def __init__(self, name: str, side: str, seed: int, epochs: int, steps: int) -> None:
        self.side, self.seed, self.steps = side, seed, steps
        torch.manual_seed(seed)
        self.model = nf.Lift(nf.SequentialState(*NETWORKS[name]()))
        with torch.no_grad():
            for module in self.model.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    module.weight *= 3
        data = load_digits()
        # They are ordered by writer.
        order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
        self.images = torch.from_numpy(data.images).float()[order].unsqueeze(1) / 16
        self.labels = torch.from_numpy(data.target)[order]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.1, epochs)
        self.seconds: list[float] = []

    def readout(self, samples: torch.Tensor) -> torch.Tensor:
        """Evidence for each class: the mean potential of its neuron."""
        rates = self.images[samples]
        spikes = (torch.rand(self.steps, *rates.shape) < rates).float()
        with SIDES[self.side]():
            evidence: torch.Tensor = self.model(spikes)[0].mean(0)
        return evidence

    def epoch(self) -> None:
        """Train once on all training samples."""
        torch.manual_seed(1000 * self.seed + len(self.seconds))
        start = time.perf_counter()
        for batch in (torch.randperm(len(self.labels) - TEST_SAMPLES) + TEST_SAMPLES).split(BATCH):
            self.optimizer.zero_grad()
            with SIDES[self.side]():
                nn.functional.cross_entropy(self.readout(batch), self.labels[batch]).backward()
            self.optimizer.step()
        self.schedule.step()
        self.seconds.append(time.perf_counter() - start)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the test samples that are read correctly."""
        torch.manual_seed(self.seed)
        test = torch.arange(TEST_SAMPLES)
        return float((self.readout(test).argmax(1) == self.labels[test]).float().mean())


def main() -> None:
    """Print a row for each network and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50, help="time steps of 1 ms")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in NETWORKS:
        for seed in range(options.seeds):
            learners = [Learner(name, side, seed, options.epochs, options.steps) for side in SIDES]
            for _ in range(options.epochs):
                for learner in learners:
                    learner.epoch()
            texts = [
                f"{learner.side} {learner.accuracy():.1%}, {statistics.median(learner.seconds):.2f} s per epoch"
                for learner in learners
            ]
            print(f"{name}, seed {seed}: {'; '.join(texts)}", flush=True)
        print(learners[0].model.explain(), flush=True)


if __name__ == "__main__":
    main()
