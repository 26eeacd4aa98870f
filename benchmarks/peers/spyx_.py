"""Spyx on JAX: neurons in a scan over time, compiled as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax_side import Digits, Work
from spyx import axn
from spyx import nn as spyx

PACKAGE = "spyx"
DIFFERENCE = "a reset subtracts the threshold; spikes a step later"
CONTENDERS = {
    "Spyx": {kind: DIFFERENCE for kind in ("layer", "recurrent", "network", "digits")},
    "Spyx LIF": {"layer": f"no synaptic current; {DIFFERENCE}"},
}
# With steps of 1 ms, those of Norse: 5 ms of the current, 10 ms of the membrane.
ALPHA, BETA = 0.8, 0.9
#: Before a neuron of its kind, and before its readout, which has no current, so that they are driven as Norse's.
LIF_GAIN, LI_GAIN = 0.1, 0.5

Linear = Callable[[np.ndarray, np.ndarray], nnx.Module]


def cubalif(size: int) -> Any:
    """Its neurons with a synaptic current."""
    return spyx.CuBaLIF((size,), ALPHA, BETA, activation=axn.superspike(1.0), rngs=nnx.Rngs(0))


class _Spatial(nnx.Module):
    """Neurons of a plane; their state joins two parts along the last dimension, so it is flat."""

    def __init__(self, size: int) -> None:
        self.neurons = cubalif(size)

    def __call__(self, x: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        spikes, state = self.neurons(x.reshape(len(x), -1), state)
        return spikes.reshape(x.shape), state

    def initial_state(self, batch: int) -> jax.Array:
        """The state of its neurons before the first step."""
        return self.neurons.initial_state(batch)


def linear(weight: np.ndarray, bias: np.ndarray) -> nnx.Module:
    """A dense product with these weights, in PyTorch's order."""
    layer = nnx.Linear(*weight.shape[::-1], rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = jnp.asarray(weight.T), jnp.asarray(bias)
    return layer


def _convolution(weight: np.ndarray, bias: np.ndarray) -> nnx.Module:
    outputs, inputs, *kernel = weight.shape
    layer = nnx.Conv(inputs, outputs, kernel, padding="VALID", rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = jnp.asarray(weight.transpose(2, 3, 1, 0)), jnp.asarray(bias)
    return layer


def _first_channels(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, -1) if x.ndim == 4 else x


def _pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def _flatten(x: jax.Array) -> jax.Array:
    # In the order of channels, rows and columns, which the weights expect.
    return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)


class _Plain(nnx.Module):
    def __init__(self, function: Callable[[jax.Array], jax.Array]) -> None:
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


def network(case: dict[str, Any], arrays: dict[str, np.ndarray], dense: Linear = linear) -> nnx.Module:
    """A network from its description."""
    spec, layers = case["spec"], []
    shape = jax.ShapeDtypeStruct((1, *arrays["x"].shape[2:]), jnp.float32)
    if len(shape.shape) == 4:
        layers.append(_Plain(_first_channels))
        shape = jax.eval_shape(_first_channels, shape)
    for index, (kind, *_) in enumerate(spec):
        if kind in ("linear", "conv"):
            gain = LIF_GAIN if next(k for k, *_ in spec[index:] if k in ("lif", "li")) == "lif" else LI_GAIN
            weight, bias = arrays[f"weight{index}"] * gain, arrays[f"bias{index}"] * gain
            layer: Any = dense(weight, bias) if kind == "linear" else _convolution(weight, bias)
        elif kind == "lif":
            layer = cubalif(shape.shape[1]) if len(shape.shape) == 2 else _Spatial(int(np.prod(shape.shape[1:])))
        elif kind == "li":
            layer = spyx.LI(shape.shape[1:], BETA, rngs=nnx.Rngs(0))
        else:
            layer = _Plain({"pool": _pool, "flatten": _flatten}[kind])
        if not hasattr(layer, "initial_state"):
            shape = jax.eval_shape(layer, shape)
        layers.append(layer)
    return spyx.Sequential(*layers)


def functional(model: nnx.Module) -> tuple[Any, Any]:
    """A model as a function of its parameters, and these."""
    graph, parameters = nnx.split(model)
    return (lambda parameters, x: spyx.run(nnx.merge(graph, parameters), x)[0]), parameters


class Recurrent(nnx.Module):
    """Input weights, and its recurrent neurons."""

    def __init__(self, inputs: int, neurons: int, arrays: dict[str, np.ndarray]) -> None:
        self.first = nnx.Param(jnp.asarray(arrays["weight0"].T) * LIF_GAIN)
        self.neurons = spyx.RCuBaLIF((neurons,), ALPHA, BETA, activation=axn.superspike(1.0), rngs=nnx.Rngs(0))
        self.neurons.recurrent_w[...] = jnp.asarray(arrays["weight1"].T) * LIF_GAIN

    def __call__(self, x: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Spikes of a step, and the state after it."""
        return self.neurons(x @ self.first[...], state)

    def initial_state(self, batch: int) -> jax.Array:
        """The state of its neurons before the first step."""
        return self.neurons.initial_state(batch)


def build(name: str, case: dict[str, Any], arrays: dict[str, np.ndarray]) -> Work | Digits:
    """A contender for a case."""
    if case["kind"] == "layer":
        neurons = case["size"][2]
        if name == "Spyx LIF":
            apply, parameters = functional(spyx.LIF((neurons,), BETA, activation=axn.superspike(1.0), rngs=nnx.Rngs(0)))
        else:
            apply, parameters = functional(cubalif(neurons))
        return Work(apply, parameters, case, arrays, LIF_GAIN)
    if case["kind"] == "recurrent":
        return Work(*functional(Recurrent(*case["size"][2:], arrays)), case, arrays)
    if case["kind"] == "digits":
        return Digits(*functional(network(case, arrays)), arrays)
    return Work(*functional(network(case, arrays)), case, arrays)
