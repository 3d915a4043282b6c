"""The cells of a study, read from its config.

    config.cells = {"nash-2": {"shorten": {"decoder_layers": 2}}, "nash-3": {"shorten": {"decoder_layers": 3}}}

Each cell is the config with these settings changed. `seeds` in a cell, as in {"seeds": (57, 58)}, makes one of each.
`trials`, as in {"trials": {"retrain": {"learning_rate": (1e-3, 2e-3)}}}, makes one of each value with the first seed;
the other seeds take the value with the best score on the validation rows. `config.trials` is for cells without their
own.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from nash_jax.config.derived import teacher_settings
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.recipe.modes import times_shape


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
      name: of its folder.
      group: cells of a group differ in their seed only, and in what is tried.
      config: its settings.
      trial: its number among the trials of its group, from 1; 0 of other cells.
      choices: its settings under each trial, of a cell that takes those of the best; `config` has the first of them.
    """

    name: str
    group: str
    config: Config
    trial: int = 0
    choices: tuple[Config, ...] = ()


def read_cells(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells that a study's config names, all their settings checked.

    Raises:
      UserError: naming the cell and the setting that cannot be used.
    """
    settings = config.to_dict()
    changes, trials = settings.pop("cells"), settings.pop("trials", {})
    settings.pop("contrasts", None)  # contrasts.py reads them
    if not isinstance(changes, dict) or not changes:
        raise UserError(f"config.cells is {changes!r}", "cells by name, each with its settings")
    base = ml_collections.ConfigDict(settings)
    cells = [cell for group, own in changes.items() for cell in _expand(base, group, own, trials)]
    counted = collections.Counter(cell.name for cell in cells)
    if twice := [name for name, times in counted.items() if times > 1]:
        raise UserError(f"cell {twice[0]}: named twice", "names and seeds that make a folder each")
    return cells


def _expand(base: ml_collections.ConfigDict, group: str, own: Any, trials: Any) -> list[Cell]:
    """A cell for each of its seeds and trials."""
    if not re.fullmatch(r"[\w+-]+", group, re.ASCII):
        raise UserError(f"cell {group!r}: not a name for a folder", "letters, digits, _, - and +")
    if not isinstance(own, dict):
        raise UserError(f"cell {group} is {own!r}", "the settings that it changes")
    own = dict(own)
    seeds, tried = own.pop("seeds", ()), _split_trials(own.pop("trials", trials), group)
    if not isinstance(seeds, tuple | list):
        raise UserError(f"cell {group}: seeds is {seeds!r}", "whole numbers, as in (57, 58)")
    found, ends = list[Cell](), [f"-s{seed}" for seed in seeds] or [""]
    if twice := [end for end in ends if ends.count(end) > 1]:
        raise UserError(f"cell {group}{twice[0]}: named twice", "names and seeds that make a folder each")
    for end, change in zip(ends, [{"seed": seed} for seed in seeds] or [dict[str, Any]()], strict=True):
        configs = tuple(_settings(base, (own, change, trial), group) for trial in tried or ({},))
        if tried and not found:
            _check_trials(configs, group)
            found += [Cell(f"{group}-t{i}{end}", group, config, i) for i, config in enumerate(configs, 1)]
        else:
            found.append(Cell(group + end, group, configs[0], choices=configs if tried else ()))
    return found


def _settings(base: ml_collections.ConfigDict, changes: tuple[Mapping[str, Any], ...], cell: str) -> Config:
    changed = base.copy_and_resolve_references()
    try:
        for change in changes:
            changed.update(change)
        return parse_config(changed)
    except UserError as error:
        raise UserError(f"cell {cell}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"cell {cell}: {error}", "settings as nash_jax/config/schema.py groups them") from error


def _split_trials(trials: Any, group: str) -> list[dict[str, Any]]:
    """Settings with several values each → the settings of each trial: the first value of all, the second, and so on."""
    leaves = list(_leaves(trials, ())) if isinstance(trials, dict) else [((), trials)]
    for path, values in leaves:
        if not path or not isinstance(values, tuple | list) or not values:
            shown = ".".join(("trials", *path))
            raise UserError(f"cell {group}: {shown} is {values!r}", "settings with their values, as in (1e-3, 2e-3)")
    if len(counts := {len(values) for _, values in leaves}) > 1:
        numbers = " and ".join(map(str, sorted(counts)))
        raise UserError(f"cell {group}: trials with {numbers} values", "as many values of each setting")
    return [_nested({path: values[i] for path, values in leaves}) for i in range(max(counts, default=0))]


def _leaves(trials: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in trials.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (*groups, last), value in values.items():
        place = found
        for name in groups:
            place = place.setdefault(name, {})
        place[last] = value
    return found


def _check_trials(configs: tuple[Config, ...], group: str) -> None:
    """Trials share a teacher, and have validation scores to be chosen by."""
    if len(set(map(teacher_settings, configs))) > 1:
        raise UserError(
            f"cell {group}: trials of settings that make the teacher", "settings of prune, retrain or shorten"
        )
    if any(times_shape(config) or not config.retrain.epochs for config in configs):
        raise UserError(
            f"cell {group}: trials without retrain", "config.retrain.epochs above 0: its validation rows choose"
        )
