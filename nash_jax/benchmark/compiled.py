"""What a compiler says of a program: bytes a device, collectives, operations, time."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+)(?:\w*)\[([\d,]*)\]")
_PAIRED = ("all-gather", "collective-permute")  # their asynchronous form returns what it was given, too
_FULL = re.compile(r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)(?: of|\))")  # words of two versions
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Costs(NamedTuple):
    """Of one program, for each device.

    Attributes:
      arguments: bytes of what it is given: weights, state, batch.
      temporaries: bytes of all else that is alive at once, of results that take no argument's place, and of the code.
      collectives: kind → (how many, bytes of their results). Those of a loop count once.
      flops: floating-point operations; None where the compiler does not say. Those of a loop count once.
      seconds: the compiler's estimate (`optimal_seconds`); None where it has none.
      refused: the compiler's own words, if it found too little memory; then only `temporaries` is known, as the total.
    """

    arguments: int
    temporaries: int
    collectives: dict[str, tuple[int, int]]
    flops: float | None
    seconds: float | None
    refused: str = ""

    @property
    def total(self) -> int:
        """Bytes a device."""
        return self.arguments + self.temporaries

    @property
    def collective_bytes(self) -> int:
        """Bytes of all collectives."""
        return sum(size for _, size in self.collectives.values())


def compile_costs(lowered: Any) -> Costs:
    """Compiles a lowered program, and asks the compiler.

    Args:
      lowered: from `jax.jit(...).lower(...)`.
    """
    try:
        compiled = lowered.compile()
    except Exception as error:  # jax has no type of its own for what a compiler refuses
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        return _refused(str(error))
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    others = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    others += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Costs(
        memory.argument_size_in_bytes, others, find_collectives(compiled.as_text()),
        _positive(costs, "flops"), _positive(costs, "optimal_seconds"),
    )  # fmt: skip


def _positive(costs: Mapping[str, Any], name: str) -> float | None:
    value = costs.get(name)
    return float(value) if value is not None and value > 0 and math.isfinite(value) else None


def _refused(message: str) -> Costs:
    found = _FULL.search(message)
    used = int(float(found[1]) * 1024 ** _UNITS[found[2]]) if found else 0
    line = next(line for line in message.splitlines() if "memory" in line.lower() or "RESOURCE" in line)
    return Costs(0, used, {}, None, None, line.strip()[:200])


def find_collectives(text: str) -> dict[str, tuple[int, int]]:
    """Returns kind → (how many, bytes of their results on one device).

    Args:
      text: the compiled program, as HLO.
    """
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for line in text.splitlines():
        if match := _LINE.search(line):
            result, kind, started = match.groups()
            sizes = [_bytes(*shape) for shape in _SHAPE.findall(result)]
            if started and kind in _PAIRED:
                sizes = sizes[len(sizes) // 2 :] if kind == "all-gather" else sizes[1:2]
            count, size = found[kind]
            found[kind] = count + 1, size + sum(sizes)
    return dict(found)


def _bytes(kind: str, shape: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8
