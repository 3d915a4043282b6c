"""The look that all figures share, and the way from a matplotlib figure to SVG inside HTML."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from nash_jax.report.visible import shortened

INK, MUTED, DENSE, PRUNED = "#1f2a37", "#6b7684", "#8a97a8", "#0f766e"
ACCENT, BLUE, VIOLET, ROSE = "#d9822b", "#3b6fb6", "#8b5fbf", "#b4497a"

WIDTH = 720.0  # points; every figure is as wide as the text, so their letters are of one size
_STYLE = Path(__file__).parent / "templates" / "report.mplstyle"


@contextlib.contextmanager
def report_style() -> Iterator[None]:
    """Settings of matplotlib for what is drawn meanwhile; no local matplotlibrc counts. Also a decorator."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has the letters of all scripts; that matplotlib's own font lacks some is no news.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.style.use(["default", _STYLE])
        yield


def new_figure(height: float, layout: Any = "constrained") -> Figure:
    """An empty figure of `WIDTH` × height points; without a layout, the caller places everything."""
    return Figure(figsize=(WIDTH / 72, height / 72), layout=layout)


def shorten_texts(figure: Figure) -> None:
    """Shortens what a figure says where it would leave no room for the rest; to call before it is drawn."""
    for text in figure.findobj(Text):
        text.set_text(shortened(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(label != shortened(label) for label in labels):  # only fixed ones are so long
                axis.set_ticklabels(list(map(shortened, labels)))


def to_svg(figure: Figure, name: str, label: str) -> Markup:
    """A figure as an `<svg>` element for use inside HTML; the same text for the same figure.

    Args:
      figure: drawn in `report_style`.
      name: unique within the page; it prefixes every id of the element.
      label: what the figure shows, for those who cannot see it.
    """
    shorten_texts(figure)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", dpi=288, metadata={"Date": None, "Creator": None, "Format": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids are one namespace for a whole page, and matplotlib numbers those of each figure from 1.
    text = re.sub(r"<[a-zA-Z][^>]*>", lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", tag[0]), text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*pt"', "", head)  # the page decides the size, viewBox the shape
    attributes = f'class="plot" role="img" aria-label="{escape(label)}"'
    return Markup(head.replace("<svg", f"<svg {attributes}", 1) + ">" + rest.rstrip())
