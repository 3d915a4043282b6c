"""From a user's ConfigDict to the settings of a run: names, types and ranges are checked."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections

from nash_jax.config.derived import all_stages, chosen_stages, export_formats
from nash_jax.config.fields import check_of
from nash_jax.config.schema import EXPORT_FORMATS, PHASES, STAGES, Config, DistillConfig
from nash_jax.errors import UserError, did_you_mean, require_packages
from nash_jax.pruning.methods import METHODS
from nash_jax.runtime.mesh import parse_mesh


def parse_config(config: ml_collections.ConfigDict) -> Config:
    """Checks every field's name, type and range.

    Raises:
      UserError: naming the field, what it holds and what it should hold.
    """
    check_config_dict(config)
    parsed = _parse(Config, config.to_dict(), "config")
    if parsed.target_speedup and parsed.method == Config.method:
        parsed = dataclasses.replace(parsed, method="auto")
    _check_fields(parsed)
    _check_together(parsed)
    return parsed


def check_config_dict(config: Any) -> None:
    """What a config file's `get_config` returned is a ConfigDict.

    Raises:
      UserError: when it is not.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config() returned {config!r}", "the ConfigDict that default_config() makes, changed")


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


_NO_LONGER = {"config.model.model_parallel": "config.mesh, as in --config.mesh=data:4,model:2"}


def _check_name(name: str, hints: Iterable[str], place: str) -> None:
    if instead := _NO_LONGER.get(f"{place}.{name}"):
        raise UserError(f"{place}.{name} is no longer a setting", instead)
    if name not in hints:
        known = f"one of {', '.join(sorted(hints))}" if hints else f"a value for {place} itself"
        raise UserError(f"{place}.{name} is not a setting{did_you_mean(name, hints)}", known)


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
    if hint is float and _is_a(value, int) and abs(value) < 2**63:
        return float(value)
    if not _is_a(value, hint):
        raise UserError(f"{place} is {value!r}", f"{_TYPE_NAMES[hint]}")
    return value


_GROUP, _WHOLE_NUMBERS = "a group of fields", "whole numbers, as in (1, 8, 16)"
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_stages(stages: str) -> None:
    for name in (part.strip() for part in stages.split(",")):
        if name not in STAGES and stages != "all":
            near = did_you_mean(name, STAGES)
            raise UserError(f"config.stages names {name!r}{near}", f"all, or some of {','.join(STAGES)}")


def _check_named(config: Config) -> None:
    """A stage that is asked for by name has something to do."""
    named = [part.strip() for part in config.stages.split(",")]
    expected = {
        "label": "config.label.share or texts",
        "halfway": "config.halfway.encoder_layers or decoder_layers",
        "search": "config.target_speedup",
    }
    for name, settings in expected.items():
        if name in named and name not in all_stages(config):
            raise UserError(f"config.stages names {name!r}, which has nothing to do", f"{settings} that is set")


