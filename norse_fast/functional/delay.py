r"""Delays of spikes and other signals, in time steps, and weights of which each has a delay.

.. math::
    y(t) = x(t - d)

Time :math:`t` counts steps. A delay between two steps, :math:`d = k + f` with :math:`0 \le f < 1`, interpolates linearly:

.. math::
    y(t) = (1 - f)\, x(t - k) + f\, x(t - k - 1), \qquad \frac{\partial y(t)}{\partial d} = x(t - k - 1) - x(t - k)

Delays count as 0 below 0 and as :math:`D` above :math:`D`, the number of inputs that the state remembers; there, their
gradient is that at 0 or at :math:`D`, so that a delay that an optimiser moved too far can come back. Where a delay is a whole
number, the derivative is the one to the right, and at :math:`D` the one to the left. Delays of an integer dtype have no
gradient and pick values as they are.

Source: A. Hammouamri, I. Khalfaoui-Hassani, T. Masquelier, *Learning Delays in Spiking Neural Networks using Dilated
Convolutions with Learnable Spacings*, International Conference on Learning Representations, 2024, arXiv 2306.17670; the
interpolation is that of I. Khalfaoui-Hassani, T. Pellegrini, T. Masquelier, *Dilated convolution with learnable spacings*,
International Conference on Learning Representations, 2023, arXiv 2112.03740.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .._kernels.checks import as_floating, check_broadcast, is_autocast
from ..utils.pytree import StateTuple

__all__ = ["DelayState", "delay_sequence", "delay_step", "delayed_linear_sequence", "delayed_linear_step"]


class DelayState(StateTuple):
    """State of delays: what has not arrived everywhere yet.

    Args:
        inputs: the last D inputs, ``(D, ...)``, the oldest first; zeros before the first step.

    Example:
        >>> DelayState(inputs=torch.zeros(5, 2, 3)).inputs.shape
        torch.Size([5, 2, 3])
    """

    inputs: torch.Tensor


def delay_sequence(
    input_tensor: torch.Tensor, state: DelayState, delays: torch.Tensor
) -> tuple[torch.Tensor, DelayState]:
    r"""All time steps of a delay, :math:`y(t) = x(t - d)`, in one gather.

    Args:
        input_tensor: input :math:`x` over time, ``(T, ...)``; what is not floating point is converted to the default dtype.
        state: the last D inputs; D of 1 or more is the longest delay.
        delays: delays :math:`d` in time steps, of a shape that broadcasts to the input at one step, on the input's device.

    Returns:
        The delayed input, ``(T, ...)``, and the new state. The same steps in several calls give the same bits.

    Raises:
        TypeError: the input is quantised, or the state is none of a delay.
        ValueError: the delays do not broadcast, or the state is that of an input of another shape.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> y, state = delay_sequence(x, DelayState(torch.zeros(2, 1)), torch.tensor(1.5))
        >>> y.flatten(), state.inputs.flatten()
        (tensor([0.0000, 0.5000, 1.5000]), tensor([2., 3.]))
    """
    padded, new_state = _continued(as_floating("input_tensor", input_tensor, torch.get_default_dtype()), state)
    steps, shape = input_tensor.shape[0], input_tensor.shape[1:]
    longest = padded.shape[0] - steps
    check_broadcast("delays", delays, shape, "pass one delay, or one per neuron")
    before, share = _neighbours(delays, longest)
    whole = not delays.is_floating_point()
    # Between two steps, both are needed: the later one of each step is the earlier one of the next.
    now = torch.arange(0 if whole else -1, steps, device=padded.device).reshape(-1, *(1 for _ in shape))
    rows = longest + now - (before + share if whole else before)
    values = padded.gather(0, rows.expand(-1, *shape))
    return values if whole else torch.lerp(values[1:], values[:-1], share.to(values.dtype)), new_state


def delay_step(input_tensor: torch.Tensor, state: DelayState, delays: torch.Tensor) -> tuple[torch.Tensor, DelayState]:
    r"""One time step of a delay, :math:`y(t) = x(t - d)`.

    Args:
        input_tensor: input of the step, for example ``(B, N)``.
        state: the last D inputs; D of 1 or more is the longest delay.
        delays: delays :math:`d` in time steps, of a shape that broadcasts to the input, on its device.

    Returns:
        The input of :math:`d` steps ago and the new state, bit for bit those of :func:`delay_sequence`.

    Raises:
        TypeError: the input is quantised, or the state is none of a delay.
        ValueError: the delays do not broadcast, or the state is that of an input of another shape.

    Example:
        >>> state, delays = DelayState(torch.zeros(2, 2)), torch.tensor([0, 1])
        >>> y, state = delay_step(torch.tensor([1.0, 2.0]), state, delays)
        >>> y
        tensor([1., 0.])
        >>> delay_step(torch.tensor([3.0, 4.0]), state, delays)[0]
        tensor([3., 2.])
    """
    y, state = delay_sequence(input_tensor[None], state, delays)
    return y[0], state


def delayed_linear_sequence(
    input_tensor: torch.Tensor,
    state: DelayState,
    weight: torch.Tensor,
    delays: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, DelayState]:
    r"""All time steps of weights of which each has a delay.

    .. math::
        y_o(t) = \sum_i w_{oi}\, x_i(t - d_{oi}) + b_o

    It is one convolution over time, with a kernel of D + 1 taps per weight of which at most two are not zero. Steps are the
    rows of an image and samples its columns, so that the features lie together in memory: on the CPU, that trains faster
    than a convolution of one dimension and than a product with the input of all taps, which also takes D + 1 times the
    memory.

    Args:
        input_tensor: input :math:`x` over time, ``(T, ..., inputs)``, with T of 1 or more; what is not floating point is
            converted to the dtype of the weights.
        state: the last D inputs; D of 1 or more is the longest delay.
        weight: weights :math:`w`, ``(outputs, inputs)``.
        delays: delays :math:`d` in time steps, of a shape that broadcasts to that of the weights.
        bias: :math:`b`, ``(outputs,)``, or None.

    Returns:
        The outputs, ``(T, ..., outputs)``, and the new state. The same steps in several calls may round differently.

    Raises:
        TypeError: the input is quantised or of another dtype than the weights, or the state is none of a delay.
        ValueError: the input has another width or no time step, the delays do not broadcast, or the state is that of an
            input of another shape.

    Example:
        >>> x = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> state, weight, delays = DelayState(torch.zeros(2, 2)), torch.ones(1, 2), torch.tensor([[0.0, 1.0]])
        >>> delayed_linear_sequence(x, state, weight, delays)[0].flatten()
        tensor([ 1., 12., 23.])
    """
    _check_features(input_tensor, weight)
    x, new_state = _continued(as_floating("input_tensor", input_tensor, weight.dtype), state)
    steps, *batch, inputs = input_tensor.shape
    longest = x.shape[0] - steps
    kernel = _kernel(weight, delays, longest)
    if 0 in (*batch, *weight.shape):
        # Of the right shape: PyTorch convolves no image without columns, and none without channels.
        return torch.nn.functional.linear(x[-steps:], kernel.sum(-1), bias), new_state
    image = x.reshape(1, longest + steps, math.prod(batch), inputs).permute(0, 3, 1, 2)
    y = torch.nn.functional.conv2d(image, kernel[..., None], bias)
    return y.permute(0, 2, 3, 1).reshape(steps, *batch, weight.shape[0]), new_state


def delayed_linear_step(
    input_tensor: torch.Tensor,
    state: DelayState,
    weight: torch.Tensor,
    delays: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, DelayState]:
    r"""One time step of weights of which each has a delay, :math:`y_o(t) = \sum_i w_{oi}\, x_i(t - d_{oi}) + b_o`.

    Args:
        input_tensor: input of the step, ``(..., inputs)``.
        state: the last D inputs; D of 1 or more is the longest delay.
        weight: weights :math:`w`, ``(outputs, inputs)``.
        delays: delays :math:`d` in time steps, of a shape that broadcasts to that of the weights.
        bias: :math:`b`, ``(outputs,)``, or None.

    Returns:
        The outputs, ``(..., outputs)``, and the new state: those of :func:`delayed_linear_sequence` but for rounding.

    Raises:
        TypeError: the input is quantised or of another dtype than the weights, or the state is none of a delay.
        ValueError: the input has another width, the delays do not broadcast, or the state is that of an input of another
            shape.

    Example:
        >>> state, weight, delays = DelayState(torch.zeros(2, 2)), torch.ones(1, 2), torch.tensor([[0.0, 1.0]])
        >>> y, state = delayed_linear_step(torch.tensor([1.0, 10.0]), state, weight, delays)
        >>> y, delayed_linear_step(torch.tensor([2.0, 20.0]), state, weight, delays)[0]
        (tensor([1.]), tensor([12.]))
    """
    y, state = delayed_linear_sequence(input_tensor[None], state, weight, delays, bias)
    return y[0], state


def _check_features(input_tensor: torch.Tensor, weight: torch.Tensor) -> None:
    if input_tensor.dim() < 2 or input_tensor.shape[0] == 0 or input_tensor.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input_tensor: got shape {tuple(input_tensor.shape)} over time, expected (T, ..., {weight.shape[1]}) with at "
            f"least one time step, because weight has shape {tuple(weight.shape)}; its columns are the inputs."
        )
    dtype = input_tensor.dtype
    if dtype.is_floating_point and dtype != weight.dtype and not is_autocast(input_tensor.device.type):
        raise TypeError(
            f"input_tensor: got dtype {dtype}, expected {weight.dtype}, that of weight; convert one of them with .to()."
        )


def _continued(x: torch.Tensor, state: Any) -> tuple[torch.Tensor, DelayState]:
    """The inputs over time behind those that the state remembers, and the new state."""
    inputs = getattr(state, "inputs", None)
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(
            f"state: got {type(state).__name__}, expected a DelayState; pass the state that the last call returned, or None "
            "to a module."
        )
    if inputs.dim() != x.dim() or inputs.shape[0] == 0 or inputs.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"state.inputs: got shape {tuple(inputs.shape)}, expected (D, {', '.join(map(str, x.shape[1:]))}) with D of 1 or "
            "more; the state of an input of another shape cannot be carried over."
        )
    steps, longest = x.shape[0], inputs.shape[0]
    padded = torch.cat((inputs, x))
    last = padded.narrow(0, steps, longest)
    # A view would keep all steps in memory. A compiler shall make one graph of all lengths.
    if torch.compiler.is_compiling() or steps > longest:
        last = last.clone()
    return padded, DelayState(inputs=last)


def _neighbours(delays: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The step at or before each delay, less than ``longest``, and the share of the step after it, 0 to 1."""
    if not delays.is_floating_point():
        held = delays.long().clamp(0, longest)
        before = held.clamp(max=longest - 1)
        return before, held - before
    held = delays.detach().clamp(0, longest)
    # What is NaN picks a step too, and its share makes the output NaN.
    before = held.long().clamp(0, longest - 1)
    # The difference is zero, of infinite delays too, and hands on the gradient.
    return before, held + (delays - delays.detach()).nan_to_num() - before


def _kernel(weight: torch.Tensor, delays: torch.Tensor, longest: int) -> torch.Tensor:
    """The weights at their delays, ``(outputs, inputs, D + 1)``; the last tap is that of no delay."""
    check_delays_of(weight.shape, delays)
    before, share = _neighbours(delays, longest)
    share = share.to(weight.dtype)
    taps = torch.stack(((1 - share) * weight, share * weight), dim=-1)
    last = (longest - before).expand(weight.shape)
    places = torch.stack((last, last - 1), dim=-1)
    return weight.new_zeros((*weight.shape, longest + 1)).scatter(-1, places, taps)


def check_delays_of(shape: torch.Size, delays: torch.Tensor) -> None:
    """Raise if delays do not broadcast to the shape of weights."""
    fix = f"pass one per weight, ({shape[1]},) for one per input, or ({shape[0]}, 1) for one per output"
    check_broadcast("delays", delays, shape, fix, "the weights")
