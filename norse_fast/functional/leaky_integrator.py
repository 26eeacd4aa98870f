r"""Leaky integrators (LI) with an exponential synapse: neurons that do not spike, used as readout.

.. math::
    \dot v &= \tau_{mem}^{-1} (v_{leak} - v + i) \\
    \dot i &= -\tau_{syn}^{-1} i

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.weights import check_weights, project
from ..utils.pytree import StateTuple
from .parameter import default_bio_parameters

__all__ = ["LIParameters", "LIState", "li_feed_forward_step", "li_step"]


class LIParameters(StateTuple):
    r"""Parameters of a leaky integrator.

    Each is a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require grad.
    Potential and current share one unit.

    Args:
        tau_syn_inv: inverse synaptic time constant :math:`1/\tau_{syn}` in 1/s.
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.

    Example:
        >>> LIParameters().tau_mem_inv
        tensor(100.)
    """

    tau_syn_inv: Any = constant(1.0 / 5e-3)
    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)

    @classmethod
    def bio_default(cls, **kwargs: Any) -> LIParameters:
        """Parameters in mV and 1/ms; steps of 1 ms then need ``dt=1``. Keywords override single ones."""
        return cls(**default_bio_parameters("li", **kwargs))


class LIState(StateTuple):
    """State of a leaky integrator, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_leak``.
        i: synaptic current, in the unit of ``v``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIState(v=zeros, i=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    i: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    v, i = state
    tau_syn_inv, tau_mem_inv, v_leak = p
    i_jump = i + x
    v_new = v + dt * tau_mem_inv * ((v_leak - v) + i_jump)
    return v_new, (v_new.clone(), i_jump - dt * tau_syn_inv * i_jump)


_li = Neuron("li", ("v", "i"), ("tau_syn_inv", "tau_mem_inv", "v_leak"), LIState, _step, surrogate=None)


def li_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIState,
    p: LIParameters = LIParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LIState]:
    r"""One time step of leaky integrators, each driven by its own input.

    .. math::
        j  &= i + x \\
        v' &= v + dt\, \tau_{mem}^{-1} ((v_{leak} - v) + j) \\
        i' &= j - dt\, \tau_{syn}^{-1} j

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32.
        state: membrane potential and synaptic current, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        The membrane potential in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit.

    Example:
        >>> v, state = li_feed_forward_step(torch.ones(2), LIState(v=torch.zeros(2), i=torch.zeros(2)))
        >>> v, state.i
        (tensor([0.1000, 0.1000]), tensor([0.8000, 0.8000]))
    """
    return _li(input_tensor, state, p, dt)


def li_step(
    input_spikes: torch.Tensor,
    state: LIState,
    input_weights: torch.Tensor,
    p: LIParameters = LIParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LIState]:
    r"""One time step of leaky integrators behind a linear layer, :math:`j = i + W x`.

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
        >>> state = LIState(v=torch.zeros(1, 2), i=torch.zeros(1, 2))
        >>> li_step(torch.ones(1, 3), state, torch.ones(2, 3))[0]
        tensor([[0.3000, 0.3000]])
    """
    input_weights, _ = check_weights(input_spikes, state, input_weights, spikes="v")
    return _li(project(input_weights, input_spikes), state, p, dt)


SEQUENCES[li_feed_forward_step] = _li
