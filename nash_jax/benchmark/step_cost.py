"""Cost of gates: a pruning step against a fine-tuning step of the same model, timed alternately.

python -m nash_jax.benchmark.step_cost [--preset=t5-small] [--batch_size=8] [--source=128] [--target=32]
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from nash_jax.config.schema import DistillConfig, PruneConfig, TrainConfig
from nash_jax.models import build
from nash_jax.pruning.methods import make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.spec import ModelSpec, preset
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step

_PRESET = flags.DEFINE_string("preset", "t5-small", "Shape of the model.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Rows.")
_SOURCE = flags.DEFINE_integer("source", 128, "Source tokens.")
_TARGET = flags.DEFINE_integer("target", 32, "Target tokens.")
_RUNS = flags.DEFINE_integer("runs", 10, "Timed steps of each kind.")


def make_steps(spec: ModelSpec) -> dict[str, tuple[Any, Any]]:
    """Returns {"finetune", "prune"} → (step, state), with the same random weights and AdamW."""
    model, params = build(spec), random_params(spec, scale=0.05)
    pruner = PruningObjective(make_gates(spec), make_constraints(spec, {"encoder": 0.3}), 0, 100)
    plain, joint = make_optimizer(TrainConfig(), 1000), make_optimizer(PruneConfig(), 1000)
    extra = pruner.initial_params(jax.random.key(0))

    def fresh() -> dict[str, Any]:
        return {"model": jax.tree.map(jnp.array, params)}

    return {
        "finetune": (make_step(StudentLoss(model, DistillConfig()), plain), make_state(fresh(), plain, 0)),
        "prune": (
            make_step(StudentLoss(model, DistillConfig(), objective=pruner), joint),
            make_state(fresh() | extra, joint, 0),
        ),
    }


def main(_: Sequence[str]) -> None:
    """Times the steps alternately and prints milliseconds and their ratio."""
    spec = preset(_PRESET.value)
    batch = random_batch(spec, rows=_BATCH.value, source=_SOURCE.value, target=_TARGET.value)
    steps = make_steps(spec)
    states = {name: state for name, (_, state) in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(_RUNS.value + 1):
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            states[name], metrics = step(states[name], {}, batch)
            jax.block_until_ready((states[name], metrics))
            if run:  # the first run compiles
                times[name].append(1000 * (time.perf_counter() - start))
    for name, ms in times.items():
        print(f"{name:9} {np.median(ms):8.1f} ms a step (mean {np.mean(ms):.1f} ± {np.std(ms, ddof=1):.1f})")
    ratios = np.array(times["prune"]) / np.array(times["finetune"])
    print(f"a pruning step costs {np.median(ratios):.3f} × a fine-tuning step (median of {len(ratios)} pairs)")


if __name__ == "__main__":
    app.run(main)
