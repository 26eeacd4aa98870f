"""The refractory period that lif_refrac and lif_adex_refrac put around their neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._kernels.neuron import Neuron
from .._kernels.reset import Reset

__all__ = ["pack_nested", "refractory", "refractory_update"]


def refractory_update(
    v_old: torch.Tensor,
    rho: torch.Tensor,
    z_new: torch.Tensor,
    v_new: torch.Tensor,
    rho_reset: Any,
    spike: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Voltage, spikes and refractory counter after a step of the neuron inside, whose results are ``*_new``."""
    mask = spike(rho)
    v = (1 - mask) * v_new + mask * v_old
    z = (1 - mask) * z_new
    return v, z, (1 - z) * torch.relu(rho - mask) + z * rho_reset


def pack_nested(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """A function that builds ``outer(inner(all values but the last), the last)``."""
    return lambda *values: outer(inner(*values[:-1]), values[-1])


def refractory(name: str, field: str, neuron: Neuron, pack: Callable[..., Any]) -> Neuron:
    """The neuron ``neuron`` with a refractory period; its state and parameters are ``field`` of those of the whole."""

    def step(
        x: torch.Tensor, state: Any, p: Any, spike: Any, dt: float, reset: Reset
    ) -> tuple[torch.Tensor, tuple[Any, ...]]:
        *inner, rho = state
        z_new, (v_new, *others) = neuron.plain_step(x, inner, p[:-1], spike, dt, reset)
        v, z, rho_new = refractory_update(inner[0], rho, z_new, v_new, p[-1], spike)
        return z, (v, *others, rho_new)

    states = (*(f"{field}.{state}" for state in neuron.state), "rho")
    params = (*(f"{field}.{param}" for param in neuron.params), "rho_reset")
    pack_all = pack_nested(pack, neuron.pack)
    return Neuron(name, states, params, pack_all, step, surrogate=f"{field}.", reset_at=neuron.reset_at, thresholds=2)
