"""LIF neurons whose synapses carry correlation sensors, for plasticity.

The neurons are those of :mod:`norse_fast.functional.lif`, the sensors those of
:mod:`norse_fast.functional.correlation_sensor`. Source: S. Friedmann, J. Schemmel, A. Grübl, A. Hartel, M. Hock, K. Meier,
*Demonstrating Hybrid Learning in a Flexible Neuromorphic Hardware System*, IEEE Transactions on Biomedical Circuits and
Systems 11 (2017), 128-142.
"""

from __future__ import annotations

from typing import Any

import torch

from .._kernels.checks import as_dense
from .._kernels.weights import read_fields
from ..utils.pytree import StateTuple
from .correlation_sensor import CorrelationSensorParameters, CorrelationSensorState, correlation_sensor_step
from .lif import LIFParameters, LIFState, lif_step

__all__ = ["LIFCorrelationParameters", "LIFCorrelationState", "lif_correlation_step"]


class LIFCorrelationParameters(StateTuple):
    """Parameters of LIF neurons with correlation sensors.

    Args:
        lif_parameters: those of the neurons.
        input_correlation_parameters: those of the sensors between inputs and neurons.
        recurrent_correlation_parameters: those of the sensors between neurons.

    Example:
        >>> LIFCorrelationParameters().lif_parameters.v_th
        tensor(1.)
    """

    lif_parameters: Any = LIFParameters()
    input_correlation_parameters: Any = CorrelationSensorParameters()
    recurrent_correlation_parameters: Any = CorrelationSensorParameters()


class LIFCorrelationState(StateTuple):
    """State of LIF neurons with correlation sensors.

    Args:
        lif_state: that of the neurons, each of shape ``(B, N)``.
        input_correlation_state: that of the sensors between inputs and neurons, ``(B, inputs, N)``.
        recurrent_correlation_state: that of the sensors between neurons, ``(B, N, N)``.

    Example:
        >>> zeros, sensors = torch.zeros(1, 2), CorrelationSensorState(*[torch.zeros(1, 2, 2)] * 3)
        >>> state = LIFCorrelationState(LIFState(zeros, zeros, zeros), sensors, sensors)
        >>> state.lif_state.v.shape, state.recurrent_correlation_state.correlation_trace.shape
        (torch.Size([1, 2]), torch.Size([1, 2, 2]))
    """

    lif_state: LIFState
    input_correlation_state: CorrelationSensorState
    recurrent_correlation_state: CorrelationSensorState


def lif_correlation_step(
    input_tensor: torch.Tensor,
    state: LIFCorrelationState,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor,
    p: LIFCorrelationParameters = LIFCorrelationParameters(),
    dt: float = 0.001,
) -> tuple[torch.Tensor, LIFCorrelationState]:
    """One time step of a recurrent LIF layer with correlation sensors.

    The sensors of the inputs see the inputs and the new spikes, those of the recurrent synapses the spikes of the last
    step and the new ones.

    Args:
        input_tensor: input spikes, shape ``(B, inputs)``.
        state: state of neurons and sensors.
        input_weights: shape ``(N, inputs)``.
        recurrent_weights: shape ``(N, N)``.
        p: parameters.
        dt: length of the step in seconds.

    Returns:
        Spikes of shape ``(B, N)`` and the new state.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: widths, shapes or devices do not fit, or the surrogate is unknown.

    Example:
        >>> zeros, synapses = torch.zeros(1, 2), torch.zeros(1, 2, 2)
        >>> sensors = CorrelationSensorState(synapses, synapses, synapses)
        >>> state = LIFCorrelationState(LIFState(zeros, zeros, zeros), sensors, sensors)
        >>> weights = torch.full((2, 2), 7.0), torch.zeros(2, 2)
        >>> z, state = lif_correlation_step(torch.ones(1, 2), state, *weights)
        >>> z, state.input_correlation_state.correlation_trace.sum()
        (tensor([[1., 1.]]), tensor(4.))
    """
    input_tensor = as_dense(input_tensor)  # the sensors see it too
    before, of_inputs, of_neurons = read_fields(state, LIFCorrelationState)
    z, lif_state = lif_step(input_tensor, before, input_weights, recurrent_weights, p.lif_parameters, dt)
    inputs = correlation_sensor_step(input_tensor, z, of_inputs, p.input_correlation_parameters, dt)
    recurrent = correlation_sensor_step(before.z, z, of_neurons, p.recurrent_correlation_parameters, dt)
    return z, LIFCorrelationState(lif_state, inputs, recurrent)
