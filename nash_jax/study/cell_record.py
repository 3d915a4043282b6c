"""What a study keeps of a run's report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_record(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables of a study need of a run's report.json."""
    model, params = report["config"]["model"], report["params"]
    sizes = f"{model['family']}-d{model['d_model']}-{model['encoder_layers']}x{model['decoder_layers']}"
    timed_only = not report["metrics"]
    return {
        "task": "" if timed_only else report["task"],
        "metric": report["metric"],
        "model": Path(model["init"]).name or model["preset"] or sizes,
        "layers": {
            side: {"dense": params[f"dense_{side}_layers"], "kept": params[f"kept_{side}_layers"]}
            for side in ("encoder", "decoder")
        },
        "sparsity": {side: params[f"{side}_sparsity"] for side in ("encoder", "decoder")},
        "params": {name: params[name] for name in ("dense", "pruned")},
        "metrics": {name: report["metrics"].get(name, {}) for name in ("dense", "pruned")} if not timed_only else {},
        "benchmark": report["benchmark"],
        "device": report["device"],
        "dtype": report["dtype"],
        "stages": {
            name: {what: stage[what] for what in ("steps", "seconds") if what in stage}
            for name, stage in report["stages"].items()
        },
        "seconds": sum(stage.get("seconds", 0) for stage in report["stages"].values()),
    }
