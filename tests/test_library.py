"""The library: `nash_jax.prune` is the recipe, and the parts compose to the same."""

import doctest
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import nash_jax
import nash_jax.pruning
from nash_jax.config.parsing import parse_config
from nash_jax.data.sources import load_rows
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.recipe.run import PruningRun
from nash_jax.report.model_card import write_cards
from nash_jax.tree import flatten

ROOT = Path(__file__).resolve().parents[1]


def quickstart():
    """The quickstart's config, smaller: a narrow model, a few steps."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "configs" / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.task.update(max_train_examples=400, max_source_length=8, max_target_length=8, max_eval_examples=40)
    config.model.update(d_model=16, d_ff=24, decoder_d_ff=16, num_heads=2, encoder_layers=2, decoder_layers=3)
    config.benchmark.update(batch_sizes=(1,), runs=2)
    for phase in (config.finetune, config.prune, config.retrain):
        phase.update(epochs=0.5, batch_size=32, optimizer="adamw", eval_every=1.0)
    config.prune.update(sparsity_warmup_epochs=0.25)
    return config


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The run that the main command makes."""
    run = PruningRun(parse_config(quickstart()), tmp_path_factory.mktemp("recipe") / "run")
    run.run()
    return run


@pytest.fixture(scope="module")
def teacher(recipe):
    """Its fine-tuned model, with the tokenizer."""
    model = nash_jax.load(recipe.workdir.stage("finetune") / "model")
    tokenizer = load_tokenizer(str(recipe.workdir.stage("data") / "tokenizer"))
    return nash_jax.Seq2Seq(model.spec, model.params, tokenizer, generation=model.generation)


@pytest.fixture(scope="module")
def pruned(recipe, teacher, tmp_path_factory):
    config = quickstart()
    config.finetune.epochs = 0.0  # the teacher is trained
    records = load_rows(recipe.config.task)
    return nash_jax.prune(teacher, records, config=config, workdir=tmp_path_factory.mktemp("library") / "run")


