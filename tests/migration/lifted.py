"""Modules and step functions over time: Lift, lift, and layers between them in a SequentialState."""

import norse.torch as norse
import torch
from norse.torch.functional.lift import lift
from norse.torch.module.lift import Lift

torch.manual_seed(12)
x = 10 * torch.rand(15, 2, 1, 8, 8)
model = norse.SequentialState(
    Lift(torch.nn.Conv2d(1, 3, 3)),
    norse.LIF(norse.LIFParameters(method="tanh", alpha=2.0)),
    torch.nn.Flatten(2),
    norse.LIFRecurrent(108, 6, norse.LIFParameters(alpha=1.0)),  # with which Norse 1.1.0 computes anyway
    torch.nn.RNN(6, 4),
    norse.LI(),
)
output, state = model(x)
output.sum().backward()
print(tuple(output.shape), [None if s is None else type(s).__name__ for s in state], *model.state_dict())

cells = norse.Lift(norse.SequentialState(torch.nn.Flatten(), torch.nn.Linear(64, 5), norse.LIFCell(), norse.LICell()))
v, state = cells(x)
v2, state = cells((x, state))
print(tuple(v.shape), len(state))

step = lift(norse.lif_feed_forward_step, p=norse.LIFParameters())
z, last = step(x.flatten(1), state=norse.LIFFeedForwardState(v=torch.zeros(128), i=torch.zeros(128)))
print(int(z.sum()))

results = {"output": output, "kernel": model[0].lifted_module.weight.grad, "v": v, "v2": v2, "z": z, "last": last.v}
