"""Your own data: files of the kinds in docs/own_data.md, with two named columns; any T5 or BART, or a fresh one.

Command:   python -m nash_jax.main --config=configs/local.py \
               --config.task.train_file=train.jsonl --config.task.validation_file=validation.jsonl \
               --config.task.test_file=test.jsonl --config.task.source_column=document \
               --config.task.target_column=summary --config.model.init=FOLDER_OR_HUB_NAME
Hardware:  whatever the model needs. A fresh small model (leave model.init empty and name a tokenizer in
           --config.task.tokenizer) trains on two CPU cores.
Time:      by the data; the progress lines say how much is left after the first steps.
Expected:  the recipe is a start for a fresh model. configs/local.py:model=t5-base (or another of docs/tasks.md) takes
           that model and NASH's published recipe for generation instead; with recipe=small_glue too, that of another
           class of task. A fine-tuned model of that kind: --config.model.init=FOLDER --config.finetune.epochs=0.
"""

from nash_jax.config.schema import default_config
from nash_jax.recipe.presets import MODELS, TRAINING_PRESETS, parse_arguments, set_arguments, set_training_preset


def get_config(arguments=""):
    found = parse_arguments(arguments, {"model": MODELS, "recipe": TRAINING_PRESETS})
    config = default_config()
    config.task.update(name="local", source="files", prefix="", metric="rouge")
    config.task.update(max_source_length=256, max_target_length=64, max_new_tokens=64)
    config.model.update(d_model=256, d_ff=512, decoder_d_ff=512, num_heads=4, encoder_layers=3, decoder_layers=6)
    config.finetune.update(epochs=3.0, batch_size=32, optimizer="muon", learning_rate=2e-3, warmup_ratio=0.02)
    config.shorten.decoder_layers = 2
    config.prune.update(epochs=2.0, batch_size=32, optimizer="muon", learning_rate=1e-3, freeze_embeddings=False)
    config.prune.update(prepruning_epochs=0.2, sparsity_warmup_epochs=0.8, eval_every=0.25, gate_learning_rate=0.1)
    config.retrain.update(epochs=1.0, batch_size=32, optimizer="muon", learning_rate=1e-3)
    if "model" in found or "recipe" in found:
        set_training_preset(config, found.get("recipe", "generation"), found.get("model", "t5-base"))
    set_arguments(config, found)
    return config
