"""Step functions over time.

Source: C. Pehle, J. E. Pedersen, *Norse: a deep learning library for spiking neural networks*, 2021, whose interface it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from .._kernels.neuron import SEQUENCES
from .._kernels.recurrent import RECURRENT

__all__ = ["lift"]


class _Lifted:
    """What :func:`lift` returns; a class of its own, so that it can be pickled."""

    def __init__(self, activation: Callable[..., tuple[torch.Tensor, Any]], p: Any = None) -> None:
        self.activation, self.p = activation, p

    def __repr__(self) -> str:
        return f"lift({getattr(self.activation, '__name__', self.activation)}, p={self.p})"

    def __call__(self, input_tensor: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        if self.p is not None:
            kwargs.setdefault("p", self.p)
        if kwargs.get("state") is None:
            kwargs.pop("state", None)
        if isinstance(input_tensor, torch.Tensor) and input_tensor.layout is torch.strided:
            if self.activation in SEQUENCES:
                (state, p, dt), reset = self._arguments(input_tensor, **kwargs)
                neuron = SEQUENCES[self.activation]
                return (neuron.variants[reset] if reset else neuron)(input_tensor, state, p, dt, sequence=True)
            if self.activation in RECURRENT:
                arguments, reset = self._arguments(input_tensor, **kwargs)
                return RECURRENT[self.activation].variants[reset](input_tensor, *arguments)
        if len(input_tensor) == 0:
            raise ValueError("input_tensor: got no time steps, expected (T, ...) with T of 1 or more.")
        outputs = []
        for x in input_tensor:
            output, kwargs["state"] = self.activation(x, **kwargs)
            outputs.append(output)
        return torch.stack(outputs), kwargs["state"]

    def _arguments(self, input_tensor: torch.Tensor, **kwargs: Any) -> tuple[list[Any], tuple[Any, ...]]:
        """The arguments of the step function after the input, in order, the first of them the state; and its reset."""
        state = [kwargs.pop("state")] if "state" in kwargs else []
        bound = inspect.signature(self.activation).bind(input_tensor, *state, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        reset = tuple(values.pop(name) for name in ("reset", "detach_reset") if name in values)
        return list(values.values())[1:], reset


def lift(activation: Callable[..., tuple[torch.Tensor, Any]], p: Any = None) -> Callable[..., tuple[torch.Tensor, Any]]:
    """A step function over time.

    Step functions of norse_fast run all time steps at once: those of neurons without weights in one kernel, those of
    recurrent layers after one product for the input of all steps. Any other function is called once per step.

    Args:
        activation: a step function ``(input, state=..., p=..., ...) -> (output, state)``.
        p: parameters for ``activation``, where the call names none.

    Returns:
        A function that takes input over time, ``(T, ...)``, and all other arguments of ``activation`` by keyword, ``state``
        being that before the first step. It returns the outputs of all steps, ``(T, ...)``, and the last state. It can be
        pickled if ``activation`` can.

    Raises:
        TypeError: an argument that ``activation`` needs is missing.

    Example:
        >>> from norse_fast import LIFFeedForwardState, LIFParameters, lif_feed_forward_step
        >>> state = LIFFeedForwardState(v=torch.zeros(2), i=torch.zeros(2))
        >>> lift(lif_feed_forward_step, p=LIFParameters())(torch.full((3, 2), 5.0), state=state)[0]
        tensor([[0., 0.],
                [1., 1.],
                [1., 1.]])
    """
    return _Lifted(activation, p)
