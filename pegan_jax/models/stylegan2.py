"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): the residual discriminator, which CIPS and others share."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax.layers import EqualConv, EqualDense, lrelu, minibatch_std


def num_halvings(size: tuple[int, int]) -> int:
    """How often the discriminator halves (height, width) until the shorter side has 4 to 7 pixels.

    Raises: ValueError unless both sides can be halved that often.
    """
    halvings = math.floor(math.log2(min(size) / 4)) if min(size) >= 4 else -1
    if halvings < 1 or any(side % 2**halvings for side in size):
        raise ValueError(
            f'the discriminator cannot take images of {size[0]} x {size[1]}: sides must be at least 8, halving both '
            'until the shorter one has 4 to 7 pixels must leave whole numbers; use for example 64, 96, (64, 96) or 256.'
        )
    return halvings


class DiscriminatorBlock(nn.Module):
    """x [b, H, W, C] -> [b, H/2, W/2, features]: two 3x3 convolutions beside a 1x1 shortcut, their sum over sqrt(2).

    hidden, when given, makes this the top block, whose input is images: they first pass `fromrgb` and
    `num_first_layers` more 3x3 convolutions (first0, first1, ...), of `hidden` features.
    """

    features: int
    hidden: int | None = None
    num_first_layers: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.hidden is not None:
            x = EqualConv(self.hidden, 1, dtype=self.dtype, name='fromrgb')(x)
            for i in range(self.num_first_layers):
                x = EqualConv(self.hidden, 3, dtype=self.dtype, name=f'first{i}')(x)
        shortcut = EqualConv(self.features, 1, down=2, activate=False, dtype=self.dtype, name='skip')(x)
        x = EqualConv(x.shape[-1], 3, dtype=self.dtype, name='conv0')(x)
        x = EqualConv(self.features, 3, down=2, dtype=self.dtype, name='conv1')(x)
        return (x + shortcut) * math.sqrt(0.5)


class DiscriminatorEpilogue(nn.Module):
    """x [b, h, w, C] -> logits [b], in float32: minibatch standard deviation, 3x3 convolution, two dense layers."""

    mbstd_group_size: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        x = EqualConv(features, 3, name='conv')(minibatch_std(x, self.mbstd_group_size))
        x = lrelu(EqualDense(features, name='fc')(x.reshape(x.shape[0], -1)))
        return EqualDense(1, name='out')(x)[:, 0]


class Discriminator(nn.Module):
    """Residual discriminator: images [b, H, W, C] in [-1, 1] -> logits [b] float32.

    Blocks are named after the side they take, b256 ... b8 and b4, rounded down to a power of two. The FIR kernels of
    the downsampling layers are in the 'buffers' collection.

    channels: widths at the input's resolution, at half of it, and so on down to the last.
    num_first_layers: extra 3x3 convolutions after the first, as some CIPS discriminators have.
    mbstd_group_size: samples per group of the minibatch standard deviation; a smaller batch is one group.
    Raises: ValueError, when traced, for image sizes or batches that do not fit.
    """

    channels: tuple[int, ...]
    num_first_layers: int = 0
    mbstd_group_size: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        halvings = num_halvings(images.shape[1:3])
        if len(self.channels) != halvings + 1:
            raise ValueError(
                f'the discriminator has {len(self.channels)} widths {self.channels}, but images of {images.shape[1]} x '
                f'{images.shape[2]} need {halvings + 1}.'
            )
        x = images
        for i, features in enumerate(self.channels[1:]):
            top = {'hidden': self.channels[0], 'num_first_layers': self.num_first_layers} if i == 0 else {}
            x = DiscriminatorBlock(features, dtype=self.dtype, name=f'b{4 * 2 ** (halvings - i)}', **top)(x)
        return DiscriminatorEpilogue(self.mbstd_group_size, name='b4')(x)
