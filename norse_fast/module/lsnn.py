"""Modules of long short-term memory spiking neurons; the equations are in :mod:`norse_fast.functional.lsnn`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..functional.lsnn import (
    LSNNFeedForwardState,
    LSNNParameters,
    LSNNState,
    lsnn_feed_forward_step,
    lsnn_step,
)
from ._initial import copied, filled, initial_voltage, uniform, zeros
from ._parameters import checked
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["LSNN", "LSNNCell", "LSNNRecurrent", "LSNNRecurrentCell"]


def _reject_adjoint(adjoint: bool) -> None:
    if adjoint:
        raise NotImplementedError(
            "adjoint: got True, which norse_fast does not implement; leave it False for surrogate gradients through "
            "time, whose backward needs almost no extra memory."
        )


def _initial_recurrent_state(p: LSNNParameters, shape: Sequence[int], input_tensor: torch.Tensor) -> LSNNState:
    return LSNNState(
        z=zeros(shape, input_tensor),
        v=initial_voltage(p.v_leak, input_tensor, shape),
        i=zeros(shape, input_tensor),
        b=filled(p.v_th, shape, input_tensor),
    )


class LSNNCell(SNNCell[LSNNFeedForwardState]):
    """One time step of LSNN neurons without weights.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lsnn.lsnn_feed_forward_step`. The
    state starts at ``v = v_leak``, ``i = 0`` and ``b = v_th``. Input and output have the same shape, for example
    ``(B, N)``.

    Args:
        p: parameters; they may be numbers, or tensors of any shape that broadcasts to the neurons. With
            ``learn=("v_th",)`` fields of it become parameters of the module, see :doc:`/learning`.
        adjoint: must be False.
        dt: length of a step in seconds, by default 0.001.

    Raises:
        NotImplementedError: ``adjoint`` is True.

    Example:
        >>> cell = LSNNCell()
        >>> z, state = cell(torch.tensor([[0.0, 20.0]]))
        >>> z, state = cell(torch.tensor([[0.0, 20.0]]), state)
        >>> z.detach()
        tensor([[0., 1.]])
    """

    def __init__(self, p: LSNNParameters = LSNNParameters(), adjoint: bool = False, **kwargs: Any) -> None:
        _reject_adjoint(adjoint)
        super().__init__(lsnn_feed_forward_step, self.initial_state, checked(p, LSNNParameters), **kwargs)

    def initial_state(self, input_tensor: torch.Tensor) -> LSNNFeedForwardState:
        """The state before the first step."""
        return LSNNFeedForwardState(
            v=initial_voltage(self.p.v_leak, input_tensor, input_tensor.shape),
            i=zeros(input_tensor.shape, input_tensor),
            b=copied(self.p.v_th, input_tensor),
        )


class LSNN(SNN[LSNNFeedForwardState]):
    """All time steps of LSNN neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lsnn.lsnn_feed_forward_step`. The
    state starts at ``v = v_leak``, ``i = 0`` and ``b = v_th``. Input and output are ``(T, ...)``, for example
    ``(T, B, N)``.

    Args:
        p: parameters, as for :class:`LSNNCell`.
        adjoint: must be False.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Raises:
        NotImplementedError: ``adjoint`` is True.

    Example:
        >>> z, state = LSNN()(torch.full((4, 1, 2), 5.0))
        >>> z.sum(0).detach()
        tensor([[1., 1.]])
    """

    def __init__(self, p: LSNNParameters = LSNNParameters(), adjoint: bool = False, **kwargs: Any) -> None:
        _reject_adjoint(adjoint)
        super().__init__(lsnn_feed_forward_step, self.initial_state, checked(p, LSNNParameters), **kwargs)

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> LSNNFeedForwardState:
        """The state before the first step."""
        return LSNNFeedForwardState(*_initial_recurrent_state(self.p, input_tensor.shape[1:], input_tensor)[1:])


class _LSNNRecurrent(Weights):
    """The arguments of :class:`LSNNRecurrentCell` and :class:`LSNNRecurrent`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LSNNParameters = LSNNParameters(),
        adjoint: bool = False,
        **kwargs: Any,
    ) -> None:
        _reject_adjoint(adjoint)
        super().__init__(lsnn_step, self.initial_state, input_size, hidden_size, checked(p, LSNNParameters), **kwargs)


class LSNNRecurrentCell(_LSNNRecurrent, SNNRecurrentCell[LSNNState]):
    """One time step of a recurrent LSNN layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lsnn.lsnn_step`. The state starts at
    ``v = v_leak``, ``i = 0``, ``b = v_th`` and ``z = 0``. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LSNNCell`.
        adjoint: must be False.
        input_weights, recurrent_weights, autapses, dt: as for :class:`norse_fast.module.snn.SNNRecurrentCell`.

    Raises:
        NotImplementedError: ``adjoint`` is True.

    Example:
        >>> z, state = LSNNRecurrentCell(2, 4)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """

    def initial_state(self, input_tensor: torch.Tensor) -> LSNNState:
        """The state before the first step."""
        state = _initial_recurrent_state(self.p, self._neuron_shape(input_tensor), input_tensor)
        return state._replace(b=copied(self.p.v_th, input_tensor))


class LSNNRecurrent(_LSNNRecurrent, SNNRecurrent[LSNNState]):
    """All time steps of a recurrent LSNN layer.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.lsnn.lsnn_step`. The state starts at
    ``v = v_leak``, ``i = 0``, ``b = v_th`` and ``z = 0``. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, as for :class:`LSNNCell`.
        adjoint: must be False.
        input_weights, recurrent_weights, autapses, dt, record_states: as for
            :class:`norse_fast.module.snn.SNNRecurrent`.

    Raises:
        NotImplementedError: ``adjoint`` is True.

    Example:
        >>> z, state = LSNNRecurrent(2, 4)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """

    def initial_state(self, input_tensor: torch.Tensor) -> LSNNState:
        """The state before the first step."""
        shape = self._neuron_shape(input_tensor)
        return _initial_recurrent_state(self.p, shape, input_tensor)
