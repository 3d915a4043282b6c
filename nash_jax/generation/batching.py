"""Generation for many inputs of different lengths, in batches of few shapes.

Letters: B inputs, S source length, n outputs for each input, L output length in tokens.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from nash_jax.generation.engine import BatchGenerator
from nash_jax.generation.inputs import PaddedInputs, batch_bucket, check_ids, check_length, length_bucket
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import ScoredIds
from nash_jax.ragged import Ragged
from nash_jax.runtime.progress import Progress, say_while

Item = TypeVar("Item")

PROGRESS_DELAY_S = 5.0  # seconds before a progress bar appears


def generate_batches(
    engine: BatchGenerator,
    sources: Ragged | Sequence[Sequence[int]],
    options: GenerationOptions,
    batch_size: int,
    progress: bool | None = None,
    first_row: int = 0,
    done: Collection[int] = (),
    rows: Mapping[int, int] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generates outputs for all inputs; inputs of similar length share a batch, and the longest are first.

    Padding depends only on an input's length, so its tokens do not depend on the order of inputs, nor, except for
    rounding, on the batch size. One program is compiled for each length bucket in use. An input without tokens is
    treated as one padding token.

    Args:
      engine: the model.
      sources: token ids of each input, not truncated.
      options: generation options.
      batch_size: inputs generated together.
      progress: whether to show a progress bar; None: only after some seconds.
      first_row: index of the first input, if the inputs are part of a larger set; sampling depends on the index.
      done: indices of inputs that need no output; a batch with only such inputs is skipped.
      rows: from `plan_batch_rows` for the larger set; None: the inputs are the whole set.

    Yields:
      Indices of inputs, int [B], and their outputs, int32 [B·n, L]: n consecutive rows for each input.

    Raises:
      UserError: for ids outside the vocabulary, and as `BatchGenerator.generate`.
    """
    for numbers, inputs in _batches(engine, sources, batch_size, progress, first_row, done, rows):
        yield numbers, engine.generate_padded(inputs, options)


def generate_scored_batches(
    engine: BatchGenerator, sources: Ragged | Sequence[Sequence[int]], options: GenerationOptions, batch_size: int,
    progress: bool | None = None, first_row: int = 0, done: Collection[int] = (),
    rows: Mapping[int, int] | None = None,
) -> Iterator[tuple[np.ndarray, ScoredIds]]:  # fmt: skip
    """Like `generate_batches`, with the scores of the outputs.

    Args:
      engine: as in `generate_batches`.
      sources: as in `generate_batches`.
      options: as in `generate_batches`.
      batch_size: as in `generate_batches`.
      progress: as in `generate_batches`.
      first_row: as in `generate_batches`.
      done: as in `generate_batches`.
      rows: as in `generate_batches`.
    """
    for numbers, inputs in _batches(engine, sources, batch_size, progress, first_row, done, rows):
        yield numbers, engine.score_padded(inputs, options)


def _batches(
    engine: BatchGenerator, sources: Ragged | Sequence[Sequence[int]], batch_size: int, progress: bool | None,
    first_row: int, done: Collection[int], rows: Mapping[int, int] | None,
) -> Iterator[tuple[np.ndarray, PaddedInputs]]:  # fmt: skip
    """Yields the indices and the padded inputs of each batch; shows progress as they are taken."""
    data = sources if isinstance(sources, Ragged) else Ragged.from_lists(sources)
    check_ids("inputs", data.ids, engine.spec.source_vocab_size)
    check_length("the longest input is", int(data.lengths.max(initial=0)), engine.spec)
    skipped = set(done)
    batches = [batch for batch in plan_batches(data.lengths, batch_size) if not skipped.issuperset(batch.tolist())]
    batch_rows = plan_batch_rows(data.lengths, batch_size) if rows is None else rows
    count, bar, compiled = 0, _DelayedProgress(sum(map(len, batches)), progress), set[int]()
    for numbers in batches:
        inputs = _pad(data, numbers, batch_rows, engine.spec.pad_id, first_row)
        width = inputs.input_ids.shape[1]
        with contextlib.nullcontext() if width in compiled else bar.first_batch():
            yield numbers, inputs
        count += len(numbers)
        bar.update(count, width in compiled)
        compiled.add(width)
    bar.close()


class _DelayedProgress:
    """A progress bar that is shown always (`shown` True), never (False), or only after a delay (None)."""

    def __init__(self, total: int, shown: bool | None) -> None:
        self._total, self._bar = total, Progress("generating", total, 0, unit="input") if shown else None
        self._due, self._count = time.monotonic() + (PROGRESS_DELAY_S if shown is None else math.inf), 0

    def first_batch(self) -> contextlib.AbstractContextManager[None]:
        """As of `Progress`, while the caller generates; nothing where nothing is to be shown."""
        return say_while(self._say_first_batch) if self._due < math.inf or self._bar else contextlib.nullcontext()

    def _say_first_batch(self, seconds: float) -> None:
        if self._bar is None:
            self._bar = Progress("generating", self._total, self._count, unit="input")
        self._bar.say_first_batch(seconds)

    def update(self, count: int, typical: bool) -> None:
        self._count = count
        if self._bar is None and time.monotonic() > self._due and count < self._total:
            self._bar = Progress("generating", self._total, count, unit="input")
        elif self._bar is not None:
            self._bar.update(count, typical=typical)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def group_by_input(numbers: np.ndarray, texts: Sequence[Item]) -> dict[int, list[Item]]:
    """Groups what there is for each output [B·n] of a batch by input: index of the input [B] → its n texts."""
    count = len(texts) // len(numbers)
    return {number: list(texts[i * count : (i + 1) * count]) for i, number in enumerate(numbers.tolist())}


def plan_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Returns the input indices of each batch; a batch contains inputs of one length bucket, longest bucket first.

    Args:
      lengths: tokens of each input, int [inputs].
      batch_size: maximum number of inputs in a batch.
    """
    widths = np.array([length_bucket(length) for length in lengths.tolist()], int)
    batches = []
    for width in sorted(set(widths.tolist()), reverse=True):
        numbers = np.flatnonzero(widths == width)
        batches += [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    return batches


def plan_batch_rows(lengths: np.ndarray, batch_size: int) -> dict[int, int]:
    """Returns length bucket → rows of its compiled program; fewer than `batch_size` for a bucket with few inputs.

    Args:
      lengths: tokens of each input, int [inputs].
      batch_size: maximum number of inputs in a batch.
    """
    counts = Counter(length_bucket(length) for length in lengths.tolist())
    return {width: min(batch_size, batch_bucket(count)) for width, count in counts.items()}


def _pad(data: Ragged, numbers: np.ndarray, rows: Mapping[int, int], pad_id: int, first_row: int) -> PaddedInputs:
    """Pads inputs of one bucket to its shape; uses the lengths, since texts may contain the padding token."""
    width = length_bucket(int(data.lengths[numbers].max()))
    shape = (rows[width], width)
    lengths = np.zeros(shape[0], int)
    lengths[: len(numbers)] = data.lengths[numbers]
    is_token = np.arange(shape[1])[None] < lengths[:, None]
    ids = np.full(shape, pad_id, np.int32)
    ids[: len(numbers)] = data.pad(numbers, shape[1], pad_id)
    mask = is_token.astype(np.int32)
    mask[:, 0] = 1  # if all tokens were masked, attention would be uniform over the padding
    row_ids = np.zeros(shape[0], np.int32)
    row_ids[: len(numbers)] = first_row + numbers
    return PaddedInputs(ids, mask, np.where(is_token, ids, -1).astype(np.int32), row_ids, len(numbers))
