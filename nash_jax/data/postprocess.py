"""The way back: from a model's output to what a task's metric compares with the references."""

from typing import Any

# articles, demonstratives and the like: of no account when two noun phrases are compared (T5's list)
_DETERMINERS = frozenset({
    "a", "an", "each", "every", "few", "her", "his", "many", "much", "my", "our", "some", "that", "the", "their",
    "these", "this", "those", "which", "whose", "your",
})  # fmt: skip


def postprocess_output(output: str, row: dict[str, Any]) -> str:
    """What an output says in the terms of the row's references.

    A label is the output without the blanks around it (another text is a wrong label, not an error). Where the model is
    to name a noun and the references say whether a given noun is meant (WSC), it is "True" or "False"; or "", which is
    no label, where it names nothing: else silence would be right wherever another noun is asked about. Other outputs
    stay as they are.

    Args:
      output: decoded text.
      row: of a form.
    """
    if "labels" not in row:
        return output
    if "targets" in row:
        return str(matches_noun(output, row["targets"][0])) if _words(output) else ""
    return output.strip()


def matches_noun(output: str, noun: str) -> bool:
    """Whether an output names a noun, by T5's rule: determiners and case aside, the words of one are among the other's.

    "fuzzy bunny" names "the bunny"; "Bob" does not name "Bob's hat".
    """
    if ("'" in output) != ("'" in noun):
        return False
    said, meant = _words(output), _words(noun)
    return bool(said) and bool(meant) and (said <= meant or meant <= said)


def _words(phrase: str) -> set[str]:
    return {word for word in phrase.lower().split() if word not in _DETERMINERS}
