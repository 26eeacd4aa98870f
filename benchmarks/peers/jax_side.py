"""What every library on JAX needs to take part: compiled calls to be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

#: From the parameters and the input over time to the output over time.
Apply = Callable[[Any, jax.Array], jax.Array]


def _loss(apply: Apply, parameters: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
    logits = apply(parameters, x).max(0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class Work:
    """A contender that is ready for its turns; its first calls compile.

    Args:
        apply: the computation.
        parameters: what gets gradients besides the input.
        case: the case.
        arrays: its input ``x``, and labels of networks.
        input_gain: factor on the input.
    """

    def __init__(
        self,
        apply: Apply,
        parameters: Any,
        case: dict[str, Any],
        arrays: dict[str, np.ndarray],
        input_gain: float = 1.0,
    ) -> None:
        self.parameters = parameters
        self.x = jnp.asarray(arrays["x"], jnp.float32) * input_gain
        self.labels = jnp.asarray(arrays["labels"]) if "labels" in arrays else None
        self.g: jax.Array | None = None
        self._forward = jax.jit(apply)

        @jax.jit
        def pull_back(parameters: Any, x: jax.Array, g: jax.Array) -> Any:
            output, vjp = jax.vjp(apply, parameters, x)
            return output, vjp(g)

        self._pull_back = pull_back
        self._gradient = jax.jit(jax.value_and_grad(lambda p, x, labels: _loss(apply, p, x, labels)))

    def inference(self) -> jax.Array:
        """Outputs over time."""
        return jax.block_until_ready(self._forward(self.parameters, self.x))

    def training(self) -> None:
        """A forward and a backward pass."""
        if self.labels is not None:
            jax.block_until_ready(self._gradient(self.parameters, self.x, self.labels))
            return
        if self.g is None:
            shape = jax.eval_shape(self._forward, self.parameters, self.x).shape
            self.g = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
        jax.block_until_ready(self._pull_back(self.parameters, self.x, self.g))

    def output(self) -> np.ndarray:
        """Outputs, to be compared."""
        return np.asarray(self.inference())


class Digits:
    """Trains a classifier, an epoch at a time."""

    def __init__(self, apply: Apply, parameters: Any, arrays: dict[str, np.ndarray]) -> None:
        self.spikes, self.labels = arrays["x"], arrays["labels"]
        self.parameters = parameters
        optimizer = optax.adam(1e-2)
        self.state = optimizer.init(parameters)
        self._logits = jax.jit(lambda p, x: apply(p, x).max(0))

        @jax.jit
        def step(parameters: Any, state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
            gradient = jax.grad(lambda p: _loss(apply, p, x, labels))(parameters)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(parameters, updates), state

        self._step = step

    def _input(self, batch: list[int]) -> jax.Array:
        return jnp.asarray(self.spikes[batch].swapaxes(0, 1), jnp.float32)

    def epoch(self, batches: list[list[int]]) -> None:
        """Trains on these batches of samples."""
        for batch in batches:
            x, labels = self._input(batch), jnp.asarray(self.labels[batch])
            self.parameters, self.state = self._step(self.parameters, self.state, x, labels)
        jax.block_until_ready(self.parameters)

    def accuracy(self, batches: list[list[int]]) -> float:
        """The share of these samples whose digit is found."""
        right = sum(
            int((np.asarray(self._logits(self.parameters, self._input(b))).argmax(1) == self.labels[b]).sum())
            for b in batches
        )
        return right / sum(map(len, batches))
