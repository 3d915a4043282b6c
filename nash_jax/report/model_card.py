"""The model card, README.md on the hub: what a model is, how it was made, its quality, speed and limits.

Texts of users come into it escaped: what Jinja puts into the template is text, unless it is `Markdown`.
"""

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from nash_jax.report.benchmark import find_row, setup_label, setup_speedup, setups
from nash_jax.report.card_metadata import base_model, metadata, model_name, one_line
from nash_jax.report.numbers import (
    DASH,
    format_count,
    format_ms,
    format_percent,
    format_speedup,
    format_value,
    is_number,
    ratio,
    section,
)
from nash_jax.report.quality import Report, format_kept, metric_names
from nash_jax.runtime.files import write_text
from nash_jax.spec import SIDES

CARD = "README.md"
METHODS = {  # what a card says of a run's method
    "nash": "NASH: decoder layers are dropped, and gates narrow the encoder's heads and FFN units",
    "nash_auto": "NASH-auto: gates narrow the encoder, and gates over the decoder's sub-layers shorten it",
    "cofi": "CoFi: gates over heads, FFN units, sub-layers and the width of encoder and decoder",
    "latency": "gates over heads, FFN units and sub-layers of both sides, which pay the milliseconds they take",
    "oneshot": "decoder layers are dropped, and the encoder's least important heads and FFN units, without training",
    "auto": "layers, heads and FFN units of both sides that a search over measured times found",
    "drop": "layers of the encoder and the decoder are dropped",
    "scratch": "the shape that is left when layers are dropped, trained from random weights",
    "none": "nothing is removed: fine-tuning alone",
}
_PHASES = {
    "finetune": "fine-tuning of the dense model",
    "halfway": "training of a model halfway",
    "prune": "pruning",
    "retrain": "fine-tuning after pruning",
}


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape(value: Any) -> str:
    """Returns a value as Markdown that shows it, on one line; `Markdown` stays as it is."""
    if isinstance(value, Markdown):
        return value
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$@])", r"\\\1", one_line(DASH if value is None else value))


def model_card(report: Report, layout: str = "hf") -> str:
    """Returns the card of a run's pruned model. Whatever is missing in the report is left out.

    Args:
      report: what `report.json` holds of a run.
      layout: the format of the folder that it is for, one of `EXPORT_FORMATS`.
    """
    task = section(report, "config", "task")
    return _environment().get_template("model_card.md.j2").render(
        metadata=Markdown(metadata(report, layout)),
        title=model_name(report),
        kind=layout.partition("_")[0],
        examples=report.get("num_test_examples"),
        **{name: report.get(name) for name in ("task", "device", "dtype")},
        base=base_model(report),
        made=_made(report),
        sizes=_sizes(report),
        quality=_quality(report),
        speed=_speed(report),
        most_source=task.get("max_source_length"),
        text=Markdown(_python_text(str(task.get("prefix") or "") + "A text.")),
        new_tokens=int(task.get("max_new_tokens") or 64),
        num_beams=int(section(report, "config", "evaluate").get("num_beams") or 1),
        no_repeat=int(section(report, "config", "evaluate").get("no_repeat_ngram_size") or 0),
        languages=any(task.get(f"{side}_language") for side in ("source", "target")),
    )  # fmt: skip


def write_cards(report: Report, folder: Path, layouts: Sequence[str]) -> list[Path]:
    """Writes the card into the formats' folders that are there and have none: a user may have edited it.

    Args:
      report: what `report.json` holds of a run.
      folder: of the run's export.
      layouts: formats, names of folders in it.

    Returns:
      The cards that were written.
    """
    found = [
        folder / name / CARD
        for name in layouts
        if (folder / name).is_dir() and not os.path.lexists(folder / name / CARD)
    ]
    for path in found:
        write_text(path, model_card(report, path.parent.name))
    return found


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("nash_jax.report"), autoescape=False, finalize=escape,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def _python_text(text: str) -> str:
    """Returns a literal of Python in ASCII that ends no fenced block."""
    return json.dumps(text).replace("`", "\\x60")


