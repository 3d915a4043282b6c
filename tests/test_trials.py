"""Settings that are tried with the first seed: the cells they make, the choice, and what is run when."""

import json

import pytest

from nash_jax.config.derived import chosen_stages, lasting_settings
from nash_jax.config.schema import default_config
from nash_jax.errors import UserError
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.files import write_text
from nash_jax.study.grid import read_cells
from nash_jax.study.runner import Study
from nash_jax.study.trials import choose, has_diverged, trial_config, validation_score
from nash_jax.training.writers import JsonlWriter

RATES = {"retrain": {"learning_rate": (1e-3, 2e-3)}}


def study(cells, **settings):
    config = default_config()
    config.update(settings)
    config.cells = cells
    return config


# -- cells ----------------------------------------------------------------------------------------------------


def test_trials_are_cells_of_the_first_seed():
    cells = read_cells(study({"a": {"method": "drop", "seeds": (1, 2), "trials": RATES}, "b": {"trials": RATES}}))
    assert [(c.name, c.group, c.trial, len(c.choices)) for c in cells] == [
        ("a-t1-s1", "a", 1, 0), ("a-t2-s1", "a", 2, 0), ("a-s2", "a", 0, 2), ("b-t1", "b", 1, 0), ("b-t2", "b", 2, 0)
    ]  # fmt: skip
    assert [c.config.retrain.learning_rate for c in cells] == [1e-3, 2e-3, 1e-3, 1e-3, 2e-3]
    assert [(c.seed, c.retrain.learning_rate) for c in cells[2].choices] == [(2, 1e-3), (2, 2e-3)]


def test_settings_are_tried_together():
    """The first value of each, then the second: as many trials as values."""
    both = RATES | {"prune": {"learning_rate": (1e-4, 2e-4)}}
    cells = read_cells(study({"a": {"trials": both, "retrain": {"epochs": 2.0}}}))
    assert [(c.config.prune.learning_rate, c.config.retrain.learning_rate) for c in cells] == [
        (1e-4, 1e-3),
        (2e-4, 2e-3),
    ]
    assert {c.config.retrain.epochs for c in cells} == {2.0}


def test_trials_of_all_cells():
    config = study({"a": {}, "b": {"trials": {}}, "c": {"trials": {"prune": {"sparsity": (0.1, 0.2, 0.3)}}}})
    config.trials = RATES
    assert [cell.name for cell in read_cells(config)] == ["a-t1", "a-t2", "b", "c-t1", "c-t2", "c-t3"]


BROKEN = {
    r"cell a: trials is 3; expected settings with their values, as in \(1e-3, 2e-3\)": 3,
    r"cell a: trials\.retrain\.learning_rate is 0\.001; expected settings with their values": {
        "retrain": {"learning_rate": 1e-3}
    },
    r"cell a: trials with 1 and 2 values; expected as many values of each setting": {
        **RATES,
        "prune": {"learning_rate": (1e-4,)},
    },
    r"cell a: config\.retrain\.learning_rat is not a setting \(did you mean 'learning_rate'\?\)": {
        "retrain": {"learning_rat": (1e-3,)}
    },
    r"cell a: config\.retrain\.learning_rate is -1\.0; expected a number above 0": {
        "retrain": {"learning_rate": (1e-3, -1.0)}
    },
    r"cell a: trials of settings that make the teacher; expected settings of prune, retrain or shorten": {
        "finetune": {"learning_rate": (1e-3, 2e-3)}
    },
    r"cell a: trials without retrain; expected config\.retrain\.epochs above 0: its validation rows choose": {
        "retrain": {"epochs": (0.0, 1.0)}
    },
}


@pytest.mark.parametrize("message", BROKEN)
def test_trials_that_cannot_be_made(message):
    with pytest.raises(UserError, match=f"^{message}"):
        read_cells(study({"a": {"trials": BROKEN[message]}}))


def test_a_seed_twice_is_refused_with_trials_too():
    with pytest.raises(UserError, match="cell a-s1: named twice"):
        read_cells(study({"a": {"seeds": (1, 1), "trials": RATES}}))


# -- the choice -----------------------------------------------------------------------------------------------


def finish(study_folder, cell, scores):
    """What a trial leaves that was run to the end of `retrain`: validation scores, none in the last row."""
    workdir = Workdir(study_folder / "cells" / cell.name, lasting_settings(cell.config))
    rows = [{"phase": "prune", "step": 1, "validation/rougeL": 99.0}]
    rows += [{"phase": "retrain", "step": i, "validation/rougeL": score} for i, score in enumerate(scores)]
    write_text(
        workdir.folder / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in [*rows, {"phase": "retrain"}])
    )
    workdir.run("retrain", lambda folder: {"steps": 3})


