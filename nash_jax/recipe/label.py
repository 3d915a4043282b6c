"""The stage `label`: the dense model writes targets for the training inputs, and for further inputs without targets.

Sequence-level distillation (Kim & Rush 2016), filtered by agreement with the reference as in Distil-Whisper (Gandhi et
al. 2023, section 4).
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nash_jax.batch_generate.resumable import PartialResults, read_results
from nash_jax.batch_generate.text_files import open_text_file
from nash_jax.data.checks import unusable_text_kind
from nash_jax.data.files import file_kind, find_files
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import Evaluator, Output
from nash_jax.evaluation.metrics import FULL_MARKS
from nash_jax.generation.batching import plan_batches
from nash_jax.generation.engine import Engine
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.labels import Label, write_labels
from nash_jax.runtime.mesh import local_mesh
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, is_host0

_SETTING = "config.label.texts"


def label(context: RunContext, folder: Path) -> dict[str, Any]:
    """Generates, filters and writes the targets; what was left out is counted."""
    own, rows = context.config.label, context.rows
    trained = rows["train"] if own.share else []
    further, seen = _further_rows(context) if own.texts else ([], 0)
    inputs = [*trained, *further]
    evaluator = context.evaluator("train", "finetune", inputs, num_beams=own.num_beams)
    engine = Engine(*context.stored("finetune"), context.config.model.dtype, mesh=local_mesh(context.mesh))
    _generate(evaluator, engine, folder / "checkpoints")
    found = dict[str, Any]()
    if is_host0():
        outputs = _read_outputs(folder / "checkpoints", len(inputs))
        agreements = measure_agreement(evaluator, outputs, len(trained))
        labels, reasons = select_labels(inputs, outputs, agreements, own.min_agreement)
        unlabelled = [Label(row["source"], None) for row in rows["train"][len(trained) :]]
        write_labels(folder, [*labels[: len(trained)], *unlabelled, *labels[len(trained) :]])
        found = _count(labels, reasons, agreements, len(further)) | ({"already_in_a_split": seen} if own.texts else {})
        print(_summary(found), file=sys.stderr, flush=True)
    barrier("labels written")  # the other processes read what host 0 wrote
    return broadcast_from_host0(found)


def _further_rows(context: RunContext) -> tuple[list[dict[str, Any]], int]:
    """Rows of the inputs that have no targets, each once, and how many of them are inputs of a split already.

    Raises:
      UserError: when nothing is left.
    """
    task, names = context.config.task, context.config.label.texts
    first = find_files(names, _SETTING)[0]
    file = open_text_file(names, task.source_column if file_kind(first) is not None else None)
    texts = dict.fromkeys(row.text for row in file.rows(file.scan()) if unusable_text_kind(row.text) is None)
    known = {row["source"] for rows in context.rows.values() for row in rows}  # a test input would be learnt
    sources = [task.prefix + text for text in texts]
    kept = [source for source in sources if source not in known]
    if not kept:
        raise UserError(f"{_SETTING} is {names}: all its texts are in the data already", "inputs that have no targets")
    alike = {"labels": labels} if (labels := context.rows["train"][0].get("labels")) else {}
    return [{"source": source, "references": [""], **alike} for source in kept], len(sources) - len(kept)


def _generate(evaluator: Evaluator, engine: Engine, parts: Path) -> None:
    """Appends the outputs that are missing to this process' part; every process takes a share of the batches."""
    parts.mkdir(exist_ok=True)
    done = {number for part in parts.glob("*.partial") for number in read_results(part)}
    done = set(broadcast_from_host0(sorted(done)))
    batches = plan_batches(evaluator.sources.lengths, evaluator.batch_size)
    others = [batch for i, batch in enumerate(batches) if i % jax.process_count() != jax.process_index()]
    skipped = done.union(*(batch.tolist() for batch in others))
    own = parts / f"{jax.process_index()}.partial"
    with own.open("ab", buffering=0) as file:
        results = PartialResults(own, file)
        for batch in evaluator.outputs(engine, skipped):
            results.add({row: [json.dumps(output)] for row, output in batch.items()})
    barrier("labels generated")


