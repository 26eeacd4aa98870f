"""What tests of ``accelerate`` share: modules of Norse by name, what drives them, and what they compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import norse_fast as nf

from .models import fields
from .packages import find

norse = find("norse.torch")
snn = norse.module.snn  # not among its public names

INPUTS, NEURONS, STEPS = 4, 6, 30

FEED_FORWARD = ("LIF", "LI", "LIBox", "LIFBox", "IAF", "LIFEx", "LIFAdEx", "LIFRefrac", "LIFAdExRefrac", "LSNN")
WITH_WEIGHTS = ("LIF", "LIFEx", "LIFAdEx", "LIFRefrac", "LIFAdExRefrac", "LSNN")
#: Parameters of Norse by the name of the module.
PARAMETERS = {
    **{f"{name}Cell": f"{name}Parameters" for name in FEED_FORWARD},
    **{name: f"{name}Parameters" for name in ("LIF", "LI", "IAF", "LIFEx", "LIFAdEx", "LSNN")},
    **{f"{name}RecurrentCell": f"{name}Parameters" for name in WITH_WEIGHTS},
    **{f"{name}Recurrent": f"{name}Parameters" for name in WITH_WEIGHTS},
    "LILinearCell": "LIParameters",
    "LIFMCRecurrentCell": "LIFParameters",
    "LIFMCRefracRecurrentCell": "LIFRefracParameters",
}
PATTERNED = ("IzhikevichCell", "Izhikevich", "IzhikevichRecurrentCell")
MODULES = (*PARAMETERS, *PATTERNED)
SURROGATES: list[dict[str, Any]] = [
    {},
    {"method": "tanh", "alpha": 2.0},
    {"method": "circ", "alpha": 0.5},
    {"method": "triangle", "alpha": 0.3},
]


def has_weights(name: str) -> bool:
    return "Recurrent" in name or "Linear" in name


def with_surrogate(p: Any, surrogate: dict[str, Any]) -> Any:
    """Parameters with their surrogate replaced, where they have one."""
    if "method" in p._fields:
        return p._replace(**surrogate)
    return p._replace(**{f: with_surrogate(v, surrogate) for f, v in p._asdict().items() if hasattr(v, "_fields")})


def build(name: str, p: Any = None, library: Any = norse, **surrogate: Any) -> torch.nn.Module:
    sizes = (INPUTS, NEURONS) if has_weights(name) else ()
    if name in PATTERNED:
        pattern = norse.tonic_spiking
        p = with_surrogate(pattern.p, surrogate) if p is None else p
        return getattr(library, name)(*sizes, pattern._replace(p=p))
    p = with_surrogate(getattr(norse, PARAMETERS[name])(), surrogate) if p is None else p
    return getattr(library, name)(*sizes, p=p)


def drive(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width = INPUTS if has_weights(name) else NEURONS
    x = torch.randn(STEPS, 3, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    return 0.5 + x if "IAF" in name else 10 + 40 * x


def run(module: torch.nn.Module, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    """All steps of a layer, or of a cell one by one."""
    if isinstance(module, (nf.SNN, nf.SNNRecurrent, snn.SNN, snn.SNNRecurrent)):
        return module(x, state)
    outputs = []
    for step in x:
        z, state = module(step, state)
        outputs.append(z)
    return torch.stack(outputs), state


def results(module: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, final state, and gradients of the input and the weights."""
    leaves = {"input": x.requires_grad_(), **dict(module.named_parameters())}
    output, state = run(module, x)
    values = {f"state.{name}": value for name, value in fields(state).items()}
    loss = (output * torch.arange(NEURONS)).sum() + sum(value.square().sum() for value in values.values())
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    named = {"output": output, **values, **{f"grad.{name}": g for name, g in zip(leaves, gradients)}}
    return {name: value.detach() for name, value in named.items()}


def reported(model: torch.nn.Module, **options: bool) -> nf.AccelerationReport:
    reports: list[nf.AccelerationReport] = []
    assert nf.accelerate(model, report=reports.append, **options) is model
    return reports[0]


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    """What a model consists of, by identity; bound methods are made anew at each look."""
    parts = {}
    for name, part in model.named_modules():
        attributes = {key: getattr(value, "__func__", value) for key, value in vars(part).items()}
        parts[name] = (id(part), type(part), {key: id(value) for key, value in attributes.items()})
    return parts


class OwnCell(norse.LIFCell):
    def forward(self, input_tensor: torch.Tensor, state: Any = None) -> Any:
        z, state = super().forward(input_tensor, state)
        return 2 * z, state


class Rates(torch.nn.Module):
    """Parameters as a module, which Norse allows."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.tau_mem_inv = torch.nn.Parameter(torch.tensor(100.0))
        for name, value in fields.items():
            setattr(self, name, value)


def assert_loads_without_norse(path: Path, module: torch.nn.Module, x: torch.Tensor, claim: str) -> None:
    """A saved module answers the same, and a claim about it is true, in a process that never imports Norse."""
    torch.save((module, x, module(x)[0]), path)
    code = (
        "import sys, torch, norse_fast as nf\n"
        "module, x, y = torch.load(sys.argv[1], weights_only=False)\n"
        f"assert {claim} and torch.equal(module(x)[0], y)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'norse']\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
