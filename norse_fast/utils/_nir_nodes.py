"""The nodes of the Neuromorphic Intermediate Representation (NIR) that single modules become."""

from __future__ import annotations

import warnings
from functools import singledispatch
from typing import Any, NamedTuple

import torch

from .._constants import constant
from .._kernels.reset import RESETS
from ..functional.iaf import iaf_feed_forward_step
from ..functional.leaky_integrator import li_feed_forward_step
from ..functional.leaky_integrator_box import li_box_feed_forward_step
from ..functional.lif import lif_feed_forward_step, lif_step
from ..functional.lif_box import lif_box_feed_forward_step
from ..functional.reset import reset_subtract, reset_value
from ..module.delay import Delay, DelayCell
from ..module.iaf import IAF, IAFCell
from ..module.leaky_integrator import LI, LICell
from ..module.leaky_integrator_box import LIBox, LIBoxCell
from ..module.lif import LIF, LIFCell, LIFRecurrent, LIFRecurrentCell
from ..module.lif_box import LIFBox, LIFBoxCell
from ._nir import ORIGIN
from ._nir_checks import check_calls, check_step
from ._nir_shapes import spread, with_shapes
from .import_nir import CubaLIF, Scale

__all__ = ["Target", "check", "named_reset", "to_node"]

ONE = constant(1.0)[None]


class Target(NamedTuple):
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
def to_node(module: torch.nn.Module, to: Target) -> Any:
    raise TypeError(
        f"module: got a {type(module).__name__}, expected modules that have a counterpart in NIR; the docstring of to_nir "
        "lists them."
    )


@to_node.register(LIFCell)
@to_node.register(LIF)
def _lif(module: Any, to: Target) -> Any:
    check_step(module, lif_feed_forward_step)
    return _lif_neurons(module, to)


def _lif_neurons(module: Any, to: Target) -> Any:
    return _neuron(to.nir.CubaLIF, "LIFCell", **_potentials(module.p), **_synapse(module.p, module.dt, to.factor))


@to_node.register(LICell)
@to_node.register(LI)
def _li(module: Any, to: Target) -> Any:
    check_step(module, li_feed_forward_step)
    return _neuron(to.nir.CubaLI, "LICell", v_leak=_tensor(module.p.v_leak), **_synapse(module.p, module.dt, to.factor))


@to_node.register(LIFBoxCell)
@to_node.register(LIFBox)
def _lif_box(module: Any, to: Target) -> Any:
    check_step(module, lif_box_feed_forward_step)
    tau = to.factor * _time_constant(module.p.tau_mem_inv)
    return _neuron(to.nir.LIF, _reset_origin(module), tau=tau, r=ONE, **_potentials(module.p))


def named_reset(module: torch.nn.Module) -> Any:
    return getattr(module, "reset_options", {}).get("reset", "value")


def _reset_origin(module: Any) -> str | None:
    named = named_reset(module)
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


@to_node.register(LIBoxCell)
@to_node.register(LIBox)
def _li_box(module: Any, to: Target) -> Any:
    check_step(module, li_box_feed_forward_step)
    return _neuron(
        to.nir.LI, None, tau=to.factor * _time_constant(module.p.tau_mem_inv), r=ONE, v_leak=_tensor(module.p.v_leak)
    )


@to_node.register(IAFCell)
@to_node.register(IAF)
def _iaf(module: Any, to: Target) -> Any:
    check_step(module, iaf_feed_forward_step)
    return _neuron(to.nir.IF, None, r=ONE, v_threshold=_tensor(module.p.v_th), v_reset=_tensor(module.p.v_reset))


@to_node.register(DelayCell)
@to_node.register(Delay)
def _delay(module: Any, to: Target) -> Any:
    # In float64, as time constants are: delays then come back exactly.
    steps = module.delays.detach().to("cpu", torch.float64).clamp(0, module.max_delay)
    return _neuron(to.nir.Delay, None, delay=to.factor * module.dt * steps)


