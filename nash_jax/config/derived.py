"""What follows from a run's settings: its stages, what identifies it, and the run that makes its teacher."""

import dataclasses
from typing import Any

from nash_jax.config.schema import PHASES, STAGES, TEACHER_STAGES, BenchmarkConfig, Config, PruneConfig, TrainConfig
from nash_jax.pruning.methods import METHODS

_LATER_IN_PHASES = ("average_decay", "average_last", "freeze_encoder")
_LATER = (  # runs of an earlier version lack these
    "target_speedup", "shorten.vocabulary", "shorten.alphabet", "evaluate.engine", "export", "label", "halfway",
    "task.vocabulary_size", "benchmark.peers", "prune.init", "prune.importance", "prune.importance_rows",
    *(f"{phase}.{name}" for phase in ("finetune", "prune", "retrain") for name in _LATER_IN_PHASES),
)  # fmt: skip


def chosen_stages(config: Config) -> tuple[str, ...]:
    """The stages that `config.stages` names, in the order of a run.

    Args:
      config: of a run.
    """
    if config.stages == "all":
        return all_stages(config)
    named = [name.strip() for name in config.stages.split(",")]
    return tuple(name for name in all_stages(config) if name in named)


def all_stages(config: Config) -> tuple[str, ...]:
    """The stages of a run from data to export: `label`, `halfway` and `search` where settings ask for them.

    Args:
      config: of a run.
    """
    missing = {name for name in ("label", "halfway") if not getattr(config, name).is_on}
    missing |= set() if METHODS[config.method].searches else {"search"}
    return tuple(name for name in STAGES if name not in missing)


def export_formats(config: Config) -> tuple[str, ...]:
    """The formats that `config.export` names.

    Args:
      config: of a run.
    """
    return tuple(name.strip() for name in config.export.split(",") if name.strip())


def lasting_settings(config: Config) -> dict[str, Any]:
    """The settings that a run keeps to its end: all but which stages are run now.

    Args:
      config: of a run.
    """
    settings = all_settings(config)
    del settings["stages"]
    return settings


def all_settings(config: Config) -> dict[str, Any]:
    """The settings by name, as they identify a run: those that came later are left out while they change nothing.

    The devices are not among them, nor how many checkpoints are kept, which change no result.

    Args:
      config: of a run.
    """
    settings, defaults = dataclasses.asdict(config), dataclasses.asdict(Config())
    del settings["mesh"]
    for phase in PHASES:
        del settings[phase]["keep_last"], defaults[phase]["keep_last"]
    settings["model"]["model_parallel"] = (
        1  # the mesh's size in earlier versions, whose runs go on and keep their names
    )
    for name in _LATER:
        *groups, last = name.split(".")
        own, default = settings, defaults
        for group in groups:
            own, default = own[group], default[group]
        if own[last] == default[last]:
            del own[last]
    return settings


def teacher_settings(config: Config) -> Config:
    """The run that makes a run's teacher: runs that share these settings may share it.

    Args:
      config: of the run that needs a teacher.
    """
    return Config(
        method="none",
        seed=config.seed,
        stages=",".join(TEACHER_STAGES),
        task=config.task,
        model=config.model,
        mesh=config.mesh,
        finetune=config.finetune,
        prune=PruneConfig(epochs=0.0, batch_size=1),
        retrain=TrainConfig(epochs=0.0, batch_size=1),
        evaluate=config.evaluate,
        benchmark=BenchmarkConfig((1,), 1, (1,), 1),
    )
