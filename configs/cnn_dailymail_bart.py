"""BART-large on CNN/DailyMail 3.0.0 (news summarization) with NASH's published recipe.

Command:   python -m nash_jax.main --config=configs/cnn_dailymail_bart.py
Hardware:  one GPU or TPU host with 80 GiB; needs the hub (or its cache) for model and data.
Time:      not yet run here; the recipe is 3 + 3 + 3 epochs over 287,113 articles.
Expected:  not yet run here. Outputs by beam search (4 beams, length penalty 0.6), 3 of 12 decoder layers.
"""

from nash_jax.config import default_config


def get_config():
    config = default_config()
    config.model.init = "facebook/bart-large"
    config.model.update(dtype="bfloat16", remat=True)
    config.task.update(name="cnn_dailymail", source="hub", prefix="", metric="rouge")
    config.task.update(max_source_length=512, max_target_length=150, max_new_tokens=150)
    config.finetune.update(epochs=3.0, batch_size=16, learning_rate=1e-5)
    config.shorten.decoder_layers = 3
    config.prune.update(epochs=3.0, batch_size=16, learning_rate=3e-5, sparsity=0.3)
    config.prune.update(prepruning_epochs=0.0, sparsity_warmup_epochs=1.0)
    config.retrain.update(epochs=3.0, batch_size=8, learning_rate=3e-4)
    config.evaluate.update(num_beams=4, length_penalty=0.6)
    config.benchmark.update(source_length=512, new_tokens=(71,))
    return config
