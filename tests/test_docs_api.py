"""The API reference: every public name is on a page and says what it takes; the site is built without a warning."""

import importlib
import re
import subprocess
import sys

import pytest
from commands import LIMIT
from doc_blocks import ROOT

sys.path.append(str(ROOT / "docs" / "extensions"))

import outside_pages
import public_names


def test_pages_name_every_public_module():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    assert set(re.findall(r"automodule:: (\S+)", text)) == set(public_names.PUBLIC)


@pytest.mark.parametrize("module", public_names.PUBLIC)
def test_public_names_have_docstrings_with_their_arguments(module):
    module = importlib.import_module(module)
    names = public_names.public_names(module)
    assert names
    for name in names:
        assert list(public_names.docstring_faults(name, getattr(module, name))) == []


def test_what_is_undocumented_is_found():
    def bare(width):
        pass

    def no_args(width):
        """Something."""

    def some_args(width, depth):
        """Something.

        Args:
          width: units.
        """

    assert list(public_names.docstring_faults("bare", bare)) == [
        "bare has no docstring",
        "bare takes width, and its docstring has no Args",
    ]
    assert list(public_names.docstring_faults("f", no_args)) == ["f takes width, and its docstring has no Args"]
    assert list(public_names.docstring_faults("f", some_args)) == ["f: Args leaves out depth"]
    missing = public_names.faults(documented=set())
    assert "nash_jax.prune is public, and no page of docs/api describes it" in missing
    assert "nash_jax.pruning.METHODS is public, and no page of docs/api describes it" in missing


def test_links_of_pages_from_outside_fit():
    text = "[a](local.sh) [b](../docs/launch.md#x) [c](https://a.b) [d](#here) [e](../CONTRIBUTING.md)"
    docs = ROOT / "docs"
    assert outside_pages.fitted(text, ROOT / "launch", docs) == (
        "[a](../launch/local.sh) [b](launch.md#x) [c](https://a.b) [d](#here) [e](contributing.md)"
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "pruning.html").read_text()
    for name in ("PruningObjective", "compact", "select_layers", "METHODS"):
        assert f'id="nash_jax.pruning.{name}"' in page
