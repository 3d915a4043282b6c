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
    said = [f"{side['title']}: kept {side['totals']}{side['spoken']}" for side in sides]
    said += [f"d_model: kept {width.kept:,} of {len(width.values):,} dimensions"] if width else []
    if not said:
        return ""
    return Markup(
        render_template(
            "structure.svg.j2",
            sides=sides,
            d_model=width,
            label=f"What survived. {'; '.join(said)}",
            color_of=lambda value: to_hex(_SHADES(float(value))),
            strip_image=strip_image,
        )
    )


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
    alive = [layer for layer, parts in layers.items() if any(part.kept for part in parts)]
    boxed = all(np.all(part.values == 1) for layer in alive for part in layers[layer])
    heads = [[len(part.values) for part in parts if part.axis == "heads"] for parts in layers.values()]
    return {
        "title": side.capitalize(),
        "layers": layers,
        "alive": alive,
        "boxed": boxed,
        "widths": [max(column) for column in zip(*heads, strict=False)],  # heads of the widest layer
        "totals": f"{len(alive)} of the dense model's {len(layers)} layers" if boxed else _totals(layers, alive),
        "spoken": "" if len(alive) == len(layers) else f", layers left: {', '.join(map(str, alive)) or 'none'}",
    }


def _totals(layers: Layers, alive: Sequence[int]) -> str:
    """Layers and sub-layers where any are gone, heads and units always."""
    parts = [part for parts in layers.values() for part in parts if len(part.values)]
    counts = {"layers": (len(alive), len(layers)), "sub-layers": (sum(p.kept > 0 for p in parts), len(parts))}
    counts = {name: (kept, size) for name, (kept, size) in counts.items() if kept < size}
    for axis in ("heads", "units"):
        own = [part for part in parts if part.axis == axis]
        counts[axis] = (sum(part.kept for part in own), sum(len(part.values) for part in own))
    return ", ".join(f"{kept:,} of {size:,} {name}" for name, (kept, size) in counts.items())


def shade(values: np.ndarray) -> np.ndarray:
    """Colour of each mask value: grey where removed, light to dark teal from barely open to one; [n] → [n, 3]."""
    return _SHADES(np.ma.masked_less_equal(values, 0))[:, :3]


def strip_image(values: np.ndarray) -> str:
    """Colours of mask values as a PNG in a data URL: thousands of rectangles a layer would make the page megabytes."""
    pixels = (255 * shade(values)).round().astype(np.uint8)
    out = io.BytesIO()  # twice the pixels of a screen; neighbours that are too thin to be seen become their mean colour
    Image.fromarray(pixels[None]).resize((1536, 1), Image.Resampling.BOX).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
