"""The report as one self-contained HTML file: no script, no external resource, the same for the same run."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.report.figures import component_bars, latency_bars, sparsity_curves, training_curves
from nash_jax.report.markup import Markup, join, tag
from nash_jax.report.page import figure_box, page_header, titled, whole_page
from nash_jax.report.summary import (
    MODELS,
    Report,
    Rows,
    direction,
    format_count,
    format_kept,
    format_ms,
    format_percent,
    format_speedup,
    format_value,
    kept_interval,
    main_metric,
    measured,
    quality_kept,
    ratio,
    section,
    speedups,
    what_went,
)
from nash_jax.report.survivors import Masks, survivors_picture
from nash_jax.report.tables import (
    benchmark_table,
    components_table,
    data_table,
    findings_table,
    models_table,
    stages_table,
)


def render(
    report: Report,
    *,
    history: Rows = (),
    survivors: Masks | None = None,
    components: Mapping[str, Mapping[str, int]] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Writes the report of a run as one HTML page. Whatever is missing is left out of the page.

    Args:
      report: what `report.json` holds.
      history: the logged steps: dicts with `phase`, `step`, losses, sparsities, `validation/<metric>`.
      survivors: axis name → mask values in dense order, 0 = removed, of all layers of the dense model.
      components: "dense" and "pruned", or "model" → component → number of parameters.
      examples: dicts with `source`, `references` and the models' outputs, by the names in `components`.

    Returns:
      The file's text. Every string that came in is escaped.
    """
    best_step = section(report, "stages", "prune").get("best_step")
    body = [
        _models_section(report),
        _latency_section(report),
        titled("Time by component", _COMPONENTS_LEAD, components_table(report)),
        titled("Parameters", _PARAMETERS_LEAD, figure_box(component_bars(components or {}))),
        titled("What survived", _SURVIVORS_LEAD, figure_box(survivors_picture(survivors or {}))),
        titled("Training", _TRAINING_LEAD, figure_box(training_curves(history, main_metric(report)))),
        titled("Sparsity while pruning", _sparsity_lead(report), figure_box(sparsity_curves(history, best_step))),
        _examples_section(examples),
        titled("Data", "", data_table(section(report, "data", "summary")), findings_table(report)),
        titled("Time", "", stages_table(report)),
        _config_section(report),
    ]
    return _page(report, tag("main", _tiles(report), *body))


_PARAMETERS_LEAD = "Where the parameters are, and where they went."
_SURVIVORS_LEAD = (
    "One square is an attention head; one cell of a strip is an FFN unit, or a dimension of d_model, in the order of "
    "the dense model; one box is a layer. "
    "Outlined squares and pale cells were removed; darker ones were kept with a mask nearer to one, "
    "and the mask is folded into the weights."
)
_TRAINING_LEAD = "Pale lines are the logged values, strong lines their moving average, dots the evaluations."
_CONSTRAINED = {"nash": " of the encoder", "nash_auto": " of each side", "cofi": " of the whole model"}
_LATENCY_LEAD = "Mean ± standard deviation, compilation left out."
_FACTORS_LEAD = " Factors: median of dense over median of pruned."
_COMPONENTS_LEAD = (
    "Median ± standard deviation of what a component adds to a generation, and its share. Components are timed as "
    "programs of their own; the remainder is what XLA fuses or orders otherwise in one program, and noise."
)


def _sparsity_lead(report: Report) -> str:
    of_what = _CONSTRAINED.get(str(report.get("method")), "")
    return f"The multipliers push the expected sparsity{of_what} to its target."


def _page(report: Report, main: Markup) -> str:
    title = f"{report.get('task') or 'run'} · nash_jax report"
    return whole_page(title, _header(report), main, "The same numbers for programs: report.json.")


def _header(report: Report) -> Markup:
    memory = report.get("peak_memory_gib")
    facts = {
        "model": report.get("model"),
        "device": report.get("device"),
        "dtype": report.get("dtype"),
        "peak memory": f"{memory:.1f} GiB" if measured(memory) else None,
        **section(report, "versions"),
    }
    kind = "evaluation" if report.get("model") else "pruning"
    return page_header(f"{kind} report", report.get("task") or "Unnamed run", verdict(report), facts)


def verdict(report: Report) -> str:
    """The run in one sentence, of what was measured."""
    if report.get("model"):
        return _looked_at(report)
    said = []
    kept, metric = quality_kept(report), main_metric(report)
    if kept is not None and metric is not None:
        said.append(f"has {format_kept(report, metric)} of the dense model’s {metric}")
    for label, factor in list(speedups(report).items())[:1]:
        said.append(f"generates {format_speedup(factor)} as fast at {label}")
    removed = _removed(report)
    if removed is not None:
        said.append(f"has {format_percent(abs(removed))} {'fewer' if removed >= 0 else 'more'} parameters")
    if not said:
        return "This run has not measured a pruned model."
    return "The pruned model " + (", ".join(said[:-1]) + " and " if said[:-1] else "") + said[-1] + "."


def _looked_at(report: Report) -> str:
    """One model in one sentence."""
    said = [f"The model has {format_count(section(report, 'params').get('model'))} parameters"]
    metric, rows = main_metric(report), report.get("benchmark") or []
    score = section(report, "metrics", "model").get(metric or "")
    if measured(score):
        said.append(f"reaches {format_value(score)} {metric}")
    for row in rows[:1]:
        said.append(
            f"generates {row['new_tokens']} tokens in {format_ms(row['median_ms'])} ms at batch {row['batch_size']}"
        )
    return (", ".join(said[:-1]) + " and " if said[:-1] else "") + said[-1] + "."


