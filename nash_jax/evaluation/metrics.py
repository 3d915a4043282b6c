"""The metrics by name.

A metric has two functions: `measure` computes a few numbers for each row, `reduce` computes the values from the numbers
of any set of rows. So rows are measured once, resampling is cheap, and corpus-level values (BLEU, F1, Matthews) are
exact.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.errors import UserError
from nash_jax.evaluation import classification as labels
from nash_jax.evaluation import question_answering as answers
from nash_jax.evaluation import text_metrics as texts
from nash_jax.evaluation import translation
from nash_jax.evaluation.metric_tokenizers import ENGLISH, ENGLISH_LOST, choose_tokenizers, lost_share
from nash_jax.evaluation.statistics import Row, Values


@dataclasses.dataclass(frozen=True)
class Metric:
    """Defines how outputs are scored.

    Attributes:
      measure: outputs and their rows, and tokenizers by keyword → statistics of each row, float64 [n, k].
      reduce: statistics [..., m, k] of m rows → name → values [...], in per cent.
      selection: the value by which checkpoints are selected; larger is better.
      additive: `reduce` depends only on the sum over rows, so resampling needs only sums.
      strict: `measure` rejects invalid rows and is fast, so all rows are checked before training, not only some.
      remedy: what to change if references do not score full marks against themselves.
      tokenizers: the fields of `TaskConfig` that `measure` takes: `rouge_tokenizer`, `bleu_tokenizer`.
    """

    measure: Callable[..., np.ndarray]
    reduce: Callable[[np.ndarray], Values]
    selection: str
    additive: bool = True
    strict: bool = False
    remedy: str = "choose another config.task.metric"
    tokenizers: tuple[str, ...] = ()

    def with_tokenizers(self, chosen: Mapping[str, str]) -> "Metric":
        """Returns the same metric with these tokenizers, whatever the rows are.

        Args:
          chosen: field of `TaskConfig` → tokenizer.
        """
        return dataclasses.replace(self, measure=functools.partial(self.measure, **chosen)) if chosen else self

    def values(self, statistics: np.ndarray) -> dict[str, float]:
        """Returns name → value for statistics [n, k]."""
        return {name: float(value) for name, value in self.reduce(statistics).items()}

    def score(self, outputs: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """Returns name → value for outputs."""
        return self.values(self.measure(outputs, rows))


_ROUGE, _BLEU = ("rouge_tokenizer",), ("bleu_tokenizer",)
_UNICODE = "set config.task.rouge_tokenizer=unicode, or choose another config.task.metric"
_SHORT = "set config.task.bleu_tokenizer=char, or config.task.metric=chrf to select by chrF"
_BOTH_LABELS = "use a split, or more rows of it (config.task.max_eval_examples), with"
_POSITIVE = f"{_BOTH_LABELS} references of the second label, or config.task.metric=accuracy"
_VARIED = f"{_BOTH_LABELS} references that differ, or choose another config.task.metric"

METRICS = {
    "rouge": Metric(texts.measure_rouge, texts.reduce_rouge, "rougeL", remedy=_UNICODE, tokenizers=_ROUGE),
    "transcription": Metric(texts.measure_transcription, texts.reduce_transcription, "word_accuracy"),
    "exact_match": Metric(texts.measure_exact_match, texts.reduce_exact_match, "exact_match"),
    "translation": Metric(
        translation.measure_translation, translation.reduce_translation, "bleu", remedy=_SHORT, tokenizers=_BLEU
    ),
    "chrf": Metric(translation.measure_translation, translation.reduce_translation, "chrf", tokenizers=_BLEU),
    "answers": Metric(
        answers.measure_answers, answers.reduce_answers, "rougeL", remedy=_UNICODE, tokenizers=_ROUGE + _BLEU
    ),
    "squad": Metric(answers.measure_squad, answers.reduce_squad, "f1"),
    "multirc": Metric(answers.measure_multirc, answers.reduce_multirc, "f1a", strict=True, remedy=_POSITIVE),
    "record": Metric(answers.measure_record, answers.reduce_record, "f1"),
    "accuracy": Metric(labels.measure_labels, labels.reduce_accuracy, "accuracy", strict=True),
    "accuracy_f1": Metric(labels.measure_binary, labels.reduce_accuracy_f1, "f1", strict=True, remedy=_POSITIVE),
    "accuracy_macro_f1": Metric(labels.measure_labels, labels.reduce_accuracy_macro_f1, "macro_f1", strict=True),
    "matthews": Metric(labels.measure_labels, labels.reduce_matthews, "matthews", strict=True, remedy=_VARIED),
    "correlation": Metric(
        labels.measure_numbers, labels.reduce_correlation, "spearman", additive=False, strict=True, remedy=_VARIED
    ),
}

FULL_MARKS = 99.0  # in real data a few references are only a smiley, in which ROUGE finds no word
_ROUNDING = 1e-6
_TRIED = 500  # rows of a metric that is slow


def choose_metric(name: str, rows: Sequence[Row], settings: TaskConfig | None = None) -> tuple[Metric, dict[str, str]]:
    """Returns a metric with its tokenizers fixed, and these: field of `TaskConfig` → tokenizer.

    Args:
      name: key of `METRICS`.
      rows: all rows that are scored together; where a setting is `auto`, their references choose.
      settings: has the settings of the tokenizers; None: all are `auto`.
    """
    chosen = choose_tokenizers(METRICS[name].tokenizers, settings, rows)
    return METRICS[name].with_tokenizers(chosen), chosen


def check_metric_rows(metric: str, rows: Sequence[Row], settings: TaskConfig | None = None) -> list[str]:
    """Scores the references as if they were outputs, before anything is trained.

    A metric by which an output equal to its reference is not the best one cannot select checkpoints.

    Args:
      metric: key of `METRICS`.
      rows: all rows that are scored together.
      settings: as in `choose_metric`.

    Returns:
      Notes for the user, empty for most data.

    Raises:
      UserError: as the metric's `measure`; if the references score less than `FULL_MARKS`, naming the setting.
    """
    chosen, tokenizers = choose_metric(metric, rows, settings)
    tried = rows if chosen.strict or len(rows) <= _TRIED else [rows[i * len(rows) // _TRIED] for i in range(_TRIED)]
    value = chosen.score([row["references"][0] for row in tried], tried)[chosen.selection]
    said = "".join(f", {name}={tokenizer}" for name, tokenizer in tokenizers.items())
    found = f"metric {metric}{said}: the references score {value:.1f} {chosen.selection} against themselves"
    if not value >= FULL_MARKS:  # nan is refused too
        raise UserError(found, "100, as for all outputs that are right", chosen.remedy)
    notes = [f"note: {found}, not 100: it finds no word in some"] if value < 100 - _ROUNDING else []
    forced = settings is not None and settings.rouge_tokenizer == ENGLISH and "rouge_tokenizer" in tokenizers
    return notes + (_lossy(rows) if forced else [])


def _lossy(rows: Sequence[Row]) -> list[str]:
    """A note if ROUGE's tokenizer `english` drops much of the references."""
    share = lost_share([reference for row in rows for reference in row["references"]])
    said = f"note: config.task.rouge_tokenizer={ENGLISH} drops {share:.0%} of the references' letters"
    return [said] if share > ENGLISH_LOST else []
