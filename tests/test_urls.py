"""A URL is refused wherever a path is taken, in one line and before anything is made; a `:` in a name is none."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import call
from small_run import make_flags

import nash_jax
from nash_jax.benchmark.texts import read_lines
from nash_jax.convert.hf import load_hf
from nash_jax.convert.orbax import load_tree, save_tree
from nash_jax.data.files import find_files
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.errors import UserError
from nash_jax.export.hub import push_folder
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.files import check_local, find_folder
from nash_jax.runtime.output_folder import fill_folder, resolve_folder
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "gs://bucket/a"
SAYS = (
    " is a URL; expected a local or mounted file or folder; mount the bucket (gcsfuse) or copy it before and after the "
    "run (rclone): launch/README.md"
)
SPEC = dense_spec(vocab_size=19, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1)
MODEL = nash_jax.Seq2Seq(SPEC, random_params(SPEC))
RECIPE = f"--config={ROOT}/configs/local.py"
GENERATE = ("--model=m", "--input=i.txt", "--output=o.txt")
BUCKETS = ("gs://bucket/a", "s3://bucket/a", "abfss://c@account.dfs.core.windows.net/a", "hdfs://host:9000/a",
           "https://huggingface.co/t5-small", "file:///runs/a", "gs:/bucket/a", "S3:/bucket/a")  # fmt: skip

COMMANDS = {  # command and its flag → the other flags
    ("nash_jax.main", "config"): (),
    ("nash_jax.main", "workdir"): (RECIPE,),
    **{
        ("nash_jax.main", f"config.{name}"): (RECIPE,)
        for name in (
            "model.init", "task.tokenizer", "task.train_file", "task.validation_file", "task.test_file", "label.texts",
            "evaluate.reference",
        )
    },
    ("nash_jax.main", "config.contrasts"): (f"--config={ROOT}/configs/study.py",),
    **{("nash_jax.generate", flag[2:].partition("=")[0]): GENERATE for flag in GENERATE},
    ("nash_jax.verify", ""): (),
    ("nash_jax.export.hub", "folder"): ("--repo=me/mine",),
    ("nash_jax.vocabulary.__main__", "output"): ("--model=m", "--texts=t.txt"),
    ("nash_jax.vocabulary.__main__", "texts"): ("--model=m", "--output=o"),
    ("nash_jax.demo.__main__", "dense"): ("--pruned=m",),
    ("nash_jax.benchmark.latency_table", "model"): (),
    ("nash_jax.benchmark.latency_table", "output"): ("--preset=t5-small",),
    ("nash_jax.benchmark.latency_table", "picture"): ("--preset=t5-small",),
    ("nash_jax.benchmark.peers", "model"): (),
    ("nash_jax.benchmark.peers", "output"): ("--preset=t5-small",),
    ("nash_jax.benchmark.speculation", "input"): ("--model=m", "--draft=m"),
    ("nash_jax.benchmark.early_exit", "input"): ("--model=m",),
    ("nash_jax.benchmark.plan", "config.model.init"): (RECIPE, "--topology=cpu:8"),
}  # fmt: skip
CALLS: dict[str, Callable[[str], object]] = {
    "load": nash_jax.load,
    "load a Path": lambda url: nash_jax.load(Path(url)),
    "save": MODEL.save,
    "save_hf": MODEL.save_hf,
    "save_ct2": MODEL.save_ct2,
    "save_onnx": MODEL.save_onnx,
    "save_stablehlo": MODEL.save_stablehlo,
    "save to a Path": lambda url: MODEL.save(Path(url)),
    "prune": lambda url: nash_jax.prune(MODEL, {}, workdir=url),
    "prune in a Path": lambda url: nash_jax.prune(MODEL, {}, workdir=Path(url)),
    "prune a model": lambda url: nash_jax.prune(url, {}, workdir="here"),
    "Workdir": lambda url: Workdir(url, {}),
    "fill_folder": lambda url: fill_folder(url).__enter__(),
    "push_folder": lambda url: push_folder(Path(url), "me/mine"),
    "load_tokenizer": load_tokenizer,
    "load_hf": load_hf,
    "load_tree": load_tree,
    "save_tree": lambda url: save_tree(url, {"a": np.zeros(1)}),
    "find_files": lambda url: find_files(f"mine.jsonl,{url}", ""),
    "find_folder": find_folder,
    "read_lines": lambda url: read_lines(url, 1),
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_takes_a_url(command: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module, flag = command
    others = [other for other in COMMANDS[command] if not other.startswith(f"--{flag}=")]
    done = call(importlib.import_module(module).main, *others, f"--{flag}={BUCKET}" if flag else BUCKET)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and f"{BUCKET}{SAYS}" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CALLS)
def test_no_function_takes_a_url(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"gs:/.?bucket/a is a URL; expected a local or mounted file or folder; mount "):
        CALLS[name](BUCKET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", BUCKETS)
def test_what_a_url_is(url: str) -> None:
    with pytest.raises(UserError) as error:
        check_local(url, "here")
    assert str(error.value) == f"here: {url}{SAYS}"
    with pytest.raises(UserError, match="is a URL"):
        check_local(f"mine.jsonl, {url}")


@pytest.mark.parametrize(
    "path", ["a:b", "run:1/b", "./gs:/b", "/runs/gs:/b", "1:2/3", "notes:/b", "", "gs:", "a/b://c"]
)
def test_what_no_url_is(path: str) -> None:
    check_local(path)


def test_a_colon_in_the_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are saved there and loaded from there, and a run reads its rows and does its first stage there."""
    monkeypatch.chdir(tmp_path)
    for save in ("save", "save_hf"):
        getattr(MODEL, save)("a:b/model:1")
        np.testing.assert_array_equal(
            nash_jax.load("a:b/model:1").params["shared"]["embedding"], MODEL.params["shared"]["embedding"]
        )
    assert resolve_folder("a:b") == tmp_path / "a:b"
    flags = make_flags(tmp_path / "a:b", {"train": 8, "validation": 4, "test": 4}, {"task.source_column": "word"})
    flags += ["--config.task.target_column=spelling", "--config.task.metric=exact_match", "--config.stages=data"]
    main = importlib.import_module("nash_jax.main").main
    done = call(main, *[flag.replace("configs/", f"{ROOT}/configs/") for flag in flags], "--workdir=run:1/b")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run:1" / "b" / "data" / "done").exists()
