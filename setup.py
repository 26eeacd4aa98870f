"""Bridge from pip to CMake, which is the only build description; metadata is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CUDA = {"0": "OFF", "1": "ON"}


class CMakeBuild(build_ext):
    """Builds the libraries with CMake and installs them into the package."""

    def run(self) -> None:
        build = ROOT / "build" / "cmake"
        in_place = self.inplace or getattr(self, "editable_mode", False)
        package = (ROOT if in_place else Path(self.build_lib).resolve()) / "norse_fast"
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            "-GNinja",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_INSTALL_PREFIX={package}",
            f"-DNORSE_FAST_CUDA={CUDA.get(os.environ.get('NORSE_FAST_CUDA', ''), 'AUTO')}",
        ]
        if "NORSE_FAST_CUDA_ARCHITECTURES" in os.environ:
            configure.append(f"-DNORSE_FAST_CUDA_ARCHITECTURES={os.environ['NORSE_FAST_CUDA_ARCHITECTURES']}")
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        subprocess.run(["cmake", "--install", build], check=True)

    def get_outputs(self) -> list[str]:
        return []


class PlatformWheel(bdist_wheel):
    """One wheel serves every Python 3: what uses Python's symbols, the autograd node, is loaded only where it fits."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    # The names only tell setuptools that the package is not pure Python.
    ext_modules=[Extension("norse_fast._C_cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)
