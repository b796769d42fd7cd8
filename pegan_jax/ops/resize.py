"""Resizing of arrays [..., H, W, C], reading them anywhere, and pooling."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def _check_size(x: jax.Array, size: tuple[int, int]) -> None:
    if x.ndim < 3:
        raise ValueError(f'x has shape {x.shape}; expected [..., H, W, C].')
    if len(size) != 2 or min(size) < 1 or min(x.shape[-3:-1]) < 1:
        raise ValueError(f'size={size} for x of shape {x.shape}; both need (height, width) of at least 1.')


def _interpolate(
    x: jax.Array, axis: int, numerator: jax.Array, denominator: int, width: int | None = None
) -> jax.Array:
    """Reads x linearly along one axis at the positions numerator / denominator, int32 [n], within its length.

    The weight of input i at position s is max(0, 1 - |s - i|); it is computed in integers, so only the last division
    rounds. With a width above the denominator, it is max(0, 1 - |s - i| denominator / width), divided by the sum.
    """
    index = jnp.arange(x.shape[axis])
    distance = jnp.abs(numerator[:, None] - denominator * index[None, :])
    if width is None or width <= denominator:
        weights = jnp.maximum(denominator - distance, 0).astype(jnp.float32) / denominator
    else:
        weights = jnp.maximum(width - distance, 0).astype(jnp.float32)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    out = jnp.tensordot(weights, x.astype(jnp.float32), (1, axis), precision='highest')
    return jnp.moveaxis(out, 0, axis)


def resize_align_corners(x: jax.Array, size: tuple[int, int], *, antialias: bool = False) -> jax.Array:
    """Bilinear resize that keeps corner pixels: output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    Args:
      x: [..., H, W, C]; weights and sums are float32, the result has x's dtype.
      size: (height, width) of the result.
      antialias: along an axis that gets shorter, average with a triangle as wide as the reduction, so that detail too
        fine for the result does not come back as stripes.
    Returns: [..., *size, C].
    Raises: ValueError for other ranks and empty sizes.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        if n != x.shape[axis]:
            last = x.shape[axis] - 1
            width = last if antialias else None
            out = _interpolate(out, axis, jnp.arange(n) * last, max(n - 1, 1), width)
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


