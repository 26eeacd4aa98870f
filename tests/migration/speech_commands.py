"""Words from features over time: layers that run over all time steps, and the highest voltage of each class decides."""

import torch
import torch.nn.functional as F
from norse.torch.functional.lif import LIFParameters
from norse.torch.functional.lsnn import LSNNParameters
from norse.torch.module.leaky_integrator import LI
from norse.torch.module.lif import LIFRecurrent
from norse.torch.module.lsnn import LSNNRecurrent

CLASSES, FEATURES, STEPS = 4, 13, 24


def words(count):
    """Chirps, one kind for each class, as bands of frequencies over time (T, B, FEATURES)."""
    labels = torch.randint(0, CLASSES, (count,))
    time = torch.linspace(0, 1, STEPS)[:, None, None]
    centre = 3 + labels[:, None] * 2 + 4 * time * (labels[:, None] % 2 - 0.5)
    bands = torch.exp(-0.5 * (torch.arange(FEATURES) - centre).square())
    return bands + 0.1 * torch.randn(STEPS, count, FEATURES), labels


class Recogniser(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.output = torch.nn.Linear(20, CLASSES, bias=False)
        self.readout = LI()

    def forward(self, x):
        z, state = self.layer(x)
        voltages, _ = self.readout(self.output(z))
        return z, voltages.max(0).values, state


torch.manual_seed(23)
x, labels = words(12)
results = {}
for name, layer in {
    "lif": LIFRecurrent(FEATURES, 20, p=LIFParameters(method="tanh", alpha=1.0), dt=0.002),
    "lsnn": LSNNRecurrent(FEATURES, 20, p=LSNNParameters(method="circ", alpha=1.0), dt=0.002),
}.items():
    model = Recogniser(layer)
    with torch.no_grad():
        layer.input_weights.mul_(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        z, scores, state = model(x)
        loss = F.cross_entropy(scores, labels)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"{name}: loss {loss.item():.2f}, {int(z.sum())} spikes")
    results[f"{name} spikes"], results[f"{name} scores"] = z, scores
    results[f"{name} norm"], results[f"{name} last voltage"] = norm, state.v
    for key, weights in model.named_parameters():
        results[f"{name} gradient of {key}"] = weights.grad

# What is left of a word may come in a second piece.
model.eval()
with torch.no_grad():
    first, state = model.layer(x[:10])
    second, _ = model.layer(x[10:], state)
    whole, _, _ = model(x)
results["pieces"] = torch.cat((first, second))
print("pieces give the spikes of the whole:", torch.equal(results["pieces"], whole))
