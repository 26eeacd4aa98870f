"""What pip and build call: setuptools, which needs torch, CMake and Ninja only where there is something to compile."""

from __future__ import annotations

import os

# Whatever is not replaced below is setuptools'.
from setuptools.build_meta import *  # noqa: F403

_COMPILING = [] if os.environ.get("NORSE_FAST_PURE", "0") not in ("", "0") else ["torch>=2.11", "cmake>=3.22", "ninja"]


def get_requires_for_build_sdist(config_settings: object = None) -> list[str]:
    """Nothing is compiled for an archive of the sources."""
    return []


def get_requires_for_build_wheel(config_settings: object = None) -> list[str]:
    """What the libraries are compiled with."""
    return _COMPILING


def get_requires_for_build_editable(config_settings: object = None) -> list[str]:
    """What the libraries are compiled with, in place."""
    return _COMPILING
