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


def patches3(x: jax.Array) -> jax.Array:
    """3x3 windows with a border of zeros: [N, h, w, C] -> [N, h w, 9 C]."""
    n, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=-1).reshape(n, h * w, -1)


def copied_patches(b: jax.Array, rate: int) -> jax.Array:
    """Windows of side 2 rate every rate pixels, padded as `same_padding`: [N, H, W, C] -> [N, B, 2 rate, 2 rate, C]."""
    n, height, width, c = b.shape
    pad = same_padding(height, 2 * rate, rate)  # the same for all multiples of rate
    padded = jnp.pad(b, ((0, 0), pad, pad, (0, 0)))
    blocks = padded.reshape(n, height // rate + 1, rate, width // rate + 1, rate, c).swapaxes(2, 3)
    rows = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=3)
    return jnp.concatenate([rows[:, :, :-1], rows[:, :, 1:]], axis=4).reshape(n, -1, 2 * rate, 2 * rate, c)


def paste_patches(patches: jax.Array, rate: int) -> jax.Array:
    """Adjoint of `copied_patches`, divided by 4: [N, h, w, 2 rate, 2 rate, C] -> [N, h rate, w rate, C].

    Four patches meet in a pixel, but two at the image's edges and one in its corners: these are dimmed, as published.
    """
    n, h, w, _, _, c = patches.shape
    total = 0.0
    for i in range(2):
        for j in range(2):
            part = patches[:, :, :, i * rate : (i + 1) * rate, j * rate : (j + 1) * rate]
            total += jnp.pad(part, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0), (0, 0)))
    image = total.swapaxes(2, 3).reshape(n, (h + 1) * rate, (w + 1) * rate, c)
    before = rate // 2
    return image[:, before : before + h * rate, before : before + w * rate] / 4


