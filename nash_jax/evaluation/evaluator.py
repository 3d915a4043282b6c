"""Generates for every row of a split and scores the outputs; knows no writer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nash_jax.config import Config, TaskConfig
from nash_jax.data.outputs import read_output
from nash_jax.errors import UserError
from nash_jax.evaluation.by_task import values_by_task
from nash_jax.evaluation.text_metrics import METRICS, baselines
from nash_jax.generation.batching import generate_many
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.ragged import Ragged
from nash_jax.spec import ModelSpec


def output_options(config: Config, own: GenerationOptions) -> GenerationOptions:
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
      rows: {"source", "references"}.
      tokenizer: a `transformers` tokenizer.
      task: source length and metric.
      options: how to generate, one output a row.
      batch_size: rows generated together.
    """

    def __init__(
        self, rows: list[dict[str, Any]], tokenizer: Any, task: TaskConfig, options: GenerationOptions, batch_size: int
    ) -> None:
        self.rows, self.tokenizer, self.task, self.options, self.batch_size = rows, tokenizer, task, options, batch_size
        texts = [row["source"] for row in rows]
        self.sources = Ragged.from_lists(
            tokenizer(texts, truncation=True, max_length=task.max_source_length)["input_ids"]
        )

    def outputs(self, engine: Engine) -> tuple[list[str], np.ndarray]:
        """Generated text and number of new tokens of every row, in the rows' order."""
        texts, lengths = [""] * len(self.rows), np.zeros(len(self.rows), int)
        pad_id, eos_id = engine.spec.pad_id, engine.spec.eos_id
        for rows, tokens in generate_many(engine, self.sources, self.options, self.batch_size):
            decoded = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, text, row_tokens in zip(rows, decoded, tokens[:, 1:], strict=True):
                texts[row] = text
                lengths[row] = int(((row_tokens != pad_id) & (row_tokens != eos_id)).sum())
        return texts, lengths

    def evaluate(self, engine: Engine) -> tuple[dict[str, float], list[str]]:
        """The task's metrics and mean generated length (tokens), and the outputs."""
        texts, lengths = self.outputs(engine)
        read = [read_output(text, row) for text, row in zip(texts, self.rows, strict=True)]
        metrics = METRICS[self.task.metric][0](read, [row["references"] for row in self.rows])
        return {**metrics, **values_by_task(read, self.rows), "generated_length": float(lengths.mean())}, texts


def score(evaluator: Evaluator, engines: Mapping[str, Engine], num_examples: int = 12) -> dict[str, Any]:
    """Scores models and the baselines that need none.

    Args:
      evaluator: of the test rows.
      engines: models by name.
      num_examples: rows whose outputs are kept, spread evenly over all.

    Returns:
      {"metrics": {model: values, "baselines": {name: values}}, "num_examples": rows scored, "examples"}.
    """
    rows, task = evaluator.rows, evaluator.task
    found = {name: evaluator.evaluate(engine) for name, engine in engines.items()}
    texts, references = [r["source"] for r in rows], [r["references"] for r in rows]
    chosen = np.linspace(0, len(rows) - 1, min(num_examples, len(rows))).astype(int)
    examples = [
        {"source": texts[i], "references": references[i], **{name: found[name][1][i] for name in found}} for i in chosen
    ]
    metrics: dict[str, Any] = {name: values for name, (values, _) in found.items()}
    metrics["baselines"] = baselines(task.metric, texts, references, task.prefix)
    return {"metrics": metrics, "num_examples": len(rows), "examples": examples}
