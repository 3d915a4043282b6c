"""Generation for the rows of a file, one chunk at a time.

Letters: B inputs, n outputs for each, R = B·n rows, L output length in tokens.
"""

import dataclasses
import hashlib
import itertools
import json
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nash_jax.batch_generate.text_files import FileScan, TextFile, TextRow, to_json
from nash_jax.data.decoding import decode_outputs, keep_ids
from nash_jax.data.languages import Languages, generation_languages
from nash_jax.data.tokenizers import tokenizer_content
from nash_jax.errors import UserError
from nash_jax.generation.batching import generate_batches, generate_scored_batches, group_by_input, plan_batch_rows
from nash_jax.generation.inputs import check_ids, pad_inputs
from nash_jax.generation.labels import LabelSet
from nash_jax.generation.outputs import RowScore, ScoredIds, row_scores
from nash_jax.generation.program_args import make_program_args
from nash_jax.tree import params_digest

if TYPE_CHECKING:
    from nash_jax.seq2seq import Seq2Seq

OUTPUT_COLUMN, SCORES_COLUMN = "output", "output_scores"
_DECIMALS = 4  # of scores: the digits after these may depend on the batch
Output = tuple[str, RowScore | None]  # text, and its score if scores are asked for
BATCHES_PER_CHUNK = 64  # rows of a chunk with similar lengths share a batch; larger chunks only need more memory


@dataclasses.dataclass(frozen=True)
class GenerationJob:
    """Settings of a generation run over a file.

    Attributes:
      model: folder or hub name.
      input: files to read (`text_files.open_text_file`).
      output: file to write.
      column: text column of data files; None: the first known column that exists.
      prefix: text before every input.
      truncate: truncate texts that are longer than the model's position table.
      batch_size: texts generated together.
      engine: what generates, as of `nash_jax.load`.
      dtype: compute dtype.
      return_scores: also write log-probabilities, in JSONL.
      labels: the only outputs that are possible; None: all.
      source_lang: language of the texts, for a multilingual tokenizer; None: the one that it was saved with.
      target_lang: the same for the outputs.
      skip_special_tokens: leave special tokens out of the outputs.
      keep_tokens: special tokens that stay all the same.
      options: fields of `GenerationOptions` that override the model's.
    """

    model: str
    input: str
    output: Path
    column: str | None = None
    prefix: str = ""
    truncate: bool = False
    batch_size: int = 16
    engine: str = "jax"
    dtype: str = "float32"
    return_scores: bool = False
    labels: Any = None
    source_lang: str | None = None
    target_lang: str | None = None
    skip_special_tokens: bool = True
    keep_tokens: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def writes_jsonl(self) -> bool:
        """Whether the output is JSONL."""
        return self.output.suffix == ".jsonl"


@dataclasses.dataclass
class GenerationStats:
    """Counts of a generation run.

    Attributes:
      rows: rows of the input.
      tokens: generated tokens, including EOS.
      num_without_eos: outputs that reached the length limit without EOS.
      num_joined: outputs with several lines, which were joined to one.
    """

    rows: int = 0
    tokens: int = 0
    num_without_eos: int = 0
    num_joined: int = 0


