"""Synapses that learn without backpropagation, by the times of spikes; and the gradient that passes through such a loop."""

import torch
from norse.torch import LIFCell, LIFFeedForwardState, LIFParameters, lif_feed_forward_step
from norse.torch.functional.stdp import STDPParameters, STDPState, stdp_step_conv2d, stdp_step_linear
from norse.torch.functional.stdp_sensor import STDPSensorParameters, STDPSensorState, stdp_sensor_step

torch.manual_seed(27)
results = {}
batch, inputs, outputs = 3, 8, 5
trains = torch.bernoulli(torch.linspace(0.05, 0.5, inputs).expand(30, batch, inputs))

# All rules of how a change depends on the weight.
for rule in ("additive", "additive_step", "multiplicative_pow", "multiplicative_relu"):
    p = STDPParameters(eta_plus=0.02, eta_minus=0.015, stdp_algorithm=rule, mu=0.4, w_min=-0.1, w_max=0.9)
    neurons = LIFCell(p=LIFParameters(method="tanh", alpha=torch.tensor(1.0), v_th=torch.tensor(0.3)))
    start = torch.linspace(0.1, 0.6, outputs * inputs).view(outputs, inputs).requires_grad_()
    w, traces, state, count = start, STDPState(torch.zeros(batch, inputs), torch.zeros(batch, outputs)), None, 0
    for z_pre in trains:
        z_post, state = neurons(2 * torch.nn.functional.linear(z_pre, w), state)
        # The traces and the rule see spikes, not the way that they came about.
        w, traces = stdp_step_linear(z_pre, z_post.detach(), w, traces, p, dt=0.001)
        count = count + z_post
    count.sum().backward()
    results[rule], results[f"{rule} gradient"], results[f"{rule} spikes"] = w, start.grad, count
    results[f"{rule} trace"] = traces.t_post
    print(f"{rule}: {int(count.sum())} spikes, mean weight {w.mean().item():.3f}")

# A kernel that slides.
p = STDPParameters(eta_plus=0.01, eta_minus=0.01, convolutional=True, padding=1)
kernel = 0.5 * torch.rand(4, 2, 3, 3)
images = torch.bernoulli(0.3 * torch.ones(12, batch, 2, 6, 6))
traces = STDPState(torch.zeros(batch, 2, 6, 6), torch.zeros(batch, 4, 6, 6))
shape = (batch, 4, 6, 6)
state = LIFFeedForwardState(v=torch.zeros(shape), i=torch.zeros(shape))
for z_pre in images:
    drive = torch.nn.functional.conv2d(z_pre, kernel, padding=1)
    z_post, state = lif_feed_forward_step(drive, state, LIFParameters(v_th=torch.tensor(0.4)))
    kernel, traces = stdp_step_conv2d(z_pre, z_post, kernel, traces, p)
results["kernel"], results["image"] = kernel, z_post
print(f"mean of the kernel {kernel.mean().item():.3f}, {int(z_post.sum())} spikes in the end")

# Sensors at the synapses of one pair each.
sensors = STDPSensorState(a_pre=torch.zeros(inputs), a_post=torch.zeros(inputs))
for z_pre, z_post in zip(trains[:, 0], trains[:, 1].flip(-1), strict=True):
    sensors = stdp_sensor_step(z_pre, z_post, sensors, STDPSensorParameters(), dt=0.001)
results["causal"], results["acausal"] = sensors.a_pre, sensors.a_post
print("sensors:", sensors._fields)
