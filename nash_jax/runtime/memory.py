"""Memory of this process: what it holds, that freed memory is kept for the next step, and that it is given back."""

import ctypes
import sys
from pathlib import Path

from nash_jax.errors import UserError

# of glibc's mallopt(3)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MIB = 2**20


def keep_freed_memory() -> bool:
    """Lets glibc's malloc keep what is freed, instead of returning it to the system.

    XLA's CPU programs allocate their buffers anew at each call. By default glibc maps large ones from the system and
    unmaps them when they are freed, so that every step touches fresh pages, which the kernel must clear first. The
    process keeps its greatest size in return. Elsewhere than on Linux with glibc nothing happens.

    Returns:
      Whether malloc took the options.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    options = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 1024 * _MIB, _TOP_PAD: 64 * _MIB}
    return all(mallopt(option, value) == 1 for option, value in options.items())


def return_freed_memory() -> bool:
    """Gives the system back what is freed already; for moments when much was, and is not needed again.

    glibc's malloc keeps holes between blocks that are in use, for blocks that fit. After a model's arrays were replaced
    by others of nearly their sizes, these are as much as half of the model. Elsewhere nothing happens.

    Returns:
      Whether there was anything to give back.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and trim(0) == 1


def anonymous_memory() -> int:
    """Bytes that this process holds in memory, without pages of files that are mapped.

    Raises:
      UserError: on another system than Linux, which alone tells it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration) as error:
        raise UserError("the memory of a process is not known here", "Linux") from error
