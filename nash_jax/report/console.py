"""What a run found, as plain text for the terminal, a log or a pipe."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from nash_jax.report.benchmark import Setup, find_row, setup_label, setups
from nash_jax.report.numbers import DASH, section
from nash_jax.report.quality import format_kept, removed_layers
from nash_jax.spec import SIDES

Report = dict[str, Any]


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows as lines of aligned columns, however long: no colours, no frames, no cuts.

    Args:
      rows: of texts, all of one length.
      left: the columns that align left; the others align right.
    """
    table = rich.table.Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for place in range(len(rows[0]) if rows else 0):
        table.add_column(justify="left" if place in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    console = rich.console.Console(
        file=out, width=10_000, color_system=None, markup=False, emoji=False, highlight=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def summary(report: Report) -> str:
    """What a run found: a line each of dense and pruned, or of one model, or of the stages done so far."""
    params, done = report.get("params", {}), report.get("stages", {})
    if "pruned" in params:
        return _pair(report)
    left = ", ".join(report.get("left", ()))
    return _model(report) if "model" in params else f"stages done: {', '.join(done)}; left: {left}"


def places(folder: Path) -> str:
    """Where the report and the model are; those that are not there yet are left out."""
    found = {"report": folder / "report.html", "model": folder / "export"}
    return "  ".join(f"{name}: {path}" for name, path in found.items() if path.exists())


def _pair(report: Report) -> str:
    """Quality, where it was measured, size, speed and sparsity of dense and pruned."""
    dense, pruned = (section(report, "metrics", name) for name in ("dense", "pruned"))
    params, rows = report["params"], report["benchmark"]
    lines = [["", "dense", "pruned", ""]]
    for name in dense:
        paired = section(report, "paired", name)
        note = f"{format_kept(report, name)}, p = {paired['p']:.3f}" if paired else ""
        lines.append([name, f"{dense[name]:.2f}", f"{pruned[name]:.2f}", note])
    lines.append(["parameters", f"{params['dense']:,}", f"{params['pruned']:,}", ""])
    for setup in setups(rows):
        one, two = (find_row(rows, name, setup) for name in ("dense", "pruned"))
        stds = f"std {one['std_ms']:.1f}, {two['std_ms']:.1f}; {one['runs']} runs"
        note = f"{one['median_ms'] / two['median_ms']:.2f}× ({stds})"
        title = f"ms, {setup_label(setup, setups(rows))}"
        lines.append([title, f"{one['median_ms']:.1f}", f"{two['median_ms']:.1f}", note])
    if vocabulary := section(report, "vocabulary"):
        tokens = [f"{vocabulary[when]['tokens']:,}" for when in ("before", "after")]
        lines.insert(len(dense) + 2, ["tokens of the vocabulary", *tokens, ""])
    found = [_removed(params, side) for side in SIDES]
    if losses := section(report, "cutting", "losses"):
        found.append("validation loss {before:.4f}, cut {cut:.4f}, outputs fitted {fitted:.4f}".format(**losses))
    if search := section(report, "search"):
        found.append("search: {target:g}× asked, {predicted:.2f}× predicted, {measured:.2f}× measured".format(**search))
    return "\n".join([align(lines, left=(0, 3)), *found])


def _removed(params: Report, side: str) -> str:
    counted, expected = params[f"{side}_sparsity"], params.get(f"expected_{side}_sparsity")
    gates, gone = f", {100 * expected:.1f} % expected" if expected else "", removed_layers(params, side)
    return f"{side} sparsity {100 * counted:.1f} % counted{gates}{'; ' * bool(gone)}{gone}"


def _model(report: Report) -> str:
    """Quality, sparsity, parameters and times of one model."""
    params, scores, bounds = (
        report["params"],
        section(report, "metrics", "model"),
        section(report, "intervals", "model"),
    )
    intervals = {name: "({:.2f} to {:.2f})".format(*bounds[name]) if name in bounds else "" for name in scores}
    for name, paired in section(report, "paired").items():  # of an engine that is not ours
        low, high = (paired[f"difference_{end}"] for end in ("low", "high"))
        intervals[name] += f", {paired['difference']:+.2f} ({low:+.2f} to {high:+.2f}) against jax"
    quality = [[f"  {name}", f"{value:.2f}", intervals[name]] for name, value in scores.items()]
    sizes = report["components"]["parameters"]["model"] | {"all": params["model"]}
    tables = {
        f"metrics of {report['model']}, {report.get('num_test_examples')} test rows": quality,
        "sparsity (attention and FFN)": [[f"  {side}", *_sparsity(params, side)] for side in SIDES],
        "parameters": [[f"  {name}", f"{size:,}", ""] for name, size in sizes.items()],
    }
    texts = [f"{title}\n{align(rows, left=(0, 2))}" for title, rows in tables.items() if rows]
    times = report["components"]["times"]
    return "\n".join([*texts, *(align(_times(setup, times)) for setup in setups(times))])


def _sparsity(params: Report, side: str) -> tuple[str, str]:
    known, least = params[f"{side}_sparsity"], params[f"{side}_sparsity_at_least"]
    if known is not None:
        return f"{100 * known:.1f} %", f"against {params['reference']}"
    said = f"at least {100 * least:.1f} %: config.evaluate.reference names no dense model" if least is not None else ""
    return "not known", said


def _times(setup: Setup, rows: Sequence[Report]) -> list[list[str]]:
    """Time by component in one setup."""
    where = f"time, {setup_label(setup, [])}, {setup.source_length} → {setup.new_tokens} tokens"
    lines = [[where, "median, ms", "± std", "ms a token", "share"]]
    for row in (row for row in rows if Setup.of(row) == setup):
        std = DASH if row["std_ms"] is None else f"{row['std_ms']:.3f}"
        token = DASH if row["per_token_ms"] is None else f"{row['per_token_ms']:.4f}"
        lines.append([f"  {row['component']}", f"{row['median_ms']:.3f}", std, token, f"{100 * row['share']:.1f} %"])
    return lines
