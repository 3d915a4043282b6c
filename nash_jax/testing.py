"""Small specs, parameters and batches for tests; random numbers are NumPy's, so they do not change with jax."""

import dataclasses
from typing import Any

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.models.positions import position_table
from nash_jax.spec import ACTIVATIONS, FAMILIES, NORMS, POSITIONS, SINUSOIDS, DecoderLayer, EncoderLayer, ModelSpec
from nash_jax.tree import flatten, unflatten


def random_spec(seed: int, *, ragged: bool = False, family: str = "t5", **flags: Any) -> ModelSpec:
    """Returns a small random spec of a family; with `ragged`, layers have different heads and units.

    Args:
      seed: NumPy seed.
      ragged: layers differ, and sub-layers may be removed.
      family: defines the flags; `custom`: all flags are random.
      **flags: fields with fixed values.
    """
    rng = np.random.default_rng(seed)
    num_heads = int(rng.integers(1, 5))

    def heads() -> tuple[int, ...]:
        return tuple(h for h in range(num_heads) if not ragged or rng.random() < 0.7)

    def units() -> int:
        return int(rng.integers(0, 20)) if ragged else d_ff

    d_ff, d_model = int(rng.integers(4, 20)), int(rng.integers(2, 9)) * 2
    gated = bool(rng.random() < 0.5)
    spec = ModelSpec(
        vocab_size=int(rng.integers(12, 40)),
        d_model=d_model,
        head_dim=int(rng.integers(2, 9)),
        num_heads=num_heads,
        encoder=tuple(EncoderLayer(heads(), units()) for _ in range(rng.integers(1, 4))),
        decoder=tuple(DecoderLayer(heads(), heads(), units()) for _ in range(rng.integers(1, 4))),
        gated=gated,
        activation="gelu_tanh" if gated else "relu",
        tied=bool(rng.random() < 0.5),
        output_scale=d_model**-0.5 if rng.random() < 0.5 else 1.0,
        position_buckets=int(rng.choice([8, 16, 32])),
        position_max_distance=int(rng.choice([20, 64, 128])),
        dropout_rate=0.0,
    )
    if FAMILIES[family]:
        of_family: dict[str, Any] = dict(FAMILIES[family])
        if family in _BART_LIKE:
            scale = d_model**0.5 if rng.random() < 0.5 else 1.0
            of_family |= {"gated": False, "output_scale": 1.0, "embedding_scale": scale}
        spec = dataclasses.replace(spec, **(of_family | {"family": family, "tied": spec.tied}))
    elif family == "custom":
        spec = dataclasses.replace(spec, **_random_flags(rng, spec), family=family)
    return dataclasses.replace(spec, **flags)


_BART_LIKE = ("bart", "mbart", "marian", "pegasus", "m2m_100")


def _random_flags(rng: np.random.Generator, spec: ModelSpec) -> dict[str, Any]:
    """Returns a random combination of flags, including combinations that no public model has."""

    def choose(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    return {
        "norm": choose(*NORMS),
        "pre_norm": choose(True, False),
        "bias": choose(True, False),
        "scaled_attention": choose(True, False),
        "activation": choose(*ACTIVATIONS),
        "logits_bias": choose(True, False),
        "embedding_scale": choose(1.0, spec.d_model**0.5),
        "embedding_norm": choose(True, False),
        "positions": choose(*POSITIONS),
        "position_offset": choose(0, 2),
        "max_positions": 64,
        "encoder_vocab_size": choose(None, spec.vocab_size),
        "decoder_head_dim": choose(None, 3),
    }


def random_params(spec: ModelSpec, seed: int = 0, scale: float = 0.5) -> dict[str, Any]:
    """Returns random parameters, float32, normal with standard deviation `scale` (norm scales are around 1)."""
    rng, sizes = np.random.default_rng(seed), spec.axis_sizes()
    flat = {}
    for path, axes in sorted(param_axes(spec).items()):
        value = rng.normal(size=[sizes[a] for a in axes]) * scale
        flat[path] = (value * 0.2 + 1 if path.endswith("scale") else value).astype(np.float32)
        if path.endswith("positions") and spec.positions in SINUSOIDS:
            flat[path] = position_table(spec)
    return unflatten(flat)


def random_batch(spec: ModelSpec, seed: int = 0, rows: int = 3, source: int = 7, target: int = 5) -> dict[str, Any]:
    """Returns {"input_ids", "labels"}, int32: rows of different lengths that end with EOS, padded on the right."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, length in (("input_ids", source), ("labels", target)):
        ids = rng.integers(2, spec.vocab_size, (rows, length))
        for row in ids:
            end = int(rng.integers(1, length))
            row[end:] = spec.pad_id
            row[end] = spec.eos_id
        batch[name] = ids.astype(np.int32)
    return batch


def lively_model(seed: int, layers: int = 1, vocab_size: int = 16) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns a small T5 whose outputs depend on the input and end at different lengths, and its parameters.

    The spec does not depend on the seed, so models with different seeds share compiled programs. Token 0 is padding and
    start token, token 1 is EOS.
    """
    spec = random_spec(
        0, vocab_size=vocab_size, d_model=16, head_dim=4, num_heads=4, gated=False, activation="relu", tied=False,
        output_scale=1.0, position_buckets=8, position_max_distance=20,
        encoder=(EncoderLayer((0, 1, 2, 3), 12),) * layers,
        decoder=(DecoderLayer((0, 1, 2, 3), (0, 1, 2, 3), 12),) * layers,
    )  # fmt: skip
    flat = flatten(random_params(spec, seed, scale=0.5))
    for name, factor in (("shared/embedding", 0.6), ("lm_head", 0.6), ("decoder/position_bias/embedding", 4.0)):
        flat[name] = flat[name] * np.float32(factor)
    flat["lm_head"][:, spec.eos_id] *= 1.5
    return spec, unflatten(flat)


def random_sources(
    spec: ModelSpec, seed: int, rows: int = 5, length: int = 11, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and attention mask, int32 [rows, length]: rows with 2 to `length` tokens, padded right or left."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, spec.vocab_size, (rows, length))
    lengths = np.array([length, *rng.integers(2, length + 1, rows - 1)])
    mask = np.arange(length)[None] < lengths[:, None]
    mask = mask[:, ::-1] if left else mask
    return np.where(mask, ids, spec.pad_id).astype(np.int32), mask.astype(np.int32)


def random_masks(
    spec: ModelSpec, seed: int = 0, names: str = "heads units sublayers embed", soft: bool = True
) -> dict[str, np.ndarray]:
    """Returns masks for all prunable axes of `spec`: about a third of the entries 0, the rest in (0, 1] or 1.

    Args:
      spec: the model.
      seed: NumPy seed.
      names: kinds of masks, a subset of `heads units sublayers embed`.
      soft: open entries are in (0, 1] instead of 1.
    """
    rng = np.random.default_rng(seed)

    def draw(size: tuple[int, ...]) -> np.ndarray:
        values = rng.uniform(0.2, 1, size) if soft else np.ones(size)
        return np.asarray(values * (rng.random(size) < 0.7), np.float32)

    masks: dict[str, np.ndarray] = {}
    for sublayer, (axis, size) in spec.sublayers().items():
        if axis.rpartition(".")[2] in names:
            masks[axis] = draw((size,))
        if "sublayers" in names:
            masks[sublayer] = draw(())
    if "embed" in names:
        masks["embed"] = draw((spec.d_model,))
        masks["embed"][0] = 1  # at least one dimension is kept
    return masks
