import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, filters
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config
from pegan_jax.gan import Stage, images_of, sample_normal
from pegan_jax.models import cips, cips_generator, cips_views, stylegan2
from pegan_jax.ops import resize_align_corners
from pegan_jax.sampling import Model
from pegan_jax.train.state import create_state
from pegan_jax.train.step import compile_step, data_mesh, device_step, place_batch

TINY = cips.Config(
    img_resolution=8, hidden_size=6, z_dim=5, mapping_layers=2, lr_multiplier=1.0, channels=(7, 6), d_channels=(5, 6)
)


def run(model=TINY, **kwargs):
    return Config(system='cips', model=model, data=DataConfig(resolution=model.img_resolution), **kwargs)


@functools.cache
def initialised(**changes):
    """(model, gan, the fields of a training state that losses read), all parameters away from zero."""
    model = dataclasses.replace(TINY, **changes)
    gan = cips.build(run(model, train=TrainConfig(batch_size=4)))
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape), p.dtype), params)
    buffers = jax.tree.map(lambda b: filters.setup_filter((1, 3, 3, 1)), buffers)
    return model, gan, SimpleNamespace(params=params, buffers=buffers)


def counts(params):
    return {net: sum(p.size for p in jax.tree.leaves(tree)) for net, tree in params.items()}


def test_published_model_has_the_published_number_of_parameters():
    gan = cips.build(load_config('configs/cips.py'))
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    assert counts(params) == {'g': 44_317_092, 'd': 28_864_129}
    emb, mapping = params['g']['emb'], params['g']['mapping']
    assert (emb.size, counts({'m': mapping})['m']) == (33_554_432, 2_101_248)
    assert {b.shape for b in jax.tree.leaves(buffers)} == {(4, 4)}


def test_residual_model_and_baseline_have_the_published_number_of_parameters():
    residual = cips.build(load_config('configs/cips.py:landscapes256'))
    assert counts(jax.eval_shape(residual.init, jax.random.key(0))[0])['g'] == 43_027_858
    assert cips.Config(img_resolution=1024, wiring='residual').level_widths[-3:] == (128, 128, 64)
    baseline = stylegan2.Generator((512, 512, 512, 512, 512, 256, 128))
    shapes = jax.eval_shape(baseline.init, jax.random.key(0), jnp.zeros((1, 512)))
    assert counts(shapes)['params'] == 30_034_338


@pytest.mark.parametrize(
    'size, levels, d',
    [
        (256, (512, 512, 512, 512, 512, 256, 128), (128, 256, 512, 512, 512, 512, 512)),
        (8, (512, 512), (512, 512)),
        ((64, 96), (512,) * 5, (512,) * 5),
        (1024, (512, 512, 512, 512, 512, 256, 128, 64, 32), (32, 64, 128, 256, 512, 512, 512, 512, 512)),
    ],
)
def test_published_widths_by_resolution(size, levels, d):
    model = cips.Config(img_resolution=size)
    assert (model.level_widths, model.d_widths) == (levels, d)


def test_initial_values_have_the_published_distributions():
    model = dataclasses.replace(TINY, hidden_size=256, z_dim=32, lr_multiplier=0.01, channels=(64, 64))
    params = jax.jit(cips.Generator(model).init)(jax.random.key(0), jnp.zeros((1, 32)))['params']
    for leaf, limit in ((params['lff']['kernel'], np.sqrt(9 / 2)), (params['lff']['bias'], np.sqrt(1 / 2))):
        assert 0.95 * limit < np.abs(leaf).max() <= limit
        assert np.std(leaf) == pytest.approx(limit / np.sqrt(3), rel=0.1)
    assert np.std(params['emb']) == pytest.approx(1, rel=0.05)
    assert np.std(params['mapping']['fc0']['kernel']) == pytest.approx(100, rel=0.1)
    layer = params['linears_1']
    assert np.std(layer['weight']) == pytest.approx(1, rel=0.1)
    assert (layer['affine']['bias'] == 1).all()
    assert layer['noise_strength'] == 0
    assert (layer['bias'] == 0).all()


