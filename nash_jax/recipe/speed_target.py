"""What `config.target_speedup` is about: the generation that is timed, and the dense model's latency table."""

from pathlib import Path

from nash_jax.benchmark.latency_store import LatencyTable, read_table, save_table
from nash_jax.benchmark.latency_table import get_table
from nash_jax.benchmark.latency_timing import Setup
from nash_jax.config.schema import Config
from nash_jax.recipe.context import RunContext
from nash_jax.runtime.multihost import barrier, is_host0


def setup_of(config: Config) -> Setup:
    """What the target is about: the benchmark's first batch size and first length of outputs.

    Args:
      config: of the run.
    """
    own = config.benchmark
    return Setup("jax", config.model.dtype, own.batch_sizes[0], own.source_length, own.new_tokens[0])


def dense_table(context: RunContext, folder: Path) -> LatencyTable:
    """The dense model's table, measured by host 0 and kept in the folder of a stage.

    Args:
      context: of the run.
      folder: of the stage.
    """
    path = folder / "latency.json"
    if is_host0() and not path.exists():
        save_table(get_table(context.stored("finetune")[0], setup_of(context.config)), path)
    barrier("latency table")
    return read_table(path)
