"""The figures of the README and of the pages are those of the results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.needs("bench")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks/figures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_page_is_stale(figures: ModuleType):
    assert not figures.stale(), "run make figures"


def test_every_group_of_figures_is_on_a_page(figures: ModuleType):
    pages = "".join(path.read_text() for path in figures.pages())
    assert {name for _, name, _ in figures.BLOCK.findall(pages)} == set(figures.FIGURES)


def test_a_changed_figure_is_noticed(figures: ModuleType):
    page = (ROOT / "README.md").read_text()
    changed = page.replace("<!-- end -->", "| a figure of long ago |\n<!-- end -->")
    assert changed != page
    assert figures.fill(changed) == page


def test_a_busy_machine_is_told(figures: ModuleType):
    machine = {
        "backends": {"cpu": "avx2"},
        "cores": 2,
        "cpu": "X",
        "torch": "2.13.0+cpu",
        "date": "2026-01-02T",
        "load": 3.0,
    }
    assert "busy" in figures.machine({"machine": machine})
    assert "busy" not in figures.machine({"machine": {**machine, "load": 0.1}})
    assert "commit abc" in figures.machine({"machine": {**machine, "commit": "abc"}})
    of_networks = {"networks": {**machine, "commit": "def"}}
    assert "commit def" in figures.machine({"machine": machine, "machines": of_networks}, part="networks")
