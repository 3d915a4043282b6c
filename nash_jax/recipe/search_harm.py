"""What narrowing one sub-layer, or dropping layers, does to the outputs of the dense model, before any training.

Measured is KL(dense ‖ changed) a target token, teacher-forced, on some training rows. A sub-layer keeps its most
important heads or units (`pruning/importance.py`), and its output projection is fitted to what is left
(`pruning/least_squares.py`).
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.config.schema import ModelConfig
from nash_jax.models import build
from nash_jax.pruning.distill import logits_loss
from nash_jax.pruning.layer_selection import choose_layers, select_layers
from nash_jax.pruning.least_squares import refitted_outputs
from nash_jax.recipe.calibration import Calibration, gram_groups
from nash_jax.runtime.progress import Progress
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.losses import shift_right
from nash_jax.tree import flatten, unflatten

Batches = Sequence[Mapping[str, np.ndarray]]
_MOST_ROWS = 128  # that a KL is taken of
_MOST_LOGITS = 2**27  # numbers of the dense model's logits that are kept in memory: half a GiB


class Harm(NamedTuple):
    """KL to the dense model, nats a target token.

    Attributes:
      sublayers: name, as in `decoder.3.ffn` → size → KL with this sub-layer alone at this size.
      depths: side → number of layers that are kept → KL with these layers alone.
    """

    sublayers: dict[str, dict[int, float]]
    depths: dict[str, dict[int, float]]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it: names of numbers are texts."""
        return {
            name: {key: {str(n): v for n, v in row.items()} for key, row in part.items()}
            for name, part in self._asdict().items()
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Harm":
        """The inverse of `to_json`.

        Args:
          found: what it returned.
        """
        return Harm(*(
            {key: {int(n): float(v) for n, v in row.items()} for key, row in found[name].items()}
            for name in Harm._fields
        ))  # fmt: skip


def sizes_to_try(whole: int) -> tuple[int, ...]:
    """Sizes that a sub-layer of `whole` heads or units may have: none and quarters, increasing."""
    return tuple(sorted({round(whole * quarters / 4) for quarters in range(5)}))


def most_important(importance: np.ndarray, size: int) -> np.ndarray:
    """Mask of ones and zeros that keeps the `size` most important heads or units, the first of equals; float32."""
    mask = np.zeros(len(importance), np.float32)
    mask[np.argsort(-np.asarray(importance, np.float64), kind="stable")[:size]] = 1
    return mask


def measure_harm(
    spec: ModelSpec, params: Mapping[str, Any], batches: Batches, importance: Mapping[str, np.ndarray],
    config: ModelConfig, selection: str,
) -> Harm:  # fmt: skip
    """Measures all sub-layers at all sizes, and all depths of either side.

    Args:
      spec: the dense model.
      params: its parameters, NumPy.
      batches: rows that output projections are fitted on; of the first of them the KL is taken.
      importance: axis of heads or units → importances.
      config: compute dtype.
      selection: which layers a shorter side keeps, of `choose_layers`.
    """
    depths = [(side, n) for side in SIDES for n in range(1, len(getattr(spec, side)))]
    trials = sum(len(sizes_to_try(size)) - 1 for _, size in spec.sublayers().values() if size)
    progress, done = Progress("search", trials + len(depths), 0, unit="measurement"), itertools.count(1)
    divergence = _Divergence(spec, params, batches, config)

    def counted(kind: str, kl: float) -> float:
        progress.update(next(done), lambda: f"{kind}, KL {kl:.4f}")
        return kl

    found = Harm({}, {side: {len(getattr(spec, side)): 0.0} for side in SIDES})
    for side, keep in depths:
        layers = choose_layers(len(getattr(spec, side)), keep, selection)
        kl = divergence(*select_layers(spec, divergence.params, **{side: layers}))
        found.depths[side][keep] = counted(f"{keep} {side} layers", kl)
    calibration = Calibration(spec, params, batches, config, "search")
    for name, changes in _narrowed(spec, params, calibration, importance):
        own = found.sublayers[name] = {}
        for size, leaves in changes:
            own[size] = counted(f"{name} {size}", divergence(spec, divergence.with_leaves(leaves))) if leaves else 0.0
    progress.close()
    return found


def _narrowed(
    spec: ModelSpec, params: Mapping[str, Any], calibration: Calibration, importance: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, Iterator[tuple[int, dict[str, np.ndarray]]]]]:
    """Sub-layer → its sizes, each with the parameters that change; the whole size without any."""
    sublayers = {axis: (name, whole) for name, (axis, whole) in spec.sublayers().items() if whole}
    for group in gram_groups(spec, sublayers):
        grams = calibration.grams(group)
        for axis in group:
            name, whole = sublayers[axis]
            narrow = functools.partial(_fitted_leaves, spec, params, {axis: grams[axis]}, importance[axis])
            yield name, ((size, narrow(size) if size < whole else {}) for size in sizes_to_try(whole))


