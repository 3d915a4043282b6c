"""Which models can be pruned on which devices: `nash_jax.benchmark.plan` for each of both, as one table.

python -m nash_jax.benchmark.plan_table [--output=plan.jsonl] [--models=t5-base,t5-3b] [--topologies=v5e:4x4,h200:8]
    [--config.…=…]

What is compiled is the pruning of configs/cnn_dailymail.py in bfloat16, each pair in a process of its own, for minutes;
what is in the output file already is not compiled again. A batch has 256 rows, of which a device computes four at a
time. Devices hold the state whole (`data`) where it takes half of their memory at most, else in parts (`fsdp`). The
last column is the least that a step can take: its operations at the device's peak. The compilers name no time of their
own for these programs, and that of GPUs no operations.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from nash_jax.axes import leaf_shapes
from nash_jax.benchmark.plan_jobs import Job, run_jobs
from nash_jax.benchmark.topologies import describe_topology, topology_peak
from nash_jax.runtime.command import run_command
from nash_jax.spec import preset

MODELS = ("t5-base", "t5-large", "bart-large", "t5-3b", "t5-11b")
TOPOLOGIES = ("v5e:1x1", "v5e:4x4", "v6e:4x4", "v6e:16x16", "h200:1", "h200:8")
_BATCH, _AT_A_TIME = 256, 4  # rows of a step; rows that a device computes at a time
_STATE = 16  # bytes a parameter: itself, its gradient and two moments, in float32
_GIB = 2**30


class Pair(NamedTuple):
    """A model and what it is to be pruned on, as `preset` and `describe_topology` take them."""

    model: str
    topology: str


def choose_mesh(parameters: int, devices: int, memory: int | None) -> str:
    """Returns `data:N` where the whole state takes half of a device's memory at most, else `fsdp:N`.

    Args:
      parameters: of the model.
      devices: N.
      memory: bytes of one; None: there is no limit.
    """
    whole = devices == 1 or memory is None or parameters * _STATE <= memory / 2
    return f"{'data' if whole else 'fsdp'}:{devices}"


def make_job(pair: Pair, rest: Sequence[str]) -> Job:
    """Returns what compiles the pruning of a pair.

    Args:
      pair: model and topology.
      rest: further flags of `nash_jax.benchmark.plan`, the last word.

    Raises:
      UserError: for a model or topology that is not known.
    """
    devices, memory = describe_topology(pair.topology)
    batch = [f"--config.prune.batch_size={_BATCH}", f"--config.prune.accumulation={_parts(devices)}"]
    parameters = sum(math.prod(shape) for shape in leaf_shapes(preset(pair.model)).values())
    chosen = [f"--config.model.preset={pair.model}", "--config.model.dtype=bfloat16", "--config.stages=prune", *batch]
    mesh = f"--mesh={choose_mesh(parameters, devices, memory)}"
    devices_flags = [f"--topology={pair.topology}", mesh, "--programs=prune"]
    return Job(pair._asdict(), ["--config=cnn_dailymail", "--config.model.init=", *chosen, *devices_flags, *rest])


def _parts(devices: int) -> int:
    """In how many parts a step computes its batch."""
    return max(1, _BATCH // (_AT_A_TIME * devices))


def format_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table, in Markdown.

    Args:
      found: lines of the output file.
    """
    titles = ("model", "devices", "mesh", "state, GiB a device", "in all", "fits", "exchanged, GiB", "TFLOP a device")
    head = f"| {' | '.join(titles)} | ms at least |"
    return "\n".join([head, "|---|---|---|---:|---:|---|---:|---:|---:|", *map(_format_pair, found)])


def _format_pair(line: Mapping[str, Any]) -> str:
    update, gradients = (
        next(row for row in line["programs"] if row["program"].endswith(end)) for end in ("update", "gradients")
    )
    shown = [line["model"], line["topology"], update["mesh"]]
    shown.append(f"{update['arguments'] / _GIB:.2f}" if update["arguments"] else "")  # refused: only the sum is known
    shown.append(f"{max(row['arguments'] + row['temporaries'] for row in line['programs']) / _GIB:.2f}")
    shown.append("yes" if update["fits"] and gradients["fits"] else "no")
    if not gradients["arguments"]:  # not compiled, for the state alone does not fit
        return f"| {' | '.join([*shown, '', '', ''])} |"
    shown.append(f"{sum(size for _, size in gradients['collectives'].values()) / _GIB:.2f}")
    flops, peak = gradients["flops"], topology_peak(line["topology"])
    if flops is None:  # of GPUs
        return f"| {' | '.join([*shown, '', ''])} |"
    flops *= _parts(describe_topology(line["topology"])[0])
    return f"| {' | '.join([*shown, f'{flops / 1e12:.2f}', _format_ms(1000 * flops / peak) if peak else ''])} |"


def _format_ms(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}"


def run(argv: Sequence[str]) -> None:
    """Compiles what is missing, and prints the table."""
    own = flags.FlagValues()
    flags.DEFINE_string("output", "plan.jsonl", "", flag_values=own)
    flags.DEFINE_list("models", list(MODELS), "", flag_values=own)
    flags.DEFINE_list("topologies", list(TOPOLOGIES), "", flag_values=own)
    rest = own(list(argv), known_only=True)[1:]
    models, topologies = (list[str](own[name].value or ()) for name in ("models", "topologies"))
    jobs = [make_job(Pair(model, topology), rest) for topology in topologies for model in models]
    print(format_table(run_jobs(jobs, Path(str(own["output"].value)))))


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose smaller models")


if __name__ == "__main__":
    sys.exit(main())
