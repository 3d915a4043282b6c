"""Time of a training step: fine-tuning, pruning with gates, and PyTorch's fine-tuning, of one model, timed in turn.

python -m nash_jax.benchmark.step_cost [--preset=t5-small] [--batch_size=8] [--source=128] [--target=32]

All in float32 with AdamW, dropout and a clipped gradient. PyTorch takes part where it is installed, with transformers'
class and as many threads as this process may use cores.
"""

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from nash_jax.benchmark.torch_step import Step, make_torch_step
from nash_jax.config.schema import DistillConfig, PruneConfig, TrainConfig
from nash_jax.models import build
from nash_jax.pruning.methods import make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.runtime.command import parse_flags, run_command
from nash_jax.runtime.memory import keep_freed_memory
from nash_jax.spec import ModelSpec, preset
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step

_NUMBERS = {"batch_size": 8, "source": 128, "target": 32, "runs": 10}  # flag → its default


def make_steps(spec: ModelSpec, batch: Mapping[str, np.ndarray]) -> dict[str, Step]:
    """Returns {"finetune", "prune"} → a step on this batch, with the same random weights and AdamW."""
    model, params, rows = build(spec), random_params(spec, scale=0.05), jax.device_put(dict(batch))
    objective = PruningObjective(make_gates(spec), make_constraints(spec, {"encoder": 0.3}), 0, 100)
    extra = objective.initial_params(jax.random.key(0))

    def training(config: TrainConfig, extra: Mapping[str, Any], **gates: Any) -> Step:
        tx = make_optimizer(config, 1000)
        step = make_step(StudentLoss(model, DistillConfig(), **gates), tx)
        state = make_state({"model": jax.tree.map(jnp.array, params), **extra}, tx, 0)

        def run() -> object:
            nonlocal state
            state, metrics = step(state, {}, rows)
            return jax.block_until_ready((state, metrics))

        return run

    return {"finetune": training(TrainConfig(), {}), "prune": training(PruneConfig(), extra, objective=objective)}


def time_steps(steps: Mapping[str, Step], runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of each kind of step, [runs], taken in turn; the first, which compiles, is left out."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(found[1:]) for name, found in times.items()}


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-small", "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=2 if name == "runs" else 1, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --batch_size=ROWS, --runs=STEPS, …")
    return own.flag_values_dict()


def run(argv: Sequence[str]) -> None:
    """Times steps in turn and prints milliseconds and their ratios."""
    given = _parse(argv)
    keep_freed_memory()  # as the main command
    spec = preset(given["preset"])
    batch = random_batch(spec, rows=given["batch_size"], source=given["source"], target=given["target"])
    steps = make_steps(spec, batch)
    if importlib.util.find_spec("torch"):
        steps["PyTorch"] = make_torch_step(spec, batch)
    times = time_steps(steps, given["runs"])
    for name, ms in times.items():
        print(f"{name:9} {np.median(ms):8.1f} ms a step (mean {np.mean(ms):.1f} ± {np.std(ms, ddof=1):.1f})")
    print(describe_ratio("a pruning step costs", times["prune"] / times["finetune"], "a fine-tuning step"))
    for name in ("finetune", "prune") if "PyTorch" in times else ():
        print(describe_ratio(f"{name} costs", times[name] / times["PyTorch"], "a fine-tuning step of PyTorch"))


def describe_ratio(what: str, ratios: np.ndarray, against: str) -> str:
    """Median of the ratios of pairs, with the quartiles."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{what} {middle:.3f} × {against} (median of {len(ratios)} pairs; quartiles {low:.3f} to {high:.3f})"


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
