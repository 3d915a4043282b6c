"""What the commands share: flags, messages for mistakes, and exit statuses."""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

from nash_jax.errors import UserError, missing_package
from nash_jax.runtime.stopping import CONTINUES, STOPPED, end_on_signals


def unusable(error: flags.Error) -> UserError:
    """What absl could not parse, as a user's mistake."""
    return UserError(f"command line: {error}")


def parse_arguments(own: flags.FlagValues, argv: Sequence[str], usage: str) -> list[str]:
    """Reads a command line that is a list of names.

    Args:
      own: where the command's flags are defined.
      argv: the program's name and its arguments.
      usage: what the message shows when there are none.

    Raises:
      UserError: for an unknown flag, or no names.
    """
    names = _read(own, argv, unusable)
    if not names:
        raise UserError("command line: nothing is named", usage)
    return names


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
    if rest := _read(own, argv, mistake):
        raise UserError(f"command line: {rest[0]!r} is not a flag", usage)


def _read(own: flags.FlagValues, argv: Sequence[str], mistake: Callable[[flags.Error], UserError]) -> list[str]:
    """Reads the flags of a command line; returns the words that are none, without the program's name."""
    try:
        return list(own(list(argv))[1:])
    except flags.Error as error:
        raise mistake(error) from error


def read_batch_sizes(values: Sequence[str]) -> list[int]:
    """The numbers of a flag `--batch_sizes`.

    Args:
      values: the texts between its commas.

    Raises:
      UserError: if one is not a whole number of 1 or more.
    """
    if not all(value.isdecimal() and int(value) > 0 for value in values):
        raise UserError(f"--batch_sizes is {','.join(values)}", "whole numbers of 1 or more")
    return [int(value) for value in values]


def print_result(*lines: str) -> None:
    """Prints what a command has done, until the reader stops: `| head` does before the end."""
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes once more when it ends


def run_command(run: Callable[[Sequence[str]], None], argv: Sequence[str], doc: str, less_memory: str) -> int:
    """Runs a command; its exit status.

    Args:
      run: the command.
      argv: the program's name and its arguments.
      doc: printed for `--help`.
      less_memory: what to do when memory runs out.

    Returns:
      0; with one line on stderr: 2 for a user's mistake or a missing extra, 3 when memory ran out, 130 for
      Ctrl-C, 143 for SIGTERM; 1 with a traceback for a bug.
    """
    if {"-h", "--help"} & set(argv):
        print(doc)
        return 0
    if argv is sys.argv:
        end_on_signals()
        with contextlib.suppress(AttributeError):  # a letter that the terminal lacks shall not end a run
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        run(argv)
        return 0
    except UserError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say(f"{STOPPED[signal.SIGINT]}; {CONTINUES}", 130)
    except Exception as error:
        if "nash_jax.runtime.peers" in sys.modules:  # a run of several processes may have started
            sys.modules["nash_jax.runtime.peers"].wait_for_watch(error)
        if problem := storage_problem(error):
            return _say(f"{problem}; what was done is kept, and the same command continues", 2)
        if isinstance(error, ModuleNotFoundError) and (mistake := missing_package(error)):
            return _say(str(mistake), 2)
        if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
            traceback.print_exc()
            return 1
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return _say(f"out of memory: {reason}; {less_memory}; what was done is kept", 3)


_STORAGE = {
    errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up", errno.EROFS: "it is read-only",
    errno.EACCES: "permission is denied", errno.EPERM: "permission is denied", errno.EIO: "input or output failed",
    errno.EFBIG: "a file may not be so large",
}  # fmt: skip


def storage_problem(error: BaseException | None) -> str | None:
    """What a file system refused, in words, where that is the cause of an error.

    The storage library reports a full disk as RESOURCE_EXHAUSTED, as XLA does memory; the text of the system tells
    them apart.

    Args:
      error: any error, with its causes.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        number = next((n for n in _STORAGE if number == n or os.strerror(n) in str(error)), None)
        if number is not None:
            path = getattr(error, "filename", None) or next(iter(re.findall(r"(/[^\s:\"'\]]+)", str(error))), "")
            return f"{path or 'a file'}: {_STORAGE[number]}"
        error = error.__cause__ or error.__context__
    return None


def _say(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
