"""From rows to batches: tokenized once and cached, bucketed by length so that there are few shapes.

A batch depends only on (rows, seed, step), so the data position of a run is a single number. Every process builds the
whole batch and places its shard on its devices.
"""

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.data.mixing import Mixture, training_targets
from nash_jax.data.target_choice import TargetChoice
from nash_jax.data.tokenizers import tokenizer_content
from nash_jax.ragged import Ragged
from nash_jax.runtime.checksums import changed_file
from nash_jax.runtime.multihost import is_host0
from nash_jax.runtime.output_folder import MANIFEST, read_manifest, write_manifest

if TYPE_CHECKING:
    import datasets

Shape = tuple[int, int]
BUCKET_SHARES = (0.6, 0.9)  # quantiles of lengths covered by the first and the second bucket; the last covers all


def tokenize(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> tuple[Ragged, Ragged]:
    """Tokenizes all (source, target) pairs of the rows, or reads them from the cache.

    Args:
      rows: {"source", "references"}, and "targets" if they differ from the references.
      tokenizer: a `transformers` tokenizer that appends EOS.
      task: maximum lengths.
      cache: folder for tokenized splits, with one sub-folder for each content.

    Returns:
      Source ids and target ids, one sequence per pair.
    """
    table = tokenized_table(rows, tokenizer, task, cache)
    return Ragged.from_column(table, "source_ids"), Ragged.from_column(table, "target_ids")


def tokenize_sources(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> Ragged:
    """Tokenizes the source of every row once; uses the same cache as `tokenize`.

    Args:
      rows: as in `tokenize`.
      tokenizer: as in `tokenize`.
      task: as in `tokenize`.
      cache: as in `tokenize`.

    Returns:
      Source ids, one sequence per row.
    """
    first = np.cumsum([0, *(len(training_targets(row)) for row in rows[:-1])])  # index of each row's first pair
    return Ragged.from_column(tokenized_table(rows, tokenizer, task, cache).select(first), "source_ids")


def tokenized_table(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> "datasets.Dataset":
    """Returns the table behind `tokenize`, which also has the lengths before truncation.

    Args:
      rows: as in `tokenize`.
      tokenizer: as in `tokenize`.
      task: as in `tokenize`.
      cache: as in `tokenize`.

    Returns:
      Columns source_ids, target_ids, source_length, target_length (in tokens); one row for each (source, target) pair.
    """
    import datasets  # here: takes over a second to import

    folder = cache / _fingerprint(rows, tokenizer, task)
    if not _is_whole(folder):
        pairs = [(row["source"], target) for row in rows for target in training_targets(row)]
        table = datasets.Dataset.from_dict({"pair": range(len(pairs))})  # Arrow text columns are limited to 2 GiB

        def encode(batch: dict[str, list[int]]) -> dict[str, Any]:
            sources, targets = zip(*(pairs[i] for i in batch["pair"]), strict=True)
            source_ids, source_lengths = _truncate(tokenizer, "text", list(sources), task.max_source_length)
            # Marian and mBART tokenize targets as another language
            target_ids, target_lengths = _truncate(tokenizer, "text_target", list(targets), task.max_target_length)
            return {
                "source_ids": source_ids,
                "target_ids": target_ids,
                "source_length": source_lengths,
                "target_length": target_lengths,
            }

        datasets.disable_progress_bars()
        table = table.map(  # with a given fingerprint: otherwise all texts would be pickled to compute one
            encode, batched=True, remove_columns=["pair"], load_from_cache_file=False, new_fingerprint=folder.name
        )
        partial = folder.with_name(folder.name + f".partial{jax.process_index()}")
        shutil.rmtree(partial, ignore_errors=True)
        table.save_to_disk(partial)
        write_manifest(partial)
        if not folder.exists():
            partial.rename(folder)
    return datasets.load_from_disk(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a tokenized split is there as it was written; a damaged one is deleted, with a note."""
    if not folder.exists():
        return False
    saved = read_manifest(folder)
    wrong = changed_file(folder, saved, once=True) if saved else MANIFEST  # a run asks several times
    if wrong and is_host0():
        print(f"note: {folder / wrong} is damaged; the texts are tokenized again", file=sys.stderr)
        shutil.rmtree(folder)
    return wrong is None


def _truncate(tokenizer: Any, kind: str, texts: list[str], limit: int) -> tuple[list[list[int]], list[int]]:
    """Tokenizes texts with truncation; also returns the lengths without truncation.

    Args:
      tokenizer: a `transformers` tokenizer.
      kind: "text" or "text_target".
      texts: texts to encode.
      limit: maximum length in tokens, including special tokens.

    Returns:
      Token ids of each text, and the number of tokens of each text without truncation.
    """
    encoded = tokenizer(**{kind: texts}, truncation=True, max_length=limit, return_attention_mask=False)
    ids = encoded["input_ids"]
    if encoded.encodings:  # fast tokenizers keep the overflowing tokens
        return ids, [
            len(part) + sum(len(rest) - sum(rest.special_tokens_mask) for rest in part.overflowing)
            for part in encoded.encodings
        ]
    full = [text for text, row in zip(texts, ids, strict=True) if len(row) == limit]
    whole = iter(tokenizer(**{kind: full}, verbose=False)["input_ids"] if full else [])
    return ids, [len(next(whole)) if len(row) == limit else len(row) for row in ids]


def _fingerprint(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig) -> str:
    """Returns a name for the tokenized content: a hash of columns, rows, tokenizer and maximum lengths."""
    digest = hashlib.sha256(json.dumps(tokenizer_content(tokenizer)).encode())
    digest.update(f"ids and lengths {task.max_source_length} {task.max_target_length}".encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def choose_shapes(sources: Ragged, targets: Ragged) -> list[Shape]:
    """Chooses up to three (source, target) shapes by quantiles of the lengths, rounded up to multiples of 8.

    Pairs whose target is too long for their bucket move to a later one; the last bucket fits all. Short data (up to 32
    tokens) is not rounded, since rounding would add mostly padding.
    """
    exact = max(sources.lengths.max(), targets.lengths.max()) <= 32

    def up(n: float) -> int:
        return int(np.ceil(n)) if exact else int(np.ceil(n / 8) * 8)

    shapes = [
        (up(np.quantile(sources.lengths, share)), up(np.quantile(targets.lengths, share))) for share in BUCKET_SHARES
    ]
    shapes.append((up(sources.lengths.max()), up(targets.lengths.max())))
    return sorted(set(shapes))


def assign_buckets(sources: np.ndarray, targets: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """Returns the index of the first shape that each pair fits into, int64 [pairs]; the last shape fits all.

    Args:
      sources: lengths of the pairs' sources, int [pairs].
      targets: lengths of their targets.
      shapes: (source, target) lengths, increasing.
    """
    found = np.full(len(sources), len(shapes) - 1)
    for i, (source, target) in reversed(list(enumerate(shapes))):
        found[(sources <= source) & (targets <= target)] = i
    return found


class Batches:
    """All batches of a training phase, indexed by step.

    Each epoch shuffles the pairs, assigns them to buckets and splits each bucket into batches. The remainder of a
    bucket moves to the next longer one; the remainder of the last bucket is dropped for this epoch.

    Args:
      sources: source ids of each pair.
      targets: target ids: of each pair, or with `choice` all that it chooses from.
      batch_size: rows of a batch over all hosts.
      seed: of the shuffling.
      pad_id: padding token id.
      shapes: (source, target) lengths, increasing; None: chosen from the data.
      mixture: selects the pairs of each epoch; None: all pairs.
      choice: selects the target of each pair in each epoch; None: a pair has one.
    """

    def __init__(
        self, sources: Ragged, targets: Ragged, batch_size: int, seed: int, pad_id: int,
        shapes: Sequence[Shape] | None = None, mixture: Mixture | None = None, choice: TargetChoice | None = None,
    ) -> None:  # fmt: skip
        self.sources, self.targets = sources, targets
        self.batch_size, self.seed, self.pad_id = batch_size, seed, pad_id
        self.shapes = list(shapes or choose_shapes(sources, targets))
        self.mixture, self.choice = mixture, choice
        self.steps_per_epoch = (len(sources) if mixture is None else mixture.size) // batch_size
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __len__(self) -> int:
        return 2**62  # unlimited epochs

    def _make_plan(self, epoch: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(bucket, indices of sources, indices of targets) of each batch of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.sources) if self.mixture is None else self.mixture.sample(epoch))
        picked = np.arange(len(self.sources)) if self.choice is None else self.choice.pick(epoch)
        buckets = assign_buckets(self.sources.lengths, self.targets.lengths[picked], self.shapes)
        left, batches = np.zeros(0, np.int64), []
        for bucket in range(len(self.shapes)):
            rows = np.concatenate([left, order[buckets[order] == bucket]])
            whole = len(rows) // self.batch_size
            batches += [(bucket, part) for part in np.split(rows[: whole * self.batch_size], whole or 1) if len(part)]
            left = rows[whole * self.batch_size :]
        return [(bucket, rows, picked[rows]) for bucket, rows in (batches[i] for i in rng.permutation(len(batches)))]

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step: {"input_ids" [batch, source], "labels" [batch, target]}, int32."""
        epoch, index = divmod(int(step), self.steps_per_epoch)
        bucket, sources, targets = self._plan(epoch)[index]
        source, target = self.shapes[bucket]
        return {
            "input_ids": self.sources.pad(sources, source, self.pad_id),
            "labels": self.targets.pad(targets, target, self.pad_id),
        }


def make_iterator(batches: Batches, position: dict[str, Any] | None = None) -> Any:
    """Returns a Grain iterator over the batches.

    Args:
      batches: the batches to iterate over.
      position: state from `get_state()` of an earlier iterator, to continue from there; None: start at step 0.
    """
    import grain  # here: slow to import

    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(read))
    if position is not None:
        iterator.set_state(position)
    return iterator
