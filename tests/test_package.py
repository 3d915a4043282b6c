"""The package as it is installed: what importing costs, what the core needs, what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from nash_jax import Seq2Seq
from nash_jax.config import shipped
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import EXTRAS, UserError, missing_package, require_packages
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BLOCKED = sorted({name for packages in EXTRAS.values() for name in packages})
BLOCKER = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))  # as if they were not installed
"""


def start(args, cwd, path=ROOT):
    """A process of its own, with the package that is found at `path`."""
    env = os.environ | {"PYTHONPATH": str(path), "XLA_FLAGS": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def run(program, cwd, path=ROOT):
    """What a program prints."""
    done = start(["-c", program], cwd, path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An export of a tiny model with a tokenizer."""
    tokenizer = build_pronunciation_tokenizer([{"source": "ab", "references": ["A B"]}])
    spec = dense_spec(vocab_size=len(tokenizer), d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    Seq2Seq(spec, random_params(spec), tokenizer).save(folder)
    return folder


# -- what importing costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "absent", "most"),
    [
        ("nash_jax", "numpy jax flax transformers", 200),
        ("nash_jax.main, nash_jax.errors", "numpy jax flax transformers", 250),
        ("nash_jax.seq2seq", "transformers huggingface_hub orbax optax scipy ml_collections", 1400),
        (
            "nash_jax.main, nash_jax.config.command_line, nash_jax.config.parsing, nash_jax.recipe.presets, "
            "nash_jax.recipe.modes, nash_jax.report.console, nash_jax.study.runner",
            "transformers huggingface_hub orbax optax scipy datasets grain pandas pyarrow matplotlib nltk rouge_score "
            "tensorboardX wandb torch",
            1500,
        ),
    ],
)
def test_imports_are_few(modules, absent, most, tmp_path):
    """All that is imported before a backend starts; what is heavy comes where it is used."""
    found = run(f"import {modules}, sys; print(*sys.modules)", tmp_path).split()
    assert not {name.partition(".")[0] for name in found} & set(absent.split())
    assert len(found) <= most


# -- what the core needs ------------------------------------------------------------------------------------


def test_core_loads_generates_and_saves_without_the_extras(model_folder, tmp_path):
    program = f"""{BLOCKER}
import nash_jax
model = nash_jax.load({str(model_folder)!r})
print(len(model.generate(["ab", "b"], max_new_tokens=2)))
model.save("export")
model.save_hf("hub")
print(nash_jax.load("hub").generate_ids([[3, 1]], max_new_tokens=2).shape)
try:
    nash_jax.prune
except nash_jax.UserError as error:
    print(error)
"""
    lines = run(program, tmp_path).splitlines()
    assert lines[0] == "2"
    assert lines[1] == "(1, 3)"
    assert "pip install 'nash_jax[train]'" in lines[2]


@pytest.mark.parametrize("command", ["--config=quickstart", "--config=study --list-cells"])
def test_main_names_the_extra(command, tmp_path):
    program = f"""{BLOCKER}
from nash_jax.main import main
sys.argv[1:] = {command.split()}
sys.exit(main())
"""
    done = start(["-c", program], tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: not installed: PIL, datasets, grain, .*; pip install 'nash_jax\[train\]'\n", done.stderr
    )


def test_one_missing_package_is_named(monkeypatch):
    require_packages("metrics")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"^not installed: sacrebleu; .*; pip install 'nash_jax\[metrics\]'$"):
        require_packages("metrics")
    assert "nash_jax[train]" in str(missing_package(ModuleNotFoundError(name="datasets.config")))
    assert missing_package(ModuleNotFoundError(name="nash_jax.nothing")) is None


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_are_those_of_pyproject(extra):
    declared = [re.split(r"[<>=\[]", text)[0] for text in PROJECT["optional-dependencies"][extra]]
    imported = {"pillow": "PIL"}
    assert set(EXTRAS[extra]) <= {imported.get(name, name.replace("-", "_")) for name in declared}
    assert not {re.split(r"[<>=]", text)[0].replace("-", "_") for text in PROJECT["dependencies"]} & set(EXTRAS[extra])


# -- shipped configs ----------------------------------------------------------------------------------------


def test_a_name_means_a_shipped_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    quickstart = str(ROOT / "configs" / "quickstart.py")
    assert set(shipped.names()) == {path.stem for path in (ROOT / "configs").glob("*.py")}
    for given, expected in [
        (["--config=quickstart"], [f"--config={quickstart}"]),
        (["--config=quickstart:layers=3,method=nash"], [f"--config={quickstart}:layers=3,method=nash"]),
        (["--config", "quickstart", "--workdir=x"], ["--config", quickstart, "--workdir=x"]),
        (["--config=configs/other.py", "--config.method=nash"], None),
        (["--workdir=quickstart", "quickstart", "--config.task.name=quickstart"], None),
    ]:
        assert shipped.resolve_names(["main", *given]) == ["main", *(expected or given)]
    Path("quickstart").write_text("")  # a file of that name is meant
    assert shipped.resolve_names(["--config=quickstart"]) == ["--config=quickstart"]


@pytest.mark.parametrize("name", ["quickstrat", "sam_sum"])
def test_a_name_that_is_not_shipped(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"no config '{name}' \(did you mean '(quickstart|samsum)'\?\).*glue, local"):
        shipped.resolve_names([f"--config={name}"])


# -- the wheel ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout, built with the setuptools that is installed, in a copy."""
    setuptools = pytest.importorskip("setuptools", reason="setuptools is not installed: pip install setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is older than 77: pip install -U setuptools")
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nash_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(f"from setuptools import build_meta; build_meta.build_wheel({str(dist)!r})", source, path="")
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder that the wheel is unpacked into."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_wheel_holds_all_that_is_in_the_package(installed):
    own = {path.relative_to(ROOT) for path in (ROOT / "nash_jax").rglob("*") if path.is_file()}
    expected = {path for path in own if "__pycache__" not in path.parts} | {
        Path("nash_jax") / path.relative_to(ROOT)
        for kind in ("*.py", "contrasts/*.json")
        for path in (ROOT / "configs").glob(kind)
    }
    assert {path.relative_to(installed) for path in (installed / "nash_jax").rglob("*") if path.is_file()} == expected
    assert Path("nash_jax/py.typed") in expected
    scripts = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "nash-jax = nash_jax.main:main" in scripts
    assert "nash-jax-generate = nash_jax.generate:main" in scripts


def test_commands_of_the_wheel(installed, tmp_path):
    """As the console scripts start them, in an empty folder: a shipped config is read, and mistakes are said."""
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); from nash_jax.%s import main; sys.exit(main())"
    help_text = start(["-c", script % "main", "--help"], tmp_path, path="")
    assert (help_text.returncode, help_text.stderr) == (0, "")
    listed = start(["-c", script % "main", "--config=study:latency", "--list-cells"], tmp_path, path="")
    assert listed.returncode == 0, listed.stderr
    assert "--config=study:latency --cell=small-6-6" in listed.stdout
    refused = start(["-c", script % "main", "--config=quickstart", "--config.method=nsh"], tmp_path, path="")
    assert refused.returncode == 2
    assert "config.method is 'nsh' (did you mean 'nash'?)" in refused.stderr
    generate = start(["-c", script % "generate", "--input=x"], tmp_path, path="")
    assert (generate.returncode, generate.stderr[:17]) == (2, "error: no --model")
    assert not list(tmp_path.iterdir())


def test_wheel_loads_a_model(installed, model_folder, tmp_path):
    program = f"""
import nash_jax
print(nash_jax.__file__)
print(nash_jax.load({str(model_folder)!r}).tokenizer.eos_token)
"""
    file, eos = run(program, tmp_path, path=installed).splitlines()
    assert Path(file).is_relative_to(installed)
    assert eos == "</s>"
