"""Losses of a model without some of its layers, and what they drop."""

import json

import numpy as np
import pytest

import nash_jax
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import ModelConfig, TaskConfig, default_config
from nash_jax.data.pipeline import tokenize
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.pruning.layer_selection import Candidates, select_layers
from nash_jax.ragged import Ragged
from nash_jax.recipe.layer_importance import (
    BATCH_SIZE,
    NUM_ROWS,
    ShortenedLoss,
    make_batches,
    measure_layers,
    sum_losses,
    tokenize_first,
)
from nash_jax.recipe.run import PruningRun
from nash_jax.testing import lively_model
from nash_jax.tree import flatten, unflatten

NUM_PAIRS, LENGTH = BATCH_SIZE + 5, 6
ALL = [0, 1]
SPEC, PARAMS = lively_model(3, len(ALL))


def silenced(params, names):
    """Parameters of a model whose named layers add nothing to the residual stream."""
    flat = flatten(params)
    for path in flat:
        if any(path.startswith(f"{name}/") for name in names) and path.rsplit("/", 1)[1] in ("out", "wo"):
            flat[path] = np.zeros_like(flat[path])
    return unflatten(flat)


def token_losses(logits, labels):
    """-log p of each label [B, T], from float32 logits [B, T, V], in float64."""
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_sums = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    return log_sums - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def shifted(labels):
    return np.concatenate([np.full((len(labels), 1), SPEC.decoder_start_id), labels[:, :-1]], 1).astype(np.int32)


@pytest.fixture(scope="module")
def rows():
    """Ids [pairs, length] of sources and targets, half of them shorter, padded on the right: one shape of batches."""
    rng = np.random.default_rng(0)
    ids = rng.integers(2, SPEC.vocab_size, (2, NUM_PAIRS, LENGTH)).astype(np.int32)
    ends = rng.integers(1, 2 * LENGTH, (2, NUM_PAIRS, 1))
    return np.where(np.arange(LENGTH) < ends, ids, SPEC.pad_id)


def ragged(ids):
    return Ragged.from_lists([row[row != SPEC.pad_id].tolist() for row in ids])


def measure(params, rows, dtype="float32"):
    return ShortenedLoss(SPEC, params, (ragged(rows[0]), ragged(rows[1])), ModelConfig(dtype=dtype))


def test_every_pair_comes_once_in_full_batches_of_few_shapes():
    lengths = np.random.default_rng(1).integers(1, 60, (2, 100))
    sources, targets = (Ragged.from_lists([[2 + i, *[1] * (n - 1)] for i, n in enumerate(row)]) for row in lengths)
    batches = make_batches(sources, targets, pad_id=0)
    assert {len(batch[name]) for batch in batches for name in batch} == {BATCH_SIZE}
    assert len({(batch["input_ids"].shape, batch["labels"].shape) for batch in batches}) <= 3
    found = {}
    for batch in batches:
        assert (batch["input_ids"] != 0).any(1).all()  # nothing attends to padding alone
        for source, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            if labels.any():
                assert source[0] == labels[0] and labels[0] not in found
                found[labels[0]] = (np.count_nonzero(source), np.count_nonzero(labels))
    assert found == {2 + i: tuple(pair) for i, pair in enumerate(lengths.T.tolist())}


def test_layers_of_one_shape_share_a_program(rows, capsys):
    sum_losses.clear_cache()
    loss = measure(PARAMS, rows)
    _, steps = measure_layers({side: Candidates((0, 1), 1) for side in ("encoder", "decoder")}, loss)
    assert [1 + len(step["others"]) for step in steps] == [4, 2]  # losses
    assert sum_losses._cache_size() == 3  # depths 1 and 2, 2 and 1, 1 and 1; the rows are of one shape
    assert "shorten: layer 2/2" in capsys.readouterr().err


def test_loss_is_the_teacher_forced_cross_entropy_per_token(logits, rows):
    sources, labels = rows
    loss = measure(PARAMS, rows)
    for encoder, decoder in ((ALL, ALL), ([1], [0])):
        shorter, kept = select_layers(SPEC, PARAMS, encoder=encoder, decoder=decoder)
        batch = {"input_ids": sources, "labels": shifted(labels)}
        losses = token_losses(logits(shorter, kept, batch), labels)
        assert loss(encoder, decoder) == pytest.approx(losses[labels != SPEC.pad_id].mean(), rel=1e-5)
    assert loss(ALL, ALL) != loss([1], [0])


