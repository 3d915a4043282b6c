"""The look that all figures share, and the way from a matplotlib figure to SVG inside HTML."""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2a37"
MUTED = "#6b7684"
GRID = "#e6e9ee"
REMOVED = "#e9edf1"
OUTLINE = "#c3cad3"
DENSE = "#8a97a8"
PRUNED = "#0f766e"
SOFT = "#a7d8d1"
ACCENT = "#d9822b"
BLUE = "#3b6fb6"
PEERS = (ACCENT, BLUE, "#8b5fbf", "#b4497a")

WIDTH = 720.0  # points; every figure is as wide as the text, so their letters are of one size

_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": OUTLINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.constrained_layout.wspace": 0.05,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,  # a "$" in a model's name is a dollar
    "svg.fonttype": "none",  # text stays text: small, sharp, and read by screen readers
    "image.composite_image": False,
}


def draw(paint: Callable[[Figure], None], *, name: str, label: str, height: float, layout: str | None) -> str:
    """Paints a figure and returns it as an `<svg>` element for use inside HTML.

    Args:
      paint: draws on the figure it is given.
      name: unique within the page; it prefixes every id of the element.
      label: what the figure shows, for those who cannot see it.
      height: in points; the width is `WIDTH`.
      layout: matplotlib's layout engine, None where `paint` places everything itself.

    Returns:
      The element, the same text for the same figure: no date, no random ids, no local matplotlibrc.
    """
    style: Any = _STYLE | {"svg.hashsalt": name}  # matplotlib types the keys one by one
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has the letters of all scripts; that matplotlib's own font lacks some is no news.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout=layout)  # type: ignore[arg-type]
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=288, metadata={"Date": None, "Creator": None, "Format": None})
    return _inline(out.getvalue(), name, label)


def _inline(text: str, name: str, label: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # Ids are one namespace for a whole page, and matplotlib numbers those of each figure from 1.
    text = re.sub(r"<[a-zA-Z][^>]*>", lambda match: _prefix_ids(match.group(), name), text)
    attributes = f'class="plot" role="img" aria-label="{html.escape(label, quote=True)}"'
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*pt"', "", head)  # the page decides the size, viewBox the shape
    return head.replace("<svg", f"<svg {attributes}", 1) + ">" + rest.rstrip()


def _prefix_ids(element: str, name: str) -> str:
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", element)


def canvas(figure: Figure, height: float) -> Axes:
    """Axes over the whole figure in points, origin top left, nothing drawn: squares are square there."""
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes
