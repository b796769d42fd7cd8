"""Errors of single images against what they should be. Images are uint8 [H, W, C], measured as values in [0, 1].

Published inpainting tables differ in what they call l1 and l2, so all three usual forms are here: over the whole image,
over its holes, and relative to the image.
"""

import math
from collections.abc import Callable

import numpy as np

from pegan_jax.settings import UserError

# What a metric's name stands for: the numbers that it gives, each with its definition.
DEFINITIONS = {
    'l1': {
        'l1': '100 mean |real - fake| of all pixels',
        'l1_hole': '100 mean |real - fake| of the pixels in holes',
        'l1_relative': '100 sum |real - fake| / sum real',
    },
    'l2': {
        'l2': '100 mean (real - fake)^2 of all pixels',
        'l2_hole': '100 mean (real - fake)^2 of the pixels in holes',
        'l2_relative': '100 sum (real - fake)^2 / sum real^2',
    },
    'psnr': {'psnr': '10 log10(1 / mean (real - fake)^2) of all pixels, in dB; images without an error do not count'},
    'ssim': {
        'ssim': 'structural similarity of Wang et al. 2004: Gaussian of 1.5 pixels, data range 1, mean of channels'
    },
    'tv': {
        'tv': '100 mean absolute difference of neighbours, right and below, of the result',
        'tv_real': 'the same of the real image',
    },
}


def _unit(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise UserError(f'image is {image.dtype} {image.shape}; expected uint8 [H, W, C].')
    return image / 255.0


def mean_error(real: np.ndarray, fake: np.ndarray, power: int, mask: np.ndarray | None = None) -> float:
    """100 mean |real - fake|^power, over all pixels or those where mask [H, W] is 1; values in [0, 1].

    Raises: ValueError for other types than uint8 [H, W, C].
    """
    error = np.abs(_unit(real) - _unit(fake)) ** power
    return float(100 * error[slice(None) if mask is None else mask.astype(bool)].mean())


def relative_error(real: np.ndarray, fake: np.ndarray, power: int) -> float:
    """100 sum |real - fake|^power / sum real^power; NaN for a black image. Raises: ValueError as `mean_error`."""
    real = _unit(real)
    total = (real**power).sum()
    return float(100 * (np.abs(real - _unit(fake)) ** power).sum() / total) if total else math.nan


def psnr(real: np.ndarray, fake: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal images; mask, errors as `mean_error`."""
    squares = mean_error(real, fake, 2, mask) / 100
    return -10 * math.log10(squares) if squares else math.inf


def ssim(real: np.ndarray, fake: np.ndarray) -> float:
    """Structural similarity, 1 for equal images, with the window of Wang et al. 2004.

    Raises: ValueError as `mean_error`, and for sides below 11 pixels.
    """
    from skimage.metrics import structural_similarity  # takes long to import

    check_ssim(real.shape[:2])
    options = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False}
    return float(structural_similarity(_unit(real), _unit(fake), data_range=1.0, channel_axis=-1, **options))


def check_ssim(size: tuple[int, int]) -> None:
    """Raises: ValueError if images of (height, width) are smaller than the window of `ssim`."""
    if min(size) < 11:
        raise UserError(f'ssim has a window of 11 pixels; images of {size[1]} x {size[0]} are too small.')


SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest first


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity at five scales (Wang et al. 2003, eq. 7), of uint8 images [H, W, C]; 1 for equal ones.

    The product over scales of the means of contrast and structure, and of luminance at the coarsest one, to the powers
    of SCALE_WEIGHTS; means below 0 count as 0. Between scales, 2x2 pixels are averaged; the window is that of `ssim`,
    but shrinks with an image smaller than it, as in the program of Karras et al. 2018.

    Raises: ValueError as `mean_error`, and for sides under 16 pixels.
    """
    x, y = _unit(a), _unit(b)
    if min(x.shape[:2]) < 16:
        raise UserError(f'ms_ssim halves images four times; {x.shape[1]} x {x.shape[0]} pixels are too few, use 16.')
    result = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            x, y = (_halved(v) for v in (x, y))
        size = min(11, *x.shape[:2])
        mx, my, xx, yy, xy = (_windowed(v, size) for v in (x, y, x * x, y * y, x * y))
        structure = (2 * (xy - mx * my) + 0.03**2) / (xx - mx**2 + yy - my**2 + 0.03**2)
        if scale == len(SCALE_WEIGHTS) - 1:
            structure = structure * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        result *= max(structure.mean(), 0.0) ** weight
    return float(result)


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = (n // 2 for n in x.shape[:2])
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean(axis=(1, 3))


def _windowed(x: np.ndarray, size: int) -> np.ndarray:
    """Means under a Gaussian window of `size` pixels, at the positions where it fits inside."""
    at = np.arange(size) - (size - 1) / 2
    taps = np.exp(-0.5 * (at / (1.5 * size / 11)) ** 2)
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, size, axis=axis) @ (taps / taps.sum())
    return x


def tv(image: np.ndarray) -> float:
    """Total variation: 100 times the mean absolute difference of neighbours, in rows and in columns, in [0, 1]."""
    x = _unit(image)
    down, right = np.abs(np.diff(x, axis=0)), np.abs(np.diff(x, axis=1))
    return float(100 * (down.sum() + right.sum()) / (down.size + right.size))


_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    'l1': lambda real, fake, mask: mean_error(real, fake, 1),
    'l1_hole': lambda real, fake, mask: mean_error(real, fake, 1, mask),
    'l1_relative': lambda real, fake, mask: relative_error(real, fake, 1),
    'l2': lambda real, fake, mask: mean_error(real, fake, 2),
    'l2_hole': lambda real, fake, mask: mean_error(real, fake, 2, mask),
    'l2_relative': lambda real, fake, mask: relative_error(real, fake, 2),
    'psnr': lambda real, fake, mask: psnr(real, fake),
    'ssim': lambda real, fake, mask: ssim(real, fake),
    'tv': lambda real, fake, mask: tv(fake),
    'tv_real': lambda real, fake, mask: tv(real),
}


def measure(real: np.ndarray, fake: np.ndarray, mask: np.ndarray, metrics: tuple[str, ...]) -> dict[str, float]:
    """All numbers of the metrics, names in DEFINITIONS, of one completed image; mask [H, W], 1 is a hole.

    Raises: ValueError as the single measures.
    """
    return {name: _MEASURES[name](real, fake, mask) for metric in metrics for name in DEFINITIONS[metric]}
