"""Metrics of every script: a perfect output has full marks, or the run is refused before it trains."""

import dataclasses

import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import BLEU

from nash_jax.config.schema import BLEU_TOKENIZERS, TaskConfig
from nash_jax.errors import UserError
from nash_jax.evaluation.metric_tokenizers import choose_bleu_tokenizer, choose_rouge_tokenizer
from nash_jax.evaluation.metrics import METRICS, check_metric_rows, choose_metric
from nash_jax.evaluation.row_subsets import check_subsets, chosen_tokenizers, split_by_task
from nash_jax.evaluation.scripts import count_words, first_sentence, first_words, split_sentences, unicode_words
from nash_jax.evaluation.text_metrics import baseline_outputs

TEXTS = {
    "Hindi": ("मंत्री ने आज सभा में भाषण दिया।", "unicode", "13a"),
    "Russian": ("Кошка сидит на ковре.", "unicode", "13a"),
    "Greek": ("Η γάτα κοιμάται στον καναπέ.", "unicode", "13a"),
    "Arabic": ("جلست القطة على السجادة.", "unicode", "13a"),
    "Hebrew": ("החתול ישב על השטיח.", "unicode", "13a"),
    "Amharic": ("ድመቷ ምንጣፉ ላይ ተቀመጠች።", "unicode", "13a"),
    "Korean": ("고양이가 매트 위에 앉았다.", "unicode", "13a"),
    "Bengali": ("বিড়ালটি মাদুরের উপর বসেছিল।", "unicode", "13a"),
    "German": ("Größere Häuser stehen über der Straße.", "unicode", "13a"),
    "Vietnamese": ("Con mèo ngồi trên tấm thảm.", "unicode", "13a"),
    "Chinese": ("今天天气很好。", "unicode", "zh"),
    "Chinese and Latin": ("我用 iPhone 15 拍照。", "unicode", "zh"),
    "Japanese": ("私は猫が好きです。", "unicode", "char"),
    "Thai": ("วันนี้อากาศดีมาก", "unicode", "char"),
    "Lao": ("ແມວນັ່ງຢູ່ເທິງເສື່ອ", "unicode", "char"),
    "Khmer": ("ឆ្មាអង្គុយលើកន្ទេល", "unicode", "char"),
    "Burmese": ("ကြောင်သည်ဖျာပေါ်တွင်ထိုင်သည်", "unicode", "char"),
    "English": ("The cats sat on the mat.", "english", "13a"),
}


def rows_of(*texts):
    return [{"source": "x", "references": [text]} for text in texts]


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("name", ["rouge", "translation", "chrf", "answers", "exact_match", "squad"])
def test_a_perfect_output_has_full_marks_and_a_wrong_one_has_not(language, name):
    text, rows = TEXTS[language][0], rows_of(TEXTS[language][0]) * 8
    metric = METRICS[name]
    assert metric.score([text] * 8, rows)[metric.selection] == pytest.approx(100)
    assert check_metric_rows(name, rows) == []
    assert metric.score(["§§"] * 8, rows)[metric.selection] <= 0


@pytest.mark.parametrize("language", TEXTS)
def test_auto_goes_by_the_references(language):
    text, rouge, bleu = TEXTS[language]
    assert choose_rouge_tokenizer("auto", rows_of(text)) == rouge
    assert choose_bleu_tokenizer("auto", rows_of(text)) == bleu
    assert choose_rouge_tokenizer("english", rows_of(text)) == "english"
    assert choose_bleu_tokenizer("intl", rows_of(text)) == "intl"


def test_english_with_a_few_foreign_letters_keeps_its_published_numbers():
    """99 rows of plain English, one with names and a smiley: what rouge-score gives, with stems, bit for bit."""
    texts = ["The dogs were walking along the river every morning, and nobody minded them."] * 99
    texts.append("Zoë met José at a café 😀.")
    outputs = ["A dog walks along rivers in the morning."] * 99 + ["zo met jos at a caf"]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(texts, outputs, strict=True)]
    assert METRICS["rouge"].measure(outputs, rows_of(*texts))[:, 2].tolist() == expected
    mixed = rows_of(*texts, *["今天天气很好。"] * 2)  # 2 of 102 references have no letter that `english` sees
    assert choose_rouge_tokenizer("auto", mixed) == "unicode"


