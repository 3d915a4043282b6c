"""`python -m nash_jax.generate`: files in and out, kills, other settings, and each mistake on one line.

The command runs in this process where that changes nothing; a model is read and compiled once for all tests then.
"""

import functools
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import nash_jax.seq2seq
from nash_jax.data.tokenizers import EOS, PAD, UNKNOWN
from nash_jax.generate import main
from nash_jax.generation.options import UNSUPPORTED_FIELDS, GenerationOptions
from nash_jax.seq2seq import Seq2Seq
from nash_jax.testing import lively_model, random_params, random_spec

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = 16  # of the model that has a table of them
NEW_TOKENS = 8
LONG = "all work and no play " * 20
TEXTS = ["cat", "", "naïve", "☃ and 🙂", "  ", "a dog", LONG, "", "\tx\u2028y", "tac", "to be", "nor two"] * 2
SAMPLED = ("--do_sample", "--seed=5", "--temperature=0.9")


def byte_tokenizer(eos: bool = True):
    """A token for each byte, so that every text can be read, and generated."""
    tokens = [PAD, EOS, UNKNOWN, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if eos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models."""
    place, tokenizer = tmp_path_factory.mktemp("place"), byte_tokenizer()
    spec, params = lively_model(34, vocab_size=len(tokenizer))
    options = GenerationOptions(max_new_tokens=NEW_TOKENS)
    Seq2Seq(spec, params, tokenizer, generation=options).save_hf(place / "model")
    Seq2Seq(spec, params, byte_tokenizer(eos=False), generation=options).save(place / "no_eos")
    Seq2Seq(spec, params).save(place / "bare")
    Seq2Seq(*lively_model(0, vocab_size=100), tokenizer).save(place / "small")
    learned = random_spec(0, family="bart", vocab_size=len(tokenizer), max_positions=POSITIONS)
    Seq2Seq(learned, random_params(learned), tokenizer, generation=options).save(place / "learned")
    return place


@pytest.fixture(scope="module", autouse=True)
def read_once(place):
    """Models are read once."""

    @functools.cache
    def load(name: str, dtype: str, engine: str) -> Seq2Seq:
        return original(name, dtype=dtype, engine=engine)

    original = nash_jax.seq2seq.load
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(
            "nash_jax.seq2seq.load", lambda name, *, dtype="float32", engine="jax": load(str(name), dtype, engine)
        )
        yield


@pytest.fixture
def command(tmp_path, capsys):
    """`command(*flags)` → (exit status, stdout, stderr); `input` and `output` are named in the test's folder."""

    def run(*given: str, input: str = "rows.txt", output: str = "out.txt", model: str = "model", batch_size: int = 4):
        flags = [f"--model={model}", f"--input={tmp_path / input}", f"--output={tmp_path / output}"]
        status = main(["generate", *flags, f"--batch_size={batch_size}", *given])
        return status, *capsys.readouterr()

    return run


def write_lines(path: Path, lines) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def one_line(text: str) -> str:
    return " ".join(text.splitlines())


def generated(texts, model: str = "model", **options) -> list[str]:
    """What Python gives for the same texts."""
    return nash_jax.seq2seq.load(model).generate(texts, batch_size=4, progress=False, **options)


# -- files ----------------------------------------------------------------------------------------------------


def test_text_to_text(tmp_path, command):
    """Nothing is skipped; what is said about it is counted otherwise here."""
    write_lines(tmp_path / "rows.txt", TEXTS)
    status, out, err = command()
    expected = generated(TEXTS)
    lines = (tmp_path / "out.txt").read_bytes().decode().split("\n")
    assert lines == [*map(one_line, expected), ""] and len(set(expected)) > 8
    assert err.splitlines() == [f"{tmp_path}/rows.txt: 24 rows, 6 of them empty", "generating: row 24/24, 0 s left"]

    model = nash_jax.seq2seq.load("model")
    ids = model.generate_ids(**model.tokenizer(TEXTS, padding=True, return_tensors="np"))[:, 1:].tolist()
    lengths = [own.index(1) + 1 if 1 in own else NEW_TOKENS for own in ids]
    unended, joined = sum(1 not in own for own in ids), sum(one_line(text) != text for text in expected)
    assert 0 < unended < len(ids) and joined > 0
    assert status == 0 and out.startswith(f"{tmp_path}/out.txt: 24 rows, {sum(lengths)} tokens generated in ")
    assert f"; {unended} outputs were ended by the length limit, not by EOS; {joined} outputs had line ends, no" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "out.txt.settings.json", "rows.txt"]


