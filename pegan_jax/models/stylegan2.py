"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958, 2006.06676) as in NVlabs/stylegan3; and what others share of it.

CIPS and StyleGAN3 share the discriminator, StyleGAN3 also the training: losses, which see a model as `Networks`, and
`assemble`. Square sides are powers of two as published; other sizes begin with a larger learned constant.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pegan_jax import filters, losses, ops, optim
from pegan_jax.gan import GAN, Stage, Update, sample_keys, sample_normal
from pegan_jax.layers import EqualConv, EqualDense, MappingNetwork, lrelu, minibatch_std, truncate
from pegan_jax.settings import ConfigError, at_least, check_types


@dataclass(frozen=True)
class Config:
    """The model and its losses; defaults are those of the 'stylegan2' preset of the StyleGAN3 release.

    img_resolution: side, or (height, width), of the images; halving must end at 4 to 7 pixels on the shorter side.
    c_dim: size of the labels (number of classes); 0: no labels.
    z_dim, w_dim: sizes of the latent and of the mapped latent.
    mapping_layers: dense layers of the mapping network.
    w_avg_beta: of the running mean of w; 0.995 in StyleGAN2-ADA.
    channel_base, channel_max: a layer of side s has min(channel_base / s, channel_max) channels.
    architecture: of the generator, see `Generator`.
    use_noise: whether its convolutions add noise.
    conv_clamp: limit of activations in both networks; None: no limit.
    d_architecture, d_channel_base, d_channel_max, d_mapping_layers: of the discriminator.
    mbstd_group_size: samples per group of its minibatch standard deviation.
    freeze_layers: convolutions of D that are not trained, from the images on (fine-tuning with Freeze-D).
    r1_gamma: the R1 term is r1_gamma / 2 times the penalty, 0: off; None: 0.0002 height width / batch, a first guess.
    r1_interval: steps between its updates, for which D's Adam is corrected.
    pl_weight: of path length regularisation, 0: off.
    pl_interval: steps between its updates, for which G's Adam is corrected, even if it is off; 0: no correction.
    pl_batch_shrink, pl_decay: the term sees this fraction of a batch; speed of the running mean of lengths.
    style_mixing_prob: of a batch whose later layers have the styles of other latents.
    blur_init_sigma: all that D sees is blurred, at first by this many pixels; 0: off.
    blur_fade_kimg: until the blur has vanished; None: 200 / 32 times the batch.
    ema_kimg: half-life of G's running mean; None: 10 / 32 times the batch.
    ema_rampup: the half-life is at most this fraction of the images seen so far; None: no such limit.
    num_fp16_res: the highest resolutions of both networks, whose blocks compute in `dtype`, which has 16 bits or is
      float32. The R1 and path length terms are always float32.
    """

    img_resolution: int | tuple[int, int] = 256
    c_dim: int = 0
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    w_avg_beta: float = 0.998
    channel_base: int = 32768
    channel_max: int = 512
    architecture: Literal['skip', 'resnet', 'orig'] = 'skip'
    use_noise: bool = True
    conv_clamp: float | None = 256.0
    d_architecture: Literal['resnet', 'skip', 'orig'] = 'resnet'
    d_channel_base: int = 32768
    d_channel_max: int = 512
    d_mapping_layers: int = 8
    mbstd_group_size: int = 4
    freeze_layers: int = 0
    r1_gamma: float | None = None
    r1_interval: int = 16
    pl_weight: float = 2.0
    pl_interval: int = 4
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    style_mixing_prob: float = 0.9
    blur_init_sigma: float = 0.0
    blur_fade_kimg: float | None = None
    ema_kimg: float | None = None
    ema_rampup: float | None = 0.05
    num_fp16_res: int = 4
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('z_dim', 'w_dim', 'mapping_layers'):
            at_least(self, name, 1)
        if not 0 <= self.w_avg_beta < 1:
            raise ConfigError(f'model.w_avg_beta={self.w_avg_beta} must lie in [0, 1); published: 0.998.')
        check_shared(self)
        check_widths(self)


def size_of(model: Any) -> tuple[int, int]:
    """(height, width) of a model's images."""
    size = model.img_resolution
    return (size, size) if isinstance(size, int) else size


def check_widths(model: Any, prefix: str = '') -> None:
    """Raises ConfigError unless all layers of a network have channels; prefix: '', or 'd_' for the discriminator."""
    at_least(model, f'{prefix}channel_max', 1)
    side, name = 4 * 2 ** num_halvings(size_of(model)), f'{prefix}channel_base'
    if getattr(model, name) < side:
        raise ConfigError(
            f'model.{name}={getattr(model, name)} leaves no channel at {side} pixels; use at least {side}.'
        )


