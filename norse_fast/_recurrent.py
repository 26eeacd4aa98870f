"""Recurrent layers over time: the input projection as one product, then one step after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from ._neuron import Neuron, descend

__all__ = ["RECURRENT", "FusedStep", "Recurrent", "check_weights", "project", "stack_states"]


def project(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What arrives through weights, ``weights @ x`` for each ``x`` of a batch, which may be sparse."""
    if x.is_sparse:
        return torch.sparse.mm(x, weights.t())
    return torch.nn.functional.linear(x, weights)


def check_weights(
    input: Any,
    state: Any,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor | None = None,
    spikes: str = "z",
) -> None:
    """Raise if the input, the spikes of the state (its dotted field ``spikes``) and the weights do not fit together.

    Raises:
        TypeError: the input is not a tensor, or the state has no spikes.
        ValueError: a width differs.
    """
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"input: got {type(input).__name__}, expected a tensor; convert it with torch.as_tensor.")
    hidden, width = input_weights.shape
    if input.dim() == 0 or input.shape[-1] != width:
        got = "a 0-dim tensor" if input.dim() == 0 else f"{input.shape[-1]} features in shape {tuple(input.shape)}"
        raise ValueError(
            f"input: got {got}, expected {width}, the width of input_weights {tuple(input_weights.shape)}; "
            "the last dimension of the input must be the features."
        )
    if recurrent_weights is None:
        return
    if tuple(recurrent_weights.shape) != (hidden, hidden):
        raise ValueError(
            f"recurrent_weights: got shape {tuple(recurrent_weights.shape)}, expected {(hidden, hidden)}, because "
            f"input_weights has shape {tuple(input_weights.shape)}; pass one row and column per neuron."
        )
    try:
        z = descend(state, spikes)
    except AttributeError:
        z = None
    if not isinstance(z, torch.Tensor):
        _reject_state(state, f"a tensor field {spikes}, the spikes of the last step")
    if z.dim() == 0 or z.shape[-1] != hidden:
        raise ValueError(
            f"state.{spikes}: got shape {tuple(z.shape)}, expected (..., {hidden}), one spike per neuron; "
            "a state cannot be carried over to a layer of another size."
        )


def _reject_state(state: Any, expected: str) -> NoReturn:
    raise TypeError(
        f"state: got {type(state).__name__}, expected a tuple with {expected}; pass the state that the last step "
        "returned, or None to a module."
    ) from None


def stack_states(states: list[Any]) -> Any:
    """Stack every tensor of a list of equal (nested) state tuples over time."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *states)


class FusedStep:
    """One step of a recurrent layer whose neurons take all input through one state variable.

    Args:
        neuron: the neurons; the layer's state has all of their state variables.
        pack: builds the layer's state tuple from the new spikes and the state variables.
        receiver: the state variable that takes the input.
        spikes: the dotted field of the layer's state with the spikes of the last step.
    """

    def __init__(self, neuron: Neuron, pack: Callable[..., Any], receiver: str = "i", spikes: str = "z") -> None:
        self.neuron, self.pack, self.spikes = neuron, pack, spikes
        self.receiver = neuron.state.index(receiver)

    def __call__(
        self, projected: torch.Tensor, state: Any, recurrent_weights: torch.Tensor, p: Any, dt: float
    ) -> tuple[torch.Tensor, Any]:
        """Run one step."""
        try:
            before = list(self.neuron.read_state(state))
            z = descend(state, self.spikes)
        except AttributeError:
            _reject_state(state, f"the fields {', '.join((self.spikes, *self.neuron.state))}")
        # The receiver takes the input first and the recurrent spikes second: the reference's order of rounding.
        before[self.receiver] = before[self.receiver] + projected
        z, after = self.neuron(project(recurrent_weights, z), self.neuron.pack(*before), p, dt)
        return z, self.pack(z, *self.neuron.read_state(after))


class Recurrent:
    """A recurrent layer.

    Args:
        step: ``step(projected input, state, recurrent weights, p, dt)`` gives output and new state.
        spikes: the dotted field of its state with the spikes of the last step.
        prepare: makes of each weight matrix what the projection and the step use instead; once for all steps.
    """

    def __init__(
        self,
        step: Callable[..., tuple[torch.Tensor, Any]],
        spikes: str = "z",
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.step, self.spikes, self.prepare = step, spikes, prepare

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> Recurrent:
        """The layer of a :class:`FusedStep`, whose arguments it takes."""
        step = FusedStep(*args, **kwargs)
        return cls(step, step.spikes)

    def one_step(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
    ) -> tuple[torch.Tensor, Any]:
        """Run one step, from the input before its projection."""
        check_weights(input, state, input_weights, recurrent_weights, self.spikes)
        return self.step(project(input_weights, input), state, recurrent_weights, p, dt)

    def __call__(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
        record: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """Run all steps along the first dimension of the input.

        Returns:
            The outputs of all steps, and the last state, or with ``record`` the states of all steps.
        """
        if input.dim() < 2 or input.shape[0] == 0:
            raise ValueError(
                f"input: got shape {tuple(input.shape)}, expected (T, ..., inputs) with T of 1 or more; "
                "put time in the first dimension."
            )
        check_weights(input, state, input_weights, recurrent_weights, self.spikes)
        if self.prepare is not None:
            input_weights, recurrent_weights = self.prepare(input_weights), self.prepare(recurrent_weights)
        outputs, states = [], []
        for projected in torch.nn.functional.linear(input, input_weights).unbind(0):
            output, state = self.step(projected, state, recurrent_weights, p, dt)
            outputs.append(output)
            if record:
                states.append(state)
        return torch.stack(outputs), stack_states(states) if record else state


#: The layer behind each public recurrent step function.
RECURRENT: dict[Callable[..., Any], Recurrent] = {}
