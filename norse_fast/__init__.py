"""norse_fast: the spiking neurons of Norse, fused.

The names, arguments, spikes and gradients are those of ``norse.torch``; each neuron runs all of its time steps in one C++
or CUDA kernel.
"""

from ._extension import VERSION as __version__
from .functional.heaviside import heaviside
from .functional.leaky_integrator import LIParameters, LIState, li_feed_forward_step, li_step
from .functional.lif import (
    LIFFeedForwardState,
    LIFParameters,
    LIFState,
    lif_current_encoder,
    lif_feed_forward_integral,
    lif_feed_forward_step,
    lif_feed_forward_step_sparse,
    lif_step,
    lif_step_integral,
    lif_step_sparse,
)
from .functional.parameter import default_bio_parameters
from .functional.reset import ResetMethod, reset_subtract, reset_value
from .functional.threshold import (
    circ_dist_fn,
    heavi_circ_fn,
    heavi_erfc_fn,
    heavi_tanh_fn,
    logistic_fn,
    super_fn,
    threshold,
    triangle_fn,
)
from .module.leaky_integrator import LI, LICell, LILinearCell
from .module.lif import LIF, LIFCell, LIFRecurrent, LIFRecurrentCell
from .module.sequential import RecurrentSequential, RecurrentSequentialState, SequentialState
from .module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from .utils.pytree import StateTuple

__all__ = [
    "LI",
    "LIF",
    "SNN",
    "LICell",
    "LIFCell",
    "LIFFeedForwardState",
    "LIFParameters",
    "LIFRecurrent",
    "LIFRecurrentCell",
    "LIFState",
    "LILinearCell",
    "LIParameters",
    "LIState",
    "RecurrentSequential",
    "RecurrentSequentialState",
    "ResetMethod",
    "SNNCell",
    "SNNRecurrent",
    "SNNRecurrentCell",
    "SequentialState",
    "StateTuple",
    "__version__",
    "circ_dist_fn",
    "default_bio_parameters",
    "heavi_circ_fn",
    "heavi_erfc_fn",
    "heavi_tanh_fn",
    "heaviside",
    "li_feed_forward_step",
    "li_step",
    "lif_current_encoder",
    "lif_feed_forward_integral",
    "lif_feed_forward_step",
    "lif_feed_forward_step_sparse",
    "lif_step",
    "lif_step_integral",
    "lif_step_sparse",
    "logistic_fn",
    "reset_subtract",
    "reset_value",
    "super_fn",
    "threshold",
    "triangle_fn",
]
