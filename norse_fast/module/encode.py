"""Encoders as modules; what they compute is in :mod:`norse_fast.functional.encode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..functional import encode
from ..functional.lif import LIFParameters
from ._parameters import checked

__all__ = [
    "ConstantCurrentLIFEncoder",
    "PoissonEncoder",
    "PoissonEncoderStep",
    "PopulationEncoder",
    "SignedPoissonEncoder",
    "SignedPoissonEncoderStep",
    "SpikeLatencyEncoder",
    "SpikeLatencyLIFEncoder",
]


class _LIFEncoder(torch.nn.Module):
    def __init__(self, seq_length: int, p: LIFParameters = LIFParameters(), dt: float = 0.001) -> None:
        super().__init__()
        self.seq_length = seq_length
        self.p: Any = checked(p, LIFParameters)
        self.dt = dt

    def extra_repr(self) -> str:
        """The number of steps, the parameters and the time step."""
        return f"seq_length={self.seq_length}, p={self.p}, dt={self.dt}"


class ConstantCurrentLIFEncoder(_LIFEncoder):
    """Spikes of LIF neurons that a constant current drives; see
    :func:`norse_fast.functional.encode.constant_current_lif_encode`.

    Args:
        seq_length: number of time steps T.
        p: parameters.
        dt: length of a step in seconds.

    Example:
        >>> ConstantCurrentLIFEncoder(3)(torch.tensor([4.0, 8.0]))
        tensor([[0., 0.],
                [0., 1.],
                [1., 0.]])
    """

    def forward(self, input_currents: torch.Tensor) -> torch.Tensor:
        """Spikes ``(T, ...)`` for a current of each neuron, any shape."""
        return encode.constant_current_lif_encode(input_currents, self.seq_length, self.p, self.dt)

    if TYPE_CHECKING:

        def __call__(self, input_currents: torch.Tensor) -> torch.Tensor: ...


class SpikeLatencyLIFEncoder(_LIFEncoder):
    """The first spike of LIF neurons that a constant current drives; see
    :func:`norse_fast.functional.encode.spike_latency_lif_encode`.

    Args:
        seq_length: number of time steps T.
        p: parameters.
        dt: length of a step in seconds.

    Example:
        >>> SpikeLatencyLIFEncoder(3)(torch.tensor([8.0, 16.0]))
        tensor([[0., 1.],
                [1., 0.],
                [0., 0.]])
    """

    def forward(self, input_current: torch.Tensor) -> torch.Tensor:
        """Spikes ``(T, ...)`` for a current of each neuron, any shape; at most one per neuron."""
        return encode.spike_latency_lif_encode(input_current, self.seq_length, self.p, self.dt)

    if TYPE_CHECKING:

        def __call__(self, input_current: torch.Tensor) -> torch.Tensor: ...


class SpikeLatencyEncoder(torch.nn.Module):
    """Keeps the first spike of each neuron; see :func:`norse_fast.functional.encode.spike_latency_encode`.

    Example:
        >>> encoder = torch.nn.Sequential(ConstantCurrentLIFEncoder(3), SpikeLatencyEncoder())
        >>> encoder(torch.tensor([8.0, 16.0]))
        tensor([[0., 1.],
                [1., 0.],
                [0., 0.]])
    """

    def forward(self, input_spikes: torch.Tensor) -> torch.Tensor:
        """At most one spike per neuron of those over time, ``(T, ...)``."""
        return encode.spike_latency_encode(input_spikes)

    if TYPE_CHECKING:

        def __call__(self, input_spikes: torch.Tensor) -> torch.Tensor: ...


class _RateEncoder(torch.nn.Module):
    def __init__(self, seq_length: int, f_max: float = 100, dt: float = 0.001) -> None:
        super().__init__()
        self.seq_length = seq_length
        self.f_max = f_max
        self.dt = dt

    def extra_repr(self) -> str:
        """The number of steps, the maximal rate and the time step."""
        return f"seq_length={self.seq_length}, f_max={self.f_max}, dt={self.dt}"

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class _RateEncoderStep(torch.nn.Module):
    def __init__(self, f_max: float = 1000, dt: float = 0.001) -> None:
        super().__init__()
        self.f_max = f_max
        self.dt = dt

    def extra_repr(self) -> str:
        """The maximal rate and the time step."""
        return f"f_max={self.f_max}, dt={self.dt}"

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PoissonEncoder(_RateEncoder):
    """Spikes at random with a rate in proportion to each value; see :func:`norse_fast.functional.encode.poisson_encode`.

    Args:
        seq_length: number of time steps T.
        f_max: firing rate for a value of 1, in Hz.
        dt: length of a step in seconds.

    Example:
        >>> PoissonEncoder(2, f_max=1000)(torch.tensor([0.0, 1.0]))
        tensor([[0., 1.],
                [0., 1.]])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes ``(T, ...)`` for values between 0 and 1, any shape."""
        return encode.poisson_encode(x, self.seq_length, self.f_max, self.dt)


class PoissonEncoderStep(_RateEncoderStep):
    """One step of random spikes with a rate in proportion to each value; see
    :func:`norse_fast.functional.encode.poisson_encode_step`.

    Args:
        f_max: firing rate for a value of 1, in Hz; note the other default than that of :class:`PoissonEncoder`.
        dt: length of the step in seconds.

    Example:
        >>> PoissonEncoderStep()(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes in the shape of the values, which are between 0 and 1."""
        return encode.poisson_encode_step(x, self.f_max, self.dt)


class SignedPoissonEncoder(_RateEncoder):
    """Random spikes of either sign with a rate in proportion to the magnitude; see
    :func:`norse_fast.functional.encode.signed_poisson_encode`.

    Args:
        seq_length: number of time steps T.
        f_max: firing rate for a magnitude of 1, in Hz.
        dt: length of a step in seconds.

    Example:
        >>> SignedPoissonEncoder(1, f_max=1000)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([[-1.,  0.,  1.]])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes -1, 0 or 1, ``(T, ...)``, for values between -1 and 1, any shape."""
        return encode.signed_poisson_encode(x, self.seq_length, self.f_max, self.dt)


class SignedPoissonEncoderStep(_RateEncoderStep):
    """One step of random spikes of either sign; see :func:`norse_fast.functional.encode.signed_poisson_encode_step`.

    Args:
        f_max: firing rate for a magnitude of 1, in Hz; note the other default than that of :class:`SignedPoissonEncoder`.
        dt: length of the step in seconds.

    Example:
        >>> SignedPoissonEncoderStep()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.,  0.,  1.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes -1, 0 or 1 in the shape of the values, which are between -1 and 1."""
        return encode.signed_poisson_encode_step(x, self.f_max, self.dt)


class PopulationEncoder(torch.nn.Module):
    """How much each neuron of a population likes a value; see :func:`norse_fast.functional.encode.population_encode`.

    Args:
        out_features: number of neurons K per value.
        scale: the greatest preferred value, a number or a tensor that broadcasts to the input; by default the greatest
            input value.
        kernel: maps distances to rates.
        distance_function: distance between the values and the preferred ones.

    Example:
        >>> PopulationEncoder(3)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([[1.0000, 0.8825, 0.6065],
                [0.8825, 1.0000, 0.8825],
                [0.6065, 0.8825, 1.0000]])
    """

    def __init__(
        self,
        out_features: int,
        scale: float | torch.Tensor | None = None,
        kernel: Callable[[torch.Tensor], torch.Tensor] = encode.gaussian_rbf,
        distance_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = encode.euclidean_distance,
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.scale = scale
        self.kernel = kernel
        self.distance_function = distance_function

    def extra_repr(self) -> str:
        """The size of the population and its range."""
        return f"out_features={self.out_features}, scale={self.scale}"

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        """Rates ``(..., K)`` for values of any shape."""
        return encode.population_encode(
            input_tensor, self.out_features, self.scale, self.kernel, self.distance_function
        )

    if TYPE_CHECKING:

        def __call__(self, input_tensor: torch.Tensor) -> torch.Tensor: ...
