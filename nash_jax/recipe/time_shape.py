"""Timing mode: the stage `benchmark` alone, of a shape with random weights, which say nothing of quality."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from nash_jax.benchmark.latency import measure_latency, speedups
from nash_jax.config.derived import lasting_settings
from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import check_positions
from nash_jax.evaluation.sizes import component_sizes
from nash_jax.generation.engine import Engine
from nash_jax.models.initialize import init_params, param_shapes
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.recipe.layer_importance import depths_of, find_candidates
from nash_jax.recipe.workdir import Workdir
from nash_jax.report.result import RunResult, write
from nash_jax.runtime.sharding import device_name
from nash_jax.spec import ModelSpec, preset


class TimingRun:
    """A preset's shape against one with fewer layers, timed in a workdir.

    Args:
      config: the settings; of them count `model.preset`, `shorten` and `benchmark`.
      workdir: folder for what is found.

    Raises:
      UserError: for an unknown preset, or more layers than it has.
    """

    def __init__(self, config: Config, workdir: str | Path) -> None:
        self.config = config
        self.spec = preset(config.model.preset)
        check_positions(self.spec, config)
        sides = find_candidates(config, depths_of(self.spec))
        if any(len(side.layers) > side.keep for side in sides.values()):
            raise UserError("config.shorten.selection=importance without a trained model", "a choice by number")
        self.kept = {side: list(own.layers) for side, own in sides.items()}
        self.workdir = Workdir(workdir, lasting_settings(config))

    def run(self) -> dict[str, Any]:
        """Times both unless that is done; returns what report.json holds."""
        with self.workdir.locked():
            self.workdir.run("benchmark", self.benchmark)
            return write(self._result(), self.workdir.folder)

    def _result(self) -> RunResult:
        """What the report needs of the timing."""
        cut: dict[str, Any] = {s: tuple(getattr(self.spec, s)[i] for i in kept) for s, kept in self.kept.items()}
        pruned = dataclasses.replace(self.spec, **cut)
        return RunResult(
            "timing",
            self.config,
            self.workdir.results(("benchmark",)),
            {name: component_sizes(param_shapes(spec)) for name, spec in (("dense", self.spec), ("pruned", pruned))},
            dense=self.spec,
            pruned=pruned,
            kept_layers=self.kept,
            model=self.config.model.preset,
        )

    def benchmark(self, folder: Path) -> dict[str, Any]:
        """Dense against shortened, timed in turn."""
        dtype = self.config.model.dtype
        params, dense = _dense(self.spec, dtype)
        pruned = Engine(*select_layers(self.spec, params, **self.kept), dtype)
        rows = measure_latency({"dense": dense, "pruned": pruned}, self.config.benchmark)
        return {"benchmark": rows, "speedup": speedups(rows), "device": device_name()}


@functools.lru_cache(maxsize=1)
def _dense(spec: ModelSpec, dtype: str) -> tuple[dict[str, Any], Engine]:
    """Random weights of a shape, and its compiled programs: made once for all the shapes cut from it."""
    params = init_params(spec, 0)
    return params, Engine(spec, params, dtype)
