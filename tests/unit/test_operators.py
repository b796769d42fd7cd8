import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import filters, ops
from pegan_jax.ops import fir, products

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def draw(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).normal(size=shape)


def naive_upfirdn2d(x, f, *, up=1, down=1, padding=0, flip_filter=False, gain=1.0):
    """The definition: all zeros are made, every position is filtered, most are thrown away; differentiated by JAX."""
    (ux, uy), (dx, dy) = (v if isinstance(v, tuple) else (v, v) for v in (up, down))
    left, right, top, bottom = padding if isinstance(padding, tuple) else (padding,) * 4
    f = np.ones((1, 1)) if f is None else jnp.outer(f, f) if f.ndim == 1 else f
    spans = [(0, 0, 0), (top, bottom + uy - 1, uy - 1), (left, right + ux - 1, ux - 1), (0, 0, 0)]
    x = jax.lax.pad(x, np.zeros((), x.dtype), spans)
    f = gain * (f if flip_filter else f[::-1, ::-1])
    kernel = jnp.tile(jnp.asarray(f, x.dtype)[:, :, None, None], (1, 1, 1, x.shape[3]))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'VALID', dimension_numbers=DIMENSIONS, feature_group_count=x.shape[3]
    )
    return y[:, ::dy, ::dx]


def naive_filtered_lrelu(x, b, fu, fd, *, up, down, padding, clamp):
    x = naive_upfirdn2d(x + b[None, None, None, :], fu, up=up, padding=padding, gain=up**2)
    x = jnp.clip(jnp.where(x > 0, x, 0.2 * x) * math.sqrt(2), -clamp, clamp)
    return naive_upfirdn2d(x, fd, down=down)


def orders(function, cotangent, *arguments):
    """The value, the gradient of a non-linear function of it, and the gradient of a non-linear function of that."""

    def score(*arguments):
        return jnp.sum(jnp.tanh(function(*arguments)) * cotangent)

    def slope(*arguments):
        return jax.grad(score, argnums=tuple(range(len(arguments))))(*arguments)

    def second(*arguments):
        return sum(jnp.sum(jnp.sin(g)) for g in slope(*arguments))

    return function(*arguments), slope(*arguments), jax.grad(second)(*arguments)


def assert_same_orders(got, want, cotangent, *arguments, tolerance=1e-10):
    both = jax.jit(lambda *a: (orders(got, cotangent, *a), orders(want, cotangent, *a)))(*arguments)
    for g, w in zip(*map(jax.tree.leaves, both), strict=True):
        assert np.max(np.abs(w)) > 1e-3
        np.testing.assert_allclose(g, w, atol=tolerance * np.max(np.abs(w)))


# FIR filters ----------------------------------------------------------------------------------------------------------

FIR_CASES = [
    ((4,), {'padding': (2, 1, 0, 3)}),
    ((5,), {'up': (2, 1), 'down': (1, 3), 'padding': (2, 1, 4, 0), 'gain': 2.5}),
    ((12,), {'up': 4, 'down': 2, 'padding': (-3, 8, 5, -2), 'flip_filter': True}),
    ((3, 4), {'up': 2, 'padding': (2, 1, 2, 1), 'gain': 4.0}),
    ((4, 2), {'up': (3, 2), 'down': (2, 3), 'padding': 3, 'flip_filter': True}),
    (None, {'up': 3, 'down': 2, 'padding': (1, 0, -2, 4), 'gain': 9.0}),
]


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])  # a sum of slices, a depthwise convolution
@pytest.mark.parametrize('taps, options', FIR_CASES)
def test_upfirdn2d_and_its_derivatives_follow_the_definition(taps, options, platform):
    with jax.enable_x64(True), ops.for_platform(platform):
        x, f = draw(2, 7, 9, 2), None if taps is None else draw(*taps)
        want = functools.partial(naive_upfirdn2d, f=f, **options)
        got = functools.partial(ops.upfirdn2d, f=f, **options)
        assert_same_orders(got, want, draw(*jax.eval_shape(want, x).shape), x)


