"""Mistakes of callers from Python: one message each, never another library's traceback."""

import dataclasses
import inspect
import math
import re
import tempfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nash_jax
from nash_jax import pruning
from nash_jax.axes import check_params
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.generation.arguments import read_count, read_dtype, read_ids, read_mask, read_texts
from nash_jax.generation.options import GenerationOptions
from nash_jax.testing import lively_model

TOKENIZER = build_pronunciation_tokenizer([{"source": "cat", "references": ["K AE T"]}])
SPEC, PARAMS = lively_model(2, vocab_size=len(TOKENIZER))
MODEL = nash_jax.Seq2Seq(SPEC, PARAMS, TOKENIZER)
IDS = np.array([[3, 4, 1], [4, 1, 0]])


@pytest.mark.parametrize(
    "texts",
    [
        ["cat", "tac"],
        ("cat", "tac"),
        (text for text in ["cat", "tac"]),
        np.array(["cat", "tac"]),
        np.array(["cat", "tac"], object),
        pd.Series(["cat", "tac"], index=[7, 9]),
    ],
)
def test_texts_in_order(texts):
    assert read_texts(texts) == ["cat", "tac"]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("cat", "texts is one string, 'cat'; expected a list of texts; write [text]"),
        (b"cat", "texts is one string, b'cat'; expected"),
        (None, "texts is a NoneType; expected a list of texts"),
        (3, "texts is a int; expected"),
        ({"text": "cat"}, "texts is a dict; expected"),
        ({"cat"}, "texts is a set; expected"),
        (np.array("cat"), "texts is a ndarray: iteration over a 0-d array; expected"),
        (["cat", None], "text 1 is None; expected a string"),
        (["cat", float("nan")], "text 1 is nan; expected a string"),
        ([["cat", "tac"]], "text 0 is ['cat', 'tac']; expected a string"),
        ([b"cat"], "text 0 is b'cat'; expected a string"),
        (pd.DataFrame({"text": ["cat"]}), "texts is a table, a DataFrame; expected a list of texts; take one column"),
        (["cat", "a\ud800"], "text 1 holds \\ud800, half of a surrogate pair; expected whole characters"),
    ],
)
def test_texts_that_are_none(texts, says):
    with pytest.raises(UserError, match=re.escape(says)):
        MODEL.generate(texts, max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"skip_special_tokens": "no"}, "skip_special_tokens is 'no'; expected True or False"),
        ({"return_scores": 1}, "return_scores is 1; expected True or False"),
        ({"progress": "never"}, "progress is 'never'; expected True or False"),
        ({"keep_tokens": [5]}, "keep_tokens is [5]; expected a list of special tokens"),
        ({"keep_tokens": None}, "keep_tokens is None; expected a list of special tokens"),
    ],
)
def test_settings_of_outputs_that_are_none(options, says):
    with pytest.raises(UserError, match=re.escape(says)):
        MODEL.generate(["cat"], max_new_tokens=2, **options)


def test_a_generator_is_generated_for():
    expected = MODEL.generate(["cat", "tac"], max_new_tokens=4)
    assert MODEL.generate((text for text in ["cat", "tac"]), max_new_tokens=4) == expected
    assert MODEL.generate([]) == MODEL.generate(iter(())) == []


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)])
def test_dtypes_by_all_their_names(dtype):
    assert read_dtype(dtype) == nash_jax.Seq2Seq(SPEC, PARAMS, dtype=dtype).dtype == "bfloat16"
    assert read_dtype(np.float32) == "float32" and read_dtype("float16") == "float16"


@pytest.mark.parametrize("dtype", ["auto", "fp16", None, 3, "int16", np.int32, float, "float64", [], np.array([1])])
def test_dtypes_that_are_none(dtype, tmp_path):
    for call in (lambda: nash_jax.load(tmp_path, dtype=dtype), lambda: nash_jax.Seq2Seq(SPEC, PARAMS, dtype=dtype)):
        with pytest.raises(UserError, match=r"^dtype is .*; expected one of float32, bfloat16, float16"):
            call()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "4", 2**40, math.nan, [1], np.array([1, 2])])
