import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import filters, layers, losses, ops
from pegan_jax.models.discriminator import Discriminator, DiscriminatorBlock, num_halvings

# FIR filters ----------------------------------------------------------------------------------------------


def naive_upfirdn2d(x, f, up, down, padding):
    """The definition, with loops over output positions."""
    left, right, top, bottom = padding
    n, h, w, c = x.shape
    wide = np.zeros((n, h * up, w * up, c))
    wide[:, ::up, ::up] = x
    big = np.zeros((n, h * up + abs(top) + abs(bottom), w * up + abs(left) + abs(right), c))
    big[:, max(top, 0) : max(top, 0) + h * up, max(left, 0) : max(left, 0) + w * up] = wide
    big = big[:, max(-top, 0) :, max(-left, 0) :]
    big = big[:, : h * up + top + bottom, : w * up + left + right]
    k, l = f.shape
    out = np.zeros((n, (big.shape[1] - k) // down + 1, (big.shape[2] - l) // down + 1, c))
    for i, j in itertools.product(*map(range, out.shape[1:3])):
        window = big[:, i * down : i * down + k, j * down : j * down + l]
        out[:, i, j] = np.einsum('nklc,kl->nc', window, f[::-1, ::-1])
    return out


FIR_CASES = [
    (1, 1, (2, 2, 2, 2)),
    (1, 2, (1, 1, 1, 1)),
    (2, 1, (2, 1, 2, 1)),
    (2, 2, (0, 3, 2, 1)),
    (3, 2, (4, 1, -1, 5)),
    (1, 1, (3, 0, -2, 3)),
]


@pytest.mark.parametrize('up, down, padding', FIR_CASES)
def test_upfirdn2d_follows_its_definition_and_its_derivative_is_the_adjoint(up, down, padding):
    x, f, y = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 5, 6, 3), (4, 3), (1,)]))
    want = naive_upfirdn2d(np.asarray(x), np.asarray(f), up, down, padding)

    @jax.jit
    def both(x, key):
        out, pull = jax.vjp(lambda x: ops.upfirdn2d(x, f, up=up, down=down, padding=padding), x)
        y = jax.random.normal(key, out.shape)
        return out, y, pull(y)[0]

    out, y, back = both(x, jax.random.key(3))
    np.testing.assert_allclose(out, want, atol=1e-5)
    size = float(np.linalg.norm(out) * np.linalg.norm(y))
    assert np.vdot(out, y) == pytest.approx(np.vdot(x, back), abs=1e-6 * size)


def test_upfirdn2d_refuses_an_image_smaller_than_the_filter():
    with pytest.raises(ValueError, match='fewer than the 4 taps'):
        ops.upfirdn2d(jnp.zeros((1, 3, 9, 1)), jnp.ones((4, 4)))


def test_setup_filter_sums_to_one_and_passes_constants():
    f = filters.setup_filter((1, 3, 3, 1))
    np.testing.assert_allclose(f[0] * 64, [1, 3, 3, 1], rtol=1e-6)
    out = ops.upfirdn2d(jnp.full((1, 8, 8, 1), 2.0), f, down=2)
    np.testing.assert_allclose(out, 2.0, rtol=1e-6)


# Dense and convolution layers -----------------------------------------------------------------------------


def test_equal_dense_scales_weight_and_bias_at_run_time():
    module = layers.EqualDense(3, lr_multiplier=0.01, bias_init=2.0)
    x = jax.random.normal(jax.random.key(0), (4, 16))
    variables = module.init(jax.random.key(1), x)
    kernel, bias = variables['params']['kernel'], variables['params']['bias']
    assert float(jnp.std(kernel)) == pytest.approx(100, rel=0.3)
    assert (bias == 2.0).all()
    np.testing.assert_allclose(module.apply(variables, x), x @ kernel * 0.01 / 4 + 0.02, rtol=1e-4, atol=1e-5)


def test_mapping_keeps_unit_second_moment_and_ignores_the_length_of_z():
    module = layers.MappingNetwork(256, num_layers=2)
    z = 7 * jax.random.normal(jax.random.key(0), (8, 256))
    variables = module.init(jax.random.key(1), z)
    w = module.apply(variables, z)
    assert float(jnp.mean(w**2)) == pytest.approx(1, rel=0.3)
    np.testing.assert_allclose(module.apply(variables, 3 * z), w, atol=1e-4)


def test_equal_conv_is_a_scaled_convolution_with_bias_and_lrelu():
    module = layers.EqualConv(5, 3)
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    params = module.init(jax.random.key(1), x)['params'] | {'bias': jnp.arange(5.0)}
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    y = np.einsum('nhwckl,klco->nhwo', windows, params['kernel']) / np.sqrt(27) + np.arange(5.0)
    want = np.where(y > 0, y, 0.2 * y) * np.sqrt(2)
    np.testing.assert_allclose(module.apply({'params': params}, x), want, atol=1e-5)


