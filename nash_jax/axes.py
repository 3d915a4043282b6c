"""Logical axes of parameters, and the parameters that masks are folded into; used by pruning, sharding, conversion."""

from collections.abc import Mapping
from typing import Any

from nash_jax.errors import UserError
from nash_jax.spec import SINUSOIDS, ModelSpec
from nash_jax.tree import check_shapes


def param_axes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Returns parameter path → names of its axes, for every parameter of `EncoderDecoder(spec)`.

    Plain axes: vocab, encoder_vocab, positions, embed, head_dim, qkv, kv, gate, buckets, bias_heads. Names of prunable
    axes include their place: `encoder.3.attention.heads`, `decoder.0.ffn.units`. A bias table shared by all layers
    keeps all heads (`bias_heads`).

    Args:
      spec: the model.
    """
    axes: dict[str, tuple[str, ...]] = {}
    if spec.encoder_vocab_size is None:
        axes["shared/embedding"] = ("vocab", "embed")
    else:
        axes["encoder/embedding"] = ("encoder_vocab", "embed")
        axes["decoder/embedding"] = ("vocab", "embed")
    for side in ("encoder", "decoder"):
        if spec.absolute_positions:
            axes[f"{side}/positions"] = ("positions", "embed")
        if spec.embedding_norm:
            axes |= _norm(spec, f"{side}/embedding_norm")
        if spec.pre_norm:
            axes |= _norm(spec, f"{side}/final_norm")
    for name, (axis, size) in spec.sublayers().items():
        axes |= _sublayer(spec, name, axis, size)
    if not spec.tied:
        axes["lm_head"] = ("embed", "vocab")
    if spec.logits_bias:
        axes["logits_bias"] = ("vocab",)
    return axes


def leaf_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Returns parameter path → shape.

    Args:
      spec: the model.
    """
    sizes = spec.axis_sizes()
    return {path: tuple(sizes[axis] for axis in axes) for path, axes in param_axes(spec).items()}


def check_params(spec: Any, params: Any, source: str = "params") -> None:
    """Checks that parameters are those of a model.

    Args:
      spec: the model.
      params: nested dict of arrays.
      source: what to call them in a message.

    Raises:
      UserError: for another type than a spec and a nested dict, or naming parameters that are missing, left over, or of
        another shape.
    """
    if not isinstance(spec, ModelSpec):
        raise UserError(f"spec is a {type(spec).__name__}", "a nash_jax.spec.ModelSpec")
    if not isinstance(params, Mapping):
        raise UserError(f"params is a {type(params).__name__}", "a nested dict of arrays")
    check_shapes(params, leaf_shapes(spec), source)


def _norm(spec: ModelSpec, path: str) -> dict[str, tuple[str, ...]]:
    leaves = ("scale",) if spec.norm == "rms" else ("scale", "bias")
    return {f"{path}/{leaf}": ("embed",) for leaf in leaves}


def _sublayer(spec: ModelSpec, name: str, axis: str, size: int) -> dict[str, tuple[str, ...]]:
    """Axes of one sub-layer; without heads or units, only those of its output bias and its post-norm."""
    side, _, sublayer = name.split(".")
    path = sublayer_path(name)
    axes: dict[str, tuple[str, ...]] = {}
    if size or not spec.pre_norm:
        axes |= _norm(spec, f"{path}/norm")
    if spec.bias:
        axes[f"{path}/{'wo_bias' if sublayer == 'ffn' else 'out_bias'}"] = ("embed",)
    if size == 0:
        return axes
    if sublayer == "ffn":
        inner: dict[str, tuple[str, ...]] = {"wi": ("gate", axis) if spec.gated else (axis,)}
        axes[f"{path}/wo"] = (axis, "embed")
    else:
        head = (axis, _head_dim(spec, side))
        inner = {"q": head, "kv": ("kv", *head)} if sublayer == "cross_attention" else {"qkv": ("qkv", *head)}
        axes[f"{path}/out"] = (*head, "embed")
        axes |= _position_bias(spec, side, sublayer, path, axis)
    for leaf, inner_axes in inner.items():
        axes[f"{path}/{leaf}"] = ("embed", *inner_axes)
        if spec.bias:
            axes[f"{path}/{leaf}_bias"] = inner_axes
    return axes


def _head_dim(spec: ModelSpec, side: str) -> str:
    return "decoder_head_dim" if side == "decoder" and spec.decoder_head_dim is not None else "head_dim"


def _position_bias(spec: ModelSpec, side: str, sublayer: str, path: str, axis: str) -> dict[str, tuple[str, ...]]:
    if sublayer == "cross_attention":
        return {}
    if spec.positions == "relative":
        return {f"{side}/position_bias/embedding": ("buckets", "bias_heads")}
    return {f"{path}/position_bias/embedding": ("buckets", axis)} if spec.positions == "relative_per_layer" else {}


def sublayer_path(name: str) -> str:
    """Returns the path of a sub-layer's parameters: `decoder.0.ffn` → `decoder/layers_0/ffn`.

    Args:
      name: name of a sub-layer.
    """
    side, index, sublayer = name.split(".")
    return f"{side}/layers_{index}/{sublayer}"


def mask_sites(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Returns parameter path → names of the masks that are folded into it at compaction.

    Head and unit masks are applied directly before the output projection, sub-layer masks directly after it, so
    both are folded into it, the sub-layer mask also into the output bias. A d_model mask is applied to token and
    position embeddings and to sub-layer outputs. A tied LM head uses the masked table, before and after compaction.

    Args:
      spec: the model.
    """
    sites: dict[str, tuple[str, ...]] = {}
    sublayers = {sublayer_path(name): (name, axis) for name, (axis, _) in spec.sublayers().items()}
    for path in param_axes(spec):
        parent, _, leaf = path.rpartition("/")
        if (path.endswith("/embedding") and "position_bias" not in path) or leaf == "positions":
            sites[path] = ("embed",)
        elif leaf in ("out", "wo"):
            sites[path] = (sublayers[parent][1], sublayers[parent][0], "embed")
        elif leaf in ("out_bias", "wo_bias"):
            sites[path] = (sublayers[parent][0], "embed")
    return sites


def frozen_params(spec: ModelSpec, *, embeddings: bool, encoder: bool = False) -> set[str]:
    """Returns the paths of parameters that are not trained: sinusoids, and others if asked for.

    Args:
      spec: the model.
      embeddings: whether embeddings and LM head are among them.
      encoder: whether the encoder is, and the embeddings that it reads.
    """
    all_axes = param_axes(spec)
    tables = {path for path, axes in all_axes.items() if {"vocab", "encoder_vocab", "positions"} & set(axes)}
    sinusoids = {"encoder/positions", "decoder/positions"} if spec.positions in SINUSOIDS else set()
    return (tables if embeddings else set()) | sinusoids | (encoder_params(spec) if encoder else set())


def encoder_params(spec: ModelSpec) -> set[str]:
    """Returns the paths of the parameters that the encoder's output depends on.

    Args:
      spec: the model.
    """
    return {path for path in param_axes(spec) if path.startswith(("encoder/", "shared/"))}
