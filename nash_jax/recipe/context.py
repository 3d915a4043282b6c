"""What the stages of a run share: its settings, folder, devices, data and models, each read when first asked for."""

import dataclasses
import functools
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import load_file

from nash_jax.config.schema import TEACHER_STAGES, Config, TrainConfig
from nash_jax.convert.generation_config import load_generation_options
from nash_jax.data.checks import DataIssues
from nash_jax.data.mixing import Mixture, make_mixture
from nash_jax.data.pipeline import Batches, tokenize
from nash_jax.data.sources import Records, load_rows
from nash_jax.data.special_tokens import align_special_ids
from nash_jax.data.target_choice import TargetChoice
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import Evaluator, evaluation_options
from nash_jax.evaluation.metrics import METRICS
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.models.initialize import init_params
from nash_jax.models.placement import place_model
from nash_jax.ragged import Ragged
from nash_jax.recipe.initial_model import output_start
from nash_jax.recipe.labels import RunLabels, choose_targets
from nash_jax.recipe.vocabulary import RunVocabulary
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.sharding import splits_params, to_host
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import ModelSpec
from nash_jax.training.planned_shapes import fresh_spec
from nash_jax.training.writers import Writer

Rows = dict[str, list[dict[str, Any]]]  # split → rows
Model = tuple[ModelSpec, dict[str, Any]]


