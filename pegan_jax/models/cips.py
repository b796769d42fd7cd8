"""CIPS (Anokhin et al. 2021, arXiv 2011.13775): every pixel is synthesised on its own from its coordinate and a style.

The generator is a function of one coordinate, `pixel`; images are that function mapped over coordinates, inside a map
over images. Nothing else connects pixels, so any set of coordinates, of any shape and density, is an image.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pegan_jax import coords, encodings, losses
from pegan_jax.config import ConfigError, at_least, check_types
from pegan_jax.gan import GAN, Stage, Update, sample_keys, sample_normal
from pegan_jax.layers import EqualDense, MappingNetwork, lrelu
from pegan_jax.models.stylegan2 import Discriminator, num_halvings

CPU_CHUNK = 1024  # coordinates whose activations stay in a core's cache: measured fastest
W_AVG_SAMPLES = 4096  # latents whose mean w stands for the centre of truncation when the caller gives none


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the published FFHQ run at 256 x 256.

    img_resolution: side, or (height, width), of the training images, of the native grid and of the embedding.
    hidden_size: Fourier features, and as many embedding channels.
    z_dim: size of the latent z and of the mapped latent w.
    mapping_layers, lr_multiplier: dense layers of the mapping network and their learning rate relative to the rest.
    channels: width of each level (two modulated layers and a to-RGB layer); None: as published for this resolution.
    channel_multiplier: of the published widths, behind G's first four levels and above D's 32 pixels.
    activation: of modulated layers; 'sinrelu' passes even channels through leaky ReLU and odd ones through the sine.
    train_lookup: how training reads the embedding: 'raw' takes pixel (i, j) for grid position (i, j), as the released
      program does; 'bilinear' reads at the coordinates, as sampling does, so that both see the same image.
    train_chunk: coordinates of each image that training computes at once, and once more for the gradient, which takes
      memory for one chunk instead of the image; None: CPU_CHUNK on CPU, where that is also faster, elsewhere all.
    d_channels: discriminator widths at img_resolution, half of it, and so on; None: the published ones.
    d_sees_coords: the discriminator's input is [rgb, x, y].
    mbstd_group_size: samples per group of the discriminator's minibatch standard deviation.
    r1_gamma, r1_interval: the R1 term is r1_gamma / 2 times the penalty; steps between its updates.
    g_reg_interval: corrects G's Adam as if it had a lazy term, as the released program does without one; 0 is off.
    ema_decay: of G's running mean, per step.
    ema_kimg: replaces ema_decay by a half-life in thousands of images.
    ema_rampup: with ema_kimg, the half-life is at most this fraction of the images seen so far.
    dtype: of matmul and convolution inputs; the R1 penalty stays in float32.
    """

    img_resolution: int | tuple[int, int] = 256
    hidden_size: int = 512
    z_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01
    channels: tuple[int, ...] | None = None
    channel_multiplier: int = 2
    activation: Literal['lrelu', 'sin', 'sinrelu'] = 'lrelu'
    train_lookup: Literal['raw', 'bilinear'] = 'raw'
    train_chunk: int | None = None
    d_channels: tuple[int, ...] | None = None
    d_sees_coords: bool = False
    mbstd_group_size: int = 4
    r1_gamma: float = 10.0
    r1_interval: int = 16
    g_reg_interval: int = 4
    ema_decay: float = 0.5 ** (32 / 10_000)
    ema_kimg: float | None = None
    ema_rampup: float | None = None
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in ('hidden_size', 'z_dim', 'mapping_layers', 'channel_multiplier', 'mbstd_group_size', 'r1_interval'):
            at_least(self, name, 1)
        for name in ('r1_gamma', 'g_reg_interval'):
            at_least(self, name, 0)
        if self.train_chunk is not None:
            at_least(self, 'train_chunk', 1)
        if self.lr_multiplier <= 0:
            raise ConfigError(f'model.lr_multiplier={self.lr_multiplier} must be positive; published: 0.01.')
        try:
            halvings = num_halvings(self.size)
        except ValueError as error:
            raise ConfigError(f'model.img_resolution={self.img_resolution}: {error}') from None
        if max(self.size) >= 2048 and None in (self.channels, self.d_channels):
            raise ConfigError(
                f'model.img_resolution={self.img_resolution}: widths are published up to 1024; '
                'set model.channels and model.d_channels.'
            )
        if self.channels is not None and (not self.channels or min(self.channels) < 1):
            raise ConfigError(f'model.channels={self.channels} must hold at least one positive width.')
        if self.d_channels is not None and (len(self.d_channels) != halvings + 1 or min(self.d_channels) < 1):
            raise ConfigError(
                f'model.d_channels={self.d_channels} must hold {halvings + 1} positive widths, for images of '
                f'{self.size[0]} x {self.size[1]} and their {halvings} halvings.'
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f'model.ema_decay={self.ema_decay} must lie in [0, 1); published: 0.5 ** (32 / 10000).')
        for name in ('ema_kimg', 'ema_rampup'):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f'model.{name}={getattr(self, name)} must be positive, or None.')
        if self.ema_rampup is not None and self.ema_kimg is None:
            raise ConfigError(f'model.ema_rampup={self.ema_rampup} needs model.ema_kimg, the half-life that it limits.')

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the native grid."""
        return (
            (self.img_resolution, self.img_resolution) if isinstance(self.img_resolution, int) else self.img_resolution
        )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """`channels`, or the published ones: log2(side) - 1 levels, although every level sees every pixel."""
        levels = int(math.log2(max(self.size))) - 1
        return self._published_widths[:levels] if self.channels is None else self.channels

    @property
    def d_widths(self) -> tuple[int, ...]:
        """`d_channels`, or the published ones, whose table begins with the width at 4 pixels."""
        return self._published_widths[num_halvings(self.size) :: -1] if self.d_channels is None else self.d_channels

    @property
    def _published_widths(self) -> tuple[int, ...]:
        m = self.channel_multiplier
        return (512, 512, 512, 512, 256 * m, 128 * m, 64 * m, 32 * m, 16 * m)


def validate(config: Any) -> None:
    """Checks a whole run configuration whose model is a `Config`. Raises ConfigError."""
    if config.data.size != config.model.size:
        raise ConfigError(
            f'data.resolution={config.data.resolution} differs from model.img_resolution='
            f'{config.model.img_resolution}: CIPS trains on its native grid, so set both to the same size.'
        )


# Generator ------------------------------------------------------------------------------------------------------------


class ModulatedDense(nn.Module):
    """The weights of one layer of `pixel` for each image: w [N, w_dim] -> [N, in_features, features], float32.

    U_io = weight_io s_i / sqrt(in), s = affine(w); demodulated, every column is divided by sqrt(sum_i U_io^2 + 1e-8)
    (Karras et al. 2020, eq. 1 and 3). The layer's bias and the strength of its noise are declared here and used by
    `pixel`; a layer without demodulation is a to-RGB layer and has no noise.
    """

    in_features: int
    features: int
    demodulate: bool = True

    @nn.compact
    def __call__(self, w: jax.Array) -> jax.Array:
        weight = self.param('weight', nn.initializers.normal(1.0), (self.in_features, self.features))
        self.param('bias', nn.initializers.zeros, (self.features,))
        style = EqualDense(self.in_features, bias_init=1.0, name='affine')(w)
        u = weight[None, :, :] * style[:, :, None] / math.sqrt(self.in_features)
        if self.demodulate:
            self.param('noise_strength', nn.initializers.zeros, ())
            u = u * jax.lax.rsqrt(jnp.sum(jnp.square(u), axis=1, keepdims=True) + 1e-8)
        return u


class Generator(nn.Module):
    """The parameters of CIPS with skips to the output, and what happens once per image: z -> w -> all weights.

    The colours come from `synthesise`, a pure function of these. Paths follow the released checkpoints: lff (Fourier
    features), emb (embedding [H, W, hidden_size]), mapping/fc*, conv1, linears_*, to_rgbs_*.
    """

    size: tuple[int, int]
    channels: tuple[int, ...]
    hidden_size: int = 512
    z_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01

    def setup(self) -> None:
        def uniform(limit: float) -> Callable:
            return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)

        first = (self.channels[0], *self.channels[:-1])
        self.lff = nn.Dense(
            self.hidden_size, kernel_init=uniform(math.sqrt(9 / 2)), bias_init=uniform(math.sqrt(1 / 2))
        )
        self.emb = self.param('emb', nn.initializers.normal(1.0), (*self.size, self.hidden_size))
        self.mapping = MappingNetwork(self.z_dim, self.mapping_layers, self.lr_multiplier)
        self.conv1 = ModulatedDense(2 * self.hidden_size, self.channels[0])
        pairs = [w for a, b in zip(first, self.channels, strict=True) for w in ((a, b), (b, b))]
        self.linears = [ModulatedDense(i, o) for i, o in pairs]
        self.to_rgbs = [ModulatedDense(c, 3, demodulate=False) for c in self.channels]

    def map(self, z: jax.Array) -> jax.Array:
        """z [N, z_dim] -> w [N, z_dim]."""
        return self.mapping(z)

    def modulate(self, w: jax.Array) -> dict[str, jax.Array]:
        """w [N, z_dim] -> {layer: weight [N, in, out]}."""
        return {layer.name: layer(w) for layer in (self.conv1, *self.linears, *self.to_rgbs)}

    def __call__(self, z: jax.Array) -> dict[str, jax.Array]:
        """Touches every parameter, for `init`."""
        self.lff(jnp.zeros((1, 2)))
        return self.modulate(self.map(z))


def activate(x: jax.Array, activation: str) -> jax.Array:
    """The non-linearity of a layer on [..., C]; 'sinrelu' puts the leaky channels before those of the sine."""
    if activation == 'lrelu':
        return lrelu(x)
    if activation == 'sin':
        return jnp.sin(x)
    return jnp.concatenate([jax.nn.leaky_relu(x[..., 0::2], 0.2), jnp.sin(x[..., 1::2])], axis=-1) * math.sqrt(2)


def layer_names(styles: dict) -> list[str]:
    """The layers in the order of execution: conv1, then linears_0, linears_1, to_rgbs_0 and so on, level by level."""
    levels = sum(name.startswith('to_rgbs') for name in styles)
    return ['conv1', *(n for i in range(levels) for n in (f'linears_{2 * i}', f'linears_{2 * i + 1}', f'to_rgbs_{i}'))]


def pixel(
    params: dict,
    styles: dict[str, jax.Array],
    xy: jax.Array,
    embedding: jax.Array,
    noise: jax.Array | None = None,
    *,
    activation: str = 'lrelu',
) -> jax.Array:
    """The colour of one coordinate: Fourier features beside the embedding, modulated layers, the sum of their RGB.

    Args:
      params: the generator's; Fourier features, biases and noise strengths are read.
      styles: {layer: weight [in, out]} of one image, from `Generator.modulate`; their dtype is that of the matmuls.
      xy: [2] float32; [-1, 1] is the native range.
      embedding: [hidden_size] float32, as looked up at xy.
      noise: [demodulated layers] float32, before the learned strengths; None: no noise.
    Returns: [3] float32, unbounded, nominally in [-1, 1].
    """
    fourier = encodings.fourier_features(xy, params['lff']['kernel'], params['lff']['bias'])
    x, rgb, i = jnp.concatenate([fourier, embedding]), jnp.zeros(3), 0
    for name in layer_names(styles):
        weight = styles[name]
        y = jnp.matmul(x.astype(weight.dtype), weight, preferred_element_type=jnp.float32) + params[name]['bias']
        if name.startswith('to_rgbs'):
            rgb = rgb + y
            continue
        if noise is not None:
            y = y + params[name]['noise_strength'] * noise[i]
        x, i = activate(y, activation).astype(weight.dtype), i + 1
    return rgb


def synthesise(
    params: dict,
    styles: dict[str, jax.Array],
    grid: jax.Array,
    noise: jax.Array | None = None,
    *,
    lookup: str = 'bilinear',
    activation: str = 'lrelu',
    chunk: int | None = None,
) -> jax.Array:
    """One image: `pixel` mapped over coordinates. Map it over styles (and noise, and grids if they differ) for a batch.

    Args:
      params, styles, activation: as in `pixel`.
      grid: coordinates [..., 2] of any leading shape.
      noise: a PRNG key, from which every position of the grid draws its own numbers; or the numbers [..., layers];
        or None: no noise.
      lookup: 'bilinear' reads the embedding at the coordinates; 'raw' takes its entries, for a grid of its shape.
      chunk: coordinates computed at once; None: CPU_CHUNK on CPU, elsewhere all. Memory is constant in the number of
        chunks, also that of gradients, which compute every chunk again.
    Returns: [..., 3] float32.
    Raises: ValueError if lookup is 'raw' and the grid does not have the embedding's shape.
    """
    shape = grid.shape[:-1]
    seeded = noise is not None and jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)
    per_point = {}
    if lookup == 'raw':
        per_point['embedding'] = encodings.embedding_raw(params['emb'], grid)
    if seeded:
        per_point['index'] = jnp.arange(math.prod(shape)).reshape(shape)
    elif noise is not None:
        per_point['noise'] = noise

    def points(xy: jax.Array, *arrays: jax.Array) -> jax.Array:
        given = dict(zip(per_point, arrays, strict=True))
        if seeded:
            # A key per position, not one draw for the grid: chunks of any size see the same noise.
            keys = jax.vmap(jax.random.fold_in, (None, 0))(noise, given.pop('index'))
            layers = sum(not name.startswith('to_rgbs') for name in styles)
            given['noise'] = jax.vmap(lambda k: jax.random.normal(k, (layers,)))(keys)
        embedding = given['embedding'] if lookup == 'raw' else encodings.embedding(params['emb'], xy)
        function = functools.partial(pixel, activation=activation)
        axes = (None, None, 0, 0, None if noise is None else 0)
        return jax.vmap(function, axes)(params, styles, xy, embedding, given.get('noise'))

    count = math.prod(shape)
    if chunk is None:
        chunk = CPU_CHUNK if jax.default_backend() == 'cpu' else count
    if count > chunk:
        # Activations of all chunks would fill the memory that chunks save. A loop needs no barrier against merging.
        points = jax.checkpoint(points, prevent_cse=False)
    return coords.map_chunks(points, grid, chunk, *per_point.values())


# Losses: pure functions of parameters, latents and noise --------------------------------------------------------------


def generator(model: Config) -> Generator:
    """The Linen module of a configuration."""
    return Generator(
        model.size, model.level_widths, model.hidden_size, model.z_dim, model.mapping_layers, model.lr_multiplier
    )


def discriminator(model: Config) -> Discriminator:
    """The Linen module of a configuration."""
    return Discriminator(model.d_widths, mbstd_group_size=model.mbstd_group_size, dtype=jnp.dtype(model.dtype))


def render(
    model: Config,
    params: dict,
    w: jax.Array,
    grid: jax.Array,
    noise: jax.Array | None,
    *,
    lookup: str = 'bilinear',
    chunk: int | None = None,
) -> jax.Array:
    """Images [N, ..., 3] of w [N, z_dim] on one grid [..., 2]; the noise of `synthesise` has a leading axis [N]."""
    styles = generator(model).apply({'params': params}, w, method='modulate')
    styles = jax.tree.map(lambda u: u.astype(model.dtype), styles)
    image = functools.partial(synthesise, lookup=lookup, activation=model.activation, chunk=chunk)
    return jax.vmap(image, (None, 0, None, None if noise is None else 0))(params, styles, grid, noise)


def generate(model: Config, params: dict, z: jax.Array, noise: jax.Array | None) -> jax.Array:
    """Training images [b, H, W, 3] on the native grid from z [b, z_dim]; noise as in `render`."""
    w = generator(model).apply({'params': params}, z, method='map')
    return render(model, params, w, coords.grid(*model.size), noise, lookup=model.train_lookup, chunk=model.train_chunk)


def score(model: Config, params: dict, buffers: dict, images: jax.Array) -> jax.Array:
    """Logits [b] of what the discriminator sees: rgb, or rgb and coordinates, [b, H, W, 3 or 5]."""
    return discriminator(model).apply({'params': params, 'buffers': buffers}, images)


def d_input(model: Config, images: jax.Array) -> jax.Array:
    """Images [b, H, W, 3], with the coordinates as two more channels if `d_sees_coords`."""
    if not model.d_sees_coords:
        return images
    grid = coords.grid(*model.size)
    return jnp.concatenate([images, jnp.broadcast_to(grid[None], (images.shape[0], *grid.shape))], axis=-1)


def d_main(
    model: Config,
    d_params: dict,
    d_buffers: dict,
    g_params: dict,
    real: jax.Array,
    z: jax.Array,
    noise: jax.Array | None,
) -> tuple[jax.Array, dict]:
    """The discriminator's logistic loss on real images [b, H, W, 3] and on generated ones; also metrics."""
    fake = generate(model, g_params, z, noise)
    real_logits = score(model, d_params, d_buffers, d_input(model, real))
    fake_logits = score(model, d_params, d_buffers, d_input(model, fake))
    loss = losses.logistic_d(real_logits, fake_logits)
    return loss, {'loss/d': loss, 'logits/real': jnp.mean(real_logits), 'logits/fake': jnp.mean(fake_logits)}


