"""Grey, RGB and RGBA images in every system: what goes in, what comes out, what writes and shows it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax.config import Config, DataConfig, load_config, system_module
from pegan_jax.gan import images_of
from pegan_jax.models import SYSTEMS
from pegan_jax.train.report import abstract_inputs
from pegan_jax.train.state import create_state

OTHERS = sorted(set(SYSTEMS) - {'singan', 'waves'})  # SinGAN knows its sizes when it has read its image


def tiny(system, channels, *words):
    """The :tiny configuration of a system for images of so many channels."""
    changes = [f'model.img_channels={channels}', f'data.channels={channels}']
    return load_config(f'{system}:{",".join((*words, "tiny"))}', changes)


@functools.cache
def shapes(system, channels):
    """(shapes of a new state, shape of two images)."""
    config = tiny(system, channels)
    gan = system_module(system).build(config)
    state = jax.eval_shape(functools.partial(create_state, gan, 0))
    images = jax.eval_shape(functools.partial(images_of, gan), state.sampling, abstract_inputs(gan, config, 2))
    return state, images.shape


@pytest.mark.parametrize('system', OTHERS)
def test_images_have_the_channels_that_the_configuration_says_and_few_layers_know_of_it(system):
    (rgb, size), (grey, _), (rgba, _) = (shapes(system, n) for n in (3, 1, 4))
    for channels in (1, 4):
        assert shapes(system, channels)[1] == (*size[:-1], channels)
    # Axes that images come in or go out by grow with their channels; all others stay.
    for net in rgb.params:
        of = [[x.shape for x in jax.tree.leaves(state.params[net])] for state in (grey, rgb, rgba)]
        axes = list(zip(*([n for shape in shapes for n in shape] for shapes in of), strict=True))
        grown = [(a, b, c) for a, b, c in axes if not a == b == c]
        assert grown and all(b - a == 2 and c - b == 1 for a, b, c in grown)


@pytest.mark.parametrize(('cnum', 'channels'), [(12, 3), (4, 1)])
def test_a_layer_of_as_many_features_as_an_image_has_channels_keeps_its_gate(cnum, channels):
    deepfill = system_module('deepfill')
    model = deepfill.Config(img_resolution=8, img_channels=channels, cnum=cnum)
    image, mask = jnp.zeros((1, 8, 8, channels)), jnp.zeros((1, 8, 8, 1))
    init = functools.partial(deepfill.Generator(model).init, mutable=['params', 'gates'])
    variables = jax.eval_shape(init, jax.random.key(0), image, mask)
    assert cnum // 4 == channels
    assert variables['params']['conv16']['bias'].shape == (2 * channels,)
    assert variables['params']['conv17']['bias'].shape == (channels,)
    assert 'conv16' in variables['gates'] and 'conv17' not in variables['gates']


def test_vgg_sees_a_grey_image_as_colours(monkeypatch):
    pconv = system_module('pconv')
    seen = []

    def pools(params, images):
        seen.append(images)
        return (images[:, ::2, ::2],)

    monkeypatch.setattr(pconv.features, 'load_vgg', lambda path: {})
    monkeypatch.setattr(pconv.features, 'vgg_pools', pools)
    model = pconv.Config(img_resolution=8, img_channels=1, channel_base=4, vgg='weights.pth')
    config = Config('pconv', model, DataConfig(resolution=8, channels=1))
    gan = pconv.build(config)
    state = create_state(gan, 0)
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)), jnp.float32)
    batch = {'image': image, 'mask': jnp.zeros((1, 8, 8, 1)).at[:, 2:5, 2:5].set(1)}
    loss = jax.vmap(
        lambda params: gan.updates[0].loss(params, state, batch, jax.random.key(0), None)[0], axis_name='data'
    )
    jax.eval_shape(loss, jax.tree.map(lambda x: x[None], state.params['g']))
    assert [x.shape for x in seen] == [(6, 8, 8, 3)]
