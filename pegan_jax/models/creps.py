"""CREPS (Nguyen et al. 2023, arXiv 2303.14157): images of any scale from lines, without spatial convolutions.

A thick line is a vector of `rank` numbers per channel for every row of the image, and one for every column. Layers
work on lines: n positions cost O(n). The map of a block is the product of its rows and its columns. Dense layers, the
same at every pixel, join the maps of all blocks. Positions are inputs: there may be more rows and columns, elsewhere,
or nearer to each other than in training, but they stay rows and columns.

Its discriminator is in `discriminator`; its training is StyleGAN2's, in `stylegan_training`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, ops
from pegan_jax.augment import Preset
from pegan_jax.gan import GAN, size_of
from pegan_jax.layers import EqualConv, EqualDense, MappingNetwork
from pegan_jax.models import stylegan_training
from pegan_jax.models.discriminator import widths
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

validate = stylegan_training.validate
TRAINING_FIELDS = stylegan_training.TRAINING_FIELDS


@dataclass(frozen=True)
class Config:
    """The model and its losses; defaults are those of the published training.

    channel_base, channel_max: block R, which in another network would have R pixels, has min(channel_base / R,
      channel_max) channels; the first block, 4, must have an even number.
    rank: numbers per position and channel: r for the rows, r for the columns.
    biline_channels: channels of the maps that products of lines make.
    fc_clamp: limit of activations in the blocks of lines, not in those of pixels; None: no limit.
    frequency_std: deviation of the input's frequencies, in cycles per image.
    num_fp16_res: how many of the last blocks of lines, and resolutions of D, compute in `dtype`; if it is not 0, the
      pixels' layers do too.
    The rest as in `stylegan2.Config`.
    """

    img_resolution: int | tuple[int, int] = 512
    img_channels: Literal[1, 3, 4] = 3
    c_dim: int = 0
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    w_avg_beta: float = 0.998
    channel_base: int = 65536
    channel_max: int = 1024
    rank: int = 8
    biline_channels: int = 32
    fc_clamp: float | None = 256.0
    frequency_std: float = 10.0
    conv_clamp: float | None = 256.0
    d_architecture: Literal['resnet', 'skip', 'orig'] = 'resnet'
    d_channel_base: int = 32768
    d_channel_max: int = 512
    d_channels: tuple[int, ...] | None = None
    d_mapping_layers: int = 8
    mbstd_group_size: int = 4
    freeze_layers: int = 0
    r1_gamma: float | None = None
    r1_interval: int = 16
    pl_weight: float = 2.0
    pl_interval: int = 4
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    style_mixing_prob: float = 0.0
    blur_init_sigma: float = 0.0
    blur_fade_kimg: float | None = None
    augment: Literal['noaug', 'ada', 'fixed'] = 'noaug'
    augment_pipe: Preset = 'bgc'
    augment_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float | None = None
    ema_kimg: float | None = None
    ema_rampup: float | None = 0.05
    num_fp16_res: int = 4
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('rank', 'biline_channels', 'channel_max'):
            at_least(self, name, 1)
        for name in ('fc_clamp', 'frequency_std'):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f'model.{name}={getattr(self, name)} must be positive.')
        stylegan_training.check(self)
        stylegan_training.check_widths(self)
        if (first := self.widths[0]) % 2:
            raise ConfigError(
                f'model.channel_max={self.channel_max} with model.channel_base={self.channel_base} gives the first '
                f'block {first} channels, half of them sines and half cosines; use an even number.'
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return size_of(self.img_resolution)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the blocks 4, 8, ..."""
        return widths(self.size, self.channel_base, self.channel_max)


# Positions ------------------------------------------------------------------------------------------------------------