def test_objects_to_objects(tmp_path, command):
    """Columns stay as they are, whatever they hold; several outputs are a list; the prefix goes before all texts."""
    odd = {"n": 1.0, "list": [None, True, "é\u2028"], "half": "\ud800"}
    rows = [{"id": i, "body": text, "text": "another", **odd} for i, text in enumerate(TEXTS)]
    write_lines(tmp_path / "rows.jsonl.gz", map(json.dumps, rows))
    flags = (*SAMPLED, "--num_return_sequences=2", "--column=body", "--prefix=two ")
    status, out, _ = command(*flags, input="rows.jsonl.gz", output="out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().decode().split("\n")[:-1]]
    options = {"do_sample": True, "seed": 5, "temperature": 0.9, "num_return_sequences": 2}
    expected = generated([f"two {text}" for text in TEXTS], **options)
    assert found == [row | {"output": expected[2 * i : 2 * i + 2]} for i, row in enumerate(rows)]
    assert status == 0 and "line ends" not in out


def score_record(found, row: int) -> dict:
    """The scores of one output of `generate(…, return_scores=True)`, as they are written."""
    beams = found.sequences_scores
    return {
        "log_prob": pytest.approx(found.log_probs[row], abs=2e-4),
        **({} if beams is None else {"sequence_score": pytest.approx(beams[row], abs=2e-4)}),
        "token_log_probs": pytest.approx(found.token_log_probs[row].tolist(), abs=2e-4),
    }


@pytest.mark.parametrize(("flags", "count"), [((), 1), (("--num_beams=3", "--num_return_sequences=2"), 2)])
def test_scores_are_a_column(tmp_path, command, flags, count):
    """One object for an output, a list of them for several; the texts are those without scores."""
    write_lines(tmp_path / "rows.txt", TEXTS[:6])
    assert command("--return_scores", *flags, output="out.jsonl")[0] == 0
    assert command(*flags, output="plain.jsonl")[0] == 0
    options = {flag.split("=")[0][2:]: int(flag.split("=")[1]) for flag in flags}
    expected = generated(TEXTS[:6], return_scores=True, **options)
    lines, plain = ((tmp_path / name).read_text().splitlines() for name in ("out.jsonl", "plain.jsonl"))
    for i, line in enumerate(lines):
        row = json.loads(line)
        scores = row.pop("output_scores")
        assert row == json.loads(plain[i])
        assert (scores if count > 1 else [scores]) == [score_record(expected, i * count + n) for n in range(count)]


@pytest.mark.parametrize("labels", [["yes", "no"], ["naïve", "not  at all", "0"]])
def test_outputs_are_labels(tmp_path, command, labels):
    """Those of Python, as they are written on the command line; other labels are another file."""
    write_lines(tmp_path / "rows.txt", TEXTS)
    assert command(f"--labels={json.dumps(labels)}", "--num_beams=2")[0] == 0
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines == generated(TEXTS, labels=labels, num_beams=2) and set(lines) <= set(labels)
    status, _, err = command('--labels=["a","b"]', "--num_beams=2")
    assert status == 2 and "labels=" in err


def test_a_run_with_scores_continues_with_scores(tmp_path, command):
    """Stopped after the first batch and started again: the same bytes; without scores it is another file."""
    write_lines(tmp_path / "rows.jsonl", [json.dumps({"text": text}) for text in TEXTS])
    assert command("--return_scores", input="rows.jsonl", output="whole.jsonl")[0] == 0
    add, calls = nash_jax.batch_generate.resumable.PartialResults.add, []

    def add_one(self, results):
        if calls:
            raise KeyboardInterrupt
        calls.append(add(self, results))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nash_jax.batch_generate.resumable.PartialResults.add", add_one)
        assert command("--return_scores", input="rows.jsonl", output="out.jsonl")[0] == 130
    assert "return_scores=None, not" not in command("--return_scores", input="rows.jsonl", output="out.jsonl")[2]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    status, _, err = command(input="rows.jsonl", output="out.jsonl")
    assert status == 2 and "out.jsonl.partial holds" not in err and " return_scores=" in err


def test_a_column_of_scores_is_not_overwritten(tmp_path, command):
    write_lines(tmp_path / "rows.jsonl", [json.dumps({"text": "a", "output_scores": 1})])
    status, _, err = command("--return_scores", input="rows.jsonl", output="out.jsonl")
    assert status == 2 and "rows.jsonl:1 has a column 'output_scores' already; expected none: it would be lost" in err


def test_several_outputs_are_lines_of_text(tmp_path, command):
    rows = [{"document": text} for text in TEXTS[:5]]
    write_lines(tmp_path / "rows.jsonl", map(json.dumps, rows))
    assert command(*SAMPLED, "--num_return_sequences=2", input="rows.jsonl")[0] == 0
    expected = generated(TEXTS[:5], do_sample=True, seed=5, temperature=0.9, num_return_sequences=2)
    assert (tmp_path / "out.txt").read_bytes().decode().split("\n") == [*map(one_line, expected), ""]


def test_chunks_change_nothing(tmp_path, command, monkeypatch):
    """Rows are read and put in batches by chunks, here of 4 rows; sampling for a row depends on its number."""
    write_lines(tmp_path / "rows.txt", TEXTS)
    assert command(*SAMPLED, output="whole.jsonl")[0] == 0
    monkeypatch.setattr("nash_jax.batch_generate.generator.BATCHES_PER_CHUNK", 1)
    assert command(*SAMPLED, output="chunks.jsonl")[0] == 0
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "chunks.jsonl").read_bytes()


