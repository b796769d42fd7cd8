"""PGGAN: growth, what a stage trains, where position comes from, sampling, errors."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, nchw, nhwc

from pegan_jax import layers, ops
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config
from pegan_jax.gan import Stage
from pegan_jax.models import pggan
from pegan_jax.sampling import Model, sample
from pegan_jax.train.state import create_state
from pegan_jax.train.step import compile_step, data_mesh, device_step, place_batch

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'positional_encoding_gans'
SMALL = {
    'img_resolution': 16,
    'z_dim': 5,
    'channel_base': 32,
    'channel_max': 8,
    'stage_kimg': (0.03, 0.04),
    'fade_kimg': 0.02,
}


def config(**changes):
    model = pggan.Config(**(SMALL | changes))
    optim = OptimConfig(g_lr=0.001, d_lr=0.002)
    return Config('pggan', model, DataConfig(resolution=model.img_resolution), optim, TrainConfig(batch_size=4))


@functools.cache
def generator(upsampling='fused', encoding='none', alike=False):
    """(model, params) with random weights; alike: every position of the first feature maps has the same."""
    model = pggan.Config(**SMALL, upsampling=upsampling, encoding=encoding)
    params = jax.jit(pggan.Generator(model).init)(jax.random.key(0), jnp.zeros((1, 5)), 0.0)['params']
    if alike:
        kernel = params['noise2feat']['linear']['kernel'].reshape(5, 16, -1)
        params['noise2feat']['linear']['kernel'] = jnp.broadcast_to(kernel[:, :1], kernel.shape).reshape(5, -1)
    return model, params


def pictures(upsampling='fused', encoding='none', alike=False, size=None, progress=2.0):
    model, params = generator(upsampling, encoding, alike)
    z = jax.random.normal(jax.random.key(1), (2, 5))
    run = jax.jit(pggan.synthesise, static_argnums=(0,), static_argnames='size')
    return np.asarray(run(model, {'params': params, 'buffers': {'progress': jnp.float32(progress)}}, z, size=size))


@pytest.mark.parametrize('side', [128, 1024])
def test_parameters_are_as_many_as_published(side):
    stages = (1.0,) * (side.bit_length() - 3)
    gan = pggan.build(config(img_resolution=side, z_dim=512, channel_base=8192, channel_max=512, stage_kimg=stages))
    params, _, _ = jax.eval_shape(gan.init, jax.random.key(0))
    count = {net: sum(leaf.size for leaf in jax.tree.leaves(params[net])) for net in params}
    published = json.loads((FIXTURES / 'pggan_dcgan_shapes.json').read_text())['configs'][f'pggan_{side}']
    assert count['g'] == published['generator_params']
    # The published critic has a convolution of 512 to 512 channels that nothing uses.
    assert count['d'] == published['discriminator_params'] - (512 * 512 * 9 + 512)


# Growth ---------------------------------------------------------------------------------------------------------------


def test_stages_begin_with_the_first_whole_batch_and_fade_in_from_there():
    gan, model = pggan.build(config()), config().model
    assert pggan.stage_starts(model, 4) == [0, 32, 72]
    levels = [gan.stage_at(0, nimg, 0).level for nimg in range(0, 100, 4)]
    assert levels == [0] * 8 + [1] * 10 + [2] * 7
    assert gan.stage_at(0, 10**9, 0) == Stage(16, level=2)
    assert [float(pggan.fade_in(model, nimg, 1, 32)) for nimg in (32, 42, 52, 60)] == [0, 0.5, 1, 1]
    assert float(pggan.fade_in(model, 0, 0, 0)) == 1


def test_the_published_stages():
    starts = pggan.stage_starts(load_config('pggan').model, 32)
    assert starts == [0, 600_000, 1_800_000, 3_000_000, 4_200_000, 5_400_000]
    large = load_config('pggan:celebahq1024,no-pad,csg')
    assert len(pggan.stage_starts(large.model, 32)) == 9
    assert (large.model.upsampling, large.model.encoding) == ('no-pad', 'csg')
    with pytest.raises(ConfigError, match='exclude each other'):
        load_config('pggan:csg,spe')


def test_a_new_layer_that_has_no_weight_yet_changes_nothing():
    model, params = generator()
    g = jax.jit(pggan.Generator(model).apply, static_argnums=3)
    z = jax.random.normal(jax.random.key(1), (3, 5))
    new, old = (g({'params': params}, z, 1.0, level) for level in (2, 1))
    np.testing.assert_allclose(new, np.kron(old, np.ones((1, 2, 2, 1))), atol=1e-6)
    critic = pggan.Discriminator(model)
    d_params = jax.jit(functools.partial(critic.init, method='every_level'))(jax.random.key(2))
    score = jax.jit(lambda *given: critic.apply(*given)[0], static_argnums=2)
    images = jax.random.normal(jax.random.key(3), (4, 16, 16, 3))
    np.testing.assert_allclose(score(d_params, images, 2, 0.0), score(d_params, ops.halve(images), 1, 1.0), atol=1e-5)
    assert np.max(np.abs(score(d_params, images, 2, 0.5) - score(d_params, images, 2, 0.0))) > 1e-3


@pytest.mark.parametrize('level, factor', [(5, 1.5), (4, 1.0)])
def test_a_stage_begins_with_new_optimisers_at_its_rate(level, factor):
    gan = pggan.build(config(img_resolution=128, channel_base=64, channel_max=2, stage_kimg=(1.0,) * 5))
    shapes = jax.eval_shape(functools.partial(create_state, gan), 0)
    used = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    entered = gan.enter(used, Stage(2 ** (level + 1), level=level - 1), Stage(4 * 2**level, level=level))
    for net, rate in (('g', 0.001), ('d', 0.002)):
        state = entered.opt[net]
        assert float(state.hyperparams['lr']) == pytest.approx(rate * factor)
        inner = jax.tree.leaves(state.inner_state)
        assert len(inner) > 10 and not any(np.any(x) for x in inner)
    assert entered.params is used.params


@pytest.mark.parametrize('level, factor', [(5, 1.5), (4, 1.0)])
def test_a_launch_keeps_the_optimisers_and_takes_the_rates_of_its_settings(level, factor):
    settings = config(img_resolution=128, channel_base=64, channel_max=2, stage_kimg=(1.0,) * 5)
    shapes = jax.eval_shape(functools.partial(create_state, pggan.build(settings)), 0)
    used = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    gan = pggan.build(dataclasses.replace(settings, optim=OptimConfig(g_lr=0.0001, d_lr=0.0002)))
    launched = gan.enter(used, None, Stage(4 * 2**level, level=level))
    for net, rate in (('g', 0.0001), ('d', 0.0002)):
        assert float(launched.opt[net].hyperparams['lr']) == pytest.approx(rate * factor)
        for was, now in zip(*(jax.tree.leaves(s.opt[net].inner_state) for s in (used, launched)), strict=True):
            np.testing.assert_array_equal(was, now)


def test_a_run_that_starts_from_another_has_grown():
    settings = config()
    tuned = dataclasses.replace(settings, train=dataclasses.replace(settings.train, init_from='runs/other'))
    gan = pggan.build(tuned)
    assert gan.stage_at(0, 0, 0) == Stage(16, level=2)
    state = jax.jit(functools.partial(create_state, gan), static_argnums=0)(0)
    batch = {'index': jnp.arange(4)}
    _, (fields, _) = gan.updates[1].loss(state.params['g'], state, batch, jax.random.key(0), gan.stage_at(0, 0, 0))
    assert float(fields['buffers']['g']['progress']) == 2


@pytest.fixture(scope='module')
def trained():
    """The states before and after a step of the third stage of four, and metrics; Adam begins as others left it."""
    gan = pggan.build(config(img_resolution=32, stage_kimg=(0.03, 0.04, 0.04)))
    mesh, stage = data_mesh(jax.devices()[:1]), Stage(16, level=2)
    state = jax.jit(functools.partial(create_state, gan), static_argnums=0)(0)
    state = state.replace(opt=jax.tree.map(jnp.ones_like, state.opt), nimg=jnp.int32(84))
    before = jax.device_get(gan.enter(state, Stage(8, level=1), stage))
    batch = {'image': np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)}
    step = compile_step(functools.partial(device_step, gan=gan, stage=stage, due=(0, 1), seed=0), 'jit', mesh)
    after, metrics = step(jax.tree.map(jnp.asarray, before), place_batch(batch, 'jit', mesh))
    return before, jax.device_get(after), {k: float(v) for k, v in metrics.items()}


@pytest.mark.slow
def test_a_step_moves_every_layer_of_its_stage_and_no_other(trained):
    before, after, metrics = trained
    assert metrics['finite'] == 1
    unused = {'torgb_layers_0', 'torgb_layers_3', 'conv_blocks_5', 'conv_blocks_6'}
    unused |= {'fromrgb_layers_0', 'fromrgb_layers_3', 'same_2', 'down_2'}
    assert len(before.params['g']) == 12 and len(before.params['d']) == 12
    for net in ('g', 'd'):
        for name, old in before.params[net].items():
            moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params[net][name], old)
            assert not any(jax.tree.leaves(moved)) if name in unused else all(jax.tree.leaves(moved)), name


@pytest.mark.slow
def test_the_fade_in_weight_follows_the_images_shown(trained):
    before, after, metrics = trained
    assert metrics['fade_in'] == pytest.approx((84 - 72) / 20)
    assert float(after.buffers['g']['progress']) == pytest.approx(1 + (84 - 72) / 20)
    mean = jax.tree.map(lambda e, p: 0.999 * e + 0.001 * p, before.ema, after.params['g'])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), after.ema, mean)


def test_labels_steer_the_generator_and_the_critic_tells_them():
    data = DataConfig(resolution=16, folder='photos', labels=True)
    run = Config('pggan', pggan.Config(**SMALL, c_dim=3, label_weight=0.5), data, train=TrainConfig(batch_size=4))
    gan, model = pggan.build(run), run.model
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    loaded = Model(run, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    one, two = (sample(loaded, [0], label=label) for label in (0, 2))
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_allclose(sample(loaded, [0, 0], label=[2, 0]), np.concatenate([two, one]), atol=1e-5)
    images, mix = jax.random.normal(jax.random.key(1), (2, 4, 4, 4, 3)), jnp.full((4, 1, 1, 1), 0.5)
    labels = jnp.eye(3)[jnp.array([0, 2, 1, 1])]
    loss = jax.jit(functools.partial(pggan.d_loss, model, level=0, fade=1.0))
    total, metrics = loss(params['d'], images[0], images[1], mix, labels=labels)
    plain, _ = loss(params['d'], images[0], images[1], mix)
    told = [pggan.Discriminator(model).apply({'params': params['d']}, x, 0, 1.0)[1] for x in images]
    entropy = [
        -np.mean(np.log(np.exp(t) / np.exp(t).sum(1, keepdims=True))[labels == 1]) for t in map(np.asarray, told)
    ]
    np.testing.assert_allclose(metrics['loss/labels'], 0.5 * sum(entropy), rtol=1e-5)
    np.testing.assert_allclose(total - plain, 0.5 * sum(entropy), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r'model.c_dim=3 with data.labels=False'):
        config(c_dim=3)


# Sampling -------------------------------------------------------------------------------------------------------------


def test_before_the_last_stage_samples_are_enlarged_ones():
    for progress, side in ((0.0, 4), (0.5, 2), (1.0, 2)):
        image = pictures(progress=progress)
        block = image.reshape(2, 16 // side, side, 16 // side, side, 3)
        assert np.ptp(block, axis=(2, 4)).max() < 1e-5
    assert np.ptp(pictures(progress=0.5).reshape(2, 4, 4, 4, 4, 3), axis=(2, 4)).max() > 1e-3
    assert np.ptp(pictures(progress=1.5).reshape(2, 8, 2, 8, 2, 3), axis=(2, 4)).max() > 1e-3


def test_without_padding_only_an_encoding_tells_positions_apart():
    def spread(*args):
        return np.ptp(pictures(*args, alike=True), axis=(1, 2)).max()

    assert spread('no-pad', 'none') < 1e-4
    for args in (('fused', 'none'), ('no-pad', 'csg'), ('no-pad', 'spe')):
        assert spread(*args) > 0.05, args


@pytest.mark.parametrize('upsampling, encoding', [('fused', 'csg'), ('no-pad', 'spe')])
def test_images_have_any_multiple_of_the_smallest_size(upsampling, encoding):
    assert pictures(upsampling, encoding, size=(8, 28)).shape == (2, 8, 28, 3)
    np.testing.assert_array_equal(pictures(upsampling, encoding, size=(16, 16)), pictures(upsampling, encoding))
    with pytest.raises(ValueError, match=r'size=\(16, 30\).*multiples of 4: \(16, 32\)'):
        pictures(upsampling, encoding, size=(16, 30))


def test_fused_resampling_is_nearest_resampling_around_a_convolution():
    x, kernel = jax.random.normal(jax.random.key(0), (1, 6, 6, 2)), jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    up = ops.conv_transpose2d(x, pggan.spread(kernel), stride=2, padding=1)
    np.testing.assert_allclose(up, ops.conv2d(ops.double(x), kernel[::-1, ::-1], padding=1), atol=1e-4)
    down = ops.conv2d(x, pggan.spread(kernel) / 4, stride=2, padding=1)
    np.testing.assert_allclose(down, ops.halve(ops.conv2d(x, kernel, padding=1)), atol=1e-4)


def test_norms_have_the_published_small_numbers():
    with np.load(FIXTURES / 'primitives.npz') as file:
        arrays = dict(file)
    tolerance = json.loads(str(arrays['meta']))['tolerance']
    x = nhwc(arrays['in/x'])
    for name, factor in (('pixel_norm', 1.0), ('pixel_norm_small', 1e-6)):
        assert_close(name, nchw(layers.pixel_norm(factor * x)), arrays[f'out/{name}'], tolerance)
    assert_close('mbstd', nchw(layers.minibatch_std(nhwc(arrays['in/xm']), 4)), arrays['out/mbstd1_g4'], tolerance)


def test_maps_of_zeros_have_a_finite_gradient():
    """A layer of which every unit is off must not end a run: the root in the norm has no derivative at 0."""
    model, params = generator()
    dead = jax.tree.map(jnp.zeros_like, params)
    z = jax.random.normal(jax.random.key(1), (2, 5))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(pggan.Generator(model).apply({'params': p}, z, 2.0))))(dead)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'img_resolution': 24}, 'img_resolution=24 must be a power of two'),
        ({'stage_kimg': (1.0,)}, r'stage_kimg=\(1.0,\) has 1 lengths.*needs 2'),
        ({'stage_kimg': (1.0, 0.0)}, 'must be positive'),
        ({'fade_kimg': 0.0}, 'must be positive'),
        ({'channel_base': 4}, 'channel_base=4 must be at least 8'),
        ({'channel_max': 6, 'encoding': 'spe'}, "encoding='spe' with 6 channels"),
        ({'upsampling': 'bilinear'}, "upsampling='bilinear'"),
        ({'gp_weight': -1.0}, 'gp_weight=-1.0 must be at least 0'),
        ({'ema_decay': 1.0}, r'ema_decay=1.0 must lie in \[0, 1\)'),
    ],
)
def test_bad_settings_are_named(changes, match):
    with pytest.raises(ConfigError, match=match):
        config(**changes)
