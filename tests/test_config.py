"""Settings: defaults, every field's name, type and range, and the files in configs/."""

import dataclasses
import importlib.util
import math
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nash_jax.config.fields import check_of
from nash_jax.config.parsing import expected, parse_config
from nash_jax.config.schema import Config, DistillConfig, PruneConfig, TrainConfig, default_config
from nash_jax.data.forms import PROMPTS
from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS
from nash_jax.pruning.layer_selection import SELECTIONS
from nash_jax.pruning.methods import METHODS
from nash_jax.recipe.layer_importance import depths_of, find_candidates
from nash_jax.spec import FAMILIES, SIDES, preset
from nash_jax.study.contrasts import read_contrasts
from nash_jax.study.grid import read_cells

ROOT = Path(__file__).resolve().parents[1]
CONFIG_FILES = sorted((ROOT / "configs").glob("*.py"))
WRONG = {  # type of a default → values it must not take, and the words that say what is expected
    bool: ((1, "yes", None), "True or False"),
    int: (("8", 1.5, True, None), "a whole number"),
    float: (("0.1", True, None), "a number"),
    str: ((3, None, ["a"]), "a text"),
    tuple: ((8, ("8",), (1.5,), (True,)), "whole numbers, as in (1, 8, 16)"),
    dict: ((3, "all", None), "a group of fields"),
}
PHASES = ("finetune", "prune", "retrain")
OUT_OF_RANGE = {
    "task.source": ("", "hubb", "Files"),
    "task.form": ("", "texts"),
    "task.prompt": ("", "T5"),
    "task.metric": ("rogue", "bleu"),
    "model.dtype": ("float16", "bf16"),
    "shorten.selection": ("lowest",),
    "shorten.decoder_layers": (-1, 7),  # a fresh model has 6
    "model.decoder_layers": (0, 2),  # of which 3 are kept
    "prune.sparsity": (-0.1, 1.0, 1.5, math.nan),
    "prune.units_droprate": (0.0, 1.0),
    "model.dropout_rate": (-0.1, 1.0),
    **{f"benchmark.{name}": ((), (0,), (8, -1)) for name in ("batch_sizes", "new_tokens")},
    **{f"{phase}.optimizer": ("sgd",) for phase in PHASES},
    **{f"{phase}.schedule": ("step",) for phase in PHASES},
    **{f"{phase}.warmup_ratio": (-0.1, 1.0) for phase in PHASES},
    **{f"{phase}.learning_rate": (0.0, -1e-3, math.nan, math.inf) for phase in PHASES},
    **{f"{phase}.accumulation": (0, -1, 3) for phase in PHASES},  # 16 and 8 are no multiples of 3
    **{f"{phase}.epochs": (-1.0, math.inf) for phase in PHASES},
    **{f"{phase}.distill.logits": (-1.0,) for phase in PHASES},
    **{f"{phase}.distill.temperature": (0.0,) for phase in PHASES},
    **{
        place: (0, -1)
        for place in (
            *(f"task.{name}" for name in ("max_source_length", "max_target_length", "max_new_tokens")),
            *(f"model.{name}" for name in ("d_model", "d_ff", "num_heads", "encoder_layers")),
            *(f"{phase}.{name}" for phase in PHASES for name in ("batch_size", "clip_norm", "eval_every")),
            *(f"benchmark.{name}" for name in ("source_length", "runs")),
            "evaluate.batch_size",
            "prune.gate_learning_rate",
        )
    },
    **{
        place: (-1,)
        for place in (
            "task.max_train_examples",
            "task.max_eval_examples",
            "model.head_dim",
            "prune.prepruning_epochs",
            "prune.sparsity_warmup_epochs",
        )
    },
}


def settings(group=None, place=""):
    """(dotted name, default) of every setting and every group of settings."""
    for name, value in (dataclasses.asdict(Config()) if group is None else group).items():
        yield f"{place}{name}", value
        if isinstance(value, dict):
            yield from settings(value, f"{place}{name}.")


SETTINGS = dict(settings())


def with_value(place, value, name=None):
    """The default settings with another value at a place (a float where a float is wanted), or another name there."""
    values = dataclasses.asdict(Config())
    *groups, last = place.split(".")
    group = values
    for part in groups:
        group = group[part]
    group[name or last] = float(value) if isinstance(group.get(last), float) and type(value) is int else value
    if name:
        del group[last]
    return ConfigDict(values)


def test_defaults_round_trip():
    assert parse_config(default_config()) == Config()
    assert len(SETTINGS) > 70  # the tests below walk over all of them


def test_left_out_fields_have_their_defaults():
    assert parse_config(ConfigDict({"seed": 3, "prune": {"sparsity": 0.5}})) == Config(
        seed=3, prune=PruneConfig(sparsity=0.5)
    )


