"""Generation of every family against `transformers`, token for token: 304 cases of four rows each.

A case is a random model and a set of options; those of one group differ in values alone and share a program. No case
is left out for a tie: none comes up, since models of width 2, whose sequences tie, are not drawn (families.py).
"""

from typing import Any

import numpy as np
import pytest
from families import FAMILIES, T5_LIKE, TORCH_WARNINGS, USUAL, random_inputs, random_model
from seeds import some

from nash_jax.convert.hf import load_hf
from nash_jax.generation.options import GenerationOptions

pytestmark = [*TORCH_WARNINGS, pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.usefixtures("torch")]
SEEDS = (100, 101)

RULES = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4}
BANS = {"bad_words_ids": [[5], [6, 7]], "suppress_tokens": [8, 9], "begin_suppress_tokens": [10]}
FORCED = {"forced_bos_token_id": 11, "forced_eos_token_id": 1}
GROUPS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{"max_new_tokens": count} for count in (12, 10)],
    "greedy, prompts, two EOS": [{"eos_token_id": [1, other], "prompt": length} for other, length in ((12, 2), (9, 4))],
    "greedy, rules": [
        RULES | BANS | FORCED,
        RULES | BANS | FORCED | {"repetition_penalty": 0.7, "min_new_tokens": 9},
        RULES | BANS | FORCED | {"bad_words_ids": [[3], [13, 14]], "suppress_tokens": [4]},
    ],
    "2 beams, n-grams, prompts": [
        {"num_beams": 2, "no_repeat_ngram_size": 2, "length_penalty": penalty, "prompt": length}
        for penalty, length in ((1.0, 2), (2.0, 3))
    ],
    "4 beams": [
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": penalty, "early_stopping": early}
        for early in (True, False, "never")
        for penalty in (1.0, 0.6, -1.0)[: 3 if early is False else 2]
    ],
    "5 beams, rules": [
        {"num_beams": 5} | RULES | BANS | FORCED | own
        for own in (
            {},
            {"length_penalty": 0.0, "repetition_penalty": 2.0, "max_new_tokens": 10},
            {"early_stopping": "never", "min_new_tokens": 2},
        )
    ],
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=some([(f, s) for s in SEEDS for f in sorted(FAMILIES, key=lambda f: f not in USUAL)], few=4),
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def pair(request, tmp_path_factory, quick_engine):
    """The same random model in PyTorch and here, and padded inputs."""
    family, seed = request.param
    model, folder = random_model(family, seed), tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    spec, params = load_hf(folder)
    return model, quick_engine(spec, params), random_inputs(model.config, seed, source=14, target=6), (family, seed)


def theirs(model: Any, inputs: dict[str, np.ndarray], fields: dict[str, Any]) -> np.ndarray:
    """What `transformers` generates; without its cache where it cannot (a T5 decoder deeper than its encoder)."""
    import torch
    import transformers

    config = model.config
    cached = config.model_type not in T5_LIKE or config.num_decoder_layers <= config.num_layers
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": config.decoder_start_token_id}
    settings = transformers.GenerationConfig(**(ids | {"top_k": None, "use_cache": cached} | fields))
    with torch.no_grad():
        return model.generate(
            **{name: torch.from_numpy(value) for name, value in inputs.items()}, generation_config=settings
        ).numpy()


def tuples(value: Any) -> Any:
    """Lists, and lists of lists, as our options hold them."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


@pytest.mark.parametrize("group", GROUPS)
def test_tokens_are_those_of_transformers(pair, group):
    model, engine, inputs, _ = pair
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    for case in GROUPS[group]:
        fields = {"max_new_tokens": 12} | case
        length = fields.pop("prompt", 1)
        prompt = np.concatenate(
            [np.full((4, 1), model.config.decoder_start_token_id), inputs["decoder_input_ids"][:, : length - 1]], axis=1
        )
        given = {"decoder_input_ids": prompt} if length > 1 else {}
        expected = theirs(model, source | given, fields)
        found = engine.generate(
            *source.values(), GenerationOptions().replace(**{k: tuples(v) for k, v in fields.items()}), **given
        )
        np.testing.assert_array_equal(found, expected, err_msg=str(case))


def test_there_are_enough_cases():
    assert len(FAMILIES) * len(SEEDS) * sum(map(len, GROUPS.values())) >= 200
