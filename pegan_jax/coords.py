"""Where to look: grids, crops, cylinders and scattered sets of coordinates, and evaluation in chunks.

A coordinate is (x, y), x to the right and y down. Arrays of coordinates are float32 [..., 2], a grid is
[H, W, 2], and [-1, 1] spans the image along each axis. Sizes are static; everything else may be traced.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.settings import UserError

# Grids ----------------------------------------------------------------------------------------------------------------


LARGEST_SIDE = 2**24  # float32 does not tell more columns apart


def check_size(height: int, width: int) -> None:
    """Raises: ValueError for an empty grid, and for one whose neighbours would have the same coordinate."""
    if height < 1 or width < 1:
        raise UserError(f'height={height}, width={width}: a grid needs at least one row and one column.')
    if max(height, width) > LARGEST_SIDE:
        raise UserError(
            f'height={height}, width={width}: float32 tells at most {LARGEST_SIDE:,} rows or columns apart; use fewer.'
        )


def _axis(n: int, low: float, high: float, centered: bool = False) -> jax.Array:
    """n samples [n] from low to high: with both ends, or at the centres of n equal cells."""
    j = jnp.arange(n, dtype=jnp.float32)
    if centered:
        return (low * (2 * n - 1 - 2 * j) + high * (2 * j + 1)) / (2 * n)
    samples = (low * (n - 1 - j) + high * j) / max(n - 1, 1)
    # Compilers may divide by multiplying with a rounded reciprocal; the ends must be exact all the same.
    return jnp.where(j == 0, low, jnp.where(j == n - 1, high, samples)).astype(jnp.float32)


def _mesh(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def grid(
    height: int,
    width: int,
    *,
    x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0),
    centered: bool = False,
) -> jax.Array:
    """A regular grid over any extent.

    Column j is low + (high - low) j / (width - 1), so that both ends are samples, bit for bit (CIPS, CSG); a
    single column is at low. With `centered` it is low + (high - low) (j + 1/2) / width, the centre of a pixel.
    Rows likewise.

    Args:
      height, width: number of samples.
      x, y: (low, high) of each axis; (-2, 2) is the unit range [-0.5, 1.5], see `from_unit`.
    Returns: [height, width, 2] float32, (-1, -1) at the top left by default.
    Raises: ValueError for an empty grid, and for more than 2^24 rows or columns.
    """
    check_size(height, width)
    return _mesh(_axis(width, *x, centered), _axis(height, *y, centered))


def pixel_grid(height: int, width: int) -> jax.Array:
    """Integer positions (column, row) as float32, [height, width, 2]. Raises ValueError for an empty grid."""
    check_size(height, width)
    return _mesh(jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32))


def pixel_shift(offset: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Pixels (right, down) as a distance in the `grid` of images of a size: 2 n / (width - 1), 2 n / (height - 1).

    Args: offset: [..., 2]; size: (height, width). Returns: [..., 2] float32.
    """
    steps = jnp.array([max(side - 1, 1) for side in size[::-1]], jnp.float32)
    return 2 * offset.astype(jnp.float32) / jnp.broadcast_to(steps, offset.shape)


def from_unit(u: jax.Array) -> jax.Array:
    """[0, 1] to [-1, 1]: 2 u - 1. The unit range [-0.5, 1.5] becomes [-2, 2]."""
    return 2 * u - 1


def to_unit(coords: jax.Array) -> jax.Array:
    """[-1, 1] to [0, 1]: (c + 1) / 2, the inverse of `from_unit`."""
    return (coords + 1) / 2


# Affine transforms ----------------------------------------------------------------------------------------------------
#
# They are named after what the content of the image does when rendered at the transformed coordinates. The pixel
# at p then shows what was at M p: a matrix is the inverse of the motion of the content.


def _matrix(rows: list[list[Any]]) -> jax.Array:
    return jnp.array([[jnp.asarray(v, jnp.float32) for v in row] for row in rows])


def translate(dx: float, dy: float) -> jax.Array:
    """Moves the content by dx to the right and dy down. [3, 3], in units of the coordinates."""
    return _matrix([[1, 0, -dx], [0, 1, -dy], [0, 0, 1]])


