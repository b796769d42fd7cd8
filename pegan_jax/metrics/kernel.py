"""Kernel Inception Distance, and CMMD."""

from typing import NamedTuple

import numpy as np


class KernelDistance(NamedTuple):
    """value: mean over subsets; error: its standard error, from their spread, 0 if each of them has everything."""

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
    if m == len(real) == len(fake):
        subsets = 1  # each would have everything
    random, values = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = np.asarray(fake[np.sort(random.choice(len(fake), m, replace=False))], np.float64)
        y = np.asarray(real[np.sort(random.choice(len(real), m, replace=False))], np.float64)
        within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
        values.append((within / (m - 1) - 2 * _kernel(x, y).sum() / m) / m)
    return KernelDistance(float(np.mean(values)), float(np.std(values) / np.sqrt(subsets)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def cmmd(real: np.ndarray, fake: np.ndarray, *, sigma: float = 10, block: int = 2048) -> float:
    """CLIP maximum mean discrepancy (Jayasumana et al. 2024): 1000 MMD^2 under k(x, y) = exp(-|x - y|^2 / 2 sigma^2).

    The unbiased estimator of that paper: means of k over all pairs of two different reals and of two different fakes,
    minus twice that over pairs of a real and a fake. It can be negative. The paper's program includes pairs of an
    embedding with itself, which adds at most 20 / N + 20 / M.

    Args:
      real, fake: embeddings of length 1, [N, D], [M, D].
      block: rows compared at once, which bound the memory; no result depends on it.
    Raises: ValueError for other shapes, or fewer than two embeddings.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f'features have shapes {real.shape} and {fake.shape}; expected [N, D] and [M, D], N, M >= 2.')

    def total(a: np.ndarray, b: np.ndarray, *, same: bool = False) -> float:
        """Sum of k - 1 over pairs: ones cancel, and pairs of an embedding with itself add nothing."""
        found = 0.0
        for i in range(0, len(a), block):
            for j in range(i if same else 0, len(b), block):
                x, y = (np.asarray(part, np.float64) for part in (a[i : i + block], b[j : j + block]))
                squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * x @ y.T
                # Within one cloud, the blocks below the diagonal equal those above it.
                found += (1 + (same and i != j)) * np.expm1(squares / (-2 * sigma**2)).sum()
        return found

    n, m = len(real), len(fake)
    within = total(real, real, same=True) / (n * (n - 1)) + total(fake, fake, same=True) / (m * (m - 1))
    return float(1000 * (within - 2 * total(real, fake) / (n * m)))
