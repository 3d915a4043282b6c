"""Translation of your own parallel files (docs/own_data.md), learnt from nothing; a column for each language.

Command:   python -m nash_jax.main --config=configs/parallel.py[:method=…,layers=…,sparsity=…] \
               --config.task.train_file=train.jsonl --config.task.validation_file=validation.jsonl \
               --config.task.test_file=test.jsonl --config.task.source_column=en --config.task.target_column=it
Hardware:  two CPU cores and 4 GiB for some 100,000 pairs of sentences; a GPU or TPU for more.
Time:      on two quiet cores about 1.5 hours an epoch of 100,000 pairs of 25 words; the progress lines say more.
Expected:  the recipe is ours and a start: a fresh model of 6 + 6 layers whose tokenizer is made of the training rows.
           BLEU and chrF are sacrebleu's. Students learn what the dense model wrote (docs/pruning.md).
"""

from nash_jax.config.schema import default_config
from nash_jax.recipe.presets import parse_arguments, set_arguments


def get_config(arguments=""):
    config = default_config()
    config.task.update(
        name="parallel",
        source="files",
        form="text",
        source_column="source",
        target_column="target",
        prefix="",
        metric="translation",
        vocabulary_size=8000,
        max_source_length=128,
        max_target_length=128,
        max_new_tokens=128,
    )
    config.model.update(
        d_model=256,
        d_ff=1024,
        decoder_d_ff=512,
        num_heads=4,
        encoder_layers=6,
        decoder_layers=6,
        dropout_rate=0.1,
    )
    config.finetune.update(
        epochs=3.0,
        batch_size=64,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_ratio=0.02,
        beta2=0.98,
        eval_every=0.5,
    )
    config.label.share = 1.0
    config.shorten.decoder_layers = 2
    config.prune.update(
        epochs=1.0,
        batch_size=64,
        optimizer="muon",
        learning_rate=1e-3,
        beta2=0.98,
        prepruning_epochs=0.0,
        sparsity_warmup_epochs=0.4,
        gate_learning_rate=0.1,
        freeze_embeddings=False,
        eval_every=0.1,
    )
    config.retrain.update(
        epochs=1.0,
        batch_size=64,
        optimizer="muon",
        learning_rate=1e-3,
        beta2=0.98,
        eval_every=0.25,
    )
    for phase in (config.prune, config.retrain):
        phase.distill.logits = 0.8
    config.benchmark.update(source_length=32, new_tokens=(32,))
    set_arguments(config, parse_arguments(arguments, {}))
    return config
