"""Parameters and states declared as Norse's own are, with other bases too, and a program that asks for them by type."""

import norse.torch as norse
import torch
from norse.torch.functional.izhikevich import IzhikevichState, izhikevich_feed_forward_step, tonic_spiking_p
from norse.torch.functional.lif_refrac import lif_feed_forward_step
from norse.torch.functional.threshold import super_fn, threshold
from norse.torch.module.snn import FeedforwardActivation, SNNCell
from norse.torch.utils import pytree


class Described:
    def describe(self):
        return f"{type(self).__name__} with {', '.join(self._fields)}"


class FatigueParameters(pytree.StateTuple, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    tau_inv: torch.Tensor = torch.tensor(60.0)
    v_th: torch.Tensor = torch.tensor(0.7)
    fatigue: float = 0.25
    method: str = "tanh"


class FatigueState(Described, pytree.StateTuple, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    v: torch.Tensor
    w: torch.Tensor


def fatigue_step(x, state, p, dt):
    v = state.v + dt * p.tau_inv * (x - state.v - state.w)
    z = threshold(v - p.v_th, p.method, 1.0)
    return z, FatigueState(v - z * p.v_th, 0.9 * state.w + p.fatigue * z)


step: FeedforwardActivation = fatigue_step
x = 6 * torch.rand(25, 3, 4, generator=torch.Generator().manual_seed(11), requires_grad=False)
results = {}

cell = SNNCell(step, lambda x: FatigueState(torch.zeros_like(x), torch.zeros_like(x)), FatigueParameters(), dt=0.01)
leaf = x.clone().requires_grad_()
model = norse.SequentialState(cell, torch.nn.Flatten(), norse.LICell())
state, total = None, 0
for frame in leaf:
    v, state = model(frame, state)
    total = total + v
total.sum().backward()
results["readout"], results["gradient"] = v, leaf.grad
inner = state[0]
print(inner.describe(), isinstance(inner, pytree.StateTuple), isinstance(inner, Described), isinstance(inner, tuple))

moved = inner.to(torch.float64)
results["moved"] = moved.w
print(type(moved).__name__, moved.v.dtype, FatigueParameters().float().fatigue, cell.p.method)
doubled = pytree.tree_map_only(torch.Tensor, lambda t: 2 * t, inner)
results["doubled"] = doubled.v
results["broadcast"] = FatigueParameters().broadcast(torch.zeros(2, 2)).v_th
only = pytree.map_only(str)(str.upper)
print(only("a"), only(1))

state = norse.LIFFeedForwardState(torch.zeros(3, 4), torch.zeros(3, 4))
z, state = lif_feed_forward_step(x[0], state, norse.LIFParameters())
results["lif"] = state.v
cortex = IzhikevichState(torch.full((3, 4), -65.0), torch.full((3, 4), -13.0))
z, cortex = izhikevich_feed_forward_step(20 * x[0], cortex, tonic_spiking_p)
results["cortex"], results["spikes"] = cortex.v, super_fn(x[0] - 3)
weights = (
    torch.rand(4, generator=torch.Generator().manual_seed(12)),
    torch.rand(2, generator=torch.Generator().manual_seed(13)),
)
one = norse.LIFState(torch.ones(2), torch.zeros(2), torch.zeros(2))
for frame in x[:, 0]:
    z, one = norse.lif_step(frame, one, *weights, norse.LIFParameters())
results["vectors"] = one.i
