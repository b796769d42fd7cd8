"""DeepFillv2: properties of gated convolutions, attention, spectral norm and losses that no golden number shows."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import losses
from pegan_jax.config import Config, ConfigError, DataConfig, load_config
from pegan_jax.models import attention, deepfill

TINY = deepfill.Config(img_resolution=(16, 24), cnum=4, d_cnum=2)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def params_of(module, *inputs, seed=0):
    """Random parameters of the shapes that a module asks for, biases included."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([normal(seed + i, *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)])


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


# Gated convolution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('gate', ['full', 'depthwise', 'single_channel'])
def test_a_gate_lies_between_0_and_1_and_multiplies_the_activated_feature(gate):
    conv = deepfill.GatedConv(TINY, 5, deepfill.Layer(1, dilation=2), gate, jax.nn.elu)
    x = normal(9, 2, 6, 7, 3)
    params = params_of(conv, x)
    y, state = conv.apply({'params': params}, x, mutable=['gates'])
    (g,) = state['gates']['gate']
    assert g.shape == (2, 6, 7, 1 if gate == 'single_channel' else 5)
    assert 0 < g.min() < 0.4 and 0.6 < g.max() < 1
    # A convolution of the feature's channels alone.
    plain = deepfill.GatedConv(TINY, 5, deepfill.Layer(1, dilation=2), None, jax.nn.elu)
    feature = plain.apply({'params': {'kernel': params['kernel'][..., :5], 'bias': params['bias'][:5]}}, x)
    np.testing.assert_allclose(y, feature * g, atol=1e-6)
    assert y.min() > -1
    # Without weights the gate is one half.
    names = {
        'full': ('kernel', 'bias'),
        'single_channel': ('kernel', 'bias'),
        'depthwise': ('gate_pointwise', 'gate_bias'),
    }
    closed = {
        k: v if k not in names[gate] else v.at[..., 0 if gate == 'depthwise' else 5 :].set(0) for k, v in params.items()
    }
    np.testing.assert_allclose(conv.apply({'params': closed}, x), feature / 2, atol=1e-6)


def test_a_depthwise_gate_is_a_depthwise_convolution_behind_which_channels_are_mixed():
    conv = deepfill.GatedConv(TINY, 2, deepfill.Layer(1, stride=2), 'depthwise', jax.nn.relu)
    x = normal(1, 1, 6, 8, 3)
    params = params_of(conv, x)
    _, state = conv.apply({'params': params}, x, mutable=['gates'])
    padded = np.pad(x[0], ((0, 1), (0, 1), (0, 0)))
    spread = np.zeros((3, 4, 3))
    for i in range(3):
        for j in range(3):
            spread += padded[i : i + 5 : 2, j : j + 7 : 2] * np.asarray(params['gate_depthwise'])[i, j, 0]
    logits = spread @ np.asarray(params['gate_pointwise'])[0, 0] + params['gate_bias'].reshape(1, 1, -1)
    np.testing.assert_allclose(state['gates']['gate'][0][0], jax.nn.sigmoid(logits), atol=1e-6)


# Generator ------------------------------------------------------------------------------------------------------------


@functools.cache
def runner(model):
    return jax.jit(deepfill.Generator(model).apply)


@functools.cache
def completer(model):
    return jax.jit(functools.partial(deepfill.complete, model))


@pytest.fixture(scope='module')
def example():
    image = jnp.tanh(normal(3, 2, 16, 24, 3))
    mask = jnp.zeros((2, 16, 24, 1)).at[0, 3:9, 5:17].set(1).at[1, 8:, :7].set(1)
    params = params_of(deepfill.Generator(TINY), image, mask)
    return params, image, mask


def test_what_is_under_a_hole_changes_nothing_and_what_is_around_it_stays(example):
    params, image, mask = example
    run = runner(TINY)
    a = run({'params': params}, image, mask)
    b = run({'params': params}, image + 3 * mask * normal(4, *image.shape), mask)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ('coarse', 'refined'):
        painted = getattr(a, name)
        assert painted.shape == image.shape and np.abs(painted).max() < 1 and np.ptp(painted) > 1e-3
    completed = completer(TINY)({'params': params, 'buffers': {}}, {'image': image, 'mask': mask})
    known = np.broadcast_to(mask == 0, image.shape)
    np.testing.assert_array_equal(np.asarray(completed)[known], np.asarray(image)[known])
    np.testing.assert_allclose(np.asarray(completed)[~known], np.asarray(a.refined)[~known], atol=1e-5)
    assert a.offsets.shape == (2, 2, 3, 2) and a.offsets.dtype == jnp.int32


