"""Bridge from pip to CMake, which is the only build description; metadata is in pyproject.toml."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

ROOT = Path(__file__).parent.resolve()
CUDA = {"0": "OFF", "1": "ON"}
PURE = os.environ.get("NORSE_FAST_PURE", "0") not in ("", "0")


def run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExecError(
            f"{error} See above. docs/install.md says what a build needs; with NORSE_FAST_PURE=1 in the environment, "
            "norse_fast installs without its kernels and computes in PyTorch."
        ) from None


class CMakeBuild(build_ext):
    """Builds the libraries with CMake and installs them into the package."""

    def run(self) -> None:
        build = str(ROOT / "build" / "cmake")
        in_place = self.inplace or getattr(self, "editable_mode", False)
        package = (ROOT if in_place else Path(self.build_lib).resolve()) / "norse_fast"
        if not in_place:
            # Those of an earlier build with other choices would go into the wheel.
            for library in package.glob("_C_*.so"):
                library.unlink()
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            "-GNinja",
            "-UNORSE_FAST_*",  # choices of an earlier build in this folder
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_INSTALL_PREFIX={package}",
            f"-DNORSE_FAST_CUDA={CUDA.get(os.environ.get('NORSE_FAST_CUDA', ''), 'AUTO')}",
        ]
        if "NORSE_FAST_CUDA_ARCHITECTURES" in os.environ:
            configure.append(f"-DNORSE_FAST_CUDA_ARCHITECTURES={os.environ['NORSE_FAST_CUDA_ARCHITECTURES']}")
        run(*configure, *shlex.split(os.environ.get("CMAKE_ARGS", "")))
        run("cmake", "--build", build)
        run("cmake", "--install", build)

    def get_outputs(self) -> list[str]:
        return []


class PlatformWheel(bdist_wheel):
    """One wheel serves every Python 3: what uses Python's symbols, the autograd node, is loaded only where it fits."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PureBuild(build_py):
    """Leaves word in the package that it has no libraries by choice, so that it does not warn."""

    def run(self) -> None:
        super().run()
        package = (ROOT if self.editable_mode else Path(self.build_lib)) / "norse_fast"
        record = {"version": self.distribution.get_version(), "pure": True}
        (package / "_build.json").write_text(json.dumps(record) + "\n")


def long_description() -> str:
    """README.md as it can be read elsewhere: its links lead to the files of this version in the repository."""
    version = re.search('^VERSION = "(.*)"', (ROOT / "norse_fast/_kernels/extension.py").read_text(), re.MULTILINE)
    source = re.search('^Source = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert source

    def absolute(link: re.Match[str]) -> str:
        # A page, or the picture itself.
        kind = "raw" if link[1] == "!" else "blob"
        return f"{link[1]}{link[2]}({source[1]}/{kind}/v{version[1]}/{link[3]})"

    return re.sub(r"(!?)(\[[^]]*\])\((?!https?:|#)([^)]*)\)", absolute, (ROOT / "README.md").read_text("utf-8"))


description = {"long_description": long_description(), "long_description_content_type": "text/markdown"}
if PURE:
    setup(**description, cmdclass={"build_py": PureBuild})
else:
    setup(
        **description,
        # The name only tells setuptools that the package is not pure Python.
        ext_modules=[Extension("norse_fast._C_cpu", sources=[])],
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
    )
