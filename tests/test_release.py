"""What one uploads and others install: sources, wheels, metadata, types, workflows, and the page about them."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import norse_fast as nf
from norse_fast._kernels import extension

ROOT = Path(__file__).parents[1]
PACKAGE = Path(nf.__file__).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _files() -> list[str]:
    """What git keeps, or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _build(folder: Path, what: str, **environment: str) -> Path:
    """Let the build backend, which is all that pip calls, build ``what`` from the sources in a folder."""
    code = f"import norse_fast_build as b; print('needs', b.get_requires_for_build_{what}()); print(b.build_{what}('built'))"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NORSE_FAST_", "CMAKE_"))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**env, "PYTHONPATH": str(folder / "build_backend"), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "needs []" in lines, "nothing is compiled"
    return folder / "built" / lines[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a stranger gets them: from the archive, unpacked in a folder with spaces."""
    checkout = tmp_path_factory.mktemp("release") / "a checkout"
    for name in _files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    # What an in-place build leaves is no source.
    (checkout / "norse_fast" / "_C_cpu.so").write_bytes(b"")
    (checkout / "norse_fast" / "_build.json").write_text("{}")
    archive = _build(checkout, "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(checkout.parent / "unpacked sources", filter="data")
    (unpacked,) = (checkout.parent / "unpacked sources").iterdir()
    assert unpacked.name == f"norse_fast-{nf.__version__}"
    return unpacked


def test_the_archive_has_what_git_has(sources: Path):
    found = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    made = {name for name in found if name.startswith("norse_fast.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert found - made == set(_files())


@pytest.fixture(scope="module")
def pure(sources: Path) -> Path:
    """The wheel without libraries, unpacked."""
    wheel = _build(sources, "wheel", NORSE_FAST_PURE="1")
    assert wheel.name == f"norse_fast-{nf.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_a_pure_wheel_is_the_package(pure: Path):
    package = pure / "norse_fast"
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    tracked = {name.removeprefix("norse_fast/") for name in _files() if name.startswith("norse_fast/")}
    assert found == tracked | {"_build.json"}
    assert "py.typed" in found


def test_a_pure_wheel_computes_and_says_so_when_asked(pure: Path):
    """Where the device has no kernels either."""
    code = (
        "import torch, norse_fast as nf; print(nf.__file__, nf.backends()); "
        "print(nf.LIF()(torch.full((3, 1), 5.0))[0].flatten().tolist(), nf.memory.waiting(), "
        "nf.LIF()(torch.ones(3, 1, device='meta'))[0].shape)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NORSE_FAST_")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, "PYTHONPATH": str(pure)},
        cwd=pure,
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"{pure / 'norse_fast' / '__init__.py'} {{'cpu': 'none', 'cuda': 'none', 'autograd': 'Python'}}",
        "[0.0, 1.0, 1.0] 0 torch.Size([3, 1])",
    ]


def test_the_description_can_be_read_elsewhere(pure: Path):
    """Its links are addresses: those of this version's files, which are there."""
    (metadata,) = pure.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert "Description-Content-Type: text/markdown" in text
    (source,) = re.findall("^Project-URL: Source, (.*)$", text, re.MULTILINE)
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", text)
    own = [(mark, link.removeprefix(f"{source}/")) for mark, link in links if link.startswith(f"{source}/")]
    assert all(link.startswith("https://") for _, link in links)
    assert len(own) > 10
    for mark, link in own:
        start = f"{'raw' if mark else 'blob'}/v{nf.__version__}/"
        assert link.startswith(start)
        assert (ROOT / link.removeprefix(start)).exists(), link
    kept = re.sub(rf"{re.escape(source)}/(raw|blob)/v{re.escape(nf.__version__)}/", "", text)
    assert (ROOT / "README.md").read_text().strip() in kept


def test_what_compiles_needs_torch_and_tools():
    code = (
        "import norse_fast_build as b; print(b.get_requires_for_build_wheel() == b.get_requires_for_build_editable())"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "build_backend"), "NORSE_FAST_PURE": "0"}
    code += "; print(*b.get_requires_for_build_wheel())"
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["True", "torch>=2.11 cmake>=3.22 ninja"]


