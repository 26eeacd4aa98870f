r"""Izhikevich's neuron: a quadratic membrane equation with a recovery variable, which fires in many patterns.

.. math::
    \dot v &= \tau^{-1} (sq\, v^2 + mn\, v + bias - u + I) \\
    \dot u &= \tau^{-1} a (b v - u)

with a spike :math:`z = H(v - v_{th})`, after which :math:`v` is set to :math:`c` and :math:`u` grows by :math:`d`.
Potentials are in mV; the equations are per millisecond times :math:`\tau^{-1}`, in 1/s.

Source: E. Izhikevich, *Simple Model of Spiking Neurons*, IEEE Transactions on Neural Networks 14 (2003), 1569-1572. The
parameters of the named firing patterns: E. Izhikevich, *Which Model to Use for Cortical Spiking Neurons?*, IEEE
Transactions on Neural Networks 15 (2004), 1063-1070.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.recurrent import RECURRENT, Recurrent
from .._kernels.reset import Reset
from ..utils.pytree import StateTuple
from ._surrogate import Method
from .threshold import threshold as threshold

__all__ = [
    "IzhikevichParameters",
    "IzhikevichRecurrentState",
    "IzhikevichSpikingBehavior",
    "IzhikevichState",
    "accomodation",
    "bistability",
    "class_1_exc",
    "class_2_exc",
    "create_izhikevich_spiking_behavior",
    "dap",
    "inhibition_induced_bursting",
    "inhibition_induced_spiking",
    "integrator",
    "izhikevich_feed_forward_step",
    "izhikevich_recurrent_step",
    "mixed_mode",
    "phasic_bursting",
    "phasic_spiking",
    "rebound_burst",
    "rebound_spike",
    "resonator",
    "spike_frequency_adaptation",
    "spike_latency",
    "subthreshold_oscillation",
    "threshold_variability",
    "tonic_bursting",
    "tonic_spiking",
]


class IzhikevichParameters(StateTuple):
    r"""Parameters of an Izhikevich neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step (for example
    ``(N,)``); each tensor may require grad.

    Args:
        a: rate of recovery relative to that of the membrane.
        b: how strongly recovery follows the membrane potential.
        c: membrane potential after a spike in mV.
        d: what a spike adds to the recovery variable in mV.
        sq: factor of :math:`v^2` in 1/mV.
        mn: factor of :math:`v`, without unit.
        bias: constant drive in mV.
        v_th: potential at which a spike is emitted in mV.
        tau_inv: inverse time constant in 1/s.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> IzhikevichParameters(a=0.02, b=0.2, c=-65, d=6).v_th
        30
    """

    a: Any
    b: Any
    c: Any
    d: Any
    sq: Any = 0.04
    mn: Any = 5
    bias: Any = 140
    v_th: Any = 30
    tau_inv: Any = 250
    method: Method = "super"
    alpha: Any = 100.0


class IzhikevichState(StateTuple):
    """State of Izhikevich neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in mV.
        u: recovery variable, in mV.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> IzhikevichState(v=zeros, u=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    u: torch.Tensor


class IzhikevichRecurrentState(StateTuple):
    """State of a recurrent layer of Izhikevich neurons, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in mV.
        u: recovery variable, in mV.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> IzhikevichRecurrentState(z=zeros, v=zeros, u=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    u: torch.Tensor


class IzhikevichSpikingBehavior(StateTuple):
    """A firing pattern: parameters, and the state at rest.

    Args:
        p: parameters.
        s: state at rest, in mV.

    Example:
        >>> tonic_spiking.p.c, tonic_spiking.s.u
        (-65, tensor(-14.))
    """

    p: IzhikevichParameters
    s: IzhikevichState


def _behavior(a: Any, b: Any, c: Any, d: Any, v: float, u: Any, tau_inv: Any = 250) -> IzhikevichSpikingBehavior:
    """A firing pattern whose state at rest is ``v`` and ``u``."""
    return IzhikevichSpikingBehavior(
        p=IzhikevichParameters(a=a, b=b, c=c, d=d, tau_inv=tau_inv),
        s=IzhikevichState(v=constant(float(v)).requires_grad_(), u=constant(u)),
    )


def create_izhikevich_spiking_behavior(
    a: Any, b: Any, c: Any, d: Any, v_rest: float, u_rest: float, tau_inv: Any = 250
) -> IzhikevichSpikingBehavior:
    """A firing pattern from its parameters and its state at rest.

    Args:
        a, b, c, d: as in :class:`IzhikevichParameters`.
        v_rest: membrane potential at rest in mV.
        u_rest: membrane potential in mV at which the recovery variable is at rest: the state starts with
            ``u = u_rest * b``, as in Norse.
        tau_inv: inverse time constant in 1/s.

    Returns:
        The firing pattern; its membrane potential requires grad.

    Example:
        >>> create_izhikevich_spiking_behavior(0.02, 0.2, -65, 6, -70, -70.0).s.u
        tensor(-14.)
    """
    with torch.inference_mode(False), torch.no_grad():
        u = constant(float(u_rest)) * b
    return _behavior(a, b, c, d, v_rest, u, tau_inv)


def _type_1_behavior() -> IzhikevichSpikingBehavior:
    """Integrators, whose excitability is of type 1, have their own membrane polynomial."""
    behavior = _behavior(0.02, -0.1, -55, 6, -60, 6.0)
    return behavior._replace(p=behavior.p._replace(mn=4.1, bias=108))


#: Regular spikes while the current lasts.
tonic_spiking: IzhikevichSpikingBehavior = _behavior(0.02, 0.2, -65, 6, -70, -14.0)
#: Regular bursts while the current lasts.
tonic_bursting: IzhikevichSpikingBehavior = _behavior(0.02, 0.2, -50, 2, -70, -14.0)
#: One spike at the onset of the current.
phasic_spiking: IzhikevichSpikingBehavior = _behavior(0.02, 0.25, -65, 6, -64, -16.0)
#: One burst at the onset of the current.
phasic_bursting: IzhikevichSpikingBehavior = _behavior(0.02, 0.25, -55, 0.05, -64, -16.0, tau_inv=200)
#: A burst at the onset, then regular spikes.
mixed_mode: IzhikevichSpikingBehavior = _behavior(0.02, 0.2, -55, 4, -70, -14.0)
#: Spikes that become rarer.
spike_frequency_adaptation: IzhikevichSpikingBehavior = _behavior(0.01, 0.2, -65, 8, -70, -14.0)
#: Excitability of class 1: the rate grows from 0 with the current.
class_1_exc: IzhikevichSpikingBehavior = _type_1_behavior()
#: Excitability of class 2: spikes start at a rate above 0.
class_2_exc: IzhikevichSpikingBehavior = _behavior(0.2, 0.26, -65, 0, -64, -16.64)
#: A spike long after a short pulse.
spike_latency: IzhikevichSpikingBehavior = _behavior(0.02, 0.2, -65, 6, -70, -14.0)
#: Oscillations of the potential after a spike.
subthreshold_oscillation: IzhikevichSpikingBehavior = create_izhikevich_spiking_behavior(0.05, 0.26, -60, 0, -62, -62)
#: Answers to pulses at its own frequency.
resonator: IzhikevichSpikingBehavior = create_izhikevich_spiking_behavior(0.1, 0.26, -60, -1, -62, -62)
#: Answers to pulses that coincide.
integrator: IzhikevichSpikingBehavior = _type_1_behavior()
#: A spike after inhibition ends.
rebound_spike: IzhikevichSpikingBehavior = _behavior(0.03, 0.25, -60, 4, -64, -16.0, tau_inv=200)
#: A burst after inhibition ends.
rebound_burst: IzhikevichSpikingBehavior = _behavior(0.03, 0.25, -52, 0, -64, -16.0, tau_inv=200)
#: A weak pulse spikes if inhibition came before.
threshold_variability: IzhikevichSpikingBehavior = _behavior(0.03, 0.25, -60, 4, -64, -16.0)
#: A pulse starts spikes, and another stops them.
bistability: IzhikevichSpikingBehavior = _behavior(0.1, 0.26, -60, 0, -61, -15.86)
#: A depolarising potential after each spike.
dap: IzhikevichSpikingBehavior = _behavior(1.0, 0.2, -60, -21, -70, -14.0, tau_inv=100)
#: Answers to a fast rise of the current, not to a slow one.
accomodation: IzhikevichSpikingBehavior = _behavior(0.02, 1.0, -55, 4, -65, -16, tau_inv=500)
#: Spikes while inhibited.
inhibition_induced_spiking: IzhikevichSpikingBehavior = _behavior(-0.02, -1.0, -60, 8, -63.8, 63.8)
#: Bursts while inhibited.
inhibition_induced_bursting: IzhikevichSpikingBehavior = _behavior(-0.026, -1.0, -45, -2, -63.8, 63.8)

# Their parameters, which are not among the exported names, as in Norse.
tonic_spiking_p: IzhikevichParameters = tonic_spiking.p
tonic_bursting_p: IzhikevichParameters = tonic_bursting.p
phasic_spiking_p: IzhikevichParameters = phasic_spiking.p
phasic_bursting_p: IzhikevichParameters = phasic_bursting.p
mixed_mode_p: IzhikevichParameters = mixed_mode.p
spike_frequency_adaptation_p: IzhikevichParameters = spike_frequency_adaptation.p
class_1_exc_p: IzhikevichParameters = class_1_exc.p
class_2_exc_p: IzhikevichParameters = class_2_exc.p
spike_latency_p: IzhikevichParameters = spike_latency.p
subthreshold_oscillation_p: IzhikevichParameters = subthreshold_oscillation.p
resonator_p: IzhikevichParameters = resonator.p
integrator_p: IzhikevichParameters = integrator.p
rebound_spike_p: IzhikevichParameters = rebound_spike.p
rebound_burst_p: IzhikevichParameters = rebound_burst.p
threshold_variability_p: IzhikevichParameters = threshold_variability.p
bistability_p: IzhikevichParameters = bistability.p
dap_p: IzhikevichParameters = dap.p
accomodation_p: IzhikevichParameters = accomodation.p
inhibition_induced_spiking_p: IzhikevichParameters = inhibition_induced_spiking.p
inhibition_induced_bursting_p: IzhikevichParameters = inhibition_induced_bursting.p


def _coefficients(params: tuple[Any, ...], dt: float) -> tuple[Any, ...]:
    """The kernel's parameters: rates are products of what the user gave, and round as numbers or as tensors do."""
    tau_inv, a, *others = params
    rate = tau_inv * dt
    return rate, rate * a, *others


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    v, u = state
    rate, recovery_rate, b, c, d, sq, mn, bias, v_th = p
    v_decayed = v + rate * (sq * v**2 + mn * v + bias - u + x)
    u_decayed = u + recovery_rate * (b * v - u)
    z = spike(v_decayed - v_th)
    z_reset = reset.spike(z)
    return z, (reset.potential(z, v_decayed, c, v_th), (1 - z_reset) * u_decayed + z_reset * (u_decayed + d))


_izhikevich = Neuron(
    "izhikevich",
    ("v", "u"),
    ("tau_inv", "a", "b", "c", "d", "sq", "mn", "bias", "v_th"),
    IzhikevichState,
    _step,
    coefficients=_coefficients,
)


def izhikevich_feed_forward_step(
    input_current: torch.Tensor,
    s: IzhikevichState,
    p: IzhikevichParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, IzhikevichState]:
    r"""One time step of Izhikevich neurons, each driven by its own current.

    .. math::
        v_d &= v + dt\, \tau^{-1} (sq\, v^2 + mn\, v + bias - u + I) \\
        u_d &= u + dt\, \tau^{-1} a (b v - u) \\
        z   &= H(v_d - v_{th}) \\
        v'  &= (1 - z) v_d + z c \\
        u'  &= (1 - z) u_d + z (u_d + d)

    Args:
        input_current: current :math:`I`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in
            float32; integers and booleans are converted to the default dtype.
        s: membrane potential and recovery variable, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> p, s = tonic_spiking
        >>> z, s = izhikevich_feed_forward_step(torch.tensor([0.0, 500.0]), s, p)
        >>> z.detach(), s.v.detach()
        (tensor([0., 1.]), tensor([-70., -65.]))
    """
    return _izhikevich.variants[reset, detach_reset](input_current, s, p, dt)


_layer = Recurrent(_izhikevich, IzhikevichRecurrentState, arrival="with")


def izhikevich_recurrent_step(
    input_current: torch.Tensor,
    s: IzhikevichRecurrentState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: IzhikevichParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, IzhikevichRecurrentState]:
    r"""One time step of a recurrent layer of Izhikevich neurons.

    As :func:`izhikevich_feed_forward_step` with :math:`I = W x + R z`, where :math:`z` are the spikes of the last step.

    Args:
        input_current: input :math:`x`, shape ``(..., inputs)``.
        s: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`izhikevich_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> s = IzhikevichRecurrentState(torch.zeros(1, 2), torch.full((1, 2), -70.0), torch.full((1, 2), -14.0))
        >>> weights = torch.tensor([[1.0], [500.0]]), torch.zeros(2, 2)
        >>> izhikevich_recurrent_step(torch.ones(1, 1), s, *weights, tonic_spiking.p)[0]
        tensor([[0., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_current, s, input_weights, recurrent_weights, p, dt)


SEQUENCES[izhikevich_feed_forward_step] = _izhikevich
RECURRENT[izhikevich_recurrent_step] = _layer
