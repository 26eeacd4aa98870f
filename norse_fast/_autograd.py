"""The one autograd function: gradients of every model through its fused forward and backward operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ._ops import SEGMENT

if TYPE_CHECKING:
    from ._neuron import Neuron

__all__ = ["Fused", "TransformableFused", "in_transform"]


def in_transform() -> bool:
    """Whether a torch.func transform is running, which demands another form of autograd function."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _run(neuron: Neuron, surrogate: int, dt: float, sequence: bool, record: bool, *tensors: torch.Tensor) -> Any:
    """The outputs ``(output, *final state, *trace)``, and the states every SEGMENT steps, which backward starts from."""
    checkpoint = sequence and tensors[0].shape[0] > SEGMENT
    *results, checkpoints, trace = neuron.forward_op(*tensors[:-1], dt, sequence, checkpoint, record)
    return (*results, *trace), checkpoints


def _reduce(grad: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Sum the gradient of one parameter over the lanes that share a value."""
    # A parameter that varies spans the trailing dimensions, after leading ones of size 1.
    reduced = grad.sum() if param.numel() == 1 else grad.reshape(-1, param.numel()).sum(0)
    return reduced.reshape(param.shape).to(param)


class _NoSecondDerivative(torch.autograd.Function):
    """Passes gradients on, and says so where somebody differentiates them, instead of giving wrong second derivatives."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *grads: Any) -> Any:
        return tuple(None if g is None else g.view_as(g) for g in grads)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "norse_fast: got a request for second derivatives, expected first derivatives only, because the kernels "
            "compute no others; run the model inside norse_fast.kernels_disabled() to differentiate twice."
        )


def _backward(ctx: Any, grad_output: Any, *grads: Any) -> Any:
    neuron, surrogate, dt, sequence, record = ctx.arguments
    states, params = len(neuron.state), len(neuron.params)
    needs = ctx.needs_input_grad[5:]
    saved = ctx.saved_tensors
    tensors, checkpoints = saved[: 2 + states + params], saved[2 + states + params :]
    grad_trace = list(grads[states : 2 * states]) if record else []
    if all(g is None for g in grad_trace):
        grad_trace = []
    elif None in grad_trace:
        filler = tensors[1].new_zeros(()).expand(tensors[0].shape)
        grad_trace = [filler if g is None else g for g in grad_trace]
    want_params = True in needs[1 + states : -1]
    grad_input, *grad_state, grad_params = neuron.backward_op(
        *tensors,
        checkpoints,
        grad_output,
        *grads[:states],
        grad_trace,
        surrogate,
        dt,
        sequence,
        needs[0],
        want_params,
    )
    reduced = [
        _reduce(grad_params[k], tensors[1 + states + k]) if needs[1 + states + k] else None for k in range(params)
    ]
    return (None, None, None, None, None, grad_input if needs[0] else None, *grad_state, *reduced, None)


class Fused(torch.autograd.Function):
    """``apply(neuron, surrogate, dt, sequence, record, input, *state, *params, alpha)``.

    Returns ``(output, *final state, *trace)``. Saves the input, the initial state and the states every SEGMENT steps, which
    is less than a byte per neuron-step; backward recomputes the rest.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.set_materialize_grads(False)
        outputs, checkpoints = _run(*args)
        ctx.save_for_backward(*args[5:], *checkpoints)
        ctx.arguments = args[:5]
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _backward(ctx, *grads)
        with torch.no_grad():
            results = _backward(ctx, *grads)
        return _NoSecondDerivative.apply(torch.zeros((), requires_grad=True), *results)


class TransformableFused(torch.autograd.Function):
    """:class:`Fused` in the form that torch.func demands, which takes longer to call: what is saved must be an output."""

    @staticmethod
    def forward(*args: Any) -> Any:
        outputs, checkpoints = _run(*args)
        return (*outputs, *checkpoints)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        neuron, record = inputs[0], inputs[4]
        checkpoints = output[1 + len(neuron.state) * (2 if record else 1) :]
        ctx.save_for_backward(*inputs[5:], *checkpoints)
        ctx.mark_non_differentiable(*checkpoints)
        ctx.arguments = inputs[:5]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, *grads)
