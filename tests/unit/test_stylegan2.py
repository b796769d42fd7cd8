"""StyleGAN2, and the training that it shares with StyleGAN3, beyond what golden numbers show."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pegan_jax import augment, losses, ops, optim
from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config, override
from pegan_jax.gan import images_of, labels_of
from pegan_jax.models import stylegan2, stylegan_training
from pegan_jax.models.discriminator import Discriminator
from pegan_jax.models.stylegan2 import Generator, SynthesisLayer
from pegan_jax.sampling import Model, sample
from pegan_jax.train.checkpoint import Checkpoints, read_networks, with_networks
from pegan_jax.train.state import create_state
from pegan_jax.train.step import compile_step, data_mesh, device_step, due_updates, place_batch, replicated_state

TINY = stylegan2.Config(
    img_resolution=8,
    c_dim=3,
    z_dim=6,
    w_dim=5,
    mapping_layers=1,
    channel_base=32,
    architecture='orig',
    d_architecture='orig',
    d_channel_base=32,
    d_mapping_layers=1,
    mbstd_group_size=2,
    pl_interval=2,
    r1_interval=3,
    r1_gamma=1.0,
    ema_kimg=0.02,
    ema_rampup=None,
)


def run_config(model=TINY, **train):
    data = DataConfig(folder='images', resolution=model.img_resolution, labels=model.c_dim > 0)
    train = {'batch_size': 4} | train
    return Config('stylegan2', model, data, OptimConfig(g_lr=0.01, d_lr=0.01), TrainConfig(**train))


def flat(tree):
    return {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in jax.tree.leaves_with_path(tree)}


# Networks -------------------------------------------------------------------------------------------------------------


def count_by_hand(widths):
    """Parameters of the generator: affine layers, kernels, biases, noise strengths; to-RGB layers; the rest."""

    def conv(i, o):
        return 513 * i + 9 * i * o + o + 1

    def rgb(i):
        return 513 * i + 3 * i + 3

    mapping, const = 8 * 513 * 512, 16 * widths[0]
    blocks = sum(conv(i, o) + conv(o, o) + rgb(o) for i, o in itertools.pairwise(widths))
    return mapping + const + conv(widths[0], widths[0]) + rgb(widths[0]) + blocks


def test_published_generator_has_the_published_number_of_parameters():
    gan = stylegan2.build(load_config('configs/stylegan2.py'))
    params, buffers, stats = jax.eval_shape(gan.init, jax.random.key(0))
    # At 256 pixels this is the published number (`test_cips`).
    assert count_by_hand((512, 512, 512, 512, 512, 256, 128)) == 30_034_338
    count = count_by_hand((512, 512, 512, 512, 512, 256, 128, 64, 32))
    assert sum(p.size for p in jax.tree.leaves(params['g'])) == count == 30_370_060
    names = {*flat(params['g']), *flat(buffers['g'])}
    assert {'mapping/fc7/kernel', 'synthesis/b4/const', 'synthesis/b1024/conv0/affine/bias'} <= names
    assert {'mapping/w_avg', 'synthesis/b8/conv0/resample_filter', 'synthesis/b8/conv1/noise_const'} <= names
    assert 'b1024/fromrgb/kernel' in flat(params['d']) and stats.keys() == {'pl_mean'}


def test_widths_follow_the_shorter_side_and_rectangles_begin_with_a_larger_constant():
    assert stylegan2.widths((1024, 1024), 32768, 512) == (512, 512, 512, 512, 512, 256, 128, 64, 32)
    model = dataclasses.replace(TINY, img_resolution=(12, 10), c_dim=0)
    with pytest.raises(ConfigError, match=r'data\.resolution'):
        override(run_config(model), ['data.resolution=(12, 12)'])
    variables = jax.eval_shape(stylegan2.generator(model).init, jax.random.key(0), jnp.zeros((1, 6)))
    assert variables['params']['synthesis']['b4']['const'].shape == (6, 5, 8)
    assert variables['buffers']['synthesis']['b8']['conv0']['noise_const'].shape == (12, 10)
    gan = stylegan2.build(run_config(model))
    images = jax.eval_shape(functools.partial(images_of, gan), variables, jnp.zeros((2, 6)))
    assert images.shape == (2, 12, 10, 3)


def test_noise_is_random_per_image_constant_or_none():
    layer, keys = SynthesisLayer(4), jax.random.split(jax.random.key(1), 3)
    x, w = jnp.ones((3, 8, 8, 2)), jnp.ones((3, 5))

    @jax.jit
    def run(strength):
        variables = layer.init(jax.random.key(0), x, w)
        variables = {**variables, 'params': {**variables['params'], 'noise_strength': strength}}
        apply = functools.partial(layer.apply, variables)
        modes = {mode: apply(x, w, mode) for mode in ('const', 'none')}
        return modes | {'random': apply(x, w, keys), 'rest': apply(x[1:], w[1:], keys[1:])}

    silent, loud = run(0.0), run(0.5)
    assert (silent['const'] == silent['none']).all() and (silent['random'] == silent['none']).all()
    assert (loud['none'] == silent['none']).all()
    assert (loud['const'][0] == loud['const'][1]).all() and (loud['const'] != silent['const']).any()
    assert (loud['random'][0] != loud['random'][1]).any()
    np.testing.assert_array_equal(loud['rest'], loud['random'][1:])


def test_layers_draw_different_noise():
    keys = jax.random.split(jax.random.key(1), 2)
    drawn = {tuple(jax.random.key_data(k).tolist()) for i in range(3) for k in stylegan2._layer_noise(keys, i)}
    assert len(drawn) == 6 and stylegan2._layer_noise('const', 1) == 'const'


def test_bfloat16_generator_stays_close_and_puts_out_float32():
    module = Generator((6, 6), w_dim=4, mapping_layers=1)
    z = jax.random.normal(jax.random.key(0), (2, 4))
    exact, variables = jax.jit(module.init_with_output)(jax.random.key(1), z)
    rough = jax.jit(Generator((6, 6), w_dim=4, mapping_layers=1, dtype=jnp.bfloat16).apply)(variables, z)
    assert rough.dtype == jnp.float32 and (rough != exact).any()
    np.testing.assert_allclose(rough, exact, atol=0.1)


# Discriminator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('architecture, third', [('resnet', 'b16/skip'), ('skip', 'b8/fromrgb'), ('orig', 'b8/conv0')])
def test_frozen_layers_are_counted_from_the_images_and_are_buffers(architecture, third):
    free = Discriminator((4, 5, 6), architecture)
    frozen = Discriminator((4, 5, 6), architecture, freeze_layers=4)
    x = jnp.zeros((2, 16, 16, 3))
    before, after = (jax.eval_shape(m.init, jax.random.key(0), x) for m in (free, frozen))
    moved = flat(before['params']).keys() - flat(after['params']).keys()
    assert {p.rpartition('/')[0] for p in moved} == {'b16/fromrgb', 'b16/conv0', 'b16/conv1', third}
    assert moved == flat(after['buffers']).keys() - flat(before['buffers']).keys()
    assert len(Discriminator((4, 5, 6), architecture).convolutions) == {'resnet': 7, 'skip': 6, 'orig': 5}[architecture]


def test_only_the_highest_resolutions_compute_in_bfloat16():
    def dtypes(n):
        module = Discriminator((4, 4, 4), num_fp16_res=n, dtype=jnp.bfloat16)
        x = jnp.zeros((2, 16, 16, 3))
        apply = functools.partial(module.apply, capture_intermediates=True)
        _, state = jax.eval_shape(apply, jax.eval_shape(module.init, jax.random.key(0), x), x)
        return [state['intermediates'][b]['conv0']['__call__'][0].dtype for b in ('b16', 'b8')]

    assert dtypes(0) == [jnp.float32, jnp.float32]
    assert dtypes(1) == [jnp.bfloat16, jnp.float32]


# Losses ---------------------------------------------------------------------------------------------------------------


def test_path_lengths_of_a_linear_generator_and_their_penalty_are_as_computed_by_hand():
    a = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 3))  # image = sum over layers and entries of ws * a
    ws, noise = jnp.zeros((5, 2, 3)), jax.random.normal(jax.random.key(1), (5, 4, 4, 3))
    lengths = losses.path_lengths(lambda ws: jnp.einsum('blw,lwhvc->bhvc', ws, a), ws, noise)
    jacobian = np.einsum('bhvc,lwhvc->blw', noise / 4, a)
    np.testing.assert_allclose(lengths, np.sqrt((jacobian**2).sum(2).mean(1)), rtol=1e-5)
    penalty, mean = losses.path_length_penalty(jnp.array([1.0, 3.0]), jnp.float32(1.0), 0.5)
    assert (penalty, mean) == (((1 - 1.5) ** 2 + (3 - 1.5) ** 2) / 2, 1.5)
    # d/dl of mean (l - m)^2 with m = 1 + (mean l - 1) / 2: the mean moves too.
    slope = jax.grad(lambda l: losses.path_length_penalty(l, jnp.float32(1.0), 0.5)[0])(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(slope, [-0.5 - 0.25 * 1, 1.5 - 0.25 * 1], rtol=1e-6)
    assert jax.grad(lambda l: losses.path_length_penalty(l, jnp.float32(0), 0.5)[1])(jnp.ones(2)).tolist() == [0, 0]


def test_second_order_gradient_of_path_lengths_agrees_with_finite_differences():
    """Twice through the modulated convolution and its upsampling filter, in float64."""
    with jax.enable_x64(True):
        layer, draw = SynthesisLayer(2, up=2, use_noise=False, dtype=jnp.float64), np.random.default_rng(0).normal
        x, ws, noise = (jnp.asarray(draw(size=s)) for s in ((2, 3, 3, 2), (2, 1, 3), (2, 6, 6, 2)))
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x, ws[:, 0])['params']
        params, direction = (jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape)), shapes) for _ in range(2))
        buffers = {'resample_filter': jnp.asarray(draw(size=(4, 4)))}

        @jax.jit
        def penalty(t):
            moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
            synthesise = lambda ws: layer.apply({'params': moved, 'buffers': buffers}, x, ws[:, 0])  # noqa: E731
            lengths = losses.path_lengths(synthesise, ws, noise)
            return losses.path_length_penalty(lengths, jnp.float64(0.1), 0.3)[0]

        step = 1e-6
        slope = (penalty(step) - penalty(-step)) / (2 * step)
        assert jax.jit(jax.grad(penalty))(0.0) == pytest.approx(float(slope), rel=1e-5)
        assert abs(slope) > 1e-3


def test_styles_are_mixed_from_one_layer_on_for_the_whole_batch():
    ws, other = jnp.zeros((3, 6, 2)), jnp.ones((3, 6, 2))
    mix = jax.jit(stylegan_training.mix_styles)
    mixed = np.stack([mix(k, ws, other, 0.75) for k in jax.random.split(jax.random.key(0), 200)])
    assert (mixed == mixed[:, :1, :, :1]).all()
    cutoffs = 6 - mixed[:, 0, :, 0].sum(axis=1)
    assert (np.diff(mixed[:, 0, :, 0], axis=1) >= 0).all()
    assert set(cutoffs.tolist()) == {1, 2, 3, 4, 5, 6}
    assert np.mean(cutoffs == 6) == pytest.approx(0.25, abs=0.1)
    assert np.mean(cutoffs == 1) == pytest.approx(0.15, abs=0.1)


@pytest.mark.parametrize('side', [4, 7])
def test_waves_of_the_input_have_up_to_2_cycles_whatever_the_coarsest_size(side):
    module = stylegan2.Synthesis((200, 8), base=(side, side), input='fourier')
    init = jax.jit(lambda key: module.init(key, jnp.zeros((1, 4, 8)))['buffers']['input']['freqs'])
    assert 1.9 < jnp.linalg.norm(init(jax.random.key(0)), axis=1).max() <= 2


@pytest.mark.parametrize('sigma', [2.0, 1.0, 0.34])
def test_blur_is_a_gaussian_to_the_base_two_within_three_sigmas(sigma):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    radius = int(3 * sigma)
    taps = np.exp2(-((np.arange(-radius, radius + 1) / sigma) ** 2))
    want = ops.filter2d(x, (taps / taps.sum()).astype(np.float32))
    np.testing.assert_allclose(jax.jit(stylegan_training.blur, static_argnums=2)(x, sigma, 2.0), want, atol=1e-5)


def test_blur_fades_with_the_images_seen_and_then_leaves_the_program():
    model = dataclasses.replace(TINY, blur_init_sigma=2.0, blur_fade_kimg=1.0)
    assert stylegan_training.blur_sigma(model, 250, 4) == 1.5
    stage_at = stylegan2.build(run_config(model)).stage_at
    # The radius floor(3 sigma) is zero from sigma < 1/3 on.
    assert [stage_at(0, n, 0).flags for n in (0, 833, 834, 5000)] == [('blur',), ('blur',), (), ()]
    assert stylegan_training.blur_sigma(dataclasses.replace(model, blur_fade_kimg=None), 16_000, 64) == pytest.approx(
        2 * 0.96
    )


def test_labels_are_classes_or_vectors():
    np.testing.assert_array_equal(labels_of({'label': jnp.array([2, 0])}, 3), [[0, 0, 1], [1, 0, 0]])
    vectors = jnp.array([[0.5, 1.0, 2.0]])
    assert labels_of({'label': vectors}, 3) is vectors
    assert labels_of({}, 0) is None


# Optimisers -----------------------------------------------------------------------------------------------------------


def test_gradients_that_are_not_finite_are_replaced_before_adam():
    clean = optim.finite_gradients()
    updates, _ = clean.update({'w': jnp.array([jnp.nan, jnp.inf, -jnp.inf, 2.0])}, clean.init(None))
    assert updates['w'].tolist() == [0, 1e5, -1e5, 2]
    gan = stylegan2.build(run_config())
    for net in 'gd':
        params = {'w': jnp.ones(2)}
        adam = gan.optimizers[net]
        deltas, _ = adam.update({'w': jnp.array([jnp.nan, 1.0])}, adam.init(params), params)
        assert np.isfinite(deltas['w']).all() and deltas['w'][0] == 0


def test_adam_is_corrected_for_the_interval_of_the_lazy_term():
    params, config = jnp.float32(0), OptimConfig(beta1=0.5, beta2=0.9)

    def steps(transformation):
        state, out = transformation.init(params), []
        for gradient in (1.0, -2.0, 0.5):
            delta, state = transformation.update(jnp.float32(gradient), state)
            out.append(float(delta))
        return out

    want = optax.adam(0.01 * 4 / 5, b1=0.5**0.8, b2=0.9**0.8, eps=config.eps)
    assert steps(optim.adam(config, 0.01, 4)) == pytest.approx(steps(want))
    assert steps(optim.adam(config, 0.01, 0)) == pytest.approx(steps(optax.adam(0.01, b1=0.5, b2=0.9)))


def test_ema_has_a_half_life_in_images_with_a_ramp_unless_a_run_starts_from_another():
    train, tuned = TrainConfig(batch_size=32), TrainConfig(batch_size=32, init_from='runs/first')
    assert optim.ema_decay(train, 0, 10.0, None) == pytest.approx(0.5 ** (32 / 10_000))
    assert optim.ema_decay(train, jnp.int32(1000), 10.0, 0.05) == pytest.approx(0.5 ** (32 / 50))
    assert optim.ema_decay(train, jnp.int32(0), 10.0, 0.05) == 0
    assert optim.ema_decay(tuned, jnp.int32(0), 10.0, 0.05) == pytest.approx(0.5 ** (32 / 10_000))
    gan = stylegan2.build(run_config(dataclasses.replace(TINY, ema_kimg=None)))
    assert gan.ema(jnp.int32(10**9), 0) == pytest.approx(0.5 ** (4 / 1250))


def test_r1_gamma_and_the_updates_follow_the_configuration():
    updates = lambda **changes: [  # noqa: E731
        (u.net, u.interval) for u in stylegan2.build(run_config(dataclasses.replace(TINY, **changes))).updates
    ]
    assert updates() == [('g', 1), ('g', 2), ('d', 1), ('d', 3)]
    assert updates(pl_weight=0.0) == [('g', 1), ('d', 1), ('d', 3)]
    assert updates(r1_gamma=0.0) == [('g', 1), ('g', 2), ('d', 1)]


# A training step ------------------------------------------------------------------------------------------------------


def batch(step, n=4):
    rng = np.random.default_rng(step)
    return {'image': rng.integers(0, 256, (n, 8, 8, 3), np.uint8), 'label': rng.integers(0, 3, n).astype(np.int32)}


@pytest.fixture(scope='module')
def trained():
    """States before and after steps of one program, which has every update, with labels, frozen layers and ADA."""
    model = dataclasses.replace(TINY, freeze_layers=2, blur_init_sigma=0.5, augment='ada', augment_p=0.3, ada_kimg=0.1)
    config = run_config(model, init_from='another run')
    gan, mesh = stylegan2.build(config), data_mesh(jax.devices()[:1])
    assert due_updates(gan, 0) == due_updates(gan, 6) == (0, 1, 2, 3) and due_updates(gan, 1) == (0, 2)
    per_device = functools.partial(device_step, gan=gan, stage=gan.stage_at(0, 0, 0), due=(0, 1, 2, 3), seed=0)
    step = compile_step(per_device, 'jit', mesh)
    first = replicated_state(gan, 0, mesh)
    states, metrics = [jax.device_get(first)], []
    state = first
    for i in range(5):
        state, scalars = step(state, place_batch(batch(i), 'jit', mesh))
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(scalars))
    return config, gan, mesh, step, states, metrics


@pytest.mark.slow
def test_a_step_moves_what_it_should_and_nothing_else(trained):
    *_, states, metrics = trained
    before, after = states[0], states[1]
    for net in 'gd':
        still = {
            path
            for path, x in flat(after.params[net]).items()
            if (x == flat(before.params[net])[path]).all() and not path.endswith('noise_strength')
        }
        assert not still
    changed = [path for path, x in flat(after.buffers).items() if (np.asarray(x) != flat(before.buffers)[path]).any()]
    assert changed == ['g/mapping/w_avg']  # of the frozen layers none
    frozen = {p for p in flat(after.buffers['d']) if p.endswith(('kernel', 'bias'))}
    assert frozen == {f'b8/{layer}/{leaf}' for layer in ('fromrgb', 'conv0') for leaf in ('kernel', 'bias')}
    assert not frozen & flat(after.params['d']).keys()
    assert after.stats['pl_mean'] == pytest.approx(float(metrics[0]['path_length']))
    assert all(m['finite'] == 1 for m in metrics)
    assert metrics[0].keys() == {
        'loss/g', 'loss/pl', 'path_length', 'loss/d', 'logits/real', 'logits/fake', 'loss/r1', 'finite', 'augment_p',
        'gradients/non_finite_g', 'gradients/non_finite_d',
    }  # fmt: skip


@pytest.mark.slow
def test_p_follows_both_terms_of_d_every_four_steps(trained):
    *_, states, metrics = trained
    for i, state in enumerate(states[:5]):  # the main term and R1 see different draws of the same images
        assert (state.stats['augment_p'], state.stats['ada_batches']) == (np.float32(0.3), 2 * i)
    above = np.sign(states[4].stats['ada_signs'] / 8 - 0.6)
    p = np.float32(0.3) + above * np.float32(4 * 4 / 100)
    assert states[5].stats['augment_p'] == pytest.approx(p) and states[5].stats['ada_batches'] == 2
    assert [m['augment_p'] for m in metrics] == [np.float32(0.3)] * 4 + [states[5].stats['augment_p']]


def test_d_sees_augmented_images_and_real_ones_are_drawn_apart_from_generated_ones():
    model = dataclasses.replace(TINY, augment='ada', augment_pipe='blit', style_mixing_prob=0.0)
    seen, image = [], jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    networks = stylegan_training.Networks(
        lambda params, buffers, z, c, update: (z, buffers),
        lambda params, buffers, ws, keys, update, offset, scale: (image, buffers),
        lambda params, buffers, images, c: (seen.append(images), jnp.sum(images, axis=(1, 2, 3)))[1],
    )
    rows = {'index': jnp.arange(4), 'label': jnp.zeros(4, jnp.int32)}
    latents = stylegan_training.draw_latents(model, rows, jax.random.key(0))
    lens = stylegan_training.Lens(keys=latents.keys, p=1.0)
    stylegan_training.d_main(model, networks, {}, {}, ({}, {}), image, None, latents, lens)
    real, fake = seen
    for got in (real, fake):
        np.testing.assert_allclose(np.mean(got), np.mean(image), atol=0.2)
        assert np.abs(got - image).max((1, 2, 3)).min() > 0.1
    assert np.abs(real - fake).max((1, 2, 3)).min() > 0.1


@pytest.mark.slow
def test_the_running_mean_of_w_moves_once_per_step_towards_the_batch_mean(trained):
    _, gan, *_, states, _ = trained
    # The fake images of D's main update come from the parameters that G's updates of this step have made.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 2)
    rows = {'index': jnp.arange(4), 'label': jnp.asarray(batch(0)['label'])}
    latents = stylegan_training.draw_latents(TINY, rows, key)
    variables = {'params': states[1].params['g'], 'buffers': states[0].buffers['g']}
    mean = gan.sampler.map(variables, latents.z, latents.c).mean(axis=0)
    np.testing.assert_allclose(states[1].buffers['g']['mapping']['w_avg'], (1 - 0.998) * mean, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_training_resumes_exactly(trained, tmp_path):
    _, _, mesh, step, states, _ = trained
    checkpoints = Checkpoints(tmp_path)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoints.save(jax.device_put(states[2], replicated), {})
    checkpoints.wait()
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), states[2])
    restored, _ = checkpoints.restore(template)
    checkpoints.close()
    resumed, _ = step(restored, place_batch(batch(2), 'jit', mesh))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), states[3])


@pytest.mark.slow
def test_fine_tuning_takes_what_it_freezes_from_the_other_run(trained, tmp_path):
    config, *_, mesh, _, states, _ = trained
    checkpoints = Checkpoints(tmp_path / 'checkpoints')
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoints.save(jax.device_put(states[2], replicated), {})
    checkpoints.close()
    for freeze in (0, 2, 3):
        model = dataclasses.replace(config.model, freeze_layers=freeze)
        gan = stylegan2.build(run_config(model, init_from='another run'))
        template = jax.eval_shape(functools.partial(create_state, gan, 1))
        networks, left = read_networks(template, str(tmp_path))
        assert not left
        zeros = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), replicated), template)
        got = with_networks(zeros, networks)
        for net in 'gd':
            ours = flat(got.params[net]) | flat(got.buffers[net])
            theirs = flat(states[2].params[net]) | flat(states[2].buffers[net])
            assert ours.keys() == theirs.keys()
            assert all((np.asarray(ours[p]) == theirs[p]).all() for p in ours)
        assert ('b8/conv1/kernel' in flat(got.buffers['d'])) == (freeze == 3)
    other = dataclasses.replace(config.model, d_channel_base=64)
    gan = stylegan2.build(run_config(other, init_from='another run'))
    with pytest.raises(ConfigError, match=r'in 16 of 70 arrays: d/b4/conv/bias is \(16,\) here and \(8,\) there'):
        read_networks(jax.eval_shape(functools.partial(create_state, gan, 1)), str(tmp_path))


@pytest.mark.slow
def test_samples_are_of_a_class_and_truncated_ones_nearer_to_the_running_mean(trained):
    config, gan, *_, states, _ = trained
    model = Model(config, gan, states[3].sampling, 3)
    images = sample(model, [0, 1], label=1)
    assert images.shape == (2, 8, 8, 3) and (sample(model, [0, 1], label=2) != images).any()
    mean, half = (sample(model, [0, 1], label=1, truncation_psi=psi) for psi in (0.0, 0.5))
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-5)
    ws = np.broadcast_to(states[3].buffers['g']['mapping']['w_avg'], (1, 4, 5))
    run = jax.jit(functools.partial(stylegan2.generator(config.model).apply, method='synthesise'))
    np.testing.assert_allclose(mean[:1], run(states[3].sampling, ws), atol=1e-5)
    assert 0 < np.abs(half - mean).max() < np.abs(images - mean).max()


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'override_, message',
    [
        ('model.img_resolution=18', r'model\.img_resolution=18: the discriminator cannot take images of 18 x 18'),
        ('model.channel_base=4', r'model\.channel_base=4 leaves no channel at 16 pixels'),
        ('model.d_channel_max=0', r'model\.d_channel_max=0 must be at least 1'),
        ('model.c_dim=2', r'model\.c_dim=2 with data\.labels=False'),
        ('data.labels=True', r'model\.c_dim=0 with data\.labels=True'),
        ('data.resolution=32', r'data\.resolution=32 differs from model\.img_resolution=16'),
        ('model.freeze_layers=2', r'model\.freeze_layers=2 needs train\.init_from'),
        ('model.freeze_layers=9', r'model\.freeze_layers=9: the discriminator has 7'),
        ('model.pl_interval=0', r'model\.pl_weight=2\.0 needs model\.pl_interval of at least 1'),
        ('model.style_mixing_prob=1.5', r'model\.style_mixing_prob=1\.5 must lie in \[0, 1\]'),
        ('model.w_avg_beta=1.0', r'model\.w_avg_beta=1\.0 must lie in \[0, 1\)'),
        ('model.r1_gamma=-1.0', r'model\.r1_gamma=-1\.0 must be at least 0'),
        ('model.conv_clamp=0.0', r'model\.conv_clamp=0\.0 must be positive, or None'),
        ('model.pl_batch_shrink=0', r'model\.pl_batch_shrink=0 must be at least 1'),
        ('model.augment=fixed', r"model\.augment_p=0\.0 with model\.augment='fixed' must lie in \(0, 1\]; try 0\.2"),
        ('model.augment_p=0.2', r"model\.augment_p=0\.2 needs model\.augment='fixed' or 'ada'"),
        ('model.ada_target=60', r'model\.ada_target=60 is a mean of signs'),
        ('model.ada_kimg=0', r'model\.ada_kimg=0 must be positive'),
        ('model.augment_pipe=bg2', r"model\.augment_pipe='bg2' is a str; expected 'blit' or 'geom'"),
        ('model.architecture=unet', r"model\.architecture='unet' is a str; expected 'skip' or 'resnet' or 'orig'"),
    ],
)
def test_values_that_cannot_run_are_named(override_, message):
    with pytest.raises(ConfigError, match=message):
        load_config('configs/stylegan2.py:tiny', [override_])


@pytest.mark.parametrize(
    'run, rate, half_life, fractions, r1, updates',
    [
        ('ffhq', 0.002, 10, 0.05, 10, 'g pl d r1'),
        ('metfaces', 0.002, 10, 0.05, 5, 'g pl d r1'),
        ('ffhqu256', 0.0025, 20, None, 1, 'g pl d r1'),
        ('cifar10,cond', 0.0025, 500, 0.05, 0.01, 'g d r1'),
        # The heuristic: 64, 64 and 32 images per step on 8 GPUs, 10 / 32 kimg for each, 0.0002 height width / batch.
        ('images256,auto', 0.0025, 20, 0.05, 0.0002 * 256**2 / 64, 'g pl d r1'),
        ('images512,auto', 0.0025, 20, 0.05, 0.0002 * 512**2 / 64, 'g pl d r1'),
        ('images1024,auto', 0.002, 10, 0.05, 0.0002 * 1024**2 / 32, 'g pl d r1'),
    ],
)
def test_what_the_presets_train_with(run, rate, half_life, fractions, r1, updates, monkeypatch):
    """Rates, half-lives in kimg, their limit by the images seen, weights of R1: as they reach optimisers and losses."""
    config, weights = load_config(f'configs/stylegan2.py:{run}'), []
    gan, batch_size = stylegan2.build(config), config.train.batch_size
    for net, interval in (('g', 4), ('d', 16)):
        delta, _ = gan.optimizers[net].update(jnp.float32(1), gan.optimizers[net].init(jnp.float32(0)))
        assert float(delta) == pytest.approx(-rate * interval / (interval + 1), rel=1e-4)
    assert gan.ema(jnp.int32(10**9), 0) == pytest.approx(0.5 ** (batch_size / (1000 * half_life)))
    early = 1000 * half_life if fractions is None else 10_000 * fractions
    assert gan.ema(jnp.int32(10_000), 0) == pytest.approx(0.5 ** (batch_size / early), rel=1e-4)
    names = {('g', 1): 'g', ('g', 4): 'pl', ('d', 1): 'd', ('d', 16): 'r1'}
    assert ' '.join(names[u.net, u.interval] for u in gan.updates) == updates
    monkeypatch.setattr(stylegan_training, 'd_r1', lambda *args: (weights.append(args[6]), ({}, (jnp.zeros(2), {})))[1])
    batch = {'image': None, 'label': jnp.zeros(2, jnp.int32), 'index': jnp.arange(2)}
    state = types.SimpleNamespace(buffers={'d': None}, stats=augment.initial_stats(0.0))
    gan.updates[-1].loss(None, state, batch, jax.random.key(0), gan.stage_at(0, 0, 0))
    assert weights == [pytest.approx(r1)]
    assert (config.model.augment == 'ada') == (run in ('metfaces', 'cifar10,cond') or run.startswith('images'))
    assert gan.c_dim == (10 if 'cond' in run else 0) and config.data.labels == ('cond' in run)


@pytest.mark.parametrize('start, own, wanted', [(None, None, 500), ('runs/other', None, 100), ('runs/other', 70.0, 70)])
def test_augmentation_follows_faster_where_a_run_starts_from_another(start, own, wanted, monkeypatch):
    model = dataclasses.replace(TINY, augment='ada', ada_kimg=own)
    found = []

    def adapted(stats, step, batch_size, target, kimg):
        found.append(kimg)
        raise StopIteration

    monkeypatch.setattr(augment, 'adapted', adapted)
    gan = stylegan2.build(run_config(model, init_from=start))
    state = types.SimpleNamespace(stats={}, step=0)
    with pytest.raises(StopIteration):
        gan.updates[0].loss(None, state, {}, jax.random.key(0), gan.stage_at(0, 0, 0))
    assert found == [wanted]


def test_presets_that_exclude_each_other_are_refused():
    with pytest.raises(ConfigError, match='ffhq and beaches exclude each other'):
        load_config('configs/stylegan2.py:ffhq,beaches')
    with pytest.raises(ConfigError, match='beaches has no classes'):
        load_config('configs/stylegan2.py:beaches,cond')
    for words in ('tiny', 'cifar,tiny', 'auto,tiny'):
        assert load_config(f'configs/stylegan2.py:{words}').data.tfds == 'worlds'
