"""norse_fast."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch_side import Digits, Neurons, Work, modules

import norse_fast as nf
from norse_fast.benchmark.models import MODELS

PACKAGE, VERSION = "norse_fast", nf.__version__
CONTENDERS = {
    "norse_fast": {"layer": "", "recurrent": "", "network": "dense products", "digits": "dense products"},
    "norse_fast LIFBox": {"layer": "no synaptic current"},
    "norse_fast, products": {"network": "products over spikes", "digits": "products over spikes"},
}


def _network(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Any, torch.nn.Module]:
    p = MODELS["LIF"].p
    model = nf.SequentialState(*modules(case["spec"], arrays, Neurons(lambda: nf.LIFCell(p), nf.LICell)))
    lifted = nf.Lift(model)
    how = contextlib.nullcontext if name.endswith("products") else nf.dense_products

    def run(x: torch.Tensor) -> torch.Tensor:
        with how():
            return lifted(x)[0]

    return run, model


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits:
    """A contender for a case."""
    if case["kind"] == "layer":
        layer = MODELS["LIFBox" if name.endswith("LIFBox") else "LIF"].build(nf, "layer")
        return Work(lambda x: layer(x)[0], (), case, arrays)
    if case["kind"] == "recurrent":
        recurrent = nf.LIFRecurrent(*case["size"][2:], MODELS["LIF"].p)
        with torch.no_grad():
            recurrent.input_weights.copy_(torch.from_numpy(arrays["weight0"]))
            recurrent.recurrent_weights.copy_(torch.from_numpy(arrays["weight1"]))
        return Work(lambda x: recurrent(x)[0], recurrent.parameters(), case, arrays)
    run, model = _network(name, case, arrays)
    if case["kind"] == "digits":
        return Digits(run, model.parameters(), arrays)
    return Work(run, model.parameters(), case, arrays)


def release() -> None:
    """Gives memory that waits back to the system."""
    nf.memory.release()