def test_counts(value):
    with pytest.raises(UserError, match=r"^batch_size is .*; expected a whole number, 1 or more"):
        read_count(value, "batch_size")
    with pytest.raises(UserError, match=r"^batch_size is "):
        MODEL.generate(["cat"], batch_size=value)
    assert read_count(np.int64(3), "batch_size") == 3


def test_ids_and_masks():
    assert read_ids([[3, 1]], "input_ids").tolist() == [[3, 1]] and read_mask([[True, False]]).tolist() == [[1, 0]]
    assert read_mask(jnp.ones((1, 2))).dtype == np.int32
    with pytest.raises(UserError, match=r"^input_ids is no array: .*; expected whole numbers, rows"):
        MODEL.generate_ids([[3, 4, 1], [4, 1]])
    for ids in (None, "cat", [["a"]], [[0.5]], [[None]], {"input_ids": [[3]]}):
        with pytest.raises(UserError, match=r"^input_ids has shape .* and type .*; expected whole numbers"):
            MODEL.generate_ids(ids)
    for mask in ([[1, 2, 0]] * 2, [[0.5] * 3] * 2, [["a"] * 3] * 2, [[math.nan] * 3] * 2, "x"):
        with pytest.raises(UserError, match=r"^attention_mask (holds other values than 0 and 1|is no array)"):
            MODEL.generate_ids(IDS, mask)
    for targets in ([3, 4], [[3]] * 3, [[99], [3]], [[-1], [3]], np.zeros((2, 0), int)):
        with pytest.raises(UserError, match=r"^decoder_input_ids "):
            MODEL.logits(IDS, None, targets)


