"""Settings that are tried with the first seed of a group, and chosen by the validation rows for the other seeds.

Trials are run up to `retrain`; only the one that is chosen sees the test rows. The choice is kept in
`workdir/trials/GROUP.json`.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nash_jax.config.derived import all_settings, chosen_stages
from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS
from nash_jax.recipe.workdir import read_done
from nash_jax.runtime.files import read_json, write_text
from nash_jax.study.grid import Cell
from nash_jax.training.writers import logged_rows

PHASE = "retrain"
_TEST_STAGES = ("evaluate", "benchmark", "export")
_DIVERGED = re.compile(rf"the loss is \S+ at step \d+ of (prune|{PHASE})")


def trial_config(config: Config) -> Config:
    """The same settings without the stages that come after the choice."""
    return dataclasses.replace(config, stages=",".join(s for s in chosen_stages(config) if s not in _TEST_STAGES))


def has_diverged(folder: Path) -> bool:
    """Whether a cell's loss was not finite: such a trial is not chosen, and not tried again."""
    failed = folder / "failed"
    return failed.exists() and bool(_DIVERGED.search(failed.read_text(encoding="utf-8")))


def is_over(folder: Path) -> bool:
    """Whether a trial can be judged."""
    return (folder / PHASE / "done").exists() or has_diverged(folder)


def validation_score(folder: Path, metric: str) -> float | None:
    """The best validation score of a cell's `retrain`; None of one that diverged.

    Args:
      folder: of the cell.
      metric: the one that checkpoints are chosen by.

    Raises:
      UserError: where its marker or its rows are not what was written.
    """
    if not (folder / PHASE / "done").exists():
        return None
    result, path = read_done(folder / PHASE), folder / "metrics.jsonl"
    rows = [row for row in logged_rows([path], {PHASE: result}) if row["phase"] == PHASE]
    if not rows and "rows_checksum" in result:
        raise UserError(f"{path} has no rows of {PHASE} as they were logged", "the file as it was", f"delete {folder}")
    return max((row[f"validation/{metric}"] for row in rows if f"validation/{metric}" in row), default=None)


def metric_of(trial: Cell) -> str:
    """The metric by which trials, as checkpoints, are chosen: more is better."""
    return METRICS[trial.config.task.metric].selection


def outcome(trial: Cell, folder: Path, choice: Mapping[str, Any] | None) -> str:
    """The state of a trial that is over; empty for one that is to be run: at first, and to its end once it is chosen.

    Args:
      trial: of a group.
      folder: of the trial.
      choice: of its group, if it is made.
    """
    if (choice["chosen"] == trial.trial) if choice else not is_over(folder):
        return ""
    score = choice["scores"][trial.trial - 1] if choice else validation_score(folder, metric_of(trial))
    return "diverged: its loss was not finite" if score is None else f"tried: {score:.2f} on validation rows"


def choose(trials: Sequence[Cell], cells: Path, file: Path) -> dict[str, Any] | None:
    """The best trial of a group, chosen once: a later call reads the choice, as long as the same settings are tried.

    Args:
      trials: of one group.
      cells: folder with a folder for each.
      file: where the choice is kept.

    Returns:
      {"metric", "settings": those of each trial that differ, "scores", "chosen": number from 1, or None if all
      diverged}; None until all trials are over.
    """
    settings = json.loads(json.dumps(differing_settings([trial.config for trial in trials])))
    if file.exists() and (known := read_json(file))["settings"] == settings:
        return known
    folders = [cells / trial.name for trial in trials]
    if not all(map(is_over, folders)):
        return None
    metric = metric_of(trials[0])
    scores = [validation_score(folder, metric) for folder in folders]
    best = max((score for score in scores if score is not None), default=None)
    chosen = None if best is None else 1 + scores.index(best)
    found = {"metric": metric, "settings": settings, "scores": scores, "chosen": chosen}
    if chosen is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found, indent=1))
    return found


def differing_settings(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Of several configs, the settings by dotted name in which they are not all alike."""
    flat = [dict(_flat(all_settings(config), "")) for config in configs]
    names = [name for name in flat[0] if any(own.get(name) != flat[0][name] for own in flat)]
    return [{name: own.get(name) for name in names} for own in flat]


def _flat(settings: Any, place: str) -> list[tuple[str, Any]]:
    if not isinstance(settings, dict):
        return [(place, settings)]
    return [pair for name, value in settings.items() for pair in _flat(value, f"{place}.{name}".lstrip("."))]
