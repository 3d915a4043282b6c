"""Every form on hand-written records of the real schema, with the texts that the code of T5's authors creates."""

import json

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from nash_jax.data.checks import RowIssueError
from nash_jax.data.forms import SEPARATOR, get_nested, question_answering, space_punctuation, translation
from nash_jax.data.postprocess import matches_noun, postprocess_output
from nash_jax.data.superglue_forms import mark_pronoun
from nash_jax.data.tasks import TASKS
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.evaluation.metrics import METRICS

HIGHLIGHTS = 'Ann left.\n@highlight\nBob came\n@highlight\nShe said "no"\n@highlight\nEnd'
CASES = {  # task: (record, T5's input, plain input without its separators, references)
    "cola": (
        {"sentence": "John made Bill master of himself.", "label": 1, "idx": 0},
        "cola sentence: John made Bill master of himself.",
        ["John made Bill master of himself."],
        ["acceptable"],
    ),
    "sst2": (
        {"sentence": "it confirms fincher 's status ", "label": 1, "idx": 0},
        "sst2 sentence: it confirms fincher 's status ",
        ["it confirms fincher 's status "],
        ["positive"],
    ),
    "mrpc": (
        {"sentence1": "We acted.", "sentence2": "It acted.", "label": 0, "idx": 4},
        "mrpc sentence1: We acted. sentence2: It acted.",
        ["We acted.", "It acted."],
        ["not_equivalent"],
    ),
    "qqp": (
        {"question1": "Why so?", "question2": "Why?", "label": 1, "idx": 10},
        "qqp question1: Why so? question2: Why?",
        ["Why so?", "Why?"],
        ["duplicate"],
    ),
    "stsb": (
        {"sentence1": "Three more died", "sentence2": "One died", "label": 1.75, "idx": 0},
        "stsb sentence1: Three more died sentence2: One died",
        ["Three more died", "One died"],
        ["1.8"],
    ),
    "mnli": (
        {"premise": "He ran.", "hypothesis": "He sat.", "label": 2, "idx": 0},
        "mnli hypothesis: He sat. premise: He ran.",
        ["He sat.", "He ran."],
        ["contradiction"],
    ),
    "qnli": (
        {"question": "Where?", "sentence": "Here.", "label": 0, "idx": 0},
        "qnli question: Where? sentence: Here.",
        ["Where?", "Here."],
        ["entailment"],
    ),
    "rte": (
        {"sentence1": "A fell.", "sentence2": "B fell.", "label": 1, "idx": 0},
        "rte sentence1: A fell. sentence2: B fell.",
        ["A fell.", "B fell."],
        ["not_entailment"],
    ),
    "cb": (
        {"premise": "It may be.", "hypothesis": "It is.", "label": 2, "idx": 0},
        "cb hypothesis: It is. premise: It may be.",
        ["It is.", "It may be."],
        ["neutral"],
    ),
    "copa": (
        {"premise": "It rained.", "choice1": "Dry.", "choice2": "Wet.", "question": "effect", "label": 1, "idx": 0},
        "copa choice1: Dry. choice2: Wet. premise: It rained. question: effect",
        ["Dry.", "Wet.", "It rained.", "effect"],
        ["choice2"],
    ),
    "boolq": (
        {"question": "is it so", "passage": "It -- is so.", "label": 1, "idx": 0},
        "boolq passage: It -- is so. question: is it so",
        ["It -- is so.", "is it so"],
        ["True"],
    ),
    "wic": (
        {"word": "place", "sentence1": "Any place.", "sentence2": "He placed it.", "start1": 4, "start2": 3, "end1": 9,
         "end2": 9, "idx": 0, "label": 0},
        "wic sentence1: Any place. sentence2: He placed it. word: place",
        ["Any place.", "He placed it.", "place"],
        ["False"],
    ),
    "multirc": (
        {"paragraph": "<b>Sent 1: </b>He ran.<br><b>Sent 2: </b>She sat.<br>", "question": "Who <b>ran</b>?",
         "answer": "He", "label": 1, "idx": {"paragraph": 3, "question": 7, "answer": 21}},
        "multirc question: Who ran? answer: He paragraph: Sent 1: He ran. Sent 2: She sat. ",
        ["Who ran?", "He", "Sent 1: He ran. Sent 2: She sat. "],
        ["True"],
    ),
    "record": (
        {"passage": HIGHLIGHTS, "query": "It was @placeholder", "entities": ["Ann", "Bob"], "answers": ["Bob", "Ann"],
         "idx": {"passage": 1, "query": 2}},
        'record query: It was @placeholder entities: Ann, Bob passage: Ann left. Bob came. She said "no" End',
        ["It was @placeholder", "Ann, Bob", 'Ann left. Bob came. She said "no" End'],
        ["Bob", "Ann"],
    ),
    "samsum": ({"id": "1", "dialogue": "A: Hi\r\nB: Hi", "summary": "A greets B."},
               "A: Hi\r\nB: Hi", ["A: Hi\r\nB: Hi"], ["A greets B."]),
    "orange_sum": ({"text": "Été.", "summary": "Chaud."}, "Été.", ["Été."], ["Chaud."]),
    "tweet_qa": (
        {"Question": "who ran?", "Tweet": "He ran— Bob (@bob)", "Answer": ["he", "bob", "he"], "qid": "x"},
        "question: who ran? context: He ran— Bob (@bob)",
        ["who ran?", "He ran— Bob (@bob)"],
        ["he", "bob"],
    ),
    "narrativeqa": (
        {"document": {"summary": {"text": "A story."}, "text": "A book."}, "question": {"text": "Who?"},
         "answers": [{"text": "Bob", "tokens": []}, {"text": "Mr. Bob", "tokens": []}]},
        "question: Who? context: A story.",
        ["Who?", "A story."],
        ["Bob", "Mr. Bob"],
    ),
    "squad": (
        {"id": "5", "title": "T", "context": "In 1903, (it) was $5.\nBeyoncé  sang.", "question": "What's  it?",
         "answers": {"text": ["$5", "it"], "answer_start": [15, 10]}},
        "question: What ' s it ? context: In 1903 , ( it ) was $ 5 . Beyonc é sang .",
        ["What's  it?", "In 1903, (it) was $5.\nBeyoncé  sang."],
        ["$ 5", "it"],
    ),
    "wmt16_ro_en": (
        {"translation": {"en": "Good.", "ro": "Bine."}}, "translate Romanian to English: Bine.", ["Bine."], ["Good."],
    ),
    "wmt16_en_ro": (
        {"translation": {"en": "Good.", "ro": "Bine."}}, "translate English to Romanian: Good.", ["Good."], ["Bine."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_inputs_and_references(name):
    record, t5, plain, references = CASES[name]
    form = TASKS[name].form
    for prompt, source in (("t5", t5), ("plain", SEPARATOR.join(plain))):
        (row,) = form.to_rows(record, prompt, False)
        assert row["source"] == source
        spaced = name == "squad" and prompt == "plain"
        assert row["references"] == (["$5", "it"] if spaced else references)
        assert tuple(row.get("labels", ())) == form.labels
        assert row.get("group") == ("3-7" if name == "multirc" else None)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"record"}))