@pytest.mark.parametrize('taps, options', FIR_CASES)
def test_the_derivative_of_upfirdn2d_is_its_adjoint(taps, options):
    x, f = jnp.float32(draw(1, 8, 5, 2)), None if taps is None else jnp.float32(draw(*taps))

    @jax.jit
    def products(x, y):
        out, pull = jax.vjp(functools.partial(ops.upfirdn2d, f=f, **options), x)
        return jnp.vdot(out, y), jnp.vdot(x, pull(y)[0])

    y = draw(*jax.eval_shape(functools.partial(ops.upfirdn2d, f=f, **options), x).shape)
    forward, backward = products(x, jnp.float32(y))
    assert float(forward) == pytest.approx(float(backward), rel=1e-4, abs=1e-4)


def test_negative_padding_crops():
    x = jnp.float32(draw(1, 6, 8, 2))
    np.testing.assert_array_equal(ops.upfirdn2d(x, None, padding=(-1, -2, -3, 0)), x[:, 3:, 1:-2])
    kernel = jnp.float32(draw(3, 3, 2, 2))
    want = ops.conv2d(x[:, 3:, 1:-2], kernel)
    np.testing.assert_allclose(ops.conv2d(x, kernel, padding=(-1, -2, -3, 0)), want, atol=1e-5)


@pytest.mark.parametrize('taps', [12, 13])
def test_resampling_keeps_constants_and_multiplies_sizes(taps):
    f = filters.lowpass(taps, 1.0, 2.0, 8)

    @jax.jit
    def run(x):
        return (
            (ops.filter2d(x, f), (16, 24)),
            (ops.upsample2d(x, f), (32, 48)),
            (ops.downsample2d(x, f), (8, 12)),
            (ops.upsample2d(x, f, up=(3, 1)), (16, 72)),
            (ops.downsample2d(x, f, down=(1, 4)), (4, 24)),
        )

    for y, size in run(jnp.full((1, 16, 24, 1), 3.0)):
        assert y.shape[1:3] == tuple(size)
        middle = float(y[0, size[0] // 2 - 1, size[1] // 2 - 1, 0])
        assert middle == pytest.approx(3, abs=0.03)  # phases of an up filter need not sum to the same number
        assert y[0, 0, 0, 0] < 2.9


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_bfloat16_is_summed_in_float32(platform):
    x = jnp.full((1, 64, 4, 1), 1.0, jnp.bfloat16)
    with ops.for_platform(platform):
        y = jax.jit(lambda x: ops.upfirdn2d(x, jnp.full((64, 1), 1 / 64)))(x)
    assert y.dtype == jnp.bfloat16 and (y == 1).all()


def test_a_tpu_filters_by_one_convolution_of_every_channel_and_others_by_sums():
    def count(platform):
        with ops.for_platform(platform):
            filtered = jax.make_jaxpr(lambda x: ops.upfirdn2d(x, jnp.ones((12, 12)), up=2, padding=12))(
                jnp.zeros((1, 8, 8, 4))
            )
        return str(filtered).count('conv_general_dilated[')

    assert (count('tpu'), count('cpu'), count('gpu')) == (1, 0, 0)


# Activations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'act, at_minus_one, gain',
    [
        ('linear', -1, 1),
        ('relu', 0, math.sqrt(2)),
        ('lrelu', -0.2, math.sqrt(2)),
        ('tanh', -0.7615942, 1),
        ('sigmoid', 0.26894143, 1),
        ('elu', -0.6321206, 1),
        ('selu', -1.1113307, 1),
        ('softplus', 0.31326166, 1),
        ('swish', -0.26894143, math.sqrt(2)),
    ],
)
def test_bias_act_has_the_standard_activations_and_gains(act, at_minus_one, gain):
    x, b = jnp.array([[-2.0, -3.0]]), jnp.array([1.0, 2.0])
    np.testing.assert_allclose(ops.bias_act(x, b, act=act), np.full((1, 2), at_minus_one * gain), atol=1e-6)
    np.testing.assert_allclose(ops.bias_act(x, b, act=act, gain=0.5), np.full((1, 2), at_minus_one / 2), atol=1e-6)


def test_the_gradient_of_a_bias_is_summed_in_float32():
    x = jnp.zeros((4097, 2), jnp.bfloat16)
    grad = jax.grad(lambda b: jnp.sum(ops.bias_act(x, b).astype(jnp.float32)))(jnp.zeros(2))
    np.testing.assert_array_equal(grad, 4097)  # not a number of bfloat16


def test_gain_comes_before_the_clamp():
    np.testing.assert_allclose(ops.bias_act(jnp.array([-3.0, 0.5, 3.0]), gain=2.0, clamp=4.0), [-4, 1, 4])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(('alpha', 'clamp'), [(None, None), (0.1, 2.0), (0.0, 2.0)])
def test_the_slope_of_a_leaky_relu_is_that_of_its_three_steps(alpha, clamp, dtype):
    x = jnp.array([-30.0, -4.0, -0.5, 0.0, 0.5, 1.0, 9.0], dtype)
    options = {'act': 'lrelu', 'alpha': alpha, 'gain': 1.5, 'clamp': clamp}
    factor, most = 0.2 if alpha is None else alpha, np.inf if clamp is None else clamp
    plain = np.asarray(x, np.float32)
    want = np.where(plain < 0, 1.5 * factor, 1.5) * (np.abs(np.where(plain < 0, factor, 1) * 1.5 * plain) < most)
    forward = functools.partial(ops.bias_act, **options)
    np.testing.assert_allclose(jax.grad(lambda x: forward(x).sum())(x), want, rtol=4e-3)
    np.testing.assert_allclose(jax.jvp(forward, (x,), (jnp.full_like(x, 2),))[1], 2 * want, rtol=4e-3)
    # Its slope is the same on both sides: a gradient of a gradient sees only what multiplies it.
    twice = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(forward(x) * x))(x)))(x)
    np.testing.assert_allclose(twice, 2 * want, rtol=4e-3)


