"""Models that hold modules of Norse, made fast in place.

A module stays the object that it is and becomes one of another class, as ``torch.nn.utils.parametrize`` does it. So its
parameters, buffers, hooks, mode and names are not copied but kept, wherever else the module is used or referred to.
Norse's modules are told by the names of their classes, so Norse is never imported for a model without them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch

from . import module
from ._counterparts import (
    ENCODERS,
    NEURONS,
    NORSE,
    PARAMETERS,
    counterpart,
    find_swap,
    neuron_of,
    read_parameters,
)
from .module._layers import Layer, plan
from .module._spikes import GRADED, keeps_spikes, sums_spikes
from .module.lift import Lift
from .module.sequential import SequentialState
from .utils.state import _is_module_stateful

__all__ = ["AccelerationReport", "accelerate", "revert"]

_Model = TypeVar("_Model", bound=torch.nn.Module)

_ORIGINAL = "_before_acceleration"  # the attribute of a swapped module that revert reads
_ROOT = "(model)"


@dataclass(frozen=True)
class AccelerationReport:
    """What :func:`accelerate` did to a model, by the names of its modules; the name of the model itself is empty.

    Args:
        swapped: the classes of the modules that are norse_fast's now.
        left: why other modules of Norse are still what they were.
        notes: what to know about swapped modules: a remark, and the modules that it is about.
        fast: which of the modules that compute something, that is, hold no others that do, are norse_fast's now.
        others: the rest of these.
        gains: what one more argument of :func:`accelerate` would give, and to which modules.

    Example:
        >>> print(AccelerationReport(swapped={"1": "LIFCell"}, left={"3": "it is special"}, fast=["1"], others=["0", "3"]))
        norse_fast: 1 accelerated, 1 left as they are
          1  LIFCell
          3  left: it is special
          fast now: 1 of 3 modules (1)
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    fast: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    gains: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"norse_fast: {len(self.swapped)} accelerated, {len(self.left)} left as they are"
        if not self.swapped and not self.left:
            head = "norse_fast: the model has no modules of Norse"
        texts = {**self.swapped, **{name: f"left: {reason}" for name, reason in self.left.items()}}
        width = max((len(name or _ROOT) for name in texts), default=0)
        lines = [f"  {name or _ROOT:{width}}  {text}" for name, text in texts.items()]
        lines += [f"  {note}: {_listed(names)}" for note, names in self.notes.items()]
        if self.fast or (self.left and self.others):
            share = f"{len(self.fast)} of {len(self.fast) + len(self.others)} modules"
            lines.append(f"  fast now: {share} ({_listed(self.fast)})" if self.fast else f"  fast now: {share}")
        lines += [f"  still to gain: {gain} ({_listed(names)})" for gain, names in self.gains.items()]
        return "\n".join([head, *lines])


def _listed(names: list[str]) -> str:
    return ", ".join(name or _ROOT for name in names)


