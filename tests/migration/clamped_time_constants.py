"""Time constants that are learned, and clamped after each step so that the Euler steps stay stable."""

import norse.torch as norse
import torch

DT = 0.001


class Adaptive(torch.nn.Module):
    """Each neuron has time constants of its own; the tuple of parameters holds the learned tensors themselves."""

    def __init__(self, inputs, neurons, method, alpha):
        super().__init__()
        self.tau_mem_inv = torch.nn.Parameter(torch.linspace(50.0, 400.0, neurons))
        self.tau_syn_inv = torch.nn.Parameter(torch.linspace(900.0, 100.0, neurons))
        self.linear = torch.nn.Linear(inputs, neurons)
        p = norse.LIFParameters(
            tau_syn_inv=self.tau_syn_inv,
            tau_mem_inv=self.tau_mem_inv,
            v_th=torch.tensor(0.5),
            method=method,
            alpha=torch.tensor(alpha),
        )
        self.cell = norse.LIFCell(p, dt=DT)

    def forward(self, x):
        state, spikes = None, []
        for step in x:
            z, state = self.cell(5 * self.linear(step), state)
            spikes.append(z)
        return torch.stack(spikes)

    @torch.no_grad()
    def clamp(self):
        for rate in (self.tau_mem_inv, self.tau_syn_inv):
            rate.clamp_(1 / 0.1, 1 / (1.2 * DT))


class Decays(torch.nn.Module):
    """Here the tuple is made anew at each call, from a decay between 0 and 1 that is kept in its place with .data."""

    def __init__(self, neurons):
        super().__init__()
        self.decay = torch.nn.Parameter(torch.full((neurons,), 0.97))
        self.readout = norse.LICell(dt=DT)

    def forward(self, spikes):
        self.readout.p = norse.LIParameters(tau_mem_inv=(1 - self.decay) / DT)
        state, voltages = None, []
        for z in spikes:
            v, state = self.readout(z, state)
            voltages.append(v)
        return torch.stack(voltages)


torch.manual_seed(29)
x = torch.bernoulli(0.3 * torch.ones(25, 4, 6))
wanted = torch.linspace(0, 0.4, 5).expand(4, 5)
results = {}
for method, alpha in (("super", 1.0), ("circ", 0.5), ("triangle", 0.3)):  # of super, 1.1.0 knows this alpha alone
    hidden, readout = Adaptive(6, 5, method, alpha), Decays(5)
    optimizer = torch.optim.Adam(
        [
            {"params": [hidden.tau_mem_inv, hidden.tau_syn_inv], "lr": 40.0},
            {"params": [*hidden.linear.parameters(), readout.decay], "lr": 0.02},
        ]
    )
    for _ in range(4):
        optimizer.zero_grad()
        spikes = hidden(x)
        voltages = readout(spikes)
        loss = (voltages[-1] - wanted).square().mean()
        loss.backward()
        optimizer.step()
        hidden.clamp()
        readout.decay.data.clamp_(0.9, 0.99)
    at_the_limit = (hidden.tau_mem_inv <= 10).sum() + (hidden.tau_syn_inv >= 1 / (1.2 * DT)).sum()
    print(f"{method}: loss {loss.item():.4f}, {int(spikes.sum())} spikes, {int(at_the_limit)} rates at a limit")
    results[f"{method} spikes"], results[f"{method} voltages"] = spikes, voltages
    for name, weights in (*hidden.named_parameters(), *readout.named_parameters()):
        results[f"{method} {name}"], results[f"{method} gradient of {name}"] = weights, weights.grad