def test_of_a_leaky_relu_only_the_result_is_kept():
    _, pullback = jax.vjp(functools.partial(ops.bias_act, act='lrelu', clamp=2.0), jnp.ones((8, 8), jnp.bfloat16))
    assert sum(x.size for x in jax.tree.leaves(pullback) if x.ndim) == 64


FILTERED_CASES = [
    ((12,), (12,), {'up': 2, 'down': 2, 'padding': (9, 8, 9, 8)}),
    ((8,), (4, 4), {'up': 4, 'down': 2, 'padding': (-3, 2, 5, -2)}),
    (None, (6,), {'up': 1, 'down': 2, 'padding': 3}),
]


@pytest.mark.parametrize('channels', [2, 20])  # in one piece, in two blocks
@pytest.mark.parametrize('up_taps, down_taps, options', FILTERED_CASES)
def test_filtered_lrelu_and_its_derivatives_follow_the_definition(up_taps, down_taps, options, channels):
    with jax.enable_x64(True):
        x, b = draw(2, 7, 6, channels), draw(channels)
        fu, fd = (None if t is None else draw(*t) for t in (up_taps, down_taps))
        want = functools.partial(naive_filtered_lrelu, fu=fu, fd=fd, clamp=1.5, **options)
        got = functools.partial(ops.filtered_lrelu, fu=fu, fd=fd, clamp=1.5, **options)
        assert_same_orders(got, want, draw(*jax.eval_shape(want, x, b).shape), x, b)


def test_filtered_lrelu_of_many_channels_in_bfloat16_rounds_once():
    x, b, f = draw(1, 9, 9, 20), np.zeros(20), draw(12)
    x, wanted = jnp.asarray(x, jnp.bfloat16), {'fu': f, 'fd': f, 'up': 2, 'down': 2, 'padding': 11}
    y = ops.filtered_lrelu(x, b, **wanted, clamp=4.0)
    assert y.dtype == jnp.bfloat16
    want = naive_filtered_lrelu(x.astype(jnp.float32), b, **wanted, clamp=4.0)
    np.testing.assert_allclose(y.astype(np.float32), want, rtol=2**-8, atol=1e-5 * np.abs(want).max())


