"""Delays that make spikes meet: neurons that forget within milliseconds learn to tell sequences of 40 ms apart.

Each class is an order in which six groups of inputs spike, 8 ms apart; every input spikes once in each. A neuron per class
learns delays after which the spikes of its order arrive together. The delays are learned as in A. Hammouamri et al., Learning
Delays in Spiking Neural Networks using Dilated Convolutions with Learnable Spacings, ICLR 2024.
"""

import torch
from common import BLUE, GREEN, GREY, ORANGE, PURPLE, arguments, plt, progress, raster, save
from torch import nn

import norse_fast as nf

CLASSES, GROUPS, GROUP, BATCH = 4, 6, 4, 64
INPUTS = GROUPS * GROUP
COLORS = [BLUE, ORANGE, GREEN, PURPLE]

options = arguments(__doc__, epochs=200, steps=100, epoch="updates of weights and delays")
gap = max(1, options.steps * 2 // 25)  # between the spikes of two groups
span = (GROUPS - 1) * gap  # duration of a sequence, and the longest delay
orders = torch.stack([torch.randperm(GROUPS) for _ in range(CLASSES)])
times = gap * orders.repeat_interleave(GROUP, dim=1)


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes (T, B, inputs) and classes: a sequence that begins at any time, with up to 2 ms of jitter, and a few others."""
    classes = torch.randint(CLASSES, (BATCH,))
    starts = torch.randint(max(1, options.steps - 2 * span - 5), (BATCH, 1))
    spikes = starts + times[classes] + torch.randint(3, (BATCH, INPUTS))
    x = (torch.rand(options.steps, BATCH, INPUTS) < 0.005).float()
    return x.scatter(0, spikes.clamp(max=options.steps - 1)[None], 1.0), classes


class Detectors(nn.Module):
    """A LIF neuron for each class, with time constants of 3 ms, behind weights with delays."""

    def __init__(self, delays: int | None, learnable: bool) -> None:
        super().__init__()
        self.linear = nf.DelayedLinear(INPUTS, CLASSES, span, delays=delays, learnable=learnable)
        nn.init.constant_(self.linear.weight, 8 / INPUTS)
        fast = torch.tensor(300.0)
        self.neurons = nf.LIF(nf.LIFParameters(tau_syn_inv=fast, tau_mem_inv=fast, alpha=torch.tensor(5.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes (T, B, classes)."""
        current, _ = self.linear(x)
        z, _ = self.neurons(current)
        return z


def train(name: str, network: Detectors) -> list[float]:
    """The accuracy of each update."""
    accuracies = []
    delays = [value for key, value in network.named_parameters() if key == "linear.delays"]
    weights = [network.linear.weight, network.linear.bias]
    # A delay of many steps has a longer way to go than a weight.
    optimizer = torch.optim.Adam([{"params": weights, "lr": 0.01}, {"params": delays, "lr": 1.0}])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.epochs)
    task = bar.add_task(name, total=options.epochs)
    for _ in range(options.epochs):
        x, classes = sample()
        counts = network(x).sum(0)
        loss = nn.functional.cross_entropy(counts, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracies.append((counts.argmax(1) == classes).float().mean().item())
        bar.update(task, advance=1, description=f"{name}, accuracy {accuracies[-1]:.0%}")
    return accuracies


networks = {
    "learned delays": Detectors(None, learnable=True),
    "random delays": Detectors(None, learnable=False),
    "no delays": Detectors(0, learnable=False),
}
learned = networks["learned delays"]
before = learned.linear.delays.detach().clone()
with progress() as bar:
    accuracies = {name: train(name, network) for name, network in networks.items()}
for name, values in accuracies.items():
    print(f"{name}: accuracy {sum(values[-10:]) / len(values[-10:]):.1%} in the last updates")
after = learned.linear.delays.detach().clamp(0, span)
print(f"a delay moved by {(after - before).abs().mean():.1f} ms on average")

with torch.no_grad():
    x, classes = sample()
    z = learned(x)
    shown = 0
    c = int(classes[shown])
    # Each input by itself, with its delay to the neuron of the class.
    arriving, _ = nf.Delay(after[c].round().long(), span)(x[:, shown])

figure = plt.figure(figsize=(11, 7))
grid = figure.add_gridspec(3, 2, width_ratios=(3, 2), height_ratios=(3, 3, 1.2))
sent, arrived, neurons = left = [figure.add_subplot(grid[row, 0]) for row in range(3)]
raster(sent, x[:, shown], GREY, s=30, linewidths=1.5)
sent.set_title(f"Spikes of a sequence of class {c}", loc="left")
raster(arrived, arriving, COLORS[c], s=30, linewidths=1.5)
arrived.set_title(f"The same at the neuron of class {c}, after the delays that it learned", loc="left")
for axes in (sent, arrived):
    axes.set_ylabel("input")
for k in range(CLASSES):
    raster(neurons, z[:, shown] * (torch.arange(CLASSES) == k), COLORS[k], s=60, linewidths=1.5)
neurons.set_title("What the neurons answer", loc="left")
neurons.set_yticks(range(CLASSES))
neurons.set_ylabel("class")
neurons.set_xlabel("time in ms")
for axes in left:
    axes.set_xlim(0, options.steps)
    axes.tick_params(labelbottom=axes is neurons)

curves = figure.add_subplot(grid[0, 1])
for (name, values), color in zip(accuracies.items(), (BLUE, ORANGE, GREEN)):
    curves.plot([100 * value for value in values], color=color, label=name, lw=1)
curves.axhline(100 / CLASSES, color=GREY, ls=":", label="chance")
curves.set_ylim(0, 103)
curves.set_xlabel("update")
curves.set_ylabel("accuracy in %")
curves.legend(ncols=2, loc="lower right", fontsize=8)

found = figure.add_subplot(grid[1:, 1])
for k, color in enumerate(COLORS):
    place = times[k] + torch.linspace(-0.3, 0.3, CLASSES)[k] * gap
    found.vlines(place, before[k], after[k], color=color, lw=0.6, alpha=0.6)
    size = 120 * learned.linear.weight.detach()[k].clamp(min=0)
    found.scatter(place, after[k], s=size, color=color, alpha=0.8, lw=0)
    found.scatter([], [], s=30, color=color, label=f"class {k}")
found.set_title("Found delays; lines begin where they were,\ndots are as large as the weights", loc="left")
found.set_xlabel("time of the input's spike in the sequence in ms")
found.set_ylabel("delay in ms")
found.set_ylim(-2, 1.25 * span)
found.legend(ncols=CLASSES, loc="upper center", fontsize=8)
save(figure, options.output)
