"""The stages of a run in their order: what each needs and what it does. `label`, `halfway` and `search` are not in
every run.

data → finetune → label → halfway → search → shorten → prune → compact → retrain → evaluate → benchmark → export
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from nash_jax.config.schema import STAGES
from nash_jax.errors import UserError
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.final_stages import benchmark, evaluate, export
from nash_jax.recipe.label import label
from nash_jax.recipe.prepare_data import prepare_data
from nash_jax.recipe.search import search
from nash_jax.recipe.shrink import compact, shorten
from nash_jax.recipe.train import finetune, halfway, prune, retrain
from nash_jax.recipe.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
      name: of its folder, and in `config.stages`.
      run: does it: (context, its folder) → JSON-able result, kept in its `done` marker.
      needs: stages whose results it reads, the one that it follows first.
    """

    name: str
    run: Callable[[RunContext, Path], dict[str, Any]]
    needs: tuple[str, ...] = ()


STAGE_TABLE = (
    Stage("data", prepare_data),
    Stage("finetune", finetune, ("data",)),
    Stage("label", label, ("finetune",)),
    Stage("halfway", halfway, ("label", "finetune")),
    Stage("search", search, ("label", "finetune")),
    Stage("shorten", shorten, ("search", "halfway", "label", "finetune")),
    Stage("prune", prune, ("shorten", "finetune")),
    Stage("compact", compact, ("prune",)),
    Stage("retrain", retrain, ("compact", "finetune")),
    Stage("evaluate", evaluate, ("retrain", "finetune")),
    Stage("benchmark", benchmark, ("retrain", "finetune")),
    Stage("export", export, ("retrain",)),
)


def check_needs(chosen: Collection[str], workdir: Workdir, stages: Collection[str] = STAGES) -> None:
    """Every stage that is asked for finds what it needs: done before, or asked for too.

    Args:
      chosen: stages that are asked for.
      workdir: where others may be done.
      stages: those that the run has.

    Raises:
      UserError: naming the stage and what it lacks.
    """
    for stage in STAGE_TABLE:
        for needed in stage.needs if stage.name in chosen else ():
            if needed in stages and needed not in chosen and workdir.result(needed) is None:
                raise UserError(
                    f"stage {stage.name} needs the result of {needed}, which is not done in {workdir.folder}",
                    f"config.stages with {needed} in it, or the --workdir of a run where it is done",
                )


def run_stages(chosen: Collection[str], context: RunContext) -> None:
    """Runs the stages asked for that are not done; models that no later stage needs are released."""
    for number, stage in enumerate(STAGE_TABLE):
        if stage.name in chosen:
            context.workdir.run(stage.name, functools.partial(stage.run, context))
            later = (other for other in STAGE_TABLE[number + 1 :] if other.name in chosen)
            context.release({needed for other in later for needed in other.needs})
