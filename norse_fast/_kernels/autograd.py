"""The one autograd function: gradients of every model through its fused forward and backward operators.

The kernels compute first derivatives, backwards, also within and of torch.func.vmap. Whatever else is asked for, forward
mode, derivatives of derivatives, PyTorch's own operators do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd import forward_ad

from ..functional._surrogate import in_batch_of, leave_graph_in_transforms
from ..functional.threshold import by_alpha
from .extension import kernels_disabled, set_differentiate
from .ops import KEEP, KEEP_COMPILED, SEGMENT
from .outputs import NUMBERS
from .segments import differentiate_in_segments, has_part_of_python, outside_of_graphs, reduce_to

if TYPE_CHECKING:
    from ..functional._surrogate import Derivative
    from .neuron import Neuron

__all__ = [
    "NEURONS",
    "Fused",
    "beyond_kernels",
    "dense",
    "has_tangent",
    "in_transform",
    "needs_gradient",
    "pull_back",
    "run_fused",
    "tracked",
    "wants_more",
]

_functorch = torch._C._functorch


def in_transform() -> bool:
    """Whether a torch.func transform is running, which demands another form of autograd function."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def tracked(value: Any) -> Any:
    """A value that autograd can save, if it is to: a copy of a tensor that was made in inference mode."""
    # torch.compile does not look at it. In inference mode gradients are disabled.
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return value
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


def _levels_of(t: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor, and what it is at each of the levels of torch.func beneath its own."""
    yield t
    while _functorch.is_functorch_wrapped_tensor(t):
        t = _functorch.get_unwrapped(t)
        yield t


def needs_gradient(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether one of these tensors needs a gradient, at any level of torch.func."""
    if in_transform():  # where one of a batch does not tell
        return any(part.requires_grad for t in tensors for part in _levels_of(t))
    return any([t.requires_grad for t in tensors])


def _is_followed(t: Any) -> bool:
    """Whether a tensor, beneath all levels of torch.func, is differentiated further."""
    if not isinstance(t, torch.Tensor):
        return False
    *_, t = _levels_of(t)
    return t.requires_grad or has_tangent(t) or _is_legacy_batch(t)


def _derivatives() -> list[Any]:
    """The levels of torch.func that take derivatives."""
    return [x for x in _functorch.get_interpreter_stack() or () if x.key() != _functorch.TransformType.Vmap]


def _are_backward(derivatives: Sequence[Any]) -> bool:
    """Whether levels take no other derivative than the kernels have: one, backwards."""
    return not derivatives or (len(derivatives) == 1 and derivatives[0].key() == _functorch.TransformType.Grad)


def has_tangent(t: Any) -> bool:
    """Whether a derivative in forward mode flows through a tensor."""
    if forward_ad._current_level < 0 or not isinstance(t, torch.Tensor):
        return False
    return forward_ad.unpack_dual(t).tangent is not None


def beyond_kernels(tensors: Iterable[Any]) -> bool:
    """Whether a call with these, some of them numbers, may be differentiated in ways that the kernels cannot."""
    if torch.compiler.is_compiling():
        leave_graph_in_transforms()
        return False
    if not in_transform():
        return forward_ad._current_level >= 0 and any(has_tangent(t) for t in tensors)
    derivatives = _derivatives()
    if not _are_backward(derivatives):
        return True
    bases = [base for *_, base in (_levels_of(t) for t in tensors if isinstance(t, torch.Tensor))]
    return any(has_tangent(t) or _is_legacy_batch(t) or (derivatives and t.requires_grad) for t in bases)


def wants_more(grads: Iterable[Any], saved: Sequence[torch.Tensor] = ()) -> bool:
    """Whether, in a backward pass, these gradients come in batches or will be differentiated themselves.

    Args:
        grads: the gradients of the outputs, some of them None.
        saved: what the forward pass saved, which tells at which level of torch.func it ran; none where it runs at none.
    """
    if torch.compiler.is_compiling():
        return False
    if not in_transform():
        return torch.is_grad_enabled() or any(has_tangent(g) or _is_legacy_batch(g) for g in grads)
    derivatives = _derivatives()
    if not saved or not _are_backward(derivatives) or any(_is_followed(g) for g in grads):
        return True
    if not derivatives:
        # They are always enabled where torch.func takes a derivative, or did.
        return torch.is_grad_enabled() and any(_is_followed(t) for t in saved)
    # A level at which the forward pass did not run differentiates this pass.
    own = {_functorch.maybe_get_level(part) for t in saved for part in _levels_of(t)}
    return any(level.level() not in own for level in derivatives)


def _is_legacy_batch(t: Any) -> bool:
    return isinstance(t, torch.Tensor) and _functorch.is_legacy_batchedtensor(t)


def dense(gradients: Iterable[Any]) -> list[Any]:
    """Gradients as kernels take them: those of torch.gather may be sparse, but not in graphs of torch.compile."""
    if torch.compiler.is_compiling():
        return list(gradients)
    return [g if g is None or g.layout is torch.strided else g.to_dense() for g in gradients]


def pull_back(
    run: Callable[..., Sequence[Any]], operands: Sequence[Any], wanted: Sequence[bool], grads: Sequence[Any]
) -> tuple[Any, ...]:
    """Gradients of those operands that are wanted, through PyTorch's own operators.

    Args:
        run: makes of all operands the outputs to which the gradients belong.
        operands: its arguments.
        wanted: whether the gradient of each is wanted.
        grads: gradients of the outputs, or None.
    """
    places = [k for k, want in enumerate(wanted) if want]
    given = [k for k, g in enumerate(grads) if g is not None]
    if not places or not given:
        return (None,) * len(operands)

    def run_with(*tensors: torch.Tensor) -> tuple[Any, ...]:
        values = list(operands)
        for k, t in zip(places, tensors):
            values[k] = t
        with kernels_disabled():
            outputs = run(*values)
        return tuple(outputs[k] for k in given)

    seeds = tuple(grads[k] for k in given)
    if torch.is_grad_enabled() and not in_transform() and not any(_is_legacy_batch(g) for g in seeds):
        # Where torch.func would refuse to work: within hooks of saved tensors, as those of torch.utils.checkpoint. Of views,
        # as one operand may be made of another. An operand that requires no gradient was frozen after forward, or belongs to
        # a transform that is over.
        views = [operands[k].view_as(operands[k]) for k in places]
        views = [view if view.requires_grad else view.detach().requires_grad_() for view in views]
        outputs = run_with(*views)
        reached = [n for n, y in enumerate(outputs) if y.requires_grad]
        pulled = (
            torch.autograd.grad(
                [outputs[n] for n in reached], views, [seeds[n] for n in reached], create_graph=True, allow_unused=True
            )
            if reached
            else (None,) * len(views)
        )
    else:
        pull: Callable[..., Any] = torch.func.vjp(run_with, *(operands[k] for k in places))[1]
        pulled = pull(seeds)
    found = dict(zip(places, pulled))
    return tuple(found.get(k) for k in range(len(operands)))


class Call(NamedTuple):
    """What a step or sequence is run with, besides the tensors that may need gradients."""

    neuron: Neuron
    surrogate: int | Derivative
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
    surrogate: int | Derivative,
    dt: float,
    sequence: bool,
    record: bool,
    output: int,
    tensors: Any,
    params: Any,
    alpha: Any,
) -> Any:
    """``(output, *final state, *trace)`` with gradients; ``tensors`` are the input and the initial state."""
    if torch.compiler.is_compiling():
        if has_part_of_python(surrogate, alpha.requires_grad):
            return outside_of_graphs(run_fused, neuron, surrogate, dt, sequence, record, output, tensors, params, alpha)
        return Fused.apply(Call(neuron, surrogate, dt, sequence, record, output), *tensors, *params, alpha)
    if in_transform():
        call = Call(neuron, surrogate, dt, sequence, record, output)
        input, *state = tensors
        outputs = TransformableFused.apply(call, in_batch_of(alpha, input), *state, *params, alpha)
        return outputs[: 1 + len(neuron.state) * (2 if record else 1)]
    for p in (*params, alpha):
        if p.requires_grad:
            return _apply(Call(neuron, surrogate, dt, sequence, record, output), *tensors, *params, alpha)
    constants = (*params, alpha)
    versions = tuple([t._version for t in constants])
    return _apply(Call(neuron, surrogate, dt, sequence, record, output, constants, versions), *tensors)


