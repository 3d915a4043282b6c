"""ONNX folders: logits and tokens of ONNX Runtime, of a process without jax, and of transformers.js in Node."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import LIMIT, call
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'nash_jax[onnx]'")
ort_errors = pytest.importorskip(
    "onnxruntime.capi.onnxruntime_pybind11_state", reason="onnxruntime is not installed: pip install 'nash_jax[onnx]'"
)

from nash_jax import Seq2Seq  # noqa: E402
from nash_jax.errors import UserError  # noqa: E402
from nash_jax.export import check  # noqa: E402
from nash_jax.export.check import SHAPES, check_model, count_same, log_softmax  # noqa: E402
from nash_jax.export.onnx import folder as onnx_folder  # noqa: E402
from nash_jax.export.onnx.quantize import BLOCK, STORAGES, block_quantize, row_quantize  # noqa: E402
from nash_jax.export.onnx.run import OnnxModel  # noqa: E402
from nash_jax.generation.options import GenerationOptions  # noqa: E402
from nash_jax.spec import FAMILIES  # noqa: E402
from nash_jax.testing import random_params, random_sources, random_spec  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("the cat saw the dog", "dog then bird", "house")


def make_inputs(spec, seed, rows=4):
    """Sources padded on one side, the last one nothing but padding, and decoder inputs without padding."""
    ids, mask = random_sources(spec, seed, rows=rows, length=9, left=seed % 2 == 1)
    ids[-1], mask[-1] = spec.pad_id, 0
    targets = np.random.default_rng(seed).integers(0, spec.vocab_size, (rows, 6))
    return ids, mask, np.where(targets == spec.pad_id, (spec.pad_id + 1) % spec.vocab_size, targets)


def step_by_step(model, ids, mask, targets):
    """Logits [B, T, V] of calls with a cache: two tokens, then one, one, and two."""
    encoded, cache, found = model.encode(ids, mask), None, []
    for first, end in ((0, 2), (2, 3), (3, 4), (4, 6)):
        logits, cache = model.decode(targets[:, first:end], encoded, mask, cache)
        found.append(logits)
    return np.concatenate(found, axis=1)


def compare(spec, params, tmp_path, seed, logits):
    Seq2Seq(spec, params).save_onnx(tmp_path / "model")
    for name in ("encoder_model", "decoder_model_merged"):
        onnx.checker.check_model(str(tmp_path / "model" / "onnx" / f"{name}.onnx"), full_check=True)
    ids, mask, targets = make_inputs(spec, seed)
    expected = log_softmax(logits(spec, params, {"input_ids": ids, "labels": targets}, attention_mask=mask))
    model = OnnxModel(tmp_path / "model", threads=1)
    np.testing.assert_allclose(log_softmax(model.logits(ids, mask, targets)), expected, atol=1e-4)
    np.testing.assert_allclose(log_softmax(step_by_step(model, ids, mask, targets)), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["t5", "umt5", "mbart", "marian", "m2m_100"])  # one of each kind of positions
def test_log_probabilities_of_ragged_models(family, tmp_path, logits):
    compare(*check_model(family, "ragged"), tmp_path, 1, logits)


@pytest.mark.full
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_of_every_kind_of_pruning(family, shape, tmp_path, logits):
    compare(*check_model(family, shape, seed=3), tmp_path, 2, logits)


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.full) for s in range(2, 20))])
def test_log_probabilities_of_any_combination_of_flags(seed, tmp_path, logits):
    spec = random_spec(seed, ragged=seed % 2 == 1, family="custom")
    compare(spec, random_params(spec, seed, scale=0.3), tmp_path, seed, logits)


def test_readers_find_the_names_and_shapes_that_they_know(tmp_path):
    """Of every layer the same, also of one with few heads: this is what config.json can say."""
    spec, params = check_model("bart", "ragged")
    Seq2Seq(spec, params).save_onnx(tmp_path / "model")
    model, config = OnnxModel(tmp_path / "model"), json.loads((tmp_path / "model" / "config.json").read_text())
    assert [given.name for given in model.encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [found.name for found in model.encoder.get_outputs()] == ["last_hidden_state"]
    kinds = [f"{i}.{side}.{kind}" for i in range(3) for side in ("decoder", "encoder") for kind in ("key", "value")]
    assert {given.name for given in model.decoder.get_inputs()} == {
        "input_ids", "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch",
        *(f"past_key_values.{kind}" for kind in kinds),
    }  # fmt: skip
    assert [found.name for found in model.decoder.get_outputs()] == ["logits", *(f"present.{kind}" for kind in kinds)]
    heads = config["decoder_attention_heads"]
    for given in (*model.decoder.get_inputs(), *model.decoder.get_outputs()):
        if ".key" in given.name or ".value" in given.name:
            assert [given.shape[1], given.shape[3]] == [heads, config["d_model"] // heads]
    _, cache = model.decode(np.array([[2], [3]]), np.zeros((2, 5, 32), np.float32), np.ones((2, 5)), None)
    assert {name: value.shape[2] for name, value in cache.items()} == {
        f"past_key_values.{kind}": 1 if "decoder" in kind else 5 for kind in kinds
    }


def test_weights_beyond_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_folder, "LARGEST", 60_000)
    spec, params = check_model("t5", "ragged")
    Seq2Seq(spec, params).save_onnx(tmp_path / "split")
    names = sorted(path.name for path in (tmp_path / "split" / "onnx").iterdir())
    assert names == ["decoder_model_merged.onnx", "decoder_model_merged.onnx_data", "encoder_model.onnx"]
    config = json.loads((tmp_path / "split" / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"decoder_model_merged.onnx": 1}}
    monkeypatch.undo()
    Seq2Seq(spec, params).save_onnx(tmp_path / "whole")
    inputs = make_inputs(spec, 1)
    split, whole = (OnnxModel(tmp_path / name).logits(*inputs) for name in ("split", "whole"))
    np.testing.assert_array_equal(split, whole)


def test_int8_folder_replaces_the_float_folder(tmp_path):
    spec, params = check_model("bart", "ragged")
    model, inputs = Seq2Seq(spec, params), make_inputs(spec, 1, rows=20)
    model.save_onnx(tmp_path)
    whole = log_softmax(OnnxModel(tmp_path).logits(*inputs))
    size = sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir())
    model.save_onnx(tmp_path, quantization="int8")
    names = sorted(path.name for path in (tmp_path / "onnx").iterdir())
    assert names == ["decoder_model_merged_quantized.onnx", "encoder_model_quantized.onnx"]
    rounded = log_softmax(OnnxModel(tmp_path).logits(*inputs))
    assert 0 < np.abs(whole - rounded).mean() < 0.1 * whole.std()
    assert sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir()) < size


@pytest.mark.parametrize("storage", [name for name in STORAGES if name != "float32"])
@pytest.mark.parametrize("family", ["pegasus", "custom"])
def test_each_storage_of_8_bits_is_near_float(family, storage, tmp_path, monkeypatch):
    spec, params = check_model(family, "ragged")
    inputs = make_inputs(spec, 1, rows=20)
    Seq2Seq(spec, params).save_onnx(tmp_path)
    whole = log_softmax(OnnxModel(tmp_path).logits(*inputs))
    monkeypatch.setitem(onnx_folder.QUANTIZATIONS, "int8", (storage, "_quantized"))
    Seq2Seq(spec, params).save_onnx(tmp_path, "int8")
    assert 0 < np.abs(log_softmax(OnnxModel(tmp_path).logits(*inputs)) - whole).mean() < 0.1 * whole.std()


def test_rounding_is_within_half_a_step():
    rows = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    rows[3] = 0
    values, scales = row_quantize(rows)
    assert np.abs((values.astype(np.float32) - 128) * scales[:, None] - rows).max() <= scales.max() / 2 * 1.001
    values, scales = block_quantize(rows)
    back = ((values.astype(np.float32) - 128) * scales[..., None]).reshape(5, -1)
    assert back.shape == (5, 3 * BLOCK) and not back[:, 70:].any()
    assert (np.abs(back[:, :70] - rows) <= np.repeat(scales, BLOCK, axis=1)[:, :70] / 2 * 1.001).all()


@pytest.mark.parametrize("family", ["bart", "m2m_100"])
def test_positions_that_the_model_does_not_have_are_an_error(family, tmp_path):
    spec, params = check_model(family, "shortened")
    Seq2Seq(spec, params).save_onnx(tmp_path / "model")
    model, ids = OnnxModel(tmp_path / "model"), np.full((1, spec.max_positions + 1), 5)
    model.encode(ids[:, : spec.max_positions], ids[:, : spec.max_positions] > 0)
    with pytest.raises((ort_errors.InvalidArgument, ort_errors.Fail, ort_errors.RuntimeException)):
        model.encode(ids, ids > 0)


def test_mistakes(tmp_path, monkeypatch):
    spec, params = check_model("t5", "dense")
    with pytest.raises(UserError, match=r"quantization is 'int4'; expected 'float32' or 'int8'"):
        Seq2Seq(spec, params).save_onnx(tmp_path / "model", quantization="int4")
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr("nash_jax.errors.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: onnx, onnxruntime; .* pip install 'nash_jax\[onnx\]'"):
        Seq2Seq(spec, params).save_onnx(tmp_path / "model")


# -- greedy search in other programs ----------------------------------------------------------------------------


def make_tokenizer():
    """Pieces of words, as every reader of tokenizer.json knows them."""
    words = ["▁the", "▁cat", "▁dog", "▁bird", "▁saw", "▁house", "▁then", *"▁abcdefghijklmnopqrstuvwxyz"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0 - len(word) % 2) for word in words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder with a tokenizer, and the texts of our own greedy search."""
    folder, (spec, params) = tmp_path_factory.mktemp("onnx") / "t5", check_model("t5", "ragged")
    model = Seq2Seq(spec, params, make_tokenizer(), generation=GenerationOptions(max_new_tokens=12))
    model.save_onnx(folder)
    return folder, model.generate(TEXTS)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    """A folder of a model that begins with a language, its inputs, and the ids of our own greedy search."""
    folder, (spec, params) = tmp_path_factory.mktemp("onnx") / "nllb", check_model("m2m_100", "ragged")
    model = Seq2Seq(spec, params, generation=GenerationOptions(max_new_tokens=12, forced_bos_token_id=7))
    model.save_onnx(folder)
    inputs = random_sources(spec, 1, rows=4, length=9)
    return folder, inputs, model.generate_ids(*inputs)


