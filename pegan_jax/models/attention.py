"""Contextual attention (Yu et al. 2018, arXiv 1801.07892, section 3.2): holes are filled with patches from around them.

DeepFillv2's refinement network has it between its convolutions. Masks are 1 in holes and 0 elsewhere.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import ops
from pegan_jax.ops import fir

Nearest = Literal['aligned', 'linspace', 'plain']
MAX_SCORES = 2**25  # scores of the attention that are held at once

# Padding and nearest resizing -----------------------------------------------------------------------------------------


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Zeros (before, after) that make ceil(size / stride) outputs; an odd one comes after: TensorFlow's SAME."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def nearest_index(size: int, smaller: int, rule: Nearest) -> np.ndarray:
    """Where a nearest resize from `size` to `smaller` positions reads, int [smaller].

    'aligned' and 'linspace': i (size - 1) / (smaller - 1), halves rounded up, or 0 for a single position. Float32
    rounding decides which of two pixels an exact half goes to, as in the published programs; 'linspace' counts the
    second half of the positions from the end. 'plain': i size / smaller.
    """
    if rule == 'plain' or smaller == 1:
        return np.arange(smaller) * (size // smaller)
    step, index = np.float32(size - 1) / np.float32(smaller - 1), np.arange(smaller, dtype=np.float32)
    position = index * step
    if rule == 'linspace':
        position = np.where(index < smaller // 2, position, np.float32(size - 1) - step * index[::-1])
    return np.minimum(np.floor(position.astype(np.float64) + 0.5).astype(int), size - 1)


def thin_out(x: jax.Array, rate: int, rule: Nearest) -> jax.Array:
    """Nearest resize [N, H, W, C] -> [N, H // rate, W // rate, C] by `nearest_index`."""
    rows, columns = (nearest_index(n, n // rate, rule) for n in x.shape[1:3])
    return x[:, rows][:, :, columns]


# Contextual attention -------------------------------------------------------------------------------------------------


class Attended(NamedTuple):
    """What `contextual_attention` returns.

    y: [N, H, W, C] the foreground, made of patches of the background.
    offsets: [N, h, w, 2] int32, (row, column) from each thinned-out position to the one that it attends to most.
    weights: [N, h w, B], how much each position attends to each of the B background positions; None unless asked for.
    """

    y: jax.Array
    offsets: jax.Array
    weights: jax.Array | None


def patches3(x: jax.Array, columns: int = 3) -> jax.Array:
    """Windows of 3 rows and 3 columns, or 1, with a border of zeros: [N, h, w, C] -> [N, h w, 3 columns C]."""
    n, h, w, _ = x.shape
    side = columns // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (side, side), (0, 0)))
    parts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(columns)]
    return jnp.concatenate(parts, axis=-1).reshape(n, h * w, -1)


def lengths(b: jax.Array) -> jax.Array:
    """Lengths of the 3x3 windows of [N, bh, bw, C]: [N, bh bw, 1]."""
    # The root has no derivative at 0, where a window of zeros would put it; this one's is 0 there.
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(patches3(b)), axis=2, keepdims=True), 1e-8))


def blocks(x: jax.Array, rate: int) -> jax.Array:
    """Squares of side rate, which two windows of side 2 rate share: [N, h rate, w rate, C] -> [N, h+1, w+1, rate^2 C].

    A border of zeros is as wide as `same_padding` makes it for such windows, of which one begins at every square but
    the last of each row and column.
    """
    n, height, width, c = x.shape
    pad = same_padding(height, 2 * rate, rate)  # the same for all multiples of rate
    h, w = height // rate + 1, width // rate + 1
    padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    return padded.reshape(n, h, rate, w, rate, c).swapaxes(2, 3).reshape(n, h, w, rate**2 * c)


def unblocked(x: jax.Array, rate: int) -> jax.Array:
    """Undoes `blocks`."""
    n, h, w, depth = x.shape
    padded = x.reshape(n, h, w, rate, rate, depth // rate**2).swapaxes(2, 3).reshape(n, h * rate, w * rate, -1)
    before = rate // 2
    return padded[:, before : before + (h - 1) * rate, before : before + (w - 1) * rate]


def corners(x: jax.Array) -> jax.Array:
    """The four `blocks` of every window: [N, h + 1, w + 1, D] -> [N, h, w, 4 D]. Its adjoint pastes windows."""
    h, w = (side - 1 for side in x.shape[1:3])
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(2) for j in range(2)], axis=-1)


