"""Gathers what the stages found into report.json and report.html."""

import dataclasses
import importlib.metadata
import json
import platform
import resource
from pathlib import Path
from typing import Any

from nash_jax.config.schema import Config
from nash_jax.evaluation.metrics import METRICS
from nash_jax.evaluation.sizes import component_sizes
from nash_jax.models.initialize import param_shapes
from nash_jax.pruning.compact import removed_fraction
from nash_jax.report.html import render
from nash_jax.report.remains import count_layers, dense_masks
from nash_jax.runtime.files import write_text
from nash_jax.runtime.multihost import is_host0
from nash_jax.runtime.sharding import device_name
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.writers import read_rows
from nash_jax.tree import count_params

_PACKAGES = ("nash_jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_DATA_FACTS = ("summary", "findings")
_STAGE_FACTS = ("seconds", "steps", "best_step")


def write_report(recipe: Any, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes both files of a training run into its workdir; returns what report.json holds.

    Args:
      recipe: the run, for its models, masks and config.
      stages: stage name → what its `done` marker holds.
    """
    (dense_spec, dense), (pruned_spec, pruned) = recipe.model("finetune"), recipe.model("retrain")
    sizes = {"dense": component_sizes(dense), "pruned": component_sizes(pruned)}
    started = {side: stages["shorten"][f"kept_{side}_layers"] for side in SIDES}
    survivors = dense_masks(dense_spec, started, recipe.masks())
    shortened_spec, _ = recipe.model("shorten")
    report = _common(recipe.config, stages) | {
        "method": recipe.config.method,
        "params": {
            "dense": count_params(dense),
            "pruned": count_params(pruned),
            "encoder_sparsity": removed_fraction(dense_spec, pruned_spec, "encoder"),
            "decoder_sparsity": removed_fraction(dense_spec, pruned_spec, "decoder"),
            **expected_sparsities(dense_spec, shortened_spec, stages["prune"]),
            **count_layers(dense_spec, survivors),
        },
        "speedup": stages["benchmark"]["speedup"],
        "components": {"parameters": sizes},
        "data": {name: stages["data"].get(name) for name in _DATA_FACTS},
    }
    if is_host0():
        page = {
            "history": [row for path in recipe.workdir.files("metrics.jsonl") for row in read_rows(path)],
            "survivors": survivors,
            "examples": stages["evaluate"]["examples"],
        }
        _write(recipe.workdir.folder, report, page)
    return report


def expected_sparsities(dense: ModelSpec, shortened: ModelSpec, pruned: dict[str, Any]) -> dict[str, float]:
    """What the gates expect to be gone of the dense model's encoder and, where it has gates, decoder.

    Args:
      dense: the model before anything was removed.
      shortened: the model that the gates know.
      pruned: what the prune stage found, shares of the shortened model; without gates, 0 of the encoder.
    """
    found = {"expected_encoder_sparsity": 0.0}
    for side in SIDES:
        name = f"expected_{side}_sparsity"
        if own := pruned.get(name):
            found[name] = 1 - (1 - own) * (1 - removed_fraction(dense, shortened, side))
    return found


def write_evaluation(recipe: Any, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes both files of the evaluation of one model, named `model` in them; returns what report.json holds.

    Args:
      recipe: for its model, sparsities and config.
      stages: of `evaluate` and `benchmark`, those that are done.
    """
    params = recipe.given.params
    report = _common(recipe.config, stages) | {
        "model": recipe.config.model.init,
        "params": {
            "model": count_params(params),
            **recipe.sparsity,
            "reference": recipe.config.evaluate.reference or None,
        },
        "speedup": {},
        "components": {
            "parameters": {"model": component_sizes(params)},
            "times": stages.get("benchmark", {}).get("components", []),
        },
        "data": stages.get("evaluate", {}).get("data"),
    }
    if is_host0():
        _write(recipe.workdir.folder, report, {"examples": stages.get("evaluate", {}).get("examples", [])})
    return report


def write_timing(recipe: Any, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes both files of the timing of a shape with random weights; returns what report.json holds.

    Args:
      recipe: for its dense spec, the layers kept and config.
      stages: of `benchmark`.
    """
    dense = recipe.spec
    pruned = dataclasses.replace(
        dense, **{side: tuple(getattr(dense, side)[i] for i in kept) for side, kept in recipe.kept.items()}
    )
    sizes = {"dense": component_sizes(param_shapes(dense)), "pruned": component_sizes(param_shapes(pruned))}
    report = _common(recipe.config, stages) | {
        "model": recipe.config.model.preset,
        "params": {
            **{name: sum(parts.values()) for name, parts in sizes.items()},
            **{f"{side}_sparsity": removed_fraction(dense, pruned, side) for side in SIDES},
            **count_layers(dense, dense_masks(dense, recipe.kept, {})),
        },
        "speedup": stages["benchmark"]["speedup"],
        "components": {"parameters": sizes},
    }
    if is_host0():
        _write(recipe.workdir.folder, report, {})
    return report


def _common(config: Config, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the report of every run says."""
    evaluated, timed = stages.get("evaluate", {}), stages.get("benchmark", {})
    return {
        "task": config.task.name,
        "metric": METRICS[config.task.metric].selection,
        "config": dataclasses.asdict(config),
        "device": timed.get("device") or device_name(),  # where it was timed: the page may be written elsewhere
        "dtype": config.model.dtype,
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES},
        **{part: evaluated.get(part, {}) for part in ("metrics", "intervals", "paired")},
        "num_test_examples": evaluated.get("num_examples"),
        "benchmark": timed.get("benchmark", []),
        "stages": {n: {k: v for k, v in s.items() if k in _STAGE_FACTS} for n, s in stages.items()},
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def _write(folder: Path, report: dict[str, Any], page: dict[str, Any]) -> None:
    """report.html with what the page shows beyond report.json; then that, which says that the run is done."""
    write_text(folder / "report.html", render(report, **page, components=report["components"]["parameters"]))
    write_text(folder / "report.json", json.dumps(report, indent=1))
