r"""Leaky integrate-and-fire neurons with an absolute refractory period (LIFRefrac).

A counter :math:`\rho` is set to :math:`\rho_{reset}` at a spike and falls by 1 per step. While it is above 0 the
membrane potential stands still and spikes are suppressed; the synaptic current runs on. With :math:`z_1, v_1` from a
step of the :mod:`LIF neuron <norse_fast.functional.lif>`:

.. math::
    m     &= H(\rho) \\
    v'    &= (1 - m) v_1 + m v \\
    z     &= (1 - m) z_1 \\
    \rho' &= (1 - z) \max(\rho - m, 0) + z \rho_{reset}

The mask :math:`m` carries a surrogate gradient as a spike does. Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski,
*Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3.
"""

from __future__ import annotations

from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES
from .._kernels.recurrent import RECURRENT, Recurrent
from ..utils.pytree import StateTuple
from ._refractory import pack_nested, refractory, refractory_update
from .lif import LIFFeedForwardState, LIFParameters, LIFState, _lif
from .lif import lif_feed_forward_step as lif_feed_forward_step
from .lif import lif_step as lif_step
from .lif import lif_step_sparse as lif_step_sparse
from .threshold import threshold

# `compute_refractory_update` is not among them, because lif_adex_refrac has one of the same name.
__all__ = [
    "LIFRefracFeedForwardState",
    "LIFRefracParameters",
    "LIFRefracState",
    "lif_refrac_feed_forward_step",
    "lif_refrac_step",
    "lif_refrac_step_sparse",
]


class LIFRefracParameters(StateTuple):
    r"""Parameters of a LIF neuron with a refractory period.

    Args:
        lif: parameters of the LIF neuron; its surrogate is also that of the refractory mask.
        rho_reset: length :math:`\rho_{reset}` of the refractory period in steps, a number, a 0-dim tensor, or any shape
            that broadcasts to the neurons of one time step.

    Example:
        >>> LIFRefracParameters().rho_reset
        tensor(5.)
    """

    lif: LIFParameters = LIFParameters()
    rho_reset: Any = constant(5.0)


class LIFRefracState(StateTuple):
    """State of a recurrent layer of LIF neurons with a refractory period, of the neurons' shape ``(B, N)``.

    Args:
        lif: spikes, membrane potential and synaptic current.
        rho: refractory counter, in steps.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFRefracState(lif=LIFState(*[zeros] * 3), rho=zeros).lif.v
        tensor([[0., 0.]])
    """

    lif: LIFState
    rho: torch.Tensor


class LIFRefracFeedForwardState(StateTuple):
    """State of LIF neurons with a refractory period, of the neurons' shape, for example ``(B, N)``.

    Args:
        lif: membrane potential and synaptic current.
        rho: refractory counter, in steps.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFRefracFeedForwardState(lif=LIFFeedForwardState(*[zeros] * 2), rho=zeros).lif.v
        tensor([[0., 0.]])
    """

    lif: LIFFeedForwardState
    rho: torch.Tensor


_refrac = refractory("lif_refrac", "lif", _lif, LIFRefracFeedForwardState)
_pack = pack_nested(LIFRefracState, LIFState)
_layer = Recurrent(_refrac, _pack, receivers=("lif.i",), spikes="lif.z")
_layer_sparse = Recurrent(_refrac, _pack, receivers=("lif.i",), spikes="lif.z", sparse=True)


