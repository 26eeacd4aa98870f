r"""Leaky integrators (LI) without a synapse: the input is a current that drives the voltage directly.

.. math::
    \dot v = \tau_{mem}^{-1} (v_{leak} - v + x)

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014,
chapter 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.weights import check_weights, project
from ..utils.pytree import StateTuple

__all__ = ["LIBoxParameters", "LIBoxState", "li_box_feed_forward_step", "li_box_step"]


class LIBoxParameters(StateTuple):
    r"""Parameters of a leaky integrator without a synapse.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require
    grad.
    Potential and current share one unit.

    Args:
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.

    Example:
        >>> LIBoxParameters().tau_mem_inv
        tensor(100.)
    """

    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)


class LIBoxState(StateTuple):
    """State of a leaky integrator without a synapse, of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_leak``.

    Example:
        >>> LIBoxState(v=torch.zeros(1, 2)).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    (v,) = state
    tau_mem_inv, v_leak = p
    v_new = v + dt * tau_mem_inv * ((v_leak - v) + x)
    return v_new, (v_new.clone(),)


_li_box = Neuron("li_box", ("v",), ("tau_mem_inv", "v_leak"), LIBoxState, _step, surrogate=None)


def li_box_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIBoxState,
    p: LIBoxParameters = LIBoxParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LIBoxState]:
    r"""One time step of leaky integrators without a synapse, each driven by its own input.

    .. math::
        v' = v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + x)

    Args:
        input_tensor: input current :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in
            float32.
        state: membrane potential, of a shape that broadcasts to the input's.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        The membrane potential in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit.

    Example:
        >>> v, state = li_box_feed_forward_step(torch.ones(2), LIBoxState(v=torch.zeros(2)))
        >>> v
        tensor([0.1000, 0.1000])
    """
    return _li_box(input_tensor, state, p, dt)


def li_box_step(
    input_spikes: torch.Tensor,
    state: LIBoxState,
    input_weights: torch.Tensor,
    p: LIBoxParameters = LIBoxParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LIBoxState]:
    r"""One time step of leaky integrators without a synapse behind a linear layer, driven by :math:`W x`.

    Args:
        input_spikes: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        The membrane potential, shape ``(..., N)``, and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit.

    Example:
        >>> li_box_step(torch.ones(1, 3), LIBoxState(v=torch.zeros(1, 2)), torch.ones(2, 3))[0]
        tensor([[0.3000, 0.3000]])
    """
    input_weights, _ = check_weights(input_spikes, state, input_weights, spikes="v")
    return _li_box(project(input_weights, input_spikes), state, p, dt)


SEQUENCES[li_box_feed_forward_step] = _li_box