def test_every_image_of_a_batch_has_its_own_mask(example):
    params, image, mask = example
    together = runner(TINY)({'params': params}, image, mask).refined
    apart = runner(TINY)({'params': params}, image, mask[::-1]).refined
    swapped = runner(TINY)({'params': params}, image[::-1], mask[::-1]).refined
    np.testing.assert_allclose(swapped[::-1], together, atol=1e-5)
    assert np.abs(apart - together).max() > 1e-3


def test_without_holes_the_completion_is_the_image_and_without_anything_else_attention_gives_nothing(example):
    params, image, mask = example
    nothing = runner(TINY)({'params': params}, image, 0 * mask)
    np.testing.assert_array_equal(deepfill.composite(nothing.refined, image, 0 * mask), image)
    f = normal(5, 1, 8, 8, 3)
    np.testing.assert_array_equal(jax.jit(attention.contextual_attention)(f, f, jnp.ones((1, 4, 4, 1))).y, 0 * f)
    everything = runner(TINY)({'params': params}, image, 0 * mask + 1)
    assert np.isfinite(everything.refined).all()


@pytest.mark.parametrize('size', [(8, 8), (8, 40), (24, 16)])
@pytest.mark.parametrize('options', [{}, {'padding': 'symmetric', 'nearest': 'plain'}, {'conv_type': 'partial'}])
def test_any_size_of_a_multiple_of_8_keeps_its_size(size, options):
    model = dataclasses.replace(TINY, **options)
    image, mask = jnp.zeros((3, *size, 3)), jnp.zeros((1, *size, 1))
    result, variables = jax.eval_shape(deepfill.Generator(model).init_with_output, jax.random.key(0), image, mask)
    assert result.coarse.shape == result.refined.shape == image.shape
    assert set(variables['params']) == set(deepfill.layer_names())


@pytest.mark.parametrize(
    ('options', 'parameters'),
    [
        ({}, 4_052_478),
        ({'guided': True}, 4_052_478 + 1200),
        ({'conv_type': 'vanilla'}, 2_026_566),
        ({'conv_type': 'partial'}, 2_026_566),
        ({'gate': 'depthwise'}, 2_278_313),
        ({'gate': 'single_channel'}, 2_051_289),
    ],
)
def test_published_number_of_parameters(options, parameters):
    model = deepfill.Config(**options)
    image, plane = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 1))
    sketch = plane if model.guided else None
    shapes = jax.eval_shape(deepfill.Generator(model).init, jax.random.key(0), image, plane, sketch)['params']
    assert count(shapes) == parameters
    d = jax.eval_shape(deepfill.Discriminator(model).init, jax.random.key(0), deepfill.d_input(image, plane, sketch))
    assert count(d) == 5_946_816 + (5 * 5 * 64 if model.guided else 0)


def test_kernels_of_the_port_begin_as_uniform_numbers_of_their_outputs():
    model = deepfill.Config(cnum=8, **deepfill.VARIANTS['port-pt'])
    generator, image = deepfill.Generator(model), jnp.zeros((1, 32, 32, 3))
    params = generator.init(jax.random.key(0), image, image[..., :1])['params']
    for name, limit in (('conv5', (6 / (9 * 32)) ** 0.5), ('conv6', (6 / (9 * 32)) ** 0.5), ('conv17', 18**-0.5)):
        largest = float(np.abs(params[name]['kernel']).max())
        assert 0.9 * limit < largest <= limit, name


