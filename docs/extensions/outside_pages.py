"""Pages of the site whose text lies outside docs/: their source is read there, and links are made to fit.

The page docs/NAME.md of each is a stub, so that the table of contents finds it. On a code host the links lead to the
files.
"""

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {
    "launching": ROOT / "launch" / "README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changes": ROOT / "CHANGELOG.md",
}


def fitted(text: str, written_in: Path, shown_in: Path) -> str:
    """The text with relative links changed.

    Args:
      text: Markdown.
      written_in: folder of the file that holds it.
      shown_in: folder of the page that shows it.
    """

    def link(found: re.Match[str]) -> str:
        path, mark, anchor = found[1].partition("#")
        target = (written_in / path).resolve()
        for name, source in PAGES.items():
            if target == source:
                target = DOCS / f"{name}.md"
        return f"]({os.path.relpath(target, shown_in)}{mark}{anchor})"

    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", link, text)


def _read(app: Any, name: str, source: list[str]) -> None:
    page = (DOCS / f"{name}.md").parent
    if name in PAGES:
        app.env.note_dependency(str(PAGES[name]))
        source[0] = fitted(PAGES[name].read_text(), PAGES[name].parent, page)
    else:
        source[0] = fitted(source[0], page, page)


def setup(app: Any) -> dict[str, Any]:
    """Registers the reader with Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
