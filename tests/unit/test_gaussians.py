"""Moments of features in pieces, and the Frechet distance against closed forms."""

import numpy as np
import pytest
from scipy import linalg

from pegan_jax.metrics.gaussians import Gaussian, Moments, fit, frechet_distance

RNG = np.random.default_rng(0)


def spread(dim, low, rng=RNG):
    """A covariance with eigenvalues from 1 down to `low`, in random directions."""
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return basis @ np.diag(np.geomspace(1, low, dim)) @ basis.T


@pytest.mark.parametrize('offset', [0, 1e6])
def test_moments_are_those_of_all_features_whatever_the_pieces_and_their_order(offset):
    x = (offset + RNG.standard_normal((500, 6)) @ np.diag([1, 2, 3, 1e-3, 5, 6])).astype(np.float64)
    exact = x.astype(np.longdouble)
    mean = exact.mean(axis=0)
    covariance = ((exact - mean).T @ (exact - mean)) / len(x)
    found = []
    for pieces in ([500], [1] * 500, [7, 93, 400]):
        for order in (x, x[::-1]):
            moments = Moments()
            for piece in np.split(order, np.cumsum(pieces)[:-1]):
                moments.add(piece)
            found.append(moments.gaussian())
            assert moments.count == 500
    for got in found:
        np.testing.assert_allclose(got.mean, mean.astype(float), rtol=1e-15, atol=1e-14)
        np.testing.assert_allclose(got.covariance, covariance.astype(float), rtol=1e-9, atol=1e-15 * max(offset, 1))
    np.testing.assert_allclose(fit(x, ddof=1).covariance, np.cov(x, rowvar=False), rtol=1e-6, atol=1e-9)


def test_what_is_rounded_off_between_pieces_is_kept():
    """1 is added to 1e16 a thousand times: a plain float64 sum stays where it is."""
    moments, plain = Moments(), 1e16
    moments.add(np.zeros((1, 1)))
    moments.add(np.array([[1e16]]))
    for _ in range(1000):
        moments.add(np.ones((1, 1)))
        plain += 1.0
    assert plain == 1e16
    assert moments.gaussian().mean[0] * 1002 == pytest.approx(1e16 + 1000, rel=1e-16)
    assert float(moments._sum[0][0] - 1e16) + float(moments._sum[1][0]) == 1000


def test_distance_of_gaussians_along_the_axes_is_that_of_means_and_deviations():
    a, b = RNG.random((2, 5)) * 3
    m, n = RNG.standard_normal((2, 5))
    got = frechet_distance(Gaussian(m, np.diag(a**2)), Gaussian(n, np.diag(b**2)))
    assert got == pytest.approx(((m - n) ** 2).sum() + ((a - b) ** 2).sum(), rel=1e-12)
    with pytest.raises(ValueError, match='in 5 and 4 dimensions'):
        frechet_distance(Gaussian(m, np.eye(5)), Gaussian(n[:4], np.eye(4)))
    with pytest.raises(ValueError, match='not finite'):
        frechet_distance(Gaussian(m, np.eye(5)), Gaussian(n, np.full((5, 5), np.nan)))


@pytest.mark.parametrize('low', [1e-2, 1e-9, 1e-12])
def test_distance_to_a_stretched_copy_has_a_closed_form_also_when_nearly_singular(low):
    """A symmetric positive map A is the cheapest way from N(0, S) to N(0, A S A): |x - A x|^2 on average."""
    s, stretch = spread(40, low), spread(40, 0.2)
    want = np.trace((np.eye(40) - stretch) @ s @ (np.eye(40) - stretch))
    got = frechet_distance(Gaussian(np.zeros(40), s), Gaussian(np.zeros(40), stretch @ s @ stretch))
    assert got == pytest.approx(want, rel=1e-6)
    if low == 1e-2:
        root = linalg.sqrtm(s @ stretch @ s @ stretch)
        assert got == pytest.approx(np.trace(s + stretch @ s @ stretch - 2 * root.real), rel=1e-6)


def test_with_fewer_images_than_features_the_distance_is_that_of_the_singular_fits():
    """Tr (S S')^(1/2) is the sum of the singular values of X X' / N, X and X' without their means."""
    x, y = RNG.standard_normal((20, 100)), RNG.standard_normal((30, 100)) + 0.3
    centred = [(v - v.mean(axis=0)) / np.sqrt(len(v)) for v in (x, y)]
    fidelity = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum((c**2).sum() for c in centred)
    want = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + traces - 2 * fidelity
    got = frechet_distance(fit(x), fit(y))
    assert isinstance(got, float) and got == pytest.approx(want, rel=1e-10)
    assert frechet_distance(fit(x), fit(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(fit(x[:2] * 0), fit(y)) == pytest.approx((y**2).sum() / 30, rel=1e-10)  # a point


def test_moments_refuse_what_they_cannot_fit():
    moments = Moments()
    moments.add(np.zeros((0, 3)))
    moments.add(np.ones((1, 3)))
    with pytest.raises(ValueError, match='1 features have no covariance'):
        moments.gaussian()
    for wrong in (np.ones((1, 4)), np.ones(3)):
        with pytest.raises(ValueError, match='one D for all'):
            moments.add(wrong)
