"""GLUE, a task at a time, with NASH's published recipes, by default MRPC and T5-base.

Command:   python -m nash_jax.main --config=configs/glue.py:task=mrpc
           configs/glue.py:task=mrpc,model=bart-base,method=nash_auto,layers=4,sparsity=0.3 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model; the hub (or its cache) for model and data.
Time:      not yet run here; epochs of finetune + prune + retrain: 20 + 100 + 20 for CoLA (8,551 rows), MRPC (3,668),
           STS-B (5,749) and RTE (2,490); 20 + 20 + 20 for SST-2 (67,349), QQP (363,846), MNLI (392,702), QNLI
           (104,743).
Expected:  not yet run here. Published for dense T5-base on the hidden test sets (T5's paper): CoLA 51.1, SST-2 95.2,
           MRPC 87.5 / F1 90.7, STS-B 89.4 / 88.6, QQP 89.4 / F1 72.6, MNLI 87.1, QNLI 93.7, RTE 80.1. NASH's paper aims
           at 95 % of the dense model's.
"""

from nash_jax.recipe.presets import task_config

TASKS = ("mrpc", "cola", "rte", "stsb", "sst2", "qnli", "qqp", "mnli")


def get_config(arguments=""):
    return task_config(TASKS, arguments)
