"""StyleGAN3: schedule, sizes, transforms, precision, running means, configuration."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, filters
from pegan_jax.config import Config as RunConfig
from pegan_jax.config import ConfigError, DataConfig, from_json, load_config, to_json
from pegan_jax.gan import Stage, images_of
from pegan_jax.models import stylegan2, stylegan3, stylegan_training
from pegan_jax.models.stylegan3 import Config, Generator, canvas, layers, resampling, schedule

TINY = dict(r1_gamma=1.0, img_resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, num_layers=4)
TINY |= dict(d_channel_base=64, d_channel_max=8, d_mapping_layers=1)
R = dict(conv_kernel=1, use_radial_filters=True)


# Schedule -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('resolution', [16, 64, 128, 2048])
@pytest.mark.parametrize('num_layers', [4, 9, 14])
def test_the_schedule_is_the_published_one_at_powers_of_two(resolution, num_layers):
    model = Config(r1_gamma=1.0, img_resolution=resolution, num_layers=num_layers)
    for i, signal in enumerate(schedule(model)):
        e = min(i / (num_layers - 2), 1)
        cutoff = 2 * (resolution / 2 / 2) ** e
        stopband = 2**2.1 * (resolution / 2 * 2**0.3 / 2**2.1) ** e
        rate = 2 ** np.ceil(np.log2(min(2 * stopband, resolution)))
        np.testing.assert_allclose(signal[1:], (rate, cutoff, max(stopband, rate / 2) - cutoff), rtol=1e-12)
        assert signal.sampling_rate == rate
        assert signal.channels == (3 if i == num_layers else int(np.rint(min(16384 / cutoff, 512))))


@pytest.mark.parametrize('trained', [16, 80, (96, 160)])
@pytest.mark.parametrize('size', [(16, 16), (90, 90), (96, 160), (128, 72)])
def test_any_even_size_has_even_canvases_that_hold_the_image_and_the_margin(trained, size):
    model = Config(r1_gamma=1.0, img_resolution=trained)
    for i, signal in enumerate(schedule(model)):
        height, width = canvas(model, i, size)
        assert height % 2 == width % 2 == 0
        if i >= model.num_layers - 1:
            assert (height, width) == size
            continue
        pitch = model.resolution / signal.sampling_rate
        assert pitch in (1, 2, 4, 8)
        for samples, pixels in ((height, size[0]), (width, size[1])):
            assert 0 <= (samples - 2 * model.margin_size) * pitch - pixels < 2 * pitch


def test_paddings_keep_the_centre_for_every_size():
    """The middle of the output is where the middle of the input is, at the rate of the nonlinearity."""
    model = Config(r1_gamma=1.0, img_resolution=64)
    for layer in layers(model)[:-1]:
        plan = resampling(model, layer)
        delay = (len(plan.up_filter) - 1 + len(plan.down_filter) - 1) / 2
        for before, after in (((40, 30), (44, 52)), ((38, 64), (31, 64))):
            left, right, top, bottom = plan.padding(before, after)
            for n, m, first, last in ((before[1], after[1], left, right), (before[0], after[0], top, bottom)):
                assert (n - 1) * plan.up / 2 + first - delay == (m - 1) * plan.down / 2
                total = n * plan.up + first + last - 2 * delay
                assert (total + plan.down - 1) // plan.down == m


# Images ---------------------------------------------------------------------------------------------------------------


@functools.cache
def network(variant, **changes):
    """A generator whose layers keep the scale of their input, and its functions."""
    options = TINY | {'img_resolution': 32, 'num_layers': 3, 'channel_base': 128} | (R if variant == 'r' else {})
    model = Config(**(options | changes))
    module = Generator(model)
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 8)))
    ws = module.apply(variables, jax.random.normal(jax.random.key(2), (2, 8)), method='map')

    @functools.partial(jax.jit, static_argnums=1)
    def run(transform, size=None):
        return module.apply(variables, ws, transform, size, method='synthesise')

    return model, module, variables, ws, run


def inner(image, n):
    return np.asarray(image)[:, n:-n, n:-n]


def decibels(got, want):
    return 10 * np.log10(np.var(want) / np.mean((np.asarray(got) - want) ** 2))


@pytest.mark.parametrize('variant', ['t', 'r'])
def test_a_larger_canvas_shows_more_of_the_same_scene(variant):
    run = network(variant)[-1]
    square, wide = run(jnp.eye(3)), run(jnp.eye(3), (32, 48))
    assert wide.shape == (2, 32, 48, 3) and np.std(square) > 0.01
    # Beyond a canvas there is nothing: only what is near its border may differ.
    np.testing.assert_allclose(inner(wide[:, :, 8:40], 4), inner(square, 4), atol=2e-3 * float(np.std(square)))
    assert decibels(wide[:, :, 8:40], square) > 30
    # What comes in at the right is what a shift brings in.
    moved = run(coords.translate(-8 / 32, 0))
    np.testing.assert_allclose(inner(wide[:, :, 16:], 4), inner(moved, 4), atol=2e-3 * float(np.std(square)))
    np.testing.assert_array_equal(run(jnp.eye(3), (32, 32)), square)


@pytest.mark.parametrize('variant', ['t', 'r'])
def test_a_shift_by_whole_samples_of_all_layers_shifts_the_image(variant):
    *_, run = network(variant)
    assert {s.sampling_rate for s in schedule(network(variant)[0])} == {16, 32}
    square, moved = np.asarray(run(jnp.eye(3))), np.asarray(run(coords.translate(4 / 32, -2 / 32)))
    a, b = square[:, 6:-4, 4:-8], moved[:, 4:-6, 8:-4]
    np.testing.assert_allclose(b, a, atol=2e-3 * square.std())
    assert np.abs(moved - square).mean() > 0.1 * square.std()


def test_without_filters_a_fraction_of_a_sample_is_not_a_shift():
    """Half a sample of the first layers: the filters keep frequencies out that would not move along."""

    def error(**changes):
        *_, run = network('t', **changes)
        square, moved = run(jnp.eye(3)), run(coords.translate(1 / 32, 0))
        return decibels(moved[:, 6:-6, 7:-5], square[:, 6:-6, 6:-6])

    assert error() > error(filter_size=2) + 10


def test_a_quarter_turn_turns_the_image_of_r_and_not_of_t():
    turned = {}
    for variant in 'tr':
        *_, run = network(variant)
        square = np.asarray(run(jnp.eye(3)))
        got = run(coords.rotate(np.pi / 2))
        turned[variant] = decibels(got, np.rot90(square, axes=(1, 2)))
    assert turned['r'] > 80 and turned['t'] < 20


def test_every_image_may_have_its_own_transform():
    *_, run = network('t')
    matrices = [coords.rotate(0.3), coords.translate(0.2, 0.1)]
    both = run(jnp.stack(matrices))
    for i, matrix in enumerate(matrices):
        np.testing.assert_allclose(both[i], run(matrix)[i], atol=1e-5)
    with pytest.raises(ValueError, match=r'transform has shape \(3, 3, 3\); expected \[3, 3\], or \[2, 3, 3\]'):
        run(jnp.zeros((3, 3, 3)))


def test_the_transform_of_a_checkpoint_holds_until_another_is_given():
    _, module, variables, ws, run = network('t')
    matrix = coords.rotate(0.5)
    changed = jax.tree_util.tree_map_with_path(lambda p, x: matrix if p[-1].key == 'transform' else x, variables)
    synthesise = jax.jit(lambda variables: module.apply(variables, ws, method='synthesise'))
    np.testing.assert_allclose(synthesise(changed), run(matrix), atol=1e-5)
    np.testing.assert_allclose(synthesise(variables), run(jnp.eye(3)), atol=1e-5)
    assert np.abs(run(matrix) - run(jnp.eye(3))).max() > 1e-3


def test_half_precision_is_used_in_the_layers_of_the_highest_rates_only():
    model, module, variables, ws, run = network('t', num_fp16_res=1, dtype='bfloat16')
    jaxpr = str(jax.make_jaxpr(lambda ws: module.apply(variables, ws, method='synthesise'))(ws))
    results = [line.split('=')[0] for line in jaxpr.splitlines() if 'conv_general_dilated[' in line]
    low = [layer.low_precision for layer in layers(model)]
    assert [('bf16' in r) for r in results] == low and 1 < sum(low) < len(low)
    exact = network('t')[-1](jnp.eye(3))
    assert run(jnp.eye(3)).dtype == jnp.float32
    assert 20 < decibels(run(jnp.eye(3)), exact) < 60
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_running_means_move_only_when_asked_and_are_used_at_once():
    model, module, variables, ws, _ = network('t')

    @functools.partial(jax.jit, static_argnums=1)
    def apply(variables, update):
        return module.apply(variables, ws, None, None, update, method='synthesise', mutable=['buffers'])

    plain, after = apply(variables, False)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), after['buffers'], variables['buffers']))
    updated, after = apply(variables, True)
    again, _ = apply({'params': variables['params'], **after}, False)
    np.testing.assert_allclose(updated, again, atol=1e-6)
    assert not np.allclose(updated, plain, atol=1e-6)
    name = layers(model)[0].name
    block = stylegan3.SynthesisInput(schedule(model)[0])
    own = {kind: variables[kind]['synthesis']['input'] for kind in variables}
    x = jax.jit(block.apply, static_argnums=2)(own, ws[:, 0], canvas(model, 0, model.size))
    want = 0.999 + 0.001 * np.mean(np.square(x))
    np.testing.assert_allclose(after['buffers']['synthesis'][name]['magnitude_ema'], want, rtol=1e-6)


def test_pictures_of_a_run_show_the_classes_in_turn():
    config = Config(**(TINY | {'c_dim': 3, 'num_layers': 2, 'num_critical': 1}))
    gan = stylegan3.build(RunConfig('stylegan3', config, DataConfig(folder='images', resolution=16, labels=True)))
    z = jnp.ones((3, 8))
    variables = jax.jit(Generator(config).init)(jax.random.key(0), z, jnp.eye(3))
    w = jax.jit(gan.sampler.map)(variables, z, jnp.eye(3))
    by_turns = jax.jit(functools.partial(images_of, gan))(variables, z)
    one_each = jax.jit(gan.sampler.synthesise)(variables, jnp.repeat(w[:, None], 4, axis=1))
    np.testing.assert_allclose(by_turns, one_each, atol=1e-6)
    assert np.abs(by_turns[0] - by_turns[1]).max() > 1e-3 and gan.c_dim == 3


# Rows -----------------------------------------------------------------------------------------------------------------


def of(row):
    return load_config(f'stylegan3:{row}').model


def test_rows_change_what_the_table_says():
    """As the ablation trains them: batches, half-lives, R1, augmentation, rates; and what is new in each."""
    for row in 'abcdefghtr':
        config = load_config(f'stylegan3:{row}')
        model = config.model
        assert (config.system, config.train.batch_size) == ('stylegan2' if row in 'abc' else 'stylegan3', 64)
        ema_kimg = 64 * 10 / 32 if model.ema_kimg is None else model.ema_kimg
        assert (config.data.size, model.r1_gamma, model.augment, ema_kimg) == ((256, 256), 1, 'noaug', 20)
        assert (config.optim.g_lr, config.optim.d_lr) == (0.0025, 0.0025)
        deep = row in 'abc'
        assert (model.mapping_layers, model.mbstd_group_size) == ((8, 8) if deep else (2, 4))
        assert (model.channel_base, model.channel_max) == ((32768, 1024) if row == 'r' else (16384, 512))
        assert bool(model.pl_weight) == bool(model.style_mixing_prob) == (row in 'ab')
    assert load_config('stylegan3:a') == load_config('stylegan2:ffhqu256')
    assert [of(row).input for row in 'abc'] == ['const', 'fourier', 'fourier']
    assert [of(row).use_noise for row in 'abc'] == [True, True, False]
    assert load_config('stylegan3:t,ffhq') == load_config('stylegan3')


def test_rows_before_t_have_two_layers_at_each_rate():
    rates = [s.sampling_rate for s in schedule(of('f'))]
    assert rates == [rate for k in range(7) for rate in (4 * 2**k,) * 2] + [256]
    for row in 'defgh':
        assert [s.sampling_rate for s in schedule(of(row))] == rates
    names = [layer.name for layer in layers(of('d'))]
    assert names[:3] == ['L0_4_512', 'L1_4_512', 'L2_8_512'] and names[-2:] == ['L13_256_64', 'L14_256_3']
    assert [layer.name for layer in layers(of('e'))][:3] == ['L0_24_512', 'L1_24_512', 'L2_28_512']
    # Channels follow cutoffs from G on; these are the numbers of the paper's rule.
    assert [s.channels for s in schedule(of('g'))][8::2] == [437, 219, 64, 3]
    cutoffs = [s.cutoff for s in schedule(of('g'))]
    np.testing.assert_allclose(cutoffs[:12], np.array(rates[:12]) * (1 - 2**-0.5), rtol=1e-12)
    assert cutoffs[12:] == [128, 128, 128] and cutoffs == [s.cutoff for s in schedule(of('h'))]
    assert [s.cutoff for s in schedule(of('f'))] == [rate / 2 for rate in rates]
    assert layers(of('g'))[0].source.cutoff == 2 > cutoffs[0]


def test_attenuations_are_those_of_the_paper():
    """40 dB with 12 taps, 42 dB with the 24 of a doubling that is fused with the nonlinearity's."""
    model = of('f')
    found = {}
    for layer in layers(model)[:-1]:
        plan, source = resampling(model, layer), layer.source
        rate = source.sampling_rate * plan.up
        found[plan.up] = filters.attenuation(len(plan.up_filter), 2 * source.half_width, rate)
        assert len(plan.up_filter) == 6 * plan.up and len(plan.down_filter) == 12
    assert {up: round(decibel, 2) for up, decibel in found.items()} == {2: 40.66, 4: 42.14}
    early = [resampling(of('e'), layer) for layer in layers(of('e'))[:-1]]
    assert {len(plan.first_filter) for plan in early if plan.first == 2} == {12}
    assert {(plan.up, plan.down) for plan in early} == {(1, 1)}