def without_jax(*arguments, rows=None):
    """Runs the file of the loop in a process that cannot import jax, nash_jax, torch or transformers."""
    program = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "nash_jax", "torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv[1:] = {[str(a) for a in arguments]!r}
names = runpy.run_path({str(ROOT / "nash_jax/export/onnx/run.py")!r}, run_name={"__main__" if arguments else "loop"!r})
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program if arguments else program + READ], env=environment, capture_output=True,
        text=True, timeout=LIMIT, check=False, input=rows,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


READ = """
import json, numpy as np
folder, ids, mask = json.load(sys.stdin)
print(json.dumps(names["OnnxModel"](folder, 1).greedy(np.array(ids), np.array(mask)).tolist()))
"""


def test_a_process_without_jax_gives_our_ids(nllb):
    folder, (ids, mask), expected = nllb
    (line,) = without_jax(rows=json.dumps([str(folder), ids.tolist(), mask.tolist()]))
    assert count_same(expected, np.array(json.loads(line)), 0) == 4


def test_the_command_of_the_loop_prints_our_texts(t5):
    folder, texts = t5
    assert without_jax(folder, *TEXTS) == texts and len(set(texts)) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{}/empty", "a text"],
            "empty is a folder without onnx/encoder_model*.onnx; expected a folder of save_onnx",
        ),
        (["{}/none", "a text"], "none is not a folder; expected a folder of save_onnx; nash_jax.load"),
        (["{}/empty"], 'expected a folder of save_onnx and texts: run.py FOLDER "a text"'),
    ],
)
def test_the_loop_says_what_is_wrong_on_one_line(arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, str(ROOT / "nash_jax/export/onnx/run.py"), *(a.format(tmp_path) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.fixture(scope="module")
def node_modules():
    """The folder with transformers.js: that of NASH_JAX_NODE_MODULES, or node_modules of the checkout."""
    place = Path(os.environ.get("NASH_JAX_NODE_MODULES") or ROOT / "node_modules")
    if shutil.which("node") is None:
        pytest.skip("node is not installed: transformers.js is not run")
    if not (place / "@huggingface" / "transformers").is_dir():
        pytest.skip(
            f"{place} has no transformers.js: npm install @huggingface/transformers --ignore-scripts, and name its"
            " node_modules in NASH_JAX_NODE_MODULES"
        )
    return place


def test_the_script_for_node_says_what_is_wrong_on_one_line(node_modules, tmp_path):
    script = str(ROOT / "docs/examples/onnx/generate.mjs")
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    (tmp_path / "model" / "onnx" / "encoder_model_quantized.onnx").touch()
    for arguments, place, message in (
        ([tmp_path], node_modules, "has no onnx/encoder_model*.onnx; expected a folder of save_onnx"),
        ([], node_modules, "no folder; expected one of save_onnx"),
        ([tmp_path / "model", "fp32"], node_modules, "has no graphs of fp32; expected q8"),
        ([tmp_path / "model"], tmp_path, "has no @huggingface/transformers; npm install it here"),
    ):
        done = subprocess.run(
            ["node", script, *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
            env=os.environ | {"NODE_MODULES": str(place)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def in_node(node_modules, folder, rows, dtype="fp32"):
    done = subprocess.run(
        ["node", str(ROOT / "docs/examples/onnx/generate.mjs"), str(folder), dtype], capture_output=True, text=True,
        input="".join(json.dumps(row) + "\n" for row in rows), timeout=LIMIT, check=False,
        env=os.environ | {"NODE_MODULES": str(node_modules)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_rows(ids, mask):
    return [{"ids": row[kept == 1].tolist()} for row, kept in zip(ids, mask, strict=True)]


def test_transformers_js_gives_our_texts(t5, node_modules):
    folder, texts = t5
    assert [row["text"] for row in in_node(node_modules, folder, [{"text": text} for text in TEXTS])] == texts


def test_transformers_js_gives_our_ids(nllb, node_modules):
    folder, inputs, expected = nllb
    for ours, theirs in zip(expected, in_node(node_modules, folder, as_rows(*inputs)), strict=True):
        assert count_same(ours[None], np.array([theirs["ids"]]), 0) == 1, (ours, theirs)


@pytest.mark.parametrize("family", ["custom", *(pytest.param(f, marks=pytest.mark.full) for f in ("umt5", "pegasus"))])
def test_transformers_js_reads_families_that_it_does_not_know(family, tmp_path, node_modules):
    spec, params = check_model(family, "ragged")
    Seq2Seq(spec, params, generation=GenerationOptions(max_new_tokens=12)).save_onnx(tmp_path / "model")
    inputs = random_sources(spec, 1, rows=4, length=9)
    expected = OnnxModel(tmp_path / "model").greedy(*inputs)  # which the table of nash_jax.export.check holds to ours
    for ours, theirs in zip(expected, in_node(node_modules, tmp_path / "model", as_rows(*inputs)), strict=True):
        assert count_same(ours[None], np.array([theirs["ids"]]), 0) == 1, (ours, theirs)


def test_transformers_js_reads_int8_and_weights_in_a_second_file(tmp_path, monkeypatch, node_modules):
    monkeypatch.setattr(onnx_folder, "LARGEST", 10_000)
    spec, params = check_model("mt5", "ragged")
    Seq2Seq(spec, params).save_onnx(tmp_path / "model", quantization="int8")
    assert len(list((tmp_path / "model" / "onnx").glob("*_quantized.onnx_data"))) == 2
    ids = random_sources(spec, 1, rows=1, length=9)[0]
    expected = OnnxModel(tmp_path / "model").greedy(ids, np.ones_like(ids), 8)
    found = in_node(node_modules, tmp_path / "model", [{"ids": ids[0].tolist(), "max_new_tokens": 8}], "q8")
    assert count_same(expected, np.array([found[0]["ids"]]), 0) == 1


# -- the table --------------------------------------------------------------------------------------------------


def test_the_command_compares(monkeypatch):
    monkeypatch.setattr(check, "FAMILIES", {"t5": {}})
    monkeypatch.setattr(check, "SHAPES", ("shortened",))
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    done = call(check.main, "--format=onnx", "--inputs=5", "--new_tokens=6")
    assert done.returncode == 0, done.stderr
    cells = [part.strip() for part in done.stdout.splitlines()[-1].split("|")][1:-1]
    family, shape, difference, same, beams, size = cells
    assert (family, shape, same, beams) == ("t5", "shortened", "5 of 5", "–")
    assert 0 < float(difference) <= 1e-4 and int(size) > 50


def test_the_command_sees_a_difference(monkeypatch):
    """A scale that the graph would not know is a difference that the table shows."""
    real = onnx_folder.make_parts
    monkeypatch.setattr(
        onnx_folder,
        "make_parts",
        lambda spec, params, storage: real(dataclasses.replace(spec, output_scale=1.1), params, storage),
    )
    row = check.compare("t5", "shortened", "onnx", 5, 6)
    assert row.difference > 0.01


def test_the_command_refuses_an_unknown_format():
    assert "expected --format=" in call(check.main).stderr
    assert call(check.main, "--format=wax").returncode == 2