def test_a_sketch_counts_inside_the_holes_only():
    model = dataclasses.replace(TINY, guided=True)
    image, mask = jnp.tanh(normal(1, 1, 16, 24, 3)), jnp.zeros((1, 16, 24, 1)).at[:, 4:12, 4:12].set(1)
    lines = jnp.zeros((1, 16, 24, 1)).at[:, 6, :].set(1)
    params = params_of(deepfill.Generator(model), image, mask, lines)

    def run(sketch):
        return runner(model)({'params': params}, image, mask, sketch)

    np.testing.assert_array_equal(run(lines).refined, run(lines * mask).refined)
    assert np.abs(run(lines).coarse - run(0 * lines).coarse).max() > 1e-4
    variables = {'params': params, 'buffers': {}}
    np.testing.assert_array_equal(
        completer(model)(variables, {'image': image, 'mask': mask}),
        completer(model)(variables, {'image': image, 'mask': mask, 'sketch': 0 * lines}),
    )
    np.testing.assert_array_equal(deepfill.d_input(image, mask, lines)[..., 4:], lines * mask)
    edges = deepfill.sketch_of(model, {'image': image, 'edge': np.array([152, 153, 154, 255], np.uint8)})
    np.testing.assert_array_equal(edges, [0, 0, 1, 1])
    assert deepfill.sketch_of(TINY, {'image': image}) is None


def test_partial_convolutions_see_no_sketch_and_forget_the_hole():
    model = dataclasses.replace(TINY, conv_type='partial', guided=True)
    image, mask = jnp.tanh(normal(1, 1, 16, 24, 3)), jnp.zeros((1, 16, 24, 1)).at[:, 2:14, 4:22].set(1)
    lines = jnp.zeros((1, 16, 24, 1)).at[:, 6, :].set(1)
    params = params_of(deepfill.Generator(model), image, mask, lines)
    run = jax.jit(functools.partial(deepfill.Generator(model).apply, mutable=['gates']))
    result, state = run({'params': params}, image, mask, lines)
    blank, _ = run({'params': params}, image, mask, 0 * lines)
    np.testing.assert_array_equal(result.refined, blank.refined)
    # 12 rows of a hole: 8 behind 5x5, then 3 or 4 at half the size, then at most 1 and none.
    valid = {name: state['gates'][f'{name}_valid'][0] for name in deepfill.layer_names()}
    np.testing.assert_array_equal(valid['conv1'][0, :, 12, 0], [1] * 4 + [0] * 8 + [1] * 4)
    known = [int(v.min()) for v in valid.values()]
    assert known == [0] * known.index(1) + [1] * (len(known) - known.index(1))
    assert list(valid)[known.index(1)] == 'conv4_downsample' and list(valid)[-1] == 'allconv17'
    # Nothing is ever known of a hole without an edge.
    nothing, _ = run({'params': params}, image, 0 * mask + 1, lines)
    np.testing.assert_array_equal(nothing.coarse, 0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'image': jnp.zeros((1, 16, 20, 3))}, 'multiples of 8'),
        ({'image': jnp.zeros((16, 24, 3))}, r'expected \[N, H, W, 3\]'),
        ({'mask': jnp.zeros((3, 16, 24, 1))}, r'mask of shape \(3, 16, 24, 1\)'),
        ({'sketch': jnp.zeros((1, 16, 24, 1))}, 'leave it out'),
    ],
)
def test_inputs_of_other_shapes_are_refused(change, message):
    inputs = {'image': jnp.zeros((1, 16, 24, 3)), 'mask': jnp.zeros((1, 16, 24, 1)), 'sketch': None} | change
    with pytest.raises(ValueError, match=message):
        deepfill.check_inputs(TINY, **inputs)
    inputs = {'image': jnp.zeros((1, 8, 8, 3)), 'mask': jnp.zeros((1, 8, 8, 1)), 'sketch': None}
    with pytest.raises(ValueError, match='zeros for no lines'):
        deepfill.check_inputs(dataclasses.replace(TINY, guided=True), **inputs)


# Contextual attention -------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=('rate', 'fuse', 'max_scores'))
def attend(f, b, mask=None, rate=2, fuse=False, max_scores=2**25):
    return attention.contextual_attention(f, b, mask, rate=rate, fuse=fuse, max_scores=max_scores, return_weights=True)


