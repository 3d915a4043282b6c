"""The one exception for a user's mistake, and how messages name what was meant."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: what was found, what was expected, what to do.

    The command line prints the message as one line and exits with status 2, without a traceback.
    """

    def __init__(self, found: str, expected: str = "", do: str = "") -> None:
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if do:
            parts.append(do)
        super().__init__("; ".join(parts))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