@pytest.mark.parametrize('size', [1, 3])
def test_downsampling_convolution_is_filter_then_convolution_then_every_second_position(size):
    module = layers.EqualConv(2, size, down=2, activate=False)
    x = jax.random.normal(jax.random.key(0), (1, 8, 6, 3))
    variables = module.init(jax.random.key(1), x)
    fir = jax.random.normal(jax.random.key(2), (4, 4))
    got = module.apply(variables | {'buffers': {'resample_filter': fir}}, x)
    pad = 1 + size // 2
    smooth = naive_upfirdn2d(np.asarray(x), np.asarray(fir), 1, 1, (pad,) * 4)
    windows = np.lib.stride_tricks.sliding_window_view(smooth, (size, size), axis=(1, 2))
    kernel = variables['params']['kernel'] / np.sqrt(3 * size**2)
    want = np.einsum('nhwckl,klco->nhwo', windows, kernel)[:, ::2, ::2]
    assert got.shape == (1, 4, 3, 2)
    np.testing.assert_allclose(got, want, atol=1e-5)


# Minibatch standard deviation -----------------------------------------------------------------------------


def test_minibatch_std_groups_samples_that_are_a_slot_apart():
    x = np.random.default_rng(0).normal(size=(8, 2, 3, 5)).astype(np.float32)
    out = np.asarray(layers.minibatch_std(jnp.asarray(x)))
    np.testing.assert_array_equal(out[..., :5], x)
    for slot in range(2):
        std = np.sqrt(np.var(x[slot::2], axis=0) + 1e-8).mean()
        np.testing.assert_allclose(out[slot::2, ..., 5], std, rtol=1e-5)
    assert not np.allclose(out[0, ..., 5], out[1, ..., 5])


@pytest.mark.parametrize('size', [1, 3, 8])
def test_minibatch_std_keeps_batches_apart(size):
    x = jax.random.normal(jax.random.key(0), (3 * size, 2, 3, 4))
    want = jnp.concatenate([layers.minibatch_std(part, 4, 2) for part in jnp.split(x, 3)])
    np.testing.assert_allclose(layers.minibatch_std(x, 4, 2, batches=3), want, atol=1e-6)


def test_minibatch_std_of_equal_samples_has_a_finite_gradient():
    slope = jax.grad(lambda x: jnp.sum(layers.minibatch_std(x)[..., -1]))(jnp.ones((4, 2, 2, 1)))
    assert np.isfinite(slope).all()


def test_minibatch_std_names_batches_that_fit():
    with pytest.raises(
        ValueError, match=r'6 samples at once .*group of 4; use 4 or 8 \(train.batch_size, divided by devices and'
    ):
        layers.minibatch_std(jnp.zeros((6, 1, 1, 1)))
    with pytest.raises(ValueError, match=r'6 samples at once .*use 4 or 8'):
        layers.minibatch_std(jnp.zeros((12, 1, 1, 1)), batches=2)


# Discriminator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'size, halvings', [((8, 8), 1), ((256, 256), 6), ((64, 96), 4), ((96, 96), 4), ((1024, 512), 7)]
)
def test_halvings_end_at_a_shorter_side_of_four_to_seven(size, halvings):
    assert num_halvings(size) == halvings
    assert 4 <= min(size) / 2**halvings < 8


@pytest.mark.parametrize('size', [(4, 4), (7, 7), (100, 100), (64, 65), (18, 18)])
def test_sizes_that_cannot_be_halved_are_refused(size):
    with pytest.raises(ValueError, match=f'images of {size[0]} x {size[1]}'):
        num_halvings(size)


def test_discriminator_takes_rectangles_and_refuses_a_wrong_number_of_widths():
    x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    logits, variables = jax.jit(Discriminator((4, 5, 6)).init_with_output)(jax.random.key(1), x)
    assert logits.shape == (2,)
    assert variables['params']['b4']['fc']['kernel'].shape == (4 * 6 * 6, 6)
    assert set(variables['params']) == {'b16', 'b8', 'b4'}
    with pytest.raises(ValueError, match=r'2 widths .* need 3'):
        Discriminator((4, 5)).init(jax.random.key(1), x)


def test_second_order_gradient_of_a_block_agrees_with_finite_differences():
    """The gradient of R1 with respect to parameters passes twice through convolutions and FIR filters; in float64."""
    with jax.enable_x64(True):
        block, draw = DiscriminatorBlock(2, 3, dtype=jnp.float64), np.random.default_rng(0).normal
        x = jnp.asarray(draw(size=(2, 8, 8, 2)))
        shapes = jax.eval_shape(block.init, jax.random.key(0), None, x)
        params = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape)), shapes['params'])
        buffers = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape)), shapes['buffers'])
        direction = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape)), params)

        def score(params, x):
            y, _ = block.apply({'params': params, 'buffers': buffers}, None, x)
            return jnp.sum(jnp.tanh(y), axis=(1, 2, 3))

        @jax.jit
        def penalty(t):
            moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
            return losses.r1_penalty(functools.partial(score, moved), x)

        step = 1e-6
        slope = (penalty(step) - penalty(-step)) / (2 * step)
        assert jax.jit(jax.grad(penalty))(0.0) == pytest.approx(float(slope), rel=1e-4)
        assert abs(slope) > 1e-3


def test_bfloat16_discriminator_stays_close_and_scores_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    exact, variables = jax.jit(Discriminator((8, 8)).init_with_output)(jax.random.key(1), x)
    rough = jax.jit(Discriminator((8, 8), dtype=jnp.bfloat16).apply)(variables, x)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.05)
    assert (rough != exact).any()