def _made(report: Report) -> list[tuple[str, str]]:
    """How the model was made: title, text."""
    config, params, stages = (section(report, part) for part in ("config", "params", "stages"))
    rows = [("Method", METHODS.get(str(report.get("method")), str(report.get("method") or DASH)))]
    for side in SIDES:
        rows += _kept_layers(params, side)
        if is_number(params.get(f"{side}_sparsity")):
            rows.append((f"Sparsity of the {side}", _sparsity(report, side)))
    for stage, title in _PHASES.items():
        if is_number(steps := section(stages, stage).get("steps")):
            size = section(config, stage).get("batch_size")
            rows.append((f"Steps, {title}", f"{format_value(steps)}, batches of {size}" if steps else "none"))
    if labels := section(report, "labels"):
        text = f"outputs of the dense model for a share of {format_value(section(config, 'label').get('share'))}"
        rows.append(("Targets", f"{text}; {labels['used']:,} outputs used"))
    if "seed" in config:
        rows.append(("Seed", str(config["seed"])))
    versions = section(report, "versions")
    rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or DASH))
    return rows


def _kept_layers(params: Mapping[str, Any], side: str) -> list[tuple[str, str]]:
    kept, total = params.get(f"kept_{side}_layers"), params.get(f"dense_{side}_layers")
    if not isinstance(kept, list):
        return []
    gone = params.get(f"removed_{side}_sublayers") or []
    lone = [name for name in gone if int(name.split(".")[1]) in kept]
    said = f"{len(kept)} of {total}: {', '.join(map(str, kept)) or DASH}"
    return [(f"Layers of the {side}", said + (f"; of these, {len(lone)} sub-layers are gone" if lone else ""))]


def _sparsity(report: Report, side: str) -> str:
    """What was asked of a side, what the gates expected, and what is counted."""
    params, config = section(report, "params"), section(report, "config")
    said = [f"{format_percent(params[f'{side}_sparsity'])} counted"]
    expected, asked = params.get(f"expected_{side}_sparsity"), section(config, "prune").get("sparsity")
    if expected and is_number(asked) and (side == "encoder" or report.get("method") == "cofi"):
        said.insert(0, f"{format_percent(asked)} asked" + " of both sides together" * (report.get("method") == "cofi"))
    if expected:
        said.append(f"the gates expected {format_percent(expected)}")
    return ", ".join(said)


def _sizes(report: Report) -> tuple[str, str, str] | None:
    params = section(report, "params")
    dense, pruned = params.get("dense"), params.get("pruned")
    share = ratio(pruned, dense)
    return None if share is None else (format_count(dense), format_count(pruned), format_percent(1 - share))


def _quality(report: Report) -> list[tuple[str, ...]]:
    """Metric, dense, pruned, share that is kept; each with its interval where there is one."""
    scores = {model: section(report, "metrics", model) for model in ("dense", "pruned")}
    names = [name for name in metric_names(report) if any(name in own for own in scores.values())]
    return [(name, *(_scored(report, model, name) for model in scores), format_kept(report, name)) for name in names]


def _scored(report: Report, model: str, name: str) -> str:
    value, bounds = section(report, "metrics", model).get(name), section(report, "intervals", model).get(name)
    known = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(is_number, bounds))
    interval = f" ({format_value(bounds[0], value)} to {format_value(bounds[1], value)})" if bounds and known else ""
    return format_value(value) + interval


def _speed(report: Report) -> list[tuple[str, ...]]:
    """Setup, milliseconds of dense and of pruned, speedup."""
    rows, found = report.get("benchmark") or [], []
    for setup in setups(rows):
        both = [find_row(rows, model, setup).get("median_ms") for model in ("dense", "pruned")]
        factor = setup_speedup(report, setup)
        if all(map(is_number, both)):
            label = f"{setup_label(setup, [])}, {setup.source_length} → {setup.new_tokens} tokens"
            found.append((label, *map(format_ms, both), DASH if factor is None else format_speedup(factor)))
    return found
