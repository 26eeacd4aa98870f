"""The step function of spikes.

Source: M. Abramowitz, I. Stegun, *Handbook of Mathematical Functions*, 1964, chapter 29, with another value at 0.
"""

import torch

__all__ = ["heaviside"]


def heaviside(data: torch.Tensor) -> torch.Tensor:
    """1 where a number is greater than 0, else 0, also at 0 and for NaN.

    Args:
        data: numbers, any shape and real dtype.

    Returns:
        Zeros and ones in the shape and dtype of ``data``; they carry no gradient.

    Raises:
        RuntimeError: the numbers are complex.

    Example:
        >>> heaviside(torch.tensor([-1.0, 0.0, 0.5]))
        tensor([0., 0., 1.])
    """
    return torch.gt(data, 0.0).to(data.dtype)
