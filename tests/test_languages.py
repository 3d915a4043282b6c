"""Multilingual models: sources are marked with their language, and outputs begin with theirs."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from commands import call
from families import TORCH_WARNINGS
from seeds import some

import nash_jax
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import TaskConfig, default_config
from nash_jax.data.languages import choose_languages, find_language, language_ids, stored_languages, target_options
from nash_jax.data.pipeline import tokenize
from nash_jax.data.tokenizers import choose_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.generate import main as generate
from nash_jax.generation.options import GenerationOptions
from nash_jax.recipe.evaluate_model import EvaluationRun
from nash_jax.recipe.run import PruningRun
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.training.losses import shift_right
from nash_jax.tree import flatten, unflatten

pytestmark = TORCH_WARNINGS
LETTERS = "abcdefgh"
ROWS = [{"source": "ab", "references": ["ba"]}]
CODES = {
    "mbart": ("de_DE", "ro_RO"),
    "mbart50": ("de_DE", "ro_RO"),
    "nllb": ("deu_Latn", "ron_Latn"),
    "m2m": ("de", "ro"),
}
FAMILIES = {"mbart": "mbart", "mbart50": "mbart", "nllb": "m2m_100", "m2m": "m2m_100"}
KINDS = list(CODES)


def make_tokenizer(kind: str, folder, **own):
    """A tokenizer of letters, as the hub has them: without a target language."""
    import transformers

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = ["▁", *(f"▁{letter}" for letter in LETTERS), *LETTERS]
    if kind == "nllb":
        return transformers.NllbTokenizer(vocab={t: i for i, t in enumerate(special + pieces)}, merges=[], **own)
    if kind == "m2m":
        return _m2m_tokenizer(folder, own)
    class_of = {"mbart": transformers.MBartTokenizer, "mbart50": transformers.MBart50Tokenizer}[kind]
    return class_of(vocab=[(t, 0.0) for t in special] + [(t, -1.0) for t in pieces], **own)


def _m2m_tokenizer(folder, own):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the tokenizer of M2M100 needs sentencepiece")
    import transformers

    folder.mkdir(exist_ok=True)
    (folder / "letters.txt").write_text("\n".join([" ".join(LETTERS)] * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "letters.txt"), model_prefix=str(folder / "m"), vocab_size=20, model_type="char"
    )
    model = sentencepiece.SentencePieceProcessor(str(folder / "m.model"))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(model.id_to_piece(i) for i in range(3, model.get_piece_size()))]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "m.model"), **own)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def saved(tmp_path):
    """`saved(kind)` → folder of a tokenizer as the hub has it."""

    @functools.cache
    def save(kind: str, **own: str):
        make_tokenizer(kind, tmp_path / f"{kind} parts", **own).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save


def task(folder, **own) -> TaskConfig:
    return TaskConfig(**({"name": "t", "tokenizer": str(folder), "prompt": "plain", "source_column": "text"} | own))


def tokens_of(tokenizer, folder, settings) -> tuple[list[str], list[str]]:
    sources, targets = tokenize(ROWS, tokenizer, settings, folder)
    return tuple(tokenizer.convert_ids_to_tokens(x.pad([0], int(x.lengths[0]), 1)[0]) for x in (sources, targets))


def marked(tokenizer, language: str, text: str, at_end: bool) -> list[str]:
    token = f"__{language}__" if hasattr(tokenizer, "lang_token_to_id") else language
    words = tokenizer.tokenize(text)
    return [*words, "</s>", token] if at_end else [token, *words, "</s>"]


# Which languages ----------------------------------------------------------------------------------------------


def test_settings_mark_sources_and_targets(kind, saved, tmp_path, capsys):
    source, target = CODES[kind]
    settings = task(saved(kind), source_language=source, target_language=target)
    tokenizer = choose_tokenizer(settings, None, ROWS)
    assert f"languages: {source} to {target}" in capsys.readouterr().err
    expected = marked(tokenizer, source, "ab", kind == "mbart"), marked(tokenizer, target, "ba", kind == "mbart")
    assert tokens_of(tokenizer, tmp_path, settings) == expected
    (tmp_path / "again").mkdir()
    save_tokenizer(tokenizer, tmp_path / "again")
    again = choose_tokenizer(task(tmp_path / "again"), None, ROWS)  # as saved: nothing needs to be said again
    assert stored_languages(again) == (source, target)
    assert tokens_of(again, tmp_path, settings) == expected


def test_another_target_language_is_not_read_from_the_cache(kind, saved, tmp_path):
    source, target = CODES[kind]
    found = []
    for languages in ((source, target), (source, source)):
        settings = task(saved(kind), source_language=languages[0], target_language=languages[1])
        found.append(tokens_of(choose_tokenizer(settings, None, ROWS), tmp_path, settings)[1])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("kind", "columns", "codes"),
    [
        ("mbart", ("de", "ro"), ("de_DE", "ro_RO")),
        ("mbart50", ("translation.ja", "translation.sl"), ("ja_XX", "sl_SI")),
        ("nllb", ("deu", "zho_Hant"), ("deu_Latn", "zho_Hant")),
        ("m2m", ("de", "ro"), ("de", "ro")),
    ],
)
def test_columns_of_a_translation_name_the_languages(saved, kind, columns, codes):
    settings = task(saved(kind), form="translation", source_column=columns[0], target_column=columns[1])
    assert stored_languages(choose_tokenizer(settings, None, ROWS)) == codes


def test_a_task_of_the_table_names_its_languages(saved):
    settings = task(saved("mbart"), name="wmt16_ro_en", source="hub")
    assert stored_languages(choose_tokenizer(settings, None, ROWS)) == ("ro_RO", "en_XX")


def test_a_mixture_of_several_pairs_is_refused(saved):
    settings = task(saved("mbart"), name="both", source="hub", mixture="wmt16_ro_en,wmt16_de_en", source_language="de")
    with pytest.raises(UserError, match=r"config.task.mixture is .*, with 2 pairs of languages"):
        choose_languages(load_tokenizer(str(saved("mbart"))), settings)
    alone = dataclasses.replace(settings, mixture="wmt16_ro_en,cola", source_language="")
    tokenizer = load_tokenizer(str(saved("mbart")))
    choose_languages(tokenizer, alone)
    assert stored_languages(tokenizer) == ("ro_RO", "en_XX")


def test_a_language_that_the_user_sets_on_a_saved_tokenizer(kind, saved):
    source, target = CODES[kind]
    tokenizer = choose_tokenizer(task(saved(kind), source_language=source, target_language=target), None, ROWS)
    tokenizer.src_lang = target
    assert stored_languages(tokenizer) == (target, target)


REFUSED = {
    "none": ({}, "no source language; expected a language of the tokenizer: .*; set config.task.source_language"),
    "no target": ({"source_language": "de"}, "no target language; .*; set config.task.target_language"),
    "columns that name none": (
        {"form": "translation", "source_column": "german", "target_column": "ro"},
        "no source language; .*; set config.task.source_language",
    ),
    "unknown": (
        {"source_language": "de_XX", "target_language": "ro"},
        r"config.task.source_language is 'de_XX' \(did you mean 'de_DE'\?\); expected a language of the tokenizer: ar",
    ),
    "unknown target": (
        {"source_language": "de_DE", "target_language": "romanian"},
        r"config.task.target_language is 'romanian'(?:.*); expected a language of the tokenizer: .* … \(25\)$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_languages_that_are_not_known(saved, name):
    fields, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        choose_tokenizer(task(saved("mbart"), **fields), None, ROWS)


def test_the_first_part_of_several_codes(saved):
    tokenizer = load_tokenizer(str(saved("nllb")))
    assert (find_language(tokenizer, "zho"), find_language(tokenizer, "zh")) == (None, None)
    with pytest.raises(UserError, match=r"source_language is 'zho' \(did you mean 'zho_Han[st]'\?\)"):
        choose_tokenizer(task(saved("nllb"), source_language="zho", target_language="deu"), None, ROWS)


@pytest.mark.parametrize("field", ["source_language", "target_language"])
def test_a_tokenizer_without_languages(field):
    with pytest.raises(UserError, match=rf"config.task.{field} is 'de_DE', and the tokenizer .* has no languages"):
        choose_tokenizer(TaskConfig(source="pronunciation", **{field: "de_DE"}), None, ROWS)


def test_languages_that_a_user_added(saved):
    tokenizer = load_tokenizer(str(saved("nllb")))
    tokenizer.add_special_tokens({"extra_special_tokens": ["gsw_Latn"]}, replace_extra_special_tokens=False)
    assert language_ids(tokenizer)["gsw_Latn"] == tokenizer.convert_tokens_to_ids("gsw_Latn")
    assert find_language(tokenizer, "gsw") == "gsw_Latn"


# Training -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("family", ["bart", "mbart", "marian", "pegasus", "m2m_100"])
def test_decoder_inputs_are_those_of_transformers(family):
    import importlib

    import torch

    theirs = importlib.import_module(f"transformers.models.{family}.modeling_{family}").shift_tokens_right
    spec = dense_spec(
        family=family, vocab_size=30, d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1,
        decoder_start_id=7,
    )  # fmt: skip
    labels = np.random.default_rng(0).integers(8, 30, (4, 6)).astype(np.int32)
    for row, length in enumerate((6, 4, 2, 1)):
        labels[row, length:] = spec.pad_id
    start = () if family == "mbart" else (7,)
    expected = theirs(torch.from_numpy(labels), spec.pad_id, *start).numpy()
    np.testing.assert_array_equal(np.asarray(shift_right(labels, spec)), expected)


def write_rows(folder) -> dict[str, str]:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 32), ("validation", 8), ("test", 8)):
        texts = ["".join(rng.choice(list(LETTERS), 4)) for _ in range(count)]
        lines = (json.dumps({"de": text, "ro": text[::-1], "text": text}) for text in texts)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return {f"{split}_file": str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}


def run_config(folder, tokenizer, family: str):
    """A run of a few steps on a fresh model of a multilingual family."""
    config = default_config()
    config.task.update(
        name="t", source="files", form="text", prompt="plain", prefix="", metric="exact_match", source_column="de",
        target_column="ro", tokenizer=str(tokenizer), max_source_length=8, max_target_length=8, max_new_tokens=7,
        **write_rows(folder),
    )  # fmt: skip
    config.model.update(
        family=family, d_model=16, d_ff=16, num_heads=2, encoder_layers=1, decoder_layers=2, dropout_rate=0.0
    )
    for phase in (config.finetune, config.prune, config.retrain):
        phase.update(epochs=1.0, batch_size=16, eval_every=1.0, optimizer="adamw")
    config.shorten.decoder_layers = 1
    config.prune.update(sparsity=0.3, sparsity_warmup_epochs=0.5, prepruning_epochs=0.0)
    config.stages = "data,finetune,shorten,prune,compact,retrain,evaluate,export"
    config.benchmark.update(source_length=8, new_tokens=(4,))
    config.evaluate.update(batch_size=8, num_beams=1)
    return config


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("kind", some(["mbart", "nllb", "mbart50"], few=0))
def test_a_run_begins_outputs_with_the_language(saved, tmp_path, kind):
    """Trained, validated, evaluated and exported with the same first tokens; transformers reads them in the folder."""
    import transformers

    source, target = CODES[kind]
    config = run_config(tmp_path / "rows", saved(kind), FAMILIES[kind])
    config.task.update(source_language=source, target_language=target)
    run = PruningRun(parse_config(config), tmp_path / "run")
    run.run()
    context, language = run.context, language_ids(load_tokenizer(str(saved(kind))))[target]
    begin = [language] if kind == "mbart" else [2, language]
    for folder in ("export", "export/hf"):
        model = nash_jax.load(tmp_path / "run" / folder)
        assert stored_languages(model.tokenizer) == (source, target)
        ids = model.tokenizer(["abcd", "hgfe"], return_tensors="np")["input_ids"]
        assert model.generate_ids(ids, max_new_tokens=5)[:, : len(begin)].tolist() == [begin] * 2
        assert model.generate(["abcd"], max_new_tokens=5) == model.generate(
            ["abcd"], source_lang=source, target_lang=target, max_new_tokens=5
        )
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "export" / "hf").eval()
    outputs = theirs.generate(transformers.BatchEncoding({"input_ids": ids}, tensor_type="pt")["input_ids"])
    assert outputs[:, : len(begin)].tolist() == [begin] * 2
    for evaluator in (context.validation("finetune"), context.evaluator("test", "finetune")):
        first = evaluator.options.forced_bos_token_id, evaluator.options.decoder_start_token_id
        assert first == {"mbart": (None, language), "mbart50": (language, 2), "nllb": (language, None)}[kind]
    starts = np.asarray(shift_right(context.batches(config.finetune, "finetune")[0]["labels"], model.spec))[:, 0]
    assert set(starts.tolist()) == {begin[0]} == {model.spec.decoder_start_id}


@pytest.mark.parametrize("kind", ["mbart", "nllb"])
def test_evaluation_alone_takes_the_languages(saved, tmp_path, kind):
    source, target = CODES[kind]
    tokenizer = load_tokenizer(str(saved(kind)))
    nash_jax.Seq2Seq(*model_of(kind, tokenizer), tokenizer).save(tmp_path / "model")
    config = run_config(tmp_path / "rows", "", FAMILIES[kind])
    config.model.init, config.stages = str(tmp_path / "model"), "evaluate"
    with pytest.raises(UserError, match="no source language; expected a language of the tokenizer"):
        EvaluationRun(parse_config(config), tmp_path / "without").run()
    config.task.update(source_language=source, target_language=target)
    EvaluationRun(parse_config(config), tmp_path / "with").run()
    examples = json.loads((tmp_path / "with" / "evaluate" / "done").read_text())["examples"]
    model = nash_jax.load(tmp_path / "model")
    expected = model.generate(
        [row["source"] for row in examples], source_lang=source, target_lang=target, max_new_tokens=7
    )
    assert [row["model"] for row in examples] == expected


# Generation ---------------------------------------------------------------------------------------------------


def model_of(kind: str, tokenizer):
    """A random model for a tokenizer, whose outputs depend on the languages of source and target."""
    vocab_size = max(max(tokenizer.get_vocab().values()), *language_ids(tokenizer).values()) + 1
    spec = dense_spec(
        family=FAMILIES[kind], vocab_size=vocab_size, d_model=16, d_ff=16, num_heads=2, encoder_layers=1,
        decoder_layers=1, max_positions=32, tied=False,
    )  # fmt: skip
    flat = flatten(random_params(spec, 1))
    params = unflatten({path: leaf * 3 if "cross_attention/" in path else leaf for path, leaf in flat.items()})
    letters = tokenizer.convert_tokens_to_ids(list(LETTERS))
    other = np.setdiff1d(np.arange(vocab_size), letters)
    params["lm_head"][:, other] *= 0.1  # outputs are letters, for the most part
    return spec, params


@pytest.fixture
def model(kind, saved):
    """A model with its tokenizer as the hub has it."""
    tokenizer = load_tokenizer(str(saved(kind)))
    return nash_jax.Seq2Seq(*model_of(kind, tokenizer), tokenizer, generation=GenerationOptions(max_new_tokens=6))


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_is_that_of_transformers(kind, model, tmp_path, num_beams):
    """Their way: the tokenizer's `src_lang`, and the first token of outputs as an option."""
    import torch
    import transformers

    source, target = CODES[kind]
    texts = ["abc", "hgfed", "a"]
    found = model.generate(texts, source_lang=source, target_lang=target, num_beams=num_beams)
    model.save_hf(tmp_path / "hf")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = load_tokenizer(str(tmp_path / "hf"))
    tokenizer.src_lang, language = source, language_ids(tokenizer)[target]
    first = {"decoder_start_token_id": language} if kind == "mbart" else {"forced_bos_token_id": language}
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ids = theirs.generate(**batch, **first, num_beams=num_beams, max_new_tokens=6)
    special = {*tokenizer.all_special_ids, *language_ids(tokenizer).values()}
    kept = [[token for token in row.tolist() if token not in special] for row in ids]
    assert found == tokenizer.batch_decode(kept)
    assert len(set(found)) > 1


