"""Every public name says what it is: arguments, results, an example that runs (pytest runs them all), and a source."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch

import norse_fast

from .test_public_names import PRESENT

DOCS = Path(__file__).parent.parent / "docs"


_NEURONS = (norse_fast.SNN, norse_fast.SNNCell, norse_fast.SNNRecurrent, norse_fast.SNNRecurrentCell)


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(norse_fast.__path__, "norse_fast."):
        parts = info.name.split(".")[1:]
        if parts[0] != "benchmark" and not any(part.startswith("_") for part in parts):
            yield importlib.import_module(info.name)


MODULES = list(_modules())
#: What norse_fast alone exports.
TOP_LEVEL = [
    name
    for name, value in vars(norse_fast).items()
    if name[0] != "_" and getattr(value, "__module__", "").startswith("norse_fast._")
]


def _documented() -> dict[str, Any]:
    """The functions and classes of each public module, and whatever else the reference has there."""
    names = {(module.__name__, name) for module in MODULES for name in getattr(module, "__all__", ())}
    names |= {(f"norse_fast.{name.home}", name.name) for name in PRESENT}
    found = {f"{home}.{name}": getattr(importlib.import_module(home), name) for home, name in names}
    found |= {f"norse_fast.{name}": getattr(norse_fast, name) for name in TOP_LEVEL}
    return {path: value for path, value in sorted(found.items()) if isinstance(value, (FunctionType, type))}


DOCUMENTED = _documented()


def _arguments(value: Any) -> list[str]:
    if hasattr(value, "_fields"):
        return list(value._fields)
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        return []
    parameters = inspect.signature(value).parameters.values()
    # Modules name what they hand on as they see fit.
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "args"]


@pytest.mark.parametrize("path", DOCUMENTED)
def test_docstring(path: str):
    value = DOCUMENTED[path]
    text = inspect.cleandoc(value.__doc__ or "")
    assert ">>> " in text, "an example is missing"
    entries = re.findall(r"^ +(\*{0,2}\w+(?:, \*{0,2}\w+)*): \S", text, re.MULTILINE)
    described = {name.lstrip("*") for entry in entries for name in entry.split(", ")}
    missing = [name for name in _arguments(value) if name not in described]
    assert not missing, "arguments are not described"
    if isinstance(value, FunctionType) and value.__annotations__["return"] != "None":
        assert "Returns:\n" in text


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_is_computed_has_a_source(module: ModuleType):
    """Functions name literature; neurons as modules name the function that they run."""
    assert module.__doc__
    home, _, stem = module.__name__.removeprefix("norse_fast.").partition(".")
    if home == "functional" and stem:
        assert "Source" in module.__doc__
    for value in (getattr(module, name) for name in getattr(module, "__all__", ()) if home == "module"):
        if isinstance(value, type) and issubclass(value, _NEURONS) and value not in _NEURONS:
            assert "Equations, units, dtypes and errors are those of" in value.__doc__


def test_every_package_has_pages():
    index = (DOCS / "index.md").read_text()
    public = [i.name for i in pkgutil.iter_modules(norse_fast.__path__) if not i.name.startswith("_")]
    assert all(f"   norse_fast.{name}\n" in index for name in public if name != "benchmark")
    assert all(re.search(rf"^\.\. auto\w+:: norse_fast\.{name}$", index, re.MULTILINE) for name in TOP_LEVEL)
    assert all(f"\n{page.stem}\n" in index for page in DOCS.glob("*.md") if page.stem != "index")


def test_times_are_stated_once():
    """Where they are measured anew, in the README."""
    for name in ("index.md", "layer_by_layer.md"):
        assert not re.findall(r"\d (?:ms|µs|us)\b", (DOCS / name).read_text())
