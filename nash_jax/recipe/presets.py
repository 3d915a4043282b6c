"""Configs of a few lines: the published settings of a class of task, for a model, a method and a size.

A config file is `task_config("samsum", arguments)`; the command line gives the arguments:
`--config=configs/samsum.py:model=bart-base,method=cofi,sparsity=0.5`.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from nash_jax.config.schema import default_config
from nash_jax.data.tasks import get_task, prompt_style, task_settings
from nash_jax.errors import UserError, did_you_mean
from nash_jax.pruning.methods import METHODS
from nash_jax.spec import preset

MODELS = {  # name, which is that of a preset too → name on the hub
    **{f"t5-{size}": f"google-t5/t5-{size}" for size in ("small", "base", "large")},
    **{f"flan-t5-{size}": f"google/flan-t5-{size}" for size in ("small", "base", "large")},
    **{f"bart-{size}": f"facebook/bart-{size}" for size in ("base", "large")},
}


@dataclasses.dataclass(frozen=True)
class TrainingPreset:
    """How long a class of task is trained, as in NASH's released scripts.

    Attributes:
      finetune: epochs of the teacher.
      batch_size: of the teacher.
      prune: epochs of pruning.
      prepruning: of these, plain fine-tuning at the start.
      warmup: of these, until the target sparsity is reached.
      retrain: epochs of what is left.
      eval_every: epochs between checkpoints.
    """

    finetune: float
    batch_size: int
    prune: float
    prepruning: float
    warmup: float
    retrain: float
    eval_every: float = 1.0


TRAINING_PRESETS = {
    "small_glue": TrainingPreset(20, 16, 100, 4, 80, 20),
    "large_glue": TrainingPreset(20, 16, 20, 1, 2, 20),
    "superglue": TrainingPreset(
        20, 16, 20, 4, 10, 20
    ),  # of BoolQ, WiC, MultiRC and ReCoRD the scripts have no warm-up: ours
    "superglue_small": TrainingPreset(20, 16, 200, 4, 100, 20),
    "generation": TrainingPreset(20, 8, 20, 4, 10, 20),
    "long_generation": TrainingPreset(3, 8, 3, 0, 1, 3, eval_every=0.25),
    "translation": TrainingPreset(1, 16, 1, 0, 0.3, 1, eval_every=0.1),  # ours: neither reference translates
}


def task_config(tasks: str | Iterable[str], arguments: str = "") -> ConfigDict:
    """The published settings for a task of the table.

    Args:
      tasks: its name; of several names the argument `task` chooses, by default the first.
      arguments: `model=…,method=…,layers=…,sparsity=…`, each at most once: see `parse_arguments`.

    Raises:
      UserError: for an argument that there is not, or a value that it does not take.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    found = parse_arguments(arguments, {"model": MODELS, "task": names} if len(names) > 1 else {"model": MODELS})
    name, model = found.get("task", names[0]), found.get("model", "t5-base")
    task, spec = get_task(name), preset(model)
    config = default_config()
    config.task.update(task_settings(name, spec.family))
    source, _, new_tokens = task.lengths
    config.benchmark.update(source_length=source, new_tokens=(4 if "glue" in task.recipe else min(new_tokens, 64),))
    set_training_preset(config, task.recipe, model)
    set_arguments(config, found)
    depth, asked = len(spec.decoder), config.shorten.decoder_layers
    if asked > depth:
        raise _refuse(f"layers={asked}", f"at most {depth}, the decoder layers of {model}")
    return config


def set_training_preset(config: ConfigDict, name: str, model: str) -> None:
    """Sets the model, its prompts, and the training of a class of task: all that NASH's scripts set, whatever was set.

    Args:
      config: to be changed.
      name: of `TRAINING_PRESETS`.
      model: of `MODELS`.
    """
    r, spec = TRAINING_PRESETS[name], preset(model)
    config.model.update(init=MODELS[model], dtype="bfloat16", remat=spec.d_model >= 1024)
    config.task.prompt = prompt_style(spec.family)
    config.finetune.update(epochs=float(r.finetune), batch_size=r.batch_size, eval_every=r.eval_every)
    config.finetune.learning_rate = 1e-5 if spec.family == "bart" else 3e-4
    for phase in (config.finetune, config.prune, config.retrain):
        phase.update(optimizer="adamw", schedule="linear", warmup_ratio=0.0)
    config.shorten.decoder_layers = max(3, len(spec.decoder) // 4)
    config.prune.update(epochs=float(r.prune), batch_size=16, learning_rate=3e-5, eval_every=r.eval_every)
    config.prune.update(prepruning_epochs=float(r.prepruning), sparsity_warmup_epochs=float(r.warmup), sparsity=0.3)
    config.prune.update(gate_learning_rate=0.01, freeze_embeddings=True)
    config.retrain.update(epochs=float(r.retrain), batch_size=8, learning_rate=3e-4, eval_every=r.eval_every)


def set_arguments(config: ConfigDict, found: Mapping[str, str]) -> None:
    """Sets method, decoder layers and sparsity, where they are given.

    Args:
      config: to be changed.
      found: from `parse_arguments`.

    Raises:
      UserError: for a number of layers with a method that has no use for it.
    """
    config.method = found.get("method", config.method)
    if "layers" in found and not METHODS[config.method].counts_layers:
        counting = ", ".join(name for name, method in METHODS.items() if method.counts_layers)
        raise _refuse(f"layers={found['layers']} with method={config.method}", f"one of the methods {counting}")
    config.prune.sparsity = float(found.get("sparsity", config.prune.sparsity))
    config.shorten.decoder_layers = int(found.get("layers", config.shorten.decoder_layers))


def parse_arguments(text: str, choices: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Reads `name=value,name=value`, strictly.

    Args:
      text: what follows the colon of `--config=FILE:…`.
      choices: names that take one of some values; `method`, `layers` (decoder layers to keep) and `sparsity` (share
        to remove) are always there.

    Raises:
      UserError: naming what there is.
    """
    methods = [name for name, method in METHODS.items() if not method.has_target]  # those have target_speedup
    allowed = {**choices, "method": methods, "layers": (), "sparsity": ()}
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in allowed:
            near = did_you_mean(name, allowed)
            raise _refuse(f"{name!r} is no argument{near}", " ".join(f"{known}=…" for known in allowed))
        if name in found:
            raise _refuse(f"{name} is given twice", "each argument once")
        _check_value(name, value, tuple(allowed[name]))
        found[name] = value
    return found


def _check_value(name: str, value: str, choices: tuple[str, ...]) -> None:
    if choices and value not in choices:
        raise _refuse(f"{name}={value}{did_you_mean(value, choices)}", f"one of {', '.join(choices)}")
    if name == "layers" and not (value.isdecimal() and len(value) < 5 and int(value) > 0):
        raise _refuse(f"layers={value}", "a whole number above 0")
    if name == "sparsity" and not _is_share(value):
        raise _refuse(f"sparsity={value}", "a share from 0 up to, not including, 1")


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) < 1
    except ValueError:
        return False


def _refuse(found: str, expected: str) -> UserError:
    return UserError(f"--config=FILE:ARGUMENTS: {found}", expected)
