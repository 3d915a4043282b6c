"""Many inputs of very different lengths, in batches of few shapes.

Letters: B inputs, S source, n outputs for each input, L tokens of an output.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import Inputs, batch_bucket, bucket, check_ids, check_length
from nash_jax.generation.options import GenerationOptions
from nash_jax.ragged import Ragged
from nash_jax.runtime.progress import Progress

PATIENCE = 5.0  # seconds after which it is worth saying how far it is


def generate_many(
    engine: Engine,
    sources: Ragged | Sequence[Sequence[int]],
    options: GenerationOptions,
    batch_size: int,
    progress: bool | None = None,
    first_row: int = 0,
    done: Collection[int] = (),
    rows: Mapping[int, int] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generates for all inputs; those of like length share a batch, the longest come first.

    An input is padded by its own length alone, so its tokens do not hang on the order of inputs, nor (but for the
    rounding of float sums) on the batch size. There is one program for each bucket of lengths in use. An input of no
    tokens is read as one of padding.

    Args:
      engine: the model.
      sources: token ids of each input, as long as they are: nothing is cut.
      options: how to generate.
      batch_size: inputs generated together.
      progress: say how far it is; when left out, only once it has taken some seconds.
      first_row: number of the first input in what the inputs are a part of; what is drawn for an input hangs on it.
      done: numbers of inputs that need no outputs; a batch of such alone is left out.
      rows: from `plan_rows` for the whole that the inputs are a part of; when left out, they are the whole.

    Yields:
      Numbers of inputs [B] and their outputs, int32 [B·n, L]: n consecutive rows for each.

    Raises:
      UserError: for ids outside of the vocabulary, or what `Engine.generate` refuses.
    """
    data = sources if isinstance(sources, Ragged) else Ragged.from_lists(sources)
    check_ids("inputs", data.ids, engine.spec.source_vocab_size)
    check_length("the longest input is", int(data.lengths.max(initial=0)), engine.spec)
    there = set(done)
    batches = [batch for batch in plan_batches(data.lengths, batch_size) if not there.issuperset(batch.tolist())]
    own_rows = plan_rows(data.lengths, batch_size) if rows is None else rows
    count, bar, compiled = 0, _Bar(sum(map(len, batches)), progress), set[int]()
    for numbers in batches:
        inputs = _pad(data, numbers, own_rows, engine.spec.pad_id, first_row)
        yield numbers, engine.run(inputs, options)
        count, width = count + len(numbers), inputs.input_ids.shape[1]
        bar.update(count, width in compiled)
        compiled.add(width)
    bar.close()


class _Bar:
    """A progress bar that appears when it is asked for, or (`shown` None) once things have taken long."""

    def __init__(self, total: int, shown: bool | None) -> None:
        self._total, self._bar = total, Progress("generating", total, 0, unit="input") if shown else None
        self._due = time.monotonic() + (PATIENCE if shown is None else math.inf)

    def update(self, count: int, typical: bool) -> None:
        if self._bar is None and time.monotonic() > self._due and count < self._total:
            self._bar = Progress("generating", self._total, count, unit="input")
        elif self._bar is not None:
            self._bar.update(count, typical=typical)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def by_input(numbers: np.ndarray, texts: Sequence[str]) -> dict[int, list[str]]:
    """Number of an input → its n consecutive texts, of a batch's numbers [B] and texts [B·n]."""
    count = len(texts) // len(numbers)
    return {number: list(texts[i * count : (i + 1) * count]) for i, number in enumerate(numbers.tolist())}


def plan_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Numbers of the inputs of each batch: one bucket of lengths a batch, the longest bucket first.

    Args:
      lengths: tokens of each input.
      batch_size: inputs of a batch at most.
    """
    widths = np.array([bucket(length) for length in lengths.tolist()], int)
    batches = []
    for width in sorted(set(widths.tolist()), reverse=True):
        numbers = np.flatnonzero(widths == width)
        batches += [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    return batches


def plan_rows(lengths: np.ndarray, batch_size: int) -> dict[int, int]:
    """Rows of the program of each bucket of lengths: of a bucket with few inputs, fewer than `batch_size`.

    Args:
      lengths: tokens of each input.
      batch_size: inputs of a batch at most.
    """
    counts = Counter(bucket(length) for length in lengths.tolist())
    return {width: min(batch_size, batch_bucket(count)) for width, count in counts.items()}


def _pad(data: Ragged, numbers: np.ndarray, rows: Mapping[int, int], pad_id: int, first_row: int) -> Inputs:
    """Inputs of one bucket as a batch of its shape; a text may hold the padding token, so lengths decide."""
    width = bucket(int(data.lengths[numbers].max()))
    shape = (rows[width], width)
    lengths = np.zeros(shape[0], int)
    lengths[: len(numbers)] = data.lengths[numbers]
    there = np.arange(shape[1])[None] < lengths[:, None]
    ids = np.full(shape, pad_id, np.int32)
    ids[: len(numbers)] = data.pad(numbers, shape[1], pad_id)
    mask = there.astype(np.int32)
    mask[:, 0] = 1  # attention to nothing would be attention to all the padding
    row_ids = np.zeros(shape[0], np.int32)
    row_ids[: len(numbers)] = first_row + numbers
    return Inputs(ids, mask, np.where(there, ids, -1).astype(np.int32), row_ids, len(numbers))
