"""Config files and their arguments: what is set, what is refused, and that full-size models of them can be trained."""

import importlib.util
import random
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from seeds import some

from nash_jax.config.parsing import parse_config
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import check_positions
from nash_jax.models.initialize import param_shapes
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS, make_constraints, make_gates, target_sparsities
from nash_jax.pruning.objective import PruningObjective
from nash_jax.recipe.layer_importance import depths_of, find_candidates
from nash_jax.recipe.presets import MODELS, TRAINING_PRESETS, parse_arguments
from nash_jax.spec import preset
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import build_student, make_step

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = {path.stem: path for path in sorted(CONFIGS.glob("*.py")) if "task_config" in path.read_text()}


def get_config(name: str, arguments: str = ""):
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arguments) if arguments else module.get_config()


def tasks_of(name: str) -> list[str]:
    """The values of `task=` that a config file takes; one empty name where it has one task."""
    with pytest.raises(UserError) as refusal:
        get_config(name, "task=?")
    return re.sub(".*expected one of ", "", str(refusal.value)).split(", ") if "task=?" in str(refusal.value) else [""]


# -- every config ---------------------------------------------------------------------------------------------


def test_every_task_of_the_table_has_a_config():
    named = {get_config(name, f"task={task}" if task else "").task.name for name in FILES for task in tasks_of(name)}
    assert named == set(TASKS) and {task.recipe for task in TASKS.values()} == set(TRAINING_PRESETS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FILES)
def test_every_task_model_and_method_is_a_whole_config(name, model):
    for task in tasks_of(name):
        for method in (name for name in METHODS if not METHODS[name].has_target):
            layers = ",layers=2" if METHODS[method].counts_layers else ""
            arguments = f"model={model},method={method},sparsity=0.45{layers}" + (f",task={task}" if task else "")
            config = parse_config(get_config(name, arguments))
            assert (config.method, config.prune.sparsity) == (method, 0.45)
            assert not layers or config.shorten.decoder_layers == 2
            assert config.model.init == MODELS[model] and config.model.dtype == "bfloat16"
            assert config.task.prompt == ("plain" if "bart" in model else "t5")
            assert config.task.name == (task or name) and config.task.metric == TASKS[task or name].metric
            check_positions(preset(model), config)
            find_candidates(config, depths_of(preset(model)))
            epochs = config.prune.prepruning_epochs + config.prune.sparsity_warmup_epochs
            assert epochs < config.prune.epochs or config.prune.epochs == 0


@pytest.mark.parametrize("name", FILES)
def test_a_docstring_says_what_was_not_run(name):
    text = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
    assert list(re.findall(r"^(\w+): ", text, re.M)) == ["Command", "Hardware", "Time", "Expected"]
    for field in ("Time", "Expected"):
        assert re.search(rf"^{field}: +not yet run here", text, re.M)
    for file, arguments in re.findall(r"configs/(\w+)\.py:(\S+)", text):
        assert file == name
        parse_config(get_config(name, arguments))


# -- the published numbers (NASH's released scripts) ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "finetune", "prune", "retrain"),
    [  # finetune: epochs, batch, rate; prune: epochs, before, warm-up; retrain: epochs
        ("samsum", "", (20, 8, 3e-4), (20, 4, 10), 20),
        ("samsum", "model=bart-base", (20, 8, 1e-5), (20, 4, 10), 20),
        ("narrativeqa", "", (20, 8, 3e-4), (20, 4, 10), 20),
        ("cnn_dailymail", "model=bart-large", (3, 8, 1e-5), (3, 0, 1), 3),
        ("xsum", "model=flan-t5-base", (3, 8, 3e-4), (3, 0, 1), 3),
        ("glue", "task=mrpc", (20, 16, 3e-4), (100, 4, 80), 20),
        ("glue", "task=mnli", (20, 16, 3e-4), (20, 1, 2), 20),
        ("superglue", "task=copa", (20, 16, 3e-4), (200, 4, 100), 20),
        ("local", "model=t5-base", (20, 8, 3e-4), (20, 4, 10), 20),
        ("local", "model=bart-base,recipe=small_glue", (20, 16, 1e-5), (100, 4, 80), 20),
    ],
)
def test_published_settings(name, arguments, finetune, prune, retrain):
    config = get_config(name, arguments)
    f, p, r = config.finetune, config.prune, config.retrain
    assert (f.epochs, f.batch_size, f.learning_rate) == finetune
    assert (p.epochs, p.prepruning_epochs, p.sparsity_warmup_epochs) == prune
    assert (r.epochs, r.batch_size, r.learning_rate) == (retrain, 8, 3e-4)
    assert (p.batch_size, p.learning_rate, p.gate_learning_rate, p.sparsity) == (16, 3e-5, 0.01, 0.3)
    assert p.freeze_embeddings and {phase.optimizer for phase in (f, p, r)} == {"adamw"}
    assert {(phase.schedule, phase.warmup_ratio) for phase in (f, p, r)} == {("linear", 0)} and config.seed == 57


def test_only_news_is_searched_by_beams():
    found = {name: get_config(name).evaluate for name in FILES}
    assert {name for name, own in found.items() if own.num_beams > 1} == {"cnn_dailymail"}
    assert (found["cnn_dailymail"].num_beams, found["cnn_dailymail"].length_penalty) == (4, 0.6)


@pytest.mark.parametrize(("model", "layers"), [("t5-small", 3), ("t5-base", 3), ("bart-base", 3), ("t5-large", 6)])
def test_a_quarter_of_a_deep_decoder_stays(model, layers):
    assert get_config("samsum", f"model={model}").shorten.decoder_layers == layers