def check_shared(model: Any) -> None:
    """Checks the fields of a configuration that `assemble` and the discriminator read. Raises ConfigError."""
    try:
        num_halvings(size_of(model))
    except ValueError as error:
        raise ConfigError(f'model.img_resolution={model.img_resolution}: {error}') from None
    check_widths(model, 'd_')
    for name in ('d_mapping_layers', 'mbstd_group_size', 'r1_interval', 'pl_batch_shrink'):
        at_least(model, name, 1)
    for name in ('c_dim', 'freeze_layers', 'pl_weight', 'pl_interval', 'blur_init_sigma', 'num_fp16_res'):
        at_least(model, name, 0)
    for name in ('style_mixing_prob', 'pl_decay'):
        if not 0 <= getattr(model, name) <= 1:
            raise ConfigError(f'model.{name}={getattr(model, name)} must lie in [0, 1].')
    if model.pl_weight > 0 and model.pl_interval < 1:
        raise ConfigError(f'model.pl_weight={model.pl_weight} needs model.pl_interval of at least 1; published: 4.')
    if model.r1_gamma is not None:
        at_least(model, 'r1_gamma', 0)
    for name in ('conv_clamp', 'ema_kimg', 'ema_rampup', 'blur_fade_kimg'):
        if getattr(model, name) is not None and not getattr(model, name) > 0:
            raise ConfigError(f'model.{name}={getattr(model, name)} must be positive, or None.')
    most = len(discriminator(model).convolutions)
    if model.freeze_layers > most:
        raise ConfigError(
            f'model.freeze_layers={model.freeze_layers}: the discriminator has {most} that can be frozen.'
        )


def validate(config: Any) -> None:
    """Checks a whole run configuration of StyleGAN2 or StyleGAN3. Raises ConfigError."""
    data, model = config.data, config.model
    if data.size != size_of(model):
        raise ConfigError(
            f'data.resolution={data.resolution} differs from model.img_resolution={model.img_resolution}: '
            'set both to the same size.'
        )
    if bool(model.c_dim) != data.labels:
        raise ConfigError(
            f'model.c_dim={model.c_dim} with data.labels={data.labels}: set data.labels=True and model.c_dim to the '
            'number of classes, or False and 0.'
        )
    if model.freeze_layers and config.train.init_from is None:
        raise ConfigError(
            f'model.freeze_layers={model.freeze_layers} needs train.init_from: frozen layers would stay random.'
        )


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
    """(x [b, H, W, hidden] or None, images or None) -> (x [b, H/2, W/2, features], images of the next block or None).

    'resnet': two 3x3 convolutions beside a 1x1 shortcut, their sum over sqrt(2). 'skip' has no shortcut, but the
    images, halved from block to block, enter every block through `fromrgb`. 'orig' has neither. The first block, whose
    x is None, takes images in every architecture, and may have more 3x3 convolutions behind `fromrgb` (first0, ...).

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

    Always float32. With images, those of 'skip', `fromrgb` adds them to x. Fields as in `Discriminator`.
    """

    out_features: int = 1
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1
    conv_clamp: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, images: jax.Array | None = None) -> jax.Array:
        features, x = x.shape[-1], x.astype(jnp.float32)
        if images is not None:
            x = x + EqualConv(features, 1, name='fromrgb')(images)
        if self.mbstd_num_channels:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)
        x = EqualConv(features, 3, clamp=self.conv_clamp, name='conv')(x)
        x = lrelu(EqualDense(features, name='fc')(x.reshape(x.shape[0], -1)))
        return EqualDense(self.out_features, name='out')(x)


