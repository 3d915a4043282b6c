"""The picture of what pruning left: heads, FFN units and decoder layers."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nash_jax.report.svg import MUTED, OUTLINE, PRUNED, REMOVED, SOFT, WIDTH, canvas, draw

Masks = Mapping[str, Sequence[float]]

_LEFT = 64.0  # where a row's first picture begins, after its name
_ROW = 20.0
_GAP = 6.0
_CELL = 13.0
_STRIP_COUNT = 84.0  # room for "3072/3072 units"
_HEADS_COUNT = 64.0


class _Part(NamedTuple):
    """One prunable axis of one layer."""

    sublayer: str
    axis: str
    values: np.ndarray  # [size], 0 = removed

    @property
    def label(self) -> str:
        return f"{np.count_nonzero(self.values > 0)}/{len(self.values)} {self.axis}"


class _Section(NamedTuple):
    """The layers of one side, or the axes that belong to no layer."""

    title: str
    rows: dict[str, list[_Part]]  # row name → its parts

    @property
    def height(self) -> float:
        return 34 + _ROW * len(self.rows)


def _sections(survivors: Masks) -> list[_Section]:
    """Axes sorted into encoder, decoder and the rest (`embed`, say), layers in order."""
    rows: dict[str, dict[str, list[_Part]]] = {"encoder": {}, "decoder": {}, "other axes": {}}
    for name in sorted(survivors, key=_natural):
        values = np.asarray(survivors[name], float)
        found = re.fullmatch(r"(encoder|decoder)\.(\d+)\.(\w+)\.(heads|units)", name)
        if found is None:
            rows["other axes"][name] = [_Part("", "kept", values)]
            continue
        side, layer, sublayer, axis = found.groups()
        rows[side].setdefault(f"layer {layer}", []).append(_Part(sublayer, axis, values))
    return [_Section(title, {k: _in_order(v) for k, v in found.items()}) for title, found in rows.items() if found]


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def _in_order(parts: list[_Part]) -> list[_Part]:
    order = ("attention", "self_attention", "cross_attention", "ffn")
    return sorted(parts, key=lambda part: order.index(part.sublayer) if part.sublayer in order else len(order))


def _totals(section: _Section) -> str:
    counts: dict[str, list[int]] = {}
    for part in (part for parts in section.rows.values() for part in parts):
        kept, size = counts.setdefault(part.axis, [0, 0])
        counts[part.axis] = [kept + int(np.count_nonzero(part.values > 0)), size + len(part.values)]
    where = " (self-attention left, cross-attention right)" if section.title == "decoder" else ""
    notes = {"heads": where, "units": ""}
    return ", ".join(
        f"{kept:,} of {size:,} {axis}{notes[axis]}" for axis, (kept, size) in counts.items() if axis in notes
    )


def survivors_picture(
    survivors: Masks, *, kept_decoder_layers: Sequence[int] | None = None, dense_decoder_layers: int | None = None
) -> str:
    """Heads as squares and FFN units as a strip, a row for each layer, and the decoder layers kept.

    Args:
      survivors: axis name (`encoder.0.attention.heads`) → mask values in dense order, 0 = removed.
      kept_decoder_layers: ids of the teacher's decoder layers that the pruned model has.
      dense_decoder_layers: how many the teacher has; only the kept ones are drawn without it.

    Returns:
      An `<svg>` element, "" where there is nothing to show.
    """
    sections = _sections(survivors)
    kept = list(kept_decoder_layers or [])
    layers = list(range(dense_decoder_layers or 0)) or kept
    of_all = f" of the dense model's {dense_decoder_layers}" if dense_decoder_layers else ""
    shortened = kept_decoder_layers is not None and len(layers) > 0
    if not sections and not shortened:
        return ""
    height = sum(section.height for section in sections) + (_BOXES_HEIGHT if shortened else 0) + 4

    def paint(figure: Figure) -> None:
        axes = canvas(figure, height)
        top = 0.0
        for section in sections:
            _draw_section(axes, section, top, key=top == 0.0)
            top += section.height
        if shortened:
            _draw_layers(axes, layers, kept, top, f"{len(kept)}{of_all} layers")

    said = [f"{section.title}: {_totals(section)}" for section in sections]
    if shortened:
        said.append(f"decoder layers kept: {', '.join(map(str, kept)) or 'none'}")
    return draw(paint, name="survivors", label="What survived. " + "; ".join(said), height=height, layout=None)


def _draw_section(axes: Axes, section: _Section, top: float, *, key: bool) -> None:
    totals = _totals(section)
    title = section.title.capitalize()
    axes.text(0, top + 12, title, fontsize=9.5, fontweight="bold", va="center")
    axes.text(_LEFT, top + 12, f"kept {totals}" if totals else "", color=MUTED, va="center")
    if key:
        _draw_key(axes, top + 12)
    heads = [max(map(len, column)) for column in _head_columns(section)]
    pitch = min(_CELL + 3, 300 / max(1, sum(heads)))
    for i, (name, parts) in enumerate(section.rows.items()):
        middle = top + 34 + _ROW * i
        axes.text(0, middle, name, va="center", color=MUTED)
        _draw_row(axes, parts, middle, [width * pitch for width in heads], pitch)


def _head_columns(section: _Section) -> list[list[np.ndarray]]:
    """Mask values of the first, second, … heads axis of every row; rows with fewer axes leave gaps."""
    rows = [[part.values for part in parts if part.axis == "heads"] for parts in section.rows.values()]
    number = max((len(row) for row in rows), default=0)
    return [[row[i] for row in rows if len(row) > i] for i in range(number)]


def _draw_row(axes: Axes, parts: Sequence[_Part], middle: float, widths: Sequence[float], pitch: float) -> None:
    left = _LEFT
    for part, width in zip([part for part in parts if part.axis == "heads"], widths, strict=False):
        _draw_heads(axes, part.values, left, middle, pitch)
        axes.text(left + width + 3, middle, part.label, va="center", fontsize=8.5)
        left += width + _HEADS_COUNT
    left = _LEFT + sum(widths) + _HEADS_COUNT * len(widths)
    for part in (part for part in parts if part.axis != "heads"):
        right = WIDTH - _STRIP_COUNT
        _draw_strip(axes, part.values, left + _GAP, right, middle)
        axes.text(right + 6, middle, part.label, va="center", fontsize=8.5)


def shade(values: np.ndarray) -> np.ndarray:
    """Colour of each mask value: grey where removed, light to dark teal from barely open to one; [n] → [n, 3]."""
    removed, soft, full = (np.asarray(to_rgb(color)) for color in (REMOVED, SOFT, PRUNED))
    weight = np.clip(values, 0.0, 1.0)[:, None]
    return np.where(values[:, None] > 0, soft + (full - soft) * weight, removed)


def _draw_heads(axes: Axes, values: np.ndarray, left: float, middle: float, pitch: float) -> None:
    size = pitch * _CELL / (_CELL + 3)
    for i, (value, color) in enumerate(zip(values, shade(values), strict=True)):
        _draw_square(axes, left + i * pitch, middle, size, color if value > 0 else None)


def _draw_square(axes: Axes, left: float, middle: float, size: float, color: np.ndarray | None) -> None:
    face, edge = ("none", OUTLINE) if color is None else (tuple(color), tuple(color))
    inset = 0.5  # half the outline, which would otherwise make kept squares larger
    axes.add_patch(Rectangle((left + inset, middle - size / 2 + inset), size - 1, size - 1, lw=1.0, fc=face, ec=edge))


def _draw_strip(axes: Axes, values: np.ndarray, left: float, right: float, middle: float) -> None:
    # An image, since thousands of rectangles a layer would make the page megabytes; where units are
    # thinner than its pixels, matplotlib averages neighbours.
    extent = (left, right, middle + _CELL / 2, middle - _CELL / 2)
    pixels = (255 * shade(values)).round().astype(np.uint8)[None].repeat(2, axis=0)
    if len(values):
        axes.imshow(pixels, extent=extent, aspect="auto", interpolation="auto", resample=True)
    axes.add_patch(Rectangle((left, middle - _CELL / 2), right - left, _CELL, fill=False, ec=OUTLINE, lw=0.6))


def _draw_key(axes: Axes, middle: float) -> None:
    entries = [(0, "removed", 0.0), (62, "kept, mask 0.1", 0.1), (148, "0.5", 0.5), (184, "1", 1.0)]
    for offset, text, value in entries:
        left = WIDTH - 210 + offset
        color = shade(np.asarray([value]))[0] if value > 0 else None
        _draw_square(axes, left, middle, 10, color)
        axes.text(left + 14, middle, text, va="center", fontsize=8.5, color=MUTED)


_BOXES_HEIGHT = 62.0


def _draw_layers(axes: Axes, layers: Sequence[int], kept: Sequence[int], top: float, title: str) -> None:
    axes.text(0, top + 12, "Decoder", fontsize=9.5, fontweight="bold", va="center")
    axes.text(_LEFT, top + 12, f"kept {title}", color=MUTED, va="center")
    pitch = min(46.0, (WIDTH - _LEFT) / len(layers))
    axes.text(0, top + 40, "layer", va="center", color=MUTED)
    for i, layer in enumerate(layers):
        alive = layer in kept
        face, edge = (PRUNED, PRUNED) if alive else ("none", OUTLINE)
        axes.add_patch(Rectangle((_LEFT + i * pitch + 0.5, top + 29), pitch - 5, 22, linewidth=1.0, fc=face, ec=edge))
        ink = "white" if alive else MUTED
        place = (_LEFT + i * pitch + (pitch - 4) / 2, top + 40)
        axes.text(*place, str(layer), ha="center", va="center", color=ink, fontweight="bold" if alive else "normal")
