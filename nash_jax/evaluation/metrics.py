"""The metrics by name.

A metric has two functions: `measure` computes a few numbers for each row, `reduce` computes the values from the numbers
of any set of rows. So rows are measured once, resampling is cheap, and corpus-level values (BLEU, F1, Matthews) are
exact.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from nash_jax.evaluation import classification as labels
from nash_jax.evaluation import question_answering as answers
from nash_jax.evaluation import text_metrics as texts
from nash_jax.evaluation import translation
from nash_jax.evaluation.statistics import Row, Values


@dataclasses.dataclass(frozen=True)
class Metric:
    """Defines how outputs are scored.

    Attributes:
      measure: outputs and their rows → statistics of each row, float64 [n, k].
      reduce: statistics [..., m, k] of m rows → name → values [...], in per cent.
      selection: the value by which checkpoints are selected; larger is better.
      additive: `reduce` depends only on the sum over rows, so resampling needs only sums.
      strict: `measure` rejects invalid rows and is fast, so all rows are checked before training, not only a few.
    """

    measure: Callable[[Sequence[str], Sequence[Row]], np.ndarray]
    reduce: Callable[[np.ndarray], Values]
    selection: str
    additive: bool = True
    strict: bool = False

    def values(self, statistics: np.ndarray) -> dict[str, float]:
        """Returns name → value for statistics [n, k]."""
        return {name: float(value) for name, value in self.reduce(statistics).items()}

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """Returns name → value for outputs."""
        return self.values(self.measure(outputs, rows))


METRICS = {
    "rouge": Metric(texts.measure_rouge, texts.reduce_rouge, "rougeL"),
    "transcription": Metric(texts.measure_transcription, texts.reduce_transcription, "word_accuracy"),
    "exact_match": Metric(texts.measure_exact_match, texts.reduce_exact_match, "exact_match"),
    "translation": Metric(translation.measure_translation, translation.reduce_translation, "bleu"),
    "answers": Metric(answers.measure_answers, answers.reduce_answers, "rougeL"),
    "squad": Metric(answers.measure_squad, answers.reduce_squad, "f1"),
    "multirc": Metric(answers.measure_multirc, answers.reduce_multirc, "f1a", strict=True),
    "record": Metric(answers.measure_record, answers.reduce_record, "f1"),
    "accuracy": Metric(labels.measure_labels, labels.reduce_accuracy, "accuracy", strict=True),
    "accuracy_f1": Metric(labels.measure_binary, labels.reduce_accuracy_f1, "f1", strict=True),
    "accuracy_macro_f1": Metric(labels.measure_labels, labels.reduce_accuracy_macro_f1, "macro_f1", strict=True),
    "matthews": Metric(labels.measure_labels, labels.reduce_matthews, "matthews", strict=True),
    "correlation": Metric(labels.measure_numbers, labels.reduce_correlation, "spearman", additive=False, strict=True),
}


def check_metric_rows(metric: str, rows: Sequence[Row]) -> None:
    """Checks that a metric's packages are installed and that it can score the rows, so that errors precede training.

    Raises:
      UserError: as the metric's `measure`.
    """
    chosen = METRICS[metric]
    tried = rows if chosen.strict else rows[:8]
    chosen.measure([row["references"][0] for row in tried], tried)
