"""Which kind of run the settings ask for."""

from pathlib import Path

from nash_jax.config.derived import chosen_stages
from nash_jax.config.schema import STAGES, Config
from nash_jax.recipe.evaluate_model import EVALUATION_STAGES, EvaluationRun
from nash_jax.recipe.run import PruningRun
from nash_jax.recipe.time_shape import TimingRun


def make_run(config: Config, workdir: str | None, name: str) -> PruningRun | EvaluationRun | TimingRun:
    """Stages of a training run, evaluation of a model, or timing of a shape, as `config.stages` says.

    Evaluation and timing are chosen when only their stages are asked for and the workdir holds no training run.

    Args:
      config: the settings.
      workdir: as the user named it; without it, a folder of `runs/`.
      name: of the config file.
    """
    if set(chosen_stages(config)).issubset(EVALUATION_STAGES):
        folder = Path(workdir or f"runs/{name}-evaluate")
        if not (folder.expanduser() / STAGES[0]).exists():
            return TimingRun(config, folder) if times_shape(config) else EvaluationRun(config, folder)
    return PruningRun(config, workdir or f"runs/{name}")


def times_shape(config: Config) -> bool:
    """Whether the settings ask for the timing of a shape with random weights."""
    return chosen_stages(config) == ("benchmark",) and bool(config.model.preset) and not config.model.init
