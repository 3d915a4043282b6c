"""Cost of gates: a pruning step against a fine-tuning step of the same model, timed alternately.

python -m nash_jax.benchmark.step_cost [--preset=t5-small] [--batch_size=8] [--source=128] [--target=32]
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from nash_jax.config.schema import DistillConfig, PruneConfig, TrainConfig
from nash_jax.models import build
from nash_jax.pruning.methods import make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.runtime.command import parse_flags, run_command
from nash_jax.spec import ModelSpec, preset
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step

_NUMBERS = {"batch_size": 8, "source": 128, "target": 32, "runs": 10}  # flag → its default


def make_steps(spec: ModelSpec) -> dict[str, tuple[Any, Any]]:
    """Returns {"finetune", "prune"} → (step, state), with the same random weights and AdamW."""
    model, params = build(spec), random_params(spec, scale=0.05)
    objective = PruningObjective(make_gates(spec), make_constraints(spec, {"encoder": 0.3}), 0, 100)
    plain, joint = make_optimizer(TrainConfig(), 1000), make_optimizer(PruneConfig(), 1000)
    extra = objective.initial_params(jax.random.key(0))

    def fresh() -> dict[str, Any]:
        return {"model": jax.tree.map(jnp.array, params)}

    return {
        "finetune": (make_step(StudentLoss(model, DistillConfig()), plain), make_state(fresh(), plain, 0)),
        "prune": (
            make_step(StudentLoss(model, DistillConfig(), objective=objective), joint),
            make_state(fresh() | extra, joint, 0),
        ),
    }


def time_steps(steps: dict[str, tuple[Any, Any]], batch: Any, runs: int) -> dict[str, list[float]]:
    """Milliseconds of each kind of step, [runs], taken in turn; compilation is left out."""
    states = {name: state for name, (_, state) in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(runs + 1):
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            states[name], metrics = step(states[name], {}, batch)
            jax.block_until_ready((states[name], metrics))
            if run:  # the first run compiles
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-small", "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=2 if name == "runs" else 1, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --batch_size=ROWS, --runs=STEPS, …")
    return own.flag_values_dict()


def run(argv: Sequence[str]) -> None:
    """Times steps in turn and prints milliseconds and their ratio."""
    given = _parse(argv)
    spec = preset(given["preset"])
    batch = random_batch(spec, rows=given["batch_size"], source=given["source"], target=given["target"])
    times = time_steps(make_steps(spec), batch, given["runs"])
    for name, ms in times.items():
        print(f"{name:9} {np.median(ms):8.1f} ms a step (mean {np.mean(ms):.1f} ± {np.std(ms, ddof=1):.1f})")
    ratios = np.array(times["prune"]) / np.array(times["finetune"])
    print(f"a pruning step costs {np.median(ratios):.3f} × a fine-tuning step (median of {len(ratios)} pairs)")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
