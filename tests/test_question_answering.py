"""Metrics of answers by hand, against the libraries, and against the values that are documented elsewhere."""

import subprocess
import sys

import nltk
import pytest
from nltk.corpus import wordnet
from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import BLEU

from nash_jax.evaluation import question_answering
from nash_jax.evaluation.metrics import METRICS


def score(name, outputs, references):
    return METRICS[name].score(outputs, [{"references": texts} for texts in references])


# -- SQuAD ------------------------------------------------------------------------------------------------


def test_squad_values_of_t5():
    """The values in t5/evaluation/metrics_test.py of google-research/text-to-text-transfer-transformer."""
    references = [["big moose", "hippo"], ["correct1"], ["correct2.1", "correct2.2"], ["a", "b"]]
    found = score("squad", ["a big  Moose!", "wrong", "correct2.2", "c"], references)
    assert found == pytest.approx({"exact_match": 50, "f1": 50})
    assert score("squad", ["abd"], [["abc abd", "$$$$"]]) == pytest.approx({"exact_match": 0, "f1": 200 / 3})


def test_documented_values_of_squad():
    """The example of a partial match in metrics/squad/README.md of `evaluate`."""
    references = [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]]
    found = score("squad", ["1976", "Beyonce", "climate change"], references)
    assert found == pytest.approx({"exact_match": 66.66666666666667, "f1": 66.66666666666667})


def test_squad_by_hand():
    """Words twice in the output count once for a reference's one: 2 of 3 and 2 of 2 words; the best of each value."""
    assert score("squad", ["dog dog cat"], [["the dog, (cat)"]]) == pytest.approx({"exact_match": 0, "f1": 80})
    assert score("squad", ["the"], [["an", "x"]]) == {"exact_match": 100, "f1": 0}  # no words are left, as in SQuAD's
    assert question_answering.normalize_answer(" The  An-swer,\n of A thing. ") == "answer of thing"


# -- SuperGLUE --------------------------------------------------------------------------------------------


def multirc(answers):
    """(question, true, output) …"""
    labels = ("False", "True")
    rows = [{"references": [labels[true]], "labels": labels, "group": question} for question, true, _ in answers]
    return METRICS["multirc"].score([output for *_, output in answers], rows)


def test_multirc():
    """By hand: questions a and c right of three; answers: 2 right Trues, 1 false True, 1 missed True."""
    answers = [("a", 1, "True"), ("b", 1, "True"), ("a", 0, "False"), ("b", 0, "True"), ("b", 1, "False")]
    found = multirc([*answers, ("c", 0, "False")])
    assert found == pytest.approx({"f1a": 100 * 4 / 6, "exact_match": 100 * 2 / 3, "invalid": 0})


def test_multirc_of_t5():
    """metrics_test.py of T5: F1 of three answers; an output that is no label counts as the wrong one."""
    found = multirc([("a", 1, "True"), ("a", 1, "False"), ("b", 0, "True")])
    assert found == pytest.approx({"f1a": 50, "exact_match": 0, "invalid": 0})
    found = multirc([("a", 1, "True"), ("a", 1, "maybe"), ("b", 0, "maybe")])
    assert found == pytest.approx({"f1a": 50, "exact_match": 0, "invalid": 200 / 3})


def test_record():
    """Two rows of one query are one, with the answers of both; another query of the passage is another."""
    rows = [
        {"source": "query 1", "references": ["Anna Smith"], "group": "passage"},
        {"source": "query 1", "references": ["Anna", "A. Smith"], "group": "passage"},
        {"source": "query 2", "references": ["the Rhine"], "group": "passage"},
        {"source": "query 1", "references": ["Bonn"]},
        {"source": "query 1", "references": ["Ulm"]},
    ]
    found = METRICS["record"].score(["anna", "not looked at", "river Rhine", "Bonn", "Köln"], rows)
    assert found == pytest.approx({"exact_match": 50, "f1": 100 * (1 + 2 / 3 + 1 + 0) / 4})


# -- free answers -----------------------------------------------------------------------------------------

OUTPUT = "It is a guide to action which ensures that the military always obeys the commands of the party"
REFERENCES = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]