class _Original:
    """What a module was before, for :func:`revert`: its class, then and now, and attributes, then and now.

    Copies take it along. Pickles do not, because parameters of Norse cannot be pickled; and without it, they load where
    there is no Norse.
    """

    def __init__(self, classes: tuple[type, type] | None = None, *attributes: dict[str, Any]) -> None:
        self.classes, self.attributes = classes, attributes

    def __deepcopy__(self, memo: dict[int, Any]) -> _Original:
        return _Original(self.classes, *copy.deepcopy(self.attributes, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Original, ()


def accelerate(
    model: _Model,
    report: Callable[[AccelerationReport], Any] | None = print,
    *,
    products: bool = False,
    lift: bool = False,
) -> _Model:
    """Turn the neurons and encoders of Norse in a model into those of norse_fast, in place.

    What the model computes stays the same, and so do all of its objects: modules, parameters, buffers, hooks and the keys of
    its ``state_dict``. Optimisers, copies of references, and containers of Norse go on as before, and so does what asks for
    instances of a class of Norse, as Norse's ``to_nir`` does. The states that neurons return are norse_fast's, with the same
    fields; states of Norse are accepted.

    Left as they are: subclasses of Norse's modules, modules with a forward or a step function of your own, those with
    adjoint gradients, those whose ``dt`` is a tensor, ``CobaLIFCell``, whose input Norse ignores, and
    ``SpikeLatencyEncoder``, which differs for negative spikes. The report says so.

    Args:
        model: any module. Its neurons are found as PyTorch finds them, by ``model.modules()``.
        report: called with what was swapped, what was left, and why, how much of the model is fast now, and what the
            arguments below would still give; None for no report.
        products: also turn every ``torch.nn.Linear``, ``Conv2d`` and ``MaxPool2d`` into a :class:`norse_fast.SpikeLinear`,
            ``SpikeConv2d`` or ``SpikeMaxPool2d``, which are faster where spikes come in. Their sums round differently from a
            product of matrices, so this is off by default.
        lift: also turn every ``Lift`` of Norse, with its ``SequentialState``, into :class:`norse_fast.Lift`, which runs layer
            by layer over time wherever that is the same as step by step. Products of more samples may round differently, so
            this is off by default. A ``Lift`` stays where, in the present mode, no layer in it can run over time.

    Returns:
        The model itself.

    Raises:
        TypeError: the model is not a module, or ``report`` is neither a function nor None.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        >>> accelerate(model) is model
        norse_fast: the model has no modules of Norse
        True
    """
    _check_module(model)
    if report is not None and not callable(report):
        raise TypeError(
            f"report: got {report!r}, expected a function, as print, or None; pass report=None for no report."
        )
    plans = [
        (name, part, how) for name, part in model.named_modules() if (how := find_swap(part, products)) is not None
    ]
    result = AccelerationReport()
    for name, part, how in plans:
        if isinstance(how, str):
            result.left[name] = how
            continue
        result.swapped[name] = how.kind.__name__
        for note in dict.fromkeys(how.notes):
            _note(result, note, name)
        _swap(part, _joined(how.kind, type(part)), how.attributes)
    _look_at_lifts(model, result, lift)
    _look_at_layers(model, result)
    if report is not None:
        report(result)
    return model


def _swap(part: torch.nn.Module, kind: Any, attributes: dict[str, Any]) -> None:
    before = {key: vars(part)[key] for key in attributes if key in vars(part)}
    vars(part)[_ORIGINAL] = _Original((type(part), kind), before, attributes)
    vars(part).update(attributes)
    part.__class__ = kind


def _joined(ours: Any, theirs: Any) -> Any:
    """The class that a module becomes."""
    return ours if issubclass(ours, theirs) else _both(ours, theirs)


def _look_at_lifts(model: torch.nn.Module, result: AccelerationReport, swap: bool) -> None:
    """Swap the Lifts of Norse, or report what that would give."""
    names = {part: name for name, part in model.named_modules()}
    lifts = [part for part in names if counterpart(type(part), module) is Lift]
    found = {}
    # The inner ones first, because the outer ones ask what they are.
    for part in reversed(lifts):
        containers = list(dict.fromkeys(_containers(part.lifted_module)))
        found[part] = containers, _plan_of_lift(model, part, containers)
        if swap and not isinstance(found[part][1], str):
            for each, kind in ((part, Lift), *((each, SequentialState) for each in containers)):
                _swap(each, _joined(kind, type(each)), {})
    for part in lifts:
        name, (containers, layers) = names[part], found[part]
        if isinstance(layers, str):
            if swap:
                result.left[name] = layers
        elif swap:
            for each in (part, *containers):
                result.left.pop(names[each], None)
                result.swapped[names[each]] = type(each).__name__
            _note(result, "layers run over all time steps at once, where products may round differently", name)
            for layer in layers:
                if layer.over_time is None:
                    where = ".".join(key for key in (name, "lifted_module", layer.name) if key)
                    _note(result, f"stepped all the same, {layer.why}", where)
        else:
            cells = [inner for inner in part.modules() if isinstance(inner, NEURONS)]
            text = _counted(len(cells), "cell") if cells else _counted(len(layers), "layer")
            result.gains.setdefault(f"Lift of {text}: lift=True", []).append(name)


def _note(result: AccelerationReport, note: str, name: str) -> None:
    result.notes.setdefault(note, []).append(name)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _containers(part: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The containers of Norse that Lift has to look into, where those of norse_fast would do the same."""
    if counterpart(type(part), module) is SequentialState:
        if "forward" in vars(part) or part.stateful_layers != [_is_module_stateful(child) for child in cast(Any, part)]:
            return
        yield part
    if isinstance(part, torch.nn.Sequential):
        for child in part.children():
            yield from _containers(child)


def _plan_of_lift(model: torch.nn.Module, part: Any, containers: list[torch.nn.Module]) -> list[Layer] | str:
    """The layers of a Lift of Norse as norse_fast's would run them, or why it stays."""
    if "forward" in vars(part):
        return "its forward is one of your own"
    stateful = _is_module_stateful(part.lifted_module)
    if part.is_stateful != stateful:
        return "its module was exchanged, and Norse goes on as if the old one were there"
    for parent in model.modules():
        # They ask Lift for its state, which that of Norse does not have; and nothing asks Norse's containers again.
        if stateful and isinstance(parent, (SequentialState, Lift)) and part in list(parent.children()):
            return f"it is in a {type(parent).__name__} of norse_fast, which would hand it a state"
    kinds = [(each, type(each)) for each in containers]
    with contextlib.ExitStack() as stack:
        for each, kind in kinds:
            stack.callback(setattr, each, "__class__", kind)
            cast(Any, each).__class__ = _joined(SequentialState, kind)
        layers = plan(part.lifted_module)
    if all(layer.over_time is None for layer in layers):
        reasons = dict.fromkeys(f"{type(layer.module).__name__}: {layer.why}" for layer in layers)
        return f"nothing in it can run over time; {'; '.join(reasons) or 'it is empty'}"
    return layers


def _look_at_layers(model: torch.nn.Module, result: AccelerationReport) -> None:
    """Report which layers are fast, and which of PyTorch's are fed by spikes, in the order in which they are registered."""
    lifts = [part for part in model.modules() if isinstance(part, Lift)]
    summed = {layer.module for lift in lifts for layer in plan(lift.lifted_module) if layer.call is not None}
    spikes = False
    fed: dict[str, list[str]] = {}
    on_cpu = all(p.is_cpu and p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    for name, part in _layers(model):
        is_ours = any(kind.__module__.startswith("norse_fast.") for kind in type(part).__mro__)
        (result.fast if is_ours else result.others).append(name)
        if spikes and on_cpu and sums_spikes(part) and part not in summed:
            fed.setdefault(type(part).__name__, []).append(name)
        kind = neuron_of(part)
        spikes = (spikes and keeps_spikes(part)) if kind is None else not issubclass(kind, GRADED)
    for layer, names in fed.items():
        result.gains[f"{_counted(len(names), f'{layer} layer')} fed by spikes: products=True"] = names


def revert(model: _Model) -> _Model:
    """Turn modules back into what they were before :func:`accelerate`; others stay as they are.

    Args:
        model: any module.

    Returns:
        The model itself.

    Raises:
        TypeError: the model is not a module.
        ValueError: a module was pickled after it was accelerated, or became one of yet another class, for example by a
            parametrization. Then nothing is reverted.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> revert(accelerate(model, report=None)) is model
        True
    """
    _check_module(model)
    accelerated = [(name, part) for name, part in model.named_modules() if _ORIGINAL in vars(part)]
    for name, part in accelerated:
        classes = vars(part)[_ORIGINAL].classes
        if classes is None:
            raise ValueError(
                f"model: got one whose module {name!r} was accelerated and then pickled, expected one accelerated in this "
                "process; revert before pickling, or load a state_dict into a model of Norse."
            )
        if type(part) is not classes[1]:
            raise ValueError(
                f"model: got one whose module {name!r} has become a {type(part).__name__}, expected the "
                f"{classes[1].__name__} that accelerate made of it; undo that first."
            )
    for _, part in accelerated:
        original = vars(part).pop(_ORIGINAL)
        part.__class__ = original.classes[0]
        before, after = original.attributes
        for key, value in after.items():
            # What was assigned since then is newer than what was there before.
            if vars(part).get(key) is value:
                del vars(part)[key]
                vars(part).update({key: before[key]} if key in before else {})
    return model


@functools.cache
def _both(ours: Any, theirs: Any) -> Any:
    """A class of norse_fast, with all that it does, that is a subclass of Norse's too for whoever asks.

    Its instances are pickled as those of norse_fast, so that they load where there is no Norse.
    """

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return (_make, (ours, theirs.__module__.removeprefix(NORSE)), *object.__reduce_ex__(self, protocol)[2:])

    def assign(self: Any, name: str, value: Any) -> None:
        # Parameters of Norse that come later mean what they mean in Norse, as those that were there before.
        ours.__setattr__(self, name, read_parameters(value) if name in PARAMETERS else value)

    members = {"__module__": ours.__module__, "__doc__": ours.__doc__, "__reduce_ex__": reduce}
    if issubclass(ours, (*NEURONS, *ENCODERS)):
        members["__setattr__"] = assign
    if issubclass(ours, ENCODERS):
        members["forward"] = _encoding(ours.forward, theirs.forward)
    return type(ours.__name__, (ours, theirs), members)


def _encoding(ours: Callable[..., torch.Tensor], theirs: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A forward that is Norse's where the results would have another dtype, or come from other random numbers."""

    @functools.wraps(ours)
    def forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        kinds = {
            torch.get_default_dtype(),
            *(x.dtype for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)),
        }
        return (ours if kinds == {torch.float32} else theirs)(self, *args, **kwargs)

    return forward


def _make(ours: Any, home: str) -> Any:
    """An empty module of norse_fast, which is one of Norse too where Norse was imported."""
    theirs = getattr(sys.modules.get(NORSE + home), ours.__name__, None)
    kind = ours if theirs is None else _both(ours, theirs)
    return kind.__new__(kind)


def _check_module(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module; pass the model itself.")


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that compute something and hold no others that do."""
    inside: set[torch.nn.Module] = set()
    for name, part in model.named_modules():
        if part in inside:
            continue
        whole = neuron_of(part) is not None or "parametrizations" in part._modules
        if whole or [each for each in part.modules() if _computes(each)] == [part]:
            inside.update(part.modules())
            yield name, part


def _computes(part: torch.nn.Module) -> bool:
    return "forward" in vars(part) or type(part).forward is not torch.nn.Module.forward
