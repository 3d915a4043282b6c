"""`nash_jax.trim_vocabulary`: any model with fewer tokens."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.data.special_tokens import check_token_ids
from nash_jax.errors import UserError
from nash_jax.generation.arguments import preview, read_flag, read_texts
from nash_jax.generation.options import GenerationOptions
from nash_jax.pruning.compact import cut
from nash_jax.runtime.multihost import is_host0
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten
from nash_jax.vocabulary.coverage import Coverage, measure_coverage, used_ids
from nash_jax.vocabulary.option_ids import generated_ids, idle_rules, renumber_options
from nash_jax.vocabulary.sizes import VocabularySize, vocabulary_size
from nash_jax.vocabulary.tokenizer import tokenizer_needs, trim_tokenizer


@dataclasses.dataclass(frozen=True)
class TrimResult:
    """What `trim_vocabulary` returns.

    Attributes:
      model: the model with fewer tokens, and its tokenizer.
      old_ids: int [V]: the id that each token of the model had before, increasing.
      before: sizes of the model that was given.
      after: sizes of the new one.
      held_out: how texts fare that were not used to choose the tokens.
    """

    model: Seq2Seq
    old_ids: np.ndarray
    before: VocabularySize
    after: VocabularySize
    held_out: Coverage


def trim_vocabulary(
    model: Seq2Seq, texts: Iterable[str], *, held_out: Iterable[str] = (), alphabet: bool = True,
) -> TrimResult:  # fmt: skip
    """Cuts the tokens that texts do not need out of a model and its tokenizer.

    Kept are the tokens of the texts, special and other added tokens (T5's `<extra_id_…>` and all languages among
    them), bytes, tokens of one character, ids that the generation options name, and what the tokenizer needs so that
    each of the texts has the same tokens as before, which is checked. For these texts the logits are those of the
    model before, without the columns that are gone. Other texts are written with the tokens that are left.

    Args:
      model: a model with a tokenizer that has a tokenizer.json: Unigram (T5, mT5, Pegasus, mBART), BPE (BART, NLLB) or
        WordLevel. It stays as it is.
      texts: all texts the model should read and write with the tokens it has now: sources, with their prefix, and
        targets.
      held_out: texts on which to measure how well others are covered.
      alphabet: keep tokens of one character that no text has, so that fewer other texts have unknown tokens. In
        vocabularies of many languages these are thousands.

    Returns:
      A `TrimResult`; its model is saved, exported and pruned like any other.

    Raises:
      UserError: for a model without tokenizer, a kind of tokenizer that is not supported, or no texts.

    Example:
      >>> import nash_jax
      >>> nash_jax.trim_vocabulary(nash_jax.load("my-t5"), ["a text"])
      Traceback (most recent call last):
      nash_jax.errors.UserError: no model 'my-t5'...
    """
    if not isinstance(model, Seq2Seq):
        raise UserError(f"the model is {preview(model)}", "a Seq2Seq, as nash_jax.load returns it")
    if model.tokenizer is None:
        raise UserError("this model has no tokenizer", "tokenizer files in the same folder")
    given, others = read_texts(texts), read_texts(held_out)
    if not given:
        raise UserError("no texts", "the texts whose tokens are to stay")
    old_ids = choose_ids(model.spec, model.tokenizer, model.generation, given, read_flag(alphabet, "alphabet"))
    new_ids = numbered(old_ids)
    tokenizer = trim_tokenizer(model.tokenizer, new_ids)
    check_texts(measure_coverage(model.tokenizer, tokenizer, new_ids, given))
    rows = old_ids[old_ids < max(model.spec.vocab_size, model.spec.source_vocab_size)]
    spec, params = trim_model(model.spec, model.params, rows)
    note_rules(model.generation, new_ids)
    trimmed = Seq2Seq(spec, params, tokenizer, model.dtype, renumber_options(model.generation, new_ids))
    coverage = measure_coverage(model.tokenizer, tokenizer, new_ids, others)
    return TrimResult(trimmed, rows, vocabulary_size(model.spec), vocabulary_size(spec), coverage)


def choose_ids(
    spec: ModelSpec, tokenizer: Any, options: GenerationOptions, texts: Sequence[str], alphabet: bool = True
) -> np.ndarray:
    """Returns the ids to keep, increasing; those beyond the model are tokens that only its tokenizer has.

    Args:
      spec: of the model.
      tokenizer: a `transformers` tokenizer.
      options: generation options of the model.
      texts: sources and targets.
      alphabet: as in `trim_vocabulary`.

    Raises:
      UserError: for a text with a token that the model does not have, or a tokenizer that is not supported.
    """
    used = used_ids(tokenizer, texts)
    check_token_ids(tokenizer, spec, source=np.array(sorted(used)))
    used |= {spec.pad_id, spec.eos_id, spec.decoder_start_id} | generated_ids(options)
    return np.array(sorted(tokenizer_needs(tokenizer, used, alphabet)))


def numbered(old_ids: np.ndarray) -> dict[int, int]:
    """Returns id → new id.

    Args:
      old_ids: ids to keep, increasing.
    """
    return {int(old): new for new, old in enumerate(old_ids)}


def check_texts(coverage: Coverage) -> None:
    """Checks that the texts that chose the tokens are written as before.

    Args:
      coverage: of these texts.

    Raises:
      UserError: if some are not: the tokenizer has a rule that is not known here.
    """
    if coverage.changed_texts:
        raise UserError(
            f"{coverage.changed_texts} of {coverage.num_texts} texts would be written with other tokens",
            "a tokenizer that segments words by its vocabulary alone",
            "keep the vocabulary whole",
        )


def trim_model(spec: ModelSpec, params: Any, old_ids: np.ndarray) -> tuple[ModelSpec, dict[str, Any]]:
    """Cuts rows of embeddings, columns of the LM head and entries of the logits bias out of a model.

    Args:
      spec: the model.
      params: its parameters; stored ones stay so.
      old_ids: ids to keep, increasing.
    """
    keep = {"vocab": old_ids[old_ids < spec.vocab_size]}
    if spec.encoder_vocab_size is not None:
        keep["encoder_vocab"] = old_ids[old_ids < spec.encoder_vocab_size]
    return cut(spec, flatten(params), keep)


def note_rules(options: GenerationOptions, new_ids: Mapping[int, int]) -> None:
    """Prints a note for each generation option that forbids tokens which are gone.

    Args:
      options: of the model before.
      new_ids: id → new id of the tokens that stay.
    """
    for name in idle_rules(options, new_ids) if is_host0() else []:
        print(f"note: {name} forbids tokens that are gone now; these are left out of it", file=sys.stderr)
