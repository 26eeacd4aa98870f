"""Loads the compiled libraries and knows which devices they serve."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.machinery
import importlib.util
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "BUILD",
    "NATIVE_HINT",
    "VERSION",
    "backends",
    "has_kernels",
    "hint_at_step",
    "kernels_disabled",
    "library_paths",
    "native",
    "native_model",
    "set_differentiate",
]

VERSION = "0.1.0"
MINIMUM_TORCH = (2, 11)
_HERE = Path(__file__).parents[1]  # the package


def _is_built(package: Path) -> bool:
    return any((package / name).exists() for name in ("_C_cpu.so", "_build.json"))


def _find_libraries() -> Path:
    """The folder of the libraries: this package, or, in a checkout that hides the installed one, that."""
    if not _is_built(_HERE) and (_HERE.parent / "pyproject.toml").exists():
        # Metadata would mislead: a build leaves some beside the sources, where Python finds it first.
        for entry in sys.path:
            if _is_built(package := Path(entry, "norse_fast")):
                return package
    return _HERE


_LIBRARIES = _find_libraries()
_REBUILD = (
    "run `pip install --no-build-isolation --force-reinstall --no-deps .` in the norse_fast checkout, or with "
    f"`--no-binary norse-fast norse-fast=={VERSION}` in place of the dot; docs/install.md tells more"
)


def _read_build() -> dict[str, Any]:
    try:
        build: dict[str, Any] = json.loads((_LIBRARIES / "_build.json").read_text())
    except FileNotFoundError:
        return {}
    return build


#: What the build recorded of itself: the version of norse_fast, of the torch whose headers it used, and of CUDA, and the
#: commits of torch for which there is an autograd node.
BUILD = _read_build()

# The device types that have kernels. Filled at import; a type that is missing runs the pure-PyTorch path.
_loaded: set[str] = set()
_warned: set[str] = set()
# Of libraries that serve every Python; one without its lock has none.
_STABLE_ABI = ".abi3.so"


def _describe_build() -> str:
    if not BUILD:
        return "no library was built"
    return (
        f"the library was built for norse_fast {BUILD['version']} with torch {BUILD['torch']} and CUDA {BUILD['cuda']}"
    )


def _warn(device_type: str, problem: str) -> None:
    if device_type in _warned:
        return
    _warned.add(device_type)
    here = f"here are norse_fast {VERSION} and torch {torch.__version__}"
    warnings.warn(
        f"norse_fast has no fused kernels for {device_type} and runs in pure PyTorch, same results but slower: "
        f"{problem}{_describe_build()}, {here}; {_REBUILD}.",
        RuntimeWarning,
        stacklevel=3,
    )


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _load(device_type: str) -> None:
    path = _LIBRARIES / f"_C_{device_type}.so"
    problem = ""
    if _torch_version() < MINIMUM_TORCH:
        problem = "torch 2.11 or newer is needed, "
    elif BUILD and BUILD["version"] != VERSION:
        problem = "the library is of another version, "
    elif path.exists():
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            problem = f"loading failed ({error}), "
        else:
            _loaded.add(device_type)
            return
    _warn(device_type, problem)


# In how many `kernels_disabled` blocks each context is. torch.compile cannot look into a context variable; it sees whether
# any context is in one, compiles again when that changes, and then asks.
_disabling = contextvars.ContextVar("kernels_disabled", default=0)
_disabling_somewhere = False
_blocks = 0
_blocks_lock = threading.Lock()
# By the user's choice, or by that of who built a package without libraries.
_never = os.environ.get("NORSE_FAST_PURE_PYTORCH", "") not in ("", "0") or BUILD.get("pure", False)


def _in_disabling_block() -> bool:
    return _disabling.get() > 0


# A name of its own: each call of a kernel asks.
_is_tracing: Callable[[], bool] = torch._C._is_tracing

# What torch.compiler.assume_constant_result does, which would import all of torch.compile first: a second at each start.
_in_disabling_block._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_disabled() -> bool:
    if _never:
        return True
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export() or (_disabling_somewhere and _in_disabling_block())
    # torch.jit.trace cannot record what autograd does in C++ (and compares with a trace without gradients), and ONNX has
    # none of our operators.
    return _disabling.get() > 0 or _is_tracing()


def _count_block(change: int) -> None:
    global _blocks, _disabling_somewhere
    with _blocks_lock:
        _blocks += change
        _disabling_somewhere = _blocks > 0


class kernels_disabled(contextlib.ContextDecorator):
    """Context in which everything runs in pure PyTorch, for comparisons.

    It holds for the code inside it, as a context variable does: other threads and tasks go on as they were.

    Example:
        >>> with kernels_disabled():
        ...     has_kernels("cpu")
        False
    """

    def __enter__(self) -> None:
        _disabling.set(_disabling.get() + 1)
        _count_block(1)

    def __exit__(self, *exc: object) -> None:
        _disabling.set(max(_disabling.get() - 1, 0))
        _count_block(-1)


def has_kernels(device_type: str) -> bool:
    """Whether fused kernels serve tensors on this type of device; the first time they do not, warns."""
    if _is_disabled():
        return False
    if device_type in _loaded:
        return True
    if device_type == "cuda" and not torch.compiler.is_compiling():
        _warn(device_type, "")
    return False


if not _never:
    _load("cpu")
    # The schemas are in the CPU library, and a CUDA library cannot be loaded by a torch without CUDA.
    if "cpu" in _loaded and torch.version.cuda is not None and (_LIBRARIES / "_C_cuda.so").exists():
        _load("cuda")


_without_native = os.environ.get("NORSE_FAST_PYTHON_AUTOGRAD", "") not in ("", "0")


def _load_native() -> Any:
    """The module with the autograd node in C++, or None: Python does the same, only slower."""
    # It uses all of torch's C++, which differs from version to version, where the other libraries use its stable part.
    commit = getattr(torch.version, "git_version", None)
    path = _LIBRARIES / f"_C_autograd_{commit}{_STABLE_ABI}"
    known = commit in BUILD.get("nodes", ()) and _STABLE_ABI in importlib.machinery.EXTENSION_SUFFIXES
    if _without_native or not (known and "cpu" in _loaded and path.exists()):
        return None
    spec = importlib.util.spec_from_file_location("norse_fast._C_autograd", path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    for device_type in _loaded:
        module.set_kernels(device_type, getattr(torch.ops.norse_fast, f"{device_type}_kernels")())
    module.refuse_derivatives_of_operators()
    # Python sees Ctrl-C when a call returns. Long ones ask for it, in the thread to which it is sent.
    module.watch_interrupts(threading.main_thread().ident)
    return module


_native = _load_native()


#: What to do for fast steps, where the autograd node is missing and was not left out by choice.
NATIVE_HINT = (
    f"no autograd node in C++ fits torch {torch.__version__} and this Python; for one, {_REBUILD}"
    if _native is None and "cpu" in _loaded and not _without_native
    else ""
)
_hinted = not NATIVE_HINT


def hint_at_step() -> None:
    """Tell once, at the first single step that takes longer than it must."""
    global _hinted
    if not _hinted:
        _hinted = True
        warnings.warn(
            f"norse_fast runs single steps with the same results, but three to six times slower than it could: "
            f"{NATIVE_HINT}.",
            RuntimeWarning,
            stacklevel=4,
        )


def native() -> Any:
    """What runs a model in C++, or None where that goes through operators and an autograd.Function."""
    return None if _native is None or _is_disabled() else _native.run


def backends() -> dict[str, str]:
    """What runs the neurons here; the results do not depend on it.

    Returns:
        ``cpu``: the instruction set of the kernels; ``cuda``: the version of CUDA of theirs; both ``"none"`` where PyTorch
        takes their place. ``autograd``: ``"C++"``, or ``"Python"``, with which a small step takes three to six times as
        long; the former needs a node that was built for this very version of torch.

    Example:
        >>> with kernels_disabled():
        ...     backends()
        {'cpu': 'none', 'cuda': 'none', 'autograd': 'Python'}
    """
    return {
        "cpu": torch.ops.norse_fast.cpu_capability() if has_kernels("cpu") else "none",
        "cuda": BUILD["cuda"] if "cuda" in _loaded and not _is_disabled() else "none",
        "autograd": "Python" if native() is None else "C++",
    }


def library_paths() -> list[Path]:
    """The files of the compiled libraries that are there, whether or not they serve here."""
    return sorted(_LIBRARIES.glob("_C_*"))


def set_differentiate(function: Callable[..., Any]) -> None:
    """Tell the node in C++ what differentiates where its kernels do not: gradients of gradients, and batches of them."""
    if _native is not None:
        _native.set_differentiate(function)


def native_model(name: str) -> int | None:
    """The number under which :func:`native` knows a model."""
    return None if _native is None else _native.model(name)
