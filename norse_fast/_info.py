"""What is installed and what runs where, as text; ``python -m norse_fast`` prints it."""

from __future__ import annotations

import platform

import torch

from ._kernels.extension import BUILD, NATIVE_HINT, VERSION, backends, library_paths

__all__ = ["info"]


def info() -> str:
    """What is installed, and what runs the neurons here; ``python -m norse_fast`` prints it. For reports of bugs.

    Returns:
        A line for each of: the versions of norse_fast, Python and torch, with the platform; what the libraries were built
        with, and where they are; and what :func:`backends` tells of the CPU, of CUDA and of autograd. Where steps of cells
        are slower than they could be, also the command that mends it.

    Example:
        >>> print(info().splitlines()[0].split()[0])
        norse_fast
    """
    lines = {
        "norse_fast": VERSION,
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "built with": f"torch {BUILD['torch']}, CUDA {BUILD['cuda']}" if "torch" in BUILD else "no library was built",
        "libraries": ", ".join(map(str, library_paths())) or "none",
    }
    for name, value in backends().items():
        lines[name if name == "autograd" else f"runs on {name}"] = "PyTorch" if value == "none" else value
    if NATIVE_HINT:
        lines["hint"] = NATIVE_HINT
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