def rotate(angle: float) -> jax.Array:
    """Turns the content about the origin by `angle` radians, anticlockwise on the screen. [3, 3]."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def zoom(factor: float, factor_y: float | None = None) -> jax.Array:
    """Magnifies the content about the origin: 2 shows the middle half, 0.5 shows twice the extent. [3, 3]."""
    return _matrix([[1 / factor, 0, 0], [0, 1 / (factor if factor_y is None else factor_y), 0], [0, 0, 1]])


def compose(*matrices: jax.Array) -> jax.Array:
    """Applies the given transforms to the content from left to right: their product. [3, 3]."""
    out = jnp.eye(3, dtype=jnp.float32)
    for matrix in matrices:
        out = jnp.matmul(out, matrix, precision='highest')
    return out


def transform(coords: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies a matrix [3, 3] to points: (x, y, 1) -> M (x, y, 1), the last row of M being (0, 0, 1).

    Returns: coords' shape, float32, computed without matrix units, so that no backend rounds the inputs.
    Raises: ValueError for a matrix of another shape or last row (only the shape of a traced matrix is known).
    """
    check_matrices(matrix)
    x, y = coords[..., 0], coords[..., 1]
    m = matrix.astype(jnp.float32)
    return jnp.stack([m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]], axis=-1)


def check_matrices(matrix: np.ndarray | jax.Array, count: int | None = None) -> None:
    """Raises ValueError unless `matrix` is [3, 3] with the last row (0, 0, 1), or `count` of these."""
    shape = np.shape(matrix)
    if shape not in ((3, 3), (count, 3, 3)):
        several = '' if count is None else f', or one for each of {count} images, [{count}, 3, 3]'
        raise UserError(f'a transform of shape {shape}; give one matrix [3, 3]{several}.')
    if not isinstance(matrix, jax.core.Tracer):
        rows = np.asarray(matrix)[..., 2, :].reshape(-1, 3)
        if (wrong := np.any(rows != (0, 0, 1), axis=1)).any():
            raise UserError(
                f'a transform with the last row {tuple(rows[wrong.argmax()].tolist())}; only affine ones are possible, '
                'whose last row is (0, 0, 1): no perspective.'
            )


# Crops ----------------------------------------------------------------------------------------------------------------


def crop(image: jax.Array, top: int, left: int, height: int, width: int) -> jax.Array:
    """A window of a grid or image [..., H, W, C]; a grid keeps the coordinates it had in the whole.

    Raises: ValueError if it is not inside, for static offsets; traced ones are clamped by `lax.dynamic_slice`.
    """
    size = image.shape[-3:-1]
    for name, start, length, limit in (('top', top, height, size[0]), ('left', left, width, size[1])):
        known = 0 if isinstance(start, jax.core.Tracer) else int(start)
        if not 1 <= length <= limit:
            raise UserError(f'a window of {length} samples lies outside of {limit}; use 1 to {limit} of them.')
        if not 0 <= known <= limit - length:
            raise UserError(f'{name}={start}, {length} samples: outside of {limit}; use 0 to {limit - length}.')
    out = jax.lax.dynamic_slice_in_dim(image, top, height, axis=-3)
    return jax.lax.dynamic_slice_in_dim(out, left, width, axis=-2)


def multiscale_crop(image: jax.Array, start: jax.Array, stride: int, patch: int) -> jax.Array:
    """Every stride-th row and column of [..., R, R, C] from `start` on: patch x patch samples.

    Cut images and their grid with the same arguments, or stacked along channels (CIPS, multi-scale training).

    Args:
      start: (row, column) of the first sample, int32 [2]; may be traced, and so may `stride`.
    Returns: [..., patch, patch, C].
    """
    index = stride * jnp.arange(patch)
    return jnp.take(jnp.take(image, start[0] + index, axis=-3), start[1] + index, axis=-2)


def multiscale_start(key: jax.Array, resolution: int, patch: int, scale: int) -> jax.Array:
    """Draws where a crop of stride q = 2^scale starts, for one sample (CIPS, `multiscale_crop`).

    At scale 0 it is a uniform window. Otherwise it is an offset uniform in [0, resolution - q patch + q) per axis and,
    if more than `patch` samples of that stride remain, a uniform window of them, as in the published training.

    Args:
      scale: 0 to log2(resolution / patch), static or traced.
    Returns: (row, column), int32 [2].
    Raises: ValueError unless patch divides resolution into a power of two and a static scale is in range.
    """
    scales = multiscale_count(resolution, patch)
    if isinstance(scale, (int, np.integer)) and not 0 <= scale < scales:
        raise UserError(f'scale={scale} with resolution={resolution}, patch={patch}; use 0 to {scales - 1}.')
    stride = 2 ** jnp.asarray(scale, jnp.int32)
    offset_key, window_key = jax.random.split(key)
    offset = jax.random.randint(offset_key, (2,), 0, resolution - stride * patch + stride)
    left_over = (resolution - offset + stride - 1) // stride - patch
    window = jax.random.randint(window_key, (2,), 0, left_over + 1)
    return offset + jnp.where(stride == 1, 0, stride * window)


