"""SinGAN: pyramid, networks, where position comes from, sampling sizes, errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import editing
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from pegan_jax.models import singan, singan_pyramid
from pegan_jax.sampling import Model, interpolate, sample
from pegan_jax.settings import UserError

SMALL = {'base_channels': 8, 'min_feat_channels': 8}
SIZES = ((40, 52), (52, 68), (68, 90))


def networks(model, sizes=SIZES, seed=0):
    """{'params', 'buffers'} of a generator with random weights."""
    params, stats = {}, {}
    for s in range(len(sizes)):
        x = jnp.zeros((1, 2 * model.margin + 1, 2 * model.margin + 1, model.in_channels(s)))
        variables = singan.g_block(model, s).init(jax.random.key(seed + s), x, False)
        # Weights that keep the size of their input, so that a change at the border does not fade away.
        params[f'block{s}'] = jax.tree.map(lambda w: 5 * w if w.ndim == 4 else w, variables['params'])
        stats[f'block{s}'] = variables['batch_stats']
    buffers = {
        'stats': stats,
        'amp': jnp.ones(len(sizes)),
        'noise': jax.random.normal(jax.random.key(seed + 90), model.noise_shape(0, sizes[0])),
        'reals': {f'scale{s}': jnp.zeros((*size, 3)) for s, size in enumerate(sizes)},
        'scale': jnp.int32(len(sizes) - 1),
    }
    return {'params': params, 'buffers': buffers}


def deviations(padding, encoding='none'):
    """For each scale, how far from the border images of constant noise differ from their centre."""
    model = singan.Config(padding=padding, encoding=encoding, rules='mmgen', **SMALL)
    net = networks(model)
    noises = [0.7 * jnp.ones((1, *model.noise_shape(s, size))) for s, size in enumerate(SIZES)]
    run = jax.jit(functools.partial(singan.generate, model, ratio=0.75))
    images, _ = run(net['params'], net['buffers'], noises)
    found = []
    for image in images:
        h, w = image.shape[1:3]
        off = np.max(np.abs(image - image[:, h // 2 : h // 2 + 1, w // 2 : w // 2 + 1]), axis=(0, 3)) > 1e-5
        rows, columns = np.nonzero(off)
        border = np.minimum(np.minimum(rows, h - 1 - rows), np.minimum(columns, w - 1 - columns))
        found.append(int(border.max(initial=-1)) + 1)
    return found


def test_zero_padding_tells_position_near_the_border_only_and_more_at_each_scale():
    first, second, third = deviations('zero')
    assert first == 5 and 5 < second < third < 20


@pytest.mark.parametrize('padding', ['reflect', 'interp', 'interp-noise'])
def test_without_zeros_constant_noise_gives_a_constant_image(padding):
    assert deviations(padding) == [0, 0, 0]


def test_an_encoding_tells_position_everywhere():
    assert deviations('interp', 'csg')[0] >= 18


def test_sinusoids_keep_the_left_part_of_a_wider_image():
    model = singan.Config(padding='zero-layer', encoding='spe', rules='mmgen', **SMALL)
    net = networks(model, sizes=((12, 15),))
    wide = jax.random.normal(jax.random.key(1), (1, 12, 30, 8))
    images = [
        singan.generate(model, net['params'], net['buffers'], [z], ratio=0.75)[0][0] for z in (wide[:, :, :15], wide)
    ]
    np.testing.assert_array_equal(images[0][:, :, :10], images[1][:, :, :10])
    assert np.all(np.max(np.abs(images[0] - images[1][:, :, :15]), axis=(0, 1, 3))[10:] > 0)


def test_the_cartesian_grid_stretches_a_wider_image():
    model = singan.Config(padding='interp', encoding='csg', rules='mmgen', **SMALL)
    net = networks(model, sizes=((24, 30),))
    narrow, wide = (
        singan.generate(
            model, net['params'], net['buffers'], [jnp.zeros((1, *model.noise_shape(0, (24, w))))], ratio=0.75
        )[0][0]
        for w in (30, 60)
    )
    stretched = jax.image.resize(narrow, wide.shape, 'linear')
    assert np.max(np.abs(stretched - wide)[:, 4:-4, 10:-10]) < 0.1 * np.ptp(np.asarray(wide))


@pytest.mark.parametrize('d_norm, wanted', [(True, (1_927_713, 1_913_867)), (False, (1_927_713, 1_910_795))])
def test_parameters_are_as_many_as_published(d_norm, wanted):
    model = singan.Config(d_norm=d_norm)
    x = jax.ShapeDtypeStruct((1, 11, 11, 3), jnp.float32)

    def count(block):
        shapes = [
            jax.eval_shape(lambda x, s=s: block(model, s).init(jax.random.key(0), x, False), x)['params']
            for s in range(11)
        ]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert (count(singan.g_block), count(singan.d_block)) == wanted


@pytest.mark.parametrize('rules, spread, limit', [('original', 0.02, 288**-0.5), ('mmgen', 0, 0)])
def test_initial_values_are_those_of_the_rules(rules, spread, limit):
    block = singan.g_block(singan.Config(rules=rules), 0)
    params = block.init(jax.random.key(0), jnp.zeros((1, 11, 11, 3)), True)['params']
    scales = np.stack([params[name]['bn']['scale'] for name in ('head', 'body1', 'body2', 'body3')])
    assert abs(scales.mean() - 1) <= spread / 4 and 0.7 * spread <= scales.std() <= 1.3 * spread
    bias = np.abs(params['tail']['conv']['bias'])
    assert bias.max() <= limit and (bias.min() > 0) == (limit > 0)


def test_critics_that_see_nothing_and_noise_that_is_never_measured_are_refused():
    with pytest.raises(ConfigError, match=r'model\.min_size=10 leaves the critic, which sees 11 pixels at once'):
        singan.Config(min_size=10)
    assert singan.Config(min_size=11, iters_per_scale=1).min_size == 11
    with pytest.raises(ConfigError, match=r'model\.iters_per_scale=1 must be at least 2'):
        singan.Config(rules='mmgen', iters_per_scale=1)


def test_images_without_a_second_scale_are_refused():
    with pytest.raises(ConfigError, match=r'20 x 90 pixels.*model.min_size=25'):
        singan_pyramid.pyramid_sizes(20, 90, singan.Config())
    with pytest.raises(ConfigError, match='no second scale'):
        singan_pyramid.pyramid_sizes(33, 81, singan.Config(max_size=60))
    for rules in ('original', 'mmgen'):  # a photograph so wide that, shrunk, it is less high than min_size
        with pytest.raises(ConfigError, match=r'model.max_size=250, has a shorter side of 20, .* model.min_size=25'):
            singan_pyramid.pyramid_sizes(80, 1000, singan.Config(rules=rules))


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'kernel_size': 4}, 'kernel_size=4 must be odd'),
        ({'kernel_size': 1}, 'kernel_size=1 must be odd and at least 3'),
        ({'num_layers': 2}, 'num_layers=2 must be at least 3'),
        ({'scale_factor': 1.0}, 'scale_factor=1.0 must lie'),
        ({'encoding': 'spe', 'spe_dim': 3}, 'spe_dim=3 must be even'),
        ({'encoding': 'spe', 'spe_dim': 2}, 'spe_dim=2 must be even, and at least 4'),
        ({'encoding': 'spe', 'first_noise_channels': 3}, 'first_noise_channels=3; use 1 or 8'),
        ({'noise_channels': 2}, 'noise_channels=2; use model.img_channels=3, or 1'),
        ({'noise_channels': 3, 'img_channels': 1}, 'noise_channels=3; use model.img_channels=1, or 1'),
        ({'padding': 'wrap'}, "padding='wrap'"),
        ({'sr_factor': 1.0}, 'sr_factor=1.0 must be at least 1.13'),
        ({'sr_factor': 1.12}, 'sr_factor=1.12 must be at least 1.13'),
        ({'min_size': 300}, 'max_size=250 is below'),
    ],
)
def test_bad_settings_are_named(changes, match):
    with pytest.raises(ConfigError, match=match):
        singan.Config(**changes)


def config(**train):
    return Config(
        'singan',
        singan.Config(**SMALL),
        DataConfig(image='a.png'),
        OptimConfig(),
        TrainConfig(**({'batch_size': 1, 'keep_best': 0} | train)),
    )


def test_settings_around_the_model_are_checked():
    config()
    with pytest.raises(ConfigError, match='keep_best=1'):
        config(keep_best=1)
    with pytest.raises(ConfigError, match=r'data.image=photo.jpg'):
        Config('singan', singan.Config(), DataConfig(), OptimConfig(), TrainConfig(batch_size=1, keep_best=0))


def test_the_rate_falls_to_a_tenth_once():
    model = singan.Config(lr_decay_iter=2)
    optimizer = singan.adam(model, 1e-3, 3, 0.5, 0.999, 1e-8)
    params = jnp.zeros(())
    state, steps = optimizer.init(params), []
    for _ in range(9):
        delta, state = optimizer.update(jnp.ones(()), state)
        steps.append(float(delta))
    np.testing.assert_allclose(steps, [-1e-3] * 6 + [-1e-4] * 3, rtol=1e-4)


def test_scales_that_were_not_trained_yet_only_enlarge():
    model = singan.Config(rules='mmgen', **SMALL)
    net = networks(model)
    z = singan.draw([3])
    run = jax.jit(functools.partial(singan.synthesise, model))
    whole = run(net, z)
    first = run({**net, 'buffers': {**net['buffers'], 'scale': jnp.int32(0)}}, z)
    noises = singan.draw_noises(model, jax.random.wrap_key_data(z, impl='threefry2x32'), SIZES[:1])
    images, _ = singan.generate(model, net['params'], net['buffers'], noises, ratio=0.75)
    enlarged = images[0]
    for size in SIZES[1:]:
        enlarged = singan.ops.resize_bicubic_align_corners(enlarged, size)
    np.testing.assert_allclose(first, enlarged, atol=1e-5)
    assert np.max(np.abs(whole - first)) > 0.01


def test_what_enters_an_unfinished_run_is_only_enlarged_by_scales_that_were_not_trained():
    settings = dataclasses.replace(config(), model=singan.Config(rules='mmgen', sr_factor=2.0, **SMALL))
    net, entering = networks(settings.model), jax.random.uniform(jax.random.key(1), (*SIZES[2], 3), minval=-1)

    def unfinished(scale):
        buffers = {**net['buffers'], 'scale': jnp.int32(scale)}
        return Model(settings, None, {**net, 'buffers': buffers}, 0)

    below = singan_pyramid.resize_quantised(entering[None], size=SIZES[0])
    for size in SIZES[1:]:
        below = singan.ops.resize_bicubic_align_corners(below, size)
    np.testing.assert_allclose(editing.inject(unfinished(0), entering, 1), below[0], atol=1e-5)
    assert np.abs(editing.inject(unfinished(2), entering, 1) - below[0]).max() > 0.01
    with pytest.raises(UserError, match=r'scales 0 to 1 of 0 to 2, .* train it to the end first, by the same'):
        editing.super_resolve(unfinished(1))


def test_a_seed_gives_the_same_image_whatever_generator_of_random_numbers_is_the_default():
    model = singan.Config(**SMALL)
    net, latent = networks(model), singan.draw([3])
    np.testing.assert_array_equal(latent, np.random.RandomState(3).randn(1, 2).astype(np.float32).view(np.uint32))
    first = jax.jit(functools.partial(singan.synthesise, model))(net, latent)
    with jax.default_prng_impl('rbg'):
        again = jax.jit(functools.partial(singan.synthesise, model))(net, latent)
    np.testing.assert_array_equal(first, again)


def test_samples_have_any_size_and_depend_on_their_seed_alone():
    model = singan.Config(**SMALL)
    net = networks(model)
    z = singan.draw([0, 1])
    wide = jax.jit(functools.partial(singan.synthesise, model, size=(34, 100)))
    both = wide(net, z)
    assert both.shape == (2, 34, 100, 3)
    np.testing.assert_allclose(wide(net, z[1:])[0], both[1], atol=1e-5)
    assert np.max(np.abs(both[0] - both[1])) > 0.01
    for options, match in (
        ({'size': (0, 90)}, 'coarsest scale'),
        ({'start_scale': 3}, 'start_scale=3; the model has scales 0 to 2'),
        ({'start_scale': 1, 'size': (68, 91)}, 'needs the size of the image'),
    ):
        with pytest.raises(ValueError, match=match):
            singan.synthesise(model, net, z, **options)


def test_there_is_nothing_between_two_seeds():
    config = Config('singan', singan.Config(**SMALL), DataConfig(image='photo.png'), train=TrainConfig(keep_best=0))
    model = Model(config, singan.build(config), networks(config.model), 0)
    with pytest.raises(ValueError, match='singan has nothing between two seeds'):
        interpolate(model, 0, 1, 3)
    np.testing.assert_allclose(sample(model, [1]), model.synthesise(singan.draw([0, 1]))[1:], atol=1e-5)


def test_a_later_start_scale_leaves_less_to_chance():
    model = singan.Config(**SMALL)
    net = networks(model)
    z = singan.draw([0, 1])
    spread = []
    for start in range(3):
        images = jax.jit(functools.partial(singan.synthesise, model, start_scale=start))(net, z)
        spread.append(float(jnp.mean(jnp.abs(images[0] - images[1]))))
    assert spread[0] > spread[1] > spread[2] > 0


def test_masks_that_select_nothing_or_everything_are_refused():
    for mask in (np.zeros((5, 5)), np.ones((5, 5)), np.ones((5, 5, 3))):
        with pytest.raises(ValueError, match='the mask has shape'):
            editing.soft_mask(mask, 7)


def test_a_walk_stays_near_its_noise_and_is_smooth():
    z = jnp.zeros((2, 2, 1))
    steps = jax.random.normal(jax.random.key(0), (200, 2, 2, 1))
    path = editing.walk(z, jnp.ones_like(z), steps, alpha=0.1, beta=0.9)
    free = editing.walk(z, jnp.ones_like(z), steps, alpha=0.1, beta=0.0)
    assert np.std(path) < 2 and np.max(np.abs(path)) < 4
    lag = [np.corrcoef(p[1:].ravel(), p[:-1].ravel())[0, 1] for p in (np.asarray(path), np.asarray(free))]
    assert lag[0] > 0.9 and lag[0] > lag[1] + 0.02


def test_animations_have_a_known_suffix(tmp_path):
    frames = np.zeros((2, 4, 4, 3), np.float32)
    frames[1] = 1
    editing.save_animation(frames, tmp_path / 'a.gif')
    from PIL import Image

    with Image.open(tmp_path / 'a.gif') as gif:
        assert gif.n_frames == 2 and gif.info['duration'] == 100
    with pytest.raises(ValueError, match=r"'\.avi'; use \.gif or \.mp4"):
        editing.save_animation(frames, tmp_path / 'a.avi')
