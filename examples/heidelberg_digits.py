"""A recurrent LSNN learns spoken digits from the spikes of an artificial cochlea with 700 channels.

Data and size of the network are those of B. Cramer et al., The Heidelberg Spiking Data Sets for the Systematic Evaluation of
Spiking Neural Networks, IEEE Transactions on Neural Networks and Learning Systems 33 (2022): ``--data shd_train.h5
shd_test.h5``. Without them, it makes files of the same format. A word lasts up to 1.4 s, which the time steps divide; to the
neurons each is 1 ms. ``--norse`` trains the same network with Norse. In two processes: ``torchrun --standalone
--nproc-per-node 2 examples/heidelberg_digits.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from common import BLUE, GREY, arguments, confusion_matrix, plt, progress, raster, save, training_curves
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import norse_fast as nf
from norse_fast.benchmark.models import import_norse

try:
    import h5py
    import numpy as np
except ModuleNotFoundError as error:
    sys.exit(f"got no package {error.name!r}, expected those of the examples; pip install '.[examples]'.")

CHANNELS, NEURONS, CLASSES, BATCH = 700, 256, 20, 64
DURATION = 1.4  # of a word in seconds; spikes after it are left out
FILES = ("shd_train.h5", "shd_test.h5")
TRACKS, KNOTS, SPIKES, SPEAKERS = 4, 5, 6000, 12  # of the words that are made

Word = tuple[np.ndarray, np.ndarray, int]  # times in seconds, channels, label


class Words(Dataset[Word]):
    """The words of an HDF5 file, which stay there until they are asked for.

    Args:
        path: a file with ``spikes/times`` in seconds and ``spikes/units``, both with a row of any length per word, and
            ``labels``.

    Raises:
        ValueError: the file is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = h5py.File(path)
            self.times, self.units, self.labels = file["spikes/times"], file["spikes/units"], file["labels"][:]
        except (OSError, KeyError) as error:
            raise ValueError(
                f"data: got {path}, in which HDF5 finds no 'spikes/times', 'spikes/units' and 'labels' ({error}); give "
                f"{' and '.join(FILES)}, unpacked."
            ) from None
        if not len(self.times) == len(self.units) == len(self.labels) > 0:
            raise ValueError(
                f"data: got {path} with {len(self.times)} rows of times, {len(self.units)} of units and "
                f"{len(self.labels)} labels, expected as many of each; download it again."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Word:
        """Times, channels and label of a word.

        Raises:
            ValueError: a value is out of range.
        """
        times, units, label = self.times[index], self.units[index], int(self.labels[index])
        wrong = None
        if len(times) != len(units):
            wrong = f"{len(times)} times and {len(units)} units, expected as many of each"
        elif not (times >= 0).all():
            wrong = f"the time {times[~(times >= 0)][0]}, expected seconds from 0"
        elif (outside := (units < 0) | (units >= CHANNELS)).any():
            wrong = f"the unit {units[outside][0]}, expected 0 to {CHANNELS - 1}"
        elif not 0 <= label < CLASSES:
            wrong = f"the label {label}, expected 0 to {CLASSES - 1}"
        if wrong:
            raise ValueError(f"data: got {self.path}, whose word {index} has {wrong}; give files like {FILES[0]}.")
        return times, units, label


class Bins:
    """Makes a batch of words: how many spikes came in each time step on each channel (T, B, 700), and labels.

    Args:
        steps: time steps T that the duration of a word is divided into. A spike between two belongs to the later one.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, words: list[Word]) -> tuple[torch.Tensor, torch.Tensor]:
        """Spike counts and labels."""
        times, units, labels = zip(*words)
        # In float64: the times are float16, whose products with the number of steps would be rounded.
        step = (np.concatenate(times).astype(np.float64) * self.steps / DURATION).astype(np.int64)
        word = np.repeat(np.arange(len(words)), [len(of_word) for of_word in times])
        place = (step * len(words) + word) * CHANNELS + np.concatenate(units)
        x = torch.zeros(self.steps, len(words), CHANNELS)
        inside = torch.from_numpy(place[step < self.steps])
        x.view(-1).index_add_(0, inside, torch.ones(len(inside)))
        return x, torch.tensor(labels)


def make(path: Path, words: int, seed: int, speakers: int = SPEAKERS) -> None:
    """Write a file of made words: in each class, spikes follow four lines through channels and time.

    The second half of the classes are the words of the first half backwards, so that the order matters. Speakers differ in
    pitch and tempo, and a word is never spoken twice the same.
    """
    # The lines of the classes are the same for each seed.
    forwards = np.random.default_rng(0).uniform(50, CHANNELS - 50, (CLASSES // 2, TRACKS, KNOTS))
    knots = np.concatenate([forwards, forwards[..., ::-1]])
    pitch, tempo = np.random.default_rng(1).uniform((-30, 0.8), (30, 1.2), (SPEAKERS, 2)).T
    generator = np.random.default_rng(seed)
    labels, speaker = generator.integers(CLASSES, size=words), generator.integers(speakers, size=words)
    with h5py.File(path, "w") as file:
        file["labels"], file["extra/speaker"] = labels.astype(np.uint16), speaker.astype(np.uint16)
        times = file.create_dataset("spikes/times", words, h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", words, h5py.vlen_dtype(np.uint16))
        for n in range(words):
            count = generator.poisson(SPIKES)
            share = np.sort(generator.random(count))  # of the word that is over
            tracks = knots[labels[n]] + generator.normal(0, 30, (TRACKS, KNOTS))
            places = [np.interp(share, np.linspace(0, 1, KNOTS), track) for track in tracks]
            unit = np.choose(generator.integers(TRACKS, size=count), places) + pitch[speaker[n]]
            unit += generator.normal(0, 25, count)
            noise = generator.random(count) < 0.2
            unit[noise] = generator.uniform(0, CHANNELS, noise.sum())
            start = generator.uniform(0, 0.2)
            times[n] = start + share * 0.9 * tempo[speaker[n]] * generator.uniform(0.9, 1.1)
            units[n] = unit.clip(0, CHANNELS - 1).astype(np.uint16)


class Network(nn.Module):
    """A recurrent LSNN and a leaky readout, of norse_fast or of Norse.

    Args:
        library: which of them.
    """

    def __init__(self, library: ModuleType) -> None:
        super().__init__()
        # Each spike raises the threshold by 0.2 for about 100 ms. Norse ignores the steepness of its default surrogate.
        p = library.LSNNParameters(
            v_th=torch.tensor(0.5),
            beta=torch.tensor(0.2),
            tau_adapt_inv=torch.tensor(10.0),
            method="triangle",
            alpha=0.3,
        )
        self.hidden = library.LSNNRecurrent(CHANNELS, NEURONS, p)
        self.readout = library.SequentialState(nn.Linear(NEURONS, CLASSES), library.LI())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evidence for each class (B, 20), from the mean potential of its neuron; and the spikes of the LSNN (T, B, 256)."""
        z, _ = self.hidden(x)
        voltages, _ = self.readout(z)
        return 10 * voltages.mean(0), z


class Training:
    """A network, how it learns, and how that went; a checkpoint holds the same.

    Args:
        library: norse_fast or Norse.
        words: training words.
        test: test words.
        options: of the command line.
    """

    def __init__(self, library: ModuleType, words: Words, test: Words, options: argparse.Namespace) -> None:
        self.network = Network(library)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-3)
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.seconds: list[float] = []
        self.epochs, self.checkpoint = options.epochs, options.checkpoint
        self.settings = {"steps": options.steps, "norse": options.norse, "words": len(words)}
        processes = dist.get_world_size() if dist.is_initialized() else 1
        self.first = not dist.is_initialized() or dist.get_rank() == 0
        bins = Bins(options.steps)
        # The order of an epoch depends on its number alone, so that one who resumes need not know what came before.
        self.sampler = DistributedSampler(words, processes, dist.get_rank() if dist.is_initialized() else 0)
        self.loader = DataLoader(words, BATCH // processes, sampler=self.sampler, collate_fn=bins)
        self.test = DataLoader(test, 2 * BATCH, collate_fn=bins)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["settings"] != self.settings:
            sys.exit(
                f"--checkpoint: got {self.checkpoint} of {saved['settings']}, expected {self.settings}; "
                "give the same options, or another file."
            )
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.losses, self.accuracies = saved["losses"], saved["accuracies"]

    def save(self) -> None:
        """Write the checkpoint, if one is wanted."""
        if self.checkpoint is None or not self.first:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        new = self.checkpoint.with_name(self.checkpoint.name + ".new")
        torch.save(
            {
                "settings": self.settings,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "losses": self.losses,
                "accuracies": self.accuracies,
            },
            new,
        )
        new.replace(self.checkpoint)  # at once: whoever is interrupted here has the old one or the new one

    @torch.no_grad()
    def predictions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The labels of the test words, and what the network says; it needs no other process."""
        labels, predicted = zip(*((y, self.network(x)[0].argmax(1)) for x, y in self.test))
        return torch.cat(labels), torch.cat(predicted)

    def measure(self) -> None:
        """Note the accuracy on the test words."""
        labels, predicted = self.predictions()
        self.accuracies.append((labels == predicted).float().mean().item())

    def run(self) -> None:
        """Train until all epochs are over."""
        self.load()
        if not self.accuracies:
            self.measure()
            self.save()
        # All begin with the weights of process 0 and hear different words; gradients are averaged before each update.
        # The wrapper ends with this call: it holds the process group, whose threads must not outlive the interpreter.
        model = DistributedDataParallel(self.network) if dist.is_initialized() else self.network
        with progress() if self.first else nullcontext() as bar:
            done = len(self.accuracies) - 1
            total, completed = self.epochs * len(self.loader), done * len(self.loader)
            task = bar.add_task("", total=total, completed=completed) if bar else None
            for epoch in range(done, self.epochs):
                self.sampler.set_epoch(epoch)
                start = time.perf_counter()
                for x, y in self.loader:
                    evidence, _ = model(x)
                    loss = cross_entropy(evidence, y)
                    self.optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                    self.optimizer.step()
                    self.losses.append(loss.item())
                    if bar:
                        text = f"loss {self.losses[-1]:.2f}, test accuracy {self.accuracies[-1]:.1%}"
                        bar.update(task, advance=1, description=text)
                self.seconds.append(time.perf_counter() - start)
                self.measure()
                self.save()


def draw(training: Training, path: Path) -> None:
    """A word, the spikes of the network, its accuracy, and what it takes for what."""
    x, labels = next(iter(training.test))
    with torch.no_grad():
        _, z = training.network(x[:, :1])
    figure = plt.figure(figsize=(11, 7))
    left, right = figure.subfigures(1, 2)
    channels, neurons = left.subplots(2, sharex=True)
    raster(channels, x[:, 0], GREY, s=3)
    channels.set(title=f"A word of class {labels[0]}", ylabel="channel")
    raster(neurons, z[:, 0], BLUE, s=3)
    neurons.set(title="Spikes of the LSNN", xlabel="time step", ylabel="neuron")
    curves, matrix = right.subplots(2, height_ratios=(2, 3))
    training_curves(curves, training.losses, training.accuracies)
    confusion_matrix(matrix, *training.predictions(), CLASSES)
    save(figure, path)


def main() -> None:
    """Train, draw."""
    more: dict[str, dict[str, Any]] = {
        "--data": {"type": Path, "nargs": "+", "help": f"{' '.join(FILES)}, or their folder (default: made here)"},
        "--checkpoint": {"type": Path, "help": "file to write after each epoch, and to go on from"},
        "--norse": {"action": "store_true", "help": "train with Norse instead, from the same weights"},
    }
    options = arguments(__doc__, epochs=8, steps=100, more=more)
    library = import_norse() if options.norse else nf
    if library is None:
        sys.exit("--norse: got no package 'norse'; pip install --no-deps norse==1.1.0 nir nirtorch h5py.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun says so
        dist.init_process_group("gloo")
    with TemporaryDirectory() as folder:
        paths = options.data or [Path(folder)]
        if len(paths) == 1:
            paths = [paths[0] / name for name in FILES]
        if not options.data:
            make(paths[0], words=1000, seed=2, speakers=SPEAKERS - 2)
            make(paths[1], words=400, seed=3)
        training = Training(library, Words(paths[0]), Words(paths[1]), options)
        training.run()
        if dist.is_initialized():
            dist.destroy_process_group()
        if training.first:
            print(f"test accuracy {training.accuracies[-1]:.1%}")
            if training.seconds:
                print(f"an epoch took {median(training.seconds):.2f} s")
            draw(training, options.output)


if __name__ == "__main__":
    main()
