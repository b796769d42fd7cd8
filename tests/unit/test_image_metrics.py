"""Measures of single images, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import ndimage

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
    # Half of the pixels have a value, 1 or, of a darker image, 0.4; a quarter of those is wrong by 0.2.
    assert measures.relative_error(REAL, changed(), 1) == pytest.approx(100 * 0.2 / 4)
    dark, wrong = (REAL // 255 * 102, (REAL // 255 * 102).copy())
    wrong[:4, :8] = 51
    assert measures.relative_error(dark, wrong, 1) == pytest.approx(100 * 0.2 / 4 / 0.4)
    assert measures.relative_error(dark, wrong, 2) == pytest.approx(100 * 0.04 / 4 / 0.16)
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


def test_ssim_agrees_with_its_definition():
    """Wang et al. 2004, eq. 13, with a Gaussian window of 11 pixels, where the window is inside of the image."""
    a, b = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    x, y = a / 255, (b // 4 + a // 2) / 255

    def mean(x):
        return ndimage.gaussian_filter(x, (1.5, 1.5, 0), truncate=5 / 1.5)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    local = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert measures.ssim(a, b // 4 + a // 2) == pytest.approx(local[5:-5, 5:-5].mean(), rel=1e-6)


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


def test_similarity_at_five_scales_is_the_product_of_its_definition():
    """Wang et al. 2003, eq. 7, with the windows of SciPy where they are inside."""
    a = np.random.default_rng(0).integers(0, 256, (180, 200, 3)).astype(np.uint8)
    b = (0.7 * a + 0.3 * np.roll(a, 1, axis=0)).astype(np.uint8)
    x, y, want = a / 255, b / 255, 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (0.25 * (v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) for v in (x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2], y[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]))  # fmt: skip  # noqa: E501

        def mean(v):
            return ndimage.gaussian_filter(v, (1.5, 1.5, 0), truncate=5 / 1.5)[5:-5, 5:-5]

        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        local = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        if scale == 4:
            local = local * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        want *= local.mean() ** weight
    assert measures.ms_ssim(a, b) == pytest.approx(want, rel=1e-9)
    assert measures.ms_ssim(a, a) == pytest.approx(1) and measures.ms_ssim(a, 255 - a) == 0
    assert 0 <= measures.ms_ssim(a[:16, :16], b[:16, :16]) < 1  # the window shrinks
    with pytest.raises(ValueError, match='use 16'):
        measures.ms_ssim(a[:15], b[:15])