@pytest.mark.parametrize(
    'change, message',
    [
        ({'img_resolution': 100}, 'img_resolution=100.*sides must be at least 8'),
        ({'img_resolution': 2048, 'd_channels': None}, 'published up to 1024'),
        ({'hidden_size': 0}, 'hidden_size=0 must be at least 1'),
        ({'channels': ()}, 'channels=.. must hold'),
        ({'d_channels': (5, 6, 7)}, 'must hold 2 positive widths'),
        ({'activation': 'relu'}, "activation='relu'.*'lrelu' or 'sin'"),
        ({'train_lookup': 'nearest'}, "train_lookup='nearest'"),
        ({'lr_multiplier': 0.0}, 'lr_multiplier=0.0 must be positive'),
        ({'ema_decay': 1.0}, r'ema_decay=1.0 must lie in \[0, 1\)'),
        ({'ema_rampup': 0.05}, 'ema_rampup=0.05 needs model.ema_kimg'),
        ({'ema_kimg': 0.0}, 'ema_kimg=0.0 must be positive'),
        ({'dtype': 'float16'}, "dtype='float16'"),
        ({'wiring': 'dense'}, "wiring='dense'.*'skip' or 'residual' or 'plain'"),
        ({'fourier_features': False, 'coord_embedding': False}, 'nothing tells where'),
        ({'img_resolution': 16, 'patch_size': 6}, 'patch_size=6 must divide both sides'),
        ({'img_resolution': 16, 'patch_size': 4}, 'patch_size=4: the discriminator cannot take'),
        ({'num_scales': 2}, 'num_scales=2 needs model.patch_size'),
        ({'progressive_kimg': 0.0}, 'progressive_kimg=0.0 must be positive'),
        ({'panorama_width': 8, 'train_lookup': 'bilinear'}, 'panorama_width=8 must exceed the width of the images, 8'),
        ({'panorama_width': 24}, "panorama_width needs model.train_lookup='bilinear'"),
    ],
)
def test_impossible_models_are_refused_with_the_field_and_the_fix(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    'change, resolution, message',
    [
        ({}, 12, r'resolution=12 differs from model.img_resolution=8: .* 2, 4, 8'),
        ({}, 4, r'resolution=4 differs from model.img_resolution=8'),
        ({}, (8, 16), r'resolution=\(8, 16\) differs from model.img_resolution=8'),
        ({}, 16, r'resolution=16 differs from model.img_resolution=8: .* finer data, model.patch_size'),
        ({'rotate': True}, 10, 'resolution=10 has no corners left for model.rotate .* at least 11'),
        ({'rotate': True, 'progressive_kimg': 1.0}, 16, 'exclude each other'),
        ({'progressive_kimg': 1.0}, 8, 'progressive_kimg=1.0 needs data finer'),
        ({'patch_size': 8, 'num_scales': 3}, 16, 'num_scales=3: patches of 8 have 2'),
    ],
)
def test_data_of_a_resolution_that_the_model_cannot_train_on_are_refused(change, resolution, message):
    model = dataclasses.replace(TINY, **change)
    with pytest.raises(ConfigError, match=message):
        Config(system='cips', model=model, data=DataConfig(resolution=resolution))


def test_ema_decay_is_published_by_default_and_a_half_life_with_ramp_up_on_request():
    def decay(nimg, batch_size=32, **model):
        config = SimpleNamespace(model=dataclasses.replace(TINY, **model), train=TrainConfig(batch_size=batch_size))
        return cips.ema_decay(config, jnp.int32(nimg), 0)

    assert decay(0) == 0.5 ** (32 / 10_000)
    assert decay(0, ema_kimg=10.0) == pytest.approx(0.5 ** (32 / 10_000))
    assert decay(0, 320, ema_kimg=10.0) == pytest.approx(0.5 ** (320 / 10_000))
    ramp = {'ema_kimg': 10.0, 'ema_rampup': 0.05}
    assert decay(0, **ramp) == 0
    assert decay(20_000, **ramp) == pytest.approx(0.5 ** (32 / 1000))
    assert decay(10**6, **ramp) == pytest.approx(0.5 ** (32 / 10_000))


