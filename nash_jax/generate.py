"""`python -m nash_jax.generate --model=FOLDER_OR_HUB_NAME --input=FILE --output=FILE`: generates for a file's texts.

  --input       .jsonl, .json, .csv, .tsv, .parquet, .arrow, or text with one text a line; also with .gz; several files
                with commas between, or a pattern such as --input='part-*.jsonl'
  --column      where the texts are, such as --column=data.text; left out: the first of source, document, text there is
  --output      .jsonl: each row with its "output" (a list with --num_return_sequences); otherwise a line each
  --prefix      goes before every text, such as --prefix="summarize: "
  --truncate    cuts texts that are longer than the positions of the model, instead of refusing them
  --source_lang and --target_lang  languages of the texts and of the outputs, for mBART, NLLB and M2M100
  --batch_size  texts generated together (16)
  --engine      jax (default), or where they are installed ctranslate2 or onnxruntime (greedy search alone)
  --dtype       float32 (default), bfloat16, or int8 on CPUs; with --engine=ctranslate2 also int16, float16
  --labels      a list in JSON: each output is one of these texts, such as --labels='["yes","no"]'
  --return_scores  writes log-probabilities too, in the column "output_scores" of .jsonl
  --keep_tokens special tokens that stay in outputs, such as --keep_tokens='<sep>,<br>'; --noskip_special_tokens: all

and the options of transformers that docs/generation.md lists, such as --max_new_tokens=64 --num_beams=4 --do_sample
--top_p=0.9 --early_stopping=never --suppress_tokens=[5,7] --seed=1; those left out are the model's own.

Stopped and started again, the same command continues where it stopped.
"""

import dataclasses
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from nash_jax.batch_generate.generator import OUTPUT_COLUMN, FileGenerator, GenerationJob, GenerationStats
from nash_jax.batch_generate.resumable import ResumableFile
from nash_jax.batch_generate.text_files import UNSUPPORTED_SUFFIXES, open_text_file
from nash_jax.data.decoding import split_names
from nash_jax.data.files import file_kind
from nash_jax.errors import UserError
from nash_jax.generation.arguments import ENGINES
from nash_jax.generation.options import UNSUPPORTED_FIELDS, GenerationOptions
from nash_jax.runtime.command import parse_flags, print_result, run_command, unusable
from nash_jax.runtime.files import check_local
from nash_jax.runtime.progress import Progress


def parse(argv: Sequence[str]) -> GenerationJob:
    """Command line → job.

    Raises:
      UserError: for flags that cannot be used.
    """
    own = _define_flags()
    parse_flags(own, argv, "--model=…, --input=FILE, --output=FILE, --option=value", _mistake)
    given = {name: value for name, value in own.flag_values_dict().items() if value is not None}
    for name in ("model", "input", "output"):
        if not given.get(name):
            raise UserError(f"no --{name}", "--model=FOLDER_OR_HUB_NAME --input=FILE --output=FILE")
        check_local(given[name], f"--{name}")
    output = Path(given["output"]).expanduser()
    output = Path(os.path.realpath(output)) if os.path.islink(output) else output  # renaming would replace the link
    given |= {"output": output, "keep_tokens": split_names(given["keep_tokens"])}
    if given["return_scores"] and given["output"].suffix != ".jsonl":
        raise UserError(f"--return_scores with --output={given['output']}", "--output=NAME.jsonl, which holds scores")
    if "labels" in given:
        given["labels"] = _value(given["labels"])
    names = [field.name for field in dataclasses.fields(GenerationOptions) if field.name in given]
    return GenerationJob(options={name: _value(given.pop(name)) for name in names}, **given)


def _define_flags() -> flags.FlagValues:
    own = flags.FlagValues()
    for name in ("model", "input", "output", "column", "source_lang", "target_lang", "labels"):
        flags.DEFINE_string(name, None, "", flag_values=own)
    for name in ("prefix", "keep_tokens"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_bool("skip_special_tokens", True, "", flag_values=own)
    flags.DEFINE_bool("truncate", False, "", flag_values=own)
    flags.DEFINE_bool("return_scores", False, "", flag_values=own)
    flags.DEFINE_integer("batch_size", 16, "", lower_bound=1, flag_values=own)
    flags.DEFINE_enum("engine", "jax", list(ENGINES), "", flag_values=own)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "int8", "int16", "float16"], "", flag_values=own)
    for field in dataclasses.fields(GenerationOptions):
        define = flags.DEFINE_bool if field.type is bool else flags.DEFINE_string
        define(field.name, None, "", flag_values=own)
    return own


