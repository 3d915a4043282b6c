"""HTML that is escaped unless it was built here.

Text reaches the page only through `tag`, which escapes every child that is not `Markup` already, so
a user's string cannot become an element by being forgotten.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from nash_jax.report.summary import format_value

VOID_TAGS = frozenset({"br", "meta"})


class Markup(str):
    """Text that is HTML already and may be written as it is."""


class Number(Markup):
    """A table cell that holds a number and perhaps more: it aligns right."""


def escape(value: Any) -> Markup:
    """HTML of any value: `Markup` as it is, numbers formatted, everything else as escaped text."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(format_value(value), quote=True))


def join(parts: Iterable[Any], separator: str = "") -> Markup:
    """Parts one after the other, each escaped where it needs to be."""
    return Markup(separator.join(escape(part) for part in parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """One element.

    Args:
      name: the element's name.
      *children: what it contains; text is escaped, `Markup` is not.
      **attributes: its attributes, escaped; `class_` writes `class`, `aria_label` writes `aria-label`,
        and None leaves the attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID_TAGS:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _cell(value: Any, first: bool) -> Markup:
    if first:
        return tag("th", value, scope="row")
    numeric = value is None or isinstance(value, int | float | Number)
    return tag("td", value, class_="number" if numeric else None)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, label: str) -> Markup:
    """A table that scrolls sideways in its own box where the page is narrower.

    Args:
      header: the column titles.
      rows: the cells of each row; the first one is the row's title, numbers align right, None is a dash.
      label: what a screen reader calls it.
    """
    # The box takes the keyboard focus because only then can it be scrolled without a pointer.
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in header)))
    body = tag("tbody", *(tag("tr", *(_cell(value, i == 0) for i, value in enumerate(row))) for row in rows))
    return tag("div", tag("table", head, body), class_="scroll", role="region", aria_label=label, tabindex="0")
