"""Hard-concrete gates (Louizos et al. 2018; CoFi, Xia et al. 2022): pure functions of `log_alpha`.

A gate z in [0, 1] is exactly 0 or 1 with positive probability:
  s = sigmoid((ln u - ln(1-u) + log_alpha) / β),  z = clip(s·(ζ-γ) + γ, 0, 1),  u ~ U(ε, 1-ε).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

BETA = 2 / 3
GAMMA = -0.1
ZETA = 1.1
EPSILON = 1e-6
LOG_ALPHA_MIN = math.log(1e-2)
LOG_ALPHA_MAX = math.log(1e2)
FINAL_SHARPNESS = 0.8  # CoFi's magic number in the deterministic score


def sample_noise(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """u ~ U(ε, 1-ε), float32."""
    return jax.random.uniform(rng, shape, jnp.float32, EPSILON, 1 - EPSILON)


def sample(log_alpha: jax.Array, noise: jax.Array) -> jax.Array:
    """Gate values z for noise u, both of log_alpha's shape. Differentiable in log_alpha."""
    s = jax.nn.sigmoid((jnp.log(noise) - jnp.log1p(-noise) + log_alpha) / BETA)
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def prob_nonzero(log_alpha: jax.Array) -> jax.Array:
    """P(z ≠ 0), clipped to [ε, 1-ε], of log_alpha's shape."""
    x0 = -GAMMA / (ZETA - GAMMA)
    below = jax.nn.sigmoid(math.log(x0 / (1 - x0)) * BETA - log_alpha)
    return 1 - jnp.clip(below, EPSILON, 1 - EPSILON)


def final_mask(log_alpha: jax.Array, zeros: jax.Array | int | None = None) -> jax.Array:
    """Deterministic mask of one row of n gates: the expected number of zeros, the rest soft.

    zeros = round(n - Σ P(z≠0)), half to even, unless given; the lowest scores σ(0.8·log_alpha/β) become 0, ties to the
    earlier gate; the others keep their score, to be folded into the weights. A lone gate (a whole
    sub-layer) is 0 when its P(z≠0) rounds to 0.

    Args:
      log_alpha: [n].
      zeros: how many gates to close, if not as many as expected.

    Returns:
      float32 [n].
    """
    if zeros is None:
        zeros = jnp.round(log_alpha.shape[0] - jnp.sum(prob_nonzero(log_alpha)))
    score = jax.nn.sigmoid(FINAL_SHARPNESS * log_alpha / BETA)
    rank = jnp.argsort(jnp.argsort(score, stable=True))
    return jnp.where(rank < zeros, 0.0, score).astype(jnp.float32)


def initial_log_alpha(rng: jax.Array, size: int, droprate: float | None) -> jax.Array:
    """log_alpha ~ N(mean, 0.01): mean logit(1-droprate), or 10 (open) without a droprate."""
    mean = 10.0 if droprate is None else float(np.log(1 - droprate) - np.log(droprate))
    return mean + 0.01 * jax.random.normal(rng, (size,), jnp.float32)


def clamp(log_alpha: jax.Array) -> jax.Array:
    """log_alpha within [ln 1e-2, ln 1e2], applied after every update.

    Args:
      log_alpha: of any shape.
    """
    return jnp.clip(log_alpha, LOG_ALPHA_MIN, LOG_ALPHA_MAX)