class Discriminator(nn.Module):
    """Images [b, H, W, C] in [-1, 1], and labels [b, c_dim] or None -> logits [b] float32.

    Blocks are named after the side they take, b256 ... b8 and b4, rounded down to a power of two. With labels, the
    logit is the product of the last layer's features and the mapped label over sqrt(cmap_dim) (Miyato & Koyama 2018).
    FIR filters are in the 'buffers' collection, and so are frozen layers.

    channels: widths at the input's resolution, at half of it, and so on down to the last.
    architecture: of the blocks, see `DiscriminatorBlock`.
    num_first_layers: extra 3x3 convolutions after the first, as some CIPS discriminators have.
    cmap_dim: size of the mapped label; None: the last of `channels`.
    mapping_layers: dense layers of the label's mapping network.
    mbstd_group_size: samples per group of the minibatch standard deviation; a smaller batch is one group, None: always.
    mbstd_num_channels: statistics per group; 0: none.
    conv_clamp: limit of the activations of convolutions; None: no limit.
    resample_filter: taps of the downsampling layers.
    freeze_layers: this many convolutions are not trained (Mo et al. 2020): from the images on, in every block fromrgb,
      conv0, conv1, skip.
    num_fp16_res: the highest resolutions, whose blocks compute in `dtype`; the others, and always the last, float32.
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
    def __call__(self, images: jax.Array, c: jax.Array | None = None) -> jax.Array:
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
        out = epilogue(x, images)
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


# Generator ------------------------------------------------------------------------------------------------------------


Noise = jax.Array | Literal['const', 'none']  # keys [N], which draw new numbers per pixel; those of the buffers; none


def _layer_noise(noise: Noise, i: int) -> Noise:
    """The noise of the i-th part of a network: with keys, other keys for every part."""
    return noise if isinstance(noise, str) else jax.vmap(jax.random.fold_in, in_axes=(0, None))(noise, i)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, lrelu: x [N, H, W, C], w [N, w_dim] -> [N, H, W, features].

    up: 2 doubles the size with the filter of the 'resample_filter' buffer, see `ops.modulated_conv_resample`.
    Other fields as in `Generator`.
    """

    features: int
    up: int = 1
    use_noise: bool = True
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: Noise = 'const', gain: float = 1.0) -> jax.Array:
        """The result times `gain`."""
        in_features = x.shape[-1]
        style = EqualDense(in_features, bias_init=1.0, name='affine')(w)
        weight = self.param('weight', nn.initializers.normal(1.0), (3, 3, in_features, self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        fir = None
        if self.up > 1:
            fir = self.variable('buffers', 'resample_filter', filters.setup_filter, self.resample_filter).value
        y = ops.modulated_conv_resample(
            x.astype(self.dtype), weight, style, fir, up=self.up, padding=1, flip_weight=self.up == 1
        )
        if self.use_noise:
            size = y.shape[1:3]
            const = self.variable('buffers', 'noise_const', lambda: jax.random.normal(self.make_rng('params'), size))
            strength = self.param('noise_strength', nn.initializers.zeros, ())
            numbers = const.value[None]
            if not isinstance(noise, str):
                numbers = jax.vmap(lambda key: jax.random.normal(key, size))(noise)
            if not (isinstance(noise, str) and noise == 'none'):
                y = y + (strength * numbers).astype(y.dtype)[..., None]
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return ops.bias_act(y, bias, act='lrelu', gain=math.sqrt(2) * gain, clamp=clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, not demodulated, in float32: x [N, H, W, C] -> [N, H, W, img_channels]."""

    img_channels: int = 3
    conv_clamp: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        in_features = x.shape[-1]
        style = EqualDense(in_features, bias_init=1.0, name='affine')(w) / math.sqrt(in_features)
        weight = self.param('weight', nn.initializers.normal(1.0), (1, 1, in_features, self.img_channels))
        bias = self.param('bias', nn.initializers.zeros, (self.img_channels,))
        y = ops.modulated_conv_resample(x.astype(jnp.float32), weight, style, demodulate=False)
        return ops.bias_act(y, bias, clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """(x [N, H/2, W/2, C] or None, rgb or None) -> (x [N, H, W, features], rgb [N, H, W, img_channels] or None).

    The first block, whose x is None, begins with the learned `const` [*size, features].

    to_rgb: whether the block gives colours. To those of the block before, if any, it adds its own.
    Other fields as in `Generator`.
    """

    features: int
    size: tuple[int, int]
    to_rgb: bool
    architecture: Literal['skip', 'resnet', 'orig'] = 'skip'
    img_channels: int = 3
    use_noise: bool = True
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array | None,
        rgb: jax.Array | None,
        ws: jax.Array,
        noise: Noise = 'const',
    ) -> tuple[jax.Array, jax.Array | None]:
        """ws [N, 2 or 3, w_dim]: of the convolutions, then of `torgb`."""
        options = {'use_noise': self.use_noise, 'conv_clamp': self.conv_clamp, 'dtype': self.dtype}
        up = {'up': 2, 'resample_filter': self.resample_filter}
        noises = [_layer_noise(noise, i) for i in range(2)]
        conv1 = SynthesisLayer(self.features, name='conv1', **options)
        if x is None:
            const = self.param('const', nn.initializers.normal(1.0), (*self.size, self.features))
            x = conv1(jnp.broadcast_to(const[None], (ws.shape[0], *const.shape)), ws[:, 0], noises[1])
        else:
            conv0 = SynthesisLayer(self.features, name='conv0', **up, **options)
            y = conv0(x, ws[:, 0], noises[0])
            if self.architecture == 'resnet':
                gain = math.sqrt(0.5)
                skip = EqualConv(self.features, 1, activate=False, gain=gain, dtype=self.dtype, name='skip', **up)
                x = skip(x) + conv1(y, ws[:, 1], noises[1], gain)
            else:
                x = conv1(y, ws[:, 1], noises[1])
        if rgb is not None:
            fir = self.variable('buffers', 'resample_filter', filters.setup_filter, self.resample_filter).value
            rgb = ops.upsample2d(rgb, fir)
        if self.to_rgb:
            y = ToRGB(self.img_channels, self.conv_clamp, name='torgb')(x, ws[:, -1])
            rgb = y if rgb is None else rgb + y
        return x, rgb


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> images [N, H, W, img_channels] float32; blocks b4, b8, ... Fields as in `Generator`."""

    channels: tuple[int, ...]
    base: tuple[int, int] = (4, 4)
    architecture: Literal['skip', 'resnet', 'orig'] = 'skip'
    img_channels: int = 3
    use_noise: bool = True
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    num_fp16_res: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ws: jax.Array, noise: Noise = 'const') -> jax.Array:
        x = rgb = None
        blocks = len(self.channels)
        for i, features in enumerate(self.channels):
            last = i == blocks - 1
            block = SynthesisBlock(
                features,
                tuple(side * 2**i for side in self.base),
                last or self.architecture == 'skip',
                self.architecture,
                self.img_channels,
                self.use_noise,
                self.conv_clamp,
                self.resample_filter,
                dtype=self.dtype if i >= max(blocks - self.num_fp16_res, 1) else jnp.float32,
                name=f'b{4 * 2**i}',
            )
            # A to-RGB layer shares its style with the convolution behind it.
            first = max(2 * i - 1, 0)
            x, rgb = block(x, rgb, ws[:, first : 2 * i + 2], _layer_noise(noise, i))
        return rgb


class Generator(nn.Module):
    """StyleGAN2: z, labels -> ws -> images.

    channels: widths at 4 pixels, 8, and so on up to the resolution.
    base: (height, width) of the learned constant, 4 to 7 on the shorter side; doubles with every further width.
    architecture: 'skip' adds the colours of every block; 'resnet' and 'orig' take those of the last, with and without
      shortcuts beside the convolutions of a block.
    use_noise: whether convolutions add noise.
    conv_clamp: limit of the activations of convolutions; None: no limit.
    resample_filter: taps of the upsampling layers.
    num_fp16_res: the highest resolutions, whose blocks compute in `dtype`; the others, and always the first, float32.
    mapping_layers, lr_multiplier, w_avg_beta: of the mapping network.
    """

    channels: tuple[int, ...]
    base: tuple[int, int] = (4, 4)
    w_dim: int = 512
    architecture: Literal['skip', 'resnet', 'orig'] = 'skip'
    img_channels: int = 3
    use_noise: bool = True
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    num_fp16_res: int = 4
    dtype: Any = jnp.float32
    mapping_layers: int = 8
    lr_multiplier: float = 0.01
    w_avg_beta: float | None = 0.998

    @property
    def num_ws(self) -> int:
        """Styles of an image: one per convolution, and one for the last to-RGB layer."""
        return 2 * len(self.channels)

    def setup(self) -> None:
        self.mapping = MappingNetwork(
            self.w_dim, self.mapping_layers, self.lr_multiplier, self.num_ws, w_avg_beta=self.w_avg_beta
        )
        self.synthesis = Synthesis(
            self.channels,
            self.base,
            self.architecture,
            self.img_channels,
            self.use_noise,
            self.conv_clamp,
            self.resample_filter,
            self.num_fp16_res,
            self.dtype,
        )

    def map(self, z: jax.Array | None, c: jax.Array | None = None, **options: Any) -> jax.Array:
        """ws [N, num_ws, w_dim]; options as in `MappingNetwork`."""
        return self.mapping(z, c, **options)

    def synthesise(self, ws: jax.Array, noise: Noise = 'const') -> jax.Array:
        """Images [N, H, W, img_channels] of ws."""
        return self.synthesis(ws, noise)

    def __call__(self, z: jax.Array | None, c: jax.Array | None = None) -> jax.Array:
        """Images of latents and labels, with the noise of the buffers."""
        return self.synthesise(self.map(z, c))


def widths(size: tuple[int, int], channel_base: int, channel_max: int) -> tuple[int, ...]:
    """Channels at 4 pixels on the shorter side, rounded down to a power of two, at 8, and so on up to the size."""
    return tuple(min(channel_base // (4 * 2**i), channel_max) for i in range(num_halvings(size) + 1))


def generator(model: Config) -> Generator:
    """The Linen module of a configuration."""
    size, channels = size_of(model), widths(size_of(model), model.channel_base, model.channel_max)
    return Generator(
        channels,
        base=tuple(side >> (len(channels) - 1) for side in size),
        w_dim=model.w_dim,
        architecture=model.architecture,
        use_noise=model.use_noise,
        conv_clamp=model.conv_clamp,
        num_fp16_res=model.num_fp16_res,
        dtype=jnp.dtype(model.dtype),
        mapping_layers=model.mapping_layers,
        w_avg_beta=model.w_avg_beta,
    )


# Sampling -------------------------------------------------------------------------------------------------------------

SAMPLE_OPTIONS = ('noise',)  # of `sample`, besides labels and space


def map_latents(model: Config, variables: dict, z: jax.Array, c: jax.Array | None = None) -> jax.Array:
    """w [N, w_dim] of latents [N, z_dim] and labels [N, c_dim], before truncation."""
    return generator(model).apply(variables, z, c, method='map')[:, 0]


def num_ws(model: Config) -> int:
    """Styles of an image."""
    return generator(model).num_ws


def mean_w(model: Config, variables: dict) -> jax.Array:
    """Centre of truncation [w_dim], the running mean of w in training."""
    return variables['buffers']['mapping']['w_avg']


def view(config: Any, size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """No options of `sample`: there is one view. Raises ValueError for another one."""
    native = size_of(config.model)
    if size not in (None, native) or transform is not None:
        raise ValueError(
            f'StyleGAN2 has no coordinates: it makes images of {native[0]} x {native[1]}, and moves nothing; leave out '
            'size and transform.'
        )
    return {}


def sample(
    model: Config,
    variables: dict,
    inputs: jax.Array,
    *,
    c: jax.Array | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    noise: Noise = 'const',
    space: Literal['z', 'w', 'ws'] = 'z',
) -> jax.Array:
    """Images of the native size.

    Args:
      variables: {'params', 'buffers'} of the generator.
      inputs: what `space` says: 'z' latents [N, z_dim]; 'w' mapped ones [N, w_dim]; 'ws' one w per layer [N, num_ws,
        w_dim].
      c: labels [N, c_dim] of latents; None: of a model with labels, the classes in turn.
      truncation_psi, truncation_cutoff: the first truncation_cutoff ws (None: all) become w_avg + psi (w - w_avg).
      noise: keys [N] draw new noise for every image.
    Returns: [N, H, W, 3] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for other shapes, another space.
    """
    module = generator(model)
    shapes = {'z': (model.z_dim,), 'w': (model.w_dim,), 'ws': (module.num_ws, model.w_dim)}
    if space not in shapes:
        raise ValueError(f"space={space!r}; use 'z', 'w' or 'ws'.")
    if inputs.shape[1:] != shapes[space]:
        want = ', '.join(map(str, shapes[space]))
        raise ValueError(f'inputs have shape {inputs.shape}; expected [N, {want}] with space={space!r}.')
    if space == 'z':
        inputs = module.apply(variables, inputs, labels_or_default(model, c, len(inputs)), method='map')
    elif space == 'w':
        inputs = jnp.repeat(inputs[:, None, :], module.num_ws, axis=1)
    if truncation_psi != 1:
        inputs = truncate(inputs, mean_w(model, variables), truncation_psi, truncation_cutoff)
    return module.apply(variables, inputs, noise, method='synthesise')


def labels_or_default(model: Any, c: jax.Array | None, n: int) -> jax.Array | None:
    """Labels [n, c_dim] as given, or the classes in turn; None for a model without labels.

    Raises: ValueError for labels of another shape, or of a model that takes none.
    """
    if not model.c_dim:
        if c is not None:
            raise ValueError(f'labels of shape {c.shape} for a model without labels (c_dim=0).')
        return None
    if c is None:
        return jax.nn.one_hot(jnp.arange(n) % model.c_dim, model.c_dim)
    if c.shape != (n, model.c_dim):
        raise ValueError(f'labels of shape {c.shape}; expected [{n}, {model.c_dim}].')
    return c


# The system -----------------------------------------------------------------------------------------------------------


def networks(model: Config) -> 'Networks':
    """What the losses need of StyleGAN2."""
    module = generator(model)

    def mapped(params: dict, buffers: dict, z: jax.Array, c: jax.Array | None, update_emas: bool) -> tuple:
        variables = {'params': params, 'buffers': buffers}
        ws, new = module.apply(variables, z, c, update_emas=update_emas, method='map', mutable=['buffers'])
        return ws, new['buffers']

    def synthesise(params: dict, buffers: dict, ws: jax.Array, key: jax.Array, update_emas: bool) -> tuple:
        return module.apply({'params': params, 'buffers': buffers}, ws, key, method='synthesise'), buffers

    exact = None if model.dtype == 'float32' else networks(dataclasses.replace(model, dtype='float32'))
    return Networks(mapped, synthesise, functools.partial(score, model), exact)


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    model = config.model

    def init(key: jax.Array) -> dict:
        return generator(model).init(key, jnp.zeros((1, model.z_dim)), labels_or_default(model, None, 1))

    return assemble(config, networks(model), init, functools.partial(sample, model))


# Training, shared with StyleGAN3 --------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """What the losses need of a model: pure functions.

    map: (params, buffers, z [b, z_dim], c [b, c_dim] or None, update_emas) -> (ws [b, num_ws, w_dim], buffers), of 'g'.
    synthesise: (params, buffers, ws, keys [b], update_emas) -> (images [b, H, W, 3], buffers), of 'g'; the keys draw
      the noise of a model that has any.
    score: (params, buffers, images, c) -> logits [b], of 'd': `functools.partial(score, model)`.
    exact: the same in float32, for derivatives of derivatives; None: these are.
    """

    map: Callable
    synthesise: Callable
    score: Callable
    exact: 'Networks | None' = None


class Latents(NamedTuple):
    """Everything random about a batch of generated images.

    z, other [b, z_dim]: latents, and those that style mixing takes the later layers from; c: labels [b, c_dim] or None.
    keys [b]: of the noise. mixing: key that decides where to mix, one for the whole batch.
    """

    z: jax.Array
    other: jax.Array
    c: jax.Array | None
    keys: jax.Array
    mixing: jax.Array


def discriminator(model: Any) -> Discriminator:
    """The Linen module of a configuration, of StyleGAN2 or StyleGAN3."""
    return Discriminator(
        widths(size_of(model), model.d_channel_base, model.d_channel_max)[::-1],
        model.d_architecture,
        mapping_layers=model.d_mapping_layers,
        mbstd_group_size=model.mbstd_group_size,
        conv_clamp=model.conv_clamp,
        freeze_layers=model.freeze_layers,
        num_fp16_res=model.num_fp16_res,
        dtype=jnp.dtype(model.dtype),
    )


def score(model: Any, params: dict, buffers: dict, images: jax.Array, c: jax.Array | None) -> jax.Array:
    """Logits [b] of images [b, H, W, 3] and labels [b, c_dim] or None."""
    return discriminator(model).apply({'params': params, 'buffers': buffers}, images, c)


def labels(model: Any, batch: dict) -> jax.Array | None:
    """Labels [b, c_dim] float32 of a batch: those it has, or the classes in it as one-hot vectors."""
    if not model.c_dim:
        return None
    label = batch['label']
    return jax.nn.one_hot(label, model.c_dim) if jnp.issubdtype(label.dtype, jnp.integer) else label


def draw_latents(model: Any, batch: dict, key: jax.Array) -> Latents:
    """New latents for a batch; fakes have the labels of its images, which are in random order."""
    z_key, other_key, noise_key, mixing_key = jax.random.split(key, 4)
    z, other = (sample_normal(k, batch['index'], (model.z_dim,)) for k in (z_key, other_key))
    return Latents(z, other, labels(model, batch), sample_keys(noise_key, batch['index']), mixing_key)


def blur_sigma(model: Any, nimg: Any, batch_size: int) -> Any:
    """Width of the blur in pixels after nimg images: blur_init_sigma (1 - nimg / (1000 blur_fade_kimg)), at least 0."""
    fade_kimg = batch_size * 200 / 32 if model.blur_fade_kimg is None else model.blur_fade_kimg
    return model.blur_init_sigma * jnp.maximum(1 - nimg / (1000 * fade_kimg), 0)


def blur(images: jax.Array, sigma: jax.Array, max_sigma: float) -> jax.Array:
    """Images [b, H, W, C] filtered with 2^-(i / sigma)^2 for |i| <= floor(3 sigma), normalised, zeros outside.

    The base is 2, as in NVlabs/stylegan3 `StyleGAN2Loss.run_D`. sigma, at most max_sigma, may be traced: taps beyond
    its radius are zero.
    """
    radius = math.floor(3 * max_sigma)
    i = jnp.arange(-radius, radius + 1)
    taps = jnp.exp2(-jnp.square(i / jnp.maximum(sigma, 1e-8))) * (jnp.abs(i) <= jnp.floor(3 * sigma))
    return ops.filter2d(images, taps / jnp.sum(taps))


def mix_styles(key: jax.Array, ws: jax.Array, other: jax.Array, prob: float) -> jax.Array:
    """Of ws [b, num_ws, w_dim], replaces those from a random layer on by `other`, with a probability.

    The layer, uniform in 1 .. num_ws - 1, is the same for the whole batch.
    """
    mix_key, layer_key = jax.random.split(key)
    num_ws = ws.shape[1]
    layer = jax.random.randint(layer_key, (), 1, num_ws)
    cutoff = jnp.where(jax.random.uniform(mix_key) < prob, layer, num_ws)
    return jnp.where(jnp.arange(num_ws)[None, :, None] < cutoff, ws, other)


def styles(
    model: Any, networks: Networks, params: dict, buffers: dict, latents: Latents, update_emas: bool = False
) -> tuple[jax.Array, dict]:
    """ws [b, num_ws, w_dim] of latents, mixed if the model says so, and G's buffers."""
    ws, buffers = networks.map(params, buffers, latents.z, latents.c, update_emas)
    if model.style_mixing_prob > 0:
        other, _ = networks.map(params, buffers, latents.other, latents.c, False)
        ws = mix_styles(latents.mixing, ws, other, model.style_mixing_prob)
    return ws, buffers


def judge(
    model: Any,
    networks: Networks,
    params: dict,
    buffers: dict,
    images: jax.Array,
    c: jax.Array | None,
    sigma: jax.Array | None,
) -> jax.Array:
    """Logits [b] of images as D sees them, blurred; sigma: None for no blur."""
    if sigma is not None:
        images = blur(images, sigma, model.blur_init_sigma)
    return networks.score(params, buffers, images, c)


def g_main(
    model: Any,
    networks: Networks,
    params: dict,
    g_buffers: dict,
    d: tuple[dict, dict],
    latents: Latents,
    sigma: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """The generator's non-saturating logistic loss; also metrics. d: (params, buffers) of the discriminator."""
    ws, _ = styles(model, networks, params, g_buffers, latents)
    fake, _ = networks.synthesise(params, g_buffers, ws, latents.keys, False)
    loss = losses.logistic_g(judge(model, networks, *d, fake, latents.c, sigma))
    return loss, {'loss/g': loss}


def g_pl(
    model: Any,
    networks: Networks,
    params: dict,
    g_buffers: dict,
    mean: jax.Array,
    latents: Latents,
    noise: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, dict]]:
    """pl_weight times the path length penalty.

    Args:
      mean: the running mean of path lengths, [].
      noise: standard normal, of the shape of the images.
    Returns: the loss, the new mean, and metrics.
    """
    ws, _ = styles(model, networks, params, g_buffers, latents)
    lengths = losses.path_lengths(
        lambda ws: networks.synthesise(params, g_buffers, ws, latents.keys, False)[0], ws, noise
    )
    penalty, mean = losses.path_length_penalty(lengths, mean, model.pl_decay)
    return model.pl_weight * penalty, (mean, {'loss/pl': penalty, 'path_length': mean})


def d_main(
    model: Any,
    networks: Networks,
    params: dict,
    d_buffers: dict,
    g: tuple[dict, dict],
    real: jax.Array,
    c: jax.Array | None,
    latents: Latents,
    sigma: jax.Array | None = None,
) -> tuple[jax.Array, tuple[dict, dict]]:
    """The discriminator's logistic loss.

    Args:
      g: (params, buffers) of the generator.
      real, c: images [b, H, W, 3] in [-1, 1] and their labels.
    Returns: the loss, G's buffers with their running means updated, and metrics.
    """
    ws, g_buffers = styles(model, networks, *g, latents, update_emas=True)
    fake, g_buffers = networks.synthesise(g[0], g_buffers, ws, latents.keys, True)
    real_logits = judge(model, networks, params, d_buffers, real, c, sigma)
    fake_logits = judge(model, networks, params, d_buffers, fake, latents.c, sigma)
    loss = losses.logistic_d(real_logits, fake_logits)
    metrics = {'loss/d': loss, 'logits/real': jnp.mean(real_logits), 'logits/fake': jnp.mean(fake_logits)}
    return loss, (g_buffers, metrics)


def d_r1(
    model: Any,
    networks: Networks,
    params: dict,
    d_buffers: dict,
    real: jax.Array,
    c: jax.Array | None,
    gamma: float,
    sigma: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """gamma / 2 times the R1 penalty with respect to the images, before they are blurred; also metrics."""
    penalty = losses.r1_penalty(lambda x: judge(model, networks, params, d_buffers, x, c, sigma), real)
    return gamma / 2 * penalty, {'loss/r1': penalty}


def assemble(config: Any, networks: Networks, init: Callable, sample: Callable) -> GAN:
    """The GAN of a run configuration, of StyleGAN2 or StyleGAN3: G main, G path length, D main, D R1, in this order.

    Args:
      networks: of the model.
      init: key -> {'params', 'buffers'} of the generator.
      sample: see `GAN.sample`.
    """
    model, batch_size = config.model, config.train.batch_size
    height, width = size_of(model)
    exact = networks.exact or networks
    gamma = 0.0002 * height * width / batch_size if model.r1_gamma is None else model.r1_gamma
    ema_kimg = batch_size * 10 / 32 if model.ema_kimg is None else model.ema_kimg

    def init_all(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        images, c = jnp.zeros((1, height, width, 3)), labels_or_default(model, None, 1)
        both = {'g': init(g_key), 'd': discriminator(model).init(d_key, images, c)}
        params, buffers = ({net: both[net].get(part, {}) for net in both} for part in ('params', 'buffers'))
        return params, buffers, {'pl_mean': jnp.float32(0)} if model.pl_weight > 0 else {}

    def sigma_of(state: Any, stage: Stage) -> jax.Array | None:
        return blur_sigma(model, state.nimg, batch_size) if 'blur' in stage.flags else None

    def net(state: Any, name: str) -> tuple[dict, dict]:
        return state.params[name], state.buffers[name]

    def g_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        latents, sigma = draw_latents(model, batch, key), sigma_of(state, stage)
        loss, metrics = g_main(model, networks, params, state.buffers['g'], net(state, 'd'), latents, sigma)
        return loss, ({}, metrics)

    def g_pl_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        rows = max(len(batch['index']) // model.pl_batch_shrink, 1)
        few = {name: batch[name][:rows] for name in ('index', 'label') if name in batch}
        latents_key, noise_key = jax.random.split(key)
        noise = sample_normal(noise_key, few['index'], (height, width, 3))
        latents, mean = draw_latents(model, few, latents_key), state.stats['pl_mean']
        loss, (mean, metrics) = g_pl(model, exact, params, state.buffers['g'], mean, latents, noise)
        return loss, ({'stats': {**state.stats, 'pl_mean': mean}}, metrics)

    def d_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        latents, sigma = draw_latents(model, batch, key), sigma_of(state, stage)
        loss, (g_buffers, metrics) = d_main(
            model, networks, params, state.buffers['d'], net(state, 'g'), batch['image'], latents.c, latents, sigma
        )
        return loss, ({'buffers': {**state.buffers, 'g': g_buffers}}, metrics)

    def d_r1_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        c, sigma = labels(model, batch), sigma_of(state, stage)
        loss, metrics = d_r1(model, exact, params, state.buffers['d'], batch['image'], c, gamma, sigma)
        return loss, ({}, metrics)

    def stage_at(step: int, nimg: int, seed: int) -> Stage:
        blurs = 3 * float(blur_sigma(model, nimg, batch_size)) >= 1
        return Stage(config.data.resolution, flags=('blur',) if blurs else ())

    def adam(lr: float, interval: int) -> optax.GradientTransformation:
        return optax.chain(optim.finite_gradients(), optim.adam(config.optim, lr, interval))

    updates = [
        Update('g', g_main_loss),
        *([Update('g', g_pl_loss, interval=model.pl_interval)] if model.pl_weight > 0 else []),
        Update('d', d_main_loss),
        *([Update('d', d_r1_loss, interval=model.r1_interval)] if gamma > 0 else []),
    ]
    return GAN(
        init=init_all,
        updates=tuple(updates),
        optimizers={'g': adam(config.optim.g_lr, model.pl_interval), 'd': adam(config.optim.d_lr, model.r1_interval)},
        sample=sample,
        stage_at=stage_at,
        ema=lambda nimg, step: optim.ema_decay(batch_size, nimg, ema_kimg, model.ema_rampup),
    )