def compute_refractory_update(
    state: LIFRefracState | LIFRefracFeedForwardState,
    z_new: torch.Tensor,
    v_new: torch.Tensor,
    p: LIFRefracParameters = LIFRefracParameters(),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the refractory period does to the result of a LIF step.

    Args:
        state: state before the step.
        z_new: spikes of the step.
        v_new: membrane potential after the step.
        p: parameters.

    Returns:
        Membrane potential, spikes and refractory counter.

    Example:
        >>> zeros, ones = torch.zeros(2), torch.ones(2)
        >>> state = LIFRefracFeedForwardState(LIFFeedForwardState(zeros, zeros), rho=torch.tensor([0.0, 3.0]))
        >>> compute_refractory_update(state, z_new=ones, v_new=0.5 * ones)
        (tensor([0.5000, 0.0000]), tensor([1., 0.]), tensor([5., 2.]))
    """
    return refractory_update(
        state.lif.v, state.rho, z_new, v_new, p.rho_reset, lambda u: threshold(u, p.lif.method, p.lif.alpha)
    )


def lif_refrac_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIFRefracFeedForwardState,
    p: LIFRefracParameters = LIFRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFRefracFeedForwardState]:
    r"""One time step of LIF neurons with a refractory period, each driven by its own input.

    With :math:`z_1, v_1` from :func:`norse_fast.functional.lif.lif_feed_forward_step`:

    .. math::
        m     &= H(\rho) \\
        v'    &= (1 - m) v_1 + m v \\
        z     &= (1 - m) z_1 \\
        \rho' &= (1 - z) \max(\rho - m, 0) + z \rho_{reset}

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: state of the LIF neurons and refractory counter, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> lif = LIFFeedForwardState(v=torch.zeros(2), i=torch.zeros(2))
        >>> state = LIFRefracFeedForwardState(lif, rho=torch.tensor([0.0, 3.0]))
        >>> z, state = lif_refrac_feed_forward_step(torch.tensor([20.0, 20.0]), state)
        >>> z, state.rho
        (tensor([1., 0.]), tensor([5., 2.]))
    """
    return _refrac.variants[reset, detach_reset](input_tensor, state, p, dt)


def lif_refrac_step(
    input_tensor: torch.Tensor,
    state: LIFRefracState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFRefracParameters = LIFRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = True,
) -> tuple[torch.Tensor, LIFRefracState]:
    """One time step of a recurrent layer of LIF neurons with a refractory period.

    As :func:`lif_refrac_feed_forward_step` around :func:`norse_fast.functional.lif.lif_step`, whose reset is detached.

    Args:
        input_tensor: input, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        p, dt, reset, detach_reset: as for :func:`lif_refrac_feed_forward_step`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = LIFRefracState(LIFState(z=zeros, v=zeros, i=zeros), rho=zeros)
        >>> z, state = lif_refrac_step(torch.ones(1, 3), state, torch.full((2, 3), 7.0), torch.zeros(2, 2))
        >>> z, state.rho
        (tensor([[1., 1.]]), tensor([[5., 5.]]))
    """
    return _layer.variants[reset, detach_reset].one_step(input_tensor, state, input_weights, recurrent_weights, p, dt)


def lif_refrac_step_sparse(
    input_tensor: torch.Tensor,
    state: LIFRefracState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFRefracParameters = LIFRefracParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFRefracState]:
    """One time step of :func:`lif_refrac_step` with sparse spikes; the reset is not detached.

    Args:
        input_tensor: sparse COO input, shape ``(B, inputs)``.
        state: state of the neurons; ``state.lif.z`` is sparse.
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
        >>> state = LIFRefracState(LIFState(z=zeros.to_sparse(), v=zeros, i=zeros), rho=zeros)
        >>> weights = torch.full((2, 3), 7.0), torch.zeros(2, 2)
        >>> lif_refrac_step_sparse(torch.ones(1, 3).to_sparse(), state, *weights)[0].to_dense()
        tensor([[1., 1.]])
    """
    return _layer_sparse.variants[reset, detach_reset].one_step(
        input_tensor, state, input_weights, recurrent_weights, p, dt
    )


SEQUENCES[lif_refrac_feed_forward_step] = _refrac
RECURRENT[lif_refrac_step] = _layer.variants["value", True]
RECURRENT[lif_refrac_step_sparse] = _layer_sparse
