"""Resizing against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import ops

SIZES = [(5, 6), (10, 12), (3, 2), (1, 1), (7, 1), (4, 13)]
BILINEAR = {'corners': ops.resize_align_corners, 'half_pixel': ops.resize_half_pixel}


def source(kind, t, length, n):
    if kind == 'corners':
        return t * (length - 1) / (n - 1) if n > 1 else 0.0
    return min(max((t + 0.5) * length / n - 0.5, 0), length - 1)


def along(x, axis, n, kind):
    x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    rows = []
    for t in range(n):
        s = source(kind, t, len(x), n)
        low = int(np.floor(s))
        high = min(low + 1, len(x) - 1)
        rows.append((1 - (s - low)) * x[low] + (s - low) * x[high])
    return np.moveaxis(np.stack(rows), 0, axis)


@pytest.fixture(scope='module')
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def resized(x):
    """Every resize of x in one program."""
    functions = BILINEAR | {'nearest': ops.resize_nearest}
    return jax.jit(lambda x: {(k, size): f(x, size) for k, f in functions.items() for size in SIZES})(x)


@pytest.mark.parametrize('kind', BILINEAR)
@pytest.mark.parametrize('size', SIZES)
def test_bilinear_is_a_blend_of_two_neighbours_per_axis(x, resized, kind, size):
    want = along(along(x, 1, size[0], kind), 2, size[1], kind)
    np.testing.assert_allclose(resized[kind, size], want, atol=1e-6)


@pytest.mark.parametrize('size', SIZES)
def test_nearest_copies_the_pixel_at_the_floor(x, resized, size):
    rows = [t * 5 // size[0] for t in range(size[0])]
    columns = [t * 6 // size[1] for t in range(size[1])]
    np.testing.assert_array_equal(resized['nearest', size], x[:, rows][:, :, columns])


def test_align_corners_keeps_the_corners_and_its_own_size(x, resized):
    np.testing.assert_array_equal(resized['corners', (10, 12)][:, ::9, ::11], x[:, ::4, ::5])
    np.testing.assert_array_equal(resized['corners', (5, 6)], x)


def test_half_pixel_enlarges_as_jax_image_does(x, resized):
    want = jax.image.resize(x, (2, 10, 12, 3), 'linear', antialias=False)
    np.testing.assert_allclose(resized['half_pixel', (10, 12)], want, atol=1e-6)


def test_weights_are_exact_at_large_sizes():
    ramp = jnp.arange(3000.0).reshape(1, 3000, 1)
    n = 4097
    got = jax.jit(lambda x: ops.resize_align_corners(x, (1, n)))(ramp)[0, :, 0]
    np.testing.assert_allclose(got, np.arange(n) * 2999 / (n - 1), rtol=3e-7)


def test_resizes_have_exact_adjoints(x):
    @jax.jit
    def both(x):
        total = {}
        for kind, resize in BILINEAR.items():
            out, pull = jax.vjp(lambda x, resize=resize: resize(x, (7, 4)), x)
            y = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
            total[kind] = jnp.vdot(out, y), jnp.vdot(x, pull(y)[0])
        return total

    for out_y, x_back in both(x).values():
        assert abs(out_y) > 0.1
        np.testing.assert_allclose(out_y, x_back, rtol=1e-4)


def test_resizing_keeps_dtype_and_any_leading_axes(x):
    low = jnp.asarray(x[0], jnp.bfloat16)
    for resize in (*BILINEAR.values(), ops.resize_nearest):
        out = jax.eval_shape(lambda x, resize=resize: resize(x, (3, 4)), low)
        assert out.dtype == jnp.bfloat16 and out.shape == (3, 4, 3)


@pytest.mark.parametrize('resize', [*BILINEAR.values(), ops.resize_nearest])
@pytest.mark.parametrize(('shape', 'size'), [((2, 4, 4, 1), (0, 4)), ((2, 4, 4, 1), (4,)), ((4, 4), (4, 4))])
def test_impossible_sizes_are_refused(resize, shape, size):
    with pytest.raises(ValueError, match=r'size|shape'):
        resize(jnp.zeros(shape), size)


def test_what_a_smaller_image_is_too_coarse_for_does_not_come_back_as_stripes():
    stripes = np.cos(np.pi * np.arange(64, dtype=np.float32) * 0.9)[None, :, None].repeat(
        64, 0
    )  # 0.45 cycles per pixel
    plain, averaged = (ops.resize_align_corners(stripes, (16, 16), antialias=a)[3:-3, 3:-3] for a in (False, True))
    assert np.std(plain) > 0.4 and np.std(averaged) < 0.03
    # A slope stays what it is, away from the borders, and so does an image that gets larger.
    slope = np.arange(64, dtype=np.float32)[None, :, None].repeat(64, 0)
    want = ops.resize_align_corners(slope, (16, 16))[3:-3, 3:-3]
    np.testing.assert_allclose(ops.resize_align_corners(slope, (16, 16), antialias=True)[3:-3, 3:-3], want, atol=0.05)
    larger = ops.resize_align_corners(slope, (80, 80))
    np.testing.assert_array_equal(ops.resize_align_corners(slope, (80, 80), antialias=True), larger)


def test_an_image_is_read_between_its_pixels_and_is_zero_outside():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1) + 1
    at = np.array([[0, 0], [3, 2], [1.25, 0.5], [-0.5, 0], [-1, 0], [4, 2], [3.5, 2.5], [9, 1], [1, -7]], np.float32)
    got = jax.jit(ops.bilinear)(x, at.reshape(1, 9, 1, 2))
    np.testing.assert_allclose(got.reshape(-1), [1, 12, 2.25 + 2, 0.5, 0, 0, 12 / 4, 0, 0])
    bad = at.reshape(1, 9, 1, 2)[..., :1]
    with pytest.raises(ValueError, match='positions'):
        ops.bilinear(x, bad)


def test_the_gradient_of_reading_is_its_adjoint():
    x, y = (jax.random.normal(jax.random.key(i), (2, 5, 6, 3)) for i in range(2))
    at = jax.random.uniform(jax.random.key(2), (2, 5, 6, 2), minval=-2, maxval=7)
    out, back = jax.vjp(lambda x: ops.bilinear(x, at), x)
    np.testing.assert_allclose(jnp.vdot(out, y), jnp.vdot(x, back(y)[0]), rtol=1e-4)


@pytest.mark.parametrize('offset', [0, 0.1])
def test_bicubic_at_half_pixels_blends_four_neighbours_at_a_rate_with_an_offset(x, offset):
    def weight(t):  # Keys 1981, a = -3/4
        t = abs(t)
        return 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0

    got = np.asarray(ops.resize_bicubic_half_pixel(x, (3, 6), offset=offset))
    assert got.shape == (2, 3, 6, 3)  # six columns stay as they are
    for t in range(3):
        s = (t + 0.5) * 5 / (3 + offset) - 0.5
        taps = [(weight(s - i), min(max(i, 0), 4)) for i in range(int(np.floor(s)) - 1, int(np.floor(s)) + 3)]
        np.testing.assert_allclose(got[:, t], sum(w * x[:, i] for w, i in taps), atol=1e-6)