def test_d_is_stylegan2_without_skips_whose_layers_divide_by_their_magnitude():
    """A layer of StyleGAN2 with its weights, its kernel turned over where it doubles, gives the same numbers."""
    model = dataclasses.replace(load_config('stylegan3:d,tiny').model, conv_clamp=None)
    layer = layers(model)[2]
    x, w = (jax.random.normal(jax.random.key(i), shape) for i, shape in ((0, (2, 4, 4, 16)), (1, (2, 16))))
    module = stylegan3.SynthesisLayer(model, layer)
    variables = jax.jit(module.init, static_argnums=3)(jax.random.key(2), x, w, (8, 8))
    params = {**variables['params'], 'bias': jax.random.normal(jax.random.key(3), (16,))}
    buffers = {**variables['buffers'], 'magnitude_ema': jnp.float32(4.0)}
    got = module.apply({'params': params, 'buffers': buffers}, x, w, (8, 8))
    twin = stylegan2.SynthesisLayer(16, up=2, use_noise=False)
    kernel = params['weight'][::-1, ::-1]
    fir = {'resample_filter': filters.setup_filter((1, 3, 3, 1))}
    want = twin.apply({'params': {**params, 'weight': kernel, 'bias': 2 * params['bias']}, 'buffers': fir}, x, w) / 2
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_no_row_before_h_turns_with_a_style_and_no_filter_is_radial_before_r():
    for row in 'defghtr':
        variables = jax.eval_shape(Generator(of(row)).init, jax.random.key(0), jnp.zeros((1, 512)))
        assert ('affine' in variables['params']['synthesis']['input']) == (row in 'htr')
        ranks = {
            f.ndim
            for plan in (resampling(of(row), layer) for layer in layers(of(row)))
            for f in plan[3:]
            if f is not None
        }
        assert ranks == ({1, 2} if row == 'r' else {1})


