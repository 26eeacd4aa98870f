"""Named tuples of tensors that move between devices and dtypes as one object."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch.utils import _pytree
from typing_extensions import Self, dataclass_transform

__all__ = [
    "MultipleInheritanceNamedTupleMeta",
    "StateTuple",
    "broadcast_input",
    "map_only",
    "register_tuple",
    "tree_map_only",
]


def map_only(ty: type | tuple[type, ...]) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Makes functions leave alone what is not of a type.

    Args:
        ty: a type, or a tuple of types.

    Returns:
        What turns a function into one that returns all other arguments as they are, for ``torch.utils._pytree.tree_map``.

    Example:
        >>> [map_only(int)(lambda x: x + 1)(x) for x in (1, 2.0)]
        [2, 2.0]
    """
    return lambda fn: lambda x: fn(x) if isinstance(x, ty) else x


def register_tuple(typ: type) -> None:
    """Make PyTorch look into the named tuples of a class, which it does by itself where they have no other base.

    Args:
        typ: a class that is derived from a named tuple.

    Raises:
        ValueError: the class is registered already.

    Example:
        >>> class Pair(NamedTuple("Pair", [("a", int), ("b", int)])):
        ...     pass
        >>> register_tuple(Pair)
        >>> tree_map_only(int, lambda x: x + 1, Pair(1, 2))
        Pair(a=2, b=3)
    """
    _pytree.register_pytree_node(
        typ,
        lambda values: (list(values), None),
        lambda values, _: typ(*values),
        serialized_type_name=f"{typ.__module__}.{typ.__qualname__}",
    )


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


def _most_dims(fields: Any) -> int:
    """The number of dimensions of the tensor that has most of them; 0 where there is none."""
    return max([0, *(x.dim() for x in _pytree.tree_leaves(fields) if isinstance(x, torch.Tensor))])


def _make_storable(kind: Any) -> None:
    """Let ``torch.load`` with ``weights_only`` and ``torch.export.save`` know a class of named tuples."""
    torch.serialization.add_safe_globals([kind])
    _pytree._register_namedtuple(kind, serialized_type_name=f"{kind.__module__}.{kind.__name__}")


def _is_member(name: str, value: Any) -> bool:
    """Whether an entry of a class body is what the author wrote there; Python adds others."""
    return not name.startswith("__") or (callable(value) and not name.startswith("__annot"))


@dataclass_transform(eq_default=False)
class MultipleInheritanceNamedTupleMeta(type):
    """Turns the body of a ``StateTuple`` subclass into a named tuple with the methods of :class:`StateTuple`.

    The class that results is an ordinary named tuple under its own name and module: it can be pickled, is a pytree, and
    torch.compile sees through it. Subclasses of :class:`StateTuple` have this metaclass by themselves, and may name it, as
    they must in Norse. They may have other bases, and new fields where no base has any.

    Args:
        name, bases, namespace: what a ``class`` statement passes on.

    Raises:
        TypeError: there are new fields beside those of a base.

    Example:
        >>> class Scaled:
        ...     def total(self):
        ...         return sum(self)
        >>> class Pair(Scaled, StateTuple, metaclass=MultipleInheritanceNamedTupleMeta):
        ...     a: float
        ...     b: float = 1.0
        >>> Pair(2.0), Pair(2.0).total()
        (Pair(a=2.0, b=1.0), 3.0)
    """

    #: What every subclass gets, from the body of StateTuple.
    _methods: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        """The named tuple, or :class:`StateTuple` itself."""
        annotations = type(name, (), dict(namespace)).__annotations__
        if not bases and not annotations:
            mcs._methods = {k: v for k, v in namespace.items() if inspect.isfunction(v)}
            return super().__new__(mcs, name, bases, namespace)
        others = tuple(base for base in bases if not isinstance(base, MultipleInheritanceNamedTupleMeta))
        members = {k: v for k, v in namespace.items() if k not in annotations and _is_member(k, v)}
        about = {k: namespace.get(k) for k in ("__module__", "__qualname__", "__doc__")}
        inherited = [field for base in others for field in getattr(base, "_fields", ())]
        if inherited and annotations:
            raise TypeError(
                f"{name}: got new fields {', '.join(annotations)} beside those of its bases, {', '.join(inherited)}; "
                "expected all fields in one class; derive it from StateTuple, and repeat those of the bases."
            )
        if not inherited:
            tuple_class: Any = NamedTuple(name, [(field, Any) for field in annotations])  # type: ignore[misc]
            defaults = {field: namespace[field] for field in annotations if field in namespace}
            tuple_class.__new__.__defaults__ = tuple(defaults.values())
            tuple_class._field_defaults = defaults
            for member, value in {**mcs._methods, **({} if others else members), **about}.items():
                setattr(tuple_class, member, value)
            if not others:
                if str(about["__module__"]).startswith("norse_fast."):
                    _make_storable(tuple_class)
                return tuple_class
            # Last, so that what other bases define comes before the methods of StateTuple.
            others = (*others, tuple_class)
        derived = type(name, others, {**members, **about, "__slots__": ()})
        register_tuple(derived)
        return derived

    def __instancecheck__(cls, instance: Any) -> bool:
        return issubclass(type(instance), cls)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or (
            issubclass(subclass, tuple) and getattr(subclass, "broadcast", None) is StateTuple.broadcast
        )


