r"""Exponential filters, :math:`s(t) = e^{-dt\, \tau^{-1}} s(t - dt) + x(t)`.

Source: A. Oppenheim, R. Schafer, *Discrete-Time Signal Processing*, Prentice Hall, 1989, chapter 2: recursive systems.
"""

from __future__ import annotations

import torch

from .._kernels.checks import check_tensor

__all__ = ["exp_filter_step"]


def exp_filter_step(old_value: torch.Tensor, new_value: torch.Tensor, parameter: float | torch.Tensor) -> torch.Tensor:
    r"""One time step of an exponential filter: :math:`s' = \alpha s + x`.

    Args:
        old_value: filtered signal :math:`s` of the last step, any shape.
        new_value: signal :math:`x`, of a shape that broadcasts.
        parameter: what remains after a step, :math:`\alpha = e^{-dt\, \tau^{-1}}`, without unit.

    Returns:
        The filtered signal, in the common shape and dtype; integers and booleans are converted to the default dtype.

    Raises:
        TypeError: the filtered signal is no tensor.
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> exp_filter_step(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 0.5)
        tensor([0.5000, 2.0000])
    """
    check_tensor("old_value", old_value)
    if not (old_value.is_floating_point() or old_value.is_complex()):
        # Before the product, in which integers would wrap around.
        known = new_value.is_floating_point() or new_value.is_complex()
        default = torch.get_default_dtype()
        old_value = old_value.to(torch.promote_types(default, new_value.dtype) if known else default)
    return parameter * old_value + new_value
