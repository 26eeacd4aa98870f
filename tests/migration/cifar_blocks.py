"""Colour images: blocks that functions build for a SequentialState, and a container of one's own that asks for states."""

from itertools import pairwise

import norse.torch as norse
import torch
from norse.torch.functional.lif import LIFParameters
from norse.torch.utils.state import _is_module_stateful


def block(channels_in, channels_out, p, pool=True):
    """A convolution, neurons, and where the image is to shrink a pool."""
    yield torch.nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    yield torch.nn.BatchNorm2d(channels_out)
    yield norse.LIFCell(p)
    if pool:
        yield torch.nn.MaxPool2d(2)


def blocks(channels, p):
    for number, pair in enumerate(pairwise(channels)):
        yield from block(*pair, p, pool=number > 0)


class Residual(torch.nn.Module):
    """Adds its input to what its modules make of it, and keeps the states of those that have one."""

    def __init__(self, *modules):
        super().__init__()
        self.inner = torch.nn.ModuleList(modules)
        self.stateful = [_is_module_stateful(module) for module in modules]

    def forward(self, x, state=None):
        state = [None] * len(self.inner) if state is None else list(state)
        y = x
        for index, (module, stateful) in enumerate(zip(self.inner, self.stateful, strict=True)):
            if stateful:
                y, state[index] = module(y, state[index])
            else:
                y = module(y)
        return x + y, state


class Classifier(torch.nn.Module):
    def __init__(self, p, steps):
        super().__init__()
        self.steps = steps
        self.features = norse.SequentialState(
            *blocks((3, 4, 6), p), Residual(*block(6, 6, p, pool=False)), *block(6, 8, p), torch.nn.Flatten()
        )
        self.decision = norse.SequentialState(torch.nn.Linear(8 * 2 * 2, 5, bias=False), norse.LICell())

    def forward(self, x):
        features = decision = None
        voltages = torch.empty(self.steps, len(x), 5)
        for step in range(self.steps):
            z, features = self.features(x, features)
            voltages[step], decision = self.decision(z, decision)
        return voltages.max(0).values, features


torch.manual_seed(25)
model = Classifier(LIFParameters(method="tanh", alpha=torch.tensor(2.0), v_th=torch.tensor(0.1)), steps=10)
print([_is_module_stateful(part) for part in model.features])
x, labels = 2 * torch.rand(4, 3, 8, 8), torch.randint(0, 5, (4,))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
for _ in range(2):
    optimizer.zero_grad()
    scores, states = model(x)
    loss = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.2)
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.3f}", [type(state).__name__ for state in states])

results = {"scores": scores, "inner": states[7][2].v}
for name, weights in model.named_parameters():
    results[name], results[f"gradient of {name}"] = weights, weights.grad
model.eval()
with torch.no_grad():
    results["evaluated"], _ = model(x)
print(*model.state_dict())
