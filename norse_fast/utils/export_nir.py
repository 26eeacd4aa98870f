"""Writes modules as graphs of the Neuromorphic Intermediate Representation (NIR)."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from .._kernels.checks import check_tensor
from .._kernels.outputs import REDUCED
from ..module.delay import Delay
from ..module.iaf import IAF, IAFCell
from ..module.lif_box import LIFBox, LIFBoxCell
from ..module.lift import Lift
from ..module.sequential import RecurrentSequential, SequentialState
from ..module.snn import SNN, SNNRecurrent
from ._nir import ORIGIN, attribute, import_nir
from ._nir_checks import attributes_kept, check_calls, check_operations
from ._nir_nodes import Target, check, named_reset, to_node
from ._nir_shapes import only, receiving, with_shapes
from .state import _is_module_stateful

__all__ = ["to_nir"]


def to_nir(
    module: torch.nn.Module,
    sample_data: torch.Tensor | None = None,
    model_name: str = "norse",
    time_scaling_factor: float = 1,
    type_check: bool = True,
    *,
    dt: None = None,
) -> Any:
    r"""The NIR graph of a model; ``nir.write(path, graph)`` puts it into a file.

    ========================================================================  ========================================
    module                                                                    node
    ========================================================================  ========================================
    LIFCell, LIF                                                              CubaLIF with w_in = tau_syn / dt
    LICell, LI                                                                CubaLI with w_in = tau_syn / dt
    LIFBoxCell, LIFBox                                                        LIF
    LIBoxCell, LIBox                                                          LI
    IAFCell, IAF                                                              IF, whose input is per step, not per second
    DelayCell, Delay                                                          Delay, in seconds: delays times dt
    LIFRecurrentCell, LIFRecurrent                                            graph of Linear and CubaLIF
    SequentialState, Lift, RecurrentSequential                                their modules; the latter two as a graph
    Linear, Conv1d, Conv2d, AvgPool2d, Flatten, LPPool2d with norm 1          Linear or Affine, ..., SumPool2d
    ========================================================================  ========================================

    Other modules are traced with torch.fx: they may call those above, add tensors, and hand each module its own state of
    the step before, in an argument ``state`` or an attribute. Two steps are traced; what begins in a later one is not seen.
    A layer over time is written as its cell, since NIR describes continuous time. Time constants are those of the
    equations, :math:`\tau = 1/\tau^{-1}`.

    Args:
        module: the model.
        sample_data: input of one time step, ``(B, ...)``, or of a model with layers over all, ``(T, B, ...)``. Only its
            shape is used. NIR wants to know how many neurons there are; they are known without it where a Linear module
            comes first.
        model_name: has no effect; kept for compatibility.
        time_scaling_factor: is multiplied with all time constants, a positive number.
        type_check: check that the shapes of all nodes are known and fit.
        dt: not used. Norse 1.1.0 has it in place of ``time_scaling_factor``.

    Returns:
        A ``nir.NIRGraph``, or a single node for a single cell or PyTorch module.

    Raises:
        ModuleNotFoundError: nir or nirtorch is not installed.
        TypeError: NIR has no counterpart of a module, or an argument is of another type, or ``dt`` is given.
        ValueError: NIR has no counterpart of a setting, an operation or a state, shapes are unknown or do not fit, or
            ``time_scaling_factor`` is not positive.

    Source: J. E. Pedersen et al., *Neuromorphic intermediate representation: A unified instruction set for interoperable
    brain-inspired computing*, Nature Communications, 2024.

    Example:
        >>> from norse_fast import LIFBoxCell, SequentialState
        >>> graph = to_nir(SequentialState(torch.nn.Linear(3, 2), LIFBoxCell()))
        >>> graph.nodes["_1"].tau
        array([0.01, 0.01])
    """
    nir, nirtorch = import_nir("to_nir")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: got {module!r}, expected a torch.nn.Module; pass the model itself.")
    if sample_data is not None:
        check_tensor("sample_data", sample_data)
    if model_name != "norse":
        warnings.warn("model_name: NIR graphs have no name; it is ignored.", DeprecationWarning, stacklevel=2)
    _check_factor(module, time_scaling_factor, dt)
    _check_dt(module)
    leading = _leading(module)
    graph = _convert(module, Target(nir, nirtorch, time_scaling_factor, leading))
    shape = None if sample_data is None else _step_shape(leading, sample_data)
    if not isinstance(graph, nir.NIRGraph):
        return graph if shape is None else receiving(nir, graph, shape)
    graph = with_shapes(nir, graph, shape)
    _keep_order(nir, graph)
    if type_check:
        try:
            graph.infer_types()
            graph.check_types()
        except ValueError as error:
            raise ValueError(
                f"module: got shapes that NIR's type check rejects ({error}), expected them known and fitting; pass "
                "sample_data, the input of one time step, or type_check=False."
            ) from error
    return graph


_NOT_DT = (
    "Norse 1.1.0 multiplies time constants by its dt, of which norse_fast needs none: leave it out for time constants in "
    "seconds. Files that 1.1.0 wrote are read with from_nir(path, dt=1e-6)"
)


def _check_factor(module: torch.nn.Module, factor: Any, dt: Any) -> None:
    """Raise if the factor of time constants is none, or warn where it may have been meant as Norse 1.1.0's dt."""
    if dt is not None:
        raise TypeError(f"dt: got {dt!r}, expected no such argument. {_NOT_DT}.")
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real):
        raise TypeError(
            f"time_scaling_factor: got {factor!r}, a {type(factor).__name__}, expected a number; the default is 1, and "
            "type_check comes after it."
        )
    if not 0 < float(factor) < float("inf"):
        raise ValueError(f"time_scaling_factor: got {factor!r}, expected a positive number; the default is 1.")
    if any(factor == getattr(part, "dt", 1) != 1 for part in module.modules()):
        warnings.warn(
            f"time_scaling_factor: got {factor!r}, the dt of the model, by which all time constants are multiplied. "
            f"{_NOT_DT}.",
            stacklevel=3,
        )


