"""The model card, README.md on the hub: what a model is, how it was made, its quality, speed and limits.

Texts of users come into it escaped: what Jinja puts into the template is text, unless it is marked as safe.
"""

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nash_jax.report.card_metadata import base_model, metadata, model_name, one_line
from nash_jax.report.numbers import DASH, section
from nash_jax.report.quality import Report
from nash_jax.report.rendering import environment
from nash_jax.runtime.files import write_text

CARD = "README.md"


def escape(value: Any) -> str:
    """Returns a value as Markdown that shows it, on one line; `Markup` is Markdown already."""
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$@])", r"\\\1", one_line(DASH if value is None else value))


@functools.cache
def _template() -> jinja2.Template:
    markdown = environment().overlay(finalize=escape, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return markdown.get_template("model_card.md.j2")


def model_card(report: Report, layout: str = "hf") -> str:
    """Returns the card of a run's pruned model. Whatever is missing in the report is left out.

    Args:
      report: what `report.json` holds of a run.
      layout: the format of the folder that it is for, one of `EXPORT_FORMATS`.
    """
    return _template().render(
        report=report,
        metadata=metadata(report, layout),
        title=model_name(report),
        kind=layout.partition("_")[0],
        base=base_model(report),
        text=_python_text(f"{section(report, 'config', 'task').get('prefix') or ''}A text."),
    )


def _python_text(text: str) -> str:
    """Returns a literal of Python in ASCII that ends no fenced block."""
    return json.dumps(text).replace("`", "\\x60")


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
