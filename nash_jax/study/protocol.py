"""What the records of a study say of its contrasts: differences paired by seed, and the verdicts on the predictions."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.errors import UserError
from nash_jax.evaluation.row_statistics import RowStatistics
from nash_jax.report.numbers import direction, is_number
from nash_jax.study import paired
from nash_jax.study.contrasts import DENSE, Contrast
from nash_jax.study.records import Record, scores, trained

ReadRows = Callable[[Record], RowStatistics]
Pair = tuple[Record, Record]
Result = dict[str, Any]

_ALIKE = ("task", "model", "dtype", "teacher")  # records of one seed that differ here are no pair
_UNEQUAL = {"steps": 0.01, "seconds": 0.1}  # relative differences that are said
THESE_ROWS = ", on these test rows"  # what the interval over rows does not bear out
_NO_VERDICT = f"fewer than {paired.FEWEST} seeds: no interval and no verdict"
_NO_SPREAD = "all seeds differ by the same: no interval and no verdict"


def no_rows(record: Record) -> RowStatistics:
    """In the place of a reader, where nothing is kept but records."""
    raise UserError(f"no statistics of the test rows of {record.get('cell')}")


def compare(contrasts: Sequence[Contrast], records: Sequence[Record], read_rows: ReadRows = no_rows) -> list[Result]:
    """What is known of each contrast, JSON-able.

    Args:
      contrasts: all that were written down: p-values are corrected for their number.
      records: of the cells done.
      read_rows: the statistics of a cell's test rows; raises UserError where they are not there.

    Returns:
      For each the fields of the contrast, and: "seeds"; "differences", seed by seed; "n"; "mean"; "std", of the paired
      differences; "interval", t over the seeds; "rows_interval", over seeds and test rows; "p" of the paired t-test and
      "p_holm"; "p_level" of the two one-sided tests and "is_level"; "detectable", what so many seeds find with 80 %
      power; "verdict", and whether the interval over rows agrees, "rows_agree"; "finding", in words; "steps", "seconds"
      and "trials" of both; "notes". What is not known is None.
    """
    found = [_compare_one(contrast, records, read_rows) for contrast in contrasts]
    corrected = paired.holm([1.0 if own["p"] is None else own["p"] for own in found])
    for own, p in zip(found, corrected, strict=True):
        own["p_holm"] = None if own["p"] is None else p
        own["finding"] = _finding(own)
    return found


def _compare_one(contrast: Contrast, records: Sequence[Record], read_rows: ReadRows) -> Result:
    pairs = _pairs(contrast, records)
    values = [[_value(record, contrast, side) for record, side in zip(pair, "ab", strict=True)] for pair in pairs]
    differences = [a - b for a, b in values]
    own: Result = dataclasses.asdict(contrast) | {
        "seeds": [a.get("seed") for a, _ in pairs],
        "differences": differences,
        "n": len(pairs),
        "mean": statistics.mean(differences) if differences else None,
        "std": statistics.stdev(differences) if len(differences) > 1 else None,
        **dict.fromkeys(
            ("interval", "rows_interval", "p", "p_level", "is_level", "detectable", "verdict", "rows_agree")
        ),
        "notes": [],
    }
    own |= _efforts(contrast, pairs)
    own["notes"] += _unequal(own)
    if len(pairs) < paired.FEWEST or not paired.differs_at_all(differences):
        own["notes"].insert(0, _NO_VERDICT if len(pairs) < paired.FEWEST else _NO_SPREAD)
        own["notes"] += [] if pairs else _other_metrics(contrast, records)
        return own
    own["interval"] = list(paired.t_interval(own["mean"], own["std"], own["n"]) or ())
    own["p"] = paired.difference_p(differences)
    own["p_level"] = paired.equivalence_p(differences, contrast.margin)
    own["is_level"] = own["p_level"] < paired.ALPHA
    own["detectable"] = paired.smallest_difference(own["std"], own["n"])
    own["verdict"] = _verdict(contrast, own["interval"], differences)
    return own | _with_rows(contrast, pairs, own, read_rows)


def _verdict(contrast: Contrast, interval: Sequence[float], differences: Sequence[float]) -> str:
    words, number = contrast.prediction
    within = words == "within" and paired.equivalence_p(differences, number) < paired.ALPHA
    return contrast.verdict((interval[0], interval[1]), within)


def _pairs(contrast: Contrast, records: Iterable[Record]) -> list[Pair]:
    """The records of both sides by seed, those that have the metric and are alike but for what is compared."""
    sides: dict[str, dict[Any, Record]] = {"a": {}, "b": {}}
    groups = {"a": contrast.a, "b": contrast.b}
    if DENSE in groups.values():
        groups = dict.fromkeys("ab", contrast.b if contrast.a == DENSE else contrast.a)
    for record in records:
        for side, group in groups.items():
            if record.get("group") == group and is_number(_value(record, contrast, side)):
                sides[side][record.get("seed")] = record
    both = [(a, sides["b"][seed]) for seed, a in sides["a"].items() if seed in sides["b"]]
    return [(a, b) for a, b in both if all(a.get(field) == b.get(field) for field in _ALIKE)]


def _other_metrics(contrast: Contrast, records: Iterable[Record]) -> list[str]:
    """What the cells were measured by, where that is not the metric of the contrast."""
    own = (record for record in records if record.get("group") in (contrast.a, contrast.b))
    known = dict.fromkeys(name for record in own for name in scores(record))
    return (
        [f"no {contrast.metric}: the cells have {', '.join(known)}"] if known and contrast.metric not in known else []
    )


def _model(contrast: Contrast, side: str) -> str:
    return DENSE if getattr(contrast, side) == DENSE else "pruned"


def _value(record: Record, contrast: Contrast, side: str) -> Any:
    return scores(record, _model(contrast, side)).get(contrast.metric)


def _efforts(contrast: Contrast, pairs: Sequence[Pair]) -> Result:
    """Training steps and seconds, averaged over the seeds, and trials: {"a": …, "b": …} of each."""
    found: Result = {"steps": {}, "seconds": {}, "trials": {}}
    for side, own in zip("ab", zip(*pairs, strict=True), strict=bool(pairs)):
        is_dense = _model(contrast, side) == DENSE
        for name in ("steps", "seconds"):
            values = [0.0 if is_dense else trained(record, name) for record in own]
            known = [value for value in values if value is not None]
            found[name][side] = statistics.mean(known) if len(known) == len(values) else None
        found["trials"][side] = max(int(record.get("trials") or 1) for record in own)
    return found


def _unequal(own: Result) -> list[str]:
    """What was not the same for both sides."""
    found = []
    for name, share in _UNEQUAL.items():
        pair = [own[name].get(side) for side in "ab"]
        if DENSE not in (own["a"], own["b"]) and all(map(is_number, pair)) and max(pair) > (1 + share) * min(pair):
            found.append(f"training {name} are not equal: {pair[0]:,.0f} and {pair[1]:,.0f}")
    if len(set(own["trials"].values())) > 1:
        found.append("numbers of trials are not equal: {a} and {b}".format(**own["trials"]))
    return found


def _with_rows(contrast: Contrast, pairs: Sequence[Pair], own: Result, read_rows: ReadRows) -> Result:
    """The interval over seeds and rows, and whether it agrees with the verdict; else a note that says why not."""
    differences, notes, verdict = own["differences"], own["notes"], own["verdict"]
    try:
        draws = [_draws(contrast, pair, read_rows) for pair in pairs]
    except UserError as error:
        return {"notes": [*notes, f"no interval over rows: {error}"]}
    units = min(number for _, number in draws)
    found = paired.seeds_and_rows_interval(differences, np.mean([values for values, _ in draws], axis=0), units)
    if found is None:
        return {}
    number = contrast.prediction[1]
    agreed = contrast.verdict(found, _is_inside(found, number)) == verdict
    return {"rows_interval": list(found), "rows_agree": agreed}


def _is_inside(interval: Sequence[float], margin: float) -> bool:
    return -margin <= interval[0] and interval[1] <= margin


def _draws(contrast: Contrast, pair: Pair, read_rows: ReadRows) -> tuple[np.ndarray, int]:
    """The difference of one seed in resamples of the rows, and how many units they are drawn from."""
    sides = [read_rows(record) for record in pair]
    if sides[0].rows != sides[1].rows:
        raise UserError(f"{pair[0].get('cell')} and {pair[1].get('cell')} have different test rows")
    try:
        a, b = (own.draws(_model(contrast, side), contrast.metric) for own, side in zip(sides, "ab", strict=True))
    except (KeyError, StopIteration) as error:
        raise UserError(f"{contrast.metric} is not computed from rows") from error
    return a - b, int(sides[0].subset(contrast.metric).groups.max()) + 1


def _finding(own: Mapping[str, Any]) -> str:
    """What may be said of the difference; "level" only where two one-sided tests say so."""
    if own["p"] is None:
        return ""
    low, high = own["rows_interval"] or own["interval"]
    said = []
    if own["p_holm"] < paired.ALPHA:
        better = (own["mean"] > 0) == (direction(own["metric"]) >= 0)
        word = "ahead" if direction(own["metric"]) else "larger"
        said.append(f"{own['a'] if better else own['b']} {word}{THESE_ROWS * (low <= 0 <= high)}")
    if own["is_level"]:
        said.append(f"level within {own['margin']:g}{THESE_ROWS * (not _is_inside((low, high), own['margin']))}")
    return "; ".join(said) or "no difference shown, nor that they are level"
