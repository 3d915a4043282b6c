"""Random PyTorch models of every family, NumPy-seeded, as oracles for our own."""

from collections.abc import Container, Iterable
from typing import Any

import numpy as np
import pytest

FAMILIES = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100")
T5_LIKE = ("t5", "mt5", "umt5")
USUAL = ("t5", "umt5", "bart", "m2m_100", "custom")  # between them they have every kind of layer
TORCH_WARNINGS = [  # torch's and transformers' own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def usual_first(families: Iterable[str], usual: Container[str] = USUAL) -> list[Any]:
    """Families for `parametrize`: the usual ones run by default, the others with `-m full`."""
    return [name if name in usual else pytest.param(name, marks=pytest.mark.full) for name in families]


def random_config(family: str, seed: int) -> Any:
    """A small random configuration of a family: sizes, depths, heads, flags, tied or not."""
    import transformers

    rng = np.random.default_rng((FAMILIES.index(family), seed))

    def draw(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    common = {
        "vocab_size": int(rng.integers(24, 60)),
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": draw(0, 2),
    }
    if family in T5_LIKE:
        fields = common | {
            "d_model": draw(8, 12, 16), "d_kv": draw(3, 4, 8), "d_ff": draw(8, 20), "num_heads": draw(1, 2, 4),
            "num_layers": draw(1, 2, 3), "num_decoder_layers": draw(1, 2, 3),
            "relative_attention_num_buckets": draw(8, 32), "relative_attention_max_distance": draw(20, 128),
            "feed_forward_proj": draw("relu", "gated-gelu", "gated-silu", "gelu_new"),
            "layer_norm_epsilon": draw(1e-6, 1e-5),
        }  # fmt: skip
        if family == "t5":
            fields |= {"tie_word_embeddings": draw(True, False)}  # transformers 5 reads whether outputs are scaled
    else:
        heads = draw(1, 2, 4)
        # Not of width 2: LayerNorm leaves two values only their order, so that different sequences tie exactly.
        fields = common | {
            "d_model": heads * draw(4, 6, 8), "encoder_attention_heads": heads,
            "decoder_attention_heads": draw(heads, 1, heads if heads == 1 else heads // 2),
            "encoder_layers": draw(1, 2, 3), "decoder_layers": draw(1, 2, 3), "encoder_ffn_dim": draw(8, 20),
            "decoder_ffn_dim": draw(8, 20), "activation_function": draw("gelu", "relu", "swish", "gelu_new"),
            "scale_embedding": draw(True, False), "max_position_embeddings": 96,
            "tie_word_embeddings": draw(True, True, False), "bos_token_id": 2, "forced_eos_token_id": None,
        }  # fmt: skip
        if family == "m2m_100":
            fields["decoder_start_token_id"] = 2  # a start token that is padding would have no position
        if family == "marian":
            fields |= {"share_encoder_decoder_embeddings": draw(True, False)}
            fields["decoder_vocab_size"] = fields["vocab_size"]
            if not fields["share_encoder_decoder_embeddings"]:
                fields["decoder_vocab_size"] += 7
    return transformers.CONFIG_MAPPING[family](**fields)


def random_model(family: str, seed: int) -> Any:
    """A PyTorch model of `random_config`, weights NumPy-seeded, logits of the order of 1 to 10."""
    import torch
    import transformers

    config = random_config(family, seed)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    rng = np.random.default_rng((FAMILIES.index(family), seed, 1))
    if family in T5_LIKE and rng.random() < 0.5:  # a head of its own; their configs no longer say so
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(torch.from_numpy(_values(rng, name, tuple(weight.shape), family)))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.from_numpy(rng.normal(size=model.final_logits_bias.shape)))
    return model


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...], family: str) -> np.ndarray:
    value = rng.normal(size=shape)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * value
    if name.endswith("bias"):
        return 0.3 * value
    if "embed" in name or "shared" in name:
        return value if family in T5_LIKE else 0.5 * value
    if "relative" in name:
        return value
    scale = 5 if "lm_head" in name else 0.7 if name.endswith((".q.weight", ".k.weight")) else 1.2
    return scale * value * shape[1] ** -0.5


def random_inputs(config: Any, seed: int, rows: int = 4, source: int = 40, target: int = 9) -> dict[str, np.ndarray]:
    """Source ids padded on the right or on the left, their mask, and decoder inputs."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, config.vocab_size, (rows, source))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        length = int(rng.integers(1, source))
        padding = slice(length, None) if row % 2 else slice(0, source - length)
        ids[row, padding], mask[row, padding] = config.pad_token_id, 0
    labels = rng.integers(0, config.vocab_size, (rows, target))
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": labels}


def torch_logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The PyTorch model's logits, float32 [B, T, V]."""
    import torch

    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()


def save_as_others(model, folder):
    """Saves a folder as other programs do: without nash_jax's manifest, so its files may be changed."""
    model.save_hf(folder)
    (folder / "nash_jax.json").unlink()


def random_pair(family, folder):
    """The same random model in PyTorch and here, and padded inputs."""
    from nash_jax import Seq2Seq
    from nash_jax.convert.hf import load_hf

    model = random_model(family, 100)
    model.save_pretrained(folder)
    inputs = random_inputs(model.config, 100, source=14, target=6)
    return model, Seq2Seq(*load_hf(folder)), {name: inputs[name] for name in ("input_ids", "attention_mask")}
