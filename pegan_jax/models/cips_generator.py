"""The generator of CIPS (Anokhin et al. 2021, section 3): a function of one coordinate and a style.

`Generator` holds the parameters and makes the weights of an image; `pixel` is the function of one coordinate, and
`synthesise` maps it. A `model` is a `cips.Config`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pegan_jax import coords, encodings, ops
from pegan_jax.layers import EqualDense, MappingNetwork, lrelu

CPU_CHUNK = 1024  # coordinates whose activations stay in a core's cache: measured fastest

# Parameters -----------------------------------------------------------------------------------------------------------


class ModulatedDense(nn.Module):
    """One layer of `pixel`: its parameters, and the weight that a style w gives it.

    A modulated layer's weight for a style is U_io = V_io s_i d_o, with V = weight / sqrt(in), s = affine(w) and, if it
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
        squares = jnp.square(self.weight / math.sqrt(self.in_features))
        return s, jax.lax.rsqrt(jnp.matmul(jnp.square(s), squares, precision='highest') + 1e-8)


class ResidualBlock(nn.Module):
    """The parameters of two layers and of the shortcut beside them, which is the identity if the width stays."""

    in_features: int
    features: int
    modulated: bool = True

    def setup(self) -> None:
        self.conv1 = ModulatedDense(self.in_features, self.features, modulated=self.modulated)
        self.conv2 = ModulatedDense(self.features, self.features, modulated=self.modulated)
        if self.in_features != self.features:
            self.skip = EqualDense(self.features, use_bias=False)


def layer_names(model: Any) -> list[str]:
    """All layers in the order of execution, as paths of parameters; those with 'to_rgb' in their name give colours.

    Skip: conv1, then level by level linears_0, linears_1, to_rgbs_0 and so on. Residual: linears_0, then
    linears_1/conv1, linears_1/conv2 and so on, to_rgb_last. Plain: as skip, with to_rgb_last instead of all to_rgbs.
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

    model: Any

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
                setattr(self, f'to_rgbs_{k}', layer(width, model.img_channels, demodulate=False))
        else:
            self.to_rgb_last = layer(widths[-1], model.img_channels, demodulate=False)

    def map(self, z: jax.Array) -> jax.Array:
        """z [N, z_dim] -> w [N, z_dim]."""
        return self.mapping(z)

    def modulate(self, w: jax.Array) -> dict[str, jax.Array]:
        """w [N, z_dim], or one per layer [N, num_layers, z_dim] -> {layer: weight U [N, in, out]}.

        Without modulation: {'w': w}, because weights do not depend on w and every coordinate gets it as an input.
        """
        if not self.model.modulation:
            return {'w': w}
        names = layer_names(self.model)
        ws = [w] * len(names) if w.ndim == 2 else jnp.moveaxis(w, 1, 0)
        return {name: _at(self, name)(ws[i]) for i, name in enumerate(names)}

    def factor(self, w: jax.Array) -> dict[str, Any]:
        """As `modulate`, but {layer: (s [N, in], d [N, out])}, see `ModulatedDense.factor`."""
        if not self.model.modulation:
            return {'w': w}
        names = layer_names(self.model)
        ws = [w] * len(names) if w.ndim == 2 else jnp.moveaxis(w, 1, 0)
        return {name: _at(self, name).factor(ws[i]) for i, name in enumerate(names)}

    def __call__(self, z: jax.Array) -> dict[str, jax.Array]:
        """z [N, z_dim] -> what `modulate` returns. Touches every parameter, for `init`."""
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


# One pixel ------------------------------------------------------------------------------------------------------------


def activate(x: jax.Array, activation: str) -> jax.Array:
    """The non-linearity of a layer on [..., C]; 'sinrelu' puts the leaky channels before those of the sine."""
    if activation == 'lrelu':
        return lrelu(x)
    if activation == 'sin':
        return jnp.sin(x)
    return jnp.concatenate([jax.nn.leaky_relu(x[..., 0::2], 0.2), jnp.sin(x[..., 1::2])], axis=-1) * math.sqrt(2)


def _matmul(model: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.matmul(x.astype(model.dtype), weight.astype(model.dtype), preferred_element_type=jnp.float32)


def dense(model: Any, layer: dict, style: Any, x: jax.Array) -> jax.Array:
    """U x + bias at one coordinate: x [in] -> [out], float32.

    style: U [in, out]; or (s [in], d [out]), for U x = d (V (s x)); or None, for a layer without modulation, U = V.
    """
    if isinstance(style, jax.Array):
        return _matmul(model, x, style) + layer['bias']
    s, d = (1.0, 1.0) if style is None else style
    return d * _matmul(model, s * x, layer['weight'] / math.sqrt(len(x))) + layer['bias']


def styled(model: Any, layer: dict, style: Any, x: jax.Array, noise: jax.Array | None = None) -> jax.Array:
    """`dense`, noise times the learned strength, activation: x [in] and a number, or None, -> [out]."""
    y = dense(model, layer, style, x)
    if noise is not None:
        y = y + layer['noise_strength'] * noise
    return activate(y, model.activation).astype(model.dtype)


def add_shortcut(model: Any, block: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """(y + shortcut of x) / sqrt(2), from the input x [in] and the two layers' result y [out] of a `ResidualBlock`."""
    if 'skip' in block:
        x = _matmul(model, x, block['skip']['kernel'] / math.sqrt(len(x)))
    return ((x + y) * math.sqrt(0.5)).astype(model.dtype)