def test_languages_change_the_output_and_the_tokenizer_stays(kind, model):
    source, target = CODES[kind]
    before = model.tokenizer.src_lang, model.tokenizer.tgt_lang
    outputs = {
        languages: model.generate(["abcd", "hgf"], source_lang=languages[0], target_lang=languages[1])
        for languages in ((source, target), (target, source), (source, source))
    }
    assert len({tuple(texts) for texts in outputs.values()}) == 3
    assert (model.tokenizer.src_lang, model.tokenizer.tgt_lang) == before
    assert not any(code in text for texts in outputs.values() for text in texts for code in (source, target, "__"))
    with pytest.raises(
        UserError, match=r"no source language; expected a language of the tokenizer: .*; set source_lang"
    ):
        model.generate(["abcd"])
    with pytest.raises(
        UserError, match=r"no target language; expected a language of the tokenizer: .*; set target_lang"
    ):
        model.generate(["abcd"], source_lang=source)
    for wrong in ("klingon", 5, ["de"], b"de"):
        with pytest.raises(UserError, match=r"target_lang is .*; expected a language of the tokenizer"):
            model.generate(["abcd"], source_lang=source, target_lang=wrong)
    assert (model.tokenizer.src_lang, model.tokenizer.tgt_lang) == before


def test_the_options_of_transformers_give_the_target(kind, model):
    """`forced_bos_token_id` or the start token, and the tokenizer's own `src_lang`."""
    source, target = CODES[kind]
    expected = model.generate(["abcd"], source_lang=source, target_lang=target)
    model.tokenizer.src_lang, language = source, language_ids(model.tokenizer)[target]
    option = "decoder_start_token_id" if kind == "mbart" else "forced_bos_token_id"
    assert model.generate(["abcd"], **{option: language}) == expected
    fixed = nash_jax.Seq2Seq(
        model.spec, model.params, model.tokenizer, generation=model.generation.replace(**{option: language})
    )
    assert fixed.generate(["abcd"]) == expected == fixed.generate(["abcd"], source_lang=source)
    spec = dataclasses.replace(model.spec, decoder_start_id=language)
    if kind == "mbart":
        assert nash_jax.Seq2Seq(spec, model.params, model.tokenizer).generate(["abcd"], max_new_tokens=6) == expected


