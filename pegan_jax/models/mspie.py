"""MS-PIE (Xu et al. 2021, arXiv 2012.05217): StyleGAN2 whose input is a positional encoding, trained at several scales.

It follows mmgen's `MSStyleGANv2Generator` and `MSStyleGAN2Discriminator`. The defaults are its StyleGAN2. What differs
from NVlabs/stylegan3 in the last digits is written here (normalisation of latents, demodulation, styles of any size);
what is the same is shared with `stylegan2`.
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import encodings, filters, losses, ops, optim
from pegan_jax.gan import GAN, Sampler, Stage, Update, fewer_rows, latents, sample_keys, sample_normal, size_of
from pegan_jax.layers import EqualConv, EqualDense, lrelu, mean_w, minibatch_std, pixel_norm
from pegan_jax.models.discriminator import DiscriminatorBlock, num_halvings, widths
from pegan_jax.models.stylegan2 import ToRGB
from pegan_jax.models.stylegan_training import check_channels, check_widths, mix_styles
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

Scale = int | tuple[int, int]  # added to both sides of the generator's input, or to (height, width)


# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset(
    'mbstd_group_size scales scale_probs r1_gamma r1_interval pl_weight pl_interval pl_batch_shrink pl_decay '
    'style_mixing_prob ema_beta dtype'.split()
)


@dataclass(frozen=True)
class Config:
    """The model and its losses; defaults are StyleGAN2 at 256 pixels, configuration a of the paper.

    img_resolution: side, or (height, width), of the images at scale 0; halving must end at 4 to 7 pixels on the shorter
      side, which is the size of the coarsest maps.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    z_dim: size of the latent and of the styles.
    mapping_layers: dense layers of the mapping network.
    channel_base, channel_max: at scale 0 a layer of side s has min(channel_base / s, channel_max) channels.
    channels: widths at 4 pixels, 8, and so on up to the resolution, instead of these.
    head: the generator's input: a learned constant, the Cartesian grid, or sinusoids.
    interpolate_head: at other scales sinusoids are resized; otherwise they continue with an unchanged step. A constant
      is always resized, and for the grid both are the same.
    upsampling: 'deconv', a transposed convolution and a blur; or a convolution before or after a resize.
    resize: the kind of resize of the latter two.
    padding: whether 3x3 convolutions of the generator pad with zeros; if not, the resizes make up for what they lose.
    d_channel_base, d_channel_max, d_channels: widths of the discriminator.
    d_pool: the discriminator averages its last maps to this side, so that images may have any size; None: it does not.
    mbstd_group_size: samples per group of its minibatch standard deviation.
    scales: training draws one of these for every step; `output_size` gives the sides of images at a scale.
    scale_probs: their probabilities; None: equal, as all published models were trained (the released program passes
      the weights of its configurations as another argument).
    r1_gamma: the R1 term is r1_gamma / 2 times the penalty.
    r1_interval: steps from one with the R1 term to the next; the term counts that many times there, and D's Adam is
      corrected for it.
    pl_weight, pl_interval: the same for path length regularisation, with G's Adam; always at scale 0.
    pl_batch_shrink, pl_decay: the term sees this fraction of a batch; speed of the running mean of lengths.
    style_mixing_prob: probability of a batch whose later layers have the styles of other latents.
    ema_beta: decay per step of G's running mean.
    dtype: that of the inputs of convolutions; layers to colours, D's last layers, R1 and path lengths are float32.
    """

    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    z_dim: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    channels: tuple[int, ...] | None = None
    head: Literal['const', 'csg', 'spe'] = 'const'
    interpolate_head: bool = False
    upsampling: Literal['deconv', 'conv-resize', 'resize-conv'] = 'deconv'
    resize: Literal['bilinear', 'nearest'] = 'bilinear'
    padding: bool = True
    d_channel_base: int = 32768
    d_channel_max: int = 512
    d_channels: tuple[int, ...] | None = None
    d_pool: int | None = None
    mbstd_group_size: int = 4
    scales: tuple[int, ...] = (0,)
    scale_probs: tuple[float, ...] | None = None
    r1_gamma: float = 10.0
    r1_interval: int = 16
    pl_weight: float = 2.0
    pl_interval: int = 4
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    style_mixing_prob: float = 0.9
    ema_beta: float = 0.5 ** (32 / 10_000)
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('z_dim', 'mapping_layers', 'mbstd_group_size', 'r1_interval', 'pl_interval', 'pl_batch_shrink'):
            at_least(self, name, 1)
        for name in ('r1_gamma', 'pl_weight'):
            at_least(self, name, 0)
        if not 0 <= self.ema_beta < 1:
            raise ConfigError(f'model.ema_beta={self.ema_beta} must lie in [0, 1); published: 0.5 ** (32 / 10000).')
        for name in ('pl_decay', 'style_mixing_prob'):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f'model.{name}={getattr(self, name)} must lie in [0, 1].')
        try:
            num_halvings(self.size)
        except ValueError as error:
            raise ConfigError(f'model.img_resolution={self.img_resolution}: {error}') from None
        for prefix in ('', 'd_'):
            check_widths(self, prefix)
            check_channels(self, prefix)
        if not self.padding and self.upsampling == 'deconv':
            raise ConfigError(
                "model.padding=False needs model.upsampling='resize-conv' (published) or 'conv-resize': a transposed "
                'convolution has nothing to make up for the lost borders.'
            )
        if self.head == 'spe' and (g_widths(self)[0] % 4 or g_widths(self)[0] < 8):
            raise ConfigError(
                f"model.head='spe' replaces a constant of {g_widths(self)[0]} channels: a multiple of 4 from 8 on is "
                'needed, sines and cosines for either axis.'
            )
        self._check_scales()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images at scale 0."""
        return size_of(self.img_resolution)

    def _check_scales(self) -> None:
        if not self.scales or min(self.scales) < 0 or len(set(self.scales)) < len(self.scales):
            raise ConfigError(
                f'model.scales={self.scales} must be different integers of at least 0; published: 0, 2, 4.'
            )
        if self.d_pool is not None:
            at_least(self, 'd_pool', 1)
        elif self.scales != (0,):
            raise ConfigError(
                f'model.scales={self.scales} needs a discriminator for images of any size: model.d_pool=2.'
            )
        probs = self.scale_probs
        if probs is not None and (len(probs) != len(self.scales) or min(probs) < 0 or abs(sum(probs) - 1) > 1e-6):
            raise ConfigError(
                f'model.scale_probs={probs} must be {len(self.scales)} probabilities that sum to 1, one per scale, or '
                'None for equal ones.'
            )


