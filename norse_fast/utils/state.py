"""Which modules carry a state through time."""

import inspect

import torch

__all__ = ["_is_module_stateful"]


def _is_module_stateful(module: torch.nn.Module) -> bool:
    """Whether a module's ``forward`` takes a ``state``, or it is one of PyTorch's recurrent layers.

    Example:
        >>> _is_module_stateful(torch.nn.Linear(2, 2)), _is_module_stateful(torch.nn.LSTM(2, 2))
        (False, True)
    """
    return isinstance(module, torch.nn.RNNBase) or "state" in inspect.signature(module.forward).parameters