def adam_steps(optimizer, grads):
    """Updates of one scalar for a list of gradients."""
    state, out = optimizer.init(jnp.float32(0)), []
    for grad in grads:
        delta, state = optimizer.update(jnp.float32(grad), state)
        out.append(float(delta))
    return out


def test_optimizers_are_corrected_for_lazy_regularisation():
    def adam(lr, beta2, grads, eps=1e-8):
        v, out = 0.0, []
        for t, g in enumerate(grads, 1):
            v = beta2 * v + (1 - beta2) * g * g
            out.append(-lr * g / (np.sqrt(v / (1 - beta2**t)) + eps))
        return out

    grads, optimizers = [1.0, -0.1, 3.0], cips.optimizers(run(optim=OptimConfig()))
    np.testing.assert_allclose(adam_steps(optimizers['g'], grads), adam(0.0016, 0.99**0.8, grads), rtol=1e-4)
    d = adam(0.002 * 16 / 17, 0.99 ** (16 / 17), grads)
    np.testing.assert_allclose(adam_steps(optimizers['d'], grads), d, rtol=1e-4)
    plain = cips.optimizers(run(dataclasses.replace(TINY, r1_gamma=0.0, g_reg_interval=0)))
    for net in ('g', 'd'):
        np.testing.assert_allclose(adam_steps(plain[net], grads), adam(0.002, 0.99, grads), rtol=1e-4)


def test_updates_are_d_then_lazy_r1_then_g():
    def order(model):
        return [(u.net, u.interval) for u in cips.build(run(model)).updates]

    assert order(TINY) == [('d', 1), ('d', 16), ('g', 1)]
    assert order(dataclasses.replace(TINY, r1_gamma=0.0)) == [('d', 1), ('g', 1)]


def batch_of(size, rows, first=0):
    image = jax.random.normal(jax.random.key(9), (8, *size, 3))[first : first + rows]
    return {'image': image, 'index': first + jnp.arange(rows)}


@pytest.mark.parametrize('silenced', ['noise_strength', "['affine']['kernel']"])
def test_losses_draw_latents_and_noise_by_global_row(silenced):
    """Without noise only latents are left to tell rows apart; without styles only noise."""
    _, gan, state = initialised()
    g = jax.tree_util.tree_map_with_path(
        lambda path, p: p * (silenced not in jax.tree_util.keystr(path)), state.params['g']
    )
    key = jax.random.key(1)
    loss = jax.jit(lambda batch: gan.updates[2].loss(g, state, batch, key, Stage(8))[0])
    first, last = loss(batch_of((8, 8), 4)), loss(batch_of((8, 8), 4, first=4))
    assert abs(first - last) > 1e-4


def test_losses_use_d_params_for_d_and_g_params_for_g_and_return_no_state():
    _, gan, state = initialised()
    batch, key = batch_of((8, 8), 4), jax.random.key(1)
    for update in gan.updates:
        params = state.params[update.net]
        loss = functools.partial(update.loss, state=state, batch=batch, key=key, stage=Stage(8))
        (value, (fields, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        assert fields == {}
        assert np.isfinite(value)
        assert all(m.shape == () for m in metrics.values())
        dead = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads) if not (g != 0).any()]
        # Behind the minibatch standard deviation D is piecewise linear: biases there do not change its slope.
        assert dead == ([f"['b4']['{name}']['bias']" for name in ('conv', 'fc', 'out')] if update.interval > 1 else [])


def test_a_discriminator_that_sees_coordinates_is_regularised_with_respect_to_them_too():
    model, _, state = initialised(d_sees_coords=True)
    assert state.params['d']['b8']['fromrgb']['kernel'].shape == (1, 1, 5, 5)
    seen = cips.d_input(model, batch_of((8, 8), 4)['image'])
    np.testing.assert_allclose(seen[2, 0, :, 3], np.linspace(-1, 1, 8), atol=1e-6)
    np.testing.assert_allclose(seen[2, :, 0, 4], np.linspace(-1, 1, 8), atol=1e-6)
    d, buffers = state.params['d'], state.buffers['d']
    got = jax.jit(lambda x: cips.d_r1(model, d, buffers, x)[1]['loss/r1'])(seen[..., :3])
    slope = jax.jit(jax.grad(lambda x: jnp.sum(cips.score(model, d, buffers, x))))(seen)
    assert got == pytest.approx(float(jnp.mean(jnp.sum(slope**2, axis=(1, 2, 3)))), rel=1e-5)


