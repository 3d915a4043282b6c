"""A model with fewer tokens computes what the whole model computes, in every family and in every kind of folder."""

import dataclasses
import json

import numpy as np
import pytest
from commands import call
from families import TORCH_WARNINGS, random_pair
from hypothesis import given
from hypothesis import strategies as st
from seeds import some
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import nash_jax
from nash_jax import Seq2Seq, UserError, trim_vocabulary
from nash_jax.axes import param_axes
from nash_jax.generation.options import GenerationOptions
from nash_jax.pruning.compact import cut
from nash_jax.spec import FAMILIES
from nash_jax.testing import lively_model, random_batch, random_params, random_spec
from nash_jax.tree import flatten
from nash_jax.vocabulary.__main__ import main
from nash_jax.vocabulary.option_ids import idle_rules, renumber_options
from nash_jax.vocabulary.sizes import vocabulary_size
from nash_jax.vocabulary.trim import trim_model

pytestmark = TORCH_WARNINGS
WORDS = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(13))]


def words_tokenizer(words=WORDS):
    from transformers import PreTrainedTokenizerFast

    table = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    table.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )  # fmt: skip


def lively(seed=0, **options):
    return Seq2Seq(
        *lively_model(seed, vocab_size=len(WORDS)), words_tokenizer(), generation=GenerationOptions(**options)
    )