def _keep_order(nir: Any, graph: Any) -> None:
    """Note the order of the nodes, which says what arrives a step later, and which files do not keep."""
    graph.metadata[ORIGIN] = "\n".join(graph.nodes)
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            _keep_order(nir, node)


def _check_dt(module: torch.nn.Module) -> None:
    """Warn where one dt cannot give back what a model computes."""
    found = {
        float(dt)
        for part in module.modules()
        if isinstance(dt := getattr(part, "dt", None), (int, float)) and not isinstance(part, (IAF, IAFCell))
    }
    if len(found) > 1:
        warnings.warn(
            f"module: got modules with dt {' and '.join(map(repr, sorted(found)))}, which a graph does not keep, expected "
            "one; from_nir runs them all with its own dt.",
            stacklevel=3,
        )


def _leading(module: torch.nn.Module) -> int:
    return 2 if any(map(_takes_all_steps, module.modules())) else 1


def _takes_all_steps(module: torch.nn.Module) -> bool:
    return isinstance(module, (Delay, Lift, SNN, SNNRecurrent))


def _step_shape(leading: int, sample_data: torch.Tensor) -> tuple[int, ...]:
    if sample_data.dim() <= leading:
        raise ValueError(
            f"sample_data: got shape {tuple(sample_data.shape)}, expected {'(T, B, ...)' if leading == 2 else '(B, ...)'}; "
            "add the missing dimensions."
        )
    return tuple(sample_data.shape[leading:])


