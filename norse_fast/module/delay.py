"""Modules with delays; the equations and their source are in :mod:`norse_fast.functional.delay`."""

from __future__ import annotations

import math
from typing import Any

import torch

from .._constants import constant
from ..functional.delay import DelayState, check_delays_of, delay_sequence, delayed_linear_sequence
from ._initial import zeros
from ._parameters import _as_parameter
from ._stateful import Stateful
from .snn import _check_time

__all__ = ["Delay", "DelayCell", "DelayedLinear", "DelayedLinearCell"]


def _checked(delays: Any, max_delay: int | None) -> tuple[torch.Tensor, int]:
    """Delays as a tensor, and the longest that they may become."""
    try:
        values = constant(delays, torch.get_default_dtype())
    except (RuntimeError, TypeError, ValueError):
        values = None
    if values is None or values.dtype is torch.bool or values.is_complex() or values.is_quantized:
        got = type(delays).__name__ if values is None else f"dtype {values.dtype}"
        raise TypeError(f"delays: got {got}, expected a number of time steps, or a tensor of them; pass such numbers.")
    if max_delay is not None:
        check_max_delay(max_delay)
    if not values.isfinite().all():
        raise ValueError("delays: got NaN or infinity, expected finite numbers of time steps; replace those values.")
    low, high = (values.min().item(), values.max().item()) if values.numel() else (0, 0)
    if low < 0:
        raise ValueError(
            f"delays: got {low:g}, expected 0 or more, since no output can wait for later inputs; clamp them with "
            ".clamp(min=0)."
        )
    if max_delay is None:
        return values, max(1, math.ceil(high))
    if high > max_delay:
        raise ValueError(f"delays: got {high:g}, expected at most max_delay={max_delay}; raise max_delay.")
    return values, max_delay


def check_max_delay(max_delay: Any) -> None:
    """Raise if it is no longest delay."""
    if not isinstance(max_delay, int) or isinstance(max_delay, bool) or max_delay < 1:
        raise ValueError(
            f"max_delay: got {max_delay!r}, expected an integer of 1 or more; pass a number of time steps."
        )