def _check_fields(settings: Any, place: str = "config") -> None:
    """Every field is as its dataclass declares it."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            _check_fields(value, f"{place}.{field.name}")
        elif check := check_of(field):
            check.require(value, f"{place}.{field.name}")


def _check_together(config: Config) -> None:
    """Settings that depend on each other, of the stages that are run."""
    _check_stages(config.stages)
    parse_mesh(config.mesh)
    _check_named(config)
    chosen = chosen_stages(config)
    formats = export_formats(config) if "export" in chosen else ()
    for name in formats:
        if name not in EXPORT_FORMATS:
            near = did_you_mean(name, EXPORT_FORMATS)
            raise UserError(f"config.export names {name!r}{near}", f"some of {','.join(EXPORT_FORMATS)}")
    for name in formats:
        if EXPORT_FORMATS[name]:
            require_packages(EXPORT_FORMATS[name])  # now, not after hours of training
    for name in ("encoder_layers", "decoder_layers") if "shorten" in chosen else ():
        asked, there = getattr(config.shorten, name), getattr(config.model, name)
        if not config.model.init and not config.model.preset and asked > there:
            raise UserError(f"config.shorten.{name} is {asked}", f"no more than config.model.{name}, {there}")
    phases = [name for name in PHASES if name in chosen]
    _check_distill(config, phases)
    _check_students(config)
    _check_target(config)
    if "prune" in chosen:
        _check_pruning(config)
    for name in phases:
        phase = getattr(config, name)
        if phase.batch_size % phase.accumulation:
            raise UserError(
                f"config.{name}.batch_size {phase.batch_size} is not a multiple of accumulation {phase.accumulation}"
            )


def _check_distill(config: Config, phases: Sequence[str]) -> None:
    """The teacher has no teacher, and there is a loss in each phase that is trained."""
    if "finetune" in phases and config.finetune.distill != DistillConfig():
        raise UserError(
            "config.finetune.distill is changed: it makes the teacher", "its defaults; prune and retrain distill"
        )
    for name in phases:
        phase = getattr(config, name)
        if phase.epochs and not (phase.distill.task or phase.distill.logits or phase.distill.hidden):
            raise UserError(
                f"config.{name}.distill: task, logits and hidden are 0", "one of them above 0: there is no loss"
            )


def _check_students(config: Config) -> None:
    """What students learn from, what they begin with, and what of them is trained."""
    gates = METHODS[config.method].gates
    if config.label.texts and config.task.mixture:
        raise UserError("config.label.texts is set, with config.task.mixture", "further inputs of a single task")
    if config.halfway.is_on:
        if not METHODS[config.method].shortens:
            raise UserError(f"config.halfway keeps layers, and the method {config.method} drops none", "nash or drop")
        if config.shorten.encoder_kept or config.shorten.decoder_kept:
            raise UserError("config.shorten names the layers to keep, with config.halfway", "numbers of layers")
    for name in PHASES:
        phase = getattr(config, name)
        if phase.average_decay and phase.average_last:
            raise UserError(f"config.{name} has average_decay and average_last", "one of the two, or none")
    if config.prune.freeze_encoder and any(re.fullmatch(gate, "encoder.0.ffn.units") for gate in gates):
        raise UserError(
            f"config.prune.freeze_encoder is True, and {config.method} trains gates in the encoder", "False, or drop"
        )


def _check_target(config: Config) -> None:
    """A target and the method that reaches it; what else would say how large the model is, is not set."""
    target = config.target_speedup
    if bool(target) != METHODS[config.method].has_target:
        named = " or ".join(name for name, method in METHODS.items() if method.has_target)
        raise UserError(
            f"config.method is {config.method} with target_speedup {target:g}",
            f"{named} with a target_speedup above 1, others with 0",
        )
    if not target:
        return
    if target <= 1:
        raise UserError(f"config.target_speedup is {target:g}", "a number above 1")
    if config.shorten.vocabulary or config.halfway.is_on:
        other = "shorten.vocabulary" if config.shorten.vocabulary else "halfway"
        raise UserError(f"config.{other} is set, with target_speedup", "one of the two")
    if config.shorten.selection not in ("uniform", "low", "high"):
        raise UserError(
            f"config.shorten.selection is {config.shorten.selection!r}, with target_speedup", "uniform, low or high"
        )


def _check_pruning(config: Config) -> None:
    """Gates have steps to move in and steps to reach the target in; without them the final masks would say nothing."""
    own, method = config.prune, METHODS[config.method]
    if not method.gates or not method.trains_gates:
        return
    for field in ("epochs",) if method.prices_time else ("sparsity", "epochs"):
        if not method.shortens and getattr(own, field) == 0:
            raise UserError(
                f"config.prune.{field} is 0 with {config.method}, which prunes by gates alone", "more than 0"
            )
    begun, warmup = own.prepruning_epochs, own.sparsity_warmup_epochs if own.init == "random" else 0.0
    if (own.sparsity or config.target_speedup) and own.epochs and (begun + warmup > own.epochs or begun == own.epochs):
        raise UserError(
            f"config.prune.epochs is {own.epochs:g}, with prepruning_epochs {begun:g} and sparsity_warmup_epochs "
            f"{warmup:g}",
            "no less than both together, and more than prepruning_epochs, after which the gates begin to move",
        )
