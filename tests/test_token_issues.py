"""Targets that a tokenizer cannot hold are counted with their place; special tokens that outputs keep."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

import nash_jax
from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import DataIssues
from nash_jax.data.decoding import decode_outputs, keep_ids, space_tokens
from nash_jax.data.sources import load_rows
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import Evaluator, score_outputs
from nash_jax.generate import main
from nash_jax.generation.options import GenerationOptions
from nash_jax.testing import lively_model

SPECIAL = ("<pad>", "</s>", "<unk>", "<sep>", "<br>")


def words_tokenizer():
    """As T5's: words with `▁`, line ends lost, some characters unknown, and two special tokens more."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("\n", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<sep>", "<br>"],
    )  # fmt: skip


def bytes_tokenizer():
    """As BART's: every character and line end is known, and two special tokens are added to every text."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<sep>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    both = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=both)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<sep>"],
    )  # fmt: skip


def found_in(tmp_path, tokenizer, pairs, **fields):
    """kind → (rows, first place and detail) of what the summary says, which is printed too."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"document": s, "summary": t}) + "\n" for s, t in pairs))
    task = TaskConfig(name="own", source="files", test_file=str(path), prefix="", **fields)
    issues = DataIssues()
    record = summarize_data(load_rows(task, ("test",), issues), tokenizer, task, tmp_path, issues)
    lines = list(format_summary(record))
    for row in record["findings"]:
        assert f"    kept {row['rows']} {row['kind']}, first {row['first']}" in lines
    return {row["kind"]: (row["rows"], row["first"].removeprefix(f"{path}:")) for row in record["findings"]}


TARGETS = [("one", "plain"), ("two", "{name}"), ("three", "a ~ {b}"), ("four", "one\ntwo"), ("five", "x </s> y")]


def test_a_tokenizer_that_loses_much(tmp_path):
    pairs = [*TARGETS, ("six <pad> s", "fine"), ("seven", "a <sep> b"), ("eight", "c\r\nd"), ("nine", "e\n")]
    found = found_in(tmp_path, words_tokenizer(), pairs)
    assert found["unknown_token"] == (3, "2: '{', '}' become <unk> in the target '{name}'")  # and \r
    assert found["lost_line_end"] == (3, "4: the target is 'one\\ntwo'")
    assert found["control_token"] == (3, "6: <pad> in the source 'six <pad> s'")
    assert set(found) == {"unknown_token", "lost_line_end", "control_token"}
    kept = found_in(tmp_path, words_tokenizer(), pairs, keep_tokens="<sep>, <br>")
    assert kept["control_token"][0] == 2


@pytest.mark.parametrize("end", ["\r", "\x85", "\u2028", "\u2029"])
def test_every_kind_of_line_end(tmp_path, end):
    assert found_in(tmp_path, words_tokenizer(), [("one", f"one{end}two")])["lost_line_end"][0] == 1
    assert "lost_line_end" not in found_in(tmp_path, bytes_tokenizer(), [("one", f"one{end}two")])


def test_a_tokenizer_that_loses_nothing(tmp_path):
    pairs = [*TARGETS[:4], ("a</s></s>b", "a form's separator"), ("c", "世 🌍 é\r\n\t{~}")]
    assert found_in(tmp_path, bytes_tokenizer(), pairs) == {}
    found = found_in(tmp_path, bytes_tokenizer(), [*pairs, TARGETS[4], ("d</s>e", "f"), ("g", "h<s>")])
    assert set(found) == {"control_token"} and found["control_token"][0] == 3


def test_a_slow_tokenizer(tmp_path):
    found = found_in(tmp_path, ByT5Tokenizer(), [*TARGETS, ("six", "a<extra_id_3>b")])
    assert found == {"control_token": (2, "5: </s> in the target 'x </s> y'")}


