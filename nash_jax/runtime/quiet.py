"""Keeps libraries from printing warnings around our own messages."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block, `transformers` prints errors alone, and no advice to install PyTorch when it is imported.

    A level that the user chose (TRANSFORMERS_VERBOSITY) stays.
    """
    if "transformers" not in sys.modules:
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils import logging

    level = logging.get_verbosity()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def import_orbax() -> Any:
    """The storage library; from then on it and the event loop that it runs log nothing of errors.

    Errors reach the caller anyway. When one array of many cannot be read or written, the exceptions of the others are
    never asked for, and asyncio would log each with a traceback when it is collected.
    """
    from orbax.checkpoint import v1 as ocp  # here, for it takes half a second to import

    for name in ("asyncio", "absl"):
        logger = logging.getLogger(name)
        if _is_of_others not in logger.filters:
            logger.addFilter(_is_of_others)
    return ocp


def _is_of_others(record: logging.LogRecord) -> bool:
    """Whether a record is not about an error of Orbax or TensorStore."""
    if record.name == "absl":
        return "orbax" not in record.pathname
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ValueError | OSError) or "tensorstore" not in f"{error}".lower()
