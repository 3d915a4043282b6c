"""The contrasts of a study for people and for programs: a table, lines for a terminal, CSV."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.report.numbers import DASH, MINUS, format_value, is_number
from nash_jax.report.tables import Cell, make_frame
from nash_jax.study import paired
from nash_jax.study.protocol import THESE_ROWS

Result = Mapping[str, Any]

LEAD = (
    "Differences a - b of the pruned models, paired by seed: the same teacher and order of data. In brackets: 95 % "
    "t-interval over seeds; seeds and rows: for other test rows too, by bootstrap. p: paired t-test, corrected by Holm "
    "for the number of contrasts. “Level” is said only where two one-sided t-tests (5 %) find the difference within "
    "the margin. A prediction held where the whole interval agrees with it (one of “within”: where these two tests "
    "do), and was refuted where nothing of it does; “on these test rows”: the interval over seeds and rows does not "
    f"bear it out. No interval and no verdict for fewer than {paired.FEWEST} seeds."
)
_TITLES = (
    "contrast", "a - b", "metric", "difference", "seeds", "seeds and rows", "p (Holm)", "what is shown", "predicted",
    "verdict", "written", "training steps, a and b", "training s, a and b", "trials, a and b",
)  # fmt: skip


def contrast_frame(results: Sequence[Result]) -> pd.DataFrame:
    """A row for each contrast, as text."""
    rows = [
        [
            own["name"], f"{own['a']} - {own['b']}", own["metric"], Cell(difference_text(own)), own["n"],
            Cell(_bounds(own["rows_interval"], own["mean"])), _p_text(own["p_holm"]), own["finding"], own["predicted"],
            verdict_text(own), written_text(own), *(_pair(own[name]) for name in ("steps", "seconds", "trials")),
        ]
        for own in results
    ]  # fmt: skip
    return make_frame("Contrasts", rows, _TITLES)


def difference_text(own: Result) -> str:
    """The mean difference with its interval: "+1.20 [+0.31, +2.09]"."""
    if own["mean"] is None:
        return DASH
    bounds = f" {_bounds(own['interval'], own['mean'])}" if own["interval"] else ""
    return f"{signed(own['mean'], own['mean'])}{bounds}"


def signed(value: float, like: float) -> str:
    """A difference with its sign, with the decimals that suit another number, two at least."""
    text = f"{value:+.2f}" if abs(like) >= 0.1 or like == 0 else f"{value:+.4f}"
    return text.replace("-", MINUS)


def _bounds(interval: Sequence[float] | None, like: Any) -> str:
    return f"[{', '.join(signed(bound, like) for bound in interval)}]" if interval else DASH


def _p_text(p: Any) -> str:
    return DASH if not is_number(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _pair(both: Mapping[str, Any]) -> str:
    return " and ".join(format_value(x if x is None else round(x)) for x in both.values()) or DASH


def verdict_text(own: Result) -> str:
    """The verdict, or that there is none; "on these test rows" where the interval over rows does not agree."""
    return f"{own['verdict'] or 'no verdict'}{THESE_ROWS * (own['rows_agree'] is False)}"


def written_text(own: Result) -> str:
    """When the contrast was written, and what was run before this study saw it."""
    done = own.get("done_before")
    known = "" if done is None else f", after {done} of its cells were done" if done else ", before its cells were run"
    return f"{own['date']}{known}"


def sentences(results: Sequence[Result], withdrawn: Sequence[Result]) -> list[str]:
    """What must be known of the contrasts: their power, their notes, and that some were taken away or changed."""
    names = ", ".join(f"{own['name']} ({own['a']} - {own['b']}, {own['predicted']})" for own in withdrawn)
    return power_lines(results) + [f"Withdrawn or changed since this study first saw them: {names}."] * bool(names)


def power_lines(results: Sequence[Result]) -> list[str]:
    """What the seeds of each contrast could have seen, and what else must be known of it."""
    lines = []
    for own in results:
        if is_number(own["detectable"]):
            lines.append(
                f"{own['name']}: with a standard deviation of {own['std']:.2f} between the paired differences, "
                f"{own['n']} seeds find a difference of {own['detectable']:.2f} with 80 % power (5 %, two-sided)."
            )
        lines += [f"{own['name']}: {note}." for note in own["notes"]]
    return lines


def contrast_lines(results: Sequence[Result], withdrawn: Sequence[Result] = ()) -> list[str]:
    """The contrasts for a terminal."""
    lines = []
    for own in results:
        shown = f"{difference_text(own)} {own['metric']}, {own['n']} seeds"
        tested = f", p = {_p_text(own['p_holm'])} (Holm)" if own["p_holm"] is not None else ""
        found = f"; {own['finding']}" if own["finding"] else ""
        lines.append(f"{own['name']}: {own['a']} - {own['b']}: {shown}{tested}{found}")
        lines.append(f"  predicted {own['predicted']} ({written_text(own)}): {verdict_text(own)}")
    return lines + [f"  {line}" for line in sentences(results, withdrawn)]


def contrasts_values(results: Sequence[Result]) -> pd.DataFrame:
    """A row a contrast, every number as it is."""
    return pd.DataFrame([dict(_flat(own)) for own in results], dtype=object)


def _flat(own: Result) -> Iterable[tuple[str, Any]]:
    for name, value in own.items():
        if name in ("interval", "rows_interval"):
            yield from zip((f"{name}_low", f"{name}_high"), value or (None, None), strict=True)
        elif isinstance(value, Mapping):
            yield from ((f"{name}_{side}", value.get(side)) for side in "ab")
        elif isinstance(value, list):
            yield name, "; ".join(map(str, value)) if name == "notes" else " ".join(map(str, value))
        else:
            yield name, value
