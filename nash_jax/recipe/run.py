"""A run of a method, from data to report."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nash_jax.config.derived import all_stages, chosen_stages, export_formats, lasting_settings
from nash_jax.config.schema import TEACHER_STAGES, Config, TrainConfig
from nash_jax.data.sources import Records
from nash_jax.evaluation.sizes import component_sizes
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.stages import check_needs, run_stages
from nash_jax.recipe.workdir import Workdir
from nash_jax.report.result import RunResult, write
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.multihost import is_host0
from nash_jax.runtime.sharding import check_batch
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import SIDES
from nash_jax.training.writers import JsonlWriter, logged_rows, optional_writers
from nash_jax.tree import params_digest


class PruningRun:
    """One run of a method in a workdir.

    Args:
      config: the settings.
      workdir: folder of the run.
      teacher: the run whose data and fine-tuned model this one starts from, as `teacher_settings` make it; without
        it, the run has its own.
      labels: the run whose stage `label` wrote the teacher's targets; without it, the run writes them itself.
      given: a model in memory to start from, instead of `config.model.init`.
      records: records in memory by split, instead of those that `config.task` names (`data.sources.load_rows`).

    Raises:
      UserError: for a workdir of another run, or settings that do not fit the devices or the rows.
    """

    def __init__(
        self, config: Config, workdir: str | Path, teacher: Workdir | None = None, *,
        labels: Workdir | None = None, given: Seq2Seq | None = None, records: Records | None = None,
    ) -> None:  # fmt: skip
        mesh = make_mesh(config.mesh)
        for phase in chosen_stages(config):
            parts = getattr(config, phase, None)
            if isinstance(parts, TrainConfig):
                check_batch(mesh, parts.batch_size // parts.accumulation, f"config.{phase}.batch_size")
        settings = lasting_settings(config)
        if given is not None:
            settings["given_model"] = params_digest(given.params)
        if records is not None:
            settings["given_rows"] = _digest(records)
        shared = dict.fromkeys(TEACHER_STAGES, teacher) if teacher is not None else {}
        shared |= {"label": labels} if labels is not None else {}
        self.config, self.workdir = config, Workdir(workdir, settings, shared)
        self.context = RunContext(config, self.workdir, mesh, given, records)

    def run(self, wait: bool = False) -> dict[str, Any]:
        """Runs the stages asked for that are not done.

        Args:
          wait: when another process works in the folder, until it has ended.

        Returns:
          What report.json holds; until all stages are done, its `stages` and the names of those that are `left`, and
          no report is written.
        """
        chosen, folder, context = chosen_stages(self.config), self.workdir.folder, self.context
        with self.workdir.locked(wait):
            check_needs(chosen, self.workdir, all_stages(self.config))
            context.writers = [JsonlWriter(folder / "metrics.jsonl"), *optional_writers(folder)] if is_host0() else []
            try:
                run_stages(chosen, context)
            finally:  # a study continues with another cell
                for writer in context.writers:
                    writer.close()
            stages = self.workdir.results(all_stages(self.config))
            left = [name for name in all_stages(self.config) if name not in stages]
            return {"stages": stages, "left": left} if left else self._report(stages)

    def _report(self, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Writes the report, and the model card into the exported folders; what report.json holds."""
        report = write(self.result(stages), self.workdir.folder)
        if is_host0():
            from nash_jax.report.model_card import write_cards  # here, for it loads jinja2

            write_cards(report, self.workdir.stage("export"), export_formats(self.config))
        return report

    def result(self, stages: Mapping[str, Mapping[str, Any]]) -> RunResult:
        """What the report needs of a run that is done.

        Args:
          stages: name → result of each stage.
        """
        (dense, dense_params), (pruned, pruned_params) = map(self.context.stored, ("finetune", "retrain"))
        return RunResult(
            "run",
            self.config,
            stages,
            {"dense": component_sizes(dense_params), "pruned": component_sizes(pruned_params)},
            dense=dense,
            shortened=self.context.stored("shorten")[0],
            pruned=pruned,
            kept_layers={side: stages["shorten"][f"kept_{side}_layers"] for side in SIDES},
            masks=self.context.masks(),
            history=logged_rows(self.workdir.files("metrics.jsonl"), stages),
        )


def _digest(records: Records) -> str:
    """A name for these records."""
    found = hashlib.sha256()
    for split in sorted(records):
        for record in records[split]:
            found.update(f"{split} {json.dumps(record, sort_keys=True, default=repr)}\n".encode())
    return found.hexdigest()[:16]