def test_texts_longer_than_the_positions(tmp_path, command):
    texts = ["short", LONG, "x" * (POSITIONS - 1), "x" * POSITIONS]
    write_lines(tmp_path / "rows.txt", texts)
    status, _, err = command(model="learned")
    says = f"rows.txt:2: a text of {len(LONG) + 1} tokens; expected at most 16, the positions of the model; --truncate"
    assert status == 2 and says in err.splitlines()[-1]
    status, _, err = command("--truncate", model="learned")
    assert status == 0 and "rows.txt: 2 texts are cut to 16 tokens, the positions of the model\n" in err
    cut = generated([text[: POSITIONS - 1] for text in texts], "learned")
    assert (tmp_path / "out.txt").read_bytes().decode().split("\n") == [*map(one_line, cut), ""]


def test_a_text_without_any_tokens(tmp_path, command):
    """Of a tokenizer that adds no EOS: such a text is read as a padding token, alone and beside others."""
    write_lines(tmp_path / "rows.txt", ["", "cat", ""])
    assert command(model="no_eos", output="out.jsonl")[0] == 0
    found = [json.loads(line)["output"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    model = nash_jax.seq2seq.load("no_eos")
    alone = model.generate_ids(np.array([[0]]), np.array([[1]]))
    assert found == [*(empty := model.tokenizer.batch_decode(alone, skip_special_tokens=True)), found[1], *empty]
    assert found == generated(["", "cat", ""], "no_eos") and generated([""], "no_eos") == empty


# -- kills ----------------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from nash_jax.batch_generate.resumable import PartialResults
from nash_jax.generate import main

add = PartialResults.add
def add_and_die(self, results):
    add(self, results)
    if len(self) == 50:
        os.kill(os.getpid(), signal.SIGKILL)
PartialResults.add = add_and_die
main(sys.argv)
"""


def kill(tmp_path, *flags: str) -> None:
    """The command in a process of its own, a row at a time, that is killed when 50 rows are there."""
    write_lines(tmp_path / "rows.txt", [text for text in TEXTS if text != LONG] * 4)
    files = [f"--input={tmp_path / 'rows.txt'}", f"--output={tmp_path / 'out.jsonl'}"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "--model=model", "--batch_size=1", *files, *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_midway(tmp_path, command):
    kill(tmp_path, *SAMPLED)
    partial = tmp_path / "out.jsonl.partial"
    assert not (tmp_path / "out.jsonl").exists()
    os.truncate(partial, partial.stat().st_size - 3)
    there = partial.read_bytes().count(b"\n")

    status, _, err = command(*SAMPLED, output="out.jsonl", batch_size=1)
    assert status == 0 and f"out.jsonl: {there:,} rows were there; going on with the others\n" in err
    assert there == 49  # the last one is cut
    assert command(*SAMPLED, output="whole.jsonl", batch_size=1)[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def stopped(tmp_path, command, monkeypatch):
    """8 of 24 rows, in batches of 4, then Ctrl-C; the bytes that are there."""
    write_lines(tmp_path / "rows.txt", TEXTS)
    add = nash_jax.batch_generate.resumable.PartialResults.add

    def add_two(self, results) -> None:
        add(self, results)
        if len(self) == 8:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell is started without
    with monkeypatch.context() as patch:
        patch.setattr("nash_jax.batch_generate.resumable.PartialResults.add", add_two)
        status, out, err = command(*SAMPLED)
    signal.signal(signal.SIGINT, before)
    assert (status, out) == (130, "") and not (tmp_path / "out.txt").exists()
    assert err.splitlines()[-1] == "error: stopped by Ctrl-C; the same command continues from here"
    return (tmp_path / "out.txt.partial").read_bytes()


def test_other_settings_lose_nothing(tmp_path, command, stopped):
    for flags, says in (
        (("--temperature=0.7",), "temperature=0.9, not 0.7"),
        (("--prefix=a",), 'prefix="", not "a"'),
        (("--num_beams=2",), "num_beams=its default, not 2"),
        (("--dtype=bfloat16",), 'dtype="float32", not "bfloat16"'),
    ):
        status, _, err = command(*SAMPLED, *flags)
        assert status == 2 and err.splitlines()[-1].startswith(f"error: {tmp_path}/out.txt.partial holds results with ")
        assert says in err and "; name another --output or move that one away\n" in err
    status, _, err = command(*SAMPLED, model="no_eos")  # the same but for what the tokenizer does
    assert status == 2 and '; model="' in err
    write_lines(tmp_path / "rows.txt", ["another", *TEXTS[1:]])
    status, _, err = command(*SAMPLED)
    assert status == 2 and "out.txt.partial holds results with input=" in err
    assert (tmp_path / "out.txt.partial").read_bytes() == stopped

    write_lines(tmp_path / "rows.txt", TEXTS)
    assert "out.txt: 8 rows were there; going on" in command(*SAMPLED)[2]


def test_another_batch_size_goes_on(tmp_path, command, stopped):
    assert "out.txt: 8 rows were there; going on" in command(*SAMPLED, batch_size=8)[2]
    assert command(*SAMPLED, output="whole.txt")[0] == 0
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


@pytest.mark.parametrize("there", [False, True])
def test_an_output_that_is_a_link(tmp_path, command, there):
    """The link stays one, and the text lies where it leads."""
    (tmp_path / "elsewhere").mkdir()
    write_lines(tmp_path / "rows.txt", ["a", "b"])
    (tmp_path / "out.txt").symlink_to(Path("elsewhere") / "real.txt")
    if there:
        (tmp_path / "elsewhere" / "real.txt").write_text("mine")
    status, *_ = command()
    assert status == (2 if there else 0) and (tmp_path / "out.txt").is_symlink()
    found = (tmp_path / "elsewhere" / "real.txt").read_text()
    assert (found == "mine") if there else (found.count("\n") == 2)


def test_done(tmp_path, command):
    write_lines(tmp_path / "rows.txt", ["cat", "tac"])
    assert command()[0] == 0
    before = (tmp_path / "out.txt").stat()
    status, out, _ = command(batch_size=3)
    assert (status, out) == (0, f"{tmp_path}/out.txt is done, with the same settings; nothing to do\n")
    status, _, err = command("--num_beams=2")
    assert status == 2 and "out.txt holds results with num_beams=its default, not 2; expected the settings" in err
    assert (tmp_path / "out.txt").stat() == before


def test_a_pattern_does_not_match_what_is_written(tmp_path, command):
    """Started again, stopped or done, the command has the same inputs."""
    for number, text in enumerate(["cat", "tac"]):
        write_lines(tmp_path / f"{number}.jsonl", [json.dumps({"text": text})])
    assert command(input="*.json*", output="out.jsonl")[0] == 0
    rows = (tmp_path / "out.jsonl").read_text()
    assert [json.loads(line)["text"] for line in rows.splitlines()] == ["cat", "tac"]
    assert command(input="*.json*", output="out.jsonl")[1].endswith(
        "out.jsonl is done, with the same settings; nothing to do\n"
    )
    write_lines(tmp_path / "2.jsonl", [json.dumps({"text": "dog"})])
    status, _, err = command(input="*.json*", output="out.jsonl")
    assert status == 2 and "out.jsonl holds results with input=" in err


# -- mistakes -------------------------------------------------------------------------------------------------

ROWS = {
    "rows.txt": "one\ntwo\n",
    "rows.xlsx": "one\n",
    "broken.csv": 'document\none\n"two\n',
    "rows.jsonl": '{"document": "one"}\n{"document": "two"}\n',
    "broken.jsonl": '{"document": "one"}\n{"document": \n',
    "other.jsonl": '{"document": "one"}\n{"body": "two"}\n',
    "done.jsonl": '{"document": "one", "output": "two"}\n',
    "odd.txt": "one\nnaïve\n",
    "own.txt": "a user's own file\n",
}
FLAGS = {
    ("--num_beems=4",): "command line: Unknown command line flag 'num_beems'. Did you mean: num_beams",
    ("--typical_p=0.9",): "option typical_p of transformers is not supported; leave it out",
    ("many",): "command line: 'many' is not a flag; expected --model=…, --input=FILE, --output=FILE, --option=value",
    ("--model=",): "no --model; expected --model=FOLDER_OR_HUB_NAME --input=FILE --output=FILE",
    ("--input=",): "no --input; expected",
    ("--batch_size=0",): "--batch_size is '0'; expected a whole number, 1 or more",
    ("--batch_size=x",): "--batch_size is 'x'; expected a whole number, 1 or more",
    ("--dtype=float64",): "--dtype is 'float64'; expected float32, bfloat16 or int8",
    ("--dtype=int16",): "dtype is 'int16' (did you mean 'int8'?); expected one of float32, bfloat16, float16, int8",
    ("--engine=tensorrt",): "--engine is 'tensorrt'; expected jax or ctranslate2",
    ("--return_scores",): "--return_scores with --output={}/out.txt; expected --output=NAME.jsonl, which holds scores",
    ("--labels=yes",): "labels hold 'yes'; expected a list of different texts, such as ['yes', 'no']",
    ("--do_sample=maybe",): "--do_sample is 'maybe'; expected true or false",
    ("--num_beams=0",): "generation option num_beams is 0; expected a whole number, 1 or more",
    ("--temperature=abc",): "generation option temperature is 'abc'; expected a number above 0",
    ("--early_stopping=maybe",): "generation option early_stopping is 'maybe'; expected True, False or 'never'",
    ("--suppress_tokens=[5,x]",): "generation option suppress_tokens is '[5,x]'; expected a list of token ids",
    ("--suppress_tokens=[259]",): "suppress_tokens holds the id 259; expected ids below the vocabulary's 259",
    ("--num_return_sequences=2",): "num_return_sequences is 2; expected 1 in greedy search; set num_beams or do_sample",
    ("--column=document",): "column 'document' of {}/rows.txt, a text file; expected a column only for a file with col",
}
FILES = {
    ("input", "absent.txt"): "no file {}/absent.txt; expected an existing file",
    (
        "input",
        "rows.xlsx",
    ): "{}/rows.xlsx has an unsupported file type; expected .jsonl, .json, .csv, .tsv, .parquet or .arrow",
    ("input", "broken.csv"): "{}/broken.csv:3: broken CSV: unexpected end of data; expected each quoted field closed, ",
    ("input", "broken.jsonl"): "{}/broken.jsonl:2: not JSON: Expecting value at column 13; expected one JSON object",
    ("input", "other.jsonl"): "{}/other.jsonl:2 has columns ['body'], not 'document'; expected it in every row",
    ("input", "done.jsonl"): "{}/done.jsonl:1 has a column 'output' already; expected none: it would be lost; rename",
    ("output", "none/out.txt"): "--output: no folder {}/none; expected an existing one",
    ("output", ""): "--output: {} is a folder; expected a file",
    (
        "output",
        "out.txt.gz",
    ): "--output: {}/out.txt.gz has an unsupported file type; expected .jsonl, or a text file with one",
    ("output", "out.json"): "--output: {}/out.json has an unsupported file type; expected .jsonl",
    ("output", "own.txt"): "{}/own.txt is there, but not its settings own.txt.settings.json; expected results that th",
    ("output", "/proc/out.txt"): "/proc/out.txt.partial cannot be written: ",
    ("model", "bare"): "the model bare has no tokenizer; expected tokenizer files in the same folder",
    ("model", "./none"): "model: no folder './none'; expected a folder, or a name on the hub such as google/flan-t5-sm",
    ("model", "small"): "{}/odd.txt:2: the tokens of this text hold 130; expected ids from 0 to 99, the model's voca",
}


@pytest.mark.parametrize("what", [*FLAGS, *FILES], ids=" ".join)
def test_mistakes(tmp_path, command, what):
    """All are refused before anything is generated, with one line, and leave no file behind."""
    for name, content in ROWS.items():
        (tmp_path / name).write_text(content)
    if what in FLAGS:
        status, out, err = command(*what)
    else:
        name, value = what
        other = {"input": {"output": "out.jsonl"}, "model": {"input": "odd.txt"}, "output": {}}[name]
        status, out, err = command(**{name: value} | other)
    lines = [line for line in err.splitlines() if not line.endswith("rows, 0 of them empty")]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("error: " + (FLAGS | FILES)[what].format(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ROWS)


def test_the_real_command():
    done = subprocess.run(
        [sys.executable, "-m", "nash_jax.generate", "--input=none"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no --model; expected --model=FOLDER_OR_HUB_NAME --input=FILE --output=FILE\n"


def test_documented():
    """Each option with its default, and each name that is refused."""
    page = (ROOT / "docs" / "generation.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", page, re.MULTILINE))
    defaults = {name: "" if value in (None, ()) else str(value) for name, value in vars(GenerationOptions()).items()}
    own = dict.fromkeys(["decoder_start_token_id", "eos_token_id", "pad_token_id"], "the model's")
    assert {name: said.strip("`") for name, said in table.items()} == defaults | own | {"max_new_tokens": "64"}
    refused = page.partition("\nRefused: ")[2].partition("; a start token")[0]
    assert re.findall(r"`(\w+)`", refused) == sorted(UNSUPPORTED_FIELDS)


def test_help(command):
    status, out, err = command("--help")
    assert (status, err) == (0, "") and "--model=FOLDER_OR_HUB_NAME" in out
