"""What a model does that a NIR graph would not say."""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch.utils._pytree import tree_leaves

from ..module._hooks import starts_as_usual

__all__ = ["attributes_kept", "check_calls", "check_operations", "check_step"]


class _Tracer(torch.fx.Tracer):
    def __init__(self, is_leaf: Callable[[torch.nn.Module], bool]) -> None:
        super().__init__()
        self.is_leaf = is_leaf

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m)


class _TwoSteps(torch.nn.Module):
    """Two calls of a model, the second with the states that the first returned."""

    def __init__(self, model: torch.nn.Module, tracer: _Tracer, stateful: set[type]) -> None:
        super().__init__()
        self.model, self.tracer, self.stateful = model, tracer, stateful
        #: What the first call returned, and how many nodes of the graph it made.
        self.returned: list[Any] = []
        self.length = 0
        self.has_states = False

    def forward(self) -> None:
        signature = inspect.signature(self.model.forward)
        parameters = signature.parameters
        input, *others = (name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

        def call(arguments: dict[str, Any]) -> Any:
            bound = inspect.BoundArguments(signature, OrderedDict(arguments))
            return self.model(*bound.args, **bound.kwargs)

        # Those that are None by default are left out of the first step.
        given = {name: self._placeholder(name) for name in (input, *others) if parameters[name].default is not None}
        self.returned = self._parts(call(given))
        self.length = len(self.tracer.graph.nodes)
        states = self.returned[1:]
        if len(states) != len(others):
            others = ["state"] if len(states) == 1 and "state" in others else []
        self.has_states = bool(others)
        call({**given, input: self._placeholder(input), **dict(zip(others, states))})

    def _placeholder(self, name: str) -> Any:
        return self.tracer.create_proxy("placeholder", name, (), {})

    def _parts(self, returned: Any) -> list[Any]:
        """The output, and what else was returned."""
        if isinstance(returned, torch.fx.Proxy) and returned.node.op == "call_module":
            called = self.get_submodule(str(returned.node.target))
            whole: Any = returned
            return [whole[0], whole[1]] if type(called) in self.stateful else [whole]
        return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def check_operations(
    module: torch.nn.Module,
    stateful: set[type],
    is_leaf: Callable[[torch.nn.Module], bool],
    takes_all_steps: Callable[[torch.nn.Module], bool],
) -> None:
    """Raise for what nirtorch would leave out: anything but calls of modules and additions of two of their outputs, the same
    in each step, with states that go from each module to its own next call.

    ``stateful`` are the classes of leaves that also return a state.
    """
    tracer = _Tracer(is_leaf)
    steps = _TwoSteps(module, tracer, stateful)
    try:
        with attributes_kept(module):
            nodes = list(tracer.trace(steps).nodes)
    except Exception as error:
        raise ValueError(
            f"module: got a {type(module).__name__} that torch.fx cannot trace ({type(error).__name__}: {error}), expected "
            f"calls of modules and additions of their outputs; {_advice(module, 'write it without conditions on values')}."
        ) from error
    first, second = nodes[: steps.length], nodes[steps.length :]

    def refuse(got: str, expected: str, advice: str) -> NoReturn:
        raise ValueError(f"module: got {got} in a {type(module).__name__}, expected {expected}; {advice}.")

    def name_of(node: Any) -> str:
        return str(getattr(node.target, "__name__", node.target)).removeprefix("model.")

    def leads_to_states(node: Any) -> bool:
        """Whether all that becomes of an argument are states of modules."""
        return all(
            (user.op == "call_module" and node in (*user.args[1:], user.kwargs.get("state")))
            or (user.target is operator.getitem and leads_to_states(user))
            for user in node.users
        )

    def is_state(node: Any) -> bool:
        return node.op == "call_function" and node.target is operator.getitem and node.args[1] != 0

    def input_of(call: Any) -> Any:
        if call.args:
            return call.args[0]
        return call.kwargs[next(iter(inspect.signature(steps.get_submodule(call.target).forward).parameters))]

    def sources(node: Any) -> list[Any]:
        """The outputs that an addition, or a choice of the output beside a state, leads to."""
        through = {operator.add: 2, "add": 2, operator.getitem: 1}.get(node.target, 0)
        return [source for one in node.args[:through] for source in sources(one)] if through else [node]

    def check_operation(node: Any) -> None:
        name = name_of(node)
        if node.op == "get_attr":
            got = "a tensor that it holds" if name.startswith("_tensor_constant") else f"the tensor {name!r}"
            advice = "NIR has no node for it; use a Scale or a Linear, and let states be None at first"
            refuse(got, "outputs of modules alone", _advice(module, advice))
        elif node.target in (operator.add, "add"):
            if len(node.args) != 2 or node.kwargs or not all(isinstance(one, torch.fx.Node) for one in node.args):
                refuse("an addition with a number", "two outputs of modules", "NIR adds what edges bring, and no more")
            if len(set(sources(node))) < len(sources(node)):
                refuse("one output added twice", "different ones", "NIR has one edge between two nodes; use a Scale")
        elif node.op in ("call_function", "call_method") and node.target is not operator.getitem:
            refuse(f"the operation {name!r}", "calls of modules and additions", "NIR has no node for it; use a module")

    for argument in [node for node in first if node.op == "placeholder"][1:]:
        if not leads_to_states(argument):
            refuse(f"the input {argument.target!r} too", "one input", "NIR has one; make the others a part of it")
        if any(user.target is operator.getitem for user in argument.users):
            refuse(
                f"no default of {argument.target!r}", "None", "it is traced without states; let them be None at first"
            )
    for node in nodes:
        check_operation(node)
    returned = {leaf.node for leaf in tree_leaves(steps.returned) if isinstance(leaf, torch.fx.Proxy)}
    if sum(not is_state(node) for node in returned) > 1:
        refuse("several outputs", "one", "a graph has one output; return the others from modules of their own")

    def connections(step: list[Any]) -> list[tuple[Any, list[Any]]]:
        """The calls of a step, each with what its input comes from: by number, so that steps can be compared."""
        calls = [node for node in step if node.op == "call_module"]
        input = next(node for node in step if node.op == "placeholder")
        numbers = {node: number for number, node in enumerate([input, *calls])}
        return [(node.target, [numbers.get(source) for source in sources(input_of(node))]) for node in calls]

    def check_states(step: list[Any], before: dict[Any, Any]) -> dict[Any, Any]:
        """Raise if a module takes the state of another; returns the calls of those that have one."""
        called: dict[Any, Any] = {}
        for node in step:
            if node.op != "call_module" or type(part := steps.get_submodule(node.target)) not in stateful:
                continue
            if node.target in called:
                refuse(
                    f"two calls of {name_of(node)!r} in one step",
                    "one",
                    "a node of NIR has one state; make two modules",
                )
            called[node.target] = node
            own = before.get(node.target)
            others = [one for one in node.all_input_nodes if one is not input_of(node)]
            states = [one for one in others if sources(one)[0].op != "placeholder"]
            if any(not is_state(state) or state.args[0] is not own for state in states):
                refuse(
                    f"a state that {name_of(node)!r} did not return", "its own", "nodes of NIR have their own states"
                )
            if not states and step is second and steps.has_states and not takes_all_steps(part):
                refuse(f"no state for {name_of(node)!r} after the first step", "its own", "nodes of NIR keep theirs")
        return called

    check_states(second, check_states(first, {}))
    if connections(first) != connections(second):
        refuse(
            "other connections after the first step",
            "the same in all steps",
            "let RecurrentSequential or a recurrent cell feed outputs back",
        )


def _advice(module: torch.nn.Module, otherwise: str) -> str:
    for part in module.modules():
        # Its SequentialState is traced as any Sequential.
        if type(part).__module__.startswith("norse.") and not isinstance(part, torch.nn.Sequential):
            return f"make its {type(part).__name__} of Norse one of norse_fast, with norse_fast.accelerate(module, lift=True)"
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
    if isinstance(module, torch.fx.GraphModule):
        known = type(module)  # each has a class of its own
    # Those for spikes, which derive from PyTorch's layers, compute the same.
    forward = type(module).forward
    same = "forward" not in vars(module) and (forward is known.forward or forward.__module__.startswith("norse_fast."))
    product = "_conv_forward" not in vars(module) and getattr(type(module), "_conv_forward", None) is getattr(
        known, "_conv_forward", None
    )
    if type(module).__call__ is not known.__call__:
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
