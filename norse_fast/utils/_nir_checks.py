"""What a model does that a NIR graph would not say."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

__all__ = ["check_calls", "check_operations"]


class _Tracer(torch.fx.Tracer):
    def __init__(self, is_leaf: Callable[[torch.nn.Module], bool]) -> None:
        super().__init__()
        self.is_leaf = is_leaf

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m)


def check_operations(
    module: torch.nn.Module, unused: dict[str, Any], stateful: set[type], is_leaf: Callable[[torch.nn.Module], bool]
) -> None:
    """Raise for what nirtorch would leave out: anything but calls of modules, and additions of two of their outputs.

    ``unused`` are arguments of the call, ``stateful`` the classes of leaves that also return a state.
    """
    graph = _Tracer(is_leaf).trace(module, concrete_args=unused)
    called: set[Any] = set()

    def refuse(got: str, expected: str, advice: str) -> NoReturn:
        raise ValueError(f"module: got {got} in a {type(module).__name__}, expected {expected}; {advice}.")

    def leads_to_states(node: Any) -> bool:
        """Whether all that becomes of an argument are states of modules."""
        return all(
            (user.op == "call_module" and node in (*user.args[1:], user.kwargs.get("state")))
            or (user.target is operator.getitem and leads_to_states(user))
            or user.op == "output"
            or getattr(user.target, "__name__", "") == "_assert_is_none"
            for user in node.users
        )

    def is_state(node: Any) -> bool:
        return node.op == "call_function" and node.target is operator.getitem and node.args[1] != 0

    def sources(node: Any) -> list[Any]:
        """The outputs that an addition, or a choice of the output beside a state, leads to."""
        through = {operator.add: 2, "add": 2, operator.getitem: 1}.get(node.target, 0)
        return [source for one in node.args[:through] for source in sources(one)] if through else [node]

    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    for argument in arguments[1:]:
        if not leads_to_states(argument):
            refuse(f"the input {argument.target!r} too", "one input", "NIR has one; make the others a part of it")
    for node in graph.nodes:
        name = getattr(node.target, "__name__", node.target)
        if node.op == "call_module":
            if node.target in called and type(module.get_submodule(node.target)) in stateful:
                refuse(f"two calls of {name!r} in one step", "one", "a node of NIR has one state; make two modules")
            called.add(node.target)
        elif node.op == "get_attr":
            refuse(
                f"the tensor {name!r}", "outputs of modules alone", "NIR has no node for it; use a Scale or a Linear"
            )
        elif node.target in (operator.add, "add"):
            if len(node.args) != 2 or node.kwargs or not all(isinstance(one, torch.fx.Node) for one in node.args):
                refuse("an addition with a number", "two outputs of modules", "NIR adds what edges bring, and no more")
            if len(set(sources(node))) < len(sources(node)):
                refuse("one output added twice", "different ones", "NIR has one edge between two nodes; use a Scale")
        elif node.op in ("call_function", "call_method"):
            if node.target is not operator.getitem and name != "_assert_is_none":
                refuse(
                    f"the operation {name!r}", "calls of modules and additions", "NIR has no node for it; use a module"
                )
        elif node.op == "output" and sum(not is_state(one) for one in node.all_input_nodes) > 1:
            refuse("several outputs", "one", "a graph has one output; return the others from modules of their own")


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
    if watching or not same:
        got = "a hook on" if same else "another forward in"
        raise TypeError(
            f"module: got {got} a {type(module).__name__}, expected one that computes what its class does; NIR knows nothing "
            "else, so make it a module of its own behind this one, or remove it."
        )