def test_loss_is_computed_in_the_compute_dtype(rows):
    found = [measure(PARAMS, rows, dtype)([0], [0]) for dtype in ("float32", "bfloat16")]
    assert found[0] != found[1] == pytest.approx(found[0], rel=0.05)


def test_layers_that_do_nothing_go_first(logits, rows):
    """Labels are what the model itself says, so that the loss of the other layers' absence is large."""
    idle = ("encoder/layers_1", "decoder/layers_0")
    params, (sources, _) = silenced(PARAMS, idle), rows
    labels = np.zeros_like(sources)
    for position in range(LENGTH):
        said = logits(SPEC, params, {"input_ids": sources, "labels": shifted(labels)})[:, position]
        labels[:, position] = 1 + said[:, 1:].argmax(-1)  # token 0 pads
    loss = measure(params, np.stack([sources, labels]))
    kept, steps = measure_layers({side: Candidates((0, 1), 1) for side in ("encoder", "decoder")}, loss)
    assert kept == {"encoder": [0], "decoder": [1]}
    whole = loss(ALL, ALL)
    assert [step["loss"] for step in steps] == pytest.approx([whole, whole], rel=1e-5)
    idle_names = {name.replace("/layers_", ".") for name in idle}
    assert all(value > 1.05 * whole for name, value in steps[0]["others"].items() if name not in idle_names)


def test_first_rows_are_tokenised_as_training_rows_are(tmp_path):
    rows = [{"source": "ab" * (1 + i % 3), "references": ["A B"] * (1 + i % 2)} for i in range(NUM_ROWS + 3)]
    tokenizer, task = build_pronunciation_tokenizer(rows), TaskConfig(max_source_length=5)
    found = tokenize_first(rows, tokenizer, task, tmp_path)
    assert [len(data) for data in found] == [NUM_ROWS * 3 // 2] * 2
    for own, expected in zip(found, tokenize(rows[:NUM_ROWS], tokenizer, task, tmp_path / "other"), strict=True):
        np.testing.assert_array_equal(own.ids, expected.ids)
        np.testing.assert_array_equal(own.offsets, expected.offsets)


def test_a_run_keeps_what_matters(tmp_path):
    """The idle decoder layer goes; the encoder's layer is named, so that nothing is measured there."""
    rows = [{"source": word, "references": [" ".join(word.upper())]} for word in ("abc", "bca", "cab", "acb", "bac")]
    tokenizer = build_pronunciation_tokenizer(rows)
    spec, params = lively_model(1, 2, vocab_size=len(tokenizer))
    nash_jax.Seq2Seq(spec, silenced(params, ["decoder/layers_0"]), tokenizer).save(tmp_path / "dense")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"document": row["source"], "summary": row["references"][0]}) for row in rows))
    config = default_config()
    config.task.update(name="letters", source="files", metric="exact_match", prefix="")
    config.task.update({f"{split}_file": str(path) for split in ("train", "validation", "test")})
    config.model.init, config.stages = str(tmp_path / "dense"), "data,finetune,shorten"
    config.shorten.update(selection="importance", encoder_kept=(1,), decoder_layers=1)
    for phase in (config.finetune, config.prune, config.retrain):
        phase.update(epochs=0.0, batch_size=4)
    found = PruningRun(parse_config(config), tmp_path / "run").run()["stages"]["shorten"]
    (step,) = found["importance"]
    losses = {f"{step['side']}.{step['layer']}": step["loss"], **step["others"]}
    assert set(losses) == {"decoder.0", "decoder.1"}
    assert found["kept_encoder_layers"] == [1] and found["kept_decoder_layers"] == [1 - step["layer"]]
    assert step["loss"] == min(losses.values())
    dense, short = (nash_jax.load(tmp_path / "run" / stage / "model") for stage in ("finetune", "shorten"))
    expected = select_layers(dense.spec, dense.params, encoder=[1], decoder=found["kept_decoder_layers"])
    assert short.spec == expected[0]
    for path, leaf in flatten(expected[1]).items():
        np.testing.assert_array_equal(flatten(short.params)[path], leaf, err_msg=path)
