"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958, 2006.06676) as in NVlabs/stylegan3: the generator.

Its discriminator is in `discriminator`, its training in `stylegan_training`. Square sides are powers of two as
published; other sizes begin with a larger learned constant.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import filters, ops
from pegan_jax.augment import Preset
from pegan_jax.gan import GAN, size_of
from pegan_jax.layers import EqualConv, EqualDense, MappingNetwork
from pegan_jax.models import stylegan_training
from pegan_jax.models.discriminator import widths
from pegan_jax.models.stylegan3 import Signal, SynthesisInput
from pegan_jax.settings import UserError, check_types

validate = stylegan_training.validate
TRAINING_FIELDS = stylegan_training.TRAINING_FIELDS


@dataclass(frozen=True)
class Config:
    """The model and its losses; defaults are those of the 'stylegan2' preset of the StyleGAN3 release.

    img_resolution: side, or (height, width), of the images; halving must end at 4 to 7 pixels on the shorter side.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    c_dim: size of the labels (number of classes); 0: no labels.
    z_dim, w_dim: sizes of the latent and of the mapped latent.
    mapping_layers: dense layers of the mapping network.
    w_avg_beta: decay of the running mean of w; 0.995 in StyleGAN2-ADA.
    channel_base, channel_max: a layer of side s has min(channel_base / s, channel_max) channels.
    channels: widths at 4 pixels, 8, and so on up to the resolution, instead of these.
    architecture: that of the generator, see `Generator`.
    input: 'const', learned; or 'fourier', fixed waves of up to 2 cycles per image (StyleGAN3's configurations B and C),
      whose coordinates a transform moves.
    use_noise: whether the generator's convolutions add noise.
    conv_clamp: limit of activations in both networks; None: no limit.
    d_architecture, d_channel_base, d_channel_max, d_channels, d_mapping_layers: the same for the discriminator.
    mbstd_group_size: samples per group of its minibatch standard deviation.
    freeze_layers: convolutions of D that are not trained, from the images on (fine-tuning with Freeze-D).
    r1_gamma: the R1 term is r1_gamma / 2 times the penalty, 0: off; None: 0.0002 height width / batch, a first guess.
    r1_interval: steps between its updates, for which D's Adam is corrected.
    pl_weight: weight of path length regularisation, 0: off.
    pl_interval: steps between its updates, for which G's Adam is corrected, even if it is off; 0: no correction.
    pl_batch_shrink, pl_decay: the term sees this fraction of a batch; speed of the running mean of lengths.
    style_mixing_prob: probability of a batch whose later layers have the styles of other latents.
    blur_init_sigma: all that D sees is blurred, at first by this many pixels; 0: off.
    blur_fade_kimg: thousands of images until the blur has vanished; None: 200 / 32 times the batch.
    augment: all that D sees is augmented with a probability that follows its overfitting ('ada'), with a fixed one, or
      not at all; see `pegan_jax.augment`.
    augment_pipe: which transforms, a name in `augment.PRESETS`: blit, geometry, colour, filter, noise, cutout.
    augment_p: the probability if it is fixed, otherwise that of the first step.
    ada_target, ada_kimg: the mean sign of D's logits of real images that 'ada' aims at; thousands of images that it
      takes from 0 to 1; None: 500, or 100 if a run starts from another (train.init_from).
    ema_kimg: half-life of G's running mean; None: 10 / 32 times the batch.
    ema_rampup: the half-life is at most this fraction of the images seen so far; None: no such limit.
    num_fp16_res: how many of the highest resolutions of both networks have blocks that compute in `dtype`, which has 16
      bits or is float32. The R1 and path length terms are always float32.
    """

    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    c_dim: int = 0
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    w_avg_beta: float = 0.998
    channel_base: int = 32768
    channel_max: int = 512
    channels: tuple[int, ...] | None = None
    architecture: Literal['skip', 'resnet', 'orig'] = 'skip'
    input: Literal['const', 'fourier'] = 'const'
    use_noise: bool = True
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
    style_mixing_prob: float = 0.9
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
        stylegan_training.check(self)
        stylegan_training.check_widths(self)
        stylegan_training.check_channels(self)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return size_of(self.img_resolution)


# Generator ------------------------------------------------------------------------------------------------------------


Noise = jax.Array | Literal['const', 'none']  # keys [N], which draw new numbers per pixel; the buffers' numbers; none