@pytest.mark.parametrize(
    'override_',
    [
        'filter_size=4', 'lrelu_upsampling=1', 'filter_kind=lanczos', 'filter_kind=gaussian', 'style_mixing_prob=0.5',
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in (
                'lrelu_upsampling=4', 'first_stopband=2.828', 'flexible_layers=False', 'learned_transform=False'
            )
        ),
    ],
)  # fmt: skip
def test_variations_of_the_appendix_are_overrides(override_):
    """They change the image, but for the two that only training sees; filters keep what does not vary."""
    number = 5 if override_.startswith('flex') else 0
    base = ['model.num_layers=6'] if number else []
    plain, varied = (load_config('stylegan3:r,tiny', [*base, *more]).model for more in ([], [f'model.{override_}']))
    images = []
    for model in (plain, varied):
        module = Generator(model)
        variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16)))
        variables = jax.tree_util.tree_map_with_path(
            lambda p, x: x + 0.3 if p[-2].key == 'affine' and p[-1].key == 'bias' else x, variables
        )
        images.append(jax.jit(module.apply)(variables, jnp.ones((1, 16))))
        for layer in layers(model):
            for f in resampling(model, layer)[3:]:
                assert f is None or f.sum() == pytest.approx(1, abs=1e-5)
    same = np.allclose(images[0], images[1], atol=1e-5)
    assert same == override_.startswith('style_mixing')


