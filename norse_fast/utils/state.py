"""Which modules carry a state through time."""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch

__all__ = ["_is_module_stateful"]


# Containers ask at every time step, and reading a signature takes as long as a neuron's step.
_TAKES_STATE: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _is_module_stateful(module: torch.nn.Module) -> bool:
    """Whether a module's ``forward`` takes a ``state``, or it is one of PyTorch's recurrent layers.

    Where both is possible, the class has a property ``is_stateful``.

    Args:
        module: any module.

    Returns:
        True for modules whose output is a pair of output and new state.

    Example:
        >>> _is_module_stateful(torch.nn.Linear(2, 2)), _is_module_stateful(torch.nn.LSTM(2, 2))
        (False, True)
    """
    # torch.compile wraps a module in another, whose forward takes anything.
    modules: Any = module._modules  # of TorchScript's no dictionary
    module = (modules.get("_orig_mod") if isinstance(modules, dict) else None) or module
    if isinstance(module, torch.nn.RNNBase):
        return True
    if hasattr(type(module), "is_stateful"):
        return bool(module.is_stateful)
    if torch.compiler.is_compiling():
        return "state" in inspect.signature(module.forward).parameters
    function = getattr(module.forward, "__func__", module.forward)
    known = _TAKES_STATE.get(function)
    if known is None:
        known = _TAKES_STATE[function] = "state" in inspect.signature(module.forward).parameters
    return known
