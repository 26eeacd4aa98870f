"""Step functions of neurons and synapses, spike functions, codes and fields: everything without state of its own."""

# What modules import as `name as name` they do not need: Norse's hand it on, and programs rely on that.
import types as _types
import typing as _typing

from .coba_lif import *
from .correlation_sensor import *
from .decode import *
from .delay import *
from .encode import *
from .filter import *
from .heaviside import *
from .iaf import *
from .izhikevich import *
from .leaky_integrator import *
from .leaky_integrator_box import *
from .lif import *
from .lif_adex import *
from .lif_adex_refrac import *
from .lif_box import *
from .lif_correlation import *
from .lif_ex import *
from .lif_mc import *
from .lif_mc_refrac import *
from .lif_refrac import *
from .lift import *
from .logical import *
from .lsnn import *
from .parameter import *
from .qif import *
from .receptive_field import *
from .regularization import *
from .reset import *
from .sparse_gradients import *
from .spike_products import *
from .spikes_to_times_decoder import *
from .stdp import *
from .stdp_sensor import *
from .superspike import *
from .threshold import *
from .tsodyks_makram import *

if not _typing.TYPE_CHECKING:
    # The public names of the modules above, without the modules themselves; type checkers take the imports as they are.
    __all__ = [name for name, value in globals().items() if name[0] != "_" and not isinstance(value, _types.ModuleType)]