def _layer_noise(noise: Noise, i: int) -> Noise:
    """The noise of the i-th part of a network: keys become different ones for every part."""
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

    first: the block does not double, and has a single convolution; x None is then the learned `const`
      [*size, features].
    to_rgb: whether the block gives colours. It adds its own to those of the previous block, if any.
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
    first: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array | None,
        rgb: jax.Array | None,
        ws: jax.Array,
        noise: Noise = 'const',
    ) -> tuple[jax.Array, jax.Array | None]:
        """ws [N, 2 or 3, w_dim]: those of the convolutions, then that of `torgb`."""
        options = {'use_noise': self.use_noise, 'conv_clamp': self.conv_clamp, 'dtype': self.dtype}
        up = {'up': 2, 'resample_filter': self.resample_filter}
        noises = [_layer_noise(noise, i) for i in range(2)]
        conv1 = SynthesisLayer(self.features, name='conv1', **options)
        if self.first:
            if x is None:
                const = self.param('const', nn.initializers.normal(1.0), (*self.size, self.features))
                x = jnp.broadcast_to(const[None], (ws.shape[0], *const.shape))
            x = conv1(x, ws[:, 0], noises[1])
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
    input: Literal['const', 'fourier'] = 'const'

    @nn.compact
    def __call__(self, ws: jax.Array, noise: Noise = 'const', transform: jax.Array | None = None) -> jax.Array:
        x = rgb = None
        blocks = len(self.channels)
        if self.input == 'fourier':
            waves = Signal(self.channels[0], min(self.base), 2.0, 0.0)
            x = SynthesisInput(waves, learned_transform=False, name='input')(ws[:, 0], self.base, transform)
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
                first=i == 0,
                name=f'b{4 * 2**i}',
            )
            # A to-RGB layer shares its style with the convolution that follows it.
            first = max(2 * i - 1, 0)
            x, rgb = block(x, rgb, ws[:, first : 2 * i + 2], _layer_noise(noise, i))
        return rgb


class Generator(nn.Module):
    """StyleGAN2: z, labels -> ws -> images.

    channels: widths at 4 pixels, 8, and so on up to the resolution.
    base: (height, width) of the learned constant, 4 to 7 on the shorter side; doubles with every further width.
    architecture: 'skip' adds the colours of every block; 'resnet' and 'orig' take those of the last, with and without
      shortcuts beside the convolutions of a block.
    input: as in `Config`.
    use_noise: whether convolutions add noise.
    conv_clamp: limit of the activations of convolutions; None: no limit.
    resample_filter: taps of the upsampling layers.
    num_fp16_res: how many of the highest resolutions have blocks that compute in `dtype`; the others, and always the
      first, compute in float32.
    mapping_layers, lr_multiplier, w_avg_beta: those of the mapping network.
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
    input: Literal['const', 'fourier'] = 'const'

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
            self.input,
        )

    def map(self, z: jax.Array | None, c: jax.Array | None = None, update_emas: bool = False) -> jax.Array:
        """ws [N, num_ws, w_dim]; update_emas as in `MappingNetwork`."""
        return self.mapping(z, c, update_emas=update_emas)

    def synthesise(self, ws: jax.Array, noise: Noise = 'const', transform: jax.Array | None = None) -> jax.Array:
        """Images [N, H, W, img_channels] of ws; transform: that of a 'fourier' input's coordinates, see `stylegan3`."""
        return self.synthesis(ws, noise, transform)

    def __call__(self, z: jax.Array | None, c: jax.Array | None = None) -> jax.Array:
        """Images of latents and labels, with the noise of the buffers."""
        return self.synthesise(self.map(z, c))


def generator(model: Config) -> Generator:
    """The Linen module of a configuration."""
    channels = model.channels or widths(model.size, model.channel_base, model.channel_max)
    return Generator(
        channels,
        base=tuple(side >> (len(channels) - 1) for side in model.size),
        w_dim=model.w_dim,
        architecture=model.architecture,
        img_channels=model.img_channels,
        use_noise=model.use_noise,
        conv_clamp=model.conv_clamp,
        num_fp16_res=model.num_fp16_res,
        dtype=jnp.dtype(model.dtype),
        mapping_layers=model.mapping_layers,
        w_avg_beta=model.w_avg_beta,
        input=model.input,
    )


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
    """Images of ws with noise drawn from keys, and the buffers, as `stylegan_training.Networks` asks for them."""
    return module.apply({'params': params, 'buffers': buffers}, ws, keys, method='synthesise'), buffers


def view(size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """Options of `Generator.synthesise` for a scene that a matrix moves."""
    if size is not None:
        raise UserError('StyleGAN2 has one size; leave it out.')
    return {} if transform is None else {'transform': transform}


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    moves = config.model.input == 'fourier'
    options, views = (('noise', 'transform'), view) if moves else (('noise',), None)
    return stylegan_training.assemble(config, generator, synthesise, options=options, view=views)
