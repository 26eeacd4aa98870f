"""Neurons of one's own on the base classes, and step functions called without any module."""

from typing import NamedTuple

import norse.torch as norse
import torch
from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step, lif_step
from norse.torch.functional.threshold import heavi_tanh_fn, threshold
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrentCell


class IntegratorState(NamedTuple):
    v: torch.Tensor


class IntegratorParameters(NamedTuple):
    leak: torch.Tensor = torch.tensor(50.0)
    v_th: torch.Tensor = torch.tensor(0.8)


def integrator_step(x, state, p, dt):
    v = state.v + x - dt * p.leak * state.v
    z = threshold(v - p.v_th, "tanh", 1.0)
    return z, IntegratorState(v - z * p.v_th)


def recurrent_step(x, state, input_weights, recurrent_weights, p, dt):
    drive = torch.nn.functional.linear(x, input_weights) + torch.nn.functional.linear(state.v, recurrent_weights)
    return integrator_step(drive, state, p, dt)


x = torch.rand(15, 4, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
results = {}

cell = SNNCell(integrator_step, lambda x: IntegratorState(torch.zeros_like(x)), IntegratorParameters(), dt=0.01)
leaf = x.clone().requires_grad_()
state, total = None, 0
for step in leaf:
    z, state = cell(step, state)
    total = total + z
total.sum().backward()
results["cell"], results["gradient"] = total, leaf.grad
print("spikes of the integrator:", int(total.sum()))

layer = SNN(
    integrator_step, lambda x: IntegratorState(torch.zeros_like(x[0])), IntegratorParameters(), record_states=True
)
results["layer"], states = layer(x)
print(type(states).__name__, tuple(states.v.shape))

torch.manual_seed(8)
recurrent = SNNRecurrentCell(
    recurrent_step, lambda x: IntegratorState(torch.zeros(x.shape[0], 3)), 5, 3, IntegratorParameters()
)
z, state = recurrent(x[0])
z, state = recurrent(x[1], state)
results["recurrent"] = state.v
print(recurrent)

# A step of the library with a start of one's own.
half = SNNCell(
    lif_feed_forward_step, lambda x: LIFFeedForwardState(torch.full_like(x, 0.5), torch.zeros_like(x)), LIFParameters()
)
z, state = half(10 * x[0])
results["half"] = state.v

weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(9)), torch.zeros(3, 3)
zeros = torch.zeros(4, 3)
state = norse.LIFState(zeros, zeros, zeros)
for step in x:
    z, state = lif_step(30 * step, state, *weights, LIFParameters(), dt=0.002)
results["step"] = state.v

state = norse.LIState(v=torch.zeros(4, 5), i=torch.zeros(4, 5))
for step in x:
    v, state = norse.li_feed_forward_step(step, state, norse.LIParameters())
results["li"] = v
results["tanh"] = heavi_tanh_fn(x[0] - 0.5, 1.0)
print("above one half:", int(results["tanh"].sum()))
