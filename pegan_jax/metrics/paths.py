"""Perceptual path length: paths between latents, and the mean over them."""

import jax
import jax.numpy as jnp
import numpy as np


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """Points on the great circle from a to b, [N, D], both divided by their length; t [N, 1] in [0, 1].

    As in NVlabs/stylegan3 `slerp`: the result has length 1.
    """
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    cosine = jnp.sum(a * b, axis=-1, keepdims=True)
    across = b - cosine * a
    across = across / jnp.linalg.norm(across, axis=-1, keepdims=True)
    angle = t * jnp.arccos(jnp.clip(cosine, -1, 1))
    point = a * jnp.cos(angle) + across * jnp.sin(angle)
    return point / jnp.linalg.norm(point, axis=-1, keepdims=True)


def lerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """Points on the line from a to b; t broadcasts to them."""
    return a + (b - a) * t


def path_length(distances: np.ndarray) -> float:
    """The mean of distances [N], without those below the 1 % and above the 99 % percentile.

    Percentiles are distances that occur, the next lower and the next higher one, and are included (Karras et al. 2019,
    section 4.1; the released program). Raises: ValueError if there is none.
    """
    distances = np.asarray(distances, np.float64)
    if not distances.size:
        raise ValueError('no distances: there is no mean.')
    low = np.percentile(distances, 1, method='lower')
    high = np.percentile(distances, 99, method='higher')
    return float(distances[(distances >= low) & (distances <= high)].mean())
