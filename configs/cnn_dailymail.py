"""CNN/DailyMail 3.0.0 (news → highlights) with NASH's published recipe, by default for T5-base.

Command:   python -m nash_jax.main --config=configs/cnn_dailymail.py
           configs/cnn_dailymail.py:model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model, 80 GiB for a large one; the hub (or its cache).
Time:      not yet run here; 3 + 3 + 3 epochs over 287,113 articles.
Expected:  not yet run here; 4 beams, length penalty 0.6. Published for dense models (ROUGE-1/2/L): T5-base 42.05 /
           20.34 / 39.40 (T5's paper), BART-large 44.16 / 21.28 / 40.90 (BART's paper). NASH's paper aims at 95 % of the
           dense model's quality at 2.5 to 4.2 times its speed (T5-base, 3 or 4 of 12 decoder layers).
"""

from nash_jax.recipe.presets import task_config


def get_config(arguments=""):
    config = task_config("cnn_dailymail", arguments)
    config.evaluate.update(num_beams=4, length_penalty=0.6)
    config.benchmark.new_tokens = (71, 20)  # as long as summaries are; as the study of shapes timed them
    return config
