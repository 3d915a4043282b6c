"""Evaluation mode: the stages `evaluate` and `benchmark` alone, of one model that is not of this run.

It says how good the model is (the task's metrics on the test rows), where its parameters are and where its time
goes, by component, and how sparse it is.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from nash_jax.benchmark.components import component_times
from nash_jax.benchmark.latency import measure_latency
from nash_jax.config.derived import chosen_stages, lasting_settings
from nash_jax.config.schema import Config
from nash_jax.data.checks import DataIssues
from nash_jax.data.languages import has_languages, target_options
from nash_jax.data.sources import load_rows
from nash_jax.data.special_tokens import check_token_ids
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tokenizers import choose_tokenizer
from nash_jax.engines import OTHER_ENGINES
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import Evaluator, check_positions, evaluation_options, score_models
from nash_jax.evaluation.row_subsets import check_subsets
from nash_jax.evaluation.sizes import component_sizes, sparsities
from nash_jax.generation.engine import BatchGenerator, Engine
from nash_jax.recipe.workdir import Workdir
from nash_jax.report.result import RunResult, write
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import device_name, splits_params
from nash_jax.runtime.stored import read_stored
from nash_jax.seq2seq import load
from nash_jax.tree import params_digest


class EvaluationRun:
    """One model, evaluated and timed in a workdir.

    Args:
      config: the settings; of them count `model.init`, `task`, `evaluate` and `benchmark`.
      workdir: folder for the results, of this model only.

    Raises:
      UserError: when no model is named, the workdir is another model's, or the mesh does not fit the devices.
    """

    def __init__(self, config: Config, workdir: str | Path) -> None:
        if not config.model.init:
            raise UserError(
                f"config.stages={config.stages} without a model",
                "config.model.init, a hub name or a folder, or the --workdir of a trained run",
            )
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.given = load(config.model.init, lazy=splits_params(self.mesh))
        check_positions(self.given.spec, config)
        reference = load(config.evaluate.reference).spec if config.evaluate.reference else None
        self.sparsity = sparsities(self.given.spec, reference)
        # a folder's name may stay when another model is written there
        self.workdir = Workdir(workdir, lasting_settings(config) | {"weights": params_digest(self.given.params)})

    def run(self) -> dict[str, Any]:
        """Runs the stages asked for that are not done; returns what report.json holds."""
        with self.workdir.locked():
            for name in chosen_stages(self.config):
                self.workdir.run(name, functools.partial(EVALUATION_STAGES[name], self))
            stages, sizes = self.workdir.results(EVALUATION_STAGES), {"model": component_sizes(self.given.params)}
            name = self.config.model.init
            result = RunResult("evaluation", self.config, stages, sizes, model=name, sparsity=self.sparsity)
            return write(result, self.workdir.folder)

    @functools.cached_property
    def engine(self) -> Engine:
        """The model, ready to generate."""
        return Engine(self.given.spec, self.given.params, self.config.model.dtype)

    @functools.cached_property
    def _split_engine(self) -> Engine:
        """The same on the mesh."""
        if self.mesh.size == 1:
            return self.engine
        return Engine(self.given.spec, self.given.params, self.config.model.dtype, mesh=self.mesh)

    @property
    def engines(self) -> dict[str, BatchGenerator]:
        """Who generates: `model`, and if that is another engine or int8 also our own at `config.model.dtype`, `jax`."""
        name, _, dtype = self.config.evaluate.engine.partition("_")
        if name == "jax" and not dtype:
            return {"model": self._split_engine}
        other = {"jax": Engine, **OTHER_ENGINES}[name]
        return {
            "jax": self._split_engine,
            "model": other(self.given.spec, read_stored(self.given.params), dtype or "float32"),
        }


def evaluate(run: EvaluationRun, folder: Path) -> dict[str, Any]:
    """The task's metrics on the test rows."""
    task = run.config.task
    if run.given.tokenizer is None and not task.tokenizer:
        raise UserError(
            f"the model {run.config.model.init!r} has no tokenizer",
            "its files beside the weights, or config.task.tokenizer",
        )
    issues = DataIssues()
    rows = load_rows(task, ("test",), issues)
    notes = check_subsets(task.metric, rows["test"], task)
    tokenizer = choose_tokenizer(task, run.given.tokenizer, rows["test"], run.given.spec)
    options = evaluation_options(run.config, run.given.generation)
    if has_languages(tokenizer):
        options = options.replace(**target_options(tokenizer, run.given.spec.wraps_labels))
    data = summarize_data(rows, tokenizer, task, folder, issues)
    print(*format_summary(data), *notes, sep="\n", file=sys.stderr, flush=True)
    e = run.config.evaluate
    evaluator = Evaluator(rows["test"], tokenizer, task, options, e.batch_size, folder, e.labels_only)
    check_token_ids(tokenizer, run.given.spec, source=evaluator.sources.ids)
    return score_models(evaluator, run.engines, paired=("jax", "model")) | {"data": data}


def benchmark(run: EvaluationRun, folder: Path) -> dict[str, Any]:
    """Whole generations and their components, timed in turn."""
    b = run.config.benchmark
    return {
        "benchmark": measure_latency({"model": run.engine}, b),
        "device": device_name(),
        "components": [
            row
            for batch_size in b.batch_sizes
            for new_tokens in b.new_tokens
            for row in component_times(run.engine, batch_size, b.source_length, new_tokens, b.runs)
        ],
    }


EVALUATION_STAGES = {"evaluate": evaluate, "benchmark": benchmark}