def _run(call: Call, *tensors: torch.Tensor) -> Any:
    """The outputs ``(output, *final state, *trace)``, and the states every SEGMENT steps, which backward starts from."""
    neuron, _, dt, sequence, record, output, constants, _ = call
    operands = tensors + constants
    # In torch.compile whatever the length, so that one graph serves all.
    checkpoint = 0
    if sequence and torch.compiler.is_compiling():
        checkpoint = KEEP_COMPILED
    elif sequence and tensors[0].shape[0] > SEGMENT:
        checkpoint = KEEP
    *results, checkpoints, trace = neuron.forward_op(*operands[:-1], dt, sequence, checkpoint, record, output)
    return (*results, *trace), checkpoints


def _without_gradient(outputs: Any) -> Any:
    """The output, where it is bytes."""
    return () if outputs[0].is_floating_point() else outputs[:1]


def _backward(ctx: Any, *grads: Any) -> Any:
    saved = ctx.saved_tensors  # once, which is all that torch.utils.checkpoint allows
    gradients_of_outputs = dense(grads)
    if wants_more(gradients_of_outputs, saved):
        return _backward_in_pytorch(ctx, saved, gradients_of_outputs)
    grad_output, *grads = gradients_of_outputs  # type: ignore[assignment]
    neuron, surrogate, dt, sequence, record, output, constants, versions = ctx.call
    states, params = len(neuron.state), len(neuron.kernel_params)
    needs = ctx.needs_input_grad
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
    want_alpha = not constants and needs[-1]
    gradients = (grad_output, *grads[:states])
    grad_alpha: torch.Tensor | None = None
    if has_part_of_python(surrogate, want_alpha):
        (grad_input, *grad_state, grad_params), grad_alpha = _backward_in_segments(
            ctx.call, operands, checkpoints, gradients, grad_trace, (needs[1], want_params), want_alpha
        )
    else:
        grad_input, *grad_state, grad_params, _ = neuron.backward_op(
            *operands,
            checkpoints,
            *gradients,
            grad_trace,
            surrogate,
            output,
            dt,
            sequence,
            needs[1],
            want_params,
            [],
            0,
        )
    found = (None, grad_input if needs[1] else None, *grad_state)
    if constants:
        return found
    reduced = [
        reduce_to(grad_params[k], operands[1 + states + k]) if needs[2 + states + k] else None for k in range(params)
    ]
    return (*found, *reduced, grad_alpha)


