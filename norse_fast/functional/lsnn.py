r"""Long short-term memory spiking neurons (LSNN): LIF neurons whose threshold adapts to their own spikes.

.. math::
    \dot v &= \tau_{mem}^{-1} (v_{leak} - v + i) \\
    \dot i &= -\tau_{syn}^{-1} i \\
    \dot b &= \tau_{adapt}^{-1} (v_{th} - b)

with a spike :math:`z = H(v - b)`, after which :math:`v` is set to :math:`v_{reset}` and :math:`b` grows by
:math:`\beta`. As in Norse, :math:`b` is the whole threshold, which relaxes to :math:`v_{th}`, and the input reaches the
synaptic current at the end of a step: an LSNN answers one step later than a LIF neuron.

Source: G. Bellec, D. Salaj, A. Subramoney, R. Legenstein, W. Maass, *Long short-term memory and learning-to-learn in
networks of spiking neurons*, NeurIPS 2018.
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
from .threshold import threshold as threshold

__all__ = [
    "LSNNFeedForwardState",
    "LSNNParameters",
    "LSNNState",
    "ada_lif_step",
    "lsnn_feed_forward_step",
    "lsnn_step",
]


class LSNNParameters(StateTuple):
    r"""Parameters of an LSNN.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step (for example
    ``(N,)``); each tensor may require grad.
    Potentials and currents share one unit; with the defaults the threshold is 1.

    Args:
        tau_syn_inv: inverse synaptic time constant :math:`1/\tau_{syn}` in 1/s.
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        tau_adapt_inv: inverse time constant of the threshold :math:`1/\tau_{adapt}` in 1/s. The default is that of the
            reference, 1/800 s, with which the threshold hardly relaxes.
        v_leak: leak potential.
        v_th: the threshold at rest.
        v_reset: reset potential.
        beta: what a spike adds to the threshold.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> LSNNParameters(beta=torch.tensor(0.5)).beta
        tensor(0.5000)
    """

    tau_syn_inv: Any = constant(1.0 / 5e-3)
    tau_mem_inv: Any = constant(1.0 / 1e-2)
    tau_adapt_inv: Any = constant(1.0 / 800)
    v_leak: Any = constant(0.0)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    beta: Any = constant(1.8)
    method: Method = "super"
    alpha: Any = 100.0

    @classmethod
    def bio_default(cls, **kwargs: Any) -> LSNNParameters:
        """Parameters in mV and 1/ms; steps of 1 ms then need ``dt=1``. Keywords override single ones."""
        return cls(**default_bio_parameters("lsnn", **kwargs))


class LSNNState(StateTuple):
    """State of a recurrent LSNN layer, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.
        b: threshold, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LSNNState(z=zeros, v=zeros, i=zeros, b=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    i: torch.Tensor
    b: torch.Tensor


class LSNNFeedForwardState(StateTuple):
    """State of LSNN neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.
        i: synaptic current, in the unit of ``v``.
        b: threshold, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LSNNFeedForwardState(v=zeros, i=zeros, b=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    i: torch.Tensor
    b: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    v, i, b = state
    tau_syn_inv, tau_mem_inv, tau_adapt_inv, v_leak, v_th, v_reset, beta = p
    v_decayed = v + dt * tau_mem_inv * ((v_leak - v) + i)
    i_decayed = i - dt * tau_syn_inv * i
    b_decayed = b + dt * tau_adapt_inv * (v_th - b)
    z = spike(v_decayed - b_decayed)
    v_new = reset.potential(z, v_decayed, v_reset, b_decayed)
    return z, (v_new, i_decayed + x, b_decayed + reset.spike(z) * beta)


_PARAMS = ("tau_syn_inv", "tau_mem_inv", "tau_adapt_inv", "v_leak", "v_th", "v_reset", "beta")
_lsnn = Neuron("lsnn", ("v", "i", "b"), _PARAMS, LSNNFeedForwardState, _step)


def lsnn_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LSNNFeedForwardState,
    p: LSNNParameters = LSNNParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LSNNFeedForwardState]:
    r"""One time step of LSNN neurons, each driven by its own input.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + i) \\
        b_d &= b + dt\, \tau_{adapt}^{-1} (v_{th} - b) \\
        z   &= H(v_d - b_d) \\
        v'  &= (1 - z) v_d + z v_{reset} \\
        b'  &= b_d + z \beta \\
        i'  &= i - dt\, \tau_{syn}^{-1} i + x

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential, synaptic current and threshold, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = LSNNFeedForwardState(v=torch.zeros(2), i=torch.tensor([0.0, 20.0]), b=torch.ones(2))
        >>> z, state = lsnn_feed_forward_step(torch.zeros(2), state)
        >>> z, state.i
        (tensor([0., 1.]), tensor([ 0., 16.]))
    """
    return _lsnn.variants[reset, detach_reset](input_tensor, state, p, dt)


_layer = Recurrent(_lsnn, LSNNState, arrival="after")


def lsnn_step(
    input_tensor: torch.Tensor,
    state: LSNNState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LSNNParameters = LSNNParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = True,
) -> tuple[torch.Tensor, LSNNState]:
    r"""One time step of a recurrent LSNN layer.

    As :func:`lsnn_feed_forward_step` with :math:`i' = i - dt\, \tau_{syn}^{-1} i + W x + R z`, where :math:`z` are the
    spikes of the last step. The reset is detached: :math:`v'` and :math:`b'` send no gradient into the spikes.

    Args:
        input_tensor: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lsnn_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LSNNState(z=zeros, v=zeros, i=zeros, b=torch.ones(1, 2))
        >>> for _ in range(2):
        ...     z, state = lsnn_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2))
        >>> z
        tensor([[1., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_tensor, state, input_weights, recurrent_weights, p, dt)


def _ada_lif_step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, _: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    v, i, b = state
    tau_syn_inv, tau_mem_inv, tau_adapt_inv, v_leak, v_th, v_reset, beta = p
    v_decayed = v + dt * tau_mem_inv * ((v_leak - v) + i - b)
    i_decayed = i - dt * tau_syn_inv * i
    b_decayed = b - dt * tau_adapt_inv * b
    z = spike(v_decayed - v_th)
    return z, (v_decayed - z * (v_th - v_reset), i_decayed + x, b_decayed + z * beta)


_ada_lif = Neuron(None, ("v", "i", "b"), _PARAMS, LSNNFeedForwardState, _ada_lif_step)
_ada_lif_layer = Recurrent(_ada_lif, LSNNState, arrival="after")


def ada_lif_step(
    input_tensor: torch.Tensor,
    state: LSNNState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LSNNParameters = LSNNParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LSNNState]:
    r"""One time step of a recurrent layer of LIF neurons with an adaptation current; composed of PyTorch operations.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + i - b) \\
        b_d &= b - dt\, \tau_{adapt}^{-1} b \\
        z'  &= H(v_d - v_{th}) \\
        v'  &= v_d - z' (v_{th} - v_{reset}) \\
        b'  &= b_d + z' \beta \\
        i'  &= i - dt\, \tau_{syn}^{-1} i + W x + R z

    Args:
        input_tensor: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``; here :math:`b` is a current.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or the surrogate is unknown.

    Example:
        >>> zeros = torch.zeros(1, 1)
        >>> state = LSNNState(z=zeros, v=zeros, i=torch.full((1, 1), 20.0), b=zeros)
        >>> z, state = ada_lif_step(zeros, state, zeros, zeros)
        >>> z, state.b
        (tensor([[1.]]), tensor([[1.8000]]))
    """
    return _ada_lif_layer.one_step(input_tensor, state, input_weights, recurrent_weights, p, dt)


SEQUENCES[lsnn_feed_forward_step] = _lsnn
RECURRENT[lsnn_step] = _layer.variants["value", True]