def kept_ids(spec, seed):
    """About half of the ids, with those that the spec names."""
    rng = np.random.default_rng(seed)
    chosen = set(np.flatnonzero(rng.random(min(spec.vocab_size, spec.source_vocab_size)) < 0.5).tolist())
    return np.array(sorted(chosen | {spec.pad_id, spec.eos_id, spec.decoder_start_id}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", some(range(6), few=1))
def test_logits_are_those_of_the_whole_model(logits, family, seed):
    spec = random_spec(seed, family=family, ragged=True)
    if seed % 2 == 0 and family in ("marian", "custom"):
        spec = dataclasses.replace(spec, encoder_vocab_size=spec.vocab_size - 3)
    params, old_ids = random_params(spec, seed), kept_ids(spec, seed)
    small, small_params = trim_model(spec, params, old_ids)
    assert small.vocab_size == len(old_ids) < spec.vocab_size
    batch = random_batch(small, seed)
    before = {name: old_ids[ids] for name, ids in batch.items()}
    expected = logits(spec, params, before)[..., old_ids]
    found = logits(small, small_params, batch)
    assert np.abs(expected).max() > 1e-2
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@given(st.integers(0, 2**32 - 1))
def test_a_cut_takes_rows_of_the_tables_alone(seed):
    """Every leaf by NumPy: along `vocab` the kept rows, all else the same bits."""
    spec = random_spec(seed, family="custom", ragged=True)
    params, old_ids = random_params(spec, seed), kept_ids(spec, seed)
    small, found = trim_model(spec, params, old_ids)
    for path, axes in param_axes(spec).items():
        expected = flatten(params)[path]
        for dim, axis in enumerate(axes):
            expected = np.take(expected, old_ids, dim) if axis in ("vocab", "encoder_vocab") else expected
        np.testing.assert_array_equal(flatten(found)[path], expected)
    again, same = trim_model(small, found, np.arange(small.vocab_size))
    assert again == small
    assert all(np.array_equal(leaf, flatten(found)[path]) for path, leaf in flatten(same).items())


def test_the_special_tokens_of_a_spec_are_kept():
    spec = random_spec(0)
    with pytest.raises(UserError, match=r"token 1, spec\.eos_id, is not kept"):
        cut(spec, flatten(random_params(spec)), {"vocab": np.array([0, 2, 3])})


def forbid(logits, ids):
    """In place; before the softmax, unlike `suppress_tokens`, after which probabilities would not sum to 1."""
    logits[..., ids] = -np.inf


@pytest.mark.parametrize("family", some(["t5", "marian", "bart", "m2m_100"], few=2))
def test_outputs_are_those_of_transformers_without_the_other_logits(family, torch, tmp_path):
    """Oracle: transformers generates with the whole model and -inf for the other tokens; greedy, and four beams."""
    model, ours, inputs = random_pair(family, tmp_path)
    old_ids = kept_ids(ours.spec, 3)
    if (token := model.generation_config.bos_token_id) is not None:
        old_ids = np.union1d(old_ids, token)
    new_ids = {int(old): new for new, old in enumerate(old_ids)}
    small = Seq2Seq(*trim_model(ours.spec, ours.params, old_ids), generation=renumber_options(ours.generation, new_ids))
    rng = np.random.default_rng(0)
    ids = np.where(inputs["attention_mask"] > 0, rng.integers(0, len(old_ids), inputs["input_ids"].shape), 0)
    gone = sorted(set(range(ours.spec.vocab_size)) - set(old_ids.tolist()))
    model.register_forward_hook(lambda module, given, output: forbid(output.logits, gone))
    for beams in (1, 4):
        options = {"max_new_tokens": 7, "num_beams": beams}
        with torch.no_grad():
            expected = model.generate(
                input_ids=torch.tensor(old_ids[ids]), attention_mask=torch.tensor(inputs["attention_mask"]),
                **options,
            ).numpy()  # fmt: skip
        found = small.generate_ids(ids, inputs["attention_mask"], **options)
        np.testing.assert_array_equal(old_ids[found], expected)


def test_trimmed_models_write_the_texts_of_the_whole_one(tmp_path):
    """With the other tokens forbidden in the whole model; from memory, an export, and the layout of transformers."""
    texts = ["w1 w2 w3", "w5 w1", "w9 w2 w2 w1"]
    gone = [i for i, word in enumerate(WORDS) if word in ("w0", "w4", "w6", "w7", "w8", "w10", "w11", "w12")]
    model = lively(1, suppress_tokens=gone, max_new_tokens=8)
    expected = model.generate(texts)
    found = trim_vocabulary(model, texts)
    assert found.old_ids.tolist() == sorted(set(range(16)) - set(gone))
    assert len(found.model.tokenizer) == found.model.spec.vocab_size == 8
    assert len(set(expected)) == 3
    assert found.model.generation.suppress_tokens == ()  # they can't be generated anyway
    assert found.model.generate(texts) == expected
    found.model.save(tmp_path / "export")
    found.model.save_hf(tmp_path / "hf")
    for name in ("export", "hf"):
        assert nash_jax.load(tmp_path / name).generate(texts) == expected


def test_a_bart_of_merges_in_transformers(torch, tmp_path):
    """Files as the hub has them, trimmed, saved, and read by transformers alone: the same texts come out."""
    import transformers

    tokenizer = bart_tokenizer(tmp_path / "hub")
    spec = random_spec(1, family="bart", vocab_size=len(tokenizer), tied=False, d_model=16, head_dim=4, num_heads=4)
    heads = tuple(range(4))
    spec = spec.with_uniform_layers(16, 16)
    assert spec.encoder[0].heads == heads
    texts = ["the lower tower", "a new tower, lower than the low one", "the newest"]
    whole = Seq2Seq(spec, random_params(spec, 1), tokenizer)
    found = trim_vocabulary(whole, [*texts, "slow"], held_out=["another town"])
    assert found.after.tokens < found.before.tokens == len(tokenizer)
    assert found.held_out.unknown_after == 0 < found.held_out.changed_texts
    found.model.save_hf(tmp_path / "small")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small").eval()
    assert theirs.get_vocab() == found.model.tokenizer.get_vocab()
    for text in texts:
        inputs = theirs(text, return_tensors="pt")
        np.testing.assert_array_equal(found.old_ids[inputs["input_ids"][0]], tokenizer(text)["input_ids"])
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)[0]
        assert found.model.generate([text], max_new_tokens=6) == [theirs.decode(ids, skip_special_tokens=True)]


def bart_tokenizer(folder):
    """A BART tokenizer with merges, from vocab.json and merges.txt."""
    from tokenizers.trainers import BpeTrainer
    from transformers import BartTokenizer

    folder.mkdir()
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=310, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["low lower lowest new newer newest town tower slow the than another"] * 9, trainer)
    content = json.loads(trained.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"] | {"<mask>": len(content["vocab"])}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in content["merges"])]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
    return BartTokenizer.from_pretrained(folder)


def test_tokens_that_only_the_tokenizer_has():
    """BART-large-CNN's `<mask>` is beyond its model: it stays beyond it."""
    tokenizer = words_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert tokenizer.mask_token_id == 16
    model = Seq2Seq(*lively_model(0), tokenizer)
    found = trim_vocabulary(model, ["w1 w2"]).model
    assert found.spec.vocab_size == 5
    assert found.tokenizer.mask_token_id == 5
    with pytest.raises(UserError, match="contain the token '<mask>' of id 16, and the model has 16 tokens"):
        trim_vocabulary(model, ["w1 <mask>"])


OPTIONS = GenerationOptions(
    suppress_tokens=(2, 7, 9), begin_suppress_tokens=(9,), bad_words_ids=((3, 4), (3, 9), (5,)), eos_token_id=(1, 5),
    forced_bos_token_id=3, decoder_start_token_id=0, pad_token_id=0, allowed_sequences=((3, 1), (4, 1)),
)  # fmt: skip


def test_options_by_hand():
    new_ids = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 7: 6}
    found = renumber_options(OPTIONS, new_ids)
    assert found.suppress_tokens == (2, 6)
    assert found.begin_suppress_tokens == ()
    assert found.bad_words_ids == ((3, 4), (5,))
    assert idle_rules(OPTIONS, new_ids) == ["bad_words_ids", "begin_suppress_tokens", "suppress_tokens"]
    same = {i: i for i in range(10)}
    assert renumber_options(OPTIONS, same) == OPTIONS
    assert idle_rules(OPTIONS, same) == []


