"""Whether a module does what its class says, unseen: no hook watches its calls, and nothing is replaced."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as nn_module

__all__ = ["is_replaced", "is_watched", "starts_as_usual"]


def is_watched(module: nn.Module) -> bool:
    """Whether hooks of the module or of all modules are called with it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


# As it was imported: tracers, as that of nirtorch, replace it to see the calls of all modules. So does torch.export, for the
# names in its graph alone.
_CALL = nn.Module.__call__


def is_replaced(module: nn.Module) -> bool:
    """Whether a call of the instance does something else than the forward of its class."""
    own = module.__dict__
    if "forward" in own or "_conv_forward" in own:
        return True
    return type(module).__call__ is not _CALL and not torch.compiler.is_compiling()


def starts_as_usual(module: nn.Module) -> bool:
    """Whether the initial state is one of norse_fast, which draws no random numbers as others might."""
    fallback = getattr(module, "state_fallback", None)
    function = getattr(fallback, "__func__", fallback)
    return function is None or function.__module__.startswith("norse_fast.")
