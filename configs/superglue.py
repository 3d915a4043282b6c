"""SuperGLUE, a task at a time, with NASH's published recipes, by default CB and T5-base.

Command:   python -m nash_jax.main --config=configs/superglue.py:task=boolq
           configs/superglue.py:task=boolq,model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model; the hub (or its cache) for model and data.
Time:      not yet run here; epochs of finetune + prune + retrain: 20 + 200 + 20 for CB (250 rows), COPA (400), WSC
           (554); 20 + 20 + 20 for BoolQ (9,427), WiC (5,428), MultiRC (27,243), ReCoRD (100,730).
Expected:  not yet run here. Published for dense T5-base on the hidden test sets (T5's paper): CB 94.0 / F1 86.2, COPA
           71.2, BoolQ 81.4, WiC 68.3, WSC 80.8, MultiRC 43.1 / F1 79.7, ReCoRD 74.2 / F1 75.0. NASH's paper aims at 95
           % of the dense model's.
"""

from nash_jax.recipe.presets import task_config

TASKS = ("cb", "copa", "wsc", "boolq", "wic", "multirc", "record")


def get_config(arguments=""):
    return task_config(TASKS, arguments)