def test_training_reads_the_embedding_raw_or_as_sampling_does():
    model, gan, state = initialised()
    g, z = state.params['g'], jax.random.normal(jax.random.key(2), (2, 5))
    sampled = jax.jit(functools.partial(images_of, gan))({'params': g}, z)
    raw = jax.jit(functools.partial(cips.generate, model))(g, z, None)
    bilinear = jax.jit(functools.partial(cips.generate, dataclasses.replace(model, train_lookup='bilinear')))(
        g, z, None
    )
    np.testing.assert_allclose(bilinear, sampled, atol=1e-5)
    assert np.abs(raw - sampled).max() > 0.01


def test_rectangular_models_train_and_sample():
    _, gan, state = initialised(img_resolution=(8, 16))
    stage = gan.stage_at(0, 0, 0)
    assert stage.size == (8, 16)
    key, batch = jax.random.key(1), batch_of(stage.size, 2)
    loss = jax.jit(lambda params: gan.updates[0].loss(params, state, batch, key, stage)[0])
    assert np.isfinite(loss(state.params['d']))
    images = jax.eval_shape(functools.partial(images_of, gan), {'params': state.params['g']}, jnp.ones((1, 5)))
    assert images.shape == (1, 8, 16, 3)


def test_bfloat16_images_stay_close_and_are_float32():
    model, gan, state = initialised()
    rough = cips.build(run(dataclasses.replace(model, dtype='bfloat16')))
    z, variables = jax.random.normal(jax.random.key(2), (2, 5)), {'params': state.params['g']}
    exact, got = (jax.jit(functools.partial(images_of, g))(variables, z) for g in (gan, rough))
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_bfloat16_training_has_finite_gradients_and_an_exact_penalty():
    model, gan, state = initialised()
    rough = cips.build(run(dataclasses.replace(model, dtype='bfloat16')))
    batch, key = batch_of((8, 8), 4), jax.random.key(1)
    for i, update in enumerate(gan.updates):
        params = state.params[update.net]
        values = [
            jax.jit(jax.value_and_grad(lambda p, u=u: u.loss(p, state, batch, key, Stage(8))[0]))(params)
            for u in (update, rough.updates[i])
        ]
        (exact, _), (loss, grads) = values
        assert loss == exact if update.interval > 1 else loss == pytest.approx(float(exact), rel=0.05)
        assert all(np.isfinite(g).all() and g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def test_bad_samples_are_refused_before_tracing():
    model, gan, state = initialised()
    variables, w = {'params': state.params['g']}, jnp.zeros((1, 5))
    for options, message in [({'grid': jnp.zeros((4, 3))}, r'grid has shape \(4, 3\)'), ({'chunk': 0}, 'chunk=0')]:
        with pytest.raises(ValueError, match=message):
            cips.images(model, variables, w, **options)
    plain = initialised(modulation=False)
    assert plain[1].sampler.num_ws is None and gan.sampler.num_ws == len(cips.layer_names(model))
    with pytest.raises(ValueError, match='modulation=False'):
        cips.images(plain[0], {'params': plain[2].params['g']}, jnp.zeros((1, 7, 5)))
    loaded = Model(run(), gan, variables, 0)
    plain, more = (np.asarray(loaded.styles([0], psi)) for psi in (1.0, 1.5))
    mean = np.asarray(loaded.w_avg)
    np.testing.assert_allclose(more - mean, 1.5 * (plain - mean), atol=1e-5)


def test_raw_lookup_needs_the_native_grid():
    model, _, state = initialised()
    styles = cips.Generator(model).apply({'params': state.params['g']}, jnp.ones((1, 5)))
    styles = {k: v[0] for k, v in styles.items()}
    with pytest.raises(ValueError, match='native grid'):
        cips_generator.synthesise(model, state.params['g'], styles, jnp.zeros((4, 4, 2)), lookup='raw')


def test_tiny_config_runs_the_published_program_at_small_size():
    tiny, full = load_config('configs/cips.py:tiny'), load_config('configs/cips.py')
    assert full.model == cips.Config()
    assert (full.optim, full.train.batch_size, full.data.resolution) == (OptimConfig(), 32, 256)
    assert tiny.optim == full.optim
    changed = {
        f.name for f in dataclasses.fields(tiny.model) if getattr(tiny.model, f.name) != getattr(full.model, f.name)
    }
    assert not changed & {'activation', 'train_lookup', 'r1_gamma', 'r1_interval', 'g_reg_interval', 'dtype'}


# What training sees ---------------------------------------------------------------------------------------------------


@functools.cache
def preparation(resolution, **changes):
    model = dataclasses.replace(TINY, **({'d_channels': None} | changes))
    gan = cips.build(Config(system='cips', model=model, data=DataConfig(resolution=resolution)))
    return gan.stage_at, jax.jit(gan.prepare, static_argnums=2)


def prepared(resolution, rows=4, first=0, step=0, stage=None, **changes):
    """What `prepare` makes of images whose colours are their own coordinates: (x, y, 0)."""
    stage_at, prepare = preparation(resolution, **changes)
    stage = stage or stage_at(0, 0, 0)
    image = np.concatenate([coords.grid(*stage.size), np.zeros((*stage.size, 1))], axis=-1)
    batch = {'image': np.repeat(image[None], rows, axis=0).astype(np.float32), 'index': first + np.arange(rows)}
    return prepare(batch, jax.random.key(step), stage)


def test_whole_images_on_a_flat_native_grid_need_no_preparation():
    assert initialised()[1].prepare is None


@pytest.mark.parametrize(
    'changes, resolution, strides',
    [
        ({'img_resolution': 32, 'patch_size': 8}, 32, {1, 2, 4}),
        ({'img_resolution': (16, 32), 'patch_size': 8}, (16, 32), {1, 2}),
        ({'patch_size': 8}, 32, {1}),  # as released: scales are counted from the native size
        ({'patch_size': 8, 'num_scales': 3}, 32, {1, 2, 4}),
        ({'patch_size': 8, 'num_scales': 2}, 32, {1, 2}),
    ],
)
def test_patches_are_cut_with_their_coordinates_at_one_scale_per_step(changes, resolution, strides):
    seen = set()
    height, width = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    for step in range(12):
        batch = prepared(resolution, step=step, **changes)
        grid = np.asarray(batch['grid'])
        assert grid.shape == (4, 8, 8, 2)
        np.testing.assert_array_equal(batch['image'][..., :2], grid)
        x, y = np.diff(grid[:, 0, :, 0]) * (width - 1) / 2, np.diff(grid[:, :, 0, 1]) * (height - 1) / 2
        (stride,) = np.unique(np.rint(np.concatenate([x, y])))
        np.testing.assert_allclose(np.concatenate([x, y]), stride, atol=1e-4)
        seen.add(int(stride))
        if stride * 8 < min(height, width):
            assert len(np.unique(grid[:, 0, 0], axis=0)) > 1
    assert seen == strides


def test_crops_turns_and_azimuths_belong_to_global_rows():
    changes = {'img_resolution': 16, 'patch_size': 8, 'rotate': True, 'panorama_width': 64, 'train_lookup': 'bilinear'}
    whole, half = prepared(23, **changes), prepared(23, rows=2, first=2, **changes)
    for name in ('image', 'grid'):
        np.testing.assert_allclose(half[name], whole[name][2:], atol=1e-6)
        assert np.abs(whole[name][0] - whole[name][2]).max() > 0.01


def test_rotation_turns_the_middle_of_real_images_about_their_centre_and_invents_no_border():
    batch = prepared(15, rows=32, img_resolution=8, rotate=True)
    image = np.asarray(batch['image'])
    assert image.shape == (32, 8, 8, 3)
    np.testing.assert_array_equal(batch['grid'], np.repeat(np.asarray(coords.grid(8, 8))[None], 32, axis=0))
    np.testing.assert_allclose(image.mean(axis=(1, 2)), 0, atol=1e-6)
    # A step to the right in the result is a step of one pixel, 1 / 7 of the coordinates, along the turned axis.
    right, down = image[:, 3, 4, :2] - image[:, 3, 3, :2], image[:, 4, 3, :2] - image[:, 3, 3, :2]
    np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1 / 7, rtol=1e-4)
    np.testing.assert_allclose(right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0], 1 / 49, rtol=1e-3)
    # Colours are linear in position, so a repeated border would bend them.
    np.testing.assert_allclose(
        np.diff(image[..., :2], axis=2), np.broadcast_to(right[:, None, None], (32, 8, 7, 2)), atol=1e-5
    )
    angles = np.arctan2(right[:, 1], right[:, 0])
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() >= 2
    # Content turns anticlockwise on the screen, as `coords.rotate` says: a quarter turn brings the right to the top.
    ramp = jnp.broadcast_to(jnp.arange(9.0)[None, :, None], (9, 9, 1))
    np.testing.assert_allclose(
        cips_views.rotated(ramp, jnp.pi / 2, (3, 3))[:, :, 0], [[5] * 3, [4] * 3, [3] * 3], atol=1e-5
    )


