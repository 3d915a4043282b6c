"""Translation of WMT's pairs, both ways, scored by sacreBLEU; by default Romanian → English and T5-base.

Command:   python -m nash_jax.main --config=configs/translation.py:task=wmt16_ro_en
           configs/translation.py:task=wmt16_ro_en,model=bart-base,method=nash_auto,layers=4 …: docs/tasks.md
Hardware:  one GPU or TPU host with 24 GiB for a base model; the hub (or its cache) for model and data.
Time:      not yet run here; 1 + 1 + 1 epochs (610,320 pairs of Romanian; German 4.5 million, French 41 million, all in
           memory).
Expected:  not yet run here, and the references do not translate: the recipe is ours. T5-base was trained on English →
           German, French, Romanian: BLEU 30.9, 41.2, 28.0 (T5's paper; the first two of WMT14).
"""

from nash_jax.data.tasks import TASKS
from nash_jax.recipe.presets import task_config

PAIRS = ("wmt16_ro_en", *(name for name, task in TASKS.items() if task.metric == "translation"))


def get_config(arguments=""):
    return task_config(dict.fromkeys(PAIRS), arguments)
