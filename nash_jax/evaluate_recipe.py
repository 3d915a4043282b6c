"""Evaluation mode: the stages `evaluate` and `benchmark` alone, of one model that is not of this run.

It says how good the model is (the task's metrics on the test rows), where its parameters are and where its time
goes, by component, and how sparse it is.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from nash_jax.benchmark.components import component_times
from nash_jax.benchmark.latency import measure
from nash_jax.config import STAGES, Config, chosen_stages, lasting_settings
from nash_jax.data.checks import Findings
from nash_jax.data.sources import load_rows
from nash_jax.data.summary import data_lines, summarise
from nash_jax.data.tokenizers import check_vocabulary, choose_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.by_task import check_parts
from nash_jax.evaluation.evaluator import Evaluator, check_positions, output_options, score
from nash_jax.evaluation.sizes import sparsities
from nash_jax.generation.engine import Engine
from nash_jax.model import load
from nash_jax.recipe import Recipe
from nash_jax.report.write import write_evaluation
from nash_jax.shape_recipe import ShapeRecipe
from nash_jax.sharding import device_name
from nash_jax.tree import digest
from nash_jax.workdir import Workdir

EVALUATION_STAGES = ("evaluate", "benchmark")


def make_recipe(config: Config, workdir: str | None, name: str) -> "Recipe | EvaluateRecipe | ShapeRecipe":
    """What `config.stages` asks for: stages of a training run, evaluation of a model, or timing of a shape.

    The latter two, where only their stages are asked for and the workdir is no training run's.

    Args:
      config: the settings.
      workdir: as the user named it; without it, a folder of `runs/`, of its own for each of the two.
      name: of the config file.
    """
    if set(chosen_stages(config)).issubset(EVALUATION_STAGES):
        folder = Path(workdir or f"runs/{name}-evaluate")
        if not (folder.expanduser() / STAGES[0]).exists():
            timed = times_shape(config)
            return ShapeRecipe(config, folder) if timed else EvaluateRecipe(config, folder)
    return Recipe(config, workdir or f"runs/{name}")


def times_shape(config: Config) -> bool:
    """Whether the settings ask for the timing of a shape with random weights."""
    return chosen_stages(config) == ("benchmark",) and bool(config.model.preset) and not config.model.init


class EvaluateRecipe:
    """One model, looked at in a workdir.

    Args:
      config: the settings; of them count `model.init`, `task`, `evaluate` and `benchmark`.
      workdir: folder for what is found, of this model only.

    Raises:
      UserError: when no model is named, or the workdir is another model's.
    """

    def __init__(self, config: Config, workdir: str | Path) -> None:
        if not config.model.init:
            raise UserError(
                f"config.stages={config.stages} without a model",
                "config.model.init, a hub name or a folder, or the --workdir of a trained run",
            )
        self.config = config
        self.given = load(config.model.init)
        check_positions(self.given.spec, config)
        reference = load(config.evaluate.reference).spec if config.evaluate.reference else None
        self.sparsity = sparsities(self.given.spec, reference)
        # a folder's name may stay when another model is written there
        self.workdir = Workdir(workdir, lasting_settings(config) | {"weights": digest(self.given.params)})

    def run(self) -> dict[str, Any]:
        """Runs the stages asked for that are not done; returns what report.json holds."""
        with self.workdir.held():
            for name in chosen_stages(self.config):
                self.workdir.run(name, getattr(self, name))
            return write_evaluation(self, self.workdir.results(EVALUATION_STAGES))

    @functools.cached_property
    def engine(self) -> Engine:
        """The model, ready to generate."""
        return Engine(self.given.spec, self.given.params, self.config.model.dtype)

    def evaluate(self, folder: Path) -> dict[str, Any]:
        """The task's metrics on the test rows."""
        task = self.config.task
        if self.given.tokenizer is None and not task.tokenizer:
            raise UserError(
                f"the model {self.config.model.init!r} has no tokenizer",
                "its files beside the weights, or config.task.tokenizer",
            )
        findings = Findings()
        rows = load_rows(task, ("test",), findings)
        check_parts(task.metric, rows["test"])
        tokenizer = choose_tokenizer(task, self.given.tokenizer, rows["test"])
        check_vocabulary(tokenizer, self.given.spec)
        options = output_options(self.config, self.given.generation)
        data = summarise(rows, tokenizer, task, folder, findings)
        print(*data_lines(data), sep="\n", file=sys.stderr, flush=True)
        evaluator = Evaluator(rows["test"], tokenizer, task, options, self.config.evaluate.batch_size, folder)
        return score(evaluator, {"model": self.engine}) | {"data": data}

    def benchmark(self, folder: Path) -> dict[str, Any]:
        """Whole generations and their components, timed in turn."""
        b = self.config.benchmark
        return {
            "benchmark": measure({"model": self.engine}, b),
            "device": device_name(),
            "components": [
                row
                for batch_size in b.batch_sizes
                for new_tokens in b.new_tokens
                for row in component_times(self.engine, batch_size, b.source_length, new_tokens, b.runs)
            ],
        }
