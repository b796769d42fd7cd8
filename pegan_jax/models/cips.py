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

from pegan_jax import coords, encodings, losses, optim
from pegan_jax.gan import GAN, Stage, Update, sample_keys, sample_normal
from pegan_jax.layers import EqualDense, MappingNetwork, lrelu, truncate
from pegan_jax.models.stylegan2 import Discriminator, num_halvings
from pegan_jax.settings import ConfigError, at_least, check_types

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
    wiring: 'skip' adds the RGB of every level; 'residual' has one to-RGB layer behind residual blocks, as in the
      Landscapes release; 'plain' has one behind a chain of layers (an ablation).
    fourier_features, coord_embedding: the halves of the encoding; without the latter this is CIPS-NE.
    modulation: False: plain equalised layers, which get w beside the encoding of every coordinate (an ablation).
    activation: of modulated layers; 'sinrelu' passes even channels through leaky ReLU and odd ones through the sine.
    train_lookup: how training reads the embedding: 'raw' takes pixel (i, j) for position (i, j) of any grid of the
      native shape, as the released program does; 'bilinear' reads at the coordinates, as sampling does.
    train_chunk: coordinates of each image that training computes at once, and once more for the gradient, which takes
      memory for one chunk instead of the image; None: CPU_CHUNK on CPU, where that is also faster, else a native grid.
    patch_size: side of the square patches that training sees, at random scales; None: whole images.
    num_scales: scales of the patches, strides 1, 2, 4, ...; None: as released, log2(native side / patch_size) + 1,
      however fine the data are.
    progressive_kimg: with data finer than img_resolution, thousands of images at each resolution before it doubles,
      from img_resolution to that of the data; None: the data's from the beginning.
    rotate: turn every real image by a random angle about its centre and keep the middle, at the same pixel pitch; the
      data must be large enough that no corner is missing.
    panorama_width: columns of the whole circle: the model lives on a cylinder, of which images are arcs; None: flat.
    d_channels: discriminator widths at the size it sees, half of it, and so on; None: the published ones.
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
        return (
            (self.img_resolution, self.img_resolution) if isinstance(self.img_resolution, int) else self.img_resolution
        )

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


def doublings(config: Any) -> int:
    """How often the native size doubles to give that of the data: 0, or more for data finer than the native grid."""
    ratio = config.data.size[0] // config.model.size[0]
    return max(ratio.bit_length() - 1, 0)


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
    if model.progressive_kimg is not None and not finer:
        raise ConfigError(f'model.progressive_kimg={model.progressive_kimg} needs data finer than {name}.')
    if model.patch_size is not None and model.num_scales is not None:
        most = coords.multiscale_count(min(model.size) * 2**finer, model.patch_size)
        if model.num_scales > most:
            raise ConfigError(
                f'model.num_scales={model.num_scales}: patches of {model.patch_size} have {most} in these data.'
            )


# Generator ------------------------------------------------------------------------------------------------------------


