"""norse_fast: the spiking neurons of Norse, fused.

The names, arguments, spikes and gradients are those of ``norse.torch``; each neuron runs all of its time steps in one C++
or CUDA kernel.
"""

# `as` tells type checkers that a name is public here.
from . import memory as memory
from ._accelerate import AccelerationReport as AccelerationReport
from ._accelerate import accelerate as accelerate
from ._accelerate import revert as revert
from ._info import info as info
from ._kernels.extension import VERSION as _VERSION
from ._kernels.extension import backends as backends
from ._kernels.extension import kernels_disabled as kernels_disabled
from .functional import *
from .models import *
from .module import *
from .utils.export_nir import to_nir as to_nir
from .utils.import_nir import from_nir as from_nir
from .utils.pytree import StateTuple as StateTuple

__version__ = _VERSION
