"""What a run keeps of each test row: its file, and that values and resamples come out of it as from the run."""

import dataclasses
import json

import numpy as np
import pytest

from nash_jax.config.schema import Config
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.bootstrap import bootstrap_values
from nash_jax.evaluation.evaluator import Evaluator, score_outputs
from nash_jax.evaluation.metrics import METRICS
from nash_jax.evaluation.row_statistics import RowStatistics, digest_rows, load_statistics, save_statistics
from nash_jax.generation.options import GenerationOptions
from nash_jax.recipe.workdir import Workdir, read_done

LABELS = ["False", "True"]
ROWS = [
    {"task": "wsc", "source": "cat", "references": ["True"], "labels": LABELS, "targets": ["the cat"]},
    {"task": "squad", "source": "tact", "references": ["a cat", "cats"]},
    {"task": "wsc", "source": "act", "references": ["False"], "labels": LABELS, "targets": ["the act"]},
    {"task": "squad", "source": "tac", "references": ["the tac of a cat"]},
]
SAID = {"dense": ["Cat", "cat", "other", "a tac"], "pruned": ["Cat", "dog", "act", "tac of cats"]}


@pytest.fixture
def scored(tmp_path):
    """What a run reports of a mixture, and what it keeps."""
    task = dataclasses.replace(Config().task, mixture="wsc,squad", metric="translation")
    tokenizer = build_pronunciation_tokenizer([{"source": "catr", "references": ["K AE T"]}])
    evaluator, kept = Evaluator(ROWS, tokenizer, task, GenerationOptions(), 8, tmp_path), list[RowStatistics]()
    found = score_outputs(evaluator, {n: (texts, np.ones(4)) for n, texts in SAID.items()}, keep=kept.append)
    assert json.loads(json.dumps(found)) == found
    return found, kept[0]


def test_values_come_out_as_reported(scored, tmp_path):
    """Corpus-level ones too, of all rows and of the tasks of a mixture."""
    reported, kept = scored
    save_statistics(tmp_path / "statistics.npz", kept)
    read = load_statistics(tmp_path / "statistics.npz")
    assert read.rows == kept.rows == digest_rows(ROWS) != digest_rows(ROWS[::-1])
    for model in SAID:
        expected = {name: value for name, value in reported["metrics"][model].items() if name != "generated_length"}
        assert read.values(model) == expected and {"bleu", "chrf", "squad/f1", "wsc/accuracy"} <= expected.keys()
    assert [path.name for path in tmp_path.glob("*.npz")] == ["statistics.npz"]  # nothing partial is left


def test_resamples_are_those_of_the_reported_intervals(scored):
    reported, kept = scored
    for value in ("chrf", "squad/f1"):
        low, high = np.quantile(kept.draws("pruned", value), [0.025, 0.975])
        assert [low, high] == pytest.approx(reported["intervals"]["pruned"][value])
    own = kept.subset("squad/f1")
    assert own.metric == "squad" and len(own.models["dense"]) == 2
    assert kept.draws("dense", "squad/f1", 20) == pytest.approx(
        bootstrap_values(METRICS["squad"], own.models["dense"], own.groups, 20)["f1"]
    )


def test_a_stage_has_its_checksum(scored, tmp_path):
    workdir = Workdir(tmp_path / "run", {})

    def evaluate(folder):
        save_statistics(folder / "statistics.npz", scored[1])
        return {"metrics": {}}

    workdir.run("evaluate", evaluate)
    file = workdir.stage("evaluate") / "statistics.npz"
    read_done(file.parent)
    file.write_bytes(file.read_bytes()[:-9] + b"something")
    with pytest.raises(UserError, match=r"statistics\.npz was changed or is damaged"):
        read_done(file.parent)


def test_any_bit_of_a_marker(scored, tmp_path):
    workdir = Workdir(tmp_path / "run", {})
    workdir.run("evaluate", lambda folder: save_statistics(folder / "statistics.npz", scored[1]) or {"metrics": {}})
    marker = workdir.stage("evaluate") / "done"
    written = marker.read_bytes()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1 << place % 8
        marker.write_bytes(changed)
        with pytest.raises(UserError, match=r"done was changed or is damaged"):
            read_done(marker.parent)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"text", "object", "array"], ids=["empty", "cut", "text", "pickle", "array"]
)
def test_files_that_hold_something_else(content, tmp_path):
    file = tmp_path / "statistics.npz"
    if content == "object":
        np.savez(file, rows=np.array([{}], dtype=object))
    elif content == "array":
        with file.open("wb") as opened:
            np.save(opened, np.ones(3))
    else:
        file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"statistics\.npz holds no statistics of rows: .*; expected the file as it was"
    ):
        load_statistics(file)


def test_runs_of_an_earlier_version_have_none(tmp_path):
    with pytest.raises(
        UserError, match=r"statistics\.npz is missing; expected statistics of the test rows, which runs"
    ):
        load_statistics(tmp_path / "statistics.npz")
