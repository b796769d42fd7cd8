"""The worlds' truths and the horizon estimator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax.data import worlds
from pegan_jax.pixels import to_uint8


@functools.cache
def samples(count=200):
    """uint8 worlds 0 to count - 1 at 48 x 48, and their truths."""
    render = jax.jit(lambda seeds: worlds.render_world(seeds, 48, 48))
    images = [to_uint8(render(jnp.arange(k, k + 50))) for k in range(0, count, 50)]
    return np.concatenate(images), truths(count)


def truths(count):
    return jax.jit(jax.vmap(worlds.truth))(jnp.arange(count))


def test_horizon_hour_and_season_cover_their_ranges():
    truth = truths(500)
    for values, low, high in ((truth.horizon, -0.25, 0.35), (truth.hour, 5, 21)):
        assert values.min() >= low and values.max() <= high
        np.testing.assert_allclose(
            np.quantile(values, [0.1, 0.9]), [0.9 * low + 0.1 * high, 0.1 * low + 0.9 * high], rtol=0.15
        )
    assert np.bincount(truth.season).min() > 75  # of 500, in four seasons


@pytest.mark.slow
def test_worlds_differ_from_each_other():
    images, _ = samples()
    difference = np.abs(images[:-1] / 127.5 - images[1:] / 127.5).mean((1, 2, 3))
    assert difference.min() > 0.03 and np.median(difference) > 0.3


def test_estimated_horizon_is_within_a_few_hundredths_of_the_frame_height():
    images, truth = samples()
    error = np.abs(worlds.horizon_height(images) - np.asarray(truth.horizon)) / 2
    assert error.mean() < 0.018
    assert np.median(error) < 0.006  # a third of a pixel
    assert np.quantile(error, 0.95) < 0.07


def test_estimated_horizon_survives_noise_and_blur():
    images, truth = samples()
    noise = np.random.default_rng(0).normal(0, 8, images.shape)
    blurred = (images[:, :, 1:] * 0.5 + images[:, :, :-1] * 0.5) + noise[:, :, 1:]
    error = np.abs(worlds.horizon_height(blurred) - np.asarray(truth.horizon)) / 2
    assert np.median(error) < 0.008 and error.mean() < 0.03


def test_estimated_horizon_knows_the_extent():
    seeds = jnp.array([0, 3, 4, 8])
    wide = jax.jit(lambda seeds: worlds.render_world(seeds, 96, 48, x=(-1.0, 1.0), y=(-2.0, 2.0)))(seeds)
    truth = truths(9).horizon[seeds]
    np.testing.assert_allclose(worlds.horizon_height(wide, y=(-2.0, 2.0)), truth, atol=0.04)
    np.testing.assert_allclose(worlds.horizon_height(wide[2], y=(-2.0, 2.0)), truth[2], atol=0.04)


def test_estimated_horizon_of_a_plain_edge_is_exact():
    image = np.zeros((64, 16, 3))
    image[40:] = 1.0
    np.testing.assert_allclose(worlds.horizon_height(image), 40 / 32 - 1, atol=1e-6)
    np.testing.assert_allclose(worlds.horizon_height(image[..., :1]), 40 / 32 - 1, atol=1e-6)
    opacity = np.eye(64, 16)[..., None]
    np.testing.assert_allclose(worlds.horizon_height(np.concatenate([image, 9 * opacity], -1)), 40 / 32 - 1, atol=1e-6)


@pytest.mark.parametrize('shape', [(64, 64), (64, 64, 2), (4, 64, 3), (1, 2, 64, 64, 3)])
def test_estimator_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match='at least 8 rows'):
        worlds.horizon_height(np.zeros(shape))


@jax.jit
def colours(seed, x, y, footprint):
    """At 256 points."""
    return worlds.world(seed, jnp.stack([x, y], -1), footprint)


def test_ground_colour_is_the_mean_over_many_fields():
    x, y = jnp.linspace(-60, 60, 256), jnp.full(256, 3.0)  # far below the frame
    rows = [np.median(colours(seed, x, y, 0.02), 0) for seed in range(12)]
    error = np.abs(rows - np.stack([worlds.truth(seed, 3.0).ground for seed in range(12)])).max(-1)
    assert np.median(error) < 0.08 and max(error) < 0.35


def test_sky_colour_is_that_of_a_cloudless_sky():
    clouds = jax.jit(jax.vmap(lambda seed: worlds._scene(seed).clouds))(jnp.arange(40))
    cloudless = np.flatnonzero(clouds == 0)[:5]
    assert len(cloudless) == 5
    x, y = jnp.full(256, 9.0), jnp.linspace(-2.5, -1.2, 256)
    for seed in cloudless:
        error = np.abs(colours(seed, x, y, 0.02) - worlds.truth(seed, y).sky).max(-1)
        assert np.median(error) < 0.01  # the median: stars


def test_ground_begins_at_the_horizon():
    x, y = jnp.meshgrid(jnp.linspace(-1, 1, 64), worlds.truth(0).horizon + jnp.array([-0.05, -0.004, 0.004, 0.05]))
    above, just_above, just_below, below = np.median(colours(0, x.ravel(), y.ravel(), 0.001).reshape(4, 64, 3), 1)
    step = np.abs(just_above - just_below).max()
    assert step > 0.3 and step > np.abs(just_below - below).max() and step > np.abs(just_above - above).max()


@pytest.mark.parametrize('period', [0, -2, 1.5])
def test_period_must_be_a_positive_integer(period):
    with pytest.raises(ValueError, match='period='):
        worlds.world(0, jnp.zeros((1, 2)), 0.1, period)
