r"""Leaky integrate-and-fire (LIF) neurons without a synapse: the input is a current that drives the voltage directly.

.. math::
    \dot v = \tau_{mem}^{-1} (v_{leak} - v + x)

with a spike :math:`z = H(v - v_{th})`, after which a :mod:`reset method <norse_fast.functional.reset>` changes
:math:`v`.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014,
chapter 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.reset import RESETS, Reset
from ..utils.pytree import StateTuple
from ._surrogate import Method
from .reset import ResetMethod, reset_value
from .threshold import threshold as threshold

__all__ = ["LIFBoxFeedForwardState", "LIFBoxParameters", "LIFBoxState", "lif_box_feed_forward_step"]


class LIFBoxParameters(StateTuple):
    r"""Parameters of a LIF neuron without a synapse.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step; each may require
    grad.
    Potentials and currents share one unit; with the defaults the threshold is 1.

    Args:
        tau_mem_inv: inverse membrane time constant :math:`1/\tau_{mem}` in 1/s.
        v_leak: leak potential.
        v_th: threshold potential.
        v_reset: reset potential.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.
        reset_method: what a spike does to the potential, a function ``(z, v, v_reset, v_th) -> v``.
            :func:`~norse_fast.functional.reset.reset_value` and :func:`~norse_fast.functional.reset.reset_subtract` run
            in fused kernels, any other function in plain PyTorch.

    Example:
        >>> from norse_fast import reset_subtract
        >>> LIFBoxParameters(reset_method=reset_subtract).v_th
        tensor(1.)
    """

    tau_mem_inv: Any = constant(1.0 / 1e-2)
    v_leak: Any = constant(0.0)
    v_th: Any = constant(1.0)
    v_reset: Any = constant(0.0)
    method: Method = "super"
    alpha: Any = constant(100.0)
    reset_method: ResetMethod = reset_value


class LIFBoxState(StateTuple):
    """Spikes and membrane potential of LIF neurons without a synapse, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in the unit of ``v_th``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> LIFBoxState(z=zeros, v=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor


class LIFBoxFeedForwardState(StateTuple):
    """State of LIF neurons without a synapse, of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in the unit of ``v_th``.

    Example:
        >>> LIFBoxFeedForwardState(v=torch.zeros(1, 2)).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor


def _step(
    x: torch.Tensor,
    state: Any,
    p: Any,
    spike: Callable[[torch.Tensor], torch.Tensor],
    dt: float,
    reset: Reset,
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    (v,) = state
    tau_mem_inv, v_leak, v_th, v_reset = p
    v_decayed = v + dt * tau_mem_inv * (x + v_leak - v)
    z = spike(v_decayed - v_th)
    return z, (reset.potential(z, v_decayed, v_reset, v_th),)


class _ByReset(Neuron):
    """A neuron whose parameters may name its reset: then another one takes the call."""

    def __call__(
        self,
        input: torch.Tensor,
        state: Any,
        p: Any,
        dt: float,
        sequence: bool = False,
        record: bool = False,
        kind: str = "all",
    ) -> tuple[torch.Tensor, Any]:
        method = getattr(p, "reset_method", reset_value)
        assert self.reset is not None
        if self.reset.kind != "value" or method is reset_value:
            return super().__call__(input, state, p, dt, sequence, record, kind)
        named = next((name for name, known in RESETS.items() if known is method), method)
        return self.variants[named, self.reset.detach](input, state, p, dt, sequence, record, kind)


_lif_box = _ByReset("lif_box", ("v",), ("tau_mem_inv", "v_leak", "v_th", "v_reset"), LIFBoxFeedForwardState, _step)


def lif_box_feed_forward_step(
    input_tensor: torch.Tensor,
    state: LIFBoxFeedForwardState,
    p: LIFBoxParameters = LIFBoxParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, LIFBoxFeedForwardState]:
    r"""One time step of LIF neurons without a synapse, each driven by its own input.

    .. math::
        v_d &= v + dt\, \tau_{mem}^{-1} (x + v_{leak} - v) \\
        z   &= H(v_d - v_{th}) \\
        v'  &= (1 - z) v_d + z v_{reset} \quad \text{or what } \mathtt{p.reset\_method} \text{ does}

    Args:
        input_tensor: input current :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in
            float32; integers and booleans are converted to the default dtype.
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
        >>> state = LIFBoxFeedForwardState(v=torch.zeros(2))
        >>> z, state = lif_box_feed_forward_step(torch.tensor([1.0, 15.0]), state, LIFBoxParameters())
        >>> z, state.v
        (tensor([0., 1.]), tensor([0.1000, 0.0000]))
    """
    return _lif_box.variants[reset, detach_reset](input_tensor, state, p, dt)


SEQUENCES[lif_box_feed_forward_step] = _lif_box
