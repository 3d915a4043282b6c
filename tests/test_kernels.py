"""The kernels against NumPy, decoding with them against teacher forcing and XLA, and what runs without a compiler."""

import functools
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import usual_first

from nash_jax import Seq2Seq
from nash_jax.benchmark import kernel_cost
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.kernels import build
from nash_jax.kernels.attention import attend_self, attend_sequence, attend_sequence_by_xla, attend_source, pad_heads
from nash_jax.kernels.matrices import Quantized, argmax, pack, product, quantize, quantized_product, round_rows
from nash_jax.models.attention import by_head
from nash_jax.spec import FAMILIES
from nash_jax.testing import lively_model, random_params, random_sources, random_spec
from nash_jax.tree import flatten, unflatten

pytestmark = pytest.mark.skipif(bool(build.kernel_problem()), reason=build.kernel_problem())


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 1, 1), (2, 3, 16), (3, 4, 17), (5, 18, 40), (11, 64, 33), (1, 500, 4100), (9, 130, 4100)],
)
def test_products_are_those_of_numpy(rows, inputs, outputs, int8):
    rng = np.random.default_rng(rows)
    x, matrix = rng.normal(size=(rows, inputs)), rng.normal(size=(inputs, outputs)).astype(np.float32)
    given = quantize(matrix) if int8 else matrix
    exact = given.integers.astype(float) * given.scales if int8 else matrix
    found = jax.jit(product)(x.astype(np.float32), pack(given))
    np.testing.assert_allclose(found, x @ exact, rtol=1e-5, atol=1e-5 * inputs**0.5)


ATTEND = (attend_sequence, attend_sequence_by_xla)
MANY_ROWS = [(1, 1, 1), (7, 1, 5), (13, 3, 17), (48, 18, 40), (50, 64, 33), (97, 1030, 100)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), MANY_ROWS)
def test_sums_of_integers_are_exact(rows, inputs, outputs):
    rng = np.random.default_rng(rows)
    x, matrix = rng.integers(-127, 128, (rows, inputs)), rng.integers(-127, 128, (inputs, outputs))
    x[:, 0], x[0], matrix[:, -1] = 127, -127, 127
    found = jax.jit(quantized_product)(x.astype(np.float32), pack(Quantized(matrix.astype(np.int8), np.ones(outputs))))
    np.testing.assert_array_equal(found, x @ matrix)  # below 2^24 each


@pytest.mark.parametrize(("rows", "inputs", "outputs"), MANY_ROWS)
def test_rows_are_rounded_as_weights_are(rows, inputs, outputs):
    rng = np.random.default_rng(rows)
    x, given = rng.normal(size=(rows, inputs)).astype(np.float32), quantize(rng.normal(size=(inputs, outputs)))
    x[-1] = 0
    largest = np.abs(x).max(1, keepdims=True)
    integers = np.rint(x * np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest)))
    exact = (integers.astype(int) @ given.integers.astype(int)) * given.scales * (largest / np.float32(127))
    found = jax.jit(quantized_product)(x, pack(given))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(round_rows(jnp.asarray(x)), integers * (largest / 127), rtol=1e-6)


