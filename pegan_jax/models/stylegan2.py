"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): the generator, and the discriminator that CIPS and others share."""

import math
from typing import Any

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


# Generator ------------------------------------------------------------------------------------------------------------


class ModulatedConv(nn.Module):
    """Modulated convolution (Karras et al. 2020): x [N, H, W, C], w [N, w_dim] -> [N, H, W, features].

    With V the kernel / sqrt(C k^2) and s = affine(w), the weight of an image is V s, demodulated by d = 1 / sqrt(sum of
    its squares + 1e-8) per output channel. Computed as d conv(V, s x), so that no weight per image is needed.

    up: twice the size: a transposed convolution of stride 2, then the FIR filter of the 'resample_filter' buffer.
    """

    features: int
    kernel_size: int = 3
    demodulate: bool = True
    up: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        in_features, size = x.shape[-1], self.kernel_size
        kernel = self.param('kernel', nn.initializers.normal(1.0), (size, size, in_features, self.features))
        kernel = kernel / math.sqrt(in_features * size**2)
        style = EqualDense(in_features, bias_init=1.0, name='affine')(w)
        x = x * style[:, None, None, :]
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        if self.up:
            # A transposed convolution is an ordinary one of the input with zeros between, and the kernel flipped.
            pad, flipped = [(size - 1, size - 1)] * 2, kernel[::-1, ::-1]
            y = jax.lax.conv_general_dilated(x, flipped, (1, 1), pad, (2, 2), dimension_numbers=dimensions)
            y = ops.upfirdn2d(y, _upsampling_filter(self), padding=(1, 1, 1, 1))
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), [(size // 2,) * 2] * 2, dimension_numbers=dimensions)
        if self.demodulate:
            squares = jnp.square(style) @ jnp.sum(jnp.square(kernel), axis=(0, 1))
            y = y * jax.lax.rsqrt(squares + 1e-8)[:, None, None, :]
        return y


def _upsampling_filter(module: nn.Module) -> jax.Array:
    """The buffer [4, 4] of an upsampling layer: [1, 3, 3, 1] both ways, with a gain of 4, as checkpoints hold it."""
    return module.variable('buffers', 'resample_filter', lambda: filters.setup_filter((1, 3, 3, 1), gain=4)).value


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, lrelu: x [N, H, W, C], w [N, w_dim] -> [N, H, W, features].

    noise: a key draws new numbers for every image and pixel; None takes the 'noise_const' buffer [H, W].
    """

    features: int
    up: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        y = ModulatedConv(self.features, up=self.up, name='conv')(x, w)
        n, height, width, _ = y.shape

        def draw() -> jax.Array:
            return jax.random.normal(self.make_rng('params'), (height, width))

        const = self.variable('buffers', 'noise_const', draw).value[None]
        strength = self.param('noise_strength', nn.initializers.zeros, ())
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        numbers = const if noise is None else jax.random.normal(noise, (n, height, width))
        return lrelu(y + strength * numbers[..., None] + bias[None, None, None, :])


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, not demodulated, added to `rgb` [N, H/2, W/2, 3] of the level below."""

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, rgb: jax.Array | None = None) -> jax.Array:
        bias = self.param('bias', nn.initializers.zeros, (3,))
        y = ModulatedConv(3, kernel_size=1, demodulate=False, name='conv')(x, w) + bias[None, None, None, :]
        return y if rgb is None else y + ops.upfirdn2d(rgb, _upsampling_filter(self), up=2, padding=(2, 1, 2, 1))


class Generator(nn.Module):
    """StyleGAN2 with skips to the output, as the baseline that comes with CIPS; it knows no coordinates.

    channels: widths at 4, 8, 16 ... pixels, up to the resolution of the images.
    """

    channels: tuple[int, ...]
    z_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01

    @property
    def num_ws(self) -> int:
        """Styles of an image: one per convolution, and one for the last to-RGB layer."""
        return 2 * len(self.channels)

    def setup(self) -> None:
        first, rest = self.channels[0], self.channels[1:]
        self.mapping = MappingNetwork(self.z_dim, self.mapping_layers, self.lr_multiplier)
        self.input = self.param('input', nn.initializers.normal(1.0), (4, 4, first))
        self.conv1 = SynthesisLayer(first)
        self.to_rgb1 = ToRGB()
        self.convs = [SynthesisLayer(c, up=up) for c in rest for up in (True, False)]
        self.to_rgbs = [ToRGB() for _ in rest]

    def map(self, z: jax.Array) -> jax.Array:
        """z [N, z_dim] -> w [N, z_dim]."""
        return self.mapping(z)

    def synthesise(self, ws: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Images [N, R, R, 3] of ws [N, num_ws, z_dim]; a to-RGB layer shares its style with the convolution behind it.

        noise: a key, or None for the noise of the buffers.
        """
        keys = [None] * (self.num_ws - 1) if noise is None else list(jax.random.split(noise, self.num_ws - 1))
        x = jnp.broadcast_to(self.input[None], (ws.shape[0], *self.input.shape))
        x = self.conv1(x, ws[:, 0], keys[0])
        rgb = self.to_rgb1(x, ws[:, 1])
        for i, to_rgb in zip(range(1, self.num_ws - 1, 2), self.to_rgbs, strict=True):
            x = self.convs[i - 1](x, ws[:, i], keys[i])
            x = self.convs[i](x, ws[:, i + 1], keys[i + 1])
            rgb = to_rgb(x, ws[:, i + 2], rgb)
        return rgb

    def __call__(self, z: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Images [N, R, R, 3] of z [N, z_dim], one style for all layers."""
        return self.synthesise(jnp.repeat(self.map(z)[:, None, :], self.num_ws, axis=1), noise)
