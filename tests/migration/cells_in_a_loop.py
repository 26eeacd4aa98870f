"""A classifier of two rates: cells called step by step in a module's own loop, trained with Adam."""

import torch
from norse.torch import LICell, LIFCell, LIFParameters


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(20, 32)
        # Norse 1.1.0 computes with alpha=1, whatever it is told.
        self.lif = LIFCell(p=LIFParameters(alpha=1.0, v_th=torch.tensor(0.4)))
        self.output = torch.nn.Linear(32, 2, bias=False)
        self.readout = LICell(dt=0.002)

    def forward(self, x):
        lif_state = readout_state = None
        voltages = []
        for step in range(x.shape[0]):
            z, lif_state = self.lif(10 * self.hidden(x[step]), lif_state)
            v, readout_state = self.readout(self.output(z), readout_state)
            voltages.append(v)
        return torch.stack(voltages)


torch.manual_seed(1)
labels = torch.randint(0, 2, (16,))
spikes = (torch.rand(25, 16, 20) < 0.1 + 0.2 * labels[:, None]).float()
model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
losses = []
for epoch in range(8):
    optimizer.zero_grad()
    loss = torch.nn.functional.nll_loss(torch.log_softmax(model(spikes).amax(0), dim=1), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"epoch {epoch}: loss {loss.item():.2f}")

with torch.no_grad():
    right = (model(spikes).amax(0).argmax(1) == labels).sum().item()
print(f"{right} of 16 right")
results = {"losses": torch.tensor(losses), "weights": model.hidden.weight, "right": right}
