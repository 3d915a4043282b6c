"""The stage `data`: rows, tokenizer, and early refusal of settings that a later stage cannot use."""

import sys
from pathlib import Path
from typing import Any

from nash_jax.benchmark.peers import find_systems
from nash_jax.config.derived import chosen_stages
from nash_jax.config.schema import PHASES
from nash_jax.data.decoding import keep_ids, split_names
from nash_jax.data.pipeline import tokenize_sources
from nash_jax.data.special_tokens import check_token_ids
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tokenizers import choose_tokenizer, save_tokenizer
from nash_jax.evaluation.evaluator import check_positions
from nash_jax.evaluation.row_subsets import check_subsets, shared_labels
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.layer_importance import check_candidates
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.runtime.output_folder import fill_folder
from nash_jax.spec import ModelSpec
from nash_jax.training.planned_shapes import fresh_spec
from nash_jax.vocabulary.tokenizer import tokenizer_needs

EVALUATED = ("validation", "test")


def prepare_data(context: RunContext, folder: Path) -> dict[str, Any]:
    """Reads and checks the rows, fixes the tokenizer, tokenises them."""
    rows, task = context.rows, context.config.task  # rows before models: the likelier mistake is reported sooner
    notes = [f"{split}: {note}" for split in EVALUATED for note in check_subsets(task.metric, rows[split], task)]
    if context.config.evaluate.labels_only:
        for split in EVALUATED:
            shared_labels(rows[split])  # raises
    given = context.given
    spec = given.spec if given else None
    tokenizer = choose_tokenizer(task, given.tokenizer if given else None, rows["train"], spec)
    keep_ids(tokenizer, split_names(task.keep_tokens))
    with fill_folder(folder / "tokenizer") as own:
        if is_host0():
            save_tokenizer(tokenizer, own)
    summary = dict[str, Any]()
    if is_host0():
        summary = summarize_data(rows, tokenizer, task, folder, context.data_issues)
        print(*format_summary(summary), *notes, sep="\n", file=sys.stderr, flush=True)
    barrier("tokenized")  # the other processes read what host 0 wrote
    if spec is None:
        spec = fresh_spec(context.config, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    sources, targets = context.tokenized
    check_token_ids(tokenizer, spec, source=sources.ids, target=targets.ids)
    for split in ("validation", "test"):
        check_token_ids(tokenizer, spec, source=tokenize_sources(rows[split], tokenizer, task, folder).ids)
    check_sizes(context, spec)
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
    if "benchmark" in chosen and context.config.benchmark.peers:
        find_systems(context.config.benchmark.peers, "config.benchmark.peers")  # raises
    if "shorten" in chosen:
        check_candidates(context.config, spec)
    if "shorten" in chosen and context.config.shorten.vocabulary:
        tokenizer_needs(context.tokenizer, ())  # raises for one that cannot be trimmed
