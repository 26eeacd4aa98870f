"""To store a bit and to recall it later: neurons whose thresholds adapt remember, beside others that do not."""

import norse.torch as norse
import torch
from norse.torch.functional.leaky_integrator import LIParameters

POPULATION = 4  # neurons for each of the inputs: zero, one, store, recall
PERIOD = 6  # time steps of a command


def commands(batch, periods=4):
    """Spikes of the inputs (T, B, 4 * POPULATION), and what to recall in the last period."""
    bits = torch.randint(0, 2, (periods, batch))
    active = torch.zeros(periods, batch, 4)
    active[:-1, :, :2] = torch.nn.functional.one_hot(bits[:-1], 2).float()
    active[1, :, 2] = 1
    active[-1, :, 3] = 1
    rates = active.repeat_interleave(PERIOD, 0).repeat_interleave(POPULATION, 2)
    return torch.bernoulli(0.5 * rates), bits[1]


class Memory(torch.nn.Module):
    """Half of the neurons adapt."""

    def __init__(self, inputs, neurons):
        super().__init__()
        adapting = norse.LSNNParameters(
            method="super",
            alpha=1.0,  # with which Norse 1.1.0 computes anyway
            v_th=torch.tensor(0.3),
            beta=torch.tensor(1.8),
            tau_adapt_inv=1 / torch.tensor(1.2),
        )
        self.adapting = norse.LSNNRecurrentCell(inputs, neurons, adapting)
        self.plain = norse.LIFRecurrentCell(inputs, neurons, norse.LIFParameters(alpha=1.0, v_th=torch.tensor(0.3)))
        self.readout = norse.LILinearCell(2 * neurons, 2, p=LIParameters(tau_mem_inv=torch.tensor(50.0)))

    def forward(self, x):
        adapting, plain, readout = None, None, None
        spikes, voltages, thresholds = [], [], []
        for step in x.unbind(0):
            fast, plain = self.plain(step, plain)
            slow, adapting = self.adapting(step, adapting)
            z = torch.cat((fast, slow), -1)
            v, readout = self.readout(z, readout)
            spikes.append(z)
            voltages.append(v)
            thresholds.append(adapting.b.detach().clone())
        return torch.stack(spikes), torch.stack(voltages), torch.stack(thresholds)


torch.manual_seed(22)
model = Memory(4 * POPULATION, 10)
with torch.no_grad():
    for weights in (model.adapting.input_weights, model.plain.input_weights):
        weights.mul_(8)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.3)
for step in range(3):
    x, bits = commands(16)
    spikes, voltages, thresholds = model(x)
    recalled = voltages[-PERIOD:].mean(0)
    loss = torch.nn.functional.cross_entropy(recalled, bits)
    loss = loss + 0.1 * (spikes.mean((0, 1)) - 0.05).square().sum()  # neither silence nor storms
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    right = (recalled.argmax(1) == bits).sum().item()
    print(f"step {step}: {right} of 16 recalled, {int(spikes.sum())} spikes, rate {schedule.get_last_lr()[0]:.4f}")

results = {"spikes": spikes, "voltages": voltages, "thresholds": thresholds}
for name, weights in model.named_parameters():
    results[name], results[f"gradient of {name}"] = weights, weights.grad
