"""`nash_jax.prune`: the whole recipe from Python."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from nash_jax.config.parsing import expected, parse_config
from nash_jax.config.schema import default_config
from nash_jax.data.sources import Records
from nash_jax.data.tasks import get_task
from nash_jax.errors import UserError
from nash_jax.pruning.methods import METHODS
from nash_jax.recipe.presets import task_config
from nash_jax.recipe.run import PruningRun
from nash_jax.runtime.output_folder import resolve_folder
from nash_jax.seq2seq import Seq2Seq, load


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What `prune` returns.

    Attributes:
      model: the pruned model with its tokenizer.
      report: what report.json holds: metrics, parameters and times of the dense and the pruned model.
      folder: the run's workdir; `report.html` and `export/` lie there.
    """

    model: Seq2Seq
    report: dict[str, Any]
    folder: Path


def prune(
    model: Seq2Seq | str | os.PathLike[str],
    data: str | Records,
    *,
    workdir: str | os.PathLike[str],
    method: str | None = None,
    sparsity: float | None = None,
    decoder_layers: int | None = None,
    target_speedup: float | None = None,
    config: ml_collections.ConfigDict | None = None,
) -> PruneResult:
    """Makes a smaller and faster model out of a fine-tuned one, by the stages of the main command.

    Called again with the same arguments and the same workdir, it continues where it was stopped, and returns at once
    when all is done.

    Args:
      model: the model, with a tokenizer; or what `nash_jax.load` takes.
      data: a task of the table ("samsum"), or records by split: {"train": […], "validation": […], "test": […]}, each
        {"source": text, "target": text or list of texts}. Of "train" alone, shares of the sources are held out.
      workdir: folder of the run.
      method: `nash`, `nash_auto`, `cofi`, `latency`, `oneshot`, `auto`, `drop`, `scratch` or `none`; when left out, the
        config's: `nash`.
      sparsity: share of the attention and FFN parameters to remove, of the encoder (`nash`, `oneshot`) or of the
        whole model (`cofi`).
      decoder_layers: decoder layers to keep.
      target_speedup: how many times as fast as the dense model the result is to be, instead of sparsity and layers; the
        method is then `auto`, or `latency` if it is named (docs/target_speedup.md).
      config: all other settings, a changed `nash_jax.default_config()`. When left out: the published settings, and the
        model is taken as fine-tuned already (`finetune.epochs = 0`).

    Raises:
      UserError: for settings, records or a model that cannot be used, or a workdir of another run.

    Example:
      >>> import nash_jax
      >>> nash_jax.prune("my-t5", {"train": [], "validation": [], "test": []}, workdir="/tmp/run")
      Traceback (most recent call last):
      nash_jax.errors.UserError: no model 'my-t5'...
    """
    folder = resolve_folder(workdir)
    given = model if isinstance(model, Seq2Seq) else load(model)
    records = None if isinstance(data, str) else _read_records(data)
    settings = _settings(data if records is None else records, config)
    chosen = {"method": method, "prune.sparsity": sparsity, "shorten.decoder_layers": decoder_layers}
    chosen["target_speedup"] = target_speedup
    for name, value in chosen.items():
        if value is not None:
            _set(settings, name, value)
    _check_named(method, sparsity, decoder_layers, target_speedup)
    run = PruningRun(parse_config(settings), folder, given=given, records=records)
    report = run.run()
    if "left" in report:
        missing = ", ".join(report["left"])
        raise UserError(f"config.stages leaves out {missing}", "'all'", "use PruningRun for some stages")
    return PruneResult(load(folder / "export", dtype=given.dtype), report, folder)


def _check_named(method: str | None, sparsity: Any, decoder_layers: Any, target_speedup: Any) -> None:
    """Refuses arguments that have no effect beside the others: a run with something else would take hours.

    Raises:
      UserError: naming the first of them.
    """
    if target_speedup is not None:
        for name, value in (("sparsity", sparsity), ("decoder_layers", decoder_layers)):
            if value is not None:
                raise UserError(f"{name}={value} with target_speedup", "one of the two: the speed says what is to go")
        if method in METHODS and not METHODS[method].has_target:
            taking = " or ".join(name for name, own in METHODS.items() if own.has_target)
            raise UserError(f"method={method} with target_speedup", f"method={taking}, or no method")
    elif method in METHODS:
        if decoder_layers is not None and not METHODS[method].counts_layers:
            raise UserError(f"decoder_layers={decoder_layers} with method={method}", "a method that drops layers")
        if sparsity is not None and not METHODS[method].gates:
            raise UserError(f"sparsity={sparsity} with method={method}", "a method with gates")


def _read_records(data: Any) -> Records:
    """Records by split, as lists: they are read more than once.

    Raises:
      UserError: for something else, or naming the first record that is no dict.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"data is a {type(data).__name__}", "the name of a task, or records by split")
    found: dict[str, list[Any]] = {}
    for split, records in data.items():
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            raise UserError(f"data[{split!r}] is a {type(records).__name__}", "a list of records")
        found[str(split)] = list(records)
        for number, record in enumerate(found[str(split)], 1):
            if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
                raise UserError(f"data[{split!r}] record {number} is {record!r:.60}", '{"source": …, "target": …}')
        found[str(split)] = [{name: _plain(value) for name, value in row.items()} for row in found[str(split)]]
    return found


def _plain(value: Any) -> Any:
    """A list for several references that come as a tuple or an array."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _set(settings: ml_collections.ConfigDict, name: str, value: Any) -> None:
    try:
        settings.update_from_flattened_dict({name: value.item() if isinstance(value, np.generic) else value})
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name.rpartition('.')[2]} is {value!r:.60}", expected(name)) from error


def _settings(data: str | Records, config: ml_collections.ConfigDict | None) -> ml_collections.ConfigDict:
    """A copy of the config, with the task that the data make."""
    if config is not None and not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"config is a {type(config).__name__}", "a changed nash_jax.default_config()")
    if config is not None:
        settings = ml_collections.ConfigDict(config.to_dict())
    else:
        settings = task_config(data) if isinstance(data, str) else default_config()
        settings.finetune.epochs = 0.0
        if not isinstance(data, str):
            settings.task.update(name="records", prefix="")
    settings.model.init = ""
    if isinstance(data, str):
        if settings.task.name != data:
            get_task(data)
            found, do = f"data is {data!r}, and config.task.name is {settings.task.name!r}", "config.task.update({})"
            raise UserError(found, "one task", do.format(f"nash_jax.data.tasks.task_settings({data!r})"))
    else:
        first = next(iter(data.get("train") or ()), {})
        target = "references" if "references" in first and "target" not in first else "target"
        settings.task.update(source="files", form="text", source_column="source", target_column=target)
    return settings