# Windows outside of the frame -----------------------------------------------------------------------------------------


def test_g_makes_the_windows_that_a_moved_scene_shows_and_d_sees_where_they_are(monkeypatch):
    model = Config(**(TINY | {'img_resolution': (16, 32), 'd_sees_coords': True}))
    data = DataConfig(resolution=(16, 32), outside=1.0)
    found = []
    monkeypatch.setattr(
        stylegan_training, 'score', lambda model, d, b, images, c: (found.append(images), images.sum((1, 2, 3)))[1]
    )
    gan = stylegan3.build(RunConfig(system='stylegan3', model=model, data=data))
    params, buffers, stats = jax.jit(gan.init)(jax.random.key(0))
    assert params['d']['b16']['fromrgb']['kernel'].shape[2] == 5
    offset = np.array([[0, 0], [32, -3], [-5, 16]], np.int32)
    moved = jnp.stack([coords.translate(-right / 16, -down / 16) for right, down in offset])

    @jax.jit
    def seen(offset):
        found.clear()
        state = SimpleNamespace(params=params, buffers=buffers, stats=stats, nimg=jnp.int32(0), step=jnp.int32(0))
        batch = {'image': jnp.ones((3, 16, 32, 3)), 'offset': offset, 'index': jnp.arange(3)}
        key, stage = jax.random.key(1), Stage((16, 32))
        for update in gan.updates[:2]:
            update.loss(params[update.net], state, batch, key, stage)
        z = stylegan_training.draw_latents(model, batch, key).z
        return found, images_of(gan, {'params': params['g'], 'buffers': buffers['g']}, z, transform=moved)

    (fake, real, _), want = seen(jnp.asarray(offset))  # the last one has magnitudes of its own
    np.testing.assert_allclose(fake[..., :3], want, atol=1e-4)
    np.testing.assert_array_equal(real[..., :3], 1)
    for i, (right, down) in enumerate(offset.tolist()):
        x, y = np.linspace(-1, 1, 32) + 2 * right / 31, np.linspace(-1, 1, 16) + 2 * down / 15
        for images in (fake, real):
            np.testing.assert_allclose(images[i, ..., 3:], np.stack(np.meshgrid(x, y), -1), atol=1e-5)


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'img_resolution': 17}, 'model.img_resolution=17'),
        ({'img_resolution': (40, 50)}, r'model.img_resolution=\(40, 50\)'),
        ({'num_critical': 4}, 'model.num_critical=4 must be less than model.num_layers=4'),
        ({'first_cutoff': 8.0}, 'model.first_cutoff=8.0 must be less than half'),
        ({'first_stopband': 2.0}, 'model.first_stopband=2.0 must exceed model.first_cutoff=2.0'),
        ({'first_cutoff': 3.9, 'first_stopband': 4.0}, None),
        ({'last_stopband_rel': 1.0}, 'model.last_stopband_rel=1.0 must exceed 1'),
        ({'margin_size': -1}, 'model.margin_size=-1 must be at least 0'),
        ({'magnitude_ema_beta': 1.0}, r'model.magnitude_ema_beta=1.0 must lie in \[0, 1\)'),
        ({'conv_clamp': 0.0}, 'model.conv_clamp=0.0 must be positive'),
        ({'output_scale': 0.0}, 'model.output_scale=0.0 must be positive'),
        ({'r1_gamma': None}, 'model.r1_gamma=None is a NoneType; expected float'),
        ({'channel_base': 4}, 'model.channel_base=4 leaves no channel'),
        ({'channel_base': 8}, 'model.channel_base=8 leaves no channel at a cutoff of 8; use at least 9'),
    ],
)
def test_configurations_that_cannot_run_are_refused(changes, message):
    if message is None:
        Config(**(TINY | changes))
        return
    with pytest.raises(ConfigError, match=message):
        Config(**(TINY | changes))