def test_filtered_lrelu_of_many_channels_keeps_nothing_of_the_higher_rate():
    run = functools.partial(ops.filtered_lrelu, b=None, fu=draw(12), fd=draw(12), up=2, down=2, padding=11)
    _, pullback = jax.vjp(run, jnp.ones((1, 9, 9, 32)))
    assert max(x.size for x in jax.tree.leaves(pullback)) == 9 * 9 * 32


def test_filtered_lrelu_adds_the_bias_before_it_pads():
    f = filters.setup_filter([1, 1], separable=True)
    y = jax.jit(lambda x, b: ops.filtered_lrelu(x, b, None, f, padding=1))(jnp.zeros((1, 4, 4, 1)), jnp.ones(1))
    np.testing.assert_allclose(y[0, 1:-1, 1:-1], math.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(y[0, 0, 1:-1], math.sqrt(2) / 2, rtol=1e-6)


# Convolutions ---------------------------------------------------------------------------------------------------------


def direct(x, kernel, stride=(1, 1), padding=((0, 0), (0, 0)), groups=1, dilation=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


# For what a CPU takes: first Winograd's algorithm, then sums of matmuls (both large enough), also of the phases of a
# dilated one, then sums of products.
CONV_CASES = [
    ((1, 65, 66, 64), (3, 3, 64, 128), {'padding': (1, 0, 2, 1)}),
    ((1, 68, 69, 128), (3, 3, 128, 64), {'padding': (0, -2, 1, -1)}),
    ((2, 9, 8, 64), (3, 3, 64, 128), {'padding': 1}),
    ((2, 9, 8, 64), (3, 3, 64, 128), {'padding': 1, 'stride': 2}),
    ((2, 9, 8, 64), (1, 1, 64, 128), {'padding': 1}),
    ((1, 9, 8, 64), (2, 3, 64, 128), {'padding': (2, 0, 0, 1), 'stride': (3, 1)}),
    ((2, 20, 19, 64), (3, 3, 64, 128), {'padding': (2, 1, 3, 2), 'dilation': 2}),
    ((2, 9, 8, 6), (3, 3, 1, 6), {'padding': 1, 'groups': 6}),
    ((2, 9, 8, 6), (5, 3, 1, 6), {'padding': (2, 0, -1, 1), 'stride': (2, 3), 'groups': 6}),
    ((2, 9, 8, 6), (3, 2, 1, 6), {'padding': 2, 'dilation': 4, 'groups': 6}),
]


@pytest.mark.parametrize('shape, kernel_shape, options', CONV_CASES)
def test_conv2d_and_its_gradient_are_those_of_a_plain_convolution(shape, kernel_shape, options):
    x, kernel = jnp.float32(draw(*shape)), jnp.float32(draw(*kernel_shape)) / 24
    padding, stride = options['padding'], options.get('stride', 1)
    left, right, top, bottom = padding if isinstance(padding, tuple) else (padding,) * 4
    strides = stride[::-1] if isinstance(stride, tuple) else (stride,) * 2

    @jax.jit
    def both(x, kernel):
        rest = {name: options[name] for name in ('groups', 'dilation') if name in options}
        want, pull = jax.vjp(lambda x, k: direct(x, k, strides, ((top, bottom), (left, right)), **rest), x, kernel)
        got, pull_got = jax.vjp(lambda x, k: ops.conv2d(x, k, **options), x, kernel)
        return (got, *pull_got(jnp.cos(want))), (want, *pull(jnp.cos(want)))

    for got, want in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.max(np.abs(want)))


# Few positions, rows of an image, whole images, Winograd's algorithm; then XLA's with a gradient of its own.
@pytest.mark.parametrize(
    'shape, size, steps, options',
    [
        ((2, 8, 7, 5), (3, 3), products.Steps((1, 1), ((1, 1), (1, 1))), {}),
        ((2, 8, 7, 5), (3, 2), products.Steps((2, 3), ((1, 0), (2, -1))), {}),
        ((2, 57, 51, 5), (2, 2), products.Steps((1, 1), ((0, 0), (0, 1))), {}),
        ((2, 95, 93, 5), (3, 2), products.Steps((2, 2), ((2, 0), (0, 1))), {}),
        ((24, 17, 17, 5), (2, 3), products.Steps(), {}),
        ((2, 50, 43, 5), (3, 3), products.Steps((1, 1), ((1, 1), (2, 0))), {}),
        ((2, 57, 51, 5), (3, 2), products.Steps((2, 2), ((2, 0), (0, 1))), {'narrow': True}),
        ((2, 20, 19, 5), (3, 3), products.Steps((1, 1), ((3, 2), (1, 4))), {'narrow': True, 'dilation': 3}),
    ],
)
def test_products_and_all_their_derivatives_are_those_of_a_plain_convolution(shape, size, steps, options):
    x, kernel = jnp.float32(draw(*shape)), jnp.float32(draw(*size, 5, 4)) / 8
    dilation = options.get('dilation', 1)

    def plain(x, kernel):
        return direct(x, kernel, steps.stride, steps.pads, dilation=dilation)

    def ours(x, kernel):
        if options:
            return products.narrow(x, kernel, steps, dilation)
        return products.correlate(x, kernel, steps)

    def penalty(conv, x, kernel):
        """A function of the gradients, whose own gradients take the derivatives of both."""
        of_x, of_kernel = found = jax.grad(lambda x, k: jnp.sum(jnp.sin(conv(x, k))), (0, 1))(x, kernel)
        return jnp.sum(jnp.square(of_x)) + 0.1 * jnp.sum(jnp.square(of_kernel)), found

    @jax.jit
    def everything(x, kernel):
        return [
            (conv(x, kernel), jax.grad(functools.partial(penalty, conv), (0, 1), has_aux=True)(x, kernel))
            for conv in (ours, plain)
        ]

    for got, want in zip(*map(jax.tree.leaves, everything(x, kernel)), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.max(np.abs(want)))


def test_the_gradient_of_a_kernel_is_a_product_for_narrow_layers_of_large_images_too():
    def count(side, name):
        loss = jax.grad(lambda kernel: jnp.sum(ops.conv2d(jnp.zeros((1, side, side, 32)), kernel, padding=1)))
        return str(jax.make_jaxpr(loss)(jnp.zeros((3, 3, 32, 48)))).count(name)

    assert count(160, 'dot_general[') == 1 and count(32, 'dot_general[') == 0
    with ops.for_platform('tpu'):
        assert count(160, 'dot_general[') == 0


def test_a_cpu_takes_matmuls_for_wide_layers_and_other_devices_convolutions():
    x, kernel = jnp.zeros((1, 66, 66, 64)), jnp.zeros((3, 3, 64, 128))

    def count(x, kernel, name, **options):
        return str(jax.make_jaxpr(lambda x, k: ops.conv2d(x, k, **options))(x, kernel)).count(name)

    assert count(x, kernel, 'dot_general[') == 2 + 16  # the kernel's transform; one product per element of a tile
    assert count(x[:, :65], kernel, 'dot_general[') == 9
    assert count(x[..., :4], kernel[:, :, :4], 'conv_general_dilated[') == 1
    assert count(x, kernel[:, :, :1, :64], 'conv_general_dilated[', groups=64) == 0
    with ops.for_platform('tpu'):
        assert count(x, kernel, 'conv_general_dilated[') == 1
    assert count(x, kernel, 'conv_general_dilated[') == 0


@pytest.mark.parametrize('side', [66, 9])
@pytest.mark.parametrize('shape, groups', [((3, 3, 64, 128), 1), ((3, 3, 1, 64), 64)])
def test_conv2d_of_bfloat16_and_its_gradient_are_close_and_stay_bfloat16(shape, groups, side):
    x, kernel = jnp.float32(draw(1, side, side, 64)), jnp.float32(draw(*shape)) / math.sqrt(9 * shape[2])

    @jax.jit
    def found(x, kernel):
        y, pull = jax.vjp(lambda x, k: ops.conv2d(x, k, groups=groups), x, kernel)
        return y, *pull(jnp.ones_like(y))

    rough = found(x.astype(jnp.bfloat16), kernel)
    assert [y.dtype for y in rough] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for y, exact in zip(rough, found(x, kernel), strict=True):
        np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.02 * np.abs(exact).max())


