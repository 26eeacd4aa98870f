r"""Leaky integrate-and-fire (LIF) neurons with an exponential synapse.

.. math::
    \dot v &= \tau_{mem}^{-1} (v_{leak} - v + i) \\
    \dot i &= -\tau_{syn}^{-1} i

with a spike :math:`z = H(v - v_{th})`, after which :math:`v` is set to :math:`v_{reset}`. One explicit Euler step of length
``dt`` first adds the input to the synaptic current:

.. math::
    j    &= i + x \\
    v_d  &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + j) \\
    i'   &= j - dt\, \tau_{syn}^{-1} j \\
    z    &= H(v_d - v_{th}) \\
    v'   &= (1 - z) v_d + z v_{reset}

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3.
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
    "LIFFeedForwardState",
    "LIFParameters",
    "LIFState",
    "lif_current_encoder",
    "lif_feed_forward_integral",
    "lif_feed_forward_step",
    "lif_feed_forward_step_sparse",
    "lif_step",
    "lif_step_integral",
    "lif_step_sparse",
]


class LIFParameters(StateTuple):
    r"""Parameters of a LIF neuron.

    Each is a 0-dim tensor, or any shape that broadcasts to the neurons of one time step (for example ``(N,)``); each may
    require grad, and its gradient has its shape. The functions also take Python numbers.
    Potentials and currents share one unit; with the defaults the threshold is 1.

    Args:
        tau_syn_inv: inverse synaptic time constant :math:`1/\tau_{syn}` in 1/s.
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.
        v_th: threshold potential.
        v_reset: reset potential.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> LIFParameters(v_th=torch.tensor(0.5)).v_th
        tensor(0.5000)
    """

    tau_syn_inv: Any = constant(1.0 / 5e-3)
    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = constant(100.0)

    @classmethod
    def bio_default(cls, **kwargs: Any) -> LIFParameters:
        """Parameters in mV and 1/ms; steps of 1 ms then need ``dt=1``. Keywords override single ones."""
        return cls(**default_bio_parameters("lif", **kwargs))


class LIFState(StateTuple):
    """State of a recurrent LIF layer, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFState(z=zeros, v=zeros, i=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    i: torch.Tensor


#: A state at rest in biological units, which Norse 1.1.0 has, for parameters with ``v_leak=-65``.
default_bio_initial_state: LIFState = LIFState(z=constant(0.0), v=constant(-65.0), i=constant(0.0))


class LIFFeedForwardState(StateTuple):
    """State of LIF neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFFeedForwardState(v=zeros, i=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    i: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    v, i = state
    tau_syn_inv, tau_mem_inv, v_leak, v_th, v_reset = p
    i_jump = i + x
    v_decayed = v + dt * tau_mem_inv * ((v_leak - v) + i_jump)
    i_new = i_jump - dt * tau_syn_inv * i_jump
    z = spike(v_decayed - v_th)
    return z, (reset.potential(z, v_decayed, v_reset, v_th), i_new)


_PARAMS = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")
_lif = Neuron("lif", ("v", "i"), _PARAMS, LIFFeedForwardState, _step)
_layer = Recurrent(_lif, LIFState)
_layer_sparse = Recurrent(_lif, LIFState, sparse=True)


def lif_feed_forward_step(
    input_spikes: torch.Tensor,
    state: LIFFeedForwardState,
    p: LIFParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFFeedForwardState]:
    r"""One time step of LIF neurons, each driven by its own input.

    .. math::
        j    &= i + x \\
        v_d  &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + j) \\
        i'   &= j - dt\, \tau_{syn}^{-1} j \\
        z    &= H(v_d - v_{th}) \\
        v'   &= (1 - z) v_d + z v_{reset}

    Args:
        input_spikes: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential and synaptic current, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = LIFFeedForwardState(v=torch.zeros(2), i=torch.zeros(2))
        >>> z, state = lif_feed_forward_step(torch.tensor([0.0, 20.0]), state, LIFParameters())
        >>> z, state.i
        (tensor([0., 1.]), tensor([ 0., 16.]))
    """
    return _lif.variants[reset, detach_reset](input_spikes, state, p, dt)


def lif_step(
    input_spikes: torch.Tensor,
    state: LIFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = True,
) -> tuple[torch.Tensor, LIFState]:
    r"""One time step of a recurrent LIF layer.

    As :func:`lif_feed_forward_step` with :math:`j = i + W x + R z`, where :math:`z` are the spikes of the last step. The
    reset is detached: :math:`v'` sends no gradient into the spikes.

    Args:
        input_spikes: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFState(z=zeros, v=zeros, i=zeros)
        >>> z, state = lif_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2), LIFParameters())
        >>> z
        tensor([[1., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_spikes, state, input_weights, recurrent_weights, p, dt)


def lif_step_sparse(
    input_spikes: torch.Tensor,
    state: LIFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFState]:
    """One time step of a recurrent LIF layer with sparse spikes; the reset is not detached.

    Args:
        input_spikes: sparse COO input, shape ``(B, inputs)``.
        state: state of the neurons; ``state.z`` is sparse.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Sparse spikes of shape ``(B, N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFState(z=zeros.to_sparse(), v=zeros, i=zeros)
        >>> weights = torch.full((2, 3), 7.0), torch.zeros(2, 2)
        >>> lif_step_sparse(torch.ones(1, 3).to_sparse(), state, *weights, LIFParameters())[0].to_dense()
        tensor([[1., 1.]])
    """
    return _layer_sparse.variants[reset, detach_reset].one_step(
        input_spikes, state, input_weights, recurrent_weights, p, dt
    )


def lif_step_integral(
    input_tensor: torch.Tensor,
    state: LIFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFParameters = LIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = True,
) -> tuple[torch.Tensor, LIFState]:
    """All time steps of a recurrent LIF layer; returns the spikes of the last step, as the reference does.

    :class:`norse_fast.module.lif.LIFRecurrent` returns those of all steps.

    Args:
        input_tensor: input over time, shape ``(T, ..., inputs)``.
        state: state of the neurons before the first step, shape ``(..., N)``.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        p: parameters.
        dt: length of a step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of the last step, shape ``(..., N)``, and the state after it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, there is no time step, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> x, weights = torch.ones(5, 1, 3), (torch.full((2, 3), 7.0), torch.zeros(2, 2))
        >>> lif_step_integral(x, LIFState(zeros, zeros, zeros), *weights)[0]
        tensor([[1., 1.]])
    """
    spikes, last = _layer.variants[reset, detach_reset](input_tensor, state, input_weights, recurrent_weights, p, dt)
    return spikes[-1], last


def lif_feed_forward_integral(
    input_tensor: torch.Tensor,
    state: LIFFeedForwardState,
    p: LIFParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFFeedForwardState]:
    """All time steps of LIF neurons in one kernel.

    Args:
        input_tensor: input over time, shape ``(T, ...)``.
        state: state before the first step, of shapes that broadcast to one step of the input.
        p: parameters.
        dt: length of a step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of all steps, in the shape and dtype of the input, and the state after the last.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = LIFFeedForwardState(v=torch.zeros(2), i=torch.zeros(2))
        >>> lif_feed_forward_integral(torch.full((3, 2), 5.0), state, LIFParameters())[0]
        tensor([[0., 0.],
                [1., 1.],
                [1., 1.]])
    """
    return _lif.variants[reset, detach_reset](input_tensor, state, p, dt, sequence=True)


def lif_feed_forward_step_sparse(
    input_tensor: torch.Tensor,
    state: LIFFeedForwardState,
    p: LIFParameters,
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFFeedForwardState]:
    """One time step of LIF neurons with sparse input and sparse spikes.

    Args:
        input_tensor: sparse COO input.
        state: membrane potential and synaptic current, dense.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Sparse spikes in the shape of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = LIFFeedForwardState(v=torch.zeros(2), i=torch.zeros(2))
        >>> lif_feed_forward_step_sparse(torch.tensor([0.0, 20.0]).to_sparse(), state, LIFParameters())[0].to_dense()
        tensor([0., 1.])
    """
    z, new_state = _lif.variants[reset, detach_reset](input_tensor.to_dense(), state, p, dt)
    return z.to_sparse(), new_state


def lif_current_encoder(
    input_current: torch.Tensor, voltage: torch.Tensor, p: LIFParameters, dt: float = 0.001
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""One step of a LIF neuron without a synapse, to turn a current into spikes.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + I) \\
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
        >>> lif_current_encoder(torch.tensor([1.0, 20.0]), torch.zeros(2), LIFParameters())
        (tensor([0., 1.]), tensor([0.1000, 0.0000]))
    """
    v_decayed = voltage + dt * p.tau_mem_inv * ((p.v_leak - voltage) + input_current)
    z = threshold(v_decayed - p.v_th, p.method, p.alpha)
    return z, v_decayed - z * (v_decayed - p.v_reset)


SEQUENCES[lif_feed_forward_step] = _lif
RECURRENT[lif_step] = _layer.variants["value", True]
RECURRENT[lif_step_sparse] = _layer_sparse