@pytest.mark.parametrize("attends_padding", [False, True])
@pytest.mark.parametrize(("heads", "head_dim", "length"), [(2, 5, 1), (3, 20, 17), (2, 64, 130)])
def test_attention_of_a_sequence(heads, head_dim, length, attends_padding):
    rng, sources = np.random.default_rng(0), 3
    qkv, bias = rng.normal(size=(sources, length, 3, heads, head_dim)), rng.normal(size=(heads, 2 * length - 1))
    padding = np.zeros((sources, length))
    padding[0, length // 2 + 1 :], padding[1, : length // 2], padding[2] = -1e9, -1e9, -1e9  # right, left, all
    given = [jnp.asarray(x, jnp.float32) for x in (qkv.reshape(sources * length, -1), bias, padding)]
    calls = [functools.partial(call, scale=0.3, attends_padding=attends_padding) for call in ATTEND]
    found, by_xla = (np.asarray(jax.jit(call)(*given)).reshape(qkv[:, :, 0].shape) for call in calls)
    distance = np.arange(length)[None] - np.arange(length)[:, None] + length - 1
    scores = 0.3 * np.einsum("BTNH,BSNH->BNTS", qkv[:, :, 0], qkv[:, :, 1]) + bias[:, distance]
    weights = softmax(scores + padding[:, None, None])
    weights[2] = attends_padding / length
    expected = np.einsum("BNTS,BSNH->BTNH", weights, qkv[:, :, 2])
    np.testing.assert_allclose(by_xla, expected, rtol=1e-4, atol=1e-5)
    expected[0, length // 2 + 1 :] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 16), (3, 37), (5, 5000)])
def test_argmax_is_the_first_of_the_largest(rows, size):
    scores = np.random.default_rng(size).integers(9, size=(rows, size)).astype(np.float32)  # with ties
    scores[0, : size // 2] = -np.inf
    np.testing.assert_array_equal(jax.jit(argmax)(scores), scores.argmax(1))


def test_eight_bits_are_off_by_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * np.float32([1e-3, 1, 5, 1, 9, 1, 0])
    integers, scales = quantize(matrix)
    assert integers.dtype == np.int8
    assert (np.abs(integers * scales - matrix) <= scales / 2 * (1 + 1e-5)).all()
    np.testing.assert_array_equal(np.abs(integers).max(0), [127] * 6 + [0])
    again, _ = quantize(integers * scales)
    np.testing.assert_array_equal(again, integers)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(("heads", "head_dim", "length"), [(3, 5, 9), (8, 64, 300), (1, 100, 40)])
def test_self_attention_reads_each_position_from_its_ancestor(heads, head_dim, length):
    rng, rows, position = np.random.default_rng(0), 4, length - 3
    keys, values = rng.normal(size=(2, rows, length, heads, head_dim))
    qkv, bias = rng.normal(size=(rows, 3, heads, head_dim)), rng.normal(size=(heads, 2 * length - 1))
    ancestors = rng.integers(rows, size=(rows, length))
    ancestors[:, position] = range(rows)
    cache = tuple(pad_heads(by_head(jnp.asarray(x, jnp.float32))) for x in (keys, values))
    given = [jnp.asarray(x, jnp.float32) for x in (qkv.reshape(rows, -1), bias)]
    found, cache = jax.jit(lambda *x: attend_self(*x, 0.3))(
        given[0], cache, given[1], jnp.asarray(ancestors, jnp.int32), jnp.int32(position)
    )
    keys[:, position], values[:, position] = qkv[:, 1], qkv[:, 2]
    seen = np.arange(position + 1)
    own_keys, own_values = (x[ancestors[:, seen], seen] for x in (keys, values))  # [R, t, N, H]
    by_distance = bias[:, length - 1 + seen - position]
    weights = softmax(0.3 * np.einsum("RNH,RTNH->RNT", qkv[:, 0], own_keys) + by_distance)
    expected = np.einsum("RNT,RTNH->RNH", weights, own_values).reshape(rows, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache[0], pad_heads(by_head(jnp.asarray(keys, jnp.float32))))
    np.testing.assert_allclose(cache[1], pad_heads(by_head(jnp.asarray(values, jnp.float32))))


@pytest.mark.parametrize("attends_padding", [False, True])
def test_cross_attention_leaves_padding_out(attends_padding):
    rng, sources, beams, length = np.random.default_rng(1), 3, 2, 130
    query = rng.normal(size=(sources * beams, 8, 64))
    keys, values = rng.normal(size=(2, sources, length, 8, 64))
    bias = np.zeros((sources, length))
    bias[0, 40:], bias[1, :7], bias[2, :9], bias[2, 9:] = -1e9, -1e9, -1e9, -2e9  # right, left, nothing else
    cross = tuple(pad_heads(by_head(jnp.asarray(x, jnp.float32))) for x in (keys, values))
    found = jax.jit(lambda *a: attend_source(*a, 0.1, attends_padding=attends_padding))(
        jnp.asarray(query.reshape(6, -1), jnp.float32), cross, jnp.asarray(bias, jnp.float32)
    )
    scores = 0.1 * np.einsum("BKNH,BSNH->BKNS", query.reshape(sources, beams, 8, 64), keys)
    weights = softmax(scores + bias[:, None, None])
    weights[2] = 0
    weights[2, ..., :9] = attends_padding / 9  # scores vanish beside -1e9
    expected = np.einsum("BKNS,BSNH->BKNH", weights, values).reshape(6, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def random_model(seed, **flags):
    family = [*FAMILIES][seed % len(FAMILIES)]
    spec = random_spec(seed, family=family, ragged=seed // len(FAMILIES) % 2 == 0, **flags)
    return spec, random_params(spec, seed)


def check_against_teacher_forcing(engine, seed):
    """Scores of generated tokens are the log-probabilities of teacher forcing, and the tokens its most probable."""
    ids, mask = random_sources(engine.spec, seed, rows=3, length=9)
    found = engine.generate_scored(ids, mask, GenerationOptions(max_new_tokens=10, min_new_tokens=10))
    logits = engine.logits(ids, mask, found.ids[:, :-1])
    forced = np.array(jax.nn.log_softmax(logits))
    own = np.take_along_axis(forced, found.ids[:, 1:, None], axis=2)[..., 0]
    np.testing.assert_allclose(found.token_log_probs, own, rtol=1e-4, atol=1e-4)
    forced[..., engine.spec.eos_id] = -np.inf
    np.testing.assert_allclose(own, forced.max(-1), atol=1e-4)


@pytest.mark.parametrize("family", usual_first(FAMILIES))
def test_decoding_is_teacher_forcing_in_every_family(family):
    """Ragged layers: other heads in each, and sub-layers that are gone."""
    seed = [*FAMILIES].index(family)
    check_against_teacher_forcing(Engine(*random_model(seed), "float32", True), seed)


@pytest.mark.parametrize("family", usual_first(FAMILIES))
def test_int8_is_the_same_with_and_without_kernels(family):
    seed = [*FAMILIES].index(family)
    spec, params = random_model(seed)
    ids, mask = random_sources(spec, seed, rows=3, length=9)
    options = GenerationOptions(max_new_tokens=6, min_new_tokens=6)
    found = [Engine(spec, params, "int8", kernels).generate_scored(ids, mask, options) for kernels in (True, False)]
    # a value may lie half between two 8-bit steps, and fall to either side: XLA's own does, with weights 1e-7 away
    away = (Engine(spec, nudged(params, i), "int8", False).generate_scored(ids, mask, options) for i in range(8))
    assert any(
        np.array_equal(found[0].ids, other.ids)
        and np.allclose(found[0].token_log_probs, other.token_log_probs, 0, 1e-5)
        for other in itertools.chain(found[1:], away)
    )


def nudged(params, seed):
    """Each number times about 1 ± 1e-7."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x * (1 + 1e-7 * rng.standard_normal(x.shape))).astype(np.float32), params)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(200), ids=lambda seed: f"{[*FAMILIES][seed % len(FAMILIES)]}-{seed}")
def test_tokens_are_those_of_xla(seed):
    spec, params = random_model(seed)
    ids, mask = random_sources(spec, seed, rows=3, length=9)
    options = GenerationOptions(max_new_tokens=10, num_beams=1 + 2 * (seed % 4 == 3))
    found = [Engine(spec, params, kernels=kernels).generate_scored(ids, mask, options) for kernels in (False, True)]
    np.testing.assert_array_equal(found[1].ids, found[0].ids)
    np.testing.assert_allclose(found[1].log_probs, found[0].log_probs, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=["float32", "int8"])
def engines(request):
    """The same model without and with kernels."""
    return [Engine(*lively_model(0, layers=2, vocab_size=40), request.param, kernels) for kernels in (False, True)]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "seed": 3},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_every_search_gives_the_tokens_of_xla(engines, options):
    ids, mask = random_sources(engines[0].spec, 5, rows=3, left=True)
    prompts = np.array([[0, 7, 9], [0, 8, 8], [0, 9, 4]])
    chosen = GenerationOptions(max_new_tokens=12, **options)
    found = [e.generate_scored(ids, mask, chosen, decoder_input_ids=prompts) for e in engines]
    np.testing.assert_array_equal(found[1].ids, found[0].ids)
    np.testing.assert_allclose(found[1].token_log_probs, found[0].token_log_probs, rtol=1e-4, atol=1e-4)


def test_a_stream_has_the_tokens_of_generate(engines):
    options, (ids, mask) = GenerationOptions(max_new_tokens=12), random_sources(engines[1].spec, 2, rows=1)
    inputs, found = pad_inputs(ids, mask, np.arange(1), 0), []
    streamed = engines[1].stream_padded(inputs, options, found.append)
    assert streamed.tolist() == engines[0].generate_padded(inputs, options).tolist() == [[0, *found]]


def test_int8_rounds_all_matrices():
    spec, params = lively_model(0)
    flat, rounded = flatten(params), flatten(Engine(spec, params, "int8").params)
    changed = {path for path in flat if not np.array_equal(flat[path], rounded[path])}
    decoder = (
        "self_attention/qkv",
        "self_attention/out",
        "cross_attention/q",
        "cross_attention/kv",
        "cross_attention/out",
    )
    ffn = {f"{side}/layers_0/ffn/{name}" for side in ("encoder", "decoder") for name in ("wi", "wo")}
    encoder = {f"encoder/layers_0/attention/{name}" for name in ("qkv", "out")}
    assert changed == {"lm_head"} | ffn | encoder | {f"decoder/layers_0/{name}" for name in decoder}
    again = flatten(Engine(spec, unflatten(rounded), "int8").params)
    np.testing.assert_allclose(again["lm_head"], rounded["lm_head"], rtol=1e-6)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [("", r"no C\+\+ compiler"), ("no-such-compiler -x", "no-such-compiler"), ("false", "false failed")],
)
def test_a_compiler_that_is_none(compiler, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=message):
        build._find_library()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


PROGRAM = """
import os, sys
import numpy as np
import nash_jax
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.testing import lively_model
assert os.listdir(os.environ["XDG_CACHE_HOME"]) == [], "importing starts no compiler"
engines = [Engine(*lively_model(0), "int8"), Engine(*lively_model(0), kernels=True)]
ids = np.array([[5, 7, 9]])
print([e.generate(ids, ids > 0, GenerationOptions(max_new_tokens=5)).tolist() for e in engines])
"""


def test_without_a_compiler_xla_decodes_the_same_tokens(tmp_path):
    changed = {"XDG_CACHE_HOME": str(tmp_path), "CXX": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids = np.array([[5, 7, 9]])
    options = GenerationOptions(max_new_tokens=5)
    ours = [Engine(*lively_model(0), dtype).generate(ids, ids > 0, options).tolist() for dtype in ("int8", "float32")]
    assert done.stdout.strip() == str(ours)
    assert done.stderr.count("note: decoding without kernels, in float32: ") == 1


def test_the_table_of_times_has_a_row_for_each_number_of_rows(monkeypatch, capsys):
    monkeypatch.setattr(kernel_cost, "preset", lambda name: lively_model(0, layers=2)[0])
    command = ["kernel_cost", "--decoder_layers=1", "--rows=2,4", "--num_beams=2", "--source_length=8", "--runs=1"]
    assert kernel_cost.main([*command, "--new_tokens=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["2", "4"]
    assert "kernels int8" in lines[0]
    assert kernel_cost.main([*command, "--rows=1"]) == 2
    assert "--rows is 1; expected whole numbers, not below --num_beams" in capsys.readouterr().err


def test_int8_is_a_dtype_of_a_model_but_not_of_stablehlo(tmp_path):
    spec, params = lively_model(0)
    model = Seq2Seq(spec, params, dtype="int8")
    assert model.engine.dtype == "int8"
    with pytest.raises(UserError, match="dtype is int8; expected float32 or bfloat16 for StableHLO"):
        model.save_stablehlo(tmp_path / "programs")
