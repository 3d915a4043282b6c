"""The report of a run as one self-contained HTML file: no script, no external resource, the same for the same run."""

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from nash_jax.report import benchmark, figures, numbers, quality, structure_figure, tables
from nash_jax.report.numbers import section
from nash_jax.report.quality import MODELS, Report
from nash_jax.report.visible import visible, visible_in

Example = Mapping[str, Any]


def render(
    report: Report,
    *,
    history: benchmark.Rows = (),
    masks: structure_figure.Masks | None = None,
    parameters: Mapping[str, Mapping[str, int]] | None = None,
    examples: Sequence[Example] = (),
) -> str:
    """Writes the report of a run as one HTML page. Whatever is missing is left out of the page.

    Args:
      report: what `report.json` holds.
      history: the logged steps: dicts with `phase`, `step`, losses, sparsities, `validation/<metric>`.
      masks: axis name → mask values in dense order, 0 = removed, of all layers of the dense model.
      parameters: "dense" and "pruned", or "model" → component → number of parameters.
      examples: dicts with `source`, `references` and the models' outputs, by the names in `parameters`.

    Returns:
      The file's text. Every string that came in is escaped.
    """
    report, history, parameters = visible_in(report), visible_in(history), visible_in(parameters or {})
    metric, config = quality.main_metric(report), report.get("config")
    drawn = {
        "latency": figures.latency_bars(report),
        "parameters": figures.component_bars(parameters or {}),
        "structure": structure_figure.structure_figure(masks or {}),
        "training": figures.training_curves(history, metric),
        "sparsity": figures.sparsity_curves(history, section(report, "stages", "prune").get("best_step")),
    }
    return render_template(
        "report.html.j2",
        report=report,
        metric=metric,
        figures=drawn,
        tables={name: build(report) for name, build in tables.TABLES.items()},
        examples=[dict(example, references=_references(example)) for example in examples],
        answering=[model for model in MODELS if any(model in example for example in examples)],
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False) if config else "",
    )


def render_template(name: str, /, **values: Any) -> str:
    """A page of the folder `templates`; text that is not `Markup` is escaped, odd characters are as their codes."""
    return visible(_environment().get_template(name).render(values))


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("nash_jax.report")
    found = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.do"]
    )
    kinds = ("value", "percent", "count", "speedup", "ms")
    found.filters |= {kind: getattr(numbers, f"format_{kind}") for kind in kinds} | {"equals": equals_reference}
    found.tests["measured"] = numbers.is_number
    for module in (numbers, benchmark, quality, tables, structure_figure):
        found.globals |= {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    found.globals["equals_reference"] = equals_reference
    return found


def _references(example: Example) -> list[str]:
    found = example.get("references") or []
    return [found] if isinstance(found, str) else list(found)


def equals_reference(example: Example, model: str) -> bool:
    """Whether a model's output has the words of a reference."""
    output = example.get(model)
    return output is not None and output.split() in [reference.split() for reference in _references(example)]