def positions(
    size: tuple[int, int], trained: tuple[int, int], transform: np.ndarray | jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Where the rows [H] and the columns [W] of an image are; those of training go from 0 to 1, both included.

    Args:
      size: that of the image; its pixels have the pitch of training, and its middle has the same position.
      trained: (height, width) of the training images.
      transform: [3, 3], as from `coords.translate` and `zoom`, about the middle, in units of the shorter side of the
        training images: positions are scaled and shifted.
    """
    unit, matrix = min(trained), np.eye(3) if transform is None else transform
    y, x = ((jnp.arange(side) - (side - 1) / 2) / unit for side in size)
    y, x = matrix[1, 1] * y + matrix[1, 2], matrix[0, 0] * x + matrix[0, 2]
    return 0.5 + y * unit / (trained[0] - 1), 0.5 + x * unit / (trained[1] - 1)


def view(size: tuple[int, int] | None, transform: Any) -> dict:
    """Options of `Generator.synthesise`: images of a size, at the pitch of training, of a scene that a matrix moves.

    Raises: UserError for a matrix that mixes rows and columns, unless it is being traced.
    """
    if transform is not None:
        coords.check_matrices(transform)
        if not isinstance(transform, jax.core.Tracer) and np.abs(np.asarray(transform)[[0, 1], [1, 0]]).max() > 1e-6:
            raise UserError(
                'CREPS makes images of rows and columns, which can be scaled and shifted but not turned or sheared; '
                'leave the rotation out, or use cips or stylegan3.'
            )
    return {k: v for k, v in (('size', size), ('transform', transform)) if v is not None}


# Generator ------------------------------------------------------------------------------------------------------------


def scaled(x: jax.Array, factors: jax.Array) -> jax.Array:
    """x [N or 1, L, ...] times factors [N, ...], those of an image at all of its positions: [N, L, ...].

    One image goes without its axis: on a CPU, with it, the sum over positions in the derivative takes 100 times as long
    (docs/decisions.md).
    """
    return (jnp.squeeze(x, 0) * factors)[None] if len(factors) == 1 else x * factors[:, None]


class LineInput(nn.Module):
    """Waves along both axes, with random frequencies that both share, and styled amplitudes.

    w [N, w_dim], rows [H] and columns [W] -> lines [N, (H + W) rank, channels].
    """

    channels: int
    rank: int
    frequency_std: float

    @nn.compact
    def __call__(self, w: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        channels, rank = self.channels, self.rank
        freqs = self.variable(
            'buffers', 'freqs',
            lambda: self.frequency_std * jax.random.normal(self.make_rng('params'), (channels // 2 * rank,)),
        ).value.reshape(-1, rank)  # fmt: skip
        weight = self.param('weight', nn.initializers.normal(1.0), (channels, 2 * rank))
        styles = EqualDense(channels * 2 * rank, bias_init=1.0, name='affine')(w)
        amplitudes = weight[None] * styles.reshape(-1, *weight.shape) / math.sqrt(channels)
        lines = []
        for at, amplitude in zip((rows, columns), jnp.split(amplitudes, 2, axis=2), strict=True):
            angles = 2 * math.pi * at[:, None, None] * freqs.T[None]
            waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
            lines.append(scaled(waves[None], amplitude.swapaxes(1, 2)).reshape(w.shape[0], -1, channels))
        return jnp.concatenate(lines, axis=1)


class Layer(nn.Module):
    """Modulated dense layer (Karras et al. 2020, eq. 1 and 3): x [N, L, C], w [N, w_dim] -> [N, L, features].

    adds: the result is added to lines or colours: float32, without demodulation and lrelu.
    clamp: limit of the result; None: no limit.
    """

    features: int
    clamp: float | None = None
    dtype: Any = jnp.float32
    adds: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        channels, dtype = x.shape[-1], jnp.float32 if self.adds else self.dtype
        styles = EqualDense(channels, bias_init=1.0, name='affine')(w)
        weight = self.param('weight', nn.initializers.normal(1.0), (channels, self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        if self.adds:
            styles = styles / math.sqrt(channels)
        y = jnp.matmul(scaled(x, styles).astype(dtype), weight.astype(dtype))
        if not self.adds:
            squares = jnp.matmul(jnp.square(styles), jnp.square(weight), precision='highest')
            y = scaled(y, jax.lax.rsqrt(squares + 1e-8)).astype(dtype)
        return ops.bias_act(y, bias, act='linear' if self.adds else 'lrelu', clamp=self.clamp)


class Block(nn.Module):
    """Two layers, fc0 and fc1, or fc1 alone, and `tores`, what they add to the running lines, or to the colours.

    (x [N, L, C], ws [N, 2 or 3, w_dim]) -> (x [N, L, features], [N, L, results] float32).
    """

    features: int
    results: int
    clamp: float | None = None
    dtype: Any = jnp.float32
    first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, ws: jax.Array) -> tuple[jax.Array, jax.Array]:
        for i, name in enumerate(('fc1',) if self.first else ('fc0', 'fc1')):
            x = Layer(self.features, self.clamp, self.dtype, name=name)(x, ws[:, i])
        return x, Layer(self.results, self.clamp, adds=True, name='tores')(x, ws[:, -1])


class Decoder(nn.Module):
    """Four dense layers at every pixel, the same for all images: [N, H, W, B] -> 2 B -> 4 B -> 2 B -> B."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        for i, factor in enumerate((2, 4, 2, 1)):
            x = EqualConv(factor * channels, 1, dtype=self.dtype, name=f'fc{i}')(x)
        return x


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim], rows [H] and columns [W] -> images [N, H, W, img_channels] float32."""

    model: Config

    @nn.compact
    def __call__(self, ws: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        model, blocks = self.model, len(self.model.widths)
        x = LineInput(model.widths[0], model.rank, model.frequency_std, name='input')(ws[:, 0], rows, columns)
        lines, maps = 0.0, None
        pixels = jnp.dtype(model.dtype if model.num_fp16_res else jnp.float32)
        for i, features in enumerate(model.widths):
            name, low = 4 * 2**i, i >= max(blocks - model.num_fp16_res, 1)
            dtype = jnp.dtype(model.dtype if low else jnp.float32)
            block = Block(features, model.biline_channels, model.fc_clamp, dtype, first=i == 0, name=f'b{name}')
            # A block's first style is that with which the previous block adds to the lines.
            x, more = block(x, ws[:, 1:3] if i == 0 else ws[:, 2 * i - 1 : 2 * i + 2])
            if i == 0:  # published networks have a `tores` in the first block, but do not use it
                continue
            lines = lines + more
            thick = lines.reshape(ws.shape[0], -1, model.rank, model.biline_channels)
            found = jnp.einsum('nhrb,nwrb->nhwb', thick[:, : len(rows)], thick[:, len(rows) :]) / 2
            decoder = Decoder(pixels, name=f'decoder_{name}')
            if maps is None and self.is_initializing():  # nor for the decoder of the second
                decoder(found)
            maps = found if maps is None else decoder(maps) + found
        maps = Decoder(pixels, name='decoder_last')(maps)
        x = maps.reshape(-1, model.biline_channels)
        colours = EqualDense(model.img_channels, name='decoder_img')(x.astype(jnp.float32))
        x, colours = (flat.reshape(ws.shape[0], -1, flat.shape[-1]) for flat in (x, colours))
        for i, factor in enumerate((4, 2)):
            block = Block(factor * model.biline_channels, model.img_channels, dtype=pixels, name=f'block{i}')
            x, more = block(x, jnp.repeat(ws[:, -1:], 3, axis=1))
            colours = colours + more
        return colours.reshape(*maps.shape[:3], -1)


class Generator(nn.Module):
    """CREPS: z, labels -> ws -> images."""

    model: Config

    @property
    def num_ws(self) -> int:
        """Styles of an image: the input's, two or three per block (neighbours share one), and the pixels'."""
        return 2 * len(self.model.widths) + 1

    def setup(self) -> None:
        model = self.model
        self.mapping = MappingNetwork(
            model.w_dim, num_layers=model.mapping_layers, num_ws=self.num_ws, w_avg_beta=model.w_avg_beta
        )
        self.synthesis = Synthesis(model)

    def map(self, z: jax.Array, c: jax.Array | None = None, update_emas: bool = False) -> jax.Array:
        """ws [N, num_ws, w_dim] of latents [N, z_dim] and labels [N, c_dim] or None; see `MappingNetwork`."""
        return self.mapping(z, c, update_emas=update_emas)

    def synthesise(
        self,
        ws: jax.Array,
        size: tuple[int, int] | None = None,
        transform: jax.Array | None = None,
        at: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Images [N, H, W, img_channels] float32 of ws [N, num_ws, w_dim].

        Args:
          size, transform: as for `positions`; None: the size of training.
          at: the positions of rows [H] and columns [W], instead of these; what training shows is within [0, 1].
        """
        return self.synthesis(
            ws, *(positions(size or self.model.size, self.model.size, transform) if at is None else at)
        )

    def __call__(self, z: jax.Array, c: jax.Array | None = None) -> jax.Array:
        """Images of latents [N, z_dim] and labels [N, c_dim]. Touches every variable, for `init`."""
        return self.synthesise(self.map(z, c))


# The system -----------------------------------------------------------------------------------------------------------


def synthesise(
    module: Generator,
    params: dict,
    buffers: dict,
    ws: jax.Array,
    keys: jax.Array,
    update_emas: bool,
    offset: None = None,
    scale: None = None,
) -> tuple[jax.Array, dict]:
    """Images of ws, and the buffers, as `stylegan_training.Networks` asks for them; there is no noise to draw."""
    return module.apply({'params': params, 'buffers': buffers}, ws, method='synthesise'), buffers


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    return stylegan_training.assemble(config, Generator, synthesise, options=('size', 'transform'), view=view)
