"""Values of each task of a mixture, by the task's own metric."""

from collections.abc import Sequence
from typing import Any

from nash_jax.data.tasks import TASKS
from nash_jax.evaluation.text_metrics import METRICS


def values_by_task(outputs: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`task/value` of every task that rows name; nothing where they name none.

    Args:
      outputs: read by `data.outputs.read_output`.
      rows: of any order.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(row["task"] for row in rows if "task" in row):
        own = [(text, row["references"]) for text, row in zip(outputs, rows, strict=True) if row.get("task") == name]
        values = METRICS[TASKS[name].metric][0]([text for text, _ in own], [references for _, references in own])
        found |= {f"{name}/{value}": number for value, number in values.items()}
    return found
