r"""Coupled LIF neurons with a refractory period.

As in Norse, these differ from :mod:`norse_fast.functional.lif_mc` and :mod:`norse_fast.functional.lif_refrac`: the
coupling is not multiplied by the time step, the refractory period stops the membrane's own dynamics but neither the
coupling nor spikes, and the input reaches the synaptic current at the end of a step.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapters
1.3 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._kernels.checks import as_dense, check_tensor
from .._kernels.neuron import Neuron
from .._kernels.reset import Reset
from .._kernels.weights import check_weights, project, read_field
from .lif import LIFFeedForwardState, LIFState
from .lif_mc import coupling_current
from .lif_refrac import LIFRefracFeedForwardState, LIFRefracParameters, LIFRefracState
from .threshold import threshold as threshold

__all__ = ["lif_mc_refrac_feed_forward_step", "lif_mc_refrac_step"]


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    v, i, rho = state
    tau_syn_inv, tau_mem_inv, v_leak, v_th, v_reset, rho_reset = p
    mask = spike(rho)
    v_decayed = v + ((1 - mask) * (dt * tau_mem_inv) * ((v_leak - v) + i) + x)
    z = spike(v_decayed - v_th)
    rho_new = (1 - z) * torch.relu(rho - mask) + z * rho_reset
    return z, (reset.potential(z, v_decayed, v_reset, v_th), i - dt * tau_syn_inv * i, rho_new)


def _pack(v: torch.Tensor, i: torch.Tensor, rho: torch.Tensor) -> LIFRefracFeedForwardState:
    return LIFRefracFeedForwardState(LIFFeedForwardState(v, i), rho)


#: Its input is the coupling current.
_lif_mc_refrac = Neuron(
    "lif_mc_refrac",
    ("lif.v", "lif.i", "rho"),
    ("lif.tau_syn_inv", "lif.tau_mem_inv", "lif.v_leak", "lif.v_th", "lif.v_reset", "rho_reset"),
    _pack,
    _step,
    surrogate="lif.",
    thresholds=2,
)


def _in_double(p: Any, coupling: torch.Tensor) -> Any:
    """The time constant in double precision where the coupling is: Norse multiplies it by dt only there."""
    tau = p.lif.tau_mem_inv
    if coupling.dtype is not torch.float64 or not isinstance(tau, torch.Tensor) or tau.dtype is torch.float64:
        return p
    return p._replace(lif=p.lif._replace(tau_mem_inv=tau.double()))


def _coupled_step(
    current: torch.Tensor, state: Any, g_coupling: torch.Tensor, neuron: Neuron, p: Any, dt: float
) -> tuple[torch.Tensor, LIFRefracFeedForwardState]:
    current = as_dense(current)
    v = read_field(state, "lif.v", "the fields lif, rho")
    v = neuron.as_state("state.lif.v", v, current, current.shape)
    coupling = coupling_current(v, g_coupling).expand(current.shape)
    z, after = neuron(coupling, state, _in_double(p, coupling), dt)
    if current.is_floating_point():
        # Spikes have the dtype of the neurons' input, which here is not that of the kernel's, the coupling.
        z = z.to(current.dtype)
    return z, _pack(after.lif.v, after.lif.i + current, after.rho)


def lif_mc_refrac_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIFRefracFeedForwardState,
    g_coupling: torch.Tensor,
    p: LIFRefracParameters = LIFRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFRefracFeedForwardState]:
    r"""One time step of coupled LIF neurons with a refractory period, each driven by its own input.

    .. math::
        m     &= H(\rho) \\
        v_d   &= v + (1 - m)\, dt\, \tau_{mem}^{-1} ((v_{leak} - v) + i) + G v \\
        z     &= H(v_d - v_{th}) \\
        v'    &= (1 - z) v_d + z v_{reset} \\
        i'    &= i - dt\, \tau_{syn}^{-1} i + x \\
        \rho' &= (1 - z)\, \mathrm{relu}(\rho - m) + z \rho_{reset}

    Args:
        input_tensor: input :math:`x`, shape ``(..., N)``.
        state: state of the neurons, shape ``(..., N)``; ``rho`` counts the steps until the period ends.
        g_coupling: coupling :math:`G` per time step, shape ``(N, N)``.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> lif = LIFFeedForwardState(v=torch.tensor([[0.5, 0.5]]), i=torch.zeros(1, 2))
        >>> state = LIFRefracFeedForwardState(lif, rho=torch.tensor([[0.0, 2.0]]))
        >>> z, state = lif_mc_refrac_feed_forward_step(torch.zeros(1, 2), state, torch.zeros(2, 2))
        >>> state.lif.v, state.rho
        (tensor([[0.4500, 0.5000]]), tensor([[0., 1.]]))
    """
    return _coupled_step(input_tensor, state, g_coupling, _lif_mc_refrac.variants[reset, detach_reset], p, dt)


def lif_mc_refrac_step(
    input_tensor: torch.Tensor,
    state: LIFRefracState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    g_coupling: torch.Tensor,
    p: LIFRefracParameters = LIFRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFRefracState]:
    r"""One time step of a recurrent layer of coupled LIF neurons with a refractory period.

    As :func:`lif_mc_refrac_feed_forward_step` with :math:`i' = i - dt\, \tau_{syn}^{-1} i + W x + R z`, where :math:`z`
    are the spikes of the last step.

    Args:
        input_tensor: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``; ``rho`` counts the steps until the period ends.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        g_coupling: coupling :math:`G` per time step, shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_mc_refrac_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFRefracState(LIFState(z=zeros, v=zeros, i=torch.full((1, 2), 20.0)), rho=zeros)
        >>> z, state = lif_mc_refrac_step(zeros, state, *torch.zeros(3, 2, 2))
        >>> z, state.rho
        (tensor([[1., 1.]]), tensor([[5., 5.]]))
    """
    check_tensor("recurrent_weights", recurrent_weights)
    input_weights, recurrent_weights = check_weights(
        input_tensor, state, input_weights, recurrent_weights, spikes="lif.z"
    )
    projected = project(input_weights, input_tensor)
    z, after = _coupled_step(projected, state, g_coupling, _lif_mc_refrac.variants[reset, detach_reset], p, dt)
    i = after.lif.i + project(recurrent_weights, state.lif.z.to(recurrent_weights.dtype))
    return z, LIFRefracState(LIFState(z, after.lif.v, i), after.rho)