def test_changes_arrive():
    config = default_config()
    config.update(seed=1)
    config.task.update(name="mine", source="files")
    config.finetune.update(epochs=0.5, accumulation=2)
    config.retrain.distill.logits = 1.0
    config.benchmark.batch_sizes = (4,)
    parsed = parse_config(config)
    assert (parsed.seed, parsed.task.name, parsed.task.source) == (1, "mine", "files")
    assert parsed.finetune == TrainConfig(epochs=0.5, accumulation=2)
    assert parsed.retrain == dataclasses.replace(Config().retrain, distill=DistillConfig(logits=1.0))
    assert parsed.benchmark.batch_sizes == (4,)
    assert parsed.prune == Config().prune


def test_whole_numbers_pass_for_numbers():
    parsed = parse_config(with_value("finetune.epochs", 3))
    assert parsed.finetune.epochs == 3.0 and isinstance(parsed.finetune.epochs, float)
    parsed = parse_config(ConfigDict({"finetune": {"epochs": 3}, "benchmark": {"batch_sizes": [1, 2]}}))
    assert isinstance(parsed.finetune.epochs, float) and parsed.benchmark.batch_sizes == (1, 2)


@pytest.mark.parametrize("place", SETTINGS)
def test_misspelt_name(place):
    *groups, last = place.split(".")
    misspelt = last + last[-1]
    where = ".".join(["config", *groups, misspelt])
    for found in (
        lambda: parse_config(with_value(place, SETTINGS[place], misspelt)),
        lambda: expected(".".join([*groups, misspelt])),
    ):
        with pytest.raises(UserError) as error:
            found()
        message = str(error.value)
        assert message.startswith(f"{where} is not a setting (did you mean {last!r}?); expected one of ")
        assert re.search(rf"\b{last}\b", message.partition("expected")[2])


@pytest.mark.parametrize("place", SETTINGS)
def test_wrong_type(place):
    values, words = WRONG[type(SETTINGS[place])]
    assert expected(place) == words
    for value in values:
        with pytest.raises(UserError, match=re.escape(f"config.{place} is {value!r}; expected {words}")):
            parse_config(with_value(place, value))


@pytest.mark.parametrize("place", OUT_OF_RANGE)
def test_out_of_range(place):
    for value in OUT_OF_RANGE[place]:
        with pytest.raises(UserError, match="config") as error:
            parse_config(with_value(place, value))
        found, _, wanted = str(error.value).partition("; expected ")
        assert place in found or place.rpartition(".")[2] in found or place in wanted
        assert str(value) in found + wanted


def test_a_near_choice_is_named():
    with pytest.raises(UserError, match=r"config.task.metric is 'rogue' \(did you mean 'rouge'\?\); expected one of"):
        parse_config(with_value("task.metric", "rogue"))


def test_ranges_end_where_they_should():
    for place, value in (
        ("prune.sparsity", 0.0),
        ("prune.sparsity", 0.99),
        ("prune.accumulation", 16),
        ("finetune.epochs", 0.0),
        ("shorten.decoder_layers", 0),
        ("shorten.decoder_layers", 6),
    ):
        parse_config(with_value(place, value))


@pytest.mark.parametrize(
    ("stages", "changes", "names"),
    [
        ("evaluate", {"prune.epochs": 1.0}, "prune.epochs"),
        ("data,finetune", {"prune.accumulation": 3}, "prune.batch_size"),
        ("prune,retrain", {"finetune.accumulation": 5}, "finetune.batch_size"),
        ("benchmark", {"shorten.decoder_layers": 99}, "shorten.decoder_layers"),
        ("data", {"retrain.distill.task": 0.0}, "retrain.distill"),
        ("evaluate,benchmark", {"finetune.distill.logits": 1.0}, "finetune.distill"),
    ],
)
def test_settings_of_stages_that_are_not_run_are_not_checked(stages, changes, names):
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    config.stages = stages
    assert parse_config(config).stages == stages
    config.stages = "all"
    with pytest.raises(UserError, match=rf"config\.{names}"):
        parse_config(config)


def test_a_given_model_has_layers_of_its_own():
    config = with_value("shorten.decoder_layers", 12)
    config.model.init = "some/model"
    assert parse_config(config).shorten.decoder_layers == 12


@pytest.mark.parametrize("returned", [None, 3, {"seed": 1}])
def test_what_get_config_must_return(returned):
    with pytest.raises(UserError, match=r"get_config\(\) returned .*; expected the ConfigDict"):
        parse_config(returned)


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_config_files():
    assert {"quickstart", "samsum", "local"} <= {path.stem for path in CONFIG_FILES}


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_config_file(path):
    module = load(path)
    if not hasattr(module, "get_config"):  # a part that others share
        assert any(f"{path.stem} import" in other.read_text() for other in CONFIG_FILES)
        return
    config = module.get_config()
    if "cells" in config:
        cells = read_cells(config)
        assert all(isinstance(cell.config, Config) for cell in cells)
        assert read_contrasts(config, cells) or not config.get("contrasts")
    else:
        assert isinstance(parse_config(config), Config)
    command = " ".join(module.__doc__.split())
    assert re.search(rf"Command: .*--config=configs/{path.stem}\.py", command)
    flags = re.findall(r"--config\.([\w.]+)=", command)
    assert all(name == "contrasts" or expected(name) for name in flags)  # of a study, or settings that exist


