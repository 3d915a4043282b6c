"""The picture of the structure that pruning left: heads, FFN units, whole layers, and d_model."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, to_hex
from PIL import Image

from nash_jax.report.rendering import render_template
from nash_jax.spec import SIDES

Masks = Mapping[str, Any]  # axis name → mask values, a sequence or [size]
_SHADES = LinearSegmentedColormap.from_list("masks", ["#a7d8d1", "#0f766e"], N=1024).with_extremes(bad="#e9edf1")
_ORDER = ("attention", "self_attention", "cross_attention", "ffn")


class Part(NamedTuple):
    """One prunable axis of one layer."""

    sublayer: str
    axis: str
    values: np.ndarray  # [size], 0 = removed

    @property
    def kept(self) -> int:
        """How many of it are left."""
        return int(np.count_nonzero(self.values))


Layers = Mapping[int, Sequence[Part]]


def structure_figure(masks: Masks) -> str:
    """What is left of each side, and of d_model where it has gates.

    A side of which only whole layers are gone is a row of boxes. Any other has a row a layer: heads as squares, FFN
    units as a strip.

    Args:
      masks: axis name (`encoder.0.attention.heads`, `embed`) → mask values in the dense model's order, 0 = removed.

    Returns:
      An `<svg>` element, "" where there is nothing to show.
    """
    sides = [_side(side, layers) for side in SIDES if (layers := _layers(masks, side))]
    width = Part("", "", np.asarray(masks["embed"], float)) if "embed" in masks else None
    if not sides and width is None:
        return ""
    drawing = {"color_of": lambda value: to_hex(_SHADES(float(value))), "strip_image": strip_image}
    return Markup(render_template("structure.svg.j2", sides=sides, d_model=width, **drawing))


def _layers(masks: Masks, side: str) -> Layers:
    """Layer id → its parts, both in order."""
    found: dict[int, list[Part]] = {}
    for name, values in masks.items():
        if place := re.fullmatch(rf"{side}\.(\d+)\.(\w+)\.(heads|units)", name):
            layer, sublayer, axis = place.groups()
            found.setdefault(int(layer), []).append(Part(sublayer, axis, np.asarray(values, float)))
    return {layer: sorted(found[layer], key=lambda part: _ORDER.index(part.sublayer)) for layer in sorted(found)}


def _side(side: str, layers: Layers) -> dict[str, Any]:
    """What the template draws of a side: `boxed` where each layer is untouched or gone."""
    parts = [part for own in layers.values() for part in own if len(part.values)]
    alive = [layer for layer, own in layers.items() if any(part.kept for part in own)]
    heads = [[len(part.values) for part in own if part.axis == "heads"] for own in layers.values()]
    axes = {axis: [part for part in parts if part.axis == axis] for axis in ("heads", "units")}
    return {
        "title": side.capitalize(),
        "layers": layers,
        "alive": alive,
        "boxed": all(np.all(part.values == 1) for layer in alive for part in layers[layer]),
        "widths": [max(column) for column in zip(*heads, strict=False)],  # heads of the widest layer
        "sublayers": (sum(part.kept > 0 for part in parts), len(parts)),
        "totals": {axis: (sum(p.kept for p in own), sum(len(p.values) for p in own)) for axis, own in axes.items()},
    }


def shade(values: np.ndarray) -> np.ndarray:
    """Colour of each mask value: grey where removed, light to dark teal from barely open to one; [n] → [n, 3]."""
    return _SHADES(np.ma.masked_less_equal(values, 0))[:, :3]


def strip_image(values: np.ndarray) -> str:
    """Colours of mask values as a PNG in a data URL: thousands of rectangles a layer would make the page megabytes."""
    pixels = (255 * shade(values)).round().astype(np.uint8)
    out = io.BytesIO()  # twice the pixels of a screen; neighbours that are too thin to be seen become their mean colour
    Image.fromarray(pixels[None]).resize((1536, 1), Image.Resampling.BOX).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
