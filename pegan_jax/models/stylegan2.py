"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): the generator, and the discriminator that CIPS and others share."""

import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import filters, ops
from pegan_jax.layers import EqualConv, EqualDense, MappingNetwork, lrelu, minibatch_std


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
                frozen=tuple(name for block, name in self._convolutions[: self.freeze_layers] if block == i),
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
    def _convolutions(self) -> list[tuple[int, str]]:
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
