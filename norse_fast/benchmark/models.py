"""The models under test; a new one is a row of MODELS."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any, NamedTuple

import torch

import norse_fast

from ..functional.coba_lif import CobaLIFParameters
from ..functional.iaf import IAFParameters
from ..functional.izhikevich import tonic_spiking
from ..functional.leaky_integrator import LIParameters
from ..functional.leaky_integrator_box import LIBoxParameters
from ..functional.lif import LIFParameters
from ..functional.lif_adex import LIFAdExParameters
from ..functional.lif_adex_refrac import LIFAdExRefracParameters
from ..functional.lif_box import LIFBoxParameters
from ..functional.lif_ex import LIFExParameters
from ..functional.lif_refrac import LIFRefracParameters
from ..functional.lsnn import LSNNParameters
from ..functional.qif import QIFParameters

__all__ = ["MODELS", "UNIT_ALPHA", "WITH_DETAILS", "Model", "import_norse"]

# Norse 1.1.0 ignores the steepness of its "super" surrogate and differentiates as 1 / (|x| + 1)^2. A steepness of 1
# makes norse_fast the same.
UNIT_ALPHA = torch.tensor(1.0)


class Model(NamedTuple):
    """A neuron model of which norse_fast has a layer and a cell, and Norse at least a cell of the same name.

    Args:
        layer: name of the module that takes all time steps.
        cell: name of the module that takes one time step.
        p: parameters for norse_fast that make it equal to Norse with its defaults.
        exact: whether results are equal bit for bit, which they are without ``exp``.
        drive: mean of the input.
        behavior: name of the firing pattern that Norse's constructor asks for.
        no_norse: why there is no comparison with Norse, or empty.
    """

    layer: str
    cell: str
    p: Any
    exact: bool = True
    drive: float = 0.0
    behavior: str = ""
    no_norse: str = ""

    def build(self, library: ModuleType, kind: str) -> torch.nn.Module:
        """The layer or the cell of a library."""
        cls = getattr(library, getattr(self, kind))
        theirs = [getattr(library, self.behavior)] if self.behavior else []
        module: torch.nn.Module = cls(self.p) if library is norse_fast else cls(*theirs)
        return module


_LIF, _LIF_ADEX = LIFParameters(alpha=UNIT_ALPHA), LIFAdExParameters(alpha=UNIT_ALPHA)
_TONIC = tonic_spiking._replace(p=tonic_spiking.p._replace(alpha=UNIT_ALPHA))

MODELS = {
    "LIF": Model("LIF", "LIFCell", _LIF),
    "LI": Model("LI", "LICell", LIParameters()),
    "LIBox": Model("LIBox", "LIBoxCell", LIBoxParameters()),
    "LIFBox": Model("LIFBox", "LIFBoxCell", LIFBoxParameters(alpha=UNIT_ALPHA)),
    "IAF": Model("IAF", "IAFCell", IAFParameters(alpha=UNIT_ALPHA)),
    "QIF": Model("QIF", "QIFCell", QIFParameters(alpha=UNIT_ALPHA), no_norse="no such cell"),
    "LIFEx": Model("LIFEx", "LIFExCell", LIFExParameters(alpha=UNIT_ALPHA), exact=False),
    "LIFAdEx": Model("LIFAdEx", "LIFAdExCell", _LIF_ADEX, exact=False),
    "LIFRefrac": Model("LIFRefrac", "LIFRefracCell", LIFRefracParameters(_LIF)),
    "LIFAdExRefrac": Model("LIFAdExRefrac", "LIFAdExRefracCell", LIFAdExRefracParameters(_LIF_ADEX), exact=False),
    "LSNN": Model("LSNN", "LSNNCell", LSNNParameters(alpha=UNIT_ALPHA)),
    "Izhikevich": Model("Izhikevich", "IzhikevichCell", _TONIC, drive=14.0, behavior="tonic_spiking"),
    "CobaLIF": Model("CobaLIF", "CobaLIFFeedForwardCell", CobaLIFParameters(), no_norse="no such cell"),
}

#: The models that part neurons measures at several sizes; part models measures all.
WITH_DETAILS = ("LIF", "LI")


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
