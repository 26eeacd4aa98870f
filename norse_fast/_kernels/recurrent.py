"""Recurrent layers: one step, and all steps in one operator.

The input projection is one matrix product for all steps. The rest is :class:`FusedRecurrence`, or where there are no
kernels for it, one step after another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch.utils import _pytree as pytree

from .._constants import HALF
from ..functional._surrogate import Derivative, in_batch_of, wide
from ..functional.threshold import by_alpha
from .autograd import beyond_kernels, dense, pull_back, tracked, wants_more
from .checks import as_dt, check_dt, check_tensor, is_autocast
from .extension import has_kernels
from .neuron import Neuron, descend, spike_function
from .ops import KEEP, KEEP_COMPILED, RECURRENT_SEGMENT
from .reset import Reset, Variants
from .segments import differentiate_in_segments, has_part_of_python, outside_of_graphs, reduce_to
from .weights import check_weights, project, project_spikes, reject_state

__all__ = ["RECURRENT", "Recurrent", "stack_states"]


def stack_states(states: list[Any]) -> Any:
    """Stack every tensor of a list of equal (nested) state tuples over time."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *states)


class Call(NamedTuple):
    """What a sequence is run with, besides the tensors that may need gradients."""

    layer: Recurrent
    surrogate: int | Derivative
    dt: float
    record: bool
    checkpoint: int


