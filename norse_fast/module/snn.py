"""Base classes of all neuron modules: one step or all steps, with or without recurrent weights.

They turn a step function into a module that creates its own initial state. A step function of norse_fast runs fused over all
time steps; any other callable with the same signature is called once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from typing_extensions import TypeVar

from .._kernels.checks import check_tensor
from .._kernels.neuron import SEQUENCES, Neuron
from .._kernels.outputs import BYTES, NUMBERS, REDUCED, Outputs
from .._kernels.recurrent import RECURRENT, Recurrent, stack_states
from .._kernels.weights import check_weights
from ._initial import ANY_INPUT, UNIFORM
from ._parameters import Parameters
from ._stateful import State, Stateful
from ._weights import Weights

__all__ = ["SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell"]

#: A step function: input, state, parameters and step length to output and new state. ``activation`` is one.
FeedforwardActivation = Callable[..., tuple[torch.Tensor, Any]]
Fused = TypeVar("Fused", Neuron, Recurrent)


def _check_time(input_tensor: torch.Tensor) -> None:
    check_tensor("input_tensor", input_tensor)
    if input_tensor.dim() == 0:
        raise ValueError(
            "input_tensor: got a 0-dim tensor, expected (T, ...) with time first; add a dimension for time."
        )


def _check_output(output: Any, activation: FeedforwardActivation) -> None:
    if output not in tuple(NUMBERS):
        raise ValueError(
            f"output: got {output!r}, expected one of {', '.join(map(repr, NUMBERS))}; leave it out for the outputs of all "
            "steps."
        )
    neuron = SEQUENCES.get(activation)
    if output in BYTES and neuron is not None and not neuron.surrogate:
        raise ValueError(
            f"output: got {output!r}, expected one of 'all', 'sum', 'mean', 'last', because the output is a membrane "
            "potential; only spikes fit into bytes."
        )


def find_fused(
    known: dict[FeedforwardActivation, Fused], activation: FeedforwardActivation, options: dict[str, Any]
) -> Fused | None:
    """What runs all time steps of a step function, SEQUENCES or RECURRENT, with its ``reset_options``; None where nothing."""
    fused = known.get(activation)
    if fused is None or fused.reset is None or not options:
        return fused
    reset, detach_reset = fused.reset
    return fused.variants[options.get("reset", reset), options.get("detach_reset", detach_reset)]


def _run_steps(
    step: Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]],
    input_tensor: torch.Tensor,
    state: Any,
    record: bool,
    kind: str = "all",
) -> tuple[torch.Tensor, Any]:
    """Call ``step`` for every time step; unbind makes the backward linear in T, where indexing makes it quadratic."""
    if input_tensor.shape[0] == 0:
        raise ValueError(f"input_tensor: got shape {tuple(input_tensor.shape)}, expected at least one time step.")
    outputs, states = Outputs(kind), []
    for x in input_tensor.unbind(0):
        output, state = step(x, state)
        outputs.add(output)
        if record:
            states.append(state)
    return outputs.result(), stack_states(states) if record else state


class SNNCell(Parameters, Stateful[State]):
    """One time step of neurons without weights.

    Args:
        activation: step function ``(input, state, p, dt) -> (output, state)``.
        state_fallback: makes the initial state from the input, where none is given.
        p: parameters, handed to ``activation``; they are not registered with the module, but for those of ``learn``.
        dt: length of a step in seconds.
        activation_sparse: step function for sparse COO input; without one, and in other sparse layouts, it becomes dense.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.
        reset, detach_reset: see :mod:`norse_fast.functional.reset`; by default what ``activation`` does.

    Example:
        >>> from norse_fast.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step
        >>> def initial(x):
        ...     return LIFFeedForwardState(torch.zeros_like(x), torch.zeros_like(x))
        >>> z, state = SNNCell(lif_feed_forward_step, initial, LIFParameters())(torch.ones(2))
        >>> state.i
        tensor([0.8000, 0.8000])
    """

    def __init__(
        self,
        activation: FeedforwardActivation,
        state_fallback: Callable[[torch.Tensor], Any],
        p: Any,
        dt: float = 0.001,
        activation_sparse: FeedforwardActivation | None = None,
        *,
        learn: str | Sequence[str] = (),
        reset: str | None = None,
        detach_reset: bool | None = None,
    ) -> None:
        super().__init__()
        self._set_step(activation, activation_sparse, state_fallback, p, dt, learn, reset, detach_reset)

    def _neuron_shape(self, input_tensor: torch.Tensor) -> Sequence[int]:
        return input_tensor.shape

    def extra_repr(self) -> str:
        """The parameters and the time step."""
        return f"p={self.p}, dt={self.dt}{self._shown_reset()}"

    def forward(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Run one step.

        Args:
            input_tensor: input of one step, for example ``(B, N)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The output and the new state.
        """
        if state is None:
            check_tensor("input_tensor", input_tensor)
            state = self.state_fallback(input_tensor)
        activation, options = self._step_for(input_tensor), self.reset_options
        if options:
            return activation(input_tensor, state, self.p, self.dt, **options)
        return activation(input_tensor, state, self.p, self.dt)  # which takes a sixtieth less


