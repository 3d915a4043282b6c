"""The stages of a run, in order, each resumable and each skipped when done.

data → finetune → shorten → prune → compact → retrain → evaluate → benchmark → export → report
"""

import functools
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from nash_jax.benchmark.latency import measure, speedups
from nash_jax.config import STAGES, TEACHER_STAGES, Config, PruneConfig, TrainConfig, chosen_stages, lasting_settings
from nash_jax.convert.generation import read_generation
from nash_jax.data.checks import Findings
from nash_jax.data.mixing import Mixture, mix
from nash_jax.data.pipeline import Batches, tokenize
from nash_jax.data.sources import load_rows
from nash_jax.data.summary import data_lines, summarise
from nash_jax.data.tokenizers import check_vocabulary, choose_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.by_task import check_parts
from nash_jax.evaluation.evaluator import Evaluator, check_positions, output_options, score
from nash_jax.evaluation.metrics import METRICS
from nash_jax.fresh_model import fresh_params, fresh_spec
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.layer_importance import ShortenedLoss, find_candidates, measure_layers, tokenize_first
from nash_jax.model import Seq2Seq, load
from nash_jax.models import frozen_params, mask_sites, param_axes
from nash_jax.prune_phase import PrunePhase
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS
from nash_jax.ragged import Ragged
from nash_jax.report.write import write_report
from nash_jax.sharding import check_batch, device_name, make_mesh, param_shardings, place_params, to_host
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.loop import Phase, train
from nash_jax.training.metrics import JsonlWriter, Writer, optional_writers
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state, place_state
from nash_jax.training.steps import Pruner, StudentLoss, build_student, make_step
from nash_jax.workdir import Workdir, barrier, clear, is_main

_INPUTS = dict(zip(STAGES[1:6], STAGES, strict=False))  # stage → the one that it goes on from: the one before,
_INPUTS |= dict.fromkeys(STAGES[6:], "retrain")  # but what looks at the pruned model needs no more than that


