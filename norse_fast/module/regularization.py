"""Regularisation as a module; the accumulators are in :mod:`norse_fast.functional.regularization`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree

from ..functional.regularization import Accumulator, regularize_step, spike_accumulator

__all__ = ["RegularizationCell"]


class RegularizationCell(torch.nn.Module):
    """Passes spikes on and sums up what a regularisation term needs, from call to call.

    The sum keeps its history for the backward pass. So call :meth:`reset` before each new sequence: a second backward
    through the same history is an error of PyTorch.

    Args:
        accumulator: makes the new accumulation from spikes, state and the accumulation so far, for example
            :func:`norse_fast.functional.regularization.spike_accumulator`.
        state: the accumulation to start from, or None.

    Example:
        >>> from norse_fast.module.lif import LIFCell
        >>> cell, regularize, state = LIFCell(), RegularizationCell(), None
        >>> for x in torch.full((3, 1, 2), 5.0):
        ...     z, state = cell(x, state)
        ...     z, count = regularize(z, state)
        >>> loss = 1e-3 * count
        >>> count.item()
        4.0
    """

    def __init__(self, accumulator: Accumulator = spike_accumulator, state: Any = None) -> None:
        super().__init__()
        self.accumulator = accumulator
        self.initial = state
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no part in the history.
        return {**self.__dict__, "state": _pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, self.state)}

    def reset(self) -> None:
        """Start again from the accumulation that the constructor was given."""
        # A copy, because an accumulator may add in place.
        self.state: Any = _pytree.tree_map_only(torch.Tensor, torch.clone, self.initial)

    def forward(self, z: torch.Tensor, s: Any) -> tuple[torch.Tensor, Any]:
        """Accumulate one step.

        Args:
            z: spikes of a layer, any shape.
            s: state of the layer.

        Returns:
            The unchanged spikes, and the accumulation.
        """
        z, self.state = regularize_step(z, s, self.accumulator, self.state)
        return z, self.state

    if TYPE_CHECKING:

        def __call__(self, z: torch.Tensor, s: Any) -> tuple[torch.Tensor, Any]: ...
