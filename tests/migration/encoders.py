"""Encoders in front of a network, a decoder behind it, and the functions that they call."""

import norse.torch as norse
import torch
from norse.torch.functional.encode import poisson_encode, spike_latency_encode
from norse.torch.module.encode import ConstantCurrentLIFEncoder, PoissonEncoder

torch.manual_seed(11)
image = torch.rand(2, 1, 6, 6)
results = {}
for name, encoder in {
    "poisson": PoissonEncoder(30, f_max=300),
    "signed": norse.SignedPoissonEncoder(30, f_max=300),
    "current": ConstantCurrentLIFEncoder(30),
    "latency": norse.SpikeLatencyLIFEncoder(30),
    "population": norse.PopulationEncoder(7),
}.items():
    x = image.flatten() if name == "population" else 4 * image if name in ("current", "latency") else 2 * image - 1
    results[name] = encoder(x)
    print(name, tuple(results[name].shape), int(results[name].sum()))

results["first"] = spike_latency_encode(results["poisson"])
print("first spikes:", int(results["first"].sum()))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = norse.ConstantCurrentLIFEncoder(20)
        self.hidden = torch.nn.Linear(36, 12)
        self.lif = norse.LIFCell(p=norse.LIFParameters(method="tanh", alpha=torch.tensor(1.0)))
        self.readout = norse.LILinearCell(12, 3)

    def forward(self, image):
        state = readout = None
        voltages = []
        for spikes in self.encoder(5 * image.flatten(1)):
            z, state = self.lif(4 * self.hidden(spikes), state)
            v, readout = self.readout(z, readout)
            voltages.append(v)
        return torch.log_softmax(torch.stack(voltages).amax(0), dim=1)


network = Network()
results["network"] = network(image)
results["network"][:, 0].sum().backward()
results["gradient"] = network.hidden.weight.grad
print(int(poisson_encode(torch.ones(5), 100, f_max=1000).sum()), "of 500 at the highest rate")
