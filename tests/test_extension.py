"""Loading: which kernels serve, what is said when none do, and that the choice never changes results."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels import extension

from .models import MODELS
from .native import ROOT

PACKAGE = Path(nf.__file__).parent
CHECK = "import norse_fast as nf, torch; print(nf.LIF()(torch.full((3, 1), 5.0))[0].flatten().tolist())"
EXPECTED = "[0.0, 1.0, 1.0]"


def run(code: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=path, capture_output=True, text=True)


def capabilities() -> list[str]:
    """The instruction sets of this machine that the library has kernels for."""
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), ""
    ).split()
    found = ["baseline"]
    if {"avx2", "fma", "bmi1", "popcnt"} <= set(flags):
        found.append("avx2")
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi1", "popcnt"} <= set(flags):
        found.append("avx512")
    return found


def test_the_best_instruction_set_is_chosen():
    assert torch.ops.norse_fast.cpu_capability() == os.environ.get("NORSE_FAST_CPU_CAPABILITY", capabilities()[-1])


def test_autograd_is_in_cpp():
    """The libraries that are tested were built with this torch and this Python."""
    assert nf.backends()["autograd"] == ("Python" if os.environ.get("NORSE_FAST_PYTHON_AUTOGRAD") == "1" else "C++")


#: Files whose tests depend on the kernels; and those on the autograd node, which test_node.py compares bit for bit, and
#: test_outputs.py with Python's.
OF_KERNELS = ("exact", "dtypes", "gradients", "outputs", "recurrent", "spike_products", "spike_windows")
OF_NODE = ("errors", "recurrent")
#: Tests in them that depend on neither, that choose by themselves, or that repeat others at greater length.
CHOSEN = (
    "not opcheck and not compil and not memory and not PyTorch] and not Python] "
    "and not everything_at_once and not 450 and not threads_make_no_difference"
)
#: What this machine would not choose by itself: a variable, its value, pytest's header then, and the files concerned.
LESSER = [
    *(("NORSE_FAST_CPU_CAPABILITY", name, f"cpu {name}", OF_KERNELS) for name in capabilities()[:-1]),
    ("NORSE_FAST_PYTHON_AUTOGRAD", "1", "autograd Python", OF_NODE),
]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """Runs of some tests with each lesser choice, side by side because they take minutes, and what they print."""
    here, folder = Path(__file__).parent, tmp_path_factory.mktemp("repeated")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", CHOSEN]
    runs = {}
    for variable, value, header, names in LESSER:
        files = [f"{here}/test_{name}.py" for name in names]
        printed = folder / header
        with printed.open("w") as output:
            # Threads that wait must leave the cores to the other runs.
            environment = {**os.environ, variable: value, "OMP_WAIT_POLICY": "passive"}
            run = subprocess.Popen(
                [*command, *files],
                env=environment,
                cwd=here.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        runs[header] = run, printed
    yield runs
    for run, _ in runs.values():
        run.kill()
        run.wait()


@pytest.mark.parametrize("header", [header for _, _, header, _ in LESSER])
def test_lesser_choices(repeated, header: str):
    """Exactness, gradients and errors again, with what this machine would not choose by itself."""
    run, printed = repeated[header]
    assert run.wait() == 0, printed.read_text()[-5000:]
    assert header in printed.read_text()


def test_unknown_instruction_set():
    result = run(CHECK, NORSE_FAST_CPU_CAPABILITY="mmx")
    assert result.returncode != 0
    assert "NORSE_FAST_CPU_CAPABILITY: got 'mmx', expected one of" in result.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that a test may damage."""
    shutil.copytree(PACKAGE, tmp_path / "norse_fast", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def assert_one_warning(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == EXPECTED
    assert result.stderr.count("RuntimeWarning") == 1
    for part in ("runs in pure PyTorch", "here are norse_fast", "pip install --no-build-isolation", *parts):
        assert part in result.stderr


def test_intact_copy(copy: Path):
    result = run(CHECK, copy)
    assert result.stdout.strip() == EXPECTED
    assert result.stderr == ""


def remove_libraries(package: Path) -> None:
    for library in (*package.glob("_C_*.so"), package / "_build.json"):
        library.unlink()


@pytest.mark.parametrize("left_by_a_build", [False, True])
def test_sources_use_the_libraries_of_the_installed_package(copy: Path, left_by_a_build: bool):
    """Python finds a checkout in the current folder before the installed package."""
    installed = copy / "site"
    shutil.copytree(copy / "norse_fast", installed / "norse_fast")
    metadata = f"Metadata-Version: 2.1\nName: norse-fast\nVersion: {nf.__version__}"
    (installed / f"norse_fast-{nf.__version__}.dist-info").mkdir()
    (installed / f"norse_fast-{nf.__version__}.dist-info" / "METADATA").write_text(metadata)
    (copy / "pyproject.toml").write_text("")
    remove_libraries(copy / "norse_fast")
    if left_by_a_build:
        # pip leaves it beside the sources, where Python finds it before that of the installed package.
        (copy / "norse_fast.egg-info").mkdir()
        (copy / "norse_fast.egg-info" / "PKG-INFO").write_text(metadata)
    code = f"import sys; sys.path.insert(1, {str(installed)!r}); {CHECK}; print(nf.__file__)"
    result = run(code, copy)
    assert result.stdout.splitlines() == [EXPECTED, str(copy / "norse_fast" / "__init__.py")]
    assert result.stderr == ""


def test_sources_of_a_pure_package(copy: Path):
    """The installed package has no libraries by choice, so the checkout that hides it does not warn either."""
    installed = copy / "site" / "norse_fast"
    shutil.copytree(copy / "norse_fast", installed)
    remove_libraries(installed)
    (installed / "_build.json").write_text(json.dumps({"version": nf.__version__, "pure": True}))
    (copy / "pyproject.toml").write_text("")
    remove_libraries(copy / "norse_fast")
    result = run(
        f"import sys; sys.path.insert(1, {str(installed.parent)!r}); {CHECK}; print(nf.backends()['cpu'])", copy
    )
    assert result.stdout.splitlines() == [EXPECTED, "none"]
    assert result.stderr == ""


def test_an_installed_package_without_libraries_takes_none_from_elsewhere(copy: Path):
    other = copy / "site"
    shutil.copytree(copy / "norse_fast", other / "norse_fast")
    remove_libraries(copy / "norse_fast")
    assert_one_warning(run(f"import sys; sys.path.insert(1, {str(other)!r}); {CHECK}", copy), "no library was built")


def test_no_cuda_library_where_an_earlier_build_left_a_compiler(tmp_path: Path):
    """In the cache of a folder that is configured again."""
    options = ["-DNORSE_FAST_CUDA=OFF", "-DCMAKE_CUDA_COMPILER=/none", f"-DPython3_EXECUTABLE={sys.executable}"]
    subprocess.run(["cmake", f"-S{ROOT}", f"-B{tmp_path}", "-GNinja", *options], check=True, capture_output=True)
    assert json.loads((tmp_path / "_build.json").read_text())["cuda"] == "none"


def test_missing_library(copy: Path):
    remove_libraries(copy / "norse_fast")
    assert_one_warning(run(CHECK, copy), "no library was built")


def test_damaged_library(copy: Path):
    (copy / "norse_fast" / "_C_cpu.so").write_bytes(b"not a library")
    assert_one_warning(
        run(CHECK, copy), "loading failed", f"the library was built for norse_fast {nf.__version__} with torch"
    )


def test_library_of_another_version(copy: Path):
    (copy / "norse_fast" / "_build.json").write_text('{"version": "0.0.9", "torch": "2.11.0", "cuda": "none"}')
    assert_one_warning(run(CHECK, copy), "another version", "norse_fast 0.0.9 with torch 2.11.0 and CUDA none")


def test_old_torch(copy: Path):
    result = run(f"import torch; torch.__version__ = '2.10.1'; {CHECK}", copy)
    assert_one_warning(result, "torch 2.11 or newer is needed", "torch 2.10.1")


AUTOGRAD = f"{CHECK}; print(nf.backends()['autograd'])"
STEP = "cell, x = nf.LIFCell(), torch.ones(2, requires_grad=True); cell(x); cell(x)"
COMPILED = f"{STEP}; torch.compile(cell, backend='eager')(x)"


@pytest.mark.parametrize("change", ["torch", "python", "damage"])
def test_autograd_node_of_another_version(copy: Path, change: str):
    """Python takes over, with the same results, and tells once what makes single steps as fast as they can be."""
    library = copy / "norse_fast" / f"_C_autograd_{torch.version.git_version}.abi3.so"
    assert library.exists()
    prepare = "pass"
    if change == "torch":
        prepare = "import torch; torch.version.git_version = 'another'"
    elif change == "python":
        prepare = "import importlib.machinery as m; m.EXTENSION_SUFFIXES.remove('.abi3.so')"
    else:
        library.write_bytes(b"not a library")
    result = run(f"{prepare}; {AUTOGRAD}", copy)
    assert result.stdout.splitlines() == [EXPECTED, "Python"]
    assert result.stderr == ""

    # The compiler takes long to import, and does not look at what is wrong.
    step = COMPILED if change == "torch" else STEP
    result = run(f"{prepare}; {AUTOGRAD}; {step}; print(nf.info())", copy)
    assert result.stdout.splitlines()[:2] == [EXPECTED, "Python"]
    for text in (result.stderr, result.stdout):
        assert text.count(f"no autograd node in C++ fits torch {torch.__version__} and this Python") == 1
        assert "pip install --no-build-isolation" in text
    assert result.stderr.count("RuntimeWarning") == 1


def test_a_node_that_an_older_build_left_is_not_used(copy: Path):
    record = copy / "norse_fast" / "_build.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "nodes": []}))
    assert run(AUTOGRAD, copy).stdout.splitlines() == [EXPECTED, "Python"]


@pytest.mark.parametrize("variable", ["NORSE_FAST_PYTHON_AUTOGRAD", "NORSE_FAST_PURE_PYTORCH"])
def test_no_hint_where_the_node_is_left_out_by_choice(variable: str):
    result = run(f"{CHECK}; {STEP}; print(nf.info())", **{variable: "1"})
    assert result.stderr == ""
    assert "hint" not in result.stdout


def test_no_hint_with_the_node():
    result = run(f"{CHECK}; {STEP}; print(nf.info())", NORSE_FAST_PYTHON_AUTOGRAD="0")
    assert result.stderr == ""
    assert "hint" not in result.stdout


def test_python_autograd_on_request(copy: Path):
    assert run(AUTOGRAD, copy, NORSE_FAST_PYTHON_AUTOGRAD="0").stdout.splitlines() == [EXPECTED, "C++"]
    assert run(AUTOGRAD, copy, NORSE_FAST_PYTHON_AUTOGRAD="1").stdout.splitlines() == [EXPECTED, "Python"]


def test_the_compiler_is_not_imported_before_it_is_needed():
    """It takes as long to import as all else of torch."""
    result = run("import sys, norse_fast; print('torch._dynamo' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_pure_pytorch_on_request():
    result = run(CHECK, NORSE_FAST_PURE_PYTORCH="1")
    assert result.stdout.strip() == EXPECTED
    assert result.stderr == ""


def test_context_restores_kernels():
    with nf.kernels_disabled():
        assert not extension.has_kernels("cpu")
        with nf.kernels_disabled():
            pass
        assert not extension.has_kernels("cpu")
    assert extension.has_kernels("cpu")


def test_a_context_that_is_left_elsewhere_leaves_later_ones_alone():
    """As a fixture may be whose parts run in tasks of their own."""
    stack = contextlib.ExitStack()
    thread = threading.Thread(target=lambda: stack.enter_context(nf.kernels_disabled()))
    thread.start()
    thread.join()
    stack.close()
    with nf.kernels_disabled():
        assert not extension.has_kernels("cpu")
    assert extension.has_kernels("cpu")


def test_meta_tensors():
    """A device without kernels takes the PyTorch path."""
    for model in MODELS:
        for make, shape in ((model.layer, (4, 3, 2)), (model.cell, (3, 2))):
            if make is None:
                continue
            module = (make() if model.kind == "ff" else make(2, 5)).to("meta")
            output, state = module(torch.ones(shape, device="meta"))
            output, state = module(torch.ones(shape, device="meta"), state)
            assert output.shape == (*shape[:-1], 2 if model.kind == "ff" else 5), model.name
            assert output.is_meta, model.name
