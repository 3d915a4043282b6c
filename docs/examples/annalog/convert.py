"""A trained PyTorch encoder-decoder of somebody else's as a nash_jax export.

The PyPI package `annalog` (1.0.6, MIT) holds a SMILES-to-SMILES model: a plain state dict, written with plain
PyTorch, that no `transformers` class can express. Commands, facts and results: the README beside this file.

    python docs/examples/annalog/convert.py --weights=Lev_extended.pt --vocab=stereo_experiment_vocab_ttf.pkl \
        --output=FOLDER

For a model of your own, keep `self_attention`, `cross_attention`, `feed_forward` and `layer_norm`, and rewrite
`model_spec` (what the architecture is) and `convert` (what its weights are called).

Letters: D d_model, N heads, H head size, F FFN units, V vocabulary, P positions.
"""

import argparse
import pickletools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nash_jax
from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec, dense_spec
from nash_jax.tree import count_params

NUM_HEADS = 8  # written in annalog's code only: no weight has a head axis
UNKNOWN, PAD, START, END = "<unk>", "<pad>", "<sos>", "<eos>"
TOKEN = r"\[[^\]]*\]|%[0-9]{2}|Br|Cl|."  # an atom in brackets, a ring number of two digits, Br, Cl, one character

State = dict[str, np.ndarray]
Linear = tuple[np.ndarray, np.ndarray]  # a torch Linear's weight [out, in] and bias [out]


def to_heads(linears: Sequence[Linear], num_heads: int) -> Linear:
    """n projections to heads, side by side: kernel [D, n, N, H] and bias [n, N, H]."""
    kernel = np.stack([weight.T for weight, _ in linears], axis=1)  # [D, n, N·H]
    bias = np.stack([bias for _, bias in linears])  # [n, N·H]
    return kernel.reshape(*kernel.shape[:2], num_heads, -1), bias.reshape(len(bias), num_heads, -1)


def layer_norm(norm: Linear) -> dict[str, np.ndarray]:
    """Scale and bias, each [D]."""
    return {"scale": norm[0], "bias": norm[1]}


def _from_heads(out: Linear, norm: Linear, num_heads: int) -> dict[str, Any]:
    """What both kinds of attention end with: output kernel [N, H, D], its bias [D], the norm."""
    weight, bias = out
    return {"out": weight.T.reshape(num_heads, -1, len(weight)), "out_bias": bias, "norm": layer_norm(norm)}


def self_attention(
    query: Linear, key: Linear, value: Linear, out: Linear, norm: Linear, num_heads: int
) -> dict[str, Any]:
    """A self-attention sub-layer: query, key and value fused into one kernel [D, 3, N, H]."""
    qkv, qkv_bias = to_heads([query, key, value], num_heads)
    return {"qkv": qkv, "qkv_bias": qkv_bias, **_from_heads(out, norm, num_heads)}


def cross_attention(
    query: Linear, key: Linear, value: Linear, out: Linear, norm: Linear, num_heads: int
) -> dict[str, Any]:
    """A cross-attention sub-layer: query kernel [D, N, H], key and value fused into one [D, 2, N, H]."""
    q, q_bias = to_heads([query], num_heads)
    kv, kv_bias = to_heads([key, value], num_heads)
    return {"q": q[:, 0], "q_bias": q_bias[0], "kv": kv, "kv_bias": kv_bias, **_from_heads(out, norm, num_heads)}


def feed_forward(first: Linear, second: Linear, norm: Linear) -> dict[str, Any]:
    """An FFN sub-layer without gate: kernels [D, F] and [F, D], biases [F] and [D]."""
    wi, wo = first[0].T, second[0].T
    return {"wi": wi, "wi_bias": first[1], "wo": wo, "wo_bias": second[1], "norm": layer_norm(norm)}


def model_spec(state: State, tokens: Sequence[str]) -> ModelSpec:
    """The architecture: sizes from the weights, the rest from annalog's code."""
    (source_vocab, d_model), (max_positions, _) = (
        state[f"encoder.{table}_embedding.weight"].shape for table in ("tok", "pos")
    )
    return dense_spec(
        family="custom",  # no `transformers` class says all of this
        vocab_size=len(state["decoder.fc_out.bias"]),
        encoder_vocab_size=source_vocab,  # the encoder has an embedding table of its own
        d_model=d_model,
        d_ff=len(state["encoder.layers.0.positionwise_feedforward.fc_1.bias"]),
        num_heads=NUM_HEADS,
        encoder_layers=num_layers(state, "encoder"),
        decoder_layers=num_layers(state, "decoder"),
        norm="layer",
        norm_eps=1e-5,
        pre_norm=False,
        bias=True,
        scaled_attention=True,
        activation="relu",
        gated=False,
        tied=False,
        logits_bias=True,
        embedding_scale=float(d_model) ** 0.5,
        embedding_norm=False,
        positions="learned",
        position_offset=0,
        max_positions=max_positions,
        dropout_rate=0.1,
        pad_id=tokens.index(PAD),
        eos_id=tokens.index(END),
        decoder_start_id=tokens.index(START),
    )


