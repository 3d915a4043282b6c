"""Many inputs of very different lengths, in batches of few shapes.

Letters: B inputs, S source, n outputs for each input, L tokens of an output.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import Inputs, batch_bucket, bucket, check_ids, check_length
from nash_jax.generation.options import GenerationOptions
from nash_jax.progress import Progress
from nash_jax.ragged import Ragged

MANY_BATCHES = 8  # from here on it is worth saying how far it is


def generate_many(
    engine: Engine,
    sources: Ragged | Sequence[Sequence[int]],
    options: GenerationOptions,
    batch_size: int,
    progress: bool | None = None,
    first_row: int = 0,
    done: Collection[int] = (),
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
      progress: say how far it is; when left out, only where there are many batches.
      first_row: number of the first input in what the inputs are a part of; what is drawn for an input hangs on it.
      done: numbers of inputs that need no outputs; a batch of such alone is left out.

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
    rows = min(batch_size, batch_bucket(len(data)))
    shown = progress if progress is not None else len(batches) > MANY_BATCHES
    count, bar = 0, Progress("generating", sum(map(len, batches)), 0, unit="input") if shown else None
    for numbers in batches:
        yield numbers, engine.run(_pad(data, numbers, rows, engine.spec.pad_id, first_row), options)
        count += len(numbers)
        if bar is not None:
            bar.update(count)
    if bar is not None:
        bar.close()


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


def _pad(data: Ragged, numbers: np.ndarray, rows: int, pad_id: int, first_row: int) -> Inputs:
    """Inputs of one bucket as a batch of `rows` rows; a text may hold the padding token, so lengths decide."""
    lengths = np.zeros(rows, int)
    lengths[: len(numbers)] = data.lengths[numbers]
    shape = (rows, bucket(int(lengths.max())))
    there = np.arange(shape[1])[None] < lengths[:, None]
    ids = np.full(shape, pad_id, np.int32)
    ids[: len(numbers)] = data.pad(numbers, shape[1], pad_id)
    mask = there.astype(np.int32)
    mask[:, 0] = 1  # attention to nothing would be attention to all the padding
    row_ids = np.zeros(rows, np.int32)
    row_ids[: len(numbers)] = first_row + numbers
    return Inputs(ids, mask, np.where(there, ids, -1).astype(np.int32), row_ids, len(numbers))