def test_training_and_scored_rows_are_the_same(name):
    record = CASES[name][0]
    assert TASKS[name].form.to_rows(record, "t5", True) == TASKS[name].form.to_rows(record, "t5", False)


def test_every_form_is_here():
    described = {form_of(name) for name in CASES} | {form_of("dolly"), form_of("wsc")}
    assert {form_of(name) for name in TASKS} <= described


def form_of(name):
    return TASKS[name].form.to_rows.__qualname__


def test_record_trains_on_one_row_an_answer():
    record, source = CASES["record"][0], CASES["record"][1]
    rows = TASKS["record"].form.to_rows(record, "t5", True)
    assert rows == [{"source": source, "references": ["Bob"]}, {"source": source, "references": ["Ann"]}]


WSC = {"text": "Bob asked Tom if he can lend some money.", "span1_text": "Tom", "span1_index": 2, "span2_text": "he",
       "span2_index": 4, "idx": 0}  # fmt: skip


def test_wsc():
    form, source = TASKS["wsc"].form, "wsc: Bob asked Tom if *he* can lend some money."
    assert form.to_rows(WSC | {"label": 1}, "t5", True) == [{"source": source, "references": ["Tom"]}]
    assert form.to_rows(WSC | {"label": 0}, "t5", True) == []  # not used for training: the noun is wrong
    (row,) = form.to_rows(WSC | {"label": 0}, "t5", False)
    assert row == {"source": source, "references": ["False"], "labels": ["False", "True"], "targets": ["Tom"]}
    assert form.to_rows(WSC | {"label": 0}, "plain", False)[0]["source"] == source.removeprefix("wsc: ")
    assert [postprocess_output(said, row) for said in ("the Tom", "Bob", "True")] == ["True", "False", "False"]


