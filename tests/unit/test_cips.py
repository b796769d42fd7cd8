import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import ops
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config
from pegan_jax.gan import Stage
from pegan_jax.models import cips

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
    buffers = jax.tree.map(lambda b: ops.setup_filter((1, 3, 3, 1)), buffers)
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
    params = jax.jit(cips.generator(model).init)(jax.random.key(0), jnp.zeros((1, 32)))['params']
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
    ],
)
def test_impossible_models_are_refused_with_the_field_and_the_fix(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)


def test_data_of_another_resolution_are_refused():
    with pytest.raises(ConfigError, match=r'resolution=16 is finer than model.img_resolution=8: set model.patch_size'):
        Config(system='cips', model=TINY, data=DataConfig(resolution=16))


def test_ema_decay_is_published_by_default_and_a_half_life_with_ramp_up_on_request():
    assert cips.ema_decay(TINY, 32, 0, 0) == 0.5 ** (32 / 10_000)
    half_life = dataclasses.replace(TINY, ema_kimg=10.0)
    assert cips.ema_decay(half_life, 32, 0, 0) == pytest.approx(0.5 ** (32 / 10_000))
    assert cips.ema_decay(half_life, 320, 0, 0) == pytest.approx(0.5 ** (320 / 10_000))
    ramp = dataclasses.replace(half_life, ema_rampup=0.05)
    assert cips.ema_decay(ramp, 32, jnp.int32(0), 0) == 0
    assert cips.ema_decay(ramp, 32, jnp.int32(20_000), 0) == pytest.approx(0.5 ** (32 / 1000))
    assert cips.ema_decay(ramp, 32, jnp.int32(10**6), 0) == pytest.approx(0.5 ** (32 / 10_000))


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
    sampled = jax.jit(gan.sample)({'params': g}, z)
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
    assert jax.jit(gan.sample)({'params': state.params['g']}, jnp.ones((1, 5))).shape == (1, 8, 16, 3)


def test_bfloat16_images_stay_close_and_are_float32():
    model, gan, state = initialised()
    rough = cips.build(run(dataclasses.replace(model, dtype='bfloat16')))
    z, variables = jax.random.normal(jax.random.key(2), (2, 5)), {'params': state.params['g']}
    exact, got = (jax.jit(g.sample)(variables, z) for g in (gan, rough))
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - exact).max() < 0.05 * np.abs(exact).max()


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
    _, gan, state = initialised()
    variables, z = {'params': state.params['g']}, jnp.zeros((1, 5))
    for args, options, message in [
        ((jnp.zeros((1, 6)),), {}, r'z has shape \(1, 6\); expected \[N, 5\]'),
        ((z, jnp.zeros((4, 3))), {}, r'grid has shape \(4, 3\)'),
        ((z,), {'truncation_psi': 1.5}, 'truncation_psi=1.5 must be at most 1'),
        ((z,), {'chunk': 0}, 'chunk=0'),
        ((z,), {'space': 'x'}, "space='x'; use 'z', 'w', 'ws' or 'w_map'"),
    ]:
        with pytest.raises(ValueError, match=message):
            gan.sample(variables, *args, **options)


def test_raw_lookup_needs_the_native_grid():
    model, _, state = initialised()
    styles = cips.generator(model).apply({'params': state.params['g']}, jnp.ones((1, 5)))
    styles = {k: v[0] for k, v in styles.items()}
    with pytest.raises(ValueError, match='native grid'):
        cips.synthesise(model, state.params['g'], styles, jnp.zeros((4, 4, 2)), lookup='raw')


def test_tiny_config_runs_the_published_program_at_small_size():
    tiny, full = load_config('configs/cips.py:tiny'), load_config('configs/cips.py')
    assert full.model == cips.Config()
    assert (full.optim, full.train.batch_size, full.data.resolution) == (OptimConfig(), 32, 256)
    assert tiny.optim == full.optim
    changed = {
        f.name for f in dataclasses.fields(tiny.model) if getattr(tiny.model, f.name) != getattr(full.model, f.name)
    }
    assert not changed & {'activation', 'train_lookup', 'r1_gamma', 'r1_interval', 'g_reg_interval', 'dtype'}
