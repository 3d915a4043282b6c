"""`python -m nash_jax.export.hub --folder=runs/mine/export/hf --repo=ME/NAME`: uploads an exported folder to the hub.

  --folder    a folder that nash_jax saved: `export/hf` of a run, or of save_hf or save_ct2
  --repo      name on the hub; the repository is created if it is not there
  --private   create it so that only its owner sees it

Nothing is uploaded if a file of the folder was changed or is missing since it was saved; texts such as README.md and
generation_config.json may be edited before. The token is that of `hf auth login`, or of the variable HF_TOKEN.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from nash_jax.errors import UserError
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.runtime.files import find_folder
from nash_jax.runtime.output_folder import MANIFEST, complete_save, verify_save

_LEFT_OUT = (MANIFEST, ".*", ".*/**", "**/.*")  # the hub has checksums of its own; hidden files are not the model's
_DO = "hf auth login, or set HF_TOKEN, and check the network; the same command uploads what is missing"


def push_folder(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Uploads a folder that nash_jax saved; a repository that is there gets one more commit.

    Args:
      folder: of `save_hf`, `save_ct2` or a run's `export/`; all files go but the manifest and hidden ones.
      repo_id: name on the hub, `OWNER/NAME`, or `NAME` of the owner of the token.
      private: make a new repository private; one that is there stays as it is.

    Returns:
      The address of the repository.

    Raises:
      UserError: for a folder that nash_jax did not save, or one that was changed since; for a name that the hub does
        not have, a missing or wrong token, or no answer.
    """
    found = find_folder(str(folder))
    if found is None or not (found / MANIFEST).is_file():
        raise UserError(f"{folder} holds no model that nash_jax saved", "export/hf of a run, or a folder of save_hf")
    complete_save(found)
    verify_save(found)
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        api = HfApi(endpoint=constants.ENDPOINT, library_name="nash_jax")
        repo = api.create_repo(repo_id, private=private or None, exist_ok=True)
        message = "Upload a model pruned with nash_jax"
        api.upload_folder(
            repo_id=repo.repo_id, folder_path=found, commit_message=message, ignore_patterns=list(_LEFT_OUT)
        )
    except HFValidationError as error:
        raise UserError(f"--repo: {_said(error)}", "OWNER/NAME of letters, digits, '-', '_' and '.'") from error
    except HfHubHTTPError as error:
        what = error.server_message or _said(error)
        raise UserError(
            f"the hub refused {repo_id}: {error.response.status_code} {what}", "a write token", _DO
        ) from error
    except ValueError as error:  # the block of README.md
        raise UserError(
            f"{found / 'README.md'}: {' '.join(str(error).split())}", "metadata that the hub reads"
        ) from error
    except (OSError, HTTPError) as error:
        raise UserError(f"{repo_id} was not uploaded: {_said(error)}", "an answer of the hub", _DO) from error
    return str(repo)


def _said(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run(argv: Sequence[str]) -> None:
    """Uploads the folder of a command line.

    Raises:
      UserError: as `push_folder`, and for flags that cannot be used.
    """
    own = flags.FlagValues()
    for name in ("folder", "repo"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_bool("private", False, "", flag_values=own)
    usage = "--folder=runs/mine/export/hf --repo=OWNER/NAME [--private]"
    parse_flags(own, argv, usage)
    given = own.flag_values_dict()
    for name in ("folder", "repo"):
        if not given[name]:
            raise UserError(f"no --{name}", usage)
    print_result(f"uploaded: {push_folder(given['folder'], given['repo'], given['private'])}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    return run_command(run, sys.argv if argv is None else argv, __doc__, "close other programs")


if __name__ == "__main__":
    sys.exit(main())
