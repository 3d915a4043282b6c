"""What a model card says to the hub's programs: its YAML block, with the scores as `model-index`."""

import re
from typing import Any

from nash_jax.data.tasks import TASKS
from nash_jax.report.numbers import direction, is_number, section
from nash_jax.report.quality import Report, metric_names
from nash_jax.runtime.files import find_folder

LIBRARIES = {"hf": "transformers", "ct2": "ctranslate2", "onnx": "onnx"}  # format, without `_int8`, → the hub's library
_TAGS = ("nash_jax", "pruning", "seq2seq")
_PAPERS = ("arxiv:2310.10054", "arxiv:2304.02721")
_TASK_TYPES = {  # metric of a run → the hub's task, where the metric tells it
    "translation": "translation", "chrf": "translation", "answers": "question-answering",
    "squad": "question-answering", "multirc": "question-answering", "record": "question-answering",
} | dict.fromkeys(
    ("accuracy", "accuracy_f1", "accuracy_macro_f1", "matthews", "correlation"), "text-classification"
)  # fmt: skip
_METRIC_TYPES = (  # pattern of our name → the hub's metric; other names stay as they are
    (r"rouge.*", "rouge"), (r"bleu", "sacrebleu"), (r"f1|macro_f1|f1a", "f1"), (r"word_error_rate", "wer"),
    (r"matthews", "matthews_correlation"), (r"spearman", "spearmanr"), (r"pearson", "pearsonr"),
)  # fmt: skip
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def one_line(text: Any, most: int = 200) -> str:
    """Returns a text of a user on one line, its control characters as spaces.

    Args:
      text: any value.
      most: characters at most.
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:most]


def base_model(report: Report) -> str | None:
    """Returns the hub's name of the model that a run began with; None for a folder, or a fresh model."""
    init = section(report, "config", "model").get("init") or ""
    return init if _HUB_NAME.fullmatch(init) and find_folder(init) is None else None


def task_type(report: Report) -> str:
    """Returns the hub's name of the task."""
    task = section(report, "config", "task")
    found = _TASK_TYPES.get(str(task.get("metric")))
    if found is None and task.get("metric") == "rouge":
        known = TASKS.get(str(task.get("name")))
        texts = (task.get("prefix") or "", known.prefix if known else "")
        found = "summarization" if any(text.startswith("summarize") for text in texts) else None
    return found or "text-generation"


def dataset(report: Report) -> dict[str, Any]:
    """Returns the fields of `EvalResult` that name the data set."""
    task = section(report, "config", "task")
    name = one_line(task.get("name") or "own data") or "own data"
    known = TASKS.get(name) if task.get("source") == "hub" and not task.get("mixture") else None
    if known is None or find_folder(known.repository) is not None:
        return {"dataset_type": re.sub(r"[^\w.-]+", "-", name).strip("-") or "own-data", "dataset_name": name}
    split = known.splits[2].partition("[")[0]
    return {
        "dataset_type": known.repository, "dataset_name": name, "dataset_config": known.subset, "dataset_split": split,
    }  # fmt: skip


def metadata(report: Report, layout: str) -> str:
    """Returns the YAML block of a card, without the lines `---`.

    Args:
      report: what `report.json` holds of a run.
      layout: the format of the folder, one of `EXPORT_FORMATS`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    place, kind, base = dataset(report), task_type(report), base_model(report)
    scores = section(report, "metrics", "pruned")
    names = [name for name in metric_names(report) if is_number(scores.get(name)) and direction(name)]
    results = [
        EvalResult(task_type=kind, metric_type=metric_type(n), metric_name=n, metric_value=round(scores[n], 4), **place)
        for n in names
    ]
    return ModelCardData(
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[place["dataset_type"]] if "dataset_split" in place else None,
        library_name=LIBRARIES.get(layout.partition("_")[0]),
        pipeline_tag=kind if kind in ("summarization", "translation") else None,
        tags=[*_TAGS, *_PAPERS],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=model_name(report),
        eval_results=results or None,
    ).to_yaml()


def metric_type(name: str) -> str:
    """Returns the hub's name of one of our metrics."""
    return next((hub for pattern, hub in _METRIC_TYPES if re.fullmatch(pattern, name)), name)


def model_name(report: Report) -> str:
    """Returns the title of a card: the model that was pruned, and the task."""
    init = one_line(section(report, "config", "model").get("init") or "").rstrip("/").rpartition("/")[2]
    family = section(report, "config", "model").get("family") or "model"
    return f"{init or one_line(family)} for {one_line(report.get('task') or 'own data')}, pruned with nash_jax"
