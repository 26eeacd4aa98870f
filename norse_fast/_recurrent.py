"""Recurrent layers: one step, and all steps in one operator.

The input projection is one matrix product for all steps. The rest is :class:`FusedRecurrence`, or where there are no
kernels for it, one step after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn, cast

import torch
from torch.utils import _pytree as pytree

from ._autograd import once_only, reduce_to
from ._extension import has_kernels
from ._neuron import Neuron, check_broadcast, descend, reject_quantized
from ._ops import RECURRENT_SEGMENT

__all__ = ["RECURRENT", "Recurrent", "check_weights", "project", "stack_states"]


def project(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What arrives through weights, ``weights @ x`` for each ``x`` of a batch, which may be sparse."""
    if x.is_sparse:
        return torch.sparse.mm(x, weights.t())
    return torch.nn.functional.linear(x, weights)


def project_all(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """:func:`project` for all time steps of ``x``, in one product."""
    if not x.is_sparse:
        return torch.nn.functional.linear(x, weights)
    x = x.coalesce()
    *leading, inputs = x.shape
    row = x.indices().new_zeros(x.indices().shape[1])
    for size, index in zip(leading, x.indices()):
        row = row * size + index
    flat = torch.sparse_coo_tensor(
        torch.stack((row, x.indices()[-1])),
        x.values(),
        (math.prod(leading), inputs),
        is_coalesced=True,
        check_invariants=False,
    )
    return torch.sparse.mm(flat, weights.t()).reshape(*leading, -1)


def check_weights(
    input: Any,
    state: Any,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor | None = None,
    spikes: str = "z",
    sequence: bool = False,
) -> None:
    """Raise if the input, the spikes of the state (its dotted field ``spikes``) and the weights do not fit together.

    With ``sequence``, the first dimension of the input is time.

    Raises:
        TypeError: the input is not a tensor, or the state has no spikes.
        ValueError: a width differs, or the state is that of another batch.
    """
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"input: got {type(input).__name__}, expected a tensor; convert it with torch.as_tensor.")
    reject_quantized("input", input)
    hidden, width = input_weights.shape
    if input.dim() == 0 or input.shape[-1] != width:
        got = "a 0-dim tensor" if input.dim() == 0 else f"{input.shape[-1]} features in shape {tuple(input.shape)}"
        raise ValueError(
            f"input: got {got}, expected {width}, the width of input_weights {tuple(input_weights.shape)}; "
            "the last dimension of the input must be the features."
        )
    if recurrent_weights is None:
        return
    if tuple(recurrent_weights.shape) != (hidden, hidden):
        raise ValueError(
            f"recurrent_weights: got shape {tuple(recurrent_weights.shape)}, expected {(hidden, hidden)}, because "
            f"input_weights has shape {tuple(input_weights.shape)}; pass one row and column per neuron."
        )
    try:
        z = descend(state, spikes)
    except AttributeError:
        z = None
    if not isinstance(z, torch.Tensor):
        _reject_state(state, f"a tensor field {spikes}, the spikes of the last step")
    reject_quantized(f"state.{spikes}", z)
    if z.dim() == 0 or z.shape[-1] != hidden:
        raise ValueError(
            f"state.{spikes}: got shape {tuple(z.shape)}, expected (..., {hidden}), one spike per neuron; "
            "a state cannot be carried over to a layer of another size."
        )
    shape = torch.Size((*input.shape[1 if sequence else 0 : -1], hidden))
    if z.shape != shape:
        check_broadcast(f"state.{spikes}", z, shape, "the state of an input of another shape cannot be carried over")


def _reject_state(state: Any, expected: str) -> NoReturn:
    raise TypeError(
        f"state: got {type(state).__name__}, expected a tuple with {expected}; pass the state that the last step "
        "returned, or None to a module."
    ) from None