def _removed(report: Report) -> float | None:
    params = section(report, "params")
    part = ratio(params.get("pruned"), params.get("dense"))
    return None if part is None else 1 - part


def _tiles(report: Report) -> Markup:
    tiles: list[tuple[str, Any, str]] = [*_quality_tile(report)]
    tiles += [(f"Speedup, {label}", format_speedup(x), _SPEEDUP_NOTE) for label, x in speedups(report).items()]
    params, removed = section(report, "params"), _removed(report)
    if removed is not None:
        note = f"{format_count(params['dense'])} → {format_count(params['pruned'])}"
        tiles.append(("Parameters removed", format_percent(removed), note))
    tiles += _sparsity_tile(params, "encoder") + _sparsity_tile(params, "decoder")
    if not tiles:
        return Markup("")
    per_row = math.ceil(len(tiles) / math.ceil(len(tiles) / 5))  # rows of nearly one length
    return tag("dl", *(_tile(*tile) for tile in tiles), class_="tiles", style=f"--n:{per_row}")


_SPEEDUP_NOTE = "over dense, time to generate"


def _tile(name: str, value: Any, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, class_="big"), tag("dd", note, class_="note"), class_="tile")


def _quality_tile(report: Report) -> list[tuple[str, Markup, str]]:
    kept, metric = quality_kept(report), main_metric(report)
    if kept is None or metric is None:
        return []
    dense, pruned = (section(report, "metrics", model)[metric] for model in ("dense", "pruned"))
    note = f"{metric} {format_value(dense)} → {format_value(pruned, like=dense)}"
    p_value = section(report, "paired", metric).get("p")
    note += f", p = {p_value:.3f}" if measured(p_value) else ""
    interval = kept_interval(report, metric)
    sure = tag("span", interval, class_="change", title="95 % confidence interval") if interval else ""
    value = join([format_percent(kept), sure])
    if direction(metric) < 0:  # "110 % of the quality kept" would praise a model that errs more
        return [(f"{metric} over dense’s", value, note + ", lower is better")]
    return [("Quality kept", value, note)]


def _sparsity_tile(params: Mapping[str, Any], side: str) -> list[tuple[str, str, str]]:
    counted, expected = params.get(f"{side}_sparsity"), params.get(f"expected_{side}_sparsity")
    least = params.get(f"{side}_sparsity_at_least")
    if not measured(counted):
        note = "its dense form is not named"
        return [(f"{side.capitalize()} sparsity", f"≥ {format_percent(least)}", note)] if measured(least) else []
    notes = ["counted"]
    if measured(expected) and expected > 0:
        notes.append(f"the gates expected {format_percent(expected)}")
    notes += filter(None, [what_went(params, side)])
    if params.get("reference"):
        notes = [f"against {params['reference']}"]
    return [(f"{side.capitalize()} sparsity", format_percent(counted), "; ".join(notes))]


def _models_section(report: Report) -> Markup:
    metric = main_metric(report)
    count = report.get("num_test_examples")
    judged = f"Judged by {metric}" + (f" on {count:,} test examples. " if measured(count) else ". ")
    sure = "Ranges are 95 % confidence intervals. " if section(report, "intervals") else ""
    lead = (judged if metric else "") + sure + ("" if report.get("model") else "Small numbers compare with dense.")
    return titled("Quality, size and speed", lead, models_table(report))


def _latency_section(report: Report) -> Markup:
    rows = benchmark_table(report)
    more = tag("details", tag("summary", "All measurements"), rows) if rows else rows
    lead = _LATENCY_LEAD + ("" if report.get("model") else _FACTORS_LEAD)
    return titled("Latency", lead, figure_box(latency_bars(report)), more)


def _examples_section(examples: Sequence[Mapping[str, Any]]) -> Markup:
    if not examples:
        return Markup("")
    models = [model for model in MODELS if any(model in example for example in examples)]
    hits = (f"{model} in {sum(_equals_reference(example, model) for example in examples)}" for model in models)
    lead = f"Outputs that equal a reference, of {len(examples)} shown: {', '.join(hits)}." if models else ""
    cards = (tag("li", *_example(example, models), class_="example") for example in examples)
    return titled("Examples", lead, tag("ol", *cards, class_="examples", style=f"--n:{2 + len(models)}"))


def _references(example: Mapping[str, Any]) -> list[str]:
    found = example.get("references") or []
    return [found] if isinstance(found, str) else list(found)


def _equals_reference(example: Mapping[str, Any], model: str) -> bool:
    output = example.get(model)
    return output is not None and output.split() in [reference.split() for reference in _references(example)]


def _example(example: Mapping[str, Any], models: Sequence[str]) -> list[Markup]:
    references = _references(example)
    blocks = [
        _block("source", [example.get("source")], "source"),
        _block("reference" if len(references) == 1 else "references", references),
    ]
    for model in models:
        hit = _equals_reference(example, model)
        mark = tag("span", "✓ equals reference", class_="match") if hit else None
        blocks.append(_block(model, [example.get(model)], "hit" if hit else None, mark))
    return blocks


def _block(title: str, texts: Sequence[Any], class_: str | None = None, mark: Markup | None = None) -> Markup:
    empty = tag("span", "(empty)", class_="empty")
    written = (tag("p", empty if text == "" else text, class_="text") for text in (texts or [None]))
    return tag("div", tag("h3", title, mark or Markup("")), *written, class_=class_)


def _config_section(report: Report) -> Markup:
    config = report.get("config")
    if not config:
        return Markup("")
    text = json.dumps(config, indent=2, default=str, ensure_ascii=False)
    shown = tag("details", tag("summary", "Show the full configuration"), tag("pre", text))
    return titled("Configuration", "", shown)
