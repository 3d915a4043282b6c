"""The cells of a study, read from its config.

    config.cells = {"nash-2": {"shorten": {"decoder_layers": 2}}, "nash-3": {"shorten": {"decoder_layers": 3}}}

Each cell is the config with these settings changed. `seeds` in a cell, as in {"seeds": (57, 58)}, makes one of each.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config
from nash_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
      name: of its folder.
      group: cells of a group differ in their seed only.
      config: its settings.
    """

    name: str
    group: str
    config: Config


def read_cells(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells that a study's config names, all their settings checked.

    Raises:
      UserError: naming the cell and the setting that cannot be used.
    """
    settings = config.to_dict()
    changes = settings.pop("cells")
    if not isinstance(changes, dict) or not changes:
        raise UserError(f"config.cells is {changes!r}", "cells by name, each with its settings")
    base = ml_collections.ConfigDict(settings)
    cells = [cell for group, own in changes.items() for cell in _expand(base, group, own)]
    counted = collections.Counter(cell.name for cell in cells)
    if twice := [name for name, times in counted.items() if times > 1]:
        raise UserError(f"cell {twice[0]}: named twice", "names and seeds that make a folder each")
    return cells


def _expand(base: ml_collections.ConfigDict, group: str, own: Any) -> list[Cell]:
    """A cell for each of its seeds."""
    if not re.fullmatch(r"[\w+-]+", group, re.ASCII):
        raise UserError(f"cell {group!r}: not a name for a folder", "letters, digits, _, - and +")
    if not isinstance(own, dict):
        raise UserError(f"cell {group} is {own!r}", "the settings that it changes")
    own = dict(own)
    seeds = own.pop("seeds", ())
    if not isinstance(seeds, tuple | list):
        raise UserError(f"cell {group}: seeds is {seeds!r}", "whole numbers, as in (57, 58)")
    if not seeds:
        return [Cell(group, group, _settings(base, own, group))]
    return [Cell(f"{group}-s{seed}", group, _settings(base, own | {"seed": seed}, group)) for seed in seeds]


def _settings(base: ml_collections.ConfigDict, changes: Mapping[str, Any], cell: str) -> Config:
    changed = base.copy_and_resolve_references()
    try:
        changed.update(changes)
        return parse_config(changed)
    except UserError as error:
        raise UserError(f"cell {cell}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"cell {cell}: {error}", "settings as nash_jax/config/schema.py groups them") from error
