r"""Correlation sensors: what each synapse remembers of the order of its pre- and post-synaptic spikes.

Every synapse has a causal trace :math:`c`, an anti-causal trace :math:`a`, and a flag :math:`s` that says which kind of
spike came last (1: a post-synaptic one).

Source: S. Friedmann, J. Schemmel, A. Grübl, A. Hartel, M. Hock, K. Meier, *Demonstrating Hybrid Learning in a Flexible
Neuromorphic Hardware System*, IEEE Transactions on Biomedical Circuits and Systems 11 (2017), 128-142.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.checks import check_tensor
from .._kernels.weights import read_fields
from ..utils.pytree import StateTuple
from .heaviside import heaviside

__all__ = [
    "CorrelationSensorParameters",
    "CorrelationSensorState",
    "correlation_based_update",
    "correlation_sensor_step",
]


class CorrelationSensorParameters(StateTuple):
    r"""Parameters of correlation sensors, numbers or tensors that broadcast to the synapses.

    Args:
        eta_p: what a pre-synaptic spike adds to the causal trace.
        eta_m: what a post-synaptic spike adds to the anti-causal trace.
        tau_ac_inv: inverse time constant of the anti-causal trace in 1/s.
        tau_c_inv: inverse time constant of the causal trace in 1/s.

    Example:
        >>> CorrelationSensorParameters().tau_c_inv
        tensor(10.)
    """

    eta_p: Any = constant(1.0)
    eta_m: Any = constant(1.0)
    tau_ac_inv: Any = constant(1.0 / 100e-3)
    tau_c_inv: Any = constant(1.0 / 100e-3)


class CorrelationSensorState(StateTuple):
    """State of correlation sensors, each of the synapses' shape ``(B, pre, post)``.

    Args:
        post_pre: 1 where the last spike was post-synaptic, else 0.
        correlation_trace: causal trace.
        anti_correlation_trace: anti-causal trace.

    Example:
        >>> zeros = torch.zeros(1, 2, 3)
        >>> CorrelationSensorState(post_pre=zeros, correlation_trace=zeros, anti_correlation_trace=zeros).post_pre.shape
        torch.Size([1, 2, 3])
    """

    post_pre: torch.Tensor
    correlation_trace: torch.Tensor
    anti_correlation_trace: torch.Tensor


def correlation_sensor_step(
    z_pre: torch.Tensor,
    z_post: torch.Tensor,
    state: CorrelationSensorState,
    p: CorrelationSensorParameters = CorrelationSensorParameters(),
    dt: float = 0.001,
) -> CorrelationSensorState:
    r"""One time step of correlation sensors.

    .. math::
        c' &= c - (1 - s)\, dt\, \tau_c^{-1} c + \eta_p z_{pre} \\
        a' &= a - s\, dt\, \tau_{ac}^{-1} a + \eta_m z_{post} \\
        s' &= H(s + z_{post} - z_{pre})

    Args:
        z_pre: pre-synaptic spikes, shape ``(B, pre)``.
        z_post: post-synaptic spikes, shape ``(B, post)``.
        state: state of the sensors, shape ``(B, pre, post)``.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        The new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the spikes do not fit the state.

    Example:
        >>> zeros = torch.zeros(1, 2, 1)
        >>> state = CorrelationSensorState(zeros, zeros, zeros)
        >>> state = correlation_sensor_step(torch.tensor([[1.0, 0.0]]), torch.ones(1, 1), state)
        >>> state.correlation_trace.flatten(), state.post_pre.flatten()
        (tensor([1., 0.]), tensor([0., 1.]))
    """
    check_tensor("z_pre", z_pre)
    check_tensor("z_post", z_post)
    post_pre, causal, anti_causal = read_fields(state, CorrelationSensorState)
    # Booleans cannot be subtracted.
    pre, post = (x.to(post_pre.dtype) for x in (z_pre.unsqueeze(-1), z_post.unsqueeze(-2)))
    *batch, sources, targets = post_pre.shape
    if pre.shape != (*batch, sources, 1) or post.shape != (*batch, 1, targets):
        raise ValueError(
            f"state.post_pre: got shape {tuple(post_pre.shape)}, expected "
            f"{(*z_pre.shape, z_post.shape[-1])}, because z_pre has shape {tuple(z_pre.shape)} and z_post "
            f"{tuple(z_post.shape)}; pass one value per synapse."
        )
    causal = causal - (1 - post_pre) * (dt * p.tau_c_inv * causal)
    anti_causal = anti_causal - post_pre * (dt * p.tau_ac_inv * anti_causal)
    return CorrelationSensorState(
        post_pre=heaviside(post_pre + post - pre),
        correlation_trace=causal + p.eta_p * pre,
        anti_correlation_trace=anti_causal + p.eta_m * post,
    )


def correlation_based_update(
    ts: int,
    linear_update: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    correlation_state: CorrelationSensorState,
    learning_rate: float,
    ts_frequency: int,
) -> torch.Tensor:
    """Change weights by what a function makes of the traces, every ``ts_frequency`` steps.

    At such a step the traces are reset to zero, in place.

    Args:
        ts: number of the time step.
        linear_update: maps both traces, flattened one after the other, to a change of each weight:
            ``(2 * pre * post,)`` to ``(post * pre,)``; for example a ``torch.nn.Linear``. No gradient flows through it. The
            traces come in their order, ``(pre, post)``, and the change goes in that of the weights, ``(post, pre)``.
        weights: shape ``(post, pre)``.
        correlation_state: state of the sensors, shape ``(pre, post)``.
        learning_rate: factor of the change.
        ts_frequency: number of steps between two updates.

    Returns:
        The new weights, or at other steps the given ones.

    Raises:
        ValueError: the traces have more than one batch element.

    Example:
        >>> def difference(traces):
        ...     causal, anti_causal = traces.view(2, 2, 3)  # pre = 2, post = 3
        ...     return (causal - anti_causal).T.flatten()
        >>> traces = torch.arange(6.0).view(2, 3)
        >>> state = CorrelationSensorState(traces * 0, traces, traces * 0)
        >>> correlation_based_update(10, difference, torch.zeros(3, 2), state, 0.1, 5)
        tensor([[0.0000, 0.3000],
                [0.1000, 0.4000],
                [0.2000, 0.5000]])
    """
    if ts % ts_frequency:
        return weights
    traces = correlation_state.correlation_trace, correlation_state.anti_correlation_trace
    pre, post = traces[0].shape[-2:]
    if traces[0].numel() != pre * post:
        raise ValueError(
            f"correlation_state: got traces of shape {tuple(traces[0].shape)}, expected (pre, post); "
            "sum or average them over the batch."
        )
    with torch.no_grad():
        change = linear_update(torch.cat([trace.flatten() for trace in traces]))
        for trace in traces:
            trace.zero_()
    return weights + learning_rate * change.reshape(post, pre)
