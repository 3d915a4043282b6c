"""The latency table: its fit against times made from a known table, its sums, its file, and the command."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.benchmark.latency_entries import (
    ENCODER_KINDS,
    ENCODING,
    FIXED,
    GENERATION,
    HEAD,
    KINDS,
    LAYERS,
    LOOP,
    SOURCE,
    Curve,
    curve_sizes,
    knots,
)
from nash_jax.benchmark.latency_fit import Timed, fit
from nash_jax.benchmark.latency_shapes import random_shape, with_vocabulary
from nash_jax.benchmark.latency_store import Check, LatencyTable, cache_path, describe_machine, read_table, save_table
from nash_jax.benchmark.latency_table import describe_table, get_table, main, predict, speedup
from nash_jax.benchmark.latency_timing import Setup
from nash_jax.errors import UserError
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

SIZES = {"d_model": 16, "num_heads": 8, "d_ff": 64, "encoder_layers": 6, "decoder_layers": 5}
DENSE = dense_spec(vocab_size=200, **SIZES)
TOPS = dict(zip(KINDS, (5.0, 8.0, 12.0, 15.0, 20.0, 3.0, 60.0), strict=True))


def make_table(seed=0, dense=DENSE):
    """A table with random increments; `TOPS` are its last values."""
    rng, curves = np.random.default_rng(seed), {}
    for kind, sizes in curve_sizes(dense).items():
        steps = rng.dirichlet(np.ones(len(sizes) - 1)) * TOPS[kind]
        curves[kind] = Curve(sizes, tuple(itertools.accumulate(steps.tolist(), initial=0.0)))
    fixed = {SOURCE: 3.0, LOOP: 9.0} | {LAYERS[side]: 0.5 * (dense.bias or not dense.pre_norm) for side in LAYERS}
    return LatencyTable(dense, Setup(), curves, fixed, {"processor": "none", "cores": 1}, 0)


def add_up(table, spec, what=GENERATION):
    """The sum of a model's entries, written out."""
    ms, crossed = 0.0, any(layer.cross_heads for layer in spec.decoder)
    stays = spec.bias or not spec.pre_norm
    if crossed:
        for e in spec.encoder:
            ms += table.curves["encoder attention"].at(len(e.heads)) + table.curves["encoder FFN"].at(e.ffn)
            ms += table.fixed[LAYERS["encoder"]] * stays
        for d in spec.decoder:
            ms += table.curves["cross-attention keys, values"].at(len(d.cross_heads))
    ms += table.fixed[SOURCE]
    if what == ENCODING:
        return ms
    for d in spec.decoder:
        ms += table.curves["decoder self-attention"].at(len(d.self_heads)) + table.curves["decoder FFN"].at(d.ffn)
        ms += table.curves["decoder cross-attention"].at(len(d.cross_heads)) + table.fixed[LAYERS["decoder"]] * stays
    return ms + table.fixed[LOOP] + table.curves[HEAD].at(spec.vocab_size)


def synthetic_times(table, count, noise, both=True):
    rng, found = np.random.default_rng(7), []
    for spec in [table.dense, *(random_shape(table.dense, seed) for seed in range(count))]:
        for what in (GENERATION, ENCODING)[: 1 + both]:
            found.append(Timed(spec, what, add_up(table, spec, what) * float(np.exp(noise * rng.normal()))))
    return found


def errors(table, times, **settings):
    curves, fixed = fit(table.dense, times, **settings)
    fitted = dataclasses.replace(table, curves=curves, fixed=fixed)
    others = [random_shape(table.dense, 1000 + seed) for seed in range(30)]
    return np.array([predict(fitted, spec) / add_up(table, spec) - 1 for spec in others]), fitted


# -- shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("largest", "sizes"), [(0, (0,)), (1, (0, 1)), (4, (0, 1, 2, 3, 4)), (3, (0, 1, 2, 3))])
def test_sizes_of_a_curve(largest, sizes):
    assert knots(largest) == sizes
    assert knots(3072) == (0, 1, 768, 1536, 2304, 3072)