def naive_conv2d_resample(x, kernel, f, *, up=1, down=1, padding=0, groups=1, flip_weight=True):
    """Stage by stage, as defined."""
    height, width = f.shape if f.ndim == 2 else f.shape * 2
    left, right, top, bottom = padding if isinstance(padding, tuple) else (padding,) * 4
    for factor, before, after in ((up, up - 1, -up), (down, 1 - down, -down)):
        if factor > 1:
            left, right = left + (width + before) // 2, right + (width + after) // 2
            top, bottom = top + (height + before) // 2, bottom + (height + after) // 2
    x = naive_upfirdn2d(x, f if up > 1 else None, up=up, padding=(left, right, top, bottom), gain=up**2)
    x = direct(x, kernel if flip_weight else kernel[::-1, ::-1], groups=groups)
    return naive_upfirdn2d(x, f, down=down) if down > 1 else x


RESAMPLING_CASES = [
    ((3, 3, 4, 2), (4, 4), {'up': 2, 'padding': 1, 'flip_weight': False}),
    ((3, 2, 4, 2), (4, 3), {'up': 3, 'padding': (2, 0, 1, -1)}),
    ((1, 1, 4, 2), (4, 4), {'up': 2}),
    ((3, 3, 2, 4), (4, 4), {'up': 2, 'padding': 1, 'groups': 2}),
    ((3, 3, 4, 2), (4, 4), {'down': 2, 'padding': 1}),
    ((1, 1, 4, 2), (8,), {'down': 2}),
    ((3, 3, 4, 2), (5,), {'up': 2, 'down': 3, 'padding': 1}),
]


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('kernel_shape, taps, options', RESAMPLING_CASES)
def test_resampling_convolutions_follow_the_definition(kernel_shape, taps, options, backend):
    x, kernel, f = (draw(*shape).astype(np.float32) for shape in ((2, 7, 6, 4), kernel_shape, taps))
    want = jax.jit(functools.partial(naive_conv2d_resample, **options))(x, kernel, f)
    with ops.for_platform(backend):
        got = jax.jit(functools.partial(ops.conv2d_resample, **options))(x, kernel, f)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.max(np.abs(want)))


