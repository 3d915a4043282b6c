"""Gathers what the stages found into report.json and report.html."""

import dataclasses
import importlib.metadata
import json
import platform
import resource
from typing import Any

import jax

from nash_jax.evaluation.text_metrics import METRICS
from nash_jax.models import param_axes
from nash_jax.pruning.compact import removed_share
from nash_jax.report.html import render
from nash_jax.training.metrics import read_rows, write_text
from nash_jax.tree import count, flatten
from nash_jax.workdir import is_main

_PACKAGES = ("nash_jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def write_report(recipe: Any, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes both files into the workdir; returns what report.json holds.

    Args:
      recipe: the run, for its models, masks and config.
      stages: stage name → what its `done` marker holds.
    """
    (dense_spec, dense), (pruned_spec, pruned) = recipe.model("finetune"), recipe.model("retrain")
    evaluated, timed = stages["evaluate"], stages["benchmark"]
    report = {
        "task": recipe.config.task.name,
        "metric": METRICS[recipe.config.task.metric][1],
        "config": dataclasses.asdict(recipe.config),
        "device": _device(),
        "dtype": recipe.config.model.dtype,
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES},
        "metrics": evaluated["metrics"],
        "num_test_examples": evaluated["num_examples"],
        "params": {
            "dense": count(dense),
            "pruned": count(pruned),
            "encoder_sparsity": removed_share(dense_spec, pruned_spec, "encoder", param_axes),
            "decoder_sparsity": removed_share(dense_spec, pruned_spec, "decoder", param_axes),
            "expected_encoder_sparsity": stages["prune"]["expected_encoder_sparsity"],
            **stages["shorten"],
        },
        "benchmark": timed["benchmark"],
        "speedup": timed["speedup"],
        "stages": {n: {k: v for k, v in s.items() if k in ("seconds", "steps")} for n, s in stages.items()},
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    report["params"].pop("seconds", None)
    if is_main():
        folder = recipe.workdir.folder
        write_text(folder / "report.json", json.dumps(report, indent=1))
        page = render(
            report,
            history=read_rows(folder / "metrics.jsonl"),
            survivors={name: mask.tolist() for name, mask in recipe.masks().items()},
            components={"dense": components(dense), "pruned": components(pruned)},
            examples=evaluated["examples"],
            data_summary=stages["data"]["summary"],
        )
        write_text(folder / "report.html", page)
    return report


def _device() -> str:
    device = jax.devices()[0]
    return f"{jax.device_count()} × {device.device_kind} ({platform.machine()})"


def components(params: dict[str, Any]) -> dict[str, int]:
    """Parameters by part: embeddings, each side's attention and FFN (norms included), LM head."""
    totals: dict[str, int] = {}
    for path, leaf in flatten(params).items():
        side, *rest = path.split("/")
        if side in ("encoder", "decoder") and rest[0].startswith("layers_"):
            part = f"{side} {'ffn' if rest[1] == 'ffn' else 'attention'}"
        else:
            part = {"shared": "embeddings", "lm_head": "LM head"}.get(side, f"{side} other")
        totals[part] = totals.get(part, 0) + int(leaf.size)
    return totals
