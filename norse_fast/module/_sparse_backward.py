"""Which gradients of spikes containers of modules have computed where they are needed alone.

A container that calls a neuron and then the product that reads its spikes hands them to nobody else. So it may tell the
product where their gradient is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .._kernels.neuron import SEQUENCES, Neuron, descend
from .._kernels.sparse_backward import (
    Active,
    decision,
    find_active,
    most_active,
    needed,
    reason_against,
    share_threshold,
)
from ..functional.spike_products import LEAST_WEIGHTS, may_sum, weights_of_input
from ._hooks import is_replaced, is_watched, starts_as_usual
from .snn import SNN, SNNCell, find_fused
from .spike_products import SpikeConv2d, SpikeLinear, SpikeMaxPool2d

__all__ = ["PRODUCTS", "Called", "Follower", "explain", "has_spikes_to_follow", "reads_bytes"]

#: Products that can compute the gradient of their input where it is needed.
PRODUCTS: set[type[nn.Module]] = {SpikeLinear, SpikeConv2d}
# What may lie between a neuron and a product: it hands on the elements in order, or tells where they go.
_BETWEEN: set[type[nn.Module]] = {nn.Flatten, nn.Identity, SpikeMaxPool2d}

# As they were imported: whoever replaces them may return something else.
_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {kind: kind.forward for kind in (SNN, SNNCell)}

#: A module of a container, and the class as which it is called: its own, or a counterpart of that.
Called = tuple[nn.Module, type[nn.Module]]

# What was decided the last time, for every product that was asked in training.
_DECIDED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def explain(module: nn.Module) -> str:
    """What was decided about the gradient of a product's input, to add to a line; empty where there was no question."""
    return f"; gradient {_DECIDED[module]}" if module in _DECIDED else ""


def has_spikes_to_follow(modules: Sequence[nn.Module], kind: type[SNN] | type[SNNCell]) -> bool:
    """Whether there are neurons of a kind and a product among these modules."""
    return any(type(module) in PRODUCTS for module in modules) and any(isinstance(module, kind) for module in modules)


def _find_product(modules: Iterable[Called]) -> nn.Module | None:
    """The product that reads what goes into the first of these modules, where nobody else does."""
    for module, kind in modules:
        if is_watched(module) or is_replaced(module):
            return None
        if kind in PRODUCTS:
            return module
        if kind not in _BETWEEN:
            return None
    return None


# Smaller tensors stay in the caches, where four bytes of a spike are read as fast as one.
_MANY_SPIKES = 1 << 20


def reads_bytes(cell: Any, x: torch.Tensor, later: Iterable[Called]) -> bool:
    """Whether the spikes of a neuron over time go to a product alone, and no gradient to them: then bytes are enough."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.numel() < _MANY_SPIKES or not may_sum(x):
        return False
    neuron = find_fused(SEQUENCES, cell.activation, cell.reset_options)
    product = _find_product(later)
    spikes = neuron is not None and neuron.model is not None and bool(neuron.surrogate)
    return spikes and product is not None and product.weight.dtype == x.dtype


def _find_neuron(module: Any, x: Any, state: Any, z: Any) -> Neuron | None:
    """The neuron whose spikes over time a module returned, where kernels can tell which of them are active."""
    if is_watched(module) or is_replaced(module):
        return None
    neuron = find_fused(SEQUENCES, module.activation, module.reset_options)
    if neuron is None or neuron.model is None or not neuron.surrogate or getattr(module, "output", "all") != "all":
        return None
    tensors = may_sum(x) and may_sum(z) and z.dtype == x.dtype and x.dim() > 1
    known = (state is not None or starts_as_usual(module)) and not isinstance(module.dt, torch.Tensor)
    return neuron if tensors and known and z.requires_grad else None


class Follower:
    """Follows spikes through a container, from a neuron to the product that reads them.

    Args:
        kind: what neurons are in it, whose input and output are those of all time steps.
    """

    def __init__(self, kind: type[SNN] | type[SNNCell]) -> None:
        self._forward = _FORWARDS[kind]
        self._active: Active | None = None

    def call(self, run: Callable[[], Any], called: Called, x: Any, state: Any, later: Iterable[Called]) -> Any:
        """What a module of the container returns for all time steps.

        Args:
            run: calls the module.
            called: the module.
            x: its input.
            state: its state before, or None for the initial one; anything for modules without.
            later: the modules that come after it, as long as nobody but the next sees what each of them returns.
        """
        active, self._active = self._active, None
        if active is not None:
            return self._pass_on(active, run, called)
        module, _ = called
        result = run()
        if result is not NotImplemented and type(module).forward is self._forward:
            product = _find_product(later)
            neuron = None if product is None else _find_neuron(module, x, state, result[0])
            if product is not None and neuron is not None:
                self._leave(neuron, module, x, state, product)
        return result

    def _pass_on(self, active: Active, run: Callable[[], Any], called: Called) -> Any:
        module, kind = called
        pooled = active.pooled
        token = needed.set(active)
        try:
            result = run()
        finally:
            needed.reset(token)
        if kind in PRODUCTS:
            if active.share is not None:
                _DECIDED[module] = decision(active.share)
        elif kind is not SpikeMaxPool2d or active.pooled is not pooled:
            self._active = active
        return result

    def _leave(self, neuron: Neuron, module: Any, x: torch.Tensor, state: Any, product: Any) -> None:
        """Find out where the gradient of the spikes that a neuron returned is needed."""
        if weights_of_input(product.weight) < LEAST_WEIGHTS:
            return
        method, alpha = (descend(module.p, name) for name in neuron.surrogate)
        why = reason_against(method, alpha, share_threshold.get())
        if why is None:
            with torch.no_grad():
                if state is None:
                    state = module.state_fallback(x if isinstance(module, SNN) else x[0])
                most = most_active(product.weight)
                self._active, share = find_active(neuron, x, state, module.p, float(module.dt), most)
            if share is not None:
                _DECIDED[product] = decision(share, most)
        else:
            _DECIDED[product] = f"everywhere: {why}"
