"""XSum (news → one sentence) with NASH's published recipe, by default for T5-base.

Command:   python -m nash_jax.main --config=configs/xsum.py
           configs/xsum.py:model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model, 80 GiB for a large one; the hub (or its cache).
Time:      not yet run here; 3 + 3 + 3 epochs over 204,045 articles.
Expected:  not yet run here. Published for dense BART-large: ROUGE-1/2/L 45.14 / 22.27 / 37.25 (BART's paper, with
           beams). NASH's paper aims at 95 % of the dense model's quality at 2.5 to 4.2 times its speed (T5-base, 3 or 4
           of 12 decoder layers).
"""

from nash_jax.recipe.presets import task_config


def get_config(arguments=""):
    config = task_config("xsum", arguments)
    config.benchmark.new_tokens = (26, 20)  # as long as summaries are; as the study of shapes timed them
    return config
