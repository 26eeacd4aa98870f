"""Weights of a few bits, trained with gradients that pass the rounding: by hand, by PyTorch, and as a parametrization."""

import norse.torch as norse
import torch
from torch.nn.utils import parametrize


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, step):
        ctx.save_for_backward(weights.abs() <= 7 * step)
        return torch.clamp(torch.round(weights / step), -7, 7) * step

    @staticmethod
    def backward(ctx, gradient):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


class Coarse(torch.nn.Linear):
    """Steps of a weight are a seventh of the largest one."""

    def forward(self, x):
        weights = Round.apply(self.weight, self.weight.detach().abs().max() / 7)
        return torch.nn.functional.linear(x, weights, self.bias)


class Fake(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, weights):
        return torch.fake_quantize_per_tensor_affine(weights, self.scale, 0, -8, 7)


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        p = norse.LIFParameters(alpha=1.0, v_th=torch.tensor(0.5))  # alpha=1, as Norse 1.1.0 computes anyway
        self.first, self.second = Coarse(10, 16), torch.nn.Linear(16, 12)
        self.lif1, self.lif2 = norse.LIFCell(p), norse.LIFCell(p)
        self.readout = norse.LILinearCell(12, 3)
        parametrize.register_parametrization(self.second, "weight", Fake(0.04))
        parametrize.register_parametrization(self.readout, "input_weights", Fake(0.05))

    def forward(self, x):
        s1 = s2 = so = None
        total = 0
        for step in x:
            z, s1 = self.lif1(8 * self.first(step), s1)
            z, s2 = self.lif2(8 * self.second(z), s2)
            v, so = self.readout(z, so)
            total = total + v
        return total / len(x)


torch.manual_seed(26)
x, labels = torch.bernoulli(0.3 * torch.ones(20, 8, 10)), torch.randint(0, 3, (8,))
model = MLP()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
results = {}
for epoch in range(4):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(20 * model(x), labels)
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
for name, weights in model.named_parameters():
    results[name], results[f"gradient of {name}"] = weights, weights.grad
levels = torch.unique(model.second.weight.detach() / 0.04).round()
print(len(levels), "levels from", int(levels.min()), "to", int(levels.max()))

# To deploy, the rounded weights take the place of the others.
parametrize.remove_parametrizations(model.second, "weight")
parametrize.remove_parametrizations(model.readout, "input_weights")
with torch.no_grad():
    results["deployed"] = model(x)
print(type(model.readout).__name__, *model.state_dict())
