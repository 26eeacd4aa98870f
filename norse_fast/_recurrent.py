"""Recurrent layers over time: the input projection as one product, then one step after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["RECURRENT", "Recurrent", "check_weights", "stack_states"]


def check_weights(
    input: Any, state: Any, input_weights: torch.Tensor, recurrent_weights: torch.Tensor | None = None
) -> None:
    """Raise if the input, the spikes of the state and the weights do not fit together.

    Raises:
        TypeError: the input is not a tensor, or the state has no field ``z``.
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
    z = getattr(state, "z", None)
    if not isinstance(z, torch.Tensor):
        raise TypeError(
            f"state: got {type(state).__name__}, expected a tuple with a tensor field z, the spikes of the last step; "
            "pass the state that the last step returned, or None to a module."
        )
    if z.dim() == 0 or z.shape[-1] != hidden:
        raise ValueError(
            f"state.z: got shape {tuple(z.shape)}, expected (..., {hidden}), one spike per neuron; "
            "a state cannot be carried over to a layer of another size."
        )


def stack_states(states: list[Any]) -> Any:
    """Stack every tensor of a list of equal (nested) state tuples over time."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *states)


class Recurrent:
    """A recurrent layer.

    Args:
        step: ``step(projected input, state, recurrent weights, p, dt)`` gives output and new state.
        prepare: makes of each weight matrix what the projection and the step use instead; once for all steps.
    """

    def __init__(
        self,
        step: Callable[..., tuple[torch.Tensor, Any]],
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.step, self.prepare = step, prepare

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
        check_weights(input, state, input_weights, recurrent_weights)
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
