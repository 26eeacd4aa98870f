"""Every public name of the reference is here, at the same path with the same arguments, or stands in docs/differences.md."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import pytest

import norse_fast

HERE = Path(__file__).parent


class Name(NamedTuple):
    """A public name of the reference: its path, whether the root exports it, its arguments and those with plain defaults."""

    path: str
    root: bool
    arguments: tuple[str, ...]
    defaults: dict[str, Any]

    @property
    def home(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def _read() -> Iterator[Name]:
    for line in (HERE / "reference_names.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        where, path, signature = re.fullmatch(r"(root|home) ([\w.]+)(\(.*\))?", line).groups()
        arguments = ast.parse(f"def f{signature or '()'}: ...").body[0].args
        names = [a.arg for a in arguments.args]
        given = dict(zip(reversed(names), reversed(arguments.defaults)))
        given.update((a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults))
        defaults = {k: ast.literal_eval(d) for k, d in given.items()}
        yield Name(path, where == "root", tuple(names), {k: d for k, d in defaults.items() if d is not ...})


NAMES = list(_read())


def _left_out() -> dict[str, str]:
    """Modules of the reference that are left out, with the reason, from the table in docs/differences.md."""
    section = (HERE.parent / "docs" / "differences.md").read_text().split("## Left out", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?) \| (.+) \|$", section, re.MULTILINE)
    return {module: reason for modules, reason in rows for module in re.findall(r"`([\w.]+)`", modules)}


LEFT_OUT = _left_out()


def _is_left_out(path: str) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in LEFT_OUT)


PRESENT = [name for name in NAMES if not _is_left_out(name.path)]


def _find(name: Name) -> Any:
    return getattr(importlib.import_module(f"norse_fast.{name.home}"), name.name)


def test_the_list_is_whole():
    assert len(NAMES) == len({name.path for name in NAMES}) == 265
    assert sum(name.root for name in NAMES) == 212
    assert len(PRESENT) > 220


@pytest.mark.parametrize("name", PRESENT, ids=lambda name: name.path)
def test_name_is_where_the_reference_has_it(name: Name):
    found = _find(name)
    if name.root:
        assert getattr(norse_fast, name.name) is found
    if name.root and name.home.startswith(("functional.", "module.")):
        package = importlib.import_module(f"norse_fast.{name.home.partition('.')[0]}")
        assert getattr(package, name.name) is found


@pytest.mark.parametrize("name", [n for n in PRESENT if n.arguments], ids=lambda name: name.path)
def test_arguments_are_those_of_the_reference(name: Name):
    found = _find(name)
    if hasattr(found, "_fields"):
        assert found._fields == name.arguments
        ours = {k: found._field_defaults.get(k, inspect.Parameter.empty) for k in found._fields}
    else:
        ours = {k: v.default for k, v in inspect.signature(found).parameters.items()}
        assert tuple(ours)[: len(name.arguments)] == name.arguments
    for argument, expected in name.defaults.items():
        if isinstance(expected, (int, float)):
            assert math.isclose(float(ours[argument]), expected, rel_tol=1e-6)
        else:
            assert ours[argument] == expected


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PRESENT], ids=lambda name: name.path)
def test_what_is_missing_is_missing(name: Name):
    """So that the docs do not outlive what they say."""
    assert not hasattr(norse_fast, name.name)
    with pytest.raises((ImportError, AttributeError)):
        _find(name)


def test_reasons_are_given():
    assert LEFT_OUT
    assert all(len(reason) > 20 for reason in LEFT_OUT.values())


def _modules_of_norse(norse: ModuleType) -> Iterator[ModuleType]:
    yield norse
    for info in pkgutil.walk_packages(norse.__path__, "norse.torch."):
        path = info.name.removeprefix("norse.torch.")
        if not _is_left_out(path) and "test" not in path.split("."):
            yield importlib.import_module(info.name)


def _is_public(name: str, value: Any) -> bool:
    """Whether a name is Norse's own; what its modules import from elsewhere, and modules themselves, are not."""
    home = getattr(value, "__module__", "norse.torch")
    return (
        name[0] != "_"
        and not isinstance(value, (ModuleType, TypeVar))
        and home.startswith("norse.torch")
        and not _is_left_out(f"{home}.{name}".removeprefix("norse.torch."))
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_names_of_the_installed_norse(norse: ModuleType):
    """Each module of the release that people have, with all that it hands on."""
    missing, count = [], 0
    for module in _modules_of_norse(norse):
        ours = importlib.import_module(module.__name__.replace("norse.torch", "norse_fast"))
        names = [name for name, value in vars(module).items() if _is_public(name, value)]
        missing += [f"{ours.__name__}.{name}" for name in names if not hasattr(ours, name)]
        count += len(names)
    assert not missing
    assert count > 600


def test_names_handed_on_are_the_same():
    for path in ("functional.coba_lif", "functional.iaf", "functional.izhikevich", "functional.lif_mc_refrac"):
        module = importlib.import_module(f"norse_fast.{path}")
        assert module.threshold is importlib.import_module("norse_fast.functional.threshold").threshold
    behaviors = importlib.import_module("norse_fast.functional.izhikevich")
    parameters = [name for name in vars(behaviors) if name.endswith("_p")]
    assert len(parameters) == 20
    for name in parameters:
        assert getattr(behaviors, name) is getattr(behaviors, name.removesuffix("_p")).p