def weights_of_images(kernel, styles, demodulate):
    weights = kernel[None] * styles[:, None, None, :, None]
    if demodulate:
        weights /= np.sqrt(np.sum(weights**2, axis=(1, 2, 3), keepdims=True) + 1e-8)
    return weights


@pytest.mark.parametrize('demodulate', [True, False])
def test_modulated_convolutions_are_convolutions_with_a_weight_per_image(demodulate):
    x, kernel, styles, gain = draw(3, 5, 6, 4), draw(3, 3, 4, 2), draw(3, 4), draw(3, 4, seed=1)
    f = filters.setup_filter([1, 3, 3, 1])
    normalised, balanced = kernel, styles
    if demodulate:
        normalised = kernel / np.sqrt(np.mean(kernel**2, axis=(0, 1, 2)))
        balanced = styles / np.sqrt(np.mean(styles**2))
    third = weights_of_images(normalised, balanced, demodulate) * gain[:, None, None, :, None]
    second = weights_of_images(kernel, styles, demodulate)

    @jax.jit
    def run(x, kernel, styles, gain, third, second):
        got = (
            ops.modulated_conv(x, kernel, styles, demodulate=demodulate, padding=2, input_gain=gain),
            ops.modulated_conv_resample(x, kernel, styles, f, up=2, padding=1, demodulate=demodulate),
        )
        each = jax.vmap(lambda x, w: ops.conv2d(x[None], w, padding=2)[0])(x, third)
        up = jax.vmap(lambda x, w: ops.conv2d_resample(x[None], w, f, up=2, padding=1)[0])(x, second)
        return got, (each, up)

    for got, want in zip(*run(*(jnp.float32(a) for a in (x, kernel, styles, gain, third, second))), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.max(np.abs(want)))


