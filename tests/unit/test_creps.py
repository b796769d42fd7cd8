"""CREPS: what lines can do, what they cannot, and what the published arrays without a use are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords
from pegan_jax.config import ConfigError, load_config, system_module
from pegan_jax.models import creps
from pegan_jax.settings import UserError

SIZE = (16, 16)


@functools.cache
def network():
    """(run, variables) of the tiny model; run(**options) makes two images."""
    model = load_config('creps:tiny').model
    module = creps.Generator(model)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, model.z_dim)))
    ws = module.apply(variables, jax.random.normal(jax.random.key(1), (2, model.z_dim)), method='map')
    run = jax.jit(functools.partial(module.apply, method='synthesise'), static_argnames='size')
    return functools.partial(run, variables, ws), variables


def test_finer_images_go_through_the_same_pixels():
    run, _ = network()
    images, finer = run(), run(size=(31, 46), transform=coords.zoom(3.0, 2.0))
    np.testing.assert_allclose(finer[:, ::2, ::3], images, atol=2e-5)
    assert float(jnp.std(images)) > 0.05 < float(jnp.std(finer[:, 1::2, 1::3] - images[:, :-1, :-1]))


def test_a_shift_by_whole_pixels_moves_pixels():
    run, _ = network()
    images = run()
    moved = run(transform=coords.translate(3 / 16, -2 / 16))
    np.testing.assert_allclose(moved[:, :-2, 3:], images[:, 2:, :-3], atol=2e-5)
    larger = run(size=(18, 20))
    np.testing.assert_allclose(larger[:, 1:-1, 2:-2], images, atol=2e-5)
    rows, columns = creps.positions(SIZE, SIZE, coords.zoom(0.5, 2.0))
    np.testing.assert_allclose([rows[0], rows[-1], columns[0], columns[-1]], [0.25, 0.75, -0.5, 1.5], atol=1e-6)


def test_a_shorter_side_is_the_unit():
    trained = (8, 24)
    rows, columns = creps.positions(trained, trained, coords.translate(1 / 8, 1 / 8))
    np.testing.assert_allclose(rows * 7, np.arange(8) - 1, atol=1e-5)
    np.testing.assert_allclose(columns * 23, np.arange(24) - 1, atol=1e-5)


def test_rotations_are_refused_by_name():
    assert creps.view((8, 9), None) == {'size': (8, 9)}
    for matrix in (coords.rotate(0.3), np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]], np.float32)):
        with pytest.raises(UserError, match='not turned or sheared; leave the rotation out, or use cips or stylegan3'):
            creps.view(None, matrix)


def test_an_image_is_the_same_alone_and_beside_another():
    w, x = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(((2, 5), (2, 7, 4))))
    rows = jnp.linspace(0.0, 1.0, 3)
    layer, lines = creps.Layer(6), creps.LineInput(4, 2, 1.0)
    for module, inputs in ((layer, lambda n: (x[n], w[n])), (lines, lambda n: (w[n], rows, rows))):
        variables = module.init(jax.random.key(2), *inputs(slice(2)))
        both, *alone = (module.apply(variables, *inputs(n)) for n in (slice(2), slice(1), slice(1, 2)))
        assert both.shape[0] == 2
        np.testing.assert_allclose(jnp.concatenate(alone), both, atol=1e-6)


def test_two_published_parts_have_no_use():
    """`tores` of the first block and the decoder of the second are arrays of a file, and change no image."""
    run, variables = network()

    def total(params):
        return jnp.sum(jnp.square(run.func({**variables, 'params': params}, run.args[1])))

    grads = jax.grad(total)(variables['params'])['synthesis']
    unused = (grads['b4'].pop('tores'), grads.pop('decoder_8'))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(unused))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_the_first_block_needs_an_even_width():
    with pytest.raises(ConfigError, match='gives the first block 7 channels, half of them sines'):
        creps.Config(img_resolution=16, channel_base=64, channel_max=7)


def test_published_networks_have_their_published_sizes():
    model = load_config('creps:ffhq512').model
    assert model.widths == (1024, 1024, 1024, 1024, 1024, 512, 256, 128)
    assert creps.Generator(model).num_ws == 17 and model.r1_gamma == 8.2
    config = load_config('creps:tiny')
    gan = system_module('creps').build(config)
    assert [update.net for update in gan.updates] == ['g', 'g', 'd', 'd']
