"""Containers that hand the state of every module from one time step to the next."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from ..utils.pytree import StateTuple
from ..utils.state import _is_module_stateful
from ._sparse_backward import Follower, has_spikes_to_follow
from .snn import SNN

__all__ = ["RecurrentSequential", "RecurrentSequentialState", "SequentialState"]


class SequentialState(torch.nn.Sequential):
    """A sequence of modules, with and without state, that is itself a module with state.

    Modules whose ``forward`` takes a ``state`` get theirs from the list of states; the others are called with the input
    alone. Use it with cells, step by step or inside :class:`Lift`, or with layers, which take all time steps at once.

    Args:
        *args: modules, or one ``OrderedDict`` of them.
        return_hidden: return the outputs of all modules as a list instead of that of the last.

    Example:
        >>> from norse_fast import LICell, LIFCell
        >>> model = SequentialState(torch.nn.Linear(4, 3), LIFCell(), torch.nn.Linear(3, 2), LICell())
        >>> state = None
        >>> for x in torch.ones(10, 1, 4):
        ...     v, state = model(x, state)
        >>> v.shape
        torch.Size([1, 2])
    """

    def __init__(self, *args: Any, return_hidden: bool = False) -> None:
        super().__init__(*args)
        self.return_hidden = return_hidden
        self.forward_state_hooks: list[RemovableHandle] = []

    @property
    def stateful_layers(self) -> list[bool]:
        """Whether each module carries a state."""
        return [_is_module_stateful(module) for module in self]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            # With the names of the modules, and as a subclass that would be made of them.
            kind = type(self) if type(self).__init__ is SequentialState.__init__ else SequentialState
            part = kind(OrderedDict(list(self._modules.items())[index]))
            part.return_hidden = self.return_hidden
            return part
        return super().__getitem__(index)

    def register_forward_state_hooks(self, forward_hook: Callable[..., Any]) -> None:
        """Call a hook after every call of each module that has a state now.

        Args:
            forward_hook: ``hook(module, input, output)``, with the tuple of the input and the state before (if there is
                one) as ``input``, and the tuple of the output and the new state as ``output``; as in
                ``torch.nn.Module.register_forward_hook``, what it returns in place of None is taken as the output.

        Raises:
            ValueError: there are hooks already.

        Example:
            >>> from norse_fast import LIFCell
            >>> model = SequentialState(torch.nn.Linear(4, 3), LIFCell())
            >>> voltages = []
            >>> model.register_forward_state_hooks(lambda module, input, output: voltages.append(output[1].v))
            >>> z, state = model(torch.ones(1, 4))
            >>> len(voltages)
            1
        """
        if self.forward_state_hooks:
            raise ValueError(
                "forward_hook: got a second one, expected one at a time; call remove_forward_state_hooks() before."
            )
        # Not children that are there twice, which would call the hook twice.
        for module in self.children():
            if _is_module_stateful(module):
                self.forward_state_hooks.append(module.register_forward_hook(forward_hook))

    def remove_forward_state_hooks(self) -> None:
        """Remove the hooks of :meth:`register_forward_state_hooks`."""
        for handle in self.forward_state_hooks:
            handle.remove()
        self.forward_state_hooks.clear()

    def _as_states(self, state: Any) -> list[Any]:
        """A new list of the states of all modules."""
        if not isinstance(state, (list, tuple, type(None))):
            raise TypeError(
                f"state: got {type(state).__name__}, expected a list of {len(self)} states, one per module; pass the state "
                "that the last call returned."
            )
        states = [None] * len(self) if state is None else list(state)
        if len(states) != len(self):
            raise ValueError(
                f"state: got {len(states)} entries, expected {len(self)}, one per module; pass the state that the last "
                "call returned."
            )
        return states

    def forward(self, input_tensor: torch.Tensor, state: list[Any] | None = None) -> tuple[Any, list[Any]]:
        """Call the modules one after another.

        Args:
            input_tensor: input of the first module.
            state: list of states, one entry per module, None for modules without; or None for the initial state. It is not
                modified.

        Returns:
            The output of the last module (or the list of all outputs with ``return_hidden``), and the list of new states.

        Raises:
            TypeError: the states are no list.
            ValueError: the list of states has another length.
        """
        states = self._as_states(state)
        modules = list(self._modules.values())
        if torch.is_grad_enabled() and not self.return_hidden and has_spikes_to_follow(modules, SNN):
            return self._follow_spikes(modules, input_tensor, states)
        hidden = []
        for index, module in enumerate(modules):
            if _is_module_stateful(module):
                input_tensor, states[index] = module(input_tensor, states[index])
            else:
                input_tensor = module(input_tensor)
            hidden.append(input_tensor)
        return (hidden if self.return_hidden else input_tensor), states

    @staticmethod
    def _follow_spikes(modules: list[Any], x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        follower = Follower(SNN)
        called = [(module, type(module)) for module in modules]
        for index, module in enumerate(modules):
            arguments = (x, states[index]) if _is_module_stateful(module) else (x,)
            run = functools.partial(module, *arguments)
            x = follower.call(run, called[index], x, states[index], called[index + 1 :])
            if len(arguments) > 1:
                x, states[index] = x
        return x, states

    if TYPE_CHECKING:

        def __call__(self, input_tensor: torch.Tensor, state: list[Any] | None = None) -> tuple[Any, list[Any]]: ...


class RecurrentSequentialState(StateTuple):
    """State of a :class:`RecurrentSequential`.

    Args:
        cache: output of the last step, which is fed back.
        state: states of the modules.

    Example:
        >>> RecurrentSequentialState().cache is None
        True
    """

    cache: Any = None
    state: Any = None


def _as_indices(value: Any, count: int) -> int | list[int]:
    """``output_modules`` of a sequence of ``count`` modules."""
    found: int | list[int] = []
    with contextlib.suppress(TypeError):
        found = [operator.index(index) for index in value]
    with contextlib.suppress(TypeError):
        found = operator.index(value)
    indices = [found] if isinstance(found, int) else found
    # A sequence without modules may get some later.
    if indices and (not count or all(-count <= index < count for index in indices)):
        return found
    raise ValueError(
        f"output_modules: got {value!r}, expected the index of one of the {count} modules, or a list of such; -1 is the last."
    )


class RecurrentSequential(torch.nn.Module):
    """A sequence of modules whose output at one time step is added to its input at the next.

    Args:
        *modules: modules with and without state; the output that is fed back must have the shape of the input.
        output_modules: index of the module whose output is returned and fed back; or a list of indices, whose outputs are
            returned as a list, and the last of which is fed back.

    Example:
        >>> from norse_fast import LIFCell
        >>> model = RecurrentSequential(torch.nn.Linear(3, 3), LIFCell())
        >>> z, state = model(torch.ones(1, 3))
        >>> z, state = model(torch.ones(1, 3), state)
        >>> z.shape
        torch.Size([1, 3])
    """

    def __init__(self, *modules: torch.nn.Module, output_modules: int | list[int] = -1) -> None:
        super().__init__()
        self.module: SequentialState = SequentialState(*modules, return_hidden=True)
        self.output_modules: int | list[int] = _as_indices(output_modules, len(self.module))

    def forward(
        self, x: torch.Tensor, state: RecurrentSequentialState | None = None
    ) -> tuple[Any, RecurrentSequentialState]:
        """Run one step.

        Args:
            x: input of one step.
            state: what the last step returned, or None for the initial state.

        Returns:
            The output, or the list of outputs where ``output_modules`` is a list, and the new state.

        Raises:
            TypeError: the state is that of another module.
            ValueError: the output that is fed back has another shape than the input.
        """
        if state is None:
            state = RecurrentSequentialState()
        if not (hasattr(state, "cache") and hasattr(state, "state")):  # which Norse's has, too
            raise TypeError(
                f"state: got {type(state).__name__}, expected a RecurrentSequentialState; pass the state that the last call "
                "returned."
            )
        if state.cache is not None:
            if state.cache.shape != x.shape:
                raise ValueError(
                    f"x: got shape {tuple(x.shape)}, expected {tuple(state.cache.shape)}, that of "
                    "the output which is fed back; the last module must return what the first one takes."
                )
            x = x + state.cache
        hidden, states = self.module(x, state.state)
        if isinstance(self.output_modules, int):
            output = feedback = hidden[self.output_modules]
        else:
            output = [hidden[index] for index in self.output_modules]
            feedback = output[-1]
        return output, RecurrentSequentialState(cache=feedback, state=states)

    if TYPE_CHECKING:

        def __call__(
            self, x: torch.Tensor, state: RecurrentSequentialState | None = None
        ) -> tuple[Any, RecurrentSequentialState]: ...
