"""Kernels of a decoding step on a GPU, counted in the compiled program; only `pip install "jax[cuda13]"` is needed.

python -m nash_jax.benchmark.kernels --device=h200 --preset=t5-base [--decoder_layers=12] [--num_beams=4]

  --model          a folder or hub name, instead of a preset
  --batch_size, --source_length, --new_tokens   inputs, and tokens of every input and output (1, 256, 64)

No GPU is needed, nor used. Prints the instructions of the decoding loop's body that are kernels, by kind and a layer;
the bytes of their operands and results, an upper bound of what a step reads and writes; and the temporary memory of
the program; all in bfloat16. The choices that XLA makes by timing on the device itself are not made.
"""

import collections
import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nash_jax.benchmark.topologies import GPUS, gpu_devices
from nash_jax.errors import UserError
from nash_jax.generation.beam import beam_search
from nash_jax.generation.cache import CachedDecoder, encode
from nash_jax.generation.greedy import greedy
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.program_args import make_program_args
from nash_jax.models import build
from nash_jax.models.initialize import param_shapes
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.seq2seq import load
from nash_jax.spec import ModelSpec, preset

_NUMBERS = {"batch_size": 1, "num_beams": 1, "source_length": 256, "new_tokens": 64}
_NO_KERNEL = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call", "after-all")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


class Instruction(NamedTuple):
    """A line of a computation: its name, the text of its shape, its kind, and the rest of the line."""

    name: str
    shape: str
    kind: str
    rest: str


class StepCount(NamedTuple):
    """What a decoding step runs.

    Attributes:
      kinds: kind of instruction → number of kernels.
      bytes: of the operands and results of these.
      temporary: bytes of temporary memory of the whole program.
    """

    kinds: dict[str, int]
    bytes: int
    temporary: int


def cuda_problem() -> str:
    """Returns why nothing can be compiled for a GPU here; an empty text: it can."""
    try:
        gpu_devices("h200")
    except (RuntimeError, ValueError, ImportError, FileNotFoundError) as error:
        return f"nothing to compile for GPUs with: {str(error).splitlines()[0][:120]}"
    return ""


def count_kernels(spec: ModelSpec, device: str, given: dict[str, Any]) -> StepCount:
    """Compiles a generation for a device and counts the kernels of a step.

    Args:
      spec: a model; the LM head is separate, as the engine has it.
      device: of `GPUS`.
      given: `batch_size`, `num_beams`, `source_length`, `new_tokens`.
    """
    compiled = _compile(dataclasses.replace(spec, tied=False), device, given)
    return count_step(compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes)


def count_step(text: str, temporary: int) -> StepCount:
    """Counts the kernels in the body of the loop that has most of them.

    Args:
      text: of a compiled HLO module.
      temporary: bytes of temporary memory of the module.
    """
    computations = read_computations(text)
    bodies = [re.search(r"body=%?([\w.-]+)", i.rest) for c in computations.values() for i in c if i.kind == "while"]
    steps = [list(_kernels(computations, body[1])) for body in bodies if body]
    kernels = max(steps, key=len)
    kinds = collections.Counter(_kind(instruction) for instruction, _ in kernels)
    return StepCount(dict(kinds.most_common()), sum(size for _, size in kernels), temporary)


def read_computations(text: str) -> dict[str, list[Instruction]]:
    """Returns computation → its instructions.

    Args:
      text: of an HLO module.
    """
    found: dict[str, list[Instruction]] = {}
    name = ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if line.endswith("{") and " -> " in line:
            name = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
            found[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            found[name].append(Instruction(*match.groups()))
    return found


def _kernels(computations: dict[str, list[Instruction]], name: str) -> Iterator[tuple[Instruction, int]]:
    """Yields the kernels of a computation and of those that it calls, with the bytes of their operands and results."""
    sizes = {instruction.name: _size(instruction.shape) for instruction in computations[name]}
    for instruction in computations[name]:
        if instruction.kind == "call" and (called := re.search(r"to_apply=%?([\w.-]+)", instruction.rest)):
            yield from _kernels(computations, called[1])
        elif instruction.kind not in _NO_KERNEL:
            operands = re.findall(r"%([\w.-]+)", instruction.rest.split("), ")[0])
            yield instruction, sizes[instruction.name] + sum(sizes.get(operand, 0) for operand in operands)


def _kind(instruction: Instruction) -> str:
    target = re.search(r'custom_call_target="([^"]+)"|"kind":"(__\w+)"', instruction.rest)
    return f"{instruction.kind} {next(filter(None, target.groups()))}" if target else instruction.kind


def _size(shape: str) -> int:
    """Bytes of a shape such as `(bf16[8,64]{1,0}, s32[])`."""
    parts = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(_BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in parts)


def _compile(spec: ModelSpec, device: str, given: dict[str, Any]) -> Any:
    model, ids = build(spec, dtype=jnp.bfloat16), np.ones((given["batch_size"], given["source_length"]), np.int32)
    options = GenerationOptions(max_new_tokens=given["new_tokens"], num_beams=given["num_beams"])
    inputs = pad_inputs(ids, ids, np.arange(len(ids)), spec.pad_id, "gpu")
    static, traced = make_program_args(spec, options, inputs, None, True)

    def generate(params: Any, input_ids: Any, attention_mask: Any, traced: Any) -> Any:
        encoded = encode(model, params, input_ids, attention_mask, traced.prompt.shape[1] - 1)
        search = greedy if static.num_beams == 1 else beam_search
        return search(CachedDecoder(model, params, encoded), static, traced)

    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), param_shapes(spec))
    mesh = Mesh(np.array(gpu_devices(device)), ("all",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(generate, in_shardings=everywhere, out_shardings=everywhere)
    shapes = jax.eval_shape(lambda *x: x, params, inputs.input_ids, inputs.attention_mask, traced)
    return jitted.lower(*shapes).compile()


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name, default in {"model": "", "preset": "", "device": "h200"}.items():
        flags.DEFINE_string(name, default, "", flag_values=own)
    flags.DEFINE_integer("decoder_layers", None, "", lower_bound=1, flag_values=own)
    for name, number in _NUMBERS.items():
        flags.DEFINE_integer(name, number, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, "--device=h200, and --model=FOLDER or --preset=NAME")
    given = own.flag_values_dict()
    if bool(given["model"]) == bool(given["preset"]):
        raise UserError("command line: no model, or two", "either --model=FOLDER or --preset=NAME")
    if given["device"] not in GPUS:
        raise UserError(f"--device is {given['device']!r}", f"one of {', '.join(GPUS)}")
    return given


def run(argv: Sequence[str]) -> None:
    """Counts and prints."""
    given = _parse(argv)
    if problem := cuda_problem():
        raise UserError(problem, "pip install 'nash_jax[cuda]', and JAX_PLATFORMS=cpu where there is no GPU")
    spec = preset(given["preset"]) if given["preset"] else load(given["model"]).spec
    layers = min(given["decoder_layers"] or len(spec.decoder), len(spec.decoder))
    spec = dataclasses.replace(spec, decoder=spec.decoder[:layers])
    found = count_kernels(spec, given["device"], given)
    kernels = sum(found.kinds.values())
    print_result(
        f"{kernels} kernels a step, {kernels / layers:.1f} a layer of {layers}, compiled for {given['device']}"
    )
    print_result(*(f"{count:6} {kind}" for kind, count in found.kinds.items()))
    print_result(f"{found.bytes / 1e6:.1f} MB of operands and results, {found.temporary / 1e6:.1f} MB temporary memory")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
