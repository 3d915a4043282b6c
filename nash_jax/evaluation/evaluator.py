"""Generates outputs for the rows of a split and scores them; does not write any files."""

import functools
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nash_jax.config.derived import chosen_stages
from nash_jax.config.schema import Config, TaskConfig
from nash_jax.data.decoding import decode_outputs, space_tokens, split_names, written_forms
from nash_jax.data.pipeline import tokenize_sources
from nash_jax.data.postprocess import postprocess_output
from nash_jax.errors import UserError
from nash_jax.evaluation.bootstrap import bootstrap_values, compare_paired, confidence_intervals
from nash_jax.evaluation.row_statistics import RowStatistics, SubsetStatistics, digest_rows
from nash_jax.evaluation.row_subsets import RowSubset, chosen_tokenizers, merge_values, shared_labels, split_by_task
from nash_jax.evaluation.statistics import Row
from nash_jax.evaluation.text_metrics import baseline_outputs
from nash_jax.generation.batching import generate_batches
from nash_jax.generation.engine import BatchGenerator
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.texts import TextGenerator
from nash_jax.spec import ModelSpec

Keep = Callable[[RowStatistics], None]


def evaluation_options(config: Config, defaults: GenerationOptions) -> GenerationOptions:
    """Returns the generation options for evaluation: the model's defaults, overridden by the config.

    Args:
      config: its task sets the output length; `evaluate` sets beams, length penalty and n-gram blocking.
      defaults: the model's generation options.
    """
    e = config.evaluate
    return defaults.replace(
        max_new_tokens=config.task.max_new_tokens, max_length=None, num_return_sequences=1, num_beams=e.num_beams,
        length_penalty=e.length_penalty, no_repeat_ngram_size=e.no_repeat_ngram_size,
    )  # fmt: skip


_LENGTHS = {  # stage → settings limited by the size of a position table
    "data": ("task.max_source_length", "task.max_target_length", "task.max_new_tokens"),  # for all that follows
    "evaluate": ("task.max_source_length", "task.max_new_tokens"),
    "benchmark": ("benchmark.source_length", "benchmark.new_tokens"),
}


def check_positions(spec: ModelSpec, config: Config) -> None:
    """Checks that the model has positions for all lengths of the stages that are run.

    Raises:
      UserError: naming the setting that is too large.
    """
    for stage in chosen_stages(config) if spec.absolute_positions else ():
        for group, _, name in (setting.partition(".") for setting in _LENGTHS.get(stage, ())):
            length = np.max(getattr(getattr(config, group), name))
            if length > spec.max_positions:
                known = f"no more than the model's {spec.max_positions} positions"
                raise UserError(f"config.{group}.{name} is {length}", known)


class Output(NamedTuple):
    """What a model wrote for a row.

    Attributes:
      text: without special tokens.
      length: new tokens, without EOS.
      ended: whether EOS came before the length limit.
    """

    text: str
    length: int
    ended: bool


class Evaluator:
    """Generates and scores outputs for one split, which is tokenized once.

    Args:
      rows: {"source", "references"}, and other keys that the metric needs.
      tokenizer: a `transformers` tokenizer.
      task: source length and metric.
      options: generation options, with one output per row.
      batch_size: rows generated together.
      cache: folder for tokenized splits.
      labels_only: outputs are always one of the rows' labels.

    Raises:
      UserError: for `labels_only` with rows that do not have the same labels.
    """

    def __init__(
        self, rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, options: GenerationOptions,
        batch_size: int, cache: Path, labels_only: bool = False,
    ) -> None:  # fmt: skip
        self.tokenizer, self.task, self.options, self.batch_size = tokenizer, task, options, batch_size
        self.keep_tokens = split_names(task.keep_tokens)
        self.rows = [
            row | {"references": [space_tokens(text, self.keep_tokens) for text in row["references"]]} for row in rows
        ]
        self._labels = shared_labels(rows) if labels_only else None
        self.subsets = split_by_task(task.metric, self.rows, task)
        targets = (text for row in self.rows for text in (*row["references"], *(row.get("labels") or ())))
        self._written = written_forms(tokenizer, targets, self.keep_tokens)
        self.sources = tokenize_sources(rows, tokenizer, task, cache)

    def outputs(self, engine: BatchGenerator, done: Collection[int] = ()) -> Iterator[dict[int, Output]]:
        """Yields the outputs by row index, one batch at a time.

        Args:
          engine: the model.
          done: rows that need no output; a batch with only such rows is skipped.
        """
        pad_id, eos_id = engine.spec.pad_id, engine.spec.eos_id
        ends = self.options.eos_token_id or (eos_id,)
        decode = functools.partial(decode_outputs, self.tokenizer, keep_tokens=self.keep_tokens, eos_ids=ends)
        generator = TextGenerator(engine, self.tokenizer, self.options, self._labels, decode)
        for rows, tokens in generate_batches(engine, self.sources, generator.options, self.batch_size, done=done):
            new = tokens[:, 1:]
            lengths = ((new != pad_id) & (new != eos_id)).sum(axis=1).tolist()
            ended = (new == eos_id).any(axis=1).tolist()
            found = map(Output, generator.decode(tokens), lengths, ended)
            yield dict(zip(rows.tolist(), found, strict=True))

    def generate(self, engine: BatchGenerator) -> tuple[list[str], np.ndarray]:
        """Returns the generated text and the number of new tokens (int [n]) of each row, in order."""
        found: dict[int, Output] = {}
        for batch in self.outputs(engine):
            found |= batch
        texts = [space_tokens(found[row].text, self.keep_tokens) for row in range(len(self.rows))]
        return texts, np.array([found[row].length for row in range(len(self.rows))], int)

    def postprocess(self, texts: Sequence[str]) -> list[str]:
        """Converts generated texts to the form of their rows' references, also where no output can be equal to one."""
        pairs = zip(texts, self.rows, strict=True)
        return [self._meant(postprocess_output(text, row), row) for text, row in pairs]

    def _meant(self, output: str, row: Mapping[str, Any]) -> str:
        """Returns the reference or label that the tokenizer writes as this output, or else the output."""
        if not self._written or "targets" in row:
            return output
        texts = (*row["references"], *(row.get("labels") or ()))
        return next((text for text in texts if self._written.get(text) == output.strip()), output)

    def evaluate(self, engine: BatchGenerator) -> dict[str, float]:
        """Returns the task's metrics (for a mixture also those of each task) and the mean generated length (tokens)."""
        texts, lengths = self.generate(engine)
        outputs = self.postprocess(texts)
        values = [subset.metric.values(subset.measure(outputs)) for subset in self.subsets]
        return merge_values(self.subsets, values) | mean_length(lengths)


