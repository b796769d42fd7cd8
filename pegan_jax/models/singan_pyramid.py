"""The pyramid of SinGAN (Shaham et al. 2019, section 2): sizes of its scales, their images, and hops between them.

Both released programs compute sizes from the sides of the image alone. Functions of a `model` read its `singan.Config`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import ops
from pegan_jax.settings import ConfigError, UserError

LEAST_SR_FACTOR = 1.13  # below it, `sr_schedule` rounds to no step


@dataclass(frozen=True)
class Pyramid:
    """sizes: (height, width) of every scale, coarse to fine; ratio: that of the sides of neighbours, at most 1."""

    sizes: tuple[tuple[int, int], ...]
    ratio: float


def pyramid_sizes(height: int, width: int, model: Any) -> Pyramid:
    """The scales of an image of height x width pixels (Shaham et al., section 2, as released).

    With A = ceil(log(min_size / short side) / log(scale_factor)) + 1 and B the same for shrinking the long side to
    max_size, there are N + 1 = A - B + 1 scales, and the ratio is (min_size / short side of the shrunk image)^(1 / N).

    Raises: ConfigError for an image too small to have two scales, either as it is or shrunk to max_size.
    """
    short, long = min(height, width), max(height, width)
    if short < model.min_size:
        raise ConfigError(
            f'the image has {height} x {width} pixels, its shorter side fewer than model.min_size={model.min_size}; '
            'take a larger image or a smaller min_size.'
        )
    shrink = min(model.max_size / long, 1)
    side = _mmgen_side if model.rules == 'mmgen' else _original_side
    work = (side(height, shrink), side(width, shrink)) if shrink < 1 else (height, width)
    if min(work) < model.min_size:
        raise ConfigError(
            f'an image of {height} x {width} pixels, shrunk to model.max_size={model.max_size}, has a shorter side of '
            f'{min(work)}, fewer than model.min_size={model.min_size}; raise max_size or lower min_size.'
        )
    # For super-resolution, the released program truncates, and divides by the width.
    enlarges = model.sr_factor is not None
    log_factor = math.log(1 / sr_schedule(model.sr_factor)[1] if enlarges else model.scale_factor)
    whole, longest = (int, width) if enlarges else (math.ceil, long)
    count = whole(math.log(model.min_size / short) / log_factor) + 1
    count -= whole(math.log(min(model.max_size, long) / longest) / log_factor)
    if count < 1:
        raise ConfigError(
            f'an image of {height} x {width} pixels with model.min_size={model.min_size} and model.max_size='
            f'{model.max_size} has no second scale; raise max_size or lower min_size.'
        )
    base = (height, width) if model.rules == 'mmgen' else work
    ratio = (model.min_size / min(work)) ** (1 / count)
    factors = [ratio ** (count - i) for i in range(count + 1)]
    return Pyramid(tuple((side(base[0], f), side(base[1], f)) for f in factors), ratio)


def sr_schedule(factor: float) -> tuple[int, float]:
    """Steps of a super-resolution by `factor`, and the ratio of each: about the third root of 2."""
    repeats = round(math.log(1 / factor) / math.log(2 ** (-1 / 3)))
    return repeats, factor ** (1 / repeats)


def _original_side(side: int, factor: float) -> int:
    return math.ceil(side * factor)


def _mmgen_side(side: int, factor: float) -> int:
    return int(side * factor + 0.5)


def scaled_sizes(native: Sequence[tuple[int, int]], size: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Sizes of all scales when the finest is to have `size`: each side times the same factor, rounded half to even.

    Raises: ValueError if a side would be 0.
    """
    if size is None:
        return [tuple(s) for s in native]
    factors = [wanted / have for wanted, have in zip(size, native[-1], strict=True)]
    sizes = [tuple(round(n * f) for n, f in zip(s, factors, strict=True)) for s in native]
    if min(min(s) for s in sizes) < 1:
        raise UserError(f'size={size} is too small: the coarsest scale of {native[0]} would vanish.')
    return sizes


# Resizing -------------------------------------------------------------------------------------------------------------


