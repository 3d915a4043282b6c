"""Tokenizers that do not quite fit their model: other special tokens, more tokens, or fewer."""

import dataclasses
import json

import numpy as np
import pytest
from commands import call
from seeds import some
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import nash_jax
from nash_jax import main
from nash_jax.data.special_tokens import align_special_ids, check_first_rows, check_token_ids, fill_special_tokens
from nash_jax.errors import UserError
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

WORDS = ["the", "cat", "sat", "on", "a", "mat"]
CHINESE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气很好我们去公园玩吗"]
BERT = {"pad_id": 0, "eos_id": 3, "decoder_start_id": 2}  # as the config.json of Chinese T5 and BART has them


def word_tokenizer(*tokens, **special):
    """Words of the given order; ends texts with `</s>`."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def bert_tokenizer(folder):
    """A folder with BertTokenizer's files: no EOS token, no BOS token."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def spec_of(family, size, **own):
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    positions = {"max_positions": 32} if family == "bart" else {}
    return dense_spec(vocab_size=size, family=family, tied=True, dropout_rate=0.0, **sizes, **positions, **own)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_tokenizer_without_eos(family, tmp_path):
    """It loads, and knows from the model what ends a text."""
    bert_tokenizer(tmp_path)
    spec = spec_of(family, len(CHINESE), **BERT)
    nash_jax.Seq2Seq(spec, random_params(spec)).save_hf(tmp_path)
    tokenizer = nash_jax.load(tmp_path).tokenizer
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("[PAD]", "[SEP]")
    ids = tokenizer("今天很好")["input_ids"]
    assert ids[-1] == 3 and tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "今天很好"


def test_what_a_tokenizer_has_stays():
    tokenizer = word_tokenizer("<pad>", "</s>", "<unk>", "<eot>", pad_token="<pad>", eos_token="</s>")
    fill_special_tokens(tokenizer, spec_of("t5", 9, pad_id=3, eos_id=3))
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")
    fill_special_tokens(tokenizer, spec_of("t5", 9, pad_id=8, eos_id=8))  # no token of this id


def test_ids_are_those_of_the_tokenizer(capsys):
    tokenizer = word_tokenizer("</s>", "<unk>", "<pad>", *WORDS, pad_token="<pad>", eos_token="</s>")
    spec = spec_of("t5", 12)
    assert align_special_ids(spec, tokenizer) == dataclasses.replace(spec, pad_id=2, eos_id=0)
    assert capsys.readouterr().err == (
        "note: the model has pad_id 0, eos_id 1, its tokenizer pad_id 2, eos_id 0; the tokenizer's are used\n"
    )
    same = dataclasses.replace(spec, pad_id=2, eos_id=0)
    assert align_special_ids(same, tokenizer) == same
    assert capsys.readouterr().err == ""


def test_the_side_counts_on_which_a_token_occurs():
    """Of two tables, each has to have the tokens of its own side."""
    tokenizer = word_tokenizer("<pad>", "</s>", "<unk>", *WORDS, pad_token="<pad>", eos_token="</s>")
    spec = spec_of("bart", 5, encoder_vocab_size=9)
    check_token_ids(tokenizer, spec, source=np.array([3, 8]), target=np.array([4]))
    check_token_ids(tokenizer, spec, source=np.array([], int))
    for side, ids in (("target", [3, 5]), ("source", [9])):
        with pytest.raises(UserError, match=rf"the {side}s contain the token .* of id {ids[-1]}, and the model has"):
            check_token_ids(tokenizer, spec, **{side: np.array(ids)})


def test_a_tokenizer_of_another_model_shows_at_the_first_rows():
    tokenizer = word_tokenizer("<pad>", "</s>", "<unk>", *WORDS, pad_token="<pad>", eos_token="</s>")
    rows = iter([{"source": "the cat", "references": ["the mat"]}] * 1000)
    with pytest.raises(UserError, match=r"the targets contain the token 'mat' of id 8, and the model has 7 tokens"):
        check_first_rows(tokenizer, spec_of("t5", 7), rows)
    assert len(list(rows)) > 900


def write_rows(folder, source, target):
    row = json.dumps({"document": source, "summary": target}, ensure_ascii=False)
    rows = [row.replace("#", str(i)) for i in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")


def run(folder, stages, **settings):
    files = {f"task.{split}_file": folder / "rows.jsonl" for split in ("train", "validation", "test")}
    sizes = {"max_source_length": 16, "max_target_length": 8, "max_new_tokens": 4, "metric": "exact_match"}
    given = {
        "model.init": folder / "model",
        "finetune.optimizer": "adamw",
        "finetune.batch_size": 8,
        "stages": stages,
        "benchmark.source_length": 8,
        "benchmark.new_tokens": 4,
    }
    given |= {f"task.{name}": value for name, value in sizes.items()} | files | settings
    given |= {"finetune.epochs": 1.0, "prune.batch_size": 8, "retrain.batch_size": 8, "shorten.decoder_layers": 1}
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    return call(main.main, "--config=configs/local.py", f"--workdir={folder / ('run-' + stages)}", *flags)


def mask_is_last(folder):
    """As BART-large-CNN, XSum and DistilBART: the tokenizer has one token more than the model."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}
    tokenizer = word_tokenizer("<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>", **special)
    spec = spec_of("bart", len(tokenizer) - 1)
    nash_jax.Seq2Seq(spec, random_params(spec), tokenizer).save_hf(folder / "model")
    write_rows(folder, "the cat sat #", "the mat")
    return {"pad_id": 1, "eos_id": 2}


def chinese(folder):
    bert_tokenizer(folder / "model")
    spec = spec_of("bart", len(CHINESE), **BERT)
    nash_jax.Seq2Seq(spec, random_params(spec)).save_hf(folder / "model")
    write_rows(folder, "今天很好 #", "我们去公园")
    return {"pad_id": 0, "eos_id": 3, "decoder_start_id": 2}


def other_ids(folder):
    """The config says 0 and 1, the tokenizer 3 and 2; and the table has rows to spare."""
    tokenizer = word_tokenizer("<unk>", "the", "</s>", "<pad>", *WORDS[1:], pad_token="<pad>", eos_token="</s>")
    spec = spec_of("t5", 64)
    nash_jax.Seq2Seq(spec, random_params(spec), tokenizer).save(folder / "model")
    write_rows(folder, "the cat sat #", "the mat the")
    return {"pad_id": 3, "eos_id": 2, "decoder_start_id": 0}


@pytest.mark.parametrize("make", some([mask_is_last, chinese, other_ids], few=1))
def test_a_run(make, tmp_path):
    ids = make(tmp_path)
    for stages in ("evaluate", "data,finetune"):
        done = run(tmp_path, stages, **{"model.dtype": "float32"})
        assert done.returncode == 0, done.stderr
    model = nash_jax.load(tmp_path / "run-data,finetune" / "finetune" / "model")
    assert {name: getattr(model.spec, name) for name in ids} == ids
    last = [json.loads(line) for line in (tmp_path / "run-data,finetune" / "metrics.jsonl").read_text().splitlines()][
        -1
    ]
    assert np.isfinite(last["validation/exact_match"])


def test_a_token_that_the_model_does_not_have(tmp_path):
    mask_is_last(tmp_path)
    write_rows(tmp_path, "the cat <mask> #", "the mat")
    for stages in ("evaluate", "data,finetune"):
        done = run(tmp_path, stages)
        assert done.returncode == 2
        assert "the sources contain the token '<mask>' of id 10, and the model has 10 tokens; expected" in done.stderr
