"""The sliced Wasserstein distance."""

import numpy as np
import pytest

from pegan_jax.metrics.distribution import laplacian_pyramid, sliced_wasserstein


def _images(seed, blocks):
    side = 8 if blocks else 32
    x = np.random.default_rng(seed).standard_normal((128, side, side, 3)).astype(np.float32)
    return x.repeat(32 // side, 1).repeat(32 // side, 2)


def test_equal_sets_have_distance_zero():
    a = _images(0, False)
    assert sliced_wasserstein(a, a) == 0


def test_other_textures_are_further_than_other_draws_of_the_same():
    a = _images(0, False)
    assert sliced_wasserstein(a, _images(1, True)) > 2 * sliced_wasserstein(a, _images(1, False))


def test_scale_and_offset_of_colours_are_normalised_away():
    a = _images(0, False)
    assert sliced_wasserstein(a, 3 * a + 1) < 0.1


def test_projections_of_one_level_match_a_direct_computation():
    # 1x1 patches of 8x8 images: one level, and directions are +-1 per channel after normalisation.
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 16, 8, 8, 1))
    got = sliced_wasserstein(a, b, patch_size=1, patches=512, directions=1)
    quantiles = [np.sort((x - x.mean()) / x.std(), axis=None) for x in (a, b)]
    assert abs(got / 1000 - np.abs(quantiles[0] - quantiles[1]).mean()) < 0.03


def test_a_pyramid_splits_bands_and_keeps_constants_in_the_last():
    levels = laplacian_pyramid(np.full((1, 64, 64, 3), 0.7))
    assert [x.shape[1] for x in levels] == [64, 32, 16]
    assert max(np.abs(levels[0]).max(), np.abs(levels[1]).max()) < 1e-6
    np.testing.assert_allclose(levels[2], 0.7, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r'one shape'):
        sliced_wasserstein(np.zeros((2, 8, 8, 3)), np.zeros((3, 8, 8, 3)))
    with pytest.raises(ValueError, match=r'no patch of 7x7'):
        sliced_wasserstein(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3)))
