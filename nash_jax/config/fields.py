"""What a setting may hold, declared on the field of its dataclass."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from nash_jax.errors import UserError, did_you_mean
from nash_jax.runtime.files import check_local


@dataclasses.dataclass(frozen=True)
class Check:
    """What a value must be.

    Attributes:
      expected: in words, for messages.
      holds: whether a value is so.
      choices: the values, where they can be listed.
    """

    expected: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def require(self, value: Any, place: str) -> None:
        """Raises UserError when `value` of the setting `place` is not as expected."""
        if not self.holds(value):
            shown, near = (repr(value), did_you_mean(str(value), self.choices)) if self.choices else (value, "")
            raise UserError(f"{place} is {shown}{near}", self.expected)


@dataclasses.dataclass(frozen=True)
class LocalCheck:
    """A value must be no URL."""

    def require(self, value: str, place: str) -> None:
        """Raises UserError when `value` of the setting `place` is one."""
        check_local(value, place)


def check_of(field: "dataclasses.Field[Any]") -> Check | LocalCheck | None:
    """What was declared of a field; None where any value of its type will do."""
    return field.metadata.get("check")


def choice(default: str, *choices: str) -> Any:
    """A field that holds one of some words."""
    return _field(default, Check(f"one of {', '.join(choices)}", choices.__contains__, choices))


def local(default: str = "") -> Any:
    """A field that names a file or a folder, several with commas between, or a name on the hub."""
    return _field(default, LocalCheck())


def positive(default: float) -> Any:
    """A field that holds a finite number above 0."""
    return _field(default, Check("a number above 0", lambda x: 0 < x < math.inf))


def not_negative(default: float) -> Any:
    """A field that holds a finite number of 0 or more."""
    return _field(default, Check("a number of 0 or more", lambda x: 0 <= x < math.inf))


def share(default: float) -> Any:
    """A field that holds a share, which may be 0 but not 1."""
    return _field(default, Check("a share from 0 up to, not including, 1", lambda x: 0 <= x < 1))


def whole_share(default: float) -> Any:
    """A field that holds a share, 0 and 1 included."""
    return _field(default, Check("a share from 0 to 1", lambda x: 0 <= x <= 1))


def open_share(default: float) -> Any:
    """A field that holds a share, neither 0 nor 1."""
    return _field(default, Check("a share between 0 and 1", lambda x: 0 < x < 1))


def all_positive(default: tuple[int, ...]) -> Any:
    """A field that holds one or more whole numbers above 0."""
    return _field(default, Check("numbers of 1 or more", lambda x: bool(x) and min(x) > 0))


def _field(default: Any, check: Check | LocalCheck) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})
