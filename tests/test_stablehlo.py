"""StableHLO programs: our logits and tokens, for any batch and length, in a process that has no nash_jax."""

import dataclasses
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
from nash_jax.spec import FAMILIES, DecoderLayer, EncoderLayer
from nash_jax.testing import random_params, random_sources
from nash_jax.tree import flatten

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"max_new_tokens": 7, "no_repeat_ngram_size": 2, "forced_bos_token_id": 9, "forced_eos_token_id": 1}


@pytest.fixture(scope="module")
def mbart(tmp_path_factory):
    """A small ragged model with learned positions, and the folder of its programs."""
    spec = check_model("mbart", "ragged")[0]
    layers = (EncoderLayer((0, 2), 20),), (DecoderLayer((1,), (0, 1, 3), 17),)
    spec = dataclasses.replace(spec, encoder=layers[0], decoder=layers[1])
    model = Seq2Seq(spec, random_params(spec), generation=GenerationOptions(**OPTIONS))
    folder = tmp_path_factory.mktemp("stablehlo") / "model"
    model.save_stablehlo(folder)
    return model, folder


@pytest.fixture(scope="module")
def inputs(mbart):
    return random_sources(mbart[0].spec, 0, 5, 8)


def test_logits_and_tokens(mbart, inputs):
    model, folder = mbart
    read, pad_id = StableHloModel(folder), model.spec.pad_id
    targets = np.random.default_rng(0).integers(2, model.spec.vocab_size, (5, 4))
    np.testing.assert_allclose(read.logits(*inputs, targets), model.logits(*inputs, targets), atol=1e-4)
    found = read.greedy(*inputs)
    assert found.shape == (5, 8) and (found[:, 1] == 9).all() and len({tuple(row) for row in found}) > 1
    assert count_same(model.generate_ids(*inputs), found, pad_id) == 5
    shorter = model.generate_ids(*inputs, max_new_tokens=4)  # ends earlier with the forced EOS
    assert count_same(shorter, read.greedy(*inputs, 4), pad_id) == 5
    row = tuple(array[2:3, : inputs[1][2].sum()] for array in inputs)  # another batch and length, the same program
    np.testing.assert_array_equal(read.greedy(*row), found[2:3])


def test_what_the_reader_refuses(mbart):
    model, folder = mbart
    read, too_long = StableHloModel(folder), np.ones((1, model.spec.max_positions + 1), np.int32)
    with pytest.raises(ValueError, match="97 tokens; this model has 96 positions"):
        read.encode(too_long, too_long)
    with pytest.raises(ValueError, match="saved for at most 7"):
        read.greedy(too_long[:, :3], too_long[:, :3], 8)


def test_jax_refuses_more_positions_than_the_model_has(mbart):
    """Also without our reader: a longer source would silently have wrong positions."""
    model, folder = mbart
    program = export.deserialize(bytearray((folder / "stablehlo" / "encode.bin").read_bytes()))
    too_long = np.ones((1, model.spec.max_positions + 1), np.int32)
    with pytest.raises(ValueError):
        program.call(flatten(model.params), too_long, too_long)


def test_one_file_for_all_platforms(mbart):
    _, folder = mbart
    for name in ("encode", "logits", "generate"):
        program = export.deserialize(bytearray((folder / "stablehlo" / f"{name}.bin").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
    facts = json.loads((folder / "stablehlo" / "programs.json").read_text())
    assert facts["platforms"] == ["cpu", "cuda", "tpu"] and facts["programs"]["generate"][0] == "int32[b,s]"


def test_a_process_that_cannot_import_nash_jax_prints_our_ids(mbart, inputs):
    model, folder = mbart
    ids = inputs[0][0]  # without padding
    program = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nash_jax", "flax", "torch", "transformers", "orbax"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv[1:] = {[str(folder), *map(str, ids)]!r}
runpy.run_path({str(ROOT / "nash_jax/export/stablehlo/run.py")!r}, run_name="__main__")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.array([done.stdout.split()], int)
    assert count_same(model.generate_ids(*inputs)[:1], found, model.spec.pad_id) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{}", "4"],
            "is a folder without stablehlo/programs.json; expected a folder of save_stablehlo; nash_jax.load",
        ),
        (["{}/none", "4"], "none is not a folder; expected a folder of save_stablehlo; "),
        (["{}", "a text"], "expected a folder of save_stablehlo and the token ids of one input"),
        ([], "expected a folder of save_stablehlo and the token ids of one input"),
    ],
)
def test_the_command_says_what_is_wrong_on_one_line(arguments, message, tmp_path):
    command = [sys.executable, str(ROOT / "nash_jax/export/stablehlo/run.py"), *(a.format(tmp_path) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


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
