"""Runs a model layer by layer, as :mod:`norse_fast.module._layers` decided."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .._kernels.recurrent import stack_states
from ..functional.spike_products import Found, listening, look_like_spikes
from ._layers import Findings, Layer, children, expand, is_open, is_state, may_remember_output, plan, works_in_place
from ._parameters import Parameters
from ._rules import run_cell
from ._sparse_backward import Called, Follower, reads_bytes
from ._spikes import is_product
from .sequential import SequentialState
from .snn import SNNCell

__all__ = ["run"]


def run(module: nn.Module, x: torch.Tensor, state: Any, found: Findings) -> tuple[Any, Any]:
    """The outputs of a model at all time steps, and its new state; adds what products of spikes found."""
    layers, steps, done = plan(module), x.shape[0], 0
    sizes = _sizes_of_a_step(module, layers, x)
    if not sizes:
        return _run_layers(module, layers, x, state, found)
    spikes, outputs = look_like_spikes(x[0]), []
    most = _most_steps(layers, sizes, found, spikes)
    while done < steps:
        rest, before = x[done:], most
        parts = max(1, math.ceil(rest.shape[0] / most))
        # Split at once, for which autograd needs one step back.
        for part in rest.split(math.ceil(rest.shape[0] / parts)):
            output, state = _run_layers(module, layers, part, state, found)
            outputs.append(output)
            done += part.shape[0]
            most = _most_steps(layers, sizes, found, spikes)
            if most != before:
                break
    joined = pytree.tree_map(lambda *parts: torch.cat(parts), *outputs) if len(outputs) > 1 else outputs[0]
    return joined, state


# PyTorch's allocator returns memory beyond 32 MB to the system at once, and to get it anew takes longer than most layers do.
_LARGEST_OUTPUT = 2**24
# Kernels have theirs from a pool, and each part takes time of its own. In training gradients of that size come later.
_LARGEST_OUTPUT_OF_KERNELS, _LARGEST_IN_TRAINING = 2**27, 2**25


def _sizes_of_a_step(module: nn.Module, layers: list[Layer], x: torch.Tensor) -> list[float]:
    """About how many bytes each layer returns for a time step; nothing where all steps should run at once."""
    if not x.is_cpu or x.layout is not torch.strided or torch.compiler.is_compiling() or _hidden_ends(module):
        return []
    sizes = [float(x.element_size() * x[0].numel())]
    for layer in layers:
        sizes.append(sizes[-1] * _growth(layer.module))
    # The final outputs have to be copied into one tensor, which is cheap if they are small.
    whole = sizes[-1] > max(sizes) / 4 or x.shape[0] * max(sizes) <= _LARGEST_OUTPUT
    return [] if whole else sizes[1:]


def _most_steps(layers: list[Layer], sizes: list[float], found: Findings, spikes: bool) -> float:
    """For how many time steps the layers may run before the next steps begin."""
    of_kernels = _LARGEST_IN_TRAINING if torch.is_grad_enabled() else _LARGEST_OUTPUT_OF_KERNELS
    limits = (of_kernels if _has_kernels(layer, found, spikes) else _LARGEST_OUTPUT for layer in layers)
    return max(1, min(limit // size if size > 0 else math.inf for size, limit in zip(sizes, limits)))


def _has_kernels(layer: Layer, found: Findings, spikes: bool) -> bool:
    """Whether a layer's output is that of a kernel, or its input.

    Args:
        layer: the layer.
        found: what products found in the steps before.
        spikes: whether to expect spikes where nothing is known yet.
    """
    if layer.stateful or type(layer.module) in _VIEWS:
        return layer.over_time is not None
    if layer.name in found:  # perhaps nothing, as of a convolution of groups
        return isinstance([None, *found[layer.name]][-1], tuple)
    return spikes and (layer.call is not None or is_product(layer.module))


_VIEWS = (nn.Flatten, nn.Unflatten, nn.Identity)


def _growth(module: nn.Module) -> float:
    """About how many values a layer returns for each that it takes."""
    if not type(module).__module__.startswith(("torch.nn.", "norse_fast.")):
        return 1.0
    options = vars(module)
    growth = 1.0
    for wide, narrow in (
        ("out_features", "in_features"),
        ("out_channels", "in_channels"),
        ("hidden_size", "input_size"),
    ):
        if wide in options and narrow in options:
            growth *= int(options[wide]) / max(int(options[narrow]), 1)
    stride = options.get("stride") or 1
    fewer = math.prod(stride) if isinstance(stride, (tuple, list)) else stride**2
    return growth * fewer if options.get("transposed") else growth / fewer


def _hidden_ends(module: nn.Module) -> list[int]:
    """The index of the layer that gives the output of each child of a model, where the model returns these."""
    if not (getattr(module, "return_hidden", False) and is_open(module, is_model=True)):
        return []
    count, ends = 0, []
    for _, child in children(module):
        count += sum(1 for _ in expand("", child))
        ends.append(count - 1)
    return ends


def _run_layers(
    module: nn.Module, layers: list[Layer], x: torch.Tensor, state: Any, found: Findings
) -> tuple[Any, Any]:
    states = list(_flat_states(module, state, is_model=True))
    hidden_ends = _hidden_ends(module)
    # Containers that are empty return their input, which may be that of the model.
    hidden: dict[int, Any] = {-1: x}
    weights = {} if all(layer.alone for layer in layers) else _weights(layers)
    index = 0
    follower = Follower(SNNCell)
    while index < len(layers):
        end, result = index, NotImplemented
        if layers[index].over_time is None:
            while end + 1 < len(layers) and layers[end + 1].over_time is None:
                end += 1
        elif isinstance(x, torch.Tensor) and x.layout is torch.strided:
            result = _run_over_time(layers, x, states, index, follower, hidden_ends, found)
        if result is NotImplemented:
            seen = index - 1 in hidden_ends or (index > 0 and is_state(layers, index - 1))
            outputs = _run_steps(layers, x, states, range(index, end + 1), hidden_ends, seen)
            result = outputs[end]
            hidden.update(outputs)
            _check_weights_unchanged(weights, layers, layers[end].name)
        elif end in hidden_ends:
            hidden[end] = result
        x, index = result, end + 1
    new_state = _nested_state(module, iter(states), state, is_model=True)
    return ([hidden[end] for end in hidden_ends] if hidden_ends else x), new_state


def _run_over_time(
    layers: list[Layer],
    x: torch.Tensor,
    states: list[Any],
    index: int,
    follower: Follower,
    hidden_ends: list[int],
    found: Findings,
) -> Any:
    layer, state = layers[index], states[index]
    assert layer.over_time is not None
    if layer.stateful:
        run = functools.partial(layer.over_time, layer.module, x, state)
        if layer.over_time is run_cell and reads_bytes(layer.module, x, _later(layers, index, hidden_ends)):
            run = functools.partial(run, kind="uint8")
    elif (layer.call is None and not is_product(layer.module)) or torch.compiler.is_compiling():
        run = functools.partial(layer.over_time, layer.module, x)
    else:
        run = functools.partial(_listen, found.setdefault(layer.name, []), layer, x)
    result = follower.call(run, layer.called, x, state, _later(layers, index, hidden_ends))
    if layer.stateful and result is not NotImplemented:
        result, states[index] = result
    return result


def _listen(found: list[Found], layer: Layer, x: torch.Tensor) -> Any:
    assert layer.over_time is not None
    with listening(found.append):
        return layer.over_time(layer.call or layer.module, x)


def _later(layers: list[Layer], index: int, hidden_ends: list[int]) -> Iterator[Called]:
    """The modules after a layer, while they run over all time steps and nobody else sees what goes into them."""
    for before, layer in enumerate(layers[index + 1 :], index):
        if layer.over_time is None or before in hidden_ends:
            return
        yield layer.called


def _run_steps(
    layers: list[Layer], x: Any, states: list[Any], indices: range, hidden_ends: list[int], seen: bool
) -> dict[int, Any]:
    """Run layers step by step; returns the output of the last, and of those that are asked for.

    Where the input is ``seen`` by others, the first layer may not change it.
    """
    outputs: dict[int, list[Any]] = {index: [] for index in indices if index in hidden_ends or index == indices[-1]}
    # An unknown module may return what it keeps, and change that in the next step.
    may_change = any(not layers[index].alone and may_remember_output(layers[index]) for index in indices)
    watched = seen and not torch.compiler.is_compiling()
    for frame in _frames(x, layers[indices[0]]):
        made = {}
        for index in indices:
            layer, given = layers[index], frame
            watches = watched and index == indices[0]
            before = _version(given) if watches else 0
            if layer.stateful:
                frame, states[index] = layer.module(frame, states[index])
            else:
                frame = layer.module(frame)
            if watches and before != _version(given):
                raise RuntimeError(
                    f"lifted_module: got a layer {layer.name!r} ({type(layer.module).__name__}) that changes its input in "
                    f"place, expected it to stay, because it is a state or an output of layer {layers[index - 1].name!r}, "
                    "which runs over all time steps at once; change a copy, or call the module in a loop over time instead."
                )
            if index in outputs:
                _check_tensors(frame, layer)
                made[index] = frame
        # Not before: a layer may also change in place what the one before it returned.
        for index, output in made.items():
            outputs[index].append(_copied(output) if may_change else output)
    return {index: _stacked(frames, layers[index]) for index, frames in outputs.items()}


def _stacked(frames: list[Any], layer: Layer) -> Any:
    try:
        return stack_states(frames)
    except RuntimeError as error:
        shapes = {tuple(leaf.shape) for frame in frames for leaf in pytree.tree_leaves(frame)}
        raise RuntimeError(
            f"lifted_module: got outputs of layer {layer.name!r} ({type(layer.module).__name__}) that cannot be stacked, of "
            f"shapes {', '.join(map(str, sorted(shapes)))}, expected one shape at all steps; call the module in a loop over "
            "time instead."
        ) from error


def _version(x: Any) -> int:
    """What changes with a tensor that is changed in place."""
    return x._version if isinstance(x, torch.Tensor) and not x.is_inference() else 0


def _copied(output: Any) -> Any:
    return output.clone() if isinstance(output, torch.Tensor) else pytree.tree_map(torch.clone, output)


def _check_tensors(output: Any, layer: Layer) -> None:
    for leaf in () if isinstance(output, torch.Tensor) else pytree.tree_leaves(output):
        if not isinstance(leaf, torch.Tensor):
            raise TypeError(
                f"lifted_module: got {type(leaf).__name__} in the output of layer {layer.name!r} "
                f"({type(layer.module).__name__}), expected tensors alone, because those of all steps are stacked; call the "
                "module in a loop over time instead."
            )


def _frames(x: Any, layer: Layer) -> list[Any]:
    """The time steps of a tensor, or of all tensors of a nested structure, for a layer."""
    tensors, structure = pytree.tree_flatten(x)
    if works_in_place(layer.module) or any(t.is_sparse for t in tensors):
        columns = [[t[step] for step in range(t.shape[0])] for t in tensors]
    else:
        # The backward of unbind is linear in the number of steps, where that of an index per step is quadratic. But
        # autograd forbids to change what unbind returns in place, as unknown modules might.
        copy = not layer.alone and torch.is_grad_enabled()
        columns = [[f.clone() if copy and t.requires_grad else f for f in t.unbind(0)] for t in tensors]
    return [pytree.tree_unflatten(list(frame), structure) for frame in zip(*columns)]


def _flat_states(module: nn.Module, state: Any, is_model: bool = False) -> Iterator[Any]:
    """The states of the layers of a model."""
    if not is_open(module, is_model):
        yield state
        return
    states = module._as_states(state) if isinstance(module, SequentialState) else [None] * len(module._modules)
    for (_, child), child_state in zip(children(module), states):
        yield from _flat_states(child, child_state)


def _nested_state(module: nn.Module, states: Iterator[Any], given: Any, is_model: bool = False) -> Any:
    """The inverse of :func:`_flat_states`; what was given as the state of a module without one stays."""
    if not is_open(module, is_model):
        return next(states)
    if isinstance(module, SequentialState):
        return [_nested_state(m, states, s) for (_, m), s in zip(children(module), module._as_states(given))]
    for _, child in children(module):
        _nested_state(child, states, None)
    return given


def _weights(layers: list[Layer]) -> dict[str, Any]:
    """By name, what tells whether a weight of a fused layer changes, or a parameter of its neurons."""
    if torch.compiler.is_compiling():
        return {}
    fused = [(layer.name, layer.module) for layer in layers if layer.over_time is not None]
    found = {
        name: _present(tensor)
        for prefix, module in fused
        for named in (module.named_parameters, module.named_buffers)
        for name, tensor in named(prefix)
    }
    for prefix, module in fused:
        for path, part in module.named_modules(prefix=prefix):
            if isinstance(part, Parameters):
                found |= {f"{path}.p.{name}": _present(value) for name, value in part.given_parameters()}
            # Tensors that are not registered, and numbers such as dt.
            for name, value in vars(part).items():
                if isinstance(value, (torch.Tensor, int, float)):
                    found[f"{path}.{name}" if path else name] = (_present(value),)
    return found


def _present(value: Any) -> Any:
    """What another value, or a tensor that was changed in place, would not have."""
    if not isinstance(value, torch.Tensor):
        return value
    try:
        place = value.data_ptr()
    except RuntimeError:  # sparse, or of torch.func
        place = 0
    return id(value), place, 0 if value.is_inference() else value._version


def _check_weights_unchanged(before: dict[str, Any], layers: list[Layer], stepped: str) -> None:
    """Raise if a stepped layer, or a hook, changed the weights of a fused one, which would have to see it at once."""
    for name, now in _weights(layers).items() if before else ():
        if before.get(name) != now:
            raise RuntimeError(
                f"lifted_module: got weights {name} that changed during the steps up to layer {stepped!r}, expected them "
                "to stay the same, because their layer runs over all time steps at once; call the module in a loop over "
                "time instead."
            )
