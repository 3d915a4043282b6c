"""T5-base on SAMSum (dialogue summarization) with NASH's published recipe.

Command:   python -m nash_jax.main --config=configs/samsum.py
Hardware:  one GPU or TPU host with 24 GiB or more; needs the hub (or its cache) for model and data.
Time:      not yet run here; the recipe is 20 + 20 + 20 epochs over 14,732 dialogues.
Expected:  not yet run here. The paper aims at 95 % of the dense model's ROUGE at 2.5 to 4.2 times its speed
           with 3 or 4 of 12 decoder layers and 30 % of the encoder gone.
"""

from nash_jax.config import default_config


def get_config():
    config = default_config()  # the defaults are this recipe: see nash_jax/config.py
    config.model.init = "google-t5/t5-base"
    config.model.dtype = "bfloat16"
    config.task.update(name="samsum", source="hub", prefix="summarize: ", metric="rouge")
    config.task.update(max_source_length=256, max_target_length=128, max_new_tokens=150)
    config.finetune.update(epochs=20.0, batch_size=16, learning_rate=3e-4)
    config.shorten.decoder_layers = 3
    config.prune.update(epochs=20.0, batch_size=16, learning_rate=3e-5, sparsity=0.3)
    config.prune.update(prepruning_epochs=4.0, sparsity_warmup_epochs=10.0)
    config.retrain.update(epochs=20.0, batch_size=8, learning_rate=3e-4)
    return config
