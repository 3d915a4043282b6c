"""From rows to batches: tokenised once and cached, grouped by length so that shapes are few.

A batch is a function of (rows, seed, step) alone: the data position of a run is one number, and every process
makes the whole batch and places its part on its devices.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import grain
import jax
import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.data.mixing import Mixture, training_targets
from nash_jax.data.tokenizers import tokenizer_content
from nash_jax.ragged import Ragged

Shape = tuple[int, int]
BUCKET_SHARES = (0.6, 0.9)  # of the rows fit the first bucket, the second; all fit the last


def tokenize(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> tuple[Ragged, Ragged]:
    """Source and target ids of every pair of a row and a target of it; read from the cache when it fits.

    Args:
      rows: {"source", "references"}, and "targets" where those are not what is learnt.
      tokenizer: a `transformers` tokenizer; it appends EOS.
      task: maximal lengths.
      cache: folder for tokenised splits, one sub-folder for each content.
    """
    table = tokenized_table(rows, tokenizer, task, cache)
    return Ragged.from_column(table, "source_ids"), Ragged.from_column(table, "target_ids")


def tokenize_sources(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> Ragged:
    """Source ids of every row, each once; from the same cache.

    Args:
      rows: as in `tokenize`.
      tokenizer: as there.
      task: as there.
      cache: as there.
    """
    first = np.cumsum([0, *(len(training_targets(row)) for row in rows[:-1])])  # of each row's pairs
    return Ragged.from_column(tokenized_table(rows, tokenizer, task, cache).select(first), "source_ids")


def tokenized_table(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path) -> datasets.Dataset:
    """What `tokenize` reads, with the numbers of tokens there were before anything was cut.

    Args:
      rows: as in `tokenize`.
      tokenizer: as there.
      task: as there.
      cache: as there.

    Returns:
      The columns source_ids, target_ids, source_length, target_length; a row for each (row, reference) pair.
    """
    folder = cache / _fingerprint(rows, tokenizer, task)
    if not folder.exists():
        pairs = [(row["source"], target) for row in rows for target in training_targets(row)]
        table = datasets.Dataset.from_dict({"pair": range(len(pairs))})  # an Arrow column of texts ends at 2 GiB

        def encode(batch: dict[str, list[int]]) -> dict[str, Any]:
            sources, targets = zip(*(pairs[i] for i in batch["pair"]), strict=True)
            source_ids, source_lengths = _truncate(tokenizer, "text", list(sources), task.max_source_length)
            # Marian and mBART write targets in another language
            target_ids, target_lengths = _truncate(tokenizer, "text_target", list(targets), task.max_target_length)
            return {
                "source_ids": source_ids,
                "target_ids": target_ids,
                "source_length": source_lengths,
                "target_length": target_lengths,
            }

        datasets.disable_progress_bars()
        table = table.map(  # named, for otherwise all texts would be pickled to make a name
            encode, batched=True, remove_columns=["pair"], load_from_cache_file=False, new_fingerprint=folder.name
        )
        partial = folder.with_name(folder.name + f".partial{jax.process_index()}")
        shutil.rmtree(partial, ignore_errors=True)
        table.save_to_disk(partial)
        if not folder.exists():
            partial.rename(folder)
    return datasets.load_from_disk(folder)


def _truncate(tokenizer: Any, kind: str, texts: list[str], limit: int) -> tuple[list[list[int]], list[int]]:
    """Ids of texts, cut to the limit, and how many there would be without it.

    Args:
      tokenizer: of `transformers`.
      kind: "text" or "text_target".
      texts: what to encode.
      limit: tokens, those included that the tokenizer adds.
    """
    encoded = tokenizer(**{kind: texts}, truncation=True, max_length=limit, return_attention_mask=False)
    ids = encoded["input_ids"]
    if encoded.encodings:  # of the Rust library, which keeps what it cut off
        return ids, [
            len(part) + sum(len(rest) - sum(rest.special_tokens_mask) for rest in part.overflowing)
            for part in encoded.encodings
        ]
    full = [text for text, own in zip(texts, ids, strict=True) if len(own) == limit]
    whole = iter(tokenizer(**{kind: full}, verbose=False)["input_ids"] if full else [])
    return ids, [len(next(whole)) if len(own) == limit else len(own) for own in ids]


def _fingerprint(rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig) -> str:
    """A name for this content: its columns, rows, vocabulary and maximal lengths."""
    digest = hashlib.sha256(json.dumps(tokenizer_content(tokenizer)).encode())
    digest.update(f"ids and lengths {task.max_source_length} {task.max_target_length}".encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def choose_shapes(sources: Ragged, targets: Ragged) -> list[Shape]:
    """Three (source, target) shapes that the rows fit into, by quantiles, rounded up to whole eights.

    Targets long for their bucket move to a later one; the last takes all. Short data (up to 32 tokens) is
    not rounded: there eights would be mostly padding.
    """
    exact = max(sources.lengths.max(), targets.lengths.max()) <= 32

    def up(n: float) -> int:
        return int(np.ceil(n)) if exact else int(np.ceil(n / 8) * 8)

    shapes = [
        (up(np.quantile(sources.lengths, share)), up(np.quantile(targets.lengths, share))) for share in BUCKET_SHARES
    ]
    shapes.append((up(sources.lengths.max()), up(targets.lengths.max())))
    return sorted(set(shapes))


def assign_buckets(sources: Ragged, targets: Ragged, shapes: Sequence[Shape]) -> np.ndarray:
    """Number of the first shape that each pair fits into; the last takes all."""
    found = np.full(len(sources), len(shapes) - 1)
    for i, (source, target) in reversed(list(enumerate(shapes))):
        found[(sources.lengths <= source) & (targets.lengths <= target)] = i
    return found


class Batches:
    """All batches of a training phase, addressed by step.

    Each epoch shuffles the rows, deals them into buckets and cuts each bucket into batches; what is left of
    a bucket goes into the next longer one, what is left of the last is dropped for this epoch.

    Args:
      sources: source ids.
      targets: target ids.
      batch_size: rows of a batch over all hosts.
      seed: of the shuffling.
      pad_id: padding token.
      shapes: (source, target) lengths, increasing; chosen from the data when left out.
      mixture: which pairs each epoch takes; all of them when left out.
    """

    def __init__(
        self, sources: Ragged, targets: Ragged, batch_size: int, seed: int, pad_id: int,
        shapes: Sequence[Shape] | None = None, mixture: Mixture | None = None,
    ) -> None:  # fmt: skip
        self.sources, self.targets = sources, targets
        self.batch_size, self.seed, self.pad_id = batch_size, seed, pad_id
        self.shapes = list(shapes or choose_shapes(sources, targets))
        self.bucket = assign_buckets(sources, targets, self.shapes)
        self.mixture = mixture
        self.steps_per_epoch = (len(sources) if mixture is None else mixture.size) // batch_size
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __len__(self) -> int:
        return 2**62  # as many epochs as are asked for

    def _make_plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """(bucket, row numbers) of each batch of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.sources) if self.mixture is None else self.mixture.sample(epoch))
        left, batches = np.zeros(0, np.int64), []
        for bucket in range(len(self.shapes)):
            rows = np.concatenate([left, order[self.bucket[order] == bucket]])
            whole = len(rows) // self.batch_size
            batches += [(bucket, part) for part in np.split(rows[: whole * self.batch_size], whole or 1) if len(part)]
            left = rows[whole * self.batch_size :]
        return [batches[i] for i in rng.permutation(len(batches))]

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step: {"input_ids", "labels"}, int32."""
        epoch, index = divmod(int(step), self.steps_per_epoch)
        bucket, rows = self._plan(epoch)[index]
        source, target = self.shapes[bucket]
        return {
            "input_ids": self.sources.pad(rows, source, self.pad_id),
            "labels": self.targets.pad(rows, target, self.pad_id),
        }


def make_iterator(batches: Batches, position: dict[str, Any] | None = None) -> Any:
    """A Grain iterator over the batches; `get_state()` is its position, to be given back here.

    Args:
      batches: what to iterate over.
      position: where to go on.
    """
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(read))
    if position is not None:
        iterator.set_state(position)
    return iterator
