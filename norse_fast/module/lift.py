"""Modules over time: a module for one time step, applied to all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..utils.state import _is_module_stateful
from ._layers import Findings, concerns_itself, plan
from ._rules import RULES, RULES_BY_FORWARD, Obstacle, Rule, merge_time, no_obstacle
from ._running import run
from ._sparse_backward import explain
from ._spikes import COUNTERPARTS, describe, is_product, sums_spikes

__all__ = ["Lift", "register_stateless"]


# What the products of spikes of each Lift found in its last call: for explain alone, so copies and files are without.
_FOUND: weakref.WeakKeyDictionary[Lift, Findings] = weakref.WeakKeyDictionary()


class Lift(torch.nn.Module):
    """A module for one time step, applied to a sequence ``(T, ...)``, with its state handed from step to step.

    The result is that of a loop over the steps, but each layer of a :class:`SequentialState` or ``torch.nn.Sequential``
    runs over all time steps at once wherever that is the same: stateless layers of :mod:`torch.nn` take the time steps as
    more samples of a batch, and cells run as one fused sequence. Layers with batch statistics or randomness, modules with
    hooks and unknown modules are called step by step. :meth:`explain` shows what is decided about each layer; nothing but
    the speed depends on it. Matrix products over more samples may round differently.

    On the CPU, ``torch.nn.Linear``, ``Conv2d`` and ``MaxPool2d`` into which spikes come are computed as their counterparts
    :class:`SpikeLinear`, :class:`SpikeConv2d` and :class:`SpikeMaxPool2d` do it, as sums over the spikes where there are few.
    The modules stay what they are. Sums round differently from products; :func:`dense_products` turns them off.
    :meth:`explain` tells at which share of ones the last call took sums, or why not.

    Cells belong into the module, not layers over time: a layer such as :class:`LIF` takes the first dimension of each step
    as its own time.

    Args:
        module: a module for one time step, with or without state.

    Example:
        >>> from norse_fast import LICell, LIFCell, SequentialState
        >>> model = SequentialState(
        ...     torch.nn.Conv2d(1, 2, 3), LIFCell(), torch.nn.Flatten(), torch.nn.Linear(8, 3), LICell()
        ... )
        >>> x = torch.ones(10, 5, 1, 4, 4)  # (T, B, C, H, W)
        >>> v, state = Lift(model)(x)
        >>> v.shape
        torch.Size([10, 5, 3])
        >>> Lift(torch.nn.Conv2d(1, 2, 3))(x).shape
        torch.Size([10, 5, 2, 2, 2])
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"module: got {type(module).__name__}, expected a torch.nn.Module; pass an instance of one."
            )
        self.lifted_module = module

    @property
    def is_stateful(self) -> bool:
        """Whether the module carries a state; :meth:`forward` then returns it too."""
        return _is_module_stateful(self.lifted_module)

    def explain(self) -> str:
        """A table of all layers: whether each is fused or stepped, and why.

        It holds for the current mode (training or evaluation) and hooks; decisions are made anew at each call.

        Example:
            >>> from norse_fast import LIFCell, SequentialState
            >>> model = SequentialState(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), LIFCell())
            >>> print(Lift(model).explain())
            layer  module       runs     why
            0      Linear       fused    one call for all time steps; sums over spikes, where they come in
            1      BatchNorm1d  stepped  takes the statistics of each step's batch
            2      LIFCell      fused    one kernel for all time steps
            >>> print(Lift(model).eval().explain())
            layer  module       runs   why
            0      Linear       fused  one call for all time steps; sums over spikes, where they come in
            1      BatchNorm1d  fused  one call for all time steps
            2      LIFCell      fused  one kernel for all time steps
        """
        rows = [("layer", "module", "runs", "why")]
        for layer in plan(self.lifted_module):
            runs, why = "fused", layer.why
            if layer.over_time is None:
                runs = "stepped"
            elif layer.call is not None or is_product(layer.module):
                why += f"; {describe(_FOUND.get(self, {}).get(layer.name, ()))}{explain(layer.module)}"
            elif type(layer.module) in COUNTERPARTS:
                why += "; dense: " + ("no spikes come in" if sums_spikes(layer.module) else "its options")
            rows.append((layer.name or "-", type(layer.module).__name__, runs, why))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[-1]]) for row in rows)

    def forward(self, x: torch.Tensor | tuple[torch.Tensor, Any], state: Any = None) -> Any:
        """Apply the module to all time steps.

        Args:
            x: input over time, ``(T, ...)`` with T of 1 or more; or a tuple of it and the state.
            state: state of the module before the first step, or None for the initial one.

        Returns:
            The outputs of all steps, ``(T, ...)``; from modules with ``return_hidden`` a list of them. From modules with
            state, the tuple of that and the new state.

        Raises:
            TypeError: the input is not a tensor.
            ValueError: the input has no time step, or the list of states has another length.
            RuntimeError: a hook or a module changed the weights of a layer that runs over all time steps at once.
        """
        if isinstance(x, tuple):
            x, state = x
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x: got {type(x).__name__}, expected a tensor, or a tuple of a tensor and a state.")
        if x.dim() == 0 or x.shape[0] == 0:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (T, ...) with T of 1 or more, time first.")
        found: Findings = {}
        output, state = run(self.lifted_module, x, state, found)
        if not torch.compiler.is_compiling():
            _FOUND[self] = found
        return (output, state) if self.is_stateful else output

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor | tuple[torch.Tensor, Any], state: Any = None) -> Any: ...


def _sequence_in_step(lift: Lift) -> Obstacle:
    return Obstacle("takes a sequence at each step", alone=concerns_itself(lift.lifted_module))


RULES_BY_FORWARD[Lift.forward] = Rule(merge_time, _sequence_in_step)


def register_stateless(
    kind: type[torch.nn.Module],
    over_time: Callable[[Any, torch.Tensor], torch.Tensor] = merge_time,
    unless: Callable[[Any], str | None] = no_obstacle,
) -> None:
    """Let :class:`Lift` run modules of your own class over all time steps at once.

    By default they are called once, with ``(T·B, ...)``. That is right for modules that map each sample of a batch ``(B,
    ...)`` by itself: without state, randomness, batch statistics and side effects. Parts from :mod:`torch.nn` are looked
    after: where one of them must be stepped, the whole is.

    Args:
        kind: the class; its subclasses are not included, since they may do something else.
        over_time: ``(module, x) -> y`` for input ``x`` of all time steps, ``(T, B, ...)``, where it is not as above.
        unless: gives the reason why a module must be stepped after all, or None.

    Raises:
        TypeError: ``kind`` is not a class of modules.

    Example:
        >>> class Residual(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.1))
        ...
        ...     def forward(self, x):
        ...         return x + self.inner(x)
        >>> register_stateless(Residual)
        >>> print(Lift(Residual()).explain())
        layer  module    runs     why
        -      Residual  stepped  random in training
        >>> print(Lift(Residual()).eval().explain())
        layer  module    runs   why
        -      Residual  fused  one call for all time steps
    """
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise TypeError(f"kind: got {kind!r}, expected a subclass of torch.nn.Module; pass the class of your modules.")

    def obstacle(module: torch.nn.Module) -> Obstacle | None:
        why = unless(module)
        if why is not None:
            return Obstacle(why)
        parts = [part for part in module.modules() if part is not module and type(part) in RULES]
        found = (RULES[type(part)].obstacle(part) for part in parts)
        return next((inner for inner in found if inner is not None), None)

    RULES[kind] = Rule(over_time, obstacle)
