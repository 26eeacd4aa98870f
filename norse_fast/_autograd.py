"""The one autograd function: gradients of every model through its fused forward and backward operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from ._ops import SEGMENT

if TYPE_CHECKING:
    from ._neuron import Neuron

__all__ = ["Fused"]


def _reduce(grad: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Sum the gradient of one parameter over the lanes that share a value."""
    if param.numel() == 1:
        reduced = grad.sum()
    else:
        # A parameter that varies spans the trailing dimensions, after leading ones of size 1.
        reduced = grad.reshape(-1, param.numel()).sum(0)
    return reduced.reshape(param.shape).to(param)


class Fused(torch.autograd.Function):
    """``apply(neuron, surrogate, dt, sequence, record, input, *state, *params, alpha)``.

    Returns ``(output, *final state, *trace)``. Saves the input, the initial state and the states every SEGMENT steps, which
    is less than a byte per neuron-step; backward recomputes the rest.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, neuron: Neuron, surrogate: int, dt: float, sequence: bool, record: bool, *tensors: torch.Tensor
    ) -> Any:
        ctx.set_materialize_grads(False)
        checkpoint = sequence and tensors[0].shape[0] > SEGMENT
        *results, checkpoints, trace = neuron.forward_op(*tensors[:-1], dt, sequence, checkpoint, record)
        ctx.save_for_backward(*tensors, *checkpoints)
        ctx.arguments = (neuron, surrogate, dt, sequence, record)
        return (*results, *trace)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Any, *grads: Any) -> Any:
        neuron, surrogate, dt, sequence, record = ctx.arguments
        states, params = len(neuron.state), len(neuron.params)
        needs = ctx.needs_input_grad[5:]
        saved = ctx.saved_tensors
        tensors, checkpoints = saved[: 2 + states + params], saved[2 + states + params :]
        grad_trace = grads[states:] if record else ()
        if any(g is not None for g in grad_trace):
            filler = tensors[1].new_zeros(()).expand(tensors[0].shape)
            grad_trace = [filler if g is None else g for g in grad_trace]
        else:
            grad_trace = []
        want_params = True in needs[1 + states : -1]
        grad_input, *results = neuron.backward_op(
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
        grad_state, grad_params = results[:-1], results[-1]
        reduced = [
            _reduce(grad_params[k], tensors[1 + states + k]) if want_params and needs[1 + states + k] else None
            for k in range(params)
        ]
        return (None, None, None, None, None, grad_input if needs[0] else None, *grad_state, *reduced, None)