def test_bleu_and_rouge_of_answers():
    """Against the libraries; and BLEU's value of NLTK's documentation of `sentence_bleu`, 0.5045."""
    outputs, references = [OUTPUT, "No idea."], [REFERENCES, ["no idea", "none", "dunno ."]]
    found = score("answers", outputs, references)
    streams = list(zip(*references, strict=True))
    for order in (1, 4):
        direct = BLEU(lowercase=True, smooth_method="none", max_ngram_order=order).corpus_score(outputs, streams)
        assert found[f"bleu{order}"] == pytest.approx(direct.score, abs=1e-6)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    best = [
        max(scorer.score(reference, output)["rougeL"].fmeasure for reference in texts)
        for output, texts in zip(outputs, references, strict=True)
    ]
    assert found["rougeL"] == pytest.approx(100 * sum(best) / 2, abs=1e-6)
    assert score("answers", [OUTPUT], [REFERENCES])["bleu4"] == pytest.approx(50.45666840058485, abs=1e-6)


def write_wordnet(folder):
    """A WordNet in which `dog` and `hound` are one synset and nothing else is; its format is wndb(5WN)."""
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    (folder / "data.noun").write_text("00000000 05 n 02 dog 0 hound 0 000 | an animal that barks  \n")
    (folder / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000  \n" for word in ("dog", "hound")))
    (folder / "index.sense").write_text("dog%1:05:00:: 00000000 1 0\nhound%1:05:00:: 00000000 1 0\n")
    (folder / "cntlist.rev").write_text("")
    (folder / "lexnames").write_text("".join(f"{i:02d}\tnoun.{i}\t1\n" for i in range(6)))


@pytest.fixture(scope="module")
def own_wordnet(tmp_path_factory):
    """The tiny WordNet where NLTK looks first; nothing else in this process reads one."""
    folder = tmp_path_factory.mktemp("nltk")
    write_wordnet(folder / "corpora" / "wordnet")
    nltk.data.path.insert(0, str(folder))
    question_answering.has_wordnet.cache_clear()
    yield
    nltk.data.path.remove(str(folder))
    question_answering.has_wordnet.cache_clear()


METEOR = [
    # https://www.nltk.org/howto/meteor.html
    ("John loves Mary", ["The candidate has no alignment to any of the references"], 0.0),
    ("on the mat sat the cat", ["The cat sat on the mat"], 50.0),
    ("The cat was sat on the mat", ["The cat sat on the mat"], 96.54),
    ("creates or updates a virtual machine scale set", ["create or update a vm set"], 78.06),
    # `evaluate`, metrics/meteor/README.md and meteor.py
    (OUTPUT, [OUTPUT], 99.99142661179699),
    (OUTPUT, REFERENCES[:1], 69.44),
    (OUTPUT, REFERENCES, 69.44),
    # by hand: dog ~ hound in one chunk of 3 words, so 1 - 0.5 * (1/3)^3
    ("a hound ran", ["a dog ran"], 100 * (1 - 0.5 / 27)),
]


@pytest.mark.parametrize(("output", "references", "expected"), METEOR)
def test_meteor(own_wordnet, output, references, expected):
    assert [str(s) for s in wordnet.synsets("hound")] == ["Synset('dog.n.01')"]
    assert score("answers", [output], [references])["meteor"] == pytest.approx(expected, abs=5e-3)


def test_meteor_is_the_mean_of_rows(own_wordnet):
    outputs, references, each = zip(*METEOR, strict=True)
    assert score("answers", outputs, references)["meteor"] == pytest.approx(sum(each) / len(each), abs=5e-3)


def test_without_wordnet():
    """Left out, and said once; in a process of its own, for NLTK keeps what it has found."""
    code = """
import nltk
nltk.data.path[:] = []
from nash_jax.evaluation.metrics import METRICS
for _ in range(2):
    print(sorted(METRICS["answers"].score(["a b"], [{"references": ["a b"]}])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    keys = "['bleu1', 'bleu4', 'rougeL']"
    note = "note: METEOR is not computed, since nltk has no WordNet: python -m nltk.downloader wordnet"
    assert done.stdout.splitlines() == [note, keys, keys]