def test_scores_that_were_changed_choose_nothing(cells, tmp_path):
    """A trial is chosen by the rows that its phase logged."""
    trial = next(cell for cell in cells if cell.trial)
    folder, log = tmp_path / "cells" / trial.name, JsonlWriter(tmp_path / "cells" / trial.name / "metrics.jsonl")
    workdir = Workdir(folder, lasting_settings(trial.config))
    log.write("retrain", 1, {"validation/rougeL": 12.5})
    workdir.run("retrain", lambda _: {"rows_checksum": log.checksum("retrain")})
    assert validation_score(folder, "rougeL") == 12.5
    write_text(log.path, log.path.read_text().replace("12.5", "92.5"))
    with pytest.raises(UserError, match=r"metrics\.jsonl has no rows of retrain as they were logged"):
        validation_score(folder, "rougeL")


def fail(study_folder, cell, reason):
    folder = study_folder / "cells" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "failed", reason)


NAN = "the loss is nan at step 3 of retrain; expected a finite one"


@pytest.fixture
def cells():
    return read_cells(study({"a": {"seeds": (1, 2), "trials": {"retrain": {"learning_rate": (1e-3, 2e-3, 4e-3)}}}}))


def test_the_best_validation_score_is_chosen_once_all_are_over(cells, tmp_path):
    trials, file = cells[:3], tmp_path / "trials" / "a.json"
    finish(tmp_path, trials[0], [50.0, 61.0, 60.0])
    finish(tmp_path, trials[1], [62.5, 40.0])
    assert choose(trials, tmp_path / "cells", file) is None and not file.exists()
    fail(tmp_path, trials[2], NAN)
    found = choose(trials, tmp_path / "cells", file)
    assert found == {
        "metric": "rougeL",
        "settings": [{"retrain.learning_rate": rate} for rate in (1e-3, 2e-3, 4e-3)],
        "scores": [61.0, 62.5, None],
        "chosen": 2,
    }
    finish(tmp_path, trials[0], [99.0])  # whatever becomes of a trial later, the other seeds have begun
    assert choose(trials, tmp_path / "cells", file) == found
    assert choose(trials[:2], tmp_path / "cells", file)["chosen"] == 1  # other trials, another choice


def test_a_failure_that_is_no_divergence_is_waited_for(cells, tmp_path):
    for reason in ("out of memory", NAN.replace("retrain", "finetune")):  # another teacher may do better
        fail(tmp_path, cells[0], reason)
        assert not has_diverged(tmp_path / "cells" / cells[0].name)
    for cell in cells[1:3]:
        finish(tmp_path, cell, [1.0])
    assert choose(cells[:3], tmp_path / "cells", tmp_path / "a.json") is None


def test_trials_do_not_see_the_test_rows(cells):
    assert chosen_stages(trial_config(cells[0].config)) == tuple(
        name for name in chosen_stages(cells[0].config) if name not in ("evaluate", "benchmark", "export")
    )


def test_states_of_trials(cells, tmp_path, capsys):
    """Before the choice, after it, and for a cell that waits for it."""
    grid = Study(cells, tmp_path)
    finish(tmp_path, cells[0], [61.0])
    assert [grid.state(cell) for cell in cells] == ["tried: 61.00 on validation rows", "waiting", "waiting", "waiting"]
    with pytest.raises(UserError, match=r"cell a-s2 waits for its trials: a-t1-s1 is tried: .*, a-t2-s1 is waiting, "):
        grid.run("a-s2")
    assert not (tmp_path / "cells" / "a-s2").exists()
    finish(tmp_path, cells[1], [62.0])
    fail(tmp_path, cells[2], NAN)
    assert [grid.state(cell) for cell in cells] == [
        "tried: 61.00 on validation rows", "waiting", "diverged: its loss was not finite", "waiting"
    ]  # fmt: skip
    found = grid.gather()
    assert found["records"] == [] and json.loads((tmp_path / "study.json").read_text())["trials"]["a"]["chosen"] == 2
    page = (tmp_path / "report.html").read_text()
    assert "a-t1-s1" not in page and ">a-t2-s1<" in page  # what is over is not among what is left


def test_where_every_trial_diverged_the_others_fail(cells, tmp_path):
    grid = Study(cells, tmp_path)
    for cell in cells[:3]:
        fail(tmp_path, cell, NAN)
    assert grid.state(cells[3]) == "failed: every trial of its group diverged"
