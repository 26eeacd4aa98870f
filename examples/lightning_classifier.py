"""Training under PyTorch Lightning, where layers over time are ordinary modules. Needs ``pip install lightning``."""

import logging
import sys

import torch
from common import ORANGE, arguments, classifier, confusion_matrix, digits, plt, save, spikes, training_curves
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

try:
    import lightning as L
    from lightning.pytorch.callbacks import RichProgressBar
except ModuleNotFoundError as error:
    sys.exit(f"got no package {error.name!r}, expected those of the examples; pip install '.[examples]'.")

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it has tips

options = arguments(__doc__, epochs=8, steps=50)
images, labels, test_images, test_labels = digits()


class Classifier(L.LightningModule):
    """Learns which digit an image shows."""

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Evidence for each class (B, 10): the mean potential of its neuron."""
        voltages, _ = self.network(spikes(images, options.steps))
        return voltages.mean(0)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Loss of a batch."""
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        """Accuracy on the test images."""
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("test_accuracy", accuracy, prog_bar=True)
        self.accuracies.append(accuracy.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """What learns."""
        return torch.optim.Adam(self.parameters(), lr=5e-3)


model = Classifier()
trainer = L.Trainer(
    max_epochs=options.epochs,
    accelerator="cpu",
    callbacks=[RichProgressBar()],
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    num_sanity_val_steps=-1,  # the accuracy before training
)
train = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
test = DataLoader(TensorDataset(test_images, test_labels), batch_size=len(test_images))
trainer.fit(model, train, test)
print(f"test accuracy {model.accuracies[-1]:.1%}")

with torch.no_grad():
    predicted = model(test_images).argmax(1)
wrong = (predicted != test_labels).nonzero().flatten()[:9]

figure = plt.figure(figsize=(11, 3.8))
curves, matrix, mistakes = figure.subfigures(1, 3, width_ratios=(4, 3.4, 2.6))
training_curves(curves.subplots(), model.losses, model.accuracies)
confusion_matrix(matrix.subplots(), test_labels, predicted, 10)
for axes, index in zip(mistakes.subplots(3, 3).flat, wrong, strict=False):
    axes.imshow(test_images[index].numpy(), cmap="gray_r")
    axes.set_title(f"{test_labels[index]}, not {predicted[index]}", fontsize=9, color=ORANGE)
for axes in mistakes.axes:
    axes.set_axis_off()
save(figure, options.output)
