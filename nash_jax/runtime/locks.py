"""The one kind of lock: it belongs to a process and ends with it, however the process ends."""

import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from nash_jax.errors import UserError

_MOMENT = 0.5  # seconds: who only looks whether a lock is free holds it this long at most


class LockedError(UserError):
    """Another process holds the lock."""


def make_lock(path: Path) -> FileLock:
    """A lock on a file, with flock; never filelock's marker file, which would outlive a killed process."""
    return FileLock(path, fallback_to_soft=False)


def acquire(lock: FileLock, waiting: Callable[[], str] | None = None) -> bool:
    """Takes a lock.

    Args:
      lock: from `make_lock`.
      waiting: what to print when another process holds the lock, before waiting for it; None: do not wait.

    Returns:
      Whether this process holds it now.

    Raises:
      UserError: on a file system without file locks.
    """
    try:
        lock.acquire(timeout=_MOMENT, poll_interval=_MOMENT / 20)
    except Timeout:
        if waiting is None:
            return False
        print(waiting(), file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be locked: {error.strerror}",
            "a file system with file locks (flock)",
            "use another folder, or mount this one with them: launch/README.md",
        ) from error
    return True
