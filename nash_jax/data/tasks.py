"""The task table: for each task its data set on the hub, form, metric, lengths and recipe.

Splits: the test labels of GLUE, SuperGLUE and TweetQA are hidden, and SQuAD has no test split. For these, the public
validation split is the test split, and checkpoints are selected on the end of the training split, which is excluded
from training: 10 % of it, or 1,000 or 2,000 rows if it is large. So test rows do not influence training. (The scripts
of NASH select and report on the same rows.)

Lengths are those of the scripts of NASH (Ko et al. 2023, Findings of EMNLP), except for tasks with passages, where 128
tokens would truncate most inputs.
"""

import dataclasses
from typing import Any

from nash_jax.data.forms import (
    Form,
    classification,
    instruction,
    question_answering,
    similarity,
    text_pair,
    translation,
)
from nash_jax.data.superglue_forms import BOOLEANS, multirc, record, wsc
from nash_jax.errors import UserError, did_you_mean

Splits = tuple[str, str, str]
DEFAULT_SPLITS: Splits = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set of the hub and how it is used.

    Attributes:
      repository: name on the hub, or a folder with the layout of a repository.
      form: how records become rows.
      metric: key of `evaluation.metrics.METRICS`.
      recipe: published settings to train with, key of `recipe.presets.TRAINING_PRESETS`.
      lengths: maximum tokens of a source, of a target in training, and of a generated output.
      subset: name of the subset, if the repository has several.
      splits: train, validation and test, as slices of the hub's splits.
      revision: branch, tag or commit.
      files: path of a split's files if the repository does not define it; `{split}` is replaced by the split's name.
      prefix: text before every input in T5's prompt; empty if the form names the task, or if there is none.
    """

    repository: str
    form: Form
    metric: str
    recipe: str
    lengths: tuple[int, int, int]
    subset: str | None = None
    splits: Splits = DEFAULT_SPLITS
    revision: str = "main"
    files: str = ""
    prefix: str = ""


def _held_out(size: str, split: str = "validation") -> Splits:
    """Uses the end of the training split for validation, since the validation split is the test split."""
    return (f"train[:-{size}]", f"train[-{size}:]", split)


_TENTH: Splits = ("train[:90%]", "train[90%:]", "validation")
_CONVERTED = "refs/convert/parquet"  # converted by the hub: files CONFIG/SPLIT/0000.parquet, no README
_LABEL_TOKENS = (16, 8)  # all label words are shorter in T5's and BART's tokens


def _summary(
    repository: str, source: str, target: str, lengths: tuple[int, int, int], recipe: str, **place: Any
) -> Task:
    return Task(repository, text_pair(source, target), "rouge", recipe, lengths, prefix="summarize: ", **place)


def _glue(name: str, columns: str, labels: str, metric: str, splits: Splits, recipe: str) -> Task:
    form = classification(name, tuple(columns.split()), tuple(labels.split()))
    return Task("nyu-mll/glue", form, metric, recipe, (128, *_LABEL_TOKENS), name, splits)


def _superglue(
    name: str, form: Form, metric: str, splits: Splits, recipe: str = "superglue", source: int = 256
) -> Task:
    revision = "3de24cf8022e94f4ee4b9d55a6f539891524d646"  # Parquet, SUBSET/SPLIT-00000-of-00001.parquet
    new_tokens = (32, 32) if name in ("record", "wsc.fixed") else _LABEL_TOKENS
    return Task("aps/super_glue", form, metric, recipe, (source, *new_tokens), name, splits, revision)


def _translations(year: str, pairs: str) -> dict[str, Task]:
    """Tasks for both directions of language pairs such as `de-en`, which are subsets of a year's repository."""
    found = {}
    for pair in pairs.split():
        for source, target in (pair.split("-"), reversed(pair.split("-"))):
            form = translation(f"translation.{source}", f"translation.{target}")
            found[f"{year}_{source}_{target}"] = Task(
                f"wmt/{year}", form, "translation", "translation", (128, 128, 128), pair
            )
    return found


