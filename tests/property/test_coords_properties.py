"""Invariants of grids, crops, cylinders, scattered sets and evaluation in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords


@pytest.mark.parametrize('r', [2, 5, 16, 37])
def test_the_grid_of_side_2r_minus_1_contains_the_grid_of_side_r(r):
    small, large = jax.jit(lambda: (coords.grid(r, r + 1), coords.grid(2 * r - 1, 2 * r + 1)))()
    np.testing.assert_array_equal(small, large[::2, ::2])


def test_crops_keep_the_coordinates_of_the_whole():
    whole = coords.grid(9, 11)
    cut = jax.jit(coords.crop, static_argnums=(3, 4))
    for top, left in ((0, 0), (3, 5), (5, 7)):
        np.testing.assert_array_equal(cut(whole, top, left, 4, 4), np.asarray(whole)[top : top + 4, left : left + 4])
    # A window of an image and of its grid show the same place.
    image = np.sin(3 * np.asarray(whole) + 1)
    np.testing.assert_allclose(cut(image, 2, 3, 4, 4), np.sin(3 * cut(whole, 2, 3, 4, 4) + 1), atol=1e-6)


def test_multiscale_crops_of_image_and_grid_agree_for_every_sample_of_a_batch():
    side, patch = 16, 4
    whole = coords.grid(side, side)
    images = jnp.stack([whole * k for k in (1.0, 2.0, 3.0)])

    @functools.partial(jax.jit, static_argnums=1)
    def crops(keys, scale):
        starts = jax.vmap(lambda key: coords.multiscale_start(key, side, patch, scale))(keys)
        cut = functools.partial(coords.multiscale_crop, stride=2**scale, patch=patch)
        return jax.vmap(cut)(images, starts), jax.vmap(lambda s: cut(whole, s))(starts)

    for scale in range(coords.multiscale_count(side, patch)):
        image, grid = crops(jax.random.split(jax.random.key(scale), 3), scale)
        assert image.shape == grid.shape == (3, patch, patch, 2)
        np.testing.assert_array_equal(image, np.asarray(grid) * np.array([1, 2, 3], np.float32).reshape(3, 1, 1, 1))
        np.testing.assert_allclose(np.diff(grid[..., 0], axis=2), 2 * 2**scale / (side - 1), atol=3e-7)
    assert len(np.unique(np.asarray(crops(jax.random.split(jax.random.key(9), 3), 0)[1])[:, 0, 0], axis=0)) > 1


def test_transforms_compose_like_maps_and_invert():
    a, b = coords.rotate(0.7), coords.compose(coords.translate(0.3, -1.2), coords.zoom(1.7, 0.6))
    c = coords.grid(4, 5)
    both = coords.transform(c, coords.compose(a, b))
    np.testing.assert_allclose(both, coords.transform(coords.transform(c, b), a), atol=1e-6)
    back = coords.compose(coords.rotate(-0.7), coords.rotate(0.7))
    np.testing.assert_allclose(coords.transform(c, back), c, atol=1e-6)


def test_a_rotated_panorama_is_a_rolled_panorama():
    g = np.asarray(coords.panorama_grid(2, 8))
    turned = np.asarray(coords.wrap(coords.transform(g, coords.translate(2 * 3 / 8, 0.0))))
    np.testing.assert_allclose(turned[..., 0], np.roll(g[..., 0], 3, axis=1), atol=1e-6)


def test_a_cylinder_crop_of_the_whole_circle_is_the_rolled_panorama():
    g = np.asarray(coords.panorama_grid(3, 8))
    for k in range(8):
        crop = coords.cylinder_crop(3, 8, -1 + 2 * k / 8, 1.0)
        np.testing.assert_array_equal(crop, np.roll(g, -k, axis=1))


# Foveation ------------------------------------------------------------------------------------------------------------

foveated = jax.jit(coords.foveated, static_argnums=2)


# 0.07 * 200 is 14.000000000000002 in floating point.
@pytest.mark.parametrize(('fraction', 'count'), [(0.001, 1), (0.07, 14), (0.25, 50), (1.0, 200)])
def test_foveation_picks_the_exact_number_of_distinct_pixels(fraction, count):
    height, width = 10, 20
    g = coords.grid(height, width)
    index, points = foveated(jax.random.key(0), g, fraction)
    assert len(index) == count
    assert len(np.unique(index)) == len(index) and 0 <= index.min() and index.max() < height * width
    np.testing.assert_array_equal(points, np.asarray(g).reshape(-1, 2)[index])


def test_foveation_is_denser_in_the_middle():
    side = 24
    draw = jax.jit(jax.vmap(lambda key: coords.foveated(key, coords.grid(side, side), 0.05)[0]))
    index = np.asarray(draw(jax.random.split(jax.random.key(3), 200)))
    chosen = np.bincount(index.reshape(-1), minlength=side * side).reshape(side, side) / 200
    distance = np.linalg.norm(np.asarray(coords.pixel_grid(side, side)) - (side - 1) / 2, axis=-1) / side
    rings = [chosen[(low <= distance) & (distance < low + 0.12)].mean() for low in (0.0, 0.12, 0.24, 0.36, 0.48)]
    assert (np.diff(rings) < 0).all(), rings
    # So few pixels are almost independent draws, of density exp(-d^2 / (2 * 0.4^2)).
    expected = np.exp(-(distance**2) / (2 * 0.4**2))
    ratio = chosen[distance < 0.12].mean() / chosen[distance > 0.5].mean()
    assert abs(ratio / (expected[distance < 0.12].mean() / expected[distance > 0.5].mean()) - 1) < 0.2


# Chunks ---------------------------------------------------------------------------------------------------------------


def paint(points, noise):
    """Per-point function with two outputs, one of them a vector."""
    return {'value': jnp.sin(3 * points[:, 0]) + noise, 'vector': points[:, :, None] * jnp.ones((1, 1, 3))}


@pytest.mark.parametrize(
    ('shape', 'chunk'), [((5, 7), 4), ((5, 7), 35), ((5, 7), 34), ((13,), 5), ((2, 3, 4), 1), ((), 8)]
)
def test_chunked_evaluation_equals_evaluation_at_once(shape, chunk):
    points = jax.random.uniform(jax.random.key(0), (*shape, 2))
    noise = jax.random.normal(jax.random.key(1), shape)
    got = jax.jit(lambda p, n: coords.map_chunks(paint, p, chunk, n))(points, noise)
    want = paint(points.reshape(-1, 2), noise.reshape(-1))
    np.testing.assert_allclose(got['value'], want['value'].reshape(shape), atol=1e-6)
    np.testing.assert_array_equal(got['vector'], want['vector'].reshape(*shape, 2, 3))


def test_chunks_are_traced_once_with_one_size():
    sizes = []

    def fn(points):
        sizes.append(points.shape)
        return points.sum(-1)

    jax.jit(lambda p: coords.map_chunks(fn, p, 4))(coords.grid(3, 7))
    assert set(sizes) == {(4, 2)}


def test_gradients_add_up_over_chunks_without_the_padding():
    points = coords.grid(3, 5)

    def loss(a, chunk):
        return jnp.sum(
            coords.map_chunks(lambda p: jnp.sin(a * p[:, 0] + 0.4) * (1 + p[:, 0]) * p[:, 1] ** 2, points, chunk)
        )

    slope = jax.jit(jax.grad(loss), static_argnums=1)
    whole = slope(1.3, 15)
    assert abs(whole) > 0.1
    np.testing.assert_allclose(slope(1.3, 4), whole, atol=1e-5)


def test_chunks_work_under_vmap():
    points = coords.grid(3, 5)
    scales = jnp.array([1.0, 2.0])
    got = jax.jit(jax.vmap(lambda s: coords.map_chunks(lambda p: s * p, points, 4)))(scales)
    np.testing.assert_array_equal(got, np.stack([points, 2 * points]))
