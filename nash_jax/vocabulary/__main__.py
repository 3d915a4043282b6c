"""`python -m nash_jax.vocabulary --model=FOLDER --texts=FILE --output=FOLDER`: a model with the tokens that texts need.

  --model     a folder or a hub name, as for nash_jax.generate
  --texts     files of all texts that the model is to read and write with the tokens it has now, sources and targets:
              .jsonl, .json, .csv, .tsv, .parquet, .arrow, or text with one text a line; also with .gz; several files
              with commas between, or a pattern such as --texts='part-*.jsonl'
  --columns   of files with columns: those of the sources and of the targets, such as --columns=document,summary
  --prefix    what goes before every source, such as --prefix="summarize: "; it counts before every text, and so does
              every text alone
  --held_out  files of other texts, with the same columns: how well they are covered is printed
  --noalphabet  does not keep tokens of one character that no text has
  --hf        writes the folder in the layout of transformers, not as a nash_jax export
  --output    the new folder

docs/vocabulary.md says what stays.
"""

import sys
from collections.abc import Iterator, Sequence

from absl import flags

from nash_jax.batch_generate.text_files import open_text_file
from nash_jax.data.files import file_kind, find_files
from nash_jax.errors import UserError
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.runtime.output_folder import resolve_folder
from nash_jax.vocabulary.sizes import VocabularySize

_REQUIRED = ("model", "texts", "output")
_USAGE = "--model=FOLDER_OR_HUB_NAME --texts=FILE --output=FOLDER"


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    for name in (*_REQUIRED, "columns", "held_out", "prefix"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_bool("alphabet", True, "", flag_values=own)
    flags.DEFINE_bool("hf", False, "", flag_values=own)
    parse_flags(own, argv, _USAGE)
    for name in _REQUIRED:
        if not own[name].value:
            raise UserError(f"no --{name}", _USAGE)
    return own


def read_columns(names: str, columns: str, prefix: str = "") -> Iterator[str]:
    """Yields the texts of files, each once with the prefix too.

    Args:
      names: a file, several with commas between, or a pattern.
      columns: of files with columns, with commas between.
      prefix: goes before a source.

    Raises:
      UserError: for a file that cannot be read, or one with columns when none are named.
    """
    if not columns and any(file_kind(path) is not None for path in find_files(names, "")):
        raise UserError(f"{names} has columns", "those of sources and targets", "--columns=document,summary")
    for column in columns.split(",") if columns else [None]:
        file = open_text_file(names, column)
        for row in file.rows(file.scan()):
            yield row.text
            if prefix:
                yield prefix + row.text


def size_lines(before: VocabularySize, after: VocabularySize) -> list[str]:
    """What the vocabulary costs before and after, for people.

    Args:
      before: of the model with all tokens.
      after: of the trimmed model.
    """
    million = 1e6
    return [
        f"tokens: {before.tokens:,} → {after.tokens:,}",
        f"model, float32: {before.model_bytes / million:,.1f} → {after.model_bytes / million:,.1f} MB",
        f"read for each generated token: {before.token_bytes / million:,.1f} → {after.token_bytes / million:,.1f} MB, "
        f"LM head {100 * before.head_share:.0f} → {100 * after.head_share:.0f} % of it",
    ]


def run(argv: Sequence[str]) -> None:
    """Trims the model that a command line names, and says what it became."""
    own = _parse(argv)
    output = resolve_folder(own.output)
    texts = list(read_columns(own.texts, own.columns, own.prefix))
    held_out = list(read_columns(own.held_out, own.columns)) if own.held_out else []

    from nash_jax.seq2seq import load
    from nash_jax.vocabulary.trim import trim_vocabulary

    found = trim_vocabulary(load(own.model), texts, held_out=held_out, alphabet=own.alphabet)
    (found.model.save_hf if own.hf else found.model.save)(output)
    lines = size_lines(found.before, found.after)
    print_result(str(output), *lines, *([f"held-out texts: {found.held_out.summary()}"] if held_out else []))


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    return run_command(run, sys.argv if argv is None else argv, __doc__, "name fewer texts")


if __name__ == "__main__":
    sys.exit(main())
