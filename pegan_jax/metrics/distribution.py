"""Distances between two sets of images."""

import numpy as np
from scipy import ndimage

from pegan_jax.settings import UserError

MIN_SIDE = 16  # the least side of a pyramid's smallest level
GROUP = 8  # images whose pyramids memory holds at once


def laplacian_pyramid(images: np.ndarray, min_side: int = MIN_SIDE) -> list[np.ndarray]:
    """Band-pass levels, finest first, the last one low-pass (Burt and Adelson 1983), with taps [1, 4, 6, 4, 1] / 16.

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
    and projected onto random unit directions; SWD = mean |sort(projections of a) - sort(projections of b)|.

    Args:
      a, b: [N, H, W, C], equal shapes; range [-1, 1] or any other.
      patches, patch_size, directions, seed: those of the random draws, the same for both sets.
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
    (n, height, width, c), rng = a.shape, np.random.default_rng(seed)
    places, slices = [], []  # of each level
    while True:
        places.append([rng.integers(0, side - patch_size + 1, (n, patches)) for side in (height, width)])
        direction = rng.standard_normal((patch_size * patch_size * c, directions)).astype(np.float32)
        slices.append(direction / np.linalg.norm(direction, axis=0))
        if min(height, width) < 2 * MIN_SIDE:
            break
        height, width = -(-height // 2), -(-width // 2)

    def levels(images: np.ndarray) -> list[np.ndarray]:
        """Patches of each level, [N, patches, C, patch_size, patch_size]; a few images at a time, to save memory."""
        found = [[] for _ in places]
        for start in range(0, n, GROUP):
            rows = slice(start, start + GROUP)
            for level, (ys, xs), kept in zip(laplacian_pyramid(images[rows]), places, found, strict=True):
                windows = np.lib.stride_tricks.sliding_window_view(level, (patch_size, patch_size), axis=(1, 2))
                kept.append(windows[np.arange(len(level))[:, None], ys[rows], xs[rows]])
        return [np.concatenate(kept) for kept in found]

    def project(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        x = x.reshape(-1, c, patch_size * patch_size)
        x = (x - x.mean((0, 2), keepdims=True)) / np.maximum(x.std((0, 2), keepdims=True), 1e-8)
        return np.sort(x.reshape(len(x), -1) @ direction, axis=0)

    both = zip(levels(a), levels(b), slices, strict=True)
    distances = [np.abs(project(x, direction) - project(y, direction)).mean() for x, y, direction in both]
    return 1000 * float(np.mean(distances))


def monge_distance(real: np.ndarray, fake: np.ndarray, *, directions: int = 1000, seed: int = 0) -> float:
    """Monge Inception Distance of features (Berthet et al. 2026, arXiv:2605.06797): a sliced Wasserstein distance.

    It is 3 D times the mean, over random unit directions and over ranks, of the squared difference of sorted
    projections. The factor and the number of directions are those of programs that reproduce the paper.

    Args:
      real, fake: [N, D], of equal length.
      directions: how many; seed: that of NumPy's default generator.
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
