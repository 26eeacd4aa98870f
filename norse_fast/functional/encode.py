r"""From numbers to spikes: rate, population and latency codes.

Spikes come in the input's dtype, or in the default one for integers and booleans, and on the input's device.

Source: P. Dayan, L. Abbott, *Theoretical Neuroscience*, MIT Press, 2001, chapters 1.4 and 3.3; sources of single codes stand
at their functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._constants import constant
from .._kernels.checks import as_floating, check_tensor
from ._surrogate import wide
from .lif import LIFFeedForwardState, LIFParameters, lif_current_encoder, lif_feed_forward_integral

__all__ = [
    "constant_current_lif_encode",
    "euclidean_distance",
    "gaussian_rbf",
    "poisson_encode",
    "poisson_encode_step",
    "population_encode",
    "signed_poisson_encode",
    "signed_poisson_encode_step",
    "spike_latency_encode",
    "spike_latency_lif_encode",
]

_NO_DECAY = constant(0.0)


def _floating(x: torch.Tensor) -> torch.Tensor:
    return as_floating("input", x, torch.get_default_dtype())


def _check_steps(seq_length: int) -> None:
    _check_count("seq_length", seq_length, "a number of time steps")


def _check_count(name: str, value: Any, what: str) -> None:
    # Sizes are tensors in traces, and of a kind of their own in graphs.
    if isinstance(value, bool) or not (isinstance(value, (int, torch.SymInt)) or hasattr(value, "__index__")):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an integer, {what}; convert it with int.")
    if value < 0:
        raise ValueError(f"{name}: got {value}, expected {what}; it cannot be negative.")


def _is_known_zero(value: Any) -> bool:
    """Whether a parameter is 0, as far as that can be told without waiting for a device or breaking a compiled graph."""
    if isinstance(value, torch.Tensor):
        return value.is_cpu and not torch.compiler.is_compiling() and not value.any()
    return bool(value == 0)


def constant_current_lif_encode(
    input_current: torch.Tensor,
    seq_length: int,
    p: LIFParameters = LIFParameters(),
    dt: float = 0.001,
) -> torch.Tensor:
    r"""Spikes of LIF neurons that a constant current drives, a rate code.

    Each step is :func:`norse_fast.functional.lif.lif_current_encoder`, from :math:`v = 0` on; with a reset potential of 0,
    which is the default, one kernel runs all of them.

    Args:
        input_current: current of each neuron, any shape.
        seq_length: number of time steps T.
        p: parameters; there is no synapse, so ``tau_syn_inv`` does not matter.
        dt: length of a step in seconds.

    Returns:
        Spikes, ``(T, ...)``.

    Raises:
        ValueError: ``seq_length`` is negative, a parameter does not broadcast to the current, or the surrogate is unknown.

    Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3.

    Example:
        >>> constant_current_lif_encode(torch.tensor([2.0, 4.0, 8.0, 16.0]), 3)
        tensor([[0., 0., 0., 1.],
                [0., 0., 1., 1.],
                [0., 1., 0., 1.]])
    """
    _check_steps(seq_length)
    current = _floating(input_current)
    if seq_length and not _is_known_zero(p.v_reset):
        # The kernels set v to v_reset; the encoder subtracts v - v_reset, which rounds where v_reset is not 0.
        # In float32, as the kernels compute half precision.
        spikes, held = [], wide(current)
        voltage = torch.zeros_like(held)
        for _ in range(seq_length):
            z, voltage = lif_current_encoder(held, voltage, p, dt)
            spikes.append(z.to(current.dtype))
        if voltage.shape != current.shape:
            raise ValueError(
                f"p: got parameters that make neurons of shape {tuple(voltage.shape)}, expected parameters that broadcast to "
                f"{tuple(current.shape)}, the shape of input_current; expand the current."
            )
        return torch.stack(spikes)
    # A synapse that neither decays nor gets input holds its current.
    others = {name: getattr(p, name) for name in ("tau_mem_inv", "v_leak", "v_th", "v_reset", "method", "alpha")}
    silence = current.new_zeros(()).expand(seq_length, *current.shape)
    state = LIFFeedForwardState(v=torch.zeros_like(current), i=current)
    return lif_feed_forward_integral(silence, state, LIFParameters(_NO_DECAY, **others), dt)[0].to(current.dtype)


def gaussian_rbf(tensor: torch.Tensor, sigma: float | torch.Tensor = 1) -> torch.Tensor:
    r"""Gaussian radial basis function of a squared distance, :math:`e^{-d / (2 \sigma^2)}`.

    Args:
        tensor: squared distance :math:`d`, any shape.
        sigma: width :math:`\sigma`, in the unit of the distance before it was squared.

    Returns:
        Values between 0 and 1, in the shape of ``tensor``.

    Source: C. Bishop, *Pattern Recognition and Machine Learning*, Springer, 2006, chapter 6.3.

    Example:
        >>> gaussian_rbf(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.6065])
    """
    if isinstance(sigma, torch.Tensor):
        sigma = as_floating("sigma", sigma, torch.get_default_dtype())
    return torch.exp(-_floating(tensor) / (2 * sigma**2))


def euclidean_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared distance between numbers, :math:`(x - y)^2`.

    Args:
        x: numbers, any shape.
        y: numbers, of a shape that broadcasts.

    Returns:
        The squared distances, in the common shape.

    Example:
        >>> euclidean_distance(torch.tensor([1.0, 2.0]), torch.tensor(4.0))
        tensor([9., 4.])
    """
    return (x - y).pow(2)