def test_models_that_are_none(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name in (None, 3, "", b"", ["a"], {}, "a\0b"):
        with pytest.raises(UserError, match=r"^the model is .*; expected a folder, or a name on the hub"):
            nash_jax.load(name)
    with pytest.raises(UserError, match=r"model\.safetensors is a file; expected a folder"):
        nash_jax.load(tmp_path / "model.safetensors")
    for name in ("x" * 300, "~nobody-of-this-name/x", "a b/c d", "../nowhere"):
        with pytest.raises(UserError, match=r"^model"):
            nash_jax.load(name)
    with pytest.raises(UserError, match=r"^spec is a dict; expected a nash_jax.spec.ModelSpec"):
        nash_jax.Seq2Seq({}, PARAMS)
    with pytest.raises(UserError, match=r"^params is a list; expected a nested dict of arrays"):
        nash_jax.Seq2Seq(SPEC, [])
    with pytest.raises(UserError, match=r"^params does not fit the model: missing shared/embedding \(9, 16\);"):
        nash_jax.Seq2Seq(SPEC, {})


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-300, 300), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400, object(), "auto", "a\ud800", "\0", "~x/y", "..", 1j]),
    st.lists(st.one_of(st.none(), st.integers(-3, 30), st.floats(), st.text(max_size=3)), max_size=3),
    st.lists(st.lists(st.integers(-2, 20), max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from([np.zeros((2, 0)), np.array(3), np.array(["a"]), np.array([[1.0]]), np.array([None]), IDS]),
)  # fmt: skip
FUNCTIONS = {
    "load": nash_jax.load, "prune": nash_jax.prune, "Seq2Seq": nash_jax.Seq2Seq,
    "trim_vocabulary": nash_jax.trim_vocabulary,
    **{name: getattr(MODEL, name) for name in ("generate", "generate_ids", "logits", "save", "save_hf", "speculative")},
    **{name: getattr(MODEL, name) for name in ("save_ct2", "save_onnx", "save_stablehlo")},
}  # fmt: skip
USUAL = {  # what is right, to be spoilt one argument after the other
    "load": {"name": "/nowhere"},
    "prune": {"model": MODEL, "data": {}, "workdir": "run"},
    "Seq2Seq": {"spec": SPEC, "params": PARAMS},
    "generate": {"texts": ["cat"], "max_new_tokens": 2},
    "generate_ids": {"input_ids": IDS, "max_new_tokens": 2},
    "logits": {"input_ids": IDS, "attention_mask": None, "decoder_input_ids": IDS},
    "speculative": {"draft": MODEL},
    "save": {"folder": "here"},
    "save_hf": {"folder": "here"},
    "save_ct2": {"folder": "here"},
    "save_onnx": {"folder": "here"},
    "save_stablehlo": {"folder": "here", "platforms": ("none",)},
    "trim_vocabulary": {"model": MODEL, "texts": ["cat"]},
}


def test_every_public_function_is_tried():
    methods = {name for name, _ in inspect.getmembers(nash_jax.Seq2Seq, inspect.isfunction) if name[0] != "_"}
    others = {
        "PruneResult",
        "TrimResult",
        "UserError",
        "__version__",
        "default_config",
    }  # results, an error, no arguments
    assert FUNCTIONS.keys() == (methods | set(nash_jax.__all__)) - others
    assert all(set(inspect.signature(FUNCTIONS[name]).bind(**usual).arguments) for name, usual in USUAL.items())


@pytest.mark.parametrize("name", FUNCTIONS)
@given(data=st.data())
def test_junk_gives_one_message_or_a_result(name, data):
    """Never anything but a UserError; what is written goes to an empty folder."""
    function, kwargs = FUNCTIONS[name], dict(USUAL[name])
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = list(GenerationOptions.__dataclass_fields__) if name in ("generate", "generate_ids") else []
    for argument in data.draw(st.lists(st.sampled_from(known + options), min_size=1, max_size=2, unique=True)):
        kwargs[argument] = data.draw(JUNK, label=argument)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        try:
            function(**kwargs)
        except UserError as error:
            assert str(error) and "\n" not in str(error)


DEEP = dataclasses.replace(SPEC, decoder=SPEC.decoder * 2)
MASKS = {axis: np.ones(size) for axis, size in SPEC.sublayers().values()} | {"embed": np.ones(SPEC.d_model)}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: pruning.make_gates(SPEC, "nahs"),
            r"no gates for the method 'nahs' \(did you mean 'nash'\?\)",
        ),
        (lambda: pruning.make_gates(SPEC, "drop"), r"no gates for the method 'drop'"),
        (lambda: pruning.make_gates(SPEC, units_droprate=1.0), r"units_droprate is 1.0; expected a share between"),
        (lambda: pruning.make_constraints(SPEC, {"encoder": 1.5}), r"the target of 'encoder' is 1.5; expected"),
        (lambda: pruning.make_constraints(SPEC, {"encodr": 0.5}), r"the target of 'encodr' is 0.5; expected"),
        (lambda: pruning.make_constraints(SPEC, {"": math.nan}), r"the target of '' is nan; expected"),
        (lambda: pruning.compact(SPEC, PARAMS, {"encoder.0.ffn.unit": 1}), r"there is no mask .* \(did you mean"),
        (lambda: pruning.compact(SPEC, PARAMS, {"embed": np.ones(3)}), r"the mask embed has shape \(3,\) and type"),
        (lambda: pruning.compact(SPEC, PARAMS, {"encoder.0.ffn": math.nan}), r"the mask encoder.0.ffn has shape \(\)"),
        (lambda: pruning.compact(DEEP, PARAMS, {}), r"params do"),
        (lambda: pruning.select_layers(DEEP, PARAMS, decoder=[0]), r"params do"),
        (lambda: pruning.select_layers(SPEC, PARAMS, decoder=[]), r"cannot keep decoder layers \[\] of"),
        (lambda: pruning.choose_layers(3, 4), r"cannot keep 4 of 3 layers; expected a number from 1 to 3"),
        (lambda: pruning.choose_layers(3, 2, "best"), r"unknown layer selection 'best' by number; expected"),
    ],
)
def test_mistakes_with_the_parts_of_pruning(call, says):
    with pytest.raises(UserError, match=says):
        call()


@given(name=st.sampled_from([*MASKS, *SPEC.sublayers(), "embd", ""]), value=JUNK)
@example(name=next(iter(MASKS)), value=[[], [0]])
@example(name=next(iter(MASKS)), value=[[0, 1], [0]])
def test_junk_masks(name, value):
    try:
        spec, params = pruning.compact(SPEC, PARAMS, MASKS | {name: value})
    except UserError as error:
        assert "mask" in str(error) and "\n" not in str(error)
    else:
        check_params(spec, params)
