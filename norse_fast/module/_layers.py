"""Which modules may run over all time steps at once, and how: what :class:`norse_fast.Lift` decides and does.

A model is a list of layers, those of nested containers included. Each is *fused* (one call for all time steps) or
*stepped* (one call per step). Fused is what gives the same as stepping: modules that treat the samples of a batch
independently take the time steps as more samples, and neurons run as a sequence. Everything else is stepped, and so is
what lies between two layers whose calls may influence each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..functional.spike_products import Found
from ..utils.state import _is_module_stateful
from ._hooks import is_replaced, is_watched, starts_as_usual
from ._rules import RULES, RULES_BY_FORWARD, Obstacle, Rule, call_once
from ._sparse_backward import Called
from ._spikes import COUNTERPARTS, may_return_spikes, over_spikes, sums_spikes
from ._weights import Weights
from .sequential import SequentialState
from .snn import SNNRecurrentCell

__all__ = [
    "RULES",
    "Findings",
    "Layer",
    "children",
    "concerns_itself",
    "expand",
    "is_open",
    "is_state",
    "may_remember_output",
    "plan",
    "works_in_place",
]


#: By the names of layers, what their products of spikes found, call after call.
Findings = dict[str, list[Found]]


@dataclass
class Layer:
    """What is decided about one layer of a model.

    Args:
        name: its path in the model, as in ``state_dict``; empty for the model itself.
        module: the layer.
        stateful: whether it takes and returns a state.
        over_time: runs it over all time steps; None where it is stepped.
        why: the reason, in a few words.
        alone: whether its calls may be moved before or after those of other layers.
        call: what stands for the module where it runs over all time steps, if not the module itself.
    """

    name: str
    module: nn.Module
    stateful: bool
    over_time: Callable[..., Any] | None
    why: str
    alone: bool = True
    call: Callable[..., Any] | None = None

    @property
    def called(self) -> Called:
        """The module, and the class as which it is called."""
        kind = type(self.module)
        return self.module, kind if self.call is None else COUNTERPARTS[kind]


# As they were imported: whoever replaces one in its class wants to see the calls.
_FORWARDS = {kind: kind.forward for kind in RULES}


def _find_rule(module: nn.Module) -> Rule | None:
    kind: type[Any] = type(module)
    if kind in RULES:
        return RULES[kind] if kind.forward is _FORWARDS.get(kind, kind.forward) else None
    forward: Any = getattr(kind, "forward", None)  # which those of TorchScript lack
    return RULES_BY_FORWARD.get(forward)


def _find_obstacle(module: nn.Module, rule: Rule | None) -> Obstacle | None:
    for part in module.modules():
        if is_watched(part):
            return Obstacle("hooks watch each step")
        if is_replaced(part):
            return Obstacle("its forward was replaced")
        if isinstance(part, Weights) and part._has_own_weights:
            return Obstacle("its masked_weights is one of your own")
        if "parametrizations" in part._modules:
            return Obstacle("a parametrization computes its weights at each step")
    if rule is None and type(module) in RULES:
        return Obstacle("its forward was replaced")
    if rule is None:
        return Obstacle("not known; see norse_fast.register_stateless")
    return rule.obstacle(module)


def _decide(name: str, module: nn.Module) -> Layer:
    rule, stateful = _find_rule(module), _is_module_stateful(module)
    obstacle = _find_obstacle(module, rule)
    if rule is None or obstacle is not None:
        assert obstacle is not None
        return Layer(name, module, stateful, None, *obstacle)
    return Layer(name, module, stateful, rule.over_time, rule.why, alone=starts_as_usual(module))


# Of the containers that call their children one after another, as they were imported.
_WITH_STATES, _WITHOUT_STATES = SequentialState.forward, nn.Sequential.forward


def is_open(module: nn.Module, is_model: bool) -> bool:
    """Whether a module does nothing but call its children one after another, so that they are layers of their own."""
    if isinstance(module, SequentialState):
        # Within a model, one that returns the outputs of all its modules hands a list to the next layer.
        listed = type(module).forward is _WITH_STATES and (is_model or not module.return_hidden)
    else:
        # A stateful module in a container without states hands a tuple to the next one.
        listed = type(module) is nn.Sequential and not any(_is_module_stateful(m) for m in module)
        listed = listed and type(module).forward is _WITHOUT_STATES
    return listed and not is_watched(module) and not is_replaced(module)


def expand(name: str, module: nn.Module, is_model: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model by name, in the order of their calls."""
    if not is_open(module, is_model):
        yield name, module
        return
    for key, child in children(module):
        yield from expand(f"{name}.{key}" if name else key, child)


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    # Not named_children, which skips a module that is there twice.
    return [(name, child) for name, child in module._modules.items() if child is not None]