def num_layers(state: State, side: str) -> int:
    """Layers of the encoder or the decoder."""
    return len({name.split(".")[2] for name in state if name.startswith(f"{side}.layers.")})


def convert(state: State) -> dict[str, Any]:
    """annalog's state dict → parameters of a nash_jax model, float32.

    Raises:
      UserError: for weights that are missing, or that nothing here reads.
    """
    left = dict(state)
    try:
        params = {side: _side(left, side) for side in ("encoder", "decoder")}
        params["lm_head"], params["logits_bias"] = left.pop("decoder.fc_out.weight").T, left.pop("decoder.fc_out.bias")
    except KeyError as error:
        raise UserError(f"the weights hold no {error}", "annalog's Lev_extended.pt") from error
    if left:
        raise UserError(f"the weights hold {sorted(left)[0]!r} too", "only what annalog's code makes")
    return params


def _side(left: State, side: str) -> dict[str, Any]:
    """The encoder's or the decoder's parameters; takes what it reads out of `left`."""

    def linear(name: str) -> Linear:
        return left.pop(f"{name}.weight"), left.pop(f"{name}.bias")

    def attention(layer: str, name: str, norm: str) -> list[Linear]:
        return [linear(f"{layer}.{name}.fc_{part}") for part in "qkvo"] + [linear(f"{layer}.{norm}_layer_norm")]

    params: dict[str, Any] = {}
    for i in range(num_layers(left, side)):
        layer = f"{side}.layers.{i}"
        own = self_attention(*attention(layer, "self_attention", "self_attn"), NUM_HEADS)
        sublayers = {"self_attention" if side == "decoder" else "attention": own}
        if side == "decoder":
            crossed = attention(layer, "encoder_attention", "enc_attn")
            sublayers["cross_attention"] = cross_attention(*crossed, NUM_HEADS)
        ffn = [linear(f"{layer}.positionwise_feedforward.fc_{part}") for part in "12"]
        sublayers["ffn"] = feed_forward(*ffn, linear(f"{layer}.ff_layer_norm"))
        params[f"layers_{i}"] = sublayers
    tables = {"embedding": "tok", "positions": "pos"}
    return params | {ours: left.pop(f"{side}.{theirs}_embedding.weight") for ours, theirs in tables.items()}


def read_weights(file: Path) -> State:
    """A PyTorch state dict as float32 NumPy arrays; `weights_only` lets the file hold tensors, not code."""
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    return {name: np.ascontiguousarray(tensor.float().numpy()) for name, tensor in state.items()}


def read_vocabulary(file: Path) -> list[str]:
    """Tokens in the order of their ids, from the pickle of {"itos": tokens, "stoi": …}.

    The pickle's opcodes are listed, not executed: strings appear in the order in which they were written.

    Raises:
      UserError: for a file of another kind.
    """
    try:
        opcodes = list(pickletools.genops(file.read_bytes()))
    except ValueError as error:
        raise UserError(f"{file} is no pickle: {error}", "annalog's stereo_experiment_vocab_ttf.pkl") from error
    strings = [value for opcode, value, _ in opcodes if opcode.name == "SHORT_BINUNICODE"]
    tokens = strings[1 : strings.index("stoi")] if "stoi" in strings else []
    if strings[:1] != ["itos"] or not {UNKNOWN, PAD, START, END} <= set(tokens):
        raise UserError(f"{file} begins with the strings {strings[:3]}", "annalog's vocabulary: itos, then stoi")
    return tokens


def build_tokenizer(tokens: Sequence[str]) -> Any:
    """A `transformers` tokenizer that splits SMILES as annalog does, between <sos> and <eos>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, ids[token]) for token in (START, END)]
    )
    tokenizer.decoder = decoders.Fuse()  # tokens are joined without spaces
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, unk_token=UNKNOWN
    )


def main() -> None:
    """Reads the command line and writes the export."""
    parser = argparse.ArgumentParser(description="Convert annalog's trained model into a nash_jax export.")
    for name in ("weights", "vocab", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    try:
        state, tokens = read_weights(args.weights), read_vocabulary(args.vocab)
        params = convert(state)
        nash_jax.Seq2Seq(model_spec(state, tokens), params, build_tokenizer(tokens)).save(args.output)
        nash_jax.load(args.output)  # refuses parameters that do not fit the spec
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{count_params(params):,} parameters, {len(tokens)} tokens: {args.output}")


if __name__ == "__main__":
    main()
