"""What the training of a cell took, its teacher's told apart: steps, seconds, and the settings tried for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.report.tables import make_frame
from nash_jax.study.records import Comparison, mean_std, taught, trained
from nash_jax.study.tables import Column, Row, Table

_LEAD = (
    "Steps and seconds of the stages that make the pruned model, labelling included; evaluation and the teacher, which "
    "cells of a seed share, are not in them. Equal steps are not equal time. Trials: settings of which the validation "
    "rows chose one, with the first seed; the time is that of the chosen one."
)


def training_table(one: Comparison) -> Table | None:
    """What each group's training took; None where no record says it."""
    rows: list[Row] = []
    for group in one.groups:
        row: Row = {"group": group.name, "method": group.method, "seeds": len(group.records)}
        row["trials"] = max(int(record.get("trials") or 1) for record in group.records)
        for what in ("steps", "seconds"):
            row[what] = mean_std(trained(record, what) for record in group.records)
            row[f"teacher_{what}"] = mean_std(taught(record, what) for record in group.records)
        rows.append(row)
    columns = [
        Column("group", "group"), Column("method", "method"), Column("seeds", "seeds"), Column("trials", "trials"),
        Column("steps", "training steps", "number"), Column("seconds", "training, s", "seconds"),
        Column("teacher_steps", "teacher's steps", "number"), Column("teacher_seconds", "teacher, s", "seconds"),
    ]  # fmt: skip
    lead = " ".join([_LEAD, *_fewer(rows)])
    return Table(one, columns, rows, lead) if any(row["steps"] or row["seconds"] for row in rows) else None


def _fewer(rows: Sequence[Row]) -> list[str]:
    """Which groups had fewer trials than another."""
    most: Any = max((row["trials"] for row in rows), default=1)
    fewer = [f"{row['group']} ({row['trials']})" for row in rows if row["trials"] < most]
    return [f"Fewer trials than the {most} of another: {', '.join(fewer)}."] if fewer else []


def trials_frame(choices: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each setting that was tried: its score on the validation rows, and whether it was chosen.

    Args:
      choices: group → what `trials.choose` says of it.
    """
    rows = [
        [group, number, _settings_text(settings), own["metric"], score, _became(number, score, own["chosen"])]
        for group, own in choices.items()
        for number, (settings, score) in enumerate(zip(own["settings"], own["scores"], strict=True), 1)
    ]
    return make_frame("Trials", rows, ["group", "trial", "settings", "metric", "on validation rows", ""])


def trial_lines(choices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The number of trials of each group and what was chosen, for a terminal."""
    lines = []
    for group, own in choices.items():
        found = "every one diverged"
        if own["chosen"] is not None:
            place = own["chosen"] - 1
            found = f"chosen: {_settings_text(own['settings'][place])} ({own['scores'][place]:.2f} {own['metric']})"
        lines.append(f"{group}: {len(own['scores'])} trials on validation rows, {found}")
    return lines


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


def _became(number: int, score: float | None, chosen: int | None) -> str:
    return "chosen" if number == chosen else "diverged" if score is None else ""