def test_every_split_and_target_is_counted(tmp_path):
    rows = {
        "train": [{"source": "a", "references": ["b", "{", "c{"]}, {"source": "d", "references": ["~"]}],
        "test": [{"source": "e", "references": ["f"]}, {"source": "g", "references": ["{"]}],
    }
    issues = DataIssues()
    summarize_data(rows, words_tokenizer(), TaskConfig(), tmp_path, issues)
    found = [(row["split"], row["kind"], row["rows"], row["first"]) for row in issues.to_json()]
    assert found == [
        ("train", "unknown_token", 3, "row 1: '{' become <unk> in the target '{'"),
        ("test", "unknown_token", 1, "row 2: '{' become <unk> in the target '{'"),
    ]


# -- outputs that keep tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [words_tokenizer, bytes_tokenizer], ids=["words", "bytes"])
def test_decoding(make):
    """Padding never shows, nor does what follows EOS; a start token that is EOS does not end the output."""
    tokenizer = make()
    start = tokenizer.eos_token_id if make is bytes_tokenizer else tokenizer.pad_token_id
    rows = [[start, *tokenizer(text)["input_ids"]] for text in ("ab <sep> c", "d")]
    length = max(map(len, rows)) + 2
    tokens = np.array([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    plain = decode_outputs(tokenizer, tokens)
    assert plain == tokenizer.batch_decode(tokens, skip_special_tokens=True) and "<sep>" not in plain[0]
    kept = decode_outputs(tokenizer, tokens, keep_tokens=["<sep>"])
    assert [space_tokens(text, ["<sep>"]) for text in kept] == ["ab <sep> c", "d"]
    whole = decode_outputs(tokenizer, tokens, skip_special_tokens=False)
    assert whole == [tokenizer.decode(row, skip_special_tokens=False) for row in rows]
    assert whole[1].count("<pad>") == (make is words_tokenizer)
    assert decode_outputs(tokenizer, tokens[1:, : len(rows[1])], skip_special_tokens=False) == whole[1:]


def test_padding_after_another_id_that_ends_outputs():
    """Generation may have more EOS ids than the tokenizer."""
    tokenizer = words_tokenizer()
    pad, eos, known = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer("ab c")["input_ids"][:2]
    tokens = np.array([[pad, *known, pad, pad], [pad, known[0], eos, eos, eos], [pad, pad, pad, pad, pad]])
    found = decode_outputs(tokenizer, tokens, skip_special_tokens=False)
    rows = [[pad, *known], [pad, known[0], eos], [pad]]
    assert found == [tokenizer.decode(row, skip_special_tokens=False) for row in rows]


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (
            ["<sepp>"],
            r"keep_tokens names '<sepp>' \(did you mean '<sep>'\?\); expected tokens of the tokenizer, such as",
        ),
        (["two words"], r"keep_tokens names 'two words'; expected tokens of the tokenizer"),
        ("<sep>", r"keep_tokens is one string; expected a list of special tokens; write \['<sep>'\]"),
    ],
)
def test_tokens_that_cannot_be_kept(tokens, says):
    with pytest.raises(UserError, match=says):
        keep_ids(words_tokenizer(), tokens)
    with pytest.raises(UserError, match=says):
        model().generate(["a"], keep_tokens=tokens)


def model():
    tokenizer = words_tokenizer()
    spec, params = lively_model(3, vocab_size=len(tokenizer))
    return nash_jax.Seq2Seq(spec, params, tokenizer, generation=GenerationOptions(max_new_tokens=12))


TEXTS = ["ab", "cde", "f g h", "xyz", "mno", "pq"]


def by_hand(own, texts, keep):
    """Each text alone, decoded token by token."""
    outputs = []
    for text in texts:
        ids = own.generate_ids(**own.tokenizer([text], return_tensors="np"))[0, 1:].tolist()
        ids = ids[: ids.index(1)] if 1 in ids else ids
        special = set(own.tokenizer.all_special_ids) - {own.tokenizer.convert_tokens_to_ids(token) for token in keep}
        outputs.append(own.tokenizer.decode([i for i in ids if i not in special]))
    return outputs