@to_node.register
def _cuba_lif(module: CubaLIF, to: Target) -> Any:
    synapse: Any = module.synapse.p
    p: Any = module.lif.p
    for part in (module.synapse, module.lif):
        check_calls(part, to_node.registry)
    check_step(module.synapse, li_box_feed_forward_step)
    is_lif = not isinstance(module.lif, LIBoxCell)
    check_step(module.lif, lif_box_feed_forward_step if is_lif else li_box_feed_forward_step)
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
    if not is_lif:
        return _neuron(to.nir.CubaLI, None, v_leak=_tensor(p.v_leak), **shared)
    return _neuron(to.nir.CubaLIF, _reset_origin(module.lif), **_potentials(p), **shared)


@to_node.register(LIFRecurrentCell)
@to_node.register(LIFRecurrent)
def _lif_recurrent(module: Any, to: Target) -> Any:
    check_step(module, lif_step)
    weights = module.masked_weights()
    if not torch.equal(weights, module.masked_weights()):
        raise ValueError(
            f"module: got a {type(module).__name__} whose masked_weights differ from call to call, expected the same; NIR "
            "knows no random weights."
        )
    inputs = to.nir.Linear(_tensor(module.input_weights).numpy())
    neurons = to.nir.Linear(_tensor(weights).numpy())
    nodes = {
        "input": to.nir.Input(inputs.input_type),
        "input_weights": inputs,
        "lif": _lif_neurons(module, to),
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


@to_node.register
def _linear(module: torch.nn.Linear, to: Target) -> Any:
    weight = _tensor(module.weight).numpy()
    return to.nir.Linear(weight) if module.bias is None else to.nir.Affine(weight, _tensor(module.bias).numpy())


@to_node.register(torch.nn.Conv1d)
@to_node.register(torch.nn.Conv2d)
def _conv(module: Any, to: Target) -> Any:
    check(module, padding_mode="zeros")
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


@to_node.register
def _avg_pool(module: torch.nn.AvgPool2d, to: Target) -> Any:
    sizes = _pairs(module.kernel_size, module.stride, module.padding)
    check(module, ceil_mode=False)
    if module.divisor_override == 1:
        return to.nir.SumPool2d(*sizes)
    check(module, divisor_override=None, **({"count_include_pad": True} if sizes[2].any() else {}))
    return to.nir.AvgPool2d(*sizes)


@to_node.register
def _sum_pool(module: torch.nn.LPPool2d, to: Target) -> Any:
    check(module, norm_type=1, ceil_mode=False)
    kernel: Any = module.kernel_size
    return to.nir.SumPool2d(*_pairs(kernel, kernel if module.stride is None else module.stride, 0))


def _pairs(*sizes: Any) -> list[Any]:
    return [torch.as_tensor(size).expand(2).clone().numpy() for size in sizes]


@to_node.register
def _flatten(module: torch.nn.Flatten, to: Target) -> Any:
    if 0 <= module.start_dim < to.leading:
        before = "dimension is the batch" if to.leading == 1 else "dimensions are time and the batch"
        raise ValueError(
            f"module: got a Flatten with start_dim={module.start_dim}, expected another, because the first {before}; NIR "
            "does not count them."
        )
    start, end = (dim - to.leading * (dim > 0) for dim in (module.start_dim, module.end_dim))
    return to.nir.Flatten(None, start, end, metadata={ORIGIN: "Flatten"})


@to_node.register
def _scale(module: Scale, to: Target) -> Any:
    return to.nir.Scale(**spread((1,), scale=_tensor(module.scale)))


def check(module: torch.nn.Module, **expected: Any) -> None:
    for name, value in expected.items():
        got = getattr(module, name)
        if got != value:
            raise ValueError(
                f"module: got a {type(module).__name__} with {name}={got!r}, expected {value!r}; NIR knows nothing else."
            )
