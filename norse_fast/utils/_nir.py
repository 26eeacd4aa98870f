"""What reading and writing NIR share."""

from __future__ import annotations

import importlib
import keyword
from typing import Any

from .._extras import missing

#: Key of what a node says in its metadata about the module that it was written from.
ORIGIN = "norse_fast"


def import_nir(caller: str) -> tuple[Any, Any]:
    """The modules nir and nirtorch.

    Raises:
        ModuleNotFoundError: one of them is not installed.
    """
    try:
        return importlib.import_module("nir"), importlib.import_module("nirtorch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing(caller, error.name, "nir"), name=error.name) from error


def attribute(name: str) -> str:
    """The name that nirtorch gives to the module of a node."""
    name = name.replace(".", "_")
    return f"nir_node_{name}" if keyword.iskeyword(name) else name


def children(graph: Any) -> list[Any]:
    """All nodes of a graph and of the graphs in it, or the node itself where it is no graph."""
    if not hasattr(graph, "nodes"):
        return [graph]
    return [leaf for node in graph.nodes.values() for leaf in children(node)]