@pytest.mark.parametrize("label", [0, 1])
def test_wsc_of_no_noun_is_never_right(label):
    """Three of five questions of the validation split have the label False: empty outputs must not score 63 %."""
    (row,) = TASKS["wsc"].form.to_rows(WSC | {"label": label}, "t5", False)
    read = [postprocess_output(said, row) for said in ("", " \n", "the")]
    assert METRICS["accuracy"].score(read, [row] * 3) == {"accuracy": 0, "invalid": 100}


@pytest.mark.parametrize(
    ("content", "pronoun", "index", "marked"),
    [
        ('He laughed. "Good for him," he said. ', "him", 4, 'He laughed. "Good for *him* ," he said.'),
        ("They might want to use it , but not now", "it", 4, "They might want to use *it* , but not now"),
        ("He said he saw him", "he", 2, "He said *he* saw him"),
        ("He said he saw him", "he", 0, "*He* said he saw him"),
        ('Ann said "(she) sat', "she", 2, 'Ann said "( *she* ) sat'),
    ],
)  # fmt: skip
def test_pronouns_are_found(content, pronoun, index, marked):
    assert mark_pronoun(content, pronoun, index) == marked


def test_a_pronoun_that_is_not_there():
    with pytest.raises(RowIssueError, match="column 'span2_index' holds 1"):
        mark_pronoun("Bob sat down", "he", 1)


@pytest.mark.parametrize(
    ("output", "noun", "same"),
    [
        ("fuzzy bunny", "the bunny", True),
        ("The Bunny ", "bunny", True),
        ("bunny", "a fuzzy bunny", True),
        ("Bob", "Bob's hat", False),
        ("bob's", "Bob's hat", True),
        ("his hat", "her hat", True),  # determiners both
        ("the dog", "the cat", False),
        ("", "Bob", False),
        ("the", "the", False),
    ],
)
def test_names_noun(output, noun, same):
    assert matches_noun(output, noun) is same


def test_reading_of_labels_and_texts():
    row = {"references": ["entailment"], "labels": ["entailment", "not_entailment"]}
    assert postprocess_output(" entailment\n", row) == "entailment"
    assert postprocess_output("entail", row) == "entail"
    assert postprocess_output(" a summary ", {"references": ["b"]}) == " a summary "


def test_dolly():
    make = TASKS["dolly"].form.to_rows
    record = {"instruction": "Sum it up.", "context": "Long text.", "response": "Short.", "category": "c"}
    expected = "### Instruction:\nSum it up.\n\n### Input:\nLong text.\n\n### Response:"
    for prompt in ("t5", "plain"):
        assert make(record, prompt, True) == [{"source": expected, "references": ["Short."]}]
    for empty in ("", "  ", None):
        (row,) = make(record | {"context": empty}, "t5", True)
        assert row["source"] == "### Instruction:\nSum it up.\n\n### Response:"
    with pytest.raises(RowIssueError, match="column 'context' holds 3"):
        make(record | {"context": 3}, "t5", True)


