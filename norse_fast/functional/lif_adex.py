r"""Adaptive exponential integrate-and-fire neurons (LIFAdEx): as LIFEx, slowed down by an adaptation current :math:`a`.

.. math::
    \dot v &= \tau_{mem}^{-1} \left(v_{leak} - v + \Delta_T e^{(v - v_{th}) / \Delta_T} + i - a\right) \\
    \dot i &= -\tau_{syn}^{-1} i \\
    \dot a &= \tau_{ada}^{-1} (a_c (v - v_{leak}) - a)

with a spike :math:`z = H(v - v_{th})`, after which :math:`v` is set to :math:`v_{reset}` and :math:`a` jumps by
:math:`a_s`. One explicit Euler step of length ``dt`` first adds the input to the synaptic current, :math:`j = i + x`.

Sources: R. Brette, W. Gerstner, *Adaptive Exponential Integrate-and-Fire Model as an Effective Description of Neuronal
Activity*, Journal of Neurophysiology 94 (2005), 3637-3642; W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal
Dynamics*, Cambridge University Press, 2014, chapter 6.1.
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
from .parameter import default_bio_parameters
from .threshold import threshold

__all__ = [
    "LIFAdExFeedForwardState",
    "LIFAdExParameters",
    "LIFAdExState",
    "lif_adex_current_encoder",
    "lif_adex_feed_forward_step",
    "lif_adex_step",
]


class LIFAdExParameters(StateTuple):
    r"""Parameters of a LIFAdEx neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each that is
    floating point may require grad.
    Potentials and currents share one unit; with the defaults the threshold is 1.

    Args:
        adaptation_current: coupling :math:`a_c` of the adaptation to the membrane potential; by default an integer, as
            in Norse, which cannot require grad.
        adaptation_spike: jump :math:`a_s` of the adaptation at a spike.
        delta_T: width :math:`\Delta_T` of the exponential term, in the unit of the potentials.
        tau_ada_inv: inverse adaptation time constant :math:`1/\tau_{ada}` in 1/s.
        tau_syn_inv: inverse synaptic time constant :math:`1/\tau_{syn}` in 1/s.
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.
        v_th: threshold potential.
        v_reset: reset potential.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> LIFAdExParameters().adaptation_current
        tensor(4)
    """

    adaptation_current: Any = constant(4)
    adaptation_spike: Any = constant(0.02)
    delta_T: Any = constant(0.5)
    tau_ada_inv: Any = constant(1.0 / 0.5)
    tau_syn_inv: Any = constant(1.0 / 5e-3)
    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = 100.0

    @classmethod
    def bio_default(cls, **kwargs: Any) -> LIFAdExParameters:
        """Parameters in mV and 1/ms; steps of 1 ms then need ``dt=1``. Keywords override single ones."""
        return cls(**default_bio_parameters("lifAdEx", **kwargs))


class LIFAdExState(StateTuple):
    """State of a recurrent LIFAdEx layer, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.
        a: adaptation current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFAdExState(z=zeros, v=zeros, i=zeros, a=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    i: torch.Tensor
    a: torch.Tensor


class LIFAdExFeedForwardState(StateTuple):
    """State of LIFAdEx neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.
        a: adaptation current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFAdExFeedForwardState(v=zeros, i=zeros, a=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    i: torch.Tensor
    a: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    v, i, a = state
    tau_ada_inv, tau_syn_inv, tau_mem_inv, adaptation_current, adaptation_spike, delta_T, v_leak, v_th, v_reset = p
    i_jump = i + x
    runaway = delta_T * torch.exp((v - v_th) / delta_T)
    v_decayed = v + dt * tau_mem_inv * ((v_leak - v) + runaway + i_jump - a)
    i_new = i_jump - dt * tau_syn_inv * i_jump
    a_decayed = a + dt * tau_ada_inv * (adaptation_current * (v - v_leak) - a)
    z = spike(v_decayed - v_th)
    return z, (reset.potential(z, v_decayed, v_reset, v_th), i_new, a_decayed + reset.spike(z) * adaptation_spike)


_lif_adex = Neuron(
    "lif_adex",
    ("v", "i", "a"),
    (
        "tau_ada_inv",
        "tau_syn_inv",
        "tau_mem_inv",
        "adaptation_current",
        "adaptation_spike",
        "delta_T",
        "v_leak",
        "v_th",
        "v_reset",
    ),
    LIFAdExFeedForwardState,
    _step,
)
_layer = Recurrent(_lif_adex, LIFAdExState)


def lif_adex_feed_forward_step(
    input_spikes: torch.Tensor,
    state: LIFAdExFeedForwardState = LIFAdExFeedForwardState(*torch.zeros(3)),
    p: LIFAdExParameters = LIFAdExParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFAdExFeedForwardState]:
    r"""One time step of LIFAdEx neurons, each driven by its own input.

    .. math::
        j    &= i + x \\
        v_d  &= v + dt\, \tau_{mem}^{-1} \left((v_{leak} - v) + \Delta_T e^{(v - v_{th}) / \Delta_T} + j - a\right) \\
        i'   &= j - dt\, \tau_{syn}^{-1} j \\
        a_d  &= a + dt\, \tau_{ada}^{-1} (a_c (v - v_{leak}) - a) \\
        z    &= H(v_d - v_{th}) \\
        v'   &= (1 - z) v_d + z v_{reset} \\
        a'   &= a_d + z a_s

    Args:
        input_spikes: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential, synaptic current and adaptation, of shapes that broadcast to the input's; by default
            zeros.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> z, state = lif_adex_feed_forward_step(torch.tensor([0.0, 20.0]))
        >>> z, state.a
        (tensor([0., 1.]), tensor([0.0000, 0.0200]))
    """
    return _lif_adex.variants[reset, detach_reset](input_spikes, state, p, dt)


def lif_adex_step(
    input_spikes: torch.Tensor,
    state: LIFAdExState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFAdExParameters = LIFAdExParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFAdExState]:
    r"""One time step of a recurrent LIFAdEx layer.

    As :func:`lif_adex_feed_forward_step` with :math:`j = i + W x + R z`, where :math:`z` are the spikes of the last
    step.

    Args:
        input_spikes: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_adex_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFAdExState(z=zeros, v=zeros, i=zeros, a=zeros)
        >>> lif_adex_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2))[0]
        tensor([[1., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_spikes, state, input_weights, recurrent_weights, p, dt)


def lif_adex_current_encoder(
    input_current: torch.Tensor,
    voltage: torch.Tensor,
    adaptation: torch.Tensor,
    p: LIFAdExParameters = LIFAdExParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""One step of a LIFAdEx neuron without a synapse, to turn a current into spikes.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} \left((v_{leak} - v) + \Delta_T e^{(v - v_{th}) / \Delta_T} + I - a\right) \\
        z   &= H(v_d - v_{th}) \\
        v'  &= v_d - z (v_d - v_{reset}) \\
        a'  &= \tau_{ada}^{-1} (a_c (v' - v_{leak}) - a) + z a_s

    The adaptation is that of Norse: its change replaces the old value instead of adding to it, without :math:`dt` and
    with the voltage after the reset, so it diverges with the default time constant. For an adapting neuron drive
    :func:`lif_adex_feed_forward_step`.

    Args:
        input_current: current :math:`I`, any shape.
        voltage: membrane potential, of a shape that broadcasts with the current's.
        adaptation: adaptation current :math:`a`, likewise.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        Spikes, the new membrane potential and the new adaptation current.

    Raises:
        ValueError: the surrogate is unknown.
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> lif_adex_current_encoder(torch.tensor([1.0, 20.0]), torch.zeros(2), torch.zeros(2))
        (tensor([0., 1.]), tensor([0.1068, 0.0000]), tensor([0.8541, 0.0200]))
    """
    runaway = p.delta_T * torch.exp((voltage - p.v_th) / p.delta_T)
    v_decayed = voltage + dt * p.tau_mem_inv * ((p.v_leak - voltage) + runaway + input_current - adaptation)
    z = threshold(v_decayed - p.v_th, p.method, p.alpha)
    v_new = v_decayed - z * (v_decayed - p.v_reset)
    a_new = p.tau_ada_inv * (p.adaptation_current * (v_new - p.v_leak) - adaptation) + z * p.adaptation_spike
    return z, v_new, a_new


SEQUENCES[lif_adex_feed_forward_step] = _lif_adex
RECURRENT[lif_adex_step] = _layer
