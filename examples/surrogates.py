"""Surrogates compared: the same network learns the same task with each, over three seeds; and with learned parameters.

Two layers of LIF neurons tell in which of eight orders four groups of inputs spiked. A surrogate of one's own is a function;
that of B. Yin et al., Accurate and efficient time-domain classification with adaptive spiking recurrent neural networks,
Nature Machine Intelligence 3 (2021), 905-913, is one here: a sum of Gaussians, which is negative at its sides.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence

import torch
from common import BLUE, GREEN, GREY, ORANGE, arguments, plt, progress, save
from torch import nn

import norse_fast as nf

CLASSES, GROUPS, GROUP, HIDDEN, BATCH, SEEDS = 8, 4, 6, 64, 64, 3
INPUTS = GROUPS * GROUP

options = arguments(__doc__, epochs=200, steps=60, epoch="updates of the weights")
gap = max(1, options.steps // 6)  # between the spikes of two groups


def several_gaussians(u: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """A Gaussian of width 1 / alpha, less two wider ones beside it."""

    def gaussian(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-x * x / 2)

    x = alpha * u
    return alpha * (1.15 * gaussian(x) - 0.15 * gaussian((x - 1) / 6) - 0.15 * gaussian((x + 1) / 6)) / 2.5


#: A surrogate, its alpha, and what is learned besides the weights.
CASES: dict[str, tuple[str | Callable[..., torch.Tensor], float, Sequence[str]]] = {
    "super": ("super", 10.0, ()),
    "super, alpha 100": ("super", 100.0, ()),
    "triangle": ("triangle", 0.3, ()),
    "tanh": ("tanh", 4.0, ()),
    "circ": ("circ", 0.3, ()),
    "heavi_erfc": ("heavi_erfc", 4.0, ()),
    "atan": ("atan", 4.0, ()),
    "sigmoid": ("sigmoid", 4.0, ()),
    "rectangle": ("rectangle", 1.0, ()),
    "triangle_width": ("triangle_width", 1.0, ()),
    "several_gaussians": (several_gaussians, 4.0, ()),
    "atan, learned alpha": ("atan", 4.0, ("alpha",)),
    "atan, learned time constants": ("atan", 4.0, ("tau_mem_inv", "tau_syn_inv")),
}


class Rate(nn.Module):
    """What keeps an inverse time constant positive: its logarithm is learned."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rate."""
        return x.exp()

    def right_inverse(self, rate: torch.Tensor) -> torch.Tensor:
        """Its logarithm."""
        return rate.log()


def neurons(case: str) -> nf.LIF:
    """LIF neurons with time constants of 5 ms at first; those that are learned are one per neuron."""
    method, alpha, learn = CASES[case]
    rate = torch.full((HIDDEN,), 200.0)
    layer = nf.LIF(
        nf.LIFParameters(tau_syn_inv=rate, tau_mem_inv=rate, method=method, alpha=torch.tensor(alpha)), learn=learn
    )
    for name in learn:
        if name != "alpha":
            nn.utils.parametrize.register_parametrization(layer, name, Rate())
    return layer


def sample(orders: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes (T, B, inputs) and classes: each input spikes in the turn of its group, up to 2 ms late, and sometimes else."""
    classes = torch.randint(len(orders), (BATCH,))
    times = gap * orders[classes].repeat_interleave(GROUP, dim=1) + torch.randint(3, (BATCH, INPUTS))
    x = (torch.rand(options.steps, BATCH, INPUTS) < 0.01).float()
    return x.scatter(0, times.clamp(max=options.steps - 1)[None], 1.0), classes


def train(case: str, seed: int) -> list[float]:
    """The accuracy in each update, on samples that are new."""
    torch.manual_seed(seed)
    orders = torch.tensor(list(itertools.permutations(range(GROUPS))))
    orders = orders[torch.randperm(len(orders))[:CLASSES]]
    model = nf.SequentialState(
        nn.Linear(INPUTS, HIDDEN), neurons(case), nn.Linear(HIDDEN, HIDDEN), neurons(case), nn.Linear(HIDDEN, CLASSES)
    )
    with torch.no_grad():
        model[0].weight *= 8
        model[2].weight *= 8
    optimizer = torch.optim.Adam(
        [
            {"params": p, "lr": 0.05 if "layer" in name or "original" in name or "alpha" in name else 0.003}
            for name, p in model.named_parameters()
        ]
    )
    accuracies = []
    for _ in range(options.epochs):
        x, classes = sample(orders)
        answers = model(x)[0].sum(0)
        loss = nn.functional.cross_entropy(answers, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracies.append((answers.argmax(1) == classes).float().mean().item())
    return accuracies


curves: dict[str, list[list[float]]] = {}
with progress() as bar:
    task = bar.add_task("training", total=len(CASES) * SEEDS)
    for case in CASES:
        curves[case] = []
        for seed in range(SEEDS):
            curves[case].append(train(case, seed))
            bar.update(task, advance=1, description=case)
final = {case: [100 * statistics.mean(run[-20:]) for run in runs] for case, runs in curves.items()}
print("accuracy in the last 20 updates, mean, least and most of the seeds, in %")
for case, values in final.items():
    print(f"{case}: {statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")

figure, (learning, result) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=(3, 2))
shown = {"atan": BLUE, "super, alpha 100": GREY, "several_gaussians": GREEN, "atan, learned time constants": ORANGE}
WINDOW = 10
for case, color in shown.items():
    mean = 100 * torch.tensor(curves[case]).mean(0)
    smooth = mean.unfold(0, min(WINDOW, options.epochs), 1).mean(1)
    learning.plot(torch.arange(len(smooth)) + options.epochs - len(smooth), smooth, color=color, label=case)
learning.set(xlabel="update", ylabel="accuracy in %", ylim=(0, 100))
learning.legend()
learning.set_title("Mean of three seeds", loc="left")
for row, (case, values) in enumerate(final.items()):
    color = shown.get(case, "black")
    result.plot(values, [row] * len(values), "o", color=color, ms=4, alpha=0.6)
    result.plot(statistics.mean(values), row, "|", color=color, ms=14)
result.set_yticks(range(len(final)), list(final))
result.invert_yaxis()
result.set_xlabel("accuracy in the last updates in %")
result.set_title("Each seed, and their mean", loc="left")
save(figure, options.output)
