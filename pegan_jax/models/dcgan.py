"""DCGAN (Radford et al. 2016, arXiv 1511.06434), with and without zero padding and positional encodings.

The plain model is that of mmgeneration. Xu et al. 2021 (arXiv 2012.05217) study the one without padding, and what an
explicit encoding restores, but published no program for it; `Config.padding` says what it is here.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import encodings, losses, ops, optim
from pegan_jax.gan import GAN, Sampler, Stage, Update, latents, sample_normal, size_only
from pegan_jax.layers import BatchNorm
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

Encoding = Literal['none', 'csg', 'spe']


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset({'dtype'})


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the published program.

    img_resolution: side of the images, a power of two.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    z_dim: numbers of a latent.
    base_channels: channels of the generator at 4 x 4; every layer halves them.
    d_base_channels: channels of the discriminator's first layer; every layer doubles them.
    padding: 'zero' as published; 'none' replaces every transposed convolution after the first, which has no borders,
      by a bilinear resize from h to 2h + 2 pixels and an unpadded 3x3 convolution.
    encoding: positional encoding, appended to the 4 x 4 feature maps: the Cartesian grid (2 channels) or sinusoids (as
      many channels as the feature maps have).
    dtype: that of the inputs of convolutions, except the last of both networks, which give colours and logits.
    """

    img_resolution: int = 64
    img_channels: Literal[1, 3, 4] = 3
    z_dim: int = 100
    base_channels: int = 1024
    d_base_channels: int = 128
    padding: Literal['zero', 'none'] = 'zero'
    encoding: Encoding = 'none'
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('z_dim', 'base_channels', 'd_base_channels'):
            at_least(self, name, 1)
        check_resolution(self.img_resolution)
        if self.base_channels % 2**self.num_ups:
            raise ConfigError(
                f'model.base_channels={self.base_channels} cannot be halved for each of the {self.num_ups} layers up '
                f'to model.img_resolution={self.img_resolution}; use a multiple of {2**self.num_ups}.'
            )
        check_encoding(self.encoding, self.base_channels)

    @property
    def num_ups(self) -> int:
        """Layers of the generator after the first; each doubles the sides."""
        return int(math.log2(self.img_resolution // 4))


# What PGGAN needs too -------------------------------------------------------------------------------------------------


def check_resolution(resolution: int) -> None:
    """Raises ConfigError unless the side is a power of two of at least 8."""
    if resolution < 8 or resolution & (resolution - 1):
        raise ConfigError(f'model.img_resolution={resolution} must be a power of two of at least 8, such as 64.')


def check_encoding(encoding: str, channels: int) -> None:
    """Raises ConfigError for sinusoids if feature maps have too few channels, or not a multiple of four."""
    if encoding == 'spe' and (channels % 4 or channels < 8):
        raise ConfigError(
            f"model.encoding='spe' with {channels} channels of the first feature maps: each axis has half of them, "
            'sines and cosines; use a multiple of 4 of at least 8.'
        )


def append_encoding(x: jax.Array, encoding: Encoding) -> jax.Array:
    """Feature maps [N, h, w, C] followed by the encoding of their grid: 0, 2 or C channels more."""
    height, width, channels = x.shape[1:]
    if encoding == 'none':
        return x
    code = encodings.csg(height, width) if encoding == 'csg' else encodings.spe(height, width, channels // 2)
    return jnp.concatenate([x, jnp.broadcast_to(code[None], (len(x), *code.shape)).astype(x.dtype)], axis=-1)


def head_size(size: tuple[int, int] | None, img_resolution: int) -> tuple[int, int]:
    """(height, width) of the first feature maps for images of a size; None: that of training, 4 x 4.

    Raises: ValueError for sides that are not multiples of img_resolution / 4.
    """
    if size is None:
        return (4, 4)
    factor = img_resolution // 4
    if any(side < factor or side % factor for side in size):
        nearest = tuple(max(round(side / factor), 1) * factor for side in size)
        raise UserError(f'size={size}: each side doubles from a whole number; use multiples of {factor}: {nearest}.')
    return (size[0] // factor, size[1] // factor)


def sampler(model: Any, synthesise: Callable) -> Sampler:
    """The sampler of a model whose latents are its styles; its images have any size that `head_size` allows.

    synthesise: (model, variables, z, size) -> images.
    """
    return Sampler(
        draw=functools.partial(latents, z_dim=model.z_dim),
        synthesise=functools.partial(synthesise, model),
        options=('size',),
        view=size_only,
    )


def validate(config: Any) -> None:
    """Checks a whole run configuration. Raises ConfigError."""
    check_size(config)


def check_size(config: Any) -> None:
    """Raises ConfigError unless data have the size of the model, which is a DCGAN or a PGGAN."""
    data, side = config.data, config.model.img_resolution
    if data.size != (side, side):
        raise ConfigError(
            f'data.resolution={data.resolution} differs from model.img_resolution={side}: set both to the same size.'
        )


# Networks -------------------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """Convolution, then batch normalisation or a bias.

    conv: (x, kernel) -> y, in `dtype`.
    """

    features: int
    kernel_size: int
    conv: Callable
    norm: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        y = self.conv(x.astype(self.dtype), self.param('kernel', nn.initializers.normal(0.02), shape))
        if not self.norm:
            return ops.bias_act(y, self.param('bias', nn.initializers.zeros, (self.features,)))
        # The published program draws scales about 0, not about 1.
        return BatchNorm(nn.initializers.normal(1.0), self.axis_name, name='bn')(y, train)


def project(z: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution of one position, z [N, 1, 1, C] -> [N, k, k, D]."""
    return jnp.einsum('nc,hwcd->nhwd', z[:, 0, 0], kernel.astype(z.dtype))


def resize_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Twice the size without any padding: bilinear resize h -> 2h + 2, 3x3 convolution."""
    return ops.conv2d(ops.resize_align_corners(x, (2 * x.shape[1] + 2, 2 * x.shape[2] + 2)), kernel)


class Generator(nn.Module):
    """z [N, z_dim] -> images [N, H, W, img_channels] in [-1, 1]; norm statistics of all devices on `axis_name`.

    head: (height, width) of the first feature maps, to which those of training, 4 x 4, are stretched.
    """

    model: Config
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, train: bool, head: tuple[int, int] = (4, 4)) -> jax.Array:
        layer = functools.partial(Layer, axis_name=self.axis_name)
        inner = functools.partial(layer, dtype=jnp.dtype(self.model.dtype))
        if self.model.padding == 'none':
            size, conv = 3, resize_conv
        else:
            size, conv = 4, functools.partial(ops.conv_transpose2d, stride=2, padding=1)
        channels = self.model.base_channels
        x = inner(channels, 4, project, name='noise2feat')(z[:, None, None, :], train)
        x = append_encoding(ops.resize_align_corners(jax.nn.relu(x), head), self.model.encoding)
        for i in range(self.model.num_ups - 1):
            x = jax.nn.relu(inner(channels >> (i + 1), size, conv, name=f'upsampling_{i}')(x, train))
        return jnp.tanh(layer(self.model.img_channels, size, conv, norm=False, name='output_layer')(x, train))


class Discriminator(nn.Module):
    """Images [N, H, H, img_channels] -> logits [N]; norm statistics of all devices on `axis_name`."""

    model: Config
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = functools.partial(Layer, axis_name=self.axis_name)
        inner = functools.partial(layer, dtype=jnp.dtype(self.model.dtype))
        halve = functools.partial(ops.conv2d, stride=2, padding=1)
        for i in range(self.model.num_ups):
            x = inner(self.model.d_base_channels << i, 4, halve, norm=i > 0, name=f'downsamples_{i}')(x, train)
            x = jax.nn.leaky_relu(x, 0.01)
        with jax.default_matmul_precision('highest'):
            return layer(1, 4, ops.conv2d, norm=False, name='output_layer')(x, train)[:, 0, 0, 0]


def run(net: nn.Module, params: dict, stats: dict, *inputs: Any, train: bool) -> tuple[jax.Array, dict]:
    """The result of a network, and its running statistics, new ones if `train`."""
    out, new = net.apply({'params': params, 'batch_stats': stats}, *inputs, train, mutable=['batch_stats'])
    return out, new.get('batch_stats', {})


# The system -----------------------------------------------------------------------------------------------------------


def build(config: Any) -> GAN:
    """The GAN of a run configuration: D, then G, with the cross-entropy losses of Goodfellow et al. 2014.

    Every pass of training moves running statistics: G's in both updates, D's with fakes and real images separately.
    """
    model = config.model
    g, d = Generator(model, 'data'), Discriminator(model, 'data')

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        side = model.img_resolution
        both = {
            'g': g.init(g_key, jnp.zeros((1, model.z_dim)), True),
            'd': d.init(d_key, jnp.zeros((1, side, side, model.img_channels)), True),
        }
        params, stats = ({net: both[net].get(part, {}) for net in both} for part in ('params', 'batch_stats'))
        return params, stats, {}

    def d_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z = sample_normal(key, batch['index'], (model.z_dim,))
        fake, g_stats = run(g, state.params['g'], state.buffers['g'], z, train=True)
        on_fake, d_stats = run(d, params, state.buffers['d'], fake, train=True)
        on_real, d_stats = run(d, params, d_stats, batch['image'], train=True)
        loss = losses.logistic_d(on_real, on_fake)
        metrics = {'loss/d': loss, 'logits/real': jnp.mean(on_real), 'logits/fake': jnp.mean(on_fake)}
        return loss, ({'buffers': {'g': g_stats, 'd': d_stats}}, metrics)

    def g_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z = sample_normal(key, batch['index'], (model.z_dim,))
        fake, g_stats = run(g, params, state.buffers['g'], z, train=True)
        on_fake, d_stats = run(d, state.params['d'], state.buffers['d'], fake, train=True)
        loss = losses.logistic_g(on_fake)
        return loss, ({'buffers': {'g': g_stats, 'd': d_stats}}, {'loss/g': loss})

    return GAN(
        init=init,
        updates=(Update('d', d_loss), Update('g', g_loss)),
        optimizers={'g': optim.adam(config.optim, config.optim.g_lr), 'd': optim.adam(config.optim, config.optim.d_lr)},
        sampler=sampler(model, synthesise),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
    )


def synthesise(model: Config, variables: dict, z: jax.Array, *, size: tuple[int, int] | None = None) -> jax.Array:
    """Images of latents, normalised by running statistics.

    Args:
      variables: {'params', 'buffers'} of the generator; z: [N, z_dim].
      size: (height, width), multiples of img_resolution / 4. The first feature maps are stretched to it; the Cartesian
        grid stretches with them, sinusoids continue at their step.
    Returns: [N, *size, img_channels] float32 in [-1, 1].
    Raises: ValueError for other sizes.
    """
    head = head_size(size, model.img_resolution)
    return Generator(model).apply({'params': variables['params'], 'batch_stats': variables['buffers']}, z, False, head)
