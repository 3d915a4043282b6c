"""A fine-tuning step of PyTorch, which ours is timed against."""

import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from nash_jax.config.schema import TrainConfig
from nash_jax.engines.options import num_threads
from nash_jax.runtime.quiet import quiet_transformers
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import ModelSpec
from nash_jax.testing import random_params

Step = Callable[[], object]  # trains once, and returns what is waited for


def make_torch_step(spec: ModelSpec, batch: Mapping[str, np.ndarray]) -> Step:
    """Returns a fine-tuning step of transformers' class, with the same random weights and AdamW.

    Args:
      spec: of a model that transformers has.
      batch: "input_ids" and "labels", padded with the model's padding.
    """
    import torch
    import transformers

    torch.set_num_threads(num_threads())
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        Seq2Seq(spec, random_params(spec, scale=0.05)).save_hf(folder)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).train()
    config, ids = TrainConfig(), torch.tensor(batch["input_ids"]).long()
    labels = torch.tensor(np.where(batch["labels"] == spec.pad_id, -100, batch["labels"])).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def run() -> object:
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != spec.pad_id).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        return optimizer.step()

    return run
