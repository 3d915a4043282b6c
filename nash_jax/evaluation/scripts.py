"""Words, characters and sentences of texts in any script."""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import regex

# Scripts written without spaces between words: Chinese, Japanese, Yi, and all of the line-breaking class SA (Thai, Lao,
# Khmer, Burmese and others), for which Unicode too says that words are found only with a dictionary (UAX #14).
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Line_Break=SA}"
_LETTER = r"\p{L}\p{M}\p{N}"
_CHARACTER = rf"[[{_UNSPACED}]&&[{_LETTER}]]\p{{M}}*"  # with its marks: vowel signs and tones of Thai
_WORD = regex.compile(rf"(?V1){_CHARACTER}|[[{_LETTER}]--[{_UNSPACED}]]+")
_UNIT = regex.compile(rf"(?V1){_CHARACTER}|[^\s{_UNSPACED}]+|\S")
_INVISIBLE = regex.compile(r"\p{Cf}")
_SENTENCE_END = regex.compile(r"(?V1)(?<=[.!?])\s+|([\p{Sentence_Terminal}--[.!?]]+[\p{Pe}\p{Pf}\"']*)\s*(?=\S)")
_COUNTED = {
    name: regex.compile(rf"(?V1)[^{letters}]+")
    for name, letters in {
        "all": r"\p{L}\p{N}",
        "ascii": "A-Za-z0-9",
        "unspaced": rf"[{_UNSPACED}]&&\p{{L}}",
        "han": r"\p{Han}",
        "kana": r"\p{Hiragana}\p{Katakana}",
    }.items()
}


class LetterCounts(NamedTuple):
    """Letters and digits of some texts.

    Attributes:
      all: of every script.
      ascii: a to z, in both cases, and 0 to 9.
      unspaced: of scripts that are written without spaces.
      han: Chinese characters.
      kana: Hiragana and Katakana.
    """

    all: int
    ascii: int
    unspaced: int
    han: int
    kana: int


def count_letters(texts: Iterable[str]) -> LetterCounts:
    """Counts the letters and digits of texts by kind."""
    joined = "\n".join(texts)
    return LetterCounts(**{name: len(other.sub("", joined)) for name, other in _COUNTED.items()})


def unicode_words(text: str) -> list[str]:
    """Splits a text into words: runs of letters, marks and digits; in scripts without spaces, single characters.

    Case and compatibility forms are folded (NFKC), invisible characters are dropped. A text without letters and digits
    is split into its other characters.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = _INVISIBLE.sub("", plain)
    return _WORD.findall(plain) or regex.findall(r"\S\p{M}*", plain)


def split_sentences(text: str) -> str:
    """Puts each sentence on its own line, as ROUGE-Lsum requires.

    A sentence ends at `.`, `!` or `?` before a space, and at the sentence ends of other scripts, such as 。 and ।.
    """
    return _SENTENCE_END.sub(lambda end: f"{end[1] or ''}\n", text.strip())


def first_sentence(text: str) -> str:
    """Returns a text up to the end of its first sentence."""
    return split_sentences(text).partition("\n")[0]


def count_words(text: str) -> int:
    """Returns the number of words between spaces; in scripts without spaces, of characters."""
    return sum(1 for _ in _UNIT.finditer(text))


def first_words(text: str, words: int) -> str:
    """Returns the first words of a text, as `count_words` counts them."""
    end = 0
    for _, unit in zip(range(words), _UNIT.finditer(text), strict=False):
        end = unit.end()
    return " ".join(text[:end].split())
