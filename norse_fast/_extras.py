"""What to install for the parts of the package that need more than PyTorch."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["missing", "require"]


def missing(what: str, package: str | None, extra: str) -> str:
    """Says that a package of an optional extra is not installed."""
    return (
        f"{what}: got no package {package!r}, expected those of the extra {extra!r}; pip install 'norse-fast[{extra}]'."
    )


def require(program: str, extra: str, *packages: str) -> None:
    """End a program with one sentence, before it starts to work, if it lacks a package of an optional extra."""
    for package in packages:
        try:
            found = importlib.util.find_spec(package) is not None
        except ValueError:  # sys.modules says that there is none
            found = False
        if not found:
            sys.exit(missing(program, package, extra))
