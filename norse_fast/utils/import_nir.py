"""Reads graphs of the Neuromorphic Intermediate Representation (NIR) as modules."""

from __future__ import annotations

import builtins
import functools
import numbers
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ..functional.iaf import IAFParameters
from ..functional.leaky_integrator import LIParameters
from ..functional.leaky_integrator_box import LIBoxParameters
from ..functional.lif import LIFParameters
from ..functional.lif_box import LIFBoxParameters
from ..functional.reset import ResetMethod, reset_subtract, reset_value
from ..module.delay import DelayCell
from ..module.iaf import IAFCell
from ..module.leaky_integrator import LICell
from ..module.leaky_integrator_box import LIBoxCell
from ..module.lif import LIFCell
from ..module.lif_box import LIFBoxCell
from ..module.sequential import SequentialState
from ._nir import ORIGIN, attribute, children, import_nir

__all__ = ["CubaLIF", "Scale", "from_nir"]

CELLS = ("LIFCell", "LICell")


class CubaLIF(torch.nn.Module):
    r"""One time step of neurons behind a synaptic current, as NIR describes them.

    .. math::
        I' &= I + dt \, \tau_{syn}^{-1} (w_{in} x - I) \\
        z  &= \text{neuron}(r I')

    Args:
        w_in: weight of the input, of any shape that broadcasts to the neurons.
        synapse: cell of the synaptic current, a :class:`~norse_fast.module.leaky_integrator_box.LIBoxCell`.
        r: resistance, likewise.
        lif: cell of the neurons, for example a :class:`~norse_fast.module.lif_box.LIFBoxCell`.

    Example:
        >>> from norse_fast import LIBoxCell, LIFBoxCell
        >>> neurons = CubaLIF(torch.tensor(5.0), LIBoxCell(), torch.tensor(1.0), LIFBoxCell())
        >>> z, (synapse, neuron) = neurons(torch.ones(1, 2))
        >>> synapse.v.detach()
        tensor([[0.5000, 0.5000]])
    """

    w_in: torch.Tensor
    r: torch.Tensor

    def __init__(self, w_in: torch.Tensor, synapse: torch.nn.Module, r: torch.Tensor, lif: torch.nn.Module) -> None:
        super().__init__()
        # They move with the module, but as in the reference they are no part of its state_dict.
        self.register_buffer("w_in", w_in, persistent=False)
        self.synapse = synapse
        self.register_buffer("r", r, persistent=False)
        self.lif = lif

    def forward(self, x: torch.Tensor, state: tuple[Any, Any] | None = None) -> tuple[torch.Tensor, tuple[Any, Any]]:
        """Run one step.

        Args:
            x: input of one step, for example ``(B, N)``.
            state: states of the synapse and of the neurons, or None for the initial ones.

        Returns:
            The output of the neurons and the new states.
        """
        synapse, neuron = (None, None) if state is None else state
        current, synapse = self.synapse(self.w_in * x, synapse)
        output, neuron = self.lif(self.r * current, neuron)
        return output, (synapse, neuron)


class Scale(torch.nn.Module):
    """Multiplies its input with constants.

    Args:
        scale: constants, of any shape that broadcasts to the input.

    Example:
        >>> Scale(torch.tensor([1.0, 2.0]))(torch.ones(2))
        tensor([1., 2.])
    """

    scale: torch.Tensor

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.scale * x


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).to(torch.float32, copy=True)


def _rate(time_constant: Any) -> torch.Tensor:
    # In float64: the rate that a time constant was computed from then comes back exactly.
    return _tensor(1 / torch.as_tensor(time_constant).double())


def _resisted(node: Any, cell: torch.nn.Module) -> torch.nn.Module:
    """The cell, behind its resistance where that is not 1."""
    resistance = _tensor(node.r)
    return cell if bool((resistance == 1).all()) else SequentialState(Scale(resistance), cell)


def _loaded(module: Any, node: Any) -> torch.nn.Module:
    with torch.no_grad():
        module.weight.copy_(_tensor(node.weight))
        if module.bias is not None:
            module.bias.copy_(_tensor(node.bias))
    loaded: torch.nn.Module = module
    return loaded


def _sizes(value: Any) -> Any:
    """Sizes of one or more dimensions, or the name of a padding, as PyTorch takes them."""
    return value if isinstance(value, str) else tuple(torch.as_tensor(value).flatten().tolist())


def _linear(node: Any) -> torch.nn.Module:
    outputs, inputs = node.weight.shape[-2:]
    return _loaded(torch.nn.Linear(inputs, outputs, bias=getattr(node, "bias", None) is not None), node)


