"""Downloads from the Hugging Face Hub, with its cache as fallback when the hub does not answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nash_jax.data.files import near_path
from nash_jax.data.tasks import Task
from nash_jax.errors import UserError

OFFLINE_ADVICE = (
    "without network use your own files and folders (configs/local.py) or try configs/quickstart.py, which needs none"
)


def fetch_repository(name: str, patterns: Sequence[str], what: str) -> Path:
    """Downloads files of a model repository, or takes them from the cache.

    The hub is contacted once; `from_pretrained` would retry five times with increasing delays.

    Args:
      name: repository, such as "google/flan-t5-small".
      patterns: file name patterns to download.
      what: "model" or "tokenizer", for the message.

    Returns:
      The local folder.

    Raises:
      UserError: if the hub does not answer or does not have the repository, and the cache does not have it either.
    """
    near = near_path(Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"{what}: no folder {name!r}{near}",
            "a folder, or a name on the hub such as google/flan-t5-small",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, HFValidationError) as error:  # all other errors of the hub client are OSErrors
        raise UserError(
            f"{what} {name!r}{near} is not a folder, and could not be downloaded from the hub: {first_line(error)}",
            f"an answer of the hub, or the {what} in the cache {HF_HUB_CACHE}",
            OFFLINE_ADVICE,
        ) from error


def fetch_model(name: str, patterns: Sequence[str]) -> Path:
    """Downloads a model with its weights: safetensors, or else PyTorch's files, or else Flax'.

    Args:
      name: repository, such as "google/flan-t5-small".
      patterns: patterns of the other files to download.

    Returns:
      The local folder.

    Raises:
      UserError: as `fetch_repository`.
    """
    for weights in ("model*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack"):
        folder = fetch_repository(name, (*patterns, weights), "model")
        if any(folder.glob(f"{weights}*")):
            break
    return folder


def check_dataset(repository: str, revision: str) -> None:
    """Contacts the hub once; if it does not answer, sets `datasets` to offline mode, so that only its cache is used.

    Does nothing if `repository` is a local folder.
    """
    if Path(repository).is_dir():
        return
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repository, revision=revision, timeout=10)
    except HfHubHTTPError:
        pass  # the hub answered; `load_dataset` reports the error
    except Exception:  # no answer; the type depends on the HTTP client
        datasets.config.HF_HUB_OFFLINE = True


def load_split(task: Task, split: str) -> Any:
    """Loads a split of a task's data set from the hub or its cache.

    Args:
      task: entry of the task table.
      split: slice of a split on the hub, such as `train[:90%]`.

    Returns:
      A `datasets.Dataset`.

    Raises:
      UserError: if it cannot be loaded.
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
            f"an answer of the hub, or the data set in the cache {datasets.config.HF_DATASETS_CACHE}",
            OFFLINE_ADVICE,
        ) from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.removeprefix("Got: ").removesuffix(" (OfflineModeIsEnabled)")
