"""norse_fast: the spiking neurons of Norse, fused.

The names, arguments, spikes and gradients are those of ``norse.torch``; each neuron runs all of its time steps in one C++
or CUDA kernel.
"""

from . import memory
from ._accelerate import AccelerationReport, accelerate, revert
from ._kernels.extension import VERSION as __version__
from ._kernels.extension import backends, kernels_disabled
from .functional import *
from .models import *
from .module import *
from .utils.export_nir import to_nir
from .utils.import_nir import from_nir
from .utils.pytree import StateTuple