def population_encode(
    input_values: torch.Tensor,
    out_features: int,
    scale: float | torch.Tensor | None = None,
    kernel: Callable[[torch.Tensor], torch.Tensor] = gaussian_rbf,
    distance_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = euclidean_distance,
) -> torch.Tensor:
    r"""How much each neuron of a population likes a value; what they prefer is spread evenly between 0 and a scale.

    .. math::
        r_k = \mathrm{kernel}(s\, d(x, c_k)), \qquad c_k = s \frac{k}{K - 1}, \quad k = 0, \dots, K - 1

    These are rates, not spikes yet; :func:`poisson_encode` makes spikes of them.

    Args:
        input_values: values :math:`x`, any shape.
        out_features: number of neurons :math:`K` per value.
        scale: the greatest preferred value :math:`s`, a number or a tensor that broadcasts to the input; by default, and if
            it is 0, the greatest input value. What is preferred with one scale for all is constant to autograd.
        kernel: maps distances to rates.
        distance_function: distance :math:`d` between the values and the preferred ones, both ``(..., K)``.

    Returns:
        Rates, ``(..., K)``, with the default kernel between 0 and 1.

    Raises:
        RuntimeError: the input is empty and no scale is given.

    Source: P. Dayan, L. Abbott, *Theoretical Neuroscience*, MIT Press, 2001, chapter 3.3.

    Example:
        >>> population_encode(torch.tensor([0.0, 0.5, 1.0]), 3)
        tensor([[1.0000, 0.8825, 0.6065],
                [0.8825, 1.0000, 0.8825],
                [0.6065, 0.8825, 1.0000]])
    """
    x = _floating(input_values)
    _check_count("out_features", out_features, "a number of neurons per value")
    if scale is None or not (scale.any() if isinstance(scale, torch.Tensor) else scale):
        scale = x.max()
    if isinstance(scale, torch.Tensor):
        scale = scale.to(x)
    if isinstance(scale, torch.Tensor) and scale.dim() and scale.numel() != 1:
        scale = scale.unsqueeze(-1)
        centres = scale * torch.linspace(0, 1, out_features, device=x.device, dtype=x.dtype)
    else:
        # A tensor, because a number would be a constant of traces.
        end = scale.detach().reshape(()) if isinstance(scale, torch.Tensor) else scale
        centres = torch.linspace(0, end, out_features, device=x.device, dtype=x.dtype)
    shape = (*x.shape, out_features)
    return kernel(distance_function(x.unsqueeze(-1).expand(shape), centres.expand(shape)) * scale)


def _poisson(
    input_values: torch.Tensor, shape: tuple[int, ...], f_max: float, dt: float, generator: torch.Generator | None
) -> torch.Tensor:
    values = _floating(input_values)
    # torch.compile takes changing sizes only where no generator is named.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    draws = torch.rand(shape, dtype=torch.float32, device=values.device, **source)
    return (draws < dt * f_max * values).to(values.dtype)


