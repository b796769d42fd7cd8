"""DCGAN: where position comes from, sampling sizes, training, errors. PGGAN's sampling sizes are tested with it."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax.config import Config, ConfigError, DataConfig, load_config
from pegan_jax.models import dcgan
from pegan_jax.sampling import Model, interpolate, sample, style_mix

SHAPES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'positional_encoding_gans' / 'pggan_dcgan_shapes.json'
SMALL = {'img_resolution': 16, 'z_dim': 5, 'base_channels': 8, 'd_base_channels': 4}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def generator(padding='zero', encoding='none', alike=False):
    """(model, variables) with random weights; alike: every position of the first feature maps has the same."""
    model = dcgan.Config(padding=padding, encoding=encoding, **SMALL)
    init = jax.jit(dcgan.Generator(model).init, static_argnums=2)
    variables = init(jax.random.key(0), jnp.zeros((1, model.z_dim)), True)
    params = jax.tree.map(lambda w: 10 * w if w.ndim == 4 else w, variables['params'])
    if alike:
        kernel = params['noise2feat']['kernel']
        params['noise2feat']['kernel'] = jnp.broadcast_to(kernel[:1, :1], kernel.shape)
    return model, {'params': params, 'buffers': variables['batch_stats']}


def pictures(padding='zero', encoding='none', alike=False, size=None):
    model, variables = generator(padding, encoding, alike)
    z = jax.random.normal(jax.random.key(1), (2, model.z_dim))
    return np.asarray(
        jax.jit(dcgan.synthesise, static_argnums=(0,), static_argnames='size')(model, variables, z, size=size)
    )


def off_centre(images):
    """Which pixels [H, W] differ from the middle."""
    h, w = images.shape[1:3]
    return np.max(np.abs(images - images[:, h // 2 : h // 2 + 1, w // 2 : w // 2 + 1]), axis=(0, 3)) > 1e-4


def test_parameters_are_as_many_as_published():
    published = json.loads(SHAPES.read_text())['configs']['dcgan_64']
    gan = dcgan.build(Config('dcgan', dcgan.Config(), DataConfig(resolution=64)))
    params, stats, _ = jax.eval_shape(gan.init, jax.random.key(0))
    assert count(params['g']) == published['generator_params']
    assert count(params['d']) == published['discriminator_params']
    assert count(stats['g']) == 2 * (1024 + 512 + 256 + 128) and count(stats['d']) == 2 * (256 + 512 + 1024)


def test_without_padding_only_an_encoding_tells_positions_apart():
    assert not off_centre(pictures('none', 'none', alike=True)).any()
    padded = off_centre(pictures('zero', 'none', alike=True, size=(64, 64)))
    assert padded[:4].any() and padded[:, -4:].any() and not padded[24:40:4, 24:40:4].any()
    for encoding in ('csg', 'spe'):
        assert off_centre(pictures('none', encoding, alike=True)).mean() > 0.9


def test_in_a_larger_image_sinusoids_go_on_and_the_cartesian_grid_stretches():
    # Transposed convolutions do the same at every position, so codes that stay keep their content.
    shared = (slice(None), slice(0, 10), slice(0, 10))
    for encoding, stays in (('spe', True), ('csg', False)):
        small, large = (pictures('zero', encoding, alike=True, size=size) for size in ((16, 16), (16, 32)))
        assert np.allclose(small[shared], large[shared], atol=1e-5) == stays
    assert np.ptp(pictures('zero', 'csg', alike=True)) > 0.01


def test_an_unpadded_layer_doubles_each_side():
    assert dcgan.resize_conv(jnp.zeros((1, 3, 5, 2)), jnp.zeros((3, 3, 2, 4))).shape == (1, 6, 10, 4)


@pytest.mark.parametrize('padding', ['zero', 'none'])
def test_images_have_any_multiple_of_the_smallest_size(padding):
    model, variables = generator(padding, 'spe')
    assert pictures(padding, 'spe', size=(8, 28)).shape == (2, 8, 28, 3)
    np.testing.assert_array_equal(pictures(padding, 'spe', size=(16, 16)), pictures(padding, 'spe'))
    with pytest.raises(ValueError, match=r'size=\(16, 30\).*multiples of 4: \(16, 32\)'):
        dcgan.synthesise(model, variables, jnp.zeros((1, 5)), size=(16, 30))
    with pytest.raises(ValueError, match=r'multiples of 4: \(4, 16\)'):
        dcgan.synthesise(model, variables, jnp.zeros((1, 5)), size=(0, 16))


def test_options_that_the_model_does_not_have_are_refused():
    model, variables = generator()
    config = Config('dcgan', model, DataConfig(resolution=16))
    trained = Model(config, dcgan.build(config), variables, 0)
    with pytest.raises(ValueError, match='dcgan takes no grid when sampling; it takes size'):
        sample(trained, [0], grid=jnp.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match='no coordinates to transform; choose a size'):
        sample(trained, [0], transform=jnp.eye(3))
    with pytest.raises(ValueError, match='dcgan has no mean style to truncate towards'):
        sample(trained, [0], truncation_psi=0.5)
    with pytest.raises(ValueError, match='dcgan has one style per image: none to mix'):
        style_mix(trained, [0], [1], [0])
    halfway = interpolate(trained, 0, 1, 3)[1]
    np.testing.assert_allclose(
        halfway, trained.synthesise(trained.sampler.draw([0, 1]).mean(axis=0, keepdims=True))[0], atol=1e-5
    )


def test_evaluation_has_nothing_of_the_batch():
    model, variables = generator()
    z = jax.random.normal(jax.random.key(1), (2, model.z_dim))
    np.testing.assert_allclose(dcgan.synthesise(model, variables, z[1:])[0], pictures()[1], atol=1e-5)


def test_weights_begin_as_published():
    model = dcgan.Config(base_channels=4096, img_resolution=8)
    init = jax.jit(dcgan.Generator(model).init, static_argnums=2)
    params = init(jax.random.key(0), jnp.zeros((1, 100)), True)['params']
    scale = np.asarray(params['noise2feat']['bn']['scale'])
    assert abs(scale.mean()) < 0.1 and scale.std() == pytest.approx(1, abs=0.05)
    assert np.std(params['noise2feat']['kernel']) == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'img_resolution': 48}, 'img_resolution=48 must be a power of two'),
        ({'img_resolution': 4}, 'img_resolution=4 must be a power of two of at least 8'),
        ({'base_channels': 6}, 'base_channels=6 cannot be halved for each of the 2 layers'),
        ({'base_channels': 4, 'encoding': 'spe'}, "encoding='spe' with 4 channels"),
        ({'z_dim': 0}, 'z_dim=0 must be at least 1'),
        ({'padding': 'reflect'}, "padding='reflect'"),
    ],
)
def test_bad_settings_are_named(changes, match):
    with pytest.raises(ConfigError, match=match):
        dcgan.Config(**(SMALL | changes))


def test_settings_around_the_model_are_checked():
    with pytest.raises(ConfigError, match=r'differs from model\.img_resolution=16'):
        Config('dcgan', dcgan.Config(**SMALL), DataConfig(resolution=32))


def test_the_published_runs_are_arguments():
    mnist = load_config('dcgan:mnist64,no-pad,spe')
    assert (mnist.optim.g_lr, mnist.optim.d_lr, mnist.train.total_steps) == (4e-4, 1e-4, 5000)
    assert (mnist.model.padding, mnist.model.encoding) == ('none', 'spe')
    assert load_config('dcgan').train.total_steps == 300_002
    for words in ('csg,spe', 'celeba64,mnist64'):
        with pytest.raises(ConfigError, match='exclude each other'):
            load_config(f'dcgan:{words}')
