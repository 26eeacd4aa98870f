"""Data-parallel training in two processes: ``torchrun --standalone --nproc-per-node 2 examples/distributed.py``."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    arguments,
    classifier,
    digits,
    plt,
    progress,
    save,
    spikes,
    training_curves,
)
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

options = arguments(__doc__, epochs=8, steps=50)
dist.init_process_group("gloo")
rank, processes = dist.get_rank(), dist.get_world_size()
images, labels, test_images, test_labels = digits()

# All begin with the weights of process 0 and see different images; gradients are averaged before each update.
network = classifier()
model = DistributedDataParallel(network)
sampler = DistributedSampler(TensorDataset(images, labels))
loader = DataLoader(sampler.dataset, batch_size=64 // processes, sampler=sampler)
torch.manual_seed(rank)  # for the spike trains


def evidence(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Evidence for each class (B, 10): the mean potential of its neuron."""
    voltages, _ = net(spikes(images, options.steps))
    return voltages.mean(0)


@torch.no_grad()
def accuracy() -> float:
    """Share of the test images with most evidence for the right class; the network itself needs no other process."""
    return (evidence(network, test_images).argmax(1) == test_labels).float().mean().item()


optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
accuracies, losses = [accuracy()], []
with progress() if rank == 0 else nullcontext() as bar:
    task = bar.add_task("", total=options.epochs * len(loader)) if bar else None
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = cross_entropy(evidence(model, x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if bar:
                bar.update(task, advance=1, description=f"loss {losses[-1]:.2f}, test accuracy {accuracies[-1]:.1%}")
        accuracies.append(accuracy())

with torch.no_grad():
    voltages, _ = network(spikes(test_images[:1], options.steps))
results: list = [None] * processes
dist.all_gather_object(results, (losses, voltages[:, 0], [parameter.detach() for parameter in network.parameters()]))
# The wrapper holds the process group. If its threads outlive the interpreter, PyTorch may abort at the end.
del model
dist.destroy_process_group()
if rank == 0:
    all_losses, all_voltages, all_weights = zip(*results, strict=True)
    difference = max((a - b).abs().max().item() for a, *others in zip(*all_weights, strict=True) for b in others)
    print(f"test accuracy {accuracies[-1]:.1%}; the weights of {processes} processes differ by at most {difference}")

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8))
    colors = (BLUE, ORANGE, GREEN, PURPLE) * processes
    for process in range(processes):
        left.plot(all_losses[process], color=colors[process], lw=0.8, label=f"process {process}")
        lines = right.plot(all_voltages[process], color=colors[process], lw=0.8, alpha=0.5)
        lines[test_labels[0]].set(lw=2, alpha=1)
    left.set(xlabel="update", ylabel="loss", ylim=0)
    left.legend()
    training_curves(middle, torch.tensor(all_losses).mean(0).tolist(), accuracies)
    right.set_title(f"Same weights, other spikes; bold: {test_labels[0]}", loc="left")
    right.set(xlabel="time in ms", ylabel="potential of the readout")
    save(figure, options.output)