def _convert(module: torch.nn.Module, to: Target) -> Any:
    """The node of a module, or the graph of all that it calls, with shapes as far as parameters tell them."""
    reached = list(_reached(module))
    for m in reached:
        if isinstance(m, SequentialState) and m.return_hidden:
            raise ValueError("module: got a SequentialState with return_hidden=True; set it to False, for one output.")
        if isinstance(m, SNN) and m.output in REDUCED:
            check(m, output="all")
        if named_reset(m) != "value" and not isinstance(m, (LIFBox, LIFBoxCell)):
            raise ValueError(
                f"module: got a {type(m).__name__} with reset={named_reset(m)!r}, expected 'value'; NIR knows nothing else "
                "of these neurons. LIFBox takes 'subtract'."
            )
    leaves = [m for m in reached if _is_leaf(m)]
    stateful = {type(m) for m in leaves if _is_module_stateful(m)}
    arguments = list(inspect.signature(module.forward).parameters.values())[1:]
    unused = {argument.name: None for argument in arguments if argument.default is None}
    if not _is_leaf(module):
        check_calls(module, to_node.registry)
        check_operations(module, _is_leaf, _takes_all_steps)

    def convert(leaf: torch.nn.Module) -> Any:
        check_calls(leaf, to_node.registry)
        node = to_node(leaf, to)
        # nirtorch expects this name, where graphs have that of their input; and the same for all that take one output, of
        # which some may not be known yet.
        types.append((node, {"input": only(node.input_type)}))
        node.input_type = {"input": None}
        return node

    types: list[tuple[Any, Any]] = []
    try:
        with attributes_kept(module):
            graph = to.nirtorch.torch_to_nir(
                module,
                {type(m): convert for m in leaves},
                default_dict=None,
                type_check=False,
                stateful_modules=stateful,
                concrete_args=unused,
            )
        ends = {end for edge in getattr(graph, "edges", ()) for end in edge}
        # Symbols that an earlier trace left behind are in edges, and no nodes.
        if lost := ends - set(getattr(graph, "nodes", ())):
            raise KeyError(*sorted(lost))
    except Exception as error:
        if str(error).startswith("module: "):
            raise
        raise ValueError(
            f"module: got a {type(module).__name__} that nirtorch cannot write ({type(error).__name__}: {error}), expected "
            "calls of modules and additions of their outputs; keep states in tuples, lists and attributes of modules."
        ) from error
    for node, kind in types:
        node.input_type = kind
    if isinstance(graph, to.nir.NIRGraph):
        for name, node in graph.nodes.items():
            if isinstance(node, to.nir.Input) and only(node.input_type) is None:
                taken = (only(graph.nodes[target].input_type) for source, target in graph.edges if source == name)
                node.input_type = node.output_type = {"input": next((shape for shape in taken if shape), None)}
                graph.input_type = {"input": only(node.input_type)}
    return graph


def _reached(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules that tracing can come across."""
    yield module
    if not _is_leaf(module):
        for child in module.children():
            yield from _reached(child)


def _is_leaf(module: torch.nn.Module) -> bool:
    """Whether a module becomes one node, or fails as one, where all others are traced into."""
    if isinstance(module, torch.fx.GraphModule):
        return ORIGIN in module.meta
    if to_node.dispatch(type(module)) is not to_node.dispatch(object):
        return True
    if isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        return False
    libraries = ("norse_fast.", "torch.nn.")
    return any(cls.__module__.startswith(libraries) for cls in type(module).__mro__ if cls is not torch.nn.Module)


@to_node.register
def _lift(module: Lift, to: Target) -> Any:
    return _convert(module.lifted_module, to._replace(leading=1))


@to_node.register
def _recurrent_sequential(module: RecurrentSequential, to: Target) -> Any:
    if not isinstance(module.output_modules, int):
        raise ValueError(
            f"module: got a RecurrentSequential with output_modules={module.output_modules}, expected one; a graph has one "
            "output."
        )
    sequence: Any = module.module
    check_calls(sequence, to_node.registry)
    layers = list(sequence)
    graph = _convert(SequentialState(*layers[: range(len(layers))[module.output_modules] + 1]), to)
    firsts = [target for source, target in graph.edges if isinstance(graph.nodes[source], to.nir.Input)]
    lasts = [source for source, target in graph.edges if isinstance(graph.nodes[target], to.nir.Output)]
    order = list(graph.nodes)
    if early := next((last for last in lasts for first in firsts if order.index(last) < order.index(first)), None):
        raise ValueError(
            f"module: got a RecurrentSequential whose output {early!r} comes before another module that takes the input, "
            "expected all outputs after those; only connections back to an earlier node of a graph arrive one step later."
        )
    graph.edges += [(last, first) for last in lasts for first in firsts]
    return graph


@to_node.register
def _imported(module: torch.fx.GraphModule, to: Target) -> Any:
    nodes, edges = module.meta[ORIGIN]
    converted = {name: end or _convert(getattr(module, attribute(name)), to) for name, end in nodes.items()}
    return to.nir.NIRGraph(converted, list(edges), type_check=False)
