"""Models that are fast enough by a latency table: for each pair of depths, the sizes that do least harm.

A candidate keeps some layers of either side and, within these, a size for each sub-layer. Times come from the table
(`benchmark/latency_table.py`), harms were measured (`recipe/search_harm.py`); the sizes are a knapsack
(`pruning/knapsack.py`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.benchmark.latency_entries import sublayer_ms
from nash_jax.benchmark.latency_store import LatencyTable
from nash_jax.benchmark.latency_table import predict
from nash_jax.pruning.knapsack import Option, choose_sizes
from nash_jax.pruning.layer_selection import choose_layers
from nash_jax.recipe.search_harm import Harm, most_important
from nash_jax.spec import SIDES, ModelSpec

MOST_CANDIDATES = 8
MOST_PLAIN = 3  # of them, that only drop layers
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model of the search.

    Attributes:
      encoder: layers that it keeps, of the dense model's.
      decoder: the same.
      sizes: sub-layer of the dense model, as in `decoder.3.ffn` → heads or units that it keeps; of kept layers.
      predicted_ms: of a generation, by the table.
      harm: KL of the depths and of the narrowed sub-layers, added up.
      plain: nothing is narrowed.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    sizes: Mapping[str, int]
    predicted_ms: float
    harm: float
    plain: bool

    @property
    def depths(self) -> tuple[int, int]:
        """Layers of the encoder and of the decoder."""
        return len(self.encoder), len(self.decoder)

    @property
    def name(self) -> str:
        """Its depths, and whether sub-layers are narrower: `3-2` or `3-4 narrow`."""
        return f"{len(self.encoder)}-{len(self.decoder)}{'' if self.plain else ' narrow'}"

    def masks(self, importance: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Masks of the model that keeps these layers, numbered from 0: of what is narrower, zeros and ones.

        Args:
          importance: axis of the dense model → importances of its heads or units.
        """
        found = {}
        for name, size in self.sizes.items():
            side, index, sublayer = name.split(".")
            axis = "units" if sublayer == "ffn" else "heads"
            own = importance[f"{name}.{axis}"]
            if size < len(own):
                place = getattr(self, side).index(int(index))
                found[f"{side}.{place}.{sublayer}.{axis}"] = most_important(own, size)
        return found


class Space:
    """All candidates of a dense model.

    Args:
      table: latency table of the dense model.
      harm: of its sub-layers and depths.
      selection: which layers a shorter side keeps, of `choose_layers`.
    """

    def __init__(self, table: LatencyTable, harm: Harm, selection: str) -> None:
        self._table, self._harm, self._selection = table, harm, selection
        self.dense, self.dense_ms = table.dense, predict(table, table.dense)

    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of depths."""
        encoder, decoder = (len(getattr(self.dense, side)) for side in SIDES)
        return [(e, d) for e in range(1, encoder + 1) for d in range(1, decoder + 1)]

    def fastest(self) -> Candidate:
        """The fastest candidate: few layers, as narrow as can be."""
        pair = min(self.pairs(), key=lambda pair: (round(self._least_ms(*pair), 9), sum(pair)))
        found = self.candidate(*pair, self._least_ms(*pair))
        assert found is not None  # its own time is its budget
        return found

    def candidate(self, encoder: int, decoder: int, budget_ms: float) -> Candidate | None:
        """The candidate of these depths that does least harm; None if none is so fast.

        Args:
          encoder: layers of the encoder.
          decoder: layers of the decoder.
          budget_ms: milliseconds of a generation, by the table.
        """
        kept, blocks, fixed = self._blocks(encoder, decoder)
        least = sum(min(o.cost for o in options) for options in blocks.values())
        if fixed + least > budget_ms + _ROUNDING * abs(budget_ms):
            return None
        sizes = choose_sizes(blocks, max(least, budget_ms - fixed))
        chosen = [next(o for o in blocks[name] if o.size == size) for name, size in sizes.items()]
        harm = sum(self._harm.depths[side][len(kept[side])] for side in SIDES) + sum(o.harm for o in chosen)
        plain = all(size == max(o.size for o in blocks[name]) for name, size in sizes.items())
        ms = fixed + sum(o.cost for o in chosen)
        return Candidate(tuple(kept["encoder"]), tuple(kept["decoder"]), sizes, ms, harm, plain)

    def candidates(self, budget_ms: float) -> list[Candidate]:
        """Those to try, of least harm first: some that only drop layers, the others of as many depths as there are.

        Of pairs that are fast enough without narrowing, those count that would not be with one more layer.

        Args:
          budget_ms: milliseconds of a generation, by the table.
        """
        found = {pair: self.candidate(*pair, budget_ms) for pair in self.pairs()}
        plain = {pair for pair, own in found.items() if own and own.plain}
        largest = [found[e, d] for e, d in plain if not {(e + 1, d), (e, d + 1)} & plain]
        first = sorted((own for own in largest if own), key=_harm)[:MOST_PLAIN]
        narrow = sorted((own for own in found.values() if own and not own.plain), key=_harm)
        best = {own.depths[1]: own for own in reversed(narrow)}  # of each decoder depth
        rest = sorted(best.values(), key=_harm) + [own for own in narrow if own not in best.values()]
        return sorted((first + rest)[:MOST_CANDIDATES], key=_harm)

    def _blocks(self, encoder: int, decoder: int) -> tuple[dict[str, list[int]], dict[str, list[Option]], float]:
        """Kept layers, the options of their sub-layers, and the milliseconds of all else."""
        depths = {"encoder": encoder, "decoder": decoder}
        kept = {side: choose_layers(len(getattr(self.dense, side)), n, self._selection) for side, n in depths.items()}
        blocks: dict[str, list[Option]] = {}
        for name in self._harm.sublayers:
            side, index, _ = name.split(".")
            if int(index) in kept[side]:
                own = self._harm.sublayers[name]
                first = name == f"decoder.{kept['decoder'][0]}.cross_attention"  # some layer reads the encoder
                blocks[name] = [
                    Option(n, sublayer_ms(self._table.curves, name, n), kl) for n, kl in own.items() if n or not first
                ]
        whole = predict(self._table, _shortened(self.dense, kept))
        fixed = whole - sum(max(options, key=lambda o: o.size).cost for options in blocks.values())
        return kept, blocks, fixed

    def _least_ms(self, encoder: int, decoder: int) -> float:
        _, blocks, fixed = self._blocks(encoder, decoder)
        return fixed + sum(min(o.cost for o in options) for options in blocks.values())


def _shortened(spec: ModelSpec, kept: Mapping[str, Sequence[int]]) -> ModelSpec:
    layers: dict[str, Any] = {side: tuple(getattr(spec, side)[i] for i in kept[side]) for side in SIDES}
    return dataclasses.replace(spec, **layers)


def _harm(candidate: Candidate) -> tuple[float, float]:
    return candidate.harm, candidate.predicted_ms
