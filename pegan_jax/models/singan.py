"""SinGAN (Shaham et al. 2019, arXiv 1905.01164) and its variants with positional encodings (Xu et al. 2021).

A pyramid of small generators learns one image: block s turns noise and the image of the scale below into its own image,
and a patch critic of the same scale compares that with the real one. Blocks train one after the other, coarse to fine.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pegan_jax import encodings, losses, ops
from pegan_jax.data.sources import open_image
from pegan_jax.gan import GAN, Sampler, Stage, Update, latents, sample_keys, size_only
from pegan_jax.layers import BatchNorm
from pegan_jax.models.singan_pyramid import (
    LEAST_SR_FACTOR,
    Pyramid,
    find_palette,
    make_pyramid,
    resize_quantised,
    scaled_sizes,
    to_palette,
)
from pegan_jax.ops import products
from pegan_jax.pixels import decode_image
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

MAX_CHANNELS = 128


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset('d_steps g_steps lr_decay_iter gp_weight recon_weight dtype'.split())


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the original program.

    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    min_size: shorter side of the coarsest scale, in pixels; rounding up may add one.
    max_size: the image is shrunk until its longer side has this many pixels; rounding up may add one. By the rules of
      mmgen it only sets how many scales there are, and their ratio: the finest scale keeps the size of the file, and
      the coarsest is larger than min_size by as much as the file is larger than max_size.
    scale_factor: ratio of the sides of neighbouring scales, before it is adapted to a whole number of scales.
    num_layers, kernel_size: convolutions of a block, and their size.
    base_channels, min_feat_channels: widths of the first four scales; they double every four scales, up to 128.
    padding: where the borders of a block's input come from. 'zero' and 'reflect' pad noise and image once, before the
      block; 'zero-layer' and 'reflect-layer' pad every convolution; 'noise' draws the noise larger and pads the image
      with zeros; 'interp' draws the noise larger and enlarges the image, so that nothing artificial enters;
      'interp-noise' enlarges both.
    encoding: added to the noise of the coarsest scale: the Cartesian grid (2 channels) or sinusoids (2 spe_dim).
    spe_dim, spe_div_half_dim, spe_center_shift: as for `encodings.spe`.
    first_noise_channels: noise channels of the coarsest scale, where one serves all; None: 1, or those of the encoding.
    noise_channels: noise channels of the other scales, 1 or those of the images; None: those of the images.
    d_norm: batch normalisation in the critics.
    rules: 'original' or 'mmgen': which pyramid, which resize between scales, which initial values, when noise
      amplitudes are measured, and whether finished scales are frozen entirely or keep normalising by the statistics of
      the batch.
    iters_per_scale, d_steps, g_steps: iterations of a scale, and the updates of each network in one.
    lr_decay_iter: iteration of a scale from which the learning rates are a tenth.
    noise_amp: noise amplitude of a scale relative to the error that the scale below leaves.
    gp_weight, recon_weight: weights of the gradient penalty and of the reconstruction.
    sr_factor: for super-resolution by this factor: neighbouring scales have the ratio of its steps; published with
      min_size 18 and recon_weight 100.
    paint_scale: for paintings that enter at this scale: in training and later, what it gets from the scale below is
      reduced to a palette, the five colours (with their opacity) of the image in the size of this scale.
    dtype: that of the inputs of convolutions, except the last of each block; the gradient penalty is float32.
    """

    img_channels: Literal[1, 3, 4] = 3
    min_size: int = 25
    max_size: int = 250
    scale_factor: float = 0.75
    num_layers: int = 5
    kernel_size: int = 3
    base_channels: int = 32
    min_feat_channels: int = 32
    padding: Literal['zero', 'zero-layer', 'reflect', 'reflect-layer', 'noise', 'interp', 'interp-noise'] = 'zero'
    encoding: Literal['none', 'csg', 'spe'] = 'none'
    spe_dim: int = 4
    spe_div_half_dim: bool = False
    spe_center_shift: int | None = 200
    first_noise_channels: int | None = None
    noise_channels: int | None = None
    d_norm: bool = True
    rules: Literal['original', 'mmgen'] = 'original'
    iters_per_scale: int = 2000
    d_steps: int = 3
    g_steps: int = 3
    lr_decay_iter: int = 1600
    noise_amp: float = 0.1
    gp_weight: float = 0.1
    recon_weight: float = 10.0
    sr_factor: float | None = None
    paint_scale: int | None = None
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('min_size', 'max_size', 'base_channels', 'min_feat_channels', 'iters_per_scale', 'spe_dim'):
            at_least(self, name, 1)
        for name in ('d_steps', 'g_steps', 'lr_decay_iter'):
            at_least(self, name, 1)
        for name in ('noise_amp', 'gp_weight', 'recon_weight'):
            at_least(self, name, 0.0)
        at_least(self, 'num_layers', 3)
        if self.kernel_size % 2 == 0 or self.kernel_size < 3:
            raise ConfigError(
                f'model.kernel_size={self.kernel_size} must be odd and at least 3: smaller ones see no neighbours.'
            )
        if not 0 < self.scale_factor < 1:
            raise ConfigError(f'model.scale_factor={self.scale_factor} must lie between 0 and 1, such as 0.75.')
        if self.sr_factor is not None and not self.sr_factor >= LEAST_SR_FACTOR:
            raise ConfigError(
                f'model.sr_factor={self.sr_factor} must be at least {LEAST_SR_FACTOR} (one step), such as 4.'
            )
        if self.paint_scale is not None:
            at_least(self, 'paint_scale', 1)
        if self.max_size < self.min_size:
            raise ConfigError(f'model.max_size={self.max_size} is below model.min_size={self.min_size}.')
        if self.min_size <= 2 * self.margin:
            raise ConfigError(
                f'model.min_size={self.min_size} leaves the critic, which sees {2 * self.margin + 1} pixels at once, '
                f'nothing at the coarsest scale; use at least {2 * self.margin + 1}, or fewer or smaller convolutions.'
            )
        if self.rules == 'mmgen' and self.iters_per_scale < 2:
            raise ConfigError(
                "model.rules='mmgen' measures the noise of a scale after its first iteration; "
                f'model.iters_per_scale={self.iters_per_scale} must be at least 2.'
            )
        if self.noise_channels not in (None, 1, self.img_channels):
            raise ConfigError(
                f'model.noise_channels={self.noise_channels}; use model.img_channels={self.img_channels}, or 1 for all '
                'colours together.'
            )
        if self.encoding == 'spe' and (self.spe_dim % 2 or (self.spe_dim == 2 and not self.spe_div_half_dim)):
            raise ConfigError(
                f'model.spe_dim={self.spe_dim} must be even, and at least 4 unless spe_div_half_dim; use 4 or 8.'
            )
        if self.first_noise_channels not in (None, 1, self.in_channels(0)):
            raise ConfigError(
                f'model.first_noise_channels={self.first_noise_channels}; use 1 or {self.in_channels(0)}, the channels '
                'of the input of the coarsest scale.'
            )

    @property
    def margin(self) -> int:
        """P: pixels that the convolutions of a block remove on each side when they are not padded."""
        return (self.kernel_size - 1) // 2 * self.num_layers

    @property
    def noise_margin(self) -> int:
        """Pixels by which noise maps are larger than images, on each side."""
        return self.margin if self.padding in ('noise', 'interp') else 0

    def in_channels(self, scale: int) -> int:
        """Channels of the input of a block."""
        return (
            self.img_channels if scale or self.encoding == 'none' else 2 if self.encoding == 'csg' else 2 * self.spe_dim
        )

    def noise_shape(self, scale: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """Height, width and channels of the noise map of a scale whose images have `size`."""
        if scale:
            channels = self.noise_channels or self.img_channels
        elif self.first_noise_channels is None:
            channels = 1 if self.encoding == 'none' else self.in_channels(0)
        else:
            channels = self.first_noise_channels
        return (size[0] + 2 * self.noise_margin, size[1] + 2 * self.noise_margin, channels)


# Networks -------------------------------------------------------------------------------------------------------------


def convolve(x: jax.Array, kernel: jax.Array, *settings: Any, **names: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` of an unpadded convolution; on CPU products, of all patches if channels are few.

    Critics need gradients of gradients, and those of XLA's own convolutions take up to 50 times as long on CPU.
    """
    if ops.platform() != 'cpu':
        return jax.lax.conv_general_dilated(x, kernel, *settings, **names)
    rows, columns, channels, features = kernel.shape
    if channels * features >= 2**10:
        return products.correlate(x, kernel, products.Steps())
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    patches = [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(rows * columns * channels, features)


def near_one(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal numbers with mean 1 and deviation 0.02."""
    return 1 + 0.02 * jax.random.normal(key, shape)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation if `norm`, leaky ReLU 0.2 if `activate`: [N, h, w, C] -> [N, h', w', features].

    pad: 'VALID', 'zero' or 'reflect'. There is a bias only without normalisation, which would cancel it.
    rules: by those of the original program, scales of the normalisation begin about 1 with a deviation of 0.02, and
      biases are uniform up to 1 / sqrt(inputs); by mmgen's, they are 1 and 0.
    """

    features: int
    kernel_size: int
    pad: str = 'VALID'
    norm: bool = True
    activate: bool = True
    rules: str = 'original'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        scale_init, bias_init = nn.initializers.ones, nn.initializers.zeros
        if self.rules == 'original':
            scale_init, limit = near_one, (self.kernel_size**2 * x.shape[-1]) ** -0.5
            bias_init = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
        if self.pad != 'VALID':
            p = self.kernel_size // 2
            mode = 'constant' if self.pad == 'zero' else 'reflect'
            x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), mode=mode)
        x = nn.Conv(
            self.features,
            (self.kernel_size,) * 2,
            padding='VALID',
            use_bias=not self.norm,
            kernel_init=nn.initializers.normal(0.02),
            bias_init=bias_init,
            conv_general_dilated=convolve,
            dtype=self.dtype,
            name='conv',
        )(x)
        if self.norm:
            x = BatchNorm(scale_init, name='bn')(x, train)
        return jax.nn.leaky_relu(x, 0.2) if self.activate else x


class Block(nn.Module):
    """head, body1, ..., tail: `num_layers` convolutions from the input to `out` channels; G's end in tanh.

    widths: those of the layers before the tail; rules: as for `ConvBlock`.
    """

    widths: tuple[int, ...]
    out: int
    kernel_size: int
    pad: str = 'VALID'
    norm: bool = True
    rules: str = 'original'
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = functools.partial(ConvBlock, kernel_size=self.kernel_size, pad=self.pad, rules=self.rules)
        for i, width in enumerate(self.widths):
            name = f'body{i}' if i else 'head'
            x = layer(width, norm=self.norm, dtype=self.dtype, name=name)(x, train)
        with jax.default_matmul_precision('highest'):  # colours and scores
            return layer(self.out, norm=False, activate=False, name='tail')(x, train)


def widths(model: Config, scale: int) -> tuple[int, ...]:
    """Widths of a block's layers before its tail: the head, then half each time, but not below the scale's minimum."""
    head = min(model.base_channels * 2 ** (scale // 4), MAX_CHANNELS)
    least = min(model.min_feat_channels * 2 ** (scale // 4), MAX_CHANNELS)
    return (head, *(max(head // 2**j, least) for j in range(1, model.num_layers - 1)))


def g_block(model: Config, scale: int) -> Block:
    """Generator of a scale."""
    pad = model.padding.removesuffix('-layer') if model.padding.endswith('-layer') else 'VALID'
    dtype = jnp.dtype(model.dtype)
    return Block(widths(model, scale), model.img_channels, model.kernel_size, pad, rules=model.rules, dtype=dtype)


def d_block(model: Config, scale: int) -> Block:
    """Critic of a scale: images [N, h, w, img_channels] -> [N, h - 2P, w - 2P, 1]."""
    dtype = jnp.dtype(model.dtype)
    return Block(widths(model, scale), 1, model.kernel_size, norm=model.d_norm, rules=model.rules, dtype=dtype)


# Forward pass ---------------------------------------------------------------------------------------------------------


def encoding(model: Config, height: int, width: int) -> jax.Array:
    """The positional encoding that the noise of the coarsest scale gets, [height, width, C]."""
    if model.encoding == 'csg':
        return encodings.csg(height, width)
    return encodings.spe(
        height, width, model.spe_dim, div_half_dim=model.spe_div_half_dim, center_shift=model.spe_center_shift
    )


def _pad(x: jax.Array, p: int, mode: str = 'constant') -> jax.Array:
    return jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), mode=mode)


def hop(model: Config, buffers: dict, scale: int, image: jax.Array, size: tuple[int, int], ratio: float) -> jax.Array:
    """The image of the scale below in the size of `scale`, reduced to the palette if that is model.paint_scale."""
    if scale == model.paint_scale:
        image = to_palette(image, buffers['palette'])
    if model.rules == 'mmgen':
        return ops.resize_bicubic_align_corners(image, size)
    image = resize_quantised(image, factor=1 / ratio)[:, : size[0], : size[1]]
    if image.shape[1:3] == size:
        return image
    # An enlarged sample may miss the size by a pixel. The original program then stretches the padded image.
    padded = ops.resize_align_corners(_pad(image, model.margin), tuple(n + 2 * model.margin for n in size))
    return padded[:, model.margin : -model.margin, model.margin : -model.margin]


def block_input(model: Config, scale: int, noise: jax.Array, amp: jax.Array, image: jax.Array) -> jax.Array:
    """What a block sees.

    Args:
      noise: [N, h, w, C], larger by 2 `noise_margin`; image: [N, h, w, img_channels], that of the scale below in the
        size of this one.
    Returns: amp (noise + encoding) at the coarsest scale of a model with an encoding, otherwise amp noise + image; all
      padded as `model.padding` says.
    """
    p = model.margin
    if scale == 0 and model.encoding != 'none':
        noise = noise + encoding(model, *noise.shape[1:3])[None]
    if model.padding in ('zero', 'reflect'):
        mode = 'constant' if model.padding == 'zero' else 'reflect'
        noise, image = _pad(noise, p, mode), _pad(image, p, mode)
    elif model.padding == 'noise':
        image = _pad(image, p)
    elif model.padding in ('interp', 'interp-noise'):
        size = (image.shape[1] + 2 * p, image.shape[2] + 2 * p)
        image = ops.resize_bicubic_align_corners(image, size)
        if model.padding == 'interp-noise':
            noise = ops.resize_bicubic_align_corners(noise, size)
    return amp * noise if scale == 0 and model.encoding != 'none' else amp * noise + image


def run_block(
    model: Config, scale: int, params: dict, stats: dict, v: jax.Array, image: jax.Array, train: bool
) -> tuple[jax.Array, dict]:
    """tanh(block(v)) + image, and the running statistics of the block, new ones if `train`."""
    out, new = g_block(model, scale).apply({'params': params, 'batch_stats': stats}, v, train, mutable=['batch_stats'])
    return jnp.tanh(out) + image, new['batch_stats'] if train else stats


def generate(
    model: Config,
    params: dict,
    buffers: dict,
    noises: Sequence[jax.Array],
    image: jax.Array | None = None,
    *,
    ratio: float,
    first: int = 0,
    train: Sequence[bool] | bool = False,
) -> tuple[list[jax.Array], dict]:
    """Runs the blocks `first` to `first + len(noises) - 1`.

    Args:
      params: {'block0': ...}; buffers: {'stats': {'block0': ...}, 'amp': [scales], ...}.
      noises: one for each scale, [N, h, w, C] with the shape of `Config.noise_shape`; they set the sizes.
      image: that of the scale below in the size of scale `first`, [N, h, w, img_channels]; None: zeros.
      ratio: that of the pyramid.
      train: which blocks normalise by the statistics of their input, and change their running ones.
    Returns: the images of the scales, and the new running statistics.
    """
    train = [train] * len(noises) if isinstance(train, bool) else train
    images, stats, margin = [], dict(buffers['stats']), 2 * model.noise_margin
    for i, (noise, mode) in enumerate(zip(noises, train, strict=True)):
        scale, name = first + i, f'block{first + i}'
        size = (noise.shape[1] - margin, noise.shape[2] - margin)
        if images:
            image = hop(model, buffers, scale, images[-1], size, ratio)
        elif image is None:
            image = jnp.zeros((noise.shape[0], *size, model.img_channels))
        v = jax.lax.stop_gradient(block_input(model, scale, noise, buffers['amp'][scale], image))
        out, stats[name] = run_block(model, scale, params[name], stats[name], v, image, mode)
        images.append(out)
    return images, stats


def criticise(
    model: Config, scale: int, params: dict, stats: dict, images: jax.Array, train: bool = True
) -> tuple[jax.Array, dict]:
    """The critic's map [N, h', w', 1] at a scale, and its running statistics, {} without normalisation."""
    variables = {'params': params, 'batch_stats': stats}
    out, new = d_block(model, scale).apply(variables, images, train, mutable=['batch_stats'])
    return out, new.get('batch_stats', {}) if train else stats


# Losses ---------------------------------------------------------------------------------------------------------------


def d_loss(
    model: Config, scale: int, params: dict, stats: dict, real: jax.Array, fake: jax.Array, mix: jax.Array
) -> tuple[jax.Array, tuple[dict, dict]]:
    """The critic's loss (WGAN-GP): mean D(fake) - mean D(real) + gp_weight GP(mix real + (1 - mix) fake).

    GP is the mean over pixels of (|gradient of sum D over the channels| - 1)^2.

    Args:
      params, stats: those of this critic; real: [1, h, w, C]; fake: [b, h, w, C]; mix: [b, 1, 1, 1] in [0, 1].
    Returns: the loss, and (the running statistics after the three passes, metrics).
    """
    fake_map, stats = criticise(model, scale, params, stats, fake)
    real_map, stats = criticise(model, scale, params, stats, real)

    def total(x: jax.Array, stats: dict = stats) -> tuple[jax.Array, dict]:
        out, stats = criticise(dataclasses.replace(model, dtype='float32'), scale, params, stats, x)
        return jnp.sum(out), stats

    with jax.default_matmul_precision('highest'):  # as `losses.input_gradients`
        grads, stats = jax.grad(total, has_aux=True)(mix * real + (1 - mix) * fake)
    penalty = model.gp_weight * losses.unit_gradient_penalty(grads, axis=(-1,))
    on_fake, on_real = jnp.mean(fake_map), jnp.mean(real_map)
    metrics = {'critic/fake': on_fake, 'critic/real': on_real, 'loss/gp': penalty}
    loss = on_fake - on_real + penalty
    return loss, (stats, metrics | {'loss/d': loss})


def g_loss(model: Config, fake_map: jax.Array, recon: jax.Array, real: jax.Array) -> tuple[jax.Array, dict]:
    """The generator's loss: -mean D(fake) + recon_weight mean (reconstruction - real)^2; and metrics."""
    adversarial, squared = -jnp.mean(fake_map), model.recon_weight * jnp.mean(jnp.square(recon - real))
    return adversarial + squared, {'loss/g': adversarial, 'loss/recon': squared}


# The system -----------------------------------------------------------------------------------------------------------


def sizes_of(buffers: dict) -> list[tuple[int, int]]:
    """(height, width) of the scales of a model, coarse to fine, from its buffers."""
    return [buffers['reals'][f'scale{s}'].shape[:2] for s in range(len(buffers['reals']))]


def ratio_of(model: Config, buffers: dict) -> float:
    """Ratio of the sides of neighbouring scales, from the finest size."""
    sizes = sizes_of(buffers)
    return (model.min_size / min(sizes[-1])) ** (1 / (len(sizes) - 1))


def draw_noises(model: Config, keys: jax.Array, sizes: Sequence[tuple[int, int]], first: int = 0) -> list[jax.Array]:
    """Standard normal maps of the scales `first`, first + 1, ... with the given image sizes, one per key [N]."""
    return [
        jax.vmap(lambda k, s=s, size=size: jax.random.normal(jax.random.fold_in(k, s), model.noise_shape(s, size)))(
            keys
        )
        for s, size in enumerate(sizes, first)
    ]


def fixed_noises(model: Config, buffers: dict, count: int) -> list[jax.Array]:
    """The noise that makes the reconstruction: z* at the coarsest scale, zero at the others."""
    sizes = sizes_of(buffers)
    zeros = [jnp.zeros((1, *model.noise_shape(s, sizes[s]))) for s in range(1, count)]
    return [buffers['noise'][None], *zeros]


def build(config: Any) -> GAN:
    """The GAN of a run configuration. The image is read when a state is made, not when a checkpoint is sampled."""
    model, optim = config.model, config.optim

    @functools.cache
    def pyramid() -> tuple[list[np.ndarray], Pyramid]:
        data = config.data
        source = open_image(data.image, data.max_pixels)
        with jax.ensure_compile_time_eval():  # the first call may come from inside a traced function
            reals, shape = make_pyramid(decode_image(source[0]['image'], data.max_pixels, data.channels), model)
        if model.paint_scale is not None and model.paint_scale >= len(reals):
            raise ConfigError(f'model.paint_scale={model.paint_scale}; the image has scales 0 to {len(reals) - 1}.')
        return reals, shape

    def count() -> int:
        return len(pyramid()[0])

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        reals, shape = pyramid()
        params, stats = {'g': {}, 'd': {}}, {'g': {}, 'd': {}}
        keys = jax.random.split(key, 2 * len(reals) + 1)
        for s, size in enumerate(shape.sizes):
            enough = (1, size[0] + 2 * model.margin, size[1] + 2 * model.margin)
            g = g_block(model, s).init(keys[2 * s], jnp.zeros((*enough, model.in_channels(s))), False)
            d = d_block(model, s).init(keys[2 * s + 1], jnp.zeros((*enough, model.img_channels)), False)
            for net, variables in (('g', g), ('d', d)):
                params[net][f'block{s}'] = variables['params']
                stats[net][f'block{s}'] = variables.get('batch_stats', {})
        buffers = {
            'stats': stats['g'],
            'noise': jax.random.normal(keys[-1], model.noise_shape(0, shape.sizes[0])),
            'amp': jnp.zeros(len(reals)).at[0].set(1.0),
            'reals': {f'scale{s}': jnp.asarray(real) for s, real in enumerate(reals)},
            'scale': jnp.int32(0),
        }
        if model.paint_scale is not None:
            buffers['palette'] = jnp.asarray(find_palette(reals[model.paint_scale]))
        return params, {'g': buffers, 'd': stats['d']}, {}

    def modes(scale: int) -> list[bool]:
        return [model.rules == 'mmgen'] * scale + [True]

    def fakes(g_params: dict, buffers: dict, key: jax.Array, index: jax.Array, scale: int) -> tuple[jax.Array, dict]:
        noises = draw_noises(model, sample_keys(key, index), sizes_of(buffers)[: scale + 1])
        images, stats = generate(model, g_params, buffers, noises, ratio=ratio_of(model, buffers), train=modes(scale))
        return images[-1], {**buffers, 'stats': stats}

    def reconstruct(g_params: dict, buffers: dict, scale: int, train: list[bool]) -> tuple[jax.Array, dict]:
        noises = fixed_noises(model, buffers, scale + 1)
        images, stats = generate(model, g_params, buffers, noises, ratio=ratio_of(model, buffers), train=train)
        return images[-1], {**buffers, 'stats': stats}

    def real_of(buffers: dict, scale: int) -> jax.Array:
        return buffers['reals'][f'scale{scale}'][None]

    def d_update(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        scale, name = stage.level, f'block{stage.level}'
        noise_key, mix_key = jax.random.split(key)
        fake, g_buffers = fakes(state.params['g'], state.buffers['g'], noise_key, batch['index'], scale)
        mix = jax.vmap(lambda k: jax.random.uniform(k, (1, 1, 1)))(sample_keys(mix_key, batch['index']))
        loss, (stats, metrics) = d_loss(
            model, scale, params[name], state.buffers['d'][name], real_of(g_buffers, scale), fake, mix
        )
        return loss, ({'buffers': {'g': g_buffers, 'd': {**state.buffers['d'], name: stats}}}, metrics)

    def g_update(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        scale, name = stage.level, f'block{stage.level}'
        fake, g_buffers = fakes(params, state.buffers['g'], key, batch['index'], scale)
        fake_map, d_stats = criticise(model, scale, state.params['d'][name], state.buffers['d'][name], fake)
        recon, g_buffers = reconstruct(params, g_buffers, scale, modes(scale))
        loss, metrics = g_loss(model, fake_map, recon, real_of(g_buffers, scale))
        return loss, ({'buffers': {'g': g_buffers, 'd': {**state.buffers['d'], name: d_stats}}}, metrics)

    def stage_at(step: int, nimg: int, seed: int) -> Stage:
        scale, iteration = divmod(step, model.iters_per_scale)
        first = ('first',) if model.rules == 'mmgen' and iteration == 0 else ()
        return Stage(config.data.resolution, level=min(scale, count() - 1), flags=first)

    def enter(state: Any, old: Stage | None, new: Stage) -> Any:
        if old is None:
            return state
        params, buffers = dict(state.params), {net: dict(tree) for net, tree in state.buffers.items()}
        g, scale = buffers['g'], new.level
        if model.rules == 'mmgen' and old.flags and scale == old.level and scale + 1 < count():
            # The released program measures the next amplitude after one iteration, with a nearest resize.
            recon, _ = reconstruct(params['g'], g, scale, [True] * (scale + 1))
            real = real_of(g, scale + 1)
            g['amp'] = g['amp'].at[scale + 1].set(amplitude(model, ops.resize_nearest(recon, real.shape[1:3]), real))
        if scale != old.level:
            grown = grow(model, scale, params, buffers)
            params, buffers = grown
            g = buffers['g']
            if model.rules == 'original':
                recon, _ = reconstruct(params['g'], g, scale - 1, [False] * scale)
                real = real_of(g, scale)
                previous = hop(model, g, scale, recon, real.shape[1:3], ratio_of(model, g))
                g['amp'] = g['amp'].at[scale].set(amplitude(model, previous, real))
            g['scale'] = jnp.full_like(g['scale'], scale)
        return state.replace(params=params, buffers=buffers)

    def part(stage: Stage) -> str:
        return f'block{stage.level}'

    return GAN(
        init=init,
        updates=(Update('d', d_update, part=part),) * model.d_steps
        + (Update('g', g_update, part=part),) * model.g_steps,
        optimizers={
            'g': adam(model, optim.g_lr, model.g_steps, optim.beta1, optim.beta2, optim.eps),
            'd': adam(model, optim.d_lr, model.d_steps, optim.beta1, optim.beta2, optim.eps),
        },
        sampler=Sampler(draw, functools.partial(synthesise, model), options=('size', 'start_scale'), view=size_only),
        stage_at=stage_at,
        enter=enter,
        num_steps=lambda: model.iters_per_scale * count(),
    )


def adam(model: Config, lr: float, steps: int, beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """One block's optimiser, `steps` updates an iteration; the rate falls to a tenth at iteration `lr_decay_iter`."""
    schedule = optax.piecewise_constant_schedule(lr, {model.lr_decay_iter * steps: 0.1})
    return optax.adam(schedule, b1=beta1, b2=beta2, eps=eps)


def amplitude(model: Config, previous: jax.Array, real: jax.Array) -> jax.Array:
    """Noise amplitude of a scale: noise_amp times the root mean square of what it has to add to the scale below."""
    return model.noise_amp * jnp.sqrt(jnp.mean(jnp.square(previous - real)))


def grow(model: Config, scale: int, params: dict, buffers: dict) -> tuple[dict, dict]:
    """Starts a scale from the weights and running statistics of the one below, if they have the same widths."""
    below, here = f'block{scale - 1}', f'block{scale}'
    params = {net: dict(tree) for net, tree in params.items()}
    buffers = {'g': {**buffers['g'], 'stats': dict(buffers['g']['stats'])}, 'd': dict(buffers['d'])}
    if widths(model, scale) == widths(model, scale - 1):
        copy = functools.partial(jax.tree.map, jnp.copy)
        params['d'][here], buffers['d'][here] = copy(params['d'][below]), copy(buffers['d'][below])
        if model.in_channels(scale) == model.in_channels(scale - 1):
            params['g'][here] = copy(params['g'][below])
            buffers['g']['stats'][here] = copy(buffers['g']['stats'][below])
    return params, buffers


def draw(seeds: Iterable[int]) -> np.ndarray:
    """Latents of seeds: the data of the threefry key for all noise maps of a sample, uint32 [N, 2]."""
    return latents(seeds, 2).view(np.uint32)


def synthesise(
    model: Config, variables: dict, words: jax.Array, *, size: tuple[int, int] | None = None, start_scale: int = 0
) -> jax.Array:
    """Random images, all blocks in evaluation mode. Scales that training has not reached only enlarge their input.

    Args:
      variables: {'params': {'block0': ...}, 'buffers': ...} of the generator; words: from `draw`.
      size: (height, width) of the finest scale; None: that of training. Other scales follow, rounded half to even.
      start_scale: scales below it use the noise of the reconstruction.
    Returns: [N, *size, img_channels] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for a start_scale that does not exist, or sizes that leave a scale empty.
    """
    params, buffers = variables['params'], variables['buffers']
    native = sizes_of(buffers)
    if not 0 <= start_scale < len(native):
        raise UserError(f'start_scale={start_scale}; the model has scales 0 to {len(native) - 1}.')
    sizes = scaled_sizes(native, size)
    if start_scale and sizes != list(native):
        raise UserError(f'start_scale={start_scale} needs the size of the image, {native[-1]}, not {size}.')
    noises = draw_noises(model, jax.random.wrap_key_data(words, impl='threefry2x32'), sizes)
    fixed = fixed_noises(model, buffers, len(native))
    noises[:start_scale] = [jnp.broadcast_to(f, n.shape) for f, n in zip(fixed, noises[:start_scale], strict=False)]
    return generate_trained(model, params, buffers, noises)


def generate_trained(
    model: Config,
    params: dict,
    buffers: dict,
    noises: Sequence[jax.Array],
    image: jax.Array | None = None,
    *,
    first: int = 0,
) -> jax.Array:
    """The finest image of `generate` in evaluation mode; scales above buffers['scale'] only enlarge their input."""
    ratio, margin = ratio_of(model, buffers), 2 * model.noise_margin
    for s, noise in enumerate(noises, first):
        if s > first:
            image = hop(model, buffers, s, image, (noise.shape[1] - margin, noise.shape[2] - margin), ratio)
        (trained,), _ = generate(model, params, buffers, [noise], image, ratio=ratio, first=s)
        image = trained if image is None else jnp.where(s <= buffers['scale'], trained, image)
    return image


def validate(config: Any) -> None:
    """Raises ConfigError for settings outside the model that SinGAN cannot train with."""
    if config.data.image is None:
        raise ConfigError('SinGAN learns one image: set data.image=photo.jpg.')
    if config.train.keep_best:
        raise ConfigError(
            f'train.keep_best={config.train.keep_best} compares with a data set, and SinGAN has one image; set it to 0.'
        )
