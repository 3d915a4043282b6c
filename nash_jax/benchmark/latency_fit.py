"""The entries of a latency table from times of whole models.

Written as increments from size to size, a curve is a non-negative combination of ramps. So the entries are found by
non-negative least squares (Lawson and Hanson 1974), and no curve falls. Rows are divided by their time: what is
minimised are relative errors, those of encoder passes with less weight. Where times say little about neighbouring
slopes of a curve, these become equal.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nash_jax.benchmark.latency_entries import (
    ENCODER_KINDS,
    ENCODING,
    FIXED,
    GENERATION,
    KINDS,
    LAYERS,
    SOURCE,
    Curve,
    counts_of,
    curve_sizes,
    has_encoder,
    sizes_of,
)
from nash_jax.spec import ModelSpec

SMOOTHNESS = 0.005  # weight of a curve's bends, against relative errors
ENCODING_WEIGHT = 0.3  # of an encoder pass: within a generation it takes a little less or more than alone
_NOTHING = 1e-7  # ms, the solver's rounding


class Columns:
    """The unknowns of the fit: fixed entries, then the increments of the curves.

    Args:
      dense: the model with the largest sizes.
    """

    def __init__(self, dense: ModelSpec) -> None:
        self.sizes, self.layers = curve_sizes(dense), {kind: len(sizes) for kind, sizes in sizes_of(dense).items()}
        steps = [(kind, i) for kind in KINDS for i in range(len(self.sizes[kind]) - 1)]
        self.names: list[tuple[str, int]] = [*((name, 0) for name in FIXED), *steps]

    def row(self, spec: ModelSpec, what: str) -> np.ndarray:
        """How much of each unknown a model has, in a generation or in an encoding."""
        parts = {(name, 0): float(count) for name, count in counts_of(spec).items()}
        for kind, sizes in sizes_of(spec).items():
            if has_encoder(spec) or kind not in ENCODER_KINDS:
                for i, (low, high) in enumerate(itertools.pairwise(self.sizes[kind])):
                    parts[kind, i] = float(np.clip((np.array(sizes) - low) / (high - low), 0, 1).sum())
        counted = (SOURCE, LAYERS["encoder"], *ENCODER_KINDS) if what == ENCODING else (*FIXED, *KINDS)
        return np.array([parts.get(name, 0.0) * (name[0] in counted) for name in self.names])

    def smoothness(self) -> np.ndarray:
        """Rows that are 0 where neighbouring slopes of a curve are equal; a step from 0 to 1 is free."""
        rows = []
        for kind, sizes in self.sizes.items():
            for i in range(int(1 in sizes[:2]), len(sizes) - 2):
                row = np.zeros(len(self.names))
                for step, sign in ((i, 1.0), (i + 1, -1.0)):
                    width = (sizes[step + 1] - sizes[step]) / sizes[-1]
                    row[self.names.index((kind, step))] = sign * self.layers[kind] / width
                rows.append(row)
        return np.array(rows).reshape(-1, len(self.names))


class Timed(NamedTuple):
    """A measured time.

    Attributes:
      spec: of the model.
      what: `GENERATION` or `ENCODING`.
      ms: milliseconds.
    """

    spec: ModelSpec
    what: str
    ms: float


def fit(
    dense: ModelSpec, times: Sequence[Timed], smoothness: float = SMOOTHNESS
) -> tuple[dict[str, Curve], dict[str, float]]:
    """Returns the curves and the fixed entries whose sums have the least relative squared errors.

    Args:
      dense: the model with the largest sizes.
      times: measured times of models of its family, no larger.
      smoothness: weight of the differences between neighbouring slopes of a curve; 0: they count for nothing.
    """
    from scipy.optimize import nnls

    columns = Columns(dense)
    weights = np.array([1.0 if t.what == GENERATION else ENCODING_WEIGHT for t in times])
    rows = np.array([columns.row(t.spec, t.what) / t.ms for t in times]) * weights[:, None]
    typical = np.median([1 / t.ms for t in times if t.what == GENERATION])
    smooth = columns.smoothness() * smoothness * len(times) ** 0.5 * typical
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-12)  # columns of like size: the solver's tolerance is absolute
    wanted = np.concatenate([weights, np.zeros(len(smooth))])
    found = nnls(np.concatenate([rows, smooth]) / scale, wanted, maxiter=100 * len(scale))[0] / scale
    found[(rows.max(axis=0) == 0) | (found < _NOTHING)] = 0.0
    values = dict(zip(columns.names, found.tolist(), strict=True))
    curves = {kind: _curve(columns.sizes[kind], kind, values) for kind in KINDS}
    return curves, {name: values[name, 0] for name in FIXED}


def _curve(sizes: tuple[int, ...], kind: str, values: Mapping[tuple[str, int], float]) -> Curve:
    ms = itertools.accumulate((values[kind, i] for i in range(len(sizes) - 1)), initial=0.0)
    return Curve(sizes, tuple(ms))
