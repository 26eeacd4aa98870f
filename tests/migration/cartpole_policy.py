"""Balancing a pole on a cart: spiking policies with neurons that feed back, taught by the policy gradient."""

import math

import torch
from norse.torch.functional.lif import LIFParameters
from norse.torch.functional.lsnn import LSNNParameters
from norse.torch.module.encode import ConstantCurrentLIFEncoder
from norse.torch.module.leaky_integrator import LILinearCell
from norse.torch.module.lif import LIFRecurrentCell
from norse.torch.module.lsnn import LSNNRecurrentCell


def push(observation, action):
    """The next 20 ms of a cart of 1 kg with a pole of 1 m and 100 g, pushed left or right."""
    x, speed, angle, turn = observation
    force = 10.0 if action else -10.0
    sine, cosine = math.sin(angle), math.cos(angle)
    shove = (force + 0.05 * turn**2 * sine) / 1.1
    spin = (9.8 * sine - cosine * shove) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    rush = shove - 0.05 * spin * cosine / 1.1
    return x + 0.02 * speed, speed + 0.02 * rush, angle + 0.02 * turn, turn + 0.02 * spin


class Policy(torch.nn.Module):
    def __init__(self, neurons, size):
        super().__init__()
        self.encoder = ConstantCurrentLIFEncoder(12)
        self.neurons = neurons
        self.dropout = torch.nn.Dropout(0.25)
        self.readout = LILinearCell(size, 2)

    def forward(self, observation):
        signed = 60 * torch.cat((observation, -observation), dim=-1)
        neurons = readout = None
        highest = None
        for spikes in self.encoder(torch.relu(signed)):
            z, neurons = self.neurons(spikes, neurons)
            v, readout = self.readout(self.dropout(z), readout)
            highest = v if highest is None else torch.maximum(highest, v)
        return torch.distributions.Categorical(logits=10 * highest)


def episode(policy, steps=15):
    observation, chances, rewards = (0.0, 0.1, 0.05, -0.1), [], []
    while len(rewards) < steps and abs(observation[2]) < 0.2:
        choice = policy(torch.tensor([observation]))
        action = choice.sample()
        chances.append(choice.log_prob(action))
        observation = push(observation, action.item())
        rewards.append(1.0 - abs(observation[2]))
    return torch.cat(chances), rewards


torch.manual_seed(21)
# Norse 1.1.0 computes with alpha=1, whatever it is told.
policies = {
    "lif": Policy(LIFRecurrentCell(8, 24, p=LIFParameters(method="super", alpha=1.0, v_th=torch.tensor(0.4))), 24),
    "lsnn": Policy(LSNNRecurrentCell(8, 24, p=LSNNParameters(method="circ", alpha=0.5, v_th=torch.tensor(0.4))), 24),
}
results = {}
for name, policy in policies.items():
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(2):
        chances, rewards = episode(policy)
        gains, gain = [], 0.0
        for reward in reversed(rewards):
            gain = reward + 0.95 * gain
            gains.insert(0, gain)
        gains = torch.tensor(gains)
        loss = -(chances * (gains - gains.mean()) / (gains.std() + 1e-6)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{name}: upright for {len(rewards)} steps, loss {loss.item():.2f}")
    results[f"{name} loss"] = loss
    for key, weights in policy.named_parameters():
        results[f"{name} {key}"], results[f"{name} gradient of {key}"] = weights, weights.grad
