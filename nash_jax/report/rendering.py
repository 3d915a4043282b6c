"""Templates filled in: pages as HTML, model cards as Markdown, summaries as text."""

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any

import jinja2

from nash_jax.report import benchmark, numbers, quality
from nash_jax.report.console import align
from nash_jax.report.visible import visible

_FORMATS = ("value", "percent", "count", "speedup", "ms")


def render_template(name: str, /, **values: Any) -> str:
    """A template of the folder `templates`; odd characters come out as their codes, in HTML all text is escaped."""
    return visible(environment().get_template(name).render(values))


@functools.cache
def environment() -> jinja2.Environment:
    """What the templates see: the functions of the report and its formats of numbers, as filters."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("nash_jax.report"),
        autoescape=jinja2.select_autoescape(("html.j2", "svg.j2")),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    found.filters |= {name: getattr(numbers, f"format_{name}") for name in _FORMATS}
    found.filters["aligned"] = _aligned
    found.tests["measured"] = numbers.is_number
    for module in (numbers, benchmark, quality):
        found.globals |= dict(inspect.getmembers(module, inspect.isfunction))
    found.globals["Setup"] = benchmark.Setup
    return found


def _aligned(text: str, left: Sequence[int]) -> str:
    """Lines of cells, " | " between them, with the columns aligned."""
    return align([re.split(r" *\|(?: +|$)", line) for line in text.splitlines()], left) + "\n"