class StateTuple(metaclass=MultipleInheritanceNamedTupleMeta):
    """Base of parameter and state tuples: a named tuple with methods that act on every tensor in it.

    - ``to`` takes what ``torch.Tensor.to`` takes; ``cuda``, ``cpu``, ``int`` and ``float`` are short for some of that;
      ``broadcast(template)`` expands every tensor as :func:`broadcast_input`. They keep ``requires_grad``.
    - ``detach()`` and ``clone()`` are those of tensors.
    - ``state[mask]`` and ``state[indices]`` choose samples of the batch. A number or a slice chooses fields, as in any tuple.
    - ``state.where(mask, other)`` keeps the samples where ``mask`` holds, and takes the others from another state, for
      example the initial one where an episode ended.

    What is no tensor stays as it is.

    Example:
        >>> class Pair(StateTuple):
        ...     a: torch.Tensor
        ...     b: torch.Tensor = torch.tensor(1.0)
        >>> Pair(torch.zeros(2)).to(torch.float64).a
        tensor([0., 0.], dtype=torch.float64)
        >>> state = Pair(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
        >>> done = torch.tensor([False, True])
        >>> state[done].a, state.where(~done, Pair(torch.zeros(2), torch.zeros(2))).b
        (tensor([2.]), tensor([3., 0.]))
    """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same tuple with every tensor moved or converted as by ``torch.Tensor.to``; ``requires_grad`` is kept."""
        return _map_tensors(self, lambda x: x.to(*args, **kwargs))

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Self:
        """The same tuple with every tensor on a CUDA device."""
        return _map_tensors(self, lambda x: x.cuda(device, non_blocking))

    def cpu(self) -> Self:
        """The same tuple with every tensor on the CPU."""
        return _map_tensors(self, lambda x: x.cpu())

    def int(self) -> Self:
        """The same tuple with every tensor in int32."""
        return _map_tensors(self, lambda x: x.int())

    def float(self) -> Self:
        """The same tuple with every tensor in float32; ``requires_grad`` is kept."""
        return _map_tensors(self, lambda x: x.float())

    def broadcast(self, template: torch.Tensor) -> Self:
        """The same tuple with every tensor expanded to the shape of ``template``, see :func:`broadcast_input`."""
        return _pytree.tree_map_only(torch.Tensor, lambda x: broadcast_input(x, template), self)

    def detach(self) -> Self:
        """The same tuple with every tensor detached from its history, as between the pieces of a long sequence."""
        return _pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, self)

    def clone(self) -> Self:
        """The same tuple with a copy of every tensor, through which gradients flow."""
        return _pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, self)

    def where(self, mask: torch.Tensor, other: Self) -> Self:
        """The samples of this tuple where ``mask`` holds, and those of ``other`` elsewhere.

        ``mask`` is boolean and has the first dimensions of the tensors, for example ``(B,)``. ``other`` is a tuple of the
        same kind, for example an initial state.
        """
        if not isinstance(mask, torch.Tensor) or mask.dtype is not torch.bool:
            got = f"dtype {mask.dtype}" if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise TypeError(f"mask: got {got}, expected a boolean tensor; compare with == or call .bool().")
        if type(other) is not type(self):
            raise TypeError(
                f"other: got {type(other).__name__}, expected {type(self).__name__}, as the tuple itself is."
            )

        # One number may stand for all samples and neurons, as in an initial state, where another field has their shape.
        most = _most_dims((self, other))

        def choose(own: Any, others: Any) -> Any:
            if not isinstance(own, (torch.Tensor, int, float)):
                return own
            dims = _most_dims((own, others)) or most
            for shape in (x.shape for x in (own, others) if isinstance(x, torch.Tensor) and x.dim() == dims):
                if any(got != size and got != 1 and size != 1 for got, size in zip(mask.shape, shape)):
                    raise ValueError(
                        f"mask: got shape {tuple(mask.shape)}, expected {tuple(shape[: mask.dim()])}, the first dimensions "
                        f"of a field of shape {tuple(shape)}; pass one value per sample."
                    )
            return torch.where(mask.reshape(*mask.shape, *(1,) * (dims - mask.dim())), own, others)

        return _pytree.tree_map(choose, self, other)

    def __getitem__(self, index: Any) -> Any:
        """A field by its number, fields by a slice; or, by a tensor, a list or ``...``, those samples of every tensor.

        ``state[mask]`` and ``state[indices]`` choose among the first dimension, ``state[..., :5]`` among the last.
        """
        if isinstance(index, slice) or (hasattr(index, "__index__") and not isinstance(index, torch.Tensor)):
            return tuple.__getitem__(self, index)  # type: ignore[call-overload]
        # One number stands for all samples, as in an initial state, where another field has them.
        shared = _most_dims(self) > 0
        return _pytree.tree_map_only(torch.Tensor, lambda x: x if shared and not x.dim() else x[index], self)

    if TYPE_CHECKING:
        _fields: ClassVar[tuple[str, ...]]
        _field_defaults: ClassVar[dict[str, Any]]

        @classmethod
        def _make(cls, iterable: Iterable[Any]) -> Self: ...
        def _replace(self, **kwargs: Any) -> Self: ...
        def _asdict(self) -> dict[str, Any]: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> builtins.int: ...
