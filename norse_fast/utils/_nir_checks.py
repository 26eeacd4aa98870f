"""What a model does that a NIR graph would not say."""

from __future__ import annotations

import contextlib
import inspect
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch.utils._pytree import tree_leaves

from ..module._hooks import starts_as_usual
from .state import _is_module_stateful

__all__ = ["attributes_kept", "check_calls", "check_operations", "check_step"]


class _Tracer(torch.fx.Tracer):
    def __init__(self, is_leaf: Callable[[torch.nn.Module], bool]) -> None:
        super().__init__()
        self.is_leaf = is_leaf

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m)


class _TwoSteps(torch.nn.Module):
    """Two calls of a model, the second with the states that the first returned."""

    def __init__(self, model: torch.nn.Module, tracer: _Tracer) -> None:
        super().__init__()
        self.model, self.tracer = model, tracer
        #: What the calls returned, and how many nodes of the graph the first one made.
        self.returned: list[list[Any]] = []
        self.length = 0
        self.has_states = False

    def forward(self) -> None:
        signature = inspect.signature(self.model.forward)
        parameters = signature.parameters
        names = [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not names:
            raise _Refused("a forward without a named input", "forward(self, x, ...)", "name its input")
        input, *others = names

        def call(arguments: dict[str, Any]) -> list[Any]:
            # Some arguments may be by position or by keyword alone.
            bound = inspect.BoundArguments(signature, OrderedDict(arguments))
            # Not what model.compile() made of it.
            return self._parts(self.model.forward(*bound.args, **bound.kwargs))

        # In the first step those that are None by default are None.
        optional = [name for name in others if parameters[name].default is None]
        x = self._placeholder(input)
        given = {name: self._placeholder(name) for name in others if name not in optional}
        self.returned.append(call({input: x, **given}))
        self.length = len(self.tracer.graph.nodes)
        states = self._states(self.returned[0][1:], others, optional)
        self.has_states = bool(states)
        self.returned.append(call({input: self._placeholder(input), **given, **states}))

    def _placeholder(self, name: str) -> Any:
        return self.tracer.create_proxy("placeholder", name, (), {})

    def _parts(self, returned: Any) -> list[Any]:
        """The output, and what else was returned."""
        node = getattr(returned, "node", None)
        if node is not None and node.op == "call_module" and _is_module_stateful(self.get_submodule(node.target)):
            return [returned[0], returned[1]]
        if isinstance(returned, dict):
            raise _Refused("a dictionary of outputs", "the output, or the output and a state", "return it alone")
        return list(returned) if isinstance(returned, (tuple, list)) else [returned]

    @staticmethod
    def _states(returned: list[Any], others: list[str], optional: list[str]) -> dict[str, Any]:
        """What was returned besides the output, by the arguments that take it in the next step."""
        for names in (others, optional):
            if len(returned) == len(names):
                return dict(zip(names, returned))
        returned = [part for part in returned if any(isinstance(leaf, torch.fx.Proxy) for leaf in tree_leaves(part))]
        if not returned or not others:
            return {}
        if len(returned) == 1:
            return {"state" if "state" in others else (optional or others)[0]: returned[0]}
        raise _Refused(
            f"{len(returned)} states for {len(others)} arguments",
            "one for each",
            "return them in the order of arguments",
        )


class _Refused(Exception):
    """What was got, what is expected, and how to mend it."""


def check_operations(
    module: torch.nn.Module,
    is_leaf: Callable[[torch.nn.Module], bool],
    takes_all_steps: Callable[[torch.nn.Module], bool],
) -> None:
    """Raise for what nirtorch would leave out.

    A graph has calls of modules and additions of two of their outputs, the same in each step; a state goes from a module to
    its own next call, and nowhere else. Two steps are looked at, so what first happens in a later one is not seen.
    """
    tracer = _Tracer(is_leaf)
    steps = _TwoSteps(module, tracer)
    kind = type(module).__name__
    failure: Exception | None = None
    try:
        try:
            with attributes_kept(module):
                tracer.trace(steps)
        except _Refused:
            raise
        except Exception as error:
            failure = error
            if not steps.returned:
                raise ValueError(
                    f"module: got a {kind} that torch.fx cannot trace ({_told(error)}), expected calls of modules and "
                    f"additions of their outputs; {_advice(module, 'write it without conditions on values')}."
                ) from error
        _Check(module, steps, list(tracer.graph.nodes), takes_all_steps).run(both=failure is None)
    except _Refused as refused:
        got, expected, advice = refused.args
        raise ValueError(f"module: got {got} in a {kind}, expected {expected}; {advice}.") from None
    if failure is not None:
        warnings.warn(
            f"module: got a {kind} whose second step torch.fx cannot trace ({_told(failure)}), expected one that hands "
            "states on as they are; what it does with them otherwise is not in the graph.",
            stacklevel=4,
        )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Check:
    """Raises _Refused for what a graph of NIR does not say of two steps that were traced."""

    def __init__(
        self,
        module: torch.nn.Module,
        steps: _TwoSteps,
        nodes: list[Any],
        takes_all_steps: Callable[[torch.nn.Module], bool],
    ) -> None:
        self.module, self.steps, self.takes_all_steps = module, steps, takes_all_steps
        self.first, self.second = nodes[: steps.length], nodes[steps.length :]

    def run(self, both: bool) -> None:
        """Look at both steps, or at the first alone."""
        for argument in [node for node in self.first if node.op == "placeholder"][1:]:
            self._check_argument(argument)
        for node in (*self.first, *(self.second if both else ())):
            self._check_operation(node)
        # A node that is returned twice, in the state too, is one output.
        leaves = [leaf.node for leaf in tree_leaves(self.steps.returned[0]) if isinstance(leaf, torch.fx.Proxy)]
        if sum(not self._is_state(node) for node in set(leaves)) > 1:
            raise _Refused(
                "several outputs", "one", "a graph has one output; return the others from modules of their own"
            )
        called = self._check_states(self.first, {})
        if not both:
            return
        self._check_states(self.second, called)
        if self._connections(self.first, 0) != self._connections(self.second, 1):
            raise _Refused(
                "other connections after the first step",
                "the same in all steps",
                "let RecurrentSequential or a recurrent cell feed outputs back",
            )

    def _check_argument(self, argument: Any) -> None:
        if not self._leads_to_states(argument):
            raise _Refused(
                f"the input {argument.target!r} too", "one input", "NIR has one; make the others a part of it"
            )
        if any(user.target is operator.getitem for user in argument.users):
            raise _Refused(
                f"no default of {argument.target!r}", "None", "it is traced without states; let them be None at first"
            )

    def _leads_to_states(self, node: Any) -> bool:
        """Whether all that becomes of an argument are states of modules."""
        return all(
            (user.op == "call_module" and node is not self._input_of(user))
            or (user.target is operator.getitem and self._leads_to_states(user))
            for user in node.users
        )

    def _check_operation(self, node: Any) -> None:
        name = _name_of(node)
        if node.op == "get_attr":
            got = "a tensor that it holds" if name.startswith("_tensor_constant") else f"the tensor {name!r}"
            advice = "NIR has no node for it; use a Scale or a Linear, and let states be None at first"
            raise _Refused(got, "outputs of modules alone", _advice(self.module, advice))
        if node.target in (operator.add, "add"):
            if len(node.args) != 2 or node.kwargs or not all(isinstance(one, torch.fx.Node) for one in node.args):
                raise _Refused(
                    "an addition with a number", "two outputs of modules", "NIR adds what edges bring, no more"
                )
            sources = self._sources(node)
            if len(set(sources)) < len(sources):
                raise _Refused(
                    "one output added twice", "different ones", "NIR has one edge between two nodes; use a Scale"
                )
        elif node.op in ("call_function", "call_method") and node.target is not operator.getitem:
            if self._is_state(node) and self._holder(node).op == "call_module":
                return  # detached, or taken apart to be put together again
            advice = _advice(self.module, "NIR has no node for it; use a module")
            raise _Refused(f"the operation {name!r}", "calls of modules and additions", advice)

    def _check_states(self, step: list[Any], before: dict[Any, Any]) -> dict[Any, Any]:
        """The calls of modules with state, by name, if each takes the state that its own call ``before`` returned."""
        called: dict[Any, Any] = {}
        for node in step:
            if node.op != "call_module" or not _is_module_stateful(part := self.steps.get_submodule(node.target)):
                continue
            name = _name_of(node)
            if node.target in called:
                raise _Refused(
                    f"two calls of {name!r} in one step", "one", "a node of NIR has one state; make two modules"
                )
            called[node.target] = node
            others = [one for one in node.all_input_nodes if one is not self._input_of(node)]
            states = [one for one in others if self._holder(one).op != "placeholder"]
            own = before.get(node.target)
            if any(not self._is_state(state) or self._holder(state) is not own for state in states):
                raise _Refused(f"a state that {name!r} did not return", "its own", "nodes of NIR have their own states")
            forgotten = step is self.second and self.steps.has_states and not states
            if forgotten and not self.takes_all_steps(part):
                raise _Refused(f"no state for {name!r} after the first step", "its own", "nodes of NIR keep theirs")
        return called

    def _connections(self, step: list[Any], number: int) -> list[Any]:
        """What is called in a step, and where the inputs of the calls and the output come from.

        Sources are numbered, so that steps can be compared; None stands for what another step computed.
        """
        calls = [node for node in step if node.op == "call_module"]
        input = next(node for node in step if node.op == "placeholder")
        numbers = {node: index for index, node in enumerate([input, *calls])}

        def numbered(node: Any) -> list[int | None]:
            return [numbers.get(source) for source in self._sources(node)] if isinstance(node, torch.fx.Node) else []

        output = getattr(self.steps.returned[number][0], "node", None)
        return [(node.target, numbered(self._input_of(node))) for node in calls] + [numbered(output)]

    def _input_of(self, call: Any) -> Any:
        if call.args:
            return call.args[0]
        return call.kwargs[next(iter(inspect.signature(self.steps.get_submodule(call.target).forward).parameters))]

    @staticmethod
    def _sources(node: Any) -> list[Any]:
        """The outputs that an addition, or a choice of the output beside a state, leads to."""
        through = {operator.add: 2, "add": 2, operator.getitem: 1}.get(node.target, 0)
        return [source for one in node.args[:through] for source in _Check._sources(one)] if through else [node]

    @staticmethod
    def _is_state(node: Any) -> bool:
        """Whether a node is a state that a module returned, a part of it, or put together of its parts."""
        if fields := getattr(node.target, "_fields", ()):
            if not all(isinstance(part, torch.fx.Node) for part in node.args):
                return False
            parts = [_Check._copied(part) for part in node.args]
            same = len({_Check._holder(part) for part in parts}) == 1
            in_order = all(
                part.target in (getattr, operator.getitem) and part.args[1] in (place, name)
                for place, (part, name) in enumerate(zip(parts, fields, strict=True))
            )
            return same and in_order and all(map(_Check._is_state, parts))
        node = _Check._copied(node)
        if node.target is getattr:
            return _Check._is_state(node.args[0])
        return node.target is operator.getitem and (node.args[1] != 0 or _Check._is_state(node.args[0]))

    @staticmethod
    def _copied(node: Any) -> Any:
        """What a node is a copy of."""
        while node.target in ("detach", "clone", torch.detach, torch.clone):
            node = node.args[0]
        return node

    @staticmethod
    def _holder(node: Any) -> Any:
        """The call or argument that a state, or a part of it, comes from."""
        while (node := _Check._copied(node)).target in (operator.getitem, getattr) or hasattr(node.target, "_fields"):
            node = node.args[0]
        return node


def _name_of(node: Any) -> str:
    return str(getattr(node.target, "__name__", node.target)).removeprefix("model.")


def _advice(module: torch.nn.Module, otherwise: str) -> str:
    for part in module.modules():
        # Its SequentialState is traced as any Sequential.
        if type(part).__module__.startswith("norse.") and not isinstance(part, torch.nn.Sequential):
            return (
                f"replace its {type(part).__name__} of Norse by that of norse_fast, by hand or with "
                "norse_fast.accelerate(module, lift=True)"
            )
    return otherwise


@contextlib.contextmanager
def attributes_kept(module: torch.nn.Module) -> Iterator[None]:
    """Puts back what attributes were before, of which a forward that is traced may make symbols."""
    containers = (list, dict, set)
    before = []
    for part in module.modules():
        attributes = dict(vars(part))
        held = [(value, value.copy()) for value in attributes.values() if type(value) in containers]
        before.append((vars(part), attributes, held))
    try:
        yield
    finally:
        for now, attributes, held in before:
            now.clear()
            now.update(attributes)
            for value, content in held:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(content)


def check_calls(module: torch.nn.Module, written: Mapping[Any, Any]) -> None:
    """Raise if a call of the module does something else than its class, or the one of ``written`` that that is."""
    watching: list[Any] = list(module._forward_hooks.values())
    for hook in module._forward_pre_hooks.values():
        # Those of PyTorch renew weights; others may do anything.
        if type(hook).__module__.startswith("torch.nn.utils."):
            hook(module, ())
        else:
            watching.append(hook)
    known: Any = next((cls for cls in type(module).__mro__ if cls in written and cls is not object), type(module))
    call = torch.nn.Module.__call__
    if isinstance(module, torch.fx.GraphModule):
        known, call = type(module), type(module).__call__  # each has a class of its own
    # Those for spikes, which derive from PyTorch's layers, compute the same.
    forward = type(module).forward
    same = "forward" not in vars(module) and (forward is known.forward or forward.__module__.startswith("norse_fast."))
    product = "_conv_forward" not in vars(module) and getattr(type(module), "_conv_forward", None) is getattr(
        known, "_conv_forward", None
    )
    if type(module).__call__ is not call:
        _refuse_call(module, "another __call__ in")
    if not same:
        _refuse_call(module, "another forward in")
    if not product:
        _refuse_call(module, "another _conv_forward in")
    if watching:
        _refuse_call(module, "a hook on")


def check_step(module: Any, step: Callable[..., Any]) -> None:
    """Raise if neurons compute something else than a step function of norse_fast, or start from a state of their own."""
    if module.activation is not step:
        _refuse_call(module, "another step function in")
    if not starts_as_usual(module):
        _refuse_call(module, "another initial state in")


def _refuse_call(module: torch.nn.Module, got: str) -> NoReturn:
    raise TypeError(
        f"module: got {got} a {type(module).__name__}, expected one that computes what its class does; NIR knows nothing "
        "else, so make it a module of its own behind this one, or remove it."
    )