def test_part_of_a_text_that_is_right_has_part_of_the_marks():
    """By hand: 3 of the reference's 4 words, 4 of its 7 characters without marks apart; no stems."""
    found = METRICS["rouge"].score(["Кошка сидит на"], rows_of("Кошка сидит на ковре."))
    assert found["rouge1"] == pytest.approx(100 * 2 * 3 / 7)
    assert METRICS["rouge"].score(["我爱你"], rows_of("我爱天气"))["rouge1"] == pytest.approx(100 * 2 * 2 / 7)
    assert METRICS["rouge"].score(["größere"], rows_of("große"))["rouge1"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("दिया है।", ["दिया", "है"]),  # vowel signs are parts of words
        ("Cafe\u0301 CAFÉ ｶﾌｪ", ["café", "café", "カ", "フ", "ェ"]),  # one form of each letter
        ("ที่นี่", ["ที่", "นี่"]),  # marks stay with their character
        ("كتاب\u200fها، می\u200cروم", ["كتابها", "میروم"]),  # invisible characters
        ("don't iPhone手机15", ["don", "t", "iphone", "手", "机", "15"]),
        ("😀 :)", ["😀", ":", ")"]),  # no letters at all
        ("", []),
    ],
)
def test_unicode_words(text, words):
    assert unicode_words(text) == words


def test_sentences_and_first_words_of_every_script():
    assert split_sentences("今天很好。「是吗？」我们走！") == "今天很好。\n「是吗？」\n我们走！"
    assert first_sentence("राम गया। सीता आई।") == "राम गया।"
    assert split_sentences("هل؟ نعم۔ لا") == "هل؟\nنعم۔\nلا"
    assert split_sentences("3.5 is one. Two") == "3.5 is one.\nTwo"
    assert first_words("今天天气 很好。", 5) == "今天天气 很" and first_words("iPhone手机好", 2) == "iPhone手"
    assert count_words("a  b, c") == 3 and count_words("今天 ok。") == 3


def test_baselines_of_chinese_are_not_whole_texts():
    rows = [{"source": "他们昨天去了公园。天气很好，所以他们很高兴。", "references": ["他们去公园。"]}]
    found = baseline_outputs("rouge", rows, "")
    assert found == {"first_sentence": ["他们昨天去了公园。"], "first_6_words": ["他们昨天去了"]}
    assert METRICS["rouge"].score(found["first_sentence"], rows)["rouge1"] == pytest.approx(100 * 2 * 5 / 13)


# -- what is refused, with the setting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "rows", "said"),
    [
        ("rouge", {"rouge_tokenizer": "english"}, rows_of("Кошка сидит.", "Он спит."), "rouge_tokenizer=unicode"),
        ("answers", {"rouge_tokenizer": "english"}, rows_of("मंत्री ने भाषण दिया।"), "rouge_tokenizer=unicode"),
        ("translation", {"bleu_tokenizer": "13a"}, rows_of("我们去公园散步。", "你好"), "bleu_tokenizer=char"),
        ("translation", {}, rows_of("你好。", "是"), "bleu_tokenizer=char"),  # fewer than 4 tokens each
        ("translation", {}, rows_of("Good night", "Yes"), "config.task.metric=chrf"),
        ("correlation", {}, rows_of("2.0", "2.0"), "references that differ"),
    ],
)
def test_references_without_full_marks_are_refused(name, settings, rows, said):
    with pytest.raises(UserError, match=r"the references score 0\.0 .* against themselves; expected 100") as error:
        check_metric_rows(name, rows, TaskConfig(**settings))
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["accuracy_f1", "multirc", "matthews"])
def test_labels_that_are_all_alike_are_refused(name):
    rows = [{"source": "x", "references": ["no"], "labels": ["no", "yes"]}] * 4
    with pytest.raises(UserError, match="max_eval_examples"):
        check_metric_rows(name, rows)
    assert check_metric_rows(name, [*rows, rows[0] | {"references": ["yes"]}]) == []


