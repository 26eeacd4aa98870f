"""Builds what tests need of the native code besides the package itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(name: str, option: str) -> Path:
    """Build what a CMake option adds, in a folder of its own, and return the module ``_<name>``."""
    folder = ROOT / "build" / name
    options = ["-DNORSE_FAST_LIBRARIES=OFF", f"-D{option}=ON", f"-DPython3_EXECUTABLE={sys.executable}"]
    subprocess.run(["cmake", f"-S{ROOT}", f"-B{folder}", "-GNinja", *options], check=True, capture_output=True)
    result = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    return next(folder.rglob(f"_{name}*.so"))