def d_r1(model: Config, d_params: dict, d_buffers: dict, real: jax.Array) -> tuple[jax.Array, dict]:
    """r1_gamma / 2 times the R1 penalty with respect to everything that the discriminator sees; also metrics.

    In float32 whatever `dtype` is: a gradient of a gradient has no digits to lose.
    """
    exact = dataclasses.replace(model, dtype='float32')
    penalty = losses.r1_penalty(functools.partial(score, exact, d_params, d_buffers), d_input(model, real))
    return model.r1_gamma / 2 * penalty, {'loss/r1': penalty}


def g_main(
    model: Config, g_params: dict, d_params: dict, d_buffers: dict, z: jax.Array, noise: jax.Array | None
) -> tuple[jax.Array, dict]:
    """The generator's non-saturating logistic loss; also metrics."""
    fake = generate(model, g_params, z, noise)
    loss = losses.logistic_g(score(model, d_params, d_buffers, d_input(model, fake)))
    return loss, {'loss/g': loss}


# The system -----------------------------------------------------------------------------------------------------------


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    model = config.model

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        g = generator(model).init(g_key, jnp.zeros((1, model.z_dim)))
        d = discriminator(model).init(d_key, jnp.zeros((1, *model.size, 5 if model.d_sees_coords else 3)))
        return {'g': g['params'], 'd': d['params']}, {'g': {}, 'd': d['buffers']}, {}

    def draw(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        z_key, noise_key = jax.random.split(key)
        return sample_normal(z_key, index, (model.z_dim,)), sample_keys(noise_key, index)

    def d_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z, noise = draw(key, batch['index'])
        loss, metrics = d_main(model, params, state.buffers['d'], state.params['g'], batch['image'], z, noise)
        return loss, ({}, metrics)

    def d_r1_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        loss, metrics = d_r1(model, params, state.buffers['d'], batch['image'])
        return loss, ({}, metrics)

    def g_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z, noise = draw(key, batch['index'])
        loss, metrics = g_main(model, params, state.params['d'], state.buffers['d'], z, noise)
        return loss, ({}, metrics)

    r1 = (Update('d', d_r1_loss, interval=model.r1_interval),) if model.r1_gamma > 0 else ()
    return GAN(
        init=init,
        updates=(Update('d', d_main_loss), *r1, Update('g', g_main_loss)),
        optimizers=optimizers(config),
        sample=functools.partial(sample, model),
        stage_at=lambda step, nimg, seed: Stage(model.img_resolution),
        ema=functools.partial(ema_decay, model, config.train.batch_size),
    )


def optimizers(config: Any) -> dict[str, optax.GradientTransformation]:
    """Adam for 'g' and 'd', corrected for lazy regularisation (Karras et al. 2020, appendix B).

    With a term every k steps, ratio = k / (k + 1): the rate becomes lr * ratio, the betas beta^ratio.
    """
    model, optim = config.model, config.optim

    def adam(lr: float, interval: int) -> optax.GradientTransformation:
        ratio = interval / (interval + 1) if interval else 1.0
        return optax.adam(lr * ratio, b1=optim.beta1**ratio, b2=optim.beta2**ratio, eps=optim.eps)

    return {
        'g': adam(optim.g_lr, model.g_reg_interval),
        'd': adam(optim.d_lr, model.r1_interval if model.r1_gamma > 0 else 0),
    }


def ema_decay(model: Config, batch_size: int, nimg: jax.Array, step: jax.Array) -> jax.Array | float:
    """Decay of G's running mean at a step: `ema_decay`, or 0.5 ^ (batch_size / half-life) as in StyleGAN2-ADA."""
    if model.ema_kimg is None:
        return model.ema_decay
    half_life = model.ema_kimg * 1000
    if model.ema_rampup is not None:
        half_life = jnp.minimum(half_life, nimg * model.ema_rampup)
    return 0.5 ** (batch_size / jnp.maximum(half_life, 1e-8))


def mean_w(model: Config, params: dict) -> jax.Array:
    """Centre of truncation [z_dim]: the mean w of a fixed set of W_AVG_SAMPLES latents."""
    z = jax.random.normal(jax.random.key(0), (W_AVG_SAMPLES, model.z_dim))
    return jnp.mean(generator(model).apply({'params': params}, z, method='map'), axis=0)


def truncate(w: jax.Array, w_avg: jax.Array, psi: float) -> jax.Array:
    """w_avg + psi (w - w_avg), from w [N, w_dim] and w_avg [w_dim]."""
    return w_avg[None, :] + psi * (w - w_avg[None, :])


def sample(
    model: Config,
    variables: dict,
    z: jax.Array,
    grid: jax.Array | None = None,
    *,
    truncation_psi: float = 1.0,
    w_avg: jax.Array | None = None,
    chunk: int | None = None,
    noise: jax.Array | None = None,
    space: Literal['z', 'w'] = 'z',
) -> jax.Array:
    """Images at any coordinates; the embedding is read bilinearly, as the released program does outside training.

    Args:
      variables: {'params': the generator's, ...}.
      z: latents [N, z_dim]; or w, with space='w'.
      grid: coordinates [..., 2]; None: the native grid.
      truncation_psi: at most 1; below, w moves towards w_avg: w_avg + psi (w - w_avg).
      w_avg: [z_dim]; None: `mean_w`.
      chunk: coordinates computed at once; None: as in `synthesise`.
      noise: a key; numbers [N, ..., demodulated layers]; None: no noise, which the released program cannot leave out.
    Returns: [N, *grid.shape[:-1], 3] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for other shapes, truncation_psi above 1, chunk below 1, another space.
    """
    if z.ndim != 2 or z.shape[1] != model.z_dim:
        raise ValueError(f'z has shape {z.shape}; expected [N, {model.z_dim}].')
    if grid is not None and (grid.ndim < 1 or grid.shape[-1] != 2):
        raise ValueError(f'grid has shape {grid.shape}; expected coordinates [..., 2] in (x, y) order.')
    if truncation_psi > 1:
        raise ValueError(f'truncation_psi={truncation_psi} must be at most 1, which is off.')
    if space not in ('z', 'w'):
        raise ValueError(f"space={space!r}; use 'z' or 'w'.")
    params = variables['params']
    w = generator(model).apply({'params': params}, z, method='map') if space == 'z' else z
    if truncation_psi < 1:
        centre = mean_w(model, params) if w_avg is None else w_avg
        w = truncate(w, centre, truncation_psi)
    if noise is not None and jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        noise = sample_keys(noise, jnp.arange(z.shape[0]))
    grid = coords.grid(*model.size) if grid is None else jnp.asarray(grid, jnp.float32)
    return render(model, params, w, grid, noise, chunk=chunk)
