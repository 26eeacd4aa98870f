"""Many threads of Python at once get the results of one."""

from __future__ import annotations

import pytest

from norse_fast._kernels.extension import has_kernels

from .sanitize.stress import Stress


@pytest.mark.skipif(not has_kernels("cpu"), reason="the kernels are not built")
@pytest.mark.parametrize("seed", [0, 1])
def test_many_threads(seed: int):
    stress = Stress(seed)
    stress.run(threads=6, rounds=60)
    assert stress.problems == []