def plan(module: nn.Module) -> list[Layer]:
    """Decide for each layer of a model whether it runs over all time steps at once."""
    layers = [_decide(name, layer) for name, layer in expand("", module, is_model=True)]
    if any(layer.over_time is None and layer.alone for layer in layers):
        # Statistics that are updated in several places depend on the order of the calls.
        places = Counter(id(part) for layer in layers for part in layer.module.modules())
        for layer in layers:
            layer.alone &= layer.over_time is not None or all(places[id(part)] == 1 for part in layer.module.modules())
    dependent = [index for index, layer in enumerate(layers) if not layer.alone]
    if len(dependent) > 1:
        first, last = dependent[0], dependent[-1]
        why = f"between {layers[first].name} and {layers[last].name}, the order of whose calls may count"
        for layer in layers[first : last + 1]:
            if layer.over_time is not None:
                layer.over_time, layer.why = None, why
    for index in range(len(layers) - 1, 0, -1):
        before, layer = layers[index - 1 : index + 1]
        if not works_in_place(layer.module):
            continue
        first = _changed_by(layers, index)
        remembered = may_remember_output(layers[first])
        if remembered and layer.over_time is not None:
            why = f"changes the output of layer {layers[first].name}, which may be its state"
            layer.over_time, layer.why = None, why
        if layer.over_time is None:
            for changed in layers[first:index] if remembered or isinstance(before.module, _ALIASES) else [before]:
                if changed.over_time is not None:
                    changed.over_time, changed.why = None, f"layer {layer.name} changes its output in place"
    # What the model is given may be spikes.
    spikes = True
    for layer in layers:
        if spikes and layer.over_time is not None and sums_spikes(layer.module) and not _is_compiled(layer.module):
            layer.call = over_spikes(layer.module)
        spikes = may_return_spikes(layer.module, spikes)
    return layers


#: They may return what they are given, or a view of it.
_ALIASES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def _changed_by(layers: list[Layer], index: int) -> int:
    """The layer whose output one changes that works in place: the one before, if that makes an output of its own."""
    for first in range(index - 1, 0, -1):
        if not isinstance(layers[first].module, _ALIASES) and not works_in_place(layers[first].module):
            return first
    return 0


def may_remember_output(layer: Layer) -> bool:
    """Whether the output of a step may be a part of the state, so that who changes it changes the next step."""
    if layer.over_time is None:
        # Those of PyTorch that return a tensor alone keep none.
        kinds = {type(part).__module__ for part in layer.module.modules()}
        return layer.stateful or not all(kind.startswith("torch.nn.") for kind in kinds)
    return isinstance(layer.module, SNNRecurrentCell)


def _is_compiled(module: nn.Module) -> bool:
    return torch.compiler.is_compiling() or module._compiled_call_impl is not None


def works_in_place(module: nn.Module) -> bool:
    return any(getattr(part, "inplace", False) for part in module.modules())


def is_state(layers: list[Layer], index: int) -> bool:
    """Whether the output of a layer may be a part of its state, or of one before it."""
    return may_remember_output(layers[_changed_by(layers, index + 1)])


def _hidden(module: nn.Module) -> Obstacle:
    return Obstacle("returns the outputs of all its modules", alone=concerns_itself(module))


def concerns_itself(module: nn.Module) -> bool:
    """Whether the calls of a model may be moved before or after those of other modules."""
    return all(layer.alone for layer in plan(module))


RULES_BY_FORWARD[SequentialState.forward] = Rule(call_once, _hidden)
