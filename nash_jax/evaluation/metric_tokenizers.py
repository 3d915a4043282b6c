"""Tokenizers of ROUGE and BLEU: the one that a setting names or, with `auto`, the one that fits the references.

`auto` depends on the references alone, so all models that are compared on the same rows have the same tokenizer.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nash_jax.config.schema import TaskConfig
from nash_jax.errors import UserError, require_packages
from nash_jax.evaluation.scripts import LetterCounts, count_letters, unicode_words
from nash_jax.evaluation.statistics import Row

AUTO = "auto"
ENGLISH, UNICODE = "english", "unicode"  # of ROUGE; those of BLEU have sacrebleu's names
ENGLISH_LOST = 0.005  # English texts have fewer letters outside a to z (café, names), German or French ones more
ENGLISH_EMPTIED = 0.01  # references of which it leaves nothing: of other scripts, or only emoji
UNSPACED_SHARE = 0.1  # from this share of letters on, words between spaces are not the words of the references
_KANA_SHARE = 0.05  # of the unspaced letters; Japanese has about half, Chinese none but in names


def choose_rouge_tokenizer(setting: str, rows: Sequence[Row]) -> str:
    """Returns the name of ROUGE's tokenizer, `english` or `unicode`.

    `english` is that of rouge-score, the one of published numbers: words of a to z and 0 to 9, Porter stems. `auto` is
    `english` if that loses almost nothing of the references, else `unicode`: words of any script, without stems.

    Args:
      setting: `config.task.rouge_tokenizer`.
      rows: all rows that are scored together.
    """
    return setting if setting != AUTO else _fitting_rouge_tokenizer([r for row in rows for r in row["references"]])


def _fitting_rouge_tokenizer(references: Sequence[str]) -> str:
    counts = count_letters(references)
    emptied = sum(not any(c.isascii() and c.isalnum() for c in reference) for reference in references)
    lost = counts.all - counts.ascii
    keeps = lost <= ENGLISH_LOST * counts.all and emptied <= ENGLISH_EMPTIED * len(references)
    return ENGLISH if counts.ascii and keeps else UNICODE


def lost_share(references: Sequence[str]) -> float:
    """Returns the share of letters and digits that the tokenizer `english` drops, 0 to 1."""
    counts = count_letters(references)
    return (counts.all - counts.ascii) / max(counts.all, 1)


class UnicodeTokenizer:
    """The tokenizer `unicode`, in the form that rouge-score takes."""

    def tokenize(self, text: str) -> list[str]:
        """Returns the words of a text."""
        return unicode_words(text)


def rouge_scorer(names: Sequence[str], tokenizer: str) -> Any:
    """Returns a `rouge_score.rouge_scorer.RougeScorer` with the tokenizer `english` or `unicode`."""
    from rouge_score.rouge_scorer import RougeScorer  # imported here: with nltk and scipy it takes over a second

    if tokenizer == ENGLISH:
        return RougeScorer(names, use_stemmer=True)
    return RougeScorer(names, tokenizer=UnicodeTokenizer())


def choose_bleu_tokenizer(setting: str, rows: Sequence[Row]) -> str:
    """Returns the name of BLEU's tokenizer, one of sacrebleu's.

    `auto` is `13a`, as in WMT, where words are written with spaces; else `zh` for Chinese, and `char` for Japanese,
    Thai and the like. It does not depend on what is installed, so `ja-mecab` and `ko-mecab` must be set.

    Args:
      setting: `config.task.bleu_tokenizer`.
      rows: all rows that are scored together.
    """
    return setting if setting != AUTO else _fitting_bleu_tokenizer([r for row in rows for r in row["references"]])


def _fitting_bleu_tokenizer(references: Sequence[str]) -> str:
    counts = count_letters(references)
    if counts.unspaced < UNSPACED_SHARE * max(counts.all, 1):
        return "13a"
    return "zh" if _is_chinese(counts) else "char"


def _is_chinese(counts: LetterCounts) -> bool:
    """Whether the letters of scripts without spaces are mostly Chinese characters, and hardly any kana."""
    return counts.han > counts.unspaced / 2 and counts.kana < _KANA_SHARE * counts.unspaced


def bleu_scorer(tokenizer: str = "13a", **options: Any) -> Any:
    """Returns a `sacrebleu.BLEU`.

    Raises:
      UserError: if sacrebleu, or what this tokenizer needs, is not installed or cannot be loaded.
    """
    require_packages("metrics")
    from sacrebleu.metrics.bleu import BLEU

    try:  # `force`: no warning for tokenized texts such as "a b ."
        return BLEU(force=True, tokenize=tokenizer, **options)
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        found = f"config.task.bleu_tokenizer is {tokenizer!r}, which sacrebleu cannot load: {reason:.300}"
        raise UserError(found, "a tokenizer whose packages and files are here") from error


CHOICES: dict[str, Callable[[str, Sequence[Row]], str]] = {  # field of `TaskConfig` → its choice
    "rouge_tokenizer": choose_rouge_tokenizer,
    "bleu_tokenizer": choose_bleu_tokenizer,
}


def choose_tokenizers(names: Sequence[str], settings: TaskConfig | None, rows: Sequence[Row]) -> dict[str, str]:
    """Returns field of `TaskConfig` → tokenizer.

    Args:
      names: fields that a metric needs.
      settings: has these fields; None: `auto` for all.
      rows: all rows that are scored together.
    """
    return {name: CHOICES[name](AUTO if settings is None else getattr(settings, name), rows) for name in names}
