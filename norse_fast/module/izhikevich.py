"""Modules of Izhikevich neurons; the equations are in :mod:`norse_fast.functional.izhikevich`."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.izhikevich import (
    IzhikevichParameters,
    IzhikevichRecurrentState,
    IzhikevichSpikingBehavior,
    IzhikevichState,
    izhikevich_feed_forward_step,
    izhikevich_recurrent_step,
)
from ._initial import copied, filled, initial_voltage, uniform, zeros
from ._parameters import Parameters, checked, described
from ._weights import Weights
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell

__all__ = ["Izhikevich", "IzhikevichCell", "IzhikevichRecurrent", "IzhikevichRecurrentCell"]


def _checked(spiking_method: Any) -> IzhikevichSpikingBehavior:
    """A firing pattern, or an error that says what is wrong with it."""
    if isinstance(spiking_method, type) or not all(hasattr(spiking_method, field) for field in "ps"):
        raise TypeError(
            f"spiking_method: got {described(spiking_method)}, expected an IzhikevichSpikingBehavior, parameters p and "
            "state s of a firing pattern; pass one by name, for example tonic_spiking, or make one with "
            "create_izhikevich_spiking_behavior."
        )
    p = checked(spiking_method.p, IzhikevichParameters, "spiking_method.p")
    s = checked(spiking_method.s, IzhikevichState, "spiking_method.s")
    unchanged = p is spiking_method.p and s is spiking_method.s
    return spiking_method if unchanged else IzhikevichSpikingBehavior(p, s)


class _Izhikevich(Parameters):
    """The arguments and initial state of :class:`IzhikevichCell` and :class:`Izhikevich`."""

    def __init__(self, spiking_method: IzhikevichSpikingBehavior, **kwargs: Any) -> None:
        spiking_method = _checked(spiking_method)
        super().__init__(izhikevich_feed_forward_step, self.initial_state, spiking_method.p, **kwargs)
        self.spiking_method = spiking_method

    @uniform
    def initial_state(self, input_tensor: torch.Tensor) -> IzhikevichState:
        """The state before the first step."""
        rest = self.spiking_method.s
        return IzhikevichState(v=initial_voltage(rest.v, input_tensor), u=copied(rest.u, input_tensor))


class IzhikevichCell(_Izhikevich, SNNCell[IzhikevichState]):
    """One time step of Izhikevich neurons without weights.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.izhikevich.izhikevich_feed_forward_step`. The state starts as a copy of the firing
    pattern's state at rest. Input and output have the same shape, for example ``(B, N)``.

    Args:
        spiking_method: firing pattern, for example :data:`norse_fast.functional.izhikevich.tonic_spiking`; its parameters may
            be numbers, or tensors of any shape that broadcasts to the neurons. With ``learn=("a",)`` fields of them become
            parameters of the module, see :doc:`/learning`.
        dt: length of a step in seconds, by default 0.001.

    Example:
        >>> from norse_fast.functional.izhikevich import tonic_spiking
        >>> z, state = IzhikevichCell(tonic_spiking)(torch.tensor([[0.0, 500.0]]))
        >>> z.detach()
        tensor([[0., 1.]])
    """


class Izhikevich(_Izhikevich, SNN[IzhikevichState]):
    """All time steps of Izhikevich neurons without weights, in one kernel.

    Equations, units, dtypes and errors are those of
    :func:`norse_fast.functional.izhikevich.izhikevich_feed_forward_step`. The state starts as a copy of the firing
    pattern's state at rest. Input and output are ``(T, ...)``, for example ``(T, B, N)``.

    Args:
        spiking_method: firing pattern, as for :class:`IzhikevichCell`.
        dt: length of a step in seconds, by default 0.001.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs over time, see :class:`norse_fast.module.snn.SNN`.

    Example:
        >>> from norse_fast.functional.izhikevich import tonic_spiking
        >>> z, state = Izhikevich(tonic_spiking)(torch.full((200, 1, 1), 14.0))
        >>> z.sum().detach()
        tensor(4.)
    """


class _IzhikevichRecurrent(Weights):
    """The arguments and initial state of :class:`IzhikevichRecurrentCell` and :class:`IzhikevichRecurrent`."""

    def __init__(
        self, input_size: int, hidden_size: int, spiking_method: IzhikevichSpikingBehavior, *args: Any, **kwargs: Any
    ) -> None:
        spiking_method = _checked(spiking_method)
        super().__init__(
            izhikevich_recurrent_step, self.initial_state, input_size, hidden_size, spiking_method.p, *args, **kwargs
        )
        self.spiking_method = spiking_method

    def initial_state(self, input_tensor: torch.Tensor) -> IzhikevichRecurrentState:
        """The state before the first step."""
        rest, shape = self.spiking_method.s, self._neuron_shape(input_tensor)
        return IzhikevichRecurrentState(
            z=zeros(shape, input_tensor),
            v=initial_voltage(rest.v, input_tensor, shape),
            u=filled(rest.u, shape, input_tensor),
        )


class IzhikevichRecurrentCell(_IzhikevichRecurrent, SNNRecurrentCell[IzhikevichRecurrentState]):
    """One time step of a recurrent layer of Izhikevich neurons.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.izhikevich.izhikevich_recurrent_step`.
    The state starts at rest without spikes. Input is ``(..., inputs)``, output ``(..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        spiking_method: firing pattern, as for :class:`IzhikevichCell`.
        *args: input_weights, recurrent_weights, autapses and dt, as for
            :class:`norse_fast.module.snn.SNNRecurrentCell`; also by keyword.

    Example:
        >>> from norse_fast.functional.izhikevich import tonic_spiking
        >>> z, state = IzhikevichRecurrentCell(2, 4, tonic_spiking)(torch.ones(3, 2))
        >>> z.shape
        torch.Size([3, 4])
    """


class IzhikevichRecurrent(_IzhikevichRecurrent, SNNRecurrent[IzhikevichRecurrentState]):
    """All time steps of a recurrent layer of Izhikevich neurons.

    Equations, units, dtypes and errors are those of :func:`norse_fast.functional.izhikevich.izhikevich_recurrent_step`.
    The state starts at rest without spikes. Input is ``(T, ..., inputs)``, output ``(T, ..., N)``.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons N.
        spiking_method: firing pattern, as for :class:`IzhikevichCell`.
        *args: input_weights, recurrent_weights, autapses, dt and record_states, as for
            :class:`norse_fast.module.snn.SNNRecurrent`; also by keyword.

    Example:
        >>> from norse_fast.functional.izhikevich import tonic_spiking
        >>> z, state = IzhikevichRecurrent(2, 4, tonic_spiking)(torch.ones(5, 3, 2))
        >>> z.shape
        torch.Size([5, 3, 4])
    """
