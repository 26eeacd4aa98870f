"""Writes modules as graphs of the Neuromorphic Intermediate Representation (NIR)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from functools import singledispatch
from typing import Any, NamedTuple

import torch

from .._constants import constant
from .._kernels.outputs import REDUCED
from .._kernels.reset import RESETS
from ..functional.reset import reset_subtract, reset_value
from ..module.delay import Delay, DelayCell
from ..module.iaf import IAF, IAFCell
from ..module.leaky_integrator import LI, LICell
from ..module.leaky_integrator_box import LIBox, LIBoxCell
from ..module.lif import LIF, LIFCell, LIFRecurrent, LIFRecurrentCell
from ..module.lif_box import LIFBox, LIFBoxCell
from ..module.lift import Lift
from ..module.sequential import RecurrentSequential, SequentialState
from ..module.snn import SNN, SNNRecurrent
from ._nir import ORIGIN, attribute, import_nir
from ._nir_checks import check_calls, check_operations
from ._nir_shapes import only, receiving, spread, with_shapes
from .import_nir import CubaLIF, Scale
from .state import _is_module_stateful

__all__ = ["to_nir"]

ONE = constant(1.0)[None]


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

    Other modules are traced with torch.fx: they may call those above and add tensors. A layer over time is written as its
    cell, since NIR describes continuous time. Time constants are those of the equations, :math:`\tau = 1/\tau^{-1}`.

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
        TypeError: NIR has no counterpart of a module, ``time_scaling_factor`` is not a number, or ``dt`` is given.
        ValueError: NIR has no counterpart of a setting or an operation, shapes are unknown or do not fit, or
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
    if model_name != "norse":
        warnings.warn("model_name: NIR graphs have no name; it is ignored.", DeprecationWarning, stacklevel=2)
    _check_factor(module, time_scaling_factor, dt)
    _check_dt(module)
    leading = _leading(module)
    graph = _convert(module, _Target(nir, nirtorch, time_scaling_factor, leading))
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
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise TypeError(
            f"time_scaling_factor: got {factor!r}, a {type(factor).__name__}, expected a number; the default is 1, and "
            "type_check comes after it."
        )
    if not 0 < factor < float("inf"):
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


class _Target(NamedTuple):
    """What modules are written with.

    Args:
        nir: the package nir.
        nirtorch: the package nirtorch.
        factor: is multiplied with all time constants.
        leading: how many dimensions come before those of a sample: time, for layers over it, and the batch.
    """

    nir: Any
    nirtorch: Any
    factor: float
    leading: int


def _leading(module: torch.nn.Module) -> int:
    return 2 if any(isinstance(m, (Delay, Lift, SNN, SNNRecurrent)) for m in module.modules()) else 1


def _step_shape(leading: int, sample_data: torch.Tensor) -> tuple[int, ...]:
    if sample_data.dim() <= leading:
        raise ValueError(
            f"sample_data: got shape {tuple(sample_data.shape)}, expected {'(T, B, ...)' if leading == 2 else '(B, ...)'}; "
            "add the missing dimensions."
        )
    return tuple(sample_data.shape[leading:])


def _convert(module: torch.nn.Module, to: _Target) -> Any:
    """The node of a module, or the graph of all that it calls, with shapes as far as parameters tell them."""
    reached = list(_reached(module))
    for m in reached:
        if isinstance(m, SequentialState) and m.return_hidden:
            raise ValueError("module: got a SequentialState with return_hidden=True; set it to False, for one output.")
        if isinstance(m, SNN) and m.output in REDUCED:
            _check(m, output="all")
        if _named_reset(m) != "value" and not isinstance(m, (LIFBox, LIFBoxCell)):
            raise ValueError(
                f"module: got a {type(m).__name__} with reset={_named_reset(m)!r}, expected 'value'; NIR knows nothing else "
                "of these neurons. LIFBox takes 'subtract'."
            )
    leaves = [m for m in reached if _is_leaf(m)]
    stateful = {type(m) for m in leaves if _is_module_stateful(m)}
    arguments = list(inspect.signature(module.forward).parameters.values())[1:]
    unused = {argument.name: None for argument in arguments if argument.default is None}
    if not _is_leaf(module):
        check_calls(module, _to_node.registry)
        check_operations(module, unused, stateful, _is_leaf)

    def convert(leaf: torch.nn.Module) -> Any:
        check_calls(leaf, _to_node.registry)
        node = _to_node(leaf, to)
        # nirtorch expects this name, where graphs have that of their input; and the same for all that take one output, of
        # which some may not be known yet.
        types.append((node, {"input": only(node.input_type)}))
        node.input_type = {"input": None}
        return node

    types: list[tuple[Any, Any]] = []
    graph = to.nirtorch.torch_to_nir(
        module,
        {type(m): convert for m in leaves},
        default_dict=None,
        type_check=False,
        stateful_modules=stateful,
        concrete_args=unused,
    )
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
    if _to_node.dispatch(type(module)) is not _to_node.dispatch(object):
        return True
    if isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        return False
    libraries = ("norse_fast.", "torch.nn.")
    return any(cls.__module__.startswith(libraries) for cls in type(module).__mro__ if cls is not torch.nn.Module)


def _tensor(value: Any) -> torch.Tensor:
    """A copy: the graph must not change with the model."""
    tensor = torch.as_tensor(value).detach()
    return tensor.to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32, copy=True)


def _time_constant(rate: Any) -> torch.Tensor:
    # In float64: a rate in float32 then comes back exactly.
    return 1 / _tensor(rate).double()


def _neuron(kind: type, origin: str | None, /, **values: Any) -> Any:
    # NIR wants all parameters in one shape, and its compressed files at least one dimension.
    return kind(**spread((1,), **values), metadata={} if origin is None else {ORIGIN: origin})


def _potentials(p: Any) -> dict[str, torch.Tensor]:
    return {"v_leak": _tensor(p.v_leak), "v_threshold": _tensor(p.v_th), "v_reset": _tensor(p.v_reset)}


def _synapse(p: Any, dt: float, factor: float) -> dict[str, torch.Tensor]:
    """Time constants; and weights with which a spike, an input of 1 for a time dt, raises the current by 1."""
    tau_syn = _time_constant(p.tau_syn_inv)
    return {
        "tau_syn": factor * tau_syn,
        "tau_mem": factor * _time_constant(p.tau_mem_inv),
        "w_in": tau_syn / dt,
        "r": ONE,
    }


@singledispatch
def _to_node(module: torch.nn.Module, to: _Target) -> Any:
    raise TypeError(
        f"module: got a {type(module).__name__}, expected modules that have a counterpart in NIR; the docstring of to_nir "
        "lists them."
    )


@_to_node.register(LIFCell)
@_to_node.register(LIF)
def _lif(module: Any, to: _Target) -> Any:
    return _neuron(to.nir.CubaLIF, "LIFCell", **_potentials(module.p), **_synapse(module.p, module.dt, to.factor))


@_to_node.register(LICell)
@_to_node.register(LI)
def _li(module: Any, to: _Target) -> Any:
    return _neuron(to.nir.CubaLI, "LICell", v_leak=_tensor(module.p.v_leak), **_synapse(module.p, module.dt, to.factor))


@_to_node.register(LIFBoxCell)
@_to_node.register(LIFBox)
def _lif_box(module: Any, to: _Target) -> Any:
    tau = to.factor * _time_constant(module.p.tau_mem_inv)
    return _neuron(to.nir.LIF, _reset_origin(module), tau=tau, r=ONE, **_potentials(module.p))


def _named_reset(module: torch.nn.Module) -> Any:
    return getattr(module, "reset_options", {}).get("reset", "value")


def _reset_origin(module: Any) -> str | None:
    named = _named_reset(module)
    method = module.p.reset_method if named == "value" else RESETS[named]
    if method is reset_value:
        return None
    got = f"reset_method={method.__name__}" if named == "value" else f"reset={named!r}"
    warnings.warn(
        f"module: got {got}, which NIR does not know: the neurons of the graph reset to "
        "v_reset. from_nir restores reset_subtract.",
        stacklevel=2,
    )
    return "reset_subtract" if method is reset_subtract else None


@_to_node.register(LIBoxCell)
@_to_node.register(LIBox)
def _li_box(module: Any, to: _Target) -> Any:
    return _neuron(
        to.nir.LI, None, tau=to.factor * _time_constant(module.p.tau_mem_inv), r=ONE, v_leak=_tensor(module.p.v_leak)
    )


@_to_node.register(IAFCell)
@_to_node.register(IAF)
def _iaf(module: Any, to: _Target) -> Any:
    return _neuron(to.nir.IF, None, r=ONE, v_threshold=_tensor(module.p.v_th), v_reset=_tensor(module.p.v_reset))


@_to_node.register(DelayCell)
@_to_node.register(Delay)
def _delay(module: Any, to: _Target) -> Any:
    # In float64, as time constants are: delays then come back exactly.
    steps = module.delays.detach().to("cpu", torch.float64).clamp(0, module.max_delay)
    return _neuron(to.nir.Delay, None, delay=to.factor * module.dt * steps)


@_to_node.register
def _cuba_lif(module: CubaLIF, to: _Target) -> Any:
    synapse: Any = module.synapse.p
    p: Any = module.lif.p
    for part in (module.synapse, module.lif):
        check_calls(part, _to_node.registry)
    leak = _tensor(synapse.v_leak)
    if leak.any() or module.synapse.dt != module.lif.dt:
        got = "a synapse with v_leak other than 0" if leak.any() else "another dt in the synapse than in the neurons"
        raise ValueError(f"module: got a CubaLIF with {got}, expected none; a node of NIR has no place for it.")
    shared = {
        "tau_syn": to.factor * _time_constant(synapse.tau_mem_inv),
        "tau_mem": to.factor * _time_constant(p.tau_mem_inv),
        "w_in": _tensor(module.w_in),
        "r": _tensor(module.r),
    }
    if isinstance(module.lif, LIBoxCell):
        return _neuron(to.nir.CubaLI, None, v_leak=_tensor(p.v_leak), **shared)
    return _neuron(to.nir.CubaLIF, _reset_origin(module.lif), **_potentials(p), **shared)


@_to_node.register(LIFRecurrentCell)
@_to_node.register(LIFRecurrent)
def _lif_recurrent(module: Any, to: _Target) -> Any:
    inputs = to.nir.Linear(_tensor(module.input_weights).numpy())
    neurons = to.nir.Linear(_tensor(module.masked_weights()).numpy())
    nodes = {
        "input": to.nir.Input(inputs.input_type),
        "input_weights": inputs,
        "lif": _lif(module, to),
        "recurrent_weights": neurons,
        "output": to.nir.Output(neurons.output_type["output"]),
    }
    edges = [
        ("input", "input_weights"),
        ("input_weights", "lif"),
        ("lif", "recurrent_weights"),
        ("recurrent_weights", "lif"),
        ("lif", "output"),
    ]
    return with_shapes(to.nir, to.nir.NIRGraph(nodes, edges, type_check=False), None)


@_to_node.register
def _lift(module: Lift, to: _Target) -> Any:
    return _convert(module.lifted_module, to._replace(leading=1))


@_to_node.register
def _recurrent_sequential(module: RecurrentSequential, to: _Target) -> Any:
    if not isinstance(module.output_modules, int):
        raise ValueError(
            f"module: got a RecurrentSequential with output_modules={module.output_modules}, expected one; a graph has one "
            "output."
        )
    sequence: Any = module.module
    check_calls(sequence, _to_node.registry)
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


@_to_node.register
def _imported(module: torch.fx.GraphModule, to: _Target) -> Any:
    nodes, edges = module.meta[ORIGIN]
    converted = {name: end or _convert(getattr(module, attribute(name)), to) for name, end in nodes.items()}
    return to.nir.NIRGraph(converted, list(edges), type_check=False)


@_to_node.register
def _linear(module: torch.nn.Linear, to: _Target) -> Any:
    weight = _tensor(module.weight).numpy()
    return to.nir.Linear(weight) if module.bias is None else to.nir.Affine(weight, _tensor(module.bias).numpy())


@_to_node.register(torch.nn.Conv1d)
@_to_node.register(torch.nn.Conv2d)
def _conv(module: Any, to: _Target) -> Any:
    _check(module, padding_mode="zeros")
    weight = _tensor(module.weight)
    return getattr(to.nir, f"Conv{weight.ndim - 2}d")(
        input_shape=None,
        weight=weight.numpy(),
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=(weight.new_zeros(len(weight)) if module.bias is None else _tensor(module.bias)).numpy(),
    )


@_to_node.register
def _avg_pool(module: torch.nn.AvgPool2d, to: _Target) -> Any:
    sizes = _pairs(module.kernel_size, module.stride, module.padding)
    _check(module, ceil_mode=False)
    if module.divisor_override == 1:
        return to.nir.SumPool2d(*sizes)
    _check(module, divisor_override=None, **({"count_include_pad": True} if sizes[2].any() else {}))
    return to.nir.AvgPool2d(*sizes)


@_to_node.register
def _sum_pool(module: torch.nn.LPPool2d, to: _Target) -> Any:
    _check(module, norm_type=1, ceil_mode=False)
    kernel: Any = module.kernel_size
    return to.nir.SumPool2d(*_pairs(kernel, kernel if module.stride is None else module.stride, 0))


def _pairs(*sizes: Any) -> list[Any]:
    return [torch.as_tensor(size).expand(2).clone().numpy() for size in sizes]


@_to_node.register
def _flatten(module: torch.nn.Flatten, to: _Target) -> Any:
    if 0 <= module.start_dim < to.leading:
        before = "dimension is the batch" if to.leading == 1 else "dimensions are time and the batch"
        raise ValueError(
            f"module: got a Flatten with start_dim={module.start_dim}, expected another, because the first {before}; NIR "
            "does not count them."
        )
    start, end = (dim - to.leading * (dim > 0) for dim in (module.start_dim, module.end_dim))
    return to.nir.Flatten(None, start, end, metadata={ORIGIN: "Flatten"})


@_to_node.register
def _scale(module: Scale, to: _Target) -> Any:
    return to.nir.Scale(**spread((1,), scale=_tensor(module.scale)))


def _check(module: torch.nn.Module, **expected: Any) -> None:
    for name, value in expected.items():
        got = getattr(module, name)
        if got != value:
            raise ValueError(
                f"module: got a {type(module).__name__} with {name}={got!r}, expected {value!r}; NIR knows nothing else."
            )
