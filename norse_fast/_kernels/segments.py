"""Backward passes in which Python has a part: surrogate derivatives of the user's, and gradients of alpha.

Kernels go back through one segment of time after another, from the last. Of each they first tell what its spike functions
are of, then they are given the derivatives there, and tell the gradients of the spikes. So little of it is in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..functional._surrogate import Derivative, derivative_of
from ..functional.threshold import by_alpha

__all__ = ["differentiate_in_segments", "has_part_of_python", "outside_of_graphs", "reduce_to"]

_IN_CACHE = 1 << 17  # elements that a function of the user works on at once
# What a backward operator returns of the spike functions (Spikes in csrc/core/launch.h).
_NOTHING, _DISTANCES, _GRADIENTS = range(3)


def has_part_of_python(surrogate: int | Derivative, want_alpha: bool) -> bool:
    """Whether backward cannot be left to the kernels."""
    return callable(surrogate) or (want_alpha and by_alpha(surrogate) is not None)


def outside_of_graphs(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function where torch.compile does not look: it would unroll the loop over segments, and again for every T."""
    # Here, and not where functions are defined: to import what this needs takes a second.
    if function not in _disabled:
        _disabled[function] = torch.compiler.disable(function)
    return _disabled[function](*args)


_disabled: dict[Callable[..., Any], Callable[..., Any]] = {}

# As torch.compiler.disable would have it, so that the reason for leaving the graph is told.
outside_of_graphs._torchdynamo_disable = True  # type: ignore[attr-defined]
outside_of_graphs._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "method is a function, or alpha gets a gradient: so backward goes through Python, one segment of time after another"
)


def reduce_to(grad: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Sum the gradient of one parameter over the lanes that share a value."""
    if param.numel() == 0:
        return torch.zeros_like(param)
    # A parameter that varies spans the trailing dimensions, after leading ones of size 1.
    reduced = grad.sum() if param.numel() == 1 else grad.reshape(-1, param.numel()).sum(0)
    return reduced.reshape(param.shape).to(param)


def _derive(derivative: Derivative, u: torch.Tensor, alpha: torch.Tensor) -> None:
    """Replace the distances by the derivatives there; on the CPU a few steps at a time, which stay in the caches."""
    steps = max(1, _IN_CACHE // max(1, u[0].numel())) if u.is_cpu and u.numel() else max(1, u.shape[0])
    with torch.no_grad():  # torch.func runs backward with gradients enabled
        for first in range(0, u.shape[0], steps):
            part = u[first : first + steps]
            part.copy_(derivative_of(derivative, part, alpha))


def differentiate_in_segments(
    operator: Callable[..., Any],
    arguments: Callable[[int, int, Any], Sequence[Any]],
    wanted: Callable[[int], Sequence[bool]],
    sums: Sequence[int],
    steps: int,
    segment: int,
    surrogate: int | Derivative,
    alpha: torch.Tensor,
    want_alpha: bool,
) -> tuple[list[Any], torch.Tensor | None]:
    """What a backward operator returns of all steps, and the gradient of alpha.

    Args:
        operator: that of a layer.
        arguments: its arguments for the steps from the first of two numbers to before the second, from what it returned of
            those after them, if there are any.
        wanted: those that say which gradients are wanted, for steps from this one on.
        sums: which of the gradients are sums over the steps; the first is one for each step, others are at the first step.
        steps: how many there are.
        segment: of how many steps there are checkpoints.
        surrogate: its number, or a derivative of the user's.
        alpha: its steepness.
        want_alpha: whether it needs a gradient.
    """
    alpha_part = by_alpha(surrogate) if want_alpha else None
    found: Any = None
    grad_input: Any = None
    totals: dict[int, Any] = {}
    grad_alpha: Any = None
    own = alpha  # as the spike functions are computed
    for first in range((steps - 1) // segment * segment if steps else 0, -1, -segment):
        last = min(first + segment, steps)
        head = arguments(first, last, found)
        needs = wanted(first)
        distances = operator(*head, *(False for _ in needs), [], _DISTANCES)[-1]
        own = own.to(distances[0])
        derivatives = []
        if callable(surrogate):
            derivatives, distances = distances, []
            for u in derivatives:
                _derive(surrogate, u, own)
        *found, grads = operator(*head, *needs, derivatives, _NOTHING if alpha_part is None else _GRADIENTS)
        if alpha_part is not None:
            for u, grad in zip(distances, grads):
                # A spike without a gradient gives alpha none, also where its distance is infinite.
                part = reduce_to((grad * alpha_part(u, own)).masked_fill_(grad == 0, 0), alpha)
                grad_alpha = part if grad_alpha is None else grad_alpha + part
        for k in sums:
            totals[k] = found[k] if k not in totals else totals[k] + found[k]
        if needs[0]:
            if last == steps and first > 0:
                grad_input = found[0].new_empty((steps, *found[0].shape[1:]))
            if grad_input is not None:
                grad_input[first:last] = found[0]
    for k in sums:
        found[k] = totals[k]
    if grad_input is not None:
        found[0] = grad_input
    return found, grad_alpha
