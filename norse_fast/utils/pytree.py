"""Named tuples of tensors that move between devices and dtypes as one object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree
from typing_extensions import dataclass_transform

__all__ = ["StateTuple", "broadcast_input", "tree_map_only"]


def tree_map_only(ty: type | tuple[type, ...], fn: Callable[[Any], Any], pytree: Any) -> Any:
    """Apply a function to the leaves of a nested structure that are of a type.

    Args:
        ty: a type, or a tuple of types.
        fn: maps a leaf to its replacement.
        pytree: nested tuples, lists and dictionaries.

    Returns:
        A structure of the same form; other leaves are as they were.

    Example:
        >>> tree_map_only(int, lambda x: x + 1, {"a": 1, "b": (2.0, 3)})
        {'a': 2, 'b': (2.0, 4)}
    """
    return _pytree.tree_map_only(ty, fn, pytree)


def broadcast_input(potential_scalar: Any, template: torch.Tensor) -> torch.Tensor:
    """A number or tensor expanded to the shape of a template.

    Args:
        potential_scalar: a number, or a tensor whose shape broadcasts to the template's.
        template: any tensor; the result is on its device, and in its dtype if that is a floating one.

    Returns:
        A new tensor without history, which requires grad where the given one does.

    Raises:
        TypeError: ``potential_scalar`` is neither a number nor a tensor.
        ValueError: its shape does not broadcast to the template's.

    Example:
        >>> broadcast_input(torch.tensor(2.0), torch.zeros(3))
        tensor([2., 2., 2.])
    """
    if not isinstance(potential_scalar, (torch.Tensor, int, float)):
        raise TypeError(f"potential_scalar: got {type(potential_scalar).__name__}, expected a number or a tensor.")
    value = torch.as_tensor(potential_scalar, device=template.device)
    try:
        filled = value.detach().expand(template.shape)
    except RuntimeError:
        raise ValueError(
            f"potential_scalar: got shape {tuple(value.shape)}, expected one that broadcasts to {tuple(template.shape)}, the "
            "template's; use one value, or one per neuron."
        ) from None
    if template.is_floating_point():
        filled = filled.to(template.dtype)
    return filled.clone().requires_grad_(value.requires_grad)


def _map_tensors(state: Any, fn: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def convert(x: torch.Tensor) -> torch.Tensor:
        converted = fn(x)
        if converted is x:
            return x
        return converted.detach().requires_grad_(x.requires_grad and converted.is_floating_point())

    return _pytree.tree_map_only(torch.Tensor, convert, state)


def _to(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The same tuple with every tensor moved or converted as by ``torch.Tensor.to``; ``requires_grad`` is kept."""
    return _map_tensors(self, lambda x: x.to(*args, **kwargs))


def _cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """The same tuple with every tensor on a CUDA device."""
    return _map_tensors(self, lambda x: x.cuda(device, non_blocking))


def _cpu(self: Any) -> Any:
    """The same tuple with every tensor on the CPU."""
    return _map_tensors(self, lambda x: x.cpu())


def _int(self: Any) -> Any:
    """The same tuple with every tensor in int32."""
    return _map_tensors(self, lambda x: x.int())


def _float(self: Any) -> Any:
    """The same tuple with every tensor in float32; ``requires_grad`` is kept."""
    return _map_tensors(self, lambda x: x.float())


def _broadcast(self: Any, template: torch.Tensor) -> Any:
    """The same tuple with every tensor expanded to the shape of ``template``, see :func:`broadcast_input`."""
    return _pytree.tree_map_only(torch.Tensor, lambda x: broadcast_input(x, template), self)


_METHODS = {"to": _to, "cuda": _cuda, "cpu": _cpu, "int": _int, "float": _float, "broadcast": _broadcast}


@dataclass_transform(eq_default=False)
class _StateTupleMeta(type):
    """Turns the body of a ``StateTuple`` subclass into a named tuple that knows the methods above.

    The class that results is an ordinary named tuple under its own name and module: it can be pickled, is a pytree, and
    torch.compile sees through it.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(mcs, name, bases, namespace)
        annotations = type(name, (), dict(namespace)).__annotations__
        tuple_class: Any = NamedTuple(name, [(field, Any) for field in annotations])  # type: ignore[misc]
        defaults = {field: namespace[field] for field in annotations if field in namespace}
        tuple_class.__new__.__defaults__ = tuple(defaults.values())
        tuple_class._field_defaults = defaults
        tuple_class.__module__ = namespace["__module__"]
        tuple_class.__doc__ = namespace.get("__doc__")
        members = {k: v for k, v in namespace.items() if k not in annotations and not k.startswith("__")}
        for member, value in {**_METHODS, **members}.items():
            setattr(tuple_class, member, value)
        return tuple_class

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, tuple) and getattr(type(instance), "broadcast", None) is _broadcast


class StateTuple(metaclass=_StateTupleMeta):
    """Base of parameter and state tuples: a named tuple with ``to``, ``cuda``, ``cpu``, ``int``, ``float`` and ``broadcast``.

    ``to`` takes what ``torch.Tensor.to`` takes; ``broadcast(template)`` expands every tensor as :func:`broadcast_input`.
    All keep ``requires_grad`` and leave what is no tensor as it is.

    Example:
        >>> class Pair(StateTuple):
        ...     a: torch.Tensor
        ...     b: torch.Tensor = torch.tensor(1.0)
        >>> Pair(torch.zeros(2)).to(torch.float64).a
        tensor([0., 0.], dtype=torch.float64)
    """
