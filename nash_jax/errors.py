"""The exception for user errors, and suggestions for misspelt names in messages."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct: what was found, what was expected, what to do.

    The command line prints the message as one line and exits with status 2, without a traceback.

    Args:
      found: what was found.
      expected: what was expected; printed after "expected".
      do: what to do.
    """

    def __init__(self, found: str, expected: str = "", do: str = "") -> None:
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if do:
            parts.append(do)
        super().__init__("; ".join(parts))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` with the most similar known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
