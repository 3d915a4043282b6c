"""The stage `data`: rows, tokenizer, and early refusal of settings that a later stage cannot use."""

import sys
from pathlib import Path
from typing import Any

from nash_jax.config.schema import PHASES, chosen_stages
from nash_jax.data.decoding import keep_ids, split_names
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tokenizers import choose_tokenizer, save_tokenizer
from nash_jax.evaluation.evaluator import check_positions
from nash_jax.evaluation.row_subsets import check_subsets
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.initial_model import fresh_spec
from nash_jax.recipe.layer_importance import find_candidates
from nash_jax.runtime.files import clear_folder
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.spec import ModelSpec


def prepare_data(context: RunContext, folder: Path) -> dict[str, Any]:
    """Reads and checks the rows, fixes the tokenizer, tokenises them."""
    rows, task = context.rows, context.config.task  # rows before models: the likelier mistake is reported sooner
    for split in ("validation", "test"):
        check_subsets(task.metric, rows[split])
    given = context.given
    tokenizer = choose_tokenizer(task, given.tokenizer if given else None, rows["train"])
    keep_ids(tokenizer, split_names(task.keep_tokens))
    own, summary = clear_folder(folder / "tokenizer"), dict[str, Any]()
    if is_host0():
        save_tokenizer(tokenizer, own)
        summary = summarize_data(rows, tokenizer, task, folder, context.data_issues)
        print(*format_summary(summary), sep="\n", file=sys.stderr, flush=True)
    barrier("tokenized")  # the other processes read what host 0 wrote
    check_sizes(context, fresh_spec(context.config, tokenizer) if given is None else given.spec)
    return summary


def check_sizes(context: RunContext, spec: ModelSpec) -> None:
    """Refuses, before anything is trained, settings that would fail in a later one of the stages that are run.

    Raises:
      UserError: naming the setting.
    """
    chosen = chosen_stages(context.config)
    for name in PHASES:
        if name in chosen:
            context.check_batch_size(name)
    check_positions(spec, context.config)
    if "shorten" in chosen:
        find_candidates(context.config, spec)