def test_a_failed_build_says_what_to_do(sources: Path):
    """In one line, and not in a traceback of the build's own code."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    result = subprocess.run(command, cwd=sources, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
    assert result.returncode != 0
    assert "error: [Errno 2] No such file or directory: 'cmake'" in result.stderr
    assert "docs/install.md says what a build needs" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_version_stands_once():
    holders = [
        name
        for name in _files()
        if name.endswith((".py", ".toml", ".txt", ".cff", ".cfg", ".yml")) or "/" not in name
        if name not in ("CHANGELOG.md", "tests/reference_names.txt")
        if re.search(rf"\bversion\W{{1,5}}{re.escape(nf.__version__)}\b", (ROOT / name).read_text(), re.IGNORECASE)
    ]
    assert holders == ["norse_fast/_kernels/extension.py"]
    assert extension.BUILD["version"] == nf.__version__


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license", "references"} <= set(citation)


# Libraries.


@pytest.mark.parametrize("library", sorted(PACKAGE.glob("_C_*.so")), ids=lambda path: path.name)
def test_only_entry_points_are_exported(library: Path):
    """Others would take part in what the process has loaded besides, and be taken from there."""
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(library)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entry = {"PyInit__C_autograd"} if library.name.startswith("_C_autograd") else set()
    assert {line.split()[0] for line in listed.splitlines()} == entry


@pytest.mark.parametrize("library", sorted(PACKAGE.glob("_C_autograd*.abi3.so")), ids=lambda path: path.name)
def test_nodes_serve_every_python(library: Path):
    """What is Python's own begins with an underscore; the stable ABI has these two of it."""
    command = ["nm", "--dynamic", "--undefined-only", "--format=posix", str(library)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in listed.splitlines()}
    assert {name for name in names if name.startswith("_Py")} <= {"_Py_Dealloc", "_Py_NoneStruct"}


# Types.


def test_the_typed_program_runs():
    program = ROOT / "tests" / "typing" / "user_program.py"
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, str(program)], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def _call_for_type_checkers(kind: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str | None:
    """The signature of the ``__call__`` that a class declares for type checkers alone, or of that which it inherits."""
    blocks = [node for node in kind.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for call in (node for block in blocks for node in block.body if isinstance(node, ast.FunctionDef)):
        return f"{ast.unparse(call.args)} -> {ast.unparse(call.returns)}"
    for base in kind.bases:
        name, _, state = ast.unparse(base).partition("[")
        found = name in classes and _call_for_type_checkers(classes[name], classes)
        if found:
            return re.sub(r"\bState\b", state.removesuffix("]") or "State", found)
    return None


def test_calls_of_modules_are_typed_as_their_forward():
    """For type checkers alone, so only the text can be compared; and all else that is public has a docstring."""
    nodes = [node for path in (PACKAGE / "module").glob("*.py") for node in ast.parse(path.read_text()).body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    for kind in classes.values():
        methods = {node.name: node for node in kind.body if isinstance(node, ast.FunctionDef)}
        if "torch.autograd.Function" in map(ast.unparse, kind.bases):
            continue
        undocumented = [n for n, method in methods.items() if n[0] != "_" and not ast.get_docstring(method)]
        assert not undocumented, kind.name
        if forward := methods.get("forward"):
            expected = f"{ast.unparse(forward.args)} -> {ast.unparse(forward.returns)}"
            assert _call_for_type_checkers(kind, classes) == expected, kind.name


# Workflows.


def _targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    rules = {name for line in re.findall(r"^([\w -]+):(?!=)", makefile, re.MULTILINE) for name in line.split()}
    assert phony <= rules
    return phony


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_also_runs_here(path: Path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", [])]
    for step in steps:
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            assert re.fullmatch(r"make [\w-]+", step["run"])
            assert step["run"].removeprefix("make ") in _targets()
        else:
            # A name that can be moved to other code is none.
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])


def test_there_is_a_workflow_for_all_that_is_released():
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests", "wheels"]
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())


def test_the_tag_must_be_that_of_the_version(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "norse_fast" / "_kernels").mkdir(parents=True)
    (tmp_path / "norse_fast" / "_kernels" / "extension.py").write_text('VERSION = "1.2.3"\nMINIMUM = 1\n')

    def check(tag: str) -> str:
        result = subprocess.run(["make", "release-check", f"TAG={tag}"], cwd=tmp_path, capture_output=True, text=True)
        return result.stderr if result.returncode else ""

    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")
    assert "no section '## 1.2.3 - date'" in check("v1.2.3")
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 1.2.3 - 2030-01-01\n")
    assert "TAG: got 'v1.2.4', expected 'v1.2.3'" in check("v1.2.4")
    assert check("v1.2.3") == ""


def test_stages_are_named_as_they_go(tmp_path: Path):
    """The function of `.ci/run` that does it, in a run that fails in its second stage."""
    script = (ROOT / ".ci" / "run").read_text()
    function = re.search(r"^name=\n.*?^trap [^\n]*\n", script, re.MULTILINE | re.DOTALL)[0]
    code = f"set -euo pipefail\n{function}\nstage first\necho work\nstage second\nfalse\nstage third"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"== first\nwork\n== first: \d+ s\n== second\n== second: \d+ s, failed\n", result.stdout), (
        result.stdout
    )
    assert re.findall(r"^stage '?(.*?)'?$", script, re.MULTILINE) == [
        "environment",
        "install and build",
        "lint, types and docs",
        "sources and wheel",
        "sanitizers",
        "tests",
    ]


