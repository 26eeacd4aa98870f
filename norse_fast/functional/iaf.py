r"""Integrate-and-fire (IAF) neurons: the membrane potential is the sum of the input since the last spike.

.. math::
    v_d &= v + x \\
    z   &= H(v_d - v_{th}) \\
    v'  &= (1 - z) v_d + z v_{reset}

There is neither a leak nor a synapse, so the length of a step does not enter. Source: W. Gerstner, W. Kistler, R. Naud,
L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3, without the leak.
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

__all__ = ["IAFFeedForwardState", "IAFParameters", "IAFState", "iaf_feed_forward_step", "iaf_step"]


class IAFParameters(StateTuple):
    r"""Parameters of an integrate-and-fire neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require
    grad.
    Potentials and input share one unit; with the defaults the threshold is 1.

    Args:
        v_th: threshold potential.
        v_reset: reset potential, where the modules also start.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> IAFParameters(v_th=torch.tensor(0.5)).v_th
        tensor(0.5000)
    """

    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = constant(100.0)

    @classmethod
    def bio_default(cls, **kwargs: Any) -> IAFParameters:
        """Parameters in mV. Keywords override single ones."""
        return cls(**default_bio_parameters("iaf", **kwargs))


class IAFState(StateTuple):
    """State of a recurrent layer of integrate-and-fire neurons, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> IAFState(z=zeros, v=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor


class IAFFeedForwardState(StateTuple):
    """State of integrate-and-fire neurons without recurrence, of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.

    Example:
        >>> IAFFeedForwardState(v=torch.zeros(1, 2)).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    (v,) = state
    v_th, v_reset = p
    v_summed = v + x
    z = spike(v_summed - v_th)
    return z, (reset.potential(z, v_summed, v_reset, v_th),)


_iaf = Neuron("iaf", ("v",), ("v_th", "v_reset"), IAFFeedForwardState, _step)
_layer = Recurrent(_iaf, IAFState, receivers=("v",))


def iaf_feed_forward_step(
    input_spikes: torch.Tensor,
    state: IAFFeedForwardState,
    p: IAFParameters = IAFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, IAFFeedForwardState]:
    r"""One time step of integrate-and-fire neurons, each driven by its own input.

    .. math::
        v_d &= v + x \\
        z   &= H(v_d - v_{th}) \\
        v'  &= (1 - z) v_d + z v_{reset}

    Args:
        input_spikes: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential, of a shape that broadcasts to the input's.
        p: parameters.
        dt: length of the step in seconds, which changes nothing.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> iaf_feed_forward_step(torch.tensor([0.5, 1.5]), IAFFeedForwardState(v=torch.zeros(2)))
        (tensor([0., 1.]), IAFFeedForwardState(v=tensor([0.5000, 0.0000])))
    """
    return _iaf.variants[reset, detach_reset](input_spikes, state, p, dt)


def iaf_step(
    input_spikes: torch.Tensor,
    state: IAFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: IAFParameters = IAFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, IAFState]:
    r"""One time step of a recurrent layer of integrate-and-fire neurons.

    As :func:`iaf_feed_forward_step` with :math:`v_d = v + W x + R z`, where :math:`z` are the spikes of the last step.

    Args:
        input_spikes: input :math:`x`, shape ``(..., inputs)``.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``.
        recurrent_weights: :math:`R`, shape ``(N, N)``.
        p: parameters.
        dt: length of the step in seconds, which changes nothing.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = IAFState(z=torch.zeros(1, 2), v=torch.zeros(1, 2))
        >>> iaf_step(torch.ones(1, 3), state, torch.ones(2, 3), torch.zeros(2, 2))[0]
        tensor([[1., 1.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_spikes, state, input_weights, recurrent_weights, p, dt)


SEQUENCES[iaf_feed_forward_step] = _iaf
RECURRENT[iaf_step] = _layer
