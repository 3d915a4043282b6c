"""What runs by default, and what waits for `-m full`: more seeds, and whole runs that smaller tests stand for."""

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], few: int) -> list[Any]:
    """Values for `parametrize`: the first few run by default, the others with `-m full`."""
    return [value if i < few else pytest.param(value, marks=pytest.mark.full) for i, value in enumerate(values)]


def in_turn(test: Any) -> Any:
    """A decorator for tests of whole runs: under the marks `full` and `whole_run`."""
    return pytest.mark.full(pytest.mark.whole_run(test))