def test_images_of_a_cylinder_get_a_random_arc():
    batch = prepared(8, rows=32, panorama_width=32, train_lookup='bilinear')
    grid = np.asarray(batch['grid'])
    np.testing.assert_array_equal(batch['image'][..., :2], np.repeat(np.asarray(coords.grid(8, 8))[None], 32, axis=0))
    steps = np.asarray(coords.wrap(jnp.diff(batch['grid'][..., 0], axis=2)))
    np.testing.assert_allclose(steps, 2 / 32, atol=1e-5)
    np.testing.assert_allclose(
        grid[..., 1], np.broadcast_to(np.linspace(-1, 1, 8)[None, :, None], (32, 8, 8)), atol=1e-6
    )
    assert np.histogram(grid[:, 0, 0, 0], 4, (-1, 1))[0].min() >= 2


def test_progressive_training_doubles_the_resolution_on_schedule_and_keeps_the_patch():
    changes = {'patch_size': 8, 'num_scales': 3, 'progressive_kimg': 1.0}
    model = dataclasses.replace(TINY, **changes)
    gan = cips.build(Config(system='cips', model=model, data=DataConfig(resolution=32)))
    assert [gan.stage_at(0, nimg, 0).size[0] for nimg in (0, 999, 1000, 2000, 10**6)] == [8, 8, 16, 32, 32]
    for resolution in (8, 16, 32):
        batch = prepared(32, stage=Stage(resolution), **changes)
        assert batch['image'].shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(batch['image'][..., :2], batch['grid'])
    np.testing.assert_array_equal(prepared(32, stage=Stage(8), **changes)['grid'][0], coords.grid(8, 8))


