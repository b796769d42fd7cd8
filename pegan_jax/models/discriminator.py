"""StyleGAN2's discriminator (Karras et al. 2020, arXiv 1912.04958), for CIPS, CREPS and StyleGAN3 too.

MS-PIE uses its blocks. Residual blocks halve the image until its shorter side has 4 to 7 pixels; square sides are
powers of two as published.
"""

import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import filters, ops
from pegan_jax.layers import EqualConv, EqualDense, MappingNetwork, lrelu, minibatch_std
from pegan_jax.settings import UserError


def num_halvings(size: tuple[int, int]) -> int:
    """How often the discriminator halves (height, width) until the shorter side has 4 to 7 pixels.

    Raises: ValueError unless both sides can be halved that often.
    """
    halvings = math.floor(math.log2(min(size) / 4)) if min(size) >= 4 else -1
    if halvings < 1 or any(side % 2**halvings for side in size):
        raise UserError(
            f'the discriminator cannot take images of {size[0]} x {size[1]}: sides must be at least 8, halving both '
            'until the shorter one has 4 to 7 pixels must leave whole numbers; use for example 64, 96, (64, 96) or 256.'
        )
    return halvings


def widths(size: tuple[int, int], channel_base: int, channel_max: int) -> tuple[int, ...]:
    """Channels at 4 pixels on the shorter side, rounded down to a power of two, at 8, and so on up to the size."""
    return tuple(min(channel_base // (4 * 2**i), channel_max) for i in range(num_halvings(size) + 1))


class DiscriminatorBlock(nn.Module):
    """(x [b, H, W, hidden] or None, images or None) -> (x [b, H/2, W/2, features], images of the next block or None).

    'resnet': two 3x3 convolutions beside a 1x1 shortcut, their sum over sqrt(2). 'skip' has no shortcut, but the
    images, halved from block to block, enter every block through `fromrgb`. 'orig' has neither. The first block, whose
    x is None, takes images in every architecture, and may have more 3x3 convolutions after `fromrgb` (first0, ...).

    frozen: names of the layers that are not trained.
    Other fields as in `Discriminator`.
    """

    hidden: int
    features: int
    architecture: Literal['resnet', 'skip', 'orig'] = 'resnet'
    num_first_layers: int = 0
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    frozen: tuple[str, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | None, images: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        def conv(name: str, features: int, size: int, x: jax.Array, **options: Any) -> jax.Array:
            options = {'clamp': self.conv_clamp} | options
            trainable = name not in self.frozen
            return EqualConv(features, size, trainable=trainable, dtype=self.dtype, name=name, **options)(x)

        if images is not None:
            rgb = conv('fromrgb', self.hidden, 1, images)
            x = rgb if x is None else x.astype(self.dtype) + rgb
            for i in range(self.num_first_layers):
                x = conv(f'first{i}', self.hidden, 3, x)
        down = {'down': 2, 'resample_filter': self.resample_filter}
        if self.architecture == 'resnet':
            gain = math.sqrt(0.5)
            shortcut = conv('skip', self.features, 1, x, activate=False, clamp=None, gain=gain, **down)
            x = conv('conv0', self.hidden, 3, x)
            return conv('conv1', self.features, 3, x, gain=gain, **down) + shortcut, None
        x = conv('conv0', self.hidden, 3, x)
        x = conv('conv1', self.features, 3, x, **down)
        if self.architecture == 'orig':
            return x, None
        fir = self.variable('buffers', 'resample_filter', filters.setup_filter, self.resample_filter).value
        return x, ops.downsample2d(images, fir)


class DiscriminatorEpilogue(nn.Module):
    """x [b, h, w, C] -> [b, out_features] float32: minibatch standard deviation, 3x3 convolution, two dense layers.

    Always float32, even inside matmuls. With images, as in 'skip', `fromrgb` adds them to x. Fields and `batches` as in
    `Discriminator`.
    """

    out_features: int = 1
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1
    conv_clamp: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, images: jax.Array | None = None, batches: int = 1) -> jax.Array:
        features, x = x.shape[-1], x.astype(jnp.float32)
        if images is not None:
            x = x + EqualConv(features, 1, name='fromrgb')(images)
        if self.mbstd_num_channels:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels, batches)
        with jax.default_matmul_precision('highest'):
            x = EqualConv(features, 3, clamp=self.conv_clamp, name='conv')(x)
        x = lrelu(EqualDense(features, name='fc')(x.reshape(x.shape[0], -1)))
        return EqualDense(self.out_features, name='out')(x)


class Discriminator(nn.Module):
    """Images [b, H, W, C] in [-1, 1], and labels [b, c_dim] or None -> logits [b] float32.

    Blocks are named after the side they take, b256 ... b8 and b4, rounded down to a power of two. With labels, the
    logit is the product of the last layer's features and the mapped label over sqrt(cmap_dim) (Miyato & Koyama 2018).
    FIR filters are in the 'buffers' collection, and so are frozen layers. The images may be several `batches`, one
    after the other: only the minibatch standard deviation keeps them apart.

    channels: widths at the input's resolution, at half of it, and so on down to the last.
    architecture: that of the blocks, see `DiscriminatorBlock`.
    num_first_layers: extra 3x3 convolutions after the first, as some CIPS discriminators have.
    cmap_dim: size of the mapped label; None: the last of `channels`.
    mapping_layers: dense layers of the label's mapping network.
    mbstd_group_size: samples per group of the minibatch standard deviation; a smaller batch is one group, and with None
      every batch is.
    mbstd_num_channels: statistics per group; 0: none.
    conv_clamp: limit of the activations of convolutions; None: no limit.
    resample_filter: taps of the downsampling layers.
    freeze_layers: this many convolutions are not trained (Mo et al. 2020): from the images on, in every block fromrgb,
      conv0, conv1, skip.
    num_fp16_res: how many of the highest resolutions have blocks that compute in `dtype`; the others, and always the
      last, compute in float32.
    Raises: ValueError, when traced, for image sizes or batches that do not fit.
    """

    channels: tuple[int, ...]
    architecture: Literal['resnet', 'skip', 'orig'] = 'resnet'
    num_first_layers: int = 0
    cmap_dim: int | None = None
    mapping_layers: int = 8
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    freeze_layers: int = 0
    num_fp16_res: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, c: jax.Array | None = None, batches: int = 1) -> jax.Array:
        halvings = num_halvings(images.shape[1:3])
        if len(self.channels) != halvings + 1:
            raise ValueError(
                f'the discriminator has {len(self.channels)} widths {self.channels}, but images of {images.shape[1]} x '
                f'{images.shape[2]} need {halvings + 1}.'
            )
        x = None
        for i, (hidden, features) in enumerate(itertools.pairwise(self.channels)):
            x, images = DiscriminatorBlock(
                hidden,
                features,
                self.architecture,
                self.num_first_layers if i == 0 else 0,
                self.conv_clamp,
                self.resample_filter,
                frozen=tuple(name for block, name in self.convolutions[: self.freeze_layers] if block == i),
                dtype=self.dtype if i < self.num_fp16_res else jnp.float32,
                name=f'b{4 * 2 ** (halvings - i)}',
            )(x, images)
        cmap_dim = self.cmap_dim or self.channels[-1]
        epilogue = DiscriminatorEpilogue(
            1 if c is None else cmap_dim, self.mbstd_group_size, self.mbstd_num_channels, self.conv_clamp, name='b4'
        )
        out = epilogue(x, images, batches)
        if c is None:
            return out[:, 0]
        cmap = MappingNetwork(cmap_dim, self.mapping_layers, name='mapping')(None, c)
        return jnp.sum(out * cmap, axis=-1) / math.sqrt(cmap_dim)

    @property
    def convolutions(self) -> list[tuple[int, str]]:
        """(block, layer) in the order in which `freeze_layers` counts."""
        names = ['fromrgb', 'conv0', 'conv1'] + (['skip'] if self.architecture == 'resnet' else [])
        return [
            (block, name)
            for block in range(len(self.channels) - 1)
            for name in names
            if name != 'fromrgb' or block == 0 or self.architecture == 'skip'
        ]
