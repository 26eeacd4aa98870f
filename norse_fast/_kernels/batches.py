"""What torch.func.vmap must know of the compiled operators: its dimension joins those of a step, whose lanes never talk to
each other. So one call of a kernel serves the whole batch. Only where weights differ does each have a call of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .outputs import NUMBERS

__all__ = ["register_batches"]

# Where the dimension of the batch goes: to the front of what there is once, and behind time. None: there is none.
_STEP, _TIME = 0, 1
_WEIGHTS = ("input_weights", "weights")


@functools.cache  # neurons may share a kernel
def register_batches(name: str, states: int, params: int, recurrent: bool = False) -> None:
    """Register what a model's two operators, or those of its recurrent layer, do under vmap."""
    for direction in ("forward", "backward"):
        operator = f"{name}_recurrent_{direction}" if recurrent else f"{name}_{direction}"
        _register(getattr(torch.ops.norse_fast, operator).default, states, params, recurrent, direction == "forward")


def _register(op: Any, states: int, params: int, recurrent: bool, forward: bool) -> None:
    names = [argument.name for argument in op._schema.arguments]
    first = 3 + states + 1 if recurrent else 1 + states
    parameters = {*names[first : first + params], "alpha"}

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        given, dims = dict(zip(names, args)), dict(zip(names, in_dims))
        kept = _STEP if given.get("kind", 0) >= NUMBERS["sum"] or not given.get("sequence", True) else _TIME
        own = any(given.get(f"want_{name}") or dims.get(name) is not None for name in _WEIGHTS)
        if own:
            return _call_each(op, info.batch_size, in_dims, args)
        places = dict.fromkeys(("checkpoints", "grad_trace", "output", "derivatives"), _TIME)
        places |= {"input": _TIME if given.get("sequence", True) else _STEP, "grad_output": kept}
        step = _step(given, dims, "z" if recurrent else names[1], info.batch_size)
        results = op(
            *(
                _spread(value, dims[name], step)
                if name in parameters
                else value
                if name in _WEIGHTS
                else _joined(value, dims[name], places.get(name, _STEP), step[0])
                for name, value in given.items()
            )
        )
        if forward:
            return results, _dims(results, (kept, *(_STEP,) * states, _TIME, _TIME))
        wanted = [places["input"] if given["want_input"] else None, *(_STEP,) * states]
        if recurrent:
            wanted[1:1] = [None, _STEP if given["want_z"] else None]
            wanted.append(None)
        return results, _dims(results, (*wanted, _TIME if given["want_params"] else None, _TIME))

    torch.library.register_vmap(op.name(), rule)


def _step(given: Mapping[str, Any], dims: Mapping[str, Any], name: str, size: int) -> tuple[int, ...]:
    """The shape of a step of the whole batch, from a tensor that each of the batch has one of."""
    shape = list(given[name].shape)
    if dims[name] is not None:
        del shape[dims[name]]
    return (size, *shape)


def _joined(value: Any, dim: Any, place: int, size: int) -> Any:
    """A tensor, or those of a list, with the dimension of the batch at a place; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [_joined(v, d, place, size) for v, d in zip(value, dim)]
    if not isinstance(value, torch.Tensor):
        return value
    if dim is None:
        return value.unsqueeze(place).expand(*value.shape[:place], size, *value.shape[place:])
    return value.movedim(dim, place)


def _spread(p: torch.Tensor, dim: int | None, step: tuple[int, ...]) -> torch.Tensor:
    """A parameter, which is one value or spans the trailing dimensions of a step, for a step of the whole batch."""
    if dim is None:
        return p
    p = p.movedim(dim, 0)
    return p.reshape(step[0], *(1,) * (len(step) - p.dim()), *p.shape[1:]).expand(step)


def _call_each(op: Any, size: int, in_dims: Any, args: Any) -> Any:
    """Call an operator for each of the batch, and stack the results."""

    def pick(value: Any, dim: Any, k: int) -> Any:
        if isinstance(value, (list, tuple)):
            return [pick(v, d, k) for v, d in zip(value, dim)]
        return value if dim is None else value.select(dim, k)

    every = [op(*(pick(v, d, k) for v, d in zip(args, in_dims))) for k in range(size)]
    results = tuple(
        [torch.stack(t) for t in zip(*r)] if isinstance(r[0], (list, tuple)) else torch.stack(r) for r in zip(*every)
    )
    return results, _dims(results, (0,) * len(results))


def _dims(results: Sequence[Any], places: Sequence[int | None]) -> tuple[Any, ...]:
    """The place of each result, and of those in lists."""
    return tuple([place] * len(r) if isinstance(r, (list, tuple)) else place for r, place in zip(results, places))