def test_random_shapes_differ_and_are_no_larger():
    shapes = [random_shape(DENSE, seed) for seed in range(200)]
    assert {len(s.encoder) for s in shapes} == set(range(1, 7))
    assert {len(s.decoder) for s in shapes} == set(range(1, 6))
    assert {len(layer.heads) for s in shapes for layer in s.encoder} == set(range(9))
    units = [layer.ffn for s in shapes for layer in s.decoder]
    assert min(units) == 0 and max(units) == 64 and len(set(units)) > 50
    assert 0.5 < np.mean([s.vocab_size == 200 for s in shapes]) < 0.7
    assert np.std([np.mean([layer.ffn for layer in s.encoder]) for s in shapes]) > 12  # whole models differ too
    assert random_shape(DENSE, 3) == random_shape(DENSE, 3)


def test_a_small_vocabulary_has_the_special_ids():
    small = with_vocabulary(dense_spec(vocab_size=200, family="bart", **SIZES), 20)
    assert small.vocab_size == 20 and max(small.pad_id, small.eos_id, small.decoder_start_id) < 20
    assert with_vocabulary(DENSE, 200) == DENSE


# -- the fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("both", [True, False], ids=["encodings too", "generations alone"])
def test_the_fit_finds_a_table_without_noise(family, both):
    """Without the weight that makes curves straight, it is exact."""
    table = make_table(dense=dense_spec(vocab_size=200, family=family, **SIZES))
    times = synthetic_times(table, 80, 0.0, both)
    found, _ = errors(table, times, smoothness=0.0)
    assert abs(found).max() < 1e-6
    found, _ = errors(table, times)
    assert np.median(abs(found)) < 0.02 and abs(found).max() < 0.1


def test_curves_are_straight_where_times_do_not_bend_them():
    """One model has two sizes of each curve at most: those between lie on a line."""
    table = make_table()
    _, fitted = errors(table, synthetic_times(table, 0, 0.0))
    for kind, (sizes, ms) in fitted.curves.items():
        slopes = np.diff(ms[1:]) / np.diff(sizes[1:])
        assert slopes == pytest.approx(np.full(len(slopes), slopes[0]), abs=1e-4), kind


def test_the_fit_averages_noise():
    """Times that are wrong by 5 % make predictions that are wrong by less."""
    table = make_table()
    found, _ = errors(table, synthetic_times(table, 80, 0.05))
    assert np.median(abs(found)) < 0.03


@given(st.integers(0, 1000), st.floats(0, 0.5), st.integers(1, 30))
def test_curves_never_fall_whatever_the_times(seed, noise, count):
    _, fitted = errors(make_table(seed), synthetic_times(make_table(seed), count, noise))
    for curve in fitted.curves.values():
        assert curve.ms[0] == 0 and np.all(np.diff(curve.ms) >= 0) and np.isfinite(curve.ms).all()
    assert min(fitted.fixed.values()) >= 0 and set(fitted.fixed) == set(FIXED)
    assert fitted.fixed[LAYERS["encoder"]] == 0  # a T5 layer without sub-layers is no layer


# -- predictions ----------------------------------------------------------------------------------------------


def test_a_prediction_is_the_sum_of_the_entries():
    for family, seed in itertools.product(("t5", "bart"), range(20)):
        table = make_table(seed, dense_spec(vocab_size=200, family=family, **SIZES))
        spec = random_shape(table.dense, seed)
        assert predict(table, spec) == pytest.approx(add_up(table, spec))
        assert speedup(table, spec) == pytest.approx(add_up(table, table.dense) / add_up(table, spec))


def test_a_prediction_is_exact_at_the_sizes_and_linear_between():
    table = make_table()
    first, second = table.curves["decoder FFN"].ms[2:4]
    spec = dataclasses.replace(DENSE, decoder=DENSE.decoder[:1])

    def of(units):
        return predict(table, dataclasses.replace(spec, decoder=(dataclasses.replace(spec.decoder[0], ffn=units),)))

    assert curve_sizes(DENSE)["decoder FFN"] == (0, 1, 16, 32, 48, 64)
    assert of(16) - of(0) == pytest.approx(first)
    assert of(32) - of(16) == pytest.approx(second - first)
    assert of(20) == pytest.approx(0.75 * of(16) + 0.25 * of(32))


def test_a_model_without_cross_attention_does_not_encode():
    table = make_table()
    bare = dataclasses.replace(DENSE, decoder=tuple(dataclasses.replace(d, cross_heads=()) for d in DENSE.decoder))
    no_encoder = dataclasses.replace(bare, encoder=())
    assert predict(table, bare) == predict(table, no_encoder)
    kept = dataclasses.replace(DENSE, encoder=())
    assert predict(table, DENSE) - predict(table, kept) == pytest.approx(
        6 * sum(TOPS[kind] for kind in ENCODER_KINDS[:2])
    )


