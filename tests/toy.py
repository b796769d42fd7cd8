"""A GAN of two small dense networks without batch statistics, trained with SGD: sums and means over devices show in it.

It is also a system (`Config`, `validate`, `build`), so that the loop can be tested without waiting for a compiler.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax import config as configs
from pegan_jax.gan import GAN, Stage, Update, sample_normal
from pegan_jax.models import SYSTEMS

Z, SIDE = 3, 8


def _g(params, z):
    h = jnp.tanh(z @ params['a'])
    return jnp.tanh(h @ params['b']).reshape(-1, SIDE, SIDE, 3)


def _d(params, image):
    h = jnp.tanh(image.reshape(len(image), -1) @ params['a'])
    return h @ params['b']


def toy_gan(lr=0.02):
    def init(key):
        k = jax.random.split(key, 4)
        n = SIDE * SIDE * 3
        normal = jax.random.normal
        g = {'a': normal(k[0], (Z, 8)), 'b': normal(k[1], (8, n)) / 3}
        d = {'a': normal(k[2], (n, 8)) / 7, 'b': normal(k[3], (8,))}
        return {'g': g, 'd': d}, {'g': {}, 'd': {}}, {'mean_logit': jnp.float32(0)}

    def fake(params, batch, key):
        return _g(params, sample_normal(key, batch['index'], (Z,)))

    def d_main(params, state, batch, key, stage):
        # Noise on the real images, so that it matters which image is at which row.
        noise = sample_normal(jax.random.fold_in(key, 1), batch['index'], (SIDE, SIDE, 3))
        real, fakes = _d(params, batch['image'] + 0.3 * noise), _d(params, fake(state.params['g'], batch, key))
        loss = jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fakes))
        stats = {'mean_logit': 0.9 * state.stats['mean_logit'] + 0.1 * jnp.mean(real)}
        return loss, ({'stats': stats}, {'loss/d': loss})

    def d_r1(params, state, batch, key, stage):
        grads = jax.grad(lambda x: jnp.sum(_d(params, x)))(batch['image'])
        loss = jnp.mean(jnp.sum(jnp.square(grads), axis=(1, 2, 3)))
        return loss, ({}, {'loss/r1': loss})

    def g_main(params, state, batch, key, stage):
        loss = jnp.mean(jax.nn.softplus(-_d(state.params['d'], fake(params, batch, key))))
        return loss, ({}, {'loss/g': loss})

    return GAN(
        init=init,
        updates=(Update('d', d_main), Update('d', d_r1, interval=2), Update('g', g_main)),
        optimizers={'g': optax.sgd(lr), 'd': optax.sgd(lr, momentum=0.5)},
        sample=lambda variables, z: _g(variables['params'], z),
        stage_at=lambda step, nimg, seed: Stage(SIDE),
        ema=lambda nimg, step: jnp.minimum(0.9, nimg / (nimg + 32.0)),
    )


def toy_batch(step, size):
    """uint8 images [size, SIDE, SIDE, 3], equal on every process."""
    return np.random.default_rng(step).integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)


def assert_equal_up_to_rounding(got, want, name=''):
    """Sums in another order: within 1e-4 of the largest entry. A factor or other random numbers are far outside."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max() + 1e-6, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Config:
    """The toy as a system."""

    z_dim: int = Z
    width: int = 8


def validate(config):
    """Nothing to check."""


def build(config):
    """The GAN of a run configuration."""
    return toy_gan(config.optim.g_lr)


SYSTEMS['toy'] = sys.modules[__name__]


def get_config(arg=''):
    """This file is a configuration file too; the argument is the image folder."""
    return configs.Config(
        system='toy',
        model=Config(),
        data=configs.DataConfig(folder=arg or None, resolution=SIDE),
        optim=configs.OptimConfig(g_lr=0.02, d_lr=0.02),
        train=configs.TrainConfig(
            batch_size=8,
            total_kimg=0.08,
            log_every=2,
            sample_every=0,
            checkpoint_every=4,
            keep_best=0,
            sample_grid=(2, 2),
        ),
    )
