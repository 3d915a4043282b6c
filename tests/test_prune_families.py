"""Pruning of every family but T5 and BART: gates and distillation trained for a few steps, compacted, exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TORCH_WARNINGS, torch_logits, usual_first

import nash_jax
from nash_jax.axes import frozen_params
from nash_jax.config.schema import DistillConfig, PruneConfig
from nash_jax.models import build
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step
from nash_jax.tree import flatten

STEPS = 100
SIZES = {"vocab_size": 23, "d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
DISTILL = DistillConfig(task=0.0, logits=0.1, hidden=0.1)

pytestmark = TORCH_WARNINGS


def train(spec, params, teacher_spec, teacher, batch):
    """`STEPS` pruning steps on one batch: final state, final masks, and what each step reported."""
    pruner = PruningObjective(make_gates(spec), make_constraints(spec, {"encoder": 0.4}), 0, STEPS // 4)
    config = PruneConfig(learning_rate=1e-2, schedule="constant")
    frozen = frozen_params(spec, embeddings=False)
    tx = make_optimizer(config, STEPS, gate_learning_rate=0.3, frozen=frozen)
    trained = {
        "model": params,
        **pruner.initial_params(jax.random.key(0)),
        "projection": jnp.eye(spec.d_model),
    }
    step = make_step(StudentLoss(build(spec), DISTILL, build(teacher_spec), pruner), tx)
    state, reports = make_state(jax.tree.map(jnp.array, trained), tx, 0), []
    for _ in range(STEPS):
        state, metrics = step(state, teacher, batch)
        reports.append({name: float(value) for name, value in metrics.items()})
    masks = pruner.final_masks(state["params"]["gates"])
    return jax.device_get(state["params"]["model"]), masks, reports


@pytest.mark.parametrize("family", usual_first(["mbart", "marian", "pegasus", "m2m_100", "umt5"], ["m2m_100", "umt5"]))
def test_pruning_and_export(logits, tmp_path, family):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    own = {"output_scale": 8**-0.5} if family == "umt5" else {"max_positions": 16}
    teacher_spec = dense_spec(family=family, **SIZES, dropout_rate=0.0, **own)
    teacher = random_params(teacher_spec, 1)
    spec, params = select_layers(teacher_spec, teacher, decoder=[0])
    batch = random_batch(spec, rows=8)
    trained, masks, reports = train(spec, params, teacher_spec, teacher, batch)

    for name in ("logits_loss", "hidden_loss"):
        losses = [report[name] for report in reports]
        assert np.isfinite(losses).all()
        assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5]), name
    closed = sum(int((mask == 0).sum()) for mask in masks.values())
    assert closed > 0 and reports[-1]["expected_sparsity"] > 0.2
    before, after = flatten(params), flatten(trained)
    held = {path for path in before if np.array_equal(before[path], after[path])}
    assert held == frozen_params(spec, embeddings=False)  # all else is trained: biases and norms too

    narrow, small = compact(spec, trained, masks)
    masked, found = logits(spec, trained, batch, masks), logits(narrow, small, batch)
    np.testing.assert_allclose(found, masked, atol=1e-5 * np.abs(masked).max())

    model = nash_jax.Seq2Seq(narrow, small)
    model.save(tmp_path / "export")
    model.save_hf(tmp_path / "hf")
    np.testing.assert_array_equal(logits(narrow, nash_jax.load(tmp_path / "export").params, batch), found)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["input_ids"] != spec.pad_id}
    inputs["decoder_input_ids"] = batch["labels"]
    expected = torch_logits(theirs, {name: np.asarray(value, np.int64) for name, value in inputs.items()})
    np.testing.assert_allclose(found, expected, atol=1e-4)