def run_blocks(folder, marker, monkeypatch, capsys):
    """Runs the blocks of a folder's card that hold a text, as a reader does; what they print."""
    text = (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    found = [
        block for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if marker in block
    ]
    for block in found:
        capsys.readouterr()
        exec(compile(block, str(folder), "exec"), {})
        yield capsys.readouterr().out.strip()


def generated(folder, report):
    """What our engine generates for the text of the card."""
    tokens = report["config"]["task"]["max_new_tokens"]
    return nash_jax.load(folder).generate([report["config"]["task"]["prefix"] + "A text."], max_new_tokens=tokens)


@pytest.mark.full
def test_a_run_leaves_a_card_whose_commands_run(recipe, torch, monkeypatch, capsys):
    folder, report = (
        recipe.workdir.folder / "export" / "hf",
        json.loads((recipe.workdir.folder / "report.json").read_text()),
    )
    card = ModelCard.load(folder / "README.md")
    assert {r.metric_name: r.metric_value for r in card.data.eval_results} == {
        name: round(value, 4) for name, value in report["metrics"]["pruned"].items() if name != "generated_length"
    }
    expected = generated(folder, report)
    assert list(run_blocks(folder, "AutoModelForSeq2SeqLM", monkeypatch, capsys)) == expected
    assert list(run_blocks(folder, 'nash_jax.load(".")', monkeypatch, capsys)) == [str(expected)]
    assert "[0.0, " not in card.text and "nan" not in card.text


def test_the_card_of_ctranslate2_runs(recipe, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed: pip install 'nash_jax[ctranslate2]'")
    report = json.loads((recipe.workdir.folder / "report.json").read_text())
    nash_jax.load(recipe.workdir.folder / "export").save_ct2(tmp_path / "ct2")
    write_cards(report, tmp_path, ("ct2",))
    expected = generated(recipe.workdir.folder / "export", report)
    assert list(run_blocks(tmp_path / "ct2", "ctranslate2.Translator", monkeypatch, capsys)) == expected
    hf = recipe.workdir.folder / "export" / "hf"
    assert len(list(run_blocks(hf, 'engine="ctranslate2"', monkeypatch, capsys))) == 1


def assert_same(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)


@pytest.mark.slow
def test_ten_lines_give_the_compact_model_of_the_recipe_bit_for_bit(recipe, pruned):
    for stage in ("compact", "retrain"):
        ours, theirs = (nash_jax.load(folder / stage / "model") for folder in (pruned.folder, recipe.workdir.folder))
        assert ours.spec == theirs.spec
        assert_same(ours.params, theirs.params)
    assert pruned.report["metrics"] == json.loads((recipe.workdir.folder / "report.json").read_text())["metrics"]


@pytest.mark.slow
def test_the_result_generates_and_its_report_is_there(pruned):
    texts = pruned.model.generate(["hello", "a"], max_new_tokens=8)
    assert len(texts) == 2
    assert (pruned.folder / "report.html").exists()
    assert pruned.report["params"]["pruned"] < pruned.report["params"]["dense"]


@pytest.mark.slow
def test_called_again_it_does_nothing_twice_and_refuses_other_data(recipe, teacher, pruned):
    config = quickstart()
    config.finetune.epochs = 0.0
    records = load_rows(recipe.config.task)
    before = {path: path.stat().st_mtime_ns for path in pruned.folder.rglob("done")}
    again = nash_jax.prune(teacher, records, config=config, workdir=pruned.folder)
    assert {path: path.stat().st_mtime_ns for path in pruned.folder.rglob("done")} == before
    assert again.report["metrics"] == pruned.report["metrics"]
    fewer = records | {"train": records["train"][1:]}
    with pytest.raises(nash_jax.UserError, match=r"holds a run with config\.given_rows"):
        nash_jax.prune(teacher, fewer, config=config, workdir=pruned.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "nsah"}, r"config.method is 'nsah' .did you mean 'nash'"),
        ({"sparsity": 1.5}, "config.prune.sparsity is 1.5; expected a share"),
        ({"decoder_layers": -1}, "config.shorten.decoder_layers is -1"),
        ({"method": "nash", "target_speedup": 2.0}, "method=nash with target_speedup; expected method=latency or auto"),
        ({"target_speedup": 2.0, "sparsity": 0.5}, "sparsity=0.5 with target_speedup; expected one of the two"),
        ({"target_speedup": 2.0, "decoder_layers": 1}, "decoder_layers=1 with target_speedup; expected one of the two"),
        ({"method": "cofi", "decoder_layers": 1}, "decoder_layers=1 with method=cofi; expected a method that drops"),
        ({"method": "drop", "sparsity": 0.5}, "sparsity=0.5 with method=drop; expected a method with gates"),
    ],
)
def test_mistakes_in_arguments_are_named(change, message, tmp_path):
    model = tiny_model()
    with pytest.raises(nash_jax.UserError, match=message):
        nash_jax.prune(model, ROWS, workdir=tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


ROWS = {split: [{"source": "a b", "target": "b a"}] for split in ("train", "validation", "test")}


def tiny_model():
    from nash_jax.testing import lively_model

    return nash_jax.Seq2Seq(*lively_model(0))


def test_numbers_of_numpy_and_references_in_arrays(tmp_path):
    """They are read as others are: the next mistake is that there is no tokenizer."""
    rows = {split: [{"source": f"{split} a", "target": np.array(["b", "c"])}] for split in ROWS}
    for numbers in ({"sparsity": np.float32(0.3)}, {"decoder_layers": np.int64(1)}):
        with pytest.raises(nash_jax.UserError, match="no tokenizer"):
            nash_jax.prune(tiny_model(), rows, workdir=tmp_path / "run", **numbers)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("cola", r"data is 'cola', and config.task.name is 'samsum'; expected one task"),
        ("colla", "did you mean 'cola'"),
    ],
)
def test_a_task_that_is_not_the_config_s(task, says, tmp_path):
    with pytest.raises(nash_jax.UserError, match=says):
        nash_jax.prune(tiny_model(), task, config=nash_jax.default_config(), workdir=tmp_path / "run")


def test_rows_of_a_missing_split_are_refused(tmp_path):
    rows = {"train": ROWS["train"], "test": ROWS["test"]}
    with pytest.raises(nash_jax.UserError, match=r"splits \['test', 'train'\]; expected also 'validation'"):
        nash_jax.prune(tiny_model(), rows, workdir=tmp_path / "run")


def test_broken_rows_are_told_with_their_place(tmp_path):
    rows = ROWS | {"train": [{"source": "a", "target": None}]}
    with pytest.raises(nash_jax.UserError, match=r"1 of 1 train rows cannot be used: null 1 \(train row 1"):
        nash_jax.prune(tiny_model(), rows, workdir=tmp_path / "run")


EXAMPLES = [
    path.relative_to(ROOT) for path in sorted((ROOT / "nash_jax").rglob("*.py")) if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize(
    "module", [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in EXAMPLES]
)
def test_examples_in_docstrings(module):
    import sys

    importlib.import_module(module)
    found = doctest.testmod(sys.modules[module], optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted and not found.failed


def test_public_names_resolve():
    assert set(dir(nash_jax)) == set(nash_jax.__all__)
    for name in nash_jax.__all__:
        assert getattr(nash_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prnue'"):
        nash_jax.prnue  # noqa: B018
    for name in nash_jax.pruning.__all__:
        assert getattr(nash_jax.pruning, name).__doc__ or name == "METHODS"