class RunContext:
    """One run of a method in a workdir.

    Args:
      config: the settings.
      workdir: folder of the run.
      mesh: its devices.
      given: the model to start from, instead of `config.model.init`.
      records: records in memory by split, instead of those that `config.task` names.

    Attributes:
      writers: where the numbers of training go.
      data_issues: what was found in the rows.
    """

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        mesh: Mesh,
        given: Seq2Seq | None = None,
        records: Records | None = None,
    ) -> None:
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.writers: list[Writer] = []
        self.data_issues = DataIssues()
        self._records = records
        self._models: dict[str, Model] = {}  # by the stage that wrote them
        self._stored: dict[str, Model] = {}
        if given is not None:
            self.given = given

    def seed(self, name: str) -> int:
        """The seed of one use of randomness, 32 bits: each use has its own, whatever else a run does."""
        return zlib.crc32(f"{self.config.seed} {name}".encode())

    # -- data ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def rows(self) -> Rows:
        """Rows of every split."""
        return load_rows(self.config.task, issues=self.data_issues, records=self._records)

    @functools.cached_property
    def given(self) -> Seq2Seq | None:
        """The checkpoint that the config names; its parameters as of `stored`."""
        name = self.config.model.init
        return load(name, lazy=splits_params(self.mesh)) if name else None

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer, as the data stage saved it."""
        return load_tokenizer(str(self.workdir.stage("data") / "tokenizer"))

    @functools.cached_property
    def _vocabulary(self) -> RunVocabulary:
        return RunVocabulary(self.workdir.stage("shorten"))

    def vocabulary(self, stage: str) -> RunVocabulary | None:
        """The smaller vocabulary, where the run has one and a stage's model comes after it."""
        whole = (*TEACHER_STAGES, "label", "halfway")  # stages before the vocabulary is chosen
        return self._vocabulary if self.config.shorten.vocabulary and stage not in whole else None

    def tokenizer_of(self, stage: str) -> Any:
        """The tokenizer of the model that a stage makes."""
        vocabulary = self.vocabulary(stage)
        return self.tokenizer if vocabulary is None else vocabulary.tokenizer

    def generation_of(self, stage: str) -> GenerationOptions:
        """How the model that a stage makes generates."""
        vocabulary = self.vocabulary(stage)
        return self.generation if vocabulary is None else vocabulary.options(self.generation)

    @functools.cached_property
    def tokenized(self) -> tuple[Ragged, Ragged]:
        """Source and target ids of the training rows: read once, for all phases."""
        return self._tokenize(self.tokenizer)

    @functools.cached_property
    def _tokenized_smaller(self) -> tuple[Ragged, Ragged]:
        return self._tokenize(self._vocabulary.tokenizer)

    def _tokenize(self, tokenizer: Any, rows: list[dict[str, Any]] | None = None) -> tuple[Ragged, Ragged]:
        rows = self.rows["train"] if rows is None else rows
        return tokenize(rows, tokenizer, self.config.task, self.workdir.stage("data"))

    def batches(self, phase: TrainConfig, name: str) -> Batches:
        """Training batches of a phase, shuffled by a seed of its own; students may learn what the teacher wrote."""
        self.check_batch_size(name)
        pad_id, mixture = self.tokenizer_of(name).pad_token_id, self.mixture(name)  # the model's too: `initial_model`
        tokenized = self.tokenized if self.vocabulary(name) is None else self._tokenized_smaller
        choice = None
        if self.config.label.is_on and name not in TEACHER_STAGES:
            tokenized, choice = self._labelled(name, *tokenized)
        return Batches(*tokenized, phase.batch_size, self.seed(name), pad_id, mixture=mixture, choice=choice)

    @functools.cached_property
    def labels(self) -> RunLabels:
        """What the teacher wrote."""
        return RunLabels(self.workdir.stage("label"))

    def _labelled(self, name: str, sources: Ragged, targets: Ragged) -> tuple[tuple[Ragged, Ragged], TargetChoice]:
        """Sources of all pairs, further inputs last; all targets, labels after the references; and the choice."""
        rows, tokenizer = self.rows["train"], self.tokenizer_of(name)
        (label_rows, labelled), further = self.labels.label_rows(len(rows)), self.labels.further_rows(len(rows))
        more_sources, more_targets = [sources], [targets]
        if label_rows:
            more_targets.append(self._tokenize(tokenizer, label_rows)[1])
        if further:
            own = self._tokenize(tokenizer, further)
            more_sources.append(own[0])
            more_targets.append(own[1])
        share, seed = self.config.label.share, self.seed(f"{name} labels")
        choice = choose_targets(rows, labelled, len(further), share, seed)
        return (Ragged.concatenate(more_sources), Ragged.concatenate(more_targets)), choice

    def check_batch_size(self, name: str) -> None:
        """Checks that there are rows for a batch of a phase.

        Raises:
          UserError: if there are fewer.
        """
        phase, mixture = getattr(self.config, name), self.mixture(name)
        num_pairs = len(self.tokenized[0]) if mixture is None else mixture.size
        if phase.epochs and num_pairs < phase.batch_size:
            raise UserError(
                f"config.{name}.batch_size is {phase.batch_size}, with {num_pairs} training rows",
                "no more than there are rows",
            )

    def mixture(self, name: str) -> Mixture | None:
        """Which pairs each epoch of a phase takes, where several tasks are learnt together."""
        return make_mixture(self.rows["train"], self.config.task, self.seed(name)) if self.config.task.mixture else None

    def validation(self, stage: str) -> Evaluator:
        """Scores the model of a stage on the validation rows while it is trained."""
        return self._validation_smaller if self.vocabulary(stage) else self._validation

    @functools.cached_property
    def _validation(self) -> Evaluator:
        return self.evaluator("validation", "finetune", num_beams=1)

    @functools.cached_property
    def _validation_smaller(self) -> Evaluator:
        return self.evaluator("validation", "retrain", num_beams=1)

    @property
    def selection(self) -> str:
        """The metric that the best checkpoint maximises."""
        return METRICS[self.config.task.metric].selection

    def evaluator(self, split: str, stage: str, rows: list[dict[str, Any]] | None = None, **options: Any) -> Evaluator:
        """Scores models of a stage's vocabulary on a split, or on `rows`; `options` change how they generate."""
        e, cache = self.config.evaluate, self.workdir.stage("data")
        tokenizer, own = self.tokenizer_of(stage), self.generation_of(stage).replace(**options)
        rows = self.rows[split] if rows is None else rows
        return Evaluator(rows, tokenizer, self.config.task, own, e.batch_size, cache, e.labels_only)

    @functools.cached_property
    def generation(self) -> GenerationOptions:
        """How the run's models generate: as the checkpoint it starts from does, but for what the config says."""
        if self.workdir.result("finetune") is not None:
            own = load_generation_options(self.workdir.stage("finetune") / "model")
        else:
            own = self.given.generation if self.given is not None else GenerationOptions()
        tokenizer, eos_ids = self.tokenizer, own.eos_token_id or ()
        if tokenizer.eos_token_id not in eos_ids or tokenizer.pad_token_id != own.pad_token_id:
            own = own.replace(pad_token_id=None, eos_token_id=None)  # those of the spec, which are the tokenizer's
        if self.workdir.result("finetune") is None:
            own = own.replace(**output_start(self._initial_spec, tokenizer))
        return evaluation_options(self.config, own)

    # -- models -------------------------------------------------------------------------------------------

    def save(self, folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> None:
        """Writes the model of a stage into its folder; where the mesh splits parameters, each process its own part."""
        own = self.own_parts(spec, params)
        Seq2Seq(spec, own, generation=self.generation_of(folder.name)).save(folder / "model")

    def own_parts(self, spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as processes write them together: where the mesh splits them, each its own part."""
        return to_host(params) if self.split_mesh is None else place_model(spec, params, self.split_mesh)

    @property
    def split_mesh(self) -> Mesh | None:
        """The devices that models are split over; None where each has them whole."""
        return self.mesh if splits_params(self.mesh) else None

    def model(self, stage: str) -> Model:
        """The model that a finished stage wrote."""
        if stage not in self._models:
            loaded = load(self.workdir.stage(stage) / "model")
            self._models[stage] = loaded.spec, dict(loaded.params)
        return self._models[stage]

    def stored(self, stage: str) -> Model:
        """As `model`; where the mesh splits parameters, they stay in their files until their devices' parts are read.

        They are to be placed on the mesh. Stages that compute on the host take `model`.
        """
        if not splits_params(self.mesh):
            return self.model(stage)
        if stage not in self._stored:
            loaded = load(self.workdir.stage(stage) / "model", lazy=True)
            self._stored[stage] = loaded.spec, dict(loaded.params)
        return self._stored[stage]

    def teacher(self, stage: str) -> Model:
        """The fine-tuned model, with the tokens that a stage's student has: its logits are over the same ids."""
        vocabulary = self.vocabulary(stage)
        return self.stored("finetune") if vocabulary is None else vocabulary.trim(*self.stored("finetune"))

    def release(self, needed: Collection[str]) -> None:
        """Forgets the models of stages not `needed`, and the checkpoint once the fine-tuned model is there."""
        self._models = {stage: model for stage, model in self._models.items() if stage in needed}
        self._stored = {stage: model for stage, model in self._stored.items() if stage in needed}
        if self.workdir.result("finetune") is not None and "given" in self.__dict__:
            del self.given

    @functools.cached_property
    def _initial_spec(self) -> ModelSpec:
        """The shape of the checkpoint that the config names, or of a fresh model.

        It begins outputs as in training, and has the padding and EOS ids of the tokenizer.
        """
        if self.given is not None:
            spec = self.given.spec
        else:
            own = self.tokenizer
            spec = fresh_spec(self.config, len(own), own.pad_token_id, own.eos_token_id)
        spec = align_special_ids(spec, self.tokenizer)
        start_id = output_start(spec, self.tokenizer).get("decoder_start_token_id", spec.decoder_start_id)
        return dataclasses.replace(spec, decoder_start_id=start_id)

    def initial_model(self) -> Model:
        """The checkpoint that the config names, or a fresh model."""
        spec = self._initial_spec
        return spec, init_params(spec, self.seed("init")) if self.given is None else dict(self.given.params)

    def masks(self) -> dict[str, np.ndarray]:
        """Final masks by axis name; none when gates were skipped."""
        path = self.workdir.stage("prune") / "masks.safetensors"
        return dict(load_file(path)) if path.exists() else {}

    @functools.cached_property
    def engines(self) -> dict[str, Engine]:
        """The dense and the pruned model, ready to generate on the mesh."""
        return self._make_engines(self.mesh)

    @property
    def timed_engines(self) -> dict[str, Engine]:
        """The same two on the first device, where times do not depend on how a mesh divides a small batch."""
        return self.engines if self.mesh.size == 1 else self._make_engines(None)

    def _make_engines(self, mesh: Mesh | None) -> dict[str, Engine]:
        dtype = self.config.model.dtype
        take = self.model if mesh is None else self.stored
        models = {"dense": take("finetune"), "pruned": take("retrain")}
        return {name: Engine(*model, dtype, mesh=mesh) for name, model in models.items()}