def test_own_files_take_a_published_recipe_on_demand():
    fresh, given = get_config("local"), get_config("local", "model=bart-base,recipe=small_glue,layers=2")
    assert fresh.model.init == "" and given.model.init == "facebook/bart-base"
    assert (given.prune.epochs, given.shorten.decoder_layers, given.task.prompt) == (100, 2, "plain")
    assert given.task.source == fresh.task.source == "files"
    assert get_config("local", "recipe=long_generation").model.init == "google-t5/t5-base"
    for recipe in TRAINING_PRESETS:
        parse_config(get_config("local", f"recipe={recipe}"))


def test_the_quickstart_takes_a_method_and_a_size():
    config = parse_config(get_config("quickstart", "method=nash_auto,layers=3,sparsity=0.5"))
    assert (config.method, config.shorten.decoder_layers, config.prune.sparsity) == ("nash_auto", 3, 0.5)
    counting = "nash, nash_auto, oneshot, drop, scratch"
    with pytest.raises(UserError, match=f"layers=3 with method=cofi; expected one of the methods {counting}"):
        get_config("quickstart", "method=cofi,layers=3")
    with pytest.raises(UserError, match=r"config.shorten.decoder_layers is 7; expected no more than"):
        parse_config(get_config("quickstart", "layers=7"))
    with pytest.raises(UserError, match=r"'model' is no argument.*; expected method=… layers=… sparsity=…"):
        get_config("quickstart", "model=t5-base")


# -- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("modle=t5-base", r"'modle' is no argument \(did you mean 'model'\?\); expected model=… method=… layers=…"),
        ("bart-base", "'bart-base' is no argument.*; expected model=…"),
        ("model=bart-bse", r"model=bart-bse \(did you mean 'bart-base'\?\); expected one of t5-small, .*, bart-large"),
        ("model", "model=; expected one of"),
        (
            "method=cofii",
            r"method=cofii \(did you mean 'cofi'\?\); expected one of nash, nash_auto, cofi, oneshot, drop,",
        ),
        ("layers=0", "layers=0; expected a whole number above 0"),
        ("layers=3.5", "layers=3.5; expected a whole number above 0"),
        ("layers=" + "9" * 5000, "layers=9+; expected a whole number above 0"),  # more digits than Python reads
        ("layers=13", "layers=13; expected at most 12, the decoder layers of t5-base"),
        ("model=bart-base,layers=7", "layers=7; expected at most 6, the decoder layers of bart-base"),
        ("sparsity=1", "sparsity=1; expected a share from 0 up to, not including, 1"),
        ("sparsity=-0.1", "sparsity=-0.1; expected a share"),
        ("sparsity=nan", "sparsity=nan; expected a share"),
        ("sparsity=30%", "sparsity=30%; expected a share"),
        ("layers=3,layers=4", "layers is given twice; expected each argument once"),
        ("layers=3,", "'' is no argument"),
        ("task=xsum", "'task' is no argument"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(UserError, match=f"^--config=FILE:ARGUMENTS: {message}"):
        get_config("samsum", arguments)


def test_any_text_is_read_or_refused_with_what_there_is():
    rng, tasks = random.Random(57), ["a", "b"]
    names = ["model", "task", "layers", "sparsity", "method", "layer", ""]
    values = ["t5-base", "a", "3", "0", "0.5", "nash", "1e-3", "é", "", "=", ","]
    methods = {name for name in METHODS if not METHODS[name].has_target}
    good = {"model": set(MODELS), "task": set(tasks), "method": methods, "layers": {"3"}}
    good["sparsity"] = {"0", "0.5", "1e-3"}
    outcomes = []
    for _ in range(3000):
        parts = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(1, 4))]
        text = ",".join(f"{name}={value}" for name, value in parts)
        right = len(dict(parts)) == len(parts) and all(value in good.get(name, ()) for name, value in parts)
        try:
            assert parse_arguments(text, {"model": MODELS, "task": tasks}) == dict(parts) and right
        except UserError as error:
            assert "; expected " in str(error) and not right
        outcomes.append(right)
    assert 50 < sum(outcomes) < 2950


# -- full size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", some(sorted(MODELS, key=lambda name: name.endswith(("large", "t5-base"))), few=3))
def test_full_size_models_are_trained_and_pruned_in_shape(model):
    config = parse_config(get_config("cnn_dailymail", f"model={model}"))
    dense = preset(model)
    ids = {"input_ids": config.task.max_source_length, "labels": config.task.max_target_length}

    def shapes_after_a_step(spec, phase, pruner, params):
        tx = make_optimizer(phase, 10)
        step = make_step(StudentLoss(build_student(spec, config.model), phase.distill, None, pruner), tx)
        batch = {name: jax.ShapeDtypeStruct((2, length), jnp.int32) for name, length in ids.items()}
        more = pruner.initial_params(jax.random.key(0)) if pruner else {}
        state = jax.eval_shape(lambda own: make_state({"model": own} | more, tx, 0), params)
        after, metrics = jax.eval_shape(step, state, {}, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert metrics["loss"].shape == () and metrics["loss"].dtype == jnp.float32

    params = param_shapes(dense)
    shapes_after_a_step(dense, config.finetune, None, params)
    kept = {side: list(found.layers) for side, found in find_candidates(config, depths_of(dense)).items()}
    spec = jax.eval_shape(lambda own: select_layers(dense, own, **kept)[1], params)
    short = select_layers(dense, params, **kept)[0]
    assert len(short.decoder) == config.shorten.decoder_layers and spec.keys() == param_shapes(short).keys()
    constraints = make_constraints(short, target_sparsities(config.method, config.prune.sparsity))
    gates = make_gates(short, config.method, config.prune.units_droprate)
    shapes_after_a_step(short, config.prune, PruningObjective(gates, constraints, 0, 10), param_shapes(short))
