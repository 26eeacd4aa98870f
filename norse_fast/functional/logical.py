"""Logic on spikes: gates over tensors of zeros and ones, each differentiable by its arguments.

Source of the C-element: D. Muller, W. Bartky, *A Theory of Asynchronous Circuits*, Proceedings of an International Symposium
on the Theory of Switching, Harvard University Press, 1959, 204-243. The surrogate derivative of those that threshold is
:class:`norse_fast.functional.superspike.SuperSpike`.
"""

from __future__ import annotations

import torch

from .superspike import super_fn

__all__ = ["logical_and", "logical_or", "logical_xor", "muller_c", "posedge_detector"]


def logical_and(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Where both spike: :math:`x y`.

    Args:
        x: zeros and ones, any shape and dtype, also booleans.
        y: likewise, of a shape that broadcasts with that of ``x``.

    Returns:
        Zeros and ones in the common shape and dtype.

    Raises:
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> logical_and(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        tensor([0., 0., 0., 1.])
    """
    return x * y


def logical_xor(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Where exactly one spikes: :math:`|x - y|`.

    Args:
        x, y: as for :func:`logical_and`.

    Returns:
        As for :func:`logical_and`.

    Example:
        >>> logical_xor(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        tensor([0., 1., 1., 0.])
    """
    dtype = torch.result_type(x, y)
    if not dtype.is_floating_point:
        return x ^ y  # as unsigned numbers have no negative difference
    # Of booleans there is no difference.
    x, y = (t.to(dtype) if isinstance(t, torch.Tensor) and t.dtype is torch.bool else t for t in (x, y))
    return (x - y).abs()


def logical_or(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Where at least one spikes: :math:`H(x + y)`, with a surrogate derivative.

    Args:
        x, y: as for :func:`logical_and`.

    Returns:
        As for :func:`logical_and`.

    Example:
        >>> logical_or(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        tensor([0., 1., 1., 1.])
    """
    return super_fn(x + y)


def muller_c(y_prev: torch.Tensor, x_1: torch.Tensor, x_2: torch.Tensor) -> torch.Tensor:
    """The next state of a C-element, which takes the value of its inputs where they agree and else keeps its own.

    .. math::
        y' = H(x_1 x_2 + (x_1 + x_2) y)

    Args:
        y_prev: state :math:`y` before, zeros and ones, any shape and dtype, also booleans.
        x_1: first input, likewise, of a shape that broadcasts.
        x_2: second input, likewise.

    Returns:
        The new state in the common shape and dtype.

    Raises:
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> x_1, x_2 = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> muller_c(torch.zeros(4), x_1, x_2), muller_c(torch.ones(4), x_1, x_2)
        (tensor([0., 0., 0., 1.]), tensor([0., 1., 1., 1.]))
    """
    return super_fn(x_1 * x_2 + (x_1 + x_2) * y_prev)


def posedge_detector(z: torch.Tensor, z_prev: torch.Tensor) -> torch.Tensor:
    """Where a signal rises from 0 to 1: :math:`(1 - z_{prev}) z`.

    Args:
        z: signal now, zeros and ones, any shape and dtype, also booleans.
        z_prev: signal one step earlier, likewise, of a shape that broadcasts with that of ``z``.

    Returns:
        Zeros and ones in the common shape and dtype.

    Raises:
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> posedge_detector(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        tensor([0., 0., 1., 0.])
    """
    # Booleans cannot be subtracted.
    return (~z_prev if isinstance(z_prev, torch.Tensor) and z_prev.dtype is torch.bool else 1 - z_prev) * z