def _conv(module: type[torch.nn.Conv1d] | type[torch.nn.Conv2d]) -> Callable[[Any], torch.nn.Module]:
    def convert(node: Any) -> torch.nn.Module:
        outputs, inputs, *kernel = node.weight.shape
        sizes = {name: _sizes(getattr(node, name)) for name in ("stride", "padding", "dilation")}
        groups = int(node.groups)
        return _loaded(module(inputs * groups, outputs, tuple(kernel), groups=groups, **sizes), node)

    return convert


def _sum_pool(node: Any) -> torch.nn.Module:
    # Not LPPool2d, which gives windows without a spike no gradient.
    return torch.nn.AvgPool2d(_sizes(node.kernel_size), _sizes(node.stride), _sizes(node.padding), divisor_override=1)


def _avg_pool(node: Any) -> torch.nn.Module:
    return torch.nn.AvgPool2d(_sizes(node.kernel_size), _sizes(node.stride), _sizes(node.padding))


def _flatten(node: Any) -> torch.nn.Module:
    dims = int(node.start_dim), int(node.end_dim)
    # NIR does not count the batch. Norse reads the dimensions as PyTorch's, which do; a graph that flattens dimension 0
    # cannot mean that.
    if dims[0] == 0 or ORIGIN in node.metadata:
        dims = dims[0] + (dims[0] >= 0), dims[1] + (dims[1] >= 0)
    return torch.nn.Flatten(*dims)


def _delay(node: Any, dt: float) -> torch.nn.Module:
    seconds = torch.as_tensor(node.delay)
    steps = seconds.double() / dt
    # What the rounding of seconds may have taken from whole numbers of steps, which delay spikes as they are.
    error = 4 * steps * torch.finfo(seconds.dtype if seconds.is_floating_point() else torch.float64).eps
    whole = (steps - steps.round()).abs() <= error
    if bool(whole.all()):
        return DelayCell(steps.round().long(), dt=dt)
    return DelayCell(_tensor(torch.where(whole, steps.round(), steps)), dt=dt)


def _from_cell(node: Any, dt: float) -> bool:
    """Whether a node was written from a LIFCell or LICell with this dt: another dt would scale the input otherwise."""
    tau_syn = torch.as_tensor(node.tau_syn).double()
    same = torch.allclose(torch.as_tensor(node.w_in).double() * dt, tau_syn, rtol=1e-5, atol=0)
    return node.metadata.get(ORIGIN) in CELLS and same


def _node_map(nir: Any, reset_method: ResetMethod, dt: float) -> dict[type, Callable[[Any], torch.nn.Module]]:
    def box_parameters(node: Any, tau: Any) -> LIFBoxParameters:
        return LIFBoxParameters(
            tau_mem_inv=_rate(tau),
            v_leak=_tensor(node.v_leak),
            v_th=_tensor(node.v_threshold),
            v_reset=_tensor(node.v_reset),
            reset_method=reset_subtract if node.metadata.get(ORIGIN) == "reset_subtract" else reset_method,
        )

    def leaky(node: Any, tau: Any) -> torch.nn.Module:
        return LIBoxCell(LIBoxParameters(tau_mem_inv=_rate(tau), v_leak=_tensor(node.v_leak)), dt=dt)

    def synaptic(node: Any, cell: torch.nn.Module) -> torch.nn.Module:
        synapse = LIBoxCell(LIBoxParameters(tau_mem_inv=_rate(node.tau_syn)), dt=dt)
        return CubaLIF(_tensor(node.w_in), synapse, _tensor(node.r), cell)

    def integrate_and_fire(node: Any) -> torch.nn.Module:
        p = IAFParameters(v_th=_tensor(node.v_threshold), v_reset=_tensor(node.v_reset))
        return _resisted(node, IAFCell(p, dt=dt))

    def cuba_lif(node: Any) -> torch.nn.Module:
        if _from_cell(node, dt):
            p = LIFParameters(
                tau_syn_inv=_rate(node.tau_syn),
                tau_mem_inv=_rate(node.tau_mem),
                v_leak=_tensor(node.v_leak),
                v_th=_tensor(node.v_threshold),
                v_reset=_tensor(node.v_reset),
            )
            return LIFCell(p, dt=dt)
        return synaptic(node, LIFBoxCell(box_parameters(node, node.tau_mem), dt=dt))

    def cuba_li(node: Any) -> torch.nn.Module:
        if _from_cell(node, dt):
            p = LIParameters(_rate(node.tau_syn), _rate(node.tau_mem), _tensor(node.v_leak))
            return LICell(p, dt=dt)
        return synaptic(node, leaky(node, node.tau_mem))

    return {
        nir.Affine: _linear,
        nir.AvgPool2d: _avg_pool,
        nir.Conv1d: _conv(torch.nn.Conv1d),
        nir.Conv2d: _conv(torch.nn.Conv2d),
        nir.CubaLI: cuba_li,
        nir.CubaLIF: cuba_lif,
        nir.Delay: lambda node: _delay(node, dt),
        nir.Flatten: _flatten,
        nir.IF: integrate_and_fire,
        nir.LI: lambda node: _resisted(node, leaky(node, node.tau)),
        nir.LIF: lambda node: _resisted(node, LIFBoxCell(box_parameters(node, node.tau), dt=dt)),
        nir.Linear: _linear,
        nir.Scale: lambda node: Scale(_tensor(node.scale)),
        nir.SumPool2d: _sum_pool,
    }


