"""Each neuron finds its own time constant: LIF neurons learn to spike like others, whose time constants they do not know.

The loss is the distance of spike trains of M. C. W. van Rossum, A novel spike distance, Neural Computation 13, 2001.
"""

import torch
from common import BLUE, GREY, ORANGE, arguments, plt, progress, raster, save
from torch import nn

import norse_fast as nf

NEURONS, BATCH = 48, 16
options = arguments(__doc__, epochs=100, steps=200, epoch="updates of the time constants")


class LearnableLIF(nn.Module):
    """LIF neurons with a membrane time constant for each; its logarithm is learned, so that it stays positive."""

    def __init__(self, tau: torch.Tensor) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(tau.log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes (T, B, N)."""
        p = nf.LIFParameters(tau_mem_inv=torch.exp(-self.log_tau), alpha=torch.tensor(10.0))
        z, _ = nf.LIF(p)(x)
        return z


def sample() -> torch.Tensor:
    """Poisson spike trains (T, B, N), one for each neuron, of 50 spikes per second."""
    return 3 * (torch.rand(options.steps, BATCH, NEURONS) < 0.05).float()


taus = torch.logspace(-2.3, -1.3, NEURONS)  # 5 to 50 ms
teacher = LearnableLIF(taus).requires_grad_(False)
student = LearnableLIF(torch.full((NEURONS,), 0.016))
low_pass = nf.LIBox(nf.LIBoxParameters(tau_mem_inv=torch.tensor(1 / 0.02)))

x = sample()
before = student(x).detach()
optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.epochs)
history = [student.log_tau.detach().exp()]
with progress() as bar:
    task = bar.add_task("", total=options.epochs)
    for _ in range(options.epochs):
        batch = sample()
        difference, _ = low_pass(student(batch) - teacher(batch))
        loss = 1e3 * difference.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(student.log_tau.detach().exp())
        error = (history[-1] / taus - 1).abs().mean()
        bar.update(task, advance=1, description=f"loss {loss.item():.3f}, error of the time constants {error:.1%}")
print(f"mean error of the time constants {error:.1%}")

figure = plt.figure(figsize=(11, 7.5))
grid = figure.add_gridspec(2, 2, height_ratios=(1, 1))
colors = plt.get_cmap("viridis")(torch.linspace(0, 0.95, NEURONS).numpy())

trajectories = figure.add_subplot(grid[0, 0])
for neuron, values in enumerate(1e3 * torch.stack(history, dim=1)):
    trajectories.plot(values, color=colors[neuron], lw=1)
trajectories.scatter([options.epochs] * NEURONS, 1e3 * taus, color=colors, s=14, zorder=3, clip_on=False)
trajectories.set_xlim(0, options.epochs)
trajectories.set_yscale("log")
trajectories.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
trajectories.minorticks_off()
trajectories.set_xlabel("update")
trajectories.set_ylabel("learned time constant in ms")
trajectories.set_title("All neurons start at 16 ms; dots are the truth", loc="left")

scatter = figure.add_subplot(grid[0, 1])
scatter.plot([4, 60], [4, 60], color=GREY, ls=":", lw=1)
scatter.scatter(1e3 * taus, 1e3 * history[0], color=ORANGE, s=14, label="before")
scatter.scatter(1e3 * taus, 1e3 * history[-1], color=BLUE, s=14, label="after")
scatter.set(xscale="log", yscale="log", xlim=(4, 60), ylim=(4, 60))
for axis in (scatter.xaxis, scatter.yaxis):
    axis.set_ticks([5, 10, 20, 50], ["5", "10", "20", "50"])
scatter.minorticks_off()
scatter.set_xlabel("true time constant in ms")
scatter.set_ylabel("learned time constant in ms")
scatter.legend(loc="upper left")

for column, (title, z) in enumerate({"before": before, "after": student(x).detach()}.items()):
    axes = figure.add_subplot(grid[1, column])
    raster(axes, teacher(x)[:, 0], GREY, s=30, alpha=0.5, linewidths=2.5)
    raster(axes, z[:, 0], ORANGE if column == 0 else BLUE, s=30, linewidths=1)
    axes.set_title(f"Spikes {title}; grey: what they should be", loc="left")
    axes.set_xlabel("time in ms")
    axes.set_ylabel("neuron")
save(figure, options.output)