def test_only_models_of_the_family_up_to_its_sizes():
    table = make_table()
    with pytest.raises(UserError, match=r"spec\.d_model is 32; expected that of the table, 16"):
        predict(table, dense_spec(vocab_size=200, **SIZES | {"d_model": 32, "head_dim": 2}))
    with pytest.raises(UserError, match=r"spec\.gated is True; expected that of the table, False"):
        speedup(table, dataclasses.replace(DENSE, gated=True))
    wide = dataclasses.replace(DENSE, encoder=(dataclasses.replace(DENSE.encoder[0], ffn=65),))
    with pytest.raises(UserError, match="encoder FFN has size 65; expected no more than the table's 64"):
        predict(table, wide)


def test_errors_of_milliseconds_and_of_speedups():
    check = Check((11.0, 18.0), (10.0, 20.0), 50.0, 40.0)
    assert check.errors() == pytest.approx([0.1, -0.1])
    assert check.errors(50.0) == pytest.approx([1.1 * 0.8 - 1, 0.9 * 0.8 - 1])  # the machine was faster in the check


# -- files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_saved_table_is_the_same(tmp_path):
    table = dataclasses.replace(make_table(), check=Check((1.0,), (2.0,), 3.0, 4.0), seconds=5.5)
    save_table(table, tmp_path / "new" / "table.json")
    assert read_table(tmp_path / "new" / "table.json") == table
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"table\.json cannot be written"):
        save_table(table, tmp_path / "file" / "table.json")


def test_the_place_of_a_table_is_that_of_all_that_counts(cache):
    machine = describe_machine("jax")
    assert machine["versions"].keys() >= {"nash_jax", "jax", "jaxlib"} and machine["cores"] >= 1
    usual = cache_path(DENSE, Setup(), machine, (40, 20, 4))
    others = [cache_path(DENSE, Setup(**change), machine, (40, 20, 4)) for change in (
        {"dtype": "bfloat16"}, {"batch_size": 2}, {"source_length": 128}, {"new_tokens": 32}, {"engine": "other"},
    )]  # fmt: skip
    others += [cache_path(DENSE, Setup(), machine | change, (40, 20, 4)) for change in (
        {"device": "1 × H200"}, {"processor": "other"}, {"cores": 96}, {"versions": {}}, {"xla_flags": "--x"},
    )]  # fmt: skip
    others += [cache_path(dataclasses.replace(DENSE, vocab_size=7), Setup(), machine, (40, 20, 4))]
    others += [cache_path(DENSE, Setup(), machine, (41, 20, 4))]
    assert len({usual, *others}) == len(others) + 1
    assert usual == cache_path(DENSE, Setup(), describe_machine("jax"), (40, 20, 4))
    assert usual.is_relative_to(cache / "nash_jax" / "latency")


def drop(name):
    return lambda found: found.pop(name)