def from_nir(
    node: Any,
    ignore_warnings: bool = False,
    reset_method: ResetMethod = reset_value,
    dt: float = 0.001,
) -> torch.nn.Module:
    r"""A module that computes a NIR graph, one time step at a call.

    Connections back to an earlier node, and from a node to itself, arrive one step later. The order of the nodes is that in
    which the edges name them, because files keep no other; of a graph that :func:`~norse_fast.utils.export_nir.to_nir`
    wrote, it is that of the model. LIF, LI and CubaLIF nodes
    become cells with :math:`\tau^{-1} = 1/\tau` in float32; those that :func:`~norse_fast.utils.export_nir.to_nir` wrote
    become the cells that they were. Surrogate gradients are no part of NIR and get their defaults.

    Args:
        node: a ``nir.NIRGraph``, a single node, or the path of a file. A file need not pass NIR's type check.
        ignore_warnings: has no effect, as everything is computed that Norse warns about; kept for compatibility.
        reset_method: what a spike does to the membrane potential of LIF and CubaLIF neurons.
        dt: length of a time step, in the unit of the graph's time constants and delays.

    Returns:
        For a graph a module that takes the input of a step, for example ``(B, N)``, and a state, or None for the initial
        one, and returns the output and the new state. For a single node its module.

    Raises:
        ModuleNotFoundError: nir or nirtorch is not installed.
        TypeError: ``dt`` is not a number.
        ValueError: the graph contains a node that has no counterpart, or ``dt`` is not positive.

    Source: J. E. Pedersen et al., *Neuromorphic intermediate representation: A unified instruction set for interoperable
    brain-inspired computing*, Nature Communications, 2024.

    Example:
        >>> from norse_fast import LIFCell, SequentialState, to_nir
        >>> graph = to_nir(SequentialState(torch.nn.Linear(3, 2), LIFCell()))
        >>> model = from_nir(graph)
        >>> z, state = model(torch.ones(1, 3))
        >>> z, state = model(torch.ones(1, 3), state)
        >>> z.shape
        torch.Size([1, 2])
    """
    nir, nirtorch = import_nir("from_nir")
    if not isinstance(dt, (numbers.Real, torch.Tensor)):
        raise TypeError(
            f"dt: got {type(dt).__name__}, expected a number, the length of a time step; the default is 0.001."
        )
    if not 0 < dt < float("inf"):
        raise ValueError(
            f"dt: got {dt!r}, expected a positive number, the length of a time step; the default is 0.001."
        )
    if isinstance(node, (str, Path)):
        node = nir.read(node, type_check=False)
    node_map = _node_map(nir, reset_method, dt)
    unknown = {type(child) for child in children(node)} - {*node_map, nir.Input, nir.Output}
    if unknown:
        raise ValueError(
            f"node: got a graph with {_names(unknown)}, expected only {_names(node_map)}; replace them by those."
        )
    if isinstance(node, nir.NIRGraph):
        node = _connected(nir, node)
    module: torch.nn.Module = nirtorch.nir_to_torch(node, node_map)
    if isinstance(node, nir.NIRGraph):
        _finish(nir, module, node)
    return module


