"""The main command prunes BART: a fresh one, and a checkpoint in the hub's layout with a tokenizer of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import call
from families import TORCH_WARNINGS, torch_logits

import nash_jax
from nash_jax.config.derived import all_stages
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config, TaskConfig, default_config
from nash_jax.convert.hf import load_hf
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.errors import UserError
from nash_jax.main import main
from nash_jax.recipe.run import PruningRun
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.training.writers import read_rows
from nash_jax.tree import count_params, flatten

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {  # one shape of batches for all: compiling is nearly all of the time
    "task.name": "words", "task.source": "files", "task.prefix": "", "task.metric": "transcription",
    "task.max_source_length": 16, "task.max_target_length": 16, "task.max_new_tokens": 12,
    "benchmark.batch_sizes": "(8,)", "benchmark.source_length": 8, "benchmark.new_tokens": "(12,)",
    "benchmark.runs": 3, "evaluate.batch_size": 8, "shorten.decoder_layers": 1, "prune.sparsity": 0.4,
    "prune.prepruning_epochs": 0.0, "prune.sparsity_warmup_epochs": 1.0, "prune.gate_learning_rate": 0.5,
}  # fmt: skip
SIZES = {"d_model": 16, "d_ff": 24, "decoder_d_ff": 12, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2}

pytestmark = TORCH_WARNINGS


def write_tokenizer(folder: Path) -> None:
    """Files of a BART tokenizer, as the hub has them, of single bytes: all that it needs without merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))


