"""Whatever a file or a setting holds: it is taken, or refused in one line; never another exception."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import absurd_settings
import pytest
from commands import LIMIT
from hypothesis import example, given
from hypothesis import strategies as st

from nash_jax.config.command_line import parse
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import default_config
from nash_jax.convert.hf import spec_from_config
from nash_jax.convert.weights import read_weights
from nash_jax.errors import UserError
from nash_jax.recipe.workdir import read_done
from nash_jax.runtime.files import read_json
from nash_jax.runtime.output_folder import read_manifest, verify_save
from nash_jax.spec import ModelSpec, dense_spec
from nash_jax.training.checkpoint import check_checkpoints
from nash_jax.training.writers import read_rows

SPEC = json.loads(
    dense_spec(vocab_size=9, d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1).to_json()
)
ODD = st.sampled_from([2**31, 2**63, -(2**63), 10**40, 1e308, "\ud800", "\0", "../x", "x" * 1000, "__metadata__"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.sampled_from(["files", "manifest_version", "checksums", "done", "1", "size", "a"]) | st.text(max_size=4),
    VALUES, max_size=4,
)  # fmt: skip
CONFIG = {
    "model_type": "t5", "vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
}  # fmt: skip
READERS = {
    "done": read_done, "nash_jax.json": verify_save, "checksums.json": check_checkpoints,
    "config.json": lambda folder: spec_from_config(read_json(folder / "config.json")),
}  # fmt: skip


def accepts(call, *args) -> bool:
    """Whether a call takes what it is given; it may refuse it with a UserError alone, in one line."""
    try:
        call(*args)
    except UserError as error:
        assert "\n" not in str(error)
        return False
    return True


@given(field=st.sampled_from(sorted(SPEC)) | st.text(max_size=8), value=VALUES)
def test_specs(field, value):
    accepts(ModelSpec.from_json, json.dumps(SPEC | {field: value}))


@given(field=st.sampled_from(sorted(CONFIG)) | st.text(max_size=8), value=VALUES)
def test_configs(field, value):
    accepts(spec_from_config, CONFIG | {field: value})


@pytest.mark.parametrize("name", READERS)
@given(content=st.binary(max_size=40) | OBJECTS.map(lambda found: json.dumps(found).encode()))
@example(content=b'{"files": {"a": {"size": Infinity, "sha256": ""}}, "manifest_version": 1}')
@example(content=b'{"1": {"../x": {"size": 0}}}')
@example(content=b'{"1": 3, "checksums": {"done": null, "files": 3}}')
def test_small_files(name, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "1").mkdir()
    (folder / name).write_bytes(content)
    accepts(READERS[name], folder)
    assert isinstance(read_manifest(folder), dict)


@given(lines=st.lists(st.binary(max_size=30) | OBJECTS.map(lambda found: json.dumps(found).encode()), max_size=5))
def test_logged_rows(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert all(isinstance(row, dict) for row in read_rows(path))


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "BOOL", "F8_E4M3", "C64", ""]) | VALUES,
        "shape": st.lists(st.integers(-1, 9) | st.integers(), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(0, 40) | st.integers(), min_size=2, max_size=2) | VALUES,
    },
)


@given(header=st.dictionaries(st.text(max_size=5), ENTRY, max_size=3) | VALUES, data=st.binary(max_size=40))
def test_safetensors(header, data, tmp_path_factory):
    folder, text = tmp_path_factory.mktemp("folder"), json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    accepts(read_weights, folder, 10)


def places(config, before=""):
    """Dotted names of all settings."""
    for name, value in config.items():
        yield from places(value, f"{before}{name}.") if hasattr(value, "items") else [f"{before}{name}"]


PLACES = sorted(places(default_config()))
TEXTS = st.sampled_from(
    ["", " ", "-1", "0", "1e400", "nan", "None", "True", "(", "[]", "{}", "(1,)", "9" * 400, "\ud800", "\0", "a=b"]
) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)  # fmt: skip


@pytest.mark.parametrize("number", range(5))
@given(settings=st.lists(st.tuples(st.sampled_from(PLACES), TEXTS), min_size=1, max_size=10))
def test_settings_of_the_main_command(number, settings):
    """Several absurd values, each alone and then together."""
    lines = [f"--config.{place}={text}" for place, text in settings]
    for chosen in [*([line] for line in lines), lines]:
        accepts(lambda chosen=chosen: parse_config(parse(["main", "--config=configs/local.py", *chosen]).config))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_of_data(ending, tmp_path):
    """Files of good rows, odd values and odd lines, read, checked and tokenized; many are refused: a split is empty."""
    kinds = set()
    for seed in range(40):
        folder = tmp_path / str(seed)
        folder.mkdir()
        kinds.add(absurd_settings.read_rows(folder, ending, seed))
    assert kinds == {"refused", "read"}


@pytest.mark.full
@pytest.mark.parametrize(("script", "arguments"), [("absurd_settings.py", ["15", "60"]), ("damaged_files.py", ["25"])])
def test_scripts_that_count(script, arguments):
    """Short forms of what docs/reliability.md counts."""
    program = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(program, capture_output=True, text=True, timeout=3 * LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
