"""Modules: neurons that create their own state, over one step or over time, and containers for them."""

from types import ModuleType as _ModuleType

from .coba_lif import *
from .izhikevich import *
from .leaky_integrator import *
from .lif import *
from .lif_correlation import *
from .lif_mc import *
from .lif_mc_refrac import *
from .lsnn import *
from .sequential import *
from .snn import *

# The public names of the modules above, without the modules themselves.
__all__ = [name for name, value in globals().items() if name[0] != "_" and not isinstance(value, _ModuleType)]
