"""Projection into w and w+: the latent of a generated image is found again."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pegan_jax import projection, sample
from pegan_jax.config import load_config, system_module
from pegan_jax.projection import plain_distance, project
from pegan_jax.sampling import Model, of_styles


@functools.cache
def model(name='stylegan2:tiny'):
    config = load_config(name)
    gan = system_module(config.system).build(config)
    params, buffers, _ = jax.jit(gan.init)(jax.random.key(0))
    return Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)


def psnr(a, b):
    return 10 * np.log10(4 / np.mean((a - b) ** 2))


@pytest.mark.parametrize('name, space', [('stylegan2:tiny', 'w'), ('cips:tiny', 'w+')])
def test_the_latent_of_a_generated_image_is_found(name, space):
    loaded = model(name)
    loaded = dataclasses.replace(loaded, variables=jax.device_get(loaded.variables))  # as of a checkpoint
    target = sample(loaded, [3])[0]
    steps = []
    found = project(loaded, target, space=space, steps=250, watch=lambda i, far, image: steps.append(far))
    start = of_styles(loaded, np.asarray(loaded.w_avg)[None])[0]
    assert psnr(found.image, target) > psnr(start, target) + 10 and psnr(found.image, target) > 22
    assert len(steps) == 250 and found.distance < 0.1 * steps[0] and 'gradients' in found.measure
    assert found.ws.shape == (loaded.num_ws, loaded.w_avg.shape[-1])
    assert (found.ws == found.ws[:1]).all() == (space == 'w')
    # The styles give the image again, with the noise that was found.
    again = of_styles(dataclasses.replace(loaded, variables=found.variables), found.ws[None])[0]
    np.testing.assert_allclose(again, found.image, atol=1e-4)


def test_distances_see_colours_and_edges_at_every_size():
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    assert float(plain_distance(image, image)[0]) == 0
    np.testing.assert_allclose(plain_distance(image, image + 0.5), [0.25], rtol=1e-5)  # edges are the same
    fine = image + 0.5 * (-1) ** np.arange(32)[None, None, :, None]
    # At the full size 0.25 and, of neighbours that differ by 1, 1; at smaller sizes nothing is left of it.
    np.testing.assert_allclose(plain_distance(image, fine), [1.25 / 3], rtol=1e-4)


def test_noise_maps_stay_white():
    noise = projection._normalised(jax.random.normal(jax.random.key(0), (16, 16)) + 3)
    np.testing.assert_allclose((noise.mean(), (noise**2).mean()), (0, 1), atol=1e-5)
    smooth = projection._normalised(np.sin(np.arange(16) / 16 * 2 * np.pi)[:, None] * np.ones((1, 16), np.float32))
    assert projection._correlations(smooth) > 20 * projection._correlations(noise)


def test_what_cannot_be_projected_is_told():
    with pytest.raises(ValueError, match='dcgan has no w to project into; use stylegan2'):
        project(model('dcgan:tiny'), np.zeros((32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r'the image is \(8, 9, 3\), but the model makes'):
        project(model(), np.zeros((8, 9, 3), np.float32))
    with pytest.raises(ValueError, match="space='z'"):
        project(model(), np.zeros((16, 16, 3), np.float32), space='z')