def stack_states(states: list[Any]) -> Any:
    """Stack every tensor of a list of equal (nested) state tuples over time."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *states)


class Call(NamedTuple):
    """What a sequence is run with, besides the tensors that may need gradients."""

    neuron: Neuron
    surrogate: int
    dt: float
    record: bool
    checkpoint: bool


class FusedRecurrence(torch.autograd.Function):
    """``apply(call, x, input_weights, z, *state, recurrent_weights, *params, alpha)``.

    Returns ``(output, z, *final state, *trace, *checkpoints)``. Without input weights, ``x`` are the projected currents.
    Saves the input, the output and a few states; backward computes the rest again.
    """

    @staticmethod
    def forward(call: Call, x: torch.Tensor, input_weights: Any, z: torch.Tensor, *rest: torch.Tensor) -> Any:
        output, *final, checkpoints, trace = call.neuron.recurrent_forward_op(
            x, input_weights, z, *rest[:-1], call.dt, call.checkpoint, call.record
        )
        return (output, output[-1].clone(), *final, *trace, *checkpoints)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, outputs: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.call, *tensors = inputs
        checkpoints = outputs[2 + len(ctx.call.neuron.state) * (2 if ctx.call.record else 1) :]
        ctx.save_for_backward(*tensors, outputs[0], *checkpoints)
        ctx.mark_non_differentiable(*checkpoints)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return once_only(_backward, ctx, grads)


def _backward(ctx: Any, grad_output: Any, grad_z: Any, *grads: Any) -> Any:
    neuron, surrogate, dt, record, _ = ctx.call
    states, params = len(neuron.state), len(neuron.kernel_params)
    x, input_weights, z, *rest = ctx.saved_tensors
    operands, (output, *checkpoints) = rest[: states + params + 2], rest[states + params + 2 :]
    recurrent_weights = operands[states]
    _, needs_x, needs_input_weights, needs_z, *needs = ctx.needs_input_grad
    grad_trace = [g for g in grads[states : 2 * states] if g is not None] if record else []
    if grad_trace:
        zero = z.new_zeros(()).expand(output.shape)
        grad_trace = [zero if g is None else g for g in grads[states : 2 * states]]

    want_params = True in needs[states + 1 : -1]
    grad_x = x.new_empty(x.shape) if needs_x else None
    grad_input_weights = x.new_zeros(input_weights.shape) if needs_input_weights else None
    grad_recurrent_weights = x.new_zeros(recurrent_weights.shape) if needs[states] else None
    grad_params: Any = None
    # A part of the steps after the other, so that few of the currents' gradients are in memory at once.
    steps = x.shape[0]
    length = _part_length(steps, x.device.type)
    for first in reversed(range(0, steps, length)):
        last, segment = min(first + length, steps), first // RECURRENT_SEGMENT
        part_z, part_states = (
            (z, operands[:states]) if first == 0 else (output[first - 1], [c[segment - 1] for c in checkpoints])
        )
        kept = slice(segment, segment + (last - first - 1) // RECURRENT_SEGMENT)
        grad_currents, *grad_state, part_params = neuron.recurrent_backward_op(
            x[first:last], input_weights, part_z, *part_states, *operands[states:], output[first:last],
            [c[kept] for c in checkpoints], None if grad_output is None else grad_output[first:last], grad_z,
            *grads[:states], [g[first:last] for g in grad_trace], surrogate, dt, want_params,
        )  # fmt: skip
        grads = grad_state
        flat = grad_currents.reshape(-1, grad_currents.shape[-1])
        batch = flat.shape[0] // (last - first)
        if needs_z or first > 0:
            grad_z = z.new_empty(z.shape)
            _product(grad_z, flat[:batch], recurrent_weights)
        if grad_x is not None and input_weights is None:
            grad_x[first:last] = grad_currents
        elif grad_x is not None:
            _product(grad_x[first:last], flat, input_weights)
        if grad_input_weights is not None:
            _add_spike_product(grad_input_weights, x[first:last], flat)
        if grad_recurrent_weights is not None:
            if first == 0:
                _add_spike_product(grad_recurrent_weights, z, flat[:batch])
            _add_spike_product(
                grad_recurrent_weights, output[max(first - 1, 0) : last - 1], flat[0 if first else batch :]
            )
        if want_params:
            grad_params = part_params if grad_params is None else grad_params + part_params
        del grad_currents, flat  # before the next part needs as much
    found = [None, grad_x, grad_input_weights, grad_z if needs_z else None, *grads, grad_recurrent_weights]
    found += [None] * (params + 1)
    for k in range(params):
        if needs[states + 1 + k]:
            found[5 + states + k] = reduce_to(grad_params[k], operands[states + 1 + k])
    return tuple(found)


def _part_length(steps: int, device_type: str) -> int:
    """Steps that go back at once: few, to save memory; more where each part costs launches."""
    return RECURRENT_SEGMENT * (1 if device_type == "cpu" else max(4, -(-steps // (8 * RECURRENT_SEGMENT))))


def _product(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Write ``a @ b`` to ``out``, which has the leading dimensions of what ``a`` is a view of."""
    torch.ops.norse_fast.product.default(out.view(a.shape[0], b.shape[1]), a, b)


