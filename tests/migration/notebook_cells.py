"""Cells of a notebook: a neuron's voltage for a picture, encoders, Lift, and hooks that watch a network."""

# %%
import norse.torch as norse
import torch
from norse.torch.module.encode import PoissonEncoderStep

torch.manual_seed(30)
results = {}

# %% One neuron and a current that is switched on and off
current = torch.zeros(60, 1)
current[10:45] = 1.5
cell, state, trace = norse.LIFCell(), None, []
for step in current:
    z, state = cell(step, state)
    trace.append((z.item(), state.v.item(), state.i.item()))
results["trace"] = torch.tensor(trace)
print("the neuron spikes at", results["trace"][:, 0].nonzero().flatten().tolist())

# %% The same over time, for a family of currents
family = torch.linspace(0.5, 3.0, 6) * current
lifted = norse.Lift(norse.LIFCell())
spikes, state = lifted(family)
results["family"], results["last"] = spikes, state.v
print("spikes for each current:", spikes.sum(0).int().tolist())
voltages, _ = norse.LI(norse.LIParameters(tau_mem_inv=torch.tensor(1 / 0.02)))(spikes)
results["filtered"] = voltages

# %% Neurons that adapt, beside others
for neuron in (norse.LSNNCell(), norse.LIFAdExCell(), norse.LIFRefracCell(), norse.IAFCell()):
    state, count = None, 0
    for step in 2 * current:
        z, state = neuron(step, state)
        count += int(z)
    print(type(neuron).__name__, count, state._fields)

# %% Encoders of one image
image = torch.rand(2, 5)
for name, encoder in {
    "rate": norse.PoissonEncoder(40, f_max=200),
    "latency": torch.nn.Sequential(norse.ConstantCurrentLIFEncoder(40), norse.SpikeLatencyEncoder()),
    "first": norse.SpikeLatencyLIFEncoder(40, p=norse.LIFParameters(v_th=torch.tensor(0.4))),
}.items():
    results[name] = encoder(3 * image if name != "rate" else image)
    print(name, tuple(results[name].shape), results[name].sum(0).int().flatten().tolist())
encode = PoissonEncoderStep()
results["steps"] = torch.stack([encode(image) for _ in range(10)])

# %% A network, and what hooks see of it
network = norse.SequentialState(
    torch.nn.Linear(5, 8), norse.LIFCell(norse.LIFParameters(method="tanh", alpha=1.0)), norse.LILinearCell(8, 2)
)
seen, gradients = [], []
handles = [
    network[1].register_forward_hook(lambda module, arguments, output: seen.append(output[0].detach())),
    network[1].register_forward_pre_hook(lambda module, arguments: (3 * arguments[0], *arguments[1:])),
    network[0].register_full_backward_hook(lambda module, inner, outer: gradients.append(outer[0])),
]
state, total = None, 0
for spikes in results["rate"]:
    v, state = network((5 * spikes).requires_grad_(), state)
    total = total + v
total.sum().backward()
for handle in handles:
    handle.remove()
network(image)
results["seen"], results["backward"] = torch.stack(seen), torch.stack(gradients)
results["gradient"], results["readout"] = network[0].weight.grad, network[2].input_weights.grad
print(len(seen), "steps seen,", int(results["seen"].sum()), "spikes;", len(gradients), "gradients")
print(network[1])
