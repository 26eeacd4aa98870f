r"""Conductance-based LIF neurons with an excitatory and an inhibitory synapse.

.. math::
    \dot v   &= C^{-1} (g_l (v_{rest} - v) + g_e (E_{rev,E} - v) + g_i (E_{rev,I} - v)) \\
    \dot g_e &= -\tau_{syn,exc}^{-1} g_e \\
    \dot g_i &= -\tau_{syn,inh}^{-1} g_i

with a spike :math:`z = H(v - v_{thresh})`, after which :math:`v` is set to :math:`v_{reset}`. Positive input raises the
excitatory conductance, negative input the inhibitory one. Potentials are in mV; the default rates are per ms.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter
3.1; R. Brette et al., *Simulation of networks of spiking neurons*, Journal of Computational Neuroscience 23 (2007).
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
from .threshold import threshold as threshold

__all__ = [
    "CobaLIFFeedForwardState",
    "CobaLIFParameters",
    "CobaLIFState",
    "coba_lif_feed_forward_step",
    "coba_lif_step",
]


class CobaLIFParameters(StateTuple):
    r"""Parameters of a conductance-based LIF neuron.

    Each is a number, a 0-dim tensor, or any shape that broadcasts to the neurons of one time step (for example
    ``(N,)``); each floating-point tensor may require grad.

    Args:
        tau_syn_exc_inv: inverse time constant of the excitatory synapse, by default per ms; ``dt`` must be in the same unit.
        tau_syn_inh_inv: inverse time constant of the inhibitory synapse, likewise.
        c_m_inv: inverse membrane capacitance :math:`C^{-1}`; times a conductance it is a rate, likewise.
        g_l: leak conductance, in the unit of the synapses' conductances.
        e_rev_I: reversal potential of the inhibitory synapse in mV.
        e_rev_E: reversal potential of the excitatory synapse in mV.
        v_rest: resting potential in mV.
        v_reset: reset potential in mV.
        v_thresh: threshold potential in mV.
        method: surrogate derivative, a name or a function, see :func:`norse_fast.functional.threshold.threshold`.
        alpha: its steepness.

    Example:
        >>> CobaLIFParameters(v_thresh=-50.0).v_rest
        tensor(-20)
    """

    tau_syn_exc_inv: Any = constant(1.0 / 5)
    tau_syn_inh_inv: Any = constant(1.0 / 5)
    c_m_inv: Any = constant(1.0 / 0.2)
    g_l: Any = constant(1.0 / 4)
    e_rev_I: Any = constant(-100)
    e_rev_E: Any = constant(60)
    v_rest: Any = constant(-20)
    v_reset: Any = constant(-70)
    v_thresh: Any = constant(-10)
    method: Method = "super"
    alpha: Any = 100.0


class CobaLIFState(StateTuple):
    """State of a recurrent layer of conductance-based LIF neurons, each of the neurons' shape ``(B, N)``.

    Args:
        z: spikes of the last step, 0 or 1.
        v: membrane potential, in mV.
        g_e: excitatory conductance, in the unit of ``g_l``.
        g_i: inhibitory conductance, in the unit of ``g_l``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> CobaLIFState(z=zeros, v=zeros, g_e=zeros, g_i=zeros).v
        tensor([[0., 0.]])
    """

    z: torch.Tensor
    v: torch.Tensor
    g_e: torch.Tensor
    g_i: torch.Tensor


class CobaLIFFeedForwardState(StateTuple):
    """State of conductance-based LIF neurons without recurrence, each of the neurons' shape, for example ``(B, N)``.

    Args:
        v: membrane potential, in mV.
        g_e: excitatory conductance, in the unit of ``g_l``.
        g_i: inhibitory conductance, in the unit of ``g_l``.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> CobaLIFFeedForwardState(v=zeros, g_e=zeros, g_i=zeros).v
        tensor([[0., 0.]])
    """

    v: torch.Tensor
    g_e: torch.Tensor
    g_i: torch.Tensor


# Not among the exported names: the function of functional/parameter.py has the same.
#: A state at rest in biological units.
default_bio_state: CobaLIFState = CobaLIFState(z=constant(0.0), v=constant(-65.0), g_e=constant(0.0), g_i=constant(0.0))
#: Parameters in biological units, to go with it.
default_bio_parameters: CobaLIFParameters = CobaLIFParameters(
    tau_syn_exc_inv=constant(1 / 0.3),
    tau_syn_inh_inv=constant(1 / 0.5),
    e_rev_E=constant(0.0),
    e_rev_I=constant(-70.0),
    v_thresh=constant(-50.0),
    v_reset=constant(-65.0),
    v_rest=constant(-65.0),
)


def _step(
    x: torch.Tensor, state: Any, p: Any, spike: Callable[[torch.Tensor], torch.Tensor], dt: float, reset: Reset
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    v, g_e, g_i = state
    tau_syn_exc_inv, tau_syn_inh_inv, c_m_inv, g_l, e_rev_i, e_rev_e, v_rest, v_reset, v_thresh = p
    g_e = g_e + torch.relu(x)
    g_i = g_i + torch.relu(-x)
    g_e = g_e - dt * tau_syn_exc_inv * g_e
    g_i = g_i - dt * tau_syn_inh_inv * g_i
    v_decayed = v + dt * c_m_inv * (g_l * (v_rest - v) + g_e * (e_rev_e - v) + g_i * (e_rev_i - v))
    z = spike(v_decayed - v_thresh)
    return z, (reset.potential(z, v_decayed, v_reset, v_thresh), g_e, g_i)


_coba_lif = Neuron(
    "coba_lif",
    ("v", "g_e", "g_i"),
    ("tau_syn_exc_inv", "tau_syn_inh_inv", "c_m_inv", "g_l", "e_rev_I", "e_rev_E", "v_rest", "v_reset", "v_thresh"),
    CobaLIFFeedForwardState,
    _step,
)


def coba_lif_feed_forward_step(
    input_tensor: torch.Tensor,
    state: CobaLIFFeedForwardState,
    p: CobaLIFParameters = CobaLIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, CobaLIFFeedForwardState]:
    r"""One time step of conductance-based LIF neurons, each driven by its own input.

    .. math::
        j_e  &= g_e + \mathrm{relu}(x), \quad g_e' = j_e - dt\, \tau_{syn,exc}^{-1} j_e \\
        j_i  &= g_i + \mathrm{relu}(-x), \quad g_i' = j_i - dt\, \tau_{syn,inh}^{-1} j_i \\
        v_d  &= v + dt\, C^{-1} (g_l (v_{rest} - v) + g_e' (E_{rev,E} - v) + g_i' (E_{rev,I} - v)) \\
        z    &= H(v_d - v_{thresh}) \\
        v'   &= (1 - z) v_d + z v_{reset}

    Args:
        input_tensor: input :math:`x`, any shape, for example ``(B, N)``. float16 and bfloat16 are computed in float32;
            integers and booleans are converted to the default dtype.
        state: membrane potential and conductances, of shapes that broadcast to the input's.
        p: parameters.
        dt: length of the step, in the unit of the time constants.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes in the shape and dtype of the input, and the new state.

    Raises:
        TypeError: an argument is of the wrong type or a complex dtype.
        ValueError: shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> state = CobaLIFFeedForwardState(v=torch.full((2,), -20.0), g_e=torch.zeros(2), g_i=torch.zeros(2))
        >>> z, state = coba_lif_feed_forward_step(torch.tensor([50.0, -50.0]), state)
        >>> z, state.v
        (tensor([1., 0.]), tensor([-70.0000, -39.9960]))
    """
    return _coba_lif.variants[reset, detach_reset](input_tensor, state, p, dt)


def _by_sign(weights: torch.Tensor) -> torch.Tensor:
    """Excitatory over inhibitory weights, both positive: one product then feeds both synapses."""
    return torch.cat((torch.relu(weights), torch.relu(-weights)))


_layer = Recurrent(_coba_lif, CobaLIFState, receivers=("g_e", "g_i"), prepare=_by_sign)


def coba_lif_step(
    input_spikes: torch.Tensor,
    state: CobaLIFState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: CobaLIFParameters = CobaLIFParameters(),
    dt: float = 0.001,
    *,
    reset: str = "value",
    detach_reset: bool = False,
) -> tuple[torch.Tensor, CobaLIFState]:
    r"""One time step of a recurrent layer of conductance-based LIF neurons.

    As :func:`coba_lif_feed_forward_step` with

    .. math::
        j_e &= g_e + \mathrm{relu}(W) x + \mathrm{relu}(R) z \\
        j_i &= g_i + \mathrm{relu}(-W) x + \mathrm{relu}(-R) z

    where :math:`z` are the spikes of the last step.

    Args:
        input_spikes: input :math:`x`, shape ``(..., inputs)``; conductances are positive where it is.
        state: state of the neurons, shape ``(..., N)``.
        input_weights: :math:`W`, shape ``(N, inputs)``; positive weights excite, negative ones inhibit.
        recurrent_weights: :math:`R`, shape ``(N, N)``; likewise.
        p: parameters.
        dt: length of the step, in the unit of the time constants.
        reset, detach_reset: what a spike does to the neuron, see :mod:`norse_fast.functional.reset`.

    Returns:
        Spikes of shape ``(..., N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or surrogate or reset are unknown.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> state = CobaLIFState(z=zeros, v=torch.full((1, 2), -20.0), g_e=zeros, g_i=zeros)
        >>> weights = torch.tensor([[50.0], [-50.0]]), torch.zeros(2, 2)
        >>> coba_lif_step(torch.ones(1, 1), state, *weights)[0]
        tensor([[1., 0.]])
    """
    return _layer.variants[reset, detach_reset].one_step(input_spikes, state, input_weights, recurrent_weights, p, dt)


SEQUENCES[coba_lif_feed_forward_step] = _coba_lif
RECURRENT[coba_lif_step] = _layer
