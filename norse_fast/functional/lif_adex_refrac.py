r"""Adaptive exponential integrate-and-fire neurons with an absolute refractory period (LIFAdExRefrac).

The refractory period is that of :mod:`norse_fast.functional.lif_refrac`, around a step of the
:mod:`LIFAdEx neuron <norse_fast.functional.lif_adex>`. The adaptation jumps at every spike of the neuron inside, also
where the refractory period suppresses that spike.

Sources: R. Brette, W. Gerstner, *Adaptive Exponential Integrate-and-Fire Model as an Effective Description of Neuronal
Activity*, Journal of Neurophysiology 94 (2005), 3637-3642; W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal
Dynamics*, Cambridge University Press, 2014, chapters 1.3 and 6.1.
"""

from __future__ import annotations

from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES
from .._kernels.recurrent import RECURRENT, Recurrent
from ..utils.pytree import StateTuple
from ._refractory import pack_nested, refractory, refractory_update
from .lif_adex import LIFAdExFeedForwardState, LIFAdExParameters, LIFAdExState, _lif_adex
from .lif_adex import lif_adex_feed_forward_step as lif_adex_feed_forward_step
from .lif_adex import lif_adex_step as lif_adex_step
from .threshold import threshold

# `compute_refractory_update` is not among them, because lif_refrac has one of the same name.
__all__ = [
    "LIFAdExRefracFeedForwardState",
    "LIFAdExRefracParameters",
    "LIFAdExRefracState",
    "lif_adex_refrac_feed_forward_step",
    "lif_adex_refrac_step",
]


class LIFAdExRefracParameters(StateTuple):
    r"""Parameters of a LIFAdEx neuron with a refractory period.

    Args:
        lif_adex: parameters of the LIFAdEx neuron; its surrogate is also that of the refractory mask.
        rho_reset: length :math:`\rho_{reset}` of the refractory period in steps, a number, a 0-dim tensor, or any shape
            that broadcasts to the neurons of one time step.

    Example:
        >>> LIFAdExRefracParameters().rho_reset
        tensor(5.)
    """

    lif_adex: LIFAdExParameters = LIFAdExParameters()
    rho_reset: Any = constant(5.0)


class LIFAdExRefracState(StateTuple):
    """State of a recurrent layer of LIFAdEx neurons with a refractory period, of the neurons' shape ``(B, N)``.

    Args:
        lif_adex: spikes, membrane potential, synaptic current and adaptation current.
        rho: refractory counter, in steps.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFAdExRefracState(lif_adex=LIFAdExState(*[zeros] * 4), rho=zeros).lif_adex.v
        tensor([[0., 0.]])
    """

    lif_adex: LIFAdExState
    rho: torch.Tensor


class LIFAdExRefracFeedForwardState(StateTuple):
    """State of LIFAdEx neurons with a refractory period, of the neurons' shape, for example ``(B, N)``.

    Args:
        lif_adex: membrane potential, synaptic current and adaptation current.
        rho: refractory counter, in steps.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFAdExRefracFeedForwardState(lif_adex=LIFAdExFeedForwardState(*[zeros] * 3), rho=zeros).lif_adex.v
        tensor([[0., 0.]])
    """

    lif_adex: LIFAdExFeedForwardState
    rho: torch.Tensor


_refrac = refractory("lif_adex_refrac", "lif_adex", _lif_adex, LIFAdExRefracFeedForwardState)
_layer = Recurrent(
    _refrac, pack_nested(LIFAdExRefracState, LIFAdExState), receivers=("lif_adex.i",), spikes="lif_adex.z"
)


def compute_refractory_update(
    state: LIFAdExRefracState | LIFAdExRefracFeedForwardState,
    z_new: torch.Tensor,
    v_new: torch.Tensor,
    p: LIFAdExRefracParameters = LIFAdExRefracParameters(),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the refractory period does to the result of a LIFAdEx step.

    Args:
        state: state before the step.
        z_new: spikes of the step.
        v_new: membrane potential after the step.
        p: parameters.

    Returns:
        Membrane potential, spikes and refractory counter.

    Example:
        >>> zeros, ones = torch.zeros(2), torch.ones(2)
        >>> lif_adex = LIFAdExFeedForwardState(zeros, zeros, zeros)
        >>> state = LIFAdExRefracFeedForwardState(lif_adex, rho=torch.tensor([0.0, 3.0]))
        >>> compute_refractory_update(state, z_new=ones, v_new=0.5 * ones)
        (tensor([0.5000, 0.0000]), tensor([1., 0.]), tensor([5., 2.]))
    """
    inner = p.lif_adex
    return refractory_update(
        state.lif_adex.v, state.rho, z_new, v_new, p.rho_reset, lambda u: threshold(u, inner.method, inner.alpha)
    )


def lif_adex_refrac_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIFAdExRefracFeedForwardState,
    p: LIFAdExRefracParameters = LIFAdExRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFAdExRefracFeedForwardState]:
    r"""One time step of LIFAdEx neurons with a refractory period, each driven by its own input.

    With :math:`z_1, v_1` from :func:`norse_fast.functional.lif_adex.lif_adex_feed_forward_step`, whose other results
    stay:

    .. math::
        m     &= H(\rho) \\
        v'    &= (1 - m) v_1 + m v \\
        z     &= (1 - m) z_1 \\
        \rho' &= (1 - z) \max(\rho - m, 0) + z \rho_{reset}

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: state of the LIFAdEx neurons and refractory counter, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> lif_adex = LIFAdExFeedForwardState(*torch.zeros(3, 2))
        >>> state = LIFAdExRefracFeedForwardState(lif_adex, rho=torch.tensor([0.0, 3.0]))
        >>> z, state = lif_adex_refrac_feed_forward_step(torch.tensor([20.0, 20.0]), state)
        >>> z, state.lif_adex.a
        (tensor([1., 0.]), tensor([0.0200, 0.0200]))
    """
    return _refrac.variants[reset, detach_reset](input_tensor, state, p, dt)


def lif_adex_refrac_step(
    input_tensor: torch.Tensor,
    state: LIFAdExRefracState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFAdExRefracParameters = LIFAdExRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFAdExRefracState]:
    """One time step of a recurrent layer of LIFAdEx neurons with a refractory period.

    As :func:`lif_adex_refrac_feed_forward_step` around :func:`norse_fast.functional.lif_adex.lif_adex_step`.

    Args:
        input_tensor: input, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_adex_refrac_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFAdExRefracState(LIFAdExState(z=zeros, v=zeros, i=zeros, a=zeros), rho=zeros)
        >>> z, state = lif_adex_refrac_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2))
        >>> z, state.rho
        (tensor([[1., 1.]]), tensor([[5., 5.]]))
    """
    return _layer.variants[reset, detach_reset].one_step(input_tensor, state, input_weights, recurrent_weights, p, dt)


SEQUENCES[lif_adex_refrac_feed_forward_step] = _refrac
RECURRENT[lif_adex_refrac_step] = _layer
