"""The stages that make the model smaller without training: `shorten` (layers and tokens) and `compact`."""

from pathlib import Path
from typing import Any

from nash_jax.pruning.compact import compact as compact_model
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.recipe.context import Model, RunContext
from nash_jax.recipe.layer_importance import ShortenedLoss, find_candidates, measure_layers, tokenize_first
from nash_jax.recipe.prepare_data import check_sizes
from nash_jax.recipe.vocabulary import RunVocabulary, choose_vocabulary, compare_sizes
from nash_jax.spec import SIDES, ModelSpec


def shorten(context: RunContext, folder: Path) -> dict[str, Any]:
    """Keeps some layers of the teacher, where the method drops layers."""
    spec, params = context.model("finetune")
    config = context.config
    check_sizes(context, spec)  # again, for a shared teacher was made under other settings
    sides, measured = find_candidates(config, spec), dict[str, Any]()
    kept = {side: list(own.layers) for side, own in sides.items()}
    if any(len(own.layers) > own.keep for own in sides.values()):
        pairs = tokenize_first(context.rows["validation"], context.tokenizer, config.task, folder)
        kept, measured["importance"] = measure_layers(sides, ShortenedLoss(spec, params, pairs, config.model))
    shorter = select_layers(spec, params, **kept)
    if config.shorten.vocabulary:
        shorter, measured["vocabulary"] = _trim(context, folder, *shorter)
    context.save(folder, *shorter)
    depths = {f"dense_{side}_layers": len(getattr(spec, side)) for side in SIDES}
    return {f"kept_{side}_layers": layers for side, layers in kept.items()} | depths | measured


def _trim(context: RunContext, folder: Path, spec: ModelSpec, params: Any) -> tuple[Model, dict[str, Any]]:
    """Cuts the tokens out of the model that the training rows do not need."""
    covered = choose_vocabulary(context.config, context.rows, context.tokenizer, context.generation, spec, folder)
    trimmed, small = RunVocabulary(folder).trim(spec, params)
    return (trimmed, small), compare_sizes(spec, trimmed) | {"coverage": covered}


def compact(context: RunContext, folder: Path) -> dict[str, Any]:
    """Folds the final masks into the weights and slices what they closed."""
    context.save(folder, *compact_model(*context.model("prune"), context.masks()))
    return {}
