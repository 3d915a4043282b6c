"""BART-base on SAMSum (dialogue summarization) with NASH's published recipe.

Command:   python -m nash_jax.main --config=configs/samsum_bart.py
Hardware:  one GPU or TPU host with 24 GiB or more; needs the hub (or its cache) for model and data.
Time:      not yet run here; the recipe is 20 + 20 + 20 epochs over 14,732 dialogues.
Expected:  not yet run here. The paper aims at 95 % of the dense model's ROUGE; BART-base has 6 decoder layers,
           of which 3 are kept.
"""

from nash_jax.config import default_config


def get_config():
    config = default_config()
    config.model.init = "facebook/bart-base"
    config.model.dtype = "bfloat16"
    config.task.update(name="samsum", source="hub", prefix="", metric="rouge")
    config.task.update(max_source_length=256, max_target_length=128, max_new_tokens=150)
    config.finetune.update(epochs=20.0, batch_size=16, learning_rate=1e-5)
    config.shorten.decoder_layers = 3
    config.prune.update(epochs=20.0, batch_size=16, learning_rate=3e-5, sparsity=0.3)
    config.prune.update(prepruning_epochs=4.0, sparsity_warmup_epochs=10.0)
    config.retrain.update(epochs=20.0, batch_size=8, learning_rate=3e-4)
    return config
