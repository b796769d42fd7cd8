"""The scores, softmax and weighted sum of contextual attention as one Pallas kernel for TPUs, which stores no scores.

A tile of queries meets tiles of keys one after the other, with a running softmax (Milakov & Gimelshein 2018, arXiv
1805.02867). The fusion of Yu et al. 2018, section 3.2, adds scores of neighbouring queries and keys to each other. So a
tile has a window: its rows and columns and one more on every side, whose scores are computed again. In a window stored
row after row, the fusion is two sums along the diagonal, of positions 1 apart and of positions one row apart.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

MOST = 16, 62  # rows and columns of a tile: with its neighbours it has 18 x 64 positions, whose scores take 5 MiB
SUBLANES, LANES = 8, 128
NOTHING = -1e30  # below every other score
Neighbours = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]  # `attention.strips`


class Tiles(NamedTuple):
    """A grid h x w in tiles of rows x columns, and what their windows hold: `rows` + 2 rows of `span` positions.

    index: [tiles, positions] int32, flat index in the grid, h w where there is none.
    exists: [tiles, positions], whether a position is one of the grid or its neighbour in column-major order.
    number: [tiles, positions] int32, the index of the positions of the tile itself, -1 elsewhere.
    """

    index: np.ndarray
    exists: np.ndarray
    number: np.ndarray
    rows: int
    columns: int
    span: int


def tiles(h: int, w: int, neighbours: Neighbours, row_multiple: int, multiple: int, most: tuple[int, int]) -> Tiles:
    """Tiles of at most `most` (rows, columns); rows of a window and whole windows are filled up to these multiples."""
    rows, columns = (-(-n // -(-n // m)) for n, m in zip((h, w), most, strict=True))  # all alike
    index, exists = neighbours(h, w, rows)
    bands = -(-w // columns)
    ends = ((0, 0), (0, 0), (0, bands * columns - w))
    index = np.pad(index, ends, constant_values=h * w)
    exists = np.pad(exists, ends)
    span = -(-(columns + 2) // row_multiple) * row_multiple

    def cut(x: np.ndarray, width: int, before: int, nothing: int) -> np.ndarray:
        """[strips, rows + 2, ...] -> [tiles, positions], `width` columns from every `columns`-th on."""
        parts = np.stack([x[:, :, i * columns : i * columns + width] for i in range(bands)], axis=1)
        parts = np.pad(parts, ((0, 0),) * 3 + ((before, span - width - before),), constant_values=nothing)
        parts = parts.reshape(-1, (rows + 2) * span)
        return np.pad(parts, ((0, 0), (0, -parts.shape[1] % multiple)), constant_values=nothing)

    index = cut(index, columns + 2, 0, h * w).astype(np.int32)
    row = np.arange(len(exists))[:, None] * rows + np.arange(-1, rows + 1)  # a strip may end beyond the grid
    own = exists & (row < h)[..., None]
    own[:, [0, -1]] = False
    number = np.where(cut(own, columns, 1, 0), index, -1)
    return Tiles(index, cut(exists, columns, 1, 0), number, rows, columns, span)


def _diagonal(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """x[i, j] from x[i + rows, j + columns], with wrap-around."""
    return pltpu.roll(pltpu.roll(x, -rows % x.shape[0], 0), -columns % x.shape[1], 1)


def _kernel(
    marks: tuple[Any, ...],
    arrays: tuple[Any, ...],
    y: Any,
    best: Any,
    kept: tuple[Any, ...],
    *,
    queries: Tiles,
    keys: Tiles,
    scale: float,
) -> None:
    """A tile of queries and one of keys; `kept` lives from one tile of keys to the next."""
    (q_exists, k_exists, valid, number), (q, k, v) = marks, arrays
    highest, total, top, where = kept
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _() -> None:
        highest[...] = jnp.full(highest.shape, NOTHING, highest.dtype)
        top[...] = jnp.full(top.shape, NOTHING, top.dtype)
        total[...] = jnp.zeros_like(total)
        where[...] = jnp.zeros_like(where)
        y[...] = jnp.zeros_like(y)

    scores = jax.lax.dot_general(q[...], k[...], (((1,), (1,)), ((), ())), preferred_element_type=y.dtype)
    scores = scores + _diagonal(scores, 1, 1) + _diagonal(scores, -1, -1)
    scores = scores * q_exists[...] * k_exists[...]
    above, here, below = (scores[i * queries.span :][: queries.rows * queries.span] for i in range(3))
    scores = here + _diagonal(above, 0, -keys.span) + _diagonal(below, 0, keys.span)

    scores = jnp.where(number[...] >= 0, scale * scores * valid[...], NOTHING)
    before = highest[...]
    highest[...] = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.exp(scores - highest[...])
    shrink = jnp.exp(before - highest[...])
    total[...] = shrink * total[...] + jnp.sum(weights, axis=1, keepdims=True)
    weights = weights * valid[...]
    y[...] = shrink * y[...] + jnp.dot(weights.astype(v.dtype), v[...], preferred_element_type=y.dtype)

    scores = jnp.where(valid[...] > 0, scores, NOTHING)
    first = jnp.max(scores, axis=1, keepdims=True)
    at = jnp.min(jnp.where(scores == first, number[...], jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
    better = (first > top[...]) | ((first == top[...]) & (at < where[...]))
    where[...] = jnp.where(better, at, where[...])
    top[...] = jnp.where(better, first, top[...])

    @pl.when(step == pl.num_programs(2) - 1)
    def _() -> None:
        y[...] = y[...] / total[...]
        best[...] = jnp.where(jnp.exp(top[...] - highest[...]) > 0, where[...], 0)


@functools.partial(jax.jit, static_argnames=('grid', 'background', 'neighbours', 'scale', 'most', 'interpret'))
def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array,
    *,
    grid: tuple[int, int],
    background: tuple[int, int],
    neighbours: Neighbours,
    scale: float,
    most: tuple[int, int],
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of values by a softmax of `scale` times the fused scores of queries and keys.

    Args:
      q: [N, h w, K] for the (h, w) of `grid`; k: [N, B, K] and v: [N, B, D] for the positions of `background`.
      valid: [1 or N, B], 0 for keys whose scores count as 0 and whose weights are 0, else 1.
      neighbours: `attention.strips`.
      most: rows and columns of a tile.
    Returns: [N, h w, D] and the key of the largest weight, [N, h w] int32, 0 where all weights are 0.
    """
    batch, depth, sums = q.shape[0], v.shape[2], jnp.promote_types(q.dtype, jnp.float32)
    queries = tiles(*grid, neighbours, SUBLANES, SUBLANES, most)
    keys = tiles(*background, neighbours, 1, LANES, most)

    def window(x: jax.Array, index: np.ndarray) -> jax.Array:
        """[N, positions, C] -> [N, tiles, positions, C], 0 where there is none: rows of one matrix."""
        n, positions, channels = x.shape
        rows = np.arange(n)[:, None, None] * positions + index
        rows = np.where(index < positions, rows, n * positions)
        return jnp.take(x.reshape(-1, channels), rows, axis=0, mode='fill', fill_value=0)

    valid = jnp.broadcast_to(valid[..., None].astype(sums), (batch, *valid.shape[1:], 1))
    marks = window(valid, keys.index).swapaxes(2, 3)
    height = queries.rows * queries.span

    def rows(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *shape), lambda n, i, j: (n, i, 0, 0))

    def columns(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *shape), lambda n, i, j: (n, j, 0, 0))

    y, best = pl.pallas_call(
        functools.partial(_kernel, queries=queries, keys=keys, scale=scale),
        (
            jax.ShapeDtypeStruct((batch, len(queries.index), height, depth), sums),
            jax.ShapeDtypeStruct((batch, len(queries.index), height, 1), jnp.int32),
        ),
        grid=(batch, len(queries.index), len(keys.index)),
        in_specs=[
            (
                pl.BlockSpec((None, queries.index.shape[1], 1), lambda n, i, j: (i, 0, 0)),
                pl.BlockSpec((None, 1, keys.index.shape[1]), lambda n, i, j: (j, 0, 0)),
                columns(1, keys.index.shape[1]),
                pl.BlockSpec((None, 1, keys.index.shape[1]), lambda n, i, j: (j, 0, 0)),
            ),
            (
                rows(queries.index.shape[1], q.shape[2]),
                columns(keys.index.shape[1], k.shape[2]),
                columns(keys.index.shape[1], depth),
            ),
        ],
        out_specs=(rows(height, depth), rows(height, 1)),
        scratch_shapes=[tuple(pltpu.VMEM((height, 1), dtype) for dtype in (sums, sums, sums, jnp.int32))],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'parallel', 'arbitrary'), vmem_limit_bytes=100 * 2**20
        ),
        interpret=interpret,
        name='attention',
    )(
        (queries.exists[..., None].astype(sums), keys.exists[:, None].astype(sums), marks, keys.number[:, None]),
        (window(q, queries.index), window(k, keys.index), window(v, keys.index)),
    )

    def untiled(x: jax.Array) -> jax.Array:
        x = x.reshape(batch, -1, -(-grid[1] // queries.columns), queries.rows, queries.span, x.shape[3])
        x = x[:, :, :, :, 1 : 1 + queries.columns].swapaxes(2, 3)
        x = x.reshape(batch, x.shape[1] * queries.rows, -1, x.shape[5])[:, : grid[0], : grid[1]]
        return x.reshape(batch, grid[0] * grid[1], -1)

    return untiled(y).astype(v.dtype), untiled(best)[..., 0]
