"""A spiking convolutional network learns handwritten digits."""

import torch
from common import BLUE, GREY, arguments, digits, plt, progress, raster, save, spikes, training_curves
from torch import nn

import norse_fast as nf

options = arguments(__doc__, epochs=6, steps=32)
images, labels, test_images, test_labels = digits()

p = nf.LIFParameters(alpha=torch.tensor(10.0))
network = nf.SequentialState(
    nn.Conv2d(1, 16, 3, padding=1),
    nf.LIFCell(p),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nf.LIFCell(p),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(128, 10),
    nf.LICell(),
)
with torch.no_grad():
    for module in network:
        if hasattr(module, "weight"):
            module.weight *= 3  # a spike raises a potential by at most a quarter of its weight
# The cells of the network take one time step at a call; lifted, each layer takes all steps at once.
model = nf.Lift(network)


def readout(images: torch.Tensor) -> torch.Tensor:
    """Evidence for each class (B, 10): the mean potential of its neuron."""
    voltages, _ = model(spikes(images.unsqueeze(1), options.steps))
    return voltages.mean(0)


@torch.no_grad()
def accuracy() -> float:
    """Share of the test images with most evidence for the right class."""
    return (readout(test_images).argmax(1) == test_labels).float().mean().item()


updates = options.epochs * -(-len(images) // 64)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, updates)
accuracies, losses = [accuracy()], []
with progress() as bar:
    task = bar.add_task("", total=updates)
    for _ in range(options.epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(readout(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.update(task, advance=1, description=f"loss {losses[-1]:.2f}, test accuracy {accuracies[-1]:.1%}")
        accuracies.append(accuracy())
print(f"test accuracy {accuracies[-1]:.1%}")


def montage(maps: torch.Tensor, columns: int) -> torch.Tensor:
    """Feature maps (C, H, W) beside and below each other, with a gap between them."""
    padded = nn.functional.pad(maps, (0, 1, 0, 1), value=torch.nan)
    return torch.cat([torch.cat(list(row), dim=1) for row in padded.split(columns)])


with torch.no_grad():
    x = spikes(test_images[:1].unsqueeze(1), options.steps)
    first, second = (nf.Lift(network[:stop])(x)[0][:, 0] for stop in (2, 5))
    voltages = model(x)[0][:, 0]

figure = plt.figure(figsize=(11, 6.5))
grid = figure.add_gridspec(2, 3, width_ratios=(1, 1.2, 1.4))
shown = {
    "Image": test_images[0],
    "Spikes per step, first layer": montage(first.mean(0), 4),
    "Spikes per step, second layer": montage(second.mean(0), 8),
}
for column, (title, picture) in enumerate(shown.items()):
    axes = figure.add_subplot(grid[0, column])
    drawn = axes.imshow(picture.numpy(), cmap="gray_r" if column == 0 else "viridis", vmin=0)
    axes.set_title(title, loc="left")
    axes.set_axis_off()
    if column:
        figure.colorbar(drawn, shrink=0.6)
axes = figure.add_subplot(grid[1, 0])
raster(axes, second.flatten(1), BLUE, s=3)
axes.set(xlabel="time in ms", ylabel="neuron of the second layer")
axes = figure.add_subplot(grid[1, 1])
label = test_labels[0].item()
for digit, voltage in enumerate(voltages.T):
    axes.plot(voltage, color=BLUE if digit == label else GREY, lw=2 if digit == label else 0.8)
axes.set(xlabel="time in ms", ylabel="potential of the readout")
axes.set_title(f"Blue: the neuron for {label}", loc="left")
training_curves(figure.add_subplot(grid[1, 2]), losses, accuracies)
save(figure, options.output)
