"""Many runs of `nash_jax.benchmark.plan`, each in a process of its own, with a file of what has been compiled."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nash_jax.errors import UserError
from nash_jax.runtime.progress import say_while


class Job(NamedTuple):
    """One run.

    Attributes:
      names: what it is called by, such as {"model": "t5-base", "topology": "v5e:4x4"}.
      flags: of `nash_jax.benchmark.plan`, without `--json`.
    """

    names: Mapping[str, str]
    flags: Sequence[str]

    def __str__(self) -> str:
        return " on ".join(self.names.values())


def compile_job(job: Job) -> list[dict[str, Any]]:
    """Returns the programs of a job as `Row.to_json` gives them.

    Raises:
      UserError: with its last words where the process fails.
    """
    command = [sys.executable, "-m", "nash_jax.benchmark.plan", *job.flags, "--json"]
    with say_while(lambda seconds: print(f"{job}: {seconds:,.0f} s", file=sys.stderr, flush=True)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [f"status {done.returncode}", *(line for line in done.stderr.splitlines() if "rror" in line)]
        raise UserError(f"{job}: {words[-1]}", "programs that compile")
    return list(json.loads(done.stdout.splitlines()[-1]))


def run_jobs(jobs: Sequence[Job], output: Path) -> list[dict[str, Any]]:
    """Compiles the jobs that the file does not have, and adds each to it when it is done.

    Args:
      jobs: in the order of the result.
      output: a file of JSON lines; made where there is none.

    Returns:
      For each job its names, its "flags", and its "programs".

    Raises:
      UserError: as of `compile_job`.
    """
    lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()] if output.is_file() else []
    known = {tuple(line["flags"]): line for line in lines}
    for number, job in enumerate(jobs, 1):
        key = tuple(job.flags)
        if key not in known:
            print(f"{number} of {len(jobs)}: {job}", file=sys.stderr, flush=True)
            known[key] = {**job.names, "flags": list(job.flags), "programs": compile_job(job)}
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
    return [known[tuple(job.flags)] for job in jobs]
