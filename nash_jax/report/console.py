"""The report's tables in plain text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nash_jax.config.schema import STAGES
from nash_jax.report.summary import Setup, find_row, format_kept, setup_label, setups, what_went
from nash_jax.spec import SIDES

Report = dict[str, Any]


def summary(report: Report) -> str:
    """What a run found: a line each of dense and pruned, or of one model, or of the stages done so far."""
    params = report.get("params", {})
    lines = _pair(report) if "pruned" in params else _model(report) if "model" in params else _stages(report)
    return "\n".join(lines)


def places(folder: Path) -> str:
    """Where the report and the model are; those that are not there yet are left out."""
    found = {"report": folder / "report.html", "model": folder / "export"}
    return "  ".join(f"{name}: {path}" for name, path in found.items() if path.exists())


def _pair(report: Report) -> Iterator[str]:
    """Quality, where it was measured, size and speed of dense and pruned."""
    dense, pruned = (report["metrics"].get(name, {}) for name in ("dense", "pruned"))
    params = report["params"]
    yield f"{'':28}{'dense':>12}{'pruned':>12}"
    for name in dense:
        yield f"{name:28}{dense[name]:12.2f}{pruned[name]:12.2f}{_compared(report, name)}"
    yield f"{'parameters':28}{params['dense']:12,}{params['pruned']:12,}"
    rows = report["benchmark"]
    found = setups(rows)
    for setup in found:
        times = [find_row(rows, name, setup) for name in ("dense", "pruned")]
        yield (
            f"{f'ms, {setup_label(setup, found)}':28}{times[0]['median_ms']:12.1f}{times[1]['median_ms']:12.1f}"
            f"   {times[0]['median_ms'] / times[1]['median_ms']:.2f}×"
            f" (std {times[0]['std_ms']:.1f}, {times[1]['std_ms']:.1f}; {times[0]['runs']} runs)"
        )
    for side in SIDES:
        counted, expected = params[f"{side}_sparsity"], params.get(f"expected_{side}_sparsity")
        gates = f", {100 * expected:.1f} % expected" if expected else ""
        went = what_went(params, side)
        yield f"{side} sparsity {100 * counted:.1f} % counted{gates}{'; ' * bool(went)}{went}"


def _compared(report: Report, name: str) -> str:
    """What is kept of a metric, how surely, and whether that can be chance."""
    paired = report.get("paired", {}).get(name)
    return f"   {format_kept(report, name)}, p = {paired['p']:.3f}" if paired else ""


def _stages(report: Report) -> Iterator[str]:
    """What is done, and what is not."""
    done = report["stages"]
    yield f"stages done: {', '.join(done)}; left: {', '.join(name for name in STAGES if name not in done)}"


def _model(report: Report) -> Iterator[str]:
    """Quality, sparsity, parameters and times of one model."""
    params = report["params"]
    scores = report["metrics"].get("model", {})
    if scores:
        yield f"metrics of {report['model']}, {report['num_test_examples']} test rows"
        bounds = report.get("intervals", {}).get("model", {})
        for name, value in scores.items():
            interval = "  ({:.2f} to {:.2f})".format(*bounds[name]) if name in bounds else ""
            yield f"  {name:30}{value:14.2f}{interval}"
    yield "sparsity (attention and FFN)"
    yield from (f"  {side:30}{_sparsity(params, side)}" for side in ("encoder", "decoder"))
    yield "parameters"
    sizes = report["components"]["parameters"]["model"]
    yield from (f"  {name:30}{size:14,}" for name, size in (*sizes.items(), ("all", params["model"])))
    rows = report["components"]["times"]
    for setup in dict.fromkeys(Setup.of(row) for row in rows):
        yield from _times([row for row in rows if Setup.of(row) == setup])


def _sparsity(params: dict[str, Any], side: str) -> str:
    known, least = params[f"{side}_sparsity"], params[f"{side}_sparsity_at_least"]
    if known is not None:
        return f"{100 * known:12.1f} %  against {params['reference']}"
    if least is None:
        return f"{'not known':>14}"
    return f"{'not known':>14}, at least {100 * least:.1f} %: config.evaluate.reference names no dense model"


def _times(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Time by component in one set-up."""
    first = rows[0]
    setup = f"time, {setup_label(Setup.of(first), [])}, {first['source_length']} → {first['new_tokens']} tokens"
    yield f"{setup:32}{'median ± std, ms':>22}{'ms a token':>12}{'share':>9}"
    for row in rows:
        std = f"± {row['std_ms']:.3f}" if row["std_ms"] is not None else ""
        token = f"{row['per_token_ms']:.4f}" if row["per_token_ms"] is not None else ""
        yield f"  {row['component']:30}{row['median_ms']:12.3f}{std:>10}{token:>12}{100 * row['share']:7.1f} %"