def test_memory_of_a_step_on_patches_does_not_grow_with_the_resolution_of_the_data():
    def temporary_bytes(resolution):
        model = dataclasses.replace(TINY, patch_size=8, num_scales=2)
        gan = cips.build(Config(system='cips', model=model, data=DataConfig(resolution=resolution)))
        params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
        state = SimpleNamespace(params=params, buffers=buffers)

        def loss(g, d, buffers, batch):
            state = SimpleNamespace(params={'d': d}, buffers=buffers)
            batch = gan.prepare(batch, jax.random.key(0), Stage(resolution))
            return gan.updates[2].loss(g, state, batch, jax.random.key(1), Stage(resolution))[0]

        batch = jax.eval_shape(lambda: batch_of((resolution, resolution), 4))
        args = state.params['g'], state.params['d'], state.buffers, batch
        return jax.jit(jax.grad(loss)).lower(*args).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(16), temporary_bytes(128)
    assert large < 1.1 * small, (small, large)


def test_training_on_patches_reads_the_embedding_at_their_coordinates_except_raw_ones_of_native_shape():
    model, gan, state = initialised()
    g, z = state.params['g'], jax.random.normal(jax.random.key(2), (2, 5))
    grids = jnp.stack([coords.grid(15, 15)[i : i + 8, 3:11] for i in (0, 5)])
    sample = jax.jit(lambda z, grid: images_of(gan, {'params': g}, z, grid=grid))
    want = np.concatenate([sample(z[i : i + 1], grids[i]) for i in range(2)])
    generate = jax.jit(cips.generate, static_argnums=0)
    bilinear = dataclasses.replace(model, train_lookup='bilinear')
    np.testing.assert_allclose(generate(bilinear, g, z, None, grids), want, atol=1e-5)
    assert np.abs(generate(model, g, z, None, grids) - want).max() > 0.01
    np.testing.assert_allclose(generate(model, g, z, None, grids[:, 2:6, 1:5]), want[:, 2:6, 1:5], atol=1e-5)


