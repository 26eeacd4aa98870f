"""``torch.nn.RNN``: a recurrent layer without spikes, which is one call of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_side import Work

PACKAGE = "torch"
CONTENDERS = {"nn.RNN": {"recurrent": "no spikes: a rectified sum"}}


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work:
    """A contender for a case."""
    layer = torch.nn.RNN(*case["size"][2:], nonlinearity="relu", bias=False)
    return Work(lambda x: layer(x)[0], layer.parameters(), case, arrays)