def test_ids_that_options_generate_stay(capsys):
    model = lively(0, forced_bos_token_id=12, suppress_tokens=(6, 8), eos_token_id=(1, 9))
    found = trim_vocabulary(model, ["w1"])
    assert found.old_ids.tolist() == [0, 1, 2, 4, 9, 12]
    options = found.model.generation
    assert (options.forced_bos_token_id, options.eos_token_id, options.suppress_tokens) == (5, (1, 4), ())
    assert capsys.readouterr().err == (
        "note: suppress_tokens forbids tokens that are gone now; these are left out of it\n"
    )


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_by_hand(tied):
    """T5-base with three decoder layers: the LM head is half of what a token reads."""
    spec = nash_jax.spec.preset("t5-base")
    spec = dataclasses.replace(spec, decoder=spec.decoder[:3], tied=tied)
    found = vocabulary_size(spec)
    layers = 3 * (4 * 768**2 + 2 * 768**2 + 2 * 768 * 3072 + 3 * 768) + 768
    assert found.head_bytes == 4 * 32128 * 768
    assert found.token_bytes == found.head_bytes + 4 * layers
    assert round(found.head_share, 2) == 0.5
    small = vocabulary_size(spec.pruned({"vocab": range(8000)}))
    assert small.tokens == 8000
    assert found.model_bytes - small.model_bytes == 4 * 768 * (32128 - 8000) * (1 if tied else 2)


# The command ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    lively(2).save(tmp_path / "model")
    rows = [{"document": "w1 w2", "summary": "w3"}, {"document": "w1", "summary": "w4"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "lines.txt").write_text("w7\nw8 w1\n")
    return tmp_path


def test_the_command(place):
    files = [f"--model={place / 'model'}", f"--texts={place / 'rows.jsonl'}", f"--held_out={place / 'rows.jsonl'}"]
    done = call(main, *files, "--columns=document,summary", f"--output={place / 'new'}", "--prefix=w9 ")
    assert done.returncode == 0, done.stderr
    model = nash_jax.load(place / "new")
    assert set(model.tokenizer.get_vocab()) == {"<pad>", "</s>", "<unk>", "w1", "w2", "w3", "w4", "w9"}
    assert "tokens: 16 → 8\n" in done.stdout
    assert "held-out texts: 100.00 % of 9 tokens stay; 0 of 4 texts are written otherwise" in done.stdout


def test_the_command_with_lines_and_the_layout_of_transformers(place):
    arguments = [f"--model={place / 'model'}", f"--texts={place / 'lines.txt'}", f"--output={place / 'new'}", "--hf"]
    assert call(main, *arguments).returncode == 0
    assert (place / "new" / "config.json").exists()
    assert len(nash_jax.load(place / "new").tokenizer) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts=lines.txt", "--output=new"], "no --model; expected --model=FOLDER_OR_HUB_NAME --texts=FILE"),
        (["--model=model", "--texts=rows.jsonl", "--output=new"], "rows.jsonl has columns; expected those of sources"),
        (["--model=model", "--texts=no.txt", "--output=new"], "no file no.txt"),
        (["--model=model", "--texts=lines.txt", "--output=new", "--size=3"], "Unknown command line flag 'size'"),
    ],
)
def test_mistakes_on_the_command_line(place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    done = call(main, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (place / "new").exists()


def test_mistakes_in_python():
    model = lively()
    with pytest.raises(UserError, match="no texts; expected the texts whose tokens are to stay"):
        trim_vocabulary(model, [])
    with pytest.raises(UserError, match="this model has no tokenizer"):
        trim_vocabulary(Seq2Seq(model.spec, model.params), ["w1"])
    with pytest.raises(UserError, match="alphabet is 'all'"):
        trim_vocabulary(model, ["w1"], alphabet="all")


def test_a_tokenizer_without_tokenizer_json():
    from transformers import ByT5Tokenizer

    spec = random_spec(0, vocab_size=384)
    with pytest.raises(UserError, match=r"ByT5Tokenizer has no tokenizer\.json, so its vocabulary cannot be trimmed"):
        trim_vocabulary(Seq2Seq(spec, random_params(spec), ByT5Tokenizer()), ["a"])