def _connected(nir: Any, graph: Any) -> Any:
    """The graph without nodes on which its output does not depend: nirtorch would look for their place without end."""

    def reached(kind: type, edges: list[tuple[str, str]]) -> set[str]:
        found = {name for name, node in graph.nodes.items() if isinstance(node, kind)}
        while more := {target for source, target in edges if source in found} - found:
            found |= more
        return found

    for kind in (nir.Input, nir.Output):
        ends = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
        if len(ends) > 1:
            raise ValueError(
                f"node: got a graph with {', '.join(map(repr, ends))}, expected one {kind.__name__}; nir adds another for "
                "a node that lacks an edge. Add the missing edges or remove the node."
            )
    forward, backward = list(graph.edges), [(target, source) for source, target in graph.edges]
    kept = reached(nir.Output, backward)
    lost = kept - reached(nir.Input, forward)
    # Of a graph without input nirtorch says so.
    if lost and any(isinstance(node, nir.Input) for node in graph.nodes.values()):
        raise ValueError(
            f"node: got a graph in which nothing leads from the input to {', '.join(map(repr, sorted(lost)))}, expected only "
            "nodes that the input reaches; add the missing edges."
        )
    nodes: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name in _ordered(graph):
        node = graph.nodes[name]
        if name in kept or isinstance(node, nir.Input):
            names[name] = _free_name(name, nodes)
            nodes[names[name]] = _connected(nir, node) if isinstance(node, nir.NIRGraph) else node
    edges = [(names[source], names[target]) for source, target in forward if names.keys() >= {source, target}]
    return nir.NIRGraph(nodes, edges, metadata=graph.metadata, type_check=False)


def _ordered(graph: Any) -> list[str]:
    """The names of all nodes, in the order of the model, or in that in which the edges name them: files sort nodes."""
    written = graph.metadata.get(ORIGIN)
    order = written.split("\n") if isinstance(written, str) else [name for edge in graph.edges for name in edge]
    first = {name: place for place, name in enumerate(dict.fromkeys(order))}
    return sorted(graph.nodes, key=lambda name: first.get(name, len(order)))


@functools.cache
def _taken_names() -> set[str]:
    """What modules of graphs have as attributes, or their code as names."""
    module = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    return {*dir(module), *dir(builtins), "self", "state", "is_none"} - {"input"}


def _free_name(name: str, taken: Iterable[str]) -> str:
    """A name for the module of a node, of which there is no other, as nirtorch knows dots and underscores apart no more."""
    used, free = {attribute(other) for other in taken}, attribute(name)
    if free in _taken_names():
        free = f"nir_node_{free}"
    while free in used:
        free += "_"
    return name if attribute(name) == free else free


def _own_state(initial: Any, given: Any) -> Any:
    """The state into which a step writes: not the one that was given, from which it may be computed again."""
    if isinstance(given, torch.fx.Proxy):
        # Modules of graphs are traced again when they are read from a pickle.
        return given.tracer.create_proxy("call_function", _own_state, (initial, given), {})
    return initial if given is None else dict(given)


def _sort_sums(module: Any, graph: Any) -> None:
    """Add up what arrives at a node in the order of its sources: nirtorch takes that of a set, another in each process."""
    order = {attribute(name): place for place, name in enumerate(graph.nodes)}

    def place(term: Any) -> int:
        if term.target == "get":
            source = term.args[1].removesuffix("_prev_output")
        else:
            source = term.args[0].target if term.target == "__getitem__" else term.target
        return order.get(source, -1)  # the input comes first

    for call in module.graph.nodes:
        if call.op == "output":
            *outputs, state = call.args[0]
            call.args = ((*sorted(outputs, key=place), state),)
        elif call.target is torch.add and all(user.target is not torch.add for user in call.users):
            sums, terms = [call], [call.args[1]]
            while sums[-1].args[0].target is torch.add:
                sums.append(sums[-1].args[0])
                terms.append(sums[-1].args[1])
            total, *terms = sorted([sums[-1].args[0], *terms], key=place)
            for addition, term in zip(reversed(sums), terms):
                addition.args = (total, term)
                total = addition


def _finish(nir: Any, module: Any, graph: Any) -> None:
    """Make good what nirtorch lacks, in a module and those of the graphs in its graph."""
    _sort_sums(module, graph)
    # The outputs with which recurrent nodes begin: its shape (1,) fixes the device and widens the dtype.
    for call in module.graph.nodes:
        if call.target is torch.zeros:
            call.args = ((),)
        elif call.name == "initialized_state":
            is_none, *states = call.args
            call.target, call.args = _own_state, tuple(states)
            module.graph.erase_node(is_none)
        elif call.op == "output":
            *outputs, state = call.args[0]
            with module.graph.inserting_before(call):
                total = functools.reduce(
                    lambda one, other: module.graph.call_function(torch.add, (one, other)), outputs
                )
            call.args = ((total, state),)
    module.recompile()
    # Tracing the module would lose its recurrent edges: to_nir takes the modules of these nodes, and these edges.
    ends = (nir.Input, nir.Output)
    module.meta[ORIGIN] = {k: n if isinstance(n, ends) else None for k, n in graph.nodes.items()}, list(graph.edges)
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            _finish(nir, getattr(module, attribute(name)), node)


def _names(types: Any) -> str:
    return ", ".join(sorted(kind.__name__ for kind in types))