def pixel(
    model: Any,
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
    Returns: [img_channels] float32, unbounded, nominally in [-1, 1].
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

    x, rgb = block(names[0], jnp.concatenate(encoding)), jnp.zeros(model.img_channels)
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


# Images ---------------------------------------------------------------------------------------------------------------


def synthesise(
    model: Any,
    params: dict,
    styles: dict | jax.Array | tuple[jax.Array, jax.Array],
    grid: jax.Array,
    noise: jax.Array | None = None,
    *,
    lookup: str = 'bilinear',
    chunk: int | None = None,
) -> jax.Array:
    """One image: `pixel` mapped over coordinates. Map it over styles (and noise, and grids if they differ) for a batch.

    Args:
      styles: those of the image, as in `pixel`; or w of every position [..., z_dim]; or w [K, z_dim] or
        [K, layers, z_dim] with their shares [..., K] in the style of every position. The last two modulate in the
        factored form, which costs no more than one style for all.
      grid: coordinates [..., 2] of any leading shape.
      noise: a PRNG key, from which every position of the grid draws its own numbers; or the numbers [..., layers];
        or None: no noise.
      lookup: 'bilinear' reads the embedding at the coordinates; 'raw' takes its entries, for a grid of its shape.
      chunk: coordinates computed at once; None: CPU_CHUNK on CPU, elsewhere as many as the native grid has. Memory does
        not grow with the number of chunks, even for gradients, which compute every chunk again.
    Returns: [..., img_channels] float32.
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
        per_point['w'] = styles[1] if isinstance(styles, tuple) else styles

    def points(xy: jax.Array, *arrays: jax.Array) -> jax.Array:
        given = dict(zip(per_point, arrays, strict=True))
        here, axis = styles, None
        if 'w' in given:
            if isinstance(styles, tuple):  # in this chunk only: a style for every position takes memory
                given['w'] = jnp.tensordot(given['w'], styles[0], 1, precision='highest')
            here, axis = Generator(model).apply({'params': params}, given['w'], method='factor'), 0
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
        chunk = CPU_CHUNK if ops.platform() == 'cpu' else math.prod(model.size)
    if count > chunk:
        # Activations of all chunks would fill the memory that chunks save. A loop needs no barrier against merging.
        points = jax.checkpoint(points, prevent_cse=False)
    return coords.map_chunks(points, grid, chunk, *per_point.values())
