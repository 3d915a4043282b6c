"""The stages that make the model smaller without training: `shorten` (layers and tokens) and `compact`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nash_jax.models.initialize import init_params
from nash_jax.pruning.compact import compact as compact_model
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS
from nash_jax.recipe.context import Model, RunContext
from nash_jax.recipe.layer_importance import (
    ShortenedLoss,
    depths_of,
    find_candidates,
    measure_layers,
    tokenize_first,
)
from nash_jax.recipe.prepare_data import check_sizes
from nash_jax.recipe.vocabulary import RunVocabulary, choose_vocabulary, compare_sizes
from nash_jax.spec import SIDES, ModelSpec


def shorten(context: RunContext, folder: Path) -> dict[str, Any]:
    """Keeps some layers of the teacher, where the method drops layers; of what `halfway` left, if there is such."""
    dense, config = context.stored("finetune")[0], context.config
    check_sizes(context, dense)  # again, for a shared teacher was made under other settings
    spec, params = context.stored("halfway" if config.halfway.is_on else "finetune")
    kept, measured = choose_layers(context, folder, spec, params, "shorten")
    shorter = select_layers(spec, params, **kept)
    if config.method == "scratch":
        shorter = shorter[0], init_params(shorter[0], context.seed("scratch"))
    if config.shorten.vocabulary:
        shorter, measured["vocabulary"] = _trim(context, folder, *shorter)
    context.save(folder, *shorter)
    if config.halfway.is_on:
        before = context.workdir.results(["halfway"])["halfway"]
        kept = {side: [before[f"kept_{side}_layers"][i] for i in layers] for side, layers in kept.items()}
    depths = {f"dense_{side}_layers": depth for side, depth in depths_of(dense).items()}
    return kept_by_side(kept) | depths | measured


def choose_layers(
    context: RunContext, folder: Path, spec: ModelSpec, params: Any, stage: str
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Chooses the layers that a stage keeps of a model.

    Args:
      context: of the run.
      folder: of the stage.
      spec: of the model.
      params: its parameters.
      stage: `shorten` or `halfway`.

    Returns:
      Layers by side, and what was measured for the choice.
    """
    config = context.config
    if METHODS[config.method].searches:
        found = context.workdir.results(["search"])["search"]
        return {side: found[f"kept_{side}_layers"] for side in SIDES}, {}
    sides = find_candidates(config, depths_of(spec), stage)
    if all(len(own.layers) <= own.keep for own in sides.values()):
        return {side: list(own.layers) for side, own in sides.items()}, {}
    pairs = tokenize_first(context.rows["validation"], context.tokenizer, config.task, folder)
    kept, steps = measure_layers(sides, ShortenedLoss(spec, params, pairs, config.model, context.split_mesh))
    return kept, {"importance": steps}


def kept_by_side(kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Kept layers under the names that a stage's result has."""
    return {f"kept_{side}_layers": list(layers) for side, layers in kept.items()}


def _trim(context: RunContext, folder: Path, spec: ModelSpec, params: Any) -> tuple[Model, dict[str, Any]]:
    """Cuts the tokens out of the model that the training rows do not need."""
    labels = context.labels.texts() if context.config.label.is_on else []
    covered = choose_vocabulary(
        context.config, context.rows, context.tokenizer, context.generation, spec, folder, labels
    )
    trimmed, small = RunVocabulary(folder).trim(spec, params)
    return (trimmed, small), compare_sizes(spec, trimmed) | {"coverage": covered}


def compact(context: RunContext, folder: Path) -> dict[str, Any]:
    """Folds the final masks into the weights and slices what they closed."""
    context.save(folder, *compact_model(*context.stored("prune"), context.masks()))
    return {}