class Recipe:
    """One run of a method in a workdir.

    Args:
      config: the settings.
      workdir: folder of the run.
      teacher: the run whose data and fine-tuned model this one goes on from, as `teacher_settings` make it; without
        it, the run has its own.
    """

    def __init__(self, config: Config, workdir: str | Path, teacher: Workdir | None = None) -> None:
        self.config = config
        self.mesh = make_mesh(config.model.model_parallel)
        for phase in chosen_stages(config):
            parts = getattr(config, phase, None)
            if isinstance(parts, TrainConfig):
                check_batch(self.mesh, parts.batch_size // parts.accumulation, f"config.{phase}.batch_size")
        shared = dict.fromkeys(TEACHER_STAGES, teacher) if teacher is not None else {}
        self.workdir = Workdir(workdir, lasting_settings(config), shared)
        self.writers: list[Writer] = []
        self._findings = Findings()
        self._models: dict[str, tuple[ModelSpec, dict[str, Any]]] = {}  # by the stage that wrote them

    def run(self, wait: bool = False) -> dict[str, Any]:
        """Runs the stages asked for that are not done.

        Args:
          wait: until another process that works in the folder lets go.

        Returns:
          What report.json holds; until all stages are done, its `stages` alone, and no report is written.
        """
        with self.workdir.held(wait):
            folder = self.workdir.folder
            chosen = chosen_stages(self.config)
            self._check_inputs(chosen)
            self.writers = [JsonlWriter(folder / "metrics.jsonl"), *optional_writers(folder)] if is_main() else []
            try:
                for name in chosen:
                    self.workdir.run(name, getattr(self, name))
            finally:  # a study goes on with another cell
                for writer in self.writers:
                    writer.close()
            stages = self.workdir.results(STAGES)
            return write_report(self, stages) if len(stages) == len(STAGES) else {"stages": stages}

    def _check_inputs(self, chosen: Sequence[str]) -> None:
        """What the stages go on from is done, or is done now."""
        for name in chosen:
            needed = _INPUTS.get(name, name)
            if needed not in chosen and self.workdir.result(needed) is None:
                raise UserError(
                    f"stage {name} goes on from {needed}, which is not done in {self.workdir.folder}",
                    f"config.stages with {needed} in it, or the --workdir of a run that is so far",
                )

    # -- data ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of every split."""
        return load_rows(self.config.task, findings=self._findings)

    @functools.cached_property
    def given(self) -> Seq2Seq | None:
        """The checkpoint the config names."""
        return load(self.config.model.init) if self.config.model.init else None

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer, as the data stage saved it."""
        return load_tokenizer(str(self.workdir.stage("data") / "tokenizer"))

    def data(self, folder: Path) -> dict[str, Any]:
        """Reads and checks the rows, fixes the tokenizer, tokenises them."""
        rows, task = self.rows, self.config.task  # rows before models: the likelier mistake, sooner said
        for split in ("validation", "test"):
            check_parts(task.metric, rows[split])
        tokenizer = choose_tokenizer(task, self.given.tokenizer if self.given else None, rows["train"])
        own, found = clear(folder / "tokenizer"), dict[str, Any]()
        if is_main():
            save_tokenizer(tokenizer, own)
            found = summarise(rows, tokenizer, task, folder, self._findings)
            print(*data_lines(found), sep="\n", file=sys.stderr, flush=True)
        barrier("tokenized")  # the other processes read what the main one wrote
        self._check_sizes(fresh_spec(self.config, tokenizer) if self.given is None else self.given.spec)
        return found

    def _check_sizes(self, spec: ModelSpec) -> None:
        """What would fail in a later stage of pruning `spec`, said before anything is trained."""
        mixture = self.mixture("")
        num_pairs = len(self.tokenized[0]) if mixture is None else mixture.size
        for name in ("finetune", "prune", "retrain"):
            phase: TrainConfig = getattr(self.config, name)
            if phase.epochs and num_pairs < phase.batch_size:
                raise UserError(
                    f"config.{name}.batch_size is {phase.batch_size}, with {num_pairs} training rows",
                    "no more than there are rows",
                )
        check_positions(spec, self.config)
        find_candidates(self.config, spec)

    @functools.cached_property
    def tokenized(self) -> tuple[Ragged, Ragged]:
        """Source and target ids of the training rows: read once, for all phases."""
        return tokenize(self.rows["train"], self.tokenizer, self.config.task, self.workdir.stage("data"))

    def batches(self, phase: TrainConfig, name: str) -> Batches:
        """Training batches of a phase, shuffled by a seed of its own."""
        seed = self._seed(name)
        pad_id, mixture = self.tokenizer.pad_token_id, self.mixture(name)
        return Batches(*self.tokenized, phase.batch_size, seed, pad_id, mixture=mixture)

    def mixture(self, name: str) -> Mixture | None:
        """Which pairs each epoch of a phase takes, where several tasks are learnt together."""
        return mix(self.rows["train"], self.config.task, self._seed(name)) if self.config.task.mixture else None

    def _seed(self, name: str) -> int:
        return zlib.crc32(f"{self.config.seed} {name}".encode())

    @functools.cached_property
    def validation(self) -> Evaluator:
        """Scores models on the validation rows while they are trained."""
        return self._evaluator("validation", self.generation.replace(num_beams=1))

    def _evaluator(self, split: str, options: GenerationOptions) -> Evaluator:
        batch_size, cache = self.config.evaluate.batch_size, self.workdir.stage("data")
        return Evaluator(self.rows[split], self.tokenizer, self.config.task, options, batch_size, cache)

    @functools.cached_property
    def generation(self) -> GenerationOptions:
        """How the run's models generate: as the checkpoint it starts from does, but for what the config says."""
        if self.workdir.result("finetune") is not None:
            own = read_generation(self.workdir.stage("finetune") / "model")
        else:
            own = self.given.generation if self.given is not None else GenerationOptions()
        return output_options(self.config, own)

    # -- models -------------------------------------------------------------------------------------------

    def save(self, folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> None:
        """Writes a stage's model."""
        Seq2Seq(spec, params, generation=self.generation).save(folder / "model")

    def model(self, stage: str) -> tuple[ModelSpec, dict[str, Any]]:
        """The model a finished stage wrote."""
        if stage not in self._models:
            loaded = load(self.workdir.stage(stage) / "model")
            self._models[stage] = loaded.spec, dict(loaded.params)
        return self._models[stage]

    def initial_model(self) -> tuple[ModelSpec, dict[str, Any]]:
        """The checkpoint the config names, or a fresh model."""
        if self.given is not None:
            check_vocabulary(self.tokenizer, self.given.spec)
            return self.given.spec, dict(self.given.params)
        spec = fresh_spec(self.config, self.tokenizer)
        check_vocabulary(self.tokenizer, spec)
        return spec, fresh_params(spec, self._seed("init"))

    # -- training -----------------------------------------------------------------------------------------

    def finetune(self, folder: Path) -> dict[str, Any]:
        """The teacher: the dense model on the task."""
        spec, params = self.initial_model()
        if self.config.finetune.epochs == 0:
            self.save(folder, spec, params)
            return {"steps": 0}
        return self._fit("finetune", folder, self.config.finetune, spec, params)

    def retrain(self, folder: Path) -> dict[str, Any]:
        """The compact model again, with a fresh optimizer."""
        spec, params = self.model("compact")
        if self.config.retrain.epochs == 0:
            self.save(folder, spec, params)
            return {"steps": 0}
        return self._fit("retrain", folder, self.config.retrain, spec, params)

    def _fit(self, name: str, folder: Path, config: TrainConfig, spec: ModelSpec, params: Any) -> dict[str, Any]:
        """Plain fine-tuning, distilled where weighted; saves the best model."""
        batches = self.batches(config, name)
        num_steps = max(1, round(config.epochs * batches.steps_per_epoch))
        engine = Engine(spec, params, self.config.model.dtype)

        def evaluate(state: Any) -> dict[str, float]:
            engine.update(to_host(state["params"]["model"]))
            return self._selected(self.validation.evaluate(engine))

        student = build_student(spec, self.config.model)
        result, best = self._train(name, folder, config, {"model": params}, batches, num_steps, evaluate, None, student)
        self.save(folder, spec, to_host(best["params"]["model"]))
        return result

    def _selected(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics with what the best checkpoint maximises."""
        return metrics | {"selection": metrics[METRICS[self.config.task.metric].selection]}

    def _train(
        self, name: str, folder: Path, config: TrainConfig, params: dict[str, Any], batches: Batches, num_steps: int,
        evaluate: Any, pruner: Pruner | None, student: Any,
    ) -> tuple[dict[str, Any], Any]:  # fmt: skip
        """Builds the phase and runs the loop; (what it reports, the best state)."""
        spec = student.spec
        joint = config if isinstance(config, PruneConfig) else None
        tx = make_optimizer(
            config, num_steps,
            gate_learning_rate=joint.gate_learning_rate if joint else 0.0,
            pruning_starts=pruner.start_step if pruner else 0,
            frozen=frozen_params(spec, embeddings=bool(joint and joint.freeze_embeddings)),
        )  # fmt: skip
        if config.distill.hidden and name != "finetune":
            params = params | {"projection": self._projection(name, spec)}
        shardings = param_shardings(self.mesh, param_axes(spec), spec.axis_sizes())
        state = place_state(make_state(params, tx, self._seed(f"{name} rng")), self.mesh, shardings)
        teacher, teacher_params = None, {}
        if name != "finetune" and (config.distill.logits or config.distill.hidden):
            teacher_spec, dense = self.model("finetune")
            teacher = build_student(teacher_spec, self.config.model)
            own = param_shardings(self.mesh, param_axes(teacher_spec), teacher_spec.axis_sizes())
            teacher_params = place_params(self.mesh, dense, own)
        step = make_step(StudentLoss(student, config.distill, teacher, pruner), tx, config.accumulation)
        eval_steps = max(1, round(config.eval_every * batches.steps_per_epoch))
        phase = Phase(
            name, state, step, teacher_params, batches, num_steps, eval_steps, evaluate, folder / "checkpoints",
            self.writers,
        )  # fmt: skip
        best, result = train(phase, self.mesh)
        return result, best

    def _projection(self, name: str, spec: ModelSpec) -> jax.Array:
        """Hidden states of the student → the teacher's [D, D of the teacher], at first as they are."""
        masks = self.masks() if name == "retrain" else {}
        kept = np.flatnonzero(masks["embed"]) if "embed" in masks else np.arange(spec.d_model)
        return jnp.eye(self.model("finetune")[0].d_model)[kept]

    # -- making it small ----------------------------------------------------------------------------------

    def shorten(self, folder: Path) -> dict[str, Any]:
        """Keeps some layers of the teacher, where the method drops layers."""
        spec, params = self.model("finetune")
        self._check_sizes(spec)  # again, for a shared teacher was made under other settings
        sides, measured = find_candidates(self.config, spec), dict[str, Any]()
        kept = {side: list(own.layers) for side, own in sides.items()}
        if any(len(own.layers) > own.keep for own in sides.values()):
            pairs = tokenize_first(self.rows["validation"], self.tokenizer, self.config.task, folder)
            kept, measured["importance"] = measure_layers(sides, ShortenedLoss(spec, params, pairs, self.config.model))
        self.save(folder, *select_layers(spec, params, **kept))
        depths = {f"dense_{side}_layers": len(getattr(spec, side)) for side in SIDES}
        return {f"kept_{side}_layers": layers for side, layers in kept.items()} | depths | measured

    def prune(self, folder: Path) -> dict[str, Any]:
        """Trains model and gates together; saves the dense model and the final masks."""
        spec, params = self.model("shorten")
        config = self.config.prune
        if not METHODS[self.config.method].gates or config.sparsity == 0 or config.epochs == 0:
            self.save(folder, spec, params)
            return {"steps": 0, "expected_encoder_sparsity": 0.0}
        batches = self.batches(config, "prune")
        phase = PrunePhase(self.config, spec, params, batches.steps_per_epoch, self.validation, self._selected)
        trained = {"model": params} | phase.pruner.initial_params(jax.random.key(self._seed("gates")))
        student = build_student(spec, self.config.model)
        result, best = self._train(
            "prune", folder, config, trained, batches, phase.num_steps, phase.evaluate, phase.pruner, student
        )
        masks, expected = phase.result(best)
        missed = phase.missed(best, masks)  # on every process: it gathers the gates
        if missed and is_main():
            print(f"note: {missed}", file=sys.stderr, flush=True)
        self.save(folder, spec, to_host(best["params"]["model"]))
        if is_main():
            save_file(masks, folder / "masks.safetensors")
        return result | expected

    def compact(self, folder: Path) -> dict[str, Any]:
        """Folds the final masks into the weights and slices what they closed."""
        spec, params = self.model("prune")
        small = compact(spec, params, self.masks(), param_axes=param_axes, mask_sites=mask_sites)
        self.save(folder, *small)
        return {}

    def masks(self) -> dict[str, np.ndarray]:
        """Final masks by axis name; none when gates were skipped."""
        path = self.workdir.stage("prune") / "masks.safetensors"
        return dict(load_file(path)) if path.exists() else {}

    # -- what came of it ----------------------------------------------------------------------------------

    @functools.cached_property
    def engines(self) -> dict[str, Engine]:
        """The dense and the pruned model, ready to generate."""
        dtype = self.config.model.dtype
        return {"dense": Engine(*self.model("finetune"), dtype), "pruned": Engine(*self.model("retrain"), dtype)}

    def evaluate(self, folder: Path) -> dict[str, Any]:
        """Both models and the baselines on the test rows."""
        return score(self._evaluator("test", self.generation), self.engines)

    def benchmark(self, folder: Path) -> dict[str, Any]:
        """Dense against pruned, timed in turn."""
        rows = measure(self.engines, self.config.benchmark)
        return {"benchmark": rows, "speedup": speedups(rows), "device": device_name()}

    def export(self, folder: Path) -> dict[str, Any]:
        """The pruned model: Orbax export, and `hf/` for transformers."""
        pruned = Seq2Seq(*self.model("retrain"), self.tokenizer, generation=self.generation)
        pruned.save(folder)
        try:
            pruned.save_hf(folder / "hf")
        except UserError as error:  # the export holds the model all the same
            print(f"note: no {folder / 'hf'}: {error}")
        return {"folder": str(folder)}