def test_a_discriminator_sees_the_coordinates_of_its_patches():
    model = dataclasses.replace(TINY, d_sees_coords=True)
    grid = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))
    np.testing.assert_array_equal(cips.d_input(model, jnp.zeros((4, 8, 8, 3)), grid)[..., 3:], grid)


# Windows outside of the frame -----------------------------------------------------------------------------------------


def outside(data_side=8, **changes):
    """A system that learns windows, and windows whose first channels are the coordinates that sampling has there."""
    model = dataclasses.replace(TINY, d_sees_coords=True, train_lookup='bilinear', **changes)
    data, train = DataConfig(resolution=data_side, outside=1.0), TrainConfig(batch_size=4)
    gan = cips.build(Config(system='cips', model=model, data=data, train=train))
    offset = data_side // 8 * np.array([[0, 0], [8, -3], [-5, 8], [1, 0]], np.int32)
    wide = np.asarray(gan.sampler.view((3 * data_side, 3 * data_side), None)['grid'])
    at = [(data_side + down, data_side + right) for right, down in offset]
    image = np.stack([wide[top : top + data_side, left : left + data_side] for top, left in at])
    image = np.concatenate([image, 0 * image[..., :1]], axis=-1)
    return gan, {'image': jnp.asarray(image), 'offset': jnp.asarray(offset), 'index': jnp.arange(4)}


@pytest.mark.parametrize(
    'options, side',
    [
        ({}, 8),
        ({'data_side': 16, 'patch_size': 8}, 16),
        ({'data_side': 16, 'patch_size': 8, 'progressive_kimg': 1.0}, 8),
    ],
)
def test_coordinates_of_windows_are_those_at_which_sampling_shows_them(options, side):
    gan, batch = outside(**options)
    image = batch['image']
    if image.shape[1] != side:  # without a low-pass, which bends a slope at its ends
        image = resize_align_corners(image, (side, side))
    got = jax.jit(gan.prepare, static_argnums=2)({**batch, 'image': image}, jax.random.key(0), Stage(side))
    assert got['grid'].shape == (4, 8, 8, 2) and got['grid'][1, ..., 0].min() > 0.9
    np.testing.assert_allclose(got['grid'], got['image'][..., :2], atol=1e-5)


def test_g_makes_the_windows_that_sampling_shows_and_d_sees_where_they_are(monkeypatch):
    gan, batch = outside()
    _, _, state = initialised(d_sees_coords=True)
    g = jax.tree_util.tree_map_with_path(
        lambda path, p: p * ('noise_strength' not in jax.tree_util.keystr(path)), state.params['g']
    )
    state = SimpleNamespace(params={**state.params, 'g': g}, buffers=state.buffers)

    @jax.jit
    def seen(batch):
        found = []
        monkeypatch.setattr(
            cips, 'score', lambda model, d, b, images, **_: (found.append(images), images.sum((1, 2, 3)))[1]
        )
        key, prepared = jax.random.key(1), gan.prepare(batch, jax.random.key(0), Stage(8))
        for update in (gan.updates[0], gan.updates[2]):
            update.loss(state.params[update.net], state, prepared, key, Stage(8))
        z = sample_normal(jax.random.split(key)[0], batch['index'], (5,))
        at = batch['image'][..., :2]
        return found, jax.vmap(lambda z, at: images_of(gan, {'params': g}, z[None], grid=at)[0])(z, at)

    (both, again), want = seen(batch)
    real, fake = np.split(both, 2)
    for images, colours in ((real, batch['image']), (fake, want), (again, want)):
        np.testing.assert_allclose(images[..., :3], colours, atol=1e-4)
        np.testing.assert_allclose(images[..., 3:], batch['image'][..., :2], atol=1e-5)