def test_nllb_of_old_versions_ends_with_the_language(saved):
    """`legacy_behaviour` puts the code behind; transformers forces it first all the same."""
    tokenizer = load_tokenizer(str(saved("nllb", legacy_behaviour=True)))
    tokenizer.src_lang, tokenizer.tgt_lang = CODES["nllb"]
    language = language_ids(tokenizer)["ron_Latn"]
    assert tokenizer(text_target="ab")["input_ids"][-1] == language
    assert target_options(tokenizer, wraps_labels=False) == {"forced_bos_token_id": language}


def test_a_model_without_languages(tmp_path):
    from test_generate_cli import byte_tokenizer

    tokenizer = byte_tokenizer()
    spec = dense_spec(
        vocab_size=len(tokenizer),
        d_model=8,
        d_ff=8,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        pad_id=0,
        eos_id=1,
    )
    model = nash_jax.Seq2Seq(spec, random_params(spec), tokenizer)
    assert len(model.generate(["abc"], max_new_tokens=3)) == 1
    for name in ("source_lang", "target_lang"):
        with pytest.raises(UserError, match=f"{name} is 'de', and the tokenizer .* has no languages"):
            model.generate(["abc"], **{name: "de"})


@pytest.mark.parametrize("kind", ["mbart", "mbart50", "nllb"])
def test_the_command(kind, model, tmp_path):
    source, target = CODES[kind]
    model.save(tmp_path / "model")
    (tmp_path / "in.txt").write_text("abc\nhgfe\n")

    def run(output: str, *flags: str):
        places = (f"--model={tmp_path / 'model'}", f"--input={tmp_path / 'in.txt'}", f"--output={tmp_path / output}")
        return call(generate, *places, *flags)

    done = run("out.txt", f"--source_lang={source}", f"--target_lang={target}")
    assert done.returncode == 0, done.stderr
    expected = model.generate(["abc", "hgfe"], source_lang=source, target_lang=target)
    assert (tmp_path / "out.txt").read_text().splitlines() == expected
    other = run("out.txt", f"--source_lang={target}", f"--target_lang={target}")
    assert other.returncode == 2  # another output, not the one that is done
    without = run("none.txt")
    assert without.returncode == 2
    assert "error: no source language; expected a language of the tokenizer" in without.stderr
    assert "set --source_lang" in without.stderr
    wrong = run("none.txt", "--source_lang=xx", f"--target_lang={target}")
    assert "--source_lang is 'xx'" in wrong.stderr and wrong.returncode == 2
