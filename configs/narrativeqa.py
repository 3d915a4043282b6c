"""NarrativeQA (question and summary of a story → answer) with NASH's recipe, by default for T5-base.

Command:   python -m nash_jax.main --config=configs/narrativeqa.py
           configs/narrativeqa.py:model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model; the hub (or its cache) for model and data.
Time:      not yet run here; 20 + 20 + 20 epochs over 32,747 questions.
Expected:  not yet run here. NASH's paper aims at 95 % of the dense model's quality at 2.5 to 4.2 times its speed
           (T5-base, 3 or 4 of 12 decoder layers).
"""

from nash_jax.recipe.presets import task_config


def get_config(arguments=""):
    return task_config("narrativeqa", arguments)
