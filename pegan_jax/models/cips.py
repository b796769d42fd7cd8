"""CIPS (Anokhin et al. 2021, arXiv 2011.13775): every pixel is synthesised on its own from its coordinate and a style.

The generator, in `cips_generator`, is a function of one coordinate, mapped over coordinates inside a map over images.
Nothing else connects pixels, so any set of coordinates, of any shape and density, is an image; `cips_views` says which
ones training sees.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from pegan_jax import coords, losses, optim
from pegan_jax.gan import GAN, Sampler, Stage, Update, latents, sample_keys, sample_normal, size_of
from pegan_jax.layers import mean_w
from pegan_jax.models.cips_generator import Generator, layer_names, synthesise
from pegan_jax.models.cips_views import doublings, image_grid, prepare, stage_at, view
from pegan_jax.models.discriminator import Discriminator, num_halvings
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset(
    'train_lookup train_chunk progressive_kimg mbstd_group_size r1_gamma r1_interval g_reg_interval ema_decay '
    'ema_kimg ema_rampup dtype'.split()
)


@dataclass(frozen=True)
class Config:
    """The model; defaults are those of the published FFHQ run at 256 x 256.

    img_resolution: side, or (height, width), of the training images, the native grid and the embedding.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    hidden_size: Fourier features, and as many embedding channels.
    z_dim: size of the latent z and of the mapped latent w.
    mapping_layers, lr_multiplier: dense layers of the mapping network and their learning rate relative to the rest.
    channels: width of each level (two modulated layers and a to-RGB layer); None: as published for this resolution.
    channel_multiplier: factor on the published widths, after G's first four levels and above D's 32 pixels.
    wiring: 'skip' adds the RGB of every level; 'residual' has one to-RGB layer after residual blocks, as in the
      Landscapes release; 'plain' has one after a chain of layers (an ablation).
    fourier_features, coord_embedding: the halves of the encoding; without the latter this is CIPS-NE.
    modulation: False means plain equalised layers, which get w beside the encoding of every coordinate (an ablation).
    activation: that of modulated layers; 'sinrelu' passes even channels through leaky ReLU and odd ones through sine.
    train_lookup: how training reads the embedding: 'raw' takes pixel (i, j) for position (i, j) of any grid of the
      native shape, as the released program does; 'bilinear' reads at the coordinates, as sampling does, and outside
      repeats the embedding's border.
    train_chunk: coordinates of each image that training computes at once, and once more for the gradient. Memory is for
      one chunk instead of the image. None: CPU_CHUNK on CPU, where that is also faster, else a native grid.
    patch_size: side of the square patches that training sees, at random scales; None: whole images.
    num_scales: number of scales of the patches, with strides 1, 2, 4, ...; None: as released,
      log2(native side / patch_size) + 1, however fine the data are.
    progressive_kimg: with data finer than img_resolution, thousands of images at each resolution before it doubles,
      from img_resolution to that of the data; None: that of the data from the beginning.
    rotate: turn every real image by a random angle about its centre and keep the middle, at the same pixel pitch; the
      data must be large enough that no corner is missing.
    panorama_width: columns of the whole circle: the model lives on a cylinder and images are arcs of it; None: flat.
    d_channels: discriminator widths at the size it sees, half of it, and so on; None: the published ones.
    d_sees_coords: the discriminator's input is the image beside its coordinates x and y.
    mbstd_group_size: samples per group of the discriminator's minibatch standard deviation.
    r1_gamma, r1_interval: the R1 term is r1_gamma / 2 times the penalty; steps between its updates.
    g_reg_interval: corrects G's Adam as if it had a lazy term, as the released program does without one; 0 is off.
    ema_decay: decay of G's running mean, per step.
    ema_kimg: replaces ema_decay by a half-life in thousands of images.
    ema_rampup: with ema_kimg, the half-life is at most this fraction of the images seen so far.
    dtype: that of matmul and convolution inputs; the R1 penalty stays in float32.
    """

    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    hidden_size: int = 512
    z_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01
    channels: tuple[int, ...] | None = None
    channel_multiplier: int = 2
    wiring: Literal['skip', 'residual', 'plain'] = 'skip'
    fourier_features: bool = True
    coord_embedding: bool = True
    modulation: bool = True
    activation: Literal['lrelu', 'sin', 'sinrelu'] = 'lrelu'
    train_lookup: Literal['raw', 'bilinear'] = 'raw'
    train_chunk: int | None = None
    patch_size: int | None = None
    num_scales: int | None = None
    progressive_kimg: float | None = None
    rotate: bool = False
    panorama_width: int | None = None
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
        if not (self.fourier_features or self.coord_embedding):
            raise ConfigError('model.fourier_features and model.coord_embedding are both False: nothing tells where.')
        if self.patch_size is not None:
            at_least(self, 'patch_size', 1)
            try:
                for side in self.size:
                    coords.multiscale_count(side, self.patch_size)
            except ValueError:
                raise ConfigError(
                    f'model.patch_size={self.patch_size} must divide both sides of model.img_resolution='
                    f'{self.img_resolution} into a power of two.'
                ) from None
        if self.num_scales is not None:
            at_least(self, 'num_scales', 1)
            if self.patch_size is None:
                raise ConfigError(f'model.num_scales={self.num_scales} needs model.patch_size.')
        if self.progressive_kimg is not None and not self.progressive_kimg > 0:
            raise ConfigError(f'model.progressive_kimg={self.progressive_kimg} must be positive, or None.')
        if self.panorama_width is not None:
            if self.panorama_width <= self.size[1]:
                raise ConfigError(
                    f'model.panorama_width={self.panorama_width} must exceed the width of the images, {self.size[1]}.'
                )
            if self.train_lookup == 'raw' and self.coord_embedding:
                raise ConfigError(
                    "model.panorama_width needs model.train_lookup='bilinear': images have no fixed azimuth."
                )
        try:
            halvings = num_halvings(self.d_size)
        except ValueError as error:
            field = 'img_resolution' if self.patch_size is None else 'patch_size'
            raise ConfigError(f'model.{field}={getattr(self, field)}: {error}') from None
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
                f'{self.d_size[0]} x {self.d_size[1]} and their {halvings} halvings.'
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
        return size_of(self.img_resolution)

    @property
    def d_size(self) -> tuple[int, int]:
        """(height, width) of what the discriminator sees."""
        return self.size if self.patch_size is None else (self.patch_size, self.patch_size)

    @property
    def span(self) -> float:
        """Fraction of the circle that an image covers, if the model lives on a cylinder."""
        return self.size[1] / self.panorama_width

    @property
    def level_widths(self) -> tuple[int, ...]:
        """`channels`, or the published ones: log2(side) - 1 levels, although every level sees every pixel."""
        levels, m = int(math.log2(max(self.size))) - 1, self.channel_multiplier
        published = self._published_widths
        if self.wiring == 'residual':
            published = (*published[:7], 64 * m, 32 * m)
        return published[:levels] if self.channels is None else self.channels

    @property
    def d_widths(self) -> tuple[int, ...]:
        """`d_channels`, or the published ones, whose table begins with the width at 4 pixels."""
        return self._published_widths[num_halvings(self.d_size) :: -1] if self.d_channels is None else self.d_channels

    @property
    def _published_widths(self) -> tuple[int, ...]:
        m = self.channel_multiplier
        return (512, 512, 512, 512, 256 * m, 128 * m, 64 * m, 32 * m, 16 * m)


def validate(config: Any) -> None:
    """Checks a whole run configuration whose model is a `Config`. Raises ConfigError."""
    data, model = config.data, config.model
    name = f'data.resolution={data.resolution}'
    if model.rotate:
        least = math.ceil(math.hypot(model.size[0] - 1, model.size[1] - 1)) + 1
        if min(data.size) < least:
            raise ConfigError(
                f'{name} has no corners left for model.rotate to turn in; use at least {least}, the diagonal of '
                f'model.img_resolution={model.img_resolution}.'
            )
        if model.progressive_kimg is not None:
            raise ConfigError('model.progressive_kimg and model.rotate exclude each other: rotation keeps the pitch.')
        finer = 0
    else:
        finer = doublings(config)
        if data.size != tuple(side * 2**finer for side in model.size):
            raise ConfigError(
                f'{name} differs from model.img_resolution={model.img_resolution}: set both to the same size, or the '
                'data to 2, 4, 8 ... times that of the model.'
            )
        if finer and model.patch_size is None:
            raise ConfigError(
                f'{name} differs from model.img_resolution={model.img_resolution}: set both to the same size, or, to '
                f'train on finer data, model.patch_size, the side of the patches, for example {min(model.size)}.'
            )
    if data.outside:
        for field in ('rotate', 'panorama_width'):
            if getattr(model, field):
                raise ConfigError(
                    f'data.outside={data.outside} and model.{field}={getattr(model, field)} exclude each other, as '
                    'such images have no fixed place; leave one of them out.'
                )
        if model.coord_embedding and model.train_lookup == 'raw':
            raise ConfigError(
                f"data.outside={data.outside} needs model.train_lookup='bilinear', or model.coord_embedding=False: "
                "'raw' takes any window for the frame."
            )
    if model.progressive_kimg is not None and not finer:
        raise ConfigError(f'model.progressive_kimg={model.progressive_kimg} needs data finer than {name}.')
    if model.patch_size is not None and model.num_scales is not None:
        most = coords.multiscale_count(min(model.size) * 2**finer, model.patch_size)
        if model.num_scales > most:
            raise ConfigError(
                f'model.num_scales={model.num_scales}: patches of {model.patch_size} have {most} in these data.'
            )


# Losses: pure functions of parameters, latents and noise --------------------------------------------------------------


def discriminator(model: Config) -> Discriminator:
    """The Linen module of a configuration."""
    return Discriminator(
        model.d_widths,
        mbstd_group_size=model.mbstd_group_size,
        num_fp16_res=len(model.d_widths),
        dtype=jnp.dtype(model.dtype),
    )


def generate(
    model: Config, params: dict, z: jax.Array, noise: jax.Array | None, grid: jax.Array | None = None
) -> jax.Array:
    """Training images [b, H, W, img_channels].

    Args:
      z: [b, z_dim].
      noise: as in `synthesise`, with a leading axis [b].
      grid: that of each image, [b, H, W, 2]; None: the native one for all.
    """
    module = Generator(model)
    w = module.apply({'params': params}, z, method='map')
    styles = module.apply({'params': params}, w, method='modulate')
    grid, axis = (image_grid(model, model.size), None) if grid is None else (grid, 0)
    raw = model.train_lookup == 'raw' and grid.shape[-3:-1] == model.size
    image = functools.partial(synthesise, model, lookup='raw' if raw else 'bilinear', chunk=model.train_chunk)
    return jax.vmap(image, (None, 0, axis, 0))(params, styles, grid, noise)


def score(model: Config, params: dict, buffers: dict, images: jax.Array, batches: int = 1) -> jax.Array:
    """Logits [b] of what D sees, so many batches of images with or without coordinates: [b, H, W, C or C + 2]."""
    return discriminator(model).apply({'params': params, 'buffers': buffers}, images, batches=batches)


def d_input(model: Config, images: jax.Array, grid: jax.Array | None = None) -> jax.Array:
    """Images [b, H, W, C], with their coordinates (None: native) as two more channels if `d_sees_coords`."""
    if not model.d_sees_coords:
        return images
    grid = image_grid(model, model.size) if grid is None else grid
    return jnp.concatenate([images, jnp.broadcast_to(grid, (*images.shape[:3], 2))], axis=-1)


def d_main(
    model: Config,
    d_params: dict,
    d_buffers: dict,
    g_params: dict,
    real: jax.Array,
    z: jax.Array,
    noise: jax.Array | None,
    grid: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """D's logistic loss of real images [b, H, W, img_channels] and generated ones, seen in one pass; also metrics."""
    both = jnp.concatenate([d_input(model, x, grid) for x in (real, generate(model, g_params, z, noise, grid))])
    real_logits, fake_logits = jnp.split(score(model, d_params, d_buffers, both, batches=2), 2)
    loss = losses.logistic_d(real_logits, fake_logits)
    return loss, {'loss/d': loss, 'logits/real': jnp.mean(real_logits), 'logits/fake': jnp.mean(fake_logits)}