def test_modulation_makes_no_weight_per_image():
    n, c, d = 16, 64, 128
    arguments = jnp.zeros((n, 4, 4, c)), jnp.zeros((3, 3, c, d)), jnp.zeros((n, c))
    for function in (ops.modulated_conv, ops.modulated_conv_resample):
        slope = jax.grad(lambda *a, function=function: jnp.sum(function(*a, padding=1)), argnums=(0, 1, 2))
        jaxpr = jax.make_jaxpr(slope)(*arguments)
        largest = max(v.aval.size for e in jaxpr.eqns for v in e.outvars)
        assert 9 * c * d <= largest < n * c * d


def test_styles_of_any_scale_give_the_same_image():
    """Demodulation cancels the scale of an image's styles, of the batch, and of the kernel."""
    x, kernel, styles = (jnp.float32(draw(*shape)) for shape in ((2, 4, 4, 8), (3, 3, 8, 4), (2, 8)))
    run = jax.jit(ops.modulated_conv)
    want = run(x, kernel, styles)
    np.testing.assert_allclose(run(x, 7 * kernel, 0.1 * styles), want, atol=1e-5)
    np.testing.assert_allclose(run(x, kernel, styles * jnp.array([[3.0], [0.5]])), want, atol=1e-5)
    assert not np.allclose(run(x, kernel, styles * jnp.arange(1.0, 9.0)[None, :]), want, atol=0.1)


# Errors ---------------------------------------------------------------------------------------------------------------

IMAGE, KERNEL = jnp.zeros((2, 5, 6, 4)), jnp.zeros((3, 3, 4, 2))


@pytest.mark.parametrize(
    'call, match',
    [
        (lambda: ops.upfirdn2d(IMAGE[0], None), r'x has shape \(5, 6, 4\)'),
        (lambda: ops.upfirdn2d(IMAGE, jnp.zeros((2, 2, 2))), r'filter of shape \(2, 2, 2\)'),
        (lambda: ops.upfirdn2d(IMAGE, None, up=0), 'up=0'),
        (lambda: ops.upfirdn2d(IMAGE, None, up=np.int64(0)), r'up=np.int64\(0\)'),
        (lambda: ops.upfirdn2d(IMAGE, None, up=1.0), 'up=1.0; expected an integer'),
        (lambda: ops.upfirdn2d(IMAGE, None, padding=1.0), 'padding=1.0; expected an integer'),
        (lambda: ops.upfirdn2d(IMAGE, None, down=(1, 2, 3)), r'down=\(1, 2, 3\)'),
        (lambda: ops.upfirdn2d(IMAGE, None, padding=(1, 2)), r'padding=\(1, 2\).*four'),
        (lambda: ops.upfirdn2d(IMAGE, jnp.zeros(12)), 'fewer than the 12 taps'),
        (lambda: ops.filtered_lrelu(IMAGE, jnp.zeros(3), None, None), r'bias of shape \(3,\)'),
        (lambda: ops.bias_act(IMAGE, act='gelu'), "act='gelu' is not one of"),
        (lambda: ops.bias_act(IMAGE, clamp=-1.0), 'clamp=-1.0'),
        (lambda: ops.conv2d(IMAGE, KERNEL[:, :, :3]), r'kernel of shape \(3, 3, 3, 2\)'),
        (lambda: ops.conv2d(IMAGE, KERNEL, padding=-2), 'smaller than the kernel'),
        (lambda: ops.conv2d_resample(IMAGE, KERNEL, up=(2, 1)), r'up=\(2, 1\)'),
        (lambda: ops.conv2d_resample(IMAGE, KERNEL, groups=3), 'in 3 groups'),
        (lambda: ops.modulated_conv(IMAGE, KERNEL, jnp.zeros((2, 2))), r'styles of shape \(2, 2\)'),
        (lambda: ops.modulated_conv(IMAGE, KERNEL, jnp.zeros((2, 4)), input_gain=jnp.ones(2)), r'input_gain of shape'),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize('number', [2, np.int64(2), np.uint8(2)])
def test_integers_of_numpy_are_integers(number):
    for value in (number, (number, number), np.array([number, number])):
        pair = fir.as_pair('up', value)
        assert pair == (2, 2) and all(type(v) is int for v in pair)
    for value in (number, 4 * (number,)):
        sides = fir.as_sides(value)
        assert sides == (2, 2, 2, 2) and all(type(v) is int for v in sides)