class FusedRecurrence(torch.autograd.Function):
    """``apply(call, x, input_weights, z, *state, recurrent_weights, *params, alpha)``.

    Returns ``(output, z, *final state, *trace, *checkpoints)``. Without input weights, ``x`` are the projected currents.
    Saves the input, the output and a few states; backward computes the rest again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Call, x: torch.Tensor, input_weights: Any, z: torch.Tensor, *rest: torch.Tensor) -> Any:
        output, *final, checkpoints, trace = call.layer.neuron.recurrent_forward_op(
            x, input_weights, z, *rest[:-1], call.dt, call.checkpoint, call.record
        )
        return (output, output[-1].clone(), *final, *trace, *checkpoints)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, outputs: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.call, *tensors = inputs
        checkpoints = outputs[ctx.call.layer.result_count(ctx.call.record) :]
        ctx.save_for_backward(*tensors, outputs[0], *checkpoints)
        ctx.mark_non_differentiable(*checkpoints)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        layer, surrogate, dt, record, _ = ctx.call
        states, params = len(layer.neuron.state), len(layer.neuron.kernel_params)
        given = dense(grads[: layer.result_count(record)])
        saved = ctx.saved_tensors  # once, which is all that torch.utils.checkpoint allows
        operands, (output, *checkpoints) = saved[: states + params + 5], saved[states + params + 5 :]
        wanted = ctx.needs_input_grad[1:]
        if wants_more(given, operands):

            def run(*operands: Any) -> Any:
                return layer.run_in_pytorch(*operands, surrogate=surrogate, dt=dt, record=record)

            want_alpha = wanted[-1] and by_alpha(surrogate) is not None
            return None, *pull_back(run, operands, (*wanted[:-1], want_alpha), given)
        grad_output, grad_z, *grad_states = given
        grad_trace: list[Any] = [g for g in grad_states[states:] if g is not None]
        if grad_trace:
            zero = output.new_zeros(()).expand(output.shape)
            grad_trace = [zero if g is None else g for g in grad_states[states:]]
        want_params = True in wanted[states + 4 : -1]
        needs = (*wanted[:3], wanted[states + 3], want_params)
        gradients = (grad_output, grad_z, *grad_states[:states])
        grad_alpha: torch.Tensor | None = None
        if has_part_of_python(surrogate, wanted[-1]):
            (*found, grad_params), grad_alpha = _backward_in_segments(
                ctx.call, operands, output, checkpoints, gradients, grad_trace, needs, wanted[-1]
            )
        else:
            *found, grad_params, _ = layer.neuron.recurrent_backward_op(
                *operands, output, checkpoints, *gradients, grad_trace, surrogate, dt, *needs, [], 0
            )
        result = [g if want else None for g, want in zip(found, wanted)]
        for k in range(states + 4, states + 4 + params):
            result.append(reduce_to(grad_params[k - states - 4], operands[k]) if wanted[k] else None)
        return None, *result, grad_alpha


def _run_fused(call: Call, *operands: Any) -> Any:
    return FusedRecurrence.apply(call, *operands)


def _backward_in_segments(
    call: Call,
    operands: Sequence[Any],
    output: torch.Tensor,
    checkpoints: Sequence[torch.Tensor],
    grads: Sequence[Any],
    grad_trace: Sequence[torch.Tensor],
    needs: Sequence[bool],
    want_alpha: bool,
) -> tuple[list[Any], torch.Tensor | None]:
    """What the operator returns but for the last, and the gradient of alpha."""
    layer, surrogate, dt, _, _ = call
    states = len(layer.neuron.state)
    x, input_weights, z, *state = operands[: 3 + states]
    number = 0 if callable(surrogate) else surrogate

    def arguments(first: int, last: int, later: Any) -> tuple[Any, ...]:
        before = [z, *state]
        if first:
            before = [output[first - 1], *(c[first // RECURRENT_SEGMENT - 1] for c in checkpoints)]
        grad_output, *rest = grads
        grad_output = grad_output if grad_output is None else grad_output[first:last]
        if later is not None:
            rest = later[2 : 3 + states]
        own = (x[first:last], input_weights, *before, *operands[3 + states :], output[first:last], [])
        return (*own, grad_output, *rest, [g[first:last] for g in grad_trace], number, dt)

    def wanted(first: int) -> tuple[bool, ...]:
        return (*needs[:2], needs[2] or first > 0, *needs[3:])

    return differentiate_in_segments(
        layer.neuron.recurrent_backward_op, arguments, wanted, (1, states + 3, states + 4), x.shape[0],
        RECURRENT_SEGMENT, surrogate, operands[-1], want_alpha,
    )  # fmt: skip


class Recurrent:
    """A recurrent layer.

    Args:
        neuron: the neurons; the layer's state has all of their state variables.
        pack: builds the layer's state tuple from the new spikes and the state variables.
        receivers: the state variables that take the currents, one for each channel of the weights.
        arrival: when input ``x`` and recurrent current ``r`` join: ``"before"`` the step, as ``(i + x) + r`` for the
            receiver ``i``; ``"with"`` it, as its input ``x + r``; or ``"after"`` it, as ``(i + x) + r``.
        spikes: the dotted field of the layer's state with the spikes of the last step.
        prepare: makes of each weight matrix that of all channels; once for all steps.
        sparse: whether output and spikes are sparse tensors.
    """

    def __init__(
        self,
        neuron: Neuron,
        pack: Callable[..., Any],
        receivers: tuple[str, ...] = ("i",),
        arrival: Literal["before", "with", "after"] = "before",
        spikes: str = "z",
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        sparse: bool = False,
    ) -> None:
        self.neuron, self.pack, self.arrival, self.spikes, self.prepare = neuron, pack, arrival, spikes, prepare
        self.sparse = sparse
        self.receivers = [neuron.state.index(name) for name in receivers] if arrival != "with" else []
        self.variants = Variants(self._with_reset)
        self.variants.update({reset: self._with_reset(reset) for reset in neuron.variants if reset != neuron.reset})
        self.variants[neuron.reset] = self

    @property
    def reset(self) -> Reset | None:
        """That of its neurons."""
        return self.neuron.reset

    def _with_reset(self, reset: Reset) -> Recurrent:
        layer = copy.copy(self)
        layer.neuron = self.neuron.variants[reset]
        return layer

    def one_step(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
    ) -> tuple[torch.Tensor, Any]:
        """Run one step, from the input before its projection."""
        input_weights, recurrent_weights = self._check_weights(input, state, input_weights, recurrent_weights)
        projected = project(input_weights, input)
        # As the kernels do, which add up in float32 at least.
        weights = wide(recurrent_weights)
        z, values = self._read_state(state)
        for k in self.receivers:
            # The neuron sees them only with the currents. Nearly always they are as the spikes, which are checked.
            value = values[k]
            if (
                type(value) is not torch.Tensor
                or value.shape != z.shape
                or value.layout is not torch.strided
                or value.device != z.device
            ):
                shape = torch.Size((*input.shape[:-1], weights.shape[-1]))
                fit = self.neuron.as_state(f"state.{self.neuron.state[k]}", value, projected, shape)
                values = (*values[:k], fit, *values[k + 1 :])
        # To ask first takes less time than a conversion to the same dtype.
        recurrent = project_spikes(weights, z if z.dtype == weights.dtype else z.to(weights.dtype))
        if projected.dtype != recurrent.dtype:  # in half precision, or under autocast
            projected = projected.to(recurrent.dtype)

        def step(x: torch.Tensor, values: Any) -> Any:
            z, packed = self.neuron(x, self.neuron.pack(*values), p, dt)
            return z, self.neuron.read_state(packed)

        z, values = self._advance(projected, recurrent, values, step)
        storage = input.dtype if input.is_floating_point() else input_weights.dtype
        z = z.to(storage) if storage in HALF else z
        z = z.to_sparse() if self.sparse else z
        return z, self.pack(z, *values)

    def __call__(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
        record: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """Run all steps along the first dimension of the input.

        Returns:
            The outputs of all steps, and the last state, or with ``record`` the states of all steps.
        """
        if input.dim() < 2 or input.shape[0] == 0:
            raise ValueError(
                f"input: got shape {tuple(input.shape)}, expected (T, ..., inputs) with T of 1 or more; "
                "put time in the first dimension."
            )
        input_weights, recurrent_weights = self._check_weights(input, state, input_weights, recurrent_weights, True)
        dt = as_dt(dt)
        neuron = self.neuron
        z, _ = self._read_state(state)
        shape = (*input.shape[1:-1], recurrent_weights.shape[-1])
        storage = input.dtype if input.is_floating_point() else input_weights.dtype
        check_dt(dt, input.device, torch.Size(shape))
        example = input_weights.new_zeros((), dtype=storage).expand(shape)
        surrogate, example, values, params, alpha = neuron.prepare(example, state, p, dt)
        storage, dtype = example.dtype, values[0].dtype
        z = neuron.as_state(f"state.{self.spikes}", z, example, example.shape).to(dtype).expand(shape)
        weights = recurrent_weights.to(dtype)
        fused = (
            self.is_fused(input.device.type)
            and not isinstance(dt, torch.Tensor)
            and not beyond_kernels((input, input_weights, z, *values, weights, *params, alpha))
        )
        x, own_weights = input, cast(Any, input_weights)
        plain = input.layout is torch.strided and input.dtype == dtype
        if not fused or not plain or is_autocast(input.device.type):
            x, own_weights = project(input_weights, input).to(dtype), None
        operands = tuple(map(tracked, (in_batch_of(alpha, x), own_weights, z, *values, weights, *params, alpha)))
        if fused:
            # In torch.compile whatever the length, so that one graph serves all.
            keep = KEEP_COMPILED if torch.compiler.is_compiling() else KEEP if x.shape[0] > RECURRENT_SEGMENT else 0
            call = Call(self, surrogate, dt, record, keep if torch.is_grad_enabled() else 0)
            if not torch.compiler.is_compiling():
                results = _run_fused(call, *operands)
            elif not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in operands):
                results = FusedRecurrence.forward(call, *operands)  # of apply, torch.compile knows only the other case
            elif has_part_of_python(surrogate, alpha.requires_grad):
                results = outside_of_graphs(_run_fused, call, *operands)
            else:
                results = _run_fused(call, *operands)
        else:
            results = self.run_in_pytorch(*operands, surrogate=surrogate, dt=dt, record=record)
        output, z = (t.to(storage).to_sparse() if self.sparse else t.to(storage) for t in results[:2])
        states = results[2 : self.result_count(record)]
        if record:
            # Its own spikes, since output may be changed in place.
            return output, self.pack(output.clone(), *states[len(values) :])
        return output, self.pack(z, *states)

    def result_count(self, record: bool) -> int:
        """How many results a sequence has: output, last spikes, last states, and the states of all steps with ``record``."""
        return 2 + len(self.neuron.state) * (2 if record else 1)

    def _check_weights(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        sequence: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of all channels, if those given fit."""
        if recurrent_weights is None:
            check_tensor("recurrent_weights", recurrent_weights)
        input_weights, recurrent_weights = check_weights(
            input, state, input_weights, recurrent_weights, self.spikes, sequence
        )
        if self.prepare is None:
            return input_weights, recurrent_weights
        return self.prepare(input_weights), self.prepare(recurrent_weights)

    def run_in_pytorch(
        self,
        x: torch.Tensor,
        input_weights: torch.Tensor | None,
        z: torch.Tensor,
        *operands: Any,
        surrogate: int | Derivative,
        dt: Any,
        record: bool,
    ) -> tuple[torch.Tensor, ...]:
        """What the kernels do, one step after another, with dense products, from PyTorch's own operators."""
        count = len(self.neuron.state)
        values: tuple[torch.Tensor, ...] = operands[:count]
        recurrent_weights, params, alpha = operands[count], operands[count + 1 : -1], operands[-1]
        params = tuple(p.to(x.device) for p in params)
        spike = spike_function(surrogate, alpha)

        def step(x: torch.Tensor, values: Any) -> Any:
            return self.neuron.step(x, values, params, spike, dt)

        outputs, states = [], []
        for projected in (x if input_weights is None else project(input_weights, x)).unbind(0):
            z, values = self._advance(
                projected, project_spikes(recurrent_weights, z.to(recurrent_weights.dtype)), values, step
            )
            outputs.append(z)
            states.append(values)
        trace = [torch.stack(s) for s in zip(*states)] if record else []
        return (torch.stack(outputs), z, *values, *trace)

    def is_fused(self, device_type: str) -> bool:
        """Whether sequences run as one operator on this type of device."""
        return self.neuron.name is not None and has_kernels(device_type)

    def _read_state(self, state: Any) -> tuple[torch.Tensor, tuple[Any, ...]]:
        try:
            z, values = descend(state, self.spikes), self.neuron.read_state(state)
        except AttributeError:
            reject_state(state, f"the fields {', '.join((self.spikes, *self.neuron.state))}")
        return z, values

    def _advance(
        self,
        projected: torch.Tensor,
        recurrent: torch.Tensor,
        values: tuple[Any, ...],
        step: Callable[[torch.Tensor, Any], Any],
    ) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """One ``step`` of the neurons, with the currents that join them before, with or after it."""
        before = list(values)
        # Input first, recurrent spikes second: the reference's order of rounding.
        if self.arrival == "with":
            x = projected + recurrent
        elif self.arrival == "after":
            x = projected
        elif len(self.receivers) == 1:
            before[self.receivers[0]] = before[self.receivers[0]] + projected
            x = recurrent
        else:
            channels = len(self.receivers)
            for k, current, own in zip(self.receivers, projected.chunk(channels, -1), recurrent.chunk(channels, -1)):
                before[k] = before[k] + current + own
            x = projected.new_zeros(()).expand(before[self.receivers[0]].shape)
        if recurrent.shape[:-1] != projected.shape[:-1]:  # spikes of one row for all
            x = x.expand(*projected.shape[:-1], x.shape[-1])
        z, after = step(x, before)
        if self.arrival == "after":
            after = list(after)
            after[self.receivers[0]] = after[self.receivers[0]] + recurrent
        return z, tuple(after)


#: The layer behind each public recurrent step function.
RECURRENT: dict[Callable[..., Any], Recurrent] = {}
