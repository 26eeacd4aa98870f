"""The other neurons: adaptive exponential, Izhikevich, spike frequency adaptation, compartments, with default parameters."""

import norse.torch as norse
import torch
from norse.torch.functional.coba_lif import CobaLIFFeedForwardState, CobaLIFParameters, coba_lif_feed_forward_step
from norse.torch.functional.izhikevich import tonic_bursting, tonic_spiking

torch.manual_seed(10)
x = 40 * torch.rand(40, 3, 4)
results = {}
for name, module in {
    "adex": norse.LIFAdExCell(),
    "exponential": norse.LIFExCell(norse.LIFExParameters(delta_T=torch.tensor(0.3))),
    "adex refractory": norse.LIFAdExRefracCell(),
    "adex refractory recurrent": norse.LIFAdExRefracRecurrentCell(4, 5),
    "lsnn": norse.LSNNCell(norse.LSNNParameters(beta=torch.tensor(0.5))),
    "iaf": norse.IAFCell(),
    "li box": norse.LIBoxCell(),
    "tonic spiking": norse.IzhikevichCell(tonic_spiking),
    "tonic bursting recurrent": norse.IzhikevichRecurrentCell(4, 5, tonic_bursting),
    "compartments": norse.LIFMCRecurrentCell(4, 5),
    "refractory compartments": norse.LIFMCRefracRecurrentCell(4, 5),
}.items():
    state, outputs = None, []
    with torch.no_grad():
        for step in x:
            output, state = module(step, state)
            outputs.append(output)
    results[name] = torch.stack(outputs)
    print(f"{name}: {int(results[name].sum())}, {list(module.state_dict())}")

for name, layer in {
    "layer li": norse.LI(),
    "layer iaf": norse.IAF(),
    "layer exponential": norse.LIFEx(),
    "layer izhikevich": norse.Izhikevich(tonic_spiking),
    "layer adex": norse.LIFAdEx(norse.LIFAdExParameters(adaptation_spike=torch.tensor(0.5))),
}.items():
    results[name], _ = layer(x)
    print(f"{name}: {int(results[name].sum())}")

p = CobaLIFParameters(v_rest=torch.tensor(-65.0), v_thresh=torch.tensor(-50.0), v_reset=torch.tensor(-65.0))
state = CobaLIFFeedForwardState(v=torch.full((3, 4), -65.0), g_e=torch.zeros(3, 4), g_i=torch.zeros(3, 4))
for step in x:
    z, state = coba_lif_feed_forward_step(step - 10, state, p)
results["conductances"] = state.v