def _cubic(t: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -1/2."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t <= 2, far, 0.0))


def _cubic_matrix(length: int, out: int, factor: float, shrink: bool) -> np.ndarray:
    """Weights [out, length] of the antialiased bicubic resize of one axis, float64; borders are reflected."""
    stretch = factor if shrink else 1.0
    support = 4 / stretch
    centres = np.arange(1, out + 1) / factor + 0.5 * (1 - 1 / factor)
    taps = np.floor(centres - support / 2)[:, None] + np.arange(math.ceil(support) + 2)
    weights = _cubic(stretch * (centres[:, None] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    index = np.mod(taps.astype(int) - 1, 2 * length)
    index = np.where(index < length, index, 2 * length - 1 - index)
    matrix = np.zeros((out, length))
    np.add.at(matrix, (np.arange(out)[:, None], index), weights)
    return matrix


def _cubic_matrices(
    size: tuple[int, int], out: tuple[int, int] | None, factor: float | None
) -> list[np.ndarray | None]:
    """Matrices for rows and columns; None for an axis that keeps its length. Give `out` or one factor for both."""
    factors = (factor, factor) if out is None else (out[0] / size[0], out[1] / size[1])
    out = tuple(math.ceil(n * f) for n, f in zip(size, factors, strict=True)) if out is None else out
    # As in the original program, the vertical factor decides for both axes whether the kernel is widened.
    return [
        None if f == 1 else _cubic_matrix(n, m, f, factors[0] < 1) for n, m, f in zip(size, out, factors, strict=True)
    ]


def resize_pixels(image: np.ndarray, *, size: tuple[int, int] | None = None, factor: float | None = None) -> np.ndarray:
    """Antialiased bicubic resize of the original program, in float64.

    Args:
      image: [H, W, C].
      size: (height, width) of the result; or
      factor: factor on both sides, which become ceil(side factor).
    Returns: [*size, C] float64, neither clamped nor rounded.
    """
    out = image.astype(np.float64)
    for axis, matrix in enumerate(_cubic_matrices(image.shape[:2], size, factor)):
        if matrix is not None:
            out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
    return out


def quantise(x: jax.Array) -> jax.Array:
    """[-1, 1] to whole levels 0 .. 255, truncated, as float32."""
    return jnp.floor(jnp.clip((x + 1) / 2, 0, 1) * 255)


def resize_quantised(x: jax.Array, *, size: tuple[int, int] | None = None, factor: float | None = None) -> jax.Array:
    """`resize_pixels` of images [N, H, W, C] in [-1, 1] by way of 8 bits, truncated, as in the original program.

    Not differentiable: earlier scales are frozen.
    """
    levels = quantise(x)
    for axis, matrix in enumerate(_cubic_matrices(x.shape[1:3], size, factor), 1):
        if matrix is not None:
            moved = jnp.tensordot(jnp.asarray(matrix, jnp.float32), levels, (1, axis), precision='highest')
            levels = jnp.moveaxis(moved, 0, axis)
    return jnp.clip((levels / 255 - 0.5) * 2, -1, 1)


def make_pyramid(image: np.ndarray, model: Any) -> tuple[list[np.ndarray], Pyramid]:
    """The real images of all scales, coarse to fine.

    Args:
      image: uint8 [H, W, C].
    Returns: float32 [h, w, C] in [-1, 1] each; and their sizes.
    Raises: ConfigError as `pyramid_sizes`.
    """
    pyramid = pyramid_sizes(*image.shape[:2], model)
    count = len(pyramid.sizes) - 1
    if model.rules == 'mmgen':
        levels = [np.rint(ops.resize_half_pixel(jnp.asarray(image, jnp.float32), s)) for s in pyramid.sizes]
        return [np.float32(2) * (np.float32(u) / np.float32(255) - np.float32(0.5)) for u in levels], pyramid
    x = jnp.asarray((image.astype(np.float32) / 255 - 0.5) * 2)[None]
    x = resize_quantised(x, factor=min(model.max_size / max(image.shape[:2]), 1))
    reals = [np.asarray(resize_quantised(x, factor=pyramid.ratio ** (count - i))[0]) for i in range(count + 1)]
    return reals, pyramid


# Palettes -------------------------------------------------------------------------------------------------------------


def find_palette(real: np.ndarray) -> np.ndarray:
    """The five colours of an image [h, w, C] that k-means finds, [5, C]."""
    from scipy.cluster.vq import kmeans2  # not above: it takes long to import, and only paintings need it

    return kmeans2(real.reshape(-1, real.shape[-1]).astype(np.float64), 5, iter=100, minit='++', rng=0)[0].astype(
        np.float32
    )


def to_palette(images: jax.Array, palette: jax.Array) -> jax.Array:
    """Images [N, h, w, C] in the colours of a palette [K, C], without a gradient (Shaham et al., paint-to-image).

    K-means, starting from the palette, clusters the colours of each image; every pixel takes the palette's colour for
    its cluster, whatever shade the painter gave it.
    """

    def one(pixels: jax.Array) -> jax.Array:
        def nearest(centres: jax.Array) -> jax.Array:
            distance = jnp.sum(jnp.square(pixels[:, None] - centres[None]), axis=-1)
            return jax.nn.one_hot(jnp.argmin(distance, axis=-1), len(palette))

        def move(centres: jax.Array, _: None) -> tuple:
            members = nearest(centres)
            count = jnp.sum(members, axis=0)[:, None]
            return jnp.where(count > 0, members.T @ pixels / jnp.maximum(count, 1), centres), None

        return nearest(jax.lax.scan(move, palette, length=20)[0]) @ palette

    flat = jax.lax.stop_gradient(images).reshape(len(images), -1, images.shape[-1])
    return jax.vmap(one)(flat).reshape(images.shape)
