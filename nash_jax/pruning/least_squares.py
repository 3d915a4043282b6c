"""What is left of a layer's output projection after cutting makes up for what went: damped least squares. Host side.

An output projection W [K, D] (`out` of attention, `wo` of an FFN) reads the inputs X [tokens, K], of which the columns
S are left. With the Gram matrix G = Xᵀ X over some rows,

  W_S ← argmin ‖X W − X_S W_S‖² + λ · mean(diag G_SS) · ‖W_S − W_S,old‖²,

so that (G_SS + λ mean I)(W_S − W_S,old) = G_S,cut · W_cut. Where the family has an output bias, it changes too,
undamped: an input that is always 1. Kwon et al. 2022 solve for one factor a head or unit (their mask tuning); ZipLM
(Kurtic et al. 2023) solves for all weights, as here, but chooses what to cut by the same inverse: here what is cut is
given, by another importance.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.axes import param_axes
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

DAMPING = 1e-2


def gram_matrix(inputs: jax.Array, weights: jax.Array) -> jax.Array:
    """Xᵀ X of inputs with a last column of ones, float32 [K + 1, K + 1]; sum over batches in float64.

    Args:
      inputs: of an output projection, [B, T, N, H] of heads or [B, T, F] of units.
      weights: 1 where a token counts and 0 where it does not, [B, T].
    """
    flat = inputs.astype(jnp.float32).reshape(-1, int(np.prod(inputs.shape[2:])))
    flat = jnp.concatenate([flat, jnp.ones((flat.shape[0], 1))], axis=1) * weights.astype(jnp.float32).reshape(-1, 1)
    return jnp.matmul(flat.T, flat, precision=jax.lax.Precision.HIGHEST)


def refit(
    weight: np.ndarray,
    kept: np.ndarray,
    gram: np.ndarray,
    wanted: np.ndarray | None = None,
    *,
    bias: bool = False,
    damping: float = DAMPING,
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the kept inputs that give the old outputs best.

    Args:
      weight: W, [K, D].
      kept: S, true where an input is left, [K].
      gram: sum of `gram_matrix` over some rows, [K + 1, K + 1].
      wanted: inputs, with the ones, times the outputs that are wanted, [K + 1, D]; None: those of the old weights.
      bias: whether the outputs have a bias that may change.
      damping: λ.

    Returns:
      float64: new weights [K, D], 0 where nothing is left; what to add to the bias, [D].
    """
    old, kept = np.asarray(weight, np.float64), np.asarray(kept, bool)
    inputs = np.append(kept, bias)  # the last is the column of ones
    own = gram[np.ix_(inputs, inputs)].astype(np.float64)
    columns = np.arange(kept.sum())
    wanted = gram[:, :-1] @ old if wanted is None else wanted
    missing = wanted[inputs] - own[:, : len(columns)] @ old[kept]
    own[columns, columns] += damping * np.sum(own[columns, columns]) / max(len(columns), 1)
    change = _solve(own, missing)
    new = np.zeros_like(old)
    new[kept] = old[kept] + change[: len(columns)]
    return new, change[len(columns) :].sum(axis=0)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a symmetric system that is positive semidefinite; the least one where there are several."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq  # here, for it takes half a second to import

    if not len(matrix):
        return np.zeros_like(right)
    try:
        return cho_solve(cho_factor(matrix), right)
    except LinAlgError:
        return lstsq(matrix, right)[0]


def reconstruction_error(weight: np.ndarray, new: np.ndarray, shift: np.ndarray, gram: np.ndarray) -> float:
    """‖X W − X W' − b‖² over the rows of a Gram matrix.

    Args:
      weight: W, [K, D].
      new: W', [K, D].
      shift: b, [D].
      gram: as in `refit`.
    """
    difference = np.concatenate([np.asarray(weight, np.float64) - new, -np.asarray(shift, np.float64)[None]])
    return float(np.sum(difference * (gram @ difference)))


def refit_outputs(
    spec: ModelSpec,
    params: Mapping[str, Any],
    masks: Mapping[str, np.ndarray],
    grams: Mapping[str, np.ndarray],
    damping: float = DAMPING,
) -> dict[str, Any]:
    """Parameters whose output projections are fitted to what masks leave; to be used under the same masks.

    Args:
      spec: the model.
      params: its parameters.
      masks: of heads and units, zeros and ones.
      grams: axis of heads or units → sum of `gram_matrix` over some rows; what has none stays as it is.
      damping: λ.

    Returns:
      Parameters of the same shapes and dtypes; those that are fitted are NumPy's, the others as they came.
    """
    return unflatten(flatten(params) | refitted_outputs(spec, params, masks, grams, damping))


def refitted_outputs(
    spec: ModelSpec,
    params: Mapping[str, Any],
    masks: Mapping[str, np.ndarray],
    grams: Mapping[str, np.ndarray],
    damping: float = DAMPING,
) -> dict[str, np.ndarray]:
    """As `refit_outputs`: path → what is fitted, alone."""
    flat, found = flatten(params), dict[str, np.ndarray]()
    for path, names in param_axes(spec).items():
        axis = names[0]
        if path.rpartition("/")[2] in ("out", "wo") and axis in grams and np.any(np.asarray(masks[axis]) == 0):
            weight, bias = np.asarray(flat[path]), flat.get(f"{path}_bias")
            matrix = weight.reshape(-1, weight.shape[-1])
            kept = np.repeat(np.asarray(masks[axis]) != 0, len(matrix) // len(masks[axis]))
            new, shift = refit(matrix, kept, grams[axis], bias=bias is not None, damping=damping)
            found[path] = new.reshape(weight.shape).astype(weight.dtype)
            if bias is not None:
                found[f"{path}_bias"] = (np.asarray(bias) + shift).astype(bias.dtype)
    return found
