"""What holds for every world: it is a function of coordinates."""

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.data import worlds

SEEDS = (0, 1, 5)
GRID = coords.grid(32, 32, centered=True)
jitted = jax.jit(worlds.world, static_argnames='period')


def world(seed, points, footprint, period=None):
    return jitted(seed, points, jnp.broadcast_to(footprint, (32, 32)), period)


def moved(dx, dy):
    return GRID + jnp.array([dx, dy]).reshape(1, 1, 2)


def test_a_colour_depends_on_its_coordinates_not_on_the_grid():
    frames = worlds.render_world(jnp.array(SEEDS), 32, 32)
    for seed, frame in zip(SEEDS, frames, strict=True):
        np.testing.assert_allclose(frame, world(seed, GRID, 2 / 32), atol=2e-4)
    parts = worlds.render_world(jnp.array(SEEDS), 16, 24, x=(-0.75, 0.75), y=(-0.5, 0.5))
    np.testing.assert_allclose(parts, frames[:, 8:24, 4:28], atol=2e-4)
    higher = worlds.render_world(jnp.array(SEEDS), 16, 24, y=(-0.5, 0.5))  # square pixels without being asked
    np.testing.assert_array_equal(higher, parts)


def test_panoramas_close():
    for seed in SEEDS:
        here, around, behind = (world(seed, moved(dx, 0.0), 0.06, period=3) for dx in (0.0, 3.0, 1.5))
        np.testing.assert_allclose(here, around, atol=1e-3)
        assert np.abs(here - behind).mean() > 0.05


def test_flat_views_do_not_repeat():
    for dx in (1.0, 2.0, 3.0):
        assert np.abs(world(0, GRID, 0.06) - world(0, moved(dx, 0.0), 0.06)).mean() > 0.05


def test_coarse_pixels_are_means_of_fine_ones():
    fine = worlds.render_world(jnp.array(SEEDS), 32, 32, supersample=6)

    def error(footprint):
        coarse = jnp.stack([world(seed, GRID, footprint) for seed in SEEDS])
        return jnp.sqrt(jnp.mean((coarse - fine) ** 2))

    assert error(2 / 32) < 0.06 and error(2 / 32) < 0.9 * error(2 / 32 / 6)


def test_no_edge_jumps_when_the_grid_moves_by_a_fraction_of_a_pixel():
    for seed in SEEDS:
        for dx, dy in ((1 / 256, 0.0), (0.0, 1 / 256), (1 / 256, -1 / 256)):  # sixteenths of a pixel
            step = np.abs(world(seed, GRID, 2 / 32) - world(seed, moved(dx, dy), 2 / 32))
            assert step.max() < 0.25 and step.mean() < 0.02


def test_every_point_and_every_footprint_has_a_colour():
    extremes = jnp.array([[0.0, 0.0], [1e3, -1e3], [-1e3, 1e3], [0.3, 1e-4], [0.0, 50.0], [-7.5, -9.0]])
    for seed in SEEDS:
        points = GRID.reshape(-1, 2).at[:6].set(extremes).at[6, 1].set(worlds.truth(seed).horizon)
        for footprint in (1e-4, 0.05, 2.0):
            colours = world(seed, points.reshape(32, 32, 2), footprint)
            assert np.isfinite(colours).all() and np.abs(colours).max() <= 1


def test_each_point_may_have_its_own_footprint():
    fine, coarse = world(1, GRID, 0.01), world(1, GRID, 0.2)
    left = GRID[..., 0] < 0
    mixed = world(1, GRID, jnp.where(left, 0.01, 0.2))
    np.testing.assert_allclose(mixed, jnp.where(left[..., None], fine, coarse), atol=2e-4)
    assert np.abs(fine - coarse).mean() > 0.02