# The page.


def _messages() -> list[str]:
    """The parts of the warnings of extension.py that differ from kind to kind."""
    functions = {
        node.name: node
        for node in ast.parse(Path(extension.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    texts = []
    for name in ("_load", "_describe_build"):
        for node in ast.walk(functions[name]):
            if isinstance(node, (ast.Assign, ast.Return)) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                value = node.value if isinstance(node.value, ast.Constant) else node.value.values[0]
                texts.append(re.split(r"[,(]| norse_fast", str(value.value))[0].strip())
    return [text for text in texts if text and text != "None"]


def test_the_page_about_installing_names_every_message():
    page = (ROOT / "docs" / "install.md").read_text()
    messages = _messages()
    assert sorted(messages) == [
        "loading failed",
        "no library was built",
        "the library is of another version",
        "the library was built for",
        "torch 2.11 or newer is needed",
    ]
    assert not [message for message in messages if f"| `{message}`" not in page]


def test_the_page_about_installing_names_every_variable():
    page = (ROOT / "docs" / "install.md").read_text()
    read = {
        name
        for path in (*(ROOT / "csrc").rglob("*"), *PACKAGE.rglob("*.py"), ROOT / "setup.py")
        if path.is_file()
        for name in re.findall(
            r"(?:getenv\(|environ(?:\.get\(|\[)|in os\.environ)\W*(NORSE_FAST_\w+)", path.read_text()
        )
    }
    assert "NORSE_FAST_PURE_PYTORCH" in read
    internal = {"NORSE_FAST_MEMORY", "NORSE_FAST_RECURRENT_PATH", "NORSE_FAST_LANES_PER_THREAD"}
    assert not read - internal - set(re.findall(r"NORSE_FAST_\w+", page))


def test_the_build_is_recorded():
    assert set(extension.BUILD) == {"version", "torch", "nodes", "cuda"}
    assert torch.version.git_version in extension.BUILD["nodes"]
    assert json.loads((extension._LIBRARIES / "_build.json").read_text()) == extension.BUILD


def test_a_build_forgets_the_choices_of_an_earlier_one_in_its_folder(tmp_path: Path):
    """CMake remembers what is not given: kernels that were compiled quickly once would be slow ever after."""
    cmake, calls = tmp_path / "cmake", tmp_path / "calls"
    cmake.write_text(f'#!/bin/sh\necho "$@" >>"{calls}"\n')
    cmake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CMAKE_ARGS": "-DNORSE_FAST_ALL_ISAS=OFF"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    configured = calls.read_text().splitlines()[0].split()
    forgotten = configured.index("-UNORSE_FAST_*")
    assert all(configured.index(option) > forgotten for option in configured if option.startswith("-DNORSE_FAST_"))
    assert configured[-1] == "-DNORSE_FAST_ALL_ISAS=OFF"
