"""Gaussians fitted to clouds of features, and the Frechet distance of two; everything in float64."""

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """mean: [D]; covariance: [D, D]; float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Moments:
    """Mean and covariance of features that arrive in pieces.

    Sums are of differences from the mean of the first piece, and what is rounded off when a piece is added is kept
    (Neumaier 1974). So neither the number of pieces nor their order changes the result by more than the rounding of one
    sum. Memory: four [D, D] arrays.
    """

    def __init__(self) -> None:
        self.count, self._origin = 0, None

    def add(self, features: np.ndarray) -> None:
        """Takes features [n, D]. Raises: ValueError for another shape than those before."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or (self.count and x.shape[1] != len(self._origin)):
            raise ValueError(f'features have the shape {x.shape}; expected [N, D] with one D for all.')
        if not len(x):
            return
        if not self.count:
            self._origin, dim = x.mean(axis=0), x.shape[1]
            self._sum, self._products = np.zeros((2, dim)), np.zeros((2, dim, dim))
        x = x - self._origin
        self.count += len(x)
        _add(self._sum, x.sum(axis=0))
        _add(self._products, x.T @ x)

    def gaussian(self, ddof: int = 0) -> Gaussian:
        """The Gaussian, its covariance divided by count - ddof. Raises: ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f'{self.count} features have no covariance; at least 2 are needed.')
        mean = self._sum.sum(axis=0) / self.count
        covariance = (self._products.sum(axis=0) - self.count * np.outer(mean, mean)) / (self.count - ddof)
        return Gaussian(self._origin + mean, (covariance + covariance.T) / 2)


def _add(total: np.ndarray, value: np.ndarray) -> None:
    """total[0] + total[1] grows by value; total[1] collects what total[0] is too coarse for."""
    new = total[0] + value
    old = new - value
    total[1] += (total[0] - old) + (value - (new - old))
    total[0] = new


def fit(features: np.ndarray, ddof: int = 0) -> Gaussian:
    """The Gaussian of features [N, D]. Raises: ValueError as `Moments`."""
    moments = Moments()
    moments.add(features)
    return moments.gaussian(ddof)


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [rank, D] with R' R = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    # What is below the rounding of the largest eigenvalue is zero: there are fewer images than features, or features
    # that depend on each other. Its square root would not be small.
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6): |m - m'|^2 + Tr(S + S' - 2 (S S')^(1/2)).

    The trace of the root of S S' is computed as the sum of the singular values of S^(1/2) S'^(1/2). That is the same
    number, and real and non-negative for all covariances, even singular ones: there is no complex part to drop, and
    nothing is added to a diagonal. With N images and N - 1 < D features the fit is singular and the distance finite,
    but biased upwards; no formula can repair that, so compare equal counts.

    Raises: ValueError for Gaussians of different dimensions, or numbers that are not finite.
    """
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f'Gaussians in {len(real.mean)} and {len(fake.mean)} dimensions have no distance.')
    if not all(np.isfinite(x).all() for x in (*real, *fake)):
        raise ValueError('a mean or a covariance is not finite.')
    roots = _root(real.covariance) @ _root(fake.covariance).T
    fidelity = np.linalg.svd(roots, compute_uv=False).sum() if min(roots.shape) else 0.0
    difference = real.mean - fake.mean
    traces = np.trace(real.covariance) + np.trace(fake.covariance)
    return float(difference @ difference + traces - 2 * fidelity)
