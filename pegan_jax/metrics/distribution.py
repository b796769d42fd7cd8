"""Distances between two sets of images."""

import numpy as np
from scipy import ndimage

from pegan_jax.settings import UserError


def laplacian_pyramid(images: np.ndarray, min_side: int = 16) -> list[np.ndarray]:
    """Band-pass levels, finest first, the last one a low-pass; Burt and Adelson 1983, taps [1, 4, 6, 4, 1] / 16.

    Args:
      images: [N, H, W, C] float.
      min_side: the smallest level has sides of at least this.
    Returns: list of [N, H / 2^k, W / 2^k, C] float32; odd sides round up.
    """

    def smooth(x: np.ndarray, gain: float) -> np.ndarray:
        taps = np.array([1, 4, 6, 4, 1], np.float32) / 16
        for axis in (1, 2):
            x = ndimage.convolve1d(x, taps * gain, axis=axis, mode='mirror')
        return x

    levels, x = [], np.asarray(images, np.float32)
    while min(x.shape[1:3]) >= 2 * min_side:
        low = smooth(x, 1)[:, ::2, ::2]
        up = np.zeros_like(x)
        up[:, ::2, ::2] = low
        levels.append(x - smooth(up, 2))
        x = low
    return [*levels, x]


def sliced_wasserstein(
    a: np.ndarray, b: np.ndarray, *, patches: int = 64, patch_size: int = 7, directions: int = 256, seed: int = 0
) -> float:
    """Sliced Wasserstein distance of local structure (Rabin et al. 2011; on pyramid patches as in Karras et al. 2018).

    On each Laplacian-pyramid level, `patches` random patches per image are normalised per colour channel over their set
    and projected on random unit directions; SWD = mean |sort(projections of a) - sort(projections of b)|.

    Args:
      a, b: [N, H, W, C], equal shapes; range [-1, 1] or any other.
      patches, patch_size, directions, seed: of the random draws, the same for both sets.
    Returns: the mean over levels, times 1000. 0 for equal sets.
    Raises: ValueError on unequal shapes or images smaller than a patch.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f'sliced_wasserstein compares two arrays [N, H, W, C] of one shape, got {a.shape} and {b.shape}.'
        )
    if min(a.shape[1:3]) < patch_size:
        raise UserError(
            f'images of {a.shape[1]}x{a.shape[2]} hold no patch of {patch_size}x{patch_size}; use a smaller one.'
        )
    rng = np.random.default_rng(seed)
    distances = []
    for level_a, level_b in zip(laplacian_pyramid(a), laplacian_pyramid(b), strict=True):
        n, h, w, c = level_a.shape
        ys = rng.integers(0, h - patch_size + 1, (n, patches))
        xs = rng.integers(0, w - patch_size + 1, (n, patches))
        direction = rng.standard_normal((patch_size * patch_size * c, directions)).astype(np.float32)
        direction /= np.linalg.norm(direction, axis=0)

        def project(level: np.ndarray, ys=ys, xs=xs, direction=direction, n=n, c=c) -> np.ndarray:  # noqa: ANN001
            windows = np.lib.stride_tricks.sliding_window_view(level, (patch_size, patch_size), axis=(1, 2))
            x = windows[np.arange(n)[:, None], ys, xs].reshape(-1, c, patch_size * patch_size)
            x = (x - x.mean((0, 2), keepdims=True)) / np.maximum(x.std((0, 2), keepdims=True), 1e-8)
            return np.sort(x.reshape(len(x), -1) @ direction, axis=0)

        distances.append(np.abs(project(level_a) - project(level_b)).mean())
    return 1000 * float(np.mean(distances))


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two clouds of features (Heusel et al. 2017, eq. 6).

    |m - m'|^2 + Tr(S + S' - 2 (S S')^(1/2)), S with N - 1, of features [N, D] and [M, D], in float64.
    Raises: ValueError for other shapes, or fewer than two features.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f'features have shapes {real.shape} and {fake.shape}; expected [N, D] and [M, D], N, M >= 2.')
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake)]
    # The trace of the root of S S' is the sum of the roots of its eigenvalues, which are those of a product of positive
    # semidefinite matrices: real and not negative but for rounding.
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1])
    root = np.sum(np.sqrt(np.maximum(eigenvalues.real, 0)))
    difference = real.mean(axis=0) - fake.mean(axis=0)
    return float(difference @ difference + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root)
