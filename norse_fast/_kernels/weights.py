"""The weights of recurrent layers: products of inputs with them, and whether they fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from .autograd import tracked
from .checks import as_dense, check_broadcast, check_device, check_real, is_autocast
from .neuron import descend

if TYPE_CHECKING:
    from ..utils.pytree import StateTuple

__all__ = ["check_weights", "project", "project_spikes", "read_field", "read_fields", "reject_state"]


def project(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What arrives through weights, ``weights @ x`` for each ``x`` of all leading dimensions.

    Integers and booleans take the dtype of the weights. Sparse COO tensors are multiplied as such, hybrid ones and those of
    the other sparse layouts as dense ones.
    """
    weights, x = tracked(weights), tracked(x)
    if not x.is_floating_point():
        x = x.to(weights.dtype)
    if x.is_sparse and not x.dense_dim():
        return torch.sparse.mm(_as_sparse_matrix(x), weights.t()).reshape(*x.shape[:-1], weights.shape[0])
    return torch.nn.functional.linear(as_dense(x), weights)


def project_spikes(weights: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What arrives through recurrent weights, in their own dtype under autocast too: so do the kernels add it up."""
    # The name of the device, which is read at each step, takes a microsecond, and three with the question.
    kind = "cpu" if z.is_cpu else z.device.type
    if not is_autocast(kind):
        return project(weights, z)
    with torch.autocast(kind, enabled=False):
        return project(weights, z)


def _as_sparse_matrix(x: torch.Tensor) -> torch.Tensor:
    """A sparse COO tensor with its leading dimensions as one."""
    if x.dim() == 2:
        return x
    x = x.coalesce()
    *leading, inputs = x.shape
    row = x.indices().new_zeros(x.indices().shape[1])
    for size, index in zip(leading, x.indices()):
        row = row * size + index
    return torch.sparse_coo_tensor(
        torch.stack((row, x.indices()[-1])),
        x.values(),
        (math.prod(leading), inputs),
        is_coalesced=True,
        check_invariants=False,
    )


def check_weights(
    input: Any,
    state: Any,
    input_weights: torch.Tensor,
    recurrent_weights: torch.Tensor | None = None,
    spikes: str = "z",
    sequence: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Raise if the input, the spikes of the state (its dotted field ``spikes``) and the weights do not fit together.

    With ``sequence``, the first dimension of the input is time. Of one sample, weights may be vectors.

    Returns:
        The weights as matrices.

    Raises:
        TypeError: the input is not a tensor or of another dtype than the weights, or the state has no spikes.
        ValueError: a width differs, or the state is that of another batch.
    """
    check_real("input", input)
    check_real("input_weights", input_weights)
    if input_weights.dim() == 1 and input.dim() and not sequence and math.prod(input.shape[:-1]) == 1:
        input_weights, recurrent_weights = (_as_matrix(w, state, spikes) for w in (input_weights, recurrent_weights))
    if input_weights.dim() != 2:
        raise ValueError(
            f"input_weights: got shape {tuple(input_weights.shape)}, expected (N, inputs) for an input of shape "
            f"{tuple(input.shape)}; pass one row per neuron."
        )
    device = input.device
    if device != input_weights.device:
        raise ValueError(
            f"input: got a tensor on {device}, expected it on {input_weights.device}, as input_weights; move the "
            f"module with .to({str(device)!r}), or the input."
        )
    hidden, width = input_weights.shape
    if input.dim() == 0 or input.shape[-1] != width:
        got = "a 0-dim tensor" if input.dim() == 0 else f"{input.shape[-1]} features in shape {tuple(input.shape)}"
        raise ValueError(
            f"input: got {got}, expected {width}, the width of input_weights {tuple(input_weights.shape)}; "
            "the last dimension of the input must be the features."
        )
    if input.is_floating_point() and input.dtype != input_weights.dtype and not is_autocast(input.device.type):
        raise TypeError(
            f"input: got dtype {input.dtype}, expected {input_weights.dtype}, that of input_weights; convert one of them "
            "with .to()."
        )
    if recurrent_weights is None:
        return input_weights, None
    check_real("recurrent_weights", recurrent_weights)
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
        reject_state(state, f"a tensor field {spikes}, the spikes of the last step")
    name = f"state.{spikes}"
    check_real(name, z)
    check_device(name, z, device)
    if z.dim() == 0 or z.shape[-1] != hidden:
        raise ValueError(
            f"{name}: got shape {tuple(z.shape)}, expected (..., {hidden}), one spike per neuron; "
            "a state cannot be carried over to a layer of another size."
        )
    shape = torch.Size((*input.shape[1 if sequence else 0 : -1], hidden))
    if z.shape != shape:
        check_broadcast(name, z, shape, "the state of an input of another shape cannot be carried over")
    return input_weights, recurrent_weights


def _as_matrix(weights: Any, state: Any, spikes: str) -> Any:
    """Weights with a row per neuron: of a vector, each has the same, since its product with the input broadcasts."""
    if weights is None or weights.dim() != 1:
        return weights
    z = read_field(state, spikes, f"a tensor field {spikes}, which tells how many neurons share a vector of weights")
    return weights.expand(z.shape[-1] if z.dim() else 1, -1)


def read_field(state: Any, name: str, expected: str) -> Any:
    """A (dotted) field of a state, or an error that tells what is ``expected``."""
    try:
        return descend(state, name)
    except AttributeError:
        reject_state(state, expected)


def read_fields(state: Any, kind: type[StateTuple], argument: str = "state") -> list[Any]:
    """All fields of a state of some kind, or an error that tells which they are."""
    try:
        return [getattr(state, name) for name in kind._fields]
    except AttributeError:
        reject_state(state, f"the fields {', '.join(kind._fields)}", argument)


def reject_state(state: Any, expected: str, argument: str = "state") -> NoReturn:
    raise TypeError(
        f"{argument}: got {type(state).__name__}, expected a tuple with {expected}; pass the state that the last step "
        "returned, or None to a module."
    ) from None
