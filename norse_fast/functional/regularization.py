"""Terms for a loss that keep activity within bounds: what a layer does is summed up over the steps that it runs.

Source: F. Zenke, T. Vogels, *The Remarkable Robustness of Surrogate Gradient Learning for Instilling Complex Function in
Spiking Neural Networks*, Neural Computation 33 (2021), 899-925: penalties on spike counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import HALF
from .._kernels.checks import check_tensor

__all__ = ["Accumulator", "regularize_step", "spike_accumulator", "voltage_accumulator"]

#: A function of a layer's spikes, its state and what has been accumulated (None at first) that gives the new accumulation.
Accumulator = Callable[[torch.Tensor, Any, Any], Any]


def spike_accumulator(z: torch.Tensor, _: Any, state: torch.Tensor | None = None) -> torch.Tensor:
    """Count spikes: add all of this step to those so far.

    Args:
        z: spikes of the layer, any shape.
        _: state of the layer, which does not matter here.
        state: number of spikes so far, or None.

    Returns:
        The number of spikes, a 0-dim tensor; in float32 for half precision, which cannot count far.

    Raises:
        TypeError: the spikes are no tensor.

    Example:
        >>> spike_accumulator(torch.tensor([0.0, 1.0, 1.0]), None, torch.tensor(3.0))
        tensor(5.)
    """
    check_tensor("z", z)
    count = z.sum(dtype=torch.float32 if z.dtype in HALF else None)
    return count if state is None else state + count


def voltage_accumulator(z: torch.Tensor, s: Any, state: torch.Tensor | None = None) -> torch.Tensor:
    """Add the membrane potentials of this step to those so far, for each neuron.

    Args:
        z: spikes of the layer, which do not matter here.
        s: state of the layer, with a field ``v``.
        state: sum of the membrane potentials so far, or None.

    Returns:
        The sum of the membrane potentials, in their shape and dtype.

    Raises:
        AttributeError: the state has no field ``v``.

    Example:
        >>> from norse_fast.functional.lif import LIFFeedForwardState
        >>> s = LIFFeedForwardState(v=torch.tensor([0.5, -0.25]), i=torch.zeros(2))
        >>> voltage_accumulator(torch.zeros(2), s, torch.ones(2))
        tensor([1.5000, 0.7500])
    """
    return torch.zeros_like(s.v) + s.v if state is None else state + s.v


def regularize_step(
    z: torch.Tensor, s: Any, accumulator: Accumulator = spike_accumulator, state: Any = None
) -> tuple[torch.Tensor, Any]:
    """Pass spikes on and accumulate what a regularisation term needs.

    Args:
        z: spikes of the layer, any shape.
        s: state of the layer.
        accumulator: makes the new accumulation from ``z``, ``s`` and ``state``.
        state: what has been accumulated so far, or None.

    Returns:
        The unchanged spikes, and the accumulation.

    Example:
        >>> regularize_step(torch.tensor([0.0, 1.0]), None, state=torch.tensor(1.0))
        (tensor([0., 1.]), tensor(2.))
    """
    return z, accumulator(z, s, state)
