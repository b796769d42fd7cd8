"""Grids, transforms, crops, cylinders, scattered sets and chunks against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords

SIZES = [(2, 3), (7, 4), (5, 16), (33, 50)]
EXTENTS = [((-1.0, 1.0), (-1.0, 1.0)), ((-2.0, 2.0), (0.1, 0.7)), ((3.3, -1.7), (1000.1, 1000.2))]


@pytest.fixture(scope='module')
def grids():
    return jax.jit(
        lambda: {
            (size, extent, centered): coords.grid(*size, x=extent[0], y=extent[1], centered=centered)
            for size in SIZES
            for extent in EXTENTS
            for centered in (False, True)
        }
    )()


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('extent', EXTENTS)
def test_ends_of_a_grid_are_hit_bit_for_bit(grids, size, extent):
    g = np.asarray(grids[size, extent, False])
    assert g.dtype == np.float32 and g.shape == (*size, 2)
    for axis, (low, high) in enumerate(extent):
        ends = np.take(g[..., axis], [0, -1], axis=1 - axis)
        want = np.broadcast_to(np.expand_dims(np.float32([low, high]), axis), ends.shape)
        np.testing.assert_array_equal(ends, want)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('extent', EXTENTS)
def test_samples_are_evenly_spaced(grids, size, extent):
    for centered in (False, True):
        axes = []
        for n, (low, high) in zip(size[::-1], extent, strict=True):
            j = np.arange(n)
            axes.append(low + (high - low) * ((j + 0.5) / n if centered else j / (n - 1)))
        want = np.stack(np.meshgrid(*axes), axis=-1)
        np.testing.assert_allclose(grids[size, extent, centered], want, rtol=2e-7, atol=3e-7)


def test_the_default_grid_is_antisymmetric(grids):
    for size in SIZES:
        g = np.asarray(grids[size, EXTENTS[0], False])
        np.testing.assert_array_equal(g, -g[::-1, ::-1])


def test_a_single_sample_is_at_the_low_end_or_in_the_middle():
    np.testing.assert_array_equal(coords.grid(1, 1), [[[-1, -1]]])
    np.testing.assert_array_equal(coords.grid(1, 1, x=(2, 6), centered=True), [[[4, 0]]])


def test_a_pixel_grid_counts_columns_and_rows():
    np.testing.assert_array_equal(coords.pixel_grid(2, 3)[1, 2], [2, 1])
    assert coords.pixel_grid(2, 3).dtype == jnp.float32


def test_unit_range_maps_to_the_range_of_coords():
    np.testing.assert_array_equal(coords.from_unit(np.array([-0.5, 0, 0.5, 1, 1.5])), [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(coords.to_unit(np.array([-2.0, 1, 2])), [-0.5, 1, 1.5])


@pytest.mark.parametrize('make', [coords.grid, coords.pixel_grid, coords.panorama_grid])
@pytest.mark.parametrize('size', [(0, 4), (4, 0)])
def test_empty_grids_are_refused(make, size):
    with pytest.raises(ValueError, match=r'height=.*width='):
        make(*size)


def seen_at(matrix, dot):
    """Where the dot of an image, at `dot` before, is seen when the image is rendered at transformed coordinates."""
    g = coords.grid(41, 41)
    image = np.exp(-30 * np.sum((np.asarray(coords.transform(g, matrix)) - dot) ** 2, axis=-1))
    return np.asarray(g)[np.unravel_index(image.argmax(), image.shape)]


@pytest.mark.parametrize(
    ('matrix', 'dot', 'want'),
    [
        (lambda: coords.translate(0.5, -0.2), (0.1, 0.0), (0.6, -0.2)),
        # Anticlockwise on the screen: what is on the right goes to the top, where y is negative.
        (lambda: coords.rotate(np.pi / 2), (0.5, 0.1), (0.1, -0.5)),
        (lambda: coords.zoom(2.0), (0.2, -0.4), (0.4, -0.8)),
        (lambda: coords.zoom(2.0, 0.5), (0.2, -0.4), (0.4, -0.2)),
        (lambda: coords.compose(coords.translate(0.5, 0.0), coords.rotate(np.pi / 2)), (0.0, 0.0), (0.0, -0.5)),
        (lambda: coords.compose(coords.rotate(np.pi / 2), coords.translate(0.5, 0.0)), (0.0, 0.0), (0.5, 0.0)),
    ],
)
def test_transforms_move_the_content_as_they_say(matrix, dot, want):
    np.testing.assert_allclose(seen_at(matrix(), dot), want, atol=1e-6)


def test_a_crop_outside_is_refused():
    g = coords.grid(4, 6)
    for top, left, height, width in ((-1, 0, 2, 2), (3, 0, 2, 2), (0, 5, 2, 2), (0, 0, 5, 2), (0, 0, 0, 2)):
        for known in (int, np.asarray, jnp.int32):
            with pytest.raises(ValueError, match='outside'):
                coords.crop(g, known(top), known(left), height, width)
    clamped = jax.jit(coords.crop, static_argnums=(3, 4))(g, 3, 0, 2, 2)  # traced: nobody can tell
    np.testing.assert_array_equal(clamped, g[2:, :2])


def test_multiscale_crops_take_every_stride_th_sample():
    g = coords.pixel_grid(16, 16)
    got = coords.multiscale_crop(g, jnp.array([1, 2]), 4, 3)
    np.testing.assert_array_equal(got[..., 0], np.broadcast_to([2, 6, 10], (3, 3)))
    np.testing.assert_array_equal(got[..., 1], np.broadcast_to([[1], [5], [9]], (3, 3)))


@pytest.mark.parametrize('scale', [0, 1, 2])
def test_multiscale_crops_are_drawn_by_the_published_rule(scale):
    side, patch, stride = 16, 4, 2**scale
    offsets = range(side - stride * patch + stride)
    want = np.zeros(side - stride * (patch - 1))
    for offset in offsets:
        windows = range(len(range(offset, side, stride)) - patch + 1) if scale > 0 else [0]
        for window in windows:
            want[offset + stride * window] += 1 / len(offsets) / len(windows)
    draw = jax.jit(jax.vmap(lambda key, s: coords.multiscale_start(key, side, patch, s), in_axes=(0, None)))
    starts = np.asarray(draw(jax.random.split(jax.random.key(0), 2000), scale))
    for axis in (0, 1):
        got = np.bincount(starts[:, axis], minlength=len(want)) / len(starts)
        np.testing.assert_allclose(got, want, atol=0.03)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.1


def test_multiscale_ratios_that_are_no_power_of_two_are_refused():
    assert [coords.multiscale_count(16, p) for p in (16, 8, 1)] == [1, 2, 5]
    for side, patch in ((16, 0), (16, 32), (12, 4), (17, 8)):
        with pytest.raises(ValueError, match='power of two'):
            coords.multiscale_count(side, patch)
    with pytest.raises(ValueError, match='scale=3'):
        coords.multiscale_start(jax.random.key(0), 16, 4, 3)


def test_wrap_is_the_identity_inside_and_periodic_outside():
    inside = np.float32([-1, -0.9999999, -1e-8, 1e-8, 0.3, 0.99999994])
    np.testing.assert_array_equal(coords.wrap(inside), inside)
    np.testing.assert_array_equal(
        coords.wrap(np.float32([1, 3, -3, 1.5, -1.25, 2, 7.5])), [-1, -1, -1, -0.5, 0.75, 0, -0.5]
    )


def test_a_panorama_leaves_out_its_end():
    g = np.asarray(coords.panorama_grid(3, 5))
    np.testing.assert_allclose(g[0, :, 0], [-1, -0.6, -0.2, 0.2, 0.6], atol=1e-7)
    np.testing.assert_array_equal(g[:, 0, 1], [-1, 0, 1])


def test_a_cylinder_crop_covers_its_span_and_wraps():
    g = np.asarray(coords.cylinder_crop(2, 4, 0.5, 0.5))
    np.testing.assert_array_equal(g[0, :, 0], [0.5, 0.75, -1.0, -0.75])
    np.testing.assert_array_equal(g[:, 0, 1], [-1, 1])


def test_foveation_has_a_pixel_at_least():
    _, points = coords.foveated(jax.random.key(0), coords.grid(64, 64), 1e-10)
    assert points.shape == (1, 2)


def test_foveation_refuses_impossible_settings():
    g = coords.grid(4, 4)
    for points, fraction, std, message in (
        (g, 0, 0.4, 'fraction=0 must'),
        (g, 1.1, 0.4, r'fraction=1\.1 must'),
        (g, 0.5, 0, 'std=0 positive'),
        (g.reshape(-1, 2), 0.5, 0.4, r'points has shape \(16, 2\)'),
    ):
        with pytest.raises(ValueError, match=message):
            coords.foveated(jax.random.key(0), points, fraction, std=std)


def test_uniform_points_fill_their_extent():
    points = np.asarray(coords.uniform(jax.random.key(1), 2000, x=(-3, 1), y=(0, 2)))
    np.testing.assert_allclose(points.mean(0), [-1, 1], atol=0.1)
    np.testing.assert_allclose(points.min(0), [-3, 0], atol=0.05)
    np.testing.assert_allclose(points.max(0), [1, 2], atol=0.05)


def test_user_coords_are_checked():
    out = coords.as_coords([[1, 2], [3, 4]])
    assert out.dtype == jnp.float32 and out.shape == (2, 2)
    for bad in (np.zeros((3, 3)), np.zeros(()), np.zeros((0, 2)), np.array([[1j, 0]]), np.array([['a', 'b']])):
        with pytest.raises(ValueError, match='shape'):
            coords.as_coords(bad)
    with pytest.raises(ValueError, match='1 entries'):
        coords.as_coords([[np.nan, 0.0]])


def test_chunks_refuse_impossible_arguments():
    g = coords.grid(2, 3)
    with pytest.raises(ValueError, match='chunk=0'):
        coords.map_chunks(lambda c: c, g, 0)
    with pytest.raises(ValueError, match='per-point'):
        coords.map_chunks(lambda c, n: c, g, 2, jnp.zeros((3, 2)))
