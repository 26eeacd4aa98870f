"""Programs that need packages of an optional extra say so in one sentence, before they start to work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_without(package: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program where an import of the package fails, whether it is installed or not."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    path = os.pathsep.join([str(folder), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_sentence(line: str, package: str, fix: str) -> None:
    assert f"got no package '{package}" in line  # or a module of it
    assert fix in line


def assert_one_sentence(done: subprocess.CompletedProcess[str], package: str, fix: str) -> None:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert_sentence(line, package, fix)
    assert not done.stdout


@pytest.mark.parametrize(
    ("program", "package"),
    [("norse_fast.benchmark", "rich"), ("norse_fast.benchmark.gpu", "rich"), ("norse_fast.benchmark", "matplotlib")],
)
def test_benchmarks(program: str, package: str, tmp_path: Path):
    done = run_without(package, "-m", program, "--quick", "--output", str(tmp_path), folder=tmp_path)
    assert_one_sentence(done, package, "pip install 'norse-fast[bench]'")


def test_data_of_the_benchmark(tmp_path: Path):
    done = run_without("sklearn", "-m", "norse_fast.benchmark", "--quick", folder=tmp_path)
    assert_one_sentence(done, "sklearn", "pip install 'norse-fast[bench]'")


def test_help_needs_nothing(tmp_path: Path):
    done = run_without("rich", "-m", "norse_fast.benchmark", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def test_examples(tmp_path: Path):
    """All in one process, which imports torch once."""
    names = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")
    code = f"""
import runpy, sys
sys.path.insert(0, {str(EXAMPLES)!r})
for name in {names}:
    sys.argv = [name]
    try:
        runpy.run_path({str(EXAMPLES)!r} + f"/{{name}}.py", run_name="__main__")
    except SystemExit as error:
        print(error.code, file=sys.stderr)
"""
    done = run_without("matplotlib", "-c", code, folder=tmp_path)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == len(names)
    for line in lines:
        assert_sentence(line, "matplotlib", "pip install '.[examples]'")
    assert not done.stdout


@pytest.mark.parametrize(
    ("name", "package", "options"),
    [
        ("lightning_classifier", "lightning", ()),
        ("accelerate", "norse", ()),
        ("heidelberg_digits", "h5py", ()),
        ("heidelberg_digits", "norse", ("--norse",)),
    ],
)
def test_further_packages_of_examples(name: str, package: str, options: tuple[str, ...], tmp_path: Path):
    for needed in ("matplotlib", "rich", "sklearn"):
        pytest.importorskip(needed)
    done = run_without(package, str(EXAMPLES / f"{name}.py"), *options, folder=tmp_path)
    assert_one_sentence(done, package.split(".")[0], "pip install")


def test_the_package_itself_needs_nothing(tmp_path: Path):
    packages = ("numpy", "rich", "matplotlib", "sklearn", "nir", "nirtorch", "norse", "lightning")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({packages}))\n"
        "import norse_fast as nf\nnf.LIF()\nnf.LIFRecurrent(2, 3)\n"
    )
    done = run_without("rich", "-W", "ignore", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
