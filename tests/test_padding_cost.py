"""Cost of padding: how models are pruned for the comparison, and its output."""

import re

import numpy as np
import pytest

from nash_jax.benchmark.padding_cost import compare_models, prune_model, uneven_masks
from nash_jax.config.schema import BenchmarkConfig
from nash_jax.convert.uniform import pad_to_uniform
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import count_params

SIZES = {"vocab_size": 29, "d_model": 8, "d_ff": 60, "num_heads": 4, "encoder_layers": 4, "decoder_layers": 3}


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_masks_close_the_share_asked_for(sparsity, seed):
    spec = dense_spec(**SIZES)
    masks = uneven_masks(spec, sparsity, seed)
    assert {name.split(".")[0] for name in masks} == {"encoder"}
    assert {value for mask in masks.values() for value in mask} == {0, 1}
    # a head has 4 · 8 · 2 weights, a unit 2 · 8
    closed = {name: (mask == 0).sum() * (64 if name.endswith("heads") else 16) for name, mask in masks.items()}
    whole = 4 * (4 * 64 + 60 * 16)
    assert sparsity - 64 / whole < sum(closed.values()) / whole <= sparsity


def test_layers_are_uneven():
    """Independently closed gates would give layers that differ by a few units of 60: standard deviation 4."""
    masks = [uneven_masks(dense_spec(**SIZES), 0.5, seed) for seed in range(20)]
    left = np.array([[mask.sum() for name, mask in own.items() if name.endswith("units")] for own in masks])
    assert np.mean(left.std(axis=1)) > 8


def test_pruned_model():
    spec = dense_spec(**SIZES)
    model, removed = prune_model(spec, random_params(spec), 0.5, 2)
    assert 0.45 < removed <= 0.5
    assert len(model.spec.decoder) == 2 and model.spec.decoder[0] == spec.decoder[0]


def test_comparison():
    spec = dense_spec(**SIZES)
    printed = compare_models(spec, random_params(spec), 0.6, 2, BenchmarkConfig((2,), 8, (4,), 2))
    ragged = prune_model(spec, random_params(spec), 0.6, 2)[0]
    padded = count_params(pad_to_uniform(ragged.spec, ragged.params)[1])
    found = dict(re.findall(r"(ragged|padded) +([\d,]+) parameters", printed))
    assert {name: int(size.replace(",", "")) for name, size in found.items()} == {
        "ragged": count_params(ragged.params), "padded": padded,
    }  # fmt: skip
    assert len(re.findall(r"padded / ragged \d+\.\d\d \(quartiles \d", printed)) == 2
    assert " ".join(f"{len(layer.heads)}/{layer.ffn}" for layer in ragged.spec.encoder) in printed
