"""When a study first saw each of its contrasts: whether it was written before or after its cells were run."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nash_jax.runtime.files import read_json, write_text
from nash_jax.study.contrasts import Contrast


def register(
    file: Path, contrasts: Sequence[Contrast], done: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Adds the contrasts that a study has not seen before to its file; nothing is ever taken from it.

    A contrast that is changed in any field is another one.

    Args:
      file: `contrasts.json` of the study, written where something is new.
      contrasts: as they are now.
      done: the group of each cell that is done now.

    Returns:
      {"seen": date and time, "done_before": cells of the two groups that were done then} of each contrast; and the
      contrasts that were there once and are not now.
    """
    known = read_json(file)["contrasts"] if file.exists() else []
    now, fields = [dataclasses.asdict(own) for own in contrasts], [own["contrast"] for own in known]
    seen = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    new = [
        {"contrast": own, "seen": seen, "done_before": sum(group in (own["a"], own["b"]) for group in done)}
        for own in now
        if own not in fields
    ]
    if new:
        write_text(file, json.dumps({"contrasts": known + new}, indent=1))
    by_contrast = [next(row for row in known + new if row["contrast"] == own) for own in now]
    found = [{"seen": row["seen"], "done_before": row["done_before"]} for row in by_contrast]
    return found, [own for own in fields if own not in now]
