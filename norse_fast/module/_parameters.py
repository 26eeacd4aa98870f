"""The parameters of neuron modules: what constructors check, and those that are learned."""

from __future__ import annotations

import gc
import inspect
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch

from .._constants import constant
from .._kernels.checks import check_real
from .._kernels.reset import check_reset
from ..functional.parameter import replacement
from ..functional.threshold import by_alpha, surrogate_index

__all__ = ["Parameters", "as_tensors", "checked", "described", "start_by_itself"]


def described(value: Any) -> str:
    """What came in place of parameters, for an error."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def checked(p: Any, kind: Any, name: str = "p") -> Any:
    """Parameters that have the fields of a parameter tuple, or an error that says what is wrong with them.

    Tuples of Norse and of the user do if they have the fields, but not those of another neuron of norse_fast, whose other
    parameters would be ignored.
    """
    missing = [field for field in kind._fields if not hasattr(p, field)]
    foreign = type(p).__module__.startswith("norse_fast.") and not isinstance(p, kind)
    if missing or foreign or isinstance(p, type):
        lacks = f" without {', '.join(missing)}" if hasattr(p, "_fields") and missing else ""
        fix = replacement(p, f"pass {kind.__name__}({', '.join(f'{field}=...' for field in kind._fields[:2])})")
        raise TypeError(
            f"{name}: got {described(p)}{lacks}, expected {kind.__name__} or a tuple with its fields; {fix}."
        )
    for field, default in kind._field_defaults.items():
        value = getattr(p, field)
        if hasattr(default, "_fields"):
            checked(value, type(default), f"{name}.{field}")
        elif isinstance(value, torch.Tensor):
            check_real(f"{name}.{field}", value)
        elif field != "method" and (value is None or isinstance(value, str) or _is_complex_number(value)):
            raise TypeError(f"{name}.{field}: got {type(value).__name__}, expected a real number or a tensor.")
    if "method" in kind._fields:
        surrogate_index(p.method)
    return _map_fields(_tracked, p)


def _is_complex_number(value: Any) -> bool:
    return isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)


def as_tensors(p: Any, kind: Any) -> Any:
    """Parameters that are :func:`checked`, with numbers turned into tensors, so that each step finds them ready."""
    return _map_fields(_as_tensor, checked(p, kind))


def _map_fields(function: Callable[[Any], Any], p: Any) -> Any:
    """A (nested) tuple with a function applied to what is in it; the same object where that changes nothing."""
    if not hasattr(p, "_make"):
        return function(p)
    fields = [_map_fields(function, field) for field in p]
    return p if all(new is old for new, old in zip(fields, p)) else p._make(fields)


def _as_tensor(value: Any) -> Any:
    return value if isinstance(value, str) or callable(value) else constant(value, torch.get_default_dtype())


def _tracked(value: Any) -> Any:
    """A tensor that autograd can look after: a copy where it was made in inference mode; and numbers as Python's."""
    if isinstance(value, numbers.Real) and type(value) not in (bool, int, float):
        return float(value)  # torch.compile takes those of NumPy for arrays
    if not isinstance(value, torch.Tensor) or not value.is_inference() or isinstance(value, torch.nn.Parameter):
        return value
    with torch.inference_mode(False):
        return value.clone()


