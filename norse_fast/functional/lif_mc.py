r"""Multi-compartment LIF neurons: LIF neurons whose membranes are coupled by conductances.

.. math::
    \dot v = \tau_{mem}^{-1} (v_{leak} - v + i) + G v

with the coupling matrix :math:`G`; all else as in :mod:`norse_fast.functional.lif`.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter
3.2.
"""

from __future__ import annotations

from typing import Any

import torch

from .._kernels.checks import as_dt, as_real_tensor, check_dt, check_real
from .._kernels.neuron import Neuron
from .._kernels.weights import project, read_fields
from .lif import LIFFeedForwardState, LIFParameters, LIFState, lif_feed_forward_step, lif_step

__all__ = ["lif_mc_feed_forward_step", "lif_mc_step"]


def coupling_current(v: Any, g_coupling: Any) -> torch.Tensor:
    """What the compartments receive from each other: the potentials times the coupling matrix.

    Raises:
        TypeError: the coupling is not a tensor.
        ValueError: it is not a square matrix of the neurons' number.
    """
    if not isinstance(g_coupling, torch.Tensor):
        raise TypeError(
            f"g_coupling: got {type(g_coupling).__name__}, expected a tensor of shape (N, N); p comes after it."
        )
    if not isinstance(v, torch.Tensor) or not v.dim():
        v = as_real_tensor("state.v", v).to(g_coupling).expand(g_coupling.shape[-1:])
    neurons = v.shape[-1]
    if g_coupling.shape != (neurons, neurons):
        raise ValueError(
            f"g_coupling: got shape {tuple(g_coupling.shape)}, expected {(neurons, neurons)}, because the state has "
            f"shape {tuple(v.shape)}; pass one row and column per neuron."
        )
    # The potential is float32 where weights are of a half type.
    return project(g_coupling.to(v.dtype), v)


def lif_mc_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIFFeedForwardState,
    g_coupling: torch.Tensor,
    p: LIFParameters = LIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFFeedForwardState]:
    r"""One time step of coupled LIF neurons, each driven by its own input.

    The coupling changes the potential first, :math:`v \leftarrow v + dt\, G v`; then follows
    :func:`norse_fast.functional.lif.lif_feed_forward_step`.

    Args:
        input_tensor: input, shape ``(..., N)``.
        state: membrane potential and synaptic current, shape ``(..., N)``.
        g_coupling: coupling :math:`G`, shape ``(N, N)``, in 1/s.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = LIFFeedForwardState(v=torch.tensor([[0.0, 1.0]]), i=torch.zeros(1, 2))
        >>> coupling = torch.tensor([[0.0, 100.0], [0.0, 0.0]])
        >>> lif_mc_feed_forward_step(torch.zeros(1, 2), state, coupling)[1].v
        tensor([[0.0900, 0.9000]])
    """
    check_real("input", input_tensor)
    v, i = read_fields(state, LIFFeedForwardState)
    v = Neuron.as_state("state.v", v, input_tensor, input_tensor.shape)
    dt = as_dt(dt)
    check_dt(dt, input_tensor.device, input_tensor.shape)
    return lif_feed_forward_step(
        input_tensor,
        LIFFeedForwardState(v + dt * coupling_current(v, g_coupling), i),
        p,
        dt,
        reset=reset,
        detach_reset=detach_reset,
    )


def lif_mc_step(
    input_tensor: torch.Tensor,
    state: LIFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    g_coupling: torch.Tensor,
    p: LIFParameters = LIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = True,
) -> tuple[torch.Tensor, LIFState]:
    r"""One time step of a recurrent layer of coupled LIF neurons.

    First comes :func:`norse_fast.functional.lif.lif_step`; then the coupling changes the potential that it leaves,
    :math:`v' \leftarrow v' + dt\, G v'`, and spikes can follow from that in the next step.

    Args:
        input_tensor: input, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        g_coupling: coupling :math:`G`, shape ``(N, N)``, in 1/s.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFState(z=zeros, v=torch.tensor([[0.0, 1.0]]), i=zeros)
        >>> coupling = torch.tensor([[0.0, 100.0], [0.0, 0.0]])
        >>> lif_mc_step(zeros, state, torch.zeros(2, 2), torch.zeros(2, 2), coupling)[1].v
        tensor([[0.0900, 0.9000]])
    """
    z, after = lif_step(
        input_tensor, state, input_weights, recurrent_weights, p, dt, reset=reset, detach_reset=detach_reset
    )
    return z, LIFState(z, after.v + as_dt(dt) * coupling_current(after.v, g_coupling), after.i)
