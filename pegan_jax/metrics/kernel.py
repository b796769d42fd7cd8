"""Kernel Inception Distance."""

from typing import NamedTuple

import numpy as np


class KernelDistance(NamedTuple):
    """value: mean over subsets; error: its standard error, from the spread over subsets."""

    value: float
    error: float


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3, unbiased (Binkowski et al. 2018, eq. 4).

    The mean over random subsets of m = min(subset_size, N, M) features each, drawn without replacement, those of `fake`
    first, by NumPy's RandomState(seed); as in NVlabs/stylegan3 `kid50k_full`. It can be negative.

    Args:
      real, fake: [N, D], [M, D].
    Raises: ValueError for other shapes, or fewer than two features.
    """
    m = min(subset_size, len(real), len(fake))
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or m < 2:
        raise ValueError(f'features have shapes {real.shape} and {fake.shape}; expected [N, D] and [M, D], N, M >= 2.')
    random, values = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = np.asarray(fake[np.sort(random.choice(len(fake), m, replace=False))], np.float64)
        y = np.asarray(real[np.sort(random.choice(len(real), m, replace=False))], np.float64)
        within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
        values.append((within / (m - 1) - 2 * _kernel(x, y).sum() / m) / m)
    return KernelDistance(float(np.mean(values)), float(np.std(values) / np.sqrt(subsets)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
