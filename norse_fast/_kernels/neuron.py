"""How the public step functions reach a neuron model: checks, conversions, and the choice between kernel and PyTorch.

A :class:`Neuron` describes one model of csrc/neurons to Python. Calling it runs one step or a whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn

import torch

from .._constants import HALF, constant
from ..functional._surrogate import Derivative, Method
from ..functional.parameter import replacement
from ..functional.threshold import SURROGATES, surrogate_index, threshold
from .autograd import NEURONS, beyond_kernels, needs_gradient, run_fused, tracked
from .batches import register_batches
from .checks import (
    as_dense,
    as_dt,
    as_real_tensor,
    check_broadcast,
    check_device,
    check_dt,
    check_real,
    moved,
    takes_default_dtype,
)
from .extension import has_kernels, hint_at_step, native, native_model
from .ops import register_fakes, register_recurrent_fakes, register_shared_fakes
from .outputs import BYTES, NUMBERS, Outputs, finish
from .reset import ALL, Reset, Variants

__all__ = [
    "SEQUENCES",
    "Neuron",
    "descend",
    "spike_function",
]

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_STORABLE = (torch.float32, torch.float64, *HALF)
_READABLE = (*_STORABLE, torch.int64)  # some of the reference's default parameters are integers

# What models without spikes have in its place.
_NO_ALPHA = constant(1.0)

#: A pure-PyTorch step: (input, state, params, spike, dt) -> (output, new state); spiking ones also take the reset.
Step = Callable[..., tuple[torch.Tensor, Any]]

#: The neuron behind each public feed-forward step function: how a layer finds the kernel that runs all of its time steps.
SEQUENCES: dict[Callable[..., Any], Neuron] = {}


#: Reads fields of a tuple: the second function is one that torch.compile sees through, the first is several times faster.
_Readers = tuple[Callable[[Any], tuple[Any, ...]], Callable[[Any], tuple[Any, ...]]]


def _readers(names: Sequence[str]) -> _Readers:
    """Functions that read the (dotted) fields of a state or parameter tuple."""
    read_all = attrgetter(*names)
    # It gives no tuple for a single name.
    read = read_all if len(names) > 1 else lambda source: (read_all(source),)
    return read, lambda source: tuple([descend(source, name) for name in names])


def descend(source: Any, name: str) -> Any:
    """The field of a tuple, or of a tuple in it where the name is dotted; torch.compile sees through it."""
    for part in name.split("."):
        source = getattr(source, part)
    return source


class Neuron:
    """A neuron model: names of its state and parameters, its operators, and the same step in plain PyTorch.

    Args:
        name: prefix of the operators, kName in the model's header; None where there is only the PyTorch step.
        state: state variables in the order of the kernel; dotted where the user's state tuple is nested.
        params: parameters in the order of the kernel, likewise.
        pack: builds the user's state tuple from the state variables.
        step: the pure-PyTorch step, in the reference's order of operations.
        surrogate: field prefix of ``method`` and ``alpha`` in the parameters; None for models without spikes.
        coefficients: where kernel and step want others than the user's parameters, makes them from those and dt.
        kernel_params: the names of those, where they are others.
        reset_at: before which of the parameters the kernel takes the reset, by default after all; spiking models have one.
        thresholds: how many spike functions a step of a spiking model evaluates.
        reset: that of this neuron; by default there is one neuron for each that kernels know.
    """

    def __init__(
        self,
        name: str | None,
        state: tuple[str, ...],
        params: tuple[str, ...],
        pack: Callable[..., Any],
        step: Step,
        surrogate: str | None = "",
        coefficients: Callable[[tuple[Any, ...], float], tuple[Any, ...]] | None = None,
        kernel_params: tuple[str, ...] | None = None,
        reset_at: int | None = None,
        thresholds: int = 1,
        reset: Reset | None = None,
    ) -> None:
        self.name, self.state, self.params, self.pack, self.plain_step = name, state, params, pack, step
        self.surrogate = () if surrogate is None else (f"{surrogate}method", f"{surrogate}alpha")
        self._state_readers, self._p_readers = _readers(state), _readers((*params, *self.surrogate))
        own = kernel_params or params
        self.coefficients, self.kernel_params, self.reset = coefficients, own, reset
        self.reset_at = len(own) if reset_at is None else reset_at
        if surrogate is not None:
            self.kernel_params = (*own[: self.reset_at], "reset", *own[self.reset_at :])
            self.reset = reset or ALL[0]
            self._flag = constant(self.reset.code)
        self.model: int | None = None
        if name is not None and has_kernels("cpu"):
            recurrent = hasattr(torch.ops.norse_fast, f"{name}_recurrent_forward")
            if name not in NEURONS:
                NEURONS[name] = self
                sizes = (len(state), len(self.kernel_params), 0 if surrogate is None else thresholds)
                register_fakes(name, *sizes)
                register_batches(name, *sizes[:2])
                if recurrent:
                    register_recurrent_fakes(name, *sizes)
                    register_batches(name, *sizes[:2], recurrent=True)
            self.forward_op = getattr(torch.ops.norse_fast, f"{name}_forward").default
            self.backward_op = getattr(torch.ops.norse_fast, f"{name}_backward").default
            self.model = native_model(name)
            if recurrent:
                self.recurrent_forward_op = getattr(torch.ops.norse_fast, f"{name}_recurrent_forward").default
                self.recurrent_backward_op = getattr(torch.ops.norse_fast, f"{name}_recurrent_backward").default

        def with_other_reset(other: Reset) -> Neuron:
            known = name if isinstance(other.kind, str) else None
            rest = (surrogate, coefficients, kernel_params, reset_at, thresholds, other)
            return type(self)(known, state, params, pack, step, *rest)

        #: The neuron with each reset, by ``reset`` and ``detach_reset``.
        self.variants = Variants(with_other_reset)
        if surrogate is not None and reset is None:
            self.variants.update({ALL[0]: self, **{other: with_other_reset(other) for other in ALL[1:]}})
            for variant in self.variants.values():
                variant.variants = self.variants

    def step(self, x: torch.Tensor, state: Any, p: Any, spike: Any, dt: Any) -> tuple[torch.Tensor, Any]:
        """One step in plain PyTorch, with the parameters that the kernel takes."""
        if self.reset is None:
            return self.plain_step(x, state, p, spike, dt)
        return self.plain_step(x, state, (*p[: self.reset_at], *p[self.reset_at + 1 :]), spike, dt, self.reset)

    def __repr__(self) -> str:
        return f"Neuron({self.name!r})"

    def __call__(
        self,
        input: torch.Tensor,
        state: Any,
        p: Any,
        dt: float,
        sequence: bool = False,
        record: bool = False,
        kind: str = "all",
    ) -> tuple[torch.Tensor, Any]:
        """Run one step, or with ``sequence`` all steps along the first dimension of the input.

        Returns:
            The output, in the input's dtype, or what ``kind`` asks for of that of a sequence, which must have a step to be
            reduced; and the last state, or with ``record`` the states of all steps.
        """
        number = NUMBERS[kind]
        compiling = torch.compiler.is_compiling()
        if type(dt) is not float:
            dt = as_dt(dt)
            if isinstance(input, torch.Tensor):
                check_dt(dt, input.device, input.shape[1:] if sequence else input.shape)
        state_values, params, method, alpha = self._read(state, p, dt, compiling)
        surrogate = surrogate_index(method)
        run = None if compiling or self.model is None else native()
        results = None
        if run is not None:
            # The way of nearly all calls. It checks the arguments, more strictly than _is_ready, and may give None.
            try:
                results = run(self.model, input, state_values, params, alpha, surrogate, dt, sequence, record, number)
            except RuntimeError:
                if all(tracked(t) is t for t in (input, *state_values, *params, alpha)):
                    raise
        if results is None:
            input, alpha = tracked(input), tracked(alpha)
            state_values, params = tuple(map(tracked, state_values)), tuple(map(tracked, params))
            steepness = () if isinstance(alpha, (int, float)) else (alpha,)
            if not self._is_ready(input, state_values, (*params, *steepness), sequence):
                input, state_values, params, alpha = self._prepare(input, state_values, params, alpha, sequence)
                if run is not None:
                    results = run(
                        self.model, input, state_values, params, alpha, surrogate, dt, sequence, record, number
                    )
        if results is None:
            arguments = (input, state_values, params, surrogate, alpha, dt, sequence, record)
            if self.runs_kernels(input, dt, (*state_values, *params, alpha)):
                if not (sequence or compiling):
                    hint_at_step()
                results = self._run_operators(*arguments, number)
            else:
                results = self.run_in_pytorch(*arguments, kind)
        output, final = results
        if kind != "all":
            output = finish(output, kind, input.shape[0], input.dtype)
        return output, self.pack(*final)

    def runs_kernels(self, input: torch.Tensor, dt: Any, others: tuple[Any, ...]) -> bool:
        """Whether kernels serve a call with these arguments, or PyTorch must."""
        return (
            self.name is not None
            and has_kernels(input.device.type)
            and not isinstance(dt, torch.Tensor)
            and not beyond_kernels((input, *others))
        )

    def _run_operators(
        self,
        input: torch.Tensor,
        state: tuple[torch.Tensor, ...],
        params: tuple[torch.Tensor, ...],
        surrogate: int | Derivative,
        alpha: Any,
        dt: float,
        sequence: bool,
        record: bool,
        number: int,
    ) -> tuple[torch.Tensor, Any]:
        tensors = (input, *state)
        steepness = (alpha,) if isinstance(alpha, torch.Tensor) else ()
        if torch.is_grad_enabled() and needs_gradient((*tensors, *params, *steepness)):
            alpha = as_real_tensor("p.alpha", alpha)
            output, *rest = run_fused(self, surrogate, dt, sequence, record, number, tensors, params, alpha)
            return output, rest[len(state) :] if record else rest
        output, *rest = self.forward_op(*tensors, *params, dt, sequence, 0, record, number)
        return output, rest[-1] if record else rest[: len(state)]

    def _read(
        self, state: Any, p: Any, dt: float, compiling: bool
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], Method, Any]:
        """State variables, parameters as the kernel wants them, surrogate and its alpha, all unchecked."""
        try:
            # torch.compile of torch 2.11 takes no bool as an index.
            which = int(compiling)
            state_values, params = self._state_readers[which](state), self._p_readers[which](p)
        except AttributeError as error:
            self._reject_fields(state, p, error)
        method: Method = "super"
        alpha: Any = _NO_ALPHA
        if self.surrogate:
            params, method, alpha = params[:-2], params[-2], params[-1]
        return state_values, self.make_coefficients(params, dt), method, alpha

    def make_coefficients(self, params: tuple[Any, ...], dt: float) -> tuple[Any, ...]:
        """The parameters that kernel and step want, from the user's."""
        if self.coefficients is not None:
            params = self.coefficients(params, dt)
        if self.reset is None:
            return params
        flag, first, place = self._flag, params[0], self.reset_at
        if type(first) not in _PLAIN and isinstance(first, torch.Tensor):
            # Fake tensors and the like suffer no plain one among them.
            flag = first.detach().new_full((), self.reset.code)
        if place == len(params):  # slices take longer
            return (*params, flag)
        return (*params[:place], flag, *params[place:])

    def prepare(
        self, example: torch.Tensor, state: Any, p: Any, dt: float
    ) -> tuple[int | Derivative, Any, Any, Any, Any]:
        """Surrogate, ``example``, state, parameters and alpha as the operators take them, for an input like ``example``."""
        values, params, method, alpha = self._read(state, p, dt, torch.compiler.is_compiling())
        surrogate = surrogate_index(method)
        example, values, params, alpha = self._prepare(example, values, params, alpha, False)
        return surrogate, example, values, params, as_real_tensor("p.alpha", alpha)

    def read_state(self, state: Any) -> tuple[Any, ...]:
        """The state variables of the user's state tuple."""
        return self._state_readers[int(torch.compiler.is_compiling())](state)

    @staticmethod
    def _is_ready(input: Any, state: tuple[Any, ...], params: tuple[Any, ...], sequence: bool) -> bool:
        """Whether the operator can take the arguments as they are, which is so for every step but the first."""
        try:
            dtype, device, shape = input.dtype, input.device, input.shape
            if dtype not in _STORABLE or input.layout is not torch.strided:
                return False
            if sequence:
                if not shape:
                    return False
                shape = shape[1:]
            if dtype in HALF:
                dtype = torch.float32
            for s in state:
                if s.dtype is not dtype or s.shape != shape or s.device != device or s.layout is not torch.strided:
                    return False
            # The values of 0-dim CPU parameters are read by the host, whatever the device, without waiting for it.
            for p in params:
                if (
                    p.dim()
                    or not p.is_cpu
                    or p.layout is not torch.strided
                    or p.dtype not in _READABLE
                    or takes_default_dtype(p)
                ):
                    return False
        except AttributeError:
            return False
        return True

    def _prepare(
        self, input: Any, state: tuple[Any, ...], params: tuple[Any, ...], alpha: Any, sequence: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], Any]:
        """Bring arguments into the form that the operators take, or say what is wrong with them."""
        check_real("input", input)
        if input.is_nested:
            raise TypeError(
                "input: got a nested tensor, expected a plain one; pad it with torch.nested.to_padded_tensor."
            )
        input = as_dense(input)
        if sequence and input.dim() == 0:
            raise ValueError("input: got a 0-dim tensor, expected (T, ...) with time first; add a dimension for time.")
        if not input.is_floating_point():
            input = input.to(torch.get_default_dtype())
        elif input.dtype not in _STORABLE:
            input = input.float()
        shape = input.shape[1:] if sequence else input.shape

        state = tuple(self.as_state(f"state.{n}", s, input, shape) for n, s in zip(self.state, state))
        params = tuple(self._as_parameter(f"p.{n}", v, input, shape) for n, v in zip(self.kernel_params, params))
        if isinstance(alpha, torch.Tensor):
            alpha = self._as_parameter("p.alpha", alpha, input, shape)
        else:
            as_real_tensor("p.alpha", alpha)  # only to raise: a number stays one
        wide = torch.float64
        if input.dtype is wide or any(t.dtype is wide and t.dim() for t in (*state, *params)):
            compute, input = wide, input.to(wide)
        else:
            compute = torch.float32
        return input, tuple(s.to(compute).expand(shape) for s in state), params, alpha

    @staticmethod
    def as_state(name: str, value: Any, input: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        value = as_dense(as_real_tensor(name, value))
        check_broadcast(name, value, shape, "the state of an input of another shape cannot be carried over")
        if value.dim():
            check_device(name, value, input.device)
            return value
        return moved(name, value, input.device)

    @staticmethod
    def _as_parameter(name: str, value: Any, input: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        value = as_dense(as_real_tensor(name, value))
        if value.dtype not in _READABLE or takes_default_dtype(value):
            value = value.to(torch.get_default_dtype())
        if not value.dim() and (value.is_cpu or value.device == input.device):
            return value
        check_broadcast(name, value, shape, "use one value, or one per neuron")
        value = moved(name, value, input.device)
        # The kernels want one value, or values for whole trailing dimensions; expansion reduces the gradient by itself.
        trailing = value.shape[next((k for k, size in enumerate(value.shape) if size != 1), value.dim()) :]
        if value.numel() != 1 and trailing != shape[len(shape) - len(trailing) :]:
            value = value.expand(shape)
        return value

    def _reject_fields(self, state: Any, p: Any, error: AttributeError) -> NoReturn:
        def has(names: Sequence[str], source: Any) -> bool:
            try:
                for name in names:
                    descend(source, name)
            except AttributeError:
                return False
            return True

        if not has(self.state, state):
            name, got, names = "state", state, self.state
        elif not has((*self.params, *self.surrogate), p):
            name, got, names = "p", p, self.params
        else:
            raise error
        fix = (
            f"pass a {getattr(self.pack, '__name__', 'state tuple')}"
            if name == "state"
            else replacement(p, "pass the neuron's own type")
        )
        raise TypeError(
            f"{name}: got {type(got).__name__}, expected a tuple with the fields {', '.join(names)}; {fix}."
        ) from None

    def run_in_pytorch(
        self,
        input: torch.Tensor,
        state: tuple[torch.Tensor, ...],
        params: tuple[torch.Tensor, ...],
        surrogate: int | Derivative,
        alpha: Any,
        dt: Any,
        sequence: bool,
        record: bool,
        kind: str,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """What the kernels do, from PyTorch's own operators; with arguments that are prepared."""
        spike = spike_function(surrogate, alpha)
        storage = input.dtype
        x = input.float() if storage in HALF else input
        shape = x.shape[1:] if sequence else x.shape
        state = tuple(s.to(x.dtype).expand(shape) for s in state)
        params = tuple(p.to(input.device) for p in params)
        if not shape:
            # Arithmetic of 0-dim tensors alone would take the dtype of the parameters.
            x, state = x.unsqueeze(-1), tuple(s.unsqueeze(-1) for s in state)
        outputs, states = Outputs(kind, storage), []
        for frame in x.unbind(0) if sequence else (x,):
            output, state = self.step(frame, state, params, spike, dt)
            outputs.add(output)
            if record:
                states.append(state)
        if not outputs.steps:
            result = x.to(BYTES.get(kind, storage), copy=True)
        else:
            result = outputs.raw() if sequence else outputs.raw()[0]
        if record:
            state = (
                tuple(torch.stack(s) for s in zip(*states))
                if states
                else tuple(x.new_empty((0, *s.shape)) for s in state)
            )
        if not shape:
            result, state = result.squeeze(-1), tuple(s.squeeze(-1) for s in state)
        return result, state


def spike_function(surrogate: int | Derivative, alpha: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Spikes with a surrogate derivative, or that of its number; while torch.jit.trace runs, without one."""
    if torch.jit.is_tracing() and not torch.compiler.is_compiling():
        # A trace with a function of Python cannot be saved. Backward through this one is an error of PyTorch.
        return lambda u: torch.heaviside(u, u.new_zeros(()))
    method = surrogate if callable(surrogate) else list(SURROGATES)[surrogate]
    return lambda u: threshold(u, method, alpha)


if has_kernels("cpu"):
    register_shared_fakes()
