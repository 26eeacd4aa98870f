"""Recurrent cells and layers: the weights that a seed gives, autapses, recorded states, weights of one's own."""

import norse.torch as snn
import torch
from norse.torch.functional.lif import LIFParameters, LIFState
from norse.torch.module.lif import LIFRecurrent, LIFRecurrentCell
from norse.torch.module.lsnn import LSNNRecurrent, LSNNRecurrentCell

torch.manual_seed(3)
results = {}

cell = LIFRecurrentCell(8, 16, p=LIFParameters(method="triangle", alpha=torch.tensor(0.3)))
print("no autapses:", not cell.recurrent_weights.diagonal().any().item())
results["weights"] = cell.input_weights
x = 5 * torch.rand(20, 4, 8)
state = LIFState(z=torch.zeros(4, 16), v=torch.full((4, 16), 0.1), i=torch.zeros(4, 16))
spikes = []
for step in x:
    z, state = cell(step, state)
    spikes.append(z)
results["cell"] = torch.stack(spikes)
results["cell"].sum().backward()
results["gradient"] = cell.recurrent_weights.grad
print("spikes of the cell:", int(results["cell"].sum()))
print("gradient of autapses:", cell.recurrent_weights.grad.diagonal().abs().sum().item())

for name, layer in {
    "lif": LIFRecurrent(8, 16, record_states=True),
    "lsnn": LSNNRecurrent(8, 16, dt=0.002),
    "adex": snn.LIFAdExRecurrent(8, 16),
    "refractory": snn.LIFRefracRecurrent(8, 16),
    "autapses": LIFRecurrent(8, 16, autapses=True),
}.items():
    z, last = layer(x)
    results[name] = z
    print(name, int(z.sum()), list(layer.state_dict()), last._fields)

z, states = LIFRecurrent(8, 16, record_states=True)(x)
print("recorded:", tuple(states.v.shape))
results["recorded"] = states.v

weights = torch.nn.Parameter(torch.rand(3, 8)), torch.nn.Parameter(torch.rand(3, 3))
own = LSNNRecurrentCell(8, 3, input_weights=weights[0], recurrent_weights=weights[1])
print(own.input_weights is weights[0], own)
z, state = own(x[0])
z, state = own(x[1], state)
results["own"] = state.i
