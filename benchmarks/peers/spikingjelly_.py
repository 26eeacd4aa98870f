"""SpikingJelly in its multi-step mode, which takes all time steps at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch_side import Digits, Neurons, Work, modules

PACKAGE = "spikingjelly"
DIFFERENCE = "no synaptic current; as LIFBox"
CONTENDERS = {"SpikingJelly": {kind: DIFFERENCE for kind in ("layer", "recurrent", "network", "digits")}}
TAU = 10.0  # steps, as Norse's 10 ms


def _lif() -> Any:
    return neuron.LIFNode(tau=TAU, v_threshold=1.0, v_reset=0.0, surrogate_function=surrogate.ATan())


class _Together(torch.nn.Module):
    """A module without state, to which time and batch are one dimension."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional.seq_to_ann_forward(x, self.module)
        return result


class _Readout(neuron.NonSpikingLIFNode):  # type: ignore[misc]
    """Its readout returns the voltages of all steps as a list; here they are a tensor."""

    step_mode = "m"

    def __init__(self) -> None:
        super().__init__(tau=TAU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(super().forward(x))


def _restarted(model: torch.nn.Module) -> Any:
    def run(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(model)
        output: torch.Tensor = model(x)
        return output

    return run


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits:
    """A contender for a case."""
    if case["kind"] == "layer":
        model: Any = _lif()
        functional.set_step_mode(model, "m")
        return Work(_restarted(model), (), case, arrays)
    if case["kind"] == "recurrent":
        inputs, neurons = case["size"][2:]
        loop = layer.LinearRecurrentContainer(_lif(), neurons, neurons, bias=False)
        with torch.no_grad():
            loop.rc.weight.copy_(torch.cat([torch.eye(neurons), 5 * torch.from_numpy(arrays["weight1"])], 1))
        first = torch.nn.Linear(inputs, neurons, bias=False)
        with torch.no_grad():
            first.weight.copy_(torch.from_numpy(arrays["weight0"])).mul_(5)
        functional.set_step_mode(loop, "m")
        model = torch.nn.Sequential(_Together(first), loop)
        return Work(_restarted(model), model.parameters(), case, arrays)
    parts = modules(case["spec"], arrays, Neurons(_lif, _Readout, lif_gain=5.0, li_gain=5.0))
    model = torch.nn.Sequential(*(part if hasattr(part, "step_mode") else _Together(part) for part in parts))
    functional.set_step_mode(model, "m")
    if case["kind"] == "digits":
        return Digits(_restarted(model), model.parameters(), arrays)
    return Work(_restarted(model), model.parameters(), case, arrays)
