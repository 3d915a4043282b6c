"""Generates for every row of a split and scores the outputs; knows no writer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.config.schema import Config, TaskConfig
from nash_jax.data.pipeline import tokenize_sources
from nash_jax.data.postprocess import postprocess_output
from nash_jax.errors import UserError
from nash_jax.evaluation.bootstrap import bootstrap_values, compare_paired, confidence_intervals
from nash_jax.evaluation.row_subsets import merge_values, split_by_task
from nash_jax.evaluation.text_metrics import baseline_outputs
from nash_jax.generation.batching import generate_batches
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec


def evaluation_options(config: Config, own: GenerationOptions) -> GenerationOptions:
    """How outputs that are scored are generated: as the model's own defaults say, but for what the config sets.

    Args:
      config: its task's length, and the beams, length penalty and n-gram rule of `evaluate`.
      own: the model's defaults.
    """
    e = config.evaluate
    return own.replace(
        max_new_tokens=config.task.max_new_tokens, max_length=None, num_return_sequences=1, num_beams=e.num_beams,
        length_penalty=e.length_penalty, no_repeat_ngram_size=e.no_repeat_ngram_size,
    )  # fmt: skip


_LENGTHS = {  # settings that a table of positions limits
    "task": ("max_source_length", "max_target_length", "max_new_tokens"),
    "benchmark": ("source_length", "new_tokens"),
}


def check_positions(spec: ModelSpec, config: Config) -> None:
    """The model has positions for all lengths of the config.

    Raises:
      UserError: naming the setting that is too great.
    """
    for group, names in _LENGTHS.items() if spec.absolute_positions else ():
        for name in names:
            length = np.max(getattr(getattr(config, group), name))
            if length > spec.max_positions:
                known = f"no more than the model's {spec.max_positions} positions"
                raise UserError(f"config.{group}.{name} is {length}", known)


class Evaluator:
    """One split, tokenised once.

    Args:
      rows: {"source", "references"}, and what else the metric needs.
      tokenizer: a `transformers` tokenizer.
      task: source length and metric.
      options: how to generate, one output a row.
      batch_size: rows generated together.
      cache: folder for tokenised splits.
    """

    def __init__(
        self, rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, options: GenerationOptions,
        batch_size: int, cache: Path,
    ) -> None:  # fmt: skip
        self.rows, self.tokenizer, self.task, self.options, self.batch_size = rows, tokenizer, task, options, batch_size
        self.subsets = split_by_task(task.metric, rows)
        self.sources = tokenize_sources(rows, tokenizer, task, cache)

    def generate(self, engine: Engine) -> tuple[list[str], np.ndarray]:
        """Generated text and number of new tokens of every row, in the rows' order."""
        texts, lengths = [""] * len(self.rows), np.zeros(len(self.rows), int)
        pad_id, eos_id = engine.spec.pad_id, engine.spec.eos_id
        for rows, tokens in generate_batches(engine, self.sources, self.options, self.batch_size):
            decoded = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, text, row_tokens in zip(rows, decoded, tokens[:, 1:], strict=True):
                texts[row] = text
                lengths[row] = int(((row_tokens != pad_id) & (row_tokens != eos_id)).sum())
        return texts, lengths

    def postprocess(self, texts: Sequence[str]) -> list[str]:
        """What outputs say in the terms of their rows' references."""
        return [postprocess_output(text, row) for text, row in zip(texts, self.rows, strict=True)]

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """The task's metrics, of a mixture also each task's own, and mean generated length (tokens)."""
        texts, lengths = self.generate(engine)
        read = self.postprocess(texts)
        values = [part.metric.values(part.measure(read)) for part in self.subsets]
        return merge_values(self.subsets, values) | mean_length(lengths)


def mean_length(lengths: np.ndarray) -> dict[str, float]:
    """The value `generated_length`."""
    return {"generated_length": float(lengths.mean())}


def score_models(evaluator: Evaluator, engines: Mapping[str, Engine], num_examples: int = 12) -> dict[str, Any]:
    """Scores models and the baselines that need none.

    Args:
      evaluator: of the test rows.
      engines: models by name.
      num_examples: rows whose outputs are kept, spread evenly over all.

    Returns:
      As `score_outputs`.
    """
    return score_outputs(
        evaluator, {name: evaluator.generate(engine) for name, engine in engines.items()}, num_examples
    )


def score_outputs(
    evaluator: Evaluator, found: Mapping[str, tuple[list[str], np.ndarray]], num_examples: int = 12
) -> dict[str, Any]:
    """Scores what models have put out, and the baselines.

    Args:
      evaluator: of the test rows.
      found: texts and lengths by model, as `Evaluator.generate` gives them.
      num_examples: rows whose outputs are kept, spread evenly over all.

    Returns:
      "metrics": {model: values, "baselines": {name: values}}; "intervals": {model: {value: [low, high]}}, with the
      same structure; "paired": the result of `compare_paired` for `dense` and `pruned`, empty unless both are given;
      "num_examples": number of rows scored; "examples": some rows with their outputs.
    """
    rows, task, parts = evaluator.rows, evaluator.task, evaluator.subsets
    outputs = {name: texts for name, (texts, _) in found.items()}
    # a mixture's inputs begin each in their task's way, and are not all there to be summarised
    baselines = {} if task.mixture else baseline_outputs(task.metric, rows, task.prefix)
    read = {name: evaluator.postprocess(texts) for name, texts in (outputs | baselines).items()}
    statistics = {name: [part.measure(own) for part in parts] for name, own in read.items()}
    draws = {
        name: [bootstrap_values(part.metric, of_part, part.groups) for part, of_part in zip(parts, own, strict=True)]
        for name, own in statistics.items()
    }
    lengths = {name: mean_length(own) for name, (_, own) in found.items()}

    def by_model(of: Callable[[str], Any]) -> dict[str, Any]:
        return {name: of(name) for name in outputs} | {"baselines": {name: of(name) for name in baselines}}

    def values(name: str) -> dict[str, float]:
        own = [part.metric.values(of_part) for part, of_part in zip(parts, statistics[name], strict=True)]
        return merge_values(parts, own) | lengths.get(name, {})

    def paired(dense: str, pruned: str) -> dict[str, Any]:
        both = zip(parts, *(zip(statistics[name], draws[name], strict=True) for name in (dense, pruned)), strict=True)
        return merge_values(
            parts, [compare_paired(part.metric, (a, b), (x, y), part.groups) for part, (a, x), (b, y) in both]
        )

    return {
        "metrics": by_model(values),
        "intervals": by_model(lambda name: merge_values(parts, [confidence_intervals(own) for own in draws[name]])),
        "paired": paired("dense", "pruned") if {"dense", "pruned"} <= outputs.keys() else {},
        "num_examples": len(rows),
        "examples": _examples(rows, outputs, num_examples),
    }


def _examples(rows: Sequence[Mapping[str, Any]], outputs: Mapping[str, list[str]], count: int) -> list[dict[str, Any]]:
    """Some rows, spread evenly over all, with the models' outputs."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return [
        {"source": rows[i]["source"], "references": rows[i]["references"]}
        | {n: texts[i] for n, texts in outputs.items()}
        for i in chosen
    ]