class SNN(Parameters, Stateful[State]):
    """All time steps of neurons without weights.

    Args:
        activation: step function ``(input, state, p, dt) -> (output, state)``.
        state_fallback: makes the initial state from the input over time, where none is given.
        p: parameters, handed to ``activation``; they are not registered with the module, but for those of ``learn``.
        dt: length of a step in seconds.
        activation_sparse: step function for sparse COO input; without one, and in other sparse layouts, it becomes dense.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        output: what to return of the outputs. ``"all"``: those of all steps, in the input's dtype. ``"uint8"`` or
            ``"bool"``: the spikes of all steps as bytes, a quarter of the memory of float32; they have no gradient, and only
            the state has. ``"sum"``, ``"mean"`` or ``"last"``: their sum or mean over time, or that of the last step, with
            gradients, in the input's dtype; those of all steps are never in memory. Half precision is summed in float32.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.
        reset, detach_reset: see :mod:`norse_fast.functional.reset`; by default what ``activation`` does.

    Raises:
        ValueError: ``output`` is unknown, or bytes where the output is a membrane potential.

    Example:
        >>> from norse_fast.functional.leaky_integrator import LIParameters, LIState, li_feed_forward_step
        >>> def initial(x):
        ...     return LIState(torch.zeros_like(x[0]), torch.zeros_like(x[0]))
        >>> SNN(li_feed_forward_step, initial, LIParameters())(torch.ones(3, 1))[0].flatten()
        tensor([0.1000, 0.2700, 0.4870])
        >>> SNN(li_feed_forward_step, initial, LIParameters(), output="sum")(torch.ones(3, 1))[0]
        tensor([0.8570])
    """

    output: str = "all"  # for modules that were made without the constructor, or pickled before there was a choice

    def __init__(
        self,
        activation: FeedforwardActivation,
        state_fallback: Callable[[torch.Tensor], Any],
        p: Any,
        dt: float = 0.001,
        activation_sparse: FeedforwardActivation | None = None,
        record_states: bool = False,
        *,
        output: str = "all",
        learn: str | Sequence[str] = (),
        reset: str | None = None,
        detach_reset: bool | None = None,
    ) -> None:
        super().__init__()
        _check_output(output, activation)
        self._set_step(activation, activation_sparse, state_fallback, p, dt, learn, reset, detach_reset)
        self.record_states = record_states
        self.output = output

    def _neuron_shape(self, input_tensor: torch.Tensor) -> Sequence[int]:
        return input_tensor.shape[1:]

    def _starts_from_values(self, input_tensor: torch.Tensor) -> bool:
        """Whether values that broadcast are as good as an initial state of tensors: nobody sees it, it gets no gradient (see
        :func:`leaf`), and float32 is what it is computed in."""
        return (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and getattr(self.state_fallback, "__func__", None) in UNIFORM
            and input_tensor.dtype is torch.float32
            and (input_tensor.requires_grad or not torch.is_grad_enabled())
        )

    def extra_repr(self) -> str:
        """The parameters, the time step, and the output where it is not that of all steps."""
        shown = f"p={self.p}, dt={self.dt}{self._shown_reset()}"
        return shown if self.output == "all" else f"{shown}, output={self.output!r}"

    def forward(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Run all steps.

        Args:
            input_tensor: input over time, ``(T, ...)``, for example ``(T, B, N)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The outputs of all steps, ``(T, ...)``, or what ``output`` asks for instead; and the last state, or the states
            of all steps with ``record_states``.

        Raises:
            ValueError: the mean of no step is asked for, or the last of none.
        """
        _check_time(input_tensor)
        kind, record = self.output, self.record_states
        empty = kind in REDUCED and input_tensor.shape[0] == 0
        if empty and kind != "sum":
            raise ValueError(
                f"input_tensor: got shape {tuple(input_tensor.shape)}, expected at least one time step for "
                f"output={kind!r}; only the sum of none is defined."
            )
        activation = self._step_for(input_tensor)
        options = self.reset_options
        neuron = find_fused(SEQUENCES, activation, options)
        values = state is None and neuron is not None and self._starts_from_values(input_tensor)
        if state is None:
            state = self.state_fallback(ANY_INPUT if values else input_tensor)
        if neuron is None:
            return _run_steps(
                lambda x, s: activation(x, s, self.p, self.dt, **options), input_tensor, state, record, kind
            )
        p, dt = self.p, self.dt
        kind = "all" if empty else kind
        outputs, last = neuron(input_tensor, state, p, dt, sequence=True, record=record, kind=kind)
        if values and tuple.__getitem__(last, -1).dtype is torch.float64:
            # Parameters made it so. Tensors would have been rounded to the dtype of the input, the values were not.
            state = self.state_fallback(input_tensor)
            outputs, last = neuron(input_tensor, state, p, dt, sequence=True, record=record, kind=kind)
        return outputs.sum(0) if empty else outputs, last


class SNNRecurrentCell(Weights, Stateful[State]):
    """One time step of neurons with input and recurrent weights.

    Args:
        activation: step function ``(input, state, input_weights, recurrent_weights, p, dt) -> (output, state)``.
        state_fallback: makes the initial state from the input, where none is given.
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, handed to ``activation``; they are not registered with the module, but for those of ``learn``.
        input_weights: shape ``(N, inputs)``; by default a parameter, normal with variance ``2 / N``.
        recurrent_weights: shape ``(N, N)``; likewise.
        autapses: whether a neuron may excite itself. If not, the diagonal of the recurrent weights is zeroed in place;
            whatever is assigned to it later does not act, and its gradient is zero.
        dt: length of a step in seconds.
        activation_sparse: step function for sparse COO input; without one, and in other sparse layouts, it becomes dense.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.
        reset, detach_reset: see :mod:`norse_fast.functional.reset`; by default what ``activation`` does.

    Raises:
        TypeError: a weight is not a tensor.
        ValueError: a weight has another shape.

    Example:
        >>> from norse_fast.functional.lif import LIFParameters, LIFState, lif_step
        >>> def initial(x):
        ...     return LIFState(*(torch.zeros(x.shape[0], 4) for _ in range(3)))
        >>> cell = SNNRecurrentCell(lif_step, initial, 2, 4, LIFParameters())
        >>> cell(torch.ones(1, 2))[0].shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        activation: FeedforwardActivation,
        state_fallback: Callable[[torch.Tensor], Any],
        input_size: int,
        hidden_size: int,
        p: Any,
        input_weights: torch.Tensor | None = None,
        recurrent_weights: torch.Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
        activation_sparse: FeedforwardActivation | None = None,
        *,
        learn: str | Sequence[str] = (),
        reset: str | None = None,
        detach_reset: bool | None = None,
    ) -> None:
        super().__init__()
        self._set_step(activation, activation_sparse, state_fallback, p, dt, learn, reset, detach_reset)
        self._set_weights(input_size, hidden_size, input_weights, recurrent_weights, autapses)

    def _neuron_shape(self, input_tensor: torch.Tensor) -> Sequence[int]:
        return (*input_tensor.shape[:-1], self.input_weights.shape[0])

    def forward(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Run one step.

        Args:
            input_tensor: input of one step, ``(..., inputs)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The output, ``(..., N)``, and the new state.

        Raises:
            ValueError: the input has another width.
        """
        input_weights = self.input_weights  # once, as reading what is parametrized computes it
        check_weights(input_tensor, state, input_weights)
        if state is None:
            state = self.state_fallback(input_tensor)
        activation = self._step_for(input_tensor)
        weights = (input_weights, self._weights_of_step())
        return activation(input_tensor, state, *weights, self.p, self.dt, **self.reset_options)


class SNNRecurrent(Weights, Stateful[State]):
    """All time steps of neurons with input and recurrent weights.

    The input projection of all steps is one matrix product.

    Args:
        activation: step function ``(input, state, input_weights, recurrent_weights, p, dt) -> (output, state)``.
        state_fallback: makes the initial state from the input over time, where none is given.
        input_size: number of inputs.
        hidden_size: number of neurons N.
        p: parameters, handed to ``activation``; they are not registered with the module, but for those of ``learn``.
        input_weights: shape ``(N, inputs)``; by default a parameter, normal with variance ``2 / N``.
        recurrent_weights: shape ``(N, N)``; likewise.
        autapses: whether a neuron may excite itself, see :class:`SNNRecurrentCell`.
        dt: length of a step in seconds.
        activation_sparse: step function for sparse COO input; without one, and in other sparse layouts, it becomes dense.
        record_states: return the states of all steps, stacked over time, instead of the last state.
        learn: names of fields of ``p`` that become parameters of the module, see :doc:`/learning`.
        reset, detach_reset: see :mod:`norse_fast.functional.reset`; by default what ``activation`` does.

    Raises:
        TypeError: a weight is not a tensor.
        ValueError: a weight has another shape.

    Example:
        >>> from norse_fast.functional.lif import LIFParameters, LIFState, lif_step
        >>> def initial(x):
        ...     return LIFState(*(torch.zeros(x.shape[1], 4) for _ in range(3)))
        >>> layer = SNNRecurrent(lif_step, initial, 2, 4, LIFParameters())
        >>> layer(torch.ones(5, 1, 2))[0].shape
        torch.Size([5, 1, 4])
    """

    def __init__(
        self,
        activation: FeedforwardActivation,
        state_fallback: Callable[[torch.Tensor], Any],
        input_size: int,
        hidden_size: int,
        p: Any,
        input_weights: torch.Tensor | None = None,
        recurrent_weights: torch.Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
        activation_sparse: FeedforwardActivation | None = None,
        record_states: bool = False,
        *,
        learn: str | Sequence[str] = (),
        reset: str | None = None,
        detach_reset: bool | None = None,
    ) -> None:
        super().__init__()
        self._set_step(activation, activation_sparse, state_fallback, p, dt, learn, reset, detach_reset)
        self.record_states = record_states
        self._set_weights(input_size, hidden_size, input_weights, recurrent_weights, autapses)

    def _neuron_shape(self, input_tensor: torch.Tensor) -> Sequence[int]:
        return (*input_tensor.shape[1:-1], self.input_weights.shape[0])

    def forward(self, input_tensor: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Run all steps.

        Args:
            input_tensor: input over time, ``(T, ..., inputs)``.
            state: state of the neurons, or None for the initial one.

        Returns:
            The outputs of all steps, ``(T, ..., N)``, and the last state, or the states of all steps with
            ``record_states``.

        Raises:
            ValueError: the input has another width, or no time step.
        """
        _check_time(input_tensor)
        input_weights = self.input_weights  # once, as reading what is parametrized computes it
        check_weights(input_tensor, state, input_weights)
        if state is None:
            state = self.state_fallback(input_tensor)
        weights = (input_weights, self._weights_of_step())
        activation = self._step_for(input_tensor)
        options = self.reset_options
        layer = find_fused(RECURRENT, activation, options)
        if layer is not None:
            return layer(input_tensor, state, *weights, self.p, self.dt, self.record_states)
        return _run_steps(
            lambda x, s: activation(x, s, *weights, self.p, self.dt, **options), input_tensor, state, self.record_states
        )