class _Delayed(Stateful[DelayState]):
    """What modules with delays share: the delays, and the inputs that they remember."""

    delays: torch.Tensor
    max_delay: int

    def _set_delays(self, delays: torch.Tensor, max_delay: int, learnable: bool) -> None:
        self.max_delay = max_delay
        if learnable:
            self.register_parameter("delays", _as_parameter(delays))
        else:
            self.register_buffer("delays", delays.detach().clone())

    def _remembered(self, x: torch.Tensor, state: DelayState | None, dtype: torch.dtype | None = None) -> DelayState:
        """The state, or for inputs over time the one before the first step."""
        if state is None:
            return DelayState(inputs=zeros((self.max_delay, *x.shape[1:]), x, dtype))
        inputs = getattr(state, "inputs", None)
        if isinstance(inputs, torch.Tensor) and inputs.dim() and 0 < len(inputs) != self.max_delay:
            raise ValueError(
                f"state.inputs: got {len(inputs)} steps, expected max_delay={self.max_delay}, since older inputs would be "
                "missing; pass a state of this module, or None."
            )
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As of any module, but only delays that the constructor would take; learned ones act as if within its limits."""
        delays = state_dict.get(f"{prefix}delays")
        if "delays" in self._buffers and isinstance(delays, torch.Tensor) and not delays.is_meta:
            try:
                _checked(delays, self.max_delay)
                if not (self.delays.is_floating_point() or torch.equal(delays, delays.round())):
                    raise ValueError(
                        "delays: got fractions, expected whole numbers, because this module was made with integers; make "
                        "it with floating point delays."
                    )
            except (TypeError, ValueError) as error:
                args[-1].append(f"{prefix}{error}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Delay(_Delayed):
    """A delay; its subclasses choose between a step and all steps."""

    def __init__(self, delays: Any, max_delay: int | None = None, learnable: bool = False, dt: float = 0.001) -> None:
        super().__init__()
        self._set_delays(*_checked(delays, max_delay), learnable)
        self.dt = dt

    def extra_repr(self) -> str:
        """The delays."""
        learnable = isinstance(self.delays, torch.nn.Parameter)
        return f"delays={self.delays.detach()}, max_delay={self.max_delay}, learnable={learnable}"

    def over_time(self, x: torch.Tensor, state: DelayState | None) -> tuple[torch.Tensor, DelayState]:
        """All time steps."""
        _check_time(x)
        return delay_sequence(x, self._remembered(x, state), self.delays)


class DelayCell(_Delay):
    """One time step of a delay.

    Equations, dtypes and errors are those of :func:`norse_fast.functional.delay.delay_step`. Before the first step all
    inputs are zero. Input and output have the same shape, for example ``(B, N)``.

    Args:
        delays: delays in time steps: a number, or numbers of any shape that broadcasts to the input of one step, for example
            ``(N,)``, or ``(C, 1, 1)`` for the channels of images. Integers pick inputs as they are; fractions lie between
            two steps.
        max_delay: the longest delay in steps, 1 or more, which is how many inputs the state remembers; by default the
            longest of ``delays``, rounded up. Learned delays act as if they were within 0 and this.
        learnable: whether the delays are a parameter, a floating point one; otherwise they are a buffer.
        dt: length of a step in seconds, by which :func:`~norse_fast.utils.export_nir.to_nir` writes the delays in seconds.

    Raises:
        TypeError: the delays are no numbers.
        ValueError: the delays are NaN, negative or above ``max_delay``, or that is no integer of 1 or more.

    Example:
        >>> cell, state = DelayCell(torch.tensor([0, 2])), None
        >>> for x in torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]):
        ...     y, state = cell(x, state)
        >>> y
        tensor([3., 1.])
    """

    def forward(self, input_tensor: torch.Tensor, state: DelayState | None = None) -> tuple[torch.Tensor, DelayState]:
        """Run one step.

        Args:
            input_tensor: input of one step, for example ``(B, N)``.
            state: the last inputs, or None where this is the first.

        Returns:
            The delayed input and the new state.

        Raises:
            ValueError: the delays do not broadcast to the input.
        """
        y, state = self.over_time(input_tensor[None], state)
        return y[0], state


class Delay(_Delay):
    """All time steps of a delay, in one gather.

    Equations, dtypes and errors are those of :func:`norse_fast.functional.delay.delay_sequence`. Before the first step all
    inputs are zero. Input and output are ``(T, ...)``, for example ``(T, B, N)``. The results are bit for bit those of
    :class:`DelayCell`, and those of a sequence that is split, with the state handed on.

    Args:
        delays: as for :class:`DelayCell`.
        max_delay: likewise.
        learnable: likewise.
        dt: likewise.

    Raises:
        TypeError: the delays are no numbers.
        ValueError: the delays are NaN, negative or above ``max_delay``, or that is no integer of 1 or more.

    Example:
        >>> delay = Delay(1.5, max_delay=4, learnable=True)
        >>> y, state = delay(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
        >>> y.flatten().detach()
        tensor([0.0000, 0.5000, 0.5000, 0.0000])
        >>> y[1].backward()  # a longer delay brings less in step 1
        >>> delay.delays.grad
        tensor(-1.)
    """

    def forward(self, input_tensor: torch.Tensor, state: DelayState | None = None) -> tuple[torch.Tensor, DelayState]:
        """Run all steps.

        Args:
            input_tensor: input over time, ``(T, ...)``.
            state: the inputs before, or None where there were none.

        Returns:
            The delayed input, ``(T, ...)``, and the last state.

        Raises:
            ValueError: the delays do not broadcast to the input of one step.
        """
        return self.over_time(input_tensor, state)


class _DelayedLinear(_Delayed):
    """Weights with delays; its subclasses choose between a step and all steps."""

    in_features: int
    out_features: int
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        max_delay: int,
        bias: bool = True,
        delays: Any = None,
        learnable: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_max_delay(max_delay)
        linear = torch.nn.Linear(in_features, out_features, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = linear.weight, linear.bias
        if delays is None:
            values = torch.empty_like(linear.weight.detach()).uniform_(0, max_delay)
        else:
            values, _ = _checked(delays, max_delay)
            check_delays_of(linear.weight.shape, values)
            values = values.to(device, dtype if values.is_floating_point() else None)
        self._set_delays(values, max_delay, learnable)

    def extra_repr(self) -> str:
        """The sizes, and which delays there are."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, max_delay={self.max_delay}, "
            f"bias={self.bias is not None}, delays of shape {tuple(self.delays.shape)}, "
            f"learnable={isinstance(self.delays, torch.nn.Parameter)}"
        )

    def over_time(self, x: torch.Tensor, state: DelayState | None) -> tuple[torch.Tensor, DelayState]:
        """All time steps."""
        _check_time(x)
        state = self._remembered(x, state, None if x.is_floating_point() else self.weight.dtype)
        return delayed_linear_sequence(x, state, self.weight, self.delays, self.bias)


