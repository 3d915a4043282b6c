"""`target_speedup`: candidates under a time, the search over them, and a run that begins with it."""

import dataclasses
import json

import numpy as np
import pytest
from commands import call
from html_page import Page
from safetensors.numpy import load_file
from small_run import SETTINGS, make_flags

import nash_jax
from nash_jax.benchmark.latency_entries import FIXED, KINDS, Curve, curve_sizes
from nash_jax.benchmark.latency_store import LatencyTable, cache_path, describe_machine, read_table, save_table
from nash_jax.benchmark.latency_table import measure_table, predict, speedup
from nash_jax.benchmark.latency_timing import Setup
from nash_jax.main import main
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.recipe.search import next_budget
from nash_jax.recipe.search_harm import Harm, measure_harm, most_important, sizes_to_try
from nash_jax.recipe.search_space import MOST_CANDIDATES, Space
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params

ROWS = {"train": 64, "validation": 8, "test": 4}
QUICK = SETTINGS | {"finetune.epochs": 0.0, "retrain.epochs": 2.0, "prune.importance_rows": 16}
DENSE = dense_spec(vocab_size=40, d_model=16, d_ff=32, num_heads=4, encoder_layers=3, decoder_layers=4)


def make_table(dense, head=0.5, unit=0.05, fixed=1.0):
    """A table of straight lines: milliseconds of a head, of a unit, and of what is always there."""
    curves = {
        kind: Curve(sizes, tuple(size * (0.0 if kind == "LM head" else unit if "FFN" in kind else head)
                                 for size in sizes))
        for kind, sizes in curve_sizes(dense).items()
    }  # fmt: skip
    return LatencyTable(dense, Setup(), curves, dict.fromkeys(FIXED, fixed), {}, 0)


def make_harm(dense, seed=0):
    """Harms that grow with what is cut."""
    rng = np.random.default_rng(seed)
    sublayers = {
        name: {size: float(weight * (1 - size / whole) ** 2) for size in sizes_to_try(whole)}
        for (name, (_, whole)), weight in zip(dense.sublayers().items(), rng.uniform(size=99), strict=False)
    }
    depths = {
        side: {n: 0.1 * (len(layers) - n) for n in range(1, len(layers) + 1)}
        for side, layers in (("encoder", dense.encoder), ("decoder", dense.decoder))
    }
    return Harm(sublayers, depths)


def spec_of(candidate, dense):
    """The compact model of a candidate."""
    importance = {axis: np.arange(size) for axis, size in dense.sublayers().values()}
    short = select_layers(dense, random_params(dense), encoder=candidate.encoder, decoder=candidate.decoder)
    return compact(*short, candidate.masks(importance))[0]


@pytest.mark.parametrize("target", [1.1, 1.5, 2.0, 3.0])
def test_candidates_are_as_fast_as_asked(target):
    """By the table's own prediction of the compact model, and none could be a layer deeper without narrowing."""
    table = make_table(DENSE)
    space = Space(table, make_harm(DENSE), "uniform")
    found = space.candidates(space.dense_ms / target)
    assert 1 < len(found) <= MOST_CANDIDATES and len({own.name for own in found}) == len(found)
    assert [own.harm for own in found] == sorted(own.harm for own in found)
    assert any(own.plain for own in found)
    for own in found:
        spec = spec_of(own, DENSE)
        assert (len(spec.encoder), len(spec.decoder)) == own.depths
        assert predict(table, spec) == pytest.approx(own.predicted_ms)
        assert own.predicted_ms <= space.dense_ms / target * (1 + 1e-6)
        whole = select_layers(DENSE, random_params(DENSE), encoder=own.encoder, decoder=own.decoder)[0]
        assert own.plain == (spec == whole)


def test_the_fastest_candidate():
    space = Space(make_table(DENSE), make_harm(DENSE), "uniform")
    one = space.fastest()
    assert one.depths == (1, 1) and space.candidate(1, 1, one.predicted_ms) == one
    assert space.candidates(0.999 * one.predicted_ms) == []
    assert {name for name, size in one.sizes.items() if size} == {"decoder.0.cross_attention"}


def test_the_next_budget():
    """Where times are a constant and a share of what the table says, two tries say how much is wanted."""
    tries = []
    ms = 10.0
    for _ in range(3):
        tries.append((ms, 30 / (4 + 0.8 * ms)))
        ms = next_budget(tries, 3.2)
    assert 30 / (4 + 0.8 * ms) == pytest.approx(3.2)
    assert next_budget([(10.0, 2.0), (9.0, 2.0)], 4.0) == 4.5  # a faster machine in between: no more than half


