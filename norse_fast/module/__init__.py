"""Modules: neurons that create their own state, over one step or over time, and containers for them."""

from .leaky_integrator import *
from .lif import *
from .sequential import *
from .snn import *
