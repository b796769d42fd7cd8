"""Measures of two clouds of features by balls that reach to the k-th neighbour: precision, recall, density, coverage.

Clouds are compared block by block: memory is that of a block, however many features there are.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 2048


class Manifolds(NamedTuple):
    """precision, recall (Kynkaanniemi et al. 2019) and density, coverage (Naeem et al. 2020) of fake features."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare(real: np.ndarray, fake: np.ndarray, k: int, *, half: bool = False, block: int = BLOCK) -> Manifolds:
    """How two clouds of features overlap.

    Let the ball of a feature reach to its k-th nearest neighbour in its own cloud (itself left out, border included):
    precision: share of fakes that are in the ball of any real; recall: share of reals in the ball of any fake;
    density: number of reals' balls that a fake is in, the mean over fakes, divided by k;
    coverage: share of reals whose own ball has a fake in it.

    Args:
      real, fake: [N, D], [M, D].
      half: round features, distances and radii to float16, as in NVlabs/stylegan3 `pr50k3_full`.
      block: rows compared at once; no result depends on it.
    Raises: ValueError for other shapes, or no more than k features.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f'features have shapes {real.shape} and {fake.shape} with k={k}; expected [N, D] and [M, D], N, M > k >= 1.'
        )
    # Distances are differences of squares: about the middle of the reals, features are small and little cancels.
    origin = np.mean(real, axis=0, dtype=np.float64).astype(np.float32)
    blocks = functools.partial(_blocks, origin=origin, half=half, block=block)
    radii = [_radii(blocks, x, k, half) for x in (real, fake)]
    balls_of_fakes, covered = _inside(blocks, fake, real, radii[0], half)
    balls_of_reals, _ = _inside(blocks, real, fake, radii[1], half)
    return Manifolds(
        float(np.mean(balls_of_fakes > 0)),
        float(np.mean(balls_of_reals > 0)),
        float(np.mean(balls_of_fakes) / k),
        float(np.mean(covered)),
    )


def _blocks(x: np.ndarray, origin: np.ndarray, half: bool, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Which rows, and these rows, [block, D]; the last ones are filled up with zeros, so that one program serves."""
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        part = np.asarray(x[rows], np.float16 if half else np.float32).astype(np.float32) - origin
        yield rows, np.pad(part, ((0, block - len(part)), (0, 0)))


def _distances(a: jax.Array, b: jax.Array, half: bool) -> jax.Array:
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    squares = squares - 2 * jnp.matmul(a, b.T, precision='highest')
    distances = jnp.sqrt(jnp.maximum(squares, 0))
    return distances.astype(jnp.float16).astype(jnp.float32) if half else distances


@functools.partial(jax.jit, static_argnames='half')
def _nearest(found: jax.Array, a: jax.Array, b: jax.Array, count: int, half: bool) -> jax.Array:
    """The least distances [block, n], of those found so far and those to the first `count` rows of b."""
    distances = jnp.where(jnp.arange(len(b))[None, :] < count, _distances(a, b, half), jnp.inf)
    return -jax.lax.top_k(-jnp.concatenate([found, distances], axis=1), found.shape[1])[0]


@functools.partial(jax.jit, static_argnames='half')
def _hits(a: jax.Array, b: jax.Array, radii: jax.Array, count: int, half: bool) -> tuple[jax.Array, jax.Array]:
    """For each row of a, how many balls of b hold it; per ball of b, whether it holds any of a's first `count`."""
    inside = _distances(a, b, half) <= radii[None, :]
    return jnp.sum(inside, axis=1), jnp.any(inside & (jnp.arange(len(a))[:, None] < count), axis=0)


def _radii(blocks: functools.partial, x: np.ndarray, k: int, half: bool) -> np.ndarray:
    """Distance of each feature to its k-th neighbour in the cloud, [N]."""
    radii = np.zeros(len(x), np.float32)
    for rows, a in blocks(x):
        found = jnp.full((len(a), k + 1), jnp.inf)  # the nearest one is itself
        for columns, b in blocks(x):
            found = _nearest(found, a, b, columns.stop - columns.start, half)
        radii[rows] = np.asarray(found)[: rows.stop - rows.start, k]
    return radii


def _inside(
    blocks: functools.partial, probes: np.ndarray, middles: np.ndarray, radii: np.ndarray, half: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For each probe, how many balls hold it; for each ball, whether it holds a probe."""
    counts, hit = np.zeros(len(probes), np.int64), np.zeros(len(middles), bool)
    for rows, a in blocks(probes):
        for columns, b in blocks(middles):
            reach = np.full(len(b), -1, np.float32)  # nothing is inside rows that only fill up
            reach[: columns.stop - columns.start] = radii[columns]
            count, any_inside = _hits(a, b, reach, rows.stop - rows.start, half)
            counts[rows] += np.asarray(count)[: rows.stop - rows.start]
            hit[columns] |= np.asarray(any_inside)[: columns.stop - columns.start]
    return counts, hit
