"""The report of a run as one self-contained HTML file: no script, no external resource, the same for the same run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.data.checks import ISSUE_KINDS
from nash_jax.report import figures
from nash_jax.report.benchmark import Rows
from nash_jax.report.numbers import section
from nash_jax.report.quality import MODELS, Report, main_metric
from nash_jax.report.rendering import render_template
from nash_jax.report.structure_figure import Masks, structure_figure
from nash_jax.report.tables import Bar, Cell, make_frame
from nash_jax.report.visible import visible_in

Example = Mapping[str, Any]


def render(
    report: Report,
    *,
    history: Rows = (),
    masks: Masks | None = None,
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
    metric, config = main_metric(report), report.get("config")
    answering = [model for model in MODELS if any(model in example for example in examples)]
    drawn = {
        "latency": figures.latency_bars(report),
        "parameters": figures.component_bars(parameters),
        "structure": structure_figure(masks or {}),
        "training": figures.training_curves(history, metric),
        "sparsity": figures.sparsity_curves(history, section(report, "stages", "prune").get("best_step")),
    }
    return render_template(
        "report.html.j2",
        report=report,
        metric=metric,
        figures=drawn,
        make_frame=make_frame,
        Cell=Cell,
        Bar=Bar,
        ISSUE_KINDS=ISSUE_KINDS,
        examples=[_shown(example, answering) for example in examples],
        answering=answering,
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False) if config else "",
    )


def _shown(example: Example, models: Sequence[str]) -> dict[str, Any]:
    """An example with its references as a list, and the models whose output has the words of one, as `hits`."""
    references = example.get("references") or []
    references = [references] if isinstance(references, str) else list(references)
    words = [reference.split() for reference in references]
    hits = [model for model in models if example.get(model) is not None and example[model].split() in words]
    return {**example, "references": references, "hits": hits}