def resize_corner(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize that aligns the first pixels: output t of n reads min(t in / n, in - 1), as TensorFlow 1 did.

    The result is off by half an output pixel to the left and up, and never antialiased; networks of that time were
    trained with it. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    out = x
    for axis, n in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        length = x.shape[axis]
        if n != length:
            out = _interpolate(out, axis, jnp.minimum(jnp.arange(n) * length, n * (length - 1)), n)
    return out.astype(x.dtype)


def resize_bicubic(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize of floats with aligned pixel edges (a = -1/2), as wide as the reduction: Pillow's BICUBIC.

    Taps inside the image take over the weights of those outside. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    return _along_axes(x, size, _wide_bicubic_matrix)


def _along_axes(x: jax.Array, size: tuple[int, int], matrix: Callable[[int, int], np.ndarray]) -> jax.Array:
    """matrix(length, n) [n, length] times the columns, then the rows, in float32, for each side that changes."""
    out = x.astype(jnp.float32)
    for axis, n in zip((x.ndim - 2, x.ndim - 3), reversed(size), strict=True):
        if n != x.shape[axis]:
            weights = jnp.asarray(matrix(x.shape[axis], n), jnp.float32)
            out = jnp.moveaxis(jnp.tensordot(weights, out, (1, axis), precision='highest'), 0, axis)
    return out.astype(x.dtype)


@functools.cache
def _wide_bicubic_matrix(length: int, n: int) -> np.ndarray:
    width = max(length / n, 1)
    middle = (np.arange(n) + 0.5) * length / n
    t = np.abs((np.arange(length)[None, :] + 0.5 - middle[:, None]) / width)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * (t**3 - 5 * t**2 + 8 * t - 4)
    matrix = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest resize: output t of n copies input floor(t in / n).

    Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    rows = jnp.arange(size[0]) * x.shape[-3] // size[0]
    columns = jnp.arange(size[1]) * x.shape[-2] // size[1]
    return jnp.take(jnp.take(x, rows, axis=-3), columns, axis=-2)


def double(x: jax.Array) -> jax.Array:
    """Every pixel four times: [N, H, W, C] -> [N, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def halve(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 of x [N, H, W, C]; an odd last row or column is left out."""
    h, w = (side // 2 for side in x.shape[1:3])
    return jnp.mean(x[:, : 2 * h, : 2 * w].reshape(len(x), h, 2, w, 2, -1), axis=(2, 4))


def bilinear(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Reads x [N, H, W, C] between its pixels, bilinearly, with zeros around it.

    Args:
      positions: [N, h, w, 2] float32, (x, y) in pixels, (0, 0) the middle of the first one.
    Returns: [N, h, w, C] in the dtype of x.
    Raises: ValueError for other shapes.
    """
    if x.ndim != 4 or positions.ndim != 4 or positions.shape[-1] != 2 or len(x) != len(positions):
        raise ValueError(f'x has shape {x.shape}, positions {positions.shape}; expected [N, H, W, C], [N, h, w, 2].')
    end = jnp.array(x.shape[2:0:-1], jnp.float32).reshape(1, 1, 1, 2)
    positions = jnp.clip(positions, -1, end)
    corner = jnp.minimum(jnp.floor(positions), end - 1)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    # The four neighbours at once: the transpose of one gather of squares is faster than that of four gathers.
    def square(image: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (at[1], at[0], 0), (2, 2, x.shape[3]))

    across = jax.vmap(jax.vmap(square, (None, 0)), (None, 0))
    near = jax.vmap(across)(padded, corner.astype(jnp.int32) + 1)
    tx, ty = jnp.split((positions - corner).astype(x.dtype), 2, axis=-1)
    rows = near[..., 0, :] + tx[..., None] * (near[..., 1, :] - near[..., 0, :])
    return rows[..., 0, :] + ty * (rows[..., 1, :] - rows[..., 0, :])


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Means over size[0] x size[1] bins: bin b of n averages positions floor(b in / n) to ceil((b + 1) in / n) - 1.

    Bins overlap if n does not divide the length. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    return _along_axes(x, size, _pool_matrix)


@functools.cache
def _pool_matrix(length: int, n: int) -> np.ndarray:
    index, position = np.arange(n), np.arange(length)
    first, end = index * length // n, -(-(index + 1) * length // n)
    inside = (position[None, :] >= first[:, None]) & (position[None, :] < end[:, None])
    return inside / (end - first)[:, None]


def resize_bicubic_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize that keeps corner pixels (a = -3/4): output t of n reads t (in - 1) / (n - 1), and 0 if n = 1.

    The four taps are clamped to the image. Never antialiased. Args and errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    return _along_axes(x, size, _corners_bicubic_matrix)


def resize_bicubic_half_pixel(x: jax.Array, size: tuple[int, int], *, offset: float = 0) -> jax.Array:
    """Bicubic resize with aligned pixel edges (a = -3/4): output t of n reads (t + 1/2) in / (n + offset) - 1/2.

    The four taps are clamped to the image. Never antialiased. An axis that keeps its length is left as it is. Args and
    errors as in `resize_align_corners`.
    """
    _check_size(x, size)
    return _along_axes(x, size, functools.partial(_edges_bicubic_matrix, offset=offset))


@functools.cache
def _corners_bicubic_matrix(length: int, n: int) -> np.ndarray:
    return _bicubic_matrix(length, np.arange(n) * (length - 1) / max(n - 1, 1))


@functools.cache
def _edges_bicubic_matrix(length: int, n: int, offset: float) -> np.ndarray:
    return _bicubic_matrix(length, (np.arange(n) + 0.5) * length / (n + offset) - 0.5)


def _bicubic_matrix(length: int, position: np.ndarray) -> np.ndarray:
    """[n, length]: weights of the four inputs around each position [n]."""
    n, low = len(position), np.floor(position)
    matrix = np.zeros((n, length))
    for tap in range(-1, 3):
        t = np.abs(position - low - tap)
        near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        index = np.clip(low + tap, 0, length - 1).astype(int)
        np.add.at(matrix, (np.arange(n), index), np.where(t <= 1, near, np.where(t < 2, far, 0.0)))
    return matrix