def test_generate_keeps_tokens(tmp_path, capsys):
    """In Python and for files alike; the settings are part of what a finished file was made with."""
    own = model()
    expected = by_hand(own, TEXTS, ["<sep>", "<br>"])
    assert any("<sep>" in text or "<br>" in text for text in expected)
    assert own.generate(TEXTS, keep_tokens=["<sep>", "<br>"], progress=False) == expected
    assert own.generate(TEXTS, progress=False) == by_hand(own, TEXTS, [])
    raw = own.generate(TEXTS, skip_special_tokens=False, progress=False)
    assert all(text.startswith("<pad>") and text.count("</s>") <= 1 for text in raw)

    own.save(tmp_path / "model")
    (tmp_path / "rows.csv").write_text("\n".join(["text", *TEXTS]) + "\n")
    flags = [f"--{name}={tmp_path / file}" for name, file in (("model", "model"), ("input", "rows.csv"))]
    for name, extra, outputs in (
        ("kept.jsonl", ["--keep_tokens=<sep>,<br>"], expected), ("raw.jsonl", ["--noskip_special_tokens"], raw),
    ):  # fmt: skip
        assert main(["generate", *flags, f"--output={tmp_path / name}", *extra]) == 0
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert rows == [{"text": text, "output": output} for text, output in zip(TEXTS, outputs, strict=True)]
    capsys.readouterr()
    assert main(["generate", *flags, f"--output={tmp_path / 'kept.jsonl'}"]) == 2
    assert 'holds results with keep_tokens=["<sep>", "<br>"], not its default' in capsys.readouterr().err
    assert main(["generate", *flags, f"--output={tmp_path / 'new.jsonl'}", "--keep_tokens=<none>"]) == 2
    assert "keep_tokens names '<none>'" in capsys.readouterr().err


def test_the_evaluation_keeps_tokens(tmp_path):
    """A perfect output has a full score, whatever spaces the tokenizer puts around a token."""
    own, task = model(), TaskConfig(metric="exact_match", keep_tokens="<sep>,<br>", prefix="")
    outputs = own.generate(TEXTS, keep_tokens=["<sep>", "<br>"], progress=False)
    rows = [
        {"source": text, "references": [output.replace("<sep>", " <sep>")]}
        for text, output in zip(TEXTS, outputs, strict=True)
    ]
    scores = {}
    for name, settings in (("kept", task), ("left out", TaskConfig(metric="exact_match", prefix=""))):
        evaluator = Evaluator(rows, own.tokenizer, settings, own.generation, 4, tmp_path)
        scores[name] = score_outputs(evaluator, {"dense": evaluator.generate(own.engine)})["metrics"]["dense"]
    assert scores["kept"]["exact_match"] == 100 > scores["left out"]["exact_match"]


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"pad_token_id": 5}])
def test_what_fills_a_row_after_its_end_is_no_word(options):
    """An ordinary token ends rows, and with beams fills them too; the texts are those of each input alone."""
    tokenizer = build_pronunciation_tokenizer([{"source": "abcdefgh", "references": ["A B C D E F G"]}])
    end = tokenizer.convert_tokens_to_ids("C")
    own = {"pad_token_id": end} if "pad_token_id" in options else options | {"eos_token_id": end}
    differ = 0
    for seed in range(2):
        model = nash_jax.Seq2Seq(*lively_model(seed, layers=2, vocab_size=len(tokenizer)), tokenizer)
        given = own | {"max_new_tokens": 10, "suppress_tokens": [0]}
        texts, ids = ["abc", "bad", "cafe"], model.generate_ids(*_padded(tokenizer, ["abc", "bad", "cafe"]), **given)
        assert model.generate(texts, **given) == [model.generate([text], **given)[0] for text in texts]
        differ += any(row.tolist().count(end) > 1 for row in ids)
    assert differ  # some rows were filled


def _padded(tokenizer, texts):
    given = tokenizer(texts, padding=True, return_tensors="np")
    return given["input_ids"], given["attention_mask"]
