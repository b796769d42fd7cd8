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


def monge_distance(real: np.ndarray, fake: np.ndarray, *, directions: int = 1000, seed: int = 0) -> float:
    """Monge Inception Distance of features (Berthet et al. 2026, arXiv:2605.06797): a sliced Wasserstein distance.

    3 D times the mean, over random unit directions and over ranks, of the squared difference of sorted projections. The
    factor and the number of directions are those of programs that reproduce the paper.

    Args:
      real, fake: [N, D], of equal length.
      directions, seed: of NumPy's default generator.
    Raises: ValueError for other shapes.
    """
    if real.ndim != 2 or real.shape != fake.shape:
        raise ValueError(f'features have shapes {real.shape} and {fake.shape}; expected two of one shape [N, D].')
    rng, dim, total = np.random.default_rng(seed), real.shape[1], 0.0
    for start in range(0, directions, 100):
        direction = rng.standard_normal((dim, min(100, directions - start)))
        direction /= np.linalg.norm(direction, axis=0)
        sorted_real, sorted_fake = (np.sort(np.asarray(x, np.float64) @ direction, axis=0) for x in (real, fake))
        total += ((sorted_real - sorted_fake) ** 2).mean(axis=0).sum()
    return float(3 * dim * total / directions)
