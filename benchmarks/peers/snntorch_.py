"""snnTorch: a loop over time steps, as its tutorials write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch_side import Digits, Neurons, Work, modules, over_time

PACKAGE = "snntorch"
CURRENT = "a reset subtracts the threshold, a step later"
CONTENDERS = {
    "snnTorch": {kind: CURRENT for kind in ("layer", "recurrent", "network", "digits")},
    "snnTorch Leaky": {"layer": "no synaptic current; as LIFBox"},
}
# With steps of 1 ms, those of Norse: 5 ms of the current, 10 ms of the membrane.
ALPHA, BETA = 0.8, 0.9
SLOPE = surrogate.fast_sigmoid(slope=1)


def _synaptic(**options: Any) -> Any:
    return snntorch.Synaptic(alpha=ALPHA, beta=BETA, spike_grad=SLOPE, init_hidden=True, **options)


class _Voltage(torch.nn.Module):
    """A leaky readout that returns its voltage."""

    def __init__(self) -> None:
        super().__init__()
        self.leaky = snntorch.Leaky(beta=BETA, reset_mechanism="none", init_hidden=True, output=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        voltage: torch.Tensor = self.leaky(x)[1]
        return voltage


def _restarted(model: torch.nn.Module) -> Any:
    """The model over time, from no state."""
    stepped = over_time(model)

    def run(x: torch.Tensor) -> torch.Tensor:
        for module in model.modules():
            for name in ("mem", "syn", "spk"):
                if isinstance(getattr(module, name, None), torch.Tensor):
                    setattr(module, name, torch.zeros(0))
        return stepped(x)

    return run


class _Recurrent(torch.nn.Module):
    def __init__(self, inputs: int, neurons: int, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.first = torch.nn.Linear(inputs, neurons, bias=False)
        self.neurons = snntorch.RSynaptic(
            alpha=ALPHA, beta=BETA, linear_features=neurons, spike_grad=SLOPE, init_hidden=True
        )
        with torch.no_grad():
            self.first.weight.copy_(torch.from_numpy(arrays["weight0"])).mul_(0.1)
            self.neurons.recurrent.weight.copy_(torch.from_numpy(arrays["weight1"])).mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes: torch.Tensor = self.neurons(self.first(x))
        return spikes


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits:
    """A contender for a case."""
    if case["kind"] == "layer":
        leaky = snntorch.Leaky(beta=BETA, spike_grad=SLOPE, init_hidden=True, reset_mechanism="zero", reset_delay=False)
        model = leaky if name.endswith("Leaky") else _synaptic()
        return Work(_restarted(model), (), case, arrays, input_gain=0.1)
    if case["kind"] == "recurrent":
        model = _Recurrent(*case["size"][2:], arrays)
        return Work(_restarted(model), model.parameters(), case, arrays)
    neurons = Neurons(_synaptic, _Voltage, lif_gain=0.1, li_gain=0.5)
    model = torch.nn.Sequential(*modules(case["spec"], arrays, neurons))
    if case["kind"] == "digits":
        return Digits(_restarted(model), model.parameters(), arrays)
    return Work(_restarted(model), model.parameters(), case, arrays)
