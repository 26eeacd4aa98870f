"""Sphinx: pages from the docstrings and from the Markdown files beside this one; ``make docs`` builds them."""

from typing import Any

import norse_fast

project = "norse_fast"
author = "The norse_fast maintainers"
release = norse_fast.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
templates_path = ["_templates"]
html_theme = "furo"

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Public where they are defined, but not from the packages above, where other things have their names.
autosummary_context = {"only_in_their_module": ["compute_refractory_update", "sign", "threshold"]}

# References to public names must lead somewhere; those to other projects would need their pages.
nitpicky = True
# A type variable has no page.
nitpick_ignore = [("py:class", "norse_fast.module._stateful.State")]
nitpick_ignore_regex = [(r"py:.*", r"(?!norse_fast\.[a-z]).*")]


def _skip(app: Any, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    # The fields of named tuples stand among the arguments.
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _skip)
