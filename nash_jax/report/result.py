"""What the report needs of a run, and the two files that it becomes: report.json and report.html."""

import dataclasses
import importlib.metadata
import json
import platform
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS
from nash_jax.kernels.build import kernels_used
from nash_jax.pruning.compact import removed_fraction
from nash_jax.report.kept_structure import count_layers, dense_masks
from nash_jax.runtime.checksums import json_checksum
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.multihost import is_host0
from nash_jax.runtime.sharding import device_name
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.throughput import RATES

_PACKAGES = ("nash_jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_STAGE_FACTS = ("seconds", "steps", "best_step", *RATES)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """All that the report sees of a run.

    Attributes:
      kind: "run" of the stages of a method, "evaluation" of one model, or "timing" of a shape with random weights.
      config: the settings.
      stages: name of a stage that is done → what it returned.
      parameters: model → component → number of parameters; models are "dense" and "pruned", or "model" alone.
      dense: the model before anything was removed; None in an evaluation, like the next four.
      shortened: the model that the gates know: `dense` without the layers that were dropped first.
      pruned: the model that is left.
      kept_layers: side → ids of the dense model's layers that `shortened` has.
      masks: final masks by the axes and sub-layers of `shortened`; empty without gates.
      history: rows of metrics.jsonl: dicts with `phase`, `step` and what was logged there.
      model: name of the model that is evaluated or of the preset that is timed; None of a training run.
      sparsity: what is known of the sparsity of a model that is evaluated, as `evaluation.sizes.sparsities` says it.
    """

    kind: Literal["run", "evaluation", "timing"]
    config: Config
    stages: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Mapping[str, int]]
    dense: ModelSpec | None = None
    shortened: ModelSpec | None = None
    pruned: ModelSpec | None = None
    kept_layers: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    model: str | None = None
    sparsity: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


def write(result: RunResult, folder: Path) -> dict[str, Any]:
    """Writes report.html, then report.json, which says that the run is done; each whole or not at all.

    All processes call this, the main one writes.

    Args:
      result: of the run.
      folder: which is there.

    Returns:
      What report.json holds.
    """
    masks = dense_masks(result.dense, result.kept_layers, result.masks) if result.dense else {}
    report = _contents(result, masks)
    if is_host0():
        from nash_jax.report.page import render  # here, for it loads matplotlib and pandas

        shown = masks if result.kind == "run" else {}
        examples = result.stages.get("evaluate", {}).get("examples", [])
        page = render(report, history=result.history, masks=shown, parameters=result.parameters, examples=examples)
        write_text(folder / "report.html", page)
        write_text(folder / "report.json", json.dumps(report | {"checksum": json_checksum(report)}, indent=1))
    return report


def read_report(folder: Path) -> dict[str, Any]:
    """Reads report.json, as `write` returned it.

    Args:
      folder: of a run.

    Raises:
      UserError: where it is not as it was written.
    """
    path = folder / "report.json"
    try:
        report = read_json(path)
        whole = report.pop("checksum", None) in (None, json_checksum(report))  # older versions wrote none
    except UserError:
        whole = False
    if not whole:
        do = f"delete {path}, and the same command writes it anew"
        raise UserError(f"{path} was changed or is damaged", "the file as it was written", do)
    return report


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | packages | {"kernels": kernels_used()}


def _contents(result: RunResult, masks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What report.json holds; `masks` are those of the dense model."""
    config, stages = result.config, result.stages
    evaluated, timed = stages.get("evaluate", {}), stages.get("benchmark", {})
    data = _taken(stages["data"], "summary", "findings") if result.kind == "run" else evaluated.get("data")
    components = {"times": timed.get("components", [])} if result.kind == "evaluation" else {}
    return {
        "task": config.task.name,
        "metric": METRICS[config.task.metric].selection,
        "config": dataclasses.asdict(config),
        "device": timed.get("device") or device_name(),  # where it was timed: the page may be written elsewhere
        "dtype": config.model.dtype,
        "versions": _versions(),
        **{part: evaluated.get(part, {}) for part in ("metrics", "intervals", "paired", "tokenizers")},
        "num_test_examples": evaluated.get("num_examples"),
        "benchmark": timed.get("benchmark", []),
        **_taken(timed, "peers"),
        "stages": {n: {k: v for k, v in s.items() if k in _STAGE_FACTS} for n, s in stages.items()},
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **({"method": config.method} if result.kind == "run" else {"model": result.model}),
        "params": {name: sum(own.values()) for name, own in result.parameters.items()} | _sparsity(result, masks),
        "speedup": timed.get("speedup", {}),
        "components": {"parameters": result.parameters, **components},
        **({} if data is None else {"data": data}),
        **_of_some_runs(stages),
    }


def _taken(stage: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: stage[name] for name in names if name in stage}


def _results(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stage.items() if name not in _STAGE_FACTS}


def _of_some_runs(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A vocabulary that was trimmed, targets of the dense model, cuts without training, and a search for a speed."""
    label, prune = stages.get("label", {}), stages.get("prune", {})
    return {
        **_taken(stages.get("shorten", {}), "vocabulary"),
        **({"labels": _results(label)} if "used" in label else {}),
        **({"cutting": _taken(prune, "losses", "importance")} if "losses" in prune else {}),
        **_taken(prune, "target"),
        **({"search": _results(stages["search"])} if "search" in stages else {}),
    }


def _sparsity(result: RunResult, masks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is gone, counted and as the gates expected it."""
    dense, pruned = result.dense, result.pruned
    if dense is None or pruned is None:
        return {**result.sparsity, "reference": result.config.evaluate.reference or None}
    found: dict[str, Any] = {f"{side}_sparsity": removed_fraction(dense, pruned, side) for side in SIDES}
    if result.shortened is not None:
        found |= expected_sparsities(dense, result.shortened, result.stages["prune"])
    return found | count_layers(dense, masks)


def expected_sparsities(dense: ModelSpec, shortened: ModelSpec, prune: Mapping[str, Any]) -> dict[str, float]:
    """What the gates expect to be gone of the dense model's encoder and, where it has gates, decoder.

    Args:
      dense: the model before anything was removed.
      shortened: the model that the gates know.
      prune: what the prune stage returned, shares of the shortened model; without gates, 0 of the encoder.
    """
    found = {"expected_encoder_sparsity": 0.0}
    for side in SIDES:
        name = f"expected_{side}_sparsity"
        if own := prune.get(name):
            found[name] = 1 - (1 - own) * (1 - removed_fraction(dense, shortened, side))
    return found
