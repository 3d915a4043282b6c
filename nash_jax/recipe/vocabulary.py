"""The smaller vocabulary of a run: chosen by the training rows in `shorten`, used by the stages that follow."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.config.schema import Config
from nash_jax.data.decoding import split_names
from nash_jax.data.mixing import training_targets
from nash_jax.data.tokenizers import load_tokenizer, save_tokenizer
from nash_jax.generation.options import GenerationOptions
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.runtime.output_folder import fill_folder
from nash_jax.spec import ModelSpec
from nash_jax.vocabulary.coverage import measure_coverage
from nash_jax.vocabulary.option_ids import renumber_options
from nash_jax.vocabulary.sizes import vocabulary_size
from nash_jax.vocabulary.tokenizer import trim_tokenizer
from nash_jax.vocabulary.trim import check_texts, choose_ids, note_rules, numbered, trim_model

_FILE, _TOKENIZER = "vocabulary.json", "tokenizer"
Rows = Sequence[Mapping[str, Any]]


class RunVocabulary:
    """The tokens that are left.

    Args:
      folder: of the stage that wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._old_ids = np.array(read_json(folder / _FILE)["old_ids"])

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of these tokens."""
        return load_tokenizer(str(self._folder / _TOKENIZER))

    def trim(self, spec: ModelSpec, params: Any) -> tuple[ModelSpec, dict[str, Any]]:
        """A model of all tokens, without those that are gone."""
        return trim_model(spec, params, self._old_ids)

    def options(self, options: GenerationOptions) -> GenerationOptions:
        """Generation options of the model of all tokens, with the new ids."""
        return renumber_options(options, numbered(self._old_ids))


def choose_vocabulary(
    config: Config, rows: Mapping[str, Rows], tokenizer: Any, options: GenerationOptions, spec: ModelSpec,
    folder: Path, labels: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Chooses the tokens that the training rows and the teacher's outputs need; writes their ids and their tokenizer.

    Whole texts count, not what `max_source_length` leaves of them: the word that is cut would get other tokens.

    Args:
      config: of the run.
      rows: rows of each split.
      tokenizer: of all tokens.
      options: generation options of the model.
      spec: of the model with all tokens.
      folder: of the stage.
      labels: further texts that are learnt.

    Returns:
      Split → how its texts are covered, JSON-able; of the training rows all tokens are.

    Raises:
      UserError: for a tokenizer that cannot be trimmed.
    """
    chosen_by = [*split_names(config.task.keep_tokens), *dict.fromkeys([*_texts(rows["train"]), *labels])]
    old_ids = choose_ids(spec, tokenizer, options, chosen_by, config.shorten.alphabet)
    new_ids = numbered(old_ids)
    trimmed = trim_tokenizer(tokenizer, new_ids)
    found = {split: measure_coverage(tokenizer, trimmed, new_ids, _texts(own)) for split, own in rows.items()}
    check_texts(found["train"])
    note_rules(options, new_ids)
    with fill_folder(folder / _TOKENIZER) as own_folder:
        if is_host0():
            save_tokenizer(trimmed, own_folder)
    if is_host0():
        write_text(folder / _FILE, json.dumps({"old_ids": old_ids.tolist()}))
    barrier("vocabulary")  # the other processes read what host 0 wrote
    return {split: dataclasses.asdict(coverage) for split, coverage in found.items()}


def _texts(rows: Rows) -> list[str]:
    """Sources, what is trained on, references and labels, each once."""
    several = (
        (row["source"], *training_targets(dict(row)), *row["references"], *row.get("labels", ())) for row in rows
    )
    return list(dict.fromkeys(text for texts in several for text in texts))


def compare_sizes(spec: ModelSpec, trimmed: ModelSpec) -> dict[str, Any]:
    """Sizes `before` and `after`, JSON-able.

    Args:
      spec: the model with all tokens.
      trimmed: the model with those that are left.
    """
    return {name: dataclasses.asdict(vocabulary_size(s)) for name, s in (("before", spec), ("after", trimmed))}
