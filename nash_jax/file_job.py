"""Generation for the rows of a file, a chunk at a time.

Letters: B inputs, n outputs for each, R = B·n rows, L tokens of an output.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nash_jax.data.text_files import Survey, TextFile, TextRow
from nash_jax.errors import UserError
from nash_jax.generation.batching import generate_many
from nash_jax.tree import flatten

if TYPE_CHECKING:
    from nash_jax.model import Seq2Seq

OUTPUT_COLUMN = "output"
BATCHES_OF_CHUNK = 64  # within a chunk, rows of like length share a batch; a kill loses a chunk at most


@dataclasses.dataclass(frozen=True)
class FileJob:
    """What is asked for.

    Attributes:
      model: folder or hub name.
      input: file to read.
      output: file to write.
      column: of JSONL; None: the first of those looked for.
      prefix: goes before every text.
      truncate: cut texts that the model has no positions for.
      batch_size: texts generated together.
      dtype: compute dtype.
      options: fields of `GenerationOptions` that differ from the model's own.
    """

    model: str
    input: Path
    output: Path
    column: str | None = None
    prefix: str = ""
    truncate: bool = False
    batch_size: int = 16
    dtype: str = "float32"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def as_json(self) -> bool:
        """Whether the output is JSONL."""
        return self.output.suffix == ".jsonl"


@dataclasses.dataclass
class Tally:
    """What was done.

    Attributes:
      rows: of the input.
      tokens: generated, EOS among them.
      unended: outputs that reached the length limit without an EOS.
      joined: outputs of several lines that were made one.
      cut: texts that were cut.
    """

    rows: int = 0
    tokens: int = 0
    unended: int = 0
    joined: int = 0
    cut: int = 0


class FileGenerator:
    """A model at work for a job.

    Args:
      model: with a tokenizer.
      job: what to do.

    Attributes:
      options: the model's own, and the job's.
      tally: of what was done so far.

    Raises:
      UserError: without a tokenizer, or for options that do not fit.
    """

    def __init__(self, model: "Seq2Seq", job: FileJob) -> None:
        if model.tokenizer is None:
            raise UserError(f"the model {job.model} has no tokenizer", "tokenizer files beside it")
        self.model, self.job, self.tally = model, job, Tally()
        self.tokenizer: Any = model.tokenizer
        self.options = model.generation.replace(**job.options)
        self._positions = model.spec.max_positions if model.spec.absolute_positions else None

    @property
    def lines_per_row(self) -> int:
        """Lines of output for a row of input."""
        return 1 if self.job.as_json else self.options.num_return_sequences

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return BATCHES_OF_CHUNK * self.job.batch_size

    def settings(self, file: TextFile, survey: Survey) -> dict[str, Any]:
        """All that the output hangs on; not the batch size, which may have to be lowered midway."""
        own = {name: getattr(self.job, name) for name in ("prefix", "truncate", "dtype")}
        content = {"model": _digest(self.model, self.tokenizer), "input": survey.digest[:16], "column": file.column}
        return own | content | self.options.to_dict()

    def check_lengths(self, rows: Iterable[TextRow]) -> None:
        """Refuses texts that the model has no positions for, unless they are to be cut.

        Raises:
          UserError: naming the first.
        """
        if self._positions is not None and not self.job.truncate:
            for chunk in _chunks(rows, self.chunk_rows):
                self._encode(chunk)

    def lines(self, rows: Iterable[TextRow], first: int, update: Callable[[int], None]) -> Iterator[list[str]]:
        """Lines of output, a chunk of rows at a time, in the order of the rows.

        Args:
          rows: to generate for.
          first: number of the first of them in the file, from 0: what is drawn for a row hangs on its number.
          update: told how many rows of the file are done.
        """
        for chunk in _chunks(rows, self.chunk_rows):
            outputs: list[list[str]] = [[] for _ in chunk]
            for done, (number, texts) in enumerate(self._outputs(chunk, first), first + 1):
                outputs[number] = texts
                update(done)
            first += len(chunk)
            self.tally.rows += len(chunk)
            yield [line for row, texts in zip(chunk, outputs, strict=True) for line in self._format(row, texts)]

    def _outputs(self, chunk: Sequence[TextRow], first: int) -> Iterator[tuple[int, list[str]]]:
        """Numbers within the chunk, and their n texts."""
        times, batch_size = self.options.num_return_sequences, self.job.batch_size
        ids = self._encode(chunk)
        batches = generate_many(self.model.engine, ids, self.options, batch_size, progress=False, first_row=first)
        for numbers, tokens in batches:
            self._count(tokens)
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for i, number in enumerate(numbers.tolist()):
                yield number, texts[i * times : (i + 1) * times]

    def _encode(self, rows: Sequence[TextRow]) -> list[list[int]]:
        """Token ids of each row, no longer than the model can take."""
        texts = [self.job.prefix + row.text for row in rows]
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        for i, row in enumerate(rows):
            if self._positions is None or len(ids[i]) <= self._positions:
                continue
            if not self.job.truncate:
                raise UserError(
                    f"{row.place}: a text of {len(ids[i])} tokens",
                    f"at most {self._positions}, the positions of the model",
                    "--truncate cuts them",
                )
            ids[i] = self.tokenizer(texts[i], truncation=True, max_length=self._positions)["input_ids"]
            self.tally.cut += 1
        return ids

    def _count(self, tokens: np.ndarray) -> None:
        """Tallies outputs, int [R, L]: a start token, tokens up to and with EOS, and what fills the row."""
        new = tokens[:, 1:]
        is_eos = np.isin(new, self.options.eos_token_id or (self.model.spec.eos_id,))
        ended = is_eos.any(axis=1)
        self.tally.tokens += int(np.where(ended, is_eos.argmax(axis=1) + 1, new.shape[1]).sum())
        self.tally.unended += int((~ended).sum())

    def _format(self, row: TextRow, texts: list[str]) -> list[str]:
        """A row's lines: the JSON object with its output, or the outputs."""
        if self.job.as_json:
            output = texts if self.options.num_return_sequences > 1 else texts[0]
            return [json.dumps({**row.record, OUTPUT_COLUMN: output}, ensure_ascii=False)]
        lines = [" ".join(text.splitlines()) for text in texts]
        self.tally.joined += sum(line != text for line, text in zip(lines, texts, strict=True))
        return lines


def _chunks(rows: Iterable[TextRow], size: int) -> Iterator[list[TextRow]]:
    own = iter(rows)
    while chunk := list(itertools.islice(own, size)):
        yield chunk


def _digest(model: "Seq2Seq", tokenizer: Any) -> str:
    """Of a model's shape, parameters and vocabulary: where its files lie does not matter."""
    digest = hashlib.sha256(model.spec.to_json().encode())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for path, leaf in flatten(model.params).items():
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()[:16]
