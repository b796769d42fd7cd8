"""A GAN of coordinates as small as can be: a complete example of a system, for the trainer and for all samplers.

A pixel is a function of its coordinate and a style, as in CIPS; the discriminator sees whole images. Dense networks,
SGD, no batch statistics: sums and means over devices show in it.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from pegan_jax import coords, losses
from pegan_jax.gan import GAN, Sampler, Stage, Update, latents, sample_normal
from pegan_jax.layers import mean_w
from pegan_jax.settings import ConfigError, at_least, check_types

TRAINING_FIELDS = frozenset({'noise'})  # what a run may change between launches: not what the model is


@dataclass(frozen=True)
class Config:
    """The section `model` of a run's configuration.

    img_resolution: side of the images; img_channels: 1 is grey, 3 RGB, 4 RGBA; z_dim: size of a latent; width: of the
      layers; noise: deviation of the noise that real images get.
    """

    img_resolution: int = 8
    img_channels: Literal[1, 3, 4] = 3
    z_dim: int = 3
    width: int = 8
    noise: float = 0.3

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('img_resolution', 'z_dim', 'width'):
            at_least(self, name, 1)


def validate(config: Any) -> None:
    """Checks a whole run configuration whose model is a `Config`. Raises ConfigError."""
    side = config.model.img_resolution
    if config.data.size != (side, side):
        raise ConfigError(f'data.resolution={config.data.resolution} differs from model.img_resolution={side}.')


def map_latents(variables: dict, z: jax.Array, c: None = None) -> jax.Array:
    """Styles [N, width] of latents [N, z_dim]."""
    return jnp.tanh(z @ variables['params']['style'])


def synthesise(model: Config, variables: dict, w: jax.Array, grid: jax.Array | None = None) -> jax.Array:
    """Images [N, ..., C] of styles [N, width] at coordinates [..., 2]; None: those of the training images."""
    grid, params = coords.grid(*2 * (model.img_resolution,)) if grid is None else grid, variables['params']
    waves = jnp.sin(w[:, None] + (3 * grid.reshape(-1, 2) @ params['xy'])[None])
    return jnp.tanh(waves @ params['rgb']).reshape(len(w), *grid.shape[:-1], model.img_channels)


def score(params: dict, images: jax.Array) -> jax.Array:
    """Logits [b] of images [b, H, W, C]."""
    return jnp.tanh(images.reshape(len(images), -1) @ params['hidden']) @ params['out']


def build(config: Any) -> GAN:
    """The GAN of a run configuration: D, R1 in every second step, G."""
    model = config.model

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        keys, width, channels = jax.random.split(key, 5), model.width, model.img_channels
        shapes = {'style': (model.z_dim, width), 'xy': (2, width), 'rgb': (width, channels)}
        g = {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=False)}
        numbers = channels * model.img_resolution**2
        d = {'hidden': jax.random.normal(keys[3], (numbers, width)) / 7, 'out': jax.random.normal(keys[4], (width,))}
        return {'g': g, 'd': d}, {'g': {}, 'd': {}}, {'mean_logit': jnp.float32(0)}

    def fakes(params: dict, batch: dict, key: jax.Array) -> jax.Array:
        variables, z = {'params': params}, sample_normal(key, batch['index'], (model.z_dim,))
        return synthesise(model, variables, map_latents(variables, z))

    def d_main(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        real_key, fake_key = jax.random.split(key)
        noise = model.noise * sample_normal(real_key, batch['index'], batch['image'].shape[1:])
        real, fake = score(params, batch['image'] + noise), score(params, fakes(state.params['g'], batch, fake_key))
        loss = losses.logistic_d(real, fake)
        stats = {'mean_logit': 0.9 * state.stats['mean_logit'] + 0.1 * jnp.mean(real)}
        return loss, ({'stats': stats}, {'loss/d': loss})

    def d_r1(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        loss = losses.r1_penalty(functools.partial(score, params), batch['image'])
        return loss, ({}, {'loss/r1': loss})

    def g_main(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        loss = losses.logistic_g(score(state.params['d'], fakes(params, batch, key)))
        return loss, ({}, {'loss/g': loss})

    return GAN(
        init=init,
        updates=(Update('d', d_main), Update('d', d_r1, interval=2), Update('g', g_main)),
        optimizers={'g': optax.sgd(config.optim.g_lr), 'd': optax.sgd(config.optim.d_lr, momentum=0.5)},
        sampler=Sampler(
            draw=functools.partial(latents, z_dim=model.z_dim),
            synthesise=functools.partial(synthesise, model),
            map=map_latents,
            w_avg=functools.partial(mean_w, map_latents, model.z_dim),
            options=('grid',),
            pixelwise=True,
        ),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
        ema=lambda nimg, step: jnp.minimum(0.9, nimg / (nimg + 32.0)),
    )
