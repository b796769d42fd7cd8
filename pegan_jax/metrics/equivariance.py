"""Whether an image moves as its coordinates do (Karras et al. 2021, section 2.2 and appendix E): EQ-T, EQ-T_frac, EQ-R.

An image from moved coordinates is compared with the moved image, where both are known, as peak signal-to-noise ratio in
dB.
"""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, ops
from pegan_jax.settings import UserError

METRICS = {
    'eqt50k_int': 'EQ-T: shifts by whole pixels, up to an eighth of the side, in dB',
    'eqt50k_frac': 'EQ-T_frac: shifts by any amount up to an eighth of the side, against Lanczos interpolation, in dB',
    'eqr50k': 'EQ-R: any rotation, against a band-limited rotation, in dB',
}
_LOBES, _REACH, _PERIOD = 3, 6, 64  # of the Lanczos window; of filters, and of the convolutions they are made of

# Translation ----------------------------------------------------------------------------------------------------------


def shifted(x: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images [N, H, W, C] moved by whole pixels [2], (x, y), right and down, and the mask [H, W] of known pixels.

    Zeros come in from outside.
    """
    matrices, known = [], []
    for side, step in zip(x.shape[1:3], pixels[::-1], strict=True):
        n, m = jnp.arange(side)[:, None], jnp.arange(side)[None]
        matrices.append((n - m == step).astype(x.dtype))
        known.append((jnp.arange(side) >= step) & (jnp.arange(side) < side + step))
    return _separable(x, *matrices), _both(*known)


def shifted_lanczos(x: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Like `shifted`, by any amount, with 6 taps sinc(t) sinc(t / 3) along each axis, whose sum is 1."""
    matrices, known = [], []
    for side, step in zip(x.shape[1:3], pixels[::-1], strict=True):
        whole = jnp.floor(step)
        k = jnp.arange(1 - _LOBES, _LOBES + 1)
        taps = jnp.sinc(k - (step - whole)) * jnp.sinc((k - (step - whole)) / _LOBES)
        taps, whole = taps / jnp.sum(taps), whole.astype(int)
        n, m = jnp.arange(side)[:, None], jnp.arange(side)[None]
        at = n - m - whole + _LOBES - 1
        matrices.append(jnp.where((at >= 0) & (at < 2 * _LOBES), taps[jnp.clip(at, 0, 2 * _LOBES - 1)], 0))
        n = jnp.arange(side)
        first, end = jnp.maximum(whole + _LOBES, 0), side + jnp.minimum(whole - _LOBES + 1, 0)
        known.append((n >= first) & (n < end))
    return _separable(x, *matrices), _both(*known)


def _separable(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    x = jnp.einsum('yh,nhwc->nywc', rows, x, precision='highest')
    return jnp.einsum('xw,nywc->nyxc', columns, x, precision='highest')


def _both(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return (rows[:, None] & columns[None]).astype(jnp.float32)


# Rotation -------------------------------------------------------------------------------------------------------------


def lanczos(x: np.ndarray) -> np.ndarray:
    """The window: sinc(x / 3) for |x| < 3."""
    return np.where(np.abs(x) < _LOBES, np.sinc(x / _LOBES), 0)


def band_limit(matrix: np.ndarray, up: int) -> np.ndarray:
    """A low-pass filter for images that a 2x2 matrix moves: it passes what the grids before and after can both carry.

    It is the convolution of the two ideal filters, windowed by the convolution of their Lanczos windows (appendix E.3),
    sampled `up` times per pixel; the taps that one output pixel may meet add up to 1 / up^2.

    Returns: [12 up - 1, 12 up - 1] float32, rows are y.
    """
    q = np.arange(-_PERIOD * up + 1, _PERIOD * up) / up
    xi, yi = np.meshgrid(q, q)
    xo, yo = (row[0] * xi + row[1] * yi for row in np.asarray(matrix, np.float64))

    def convolved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (np.fft.rfft2(np.fft.ifftshift(v)) for v in (a, b))
        return np.fft.fftshift(np.fft.irfft2(a * b, xi.shape))

    ideal = convolved(np.sinc(xi) * np.sinc(yi), np.sinc(xo) * np.sinc(yo))
    window = convolved(lanczos(xi) * lanczos(yi), lanczos(xo) * lanczos(yo))
    middle = slice((_PERIOD - _REACH) * up, -(_PERIOD - _REACH) * up)
    f = (ideal * window)[middle, middle]
    for i in range(up):
        for j in range(up):
            f[i::up, j::up] /= np.sum(f[i::up, j::up]) * up**2
    return f.astype(np.float32)


def convolve(x: jax.Array, f: jax.Array, up: int = 1, padding: int = 0) -> jax.Array:
    """`ops.upsample2d` with a filter of many taps: x [N, H, W, C], f [k, k] -> [N, up H + 2 padding, ..., C].

    One convolution computes the up^2 phases of the result as channels; sums of shifted slices would be thousands.
    """
    taps, (n, height, width, channels) = len(f), x.shape
    before = (taps + up - 1) // 2 + padding
    # Output up s + r adds f[taps - 1 - (up d - r + before)] x[s + d].
    first, last = -(before // up), (taps - 1 - before + up - 1) // up
    at = taps - 1 - (up * np.arange(first, last + 1)[:, None] - np.arange(up)[None] + before)
    known = (at >= 0) & (at < taps)
    at = np.clip(at, 0, taps - 1)
    kernel = f[at[:, None, :, None], at[None, :, None, :]] * (known[:, None, :, None] & known[None, :, None, :])
    kernel = (kernel * up**2).reshape(len(at), len(at), 1, up * up)
    counts = [-(-(up * side + 2 * padding) // up) for side in (height, width)]
    pads = [(-first, count - 1 + last + 1 - side) for count, side in zip(counts, (height, width), strict=True)]
    maps = jnp.moveaxis(x, -1, 1).reshape(n * channels, height, width, 1)
    y = jax.lax.conv_general_dilated(
        maps, kernel.astype(x.dtype), (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest'
    )
    y = y.reshape(n, channels, *counts, up, up).transpose(0, 2, 4, 3, 5, 1)
    y = y.reshape(n, counts[0] * up, counts[1] * up, channels)
    return y[:, : up * height + 2 * padding, : up * width + 2 * padding]


def moved(x: jax.Array, matrix: jax.Array, f: jax.Array, up: int = 4) -> tuple[jax.Array, jax.Array]:
    """Images [N, H, W, C] after an affine map of their content, band-limited, and the mask [H, W] of what is known.

    Args:
      matrix: [3, 3], where a position's content goes; along each axis the side is the unit, and 0 its middle.
      f: `band_limit(matrix[:2, :2], up)`.
    """
    height, width = x.shape[1:3]
    margin = (len(f) - 1) // 2
    y = convolve(x, f, up, margin)
    sides = jnp.array([width, height], jnp.float32)
    theta = jnp.linalg.inv(matrix)
    theta = theta[:2] * jnp.array([[1.0, 1.0, 2.0]])
    theta = theta.at[:, 2].add(1 / (up * sides)) * (sides / (sides + 2 * margin / up))[:, None]
    axes = ((2 * jnp.arange(side) + 1) / side - 1 for side in (width, height))
    grid = jnp.stack([*jnp.meshgrid(*axes), jnp.ones((height, width))])
    at = jnp.einsum('ij,jhw->hwi', theta, grid, precision='highest')
    extent = jnp.array(y.shape[2:0:-1], jnp.float32).reshape(1, 1, 2)
    at = ((at + 1) * extent - 1) / 2  # in samples of y
    nearest = jnp.round(at)
    border = 2 * margin + 1
    known = jnp.all((nearest >= border) & (nearest < extent - border), axis=-1).astype(jnp.float32)
    return ops.bilinear(y, jnp.broadcast_to(at, (len(x), *at.shape))), known


def turned(x: jax.Array, angle: jax.Array, f: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`moved` by a rotation in pixels, anticlockwise on the screen; f: `band_limit(rotation(angle), 4)`."""
    c, s, aspect = jnp.cos(angle), jnp.sin(angle), x.shape[1] / x.shape[2]
    return moved(x, jnp.array([[c, s * aspect, 0], [-s / aspect, c, 0], [0, 0, 1]]), f)


def blurred(x: jax.Array, f: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `turned` would have kept of images that are already turned; f: `band_limit(rotation(-angle), 1)`."""
    margin = (len(f) - 1) // 2
    known = np.zeros(x.shape[1:3], np.float32)
    known[margin:-margin, margin:-margin] = 1
    return convolve(x, f), jnp.asarray(known)


def rotation(angle: float) -> np.ndarray:
    """[2, 2], which turns content anticlockwise on the screen, where y points down."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


# Metrics --------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _difference(kind: str, image: jax.Array, original: jax.Array, *args: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of squared differences of each sample [N], and the number of values in each sum, []."""
    if kind == 'eqr50k':
        angle, f, pseudo = args
        (want, known), (image, also) = turned(original, angle, f), blurred(image, pseudo)
        known = known * also
    else:
        want, known = {'eqt50k_int': shifted, 'eqt50k_frac': shifted_lanczos}[kind](original, *args)
    squares = jnp.square(image - want) * known[None, :, :, None]
    return jnp.sum(squares, axis=(1, 2, 3)), jnp.sum(known) * image.shape[-1]


def compare(
    kind: str, render: Callable[[jax.Array], jax.Array], original: jax.Array, u: np.ndarray, unit: int
) -> tuple:
    """One metric of a batch under one transform.

    Args:
      kind: a name in METRICS.
      render: transform [3, 3] -> images [N, H, W, C], as `coords.translate` and `rotate` make them.
      original: render(identity).
      u: uniform in [0, 1): [2] for a shift, (x, y), [] for a rotation.
      unit: pixels per unit of the coordinates.
    Returns: as `_difference`.
    """
    if kind == 'eqr50k':
        angle = float((2 * u - 1) * math.pi)
        filters = band_limit(rotation(angle), 4), band_limit(rotation(-angle), 1)
        return _difference(kind, render(coords.rotate(angle)), original, jnp.float32(angle), *filters)
    pixels = (2 * np.asarray(u, np.float64) - 1) * 0.125 * unit
    if kind == 'eqt50k_int':
        pixels = np.round(pixels)
    matrix = coords.translate(*(pixels / unit))
    return _difference(kind, render(matrix), original, jnp.asarray(pixels, jnp.int32 if 'int' in kind else jnp.float32))


def equivariance(
    images: Callable[[jax.Array, jax.Array], jax.Array],
    num_samples: int,
    key: jax.Array,
    *,
    unit: int,
    metrics: Iterable[str] = tuple(METRICS),
    batch_size: int = 4,
) -> dict[str, float]:
    """{name: dB}: 10 log10(4 / mean squared difference), over all samples and all that is known of them.

    Each batch is moved in one way; published numbers have 50,000 samples in batches of 4.

    Args:
      images: (keys [batch_size], transform [3, 3]) -> images [batch_size, H, W, C] in [-1, 1]; a key always gives the
        same image, whatever the transform. Compile it; both are traced.
      unit: pixels per unit of the coordinates that the transform acts on; for StyleGAN3, the shorter side in training.
      metrics: names in METRICS.
    Raises: ValueError for unknown names, or no sample.
    """
    metrics = tuple(metrics)
    if unknown := set(metrics) - METRICS.keys():
        raise UserError(f'metrics {sorted(unknown)} are not of equivariance; known: {", ".join(METRICS)}.')
    if num_samples < 1:
        raise UserError(f'num_samples={num_samples}; at least one is needed.')
    sums, counts = dict.fromkeys(metrics, 0.0), dict.fromkeys(metrics, 0.0)
    for start in range(0, num_samples, batch_size):
        sample_key, transform_key = jax.random.split(jax.random.fold_in(key, start // batch_size))
        keys = jax.random.split(sample_key, batch_size)
        u = np.asarray(jax.random.uniform(transform_key, (5,)), np.float64)
        draws = {'eqt50k_int': u[:2], 'eqt50k_frac': u[2:4], 'eqr50k': u[4]}
        original, rows = images(keys, jnp.eye(3)), min(batch_size, num_samples - start)
        for name in metrics:
            squares, count = compare(name, lambda matrix, keys=keys: images(keys, matrix), original, draws[name], unit)
            sums[name] += float(np.sum(np.asarray(squares, np.float64)[:rows]))
            counts[name] += rows * float(count)
    return {name: decibels(sums[name], counts[name]) for name in metrics}


def decibels(squares: float, count: float) -> float:
    """Peak signal-to-noise ratio of images in [-1, 1], from the sum of `count` squared differences.

    Raises: UserError for a count of 0: images are so small that no pixel of a moved one is known.
    """
    if not count:
        raise UserError('nothing is known of the moved images: they are too small; EQ-R needs sides of 13 pixels.')
    return 10 * math.log10(4 * count / squares) if squares else math.inf
