"""Edges of sampling: latents, quantisation, grids of images."""

import numpy as np

from pegan_jax.sampling import image_grid, latents, to_uint8


def test_a_seed_gives_the_same_latent_in_any_company():
    np.testing.assert_array_equal(latents([5], 4)[0], latents([3, 5, 9], 4)[1])
    np.testing.assert_array_equal(latents([5], 4), np.random.RandomState(5).randn(1, 4).astype(np.float32))


def test_quantisation_rounds_to_nearest_and_clamps():
    x = np.array([-1.5, -1, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0, 1, 9], np.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 128, 255, 255])


def test_images_are_laid_out_row_by_row_and_missing_ones_are_black():
    images = np.arange(1, 6)[:, None, None, None] * np.ones((5, 2, 3, 1))
    grid = image_grid(images, 3)
    assert grid.shape == (4, 9, 1)
    np.testing.assert_array_equal(grid[::2, ::3, 0], [[1, 2, 3], [4, 5, 0]])
