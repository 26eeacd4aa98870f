r"""Gradients of spikes where they count.

The gradient of a neuron's spikes is multiplied by the surrogate derivative :math:`\sigma'(v - v_{th})`. A surrogate with
compact support, ``rectangle`` or ``triangle_width``, is zero for most neurons at most times, and then nothing of the gradient
is needed. :class:`norse_fast.Lift` and :class:`norse_fast.SequentialState` compute it only where it is, by themselves;
:func:`sparse_backward` extends that to surrogates with long tails, and is an approximation.

Source: that few active neurons carry the gradient, N. Perez-Nieves, D. F. M. Goodman, *Sparse Spiking Gradient Descent*,
NeurIPS 2021; which gradients are left out, and how, is this package's.
"""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterator

import torch

from .._kernels.sparse_backward import share_threshold

__all__ = ["sparse_backward"]

#: With more, too much of the derivative is gone for any surrogate.
_LARGEST = 0.1


@contextlib.contextmanager
def sparse_backward(threshold: float) -> Iterator[None]:
    """Context in which the gradient of spikes counts as zero where the surrogate derivative is small.

    It holds for forward passes in it, of neurons whose spikes go to a :class:`norse_fast.SpikeLinear` or
    :class:`norse_fast.SpikeConv2d` in :class:`norse_fast.Lift`, where PyTorch's own are called as these, or in
    :class:`norse_fast.SequentialState`, on the CPU. The gradient of the product's input is left out where the derivative is
    at most ``threshold`` times its largest value. All else stays, such as the gradient through the state. Surrogates with
    compact support stay exact.

    A threshold is refused that would drop more than 15 % of the derivative's integral over membrane potentials from -1 to 1
    around that of a spike, and so is one that leaves more than 25 % of neurons active (10 % before some convolutions), where
    it would not pay. The gradient is then computed everywhere, and :meth:`norse_fast.Lift.explain` tells why.
    :doc:`/sparse_backward` has the error against the threshold.

    Args:
        threshold: share of the largest derivative, above 0 and at most 0.1; 0.001 for ``super`` with ``alpha=100``.

    Returns:
        A context manager.

    Raises:
        TypeError: the threshold is no number.
        ValueError: the threshold is out of range.

    Example:
        >>> import torch
        >>> from norse_fast import LIF, LI, SequentialState, SpikeLinear
        >>> model = SequentialState(SpikeLinear(20, 100), LIF(), SpikeLinear(100, 100), LI())
        >>> with sparse_backward(threshold=0.001):
        ...     v, state = model((torch.rand(10, 1, 20) < 0.1).float())
        >>> v.sum().backward()
    """
    if not isinstance(threshold, (numbers.Real, torch.Tensor)):
        raise TypeError(f"threshold: got {type(threshold).__name__}, expected a number; 0.001 is a good start.")
    if not 0 < threshold <= _LARGEST:
        raise ValueError(
            f"threshold: got {threshold!r}, expected a number above 0 and at most {_LARGEST}; 0.001 is a good start, and "
            "surrogates with compact support, such as 'rectangle', need none."
        )
    token = share_threshold.set(float(threshold))
    try:
        yield
    finally:
        share_threshold.reset(token)
