"""Partial convolution: the layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pegan_jax.layers import PartialConv


def run(layer, x, valid, params=None):
    """y, valid' of a layer with given or random parameters."""
    if params is None:
        params = layer.init(jax.random.key(1), x, valid)['params']
        params = jax.tree.map(lambda p: p + 0.1, params)
    return layer.apply({'params': params}, x, valid)


def hole(height, width, rows, columns):
    """Valid pixels [1, height, width, 1] around a rectangular hole of rows x columns pixels in the middle."""
    valid = np.ones((1, height, width, 1), np.float32)
    top, left = (height - rows) // 2, (width - columns) // 2
    valid[:, top : top + rows, left : left + columns] = 0
    return valid


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize(('size', 'dilation', 'padding'), [(3, 1, 'SAME'), (5, 1, ((2, 2), (2, 2))), (3, 2, 'SAME')])
def test_a_uniform_kernel_keeps_a_constant_image_wherever_anything_is_valid(channels, size, dilation, padding):
    valid = np.repeat(hole(16, 14, 9, 9), channels, axis=-1)
    valid[:, 0, 0] = 0
    x = np.where(valid > 0, 0.7, 1e6).astype(np.float32) * np.ones((2, 1, 1, 2), np.float32)
    layer = PartialConv(3, size, dilation=dilation, padding=padding)
    params = {'kernel': jnp.full((size, size, 2, 3), 1 / (2 * size**2)), 'bias': jnp.zeros(3)}
    y, new = run(layer, x, valid, params)
    np.testing.assert_allclose(y, np.broadcast_to(0.7 * np.asarray(new), y.shape), rtol=1e-5)
    assert new.shape[-1] == (1 if channels == 1 else 3) and 0 < np.mean(new) < 1


def test_hole_values_have_no_effect_and_get_no_gradient():
    valid = hole(8, 8, 4, 4)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    layer = PartialConv(3, 3)
    params = layer.init(jax.random.key(1), x, valid)['params']
    other = jnp.where(valid > 0, x, 99.0)
    np.testing.assert_array_equal(run(layer, x, valid, params)[0], run(layer, other, valid, params)[0])
    grads = jax.grad(lambda x: jnp.sum(run(layer, x, valid, params)[0] ** 2))(x)
    assert np.all((np.asarray(grads) != 0) == (valid > 0))


def test_all_valid_is_an_ordinary_convolution_away_from_the_border():
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 2))
    layer = PartialConv(3, 3, stride=2, padding=((1, 1), (1, 1)))
    params = {'kernel': jax.random.normal(jax.random.key(1), (3, 3, 2, 3)), 'bias': jnp.array([1.0, 2.0, 3.0])}
    y, valid = run(layer, x, None, params)
    plain = nn.Conv(3, (3, 3), 2, padding=1).apply({'params': params}, x)
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], plain[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    # Four of nine weights see the image in the corner.
    np.testing.assert_allclose(
        y[:, 0, 0], (plain[:, 0, 0] - params['bias'][None]) * 9 / 4 + params['bias'][None], rtol=1e-4
    )
    assert np.all(valid == 1)


@pytest.mark.parametrize(('size', 'rows', 'columns'), [(3, 5, 11), (5, 9, 9), (7, 13, 4)])
def test_a_hole_shrinks_by_half_the_kernel_on_each_side_and_is_gone_when_the_shorter_side_is(size, rows, columns):
    valid, x = hole(24, 28, rows, columns), np.ones((1, 24, 28, 1), np.float32)
    layer = PartialConv(1, size)
    params = layer.init(jax.random.key(0), x, valid)['params']
    layers = -(-min(rows, columns) // (size - 1))
    for n in range(1, layers + 1):
        new = np.asarray(run(layer, x, valid, params)[1])
        assert np.all(new >= valid)  # a valid pixel stays valid
        left = [max(side - n * (size - 1), 0) for side in (rows, columns)]
        assert np.sum(new == 0) == left[0] * left[1]
        assert np.all(new == 1) == (n == layers)
        valid = new


def test_one_valid_pixel_fills_the_image_and_none_fills_nothing():
    layer, x = PartialConv(2, 3), np.ones((1, 6, 6, 2), np.float32)
    params = jax.tree.map(lambda p: p + 1.0, layer.init(jax.random.key(0), x, None)['params'])
    valid = np.zeros((1, 6, 6, 1), np.float32)
    y, new = run(layer, x, valid, params)
    assert not y.any() and not new.any()  # not even the bias
    valid[0, 0, 0] = 1
    for _ in range(5):
        y, valid = run(layer, x, valid, params)
    assert np.all(valid == 1) and np.all(np.asarray(y) != 0)


def test_concatenated_features_count_the_valid_ones_of_each_channel():
    x = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 8.0)], axis=-1)[None].astype(np.float32)
    valid = np.ones_like(x)
    valid[..., 1] = 0
    params = {'kernel': jnp.ones((3, 3, 2, 1)), 'bias': jnp.zeros(1)}
    y, _ = run(PartialConv(1, 3), x, valid, params)
    np.testing.assert_allclose(y, np.full((1, 4, 4, 1), 2.0 * 18), rtol=1e-5)


def test_no_gradient_reaches_the_valid_pixels():
    x = np.ones((1, 4, 4, 1), np.float32)
    layer = PartialConv(1, 3)
    params = layer.init(jax.random.key(0), x, None)['params']
    grads = jax.grad(lambda valid: jnp.sum(run(layer, x, valid, params)[0]))(jnp.ones((1, 4, 4, 1)))
    assert not grads.any()


def test_valid_pixels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r'valid of shape \(1, 4, 4, 3\)'):
        run(PartialConv(1, 3), np.ones((1, 4, 4, 2)), np.ones((1, 4, 4, 3)))