@pytest.mark.parametrize("variant", ["pronunciation", "local", "local=12"])
def test_methods_of_a_study_are_trained_alike(variant):
    config = load(ROOT / "configs" / "study.py").get_config(variant)
    config.prune.epochs, config.retrain.epochs = 5.0, 3.0  # as flags would set them
    configs = [cell.config for cell in read_cells(config)]
    assert {own.method for own in configs} == set(METHODS) - {"oneshot", "auto", "latency", "scratch"}
    assert {own.retrain.epochs + (own.prune.epochs if METHODS[own.method].gates else 0) for own in configs} == {8.0}


KEPT = {6: (1, 2, 3, 4, 5, 6), 7: (1, 2, 4, 5, 6, 7), 12: (2, 4, 6, 8, 10, 12)}  # depth → layers of one to six sixths


@pytest.mark.parametrize(("variant", "depth"), [("pronunciation", 6), ("local", 6), ("local=7", 7), ("local=12", 12)])
def test_shapes_of_a_study(variant, depth):
    """drop-E-D keeps E and D sixths: a side of six is whole, each sixth less is a shorter one."""
    cells = read_cells(load(ROOT / "configs" / "study.py").get_config(variant))
    found = {}
    for cell in cells:
        if name := re.fullmatch(r"drop-(\d)-(\d)", cell.group):
            sides = find_candidates(cell.config, dict.fromkeys(SIDES, depth))
            found[int(name[1]), int(name[2])] = tuple(sides[side].keep for side in SIDES)
    assert len(set(found.values())) == len(found) == 15
    assert found == {shape: tuple(KEPT[depth][n - 1] for n in shape) for shape in found}


def test_a_study_of_sixths_needs_six_layers():
    with pytest.raises(UserError, match="local=4; expected the layers of each side of the model, 6 or more"):
        load(ROOT / "configs" / "study.py").get_config("local=4")


PRUNED = {"method": "nash", "prune.sparsity": 0.3, "prune.epochs": 2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune.prepruning_epochs": 2.0, "prune.sparsity_warmup_epochs": 0.0}, "prune.epochs is 2, with prepruning"),
        ({"prune.prepruning_epochs": 1.0, "prune.sparsity_warmup_epochs": 1.5}, "no less than both together"),
        ({"method": "nash_auto", "prune.sparsity": 0.0}, "prune.sparsity is 0 with nash_auto"),
        ({"method": "cofi", "prune.epochs": 0.0}, "prune.epochs is 0 with cofi"),
        ({"finetune.distill.logits": 0.5}, "finetune.distill is changed"),
        ({"retrain.distill.task": 0.0}, "retrain.distill: task, logits and hidden are 0"),
        (
            {
                "prune.distill.task": 0.0,
                "prune.distill.logits": 1.0,
                "prune.prepruning_epochs": 0.0,
                "prune.sparsity_warmup_epochs": 1.0,
            },
            None,
        ),
        ({"prune.prepruning_epochs": 1.0, "prune.sparsity_warmup_epochs": 1.0}, None),
        ({"method": "drop", "prune.prepruning_epochs": 9.0}, None),
        ({"prune.sparsity": 0.0, "prune.prepruning_epochs": 9.0}, None),
        ({"prune.epochs": 0.0, "prune.prepruning_epochs": 9.0}, None),
    ],
)
def test_settings_that_would_train_nothing(settings, message):
    config = default_config()
    config.update_from_flattened_dict(PRUNED | settings)
    if message is None:
        parse_config(config)
    else:
        with pytest.raises(UserError, match=message):
            parse_config(config)


def test_gates_of_more_layers_than_there_are():
    config = default_config()
    config.update_from_flattened_dict({"method": "nash_auto", "model.preset": "t5-small", "shorten.decoder_layers": 7})
    with pytest.raises(UserError, match=r"shorten\.decoder_layers is 7; expected no more than the model's 6"):
        find_candidates(parse_config(config), depths_of(preset("t5-small")))


def test_choices_on_fields_are_the_tables():
    """Names are declared on the fields, so that reading settings imports no metric and no model."""
    fields = {
        "task.metric": METRICS,
        "task.prompt": PROMPTS,
        "model.family": [name for name in FAMILIES if name != "custom"],
        "shorten.selection": SELECTIONS,
        "method": METHODS,
    }
    for place, names in fields.items():
        group, _, name = place.rpartition(".")
        owner = getattr(Config(), group) if group else Config()
        (field,) = [field for field in dataclasses.fields(owner) if field.name == name]
        assert check_of(field).choices == tuple(names), place


def test_an_unknown_form_of_export_is_found_before_a_package_is_missed(monkeypatch):
    monkeypatch.setattr("nash_jax.errors.is_installed", lambda package: False)
    config = default_config()
    config.export = "onnx,tflite"
    with pytest.raises(UserError, match=r"config\.export names 'tflite'; expected some of hf,ct2,ct2_int8,onnx,"):
        parse_config(config)
    config.export = "onnx"
    with pytest.raises(UserError, match=r"not installed: onnx, onnxruntime; .*pip install 'nash_jax\[onnx\]'"):
        parse_config(config)