class ModulatedDense(nn.Module):
    """One layer of `pixel`: its parameters, and what a style w makes of them.

    Modulated, its weight for a style is U_io = V_io s_i d_o, with V = weight / sqrt(in), s = affine(w) and, if it
    demodulates, d_o = 1 / sqrt(sum_i (V_io s_i)^2 + 1e-8) (Karras et al. 2020, eq. 1 and 3). The bias and the strength
    of the noise are declared here and used by `pixel`; a layer without demodulation is a to-RGB layer, without noise.
    """

    in_features: int
    features: int
    demodulate: bool = True
    modulated: bool = True

    def setup(self) -> None:
        self.weight = self.param('weight', nn.initializers.normal(1.0), (self.in_features, self.features))
        self.bias = self.param('bias', nn.initializers.zeros, (self.features,))
        if self.demodulate:
            self.noise_strength = self.param('noise_strength', nn.initializers.zeros, ())
        if self.modulated:
            self.affine = EqualDense(self.in_features, bias_init=1.0)

    def __call__(self, w: jax.Array) -> jax.Array:
        """w [N, w_dim] -> U [N, in_features, features], float32."""
        u = self.weight[None, :, :] * self.affine(w)[:, :, None] / math.sqrt(self.in_features)
        if self.demodulate:
            u = u * jax.lax.rsqrt(jnp.sum(jnp.square(u), axis=1, keepdims=True) + 1e-8)
        return u

    def factor(self, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        """w [N, w_dim] -> s [N, in_features] and d [N, features]: U x = d (V (s x)), so that no U is needed."""
        s = self.affine(w)
        if not self.demodulate:
            return s, jnp.ones((w.shape[0], self.features))
        return s, jax.lax.rsqrt(jnp.square(s) @ jnp.square(self.weight / math.sqrt(self.in_features)) + 1e-8)


class ResidualBlock(nn.Module):
    """The parameters of two layers and of the shortcut beside them, which is the identity where the width is kept."""

    in_features: int
    features: int
    modulated: bool = True

    def setup(self) -> None:
        self.conv1 = ModulatedDense(self.in_features, self.features, modulated=self.modulated)
        self.conv2 = ModulatedDense(self.features, self.features, modulated=self.modulated)
        if self.in_features != self.features:
            self.skip = EqualDense(self.features, use_bias=False)


def layer_names(model: Config) -> list[str]:
    """All layers in the order of execution, as paths of parameters; those with 'to_rgb' in their name give colours.

    Skip: conv1, then level by level linears_0, linears_1, to_rgbs_0 and so on. Residual: linears_0, then
    linears_1/conv1, linears_1/conv2 and so on, to_rgb_last. Plain: as skip, with to_rgb_last in place of all to_rgbs.
    """
    levels = range(len(model.level_widths))
    if model.wiring == 'residual':
        blocks = [f'linears_{k + 1}/{conv}' for k in levels for conv in ('conv1', 'conv2')]
        return ['linears_0', *blocks, 'to_rgb_last']
    rgb = [[f'to_rgbs_{k}'] if model.wiring == 'skip' else [] for k in levels]
    last = [] if model.wiring == 'skip' else ['to_rgb_last']
    return ['conv1', *(n for k in levels for n in (f'linears_{2 * k}', f'linears_{2 * k + 1}', *rgb[k])), *last]


class Generator(nn.Module):
    """The parameters of CIPS, and what happens once per image: z -> w -> all weights.

    The colours come from `synthesise`, a pure function of these. Paths follow the released checkpoints: lff (Fourier
    features), emb (embedding [H, W, hidden_size]), mapping/fc*, and those of `layer_names`.
    """

    model: Config

    def setup(self) -> None:
        def uniform(limit: float) -> Callable:
            return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)

        model = self.model
        height, width = model.size
        inputs = 2 if model.panorama_width is None else 3
        if model.fourier_features:
            self.lff = nn.Dense(
                model.hidden_size, kernel_init=uniform(math.sqrt(9 / inputs)), bias_init=uniform(math.sqrt(1 / inputs))
            )
        if model.coord_embedding:
            shape = (height, model.panorama_width or width, model.hidden_size)
            self.emb = self.param('emb', nn.initializers.normal(1.0), shape)
        self.mapping = MappingNetwork(model.z_dim, model.mapping_layers, model.lr_multiplier)

        layer = functools.partial(ModulatedDense, modulated=model.modulation)
        halves = model.fourier_features + model.coord_embedding
        encoded = halves * model.hidden_size + (0 if model.modulation else model.z_dim)
        widths = model.level_widths
        levels = list(zip((widths[0], *widths[:-1]), widths, strict=True))
        if model.wiring == 'residual':
            self.linears_0 = layer(encoded, widths[0])
            for k, (i, o) in enumerate(levels, start=1):
                setattr(self, f'linears_{k}', ResidualBlock(i, o, model.modulation))
        else:
            self.conv1 = layer(encoded, widths[0])
            for k, (i, o) in enumerate(pair for a, b in levels for pair in ((a, b), (b, b))):
                setattr(self, f'linears_{k}', layer(i, o))
        if model.wiring == 'skip':
            for k, width in enumerate(widths):
                setattr(self, f'to_rgbs_{k}', layer(width, 3, demodulate=False))
        else:
            self.to_rgb_last = layer(widths[-1], 3, demodulate=False)

    def map(self, z: jax.Array) -> jax.Array:
        """z [N, z_dim] -> w [N, z_dim]."""
        return self.mapping(z)

    def modulate(self, w: jax.Array) -> dict[str, jax.Array]:
        """w [N, z_dim], or one per layer [N, num_layers, z_dim] -> {layer: weight U [N, in, out]}.

        Without modulation: {'w': w}, as weights do not depend on it and every coordinate gets it as an input.
        """
        if not self.model.modulation:
            return {'w': w}
        names = layer_names(self.model)
        ws = [w] * len(names) if w.ndim == 2 else jnp.moveaxis(w, 1, 0)
        return {name: _at(self, name)(ws[i]) for i, name in enumerate(names)}

    def factor(self, w: jax.Array) -> dict[str, Any]:
        """w [N, z_dim] -> {layer: (s [N, in], d [N, out])}, see `ModulatedDense.factor`; as `modulate` without it."""
        if not self.model.modulation:
            return {'w': w}
        return {name: _at(self, name).factor(w) for name in layer_names(self.model)}

    def __call__(self, z: jax.Array) -> dict[str, jax.Array]:
        """z [N, z_dim] -> what `modulate` gives. Touches every parameter, for `init`."""
        if self.model.fourier_features:
            self.lff(jnp.zeros((1, 2 if self.model.panorama_width is None else 3)))
        for name in layer_names(self.model):
            parent = _at(self, name.rpartition('/')[0]) if '/' in name else None
            if hasattr(parent, 'skip'):
                parent.skip(jnp.zeros((1, parent.in_features)))
            _at(self, name).bias  # noqa: B018  a submodule is set up when it is first used
        return self.modulate(self.map(z))


