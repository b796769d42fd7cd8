"""What a coordinate looks like to a network: coords [..., 2] in (x, y) order -> enc [..., C].

Everything here is float32 whatever the compute dtype: bfloat16 cannot tell 1024 positions apart. Tables,
frequencies and weights are arguments; modules own them. Concatenating encodings is `jnp.concatenate`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords as coords_lib
from pegan_jax.ops import resize_align_corners
from pegan_jax.settings import UserError

# Periodic functions of large arguments --------------------------------------------------------------------------------


def _split(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a = high + low, exactly, with 12 significant bits each: products of such parts are exact."""
    bits = jax.lax.bitcast_convert_type(a, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, a - high


def _cycles(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b up to whole cycles, exact within 2e-7 however large it is; a plain product is off by up to 6e-8 |a b|.

    Each partial product is exact, and so is the removal of its integer part. The derivative is that of a b: the
    high parts and the rounding have none, the low parts carry all of it.
    """
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    parts = (a_high * b_high, a_high * b_low, a_low * b_high, a_low * b_low)
    return sum(part - jnp.round(part) for part in parts)


def _dot_cycles(points: jax.Array, freqs: jax.Array) -> jax.Array:
    """points [..., D] times freqs [C, D] (cycles per unit), in cycles up to integers: [..., C]."""
    points, freqs = points.astype(jnp.float32), freqs.astype(jnp.float32)
    freqs = freqs.reshape((1,) * (points.ndim - 1) + freqs.shape)
    return sum(_cycles(points[..., d, None], freqs[..., d]) for d in range(points.shape[-1]))


def _radians(cycles: jax.Array) -> jax.Array:
    return 2 * math.pi * (cycles - jnp.round(cycles))


# Cartesian spatial grid and sinusoidal encoding (Xu et al. 2021, as in mmgeneration) ----------------------------------


def csg(height: int, width: int) -> jax.Array:
    """Cartesian spatial grid: the coordinates, with x in channel 0 and ends at exactly -1 and 1.

    Returns: [height, width, 2] float32. Raises: ValueError for an empty grid.
    """
    return coords_lib.grid(height, width)


def token_positions(tokens: jax.Array, *, padding_idx: int = 0) -> jax.Array:
    """Counting rule of the sinusoidal table, along the last axis, int32.

    A token equal to padding_idx is at position padding_idx; any other is at padding_idx plus the number of tokens
    up to and including it that are not padding. So the values of tokens matter only for padding.
    """
    kept = (tokens != padding_idx).astype(jnp.int32)
    return jnp.cumsum(kept, axis=-1) * kept + padding_idx


def spe_positions(n: int, *, center_shift: int | None = None, padding_idx: int = 0) -> jax.Array:
    """Table positions [n], int32, of an axis of n samples: `token_positions` of 1, 2, .., n plus a shift.

    The shift is 0 without center_shift; otherwise it is center_shift - n/2 for even n, center_shift - (n//2 + 1) for
    odd n. It changes nothing unless some value hits padding_idx: the published settings (padding_idx=0,
    center_shift=100) give 1..n for every n, so the top left corner of a larger grid is a smaller one.

    Raises: ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f'n={n}: an axis needs at least one sample.')
    shift = 0 if center_shift is None else center_shift - (n // 2 + n % 2)
    return token_positions(jnp.arange(1, n + 1) + shift, padding_idx=padding_idx)


def spe_code(positions: jax.Array, dim: int, *, div_half_dim: bool = False) -> jax.Array:
    """One axis of the sinusoidal encoding: [sin(p w_0) .. sin(p w_K-1), cos(p w_0) .. cos(p w_K-1)].

    Exact within 1e-6 at positions up to 1e5; sines of plain float32 products are off by 2e-4 at position 4096.

    Args:
      positions: [...] in samples, not normalised, whole or not; `spe_positions` gives those of a grid.
      dim: even channel count of one axis; K = dim / 2 frequencies, w_k = 10000^(-k/(K-1)), or 10000^(-k/K)
        with div_half_dim.
    Returns: [..., dim] float32.
    Raises: ValueError if dim is odd or below 2, or 2 without div_half_dim (the formula divides by zero).
    """
    if dim < 2 or dim % 2:
        raise UserError(f'dim={dim} must be even and positive: half of the channels are sines, half cosines.')
    if dim == 2 and not div_half_dim:
        raise UserError('dim=2 needs div_half_dim=True: w_k = 10000^(-k/(K-1)) divides by zero for K = 1.')
    half = dim // 2
    cycles = 10000.0 ** (-np.arange(half) / (half if div_half_dim else half - 1)) / (2 * math.pi)
    nearest = cycles.astype(np.float32)
    rest = (cycles - nearest).astype(np.float32)
    p = positions.astype(jnp.float32)[..., None]
    shape = (1,) * (p.ndim - 1) + (half,)
    angle = _radians(_cycles(p, jnp.asarray(nearest).reshape(shape)) + p * jnp.asarray(rest).reshape(shape))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def spe_1d(tokens: jax.Array, dim: int, *, div_half_dim: bool = False, padding_idx: int = 0) -> jax.Array:
    """Sinusoidal encoding of tokens [..., n]: codes of `token_positions`, zero for padding. [..., n, dim].

    Raises: ValueError as `spe_code`.
    """
    positions = token_positions(tokens, padding_idx=padding_idx)
    code = spe_code(positions, dim, div_half_dim=div_half_dim)
    return jnp.where(positions[..., None] == padding_idx, 0.0, code)


def spe(
    height: int,
    width: int,
    dim: int,
    *,
    div_half_dim: bool = False,
    center_shift: int | None = None,
    padding_idx: int = 0,
) -> jax.Array:
    """Sinusoidal encoding of a grid: x codes, then y codes, dim channels each, zero at padding positions.

    Args:
      height, width: size of the grid.
      dim: channels per axis; the options are those of `spe_positions` and `spe_code`.
    Returns: [height, width, 2 dim] float32.
    Raises: ValueError as `spe_positions` and `spe_code`.
    """

    def axis(n: int) -> jax.Array:
        positions = spe_positions(n, center_shift=center_shift, padding_idx=padding_idx)
        code = spe_code(positions, dim, div_half_dim=div_half_dim)
        return jnp.where(positions[:, None] == padding_idx, 0.0, code)

    x = jnp.broadcast_to(axis(width)[None, :, :], (height, width, dim))
    y = jnp.broadcast_to(axis(height)[:, None, :], (height, width, dim))
    return jnp.concatenate([x, y], axis=-1)


# Encodings of the generator's input at another scale ------------------------------------------------------------------


def _larger(size: tuple[int, int], extra: int | tuple[int, int]) -> tuple[int, int]:
    rows, columns = np.broadcast_to(extra, 2).tolist()
    return size[0] + rows, size[1] + columns


def learned_constant(constant: jax.Array, extra: int | tuple[int, int] = 0) -> jax.Array:
    """A learned constant [h, w, C] at another scale: an align-corners resize to (h + extra, w + extra).

    extra: samples added to both sides, or to (height, width). Raises: ValueError for an empty result.
    """
    return resize_align_corners(constant, _larger(constant.shape[:2], extra)).astype(jnp.float32)


def at_scale(encode: Callable, size: tuple[int, int], extra: int | tuple[int, int], *, interpolate: bool) -> jax.Array:
    """A fixed encoding for an input larger than `size` = (height, width) by `extra` (MS-PIE).

    "Interpolate" builds the encoding at `size` and resizes it with align-corners; "expand" builds it at the
    larger size. For `csg` they are the same; for `spe` expanding continues the codes with an unchanged step.

    Args:
      encode: (height, width) -> [height, width, C].
      extra: samples added to both sides, or to (height, width).
    Returns: [height + extra, width + extra, C] float32. Raises: ValueError for an empty result.
    """
    larger = _larger(size, extra)
    return resize_align_corners(encode(*size), larger) if interpolate else encode(*larger)


# Fourier features -----------------------------------------------------------------------------------------------------


def fourier_features(points: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Learned Fourier features sin(A v + b), in radians (CIPS, e_fo, with the bias of the released code).

    Exact within 2e-7 (1 + |A v| + |b|), the rounding of a float32 sum: 1e-6 as published, 2e-3 at angles of 1e4.

    Args:
      points: [..., D]: coordinates, or `cylinder` features.
      weight, bias: A as [D, C], b as [C].
    Returns: [..., C] float32.
    """
    angle = jnp.einsum('...d,dc->...c', points.astype(jnp.float32), weight.astype(jnp.float32), precision='highest')
    return jnp.sin(angle + jnp.broadcast_to(bias.astype(jnp.float32), angle.shape))


def random_frequencies(key: jax.Array, count: int, std: float) -> jax.Array:
    """Gaussian frequencies for `random_fourier_features`: N(0, std^2) cycles per unit, [count, 2] float32."""
    return std * jax.random.normal(key, (count, 2), jnp.float32)


def random_fourier_features(points: jax.Array, freqs: jax.Array) -> jax.Array:
    """[cos 2 pi B v, sin 2 pi B v] (Tancik et al. 2020, section 4), B fixed.

    Exact within 2e-6 for the float32 numbers given, however many cycles B v counts.

    Args:
      points: [..., D]; freqs: B, [C, D] in cycles per unit.
    Returns: [..., 2 C] float32, cosines first.
    """
    angle = _radians(_dot_cycles(points, freqs))
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def cylinder(points: jax.Array) -> jax.Array:
    """Points on the cylinder with azimuth pi x: [cos(pi x), sin(pi x), y], with period 2 in x. [..., 3] float32."""
    points = points.astype(jnp.float32)
    angle = _radians(points[..., 0] / 2)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), points[..., 1]], axis=-1)


# StyleGAN3 input (Karras et al. 2021) ---------------------------------------------------------------------------------


def sg3_frequencies(key: jax.Array, channels: int, bandwidth: float) -> tuple[jax.Array, jax.Array]:
    """Draws freqs [channels, 2], uniform in the disc of radius `bandwidth`, and phases [channels] ~ U(-1/2, 1/2).

    exp(-|g|^2 / 2) is uniform for g ~ N(0, I), so bandwidth exp(-|g|^2 / 4) is distributed like a radius in
    the disc. Frequencies are in cycles per image width, phases in cycles.
    """
    freqs_key, phases_key = jax.random.split(key)
    g = jax.random.normal(freqs_key, (channels, 2), jnp.float32)
    squared = jnp.sum(g**2, axis=-1, keepdims=True)
    freqs = bandwidth * g / jnp.sqrt(squared) * jnp.exp(-squared / 4)
    return freqs, jax.random.uniform(phases_key, (channels,), jnp.float32) - 0.5


def sg3_transform(t: jax.Array, transform: jax.Array) -> jax.Array:
    """The matrix of one image's input grid, R T U.

    Args:
      t: learned (rotation cosine, sine, x shift, y shift), [4]; all four are divided by sqrt(t_0^2 + t_1^2).
      transform: the user's U, [3, 3], on positions in image widths; `coords.translate`, `rotate` and `zoom` return
        such matrices, and the content then moves as they say.
    Returns: [3, 3] float32.
    """
    c, s, dx, dy = t.astype(jnp.float32) / jnp.sqrt(jnp.sum(t.astype(jnp.float32)[:2] ** 2))
    rotation = jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    shift = jnp.array([[1.0, 0.0, -dx], [0.0, 1.0, -dy], [0.0, 0.0, 1.0]])
    return coords_lib.compose(rotation, shift, transform.astype(jnp.float32))


def sg3_grid(height: int, width: int, sampling_rate: float) -> jax.Array:
    """Positions in image widths about the middle of the canvas: x_j = (j + 1/2 - width / 2) / sampling_rate.

    Returns: [height, width, 2] float32. Raises: ValueError for an empty grid.
    """
    size = jnp.array([width, height], jnp.float32).reshape(1, 1, 2)
    return (2 * coords_lib.pixel_grid(height, width) + 1 - size) / (2 * sampling_rate)


def sg3_features(
    points: jax.Array,
    freqs: jax.Array,
    phases: jax.Array,
    matrix: jax.Array,
    *,
    sampling_rate: float,
    bandwidth: float,
) -> jax.Array:
    """a_k sin(2 pi (f_k . M p + phase_k)) at any positions p, one image.

    The transformed frequency f'_k = f_k M[:2, :2] fades out between the bandwidth B and the Nyquist rate:
    a_k = clip(1 - (|f'_k| - B) / max(sampling_rate / 2 - B, 1e-4 B), 0, 1).

    The result is exact within 2e-6 given f'_k, at any distance and for any shift; where M turns or zooms, f'_k itself
    is rounded, which adds 1e-6 |f'_k| |p|.

    Args:
      points: [..., 2] in image widths, e.g. `sg3_grid`; freqs: [C, 2]; phases: [C] in cycles; matrix: [3, 3].
      sampling_rate, bandwidth: those of the input block, in samples and cycles per image width.
    Returns: [..., C] float32.
    """
    matrix = matrix.astype(jnp.float32)
    moved = jnp.matmul(freqs.astype(jnp.float32), matrix[:2, :2], precision='highest')
    phases = phases.astype(jnp.float32) + _dot_cycles(matrix[:2, 2], freqs)
    length = jnp.sqrt(jnp.sum(moved**2, axis=-1))
    amplitude = jnp.clip(1 - (length - bandwidth) / max(sampling_rate / 2 - bandwidth, 1e-4 * bandwidth), 0.0, 1.0)
    cycles = _dot_cycles(points, moved)
    sines = jnp.sin(_radians(cycles + jnp.broadcast_to(phases, cycles.shape)))
    return sines * jnp.broadcast_to(amplitude, cycles.shape)


def sg3_fourier_input(
    t: jax.Array,
    freqs: jax.Array,
    phases: jax.Array,
    transform: jax.Array,
    *,
    height: int,
    width: int,
    sampling_rate: float,
    bandwidth: float,
) -> jax.Array:
    """StyleGAN3's input before channel mixing: `sg3_features` on `sg3_grid` for every image of a batch.

    Args:
      t: learned transforms [N, 4]; transform: the user's, [3, 3] or one per image [N, 3, 3] (`sg3_transform`); the rest
        as `sg3_features`.
    Returns: [N, height, width, C] float32.
    Raises: ValueError unless t is [N, 4], transform as above and sampling_rate / 2 >= bandwidth.
    """
    if t.ndim != 2 or t.shape[1] != 4:
        raise ValueError(f't has shape {t.shape}; expected [N, 4].')
    if not sampling_rate >= 2 * bandwidth:
        raise UserError(f'sampling_rate={sampling_rate} must be at least twice the bandwidth={bandwidth}.')
    if transform.shape not in ((3, 3), (t.shape[0], 3, 3)):
        raise ValueError(
            f'transform has shape {transform.shape}; expected [3, 3], or [{t.shape[0]}, 3, 3] for each image.'
        )
    points = sg3_grid(height, width, sampling_rate)

    def one(t: jax.Array, transform: jax.Array) -> jax.Array:
        matrix = sg3_transform(t, transform)
        return sg3_features(points, freqs, phases, matrix, sampling_rate=sampling_rate, bandwidth=bandwidth)

    return jax.vmap(one, (0, None if transform.ndim == 2 else 0))(t, transform)


def sg3_mix(features: jax.Array, weight: jax.Array) -> jax.Array:
    """Mixes channels: features [..., C] times weight [C, out] / sqrt(C), no bias. float32 [..., out]."""
    weight = weight.astype(jnp.float32) / math.sqrt(weight.shape[0])
    return jnp.matmul(features, weight, precision='highest')


# Coordinate embeddings (CIPS, section 3.1) ----------------------------------------------------------------------------


def embedding_raw(table: jax.Array, points: jax.Array) -> jax.Array:
    """The table itself, for a native grid: pixel (i, j) gets table[i, j], whatever the coordinates are.

    CIPS trains this way; on the same grid, `embedding` reads up to half a pixel beside it.

    Args: table: [R_y, R_x, C]; points: [..., R_y, R_x, 2]. Returns: [..., R_y, R_x, C] float32.
    Raises: ValueError if points is not of the table's size.
    """
    if points.shape[-3:-1] != table.shape[:2]:
        raise ValueError(f'points of shape {points.shape} are not a native grid of a table {table.shape[:2]}.')
    return jnp.broadcast_to(table.astype(jnp.float32), (*points.shape[:-1], table.shape[-1]))


def embedding(table: jax.Array, points: jax.Array, *, wrap_x: bool = False) -> jax.Array:
    """Reads a table of one vector per pixel, bilinearly, at any coordinates.

    Pixel centres are at 2 (j + 1/2) / R - 1, where the table is returned as it is. The column
    ((x + 1) R_x - 1) / 2 is clamped to [0, R_x - 1] before weights are formed, so the outside repeats the border;
    with wrap_x it has period R_x instead (cylinders). Rows are always clamped.

    Args:
      table: [R_y, R_x, C].
      points: [..., 2]; a single coordinate [2] under vmap costs the same as a whole grid.
    Returns: [..., C] float32, between the least and the greatest entry of each channel.
    """
    table, points = table.astype(jnp.float32), points.astype(jnp.float32)

    def neighbours(c: jax.Array, size: int, wrap: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        position = ((c + 1) * size - 1) / 2
        if not wrap:
            position = jnp.clip(position, 0, size - 1)
        low = jnp.floor(position)
        index = low.astype(jnp.int32)
        upper = (index + 1) % size if wrap else jnp.minimum(index + 1, size - 1)
        return (index % size if wrap else index), upper, (position - low)[..., None]

    left, right, x_weight = neighbours(points[..., 0], table.shape[1], wrap_x)
    top, bottom, y_weight = neighbours(points[..., 1], table.shape[0], False)

    def row(index: jax.Array) -> jax.Array:
        a, b = (table.at[index, column].get(mode='clip') for column in (left, right))
        return (1 - x_weight) * a + x_weight * b

    return (1 - y_weight) * row(top) + y_weight * row(bottom)