class DelayedLinearCell(_DelayedLinear):
    """One time step of weights of which each has a delay.

    Equations, dtypes and errors are those of :func:`norse_fast.functional.delay.delayed_linear_step`. Before the first step
    all inputs are zero. Weights and bias start as those of ``torch.nn.Linear``, delays uniformly between 0 and ``max_delay``.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        max_delay: the longest delay in time steps, 1 or more, which is how many inputs the state remembers. Learned delays
            act as if they were within 0 and this.
        bias: whether there is one.
        delays: initial delays in time steps, of a shape that broadcasts to ``(outputs, inputs)``: one per weight by
            default, ``(inputs,)`` for one per input, ``(outputs, 1)`` for one per output.
        learnable: whether the delays are a parameter, a floating point one; otherwise they are a buffer.
        device: where the weights are made.
        dtype: dtype of the weights, and of delays that are no integers.

    Raises:
        TypeError: the delays are no numbers.
        ValueError: the delays do not broadcast, are NaN, negative or above ``max_delay``, or that is no integer of 1 or more.

    Example:
        >>> cell, state = DelayedLinearCell(3, 2, max_delay=10), None
        >>> for x in torch.ones(20, 4, 3):
        ...     y, state = cell(x, state)
        >>> y.shape, state.inputs.shape
        (torch.Size([4, 2]), torch.Size([10, 4, 3]))
    """

    def forward(self, input_tensor: torch.Tensor, state: DelayState | None = None) -> tuple[torch.Tensor, DelayState]:
        """Run one step.

        Args:
            input_tensor: input of one step, ``(..., inputs)``.
            state: the last inputs, or None where this is the first.

        Returns:
            The outputs, ``(..., outputs)``, and the new state.

        Raises:
            ValueError: the input has another width.
        """
        y, state = self.over_time(input_tensor[None], state)
        return y[0], state


class DelayedLinear(_DelayedLinear):
    """All time steps of weights of which each has a delay, in one convolution over time.

    Equations, dtypes and errors are those of :func:`norse_fast.functional.delay.delayed_linear_sequence`. Before the first
    step all inputs are zero. With one delay per input, :class:`Delay` and ``torch.nn.Linear`` compute the same in less time.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        max_delay: as for :class:`DelayedLinearCell`; time and memory of the kernel grow with it.
        bias: whether there is one.
        delays: as for :class:`DelayedLinearCell`.
        learnable: likewise.
        device: where the weights are made.
        dtype: dtype of the weights, and of delays that are no integers.

    Raises:
        TypeError: the delays are no numbers.
        ValueError: the delays do not broadcast, are NaN, negative or above ``max_delay``, or that is no integer of 1 or more.

    Example:
        >>> layer = DelayedLinear(3, 2, max_delay=10)
        >>> sorted(name for name, _ in layer.named_parameters())
        ['bias', 'delays', 'weight']
        >>> y, state = layer(torch.ones(20, 4, 3))
        >>> y.shape
        torch.Size([20, 4, 2])
    """

    def forward(self, input_tensor: torch.Tensor, state: DelayState | None = None) -> tuple[torch.Tensor, DelayState]:
        """Run all steps.

        Args:
            input_tensor: input over time, ``(T, ..., inputs)``.
            state: the inputs before, or None where there were none.

        Returns:
            The outputs, ``(T, ..., outputs)``, and the last state.

        Raises:
            ValueError: the input has another width, or no time step.
        """
        return self.over_time(input_tensor, state)
