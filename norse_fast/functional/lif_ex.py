r"""Leaky integrate-and-fire neurons with an exponential term (LIFEx): near threshold the voltage runs away by itself.

.. math::
    \dot v &= \tau_{mem}^{-1} \left(v_{leak} - v + \Delta_T e^{(v - v_{th}) / \Delta_T} + i\right) \\
    \dot i &= -\tau_{syn}^{-1} i

with a spike :math:`z = H(v - v_{th})`, after which :math:`v` is set to :math:`v_{reset}`. One explicit Euler step of
length ``dt`` first adds the input to the synaptic current, :math:`j = i + x`.

Sources: N. Fourcaud-Trocmé, D. Hansel, C. van Vreeswijk, N. Brunel, *How Spike Generation Mechanisms Determine the
Neuronal Response to Fluctuating Inputs*, Journal of Neuroscience 23 (2003), 11628-11640; W. Gerstner, W. Kistler, R.
Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 5.2.
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
    "LIFExFeedForwardState",
    "LIFExParameters",
    "LIFExState",
    "lif_ex_current_encoder",
    "lif_ex_feed_forward_step",
    "lif_ex_step",
]


class LIFExParameters(StateTuple):
    r"""Parameters of a LIFEx neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require
    grad.
    Potentials and currents share one unit; with the defaults the threshold is 1.

    Args:
        delta_T: width :math:`\Delta_T` of the exponential term, in the unit of the potentials.
        tau_syn_inv: inverse synaptic time constant :math:`1/\tau_{syn}` in 1/s.
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.
        v_th: threshold potential.
        v_reset: reset potential.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> LIFExParameters().delta_T
        tensor(0.5000)
    """

    delta_T: Any = constant(0.5)
    tau_syn_inv: Any = constant(1.0 / 5e-3)
    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = 100.0

    @classmethod
    def bio_default(cls, **kwargs: Any) -> LIFExParameters:
        r"""Parameters in mV and 1/ms; steps of 1 ms then need ``dt=1``. Keywords override single ones.

        Here :math:`\Delta_T = 0`, the limit in which the exponential term is 0 below the threshold; pass another to
        train.
        """
        return cls(**default_bio_parameters("lifEx", **kwargs))


class LIFExState(StateTuple):
    """State of a recurrent LIFEx layer, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFExState(z=zeros, v=zeros, i=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    i: torch.Tensor


class LIFExFeedForwardState(StateTuple):
    """State of LIFEx neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFExFeedForwardState(v=zeros, i=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    i: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    v, i = state
    tau_syn_inv, tau_mem_inv, delta_T, v_leak, v_th, v_reset = p
    i_jump = i + x
    runaway = delta_T * torch.exp((v - v_th) / delta_T)
    v_decayed = v + dt * tau_mem_inv * ((v_leak - v) + runaway + i_jump)
    i_new = i_jump - dt * tau_syn_inv * i_jump
    z = spike(v_decayed - v_th)
    return z, (reset.potential(z, v_decayed, v_reset, v_th), i_new)


_lif_ex = Neuron(
    "lif_ex",
    ("v", "i"),
    ("tau_syn_inv", "tau_mem_inv", "delta_T", "v_leak", "v_th", "v_reset"),
    LIFExFeedForwardState,
    _step,
)
_layer = Recurrent(_lif_ex, LIFExState)


def lif_ex_feed_forward_step(
    input_spikes: torch.Tensor,
    state: LIFExFeedForwardState = LIFExFeedForwardState(*torch.zeros(2)),
    p: LIFExParameters = LIFExParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFExFeedForwardState]:
    r"""One time step of LIFEx neurons, each driven by its own input.

    .. math::
        j    &= i + x \\
        v_d  &= v + dt\, \tau_{mem}^{-1} \left((v_{leak} - v) + \Delta_T e^{(v - v_{th}) / \Delta_T} + j\right) \\
        i'   &= j - dt\, \tau_{syn}^{-1} j \\
        z    &= H(v_d - v_{th}) \\
        v'   &= (1 - z) v_d + z v_{reset}

    Args:
        input_spikes: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential and synaptic current, of shapes that broadcast to the input's; by default zeros.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> z, state = lif_ex_feed_forward_step(torch.tensor([0.0, 20.0]))
        >>> z, state.i
        (tensor([0., 1.]), tensor([ 0., 16.]))
    """
    return _lif_ex.variants[reset, detach_reset](input_spikes, state, p, dt)


def lif_ex_step(
    input_tensor: torch.Tensor,
    state: LIFExState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFExParameters = LIFExParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFExState]:
    r"""One time step of a recurrent LIFEx layer.

    As :func:`lif_ex_feed_forward_step` with :math:`j = i + W x + R z`, where :math:`z` are the spikes of the last step.

    Args:
        input_tensor: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_ex_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFExState(z=zeros, v=zeros, i=zeros)
        >>> lif_ex_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2))[0]
        tensor([[1., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_tensor, state, input_weights, recurrent_weights, p, dt)


def lif_ex_current_encoder(
    input_current: torch.Tensor,
    voltage: torch.Tensor,
    p: LIFExParameters = LIFExParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""One step of a LIFEx neuron without a synapse, to turn a current into spikes.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} \left((v_{leak} - v) + \Delta_T e^{(v - v_{th}) / \Delta_T} + I\right) \\
        z   &= H(v_d - v_{th}) \\
        v'  &= v_d - z (v_d - v_{reset})

    Args:
        input_current: current :math:`I`, any shape.
        voltage: membrane potential, of a shape that broadcasts with the current's.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        Spikes and the new membrane potential.

    Raises:
        ValueError: the surrogate is unknown.
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> lif_ex_current_encoder(torch.tensor([1.0, 20.0]), torch.zeros(2))
        (tensor([0., 1.]), tensor([0.1068, 0.0000]))
    """
    runaway = p.delta_T * torch.exp((voltage - p.v_th) / p.delta_T)
    v_decayed = voltage + dt * p.tau_mem_inv * ((p.v_leak - voltage) + runaway + input_current)
    z = threshold(v_decayed - p.v_th, p.method, p.alpha)
    return z, v_decayed - z * (v_decayed - p.v_reset)


SEQUENCES[lif_ex_feed_forward_step] = _lif_ex
RECURRENT[lif_ex_step] = _layer
