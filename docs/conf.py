"""How the site is built: the repository's own Markdown, and a reference read from the docstrings.

The source folder is the repository itself, so that a link between two pages is the same file on a code host
and on the site. Nothing is fetched: no intersphinx, no fonts, no images from elsewhere.
"""

import re

from geneformer_grn import __version__

project = "geneformer-grn"
author = "The geneformer-grn authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "finetune/README.md",
    "geneformer_grn/_demo/SOURCE.md",
    "geneformer_grn/genes/data/SOURCES.md",
    "model_cards/*.md",
    "pretrain/README.md",
    "pretrain/corpora/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
# Folders that the search for pages would otherwise walk through.
exclude_patterns = [".*", "build", "dist", "runs", "scratch", "demo_out", "tests", "docs/_build"]

myst_heading_anchors = 3

autosummary_generate = False
autodoc_member_order = "alphabetical"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Docstrings set code in single backticks.
default_role = "code"

html_theme = "furo"
html_title = f"geneformer-grn {release}"
html_extra_path = ["site"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


def escape_bars(app, what, name, obj, options, lines):  # noqa: ANN001, ANN201
    """Keep ``|r|`` what it is in a docstring, the size of r: reStructuredText would look it up."""
    lines[:] = [re.sub(r"(?<!`)\|(\w+)\|", r"\\|\1\\|", line) for line in lines]


def list_keys(app, what, name, obj, options, lines):  # noqa: ANN001, ANN201
    """List the keys of a section of a config file, which say themselves what they are."""
    for key, field in getattr(obj, "model_fields", {}).items() if what == "class" else ():
        kind = (
            getattr(field.annotation, "__name__", "")
            if isinstance(field.annotation, type)
            else field.annotation
        )
        default = (
            "needed"
            if field.is_required()
            else f"default ``{field.get_default(call_default_factory=True)!r}``"
        )
        if "Section" in str(kind):
            continue
        plain = str(kind).replace("typing.", "").replace("pathlib._local.", "").replace("pathlib.", "")
        told = f": {field.description}" if field.description else ""
        lines += ["", f"- ``{key}`` ({plain}; {default}){told}"]


def setup(app):  # noqa: ANN001, ANN201, D103
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-docstring", list_keys)