def mean_length(lengths: np.ndarray) -> dict[str, float]:
    """Returns {"generated_length": mean of lengths in tokens}."""
    return {"generated_length": float(lengths.mean())}


def score_models(
    evaluator: Evaluator, engines: Mapping[str, BatchGenerator], num_examples: int = 12,
    paired: tuple[str, str] = ("dense", "pruned"), writers: Mapping[str, Evaluator] = types.MappingProxyType({}),
    keep: Keep | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores models and the baselines that need no model.

    Args:
      evaluator: of the test rows.
      engines: name → model.
      num_examples: number of example rows in the result, evenly spaced.
      paired: two models that are compared on the same rows, if both are given.
      writers: model → evaluator of the same rows with the tokenizer of this model, where it has one of its own.
      keep: is given the statistics of the rows.

    Returns:
      As `score_outputs`.
    """
    found = {name: writers.get(name, evaluator).generate(engine) for name, engine in engines.items()}
    return score_outputs(evaluator, found, num_examples, paired, keep)


def score_outputs(
    evaluator: Evaluator, found: Mapping[str, tuple[list[str], np.ndarray]], num_examples: int = 12,
    paired: tuple[str, str] = ("dense", "pruned"), keep: Keep | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores the outputs of models, and the baselines.

    Args:
      evaluator: of the test rows.
      found: model → texts and lengths, from `Evaluator.generate`.
      num_examples: number of example rows in the result, evenly spaced.
      paired: two models that are compared on the same rows, if both are given.
      keep: is given the statistics of the rows.

    Returns:
      "metrics": {model: values, "baselines": {name: values}}; "intervals": {model: {value: [low, high]}}, with the
      same structure; "paired": the result of `compare_paired` for these two;
      "tokenizers": those of ROUGE and BLEU, by the field of `TaskConfig` that sets them; "num_examples": number of rows
      scored; "examples": some rows with their outputs.
    """
    rows, task, subsets = evaluator.rows, evaluator.task, evaluator.subsets
    outputs = {name: texts for name, (texts, _) in found.items()}
    # the tasks of a mixture have different prefixes, and not all of them are summarization
    baselines = {} if task.mixture else baseline_outputs(task.metric, rows, task.prefix)
    read = {name: evaluator.postprocess(texts) for name, texts in (outputs | baselines).items()}
    statistics = {name: [subset.measure(texts) for subset in subsets] for name, texts in read.items()}
    if keep is not None:
        keep(_row_statistics(rows, subsets, {name: statistics[name] for name in outputs}))
    draws = {
        name: [bootstrap_values(subset.metric, x, subset.groups) for subset, x in zip(subsets, by_subset, strict=True)]
        for name, by_subset in statistics.items()
    }
    lengths = {name: mean_length(counts) for name, (_, counts) in found.items()}

    def by_model(of: Callable[[str], Any]) -> dict[str, Any]:
        return {name: of(name) for name in outputs} | {"baselines": {name: of(name) for name in baselines}}

    def values(name: str) -> dict[str, float]:
        by_subset = [subset.metric.values(x) for subset, x in zip(subsets, statistics[name], strict=True)]
        return merge_values(subsets, by_subset) | lengths.get(name, {})

    def compared() -> dict[str, Any]:
        both = zip(subsets, *(zip(statistics[name], draws[name], strict=True) for name in paired), strict=True)
        return merge_values(
            subsets, [compare_paired(subset.metric, (a, b), (x, y), subset.groups) for subset, (a, x), (b, y) in both]
        )

    return {
        "metrics": by_model(values),
        "intervals": by_model(lambda name: merge_values(subsets, [confidence_intervals(d) for d in draws[name]])),
        "paired": compared() if set(paired) <= outputs.keys() else {},
        "tokenizers": chosen_tokenizers(subsets),
        "num_examples": len(rows),
        "examples": _examples(rows, outputs, num_examples),
    }


def _row_statistics(
    rows: Sequence[Row], subsets: Sequence[RowSubset], measured: Mapping[str, Sequence[np.ndarray]]
) -> RowStatistics:
    """What was measured of each row, by subset and model."""
    found = [
        SubsetStatistics(own.prefix, own.name, own.groups, {name: by_subset[i] for name, by_subset in measured.items()})
        for i, own in enumerate(subsets)
    ]
    return RowStatistics(digest_rows(rows), found)


def _examples(rows: Sequence[Mapping[str, Any]], outputs: Mapping[str, list[str]], count: int) -> list[dict[str, Any]]:
    """Returns evenly spaced rows with the models' outputs."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return [
        {"source": rows[i]["source"], "references": rows[i]["references"]}
        | {n: texts[i] for n, texts in outputs.items()}
        for i in chosen
    ]