def _fitted_leaves(
    spec: ModelSpec, params: Mapping[str, Any], grams: Mapping[str, np.ndarray], importance: np.ndarray, size: int
) -> dict[str, np.ndarray]:  # fmt: skip
    """Output projection, and its bias, of a sub-layer that keeps so many heads or units; rows of others are 0."""
    (axis,) = grams
    return refitted_outputs(spec, params, {axis: most_important(importance, size)}, grams)


class _Divergence:
    """KL of other models to the dense one, on rows whose dense logits are kept.

    Args:
      spec: the dense model.
      params: its parameters.
      batches: rows; the first of them are taken.
      config: compute dtype.

    Attributes:
      params: the dense model's, on the device.
    """

    def __init__(self, spec: ModelSpec, params: Mapping[str, Any], batches: Batches, config: ModelConfig) -> None:
        self._config, self.params = config, jax.device_put(dict(params))
        self._flat, self._batches = flatten(self.params), list(_few(batches, spec.vocab_size))
        self._logits = [_logits(spec, config, self.params, batch) for batch in self._batches]
        self._tokens = sum(int(np.sum(batch["labels"] != spec.pad_id)) for batch in self._batches)

    def with_leaves(self, leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The dense parameters with some others in their places."""
        return unflatten({**self._flat, **jax.device_put(dict(leaves))})

    def __call__(self, spec: ModelSpec, params: Any) -> float:
        pairs = zip(self._batches, self._logits, strict=True)
        sums = [_divergence(spec, self._config, params, batch, logits) for batch, logits in pairs]
        return math.fsum(map(float, jax.device_get(sums))) / self._tokens


def _few(batches: Batches, vocab_size: int) -> Iterator[Mapping[str, np.ndarray]]:
    """The first batches, at least one, whose rows and logits are not too many."""
    rows = logits = 0
    for batch in batches:
        rows, logits = rows + len(batch["labels"]), logits + batch["labels"].size * vocab_size
        if logits > _MOST_LOGITS and rows > len(batch["labels"]):
            return
        yield batch
        if rows >= _MOST_ROWS:
            return


def _forced(spec: ModelSpec, config: ModelConfig, params: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Logits float32 [B, T, V], teacher-forced, without dropout."""
    model, ids = build(spec, dtype=jnp.dtype(config.dtype)), batch["input_ids"]
    logits: Any = model.apply({"params": params}, ids, ids != spec.pad_id, shift_right(batch["labels"], spec))
    return logits.astype(jnp.float32)


_logits: Callable[..., jax.Array] = jax.jit(_forced, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _divergence(spec: ModelSpec, config: ModelConfig, params: Any, batch: Any, dense: jax.Array) -> jax.Array:
    """KL(dense ‖ this model), summed over the target tokens of a batch."""
    logits, counted = _forced(spec, config, params, batch), batch["labels"] != spec.pad_id
    return logits_loss(logits, dense, counted.astype(jnp.float32), jnp.ones(()), temperature=1.0)
