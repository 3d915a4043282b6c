"""StableHLO programs: our logits and tokens, for any batch and length, in a process that has no nash_jax."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import LIMIT
from jax import export

from nash_jax import Seq2Seq
from nash_jax.errors import UserError
from nash_jax.export.check import SHAPES, check_model, count_same
from nash_jax.export.stablehlo.run import StableHloModel
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import FAMILIES
from nash_jax.testing import random_sources

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {
    "max_new_tokens": 10,
    "no_repeat_ngram_size": 2,
    "forced_bos_token_id": 9,
    "suppress_tokens": (5, 6),
    "forced_eos_token_id": 1,
}


@pytest.fixture(scope="module")
def mbart(tmp_path_factory):
    """A ragged model with learned positions, and the folder of its programs."""
    folder, (spec, params) = tmp_path_factory.mktemp("stablehlo") / "model", check_model("mbart", "ragged")
    model = Seq2Seq(spec, params, generation=GenerationOptions(**OPTIONS))
    model.save_stablehlo(folder)
    return model, folder


def test_logits_and_tokens_of_any_batch_and_length(mbart):
    model, folder = mbart
    read = StableHloModel(folder)
    for seed, rows, length in ((0, 5, 8), (1, 1, 3)):
        ids, mask = random_sources(model.spec, seed, rows, length, left=seed == 1)
        targets = np.random.default_rng(seed).integers(2, model.spec.vocab_size, (rows, 4))
        np.testing.assert_allclose(read.logits(ids, mask, targets), model.logits(ids, mask, targets), atol=1e-4)
        expected = model.generate_ids(ids, mask)
        found = read.greedy(ids, mask)
        assert found.shape == (rows, 11) and (found[:, 1] == 9).all()
        assert count_same(expected, found, model.spec.pad_id) == rows
        shorter = model.generate_ids(ids, mask, max_new_tokens=4)  # ends earlier with the forced EOS
        assert count_same(shorter, read.greedy(ids, mask, 4), model.spec.pad_id) == rows


def test_what_a_program_refuses(mbart):
    model, folder = mbart
    read, too_long = StableHloModel(folder), np.ones((1, model.spec.max_positions + 1), np.int32)
    with pytest.raises(ValueError, match=r"s <= 96"):
        read.encode(too_long, too_long)
    with pytest.raises(ValueError, match="saved for at most 10"):
        read.greedy(too_long[:, :3], too_long[:, :3], 11)


def test_one_file_for_all_platforms(mbart):
    _, folder = mbart
    for name in ("encode", "logits", "generate"):
        program = export.deserialize(bytearray((folder / "stablehlo" / f"{name}.bin").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
    facts = json.loads((folder / "stablehlo" / "programs.json").read_text())
    assert facts["platforms"] == ["cpu", "cuda", "tpu"] and facts["programs"]["generate"][0] == "int32[b,s]"


def test_a_process_that_cannot_import_nash_jax_prints_our_ids(mbart):
    model, folder = mbart
    program = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nash_jax", "flax", "torch", "transformers", "orbax"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv[1:] = [{str(folder)!r}, "11", "12", "13", "1"]
runpy.run_path({str(ROOT / "nash_jax/export/stablehlo/run.py")!r}, run_name="__main__")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.array([done.stdout.split()], int)
    assert count_same(model.generate_ids(np.array([[11, 12, 13, 1]])), found, model.spec.pad_id) == 1


def test_mistakes(tmp_path):
    model = Seq2Seq(*check_model("t5", "shortened"))
    with pytest.raises(UserError, match=r"num_beams=2 in a StableHLO program; expected greedy search"):
        model.save_stablehlo(tmp_path / "model", num_beams=2)
    with pytest.raises(UserError, match=r"platforms is .*abacus.*; expected a list of cpu, cuda, tpu, rocm"):
        model.save_stablehlo(tmp_path / "model", platforms=["abacus"])
    assert not (tmp_path / "model").exists()


@pytest.mark.full
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_kind_of_pruning(family, shape, tmp_path):
    model = Seq2Seq(*check_model(family, shape))
    model.save_stablehlo(tmp_path / "model", max_new_tokens=12)
    ids, mask = random_sources(model.spec, 3, 6, 9)
    found = StableHloModel(tmp_path / "model").greedy(ids, mask)
    assert count_same(model.generate_ids(ids, mask, max_new_tokens=12), found, model.spec.pad_id) == 6


@pytest.mark.full
def test_compute_in_bfloat16(tmp_path):
    model = Seq2Seq(*check_model("t5", "ragged"), dtype="bfloat16")
    model.save_stablehlo(tmp_path / "model", max_new_tokens=6, platforms=["cpu"])
    ids, mask = random_sources(model.spec, 3, 6, 9)
    found = StableHloModel(tmp_path / "model").greedy(ids, mask)
    assert count_same(model.generate_ids(ids, mask, max_new_tokens=6), found, model.spec.pad_id) >= 5
