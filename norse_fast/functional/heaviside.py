"""The step function of spikes."""

import torch

__all__ = ["heaviside"]


def heaviside(data: torch.Tensor) -> torch.Tensor:
    """1 where ``data`` is greater than 0, else 0 (also at 0 and for NaN), in the dtype of ``data``.

    Example:
        >>> heaviside(torch.tensor([-1.0, 0.0, 0.5]))
        tensor([0., 0., 1.])
    """
    return torch.gt(data, 0.0).to(data.dtype)
