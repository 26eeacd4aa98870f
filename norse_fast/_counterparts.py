"""What becomes of a module of Norse in :func:`norse_fast.accelerate`, or why it stays as it is."""

from __future__ import annotations

import importlib
import numbers
import sys
import types
from typing import Any, NamedTuple

import torch

from . import functional, module
from ._constants import constant
from .module._spikes import COUNTERPARTS, has_own_forward
from .module.leaky_integrator import LILinearCell
from .module.lif_correlation import LIFCorrelation
from .module.lift import Lift
from .module.sequential import SequentialState
from .module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from .utils.pytree import StateTuple

__all__ = [
    "ENCODERS",
    "NEURONS",
    "NORSE",
    "PARAMETERS",
    "Swap",
    "counterpart",
    "find_swap",
    "is_of_norse",
    "neuron_of",
    "read_parameters",
]

NORSE = "norse.torch."  # where Norse's modules and functions are
NEURONS = (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell, LILinearCell, LIFCorrelation)
ENCODERS = (
    module.ConstantCurrentLIFEncoder,
    module.PoissonEncoder,
    module.PoissonEncoderStep,
    module.SignedPoissonEncoder,
    module.SignedPoissonEncoderStep,
    module.SpikeLatencyLIFEncoder,
)
PARAMETERS = ("p", "spiking_method")  # the attributes of modules that hold them
# Where norse_fast computes something else on purpose, and why.
_DIFFERENT = {
    "CobaLIFCell": "the coba_lif_step of Norse ignores its input, and that of norse_fast does not",
    "SpikeLatencyEncoder": "that of Norse lets spikes pass after a negative one, and that of norse_fast does not",
}

# Norse's coupled cells call their step function by name.
_STEPS = {
    "LIFMCRecurrentCell": functional.lif_mc_step,
    "LIFMCRefracRecurrentCell": functional.lif_mc_refrac_step,
}

_UNIT_ALPHA = constant(1.0)


class Swap(NamedTuple):
    """How a module of Norse becomes one of norse_fast."""

    kind: type[torch.nn.Module]
    attributes: dict[str, Any]
    notes: list[str]


def neuron_of(part: torch.nn.Module) -> type[torch.nn.Module] | None:
    """The neuron or encoder of norse_fast that a module is, or the one that is called like it in Norse."""
    kinds = (k if k.__module__.startswith("norse_fast.") else counterpart(k, module) for k in type(part).__mro__)
    return next((kind for kind in kinds if kind is not None and issubclass(kind, (*NEURONS, *ENCODERS))), None)


def is_of_norse(thing: Any) -> bool:
    """Whether a class or function is one of Norse, and none that functools.wraps named like one."""
    return str(getattr(thing, "__module__", "")).startswith(NORSE) and not hasattr(thing, "__wrapped__")


def counterpart(thing: Any, ours: types.ModuleType) -> Any:
    """What a class or function of Norse is called in norse_fast, or None."""
    return getattr(ours, getattr(thing, "__name__", ""), None) if is_of_norse(thing) else None


def find_swap(part: torch.nn.Module, products: bool) -> Swap | str | None:
    """How to swap a module, or why not; None where it has nothing to do with Norse, or was swapped already."""
    if products and type(part) in COUNTERPARTS:
        if has_own_forward(part):
            return "its forward is one of your own"
        return Swap(COUNTERPARTS[type(part)], {}, ["sums of weights over spikes may round differently from a product"])
    if isinstance(part, (*NEURONS, *ENCODERS, Lift, SequentialState)):
        return None
    theirs = next((kind for kind in type(part).__mro__ if is_of_norse(kind)), None)
    if theirs is None:
        return None
    kind, name, own = counterpart(theirs, module), theirs.__name__, vars(part)
    if name in _DIFFERENT:
        return _DIFFERENT[name]
    if kind is None or not issubclass(kind, (*NEURONS, *ENCODERS)):
        return f"{name} is no neuron or encoder of norse_fast; the modules in it are looked at one by one"
    if theirs is not type(part):
        return (
            f"{type(part).__name__} is a subclass of Norse's {name} and may compute something else; derive it from "
            f"norse_fast.{name}"
        )
    if getattr(own.get("activation"), "__name__", "") == "coba_lif_step":
        return _DIFFERENT["CobaLIFCell"]
    default = _STEPS.get(name)
    replaced = [*(key for key in own if callable(getattr(theirs, key, None))), *_replaced_methods(theirs)]
    if default and not is_of_norse(getattr(sys.modules[theirs.__module__], default.__name__)):
        replaced.append(default.__name__)
    if replaced:
        return f"its {replaced[0]} is one of your own"
    if not isinstance(part.dt, numbers.Real):
        return f"its dt is a {type(part.dt).__name__}, and norse_fast takes a number"
    if _has_autapses_by_accident(part):
        return (
            "its recurrent weights lead from neurons to themselves, which acts in Norse; zero their diagonal, or make the "
            "module with autapses=True"
        )

    swap = Swap(kind, {}, [])
    for key in PARAMETERS:
        if key in own:
            swap.attributes[key] = _converted(own[key], swap.notes)
    if _is_ignored_alpha(swap.attributes.get("p", getattr(part, "p", None))):
        return f"Norse ignores its alpha, which cannot be replaced in a {type(part.p).__name__}"
    if issubclass(kind, (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell)):
        for key, step_of_class in (("activation", default), ("activation_sparse", None)):
            step = own.get(key)
            swap.attributes[key] = step_of_class if step is None else counterpart(step, functional)
            if step is not None and swap.attributes[key] is None:
                if ".adjoint." in str(step.__module__):
                    return "its gradients are adjoint ones, which norse_fast does not have"
                return f"its {key} is {getattr(step, '__name__', type(step).__name__)}, no step function of Norse"
        fallback = own.get("state_fallback")
        if getattr(fallback, "__func__", None) is getattr(theirs, "initial_state", ()):
            swap.attributes["state_fallback"] = types.MethodType(kind.initial_state, part)
    if issubclass(kind, SNNRecurrent):
        swap.notes.append("the input of all steps passes the weights in one product, which may round differently")
    return swap