def _mistake(error: flags.Error) -> UserError:
    """What was wrong on the command line."""
    if isinstance(error, flags.UnrecognizedFlagError) and error.flagname in UNSUPPORTED_FIELDS:
        return UserError(f"option {error.flagname} of transformers is not supported", do="leave it out")
    if wrong := re.match(r"flag --(\w+)=(.*?): ", str(error)):
        expected = {
            "batch_size": "a whole number, 1 or more",
            "dtype": "float32, bfloat16 or int8",
            "engine": " or ".join(ENGINES),
        }
        return UserError(f"--{wrong[1]} is {wrong[2]!r}", expected.get(wrong[1], "true or false"))
    return unusable(error)


def _value(text: str | bool) -> Any:
    """An option's value: JSON, Python's names for the same, or else text."""
    if isinstance(text, bool):
        return text
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


def check_output(path: Path) -> None:
    """Refuses what cannot be written, before anything is read.

    Raises:
      UserError: for a folder, a file in no folder or in one that is closed, or a kind that is not written.
    """
    if not path.parent.is_dir():
        raise UserError(f"--output: no folder {path.parent}", "an existing one")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output: {path.parent} cannot be written to", "a folder with permission to write")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder", "a file")
    data = path.suffix != ".jsonl" and file_kind(path) is not None
    if data or path.suffix == ".gz" or path.name.endswith(UNSUPPORTED_SUFFIXES):
        raise UserError(
            f"--output: {path} has an unsupported file type",
            ".jsonl, or a text file with one output per line, not compressed",
        )


def run(argv: Sequence[str]) -> None:
    """Checks all, generates what is not there yet, says what was done."""
    job = parse(argv)
    check_output(job.output)
    file = open_text_file(job.input, job.column, OUTPUT_COLUMN if job.writes_jsonl else None, job.output)
    scan = file.scan()
    _tell(f"{job.input}: {scan.num_rows:,} rows, {scan.num_empty:,} of them empty")
    generator = _load(job)
    results = ResumableFile(job.output, generator.settings(file, scan))
    if results.is_done():
        print_result(f"{job.output} is done, with the same settings; nothing to do")
        return
    if num_cut := generator.check_texts(file.rows(scan)):
        _tell(f"{job.input}: {num_cut:,} texts are cut to {generator.positions:,} tokens, the positions of the model")
    begun = time.monotonic()
    with results.open(scan.num_rows) as output:
        if len(output):
            _tell(f"{job.output}: {len(output):,} rows were there; going on with the others")
        bar = Progress("generating", scan.num_rows, len(output), unit="row")
        results_left = generator.results(file.rows(scan), output)
        with bar.first_batch():
            first = list(itertools.islice(results_left, 1))
        for batch in itertools.chain(first, results_left):
            output.add(batch)
            bar.update(len(output))
        bar.close()
    print_result(f"{job.output}: {summary(generator.stats, time.monotonic() - begun)}")


def _load(job: GenerationJob) -> FileGenerator:
    from nash_jax.runtime.compilation import enable_cache
    from nash_jax.runtime.memory import keep_freed_memory
    from nash_jax.seq2seq import load

    keep_freed_memory()
    enable_cache()
    return FileGenerator(load(job.model, dtype=job.dtype, engine=job.engine), job)


def summary(stats: GenerationStats, seconds: float) -> str:
    """What was done, on one line."""
    speed = stats.rows / max(seconds, 1e-9)
    parts = [f"{stats.rows:,} rows, {stats.tokens:,} tokens generated in {seconds:.1f} s ({speed:.2f} rows/s)"]
    if stats.num_without_eos:
        parts.append(f"{stats.num_without_eos:,} outputs were ended by the length limit, not by EOS")
    if stats.num_joined:
        parts.append(f"{stats.num_joined:,} outputs had line ends, now spaces: --output=NAME.jsonl keeps them")
    return "; ".join(parts)


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    return run_command(run, sys.argv if argv is None else argv, __doc__, "lower --batch_size")


if __name__ == "__main__":
    sys.exit(main())