def _at(tree: Any, path: str) -> Any:
    """What is at 'a/b' of nested modules or dictionaries."""
    for part in path.split('/'):
        tree = tree[part] if isinstance(tree, dict) else getattr(tree, part)
    return tree


def activate(x: jax.Array, activation: str) -> jax.Array:
    """The non-linearity of a layer on [..., C]; 'sinrelu' puts the leaky channels before those of the sine."""
    if activation == 'lrelu':
        return lrelu(x)
    if activation == 'sin':
        return jnp.sin(x)
    return jnp.concatenate([jax.nn.leaky_relu(x[..., 0::2], 0.2), jnp.sin(x[..., 1::2])], axis=-1) * math.sqrt(2)


def _matmul(model: Config, x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.matmul(x.astype(model.dtype), weight.astype(model.dtype), preferred_element_type=jnp.float32)


def dense(model: Config, layer: dict, style: Any, x: jax.Array) -> jax.Array:
    """U x + bias at one coordinate: x [in] -> [out], float32.

    style: U [in, out]; or (s [in], d [out]), for U x = d (V (s x)); or None, for a layer without modulation, U = V.
    """
    if isinstance(style, jax.Array):
        return _matmul(model, x, style) + layer['bias']
    s, d = (1.0, 1.0) if style is None else style
    return d * _matmul(model, s * x, layer['weight'] / math.sqrt(len(x))) + layer['bias']


def styled(model: Config, layer: dict, style: Any, x: jax.Array, noise: jax.Array | None = None) -> jax.Array:
    """`dense`, noise times the learned strength, activation: x [in] and a number, or None, -> [out]."""
    y = dense(model, layer, style, x)
    if noise is not None:
        y = y + layer['noise_strength'] * noise
    return activate(y, model.activation).astype(model.dtype)


def add_shortcut(model: Config, block: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """(y + shortcut of x) / sqrt(2), from the input x [in] and the two layers' result y [out] of a `ResidualBlock`."""
    if 'skip' in block:
        x = _matmul(model, x, block['skip']['kernel'] / math.sqrt(len(x)))
    return ((x + y) * math.sqrt(0.5)).astype(model.dtype)


def pixel(
    model: Config,
    params: dict,
    styles: dict,
    xy: jax.Array,
    embedding: jax.Array | None = None,
    noise: jax.Array | None = None,
) -> jax.Array:
    """The colour of one coordinate: Fourier features beside the embedding, modulated layers, RGB of their results.

    Args:
      params: the generator's.
      styles: from `Generator.modulate` or `Generator.factor`, without their leading axis: {layer: U [in, out]}, or
        {layer: (s [in], d [out])}, or {'w': [z_dim]}.
      xy: [2] float32; [-1, 1] is the native range, or the whole circle.
      embedding: [hidden_size] float32, as looked up at xy; None if the model has none.
      noise: [demodulated layers] float32, before the learned strengths; None: no noise.
    Returns: [3] float32, unbounded, nominally in [-1, 1].
    """

    names = layer_names(model)
    noisy = [name for name in names if 'to_rgb' not in name]
    encoding = []
    if model.fourier_features:
        points = xy if model.panorama_width is None else encodings.cylinder(xy)
        encoding.append(encodings.fourier_features(points, params['lff']['kernel'], params['lff']['bias']))
    if model.coord_embedding:
        encoding.append(embedding)
    if not model.modulation:
        encoding.append(styles['w'])

    def block(name: str, x: jax.Array) -> jax.Array:
        number = None if noise is None else noise[noisy.index(name)]
        return styled(model, _at(params, name), styles.get(name), x, number)

    x, rgb = block(names[0], jnp.concatenate(encoding)), jnp.zeros(3)
    for name in names[1:]:
        if 'to_rgb' in name:
            rgb = rgb + dense(model, params[name], styles.get(name), x)
        elif name.endswith('/conv1'):
            before, x = x, block(name, x)
        elif name.endswith('/conv2'):
            x = add_shortcut(model, _at(params, name.removesuffix('/conv2')), before, block(name, x))
        else:
            x = block(name, x)
    return rgb


def synthesise(
    model: Config,
    params: dict,
    styles: dict | jax.Array,
    grid: jax.Array,
    noise: jax.Array | None = None,
    *,
    lookup: str = 'bilinear',
    chunk: int | None = None,
) -> jax.Array:
    """One image: `pixel` mapped over coordinates. Map it over styles (and noise, and grids if they differ) for a batch.

    Args:
      styles: of the image, as in `pixel`; or w of every position [..., z_dim], modulating in the factored form, which
        costs no more than one style for all.
      grid: coordinates [..., 2] of any leading shape.
      noise: a PRNG key, from which every position of the grid draws its own numbers; or the numbers [..., layers];
        or None: no noise.
      lookup: 'bilinear' reads the embedding at the coordinates; 'raw' takes its entries, for a grid of its shape.
      chunk: coordinates computed at once; None: CPU_CHUNK on CPU, elsewhere as many as the native grid has. Memory is
        constant in the number of chunks, also that of gradients, which compute every chunk again.
    Returns: [..., 3] float32.
    Raises: ValueError if lookup is 'raw' and the grid does not have the embedding's shape.
    """
    shape = grid.shape[:-1]
    seeded = noise is not None and jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)
    per_point = {}
    if lookup == 'raw' and model.coord_embedding:
        per_point['embedding'] = encodings.embedding_raw(params['emb'], grid)
    if seeded:
        per_point['index'] = jnp.arange(math.prod(shape)).reshape(shape)
    elif noise is not None:
        per_point['noise'] = noise
    if not isinstance(styles, dict):
        per_point['w'] = styles

    def points(xy: jax.Array, *arrays: jax.Array) -> jax.Array:
        given = dict(zip(per_point, arrays, strict=True))
        here, axis = styles, None
        if 'w' in given:
            here, axis = generator(model).apply({'params': params}, given['w'], method='factor'), 0
        if model.coord_embedding and 'embedding' not in given:
            wrap = model.panorama_width is not None
            given['embedding'] = encodings.embedding(params['emb'], xy, wrap_x=wrap)
        if seeded:
            # A key per position, not one draw for the grid: chunks of any size see the same noise.
            keys = jax.vmap(jax.random.fold_in, (None, 0))(noise, given['index'])
            layers = sum('to_rgb' not in name for name in layer_names(model))
            given['noise'] = jax.vmap(lambda k: jax.random.normal(k, (layers,)))(keys)
        colour = jax.vmap(functools.partial(pixel, model), (None, axis, 0, 0, 0))
        return colour(params, here, xy, given.get('embedding'), given.get('noise'))

    count = math.prod(shape)
    if chunk is None:
        chunk = CPU_CHUNK if jax.default_backend() == 'cpu' else math.prod(model.size)
    if count > chunk:
        # Activations of all chunks would fill the memory that chunks save. A loop needs no barrier against merging.
        points = jax.checkpoint(points, prevent_cse=False)
    return coords.map_chunks(points, grid, chunk, *per_point.values())


def style_mix(model: Config, w: jax.Array, other: jax.Array, crossover: int) -> jax.Array:
    """One style per layer: w [N, z_dim] before layer `crossover` (of `layer_names`), the other one from there on.

    Returns: ws [N, num_layers, z_dim], for `sample` with space='ws'.
    Raises: ValueError unless 0 <= crossover <= num_layers.
    """
    layers = len(layer_names(model))
    if not 0 <= crossover <= layers:
        raise ValueError(f'crossover={crossover} with {layers} layers; use 0 (all of the other) to {layers} (none).')
    return jnp.stack([w] * crossover + [other] * (layers - crossover), axis=1)


def blend_around(w: jax.Array, other: jax.Array, grid: jax.Array) -> jax.Array:
    """Two styles on opposite sides of a cylinder: (1 - |x|) w + |x| other, with x brought into [-1, 1).

    Args:
      w, other: [N, z_dim], the styles at x = 0 and at x = 1 and -1.
      grid: coordinates [..., 2].
    Returns: w of every position [N, *grid.shape[:-1], z_dim], for `sample` with space='w_map'.
    """
    share = jnp.abs(coords.wrap(grid[..., 0]))[None, ..., None]
    ones = (w.shape[0], *(1,) * (grid.ndim - 1), w.shape[1])
    return (1 - share) * w.reshape(ones) + share * other.reshape(ones)


# What training sees ---------------------------------------------------------------------------------------------------


def stage_at(config: Any, step: int, nimg: int, seed: int) -> Stage:
    """The resolution of the images: the data's, or with `progressive_kimg` the one that is due."""
    model = config.model
    if model.progressive_kimg is None:
        return Stage(config.data.resolution)
    times = 2 ** min(int(nimg // (1000 * model.progressive_kimg)), doublings(config))
    height, width = model.size
    return Stage(times * height if isinstance(model.img_resolution, int) else (times * height, times * width))


def prepare(config: Any, batch: dict, key: jax.Array, stage: Stage) -> dict:
    """Rotates and crops real images on the device, and gives the coordinates that D and G share.

    The scale of patches is drawn once per step for the whole batch, everything else per sample.

    Args:
      batch: 'image' [b, *stage.size, 3] float32, 'index' [b].
    Returns: the batch with 'image' [b, h, w, 3] and 'grid' [b, h, w, 2], of the size that the discriminator sees.
    """
    model = config.model
    size = model.size if model.rotate else stage.size
    scale_key, sample_key = jax.random.split(key)
    scale = jnp.int32(0)
    if model.patch_size is not None:
        scale = jax.random.randint(scale_key, (), 0, scale_count(model, size))

    def one(key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        turn_key, azimuth_key, crop_key = jax.random.split(key, 3)
        if model.rotate:
            image = rotated(image, jax.random.uniform(turn_key, (), maxval=2 * math.pi), size)
        if model.panorama_width is None:
            grid = coords.grid(*size)
        else:
            x0 = jax.random.uniform(azimuth_key, (), minval=-1.0, maxval=1.0)
            grid = coords.cylinder_crop(*size, x0, model.span)
        if model.patch_size is not None:
            start, stride = patch_start(crop_key, size, model.patch_size, scale), 2**scale
            image, grid = (coords.multiscale_crop(a, start, stride, model.patch_size) for a in (image, grid))
        return image, grid

    image, grid = jax.vmap(one)(sample_keys(sample_key, batch['index']), batch['image'])
    return {**batch, 'image': image, 'grid': grid}


def scale_count(model: Config, size: tuple[int, int]) -> int:
    """How many scales of patches are drawn from images of a size.

    `num_scales`; or as released log2(native side / patch_size) + 1, which leaves out the coarsest of finer data.
    """
    most = coords.multiscale_count(min(size), model.patch_size)
    return min(model.num_scales or coords.multiscale_count(min(model.size), model.patch_size), most)


def patch_start(key: jax.Array, size: tuple[int, int], patch: int, scale: jax.Array) -> jax.Array:
    """(row, column), int32 [2], where a patch starts: `coords.multiscale_start`, each axis by its own length."""
    keys = jax.random.split(key)
    starts = [coords.multiscale_start(k, side, patch, scale) for k, side in zip(keys, size, strict=True)]
    return jnp.stack([starts[0][0], starts[1][1]])


def rotated(image: jax.Array, angle: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of an image [H, W, C] turned by `angle` radians about its centre, read bilinearly: [*size, C].

    Pixels keep their pitch. No border is invented as long as H and W are at least the diagonal of `size`.
    """
    height, width, _ = image.shape
    half = jnp.array([size[1] - 1, size[0] - 1], jnp.float32) / 2
    offset = coords.transform(coords.pixel_grid(*size) - half[None, None, :], coords.rotate(angle))
    # Of a table of H x W, pixel centres are at (2 j + 1) / W - 1, that is at 2 (j - (W - 1) / 2) / W.
    return encodings.embedding(image, offset * 2 / jnp.array([width, height], jnp.float32)[None, None, :])


# Losses: pure functions of parameters, latents and noise --------------------------------------------------------------


def generator(model: Config) -> Generator:
    """The Linen module of a configuration."""
    return Generator(model)


def discriminator(model: Config) -> Discriminator:
    """The Linen module of a configuration."""
    return Discriminator(
        model.d_widths,
        mbstd_group_size=model.mbstd_group_size,
        num_fp16_res=len(model.d_widths),
        dtype=jnp.dtype(model.dtype),
    )


def image_grid(model: Config, size: tuple[int, int]) -> jax.Array:
    """The coordinates [H, W, 2] of whole images of a size; on a cylinder, of the arc about azimuth 0."""
    return coords.grid(*size) if model.panorama_width is None else coords.cylinder_crop(*size, -model.span, model.span)


def generate(
    model: Config, params: dict, z: jax.Array, noise: jax.Array | None, grid: jax.Array | None = None
) -> jax.Array:
    """Training images [b, H, W, 3].

    Args:
      z: [b, z_dim].
      noise: as in `synthesise`, with a leading axis [b].
      grid: of each image, [b, H, W, 2]; None: the native one for all.
    """
    module = generator(model)
    w = module.apply({'params': params}, z, method='map')
    styles = module.apply({'params': params}, w, method='modulate')
    grid, axis = (image_grid(model, model.size), None) if grid is None else (grid, 0)
    raw = model.train_lookup == 'raw' and grid.shape[-3:-1] == model.size
    image = functools.partial(synthesise, model, lookup='raw' if raw else 'bilinear', chunk=model.train_chunk)
    return jax.vmap(image, (None, 0, axis, 0))(params, styles, grid, noise)


def score(model: Config, params: dict, buffers: dict, images: jax.Array) -> jax.Array:
    """Logits [b] of what the discriminator sees: rgb, or rgb and coordinates, [b, H, W, 3 or 5]."""
    return discriminator(model).apply({'params': params, 'buffers': buffers}, images)


def d_input(model: Config, images: jax.Array, grid: jax.Array | None = None) -> jax.Array:
    """Images [b, H, W, 3], with their coordinates (None: native) as two more channels if `d_sees_coords`."""
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
    """The discriminator's logistic loss on real images [b, H, W, 3] and on generated ones; also metrics."""
    fake = generate(model, g_params, z, noise, grid)
    real_logits = score(model, d_params, d_buffers, d_input(model, real, grid))
    fake_logits = score(model, d_params, d_buffers, d_input(model, fake, grid))
    loss = losses.logistic_d(real_logits, fake_logits)
    return loss, {'loss/d': loss, 'logits/real': jnp.mean(real_logits), 'logits/fake': jnp.mean(fake_logits)}


def d_r1(
    model: Config, d_params: dict, d_buffers: dict, real: jax.Array, grid: jax.Array | None = None
) -> tuple[jax.Array, dict]:
    """r1_gamma / 2 times the R1 penalty with respect to everything that the discriminator sees; also metrics.

    In float32 whatever `dtype` is: a gradient of a gradient has no digits to lose.
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


# The system -----------------------------------------------------------------------------------------------------------


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`."""
    model = config.model

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        g = generator(model).init(g_key, jnp.zeros((1, model.z_dim)))
        d = discriminator(model).init(d_key, jnp.zeros((1, *model.d_size, 5 if model.d_sees_coords else 3)))
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

    def sample_like_data(variables: dict, z: jax.Array, grid: jax.Array | None = None, **options: Any) -> jax.Array:
        size = model.size if model.rotate else config.data.size
        return sample(model, variables, z, image_grid(model, size) if grid is None else grid, **options)

    # Whole images on a fixed grid need no preparation.
    cuts = model.rotate or model.patch_size is not None or model.panorama_width is not None
    r1 = (Update('d', d_r1_loss, interval=model.r1_interval),) if model.r1_gamma > 0 else ()
    return GAN(
        init=init,
        updates=(Update('d', d_main_loss), *r1, Update('g', g_main_loss)),
        optimizers=optimizers(config),
        sample=sample_like_data,
        stage_at=functools.partial(stage_at, config),
        prepare=functools.partial(prepare, config) if cuts else None,
        ema=functools.partial(ema_decay, model, config.train.batch_size),
    )


def optimizers(config: Any) -> dict[str, optax.GradientTransformation]:
    """Adam for 'g' and 'd', both corrected for lazy regularisation."""
    model = config.model
    return {
        'g': optim.adam(config.optim, config.optim.g_lr, model.g_reg_interval),
        'd': optim.adam(config.optim, config.optim.d_lr, model.r1_interval if model.r1_gamma > 0 else 0),
    }


def ema_decay(model: Config, batch_size: int, nimg: jax.Array, step: jax.Array) -> jax.Array | float:
    """Decay of G's running mean at a step: `ema_decay`, or by half-life in images."""
    if model.ema_kimg is None:
        return model.ema_decay
    return optim.ema_decay(batch_size, nimg, model.ema_kimg, model.ema_rampup)


# Sampling -------------------------------------------------------------------------------------------------------------

SAMPLE_OPTIONS = ('grid',)  # what `sample` takes for pictures of seeds


def map_latents(model: Config, variables: dict, z: jax.Array, c: None = None) -> jax.Array:
    """w [N, z_dim] of latents [N, z_dim]; there are no labels."""
    return generator(model).apply({'params': variables['params']}, z, method='map')


def num_ws(model: Config) -> int:
    """Styles of an image: one per layer."""
    return len(layer_names(model))


def mean_w(model: Config, variables: dict) -> jax.Array:
    """Centre of truncation [z_dim]: the mean w of a fixed set of W_AVG_SAMPLES latents."""
    z = jax.random.normal(jax.random.key(0), (W_AVG_SAMPLES, model.z_dim))
    return jnp.mean(map_latents(model, variables, z), axis=0)


def view(config: Any, size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """The grid of images of another size at the same distance between samples, of a scene that a matrix moves.

    Args:
      size: (height, width); None: that of the samples in training, whose borders then are those of their frame.
      transform: [3, 3] on positions in units of the frame's shorter side, about its middle.
    Returns: {'grid'}, an option of `sample`.
    Raises: ValueError for a matrix of another shape.
    """
    model = config.model
    native = model.size if model.rotate else config.data.size
    height, width = native if size is None else size
    y = (height - 1) / max(native[0] - 1, 1)
    if model.panorama_width is None:
        frame, low, high = 1.0, -(width - 1) / max(native[1] - 1, 1), (width - 1) / max(native[1] - 1, 1)
    else:  # The last column of a whole circle would be the first: the end is left out.
        frame, low, high = model.span, -model.span * width / native[1], model.span * (width - 2) / native[1]
    grid = coords.grid(height, width, x=(low, high), y=(-y, y))
    if transform is None:
        return {'grid': grid}
    if jnp.shape(transform) != (3, 3):
        raise ValueError(f'transform has shape {jnp.shape(transform)}; CIPS takes one matrix [3, 3] for all images.')
    unit = coords.zoom(native[1] / min(native) / (2 * frame), native[0] / min(native) / 2)
    return {'grid': coords.transform(grid, coords.compose(unit, jnp.asarray(transform), jnp.linalg.inv(unit)))}


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
    space: Literal['z', 'w', 'ws', 'w_map'] = 'z',
) -> jax.Array:
    """Images at any coordinates; the embedding is read bilinearly, as the released program does outside training.

    Args:
      variables: {'params': the generator's, ...}.
      z: what `space` says: 'z' latents [N, z_dim]; 'w' mapped ones [N, z_dim]; 'ws' one w per layer [N, num_layers,
        z_dim], in the order of `layer_names` (`style_mix`); 'w_map' one w per position [N, *grid.shape[:-1], z_dim].
      grid: coordinates [..., 2]; None: the native grid, on a cylinder the arc about azimuth 0.
      truncation_psi: at most 1; below, w moves towards w_avg: w_avg + psi (w - w_avg).
      w_avg: [z_dim]; None: `mean_w`.
      chunk: coordinates computed at once; None: as in `synthesise`.
      noise: a key; numbers [N, ..., demodulated layers]; None: no noise, which the released program cannot leave out.
    Returns: [N, *grid.shape[:-1], 3] float32, nominally in [-1, 1], not clamped.
    Raises: ValueError for other shapes, truncation_psi above 1, chunk below 1, another space.
    """
    if grid is not None and (grid.ndim < 1 or grid.shape[-1] != 2):
        raise ValueError(f'grid has shape {grid.shape}; expected coordinates [..., 2] in (x, y) order.')
    grid = image_grid(model, model.size) if grid is None else jnp.asarray(grid, jnp.float32)
    leading = {'z': (), 'w': (), 'ws': (len(layer_names(model)),), 'w_map': grid.shape[:-1]}
    if space not in leading:
        raise ValueError(f"space={space!r}; use 'z', 'w', 'ws' or 'w_map'.")
    shape = (*leading[space], model.z_dim)
    if z.ndim != len(shape) + 1 or z.shape[1:] != shape:
        raise ValueError(f'z has shape {z.shape}; expected [N, {", ".join(map(str, shape))}] with space={space!r}.')
    if space == 'ws' and not model.modulation:
        raise ValueError("space='ws' needs layers with a style; this model has modulation=False.")
    if truncation_psi > 1:
        raise ValueError(f'truncation_psi={truncation_psi} must be at most 1, which is off.')
    params = variables['params']
    w = generator(model).apply({'params': params}, z, method='map') if space == 'z' else z
    if truncation_psi < 1:
        centre = mean_w(model, variables) if w_avg is None else w_avg
        w = truncate(w, centre, truncation_psi)
    if noise is not None and jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        noise = sample_keys(noise, jnp.arange(z.shape[0]))
    image = functools.partial(synthesise, model, chunk=chunk)
    styles = w if space == 'w_map' else generator(model).apply({'params': params}, w, method='modulate')
    return jax.vmap(image, (None, 0, None, 0))(params, styles, grid, noise)
