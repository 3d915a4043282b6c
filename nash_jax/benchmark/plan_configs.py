"""Whether every config compiles for the hardware that it names, and within the memory.

python -m nash_jax.benchmark.plan_configs [--output=plan_configs.jsonl] [--configs=samsum,squad]
    [--topologies=h200:1,v6e:1x1] [--config.…=…]

All shipped configs whose first lines say "Hardware: one GPU or TPU host with N GiB", with the model that they name:
all programs of all their phases, and of the evaluation. Each pair is compiled in a process of its own, for minutes;
what is in the output file already is not compiled again. A study's cells are such configs with other layers.
"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from nash_jax.benchmark.plan_jobs import Job, run_jobs
from nash_jax.benchmark.topologies import describe_topology
from nash_jax.config.shipped import names, shipped_file
from nash_jax.errors import UserError
from nash_jax.runtime.command import run_command

TOPOLOGIES = ("h200:1", "v6e:1x1")
_GIB = 2**30


def documented_memory(name: str) -> int | None:
    """Returns the GiB of the GPU or TPU host that a shipped config names; None of one that names none.

    Args:
      name: of a shipped config.

    Raises:
      UserError: for another name.
    """
    text = ast.get_docstring(ast.parse(shipped_file(name).read_text("utf-8"))) or ""
    found = re.search(r"^Hardware:\s+one GPU or TPU host with (\d+) GiB", text, re.MULTILINE)
    return int(found[1]) if found else None


def format_rows(found: Sequence[dict[str, Any]]) -> str:
    """Returns the table, in Markdown.

    Args:
      found: what `run_jobs` returns.
    """
    head = (
        "| config | device | programs | most, GiB a device | documented, GiB | within |\n|---|---|---:|---:|---:|---|"
    )
    return "\n".join([head, *map(_format_row, found)])


def _format_row(line: dict[str, Any]) -> str:
    most = max(row["arguments"] + row["temporaries"] for row in line["programs"]) / _GIB
    limit = documented_memory(line["config"])
    refused = [row["program"] for row in line["programs"] if row["refused"]]
    within = f"no: {', '.join(refused)} does not compile" if refused else "yes" if limit and most <= limit else "no"
    shown = (line["config"], line["topology"], len(line["programs"]), f"{most:.2f}", limit, within)
    return f"| {' | '.join(map(str, shown))} |"


def run(argv: Sequence[str]) -> None:
    """Compiles what is missing, and prints the table."""
    own = flags.FlagValues()
    known = [name for name in names() if documented_memory(name)]
    flags.DEFINE_string("output", "plan_configs.jsonl", "", flag_values=own)
    flags.DEFINE_list("configs", known, "", flag_values=own)
    flags.DEFINE_list("topologies", list(TOPOLOGIES), "", flag_values=own)
    rest = own(list(argv), known_only=True)[1:]
    configs, topologies = (list[str](own[name].value or ()) for name in ("configs", "topologies"))
    for name in configs:
        if not documented_memory(name):
            raise UserError(f"--configs: {name} names no GPU or TPU host", f"some of {', '.join(known)}")
    for topology in topologies:
        describe_topology(topology)  # another name ends it before anything is compiled
    jobs = [
        Job({"config": name, "topology": topology}, [f"--config={name}", f"--topology={topology}", *rest])
        for topology in topologies
        for name in configs
    ]
    print(format_rows(run_jobs(jobs, Path(str(own["output"].value)))))


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose fewer configs")


if __name__ == "__main__":
    sys.exit(main())
