"""Modules of conductance-based LIF neurons; the equations are in :mod:`norse_fast.functional.coba_lif`."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..functional.coba_lif import (
    CobaLIFFeedForwardState,
    CobaLIFParameters,
    CobaLIFState,
    coba_lif_feed_forward_step,
    coba_lif_step,
)
from ._initial import initial_voltage, leaf, uniform, zeros
from ._parameters import Parameters, checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["CobaLIF", "CobaLIFCell", "CobaLIFFeedForwardCell", "CobaLIFRecurrent"]


def _with_weights(input_size: int, hidden_size: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the recurrent classes: weights of the variance that the reference gives them, and autapses."""
    for name, columns in (("input_weights", input_size), ("recurrent_weights", hidden_size)):
        if arguments.get(name) is None:
            arguments[name] = torch.nn.Parameter(torch.randn(hidden_size, columns) / math.sqrt(max(columns, 1)))
    return {"autapses": True, **arguments}


class _CobaLIF(Parameters):
    """The arguments and initial state of :class:`CobaLIFFeedForwardCell` and :class:`CobaLIF`."""

    def __init__(self, p: CobaLIFParameters = CobaLIFParameters(), **kwargs: Any) -> None:
        super().__init__(coba_lif_feed_forward_step, self.initial_state, checked(p, CobaLIFParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> CobaLIFFeedForwardState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        v = initial_voltage(self.p.v_rest, input_tensor, shape)
        return CobaLIFFeedForwardState(v, g_e=zeros(shape, input_tensor), g_i=zeros(shape, input_tensor))


class CobaLIFFeedForwardCell(_CobaLIF, SNNCell[CobaLIFFeedForwardState]):
    """One time step of conductance-based LIF neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.coba_lif.coba_lif_feed_forward_step`.
    The state starts at ``v = v_rest`` without conductances. Input and output have the same shape, for example
    ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        dt: length of a step, by default 0.001.

    Example:
        >>> z, state = CobaLIFFeedForwardCell()(torch.tensor([[50.0, -50.0]]))
        >>> z.detach()
        tensor([[1., 0.]])
    """


class CobaLIF(_CobaLIF, SNN[CobaLIFFeedForwardState]):
    """All time steps of conductance-based LIF neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.coba_lif.coba_lif_feed_forward_step`.
    The state starts at ``v = v_rest`` without conductances. Input and output are ``(T, ...)``, for example
    ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`CobaLIFFeedForwardCell`.
        dt: length of a step, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> z, state = CobaLIF()(torch.full((4, 1, 2), 20.0))
        >>> z.flatten(1).detach()
        tensor([[0., 0.],
                [1., 1.],
                [0., 0.],
                [1., 1.]])
    """


class _CobaLIFRecurrent(Weights):
    """The arguments and initial state of :class:`CobaLIFCell` and :class:`CobaLIFRecurrent`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: CobaLIFParameters = CobaLIFParameters(),
        dt: float = 0.001,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            coba_lif_step,
            self.initial_state,
            input_size,
            hidden_size,
            checked(p, CobaLIFParameters),
            dt=dt,
            **_with_weights(input_size, hidden_size, kwargs),
        )

    def initial_state(self, input_tensor: torch.Tensor) -> CobaLIFState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        z, v, g_e, g_i = (zeros(shape, input_tensor) for _ in CobaLIFState._fields)
        return CobaLIFState(z, leaf(v, input_tensor), g_e, g_i)


class CobaLIFCell(_CobaLIFRecurrent, SNNRecurrentCell[CobaLIFState]):
    """One time step of a recurrent layer of conductance-based LIF neurons.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.coba_lif.coba_lif_step`. The whole
    state starts at 0, as in the reference; with the default parameters that is above threshold, so hand over a state to
    start at rest. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`CobaLIFFeedForwardCell`.
        dt: length of a step.
        input_weights: shape ``(N, inputs)``; by default a parameter, normal with variance ``1 / inputs``.
        recurrent_weights: shape ``(N, N)``; by default a parameter, normal with variance ``1 / N``.
        autapses: whether a neuron may excite itself, by default True.

    Example:
        >>> z, state = CobaLIFCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class CobaLIFRecurrent(_CobaLIFRecurrent, SNNRecurrent[CobaLIFState]):
    """All time steps of a recurrent layer of conductance-based LIF neurons.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.coba_lif.coba_lif_step`. The whole
    state starts at 0, as that of :class:`CobaLIFCell`. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`CobaLIFFeedForwardCell`.
        dt: length of a step.
        input_weights, recurrent_weights, autapses: as for :class:`CobaLIFCell`.
        record_states: return the states of all steps, stacked over time, instead of the last state.

    Example:
        >>> z, state = CobaLIFRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
