"""Numbers: found where they may be missing, compared, and written for people."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

DASH, MINUS, NBSP = "–", "−", "\N{NO-BREAK SPACE}"


def section(report: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The dict at a path of the report; empty where any step of the path is missing or None."""
    found: Any = report
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; False for None, NaN, truth values and text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ratio(numerator: Any, denominator: Any) -> float | None:
    """numerator / denominator; None where one is missing or the denominator is not positive."""
    if not (is_number(numerator) and is_number(denominator)) or denominator <= 0:
        return None
    return numerator / denominator


def direction(metric: str) -> int:
    """+1 where higher is better, -1 where lower is better, 0 for a metric that is neither."""
    if metric == "generated_length":
        return 0
    return -1 if any(word in metric for word in ("error", "loss", "invalid")) else 1


def _fixed(value: float, places: int) -> str:
    return f"{value:,.{places}f}".replace("-", MINUS)


def _places(value: float, *limits: float) -> int:
    """Decimals of a number: one for each limit that it is below."""
    return sum(abs(value) < limit for limit in limits)


def format_value(value: Any, like: Any = None) -> str:
    """Any value as text: integers with thousands separators, floats with the decimals that suit `like` (or value)."""
    if not is_number(value):
        return DASH if value is None else str(value)
    suited = like if is_number(like) else value
    return _fixed(value, 0 if isinstance(value, int) else _places(suited, 1000, 100, 10, 0.1))


def format_percent(fraction: Any, *, signed: bool = False) -> str:
    """A fraction in percent, one decimal."""
    return f"{100 * fraction:{'+' * signed}.1f} %".replace("-", MINUS) if is_number(fraction) else DASH


def format_count(count: Any) -> str:
    """A number of parameters: 950, 12.4 K, 60.5 M, 1.23 B."""
    if not is_number(count):
        return DASH
    for limit, unit, places in ((1e9, "B", 2), (1e6, "M", 1), (1e3, "K", 1)):
        if abs(count) >= limit:
            return f"{count / limit:.{places}f} {unit}"
    return f"{round(count):,}"


def format_ms(value: Any) -> str:
    """Milliseconds with three significant digits, without the unit."""
    return _fixed(value, _places(value, 100, 10)) if is_number(value) else DASH


def format_spread(mean: float, std: Any) -> str:
    """Mean ± standard deviation in milliseconds, with the decimals that the deviation gives meaning to."""
    if not is_number(std):
        return format_ms(mean)
    places = max(_places(mean, 100, 10), _places(std, 2, 0.2))
    return f"{_fixed(mean, places)} ± {_fixed(std, places)}"


def format_seconds(seconds: Any) -> str:
    """A duration: 3.2 s, 1 min 35 s, 2 h 10 min."""
    if not is_number(seconds):
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def format_speedup(factor: Any) -> str:
    """A speedup: 2.87×."""
    return f"{factor:.2f}×" if is_number(factor) else DASH