def d_r1(
    model: Config, d_params: dict, d_buffers: dict, real: jax.Array, grid: jax.Array | None = None
) -> tuple[jax.Array, dict]:
    """r1_gamma / 2 times the R1 penalty with respect to everything that the discriminator sees; also metrics.

    Computed in float32 whatever `dtype` is: a gradient of a gradient has no digits to spare.
    """
    exact = dataclasses.replace(model, dtype='float32')
    penalty = losses.r1_penalty(functools.partial(score, exact, d_params, d_buffers), d_input(model, real, grid))
    return model.r1_gamma / 2 * penalty, {'loss/r1': penalty}


def g_main(
    model: Config,
    g_params: dict,
    d_params: dict,
    d_buffers: dict,
    z: jax.Array,
    noise: jax.Array | None,
    grid: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """The generator's non-saturating logistic loss; also metrics."""
    fake = generate(model, g_params, z, noise, grid)
    loss = losses.logistic_g(score(model, d_params, d_buffers, d_input(model, fake, grid)))
    return loss, {'loss/g': loss}


# Sampling -------------------------------------------------------------------------------------------------------------


def map_latents(model: Config, variables: dict, z: jax.Array, c: None = None) -> jax.Array:
    """w [N, z_dim] of latents [N, z_dim]; there are no labels."""
    return Generator(model).apply({'params': variables['params']}, z, method='map')


def images(
    model: Config,
    variables: dict,
    w: jax.Array,
    grid: jax.Array | None = None,
    *,
    chunk: int | None = None,
    noise: jax.Array | str | None = None,
    shares: jax.Array | None = None,
) -> jax.Array:
    """Images at any coordinates; the embedding is read bilinearly, as the released program does outside training.

    Args:
      variables: {'params': the generator's, ...}.
      w: [N, z_dim], or one per layer, [N, num_layers, z_dim], in the order of `layer_names`.
      grid: coordinates [..., 2]; None: the native grid, on a cylinder the arc about azimuth 0.
      chunk: coordinates computed at once; None: as in `synthesise`.
      noise: keys [N]; numbers [N, ..., demodulated layers]; None, 'none' or 'const' mean no noise. The released program
        draws it anew for every image, as `evaluate` does.
      shares: the share of each of the N styles at every coordinate, [*grid.shape[:-1], N], for one image without noise.
    Returns: [N, *grid.shape[:-1], img_channels] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for grids of other shapes, chunk below 1, and styles per layer of a model without modulation.
    """
    if grid is not None and (grid.ndim < 1 or grid.shape[-1] != 2):
        raise ValueError(f'grid has shape {grid.shape}; expected coordinates [..., 2] in (x, y) order.')
    if w.ndim == 3 and not model.modulation:
        raise UserError('styles per layer need layers with a style; this model has modulation=False.')
    grid = image_grid(model, model.size) if grid is None else jnp.asarray(grid, jnp.float32)
    noise = None if isinstance(noise, str) else noise
    image = functools.partial(synthesise, model, chunk=chunk)
    if shares is not None:
        return image(variables['params'], (w, shares), grid)[None]
    styles = Generator(model).apply({'params': variables['params']}, w, method='modulate')
    return jax.vmap(image, (None, 0, None, 0))(variables['params'], styles, grid, noise)


def sampler(config: Any) -> Sampler:
    """How images are made from seeds: like those of the data, unless they are finer, or at any coordinates."""
    model = config.model
    mapped = functools.partial(map_latents, model)

    def like_data(variables: dict, w: jax.Array, grid: jax.Array | None = None, **options: Any) -> jax.Array:
        size = model.size if model.rotate else config.data.size
        return images(model, variables, w, image_grid(model, size) if grid is None else grid, **options)

    return Sampler(
        draw=functools.partial(latents, z_dim=model.z_dim),
        synthesise=like_data,
        map=mapped,
        w_avg=functools.partial(mean_w, mapped, model.z_dim),
        num_ws=len(layer_names(model)) if model.modulation else None,
        options=('grid', 'noise', 'shares'),
        view=functools.partial(view, config),
        pixelwise=True,
        span=None if model.panorama_width is None else model.span,
    )


# The system -----------------------------------------------------------------------------------------------------------


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    model = config.model

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        g = Generator(model).init(g_key, jnp.zeros((1, model.z_dim)))
        seen = model.img_channels + 2 * model.d_sees_coords
        d = discriminator(model).init(d_key, jnp.zeros((1, *model.d_size, seen)))
        return {'g': g['params'], 'd': d['params']}, {'g': {}, 'd': d['buffers']}, {}

    def draw(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        z_key, noise_key = jax.random.split(key)
        return sample_normal(z_key, index, (model.z_dim,)), sample_keys(noise_key, index)

    def d_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z, noise = draw(key, batch['index'])
        loss, metrics = d_main(
            model, params, state.buffers['d'], state.params['g'], batch['image'], z, noise, batch.get('grid')
        )
        return loss, ({}, metrics)

    def d_r1_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        loss, metrics = d_r1(model, params, state.buffers['d'], batch['image'], batch.get('grid'))
        return loss, ({}, metrics)

    def g_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        z, noise = draw(key, batch['index'])
        loss, metrics = g_main(model, params, state.params['d'], state.buffers['d'], z, noise, batch.get('grid'))
        return loss, ({}, metrics)

    # Whole images on a fixed grid need no preparation.
    cuts = model.rotate or model.patch_size is not None or model.panorama_width is not None or config.data.outside
    r1 = (Update('d', d_r1_loss, interval=model.r1_interval),) if model.r1_gamma > 0 else ()
    return GAN(
        init=init,
        updates=(Update('d', d_main_loss), *r1, Update('g', g_main_loss)),
        optimizers=optimizers(config),
        sampler=sampler(config),
        stage_at=functools.partial(stage_at, config),
        prepare=functools.partial(prepare, config) if cuts else None,
        ema=functools.partial(ema_decay, config),
    )


def optimizers(config: Any) -> dict[str, optax.GradientTransformation]:
    """Adam for 'g' and 'd', both corrected for lazy regularisation."""
    model = config.model
    return {
        'g': optim.adam(config.optim, config.optim.g_lr, model.g_reg_interval),
        'd': optim.adam(config.optim, config.optim.d_lr, model.r1_interval if model.r1_gamma > 0 else 0),
    }


def ema_decay(config: Any, nimg: jax.Array, step: jax.Array) -> jax.Array | float:
    """Decay of G's running mean at a step: `ema_decay`, or by half-life in images."""
    model, train = config.model, config.train
    if model.ema_kimg is None:
        return model.ema_decay
    return optim.ema_decay(train, nimg, model.ema_kimg, model.ema_rampup)
