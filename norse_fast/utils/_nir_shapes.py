"""Shapes of the nodes of a NIR graph, handed on from its input."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

__all__ = ["only", "receiving", "spread", "with_shapes"]


def with_shapes(nir: Any, graph: Any, shape: tuple[int, ...] | None) -> Any:
    """The graph with the shape of its input, if it is known, handed on from node to node."""
    nodes = dict(graph.nodes)
    if shape is not None:
        nodes = {name: nir.Input(shape) if isinstance(n, nir.Input) else n for name, n in nodes.items()}
    changed = True
    while changed:
        changed = False
        for source, target in graph.edges:
            sent = only(nodes[source].output_type)
            received = nodes[target] if sent is None else receiving(nir, nodes[target], sent)
            changed |= received is not nodes[target]
            nodes[target] = received
    return nir.NIRGraph(nodes, graph.edges, metadata=graph.metadata, type_check=False)


def only(types: Any) -> tuple[int, ...] | None:
    """The shape that a node, which has one input and one output, takes or gives; None if it is not known."""
    shape = next(iter(types.values()), None)
    return None if shape is None else tuple(int(size) for size in shape)


def receiving(nir: Any, node: Any, shape: tuple[int, ...]) -> Any:
    """A node with input of a shape: the same one if that tells nothing new."""
    if isinstance(node, (nir.CubaLI, nir.CubaLIF, nir.Delay, nir.IF, nir.LI, nir.LIF, nir.Scale)):
        fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init and f.name != "metadata"}
        known = next(iter(fields.values())).shape
        # What does not fit is left to the type check.
        if known == shape or not _broadcasts(known, shape):
            return node
        return dataclasses.replace(node, **spread(shape, **fields))
    if only(node.output_type) is not None:
        return node
    if isinstance(node, nir.NIRGraph):
        return with_shapes(nir, node, shape)
    copied = dataclasses.replace(node)
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        _convolve(copied, shape)
    else:
        # NIR infers types in graphs only.
        nir.NIRGraph.from_list(nir.Input(shape), copied)
    pools = (nir.AvgPool2d, nir.SumPool2d)
    if isinstance(node, pools) and (output := only(copied.output_type)) is not None and min(output) < 1:
        raise ValueError(
            f"module: got an input of shape {shape} for a {type(node).__name__}, expected a larger one, of which something "
            "is left; pass sample_data of the size that the model takes."
        )
    return copied


def _convolve(node: Any, shape: tuple[int, ...]) -> None:
    """Tells a convolution its shapes, for which nir takes all kernels to be square."""
    weight = torch.empty(node.weight.shape, device="meta")
    convolution = torch.nn.functional.conv1d if weight.dim() == 3 else torch.nn.functional.conv2d
    how = (node.stride, node.padding, node.dilation, node.groups)
    try:
        if len(shape) != weight.dim() - 1:
            raise RuntimeError(f"{len(shape)} dimensions without the batch")
        output = convolution(torch.empty(1, *shape, device="meta"), weight, None, *how)
    except RuntimeError as error:
        raise ValueError(
            f"module: got an input of shape {shape} for weights of a convolution of shape {tuple(weight.shape)} ({error}), "
            "expected (C, *size) with channels and sizes that they take; pass sample_data of that shape."
        ) from error
    node.input_shape = shape[1] if weight.dim() == 3 else shape[1:]
    node.input_type = {"input": torch.tensor(shape).numpy()}
    node.output_type = {"output": torch.tensor(output.shape[1:]).numpy()}


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return torch.broadcast_shapes(shape, target) == target
    except RuntimeError:
        return False


def spread(shape: tuple[int, ...], **values: Any) -> dict[str, Any]:
    """Arrays of one shape, into which the values and a given shape broadcast."""
    tensors = torch.broadcast_tensors(*(torch.as_tensor(value) for value in values.values()), torch.empty(shape))
    return {name: tensor.clone().numpy() for name, tensor in zip(values, tensors)}