def change(kind, ms):
    return lambda found: found["curves"][kind].update(ms=ms)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop("curves"), "is damaged: KeyError"),
        (drop("table_version"), "is damaged: KeyError"),
        (lambda found: found.update(table_version=99), "has table_version 99; expected 1; measure it again"),
        (lambda found: found["curves"].pop(HEAD), "is damaged: .*entries"),
        (lambda found: found["fixed"].update({LOOP: None}), "is damaged: .*None ms"),
        (lambda found: found["fixed"].update({LOOP: True}), "is damaged: .*True ms"),
        (lambda found: found["curves"][HEAD].update(sizes=[0, 1]), "is damaged: .*LM head"),
        (lambda found: found["dense"].update(d_model="x"), "spec.d_model is 'x'"),
        (lambda found: found.update(setup=3), "is damaged: TypeError"),
        (change("encoder FFN", [0, 1, 2, 3, 4]), "is damaged: .*encoder FFN"),
        (change("encoder FFN", [0, 1, 2, 3, 4, 3]), "is damaged: .*encoder FFN"),
        (change("encoder FFN", [0, 1, 2, 3, 4, float("nan")]), "is damaged: .*nan ms"),
        (change("encoder FFN", [-1, 1, 2, 3, 4, 5]), "is damaged: .*-1 ms"),
    ],
)
def test_a_damaged_table_is_refused(damage, says, tmp_path):
    found = json.loads(make_table().to_json())
    damage(found)
    (tmp_path / "table.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=says):
        read_table(tmp_path / "table.json")


# -- measured -------------------------------------------------------------------------------------------------

TINY = dense_spec(vocab_size=29, d_model=8, d_ff=4, num_heads=2, encoder_layers=1, decoder_layers=1)
SHORT = Setup(source_length=4, new_tokens=2)


def test_a_table_is_measured_once_and_again_if_it_is_damaged(cache, tmp_path, capsys):
    """The command, on a model from disk: two tiny shapes and one to check."""
    Seq2Seq(TINY, random_params(TINY)).save(tmp_path / "model")
    command = ["latency_table", f"--model={tmp_path / 'model'}", "--source_length=4", "--new_tokens=2"]
    command += ["--shapes=1", "--held_out=1", "--visits=1", f"--output={tmp_path / 'out.json'}"]
    assert main([*command, f"--picture={tmp_path / 'picture.svg'}"]) == 0
    first = capsys.readouterr()
    assert "| LM head | each token | 0: 0 |" in first.out and "milliseconds of 1 other shapes: error" in first.out
    assert "model 2/2" in first.err and "visit 2/2" in first.err
    table = read_table(tmp_path / "out.json")
    assert predict(table, TINY) > 0 and len(table.check.measured_ms) == 1 and table.check.measured_ms[0] > 0
    assert "<svg" in (tmp_path / "picture.svg").read_text()
    assert main(command) == 0
    second = capsys.readouterr()
    assert (second.out, second.err) == (first.out, "")
    (kept,) = (cache / "nash_jax" / "latency").iterdir()
    kept.write_text(kept.read_text()[:-9])
    again = get_table(TINY, SHORT, 1, 1, 1)
    assert "is not JSON" in (err := capsys.readouterr().err) and "it is measured again" in err
    assert read_table(kept) == again != table


def test_a_table_of_another_engine(cache, capsys):
    """CTranslate2, in its own int8; a table of ours is another one, and a type that it does not have is refused."""
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: pip install 'nash_jax[ctranslate2]'")
    table = get_table(TINY, SHORT._replace(engine="ctranslate2", dtype="int8"), 3, 1, 1)
    assert "ctranslate2" in table.machine["versions"] and "jax" not in table.machine["versions"]
    assert predict(table, TINY) > 0 and table.check.measured_ms[0] > 0
    assert len(list((cache / "nash_jax" / "latency").iterdir())) == 1
    command = ["latency_table", "--preset=t5-small", "--engine=ctranslate2", "--dtype=float64"]
    assert main(command) == 2 and "dtype is 'float64'" in capsys.readouterr().err


def test_a_table_of_another_machine_is_not_taken(cache, capsys):
    path = cache_path(TINY, SHORT, describe_machine("jax"), (1, 0, 1))
    save_table(dataclasses.replace(make_table(dense=TINY), setup=SHORT), path)
    table = get_table(TINY, SHORT, 1, 0, 1)
    assert "is of another model, setup or machine; it is measured again" in capsys.readouterr().err
    assert table.check.errors().size == 0 and "error" not in "".join(describe_table(table))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "command line: no model, or two; expected either --model=FOLDER or --preset=NAME"),
        (["--preset=t5-base", "--model=x"], "command line: no model, or two"),
        (["--preset=t5-bas"], "unknown preset 't5-bas'"),
        (["--preset=t5-base", "--batch_sizes=0"], "--batch_sizes is 0; expected whole numbers of 1 or more"),
        (
            ["--preset=t5-base", "--engine=jx"],
            "--engine is 'jx' (did you mean 'jax'?); expected one of jax, ctranslate2",
        ),
        (["--preset=t5-base", "--picture=x.pdf"], "--picture is 'x.pdf'; expected a name that ends in .png or .svg"),
        (["--preset=t5-base", "--dtype=int9"], "dtype is 'int9' (did you mean 'int8'?); expected one of float32, "),
        (["--preset=t5-base", "--shapes=0"], "command line: "),
    ],
)
def test_refusals_before_anything_is_measured(flags, says, capsys):
    assert main(["latency_table", *flags]) == 2
    assert says in capsys.readouterr().err
