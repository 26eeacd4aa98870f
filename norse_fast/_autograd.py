"""The one autograd function: gradients of every model through its fused forward and backward operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ._constants import constant
from ._ops import SEGMENT
from ._outputs import NUMBERS

if TYPE_CHECKING:
    from ._neuron import Neuron

__all__ = ["Fused", "in_transform", "once_only", "reduce_to", "run_fused"]


def in_transform() -> bool:
    """Whether a torch.func transform is running, which demands another form of autograd function."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class Call(NamedTuple):
    """What a step or sequence is run with, besides the tensors that may need gradients."""

    neuron: Neuron
    surrogate: int
    dt: float
    sequence: bool
    record: bool
    output: int
    # Parameters and alpha, where none of them needs a gradient: autograd then has that much less to look after, which
    # is a third of the time of a small step. Their versions tell whether they are still the same in backward.
    constants: tuple[torch.Tensor, ...] = ()
    versions: tuple[int, ...] = ()


def run_fused(
    neuron: Neuron,
    surrogate: int,
    dt: float,
    sequence: bool,
    record: bool,
    output: int,
    tensors: Any,
    params: Any,
    alpha: Any,
) -> Any:
    """``(output, *final state, *trace)`` with gradients; ``tensors`` are the input and the initial state."""
    if not isinstance(alpha, torch.Tensor):
        alpha = constant(float(alpha), torch.float64)
    if torch.compiler.is_compiling():
        return Fused.apply(Call(neuron, surrogate, dt, sequence, record, output), *tensors, *params, alpha)
    if torch._C._are_functorch_transforms_active():
        call = Call(neuron, surrogate, dt, sequence, record, output)
        outputs = TransformableFused.apply(call, *tensors, *params, alpha)
        return outputs[: 1 + len(neuron.state) * (2 if record else 1)]
    for p in params:
        if p.requires_grad:
            return _apply(Call(neuron, surrogate, dt, sequence, record, output), *tensors, *params, alpha)
    constants = (*params, alpha)
    versions = tuple([t._version for t in constants])
    return _apply(Call(neuron, surrogate, dt, sequence, record, output, constants, versions), *tensors)


def _run(call: Call, *tensors: torch.Tensor) -> Any:
    """The outputs ``(output, *final state, *trace)``, and the states every SEGMENT steps, which backward starts from."""
    neuron, _, dt, sequence, record, output, constants, _ = call
    operands = tensors + constants
    checkpoint = sequence and tensors[0].shape[0] > SEGMENT
    *results, checkpoints, trace = neuron.forward_op(*operands[:-1], dt, sequence, checkpoint, record, output)
    return (*results, *trace), checkpoints


def _without_gradient(outputs: Any) -> Any:
    """The output, where it is bytes."""
    return () if outputs[0].is_floating_point() else outputs[:1]


def reduce_to(grad: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Sum the gradient of one parameter over the lanes that share a value."""
    # A parameter that varies spans the trailing dimensions, after leading ones of size 1.
    reduced = grad.sum() if param.numel() == 1 else grad.reshape(-1, param.numel()).sum(0)
    return reduced.reshape(param.shape).to(param)


class _NoSecondDerivative(torch.autograd.Function):
    """Passes gradients on, and says so where somebody differentiates them, instead of giving wrong second derivatives."""

    @staticmethod
    def forward(ctx: Any, results: int, *tensors: Any) -> Any:
        # The other tensors are what the gradients depend on.
        return tuple(None if t is None else t.view_as(t) for t in tensors[:results])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "norse_fast: got a request for second derivatives, expected first derivatives only, because the kernels "
            "compute no others; run the model inside norse_fast.kernels_disabled() to differentiate twice."
        )


def _backward(ctx: Any, grad_output: Any, *grads: Any) -> Any:
    neuron, surrogate, dt, sequence, record, output, constants, versions = ctx.call
    states, params = len(neuron.state), len(neuron.kernel_params)
    needs = ctx.needs_input_grad
    saved = ctx.saved_tensors
    if constants:
        if tuple([t._version for t in constants]) != versions:
            raise RuntimeError(
                "p: got parameters that were modified by an inplace operation since forward, expected them unchanged "
                "until backward; make new tensors instead."
            )
        operands, checkpoints = (*saved[: 1 + states], *constants), saved[1 + states :]
    else:
        operands, checkpoints = saved[: 2 + states + params], saved[2 + states + params :]
    if 0 < output < NUMBERS["sum"]:
        grad_output = None  # torch.compile has zeros for bytes, too
    grad_trace = [g for g in grads[states : 2 * states] if g is not None] if record else []
    if grad_trace and len(grad_trace) < states:
        filler = operands[1].new_zeros(()).expand(operands[0].shape)
        grad_trace = [filler if g is None else g for g in grads[states : 2 * states]]
    want_params = not constants and True in needs[2 + states : -1]
    grad_input, *grad_state, grad_params = neuron.backward_op(
        *operands,
        checkpoints,
        grad_output,
        *grads[:states],
        grad_trace,
        surrogate,
        output,
        dt,
        sequence,
        needs[1],
        want_params,
    )
    found = (None, grad_input if needs[1] else None, *grad_state)
    if constants:
        return found
    reduced = [
        reduce_to(grad_params[k], operands[1 + states + k]) if needs[2 + states + k] else None for k in range(params)
    ]
    return (*found, *reduced, None)


def once_only(backward: Callable[..., Any], ctx: Any, grads: Any) -> Any:
    """``backward(ctx, *grads)``, whose results cannot be differentiated."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or in_transform():
        return backward(ctx, *grads)
    with torch.no_grad():
        results = backward(ctx, *grads)
    return _NoSecondDerivative.apply(len(results), *results, *ctx.saved_tensors)


class Fused(torch.autograd.Function):
    """``apply(call, input, *state)`` or, where parameters may need gradients, ``apply(call, input, *state, *params, alpha)``.

    Returns ``(output, *final state, *trace)``. Saves the input, the initial state and the states every SEGMENT steps,
    which is less than a byte per neuron-step; backward recomputes the rest.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        outputs, checkpoints = _run(call, *tensors)
        ctx.save_for_backward(*tensors, *checkpoints)
        ctx.mark_non_differentiable(*_without_gradient(outputs))
        ctx.call = call
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return once_only(_backward, ctx, grads)


# What Fused.apply comes to outside of torch.compile and torch.func, without its checks for them.
_apply = super(torch.autograd.Function, Fused).apply


class TransformableFused(torch.autograd.Function):
    """:class:`Fused` in the form that torch.func demands, which takes longer to call: what is saved must be an output."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor) -> Any:
        outputs, checkpoints = _run(call, *tensors)
        return (*outputs, *checkpoints)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.call, *tensors = inputs
        checkpoints = output[1 + len(ctx.call.neuron.state) * (2 if ctx.call.record else 1) :]
        ctx.save_for_backward(*tensors, *checkpoints)
        ctx.mark_non_differentiable(*checkpoints, *_without_gradient(output))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, *grads)
