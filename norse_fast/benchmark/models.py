"""The models under test; a new one is a row of MODELS."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any, NamedTuple

import torch

import norse_fast

from ..functional.leaky_integrator import LIParameters
from ..functional.lif import LIFParameters

__all__ = ["MODELS", "UNIT_ALPHA", "Model", "import_norse"]

# Norse 1.1.0 ignores the steepness of its "super" surrogate and differentiates as 1 / (|x| + 1)^2. A steepness of 1
# makes norse_fast the same.
UNIT_ALPHA = torch.tensor(1.0)


class Model(NamedTuple):
    """A neuron model of which norse_fast, and where it has it Norse, have a layer and a cell of the same names.

    Args:
        layer: name of the module that takes all time steps.
        cell: name of the module that takes one time step.
        p: parameters for norse_fast that make it equal to Norse with its defaults.
    """

    layer: str
    cell: str
    p: Any

    def build(self, library: ModuleType, kind: str) -> torch.nn.Module:
        """The layer or the cell of a library."""
        cls = getattr(library, getattr(self, kind))
        module: torch.nn.Module = cls(self.p) if library is norse_fast else cls()
        return module


MODELS = {
    "LIF": Model("LIF", "LIFCell", LIFParameters(alpha=UNIT_ALPHA)),
    "LI": Model("LI", "LICell", LIParameters()),
}


def import_norse() -> ModuleType | None:
    """``norse.torch``, or None where Norse is not installed."""
    with warnings.catch_warnings():
        # Norse compiles some functions with the deprecated torch.jit.script as it is imported.
        warnings.simplefilter("ignore")
        try:
            import norse.torch
        except ImportError:
            return None
    module: ModuleType = norse.torch
    return module