def write_rows(folder: Path) -> None:
    """Words of five letters whose phonemes are nine characters, from the pronouncing dictionary."""
    for split, rows in load_rows(TaskConfig(source="pronunciation", prefix="")).items():
        pairs = [(row["source"], row["references"][0]) for row in rows]
        chosen = [pair for pair in pairs if (len(pair[0]), len(pair[1])) == (5, 9)][: 64 if split == "train" else 8]
        lines = (json.dumps({"document": source, "summary": target}) for source, target in chosen)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with rows, a tokenizer, and a BART checkpoint that transformers has written."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    place = tmp_path_factory.mktemp("place")
    write_rows(place)
    for name in ("tokenizer", "bart"):
        (place / name).mkdir()
        write_tokenizer(place / name)
    config = transformers.BartConfig(
        vocab_size=261, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=16, dropout=0.0,
        init_std=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BartForConditionalGeneration(config).save_pretrained(place / "bart")
    return place


@pytest.fixture(scope="module")
def run(place):
    """`run(name, **settings)` → the workdir, and what the command printed; all phases are short and distilled."""
    common = {"optimizer": "adamw", "epochs": 3.0, "batch_size": 16, "eval_every": 10.0, "learning_rate": 3e-3}
    phases = {f"{phase}.{name}": common[name] for phase in ("finetune", "prune", "retrain") for name in common}
    phases |= {f"{phase}.distill.{loss}": 0.5 for phase in ("prune", "retrain") for loss in ("logits", "hidden")}
    files = {f"task.{split}_file": place / f"{split}.jsonl" for split in SPLITS}

    def run(name: str, **settings: object) -> tuple[Path, str]:
        flags = [f"--config.{key}={value}" for key, value in (SETTINGS | files | phases | settings).items()]
        done = call(main, f"--config={ROOT}/configs/local.py", *flags, f"--workdir={place / name}")
        return place / name, done.stdout if done.returncode == 0 else done.stderr

    return run


def assert_folders_agree(workdir: Path) -> None:
    """The export and its folder for transformers give the same logits, there as here."""
    import transformers

    model = nash_jax.load(workdir / "export")
    theirs = transformers.BartForConditionalGeneration.from_pretrained(workdir / "export" / "hf").eval()
    ids = np.array([model.tokenizer("hello")["input_ids"]])
    labels = np.array([[2, 0, 40, 41]])
    expected = torch_logits(theirs, {"input_ids": ids, "attention_mask": ids * 0 + 1, "decoder_input_ids": labels})
    assert expected.std() > 0.01
    np.testing.assert_allclose(model.logits(ids, None, labels), expected, atol=1e-4)
    assert model.generate(["hello"], max_new_tokens=5) == nash_jax.load(workdir / "export" / "hf").generate(
        ["hello"], max_new_tokens=5
    )


@pytest.mark.slow
def test_a_fresh_bart_goes_all_the_way(place, run):
    own = {f"model.{name}": value for name, value in SIZES.items()}
    workdir, printed = run(
        "fresh", **own, **{"model.family": "bart", "model.dropout_rate": 0.0, "task.tokenizer": place / "tokenizer"}
    )
    assert "report.html" in printed, printed
    report = json.loads((workdir / "report.json").read_text())
    assert list(report["stages"]) == list(all_stages(Config()))
    assert set(report["metrics"]) == {"dense", "pruned", "baselines"} and report["speedup"].keys() == {"8"}
    assert report["params"]["decoder_sparsity"] == 0.5
    assert report["params"]["encoder_sparsity"] == pytest.approx(
        report["params"]["expected_encoder_sparsity"], abs=0.02
    )

    models = {stage: nash_jax.load(workdir / stage / "model") for stage in ("finetune", "shorten", "prune", "compact")}
    dense, small = models["finetune"].spec, models["compact"].spec
    assert dense == dense_spec(
        family="bart", vocab_size=261, **SIZES, tied=False, dropout_rate=0.0, max_positions=16, decoder_start_id=1
    )
    assert sum(layer.ffn for layer in small.encoder) < 24 and len(small.decoder) == 1
    assert report["params"]["pruned"] == count_params(models["compact"].params)
    for layer, sizes in zip(models["compact"].params["encoder"].values(), small.encoder, strict=False):
        if "ffn" in layer:
            assert layer["ffn"]["wi_bias"].shape == (sizes.ffn,)
    before, after = (flatten(models[stage].params) for stage in ("shorten", "prune"))
    for leaf in ("attention/qkv_bias", "attention/out_bias", "attention/norm/bias", "ffn/wi_bias", "ffn/norm/scale"):
        path = f"encoder/layers_0/{leaf}"  # biases and norms are trained along with the gates
        assert np.abs(after[path] - before[path]).max() > 1e-4, path

    rows = read_rows(workdir / "metrics.jsonl")
    for phase in ("finetune", "prune", "retrain"):
        losses = [row for row in rows if row["phase"] == phase and "task_loss" in row]
        assert all(np.isfinite(value) for row in losses for value in row.values() if isinstance(value, float))
        assert ("hidden_loss" in losses[0]) == ("logits_loss" in losses[0]) == (phase != "finetune")
        assert phase == "prune" or losses[-1]["task_loss"] < losses[0]["task_loss"]
    assert_folders_agree(workdir)


def test_a_checkpoint_with_its_own_tokenizer(place, run):
    """Taken as it is (no epochs), pruned with a teacher, its embeddings held still."""
    workdir, printed = run(
        "given",
        **{
            "model.init": place / "bart",
            "finetune.epochs": 0.0,
            "retrain.epochs": 0.0,
            "prune.freeze_embeddings": True,
            "stages": "data,finetune,shorten,prune,compact,retrain,export",
        },
    )
    assert "stages done: data" in printed, printed
    spec, params = load_hf(place / "bart")
    teacher, pruned = nash_jax.load(workdir / "finetune" / "model"), nash_jax.load(workdir / "export")
    assert teacher.spec == spec and spec.tied and spec.decoder_start_id == 2
    given, left = flatten(params), flatten(pruned.params)
    for path in ("shared/embedding", "encoder/positions", "decoder/positions"):
        np.testing.assert_array_equal(left[path], given[path], err_msg=path)
    assert np.abs(left["encoder/embedding_norm/bias"] - given["encoder/embedding_norm/bias"]).max() > 1e-4
    assert pruned.tokenizer("hello")["input_ids"][0] == 0  # BART's own <s>
    assert_folders_agree(workdir)


def test_lengths_beyond_the_positions_are_refused_before_training(place):
    config = default_config()
    config.task.name = "words"
    config.task.update(source="files", **{f"{split}_file": str(place / f"{split}.jsonl") for split in SPLITS})
    config.task.update(max_source_length=16, max_target_length=16, max_new_tokens=12)
    config.model.init, config.shorten.decoder_layers = str(place / "bart"), 1
    config.benchmark.update(source_length=17, new_tokens=(12,))
    with pytest.raises(
        UserError, match=r"config\.benchmark\.source_length is 17; expected no more than the model's 16"
    ):
        PruningRun(parse_config(config), place / "long").run()
    assert not (place / "long" / "data" / "done").exists()


def test_a_family_that_transformers_lacks_is_exported_all_the_same(place, tmp_path, capsys):
    """The run ends well, and says why there is no folder for transformers."""
    tokenizer = load_tokenizer(str(place / "tokenizer"))
    own = dict.fromkeys(("pad_id", "decoder_start_id"), 1) | {"eos_id": 2}
    spec = dense_spec(family="custom", vocab_size=261, **SIZES, norm="layer", **own)
    nash_jax.Seq2Seq(spec, random_params(spec), tokenizer).save(tmp_path / "model")
    config = default_config()
    config.task.name = "words"
    config.task.update(source="files", **{f"{split}_file": str(place / f"{split}.jsonl") for split in SPLITS})
    config.model.init, config.shorten.decoder_layers = str(tmp_path / "model"), 1
    config.stages = "data,finetune,shorten,prune,compact,retrain,export"
    for phase in (config.finetune, config.prune, config.retrain):
        phase.epochs = 0.0
    PruningRun(parse_config(config), tmp_path / "run").run()
    note = (
        f"note: no {tmp_path / 'run' / 'export' / 'hf'}: no class of transformers for family 'custom'; expected one of"
    )
    assert note in capsys.readouterr().out
    assert len(nash_jax.load(tmp_path / "run" / "export").spec.decoder) == 1
    assert not (tmp_path / "run" / "export" / "hf").exists()