def _leaves(p: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The fields of a (nested) tuple, and the ways to them."""
    if not hasattr(p, "_fields"):
        yield path, p
        return
    for name in p._fields:
        yield from _leaves(getattr(p, name), (*path, name))


def _replaced(p: Any, path: tuple[str, ...], value: Any) -> Any:
    """A (nested) tuple with one field replaced."""
    name, *rest = path
    return p._replace(**{name: _replaced(getattr(p, name), tuple(rest), value) if rest else value})


class Parameters(torch.nn.Module):
    """A module with parameters ``p`` of neurons, of which some may be learned: those are parameters of the module.

    A learned field is no object in ``p``: each call reads the present value of the module's parameter. So whatever replaces
    that parameter acts.
    """

    p: Any
    #: The keywords of the step function that say what a spike does, where the module was told.
    reset_options: dict[str, Any] = {}  # noqa: RUF012

    def _set_step(
        self,
        activation: Callable[..., Any],
        activation_sparse: Callable[..., Any] | None,
        state_fallback: Callable[[torch.Tensor], Any],
        p: Any,
        dt: float,
        learn: str | Sequence[str],
        reset: str | None,
        detach_reset: bool | None,
    ) -> None:
        self.activation = activation
        self.activation_sparse = activation_sparse
        self.state_fallback = state_fallback
        self._set_parameters(p, learn)
        self._set_reset(activation, reset, detach_reset)
        self.dt = dt

    def _neuron_shape(self, input_tensor: torch.Tensor) -> Sequence[int]:
        """The neurons' shape for the input of one step or of all, as the class takes it."""
        raise NotImplementedError

    def _step_for(self, input_tensor: torch.Tensor) -> Callable[..., Any]:
        """The step function for dense or for sparse input."""
        if self.activation_sparse is not None and input_tensor.is_sparse:
            return self.activation_sparse
        return self.activation

    def _set_reset(self, activation: Callable[..., Any], reset: str | None, detach_reset: bool | None) -> None:
        options = {"reset": reset, "detach_reset": detach_reset}
        options = {name: value for name, value in options.items() if value is not None}
        if not options:
            return
        taken = inspect.signature(activation).parameters
        for name, value in options.items():
            if name not in taken:
                raise TypeError(
                    f"{name}: got {value!r}, but {getattr(activation, '__name__', 'the step function')} has no such "
                    "argument; leave it out."
                )
        check_reset(**{"reset": "value", "detach_reset": False, **options})
        self.reset_options = options

    def _shown_reset(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.reset_options.items())

    def _set_parameters(self, p: Any, learn: str | Sequence[str]) -> None:
        values = {path: value for path, value in _leaves(p) if path}
        names = [path[-1] for path in values]
        # A name that two fields share does not say which it means.
        fields = {
            path[-1]: path
            for path, value in values.items()
            if isinstance(value, (torch.Tensor, float, int)) and names.count(path[-1]) == 1
        }
        if "alpha" in fields:
            method = values[(*fields["alpha"][:-1], "method")]
            if by_alpha(surrogate_index(method)) is None:
                del fields["alpha"]
        learned: dict[str, tuple[str, ...]] = {}
        if not isinstance(learn, Iterable):
            raise TypeError(
                f"learn: got {learn!r}, expected names of fields of p, such as {', '.join(map(repr, fields))}; leave it out "
                "to learn none."
            )
        for name in (learn,) if isinstance(learn, str) else tuple(learn):
            if name not in fields:
                raise ValueError(
                    f"learn: got {name!r}, expected names of fields of p that get a gradient: {', '.join(map(repr, fields))}."
                )
            learned[name] = fields[name]
        for name, path in learned.items():
            self.register_parameter(name, _as_parameter(values[path]))
            p = _replaced(p, path, None)
        unseen = any(isinstance(value, torch.nn.Parameter) for _, value in _leaves(p))
        # An ordinary attribute, which costs a step nothing, unless reading it does something.
        self.__dict__.update({"_given": (p, learned, unseen)} if learned or unseen else {"p": p})

    def __getattr__(self, name: str) -> Any:
        if name == "p" and "_given" in self.__dict__:
            return self._present_parameters()
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p" and "_given" in self.__dict__:
            _, learned, _ = self.__dict__["_given"]
            if learned:
                raise AttributeError(
                    f"p: got new parameters, but {', '.join(learned)} of this module are learned; assign or load those "
                    "parameters of the module, or build a new module."
                )
            del self.__dict__["_given"]
        super().__setattr__(name, value)

    def __copy__(self) -> Any:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        start_by_itself(copied, self)
        return copied

    def given_parameters(self) -> Iterator[tuple[str, Any]]:
        """By name, the fields of the parameters that are not learned, as they were given."""
        p = self.__dict__["_given"][0] if "_given" in self.__dict__ else self.__dict__.get("p")
        return ((".".join(path), value) for path, value in _leaves(p))

    def _present_parameters(self) -> Any:
        """The parameters, with the present values of those that are learned."""
        p, learned, unseen = self.__dict__["_given"]
        if unseen and not torch.compiler.is_compiling():
            _warn_of_lost(p)
            self.__dict__["_given"] = (p, learned, False)
            if not learned:
                self.__dict__["p"] = self.__dict__.pop("_given")[0]
        for name, path in learned.items():
            p = _replaced(p, path, getattr(self, name))
        return p


def start_by_itself(copied: torch.nn.Module, original: torch.nn.Module) -> None:
    """Let a shallow copy make the initial state of its own parameters, where the original does of its own."""
    fallback = vars(original).get("state_fallback")
    if isinstance(fallback, MethodType) and fallback.__self__ is original:
        copied.__dict__["state_fallback"] = MethodType(fallback.__func__, copied)


def _as_parameter(value: Any) -> torch.nn.Parameter:
    if isinstance(value, torch.nn.Parameter):
        return value
    value = constant(value, torch.get_default_dtype()).detach()
    return torch.nn.Parameter(value.clone() if value.is_floating_point() else value.to(torch.get_default_dtype()))


def _warn_of_lost(p: Any) -> None:
    lost = [path for path, value in _leaves(p) if isinstance(value, torch.nn.Parameter) and _is_lost(value)]
    if lost:
        learn = tuple(path[-1] for path in lost)
        warnings.warn(
            f"p: got an nn.Parameter as {', '.join(map('.'.join, lost))} that no module has registered, so no optimiser "
            f"finds it by itself, and what replaces parameters does not reach it; build the module with learn={learn!r}.",
            UserWarning,
            stacklevel=5,
        )


def _is_lost(parameter: torch.nn.Parameter) -> bool:
    """Whether nothing that looks after parameters has one: neither a module nor an optimiser."""
    for holder in gc.get_referrers(parameter):
        if isinstance(holder, list):  # as an optimiser has it
            return False
        if isinstance(holder, dict) and any(
            isinstance(owner, dict) and owner.get("_parameters") is holder for owner in gc.get_referrers(holder)
        ):
            return False
    return True
