"""brainevent on JAX: it has products over spikes but no neurons, so its products stand before those of Spyx."""

from __future__ import annotations

from typing import Any

import brainevent
import jax
import jax.numpy as jnp
import numpy as np
import spyx_
from flax import nnx
from jax_side import Digits, Work

PACKAGE = "brainevent"
DIFFERENCE = "its products over spikes, Spyx's neurons"
NO_NEURONS = "has no neurons"
CONTENDERS = {"brainevent": {"layer": NO_NEURONS, "recurrent": DIFFERENCE, "network": DIFFERENCE, "digits": DIFFERENCE}}


class _Sum(nnx.Module):
    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.kernel, self.bias = nnx.Param(jnp.asarray(weight.T)), nnx.Param(jnp.asarray(bias))

    def __call__(self, x: jax.Array) -> jax.Array:
        return brainevent.BinaryArray(x) @ self.kernel[...] + self.bias[...]


class _Recurrent(spyx_.Recurrent):
    def __init__(self, inputs: int, neurons: int, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(inputs, neurons, arrays)
        self.current = spyx_.cubalif(neurons)

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        spikes, state = state
        current = brainevent.BinaryArray(x) @ self.first[...]
        current += brainevent.BinaryArray(spikes) @ self.neurons.recurrent_w[...]
        spikes, state = self.current(current, state)
        return spikes, (spikes, state)

    def initial_state(self, batch: int) -> Any:
        """No spikes, and the state of the neurons."""
        state = self.current.initial_state(batch)
        return jnp.zeros((batch, state.shape[-1] // 2)), state


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits | str:
    """A contender for a case, or why there is none."""
    if case["kind"] == "layer":
        return NO_NEURONS
    if any(kind == "conv" for kind, *_ in case.get("spec", ())):
        return "has no convolution"
    if case["kind"] == "recurrent":
        return Work(*spyx_.functional(_Recurrent(*case["size"][2:], arrays)), case, arrays)
    apply, parameters = spyx_.functional(spyx_.network(case, arrays, _Sum))
    return Digits(apply, parameters, arrays) if case["kind"] == "digits" else Work(apply, parameters, case, arrays)