# Configurations -------------------------------------------------------------------------------------------------------

RUNS = (
    'ffhq256',
    'churches256',
    'landscapes256',
    'satellite-buildings',
    'satellite-landscapes',
    'ffhq1024',
    'panorama',
)
ABLATIONS = ('no-embedding', 'no-fourier', 'no-modulation', 'no-skips', 'residual', 'sine', 'sinrelu', 'patches')


@pytest.mark.parametrize('run_name', RUNS)
def test_every_run_combines_with_every_ablation_at_full_and_tiny_size(run_name):
    for ablation in ('', *ABLATIONS):
        full = load_config(f'configs/cips.py:{run_name},{ablation}')
        tiny = load_config(f'configs/cips.py:{run_name},{ablation},tiny')
        same = {'wiring', 'fourier_features', 'coord_embedding', 'modulation', 'activation', 'train_lookup', 'rotate'}
        same |= {'num_scales', 'r1_gamma', 'r1_interval', 'g_reg_interval', 'dtype', 'd_sees_coords'}
        assert all(getattr(full.model, name) == getattr(tiny.model, name) for name in same)
        for name in ('patch_size', 'panorama_width', 'progressive_kimg'):
            assert (getattr(full.model, name) is None) == (getattr(tiny.model, name) is None)
        assert cips.doublings(full) == cips.doublings(tiny)
        model = tiny.model
        params = jax.eval_shape(cips.Generator(model).init, jax.random.key(0), jnp.zeros((1, 16)))['params']
        encoded = (ablation != 'no-embedding') + (ablation != 'no-fourier')
        first = params['linears_0' if model.wiring == 'residual' else 'conv1']['weight']
        assert first.shape[0] == encoded * model.hidden_size + (ablation == 'no-modulation') * model.z_dim


def test_a_configuration_is_one_run():
    with pytest.raises(ConfigError, match='ffhq256 and panorama exclude each other'):
        load_config('configs/cips.py:ffhq256,panorama')


@pytest.mark.parametrize(
    'words',
    [
        'panorama,patches,sinrelu',
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                'landscapes256,no-embedding',
                'churches256,no-skips,sine',
                'satellite-buildings,no-modulation',
                'ffhq1024,no-fourier',
            )
        ),
    ],
)
def test_tiny_runs_take_a_training_step(words):
    config = load_config(f'configs/cips.py:{words},tiny', ['model.channels=(8, 6)', 'train.batch_size=4'])
    gan, mesh = cips.build(config), data_mesh(jax.devices()[:1])
    shapes, draw = jax.eval_shape(functools.partial(create_state, gan, 0)), np.random.default_rng(0).normal
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    params = jax.tree.map(lambda x: draw(size=x.shape).astype(x.dtype), shapes.params)
    buffers = jax.tree.map(lambda x: filters.setup_filter((1, 3, 3, 1)), shapes.buffers)
    state = state.replace(params=jax.tree.map(jnp.asarray, params), buffers=buffers)
    image = np.random.default_rng(0).integers(0, 256, (4, *config.data.size, 3), dtype=np.uint8)
    step = functools.partial(device_step, gan=gan, stage=gan.stage_at(0, 0, 0), due=(0, 2), seed=0)
    state, metrics = compile_step(step, 'jit', mesh)(state, place_batch({'image': image}, 'jit', mesh))
    assert metrics['finite'] == 1
    moved = jax.tree.map(lambda a, b: np.isfinite(b).all() and np.abs(a - b).max() > 0, params, state.params)
    still = [jax.tree_util.keystr(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
    assert not still