def _replaced_methods(theirs: type[torch.nn.Module]) -> list[str]:
    """Methods of a class of Norse that are no longer those that it was written with."""
    return [
        name
        for base in filter(is_of_norse, theirs.__mro__)
        for name, method in vars(base).items()
        if isinstance(method, types.FunctionType) and not is_of_norse(method)
    ]


def _has_autapses_by_accident(part: torch.nn.Module) -> bool:
    """Whether weights that were written later have the diagonal that the module was made without."""
    weights = getattr(part, "recurrent_weights", None)
    if getattr(part, "autapses", True) or not isinstance(weights, torch.Tensor) or weights.is_meta:
        return False
    return bool(weights.detach().diagonal().count_nonzero())


def _converted(value: Any, notes: list[str] | None) -> Any:
    """Parameters with the tuples and functions of Norse in them replaced by those of norse_fast; notes get remarks."""
    if isinstance(value, types.FunctionType):
        return counterpart(value, functional) or value
    if not hasattr(value, "_fields"):
        return value
    fields = {name: _converted(getattr(value, name), notes) for name in value._fields}
    if _is_ignored_alpha(value):
        if notes is not None:
            notes.append(f"alpha is 1, not {value.alpha}, as Norse ignores it and computes with 1")
        fields["alpha"] = _UNIT_ALPHA.clone()  # which a user may change in place
    if "delta_T" in fields and notes is not None:
        notes.append("exp may differ from that of PyTorch in the last place")
    return (counterpart(type(value), functional) or type(value))(**fields)


def read_parameters(value: Any) -> Any:
    """Parameters with the tuples of Norse in them replaced by those with which norse_fast computes what Norse does.

    Tuples of a user's own are converted as well, as they are by ``accelerate``; those of norse_fast stay what they are, so
    that an ``alpha`` in one of them counts.
    """
    if not hasattr(value, "_fields"):
        return value
    if isinstance(value, StateTuple):
        return type(value)(*map(read_parameters, value))
    return _converted(value, None)


def _is_ignored_alpha(p: Any) -> bool:
    """Whether parameters have a steepness with which Norse computes as if it were 1."""
    if getattr(p, "method", None) != "super" or not _norse_ignores_alpha():
        return False
    # torch.compile and meta tensors do not tell values, and a 1 may be replaced by a 1.
    unknown = torch.compiler.is_compiling() or (isinstance(p.alpha, torch.Tensor) and p.alpha.is_meta)
    return unknown or bool(constant(p.alpha).ne(1).any())


def _norse_ignores_alpha() -> bool:
    if not _IGNORES_ALPHA:
        _IGNORES_ALPHA.append(_find_ignored_alpha())
    return _IGNORES_ALPHA[0]


# Whether it does, once that is known. torch.compile would look into functools.cache, and fail at the gradient.
_IGNORES_ALPHA: list[bool] = []


def _find_ignored_alpha() -> bool:
    """Whether the derivative of Norse's surrogate ``super`` does not depend on its steepness, as in Norse 1.1.0."""
    threshold = importlib.import_module("norse.torch.functional.threshold").threshold
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(1, requires_grad=True)
        (derivative,) = torch.autograd.grad(threshold(x, "super", 3.0), x)
    return derivative.item() == 1 / 4
