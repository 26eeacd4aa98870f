"""Step functions of neurons, spike functions and resets: everything without trainable state of its own."""

from .heaviside import *
from .leaky_integrator import *
from .lif import *
from .parameter import *
from .reset import *
from .superspike import *
from .threshold import *