@pytest.mark.parametrize(
    ("score", "said"),
    [(0, "0.0"), (5.0, "5.0"), (2.533, "2.6"), (2.5, "2.4"), (0.7, "0.8"), (4.3, "4.4"), ("3.8", "3.8")],
)  # halves go to the even fifth, as in tf.round
def test_scores_in_fifths(score, said):
    record = {"sentence1": "a", "sentence2": "b", "label": score}
    assert TASKS["stsb"].form.to_rows(record, "t5", True)[0]["references"] == [said]


@pytest.mark.parametrize(
    ("name", "column", "value", "kind"),
    [
        ("cola", "sentence", "", "empty"),
        ("cola", "sentence", " \u200b", "blank"),
        ("cola", "sentence", None, "null"),
        ("cola", "sentence", "a\0", "nul_character"),
        ("cola", "label", -1, "label_outside_set"),
        ("cola", "label", "2", "label_outside_set"),
        ("cola", "label", 0.0, "label_outside_set"),
        ("cola", "label", [1], "label_outside_set"),
        ("cola", "label", None, "null"),
        ("stsb", "label", 5.1, "label_outside_set"),
        ("stsb", "label", -1, "label_outside_set"),
        ("stsb", "label", "high", "label_outside_set"),
        ("stsb", "label", 1e300, "label_outside_set"),
        ("stsb", "label", 10**400, "label_outside_set"),
        ("stsb", "label", [1.0], "label_outside_set"),
        ("stsb", "label", float("nan"), "label_outside_set"),
        ("stsb", "label", None, "null"),
        ("tweet_qa", "Answer", [], "empty"),
        ("tweet_qa", "Answer", ["a", ""], "empty"),
        ("tweet_qa", "Answer", ["a", 3], "not_text"),
        ("record", "answers", None, "null"),
        ("record", "answers", {"a": "b"}, "not_text"),
    ],
)
def test_damaged_records(name, column, value, kind):
    with pytest.raises(RowIssueError, match=f"^column '{column}' holds ") as error:
        TASKS[name].form.to_rows(CASES[name][0] | {column: value}, "t5", True)
    assert error.value.issue.kind == kind


@pytest.mark.parametrize("name", CASES)
def test_a_record_without_a_column(name):
    """Each missing or null column, also nested ones, is a row issue and no other error."""
    record, form = CASES[name][0], TASKS[name].form
    for column in record:
        if not any(read == column or read.startswith(f"{column}.") for read in form.columns):
            continue
        for other in ({k: v for k, v in record.items() if k != column}, record | {column: None}):
            with pytest.raises(RowIssueError):
                form.to_rows(other, "t5", True)


@pytest.mark.parametrize(("label", "word"), [(1, "True"), ("0", "False"), (True, "True"), ("True", "True")])
def test_labels_are_numbers_digits_or_words(label, word):
    record = CASES["boolq"][0] | {"label": label}
    assert TASKS["boolq"].form.to_rows(record, "t5", True)[0]["references"] == [word]


def test_nested_columns():
    record = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d.e": 3}
    assert (get_nested(record, "a.b.c"), get_nested(record, "d.e")) == ([1, 2], 3)
    for column in ("b", "a.c", "a.b.d", "a.b.c.d", "d"):
        with pytest.raises(KeyError):
            get_nested(record, column)


def test_one_answer_may_be_a_text():
    form = question_answering("q", "c", "a")
    assert form.to_rows({"q": "x", "c": "y", "a": "z"}, "t5", True)[0]["references"] == ["z"]


def test_spaces_around_punctuation():
    assert space_punctuation('"A_b-c"\tü\u00a0.') == '" A_b - c " ü \u00a0 .'


def test_bart_reads_a_plain_prompt_as_a_pair(tmp_path):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
    tokenizer = load_tokenizer(str(tmp_path))
    (row,) = TASKS["rte"].form.to_rows(CASES["rte"][0], "plain", True)
    assert tokenizer(row["source"])["input_ids"] == tokenizer("A fell.", "B fell.")["input_ids"]


def test_languages_that_have_no_name():
    with pytest.raises(KeyError):
        translation("translation.xx", "translation.en")
