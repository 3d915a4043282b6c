"""OrangeSum (French news → abstract) with NASH's recipe for generation, by default for T5-base.

Command:   python -m nash_jax.main --config=configs/orange_sum.py
           configs/orange_sum.py:model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model; the hub (or its cache) for model and data.
Time:      not yet run here; 20 + 20 + 20 epochs over 21,401 articles.
Expected:  not yet run here, and T5 and BART know little French: --config.model.init takes a model that does.
"""

from nash_jax.recipe.presets import task_config


def get_config(arguments=""):
    return task_config("orange_sum", arguments)