@pytest.mark.slow
def test_harm_of_sublayers_and_depths():
    """Nothing narrowed does no harm; half of the units are fitted, so they do less harm than when merely cut."""
    dense = dataclasses.replace(DENSE, encoder=DENSE.encoder[:2], decoder=DENSE.decoder[:2])
    params, rng = random_params(dense, scale=0.3), np.random.default_rng(0)
    batch = {name: rng.integers(2, 40, (8, 6)).astype(np.int32) for name in ("input_ids", "labels")}
    importance = {axis: rng.uniform(size=size) for axis, size in dense.sublayers().values()}
    config = nash_jax.config.schema.ModelConfig()
    found = measure_harm(dense, params, [batch], importance, config, "uniform")
    assert found.sublayers.keys() == dense.sublayers().keys()
    for name, own in found.sublayers.items():
        whole = dense.sublayers()[name][1]
        assert list(own) == list(sizes_to_try(whole)) and own[whole] == 0.0 and own[0] > 0
    assert found.depths["encoder"][2] == 0.0 and list(found.depths["decoder"]) == [2, 1]
    assert Harm.from_json(json.loads(json.dumps(found.to_json()))) == found

    model = nash_jax.Seq2Seq(dense, params)
    axis = "decoder.1.ffn.units"
    cut = nash_jax.Seq2Seq(*compact(dense, params, {axis: most_important(importance[axis], 16)}))
    start = np.full((8, 1), dense.decoder_start_id)
    inputs = np.concatenate([start, batch["labels"][:, :-1]], axis=1)
    p, q = (own.logits(batch["input_ids"], None, inputs).astype(np.float64) for own in (model, cut))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    kl = float((np.exp(p) * (p - q)).sum(-1).mean())
    assert 0 < found.sublayers["decoder.1.ffn"][16] < kl


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run with a target, on a table that was made from fewer models than usual."""
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        flags = make_flags(folder, ROWS, QUICK | {"target_speedup": 1.2})
        setup = Setup("jax", "float32", 1, 8, 4)
        dense = nash_jax.load(folder / "model").spec
        table = measure_table(dense, setup, shapes=3, held_out=1, visits=1)
        save_table(table, cache_path(dense, setup, describe_machine("jax"), (40, 20, 4)))
        done = call(main, *flags, f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_with_a_target(searched):
    workdir, printed = searched
    report = json.loads((workdir / "report.json").read_text())
    found = report["search"]
    assert report["method"] == "auto" and found["target"] == 1.2
    assert "search: round 1 of 3" in printed
    assert read_table(workdir / "search" / "latency.json").dense == nash_jax.load(workdir / "finetune/model").spec
    chosen = [own for own in found["candidates"] if own["chosen"]]
    assert len(chosen) == 1 and len(chosen[0]["losses"]) == max(len(own["losses"]) for own in found["candidates"])
    assert chosen[0]["tries"][-1]["measured"] > 0 and chosen[0]["measured"] == found["measured"]
    trained = [own["measured"] for own in found["candidates"] if own["losses"]]
    if min(trained) < 1.2:  # a busy machine found none: then the fastest, and it says so
        assert trained == [max(own["measured"] for own in found["candidates"])]
        assert "no model is as fast as asked" in printed
    assert not (workdir / "search" / "trials").exists()
    masks = load_file(workdir / "search" / "masks.safetensors")
    short, fitted, small = (nash_jax.load(workdir / stage / "model") for stage in ("shorten", "prune", "compact"))
    assert (len(short.spec.encoder), len(short.spec.decoder)) == (
        len(found["kept_encoder_layers"]), len(found["kept_decoder_layers"])
    )  # fmt: skip
    assert compact(fitted.spec, fitted.params, masks)[0] == small.spec


@pytest.mark.slow
def test_the_report_of_a_search(searched):
    workdir, _ = searched
    page = Page((workdir / "report.html").read_text())
    assert page.faults == [] and "KL before training" in page.texts and "Search" in page.texts


@pytest.mark.slow
def test_a_target_out_of_reach(tmp_path, searched):
    """Refused before anything is trained, with what can be reached."""
    workdir, _ = searched
    cache = workdir.parent / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        flags = make_flags(tmp_path, ROWS, QUICK | {"target_speedup": 500})
        done = call(main, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and "config.target_speedup is 500; expected no more than" in done.stderr


@pytest.mark.full
def test_a_run_whose_gates_pay_for_time(tmp_path, searched, logits):
    """On the same table; what the report says is predicted of the compact model, which is the masked one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(searched[0].parent / "cache"))
        settings = {"target_speedup": 1.2, "method": "latency", "prune.epochs": 6.0, "prune.gate_learning_rate": 0.6}
        flags = make_flags(tmp_path, ROWS, QUICK | settings)
        done = call(main, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    dense, small = (nash_jax.load(tmp_path / "run" / stage / "model") for stage in ("prune", "compact"))
    table = read_table(tmp_path / "run" / "prune" / "latency.json")
    assert report["method"] == "latency" and report["target"]["asked"] == 1.2 and "search" not in report
    assert report["target"]["predicted"] == pytest.approx(speedup(table, small.spec))
    masks, batch = load_file(tmp_path / "run" / "prune" / "masks.safetensors"), random_batch(dense.spec)
    masked = logits(dense.spec, dense.params, batch, masks)
    assert np.abs(logits(small.spec, small.params, batch) - masked).max() <= 1e-5 * np.abs(masked).max()
    page = (tmp_path / "run" / "report.html").read_text()
    assert Page(page).faults == [] and "Speedup: 1.20 asked" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "latency", "prune.epochs": 0}, "config.prune.epochs is 0 with latency"),
        ({"method": "drop"}, "config.method is drop with target_speedup 2; expected latency or auto with a"),
        ({"target_speedup": 0.5}, "config.target_speedup is 0.5; expected a number above 1"),
        ({"target_speedup": 0, "method": "auto"}, "config.method is auto with target_speedup 0"),
        ({"shorten.vocabulary": True}, "config.shorten.vocabulary is set, with target_speedup; expected one of"),
        ({"halfway.decoder_layers": 1}, "config.halfway is set, with target_speedup"),
        ({"shorten.selection": "importance"}, "config.shorten.selection is 'importance', with target_speedup"),
    ],
)
def test_settings_that_contradict_a_target(tmp_path, settings, message):
    flags = make_flags(tmp_path, ROWS, QUICK | {"target_speedup": 2} | settings)
    done = call(main, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "run").exists()


def test_a_table_of_another_model():
    space = Space(make_table(DENSE), make_harm(DENSE), "uniform")
    with pytest.raises(nash_jax.UserError, match="d_model"):
        predict(make_table(DENSE), dataclasses.replace(DENSE, d_model=8))
    assert space.pairs() == [(e, d) for e in (1, 2, 3) for d in (1, 2, 3, 4)] and set(KINDS) >= set(curve_sizes(DENSE))
