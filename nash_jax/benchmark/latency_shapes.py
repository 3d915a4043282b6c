"""Random whole shapes of a dense model's family: layers of uneven sizes, sub-layers and layers that are gone."""

import dataclasses

import numpy as np

from nash_jax.spec import DecoderLayer, EncoderLayer, ModelSpec

_SPREAD = 0.25  # standard deviation of the share that layers keep around their model's mean
_WHOLE_VOCABULARY = 0.6  # share of the models that keep it
_LEAST_VOCABULARY = 0.1


def random_shape(dense: ModelSpec, seed: int) -> ModelSpec:
    """Returns a random model no larger than `dense`.

    Depths are uniform from one layer to all. For each kind of sub-layer a mean share is uniform from 0 to 1, and
    layers keep shares around it, cut to 0 to 1: so whole models differ as much as their layers.

    Args:
      dense: the largest model.
      seed: NumPy seed.
    """
    rng = np.random.default_rng(seed)

    def draw(count: int, largest: int) -> list[int]:
        shares = rng.uniform() + _SPREAD * rng.normal(size=count)
        return [round(largest * share) for share in np.clip(shares, 0, 1)]

    def heads(count: int, side: str) -> list[tuple[int, ...]]:
        whole = dense.heads_of(side)
        return [tuple(sorted(rng.choice(whole, size, replace=False).tolist())) for size in draw(count, whole)]

    depth, decoder_depth = (int(rng.integers(1, len(layers) + 1)) for layers in (dense.encoder, dense.decoder))
    encoder = zip(heads(depth, "encoder"), draw(depth, dense.max_ffn_units("encoder")), strict=True)
    attentions = [heads(decoder_depth, "decoder") for _ in range(2)]
    decoder = zip(*attentions, draw(decoder_depth, dense.max_ffn_units("decoder")), strict=True)
    shape = dataclasses.replace(
        dense,
        encoder=tuple(EncoderLayer(*sizes) for sizes in encoder),
        decoder=tuple(DecoderLayer(*sizes) for sizes in decoder),
    )
    share = 1.0 if rng.random() < _WHOLE_VOCABULARY else rng.uniform(_LEAST_VOCABULARY, 1)
    return with_vocabulary(shape, round(share * dense.vocab_size))


def with_vocabulary(spec: ModelSpec, size: int) -> ModelSpec:
    """Returns the model with the first `size` tokens; special ids beyond them become the first ids."""
    size = min(max(size, _FEWEST), spec.vocab_size)
    if size == spec.vocab_size:
        return spec
    return dataclasses.replace(spec, vocab_size=size, pad_id=0, eos_id=1, decoder_start_id=0)


_FEWEST = 8  # tokens