def g_widths(model: Config) -> tuple[int, ...]:
    """Channels of the generator from the coarsest maps on."""
    return model.channels or widths(model.size, model.channel_base, model.channel_max)


def d_widths(model: Config) -> tuple[int, ...]:
    """Channels of the discriminator from the coarsest maps on."""
    return model.d_channels or widths(model.size, model.d_channel_base, model.d_channel_max)


def base_size(model: Config) -> tuple[int, int]:
    """(height, width) of the coarsest maps at scale 0: 4 x 4 as published."""
    height, width = model.size
    halvings = num_halvings((height, width))
    return height >> halvings, width >> halvings


def output_size(model: Config, scale: Scale) -> tuple[int, int]:
    """(height, width) of images at a scale: (base + s) 2^(n - 2), 256, 384 and 512 for s = 0, 2 and 4 as published."""
    rows, columns = np.broadcast_to(scale, 2).tolist()
    (height, width), halvings = base_size(model), num_halvings(model.size)
    return (height + rows) << halvings, (width + columns) << halvings


def validate(config: Any) -> None:
    """Checks a whole run configuration. Raises ConfigError."""
    data, model = config.data, config.model
    for scale in model.scales:
        height, width = output_size(model, scale)
        if height > data.size[0] or height * data.size[1] != width * data.size[0]:
            raise ConfigError(
                f'data.resolution={data.resolution}, but images of {height} x {width} are trained (model.scales={scale}'
                '): the data must be as large as the largest of them, and of the same aspect.'
            )


# Generator ------------------------------------------------------------------------------------------------------------

# Keys [N], which draw new numbers per image; the numbers of each layer [N or 1, H, W]; the model's numbers; none.
Noise = jax.Array | tuple[jax.Array, ...] | Literal['const', 'none']

RESIZES = {'bilinear': ops.resize_align_corners, 'nearest': ops.resize_nearest}


class StyleConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, lrelu: x [N, H, W, C], w [N, z_dim] -> [N, H', W', features].

    layer: its place among the noise layers of the generator.
    upsampling: None, or as in `Config`, like padding and resize. A resize turns H rows into 2 H + P, where P replaces
      what this and the following convolution lose without padding.
    """

    features: int
    layer: int
    upsampling: Literal['deconv', 'conv-resize', 'resize-conv'] | None = None
    resize: Literal['bilinear', 'nearest'] = 'bilinear'
    padding: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: Noise) -> jax.Array:
        x, in_features = x.astype(self.dtype), x.shape[-1]
        style = EqualDense(in_features, bias_init=1.0, name='affine')(w)
        weight = self.param('weight', nn.initializers.normal(1.0), (3, 3, in_features, self.features))
        # Unlike in NVlabs/stylegan3, the weight is scaled before it is demodulated.
        weight = weight / math.sqrt(9 * in_features)
        if self.upsampling == 'deconv':
            fir = self.variable('buffers', 'resample_filter', filters.setup_filter, (1, 3, 3, 1)).value
            y = ops.modulated_conv_resample(x, weight, style, fir, up=2, padding=1, flip_weight=False)
        else:
            x = self._enlarged(x, 4) if self.upsampling == 'resize-conv' else x
            y = ops.modulated_conv_resample(x, weight, style, padding=int(self.padding))
            y = self._enlarged(y, 6) if self.upsampling == 'conv-resize' else y
        y = self._with_noise(y, noise)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return ops.bias_act(y, bias, act='lrelu')

    def _enlarged(self, x: jax.Array, lost: int) -> jax.Array:
        size = tuple(2 * n + (0 if self.padding else lost) for n in x.shape[1:3])
        return RESIZES[self.resize](x, size)

    def _with_noise(self, y: jax.Array, noise: Noise) -> jax.Array:
        size = y.shape[1:3]
        const = self.variable('buffers', 'noise_const', lambda: jax.random.normal(self.make_rng('params'), size)).value
        strength = self.param('noise_strength', nn.initializers.zeros, ())
        if isinstance(noise, str):
            if noise == 'none':
                return y
            # No numbers are stored for scales other than 0; others are drawn, but always the same ones.
            if const.shape != size:
                const = jax.random.normal(jax.random.fold_in(jax.random.key(0), self.layer), size)
            numbers = const[None]
        elif isinstance(noise, tuple):
            numbers = noise[self.layer]
        else:
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(noise, self.layer)
            numbers = jax.vmap(lambda key: jax.random.normal(key, size))(keys)
        return y + (strength * numbers).astype(y.dtype)[..., None]


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, z_dim]: `pixel_norm`, then activated dense layers fc0, fc1, ... with a rate of 0.01."""

    num_layers: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = pixel_norm(z)
        for i in range(self.num_layers):
            x = lrelu(EqualDense(z.shape[-1], lr_multiplier=0.01, name=f'fc{i}')(x))
        return x