def shared(weights: jax.Array) -> jax.Array:
    """Weights of `blocks` from those of windows: [N, h, w, bh, bw] -> [N, h + 1, w + 1, bh + 1, bw + 1].

    Windows are pasted over each other: block u gets the first half of window u and the second half of window u - 1, and
    so from the same blocks of the background, along both axes.
    """
    weights = jnp.pad(weights, ((0, 0), *((1, 1),) * 4))
    weights = weights[:, :, :-1, :, :-1] + weights[:, :, 1:, :, 1:]
    return weights[:, :-1, :, :-1] + weights[:, 1:, :, 1:]


def strips(h: int, w: int, rows: int, margin: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Which positions the fusion of `rows` rows of an h x w grid reads, for every strip of so many rows.

    A strip has its own rows, and one row above and one below that hold the neighbours in column-major order. For the
    first row of the grid, these are at its bottom, one column to the left. Every row begins `margin` positions early
    and ends as many late.

    Returns: flat indices [strips, rows + 2, w + 2 margin], h w where there is no position, and whether the one in the
      middle columns exists, bool [strips, rows + 2, w].
    """
    row = np.arange(-(-h // rows) * rows).reshape(-1, rows)
    row = np.concatenate([row[:, :1] - 1, row, row[:, -1:] + 1], axis=1)[:, :, None]
    column = np.arange(w)[None, None, :]
    exists = (row >= 0) & (row < h) | ((row < 0) & (column > 0)) | ((row == h) & (column < w - 1))
    first = np.where(row < 0, (h - 1) * w - 1, np.where(row < h, row * w, 1))
    index = first + np.arange(-margin, w + margin)[None, None, :]
    return np.where((index >= 0) & (index < h * w) & (row <= h), index, h * w), exists


def beside(at: np.ndarray, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether a position of `strips` has one before and one after it in its own row, for all but the first and last."""
    at = at[..., 1:-1]
    return (at < h * w) & (at % w > 0), (at < h * w) & (at % w < w - 1)


def add_columns(x: jax.Array, before: jax.Array | None = None, after: jax.Array | None = None) -> jax.Array:
    """Sum over t = -1, 0, 1 of what is t columns away in both grids, [..., w + 2, bh, bw + 2] -> [..., w, bh, bw].

    before, after: where terms of t = -1 and 1 count, bool; None: everywhere.
    """
    first, middle, last = x[..., :-2, :, :-2], x[..., 1:-1, :, 1:-1], x[..., 2:, :, 2:]
    if before is not None:
        first, last = jnp.where(before, first, 0.0), jnp.where(after, last, 0.0)
    return first + middle + last


def add_rows(x: jax.Array) -> jax.Array:
    """Sum over t = -1, 0, 1 of what is t rows away in both grids, [h + 2, ..., bh + 2, bw] -> [h, ..., bh, bw]."""
    return x[:-2, ..., :-2, :] + x[1:-1, ..., 1:-1, :] + x[2:, ..., 2:, :]


def fuse_scores(
    scores: jax.Array, q_exists: jax.Array, k_exists: jax.Array, by_row: Callable[[Callable], Callable] = jax.vmap
) -> jax.Array:
    """Adds to each score those of neighbouring queries with equally shifted backgrounds (Yu et al. 2018, section 3.2).

    First along rows, then along columns, each in flattened order: the end of a row is followed by the start of the
    next.

    Args:
      scores: [rows + 2, N, w + 2, bh + 2, bw + 2], those of `strips` of both grids, 0 where there is none.
      q_exists, k_exists: [rows + 2, w] and [bh + 2, bw] of `strips`.
      by_row: maps a function over rows of queries.
    Returns: [rows, N, w, bh, bw].
    """

    def along(scores: jax.Array, exists: jax.Array) -> jax.Array:
        there = exists[None, :, None, None] & k_exists[None, None]
        return jnp.where(there, add_columns(scores), 0.0)

    return add_rows(by_row(along)(scores, q_exists))


def _one_by_one(function: Callable) -> Callable:
    """As jax.vmap, one after the other."""
    return lambda *arrays: jax.lax.map(lambda row: function(*row), arrays)


def _with_kernel(by_strips: Callable, grid: tuple[int, int], background: tuple[int, int], scale: float) -> Callable:
    """The Pallas kernel on a TPU, interpreted on a CPU; `by_strips` elsewhere, and for derivatives everywhere."""
    from pegan_jax.models import attention_kernel  # Pallas takes as long to import as all that stands here

    def attend(f: jax.Array, b: jax.Array, copied: jax.Array, valid: jax.Array, interpret: bool = False) -> tuple:
        n, depth = len(f), copied.shape[-1]
        windows = corners(copied).reshape(n, -1, 4 * depth)
        options = {'neighbours': strips, 'scale': scale, 'most': attention_kernel.MOST, 'interpret': interpret}
        found, best = attention_kernel.attend(
            patches3(f), patches3(b) / lengths(b), windows, valid, grid=grid, background=background, **options
        )
        h, w = grid
        paste = jax.linear_transpose(corners, jax.ShapeDtypeStruct((n, h + 1, w + 1, depth), found.dtype))
        return *paste(found.reshape(n, h, w, -1)), best, None

    interpreted = functools.partial(attend, interpret=True)
    run = jax.custom_vjp(
        lambda *arrays: jax.lax.platform_dependent(*arrays, tpu=attend, cpu=interpreted, default=by_strips)
    )
    run.defvjp(functools.partial(jax.vjp, by_strips), lambda pull, g: pull(g))
    return run


def contextual_attention(
    f: jax.Array,
    b: jax.Array,
    mask: jax.Array | None = None,
    *,
    rate: int = 2,
    fuse: bool = True,
    nearest: Nearest = 'aligned',
    softmax_scale: float = 10.0,
    max_scores: int = MAX_SCORES,
    return_weights: bool = False,
) -> Attended:
    """Makes a foreground from patches of a background (Yu et al. 2018, section 3.2).

    On grids thinned out by `rate`, the score of position q and background j is <F_q, P_j> / |P_j|, from 3x3 windows F
    and P, then fused. Softmax over j of 10 times the scores weights the background's patches of side 2 rate, which
    are pasted over each other. A background is valid if no pixel of its 3x3 window is masked; the scores of the others
    are set to 0 before the softmax, and their weights after it, so that weights add up to less than 1, as published.

    Args:
      f: [N, H, W, C]; b: [N, H', W', C], sides multiples of rate.
      mask: that of the thinned-out background, [1 or N, H' / rate, W' / rate, 1], 1 in holes; None: no holes. The
        references take the first image's mask for a whole batch; here each image may have its own.
      max_scores: scores that are held at once, and once more for the gradient: queries are taken in strips of rows.
      return_weights: takes memory for all weights, whatever max_scores.
    Raises: ValueError for sides that are not multiples of rate, AssertionError for a mask of another size.
    """
    n = f.shape[0]
    if any(side % rate for side in (*f.shape[1:3], *b.shape[1:3])):
        raise ValueError(f'features of shapes {f.shape} and {b.shape}; sides must be multiples of rate={rate}.')
    (h, w), (bh, bw) = ((x.shape[1] // rate, x.shape[2] // rate) for x in (f, b))
    if mask is not None:
        chex.assert_shape(mask, ({1, n}, bh, bw, 1))
    valid = jnp.ones((1, bh * bw), bool) if mask is None else jnp.sum(patches3(mask), axis=2) == 0
    rows = min(h, max(1, max_scores // (n * w * bh * bw)))
    # XLA on a CPU computes all sums below in one loop, each score many times, unless a loop stands between them.
    by_row = _one_by_one if rows < h and ops.platform() == 'cpu' else jax.vmap

    def by_strips(f: jax.Array, b: jax.Array, copied: jax.Array, valid: jax.Array) -> tuple:
        """Weighted sums of what is copied, where the largest weights are, and all weights if asked for."""
        (q_at, q_exists), (k_at, k_exists) = (strips(*grid, margin=2) for grid in ((h, w, rows), (bh, bw, bh)))
        k_at, k_exists = k_at[0], k_exists[0]
        if not fuse:
            q_at, k_at = q_at[:, 1:-1, 1:-1], k_at[1:-1, 1:-1]
        own = (np.arange(len(q_at) * rows) < h).reshape(-1, rows)  # the last strip may end below the grid
        q_sides, k_sides = beside(q_at, h, w), beside(k_at, bh, bw)
        queries, keys = (jnp.pad(patches3(x, columns=1), ((0, 0), (0, 1), (0, 0))) for x in (f, b))  # the last one is 0
        keys = jnp.moveaxis(keys[:, k_at], -1, 1)
        inverse = jnp.pad(1 / lengths(b)[..., 0], ((0, 0), (0, 1)))[:, None, k_at[:, 1:-1]]

        def products(at: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
            """Of 3x3 windows: the matmul has their middle columns, and the sum the others."""
            scores = jnp.einsum('njc,nckl->njkl', queries[:, at], keys)
            before, after = (
                q[None, :, None, None] & k[None, None] for q, k in zip((before, after), k_sides, strict=True)
            )
            return add_columns(scores, before, after) * inverse

        def strip(at: jax.Array, exists: jax.Array, sides: tuple[jax.Array, jax.Array], own: jax.Array) -> tuple:
            scores = by_row(products)(at, *sides)
            if fuse:
                scores = fuse_scores(scores, exists, k_exists, by_row)
            scores = jnp.moveaxis(scores, 0, 1).reshape(n, rows * w, bh * bw)
            scores = jnp.where(valid[:, None, :], softmax_scale * scores, 0.0)
            weights = jnp.where(valid[:, None, :], jax.nn.softmax(scores, axis=2), 0.0)
            best = jnp.argmax(weights, axis=2).astype(jnp.int32)
            halves = shared(jnp.where(own[:, None, None, None], weights.reshape(n, rows, w, bh, bw), 0.0))
            pasted = jnp.einsum('nijkl,nklc->nijc', halves, copied)
            return pasted, best, weights if return_weights else None

        inputs = (q_at, q_exists, q_sides, own)
        if len(own) == 1:
            found = jax.tree.map(lambda x: x[None], strip(*jax.tree.map(lambda x: x[0], inputs)))
        else:
            found = jax.lax.map(lambda inputs: jax.checkpoint(strip)(*inputs), inputs)
        pasted, *each = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)
        best, weights = jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[3:])[:, : h * w], each)
        # Strips meet in a row of blocks.
        whole = jnp.pad(pasted[:, :, :-1].reshape(n, -1, *pasted.shape[3:]), ((0, 0), (0, 1), (0, 0), (0, 0)))
        return whole.at[:, rows::rows].add(pasted[:, :, -1])[:, : h + 1], best, weights

    run = by_strips
    if fir.KERNELS and fuse and not return_weights:
        run = _with_kernel(by_strips, (h, w), (bh, bw), softmax_scale)
    pasted, best, weights = run(*(thin_out(x, rate, nearest) for x in (f, b)), blocks(b, rate), valid)
    # Four windows meet in a pixel, but two at the edges and one in the corners: these are dimmed, as published.
    y = unblocked(pasted, rate) / 4
    here = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing='ij'), axis=-1).astype(np.int32)
    offsets = jnp.stack([best // bw, best % bw], axis=-1).reshape(n, h, w, 2) - here[None]
    return Attended(y, offsets, weights)


# Pictures of what it attends to ---------------------------------------------------------------------------------------


def colour_wheel() -> np.ndarray:
    """55 colours around a circle, red, yellow, green, cyan, blue, magenta (Baker et al. 2007, Middlebury): [55, 3]."""
    runs = ((15, 0, 1), (6, 1, 0), (4, 1, 2), (11, 2, 1), (13, 2, 0), (6, 0, 2))  # length, full channel, ramp
    wheel = []
    for k, (length, full, ramp) in enumerate(runs):
        colours = np.zeros((length, 3))
        up = np.floor(255 * np.arange(length) / length)
        colours[:, full], colours[:, ramp] = 255, up if k % 2 == 0 else 255 - up
        wheel.append(colours)
    return np.concatenate(wheel)


def flow_picture(offsets: np.ndarray | jax.Array, rate: int = 2) -> np.ndarray:
    """Offsets of the attention as colours: direction is hue, distance is saturation, white is no offset.

    Distances are relative to the largest one in the image and those before it in the batch.

    Args:
      offsets: [N, h, w, 2], (row, column).
      rate: the picture is enlarged by it, bilinearly.
    Returns: [N, h rate, w rate, 3] float32 in [-1, 1].
    """
    u, v = np.moveaxis(np.asarray(offsets, np.float64), -1, 0)
    radius = np.hypot(u, v)
    largest = np.maximum.accumulate(radius.max(axis=(1, 2))) + np.finfo(np.float64).eps
    radius = (radius / largest[:, None, None])[..., None]
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    low = np.floor(position).astype(int)
    wheel, part = colour_wheel() / 255, (position - low)[..., None]
    colour = (1 - part) * wheel[low] + part * wheel[(low + 1) % 55]
    levels = np.floor(255 * (1 - radius * (1 - colour)))
    height, width = (rate * n for n in u.shape[1:])
    return np.asarray(ops.resize_align_corners((levels / 127.5 - 1).astype(np.float32), (height, width)))
