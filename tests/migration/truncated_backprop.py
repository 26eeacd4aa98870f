"""Gradients that go back a window of time and no further: states are cut between windows, field by field."""

import norse.torch as norse
import torch
from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters


def cut(state):
    """The same state without its past, whatever it is made of."""
    if state is None:
        return None
    if isinstance(state, torch.Tensor):
        return state.detach()
    if hasattr(state, "_fields"):
        return type(state)(*[cut(field) for field in state])
    return [cut(each) for each in state]


torch.manual_seed(28)
x = 6 * torch.rand(32, 4, 6)
target = torch.sin(torch.linspace(0, 6, 32))[:, None, None].expand(32, 4, 2) * 0.1
# With alpha=1 Norse 1.1.0 computes anyway.
p = LIFParameters(alpha=1.0, v_th=torch.tensor(0.5))
results = {}

# Cells in one container, a step at a time.
cells = norse.SequentialState(
    torch.nn.Linear(6, 10),
    norse.LIFRefracCell(norse.LIFRefracParameters(lif=p)),
    norse.LIFRecurrentCell(10, 10, p=p),
    norse.LILinearCell(10, 2),
)
# Layers over time, a window at a time.
adapting = norse.LSNNParameters(method="circ", alpha=1.0, v_th=torch.tensor(0.4))
layers = norse.SequentialState(norse.LSNNRecurrent(6, 10, p=adapting), torch.nn.Linear(10, 2), norse.LI())

for name, model in {"cells": cells, "layers": layers}.items():
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state, losses = None, []
    for window, wanted in zip(x.split(8), target.split(8), strict=True):
        state = cut(state)
        if name == "cells":
            outputs = []
            for step in window:
                v, state = model(step, state)
                outputs.append(v)
            output = torch.stack(outputs)
        else:
            output, state = model(window, state)
        loss = (output - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(name, [None if s is None else type(s).__name__ for s in state])
    results[f"{name} losses"], results[f"{name} output"] = torch.tensor(losses), output
    for key, weights in model.named_parameters():
        results[f"{name} {key}"], results[f"{name} gradient of {key}"] = weights, weights.grad

# By name, or only some of the fields.
linear, cell = torch.nn.Linear(6, 5), norse.LIFCell(p)
state, total = None, 0
for number, step in enumerate(x):
    z, state = cell(2 * linear(step), state)
    total = total + z
    if number % 8 == 7:
        state = LIFFeedForwardState(v=state.v.detach(), i=state.i.detach())
    elif number % 8 == 3:
        state = state._replace(i=state.i.detach())
total.mean().backward()
results["spikes"], results["one cell"] = total, linear.weight.grad
print("spikes of one cell:", int(total.sum()))
