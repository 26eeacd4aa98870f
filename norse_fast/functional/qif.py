r"""Quadratic integrate-and-fire (QIF) neurons: beyond a critical potential they drive themselves to a spike.

.. math::
    v_d &= v + dt\, \tau_{mem}^{-1} \left(a (v - v_{rest}) (v - v_{crit}) + x\right) \\
    z   &= H(v_d - v_{th}) \\
    v'  &= (1 - z) v_d + z v_{reset}

Norse has no such neuron. Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University
Press, 2014, chapter 5.3; the input is the current times the resistance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.reset import Reset
from ..utils.pytree import StateTuple
from ._surrogate import Method

__all__ = ["QIFFeedForwardState", "QIFParameters", "qif_feed_forward_step"]


class QIFParameters(StateTuple):
    r"""Parameters of a quadratic integrate-and-fire neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require grad.
    Potentials and input share one unit.

    Args:
        tau_mem_inv: inverse membrane time constant :math:`\tau_{mem}^{-1}` in 1/s.
        a: sharpness of the parabola :math:`a` in the inverse unit of the potentials, positive.
        v_rest: resting potential, where the modules also start.
        v_crit: critical potential. Above it, and without input, the potential grows by itself.
        v_th: threshold potential, above ``v_crit``.
        v_reset: reset potential.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> QIFParameters(v_th=torch.tensor(2.0)).v_th
        tensor(2.)
    """

    tau_mem_inv: Any = constant(100.0)
    a: Any = constant(1.0)
    v_rest: Any = constant(0.0)
    v_crit: Any = constant(0.8)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = constant(100.0)


class QIFFeedForwardState(StateTuple):
    """State of quadratic integrate-and-fire neurons, of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.

    Example:
        >>> QIFFeedForwardState(v=torch.zeros(1, 2)).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    (v,) = state
    tau_mem_inv, a, v_rest, v_crit, v_th, v_reset = p
    v_driven = v + dt * tau_mem_inv * ((a * (v - v_rest)) * (v - v_crit) + x)
    z = spike(v_driven - v_th)
    return z, (reset.potential(z, v_driven, v_reset, v_th),)


def qif_feed_forward_step(
    input_tensor: torch.Tensor,
    state: QIFFeedForwardState,
    p: QIFParameters = QIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, QIFFeedForwardState]:
    r"""One time step of quadratic integrate-and-fire neurons; the equations are those of this module.

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential, of a shape that broadcasts to the input's.
        p: parameters.
        dt: length of the step in seconds.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> qif_feed_forward_step(torch.tensor([0.0, 5.0]), QIFFeedForwardState(v=torch.tensor([0.9, 0.9])))
        (tensor([0., 1.]), QIFFeedForwardState(v=tensor([0.9090, 0.0000])))
    """
    return _qif.variants[reset, detach_reset](input_tensor, state, p, dt)


_qif = Neuron("qif", ("v",), ("tau_mem_inv", "a", "v_rest", "v_crit", "v_th", "v_reset"), QIFFeedForwardState, _step)
SEQUENCES[qif_feed_forward_step] = _qif
