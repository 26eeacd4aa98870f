r"""Sensors for spike-timing-dependent plasticity: one decaying trace of the spikes before and behind each synapse.

.. math::
    \dot a_{pre} = -\tau_c^{-1} a_{pre}, \qquad \dot a_{post} = -\tau_c^{-1} a_{post}

with jumps of :math:`\eta_p` and :math:`\eta_m` at pre- and post-synaptic spikes.

Source: A. Morrison, M. Diesmann, W. Gerstner, *Phenomenological models of synaptic plasticity based on spike timing*,
Biological Cybernetics 98 (2008), 459-478.
"""

from __future__ import annotations

from typing import Any

import torch

from .._constants import constant
from .._kernels.weights import read_fields
from ..utils.pytree import StateTuple

__all__ = ["STDPSensorParameters", "STDPSensorState", "stdp_sensor_step"]


class STDPSensorParameters(StateTuple):
    r"""Parameters of an STDP sensor, numbers or tensors that broadcast to the neurons.

    Args:
        eta_p: what a pre-synaptic spike adds to its trace, without unit.
        eta_m: what a post-synaptic spike adds to its trace, without unit.
        tau_ac_inv: not used, as in Norse.
        tau_c_inv: inverse time constant of both traces in 1/s.

    Example:
        >>> STDPSensorParameters(eta_p=0.5).tau_c_inv
        tensor(10.)
    """

    eta_p: Any = constant(1.0)
    eta_m: Any = constant(1.0)
    tau_ac_inv: Any = constant(1.0 / 100e-3)
    tau_c_inv: Any = constant(1.0 / 100e-3)


class STDPSensorState(StateTuple):
    """State of an STDP sensor.

    Args:
        a_pre: trace of the pre-synaptic spikes, without unit, for example ``(B, pre)``.
        a_post: trace of the post-synaptic spikes, for example ``(B, post)``.

    Example:
        >>> STDPSensorState(a_pre=torch.zeros(1, 2), a_post=torch.zeros(1, 3)).a_post.shape
        torch.Size([1, 3])
    """

    a_pre: torch.Tensor
    a_post: torch.Tensor


def stdp_sensor_step(
    z_pre: torch.Tensor,
    z_post: torch.Tensor,
    state: STDPSensorState,
    p: STDPSensorParameters = STDPSensorParameters(),
    dt: float = 0.001,
) -> STDPSensorState:
    r"""One time step of an STDP sensor.

    .. math::
        a_{pre}'  &= a_{pre} - dt\, \tau_c^{-1} a_{pre} + \eta_p z_{pre} \\
        a_{post}' &= a_{post} - dt\, \tau_c^{-1} a_{post} + \eta_m z_{post}

    Args:
        z_pre: pre-synaptic spikes, for example ``(B, pre)``.
        z_post: post-synaptic spikes, for example ``(B, post)``.
        state: traces, of shapes that broadcast with the spikes'.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        The new traces.

    Raises:
        TypeError: the state is not one of an STDP sensor.
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> state = STDPSensorState(a_pre=torch.ones(2), a_post=torch.ones(1))
        >>> stdp_sensor_step(torch.tensor([0.0, 1.0]), torch.zeros(1), state)
        STDPSensorState(a_pre=tensor([0.9900, 1.9900]), a_post=tensor([0.9900]))
    """
    a_pre, a_post = read_fields(state, STDPSensorState)
    a_pre = a_pre + dt * (p.tau_c_inv * -a_pre)
    a_post = a_post + dt * (p.tau_c_inv * -a_post)
    return STDPSensorState(a_pre=a_pre + z_pre * p.eta_p, a_post=a_post + z_post * p.eta_m)
