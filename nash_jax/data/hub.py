"""What comes from the Hugging Face hub: fetched, or read from its cache when the hub does not answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nash_jax.data.tasks import Task
from nash_jax.errors import UserError

OFFLINE_ADVICE = (
    "without network use your own files and folders (configs/local.py) or try configs/quickstart.py, which needs none"
)


def fetch_repository(name: str, patterns: Sequence[str], what: str) -> Path:
    """The folder of a model repository of the hub: fetched, or from the cache.

    An unreachable hub is asked once, not five times with growing pauses as `from_pretrained` does.

    Args:
      name: such as "google/flan-t5-small".
      patterns: names of the files wanted.
      what: for the message: "model" or "tokenizer".

    Raises:
      UserError: when the hub does not answer or has no such repository.
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{what}: no folder {name!r}", "a folder, or a name of the hub such as google/flan-t5-small")
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, HFValidationError) as error:  # all that the hub client raises otherwise is an OSError
        raise UserError(
            f"{what} {name!r} is no folder here, and the hub did not give it: {first_line(error)}",
            f"the hub to answer, or the {what} in the cache {HF_HUB_CACHE}",
            OFFLINE_ADVICE,
        ) from error


def fetch_model(name: str, patterns: Sequence[str]) -> Path:
    """`fetch_repository` of a model with its weights; those in PyTorch's own format only if there are no others.

    Args:
      name: such as "google/flan-t5-small".
      patterns: names of the files wanted beside the weights.
    """
    folder = fetch_repository(name, (*patterns, "model*.safetensors"), "model")
    if any(folder.glob("model*.safetensors*")):
        return folder
    return fetch_repository(name, (*patterns, "pytorch_model*.bin"), "model")


def check_dataset(repository: str, revision: str) -> None:
    """Asks the hub once for a data set; when it does not answer, `datasets` will only look into its cache.

    A folder is not asked for.
    """
    if Path(repository).is_dir():
        return
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repository, revision=revision, timeout=10)
    except HfHubHTTPError:
        pass  # it answered; `load_dataset` says what is wrong
    except Exception:  # no answer, in whatever way the HTTP client puts it
        datasets.config.HF_HUB_OFFLINE = True


def load_split(task: Task, split: str) -> Any:
    """A split of a task of the table, from the hub or its cache, as a `datasets` table.

    Args:
      task: says where it is.
      split: a slice of a hub's split, such as `train[:90%]`.

    Raises:
      UserError: when it cannot be had.
    """
    import datasets

    whole = split.partition("[")[0]
    files = {whole: task.files.format(split=whole)} if task.files else None
    try:
        return datasets.load_dataset(
            task.repository, task.subset, revision=task.revision, data_files=files, split=split
        )  # fmt: skip
    except (OSError, ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data set {task.repository!r} cannot be loaded: {first_line(error)}",
            f"the hub to answer, or the data set in the cache {datasets.config.HF_DATASETS_CACHE}",
            OFFLINE_ADVICE,
        ) from error


def first_line(error: Exception) -> str:
    """An error's first line."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.removeprefix("Got: ").removesuffix(" (OfflineModeIsEnabled)")