def multiscale_count(resolution: int, patch: int) -> int:
    """Number of scales of multi-scale crops, log2(resolution / patch) + 1.

    Raises: ValueError unless resolution / patch is a power of two.
    """
    ratio = resolution // max(patch, 1)
    if patch < 1 or ratio < 1 or ratio * patch != resolution or ratio & (ratio - 1):
        raise UserError(f'patch={patch} for resolution={resolution}; their ratio must be a power of two.')
    return ratio.bit_length()


# Cylinders: azimuth theta = pi x has period 2 in x --------------------------------------------------------------------


def wrap(x: jax.Array) -> jax.Array:
    """x brought into [-1, 1) by multiples of 2; exact, and the identity inside."""
    turned = x - 2 * jnp.round(x / 2)
    return jnp.where(turned >= 1, turned - 2, turned)


def panorama_grid(height: int, width: int, *, y: tuple[float, float] = (-1.0, 1.0)) -> jax.Array:
    """The whole cylinder: x_j = -1 + 2 j / width; the end is excluded because it repeats column 0. y as in `grid`.

    Returns: [height, width, 2] float32. Raises: ValueError for an empty grid.
    """
    check_size(height, width)
    return _mesh((2 * jnp.arange(width, dtype=jnp.float32) - width) / width, _axis(height, *y))


def cylinder_crop(
    height: int, width: int, x0: float, span: float, *, y: tuple[float, float] = (-1.0, 1.0)
) -> jax.Array:
    """An arc of the cylinder: x_j = wrap(x0 + 2 span j / width); y as in `grid`.

    Args:
      x0: azimuth / pi of the first column; training draws it from U[-1, 1). May be traced.
      span: fraction of the circle that `width` columns cover.
    Returns: [height, width, 2] float32. Raises: ValueError for an empty grid.
    """
    check_size(height, width)
    return _mesh(wrap(x0 + 2 * span * jnp.arange(width, dtype=jnp.float32) / width), _axis(height, *y))


# Views of a cylinder: of radius 1, seen from its axis; a height of 1 in y is half_height radii ------------------------


def on_cylinder(azimuth: jax.Array, latitude: jax.Array, half_height: float, reach: float = 1.0) -> jax.Array:
    """Where rays meet the cylinder: (wrap(azimuth / pi), -tan(latitude) / half_height), heights within +-reach.

    Args:
      azimuth, latitude: radians [...]; latitude is positive above the horizon.
      half_height: how many radii y = 1 is below the horizon; pi span H / W gives square pixels to images H x W of a
        fraction `span` of the circle.
      reach: rays that meet the cylinder beyond it, such as those to the poles, see its edge.
    Returns: [..., 2] float32.
    Raises: ValueError unless half_height and reach are positive.
    """
    if not (half_height > 0 and reach > 0):
        raise UserError(f'half_height={half_height}, reach={reach}; both must be positive.')
    # In float32 half a turn rounds to beyond the pole, where the tangent has the other sign.
    limit = math.pi / 2 - 1e-4
    y = -jnp.tan(jnp.clip(latitude, -limit, limit)) / half_height
    return jnp.stack([wrap(azimuth / math.pi), jnp.clip(y, -reach, reach)], axis=-1)


def equirectangular(points: jax.Array, half_height: float, reach: float = 1.0) -> jax.Array:
    """The whole sphere: (x, y) in [-1, 1] is azimuth pi x and latitude -pi y / 2. Args and errors as `on_cylinder`."""
    return on_cylinder(math.pi * points[..., 0], -math.pi / 2 * points[..., 1], half_height, reach)


def stereographic(points: jax.Array, half_height: float, reach: float = 1.0, *, up: bool = False) -> jax.Array:
    """A "little planet": the sphere projected from its top onto the plane of the horizon, which is the unit circle.

    A point at distance r from the middle is 2 atan(r) away from the nadir. Azimuth 0 is above the middle, and azimuth
    grows clockwise. With `up` the zenith is in the middle, azimuth 0 is below it, and azimuth grows anticlockwise.
    Args and errors as `on_cylinder`.
    """
    x, y = points[..., 0], points[..., 1]
    latitude = 2 * jnp.arctan(jnp.hypot(x, y)) - math.pi / 2
    azimuth = jnp.arctan2(x, y if up else -y)
    return on_cylinder(azimuth, -latitude if up else latitude, half_height, reach)


# Shares of a second style, in [0, 1] ----------------------------------------------------------------------------------


def across(points: jax.Array, axis: int = 0) -> jax.Array:
    """From 0 at -1 to 1 at 1 along x (axis 0) or y (axis 1), constant outside: [..., 2] -> [...]."""
    return jnp.clip(to_unit(points[..., axis]), 0, 1)