def query_windows(h: int, w: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which queries the fusion of a strip of `rows` rows reads, for every strip of an h x w grid.

    A strip has its own rows, and one row above and one below that hold the neighbours in column-major order. For the
    first row of the grid, these are at its bottom, one column to the left. Every row begins one query early and ends
    one late.

    Returns: flat indices [strips, rows + 2, w + 2], h w where there is no query, and whether the query in the middle
      columns exists, bool [strips, rows + 2, w].
    """
    row = np.arange(-(-h // rows) * rows).reshape(-1, rows)
    row = np.concatenate([row[:, :1] - 1, row, row[:, -1:] + 1], axis=1)[:, :, None]
    column = np.arange(w)[None, None, :]
    exists = (row >= 0) & (row < h) | ((row < 0) & (column > 0)) | ((row == h) & (column < w - 1))
    first = np.where(row < 0, (h - 1) * w - 1, np.where(row < h, row * w, 1))
    index = first + np.arange(-1, w + 1)[None, None, :]
    return np.where((index >= 0) & (index < h * w) & (row <= h), index, h * w), exists


def sum_diagonals(scores: jax.Array) -> jax.Array:
    """First half of the fusion: sum over t = -1, 0, 1 of the scores of query q + t and background j + t.

    scores: [..., w + 2, bh, bw] of queries in row-major order, one more on either side -> [..., w, bh, bw].
    """
    *rest, queries, bh, bw = scores.shape
    flat = jnp.pad(scores.reshape(*rest, queries, bh * bw), [(0, 0)] * (len(rest) + 1) + [(1, 1)])
    w, b = queries - 2, bh * bw
    total = flat[..., :w, :b] + flat[..., 1 : w + 1, 1 : b + 1] + flat[..., 2:, 2:]
    return total.reshape(*rest, w, bh, bw)


def next_in_column(x: jax.Array) -> jax.Array:
    """What comes next in column-major order on [..., bh, bw], zero after the last."""
    wrapped = jnp.pad(x[..., :1, 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])
    return jnp.concatenate([x[..., 1:, :], wrapped], axis=-2)


def previous_in_column(x: jax.Array) -> jax.Array:
    """What comes before in column-major order on [..., bh, bw], zero before the first."""
    wrapped = jnp.pad(x[..., -1:, :-1], [(0, 0)] * (x.ndim - 1) + [(1, 0)])
    return jnp.concatenate([wrapped, x[..., :-1, :]], axis=-2)


def fuse_scores(scores: jax.Array, exists: jax.Array) -> jax.Array:
    """Adds to each score those of neighbouring queries with equally shifted backgrounds (Yu et al. 2018, section 3.2).

    First along rows, then along columns, each in flattened order: the end of a row is followed by the start of the
    next.

    Args:
      scores: [N, rows + 2, w + 2, bh, bw], those of the queries of `query_windows`, 0 where there is none.
      exists: [rows + 2, w].
    Returns: [N, rows, w, bh, bw].
    """
    along = jnp.where(exists[None, :, :, None, None], sum_diagonals(scores), 0.0)
    return previous_in_column(along[:, :-2]) + along[:, 1:-1] + next_in_column(along[:, 2:])


def _with_kernel(by_strips: Callable, grid: tuple[int, int], background: tuple[int, int], scale: float) -> Callable:
    """The Pallas kernel on a TPU, interpreted on a CPU; `by_strips` elsewhere, and for derivatives everywhere."""
    from pegan_jax.models import attention_kernel  # Pallas takes as long to import as all that stands here

    def attend(*arrays: jax.Array, interpret: bool = False) -> tuple:
        options = {'neighbours': query_windows, 'scale': scale, 'most': attention_kernel.MOST, 'interpret': interpret}
        return *attention_kernel.attend(*arrays, grid=grid, background=background, **options), None

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
    n, c = f.shape[0], f.shape[3]
    if any(side % rate for side in (*f.shape[1:3], *b.shape[1:3])):
        raise ValueError(f'features of shapes {f.shape} and {b.shape}; sides must be multiples of rate={rate}.')
    (h, w), (bh, bw) = ((x.shape[1] // rate, x.shape[2] // rate) for x in (f, b))
    if mask is not None:
        chex.assert_shape(mask, ({1, n}, bh, bw, 1))
    valid = jnp.ones((1, bh * bw)) if mask is None else (jnp.sum(patches3(mask), axis=2) == 0).astype(jnp.float32)
    match = patches3(thin_out(b, rate, nearest))
    # The root has no derivative at 0, where a window of zeros would put it; this one's is 0 there.
    match = match / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(match), axis=2, keepdims=True), 1e-8))
    copied = copied_patches(b, rate).reshape(n, bh * bw, -1)
    rows = min(h, max(1, max_scores // (n * w * bh * bw)))
    windows, exists = query_windows(h, w, rows)
    if not fuse:
        windows, exists = windows[:, 1:-1, 1:-1], exists[:, 1:-1]

    def by_strips(queries: jax.Array, match: jax.Array, copied: jax.Array, valid: jax.Array) -> tuple:
        """Weighted sums of what is copied, where the largest weights are, and all weights if asked for."""
        queries = jnp.pad(queries, ((0, 0), (0, 1), (0, 0)))  # the last one is 0

        def strip(window: jax.Array, exists: jax.Array) -> tuple:
            scores = jnp.einsum('nqk,njk->nqj', queries[:, window.reshape(-1)], match)
            if fuse:
                scores = fuse_scores(scores.reshape(n, *window.shape, bh, bw), exists).reshape(n, rows * w, bh * bw)
            weights = jax.nn.softmax(softmax_scale * scores * valid[:, None, :], axis=2) * valid[:, None, :]
            pasted = jnp.einsum('nqj,njk->nqk', weights, copied)
            best = jnp.argmax(weights, axis=2).astype(jnp.int32)
            return pasted, best, weights if return_weights else None

        if len(windows) == 1:
            strips = jax.tree.map(lambda x: x[None], strip(windows[0], exists[0]))
        else:
            strips = jax.lax.map(lambda inputs: jax.checkpoint(strip)(*inputs), (windows, exists))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(n, -1, *x.shape[3:])[:, : h * w], strips)

    run = by_strips
    if fir.KERNELS and fuse and not return_weights:
        run = _with_kernel(by_strips, (h, w), (bh, bw), softmax_scale)
    pasted, best, weights = run(patches3(thin_out(f, rate, nearest)), match, copied, valid)
    y = paste_patches(pasted.reshape(n, h, w, 2 * rate, 2 * rate, c), rate)
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
