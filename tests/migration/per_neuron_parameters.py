"""Parameters per neuron, learnt time constants, a model that goes to float64 and back through a state_dict."""

import norse.torch as norse
import torch
from norse.torch import LIFBoxCell, LIFBoxParameters, LIFCell, LIFParameters


class Learnt(torch.nn.Module):
    """LIF neurons that learn their membrane time constants and thresholds."""

    def __init__(self, neurons):
        super().__init__()
        self.tau_mem_inv = torch.nn.Parameter(torch.full((neurons,), 120.0))
        self.v_th = torch.nn.Parameter(torch.linspace(0.5, 1.5, neurons))
        self.cell = LIFCell(
            p=LIFParameters(
                tau_syn_inv=torch.full((neurons,), 150.0).to(self.v_th.device),
                tau_mem_inv=self.tau_mem_inv,
                v_leak=torch.zeros(neurons),
                v_th=self.v_th,
                method="circ",
                alpha=0.5,
            )
        )

    def forward(self, x):
        state, total = None, 0
        for step in x:
            z, state = self.cell(step, state)
            total = total + z
        return total


torch.manual_seed(4)
x = 8 * torch.rand(30, 5, 6)
model = Learnt(6)
print(*model.state_dict())
optimizer = torch.optim.SGD([{"params": [model.tau_mem_inv], "lr": 10.0}, {"params": [model.v_th], "lr": 0.001}])
for _ in range(4):
    optimizer.zero_grad()
    loss = (model(x).mean(0) - 10).square().mean()
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.1f}")

other = Learnt(6)
other.load_state_dict(model.state_dict())
print("the same after loading:", torch.equal(other(x), model(x)))

# Steps of one millisecond in units of milliseconds.
box = LIFBoxCell(LIFBoxParameters(tau_mem_inv=0.1, v_leak=torch.tensor(0.0), reset_method=norse.reset_subtract), dt=1)
state = None
for step in x:
    z, state = box(step, state)

double = LIFCell().double()
z64, s64 = double(x[0].double())
z64, s64 = double(x[1].double(), s64)
print(z64.dtype, s64.v.dtype)

results = {
    "rates": model.tau_mem_inv,
    "thresholds": model.v_th,
    "box": state.v,
    "double": s64.v,
    "total": model(x),
    "moved": LIFParameters(v_th=torch.ones(3)).to("cpu").v_th,
}