def around(points: jax.Array) -> jax.Array:
    """Around a cylinder: |wrap(x)|, 0 at azimuth 0 and 1 on the opposite side (CIPS, blended panoramas)."""
    return jnp.abs(wrap(points[..., 0]))


# Scattered sets -------------------------------------------------------------------------------------------------------


def foveated(key: jax.Array, points: jax.Array, fraction: float, *, std: float = 0.4) -> tuple[jax.Array, jax.Array]:
    """Picks ceil(fraction H W) distinct pixels, dense in the middle (CIPS, foveated synthesis).

    Pixels are drawn one by one without replacement, with probabilities proportional to an isotropic Gaussian about
    the middle of the image: they are the largest entries of log-weight plus Gumbel noise.

    Args:
      points: the grid [H, W, 2] to pick from.
      fraction: share of pixels, in (0, 1]; static.
      std: standard deviation divided by the shorter side.
    Returns: indices into the flattened grid, int32 [K], and their coordinates [K, 2].
    Raises: ValueError if fraction is outside (0, 1], std is not positive or `points` is not a grid.
    """
    if points.ndim != 3 or points.shape[-1] != 2:
        raise UserError(f'points has shape {points.shape}; expected a grid [H, W, 2].')
    if not 0 < fraction <= 1 or not std > 0:
        raise UserError(f'fraction={fraction} must be in (0, 1] and std={std} positive.')
    height, width, _ = points.shape
    # Rounding keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    count = max(math.ceil(round(fraction * height * width, 6)), 1)
    middle = jnp.array([(width - 1) / 2, (height - 1) / 2], jnp.float32).reshape(1, 1, 2)
    distance = (pixel_grid(height, width) - middle) / (std * min(height, width))
    log_weight = -0.5 * jnp.sum(distance**2, axis=-1).reshape(-1)
    _, index = jax.lax.top_k(log_weight + jax.random.gumbel(key, log_weight.shape, jnp.float32), count)
    return index, points.reshape(-1, 2)[index]


def uniform(
    key: jax.Array, count: int, *, x: tuple[float, float] = (-1.0, 1.0), y: tuple[float, float] = (-1.0, 1.0)
) -> jax.Array:
    """Independent uniform points in an extent, [count, 2] float32."""
    low, high = jnp.array([[x[0], y[0]]], jnp.float32), jnp.array([[x[1], y[1]]], jnp.float32)
    return low + (high - low) * jax.random.uniform(key, (count, 2), jnp.float32)


def as_coords(points: Any) -> jax.Array:
    """A user's array as coordinates: [..., 2] float32.

    Raises: ValueError unless it is a non-empty array of finite real numbers whose last axis is (x, y).
    """
    array = np.asarray(points)
    if array.dtype.kind not in 'fiu' or array.ndim < 1 or array.shape[-1] != 2 or array.size == 0:
        raise UserError(
            f'coords has shape {array.shape} and dtype {array.dtype}; expected real numbers [..., 2] in (x, y) order.'
        )
    if not np.isfinite(array).all():
        raise UserError(f'coords has {int((~np.isfinite(array)).sum())} entries that are not finite.')
    return jnp.asarray(array, jnp.float32)


# Evaluation in chunks -------------------------------------------------------------------------------------------------


def map_chunks(fn: Callable, coords: jax.Array, chunk: int, *per_point: jax.Array) -> Any:
    """fn at many coordinates, `chunk` of them at a time, so that memory does not grow with the image.

    Equals fn(coords, *per_point) for any fn that treats points independently. Works under jit, grad and vmap.

    Args:
      fn: (coords [chunk, 2], *per_point chunks) -> array or tree of arrays [chunk, ...]. It is traced once.
      coords: [..., 2].
      per_point: arrays with coords' leading shape and any further axes, such as noise.
    Returns: fn's outputs with coords' leading shape instead of the chunk axis.
    Raises: ValueError for a chunk below 1, no coordinates, or per-point arrays of another leading shape.
    """
    shape = coords.shape[:-1]
    count = math.prod(shape)
    if chunk < 1 or count == 0:
        raise UserError(f'chunk={chunk}, {count} coordinates; both must be at least 1.')
    for array in per_point:
        if array.shape[: len(shape)] != shape:
            raise UserError(f'a per-point array has shape {array.shape}; it must start with {shape}, as coords.')
    flat = [a.reshape(count, *a.shape[len(shape) :]) for a in (coords, *per_point)]
    if count <= chunk:
        out = fn(*flat)
    else:
        pad = -count % chunk
        padded = [jnp.concatenate([a, jnp.broadcast_to(a[-1:], (pad, *a.shape[1:]))]) for a in flat]
        out = jax.lax.map(lambda args: fn(*args), [a.reshape(-1, chunk, *a.shape[1:]) for a in padded])
        out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], out)
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), out)
