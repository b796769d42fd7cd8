"""MS-PIE beyond what golden numbers show: sizes, scales, what padding does, losses, configurations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import ops, optim
from pegan_jax.config import Config, ConfigError, DataConfig, TrainConfig, load_config
from pegan_jax.gan import images_of
from pegan_jax.models import mspie
from pegan_jax.sampling import Model
from pegan_jax.sampling import sample as pictures
from pegan_jax.train.state import create_state
from pegan_jax.train.step import all_programs

TINY = mspie.Config(
    img_resolution=8,
    z_dim=6,
    mapping_layers=1,
    channels=(8, 6),
    d_channels=(6, 4),
    d_pool=2,
    head='spe',
    upsampling='conv-resize',
    scales=(0, 2),
    r1_interval=4,
    pl_interval=2,
    r1_gamma=3.0,
)


def run_config(model=TINY, resolution=12, **train):
    return Config('mspie', model, DataConfig(resolution=resolution), train=TrainConfig(**{'batch_size': 4} | train))


def synthesis(**fields):
    return mspie.Synthesis(channels=(8, 6, 4, 4), **fields)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'upsampling, padding',
    [('deconv', True), ('conv-resize', True), ('resize-conv', True), ('conv-resize', False), ('resize-conv', False)],
)
@pytest.mark.parametrize('scale', [0, -1, (1, 4)])
def test_images_and_noise_have_the_sizes_of_the_scale(upsampling, padding, scale):
    rows, columns = np.broadcast_to(scale, 2).tolist()
    module = synthesis(head='csg', upsampling=upsampling, padding=padding)
    sides = [(4 + rows, 4 + columns)]
    for level in range(1, 4):
        height, width = (side << level for side in sides[0])
        more = 0 if padding else 2  # noise is added before the second convolution takes its border
        sides += [(height + more, width + more), (height, width)]
    noise = tuple(jnp.zeros((1, *size)) for size in sides)
    ws = jnp.zeros((2, 8, 5))
    run = functools.partial(
        jax.eval_shape, lambda noise: module.init_with_output(jax.random.key(0), ws, scale, noise)[0]
    )
    assert run(noise).shape == (2, (4 + rows) * 8, (4 + columns) * 8, 3)
    model = mspie.Config(img_resolution=32, head='csg', upsampling=upsampling, padding=padding)
    assert mspie.output_size(model, scale) == ((4 + rows) * 8, (4 + columns) * 8)
    with pytest.raises((TypeError, ValueError)):
        run((noise[0], jnp.zeros((1, 5, 2)), *noise[2:]))


def test_sides_that_are_no_power_of_two_begin_with_larger_maps():
    model = dataclasses.replace(TINY, img_resolution=(12, 10), d_pool=2)
    assert mspie.base_size(model) == (6, 5) and mspie.output_size(model, (1, 0)) == (14, 10)
    variables = jax.eval_shape(mspie.generator(model).init, jax.random.key(0), jnp.zeros((1, 6)))
    images = jax.eval_shape(functools.partial(mspie.synthesise, model, scale=(1, 0)), variables, jnp.zeros((2, 4, 6)))
    assert images.shape == (2, 14, 10, 3)


def test_a_size_becomes_a_scale_and_other_sizes_are_refused():
    model = load_config('mspie:f').model
    assert mspie.view(model, None, None) == {}
    assert mspie.view(model, (256, 256), None) == {'scale': (0, 0)}
    assert mspie.view(model, (512, 960), None) == {'scale': (4, 11)}
    assert mspie.view(model, (64, 128), None) == {'scale': (-3, -2)}
    with pytest.raises(ValueError, match='multiples of 64 with this model, such as 256 x 320'):
        mspie.view(model, (260, 310), None)
    with pytest.raises(ValueError, match='moves nothing'):
        mspie.view(model, None, jnp.eye(3))


# The input ------------------------------------------------------------------------------------------------------------


def test_a_larger_grid_is_the_smaller_one_stretched_and_larger_sinusoids_begin_with_the_smaller_ones():
    for padding, side in ((True, 4), (False, 6)):
        grid, longer, resized = (
            functools.partial(synthesis(head=head, interpolate_head=interpolate, padding=padding).input_at, const=None)
            for head, interpolate in (('csg', False), ('spe', False), ('spe', True))
        )
        larger = (side + 1, side + 3)
        assert grid(0).shape == (side, side, 2) and grid((1, 3)).shape == (*larger, 2)
        np.testing.assert_allclose(grid((1, 3)), ops.resize_align_corners(grid(0), larger), atol=1e-6)
        np.testing.assert_allclose(longer((1, 3))[:side, :side], longer(0), atol=1e-6)
        assert np.abs(longer((1, 3)) - ops.resize_align_corners(longer(0), larger)).max() > 0.1
        np.testing.assert_allclose(resized((1, 3)), ops.resize_align_corners(longer(0), larger), atol=1e-6)
        # Every position differs from all others.
        codes = np.asarray(longer(3)).reshape(-1, 8)
        assert np.min(np.linalg.norm(codes[:, None] - codes[None], axis=-1) + 9 * np.eye(len(codes))) > 0.1


@pytest.mark.parametrize(
    'upsampling, padding', [('resize-conv', False), ('conv-resize', False), ('conv-resize', True), ('deconv', True)]
)
def test_only_without_padding_an_input_without_positions_gives_maps_without_positions(upsampling, padding):
    module = synthesis(upsampling=upsampling, padding=padding)
    ws = jax.random.normal(jax.random.key(1), (1, 8, 5))

    @jax.jit
    def run(key):
        params = module.init(key, ws)
        side = 4 if padding else 6
        same = jax.random.normal(key, (1, 1, 8))
        params['params']['const'] = jnp.broadcast_to(same, (side, side, 8))
        return module.apply(params, ws, noise='none', capture_intermediates=lambda m, _: isinstance(m, mspie.StyleConv))

    rgb, state = run(jax.random.key(0))
    maps = {name: np.asarray(found['__call__'][0]) for name, found in state['intermediates'].items()}
    assert maps.keys() == {'conv1', *(f'convs_{i}' for i in range(6))}
    for name, x in maps.items():
        middle = x[:, x.shape[1] // 2 : x.shape[1] // 2 + 1, x.shape[2] // 2 : x.shape[2] // 2 + 1]
        off = np.abs(x - middle).max(axis=(0, 3)) / np.abs(x).max()
        assert off.max() > 0.05 if padding else off.max() < 1e-5
        if name == 'conv1' and padding:
            assert off[1:-1, 1:-1].max() < 1e-5  # one convolution tells of the border only there
    # The colours are enlarged with zero padding in any case: 3 times, so 2^3 - 1 pixels on each side deviate.
    off = np.abs(rgb - rgb[:, 16:17, 16:17]).max(axis=(0, 3))
    if not padding:
        assert off[7:-7, 7:-7].max() < 1e-5 * np.abs(rgb).max()
        assert off[6, 16] > 1e-4 * np.abs(rgb).max() and off[16, -7] > 1e-4 * np.abs(rgb).max()


def test_the_weight_that_is_demodulated_is_scaled_before():
    """It shows only where styles are so small that the constant under the root matters."""
    layer, rng = mspie.StyleConv(3, 0), np.random.default_rng(0)
    x, w = rng.normal(size=(1, 4, 4, 2)).astype(np.float32), np.ones((1, 5), np.float32)
    params = layer.init(jax.random.key(0), x, w, 'none')['params']
    params['affine'] = {'kernel': jnp.zeros((5, 2)), 'bias': jnp.array([1e-4, 2e-4])}
    weight = np.asarray(params['weight']) / np.sqrt(18) * np.array([1e-4, 2e-4])[:, None]
    weight = weight / np.sqrt(np.sum(weight**2, axis=(0, 1, 2)) + 1e-8)
    y = np.asarray(ops.conv2d(x, jnp.asarray(weight, jnp.float32), padding=1))
    want = np.where(y > 0, y, 0.2 * y) * np.sqrt(2)
    got = layer.apply({'params': params, 'buffers': {'noise_const': jnp.zeros((4, 4))}}, x, w, 'none')
    np.testing.assert_allclose(got, want, atol=1e-6)


# Sampling -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def variables():
    params, buffers, _ = jax.jit(mspie.build(run_config()).init)(jax.random.key(0))
    # Noise has no effect before training.
    strengthen = lambda path, x: x + 0.5 if path[-1].key == 'noise_strength' else x  # noqa: E731
    return {'params': jax.tree_util.tree_map_with_path(strengthen, params['g']), 'buffers': buffers['g']}


@functools.partial(jax.jit, static_argnames='scale')
def sample(variables, z, keys, scale):
    run = functools.partial(images_of, mspie.build(run_config()), variables, z, scale=scale)
    return run(), run(noise=keys), run(noise='none')


def test_noise_is_constant_random_per_image_or_none_at_every_scale(variables):
    z, keys = jnp.repeat(jax.random.normal(jax.random.key(1), (1, 6)), 2, axis=0), jax.random.split(jax.random.key(2))
    for scale in (0, (2, 1)):
        const, random, none = sample(variables, z, keys, scale)
        np.testing.assert_allclose(const[0], const[1], atol=1e-6)
        np.testing.assert_allclose(none[0], none[1], atol=1e-6)
        for a, b in ((random[0], random[1]), (random[0], const[0]), (const[0], none[0])):
            assert np.abs(a - b).max() > 1e-2
    # Stored numbers are used where they fit.
    change = lambda path, x: x + 1 if path[-1].key == 'noise_const' else x  # noqa: E731
    moved = variables | {'buffers': jax.tree_util.tree_map_with_path(change, variables['buffers'])}
    assert np.abs(sample(moved, z, keys, 0)[0] - sample(variables, z, keys, 0)[0]).max() > 1e-2
    np.testing.assert_array_equal(sample(moved, z, keys, (2, 1))[0], sample(variables, z, keys, (2, 1))[0])


def test_truncation_ends_at_the_mean_of_the_styles(variables):
    config = run_config()
    model = Model(config, mspie.build(config), variables, 0)
    collapsed, plain = (pictures(model, [0, 1], truncation_psi=psi, noise_mode='none') for psi in (0.0, 1.0))
    assert np.abs(plain[0] - plain[1]).max() > 1e-2
    np.testing.assert_allclose(collapsed[0], collapsed[1], atol=1e-6)
    z = np.random.default_rng(0).normal(size=(20_000, 6)).astype(np.float32)
    np.testing.assert_allclose(model.w_avg, np.mean(mspie.map_latents(TINY, variables, z), axis=0), atol=0.05)
    ws = np.broadcast_to(model.w_avg, (1, 4, 6))
    run = jax.jit(lambda ws: mspie.generator(TINY).apply(variables, ws, 2, 'none', method='synthesise'))
    np.testing.assert_allclose(collapsed[:1], run(ws), atol=1e-5)
    assert collapsed.shape == (2, 12, 12, 3)  # by default the largest size that was trained
    with pytest.raises(ValueError, match='the smallest is -3'):
        model.synthesise(model.w_avg[None], scale=-4)


# Training -------------------------------------------------------------------------------------------------------------


def test_scales_are_drawn_alike_everywhere_uniformly_unless_probabilities_are_given():
    released = load_config('mspie:f')
    gan = mspie.build(released)
    levels = [gan.stage_at(step, 0, 7).level for step in range(3000)]
    assert levels == [mspie.build(released).stage_at(step, 99, 7).level for step in range(3000)]
    assert levels != [gan.stage_at(step, 0, 8).level for step in range(3000)]
    count = np.array([levels.count(s) for s in (0, 2, 4)]) / 3000
    np.testing.assert_allclose(count, 1 / 3, atol=0.04)
    intended = mspie.build(load_config('mspie:f,intended-probs'))
    levels = [intended.stage_at(step, 0, 7).level for step in range(3000)]
    np.testing.assert_allclose([levels.count(s) / 3000 for s in (0, 2, 4)], [0.5, 0.25, 0.25], atol=0.04)


def test_stages_tell_the_size_and_the_due_terms_and_all_of_them_are_listed():
    gan = mspie.build(load_config('mspie:f'))
    stages = [gan.stage_at(step, 0, 0) for step in range(400)]
    assert {stage.size for stage in stages} == {(256, 256), (384, 384), (512, 512)}
    for step, stage in enumerate(stages):
        assert stage.flags == (('r1',) if step % 16 == 0 else ()) + (('path',) if step % 4 == 0 else ())
        assert stage.size[0] == (4 + stage.level) * 64
    assert set(gan.stages()) == set(stages) and len(gan.stages()) == 9
    assert all_programs(gan) == tuple((stage, (0, 1)) for stage in gan.stages())
    never = dataclasses.replace(TINY, scale_probs=(1.0, 0.0), r1_gamma=0.0, pl_weight=0.0)
    (only,) = mspie.build(run_config(never)).stages()
    assert (only.level, only.flags) == (0, ())


@pytest.mark.slow
def test_lazy_terms_join_the_step_of_the_main_ones_and_path_lengths_are_those_of_scale_0():
    gan = mspie.build(run_config())
    assert [update.net for update in gan.updates] == ['d', 'g'] and {u.interval for u in gan.updates} == {1}
    state = jax.jit(lambda: create_state(gan, 0))()
    state = state.replace(stats={'pl_mean': jnp.float32(0.3)})
    stages = {(stage.level, stage.flags): stage for stage in gan.stages()}
    assert len(stages) == 6

    def losses(level, flags):
        stage = stages[level, flags]
        key = jax.random.key(3)
        image = jax.random.normal(key, (4, *stage.size, 3))
        batch = {'image': image, 'index': jnp.arange(4)}
        return jax.jit(lambda s: [u.loss(s.params[u.net], s, batch, key, stage) for u in gan.updates])(state)

    (d, (_, d_terms)), (g, (g_fields, g_terms)) = losses(0, ('r1', 'path'))
    (d_main, (_, terms)), (g_main, (fields, _)) = losses(0, ())
    assert 'loss/r1' not in terms and fields == {}
    assert float(d_terms['loss/r1']) > 0 and float(g_terms['loss/pl']) > 0
    np.testing.assert_allclose(d - d_main, 4 * 3.0 / 2 * d_terms['loss/r1'], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(g - g_main, 2 * 2.0 * g_terms['loss/pl'], rtol=1e-3, atol=1e-5)
    mean = float(g_fields['stats']['pl_mean'])
    assert 0 < abs(mean - 0.3) < 0.3
    _, (larger, (fields, terms)) = losses(2, ('path',))
    np.testing.assert_allclose((terms['loss/pl'], fields['stats']['pl_mean']), (g_terms['loss/pl'], mean), rtol=1e-5)
    assert abs(larger - g) > 1e-4  # the main loss is that of the larger images


def test_rates_and_the_running_mean_are_as_released():
    config = load_config('mspie:f')
    gan = mspie.build(config)
    assert gan.ema(0, 5) == pytest.approx(0.9977844, abs=1e-7)
    assert (config.train.total_steps, config.train.batch_size) == (1_100_002, 24)
    # The first step of Adam moves by its rate.
    for net, rate in (('g', 0.0016), ('d', 0.002 * 16 / 17)):
        update, state = gan.optimizers[net].update(jnp.float32(5), gan.optimizers[net].init(jnp.float32(0)))
        assert float(update) == pytest.approx(-rate, rel=1e-5)
    assert jax.tree.leaves(state)  # of Adam
    assert optim.adam(config.optim, 0.002, 4)


def test_the_pooled_discriminator_takes_all_sizes_with_one_set_of_weights():
    module = mspie.discriminator(TINY)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert variables['params']['fc']['kernel'].shape == (6 * 4, 6)
    for size in ((8, 8), (12, 12), (10, 14), (20, 8)):
        assert jax.eval_shape(module.apply, variables, jnp.zeros((4, *size, 3))).shape == (4,)
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    want = x.reshape(2, 2, 3, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(ops.adaptive_average_pool(x, (2, 2)), want, atol=1e-6)


def test_the_discriminator_keeps_real_and_generated_images_apart():
    module, x = mspie.discriminator(TINY), jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = module.init(jax.random.key(1), x)
    apart, mixed = (jnp.concatenate([module.apply(variables, part) for part in jnp.split(x, n)]) for n in (2, 1))
    np.testing.assert_allclose(module.apply(variables, x, 2), apart, atol=1e-5)
    assert np.abs(apart - mixed).max() > 1e-3


# Configurations -------------------------------------------------------------------------------------------------------


def test_arguments_combine():
    assert load_config('mspie').model == load_config('mspie:f').model
    assert load_config('mspie:e,expand').model == load_config('mspie:f').model
    study = load_config('mspie:sg2,no-pad,csg').model
    assert (study.upsampling, study.padding, study.head, study.scales) == ('resize-conv', False, 'csg', (0,))
    assert load_config('mspie:sg2,no-pad,conv-resize').model.upsampling == 'conv-resize'
    for row in ('a', 'c', 'k', 'f-1024', 'sg2,no-pad,spe'):
        assert load_config(f'mspie:{row},tiny').model.img_resolution == 16
    for arg, scales, largest in (('f', (0, 2, 4), 64), ('f-896', (0, 2, 4), 64), ('sg2', (0,), 32)):
        config = load_config(f'mspie:{arg},small')
        assert (config.model.scales, config.data.size) == (scales, (largest, largest))
    assert load_config('mspie:f,intended-probs,small').model.scale_probs == (0.5, 0.25, 0.25)
    for arg, match in (
        ('f,a', 'exclude each other'),
        ('f,csg,spe', 'exclude each other'),
        ('f,no-pad,deconv', 'transposed'),
        ('a,intended-probs', 'scale_probs'),
        ('nopad', "no argument 'nopad'; did you mean 'no-pad'"),
    ):
        with pytest.raises(ConfigError, match=match):
            load_config(f'mspie:{arg}')


@pytest.mark.parametrize(
    'fields, match',
    [
        ({'scales': ()}, 'different integers'),
        ({'scales': (0, 0)}, 'different integers'),
        ({'scales': (-1, 0)}, 'different integers'),
        ({'d_pool': None}, 'model.d_pool=2'),
        ({'d_pool': 0}, 'd_pool'),
        ({'scale_probs': (1.0,)}, '2 probabilities'),
        ({'scale_probs': (0.9, 0.2)}, 'sum to 1'),
        ({'channels': (8, 6, 4)}, '2 positive widths'),
        ({'d_channels': (8, 0)}, '2 positive widths'),
        ({'channels': (6, 6)}, 'a constant of 6 channels'),
        ({'img_resolution': 7}, 'at least 8'),
        ({'ema_beta': 1.0}, r'ema_beta=1.0 must lie in \[0, 1\)'),
        ({'upsampling': 'deconv', 'padding': False}, "upsampling='resize-conv'"),
    ],
)
def test_models_that_cannot_be_are_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(TINY, **fields)


def test_data_must_be_as_large_as_the_largest_scale_and_of_its_aspect():
    assert run_config(resolution=24).data.resolution == 24
    for resolution in (8, (24, 12)):
        with pytest.raises(ConfigError, match='as large as the largest'):
            run_config(resolution=resolution)
    assert math.prod(mspie.output_size(TINY, 2)) == 144