class FileGenerator:
    """Generates the outputs of a job with a model.

    Args:
      model: a model with a tokenizer.
      job: the job.

    Attributes:
      options: generation options: the model's, overridden by the job's.
      positions: maximum number of tokens in a text; None: no limit.
      stats: counts so far.

    Raises:
      UserError: for a model without tokenizer, or options that are not valid for it.
    """

    def __init__(self, model: "Seq2Seq", job: GenerationJob) -> None:
        if model.tokenizer is None:
            raise UserError(f"the model {job.model} has no tokenizer", "tokenizer files in the same folder")
        self.model, self.job, self.stats = model, job, GenerationStats()
        self.tokenizer: Any = model.tokenizer
        keep_ids(self.tokenizer, job.keep_tokens)
        given = Languages(job.source_lang, job.target_lang)
        options = model.generation.replace(**job.options)
        settings = ("--source_lang", "--target_lang")
        options = generation_languages(self.tokenizer, model.spec, given, options, settings)
        labels = None if job.labels is None else LabelSet(job.labels, self.tokenizer, model.spec, options)
        self.options, self._decode = (labels.options, labels.read) if labels else (options, self._decode_text)
        dummy = pad_inputs(np.zeros((1, 1), int), np.ones((1, 1)), np.zeros(1, int), 0)
        make_program_args(model.spec, self.options, dummy, None, stop_at_eos=True)  # checks the options
        model.generator.check_options(self.options)
        self._rows: dict[int, int] = {}
        self.positions = model.spec.max_positions if model.spec.absolute_positions else None

    def settings(self, file: TextFile, scan: FileScan) -> dict[str, Any]:
        """Returns all settings that the outputs depend on; not the batch size, so that it can be changed on restart."""
        chosen = {name: getattr(self.job, name) for name in ("prefix", "truncate", "dtype")}
        engine = None if self.job.engine == "jax" else self.job.engine
        own = {"return_scores": self.job.return_scores or None, "labels": self.job.labels, "engine": engine}
        chosen |= {name: value for name, value in own.items() if value is not None}  # files of older versions lack them
        content = {"model": _digest(self.model, self.tokenizer), "input": scan.digest[:16], "column": file.column}
        decoding = {"skip_special_tokens": self.job.skip_special_tokens, "keep_tokens": list(self.job.keep_tokens)}
        changed = {name: value for name, value in decoding.items() if value not in (True, [])}
        return chosen | content | changed | self.options.to_dict()

    def check_texts(self, rows: Iterable[TextRow]) -> int:
        """Checks all texts and plans the batch shapes; returns the number of texts that will be truncated.

        Raises:
          UserError: naming the first text that the model cannot read.
        """
        num_cut, lengths, vocab_size = 0, array("l"), self.model.spec.source_vocab_size
        for chunk in self._chunks(rows):
            ids, num_cut_in_chunk = self._encode(chunk)
            num_cut += num_cut_in_chunk
            lengths.extend(map(len, ids))
            for row, row_ids in zip(chunk, ids, strict=True):
                if self.job.return_scores and SCORES_COLUMN in row.record:
                    found = f"{row.place} has a column {SCORES_COLUMN!r} already"
                    raise UserError(found, "none: it would be lost", "rename that one")
                check_ids(f"{row.place}: the tokens of this text", np.array(row_ids, int), vocab_size)
        self._rows = plan_batch_rows(np.array(lengths), self.job.batch_size)
        return num_cut

    def results(self, rows: Iterable[TextRow], done: Container[int]) -> Iterator[dict[int, list[str]]]:
        """Yields output lines by row index, one batch at a time; `check_texts` must be called before.

        Args:
          rows: all rows of the file, since sampling depends on a row's index.
          done: row indices, from 0, that need no output.
        """
        first = 0
        for chunk in self._chunks(rows):
            skipped = [i for i in range(len(chunk)) if first + i in done]
            if len(skipped) < len(chunk):
                for outputs in self._outputs(chunk, first, skipped):
                    self.stats.rows += len(outputs)
                    yield {first + i: self._format(chunk[i], texts) for i, texts in outputs.items()}
            first += len(chunk)

    def _chunks(self, rows: Iterable[TextRow]) -> Iterator[list[TextRow]]:
        iterator = iter(rows)
        while chunk := list(itertools.islice(iterator, BATCHES_PER_CHUNK * self.job.batch_size)):
            yield chunk

    def _outputs(self, chunk: Sequence[TextRow], first: int, skipped: list[int]) -> Iterator[dict[int, list[Output]]]:
        """Yields index within the chunk → n outputs, one batch at a time."""
        ids, _ = self._encode(chunk)
        generate = generate_scored_batches if self.job.return_scores else generate_batches
        for numbers, found in generate(
            self.model.generator, ids, self.options, self.job.batch_size,
            progress=False, first_row=first, done=skipped, rows=self._rows,
        ):  # fmt: skip
            tokens = found.ids if isinstance(found, ScoredIds) else found
            self._count(tokens)
            texts = self._decode(tokens)
            scores = row_scores(found, self._eos_ids) if isinstance(found, ScoredIds) else [None] * len(texts)
            yield group_by_input(numbers, list(zip(texts, scores, strict=True)))

    def _decode_text(self, ids: np.ndarray) -> list[str]:
        return decode_outputs(
            self.tokenizer, ids, self.job.skip_special_tokens, self.job.keep_tokens, eos_ids=self._eos_ids
        )

    @property
    def _eos_ids(self) -> tuple[int, ...]:
        return self.options.eos_token_id or (self.model.spec.eos_id,)

    def _encode(self, rows: Sequence[TextRow]) -> tuple[list[list[int]], int]:
        """Returns the token ids of each row, truncated if configured, and the number of truncated rows."""
        texts, num_cut = [self.job.prefix + row.text for row in rows], 0
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        for i, row in enumerate(rows):
            if self.positions is None or len(ids[i]) <= self.positions:
                continue
            if not self.job.truncate:
                raise UserError(
                    f"{row.place}: a text of {len(ids[i]):,} tokens",
                    f"at most {self.positions:,}, the positions of the model",
                    "--truncate cuts such texts",
                )
            ids[i] = self.tokenizer(texts[i], truncation=True, max_length=self.positions)["input_ids"]
            num_cut += 1
        return ids, num_cut

    def _count(self, tokens: np.ndarray) -> None:
        """Adds outputs, int [R, L], to the counts: start token, tokens including EOS, padding."""
        new = tokens[:, 1:]
        is_eos = np.isin(new, self._eos_ids)
        ended = is_eos.any(axis=1)
        self.stats.tokens += int(np.where(ended, is_eos.argmax(axis=1) + 1, new.shape[1]).sum())
        self.stats.num_without_eos += int((~ended).sum())

    def _format(self, row: TextRow, outputs: list[Output]) -> list[str]:
        """Returns the output lines of a row: one JSON object, or one line for each output."""
        texts = [text for text, _ in outputs]
        if self.job.writes_jsonl:
            columns: dict[str, list[Any]] = {OUTPUT_COLUMN: texts}
            if self.job.return_scores:
                columns[SCORES_COLUMN] = [_score_record(score) for _, score in outputs if score is not None]
            single = self.options.num_return_sequences == 1
            own = {name: values[0] if single else values for name, values in columns.items()}
            return [to_json({**row.record, **own})]
        lines = [" ".join(text.splitlines()) for text in texts]
        self.stats.num_joined += sum(line != text for line, text in zip(lines, texts, strict=True))
        return lines


def _score_record(score: RowScore) -> dict[str, Any]:
    """The scores of an output as JSON."""
    tokens = [round(float(value), _DECIMALS) for value in score.token_log_probs]
    beams = {} if score.sequence_score is None else {"sequence_score": round(score.sequence_score, _DECIMALS)}
    return {"log_prob": round(score.log_prob, _DECIMALS), **beams, "token_log_probs": tokens}


def _digest(model: "Seq2Seq", tokenizer: Any) -> str:
    """Hash of a model's spec, parameters and tokenizer; independent of where its files are."""
    content = (model.spec.to_json(), json.dumps(tokenizer_content(tokenizer)), params_digest(model.params))
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
