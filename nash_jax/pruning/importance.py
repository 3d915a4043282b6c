"""How much heads, FFN units, sub-layers, layers and d_model matter to a model, measured on some rows without training.

With masks m of ones, a the activations that a mask multiplies, and g_r = ∂L_r/∂m for the loss L_r of row r:

fisher      Σ_r g_r²        diagonal of the empirical Fisher information: half of it estimates what closing the gate
                            adds to the loss (Kwon et al. 2022, "A Fast Post-Training Pruning Framework for
                            Transformers")
taylor      Σ_r |g_r · m|   the change of the loss to first order (Michel et al. 2019, "Are Sixteen Heads Really Better
                            than One?"; Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning")
activation  Σ a²            the squared norm over rows and tokens, without gradients (Muralidharan et al. 2024, "Compact
                            Language Models via Pruning and Knowledge Distillation": Minitron, which takes the norm; its
                            square adds up over gates as the other two do)

All three add up over gates, so that what a set of gates costs is a sum. A layer's mask would multiply all of its
sub-layers, so its gradient is the sum of theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.errors import UserError, did_you_mean
from nash_jax.spec import ModelSpec

IMPORTANCES = ("fisher", "taylor", "activation")
Masks = Mapping[str, jax.Array]
RowLoss = Callable[[Masks, Any], jax.Array]  # of the masks and one row, without a batch axis: its loss, a scalar


def open_masks(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Masks of ones for all that can be pruned: axes ([size]), sub-layers (scalars) and `embed` ([D]), float32.

    Args:
      spec: the model.
    """
    masks = {"embed": np.ones(spec.d_model, np.float32)}
    for sublayer, (axis, size) in spec.sublayers().items():
        if size:
            masks |= {axis: np.ones(size, np.float32), sublayer: np.ones((), np.float32)}
    return masks


def row_gradients(loss: RowLoss, masks: Masks, rows: Any) -> dict[str, jax.Array]:
    """Gradient of each row's loss with respect to the masks alone: name → [rows, size], [rows] of a scalar mask.

    Args:
      loss: of the masks and one row.
      masks: where the gradient is taken: of ones.
      rows: arrays with the rows on their first axis.
    """
    return dict(jax.vmap(jax.grad(loss), in_axes=(None, 0))(dict(masks), rows))


def gradient_importance(gradients: Mapping[str, jax.Array], kind: str = "fisher") -> dict[str, jax.Array]:
    """What each gate adds to the importance by these rows; that of more rows is the sum.

    Args:
      gradients: from `row_gradients` at masks of ones.
      kind: `fisher` or `taylor`.

    Returns:
      Name → float32 of the mask's shape; also that of whole layers, `encoder.3`, scalars.

    Raises:
      UserError: for another kind.

    Example:
      >>> rows = jax.numpy.array([[1.0, 2.0], [3.0, 4.0]])
      >>> masks = {"encoder.0.ffn.units": jax.numpy.ones(2)}
      >>> gradients = row_gradients(lambda m, row: row @ m["encoder.0.ffn.units"], masks, rows)
      >>> gradient_importance(gradients)["encoder.0.ffn.units"].tolist()
      [10.0, 20.0]
    """
    if kind not in ("fisher", "taylor"):
        near = did_you_mean(str(kind), IMPORTANCES)
        raise UserError(f"no importance {kind!r} by gradients{near}", "fisher or taylor")
    measure = jnp.square if kind == "fisher" else jnp.abs
    wanted = {**gradients, **_layers(gradients)}
    return {name: jnp.sum(measure(g.astype(jnp.float32)), axis=0) for name, g in wanted.items()}


def activation_importance(activations: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The squared norms of the activations that masks multiply, over rows and tokens.

    Args:
      activations: from `mask_inputs`.
      weights: `encoder` and `decoder` → [B, T], 1 where a token counts and 0 where it does not.

    Returns:
      As `gradient_importance`.
    """
    found: dict[str, Any] = {}
    for name, value in activations.items():
        side, _, rest = name.partition(".")
        squares = jnp.square(value.astype(jnp.float32)) * jnp.expand_dims(weights[side], range(2, value.ndim))
        by_last = jnp.sum(squares, axis=(0, 1))  # [N, H], [F] or [D]
        if rest.endswith(".heads"):
            found[name] = jnp.sum(by_last, axis=-1)
        elif rest.endswith(".units"):
            found[name] = by_last
        else:
            found["embed"] = found.get("embed", 0) + by_last
            if rest != "embed":
                found[name] = jnp.sum(by_last)
    return found | _layers(found)


def mask_inputs(intermediates: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What our models return as `intermediates`, by the names of the masks.

    Args:
      intermediates: of `model.apply(…, mutable=["intermediates"])`.

    Returns:
      Axis of heads → [B, T, N, H]; axis of units → [B, T, F]; sub-layer → its output, [B, T, D]; `encoder.embed` and
      `decoder.embed` → embeddings [B, T, D].
    """
    found: dict[str, jax.Array] = {}

    def walk(tree: Mapping[str, Any], place: tuple[str, ...]) -> None:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                walk(value, (*place, name.removeprefix("layers_")))
            else:
                found[".".join(place if name == "output" else (*place, name))] = value[0]

    walk(intermediates, ())
    return found


def _layers(values: Mapping[str, jax.Array]) -> dict[str, Any]:
    """`encoder.3` → the sum of what its sub-layers have."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        parts = name.split(".")
        if len(parts) == 3:
            layer = ".".join(parts[:2])
            found[layer] = found.get(layer, 0) + value
    return found