class Synthesis(nn.Module):
    """ws [N, num_ws, z_dim] -> images [N, H, W, img_channels] float32. Layers have the names of mmgen.

    Fields as in `Config`, and
    channels: widths from the coarsest maps on, whose size at scale 0 is `base`.
    """

    channels: tuple[int, ...]
    base: tuple[int, int] = (4, 4)
    head: Literal['const', 'csg', 'spe'] = 'const'
    interpolate_head: bool = False
    upsampling: Literal['deconv', 'conv-resize', 'resize-conv'] = 'deconv'
    resize: Literal['bilinear', 'nearest'] = 'bilinear'
    padding: bool = True
    img_channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ws: jax.Array, scale: Scale = 0, noise: Noise = 'const') -> jax.Array:
        options = {'resize': self.resize, 'padding': self.padding, 'dtype': self.dtype}
        const = None
        if self.head == 'const':
            const = self.param('const', nn.initializers.normal(1.0), (*self.input_size, self.channels[0]))
        x = self.input_at(scale, const)
        x = jnp.broadcast_to(x[None], (ws.shape[0], *x.shape))
        x = StyleConv(self.channels[0], 0, None, name='conv1', **options)(x, ws[:, 0], noise)
        rgb = ToRGB(self.img_channels, name='to_rgb1')(x, ws[:, 1])
        for b, features in enumerate(self.channels[1:]):
            first = 2 * b + 1  # a to-RGB layer shares its style with the next convolution
            up = StyleConv(features, first, self.upsampling, name=f'convs_{2 * b}', **options)
            x = up(x, ws[:, first], noise)
            x = StyleConv(features, first + 1, None, name=f'convs_{2 * b + 1}', **options)(x, ws[:, first + 1], noise)
            # Its borders are zero-padded in every configuration.
            fir = self.variable('buffers', f'rgb_filter_{b}', filters.setup_filter, (1, 3, 3, 1)).value
            rgb = ops.upsample2d(rgb, fir) + ToRGB(self.img_channels, name=f'to_rgbs_{b}')(x, ws[:, first + 2])
        return rgb

    def input_at(self, scale: Scale, const: jax.Array | None) -> jax.Array:
        """The input [h, w, C] at a scale; without padding, the first convolution removes a border of 1 from it."""
        if const is not None:
            return encodings.learned_constant(const, scale)
        # The released settings shift the positions, which changes nothing as long as none of them becomes 0.
        encode = encodings.csg if self.head == 'csg' else functools.partial(encodings.spe, dim=self.channels[0] // 2)
        return encodings.at_scale(encode, self.input_size, scale, interpolate=self.interpolate_head)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input at scale 0."""
        height, width = self.base
        return (height, width) if self.padding else (height + 2, width + 2)


class Generator(nn.Module):
    """z -> w, and ws -> images at any scale, with one set of weights. Fields as in `Synthesis`."""

    channels: tuple[int, ...]
    base: tuple[int, int] = (4, 4)
    head: Literal['const', 'csg', 'spe'] = 'const'
    interpolate_head: bool = False
    upsampling: Literal['deconv', 'conv-resize', 'resize-conv'] = 'deconv'
    resize: Literal['bilinear', 'nearest'] = 'bilinear'
    padding: bool = True
    mapping_layers: int = 8
    img_channels: int = 3
    dtype: Any = jnp.float32

    @property
    def num_ws(self) -> int:
        """Styles of an image: one per convolution, and one for the last to-RGB layer."""
        return 2 * len(self.channels)

    def setup(self) -> None:
        self.mapping = Mapping(self.mapping_layers)
        self.synthesis = Synthesis(
            self.channels,
            self.base,
            self.head,
            self.interpolate_head,
            self.upsampling,
            self.resize,
            self.padding,
            self.img_channels,
            self.dtype,
        )

    def map(self, z: jax.Array) -> jax.Array:
        """w [N, z_dim] of latents."""
        return self.mapping(z)

    def synthesise(self, ws: jax.Array, scale: Scale = 0, noise: Noise = 'const') -> jax.Array:
        """Images [N, H, W, img_channels] of ws [N, num_ws, z_dim]; scale is static."""
        return self.synthesis(ws, scale, noise)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Images of latents at scale 0."""
        return self.synthesise(jnp.repeat(self.map(z)[:, None], self.num_ws, axis=1))


def generator(model: Config) -> Generator:
    """The Linen module of a configuration."""
    shared = ('head', 'interpolate_head', 'upsampling', 'resize', 'padding', 'mapping_layers', 'img_channels')
    fields = {name: getattr(model, name) for name in shared}
    return Generator(g_widths(model), base_size(model), **fields, dtype=jnp.dtype(model.dtype))


# Discriminator --------------------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """Images [b, H, W, C] -> logits [b]: StyleGAN2's residual blocks b256 ... b8, named after scale 0, then the end.

    With `pool`, the maps before the dense layers are averaged to pool x pool, so that images may have any size. The
    images may be several `batches`, one after the other, as for StyleGAN2's.

    channels: widths from the coarsest maps on.
    mbstd_group_size: samples per group of the minibatch standard deviation; a smaller batch is one group.
    """

    channels: tuple[int, ...]
    pool: int | None = None
    mbstd_group_size: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, batches: int = 1) -> jax.Array:
        x, rgb, side = None, images, 2 << len(self.channels)
        for hidden, features in itertools.pairwise(self.channels[::-1]):
            x, rgb = DiscriminatorBlock(hidden, features, dtype=self.dtype, name=f'b{side}')(x, rgb)
            side //= 2
        features = self.channels[0]
        with jax.default_matmul_precision('highest'):
            x = EqualConv(features, 3, name='conv')(minibatch_std(x, self.mbstd_group_size, batches=batches))
        if self.pool is not None:
            x = ops.adaptive_average_pool(x, (self.pool, self.pool))
        x = lrelu(EqualDense(features, name='fc')(x.reshape(x.shape[0], -1)))
        return EqualDense(1, name='out')(x)[:, 0]


def discriminator(model: Config) -> Discriminator:
    """The Linen module of a configuration."""
    return Discriminator(d_widths(model), model.d_pool, model.mbstd_group_size, jnp.dtype(model.dtype))


# Sampling -------------------------------------------------------------------------------------------------------------


def map_latents(model: Config, variables: dict, z: jax.Array, c: None = None) -> jax.Array:
    """w [N, z_dim] of latents [N, z_dim]; there are no labels."""
    return generator(model).apply({'params': variables['params']}, z, method='map')


def synthesise(
    model: Config, variables: dict, ws: jax.Array, *, noise: Noise = 'const', scale: Scale | None = None
) -> jax.Array:
    """Images at any scale.

    Args:
      variables: {'params', 'buffers'} of the generator; ws: [N, num_ws, z_dim].
      noise: keys [N] draw new noise for every image; a tuple holds the numbers of each layer.
      scale: static; it may be untrained, negative, or (height, width). None: the largest that was trained, for which
        results are published.
    Returns: [N, *output_size(model, scale), img_channels] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for a scale without pixels.
    """
    scale = max(model.scales) if scale is None else scale
    if min(output_size(model, scale)) < 1:
        raise UserError(f'scale={scale} leaves no pixels; the smallest is {1 - min(base_size(model))}.')
    return generator(model).apply(variables, ws, scale, noise, method='synthesise')


def view(model: Config, size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """The scale at which images have a size, as an option of `synthesise`.

    Raises: ValueError for a size that no scale has, naming the nearest one, and for a transform.
    """
    if transform is not None:
        raise UserError(
            'MS-PIE chooses a size, but moves nothing; leave out transform (--rotate, --translate, --zoom).'
        )
    if size is None:
        return {}
    step, base = 1 << num_halvings(model.size), base_size(model)
    if min(size) < step or any(n % step for n in size):
        near = tuple(max(round(n / step), 1) * step for n in size)
        raise UserError(f'size={size}: sides are multiples of {step} with this model, such as {near[0]} x {near[1]}.')
    return {'scale': tuple(n // step - side for n, side in zip(size, base, strict=True))}


def sampler(model: Config) -> Sampler:
    """How images are made from seeds."""
    mapped = functools.partial(map_latents, model)
    return Sampler(
        draw=functools.partial(latents, z_dim=model.z_dim),
        synthesise=functools.partial(synthesise, model),
        map=mapped,
        w_avg=functools.partial(mean_w, mapped, model.z_dim),
        num_ws=generator(model).num_ws,
        options=('noise', 'scale'),
        view=functools.partial(view, model),
    )


# Training -------------------------------------------------------------------------------------------------------------


def styles(model: Config, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ws [b, num_ws, z_dim] of new latents, mixed with a probability, and keys [b] of new noise."""
    z_key, other_key, mixing_key, noise_key = jax.random.split(key, 4)
    z, other = (sample_normal(k, batch['index'], (model.z_dim,)) for k in (z_key, other_key))
    w, other = (map_latents(model, {'params': params}, v)[:, None] for v in (z, other))
    count = generator(model).num_ws
    ws = mix_styles(mixing_key, jnp.repeat(w, count, 1), jnp.repeat(other, count, 1), model.style_mixing_prob)
    return ws, sample_keys(noise_key, batch['index'])


def path_penalty(
    model: Config, variables: dict, mean: jax.Array, ws: jax.Array, noise: Noise, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The path length penalty at scale 0, and the new running mean of lengths.

    Args:
      mean: the previous running mean, []; y: standard normal, of the shape of the images.
    """
    module = generator(model)
    lengths = losses.path_lengths(lambda ws: module.apply(variables, ws, 0, noise, method='synthesise'), ws, y)
    return losses.path_length_penalty(lengths, mean, model.pl_decay)


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`): in every step D, then G, at one scale.

    The lazy terms are part of the same optimiser step as the main ones, unlike in NVlabs/stylegan3; stages say when.
    """
    model, exact = config.model, dataclasses.replace(config.model, dtype='float32')
    of_g, of_d = generator(model), discriminator(model)

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        both = {
            'g': of_g.init(g_key, jnp.zeros((1, model.z_dim))),
            'd': of_d.init(d_key, jnp.zeros((1, *model.size, model.img_channels))),
        }
        params, buffers = ({net: both[net].get(part, {}) for net in both} for part in ('params', 'buffers'))
        return params, buffers, {'pl_mean': jnp.float32(0)}

    def score(params: dict, state: Any, images: jax.Array, of_d: Discriminator = of_d, batches: int = 1) -> jax.Array:
        return of_d.apply({'params': params, 'buffers': state.buffers['d']}, images, batches)

    def fakes(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> jax.Array:
        ws, keys = styles(model, params, batch, key)
        variables = {'params': params, 'buffers': state.buffers['g']}
        return of_g.apply(variables, ws, stage.level, keys, method='synthesise')

    def d_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        both = jnp.concatenate([batch['image'], fakes(state.params['g'], state, batch, key, stage)])
        real, fake = jnp.split(score(params, state, both, batches=2), 2)
        loss = losses.logistic_d(real, fake)
        metrics = {'loss/d': loss, 'logits/real': jnp.mean(real), 'logits/fake': jnp.mean(fake)}
        if 'r1' in stage.flags:
            exactly = functools.partial(score, params, state, of_d=discriminator(exact))
            penalty = losses.r1_penalty(exactly, batch['image'])
            loss = loss + model.r1_interval * model.r1_gamma / 2 * penalty
            metrics['loss/r1'] = penalty
        return loss, ({}, metrics)

    def g_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        main_key, path_key, y_key = jax.random.split(key, 3)
        loss = losses.logistic_g(score(state.params['d'], state, fakes(params, state, batch, main_key, stage)))
        metrics, fields = {'loss/g': loss}, {}
        if 'path' in stage.flags:
            few = fewer_rows({'index': batch['index']}, model.pl_batch_shrink)
            ws, keys = styles(model, params, few, path_key)
            variables = {'params': params, 'buffers': state.buffers['g']}
            y = sample_normal(y_key, few['index'], (*model.size, model.img_channels))
            penalty, mean = path_penalty(exact, variables, state.stats['pl_mean'], ws, keys, y)
            loss = loss + model.pl_interval * model.pl_weight * penalty
            fields, metrics = {'stats': {'pl_mean': mean}}, metrics | {'loss/pl': penalty, 'path_length': mean}
        return loss, (fields, metrics)

    def flags_at(step: int) -> tuple[str, ...]:
        r1 = ('r1',) if model.r1_gamma > 0 and step % model.r1_interval == 0 else ()
        return r1 + (('path',) if model.pl_weight > 0 and step % model.pl_interval == 0 else ())

    def stage(scale: int, flags: tuple[str, ...]) -> Stage:
        return Stage(output_size(model, scale), level=scale, flags=flags)

    def stage_at(step: int, nimg: int, seed: int) -> Stage:
        # A function of seed and step: all processes draw the same scale, and so does a run that resumes.
        draw = np.random.default_rng((seed, step))
        return stage(int(draw.choice(model.scales, p=model.scale_probs)), flags_at(step))

    def stages() -> tuple[Stage, ...]:
        cycle = {flags_at(step) for step in range(math.lcm(model.r1_interval, model.pl_interval))}
        drawn = model.scale_probs or (1.0,) * len(model.scales)
        used = [scale for scale, prob in zip(model.scales, drawn, strict=True) if prob > 0]
        return tuple(stage(scale, flags) for scale in used for flags in sorted(cycle))

    return GAN(
        init=init,
        updates=(Update('d', d_loss), Update('g', g_loss)),
        optimizers={
            'g': optim.adam(config.optim, config.optim.g_lr, model.pl_interval),
            'd': optim.adam(config.optim, config.optim.d_lr, model.r1_interval),
        },
        sampler=sampler(model),
        stage_at=stage_at,
        stages=stages,
        ema=lambda nimg, step: model.ema_beta,
    )