def poisson_encode(
    input_values: torch.Tensor,
    seq_length: int,
    f_max: float = 100,
    dt: float = 0.001,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""Spikes at random, with a rate in proportion to each value: :math:`P(z = 1) = dt\, f_{max}\, x`.

    Args:
        input_values: values :math:`x` between 0 and 1, any shape; at and below 0 there are no spikes, and where
            :math:`dt\, f_{max}\, x` reaches 1 there is one at every step.
        seq_length: number of time steps T.
        f_max: firing rate for a value of 1, in Hz.
        dt: length of a step in seconds.
        generator: source of randomness, on the input's device; by default PyTorch's own.

    Returns:
        Spikes, ``(T, ...)``.

    Raises:
        ValueError: ``seq_length`` is negative.
        RuntimeError: the generator is on another device.

    Source: P. Dayan, L. Abbott, *Theoretical Neuroscience*, MIT Press, 2001, chapter 1.4.

    Example:
        >>> spikes = poisson_encode(torch.tensor([0.0, 0.5, 1.0]), 1000, f_max=1000, generator=torch.Generator())
        >>> spikes.shape, spikes.mean(0)[[0, 2]]
        (torch.Size([1000, 3]), tensor([0., 1.]))
    """
    _check_steps(seq_length)
    check_tensor("input_values", input_values)
    return _poisson(input_values, (seq_length, *input_values.shape), f_max, dt, generator)


def poisson_encode_step(
    input_values: torch.Tensor, f_max: float = 1000, dt: float = 0.001, generator: torch.Generator | None = None
) -> torch.Tensor:
    r"""One time step of :func:`poisson_encode`; note the other default of ``f_max``.

    Args:
        input_values: values between 0 and 1, any shape.
        f_max: firing rate for a value of 1, in Hz.
        dt: length of a step in seconds.
        generator: source of randomness, on the input's device; by default PyTorch's own.

    Returns:
        Spikes in the shape of the input.

    Raises:
        RuntimeError: the generator is on another device.

    Example:
        >>> poisson_encode_step(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    check_tensor("input_values", input_values)
    return _poisson(input_values, tuple(input_values.shape), f_max, dt, generator)


def signed_poisson_encode(
    input_values: torch.Tensor,
    seq_length: int,
    f_max: float = 100,
    dt: float = 0.001,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""Spikes of either sign at random, with a rate in proportion to the magnitude: :math:`P(|z| = 1) = dt\, f_{max}\, |x|`.

    Args:
        input_values: values :math:`x` between -1 and 1, any shape; spikes have their sign.
        seq_length: number of time steps T.
        f_max: firing rate for a magnitude of 1, in Hz.
        dt: length of a step in seconds.
        generator: source of randomness, on the input's device; by default PyTorch's own.

    Returns:
        Spikes -1, 0 or 1, ``(T, ...)``.

    Raises:
        ValueError: ``seq_length`` is negative.
        RuntimeError: the generator is on another device.

    Source: as for :func:`poisson_encode`.

    Example:
        >>> signed_poisson_encode(torch.tensor([-1.0, 0.0, 1.0]), 2, f_max=1000)
        tensor([[-1.,  0.,  1.],
                [-1.,  0.,  1.]])
    """
    values = _floating(input_values)  # of which the smallest integer has a magnitude too
    return torch.sign(values) * poisson_encode(values.abs(), seq_length, f_max, dt, generator)


def signed_poisson_encode_step(
    input_values: torch.Tensor, f_max: float = 1000, dt: float = 0.001, generator: torch.Generator | None = None
) -> torch.Tensor:
    r"""One time step of :func:`signed_poisson_encode`; note the other default of ``f_max``.

    Args:
        input_values: values between -1 and 1, any shape; spikes have their sign.
        f_max: firing rate for a magnitude of 1, in Hz.
        dt: length of a step in seconds.
        generator: source of randomness, on the input's device; by default PyTorch's own.

    Returns:
        Spikes -1, 0 or 1 in the shape of the input.

    Raises:
        RuntimeError: the generator is on another device.

    Example:
        >>> signed_poisson_encode_step(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.,  0.,  1.])
    """
    values = _floating(input_values)
    return torch.sign(values) * poisson_encode_step(values.abs(), f_max, dt, generator)


def _spiked_before(spikes: torch.Tensor) -> torch.Tensor:
    """Whether each neuron has spiked before each step."""
    now = spikes != 0
    if now.dim() and not len(now):
        return now
    before = [torch.zeros_like(now[0])]
    # Step by step is faster than sums or minima over time, which run against the layout of memory.
    for frame in now[:-1]:
        before.append(before[-1] | frame)
    return torch.stack(before)


def spike_latency_lif_encode(
    input_current: torch.Tensor,
    seq_length: int,
    p: LIFParameters = LIFParameters(),
    dt: float = 0.001,
) -> torch.Tensor:
    """The first spike of LIF neurons that a constant current drives: the stronger, the earlier.

    It is :func:`spike_latency_encode` of :func:`constant_current_lif_encode`.

    Args:
        input_current: current of each neuron, any shape.
        seq_length: number of time steps T.
        p: parameters; there is no synapse, so ``tau_syn_inv`` does not matter.
        dt: length of a step in seconds.

    Returns:
        Spikes, ``(T, ...)``, at most one per neuron.

    Raises:
        ValueError: ``seq_length`` is negative, a parameter does not broadcast to the current, or the surrogate is unknown.

    Source: as for :func:`spike_latency_encode`.

    Example:
        >>> spike_latency_lif_encode(torch.tensor([2.0, 4.0, 8.0, 16.0]), 3)
        tensor([[0., 0., 0., 1.],
                [0., 0., 1., 0.],
                [0., 1., 0., 0.]])
    """
    spikes = constant_current_lif_encode(input_current, seq_length, p, dt)
    return spikes.masked_fill_(_spiked_before(spikes), 0)


def spike_latency_encode(input_spikes: torch.Tensor) -> torch.Tensor:
    """Keep the first spike of each neuron and remove all others.

    Args:
        input_spikes: spikes over time, ``(T, ...)``, of any dtype; whatever differs from 0 is a spike.

    Returns:
        Spikes in the shape and dtype of the input, at most one per neuron.

    Raises:
        IndexError: the input has no time dimension.

    Source: R. Van Rullen, S. Thorpe, *Rate Coding Versus Temporal Order Coding: What the Retinal Ganglion Cells Tell the
    Visual Cortex*, Neural Computation 13 (2001), 1255-1283.

    Example:
        >>> spike_latency_encode(torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
        tensor([[0., 1., 1.],
                [1., 0., 0.]])
    """
    # Not a product, in which NaN would stay.
    return input_spikes.masked_fill(_spiked_before(input_spikes), 0)
