"""Sampling: latents, truncation, batches, chunks, quantisation, grids of images."""

import jax
import numpy as np
import pytest

from pegan_jax import coords
from pegan_jax.config import load_config
from pegan_jax.models import cips
from pegan_jax.sampling import Model, _write, image_grid, latents, render, sample, to_uint8


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


@pytest.fixture(scope='module')
def model():
    config = load_config('cips:tiny')
    gan = cips.build(config)
    params, buffers, _ = gan.init(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


def test_truncation_moves_images_to_one_mean_image(model):
    plain, half, mean = (sample(model, [0, 1, 2], truncation_psi=psi) for psi in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-5)
    spread = [np.abs(x[0] - x[1]).mean() for x in (plain, half)]
    assert spread[0] > 1.2 * spread[1] > 1e-3


def test_an_image_does_not_depend_on_its_batch(model):
    np.testing.assert_allclose(sample(model, [7, 1, 2], batch_size=2)[2], sample(model, [2])[0], atol=1e-5)


def test_a_rendered_image_is_the_sample_at_those_coordinates(model):
    grid = coords.grid(5, 3, x=(-2, 2), y=(0, 1))
    whole = render(model, 1, grid, truncation_psi=0.5)
    assert whole.shape == (5, 3, 3) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, render(model, 1, grid, truncation_psi=0.5, chunk=4), atol=1e-5)
    np.testing.assert_allclose(whole, sample(model, [1], grid=grid, truncation_psi=0.5)[0], atol=1e-5)
    np.testing.assert_allclose(whole[2:3, 1], render(model, 1, np.asarray(grid)[2:3, 1], truncation_psi=0.5), atol=1e-5)


def test_nothing_to_sample_is_an_error(model):
    with pytest.raises(ValueError, match='seeds is empty'):
        sample(model, [])
    with pytest.raises(ValueError, match='chunk=0 must be at least 1'):
        render(model, 0, coords.grid(2, 2), chunk=0)


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(tmp_path):
    def pieces():
        yield np.zeros((1, 3), np.float32)
        raise RuntimeError('interrupted')

    with pytest.raises(RuntimeError, match='interrupted'):
        _write(tmp_path / 'a.png', pieces(), (2, 2), 8)
    assert not list(tmp_path.iterdir())