# Checked against copies of the hub's pages: columns, splits and Parquet files of nyu-mll/glue, aps/super_glue,
# ucsbnlp/tweet_qa and deepmind/narrativeqa. Not checked: that xsum and orange_sum have these names
# in the hub's conversion, that wmt14 and wmt16 are stored as Parquet on `main`, and that dolly keeps its row order.
TASKS: dict[str, Task] = {
    "samsum": _summary("knkarthick/samsum", "dialogue", "summary", (256, 128, 150), "generation"),
    "cnn_dailymail": _summary(
        "abisee/cnn_dailymail", "article", "highlights", (512, 150, 150), "long_generation",
        subset="3.0.0", revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
    ),
    "xsum": _summary(
        "EdinburghNLP/xsum", "document", "summary", (512, 64, 64), "long_generation",
        revision=_CONVERTED, files="default/{split}/*.parquet",
    ),
    "orange_sum": _summary(
        "EdinburghNLP/orange_sum", "text", "summary", (512, 96, 96), "generation",
        revision=_CONVERTED, files="abstract/{split}/*.parquet",
    ),
    "dolly": Task(
        "databricks/databricks-dolly-15k", instruction("instruction", "context", "response"), "rouge", "generation",
        (256, 256, 256), splits=("train[:14000]", "train[14000:]", "train[14000:]"),
    ),
    "tweet_qa": Task(
        "ucsbnlp/tweet_qa", question_answering("Question", "Tweet", "Answer"), "answers", "generation",
        (256, 32, 20), splits=_held_out("1000"),
    ),
    "narrativeqa": Task(  # summaries of the stories, as in the authors' settings; the stories are whole books
        "deepmind/narrativeqa", question_answering("question.text", "document.summary.text", "answers.text"),
        "answers", "generation", (512, 100, 100),
    ),
    "squad": Task(
        "rajpurkar/squad", question_answering("question", "context", "answers.text", spaced=True), "squad",
        "long_generation", (512, 32, 32), splits=_held_out("2000"),
    ),
    "cola": _glue("cola", "sentence", "unacceptable acceptable", "matthews", _TENTH, "small_glue"),
    "sst2": _glue("sst2", "sentence", "negative positive", "accuracy", _held_out("2000"), "large_glue"),
    "mrpc": _glue(
        "mrpc", "sentence1 sentence2", "not_equivalent equivalent", "accuracy_f1", _TENTH, "small_glue"
    ),
    "qqp": _glue(
        "qqp", "question1 question2", "not_duplicate duplicate", "accuracy_f1", _held_out("2000"), "large_glue"
    ),
    "stsb": Task(
        "nyu-mll/glue", similarity("stsb", ("sentence1", "sentence2")), "correlation", "small_glue",
        (128, *_LABEL_TOKENS), "stsb", _TENTH,
    ),
    "mnli": _glue(
        "mnli", "hypothesis premise", "entailment neutral contradiction", "accuracy",
        _held_out("2000", "validation_matched"), "large_glue",
    ),
    "qnli": _glue(
        "qnli", "question sentence", "entailment not_entailment", "accuracy", _held_out("2000"), "large_glue"
    ),
    "rte": _glue("rte", "sentence1 sentence2", "entailment not_entailment", "accuracy", _TENTH, "small_glue"),
    "cb": _superglue(
        "cb", classification("cb", ("hypothesis", "premise"), ("entailment", "contradiction", "neutral")),
        "accuracy_macro_f1", _TENTH, "superglue_small",
    ),
    "copa": _superglue(  # labels are False and True in T5's paper, but these names in its data
        "copa", classification("copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2")),
        "accuracy", _TENTH, "superglue_small", 128,
    ),
    "boolq": _superglue(
        "boolq", classification("boolq", ("passage", "question"), BOOLEANS), "accuracy", _held_out("1000"), source=512
    ),
    "wic": _superglue(  # "wic pos: …" in T5's paper; neither its final code nor the data has this field
        "wic", classification("wic", ("sentence1", "sentence2", "word"), BOOLEANS), "accuracy", _TENTH, source=128
    ),
    "wsc": _superglue("wsc.fixed", wsc(), "accuracy", _TENTH, "superglue_small", 128),
    "multirc": _superglue("multirc", multirc(), "multirc", _held_out("2000"), source=512),
    "record": _superglue("record", record(), "record", _held_out("2000"), source=512),
    **_translations("wmt14", "cs-en de-en fr-en hi-en ru-en"),
    **_translations("wmt16", "cs-en de-en fi-en ro-en ru-en tr-en"),
}  # fmt: skip


def get_task(name: str) -> Task:
    """Returns the entry with this name.

    Raises:
      UserError: for an unknown name.
    """
    if name not in TASKS:
        raise UserError(
            f"config.task.name is {name!r}{did_you_mean(name, TASKS)}",
            f"one of {', '.join(TASKS)}",
            "or config.task.source='files' with your own files",
        )
    return TASKS[name]


def prompt_style(family: str) -> str:
    """Returns the prompt style of a model family: T5, mT5 and umT5 are prompted with task and field names."""
    return "t5" if family in ("t5", "mt5", "umt5") else "plain"


def task_settings(name: str, family: str = "t5") -> dict[str, Any]:
    """Returns the fields of `config.task` for a task: `config.task.update(task_settings("cola"))`.

    Args:
      name: name in the task table.
      family: model family, as in `config.model.family`.
    """
    task = get_task(name)
    prompt = prompt_style(family)
    source, target, new_tokens = task.lengths
    return {
        "name": name, "source": "hub", "form": "auto", "prompt": prompt,
        "prefix": task.prefix if prompt == "t5" else "", "metric": task.metric, "max_source_length": source,
        "max_target_length": target, "max_new_tokens": new_tokens,
    }  # fmt: skip
