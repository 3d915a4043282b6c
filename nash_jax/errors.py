"""The one exception for a user's mistake."""


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