def _read_outputs(parts: Path, count: int) -> list[Output]:
    found: dict[int, list[str]] = {}
    for part in parts.glob("*.partial"):
        found |= read_results(part)
    outputs = [Output(*json.loads(found[number][0])) for number in range(count)]
    shutil.rmtree(parts)
    return outputs


def measure_agreement(evaluator: Evaluator, outputs: Sequence[Output], num_rows: int) -> np.ndarray:
    """Scores each output against its own reference, in the value that selects checkpoints.

    Args:
      evaluator: of the inputs; those after the first `num_rows` have no reference.
      outputs: of all inputs.
      num_rows: rows with references.

    Returns:
      Per cent, float64 [num_rows]; not a number where the reference itself does not score full marks alone, so that
      one row does not tell (ROUGE of a text without words).
    """
    if num_rows == 0:
        return np.zeros(0)
    texts = evaluator.postprocess([output.text for output in outputs])[:num_rows]
    rows = evaluator.rows[:num_rows]
    metric = evaluator.subsets[0].metric
    best = _alone(metric, [row["references"][0] for row in rows], rows)
    return np.where(best >= FULL_MARKS, _alone(metric, texts, rows), np.nan)


def _alone(metric: Any, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The value of each row by itself, float64 [n]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(metric.reduce(metric.measure(texts, rows)[:, None])[metric.selection], float)


def select_labels(
    rows: Sequence[Mapping[str, Any]], outputs: Sequence[Output], agreements: np.ndarray, least: float
) -> tuple[list[Label], Counter[str]]:
    """Labels of the inputs, without the outputs that are not fit to learn from, and how many of each kind those are.

    Args:
      rows: the inputs.
      outputs: of each.
      agreements: of the first of them, from `measure_agreement`.
      least: agreement below which an output is not used.

    Returns:
      One label for each input, and the counts `unfinished` (cut at the length limit), `unusable` (empty, say) and
      `disagreeing`.
    """
    labels, reasons = [], Counter[str]()
    for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        agreement = float(agreements[i]) if i < len(agreements) and np.isfinite(agreements[i]) else None
        reason = _why_not(output, agreement, least)
        reasons.update([reason] if reason else [])
        labels.append(Label(row["source"], None if reason else output.text, agreement))
    return labels, reasons


def _why_not(output: Output, agreement: float | None, least: float) -> str:
    """Why an output is not used; empty if it is."""
    if not output.ended:
        return "unfinished"
    if unusable_text_kind(output.text) is not None:
        return "unusable"
    return "disagreeing" if agreement is not None and agreement < least else ""


def _count(
    labels: Sequence[Label], reasons: Mapping[str, int], agreements: np.ndarray, num_further: int
) -> dict[str, Any]:
    known = agreements[np.isfinite(agreements)]
    kinds = {kind: reasons.get(kind, 0) for kind in ("unfinished", "unusable", "disagreeing")}
    mean = {"mean_agreement": round(float(known.mean()), 4)} if len(known) else {}
    used = sum(label.text is not None for label in labels)
    return {"rows": len(labels) - num_further, "further": num_further, "used": used} | kinds | mean


def _summary(found: Mapping[str, Any]) -> str:
    names = ("unfinished", "unusable", "disagreeing", "already_in_a_split")
    left_out = ", ".join(f"{found[name]:,} {name.replace('_', ' ')}" for name in names if found.get(name))
    agreement = f"; {found['mean_agreement']:.1f} % agreement" if "mean_agreement" in found else ""
    total = found["rows"] + found["further"]
    return f"label: {found['used']:,} of {total:,} outputs are learnt{agreement}" + (
        f" ({left_out})" if left_out else ""
    )
