"""Summary of a run's data: rows and tokens of each split, and the issues found."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import SPLITS, DataIssues, Row, RowIssue, preview
from nash_jax.data.decoding import split_names
from nash_jax.data.mixing import training_targets
from nash_jax.data.pipeline import tokenized_table
from nash_jax.data.token_issues import find_token_issues

Record = dict[str, Any]
TEXTS = {"source": "max_source_length", "target": "max_target_length"}


def summarize_data(
    rows: Mapping[str, Sequence[Row]], tokenizer: Any, task: TaskConfig, cache: Path, issues: DataIssues
) -> Record:
    """Computes the summary of the data that the report shows, in the order of the splits.

    Args:
      rows: split → the rows that are used.
      tokenizer: of the run.
      task: maximum lengths.
      cache: folder for tokenized splits.
      issues: found while reading the rows; texts that are truncated, or that the tokenizer does not keep, are
        added.

    Returns:
      {"summary": split → name → number or text, "findings": `DataIssues.to_json()`}.
    """
    summary = {}
    for split in (name for name in SPLITS if name in rows):
        table = tokenized_table(list(rows[split]), tokenizer, task, cache)
        summary[split] = _count_rows(split, rows[split], issues) | {"pairs": len(table)}
        for text, setting in TEXTS.items():
            lengths, limit = np.asarray(table.data[f"{text}_length"]), getattr(task, setting)
            cut = np.flatnonzero(lengths > limit)
            summary[split] |= _describe(text, lengths, len(cut))
            if len(cut):
                place, content = _find_pair(split, rows[split], int(cut[0]), text, issues)
                detail = f"{lengths[cut[0]]:,} tokens, of which {limit:,} are used: {content}"
                issues.add(split, place, RowIssue(f"{text}_too_long", detail), len(cut))
        for found in find_token_issues(table, _pairs(rows[split]), tokenizer, split_names(task.keep_tokens)):
            place, _ = _find_pair(split, rows[split], int(found.pairs[0]), "target", issues)
            issues.add(split, place, RowIssue(found.kind, found.detail), len(found.pairs))
    return {"summary": summary, "findings": issues.to_json()}


def _pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The (source, target) pairs of the rows, as they are tokenized."""
    return [(row["source"], target) for row in rows for target in training_targets(row)]


def _find_pair(split: str, rows: Sequence[Row], pair: int, text: str, issues: DataIssues) -> tuple[str, str]:
    """Returns the place of the row of a (row, target) pair, and the start of its source or target."""
    pairs = ((number, row["source"], target) for number, row in enumerate(rows) for target in training_targets(row))
    number, source, target = next(itertools.islice(pairs, pair, None))
    place = issues.places[split][number] if split in issues.places else f"row {number + 1}"
    return place, preview(source if text == "source" else target)


def _count_rows(split: str, rows: Sequence[Row], issues: DataIssues) -> Record:
    counts: Record = {"rows": len(rows)}
    if split in issues.rows_read:
        counts = {"rows_read": issues.rows_read[split], "rows_dropped": issues.num_dropped(split), **counts}
    if split in issues.origins:
        counts["origin"] = issues.origins[split]
    labels = {reference for row in rows if row.get("labels") for reference in row["references"]}
    return counts | ({"labels": len(labels)} if labels else {})


def _describe(text: str, lengths: np.ndarray, num_cut: int) -> dict[str, Any]:
    """Statistics of lengths before truncation, in tokens."""
    return {
        f"mean_{text}_tokens": round(float(lengths.mean()), 1),
        f"{text}_tokens_95": int(np.percentile(lengths, 95, method="higher")),
        f"max_{text}_tokens": int(lengths.max()),
        f"{text}s_cut": f"{100 * num_cut / len(lengths):.1f} %",
    }


def format_summary(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines that show a summary in the terminal."""
    for split, found in record["summary"].items():
        dropped = f"; {found['rows_read']:,} read, {found['rows_dropped']:,} dropped" if "rows_read" in found else ""
        labels = f"; {found['labels']} labels" if "labels" in found else ""
        origin = f"; {found['origin']}" if "origin" in found else ""
        yield f"  {split}: {found['rows']:,} rows{dropped}{labels}{origin}"
        for text in TEXTS:
            yield (
                f"    {text} tokens: mean {found[f'mean_{text}_tokens']}, 95 % up to {found[f'{text}_tokens_95']},"
                f" longest {found[f'max_{text}_tokens']}; {found[f'{text}s_cut']} cut"
            )
        for row in record["findings"]:
            if row["split"] == split:
                task = f"{row['task']}: " if "task" in row else ""
                yield f"    {task}{row['rule']} {row['rows']:,} {row['kind']}, first {row['first']}"
