"""How modules run over all time steps at once, and what keeps them from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from .._kernels.neuron import SEQUENCES
from .._kernels.outputs import REDUCED
from .._kernels.recurrent import RECURRENT
from .._kernels.weights import check_weights, project
from ..functional.leaky_integrator import li_feed_forward_step
from .delay import Delay, DelayCell, DelayedLinear, DelayedLinearCell
from .leaky_integrator import LILinearCell
from .lif_mc import CoupledCell
from .snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell, find_fused
from .spike_products import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, SpikeMaxPool2d

__all__ = [
    "RULES",
    "RULES_BY_FORWARD",
    "Obstacle",
    "Rule",
    "call_once",
    "merge_time",
    "no_obstacle",
    "run_cell",
]


class Obstacle(NamedTuple):
    """Why a module must be stepped.

    Args:
        why: the reason, in a few words.
        alone: its calls concern no other layer, so the layers around it may still be fused.
    """

    why: str
    alone: bool = False


def no_obstacle(module: nn.Module) -> None:
    """Nothing keeps the module from running over all time steps."""


class Rule(NamedTuple):
    """How a kind of module runs over all time steps.

    Args:
        over_time: ``(module, x) -> y`` for stateless modules, ``(module, x, state) -> (y, state)`` for others. It returns
            NotImplemented where one step of ``x`` has not the dimensions that the module takes.
        obstacle: what keeps a module from that, or None.
        why: how it runs, in a few words.
    """

    over_time: Callable[..., Any]
    obstacle: Callable[[Any], Obstacle | None] = no_obstacle
    why: str = "one call for all time steps"


def call_once(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """For modules that treat all leading dimensions alike."""
    y: torch.Tensor = module(x)
    return y


def _on_last(dims: Callable[[Any], int]) -> Callable[[nn.Module, torch.Tensor], Any]:
    """The same where the module computes along so many of the last dimensions: a step must have them without time."""

    def over_time(module: nn.Module, x: torch.Tensor) -> Any:
        return module(x) if x.dim() > dims(module) else NotImplemented

    return over_time


def merge_time(module: nn.Module, x: torch.Tensor) -> Any:
    """For modules whose first dimension is the batch: the time steps are more samples."""
    if x.dim() < 3:
        return NotImplemented
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _with_or_without_batch(sample_dims: int) -> Callable[[nn.Module, torch.Tensor], Any]:
    """For modules that take a batch, or one sample of so many dimensions; then the time steps are the batch."""

    def over_time(module: nn.Module, x: torch.Tensor) -> Any:
        if x.dim() == sample_dims + 1:
            return module(x)
        return merge_time(module, x) if x.dim() == sample_dims + 2 else NotImplemented

    return over_time


def _prelu(module: Any, x: torch.Tensor) -> Any:
    return module(x) if module.num_parameters == 1 else merge_time(module, x)


def _flatten(module: Any, x: torch.Tensor) -> Any:
    start, end = _after_time(module.start_dim, x), _after_time(module.end_dim, x)
    return NotImplemented if start is None or end is None else x.flatten(start, end)


def _unflatten(module: Any, x: torch.Tensor) -> Any:
    dim = _after_time(module.dim, x) if isinstance(module.dim, int) else None
    return NotImplemented if dim is None else x.unflatten(dim, module.unflattened_size)


def _after_time(dim: int, x: torch.Tensor) -> int | None:
    """A dimension of one time step as that of all of them; None where a step has no such dimension."""
    dims = x.dim() - 1
    return dim % dims + 1 if -dims <= dim < dims else None


def _random(module: Any) -> Obstacle | None:
    return Obstacle("random in training") if module.training and getattr(module, "p", 1.0) > 0 else None


def _batch_statistics(module: Any) -> Obstacle | None:
    if module.training or module.running_mean is None:
        return Obstacle("takes the statistics of each step's batch", alone=True)
    return None


def _running_statistics(module: Any) -> Obstacle | None:
    if module.training and module.track_running_stats:
        return Obstacle("updates its running statistics at each step", alone=True)
    return None


def _indices(module: Any) -> Obstacle | None:
    return Obstacle("returns indices too", alone=True) if module.return_indices else None


def _first_dimensions(module: Any) -> Obstacle | None:
    if module.dim is None or module.dim >= 0:
        return Obstacle("its dim may be the batch; negative ones are not", alone=True)
    return None


def _batch_dependent_embedding(module: Any) -> Obstacle | None:
    if module.max_norm is not None or module.scale_grad_by_freq:
        # With max_norm a step changes the weights, which others may share.
        return Obstacle("max_norm or scale_grad_by_freq depend on the batch", alone=module.max_norm is None)
    return None


def _chunks(module: Any) -> Obstacle:
    # Dropout between its layers is all that is random in it.
    return Obstacle("takes a sequence at each step", alone=not (module.training and module.dropout > 0))


def run_cell(cell: SNNCell, x: torch.Tensor, state: Any, kind: str = "all") -> tuple[torch.Tensor, Any]:
    """The outputs of a neuron over time, as bytes if they are asked for, and its last state."""
    if state is None:
        state = cell.state_fallback(x[0])
    neuron = find_fused(SEQUENCES, cell.activation, cell.reset_options)
    assert neuron is not None
    return neuron(x, state, cell.p, cell.dt, sequence=True, kind=kind)


def _run_recurrent_cell(cell: SNNRecurrentCell, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    check_weights(x[0], state, cell.input_weights)
    if state is None:
        state = cell.state_fallback(x[0])
    layer = find_fused(RECURRENT, cell.activation, cell.reset_options)
    assert layer is not None
    return layer(x, state, cell.input_weights, cell._weights_of_step(), cell.p, cell.dt)


def _run_linear_cell(cell: LILinearCell, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    if state is None:
        state = cell.initial_state(x[0])
    check_weights(x[0], state, cell.input_weights)
    return SEQUENCES[li_feed_forward_step](project(cell.input_weights, x), state, cell.p, cell.dt, sequence=True)


def _run_layer(layer: SNN | SNNRecurrent, x: torch.Tensor, state: Any) -> Any:
    if state is None and x.dim() > 1:
        state = layer.state_fallback(x[0])
    return _run_as_one_sequence(layer, x, state)


def _run_as_one_sequence(layer: nn.Module, x: torch.Tensor, state: Any) -> Any:
    """For layers that take the first dimension of each step as their own time: each step continues the one before."""
    if x.dim() < 2:
        return NotImplemented
    output, state = layer(x.flatten(0, 1), state)
    return output.unflatten(0, x.shape[:2]), state


def _run_delay_cell(cell: DelayCell | DelayedLinearCell, x: torch.Tensor, state: Any) -> Any:
    return cell.over_time(x, state)


def _foreign(module: Any) -> Obstacle | None:
    if module.activation in SEQUENCES or module.activation in RECURRENT:
        return None
    return Obstacle("its step function is not one of norse_fast")


def _foreign_or_recording(layer: Any) -> Obstacle | None:
    return Obstacle("records its states") if layer.record_states else _foreign(layer)


def _reducing(layer: SNN) -> Obstacle | None:
    return Obstacle("returns one output for each sequence") if layer.output in REDUCED else _foreign_or_recording(layer)


def _coupled(cell: nn.Module) -> Obstacle:
    return Obstacle("has no form for all time steps", alone=True)


#: How modules run over all time steps, by their exact type, since a subclass may do something else.
RULES: dict[type[nn.Module], Rule] = {}


def _register(rule: Rule, *names: str) -> None:
    RULES.update({getattr(nn, name): rule for name in names})


_register(
    Rule(call_once),
    *(
        "Identity",
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Mish",
        "Sigmoid",
        "LogSigmoid",
        "Tanh",
    ),
    *(
        "Softplus",
        "Softsign",
        "Softshrink",
        "Hardshrink",
        "Hardtanh",
        "Hardsigmoid",
        "Hardswish",
        "Tanhshrink",
        "Threshold",
    ),
)
_register(Rule(_on_last(lambda module: 1)), "Linear")
_register(Rule(_on_last(lambda module: 3)), "PixelShuffle", "PixelUnshuffle")
_register(Rule(_on_last(lambda module: len(module.normalized_shape))), "LayerNorm", "RMSNorm")
for _n in (1, 2, 3):
    _register(Rule(_on_last(lambda module: len(module.padding) // 2)), f"ConstantPad{_n}d", f"ZeroPad{_n}d")
RULES[SpikeLinear] = RULES[nn.Linear]
_register(Rule(_with_or_without_batch(3)), "Softmax2d")
_register(Rule(_on_last(lambda module: -module.dim), _first_dimensions), "Softmax", "LogSoftmax", "Softmin", "GLU")
_register(Rule(call_once, _batch_dependent_embedding), "Embedding")
_register(
    Rule(call_once, _random),
    *("Dropout", "AlphaDropout", "FeatureAlphaDropout", "RReLU"),
)
_register(Rule(_prelu), "PReLU")
_register(Rule(_flatten), "Flatten")
_register(Rule(_unflatten), "Unflatten")
_register(Rule(merge_time), "GroupNorm", "LocalResponseNorm", "ChannelShuffle")
_register(Rule(merge_time), "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")
_register(Rule(merge_time, _batch_statistics), "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
for _n in (1, 2, 3):
    _over_time = _with_or_without_batch(_n + 1)
    _register(Rule(_over_time), f"Conv{_n}d", f"ConvTranspose{_n}d", f"AvgPool{_n}d", f"AdaptiveAvgPool{_n}d")
    _register(Rule(_over_time), f"LPPool{_n}d", f"ReflectionPad{_n}d", f"ReplicationPad{_n}d", f"CircularPad{_n}d")
    _register(Rule(_over_time, _indices), f"MaxPool{_n}d", f"AdaptiveMaxPool{_n}d")
    _register(Rule(_over_time, _running_statistics), f"InstanceNorm{_n}d")
    _register(Rule(_over_time, _random), f"Dropout{_n}d")
RULES[SpikeConv2d], RULES[SpikeMaxPool2d] = RULES[nn.Conv2d], RULES[nn.MaxPool2d]
RULES[SpikeAvgPool2d] = RULES[nn.AvgPool2d]
_register(Rule(call_once, _chunks), "RNN", "LSTM", "GRU")

_OWN_TIME = "takes the first dimension of each step as its own time"
#: By what their forward was when this was imported: subclasses that leave it alone only choose parameters, and whoever
#: replaces it in a class wants to see the calls.
RULES_BY_FORWARD: dict[Callable[..., Any], Rule] = {
    SNNCell.forward: Rule(run_cell, _foreign, "one kernel for all time steps"),
    SNNRecurrentCell.forward: Rule(_run_recurrent_cell, _foreign, "one product for the input of all time steps"),
    LILinearCell.forward: Rule(_run_linear_cell, why="one kernel for all time steps"),
    CoupledCell.forward: Rule(_run_recurrent_cell, _coupled),
    DelayCell.forward: Rule(_run_delay_cell, why="one gather for all time steps"),
    DelayedLinearCell.forward: Rule(_run_delay_cell, why="one convolution for all time steps"),
    Delay.forward: Rule(_run_as_one_sequence, why=_OWN_TIME),
    DelayedLinear.forward: Rule(_run_as_one_sequence, why=_OWN_TIME),
    SNN.forward: Rule(_run_layer, _reducing, _OWN_TIME),
    SNNRecurrent.forward: Rule(_run_layer, _foreign_or_recording, _OWN_TIME),
}