def _add_spike_product(sum: torch.Tensor, x: torch.Tensor, grads: torch.Tensor) -> None:
    """Add ``grads.T @ x`` over all steps and rows of the batch, quick where x is spikes, and few."""
    torch.ops.norse_fast.add_spike_product.default(sum, x.reshape(-1, x.shape[-1]), grads)


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
        return self._step(project(input_weights, input), state, recurrent_weights, p, dt)

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
        if self.is_fused(input.device.type):
            return self._run_fused(input, state, input_weights, recurrent_weights, p, dt, record)
        return self.run_steps(input, state, input_weights, recurrent_weights, p, dt, record)

    def _check_weights(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        sequence: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of all channels, if those given fit."""
        check_weights(input, state, input_weights, recurrent_weights, self.spikes, sequence)
        if self.prepare is None:
            return input_weights, recurrent_weights
        return self.prepare(input_weights), self.prepare(recurrent_weights)

    def run_steps(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
        record: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """The same one step after another, with dense products; with weights of all channels."""
        outputs, states = [], []
        for projected in project_all(input_weights, input).unbind(0):
            output, state = self._step(projected, state, recurrent_weights, p, dt)
            outputs.append(output)
            if record:
                states.append(state)
        return torch.stack(outputs), stack_states(states) if record else state

    def is_fused(self, device_type: str) -> bool:
        """Whether sequences run as one operator on this type of device."""
        return self.neuron.name is not None and has_kernels(device_type)

    def _read_state(self, state: Any) -> tuple[torch.Tensor, tuple[Any, ...]]:
        try:
            z, values = descend(state, self.spikes), self.neuron.read_state(state)
        except AttributeError:
            _reject_state(state, f"the fields {', '.join((self.spikes, *self.neuron.state))}")
        return z, values

    def _step(
        self, projected: torch.Tensor, state: Any, recurrent_weights: torch.Tensor, p: Any, dt: float
    ) -> tuple[torch.Tensor, Any]:
        z, values = self._read_state(state)
        recurrent = project(recurrent_weights, z)
        before = list(values)
        # Input first, recurrent spikes second: the reference's order of rounding.
        if self.arrival == "with":
            x = projected + recurrent
        elif self.arrival == "after":
            x = projected
        elif len(self.receivers) == 1:
            before[self.receivers[0]] = before[self.receivers[0]] + projected
            x = recurrent.expand(projected.shape)
        else:
            channels = len(self.receivers)
            for k, current, own in zip(self.receivers, projected.chunk(channels, -1), recurrent.chunk(channels, -1)):
                before[k] = before[k] + current + own
            x = projected.new_zeros(()).expand(before[self.receivers[0]].shape)
        z, packed = self.neuron(x, self.neuron.pack(*before), p, dt)
        after = list(self.neuron.read_state(packed))
        if self.arrival == "after":
            after[self.receivers[0]] = after[self.receivers[0]] + recurrent
        z = z.to_sparse() if self.sparse else z
        return z, self.pack(z, *after)

    def _run_fused(
        self,
        input: torch.Tensor,
        state: Any,
        input_weights: torch.Tensor,
        recurrent_weights: torch.Tensor,
        p: Any,
        dt: float,
        record: bool,
    ) -> tuple[torch.Tensor, Any]:
        neuron = self.neuron
        z, _ = self._read_state(state)
        shape = (*input.shape[1:-1], recurrent_weights.shape[-1])
        example = input_weights.new_zeros(()).to(input.dtype).expand(shape)
        surrogate, _, values, params, alpha = neuron.prepare(example, state, p, dt)
        dtype = values[0].dtype
        z = neuron.as_state(f"state.{self.spikes}", z, example, example.shape).to(dtype).expand(shape)
        storage, states = input.dtype, len(values)
        x, weights = input, cast(Any, input_weights)
        if input.is_sparse or storage != dtype or torch.is_autocast_enabled(input.device.type):
            x, weights = project_all(input_weights, input).to(dtype), None
        call = Call(neuron, surrogate, dt, record, x.shape[0] > RECURRENT_SEGMENT and torch.is_grad_enabled())
        recurrent_weights = recurrent_weights.to(dtype)
        outputs = FusedRecurrence.apply(call, x, weights, z, *values, recurrent_weights, *params, alpha)
        output, z = (t.to(storage).to_sparse() if self.sparse else t.to(storage) for t in outputs[:2])
        if record:
            return output, self.pack(output, *outputs[2 + states : 2 + 2 * states])
        return output, self.pack(z, *outputs[2 : 2 + states])


#: The layer behind each public recurrent step function.
RECURRENT: dict[Callable[..., Any], Recurrent] = {}
