"""Adaptive thresholds remember: an LSNN recalls after a delay what a recurrent LIF network has forgotten.

The task is store-recall as in G. Bellec et al., Long short-term memory and learning-to-learn in networks of spiking neurons,
NeurIPS 2018.
"""

import torch
from common import BLUE, GREEN, GREY, ORANGE, PURPLE, arguments, plt, progress, raster, save
from torch import nn

import norse_fast as nf

CLASSES, GROUP, NEURONS, BATCH = 4, 5, 64, 64
COLORS = [BLUE, ORANGE, GREEN, PURPLE]

options = arguments(__doc__, epochs=80, steps=200, epoch="updates of the weights")
cue = options.steps // 6  # duration of what is to be remembered, and of the question at the end


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes (T, B, inputs) and classes: one group of inputs per class spikes at first, the last group asks for the class."""
    classes = torch.randint(CLASSES, (BATCH,))
    rates = torch.full((options.steps, BATCH, CLASSES + 1), 0.005)
    rates[:cue, torch.arange(BATCH), classes] = 0.2
    rates[-cue:, :, -1] = 0.2
    rates = rates.repeat_interleave(GROUP, dim=2)
    return (torch.rand(rates.shape) < rates).float(), classes


class Network(nn.Module):
    """Recurrent neurons and a leaky readout."""

    def __init__(self, hidden: type[nn.Module], p: tuple) -> None:
        super().__init__()
        self.hidden = hidden((CLASSES + 1) * GROUP, NEURONS, p, record_states=True)
        self.readout = nf.SequentialState(nn.Linear(NEURONS, CLASSES), nf.LI())
        with torch.no_grad():
            self.hidden.input_weights *= 3  # the first inputs make some neurons spike

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple]:
        """Potentials of the readout, spikes, and the states of all steps."""
        z, states = self.hidden(x)
        voltages, _ = self.readout(z)
        return voltages, z, states


def train(name: str, network: Network) -> list[float]:
    """The accuracy of each update."""
    accuracies = []
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.epochs)
    task = bar.add_task(name, total=options.epochs)
    for _ in range(options.epochs):
        x, classes = sample()
        voltages, z, _ = network(x)
        answer = voltages[-cue:].mean(0)
        # Neurons that spike at 20 Hz have something to say, and threshold to gain.
        loss = nn.functional.cross_entropy(10 * answer, classes) + 5 * (z.mean((0, 1)) - 0.02).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        accuracies.append((answer.argmax(1) == classes).float().mean().item())
        bar.update(task, advance=1, description=f"{name}, accuracy {accuracies[-1]:.0%}")
    return accuracies


p = nf.LIFParameters(v_th=torch.tensor(0.5), alpha=torch.tensor(10.0))
adaptive = nf.LSNNParameters(
    v_th=p.v_th, alpha=10.0, beta=torch.tensor(0.5), tau_adapt_inv=torch.tensor(1 / 0.4)
)  # each spike raises the threshold by 0.5 for about 400 ms
networks = {"LSNN": Network(nf.LSNNRecurrent, adaptive), "LIF": Network(nf.LIFRecurrent, p)}
with progress() as bar:
    accuracies = {name: train(name, network) for name, network in networks.items()}
for name, values in accuracies.items():
    print(f"{name}: accuracy {sum(values[-10:]) / len(values[-10:]):.1%} in the last updates")

with torch.no_grad():
    x, classes = sample()
    voltages, z, states = networks["LSNN"](x)
# Neurons are ordered by the class whose cue makes them spike most.
counts = torch.stack([z[:cue, classes == c].mean((0, 1)) for c in range(CLASSES)]).nan_to_num()
preferred = counts.argmax(0)
shown = 0

figure = plt.figure(figsize=(11, 7))
grid = figure.add_gridspec(4, 2, width_ratios=(3, 2), height_ratios=(2, 3, 2, 2))
left = [figure.add_subplot(grid[row, 0]) for row in range(4)]
for axes in left:
    axes.axvspan(0, cue, color=GREY, alpha=0.12, lw=0)
    axes.axvspan(options.steps - cue, options.steps, color=GREY, alpha=0.12, lw=0)
    axes.set_xlim(0, options.steps)
    axes.tick_params(labelbottom=axes is left[-1])
inputs, neurons, thresholds, readout = left
inputs.set_title(f"class {classes[shown]} is shown, and asked for {options.steps - 2 * cue} ms later", loc="left")
groups = torch.arange(x.shape[-1]) // GROUP
for group, color in enumerate([*COLORS, "black"]):
    raster(inputs, x[:, shown] * (groups == group), color)
inputs.set_ylabel("input")
order = torch.argsort(preferred)
for c in range(CLASSES):
    raster(neurons, z[:, shown, order] * (preferred[order] == c), COLORS[c])
    if (preferred == c).any():
        thresholds.plot(states.b[:, shown, preferred == c].mean(1), color=COLORS[c])
    readout.plot(voltages[:, shown, c], color=COLORS[c], label=f"class {c}")
neurons.set_ylabel("neuron")
thresholds.set_ylabel("threshold")
readout.set_ylabel("readout")
readout.set_xlabel("time in ms")
readout.legend(ncols=CLASSES, loc="upper left", fontsize=8)

curves = figure.add_subplot(grid[:, 1])
for name, color in (("LSNN", BLUE), ("LIF", ORANGE)):
    curves.plot([100 * value for value in accuracies[name]], color=color, label=name)
curves.axhline(100 / CLASSES, color=GREY, ls=":", label="chance")
curves.set_ylim(0, 103)
curves.set_xlabel("update")
curves.set_ylabel("accuracy in %")
curves.legend(loc="center right")
save(figure, options.output)
