r"""Short-term plasticity of synapses, which tire and facilitate within milliseconds to seconds.

.. math::
    \dot u = -\tau_f^{-1} u, \qquad \dot x = \tau_d^{-1} (1 - x)

At a spike the utilisation :math:`u` grows by :math:`U (1 - u)`, and the synapse releases :math:`u x` of its resources
:math:`x`. Source: M. Tsodyks, K. Pawelzik, H. Markram, *Neural Networks with Dynamic Synapses*, Neural Computation 10 (1998),
821-835.
"""

from __future__ import annotations

from typing import Any

import torch

from .._kernels.weights import read_fields
from ..utils.pytree import StateTuple

__all__ = ["TsodyksMakramParameters", "TsodyksMakramState", "stp_step"]


class TsodyksMakramState(StateTuple):
    """State of synapses with short-term plasticity, each of the synapses' shape.

    Args:
        u: utilisation, the share of the resources that a spike releases, 0 to 1.
        x: share of the resources that is available, 0 to 1.

    Example:
        >>> TsodyksMakramState(u=torch.zeros(2), x=torch.ones(2)).x
        tensor([1., 1.])
    """

    u: torch.Tensor
    x: torch.Tensor


class TsodyksMakramParameters(StateTuple):
    r"""Parameters of synapses with short-term plasticity, numbers or tensors that broadcast to the synapses.

    Args:
        tau_f_inv: inverse time constant of facilitation :math:`1/\tau_f` in 1/s.
        tau_s_inv: inverse synaptic time constant in 1/s, for the current that the user integrates from the output.
        tau_d_inv: inverse time constant of depression :math:`1/\tau_d` in 1/s.
        U: growth of the utilisation at a spike, 0 to 1.

    Example:
        >>> TsodyksMakramParameters(U=0.2).tau_f_inv
        20.0
    """

    tau_f_inv: Any = 1 / (50.0e-3)
    tau_s_inv: Any = 1 / (20.0e-3)
    tau_d_inv: Any = 1 / (750.0e-3)
    U: Any = 0.45


def stp_step(
    z: torch.Tensor, s: TsodyksMakramState, p: TsodyksMakramParameters, dt: float = 0.001
) -> tuple[torch.Tensor, TsodyksMakramState]:
    r"""One time step of synapses with short-term plasticity.

    .. math::
        u' &= u - dt\, \tau_f^{-1} u + U (1 - u) z \\
        x' &= x + dt\, \tau_d^{-1} (1 - x) - u' x z

    Args:
        z: pre-synaptic spikes, any shape.
        s: state of the synapses, of shapes that broadcast with the spikes'.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        What each synapse transmits, :math:`u' x z`, and the new state.

    Raises:
        TypeError: the state is not one of such synapses.
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> s, p = TsodyksMakramState(u=torch.zeros(2), x=torch.ones(2)), TsodyksMakramParameters()
        >>> stp_step(torch.tensor([0.0, 1.0]), s, p)
        (tensor([0.0000, 0.4500]), TsodyksMakramState(u=tensor([0.0000, 0.4500]), x=tensor([1.0000, 0.5500])))
    """
    u, x = read_fields(s, TsodyksMakramState, "s")
    u = u + dt * (-p.tau_f_inv * u) + p.U * (1 - u) * z
    released = u * x * z
    x = x + dt * (p.tau_d_inv * (1 - x)) - released
    return released, TsodyksMakramState(u=u, x=x)