def _backward_in_segments(
    call: Call,
    operands: Sequence[Any],
    checkpoints: Sequence[torch.Tensor],
    grads: Sequence[Any],
    grad_trace: Sequence[torch.Tensor],
    needs: Sequence[bool],
    want_alpha: bool,
) -> tuple[list[Any], torch.Tensor | None]:
    """What the operator returns but for the last, and the gradient of alpha."""
    neuron, surrogate, dt, sequence, _, output, *_ = call
    states = len(neuron.state)
    input, *state = operands[: 1 + states]
    number = 0 if callable(surrogate) else surrogate

    def arguments(first: int, last: int, later: Any) -> tuple[Any, ...]:
        if not sequence:
            return (*operands, [], *grads, grad_trace, number, output, dt, False)
        before = [c[first // SEGMENT - 1] for c in checkpoints] if first else state
        grad_output, *grad_state = grads
        if output == NUMBERS["last"]:
            grad_output = grad_output if later is None else None
        elif output < NUMBERS["sum"] and grad_output is not None:
            grad_output = grad_output[first:last]
        if later is not None:
            grad_state = later[1 : 1 + states]
        trace = [g[first:last] for g in grad_trace]
        own = (input[first:last], *before, *operands[1 + states :])
        return (*own, [], grad_output, *grad_state, trace, number, output, dt, True)

    steps = input.shape[0] if sequence else 1
    return differentiate_in_segments(
        neuron.backward_op,
        arguments,
        lambda _: needs,
        (1 + states,),
        steps,
        SEGMENT,
        surrogate,
        operands[-1],
        want_alpha,
    )


def _backward_in_pytorch(ctx: Any, saved: Sequence[Any], grads: Sequence[Any]) -> Any:
    call = ctx.call
    states = len(call.neuron.state)
    count = 1 + states
    operands = (
        (*saved[:count], *(t.detach() for t in call.constants))
        if call.constants
        else saved[: count + len(call.neuron.kernel_params) + 1]
    )
    # Checkpoints, which TransformableFused returns, have no gradient.
    found = _differentiate(call, operands, grads[: count + (states if call.record else 0)], ctx.needs_input_grad[1:])
    return (None, *found)


def _differentiate(
    call: Call, operands: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]
) -> tuple[Any, ...]:
    """Gradients of the first of the operands, input, state, parameters and alpha, as many as ``wanted`` tells of."""
    states = len(call.neuron.state)

    def run(input: torch.Tensor, *rest: Any) -> Sequence[Any]:
        state, params, alpha = rest[:states], rest[states:-1], rest[-1]
        result, values = call.neuron.run_in_pytorch(
            input, state, params, call.surrogate, alpha, call.dt, call.sequence, call.record, _KINDS[call.output]
        )
        return (result, *(None,) * states, *values) if call.record else (result, *values)

    known = (*wanted, *(False,) * (len(operands) - len(wanted)))
    want_alpha = known[-1] and by_alpha(call.surrogate) is not None
    return pull_back(run, operands, (*known[:-1], want_alpha), grads)[: len(wanted)]


_KINDS = {number: kind for kind, number in reversed(NUMBERS.items())}

#: The neuron of each kernel.
NEURONS: dict[str, Neuron] = {}


def _differentiate_call(name: str, *call: Any) -> tuple[Any, ...]:
    """What the node in C++ calls: the rest of a Call, then operands, gradients, and which are wanted."""
    *options, operands, grads, wanted = call
    neuron = NEURONS[name]
    if neuron.reset is not None:
        code = float(operands[1 + len(neuron.state) + neuron.reset_at])
        neuron = next(n for n in neuron.variants.values() if n.reset.code == code)
    return _differentiate(Call(neuron, *options), operands, grads, wanted)


set_differentiate(_differentiate_call)


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
        return _backward(ctx, *grads)


# What Fused.apply comes to outside of torch.compile and torch.func, without its checks for them.
_apply = super(torch.autograd.Function, Fused).apply


class TransformableFused(torch.autograd.Function):
    """:class:`Fused` in the form that torch.func demands, which takes longer to call: what is saved must be an output."""

    generate_vmap_rule = True

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
