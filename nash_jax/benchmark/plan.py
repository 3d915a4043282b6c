"""Memory, collectives and time of a config's programs on devices that are not here, from their real compilers.

python -m nash_jax.benchmark.plan --config=FILE[:variant] --topology=v5e:4x4 [--mesh=data:2,fsdp:8] [--programs=prune]
    [--json] [--config.…=…]
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from jax.sharding import Mesh

from nash_jax.benchmark.compiled import Costs, compile_costs
from nash_jax.benchmark.plan_programs import (
    Lowered,
    fitting_meshes,
    generation_program,
    phase_programs,
    planned_spec,
)
from nash_jax.benchmark.topologies import Topology, find_topology
from nash_jax.config import command_line
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.runtime.command import run_command
from nash_jax.runtime.mesh import make_mesh, mesh_text
from nash_jax.spec import ModelSpec

_GIB = 2**30
_UPDATE = ": update"


class Row(NamedTuple):
    """One compiled program.

    Attributes:
      mesh: in words.
      program: its name.
      costs: of it.
    """

    mesh: str
    program: str
    costs: Costs

    def to_json(self, memory: int | None) -> dict[str, Any]:
        """Returns what programs read: names, the costs, and whether it fits.

        Args:
          memory: bytes of a device; None: there is no limit.
        """
        return {"mesh": self.mesh, "program": self.program, "fits": fits(self.costs, memory)} | self.costs._asdict()


def plan(config: Config, spec: ModelSpec, topology: Topology, mesh: str, only: str = "") -> tuple[list[Row], str]:
    """Compiles all programs on one mesh: the one that is named, or the best of those that could be used.

    An update is compiled before the gradients that it takes: where it does not fit, they are not compiled.

    Args:
      config: of the run.
      spec: of the dense model.
      topology: what to compile for.
      mesh: as `config.mesh`; empty: the meshes are tried with the phase that holds most, and one is chosen.
      only: what the names of the programs begin with; empty: all.

    Returns:
      A row for each program, those of rejected meshes first; and why this mesh was chosen, empty if it was named.

    Raises:
      UserError: where no program is called so, or no mesh divides the batches.
    """
    tried, reason = list[Row](), ""
    if not mesh:
        mesh, tried, reason = _choose(config, spec, topology)
    own = make_mesh(mesh, topology.devices)
    programs = phase_programs(config, spec, own) | generation_program(config, spec, own)
    chosen = {name: lower for name, lower in programs.items() if name.startswith(only)}
    if not chosen:
        raise UserError(f"--programs is {only!r}", f"the beginning of one of {', '.join(programs)}")
    done = [row for row in tried if row.mesh == mesh_text(own)]
    known = {row.program for row in done}
    new = _compile(own, {name: lower for name, lower in chosen.items() if name not in known}, topology.memory)
    return [row for row in tried if row not in done] + done + new, reason


def _compile(mesh: Mesh, programs: Lowered, memory: int | None) -> list[Row]:
    """A row for each program. Gradients are not compiled for a device on which their update does not fit."""
    costs: dict[str, Costs] = {}
    for name in sorted(programs, key=lambda name: not name.endswith(_UPDATE)):
        phase, _, _ = name.partition(":")
        update = costs.get(phase + _UPDATE)
        if update is not None and not fits(update, memory):
            costs[name] = Costs(0, update.total, {}, None, None, f"the update needs {update.total / _GIB:.2f} GiB")
        else:
            costs[name] = compile_costs(programs[name]())
    return [Row(mesh_text(mesh), name, costs[name]) for name in programs]


def _choose(config: Config, spec: ModelSpec, topology: Topology) -> tuple[str, list[Row], str]:
    """The mesh on which the largest phase fits and is fastest, what was compiled for this, and why."""
    found: dict[str, list[Row]] = {}
    names = fitting_meshes(config, len(topology.devices))
    if not names:
        raise UserError(
            f"no mesh of {len(topology.devices)} devices divides the batches", "other batch sizes, or --mesh=MESH"
        )
    for name in names if len(names) > 1 else ():
        mesh = make_mesh(name, topology.devices)
        programs = phase_programs(config, spec, mesh) or generation_program(config, spec, mesh)
        largest = next((title.partition(":")[0] for title in programs if title.startswith("prune")), None)
        largest = largest or next(iter(programs)).partition(":")[0]
        chosen = {title: lower for title, lower in programs.items() if title.partition(":")[0] == largest}
        found[name] = _compile(mesh, chosen, topology.memory)
    if not found:
        return names[0], [], "the only mesh whose rows divide every batch"
    ranks = {name: _rank(rows, topology.memory) for name, rows in found.items()}
    best = min(ranks, key=lambda name: ranks[name])
    tried = [row for rows in found.values() for row in rows]
    return best, tried, f"{best}: {_reason(found[best], topology.memory)}, of {', '.join(names)}"


def _rank(rows: Sequence[Row], memory: int | None) -> tuple[bool, float, float]:
    """Less is better: does not fit; seconds, or bytes of collectives where there are none; bytes a device."""
    costs = [row.costs for row in rows]
    most, size = max(cost.total for cost in costs), sum(cost.collective_bytes for cost in costs)
    if not all(fits(cost, memory) for cost in costs):
        return True, float(most), 0.0
    times = [cost.seconds for cost in costs]
    return False, sum(map(float, filter(None, times))) if all(times) else float(size), float(most)


def _reason(rows: Sequence[Row], memory: int | None) -> str:
    costs = [row.costs for row in rows]
    if not all(fits(cost, memory) for cost in costs):
        return "none fits, and it needs least"
    return "fits, fastest by the compiler" if all(cost.seconds for cost in costs) else "fits, fewest bytes exchanged"


def fits(costs: Costs, memory: int | None) -> bool:
    """Whether a program fits on a device.

    Args:
      costs: of the program.
      memory: bytes of a device; None: there is no limit.
    """
    return not costs.refused and (memory is None or costs.total <= memory)


def format_rows(rows: Sequence[Row], memory: int | None) -> str:
    """Returns the table, in Markdown.

    Args:
      rows: the programs.
      memory: bytes of a device; None: there is no limit.
    """
    head = "| mesh | program | arguments, GiB | temporaries, GiB | fits | collectives | TFLOP | ms, by the compiler |"
    return "\n".join([head, "|---|---|---:|---:|---|---|---:|---:|", *(_line(row, memory) for row in rows)])


def _line(row: Row, memory: int | None) -> str:
    costs = row.costs
    sizes = [f"{costs.arguments / _GIB:.2f}", f"{costs.temporaries / _GIB:.2f}"]
    if costs.refused:
        sizes = ["", f"{costs.total / _GIB:.2f} in all" if costs.total else ""]
    exchanged = ", ".join(
        f"{count} {kind} {size / 2**20:,.0f} MiB" for kind, (count, size) in sorted(costs.collectives.items())
    )
    flops = "" if costs.flops is None else f"{costs.flops / 1e12:,.2f}"
    ms = "" if costs.seconds is None else f"{1000 * costs.seconds:,.1f}"
    verdict = "yes" if fits(costs, memory) else "no"
    return f"| {row.mesh} | {row.program} | {' | '.join([*sizes, verdict, exchanged or 'none', flops, ms])} |"


def _read(argv: Sequence[str]) -> tuple[Config, flags.FlagValues]:
    """Config of a command line, which is as that of the main command, and the flags of this one."""
    own = flags.FlagValues()
    for name in ("topology", "mesh", "programs"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_bool("json", False, "", flag_values=own)
    rest = own(list(argv), known_only=True)
    if not own["topology"].value:
        raise UserError("no --topology", "--topology=v5e:4x4, v6e:4x4, h200:8 or cpu:8")
    given: Any = command_line.parse(rest)
    return parse_config(given.config), own


def run(argv: Sequence[str]) -> None:
    """Compiles and prints the table."""
    config, own = _read(argv)
    name, mesh, programs = (str(own[flag].value) for flag in ("topology", "mesh", "programs"))
    topology = find_topology(name)
    spec = planned_spec(config)
    memory = "" if topology.memory is None else f" of {topology.memory / _GIB:.1f} GiB"
    if not own["json"].value:
        print(f"{len(topology.devices)} × {topology.chip}{memory}", flush=True)
    rows, reason = plan(config, spec, topology, mesh or config.mesh, programs)
    if own["json"].value:
        print(json.dumps([row.to_json(topology.memory) for row in rows]))
        return
    print(format_rows(rows, topology.memory))
    print(f"chosen: {reason}" if reason else "")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller model")


if __name__ == "__main__":
    sys.exit(main())