def test_published_configurations():
    t, r = load_config('stylegan3'), load_config('stylegan3:r,afhqv2')
    assert [layer.name for layer in layers(t.model)][-2:] == ['L13_1024_32', 'L14_1024_3']
    assert [layer.name for layer in layers(r.model)][:1] + [layers(r.model)[-2].name] == ['L0_36_1024', 'L13_512_128']
    assert (t.model.r1_gamma, r.model.r1_gamma, r.model.blur_init_sigma, t.model.blur_init_sigma) == (32.8, 16.4, 10, 0)
    assert (t.optim.g_lr, t.optim.d_lr, t.train.batch_size) == (0.0025, 0.002, 32)
    for words in ('t,r', 'ffhq,tiny', 'u', 'a,h'):
        with pytest.raises(ConfigError):
            load_config(f'stylegan3:{words}')
    assert from_json(to_json(r)) == r
    # The rule for images without a published value gives the published ones at 1024 and 512 pixels.
    assert [round(load_config(f'stylegan3:images{n}').model.r1_gamma, 1) for n in (1024, 512)] == [32.8, 8.2]


def test_the_blur_of_the_first_images_is_over_for_a_run_that_starts_from_another():
    config = load_config('stylegan3:r,tiny')
    tuned = load_config('stylegan3:r,tiny', ['train.init_from=runs/first'])
    assert stylegan3.build(config).stage_at(0, 0, 0).flags == ('blur',)
    forgotten = load_config('stylegan3:r,metfaces').model  # without init_from: all begins as in any other run
    assert (forgotten.blur_init_sigma, forgotten.ema_rampup) == (10.0, 0.05)
    assert stylegan3.build(tuned).stage_at(0, 0, 0).flags == ()
