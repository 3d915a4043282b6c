"""Texts of users and models as pages, tables and figures can hold them."""

import re
from collections.abc import Mapping
from typing import Any

# what HTML cannot hold, or what would turn the text around it: control characters, halves of surrogate pairs, and the
# marks that override or isolate a direction
_ODD = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069\\ufffe\\uffff]"
)


def visible(text: str) -> str:
    """A text with such characters as escape sequences."""
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible_in(value: Any) -> Any:
    """JSON values with every text in them visible: fonts have no glyphs for halves of pairs, and refuse them."""
    if isinstance(value, Mapping):
        return {visible_in(name): visible_in(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_in(item) for item in value]
    return visible(value) if isinstance(value, str) else value


def shortened(text: str, most: int = 48) -> str:
    """A text for a figure, each line of no more than so many characters: longer ones leave no room for the rest."""
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in text.split("\n"))
