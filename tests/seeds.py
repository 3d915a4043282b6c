"""What runs by default, and what waits for `-m full`."""

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], few: int) -> list[Any]:
    """Values for `parametrize`: the first few run by default, the others with `-m full`."""
    return [value if i < few else pytest.param(value, marks=pytest.mark.full) for i, value in enumerate(values)]