def test_what_the_remedies_name_works():
    short = rows_of("Good night", "Yes")
    check_metric_rows("translation", short, TaskConfig(bleu_tokenizer="char"))
    check_metric_rows("chrf", short)
    check_metric_rows("rouge", rows_of("Кошка"), TaskConfig(rouge_tokenizer="unicode"))


def test_a_label_that_no_row_has_does_not_lower_macro_f1():
    """As in scikit-learn: a perfect output has 100."""
    rows = [{"references": [label], "labels": ["a", "b", "c"]} for label in "ab"]
    assert METRICS["accuracy_macro_f1"].score(["a", "b"], rows)["macro_f1"] == 100
    assert METRICS["accuracy_macro_f1"].score(["a", "c"], rows)["macro_f1"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("answer", ["the", "!", "A"])
def test_answers_of_which_no_word_is_left(answer):
    for name in ("squad", "record"):
        assert METRICS[name].score([answer], rows_of(answer)) == {"exact_match": 100, "f1": 100}
        assert METRICS[name].score(["dog"], rows_of(answer)) == {"exact_match": 0, "f1": 0}


@pytest.mark.parametrize("texts", [("great 😀", "ok 👍", "😂"), ("x^2", "∑", "=")])
def test_references_of_which_some_have_no_letter(texts):
    """Emoji or formulas: `auto` takes the tokenizer that counts them."""
    rows = rows_of(*texts)
    assert check_metric_rows("rouge", rows) == []
    assert METRICS["rouge"].score(["zzz"] * len(rows), rows)["rougeL"] == 0


def test_a_few_rows_without_words_are_only_noted():
    rows = rows_of(*["The cat sat."] * 400, ":)")
    assert "score 99.8 rougeL" in check_metric_rows("rouge", rows)[0]
    rows = rows_of(*["Größere Häuser stehen über der Straße."] * 5)
    notes = check_metric_rows("rouge", rows, TaskConfig(rouge_tokenizer="english"))
    assert notes == ["note: config.task.rouge_tokenizer=english drops 16% of the references' letters"]


def test_tokenizers_are_those_of_sacrebleu():
    assert set(BLEU_TOKENIZERS) - {"auto"} <= set(BLEU.TOKENIZERS)
    rows, outputs = rows_of("Es geht -- sehr – gut, 5,4%."), ["Es geht -- gut, 5,4%."]
    for name in ("13a", "zh", "char", "intl", "none"):
        metric, chosen = choose_metric("translation", rows, TaskConfig(bleu_tokenizer=name))
        direct = BLEU(force=True, tokenize=name).corpus_score(outputs, [["Es geht -- sehr – gut, 5,4%."]]).score
        assert chosen == {"bleu_tokenizer": name}
        assert metric.score(outputs, rows)["bleu"] == pytest.approx(direct, abs=1e-6)


def test_a_tokenizer_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "MeCab", None)
    with pytest.raises(UserError, match=r"'ja-mecab', which sacrebleu cannot load: .*pip install sacrebleu\[ja\]"):
        check_metric_rows("translation", rows_of("私は猫"), TaskConfig(bleu_tokenizer="ja-mecab"))


def test_tokenizers_of_a_mixture_go_by_task():
    """All rows together are mostly Chinese; the rows of the English task alone are not."""
    rows = [row | {"task": "xsum"} for row in rows_of("The cat sat on the mat.")]
    rows += [row | {"task": "samsum"} for row in rows_of("今天天气很好。", "我们去公园。")]
    subsets = split_by_task("rouge", rows, TaskConfig())
    expected = {"": "unicode", "xsum/": "english", "samsum/": "unicode"}
    assert chosen_tokenizers(subsets) == {f"{task}rouge_tokenizer": name for task, name in expected.items()}
    assert subsets[1].metric.score(["cats sat on mats"], rows[:1]) == METRICS["rouge"].score(
        ["cat sat on mat"], rows[:1]
    )
    with pytest.raises(UserError, match="samsum: metric rouge, rouge_tokenizer=english"):
        check_subsets("exact_match", rows, dataclasses.replace(TaskConfig(), rouge_tokenizer="english"))
