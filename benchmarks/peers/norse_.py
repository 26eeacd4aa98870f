"""Norse: its layers as shipped, and its cells, called step by step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch_side import Digits, Neurons, Work, modules

from norse_fast.benchmark.neurons import QUADRATIC_STEPS, over_time

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles functions with a deprecated part of PyTorch as it is imported
    import norse.torch as norse

PACKAGE = "norse"
SQUARE = "time of its backward pass grows with the square of the steps"
CONTENDERS = {
    "Norse": {"layer": "", "recurrent": "", "network": "step by step", "digits": "step by step"},
    "Norse cell": {"layer": "its cell, step by step"},
}


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits | str:
    """A contender for a case, or why there is none."""
    if case["kind"] in ("layer", "recurrent") and name == "Norse" and case["size"][0] >= QUADRATIC_STEPS:
        return SQUARE
    if case["kind"] == "layer":
        if name == "Norse cell":
            return Work(over_time(norse.LIFCell()), (), case, arrays)
        layer = norse.LIF()
        return Work(lambda x: layer(x)[0], (), case, arrays)
    if case["kind"] == "recurrent":
        recurrent = norse.LIFRecurrent(*case["size"][2:])
        with torch.no_grad():
            recurrent.input_weights.copy_(torch.from_numpy(arrays["weight0"]))
            recurrent.recurrent_weights.copy_(torch.from_numpy(arrays["weight1"]))
        return Work(lambda x: recurrent(x)[0], recurrent.parameters(), case, arrays)
    model = norse.SequentialState(*modules(case["spec"], arrays, Neurons(norse.LIFCell, norse.LICell)))
    run = over_time(model)
    if case["kind"] == "digits":
        return Digits(run, model.parameters(), arrays)
    return Work(run, model.parameters(), case, arrays)
