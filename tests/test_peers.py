"""The table of peers: real processes, equal outputs, ratios, and what is refused."""

import contextlib
import json
import resource
import time

import numpy as np
import pytest

from nash_jax.benchmark import peers
from nash_jax.benchmark.latency import random_ids
from nash_jax.benchmark.peer_process import PeerProcess
from nash_jax.benchmark.peer_systems import SYSTEMS
from nash_jax.benchmark.peers import burning, main, ratio, summarize, table, time_systems, weights_per_token
from nash_jax.errors import UserError, is_installed
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.testing import lively_model, random_params, random_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    Seq2Seq(*lively_model(0, layers=2, vocab_size=40)).save(place / "dense")
    Seq2Seq(*lively_model(1, layers=1, vocab_size=40)).save(place / "pruned")
    return place


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_system_gives_our_tokens(system, folder, tmp_path):
    package, save, start = SYSTEMS[system]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    model = load(folder / "pruned")
    save(model, tmp_path / "written")
    ids = random_ids(40, 3, 8)
    found = start(tmp_path / "written", 1)(ids, 6, 1)
    expected = model.generate_ids(ids, max_new_tokens=6, min_new_tokens=6)[:, 1:]
    assert found.shape == expected.shape
    if "int8" not in system:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_the_command_times_systems_in_processes_of_their_own(folder, capsys):
    names = ["nash_jax", "ctranslate2 int8"]
    command = ["peers", f"--model={folder / 'pruned'}", f"--dense={folder / 'dense'}", f"--systems={','.join(names)}"]
    command += ["--runs=1", "--starts=1", "--source_length=8", "--new_tokens=6", "--batch_sizes=2", "--burners=1"]
    command += [f"--output={folder / 'peers.json'}"]
    assert main(command) == 0
    rows = json.loads((folder / "peers.json").read_text())["rows"]
    assert [(row["model"], row["system"]) for row in rows] == [(m, s) for m in ("dense", "pruned") for s in names]
    assert all(row["median_ms"] > 0 for row in rows)
    assert rows[0]["same_outputs"] == rows[2]["same_outputs"] == 1
    printed = capsys.readouterr().out
    assert "| 2 | pruned | ctranslate2 int8 |" in printed
    assert "| ms beside burners | loss |" in printed
    assert all(row["busy_ms"] > 0 and row["loss"][0] > 0 for row in rows)
    assert "speedup over dense ctranslate2 int8" in printed


def test_burners_compute_until_the_block_ends():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with burning(2) as count:
        time.sleep(1)
    assert count == 2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 0.1


def test_the_loss_beside_burners(monkeypatch):
    """Quiet calls and calls beside burners are of the same round; without burners there is no loss."""
    burns, asked = [0], []

    class Fake:
        def __init__(self, ms):
            self.ms = ms

        def ask(self, ids, tokens, beams):
            asked.append((burns[0], tokens))
            return self.ms * (1 + burns[0]) * max(tokens, 1), [[1] * tokens] * len(ids)

    @contextlib.contextmanager
    def fake_burning(count):
        burns[0] = count
        yield count
        burns[0] = 0

    @contextlib.contextmanager
    def fake_processes(folders, threads):
        yield {cell: Fake(10.0) for cell in folders}, Fake(1.0)

    monkeypatch.setattr(peers, "burning", fake_burning)
    monkeypatch.setattr(peers, "_processes", fake_processes)
    spec = random_spec(0)
    models, folders = {"pruned": Seq2Seq(spec, random_params(spec))}, {("pruned", "nash_jax"): None}
    given = {
        "batch_sizes": [2],
        "starts": 2,
        "runs": 3,
        "threads": 1,
        "source_length": 4,
        "new_tokens": 5,
        "num_beams": 1,
    }
    rows = summarize(time_systems(folders, 10, given | {"burners": 2}), models, 5)
    assert rows[0]["loss"] == (3, 3, 3) and rows[0]["median_ms"] == 50 and rows[0]["busy_ms"] == 150
    assert asked.count((2, 5)) == 2 * 4 and (2, 1) not in asked
    assert "| 50 |" in table(rows, [])[2] and "| 150 | 3.00 (3.00 to 3.00) |" in table(rows, [])[2]
    quiet = summarize(time_systems(folders, 10, given), models, 5)
    assert "loss" not in quiet[0] and "loss" not in table(quiet, [])[0]


def test_a_ratio_is_that_of_medians_within_its_interval():
    rng = np.random.default_rng(0)
    slow, fast = 20 + rng.normal(size=(3, 7)), 10 + rng.normal(size=(3, 7))
    middle, low, high = ratio(slow.tolist(), fast.tolist())
    assert middle == pytest.approx(np.median(slow) / np.median(fast))
    assert low < middle < high
    assert 1.7 < low < 2 < high < 2.3
    assert ratio(slow.tolist(), slow.tolist())[0] == 1


def test_a_start_that_is_slow_as_a_whole_widens_the_interval():
    """Runs of one start are alike: the interval is over starts too."""
    fast = np.full((3, 7), 10.0)
    slow = fast * np.array([[1.0], [2.0], [3.0]])
    _, low, high = ratio(slow.tolist(), fast.tolist())
    assert (low, high) == (1, 3)


def test_weights_that_a_step_reads():
    spec = random_spec(0, gated=False, tied=True)
    model = Seq2Seq(spec, random_params(spec))
    expected = spec.vocab_size * spec.d_model + spec.d_model  # LM head, final norm
    for layer in spec.decoder:
        heads = 4 * len(layer.self_heads) + 2 * len(layer.cross_heads)  # cross-attention: query and output
        expected += spec.d_model * (heads * spec.head_dim + 2 * layer.ffn + 3)
    assert weights_per_token(model) == expected


def test_a_process_that_has_ended_is_named(tmp_path):
    process = PeerProcess("nash_jax", tmp_path / "none", 1)
    with pytest.raises(UserError, match="the process of nash_jax has ended"):
        process.ask(np.zeros((1, 2), int), 1, 1)
    process.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model, or two"),
        (("--model=x", "--preset=t5-small"), "no model, or two"),
        (("--model=x", "--systems=ctranslate2 int4"), "did you mean 'ctranslate2 int8'?"),
        (("--model=x", "--batch_sizes=1,b"), "--batch_sizes is 1,b"),
        (("--model=x", "--runs=0"), "runs"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["peers", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
