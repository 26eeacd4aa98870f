"""Nothing that was to be written later is left in what people read: pages, docstrings and comments."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROSE = (".md", ".py", ".h", ".cpp", ".cuh", ".cu", ".toml", ".txt", ".rst")

#: Words in capitals that stand for what is missing, wherever they are.
WORDS = re.compile(r"\b(TODO|TBD|TBA|FIXME|XXX|HACK|WIP|PLACEHOLDERS?|RESULTS|INSERT|LOREM)\b|\?\?\?")
PHRASES = re.compile(r"\blorem ipsum\b|\bcoming soon\b|\bto be (written|done|filled in)\b", re.IGNORECASE)
#: A line of a page that is but one word in capitals, such as a note to oneself.
ALONE = re.compile(r"[^\w`|#]*[A-Z]{4,}[^\w`|#]*")
HEADING = re.compile(r"(#+) \S")


def _files() -> list[Path]:
    """What git keeps, but not this file, whose words are what it looks for."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name.endswith(PROSE)]
    return [path for path in paths if path != Path(__file__) and path.exists()]


def _without_code(page: str) -> str:
    """The page with its blocks of code emptied, line by line."""
    return re.sub(r"^```.*?^```", lambda m: "code" + "\n" * m[0].count("\n"), page, flags=re.MULTILINE | re.DOTALL)


def placeholders(text: str, page: bool) -> list[str]:
    """The lines that stand for something missing, and with ``page`` the headings without text below them."""
    lines = text.splitlines()
    found = [f"{k}: {line}" for k, line in enumerate(lines, 1) if WORDS.search(line) or PHRASES.search(line)]
    if page:
        lines = [*_without_code(text).splitlines(), "# end"]
        found += [f"{k}: {line}" for k, line in enumerate(lines, 1) if ALONE.fullmatch(line)]
        filled = [(k, line, HEADING.match(line)) for k, line in enumerate(lines, 1) if line.strip()]
        for (k, line, heading), (_, _, following) in itertools.pairwise(filled):
            if heading and following and len(following[1]) <= len(heading[1]):
                found.append(f"{k}: {line}: no text")
    return found


def test_no_placeholder_is_left():
    found = {path: placeholders(path.read_text(), page=path.suffix == ".md") for path in _files()}
    assert not {str(path.relative_to(ROOT)): lines for path, lines in found.items() if lines}


def test_all_kinds_of_files_are_read():
    names = {str(path.relative_to(ROOT)) for path in _files()}
    assert {"README.md", "docs/index.md", "norse_fast/__init__.py", "csrc/core/launch.h", "pyproject.toml"} <= names


@pytest.mark.parametrize(
    "text",
    [
        "## How fast\n\nRESULTS\n",
        "text\n\nTABLE\n",
        "# A\n\ntext TODO\n",
        "It takes XXX ms.\n",
        "Lorem ipsum dolor\n",
        "# A\n\n## B\n\n## C\n\ntext\n",
        "# A\n\ntext\n\n## B\n",
        "This is to be written.\n",
        "speed: ??? ms\n",
    ],
)
def test_placeholders_are_found(text: str):
    assert placeholders(text, page=True)


def test_other_text_is_left_alone():
    assert not placeholders("# A\n\n## B\n\n```sh\nTABLE\n# comment\n```\n\nThe results, `RATE` and LIF.\n", page=True)
