"""Measures of single images, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from pegan_jax.metrics import image as measures

REAL = np.zeros((16, 16, 3), np.uint8)
REAL[:8] = 255


def changed(value=51):
    """An eighth of the pixels, all of them white before, is darker by `value`, a fifth of the range."""
    fake = REAL.copy()
    fake[:4, :8] -= np.uint8(value)
    return fake


def test_errors_are_means_over_the_image_the_hole_or_the_image_itself():
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 1
    assert measures.mean_error(REAL, changed(), 1) == pytest.approx(100 * 0.2 / 8)
    assert measures.mean_error(REAL, changed(), 2) == pytest.approx(100 * 0.04 / 8)
    # Half of the hole is wrong.
    assert measures.mean_error(REAL, changed(), 1, mask) == pytest.approx(100 * 0.2 / 2)
    # The sum of the image is half of its pixels.
    assert measures.relative_error(REAL, changed(), 1) == pytest.approx(100 * 0.2 / 4)
    assert measures.relative_error(REAL, changed(), 2) == pytest.approx(100 * 0.04 / 4)
    assert math.isnan(measures.relative_error(0 * REAL, changed(), 1))


def test_psnr_is_that_of_the_mean_square():
    assert measures.psnr(REAL, changed()) == pytest.approx(10 * math.log10(8 / 0.04))
    assert measures.psnr(REAL, REAL) == math.inf


def test_ssim_is_one_for_equal_images_and_falls_with_structure_more_than_with_brightness():
    rng = np.random.default_rng(0)
    real = rng.integers(60, 180, (32, 32, 3)).astype(np.uint8)
    shuffled = rng.permutation(real.reshape(-1, 3)).reshape(real.shape)
    assert measures.ssim(real, real) == pytest.approx(1)
    assert measures.ssim(real, real + np.uint8(20)) > 0.9 > 0.3 > measures.ssim(real, shuffled)
    with pytest.raises(ValueError, match='too small'):
        measures.ssim(real[:10], real[:10])


def test_ssim_agrees_with_its_definition_on_constant_images():
    """(2 a b + C1) / (a^2 + b^2 + C1) with C1 = 0.01^2; there is no structure to compare."""
    a, b = np.full((16, 16, 3), 51, np.uint8), np.full((16, 16, 3), 102, np.uint8)
    assert measures.ssim(a, b) == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4), rel=1e-6)


def test_total_variation_counts_pairs_of_neighbours():
    # 16 of 2 * 15 * 16 pairs differ, by 1.
    assert measures.tv(REAL) == pytest.approx(100 * 16 / 480)
    assert measures.tv(REAL[:8]) == 0


def test_every_metric_has_its_numbers_and_other_arrays_are_refused():
    mask = np.ones((16, 16), np.uint8)
    got = measures.measure(REAL, changed(), mask, tuple(measures.DEFINITIONS))
    assert list(got) == [name for numbers in measures.DEFINITIONS.values() for name in numbers]
    assert got['l1_hole'] == got['l1'] and got['tv_real'] == measures.tv(REAL) != got['tv'] == measures.tv(changed())
    with pytest.raises(ValueError, match=r'image is float64 \(16, 16, 3\)'):
        measures.measure(REAL / 255, changed(), mask, ('l1',))
