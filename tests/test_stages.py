"""The table of stages, and what a run's context keeps in memory."""

import pytest

from nash_jax.config.derived import all_stages
from nash_jax.config.schema import STAGES, Config, HalfwayConfig
from nash_jax.errors import UserError
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.stages import STAGE_TABLE, check_needs, run_stages
from nash_jax.recipe.workdir import Workdir


def test_the_table_has_the_stages_of_the_settings_in_their_order():
    assert tuple(stage.name for stage in STAGE_TABLE) == STAGES
    for number, stage in enumerate(STAGE_TABLE):
        assert set(stage.needs) <= set(STAGES[:number]), stage.name


def test_every_stage_but_the_first_follows_one():
    assert [stage.name for stage in STAGE_TABLE if not stage.needs] == ["data"]


@pytest.mark.parametrize("stage", [stage for stage in STAGE_TABLE if stage.needs], ids=lambda stage: stage.name)
def test_what_a_stage_needs_is_done_or_asked_for(stage, tmp_path):
    workdir = Workdir(tmp_path, {})
    check_needs({stage.name, *stage.needs, *STAGES[: STAGES.index(stage.name)]}, workdir)
    with pytest.raises(UserError, match=f"stage {stage.name} needs the result of {stage.needs[0]}, which is not done"):
        check_needs({stage.name}, workdir)


def test_a_stage_that_the_run_does_not_have_is_not_needed(tmp_path):
    workdir = Workdir(tmp_path, {})
    workdir.run("finetune", lambda folder: {})
    check_needs({"shorten"}, workdir, all_stages(Config()))
    with pytest.raises(UserError, match="stage shorten needs the result of halfway"):
        check_needs({"shorten"}, workdir, all_stages(Config(halfway=HalfwayConfig(decoder_layers=2))))


def test_models_that_no_later_stage_needs_are_released(tmp_path, monkeypatch):
    context = RunContext(Config(), Workdir(tmp_path, {}), mesh=None)
    seen = {}

    def run(name: str, work: object) -> dict:
        context._models[name] = (None, {})
        seen[name] = sorted(context._models)
        return own(name, lambda folder: {})

    own = context.workdir.run
    monkeypatch.setattr(context.workdir, "run", run)
    run_stages(STAGES, context)
    assert seen["retrain"] == ["compact", "finetune", "retrain"]
    assert seen["export"] == ["export", "retrain"]
    assert not context._models


def test_the_given_model_is_released_once_there_is_a_fine_tuned_one(tmp_path):
    context = RunContext(Config(), Workdir(tmp_path, {}), mesh=None, given=object())
    context.release(())
    assert "given" in context.__dict__
    context.workdir.run("finetune", lambda folder: {})
    context.release(())
    assert "given" not in context.__dict__
