"""Postprocessing: from a model's output to the text that a metric compares with the references."""

from typing import Any

# articles, demonstratives and similar words, ignored when two noun phrases are compared (list of T5's postprocessor)
_DETERMINERS = frozenset({
    "a", "an", "each", "every", "few", "her", "his", "many", "much", "my", "our", "some", "that", "the", "their",
    "these", "this", "those", "which", "whose", "your",
})  # fmt: skip


def postprocess_output(output: str, row: dict[str, Any]) -> str:
    """Returns an output in the form of the row's references.

    Labels: surrounding white space is removed (a text that is not a label counts as wrong, not as an error).
    WSC, where the model names a noun and the reference says whether a given noun is correct: "True" or "False"; "" if
    the output names no noun, since an empty output would otherwise be correct for every "False".
    Other outputs are unchanged.

    Args:
      output: decoded text.
      row: a row of a form.
    """
    if "labels" not in row:
        return output
    if "targets" in row:
        return str(matches_noun(output, row["targets"][0])) if _words(output) else ""
    return output.strip()


def matches_noun(output: str, noun: str) -> bool:
    """Returns whether an output names a noun, by T5's rule.

    Determiners and case are ignored; then the words of one phrase must be a subset of the words of the other:
    "fuzzy bunny" matches "the bunny"; "Bob" does not match "Bob's hat". Source: `wsc_simple` of T5's postprocessors.
    """
    if ("'" in output) != ("'" in noun):
        return False
    words, noun_words = _words(output), _words(noun)
    return bool(words) and bool(noun_words) and (words <= noun_words or noun_words <= words)


def _words(phrase: str) -> set[str]:
    return {word for word in phrase.lower().split() if word not in _DETERMINERS}
