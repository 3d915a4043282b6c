"""Label smoothing against the `LabelSmoother` of transformers, and in the loss of a phase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TORCH_WARNINGS

from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import DistillConfig, default_config
from nash_jax.errors import UserError
from nash_jax.models import build
from nash_jax.testing import random_params, random_spec
from nash_jax.training.losses import StudentLoss, smoothed

pytestmark = TORCH_WARNINGS


def loss_of(spec, params, batch, epsilon):
    """Loss of a whole batch and its gradient, without dropout."""
    totals = {name: jnp.sum(batch[ids] != spec.pad_id) for name, ids in (("source", "input_ids"), ("target", "labels"))}
    rngs = {"dropout": None, "gates": jax.random.key(0)}
    loss = StudentLoss(build(spec), DistillConfig(), label_smoothing=epsilon)
    value, gradient = jax.jit(jax.value_and_grad(lambda own: loss({"model": own}, {}, batch, rngs, totals, 1.0, 0)[0]))(
        params
    )
    return float(value), gradient


@pytest.mark.parametrize(("seed", "epsilon"), [(0, 0.1), (1, 0.3), (2, 0.0)])
def test_the_loss_is_that_of_transformers(torch, logits, seed, epsilon):
    """Padding is ignored, and the part of the vocabulary is the mean over all of its tokens."""
    from transformers.trainer_pt_utils import LabelSmoother

    spec = random_spec(seed)
    params, rng = random_params(spec), np.random.default_rng(seed)
    batch = {name: rng.integers(2, spec.vocab_size, (3, 7)).astype(np.int32) for name in ("input_ids", "labels")}
    for row, length in enumerate((7, 4, 1)):
        batch["labels"][row, length:] = spec.pad_id
    shifted = np.pad(batch["labels"], ((0, 0), (1, 0)), constant_values=spec.decoder_start_id)[:, :-1]
    outputs = torch.tensor(logits(spec, params, {"input_ids": batch["input_ids"], "labels": shifted}))
    labels = torch.tensor(np.where(batch["labels"] == spec.pad_id, -100, batch["labels"])).long()
    expected = float(LabelSmoother(epsilon=epsilon)({"logits": outputs}, labels))
    value, gradient = loss_of(spec, params, batch, epsilon)
    assert value == pytest.approx(expected, rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if epsilon:
        assert value != pytest.approx(loss_of(spec, params, batch, 0.0)[0], rel=1e-3)


def test_by_hand():
    """Two tokens with probabilities 3/4 and 1/4, the first the target: 0.8 · -log 3/4 + 0.2 · the mean of both."""
    logits = jnp.log(jnp.array([[[3.0, 1.0]]]))
    nll = -np.log([0.75, 0.25])
    found = smoothed(jnp.array([[nll[0]]]), logits, 0.2)
    np.testing.assert_allclose(found, [[0.8 * nll[0] + 0.2 * nll.mean()]], rtol=1e-6)


@pytest.mark.parametrize("phase", ["finetune", "prune", "retrain"])
def test_the_setting(phase):
    config = default_config()
    config[phase].label_smoothing = 0.1
    assert getattr(parse_config(config), phase).label_smoothing == 0.1
    config[phase].label_smoothing = 1.0
    with pytest.raises(UserError, match=f"config.{phase}.label_smoothing is 1.0; expected a share"):
        parse_config(config)
