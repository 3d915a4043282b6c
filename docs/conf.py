"""Settings of the site: `sphinx-build -W docs build/site` (pip install -e '.[docs]')."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import nash_jax  # noqa: E402

project = "nash_jax"
author = "the nash_jax contributors"
copyright = author
release = version = nash_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "outside_pages", "public_names"]
exclude_patterns = ["**/__pycache__"]
html_theme = "furo"
html_title = f"nash_jax {release}"
html_show_copyright = html_show_sourcelink = html_copy_source = False
highlight_language = "text"

myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # not those of flax.linen.Module
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"


def setup(app):
    """Signatures of Flax modules without the two arguments that all modules have."""

    def shorten(app, what, name, value, options, signature, returns):
        if signature and ", parent: " in signature:
            return signature.partition(", parent: ")[0].replace("~nash_jax.pruning.gates.", "") + ")", returns
        return None

    app.connect("autodoc-process-signature", shorten)
