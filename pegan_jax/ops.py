"""Image operators on NHWC arrays: resizing, FIR filters."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _check_size(x: jax.Array, size: tuple[int, int]) -> None:
    if x.ndim < 3:
        raise ValueError(f'x has shape {x.shape}; expected [..., H, W, C].')
    if len(size) != 2 or min(size) < 1 or min(x.shape[-3:-1]) < 1:
        raise ValueError(f'size={size} for x of shape {x.shape}; both need (height, width) of at least 1.')


def _interpolate(x: jax.Array, axis: int, numerator: jax.Array, denominator: int) -> jax.Array:
    """Reads x linearly along one axis at the positions numerator / denominator, int32 [n], within its length.

    The weight of input i at position s is max(0, 1 - |s - i|); of integers, only the last division rounds.
    """
    index = jnp.arange(x.shape[axis])
    distance = jnp.abs(numerator[:, None] - denominator * index[None, :])
    weights = jnp.maximum(denominator - distance, 0).astype(jnp.float32) / denominator
    out = jnp.tensordot(weights, x.astype(jnp.float32), (1, axis), precision='highest')
    return jnp.moveaxis(out, 0, axis)


def resize_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize that keeps corner pixels: output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    Args:
      x: [..., H, W, C]; weights and sums are float32, the result has x's dtype.
      size: (height, width) of the result.
    Returns: [..., *size, C].
    Raises: ValueError for other ranks and empty sizes.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        if n != x.shape[axis]:
            out = _interpolate(out, axis, jnp.arange(n) * (x.shape[axis] - 1), max(n - 1, 1))
    return out.astype(x.dtype)


def resize_half_pixel(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize with aligned pixel edges: output t of n reads clip((t + 1/2) in / n - 1/2, 0, in - 1).

    Never antialiased, unlike `jax.image.resize`. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        length = x.shape[axis]
        if n != length:
            numerator = (2 * jnp.arange(n) + 1) * length - n
            out = _interpolate(out, axis, jnp.clip(numerator, 0, 2 * n * (length - 1)), 2 * n)
    return out.astype(x.dtype)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest resize: output t of n copies input floor(t in / n).

    Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    rows = jnp.arange(size[0]) * x.shape[-3] // size[0]
    columns = jnp.arange(size[1]) * x.shape[-2] // size[1]
    return jnp.take(jnp.take(x, rows, axis=-3), columns, axis=-2)


def resize_bicubic_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize that keeps corner pixels (a = -3/4): output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    The four taps are clamped to the image. Never antialiased. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x.astype(jnp.float32)
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        if n != x.shape[axis]:
            weights = jnp.asarray(_bicubic_matrix(x.shape[axis], n), jnp.float32)
            out = jnp.moveaxis(jnp.tensordot(weights, out, (1, axis), precision='highest'), 0, axis)
    return out.astype(x.dtype)


@functools.cache
def _bicubic_matrix(length: int, n: int) -> np.ndarray:
    position = np.arange(n) * (length - 1) / max(n - 1, 1)
    low = np.floor(position)
    matrix = np.zeros((n, length))
    for tap in range(-1, 3):
        t = np.abs(position - low - tap)
        near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        index = np.clip(low + tap, 0, length - 1).astype(int)
        np.add.at(matrix, (np.arange(n), index), np.where(t <= 1, near, np.where(t < 2, far, 0.0)))
    return matrix


# FIR filters ----------------------------------------------------------------------------------------------------------


def setup_filter(taps: tuple[float, ...]) -> jax.Array:
    """Outer product of the taps with themselves, divided by its sum: [n, n] float32."""
    f = np.outer(taps, taps)
    return jnp.asarray(f / f.sum(), jnp.float32)


def upfirdn2d(
    x: jax.Array,
    f: jax.Array,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> jax.Array:
    """Upsample by zeros, pad by zeros, convolve, keep every down-th position (Karras et al. 2019, "upfirdn2d").

    Along each axis y[n] = sum_k f[K-1-k] xp[n down + k], where xp is x, up - 1 zeros after every sample, and padding.
    The sum runs in float32 at least. The filter counts as a constant: its own derivative is zero.

    Args:
      x: [N, H, W, C].
      f: [K, L]; rows of the filter meet rows of the image.
      padding: zeros (left, right, top, bottom) around the upsampled image; negative crops.
    Returns: [N, (H up + top + bottom - K) // down + 1, (W up + left + right - L) // down + 1, C] in the dtype of x.
    Raises: ValueError for other ranks, or if the padded image is smaller than the filter.
    """
    if x.ndim != 4 or f.ndim != 2:
        raise ValueError(f'upfirdn2d needs x [N, H, W, C] and f [K, L], got {x.shape} and {f.shape}.')
    pads = (padding[2:], padding[:2])
    for n, k, pad in zip(x.shape[1:3], f.shape, pads, strict=True):
        if n * up + sum(pad) < k:
            raise ValueError(f'{n} * {up} + {pad[0]} + {pad[1]} positions are fewer than the {k} taps of the filter.')
    return _upfirdn2d(x, f, up, down, pads, x.shape[1:3])


def _phases(n: int, taps: int, up: int, down: int, pad: tuple[int, int]) -> tuple[list, int, int]:
    """The output along one axis, split by position modulo up / gcd(up, down).

    Returns: one list per phase of (tap, first input position), the step between input positions, the output length.
    """
    common = math.gcd(up, down)
    offsets = [[r * down + k - pad[0] for k in range(taps)] for r in range(up // common)]
    phases = [[(k, o // up) for k, o in enumerate(row) if o % up == 0] for row in offsets]
    return phases, down // common, (n * up + sum(pad) - taps) // down + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _upfirdn2d(x: jax.Array, f: jax.Array, up: int, down: int, pads: tuple, size: tuple[int, int]) -> jax.Array:
    # A sum of shifted slices, one per tap and phase, which XLA fuses into a single loop.
    plans = [_phases(n, k, up, down, pad) for n, k, pad in zip(size, f.shape, pads, strict=True)]
    starts, spans, counts, dtype = [], [], [], jnp.promote_types(x.dtype, jnp.float32)
    for n, (phases, step, out) in zip(size, plans, strict=True):
        count = -(-out // len(phases))
        first = [start for phase in phases for _, start in phase]
        before, after = max(0, -min(first, default=0)), max(0, max(first, default=0) + (count - 1) * step + 1 - n)
        starts.append(before)
        spans.append((before, after, 0))
        counts.append(count)
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spans, (0, 0, 0)]).astype(dtype)
    (rows, row_step, height), (columns, column_step, width) = plans
    taps = f[::-1, ::-1].astype(dtype)

    def phase(row: list, column: list) -> jax.Array:
        total = jnp.zeros((x.shape[0], *counts, x.shape[3]), dtype)
        for i, y0 in row:
            for j, x0 in column:
                top, left = y0 + starts[0], x0 + starts[1]
                bottom, right = top + (counts[0] - 1) * row_step + 1, left + (counts[1] - 1) * column_step + 1
                total += taps[i, j] * padded[:, top:bottom:row_step, left:right:column_step, :]
        return total

    y = jnp.stack([jnp.stack([phase(row, column) for column in columns], axis=3) for row in rows], axis=2)
    y = y.reshape(x.shape[0], counts[0] * len(rows), counts[1] * len(columns), x.shape[3])
    return y[:, :height, :width, :].astype(x.dtype)


def _upfirdn2d_fwd(x: jax.Array, f: jax.Array, *static: Any) -> tuple[jax.Array, jax.Array]:
    return _upfirdn2d(x, f, *static), f


def _upfirdn2d_bwd(up: int, down: int, pads: tuple, size: tuple, f: jax.Array, g: jax.Array) -> tuple:
    # The adjoint is the same operator with the factors exchanged and the filter reversed. The transpose that automatic
    # differentiation finds, a sum of padded arrays, is several times slower on CPU.
    adjoint_pads = tuple(
        (k - 1 - pad[0], n * up - out * down + pad[0] - up + 1)
        for n, k, pad, out in zip(size, f.shape, pads, g.shape[1:3], strict=True)
    )
    return _upfirdn2d(g, f[::-1, ::-1], down, up, adjoint_pads, g.shape[1:3]), jnp.zeros_like(f)


_upfirdn2d.defvjp(_upfirdn2d_fwd, _upfirdn2d_bwd)
