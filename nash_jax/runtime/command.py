"""What the commands share: flags, messages for mistakes, and exit statuses."""

import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

from nash_jax.errors import UserError, missing_package


def unusable(error: flags.Error) -> UserError:
    """What absl could not parse, as a user's mistake."""
    return UserError(f"command line: {error}")


def parse_flags(
    own: flags.FlagValues,
    argv: Sequence[str],
    usage: str,
    mistake: Callable[[flags.Error], UserError] = unusable,
) -> None:
    """Reads a command line into flags that no other command, and no other call of this one, shares.

    Args:
      own: where the command's flags are defined.
      argv: the program's name and its arguments.
      usage: the flags there are, for the message about a word that is not a flag.
      mistake: makes the message about a wrong flag.

    Raises:
      UserError: for an unknown flag, a value that a flag does not take, or a word that is not a flag.
    """
    try:
        rest = own(list(argv))
    except flags.Error as error:
        raise mistake(error) from error
    if len(rest) > 1:
        raise UserError(f"command line: {rest[1]!r} is not a flag", usage)


def run_command(run: Callable[[Sequence[str]], None], argv: Sequence[str], doc: str, less_memory: str) -> int:
    """Runs a command; its exit status.

    Args:
      run: the command.
      argv: the program's name and its arguments.
      doc: printed for `--help`.
      less_memory: what to do when memory runs out.

    Returns:
      0; with one line on stderr: 2 for a user's mistake or a missing extra, 3 when memory ran out, 130 for
      Ctrl-C; 1 with a traceback for a bug.
    """
    if {"-h", "--help"} & set(argv):
        print(doc)
        return 0
    try:
        run(argv)
        return 0
    except UserError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say("stopped by Ctrl-C; the same command continues from here", 130)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (mistake := missing_package(error)):
            return _say(str(mistake), 2)
        if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
            traceback.print_exc()
            return 1
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return _say(f"out of memory: {reason}; {less_memory}; what was done is kept", 3)


def _say(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
