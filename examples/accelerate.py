"""A network of Norse, made fast in one line: ``norse_fast.accelerate(model)``.

Trains a small classifier of handwritten digits with Norse, accelerates it, shows that its spikes are the same, and times it
with and without. Needs Norse and the packages of ``norse_fast[bench]``:

    pip install --no-deps norse==1.1.0 nir nirtorch h5py
    python examples/accelerate.py
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import torch

import norse_fast

try:
    import matplotlib.pyplot as plt
    from rich.console import Console
    from rich.progress import track
    from sklearn.datasets import load_digits

    with warnings.catch_warnings():
        # Norse compiles some functions with the deprecated torch.jit.script as it is imported.
        warnings.simplefilter("ignore")
        import norse.torch as norse
except ModuleNotFoundError as error:
    sys.exit(
        f"got no package {error.name!r}, expected Norse and those of the examples; pip install '.[examples]', and "
        "pip install --no-deps norse==1.1.0 nir nirtorch h5py."
    )

console = Console(soft_wrap=True)


def load(samples: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Poisson spike trains of digits, ``(T, samples, 64)``, up to 200 Hz at steps of 1 ms; and labels."""
    digits = load_digits()
    chosen = torch.randperm(len(digits.target))[:samples]
    rates = 0.2 / 16 * torch.from_numpy(digits.data)[chosen].float()
    return torch.bernoulli(rates.expand(steps, -1, -1)), torch.from_numpy(digits.target)[chosen]


def build(hidden: int) -> torch.nn.Module:
    """A classifier as one writes it with Norse."""
    first, second = torch.nn.Linear(64, hidden), torch.nn.Linear(hidden, 10)
    with torch.no_grad():
        first.weight *= 10  # so that some neurons spike before training
    return norse.SequentialState(first, norse.LIF(), second, norse.LI(), return_hidden=True)


def seconds(f: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main() -> None:
    """Train, accelerate, compare, time, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=768, help="digits to train with (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="time steps T (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="LIF neurons (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to time (default: %(default)s)")
    parser.add_argument("--output", default="accelerate.png", help="the picture (default: %(default)s)")
    options = parser.parse_args()

    torch.manual_seed(0)
    spikes, labels = load(options.samples, options.steps)
    model = build(options.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = spikes[:, :64], labels[:64]

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x)[0][-1].amax(0), y)

    def update(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    @torch.no_grad()
    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = model(spikes)
        return hidden[1], hidden[-1].amax(0).argmax(1)

    batches = [chosen for _ in range(options.epochs) for chosen in torch.randperm(options.samples).split(64)]
    for chosen in track(batches, description="Training with Norse", console=console):
        update(spikes[:, chosen], labels[chosen])

    before, guess = outputs()
    console.print(f"Norse: {(guess == labels).float().mean():.1%} of the training samples right")

    norse_fast.accelerate(model)

    after, guess = outputs()
    different = int((before != after).sum())
    console.print(
        f"norse_fast: {(guess == labels).float().mean():.1%} right; {different} of {int(before.sum())} spikes differ"
    )

    # The sides take turns, so that whatever else runs on the machine slows both alike.
    times: dict[str, list[float]] = {"Norse": [], "norse_fast": []}
    for _ in track(range(options.rounds), description="Timing", console=console):
        norse_fast.revert(model)
        times["Norse"].append(seconds(lambda: update(*batch)))
        norse_fast.accelerate(model, report=None)
        times["norse_fast"].append(seconds(lambda: update(*batch)))
    medians = {side: sorted(values)[len(values) // 2] for side, values in times.items()}
    speedup = medians["Norse"] / medians["norse_fast"]
    console.print(
        f"An update with 64 digits: {1e3 * medians['Norse']:.1f} ms with Norse, {1e3 * medians['norse_fast']:.1f} ms with "
        f"norse_fast, {speedup:.1f} times as fast"
    )

    figure, (raster, bars) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[2, 1], layout="constrained")
    for side, z, marker in (("Norse", before, "o"), ("norse_fast", after, ".")):
        steps, neurons = z[:, 0].nonzero().T
        raster.plot(
            steps, neurons, marker, ms=7 if marker == "o" else 4, mfc="none" if marker == "o" else None, label=side
        )
    raster.set(title=f"Hidden spikes of a {labels[0]}: {different} differ", xlabel="time step", ylabel="neuron")
    figure.legend(loc="outside lower left", ncols=2)
    bars.bar(list(medians), [1e3 * value for value in medians.values()], color=["C0", "C1"])
    bars.set(title=f"An update: {speedup:.1f} times as fast", ylabel="ms")
    figure.savefig(options.output, dpi=150)
    console.print(f"Wrote {options.output}")


if __name__ == "__main__":
    main()
