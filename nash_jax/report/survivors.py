"""The picture of what pruning left: heads, FFN units, whole layers, and d_model."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nash_jax.report.svg import MUTED, OUTLINE, PRUNED, REMOVED, SOFT, WIDTH, canvas, draw
from nash_jax.spec import SIDES

Masks = Mapping[str, Sequence[float] | np.ndarray]

_LEFT = 64.0  # where a row's first picture begins, after its name
_ROW = 20.0
_GAP = 6.0
_CELL = 13.0
_STRIP_COUNT = 84.0  # room for "3072/3072 units"
_HEADS_COUNT = 64.0
_KEY_HEIGHT = 20.0
_ORDER = ("attention", "self_attention", "cross_attention", "ffn")


class _Part(NamedTuple):
    """One prunable axis of one layer."""

    sublayer: str
    axis: str
    values: np.ndarray  # [size], 0 = removed

    @property
    def kept(self) -> int:
        return int(np.count_nonzero(self.values))

    @property
    def label(self) -> str:
        gone = self.kept == 0 < len(self.values)
        return "gone" if gone else f"{self.kept}/{len(self.values)} {self.axis}"


Layers = Mapping[int, Sequence[_Part]]


class _Block(NamedTuple):
    """A titled part of the picture."""

    title: str
    totals: str
    height: float
    paint: Callable[[Axes, float], None]  # on axes, below a height
    shaded: bool = True  # by mask values, which the key explains
    spoken: str = ""  # what the label says beyond the totals


def survivors_picture(survivors: Masks) -> str:
    """What is left of each side, and of d_model where it has gates.

    A side of which only whole layers are gone is a row of boxes. Any other has a row a layer: heads as squares, FFN
    units as a strip.

    Args:
      survivors: axis name (`encoder.0.attention.heads`, `embed`) → mask values in the dense model's order, 0 = removed.

    Returns:
      An `<svg>` element, "" where there is nothing to show.
    """
    sides = {side: _layers(survivors, side) for side in SIDES}
    blocks = [(_boxes if _only_whole(layers) else _rows)(side, layers) for side, layers in sides.items() if layers]
    if "embed" in survivors:
        blocks.append(_d_model(np.asarray(survivors["embed"], float)))
    if not blocks:
        return ""
    key = _KEY_HEIGHT if any(block.shaded for block in blocks) else 0.0
    height = key + sum(block.height for block in blocks) + 4

    def paint(figure: Figure) -> None:
        axes = canvas(figure, height)
        if key:
            _draw_key(axes, key / 2)
        top = key
        for block in blocks:
            axes.text(0, top + 12, block.title, fontsize=9.5, fontweight="bold", va="center")
            axes.text(_LEFT, top + 12, f"kept {block.totals}", color=MUTED, va="center")
            block.paint(axes, top)
            top += block.height

    said = "; ".join(f"{block.title}: kept {block.totals}{block.spoken}" for block in blocks)
    return draw(paint, name="survivors", label=f"What survived. {said}", height=height, layout=None)


def _layers(survivors: Masks, side: str) -> Layers:
    """Layer id → its parts, both in order."""
    found: dict[int, list[_Part]] = {}
    for name, values in survivors.items():
        place = re.fullmatch(rf"{side}\.(\d+)\.(\w+)\.(heads|units)", name)
        if place is not None:
            layer, sublayer, axis = place.groups()
            found.setdefault(int(layer), []).append(_Part(sublayer, axis, np.asarray(values, float)))
    return {layer: sorted(found[layer], key=lambda part: _ORDER.index(part.sublayer)) for layer in sorted(found)}


def _alive(layers: Layers) -> list[int]:
    return [layer for layer, parts in layers.items() if any(part.kept for part in parts)]


def _only_whole(layers: Layers) -> bool:
    """Each layer is there untouched, or gone."""
    alive = _alive(layers)
    return all(np.all(part.values == 1) for layer in alive for part in layers[layer])


def _spoken_ids(layers: Layers) -> str:
    alive = _alive(layers)
    return "" if len(alive) == len(layers) else f", layers left: {', '.join(map(str, alive)) or 'none'}"


def _totals(layers: Layers) -> str:
    """Layers and sub-layers where any are gone, heads and units always."""
    parts = [part for parts in layers.values() for part in parts if len(part.values)]
    counts = {"layers": (len(_alive(layers)), len(layers)), "sub-layers": (sum(p.kept > 0 for p in parts), len(parts))}
    counts = {name: (kept, size) for name, (kept, size) in counts.items() if kept < size}
    for axis in ("heads", "units"):
        own = [part for part in parts if part.axis == axis]
        counts[axis] = (sum(part.kept for part in own), sum(len(part.values) for part in own))
    return ", ".join(f"{kept:,} of {size:,} {name}" for name, (kept, size) in counts.items())


def _rows(side: str, layers: Layers) -> _Block:
    """A row a layer."""
    widths = _head_widths(layers)
    pitch = min(_CELL + 3, 300 / max(1, sum(widths)))
    columns = [width * pitch for width in widths]

    def paint(axes: Axes, top: float) -> None:
        left = _LEFT
        names = [part.sublayer.replace("_", "-") for part in next(iter(layers.values()))]
        for name, width in zip(names, [*(c + _HEADS_COUNT for c in columns), _GAP], strict=False):
            inset = _GAP if name == "ffn" else 0
            axes.text(left + inset, top + 30, name.replace("ffn", "FFN"), color=MUTED, va="center", fontsize=8.5)
            left += width
        for i, (layer, parts) in enumerate(layers.items()):
            middle = top + 48 + _ROW * i
            axes.text(0, middle, f"layer {layer}", va="center", color=MUTED)
            _draw_row(axes, parts, middle, columns, pitch)

    height = 44 + _ROW * len(layers) + 4
    return _Block(side.capitalize(), _totals(layers), height, paint, spoken=_spoken_ids(layers))


def _head_widths(layers: Layers) -> list[int]:
    """Heads of the widest layer, for the first, second, … attention of a layer."""
    rows = [[len(part.values) for part in parts if part.axis == "heads"] for parts in layers.values()]
    return [max(column) for column in zip(*rows, strict=False)]


def _draw_row(axes: Axes, parts: Sequence[_Part], middle: float, widths: Sequence[float], pitch: float) -> None:
    left = _LEFT
    for part, width in zip([part for part in parts if part.axis == "heads"], widths, strict=False):
        _draw_heads(axes, part.values, left, middle, pitch)
        axes.text(left + width + 3, middle, part.label, va="center", fontsize=8.5)
        left += width + _HEADS_COUNT
    for part in (part for part in parts if part.axis != "heads"):
        right = WIDTH - _STRIP_COUNT
        _draw_strip(axes, part.values, left + _GAP, right, middle)
        axes.text(right + 6, middle, part.label, va="center", fontsize=8.5)


def _d_model(values: np.ndarray) -> _Block:
    """One strip."""

    def paint(axes: Axes, top: float) -> None:
        _draw_strip(axes, values, _LEFT, WIDTH - _STRIP_COUNT, top + 32)
        kept = f"{np.count_nonzero(values)}/{len(values)}"
        axes.text(WIDTH - _STRIP_COUNT + 6, top + 32, kept, va="center", fontsize=8.5)

    return _Block("d_model", f"{np.count_nonzero(values):,} of {len(values):,} dimensions", 46.0, paint)


def _boxes(side: str, layers: Layers) -> _Block:
    """A box a layer, outlined where the layer is gone."""
    alive = _alive(layers)

    def paint(axes: Axes, top: float) -> None:
        pitch = min(46.0, (WIDTH - _LEFT) / len(layers))
        axes.text(0, top + 40, "layer", va="center", color=MUTED)
        for i, layer in enumerate(layers):
            face, edge, ink = (PRUNED, PRUNED, "white") if layer in alive else ("none", OUTLINE, MUTED)
            left, weight = _LEFT + i * pitch, "bold" if layer in alive else "normal"
            axes.add_patch(Rectangle((left + 0.5, top + 29), pitch - 5, 22, linewidth=1.0, fc=face, ec=edge))
            place = (left + (pitch - 4) / 2, top + 40)
            axes.text(*place, str(layer), ha="center", va="center", color=ink, fontweight=weight)

    totals = f"{len(alive)} of the dense model's {len(layers)} layers"
    return _Block(side.capitalize(), totals, 62.0, paint, shaded=False, spoken=_spoken_ids(layers))


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