def test_large_features_attend_to_themselves_and_edges_are_attenuated():
    f = 40 * normal(1, 1, 12, 16, 5)
    result = attend(f, f)
    factor = np.ones((12, 16))
    factor[[0, -1]] /= 2
    factor[:, [0, -1]] /= 2
    np.testing.assert_allclose(result.y, f * factor[None, :, :, None], atol=1e-3)
    np.testing.assert_array_equal(result.offsets, 0)


def test_a_hole_is_filled_with_the_same_thing_from_elsewhere():
    tile = 40 * normal(2, 1, 16, 16, 4)
    f = jnp.concatenate([tile, tile], axis=2)
    mask = jnp.zeros((1, 16, 32, 1)).at[:, 6:10, 5:9].set(1)
    result = attend(f, f, mask, rate=1)
    np.testing.assert_allclose(result.y[:, 6:10, 5:9], f[:, 6:10, 5:9], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(result.offsets[:, 6:10, 5:9], np.broadcast_to([0, 16], (1, 4, 4, 2)))


def test_masked_backgrounds_get_nothing_and_the_rest_gets_less_than_everything():
    f, mask = 0.005 * normal(3, 2, 8, 12, 3), jnp.zeros((2, 4, 6, 1)).at[0, 1, 2].set(1)
    weights = np.asarray(attend(f, f, mask, fuse=True).weights)
    invalid = np.zeros((4, 6), bool)
    invalid[0:3, 1:4] = True
    np.testing.assert_array_equal(weights[0][:, invalid.reshape(-1)], 0)
    assert weights[0].sum(axis=1).max() < 1 and weights[0].sum(axis=1).min() > 0
    np.testing.assert_allclose(weights[1].sum(axis=1), 1, rtol=1e-5)


def test_the_scale_of_the_background_scales_the_result_and_nothing_else():
    f, b = normal(4, 1, 8, 8, 3), normal(5, 1, 8, 8, 3)
    one, four = attend(f, b, fuse=True), attend(f, 4 * b, fuse=True)
    np.testing.assert_allclose(four.weights, one.weights, atol=1e-6)
    np.testing.assert_allclose(four.y, 4 * one.y, atol=1e-5)


def test_fusion_moves_queries_and_backgrounds_together():
    h, w, bh, bw = 5, 6, 7, 8
    (q_at, q_exists), (k_at, k_exists) = attention.strips(h, w, h), attention.strips(bh, bw, bh)
    scores = np.zeros((h * w + 1, bh * bw + 1), np.float32)
    scores[2 * w + 3, 4 * bw + 5] = 1
    windows = scores[q_at[0][:, None, :, None, None], k_at[0]]
    fused = attention.fuse_scores(jnp.asarray(windows), q_exists[0], k_exists[0])[:, 0]
    found = set(zip(*map(tuple, np.argwhere(fused).T), strict=True))
    assert found == {(2 + i, 3 + j, 4 + i, 5 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert np.all(np.asarray(fused)[tuple(np.argwhere(fused).T)] == 1)


@pytest.mark.parametrize('rows', [1, 2, 4, 5])
def test_strips_of_any_height_read_the_same_queries(rows):
    """The position behind the last of a column is the first of the next one; outside there is none."""
    h, w = 5, 4
    windows, exists = attention.strips(h, w, rows)
    order = {(r, c): c * h + r for r in range(h) for c in range(w)}
    at = {v: k for k, v in order.items()}
    for strip, (window, there) in enumerate(zip(windows, exists, strict=True)):
        for r in range(rows):
            row = strip * rows + r
            for c in range(w if row < h else 0):
                for step in (-1, 0, 1):
                    next_at = at.get(order[row, c] + step)
                    assert there[r + 1 + step, c] == (next_at is not None)
                    if next_at is not None:
                        flat = next_at[0] * w + next_at[1]
                        around = [i if 0 <= i < h * w else h * w for i in (flat - 1, flat, flat + 1)]
                        np.testing.assert_array_equal(window[r + 1 + step, c : c + 3], around)


def attention_loss(f, b, max_scores):
    y = attention.contextual_attention(f, b, jnp.zeros((1, 5, 4, 1)).at[:, 1, 1].set(1), max_scores=max_scores).y
    return jnp.sum(y * normal(8, *y.shape))


@pytest.mark.parametrize('max_scores', [1, 320])  # strips of one of the five rows, and of two
def test_strips_have_the_same_gradients(max_scores):
    f, b = normal(6, 2, 10, 8, 3), normal(7, 2, 10, 8, 3)
    whole, strips = (
        jax.jit(jax.value_and_grad(functools.partial(attention_loss, max_scores=n), argnums=(0, 1)))(f, b)
        for n in (2**25, max_scores)
    )
    np.testing.assert_allclose(strips[0], whole[0], rtol=1e-5)
    for a, c in zip(whole[1], strips[1], strict=True):
        assert np.abs(a).max() > 1e-2
        np.testing.assert_allclose(c, a, atol=1e-4 * np.abs(a).max())


def test_a_block_of_zeros_has_finite_gradients():
    b = jax.nn.relu(normal(7, 2, 10, 8, 3)).at[:, 2:].set(0)
    grads = jax.jit(jax.grad(functools.partial(attention_loss, max_scores=2**25), argnums=(0, 1)))(b, b)
    assert all(np.isfinite(g).all() for g in grads) and np.abs(grads[1]).max() > 0


def test_memory_of_the_attention_is_bounded():
    """4096 x 4096 scores are 64 MiB; strips of one row with 2^18 of them, and their gradient, take a small part."""
    f = jax.ShapeDtypeStruct((1, 128, 128, 4), jnp.float32)

    def loss(f, max_scores):
        y = attention.contextual_attention(f, f, max_scores=max_scores).y
        return jnp.sum(jnp.square(y))

    def bytes_of(function, max_scores):
        compiled = jax.jit(functools.partial(function, max_scores=max_scores)).lower(f).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(loss, 2**25) > 2**26
    assert bytes_of(loss, 2**18) < 2**24
    assert bytes_of(jax.grad(loss), 2**18) < bytes_of(jax.grad(loss), 2**25) / 4


def test_no_offset_is_white_and_opposite_directions_have_opposite_hues():
    offsets = np.zeros((2, 1, 4, 2), int)
    offsets[0, 0, 1:] = [[3, 0], [-3, 0], [0, 3]]
    offsets[1, 0, 1] = [1, 0]
    picture = attention.flow_picture(offsets, rate=1)
    np.testing.assert_array_equal(picture[:, 0, 0], 1)
    assert np.abs(picture[0, 0, 1] - picture[0, 0, 2]).max() > 1.5
    # A third of the largest distance so far: a third of the saturation.
    np.testing.assert_allclose(1 - picture[1, 0, 1], (1 - picture[0, 0, 1]) / 3, atol=0.02)
    assert attention.flow_picture(offsets).shape == (2, 2, 8, 3)


@pytest.mark.parametrize(
    ('f', 'mask', 'message'),
    [((1, 9, 8, 3), None, 'multiples of rate=2'), ((2, 8, 8, 3), (3, 4, 4, 1), r'has shape \(3, 4, 4, 1\)')],
)
def test_attention_refuses_sizes_that_do_not_fit(f, mask, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        attention.contextual_attention(jnp.zeros(f), jnp.zeros(f), None if mask is None else jnp.zeros(mask))


# Discriminator --------------------------------------------------------------------------------------------------------


def test_receptive_field_of_253_pixels():
    """By the gradient of the scores of one position, with positive weights, so that nothing is cut off or cancels."""
    model = deepfill.Config(d_cnum=1)
    x = jnp.ones((1, 320, 320, 4))
    shapes = jax.eval_shape(deepfill.Discriminator(model).init, jax.random.key(0), x)['params']
    params = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)

    def score(x):
        return deepfill.Discriminator(model).apply({'params': params}, x).reshape(5, 5, 4)[2, 2].sum()

    seen = np.abs(jax.jit(jax.grad(score))(x)).sum(axis=(0, 3)) > 0
    for axis in (0, 1):
        (at,) = np.nonzero(seen.any(axis=axis))
        assert len(at) == 253 and at[-1] - at[0] == 252 and at[0] == 2 * 64 - 63


def sn_example(sn):
    model = dataclasses.replace(TINY, sn=sn)
    params = {'conv1': {'kernel': normal(1, 2, 2, 3, 4), 'bias': normal(2, 4)}}
    return model, params, {'conv1': {'u': normal(3, 1, 4)}}


@pytest.mark.parametrize('sn', ['raw', 'divided'])
def test_power_iteration_finds_the_spectral_norm_whatever_the_scale_of_the_kernel(sn):
    model, params, start = sn_example(sn)
    sequences = []
    for scale in (1.0, 7.0):
        stored, buffers, kernels = jax.tree.map(lambda p, s=scale: s * p, params), start, []
        for _ in range(60):
            used, buffers = deepfill.normalised(model, stored, buffers)
            kernels.append(used['conv1']['kernel'])
            stored = used if sn == 'divided' else stored
        sequences.append(np.stack(kernels))
    np.testing.assert_allclose(sequences[0], sequences[1], rtol=1e-4, atol=1e-5)
    assert np.abs(sequences[0][0] - sequences[0][-1]).max() > 1e-2
    np.testing.assert_allclose(np.linalg.norm(sequences[0][-1].reshape(12, 4), 2), 1, rtol=1e-4)
    np.testing.assert_array_equal(used['conv1']['bias'], 7 * params['conv1']['bias'])


def test_gradients_of_the_spectral_norm():
    """Raw: that of the whole function, iteration and norm included. Divided: as if the result were the parameter."""
    weights, direction = normal(5, 2, 2, 3, 4), normal(6, 2, 2, 3, 4)
    for sn in ('raw', 'divided'):
        model, params, buffers = sn_example(sn)

        def value(kernel, model=model, buffers=buffers):
            used, _ = deepfill.normalised(model, {'conv1': {'kernel': kernel}}, buffers)
            return jnp.sum(used['conv1']['kernel'] * weights)

        kernel, step = params['conv1']['kernel'], 1e-2
        slope = float(jnp.sum(jax.grad(value)(kernel) * direction))
        numeric = float(value(kernel + step * direction) - value(kernel - step * direction)) / (2 * step)
        size = float(jnp.linalg.norm(weights) * jnp.linalg.norm(direction))
        if sn == 'raw':
            assert slope == pytest.approx(numeric, rel=5e-3, abs=1e-3 * size)
        else:
            assert slope == pytest.approx(float(jnp.sum(weights * direction)), abs=1e-6 * size)
            assert abs(slope - numeric) > 0.1 * abs(slope)


# Losses and training --------------------------------------------------------------------------------------------------


def test_hinge_losses_at_known_scores():
    ones = jnp.ones((2, 3))
    assert losses.hinge_d(2 * ones, -ones) == 0
    assert losses.hinge_d(0 * ones, 0 * ones) == 1
    assert losses.hinge_d(-ones, -3 * ones) == 1 and losses.hinge_d(5 * ones, ones) == 1
    assert losses.hinge_g(3 * ones) == -3
    assert losses.least_squares_d(ones, 0 * ones) == 0 and losses.least_squares_d(3 * ones, ones) == 2.5
    assert losses.least_squares_g(3 * ones) == 4


def run_config(model=TINY, **data):
    return Config(system='deepfill', model=model, data=DataConfig(resolution=model.img_resolution, **data))


@pytest.fixture(scope='module')
def system():
    gan = deepfill.build(run_config())
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    image = jnp.tanh(normal(1, 2, 16, 24, 3))
    batch = gan.prepare({'image': image, 'index': jnp.arange(2)}, jax.random.key(1), gan.stage_at(0, 0, 0))
    return params, buffers, batch


def test_one_mask_for_a_step_and_one_per_image_for_pictures():
    gan = deepfill.build(run_config())
    image = jnp.zeros((3, 16, 24, 3))
    prepare = jax.jit(lambda key: gan.prepare({'image': image}, key, gan.stage_at(0, 0, 0))['mask'])
    masks = [np.asarray(prepare(jax.random.key(k))) for k in (0, 0, 1)]
    assert masks[0].shape == (1, 16, 24, 1) and set(np.unique(masks)) == {0, 1}
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    inputs = jax.jit(gan.sampler.inputs)
    rows = inputs({'image': image, 'index': jnp.array([0, 1, 5])}, jax.random.key(0))
    again = inputs({'image': image[:1], 'index': jnp.array([5])}, jax.random.key(0))
    np.testing.assert_array_equal(rows['mask'][2:], again['mask'])
    assert len(np.unique(np.asarray(rows['mask']).reshape(3, -1), axis=0)) == 3 and 'sketch' not in rows


@pytest.mark.slow
@pytest.mark.parametrize('sn', ['raw', 'divided'])
@pytest.mark.parametrize('gan_loss', ['hinge', 'least-squares'])
def test_losses_leave_behind_what_the_spectral_norm_of_the_program_does(system, sn, gan_loss):
    params, buffers, batch = system
    model = dataclasses.replace(TINY, sn=sn, gan_loss=gan_loss, gan_weight=0.5, l1_weight=2.0)
    gan = deepfill.build(run_config(model))
    state = SimpleNamespace(params=params, buffers=buffers)
    stage = gan.stage_at(0, 0, 0)
    loss, (fields, metrics) = jax.jit(
        lambda params, buffers: gan.updates[1].loss(params['g'], state, batch, jax.random.key(0), stage)
    )(params, buffers)
    used, new = deepfill.normalised(model, params['d'], buffers['d'])
    np.testing.assert_allclose(fields['buffers']['d']['conv3']['u'], new['conv3']['u'], atol=1e-5)
    assert ('params' in fields) == (sn == 'divided')
    if sn == 'divided':
        np.testing.assert_allclose(fields['params']['d']['conv3']['kernel'], used['conv3']['kernel'], atol=1e-5)
    want = 0.5 * metrics['loss/g_adversarial'] + 2 * (metrics['loss/l1_coarse'] + metrics['loss/l1_refined'])
    assert float(loss) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.slow
def test_the_coarse_network_learns_from_the_refined_image(system):
    """No gradient is stopped between the stages, nor at the attention."""
    params, _, batch = system

    def refined_alone(g_params):
        result = deepfill.Generator(TINY).apply({'params': g_params}, batch['image'], batch['mask'])
        return deepfill.reconstruction(result, batch['image'])[1]

    grads = jax.jit(jax.grad(refined_alone))(params['g'])
    assert all(np.abs(layer['kernel']).max() > 0 for layer in grads.values())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'cnum': 6}, 'model.cnum=6 must be a multiple of 4'),
        ({'img_resolution': 20}, 'multiples of 8'),
        ({'conv_type': 'vanilla', 'gate': 'depthwise'}, "needs model.conv_type='gated'"),
        ({'masks': 'folder'}, 'mask_folder=None'),
        ({'mask_folder': 'x'}, "masks='union'"),
        ({'d_cnum': 0}, 'model.d_cnum=0 must be at least 1'),
        ({'sn': 'none'}, "expected 'raw' or 'divided'"),
    ],
)
def test_configurations_that_cannot_run_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        deepfill.Config(**options)


def test_runs_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ConfigError, match='differs from model'):
        Config(system='deepfill', model=TINY)
    with pytest.raises(ConfigError, match='sketches are made of edges'):
        run_config(dataclasses.replace(TINY, guided=True))
    with pytest.raises(ConfigError, match=r'model\.guided=False'):
        run_config(edges='canny')


def test_shipped_configurations_change_what_they_say():
    assert load_config('deepfill').model == deepfill.Config()
    port = load_config('deepfill:port,tiny').model
    assert (port.padding, port.nearest, port.sn) == ('symmetric', 'plain', 'divided')
    guided = load_config('deepfill:guided,celebahq')
    assert guided.model.guided and guided.data.edges == 'canny' and guided.data.crop == 'stretch'
    assert load_config('deepfill:partial,wide').model == deepfill.Config(conv_type='partial', cnum=68)
    assert load_config('deepfill:gate-single').model.gate == 'single_channel'
    with pytest.raises(ConfigError, match='places2 and celebahq exclude each other'):
        load_config('deepfill:places2,celebahq')
