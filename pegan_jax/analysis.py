"""Where a generator knows its position from: studies of padding and of encodings (Xu et al. 2021, arXiv 2012.05217).

A convolution without padding treats all positions alike. With zero padding the border differs, every further layer
carries that inwards, and the network can tell where it is. The studies measure this on *feature sources*,
functions (key, count, head) -> {layer: maps [count, H, W, C]}; `head` says what the first convolution sees: 'own',
what the generator has; 'iid', standard normal numbers; 'identical', one random vector at all positions, and no noise.
"""

import functools
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pegan_jax import coords, encodings, ops
from pegan_jax.config import load_config, system_module

Head = Literal['own', 'iid', 'identical']
Features = Callable[[jax.Array, int, Head], dict[str, jax.Array]]


# Sources of features --------------------------------------------------------------------------------------------------


def random_layers(key: jax.Array, depth: int, width: int, kernel_size: int = 3) -> list[tuple[jax.Array, jax.Array]]:
    """Kernels [k, k, width, width] ~ N(0, 2 / (1.04 k^2 width)), which keep the variance, and biases ~ N(0, 0.2^2)."""
    std = math.sqrt(2 / (1.04 * kernel_size**2 * width))
    keys = jax.random.split(key, 2 * depth)
    shape = (kernel_size, kernel_size, width, width)
    kernels = [std * jax.random.normal(k, shape) for k in keys[:depth]]
    return list(zip(kernels, [0.2 * jax.random.normal(k, (width,)) for k in keys[depth:]], strict=True))


def stack(x: jax.Array, layers: Sequence[tuple[jax.Array, jax.Array]], *, padding: bool) -> list[jax.Array]:
    """F_1 = conv(x) + b_1, F_l = conv(lrelu(F_l-1)) + b_l with a slope of 0.2, of x [N, H, W, C].

    padding: zeros that keep the size of the maps; otherwise a k x k kernel costs k - 1 rows and columns.
    """
    maps = []
    for kernel, bias in layers:
        x = jax.nn.leaky_relu(x, 0.2) if maps else x
        x = ops.bias_act(ops.conv2d(x, kernel, padding=kernel.shape[0] // 2 if padding else 0), bias)
        maps.append(x)
    return maps


def _head(head: Head, key: jax.Array, x: jax.Array) -> jax.Array:
    """What stands in for an input [N, H, W, C]."""
    if head == 'identical':
        return jnp.broadcast_to(jax.random.normal(key, (x.shape[0], 1, 1, x.shape[-1])), x.shape)
    return jax.random.normal(key, x.shape) if head == 'iid' else x


def stack_features(layers: Sequence[tuple[jax.Array, jax.Array]], size: tuple[int, int], *, padding: bool) -> Features:
    """The maps of `stack` on i.i.d. numbers, its own head. `size`: of the last maps, with padding of all maps."""
    lost = 0 if padding else sum(kernel.shape[0] - 1 for kernel, _ in layers)

    def features(key: jax.Array, count: int, head: Head) -> dict[str, jax.Array]:
        x = jnp.zeros((count, size[0] + lost, size[1] + lost, layers[0][0].shape[2]))
        maps = stack(_head('iid' if head == 'own' else head, key, x), layers, padding=padding)
        return {f'conv {i + 1}': y for i, y in enumerate(maps)}

    return features


def record_maps(run: Callable[[], jax.Array], head: Callable[[jax.Array], jax.Array]) -> dict[str, jax.Array]:
    """All maps [N, H, W, C] that the Flax modules called by run() return, by path; its own result is 'image'.

    Left out are modules around others, and to-RGB layers. The input of the first layer, x, becomes head(x).
    """
    maps, first = {}, []

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        is_layer = context.method_name == '__call__' and args and getattr(args[0], 'ndim', 0) == 4
        if is_layer and not first and min(args[0].shape[1:3]) > 1:
            first.append(context.module.path)
            args = (head(args[0]), *args[1:])
        y = call(*args, **kwargs)
        if context.method_name == '__call__' and getattr(y, 'ndim', 0) == 4 and context.module.path:
            maps['/'.join(context.module.path)] = y
        return y

    with nn.intercept_methods(intercept):
        image = run()
    inner = [name for name in maps if not any(other.startswith(f'{name}/') for other in maps)]
    return {name: maps[name] for name in inner if 'rgb' not in name} | {'image': image}


def network_features(system: Any, model: Any, variables: dict) -> Features:
    """The maps of a generator at random latents, with new noise for every image where it has any, by layer.

    Args:
      system: a module of `pegan_jax.models` whose generator has maps; model: its Config, the section of a run's.
      variables: {'params', 'buffers'} of the generator.
    Raises: ValueError for generators without maps or latents of one size.
    """
    if 'grid' in system.SAMPLE_OPTIONS or not hasattr(model, 'z_dim'):
        raise ValueError(f'{system.__name__}: this study is about maps of convolutions on latents; use another system.')

    def features(key: jax.Array, count: int, head: Head) -> dict[str, jax.Array]:
        z_key, noise_key, head_key = jax.random.split(key, 3)
        options = {'scale': 0} if 'scale' in system.SAMPLE_OPTIONS else {}
        if 'noise' in system.SAMPLE_OPTIONS:
            options['noise'] = 'none' if head == 'identical' else jax.random.split(noise_key, count)
        z = jax.random.normal(z_key, (count, model.z_dim))
        run = functools.partial(system.sample, model, variables, z, **options)
        return record_maps(run, functools.partial(_head, head, head_key))

    return features


def random_network(config: str, key: jax.Array) -> Features:
    """`network_features` of a shipped configuration's generator with random weights, such as 'mspie:i,tiny'."""
    loaded = load_config(config)
    system = system_module(loaded.system)
    params, buffers, _ = jax.jit(system.build(loaded).init)(key)
    return network_features(system, loaded.model, {'params': params['g'], 'buffers': buffers['g']})


# Closed forms ---------------------------------------------------------------------------------------------------------


class TwoLayers(NamedTuple):
    """Moments of F_1 and F_2, [H, W, C] each."""

    mean1: jax.Array
    var1: jax.Array
    mean_act1: jax.Array
    mean2: jax.Array


def lrelu_mean(mean: jax.Array, std: jax.Array, slope: float = 0.2) -> jax.Array:
    """E[lrelu(X)] of X ~ N(m, s^2): slope m + (1 - slope) (m Phi(m / s) + s phi(m / s))."""
    t = mean / std
    density = jnp.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    return slope * mean + (1 - slope) * (mean * jax.scipy.stats.norm.cdf(t) + std * density)


def two_layers(layers: Sequence[tuple[jax.Array, jax.Array]], size: tuple[int, int], *, padding: bool) -> TwoLayers:
    """The moments of two layers of `stack` at every position, for i.i.d. standard normal inputs.

    E[F_1] = b_1. Var[F_1] is the sum of w_1^2 over the taps inside the image, E[F_2] is b_2 plus the sum of
    w_2 E[lrelu(F_1)] over the taps inside. Without padding all taps are inside everywhere; with it, fewer are at
    borders and corners.

    Args:
      layers: two of (kernel [k, k, C, D], bias [D]).
      size: (height, width) of the input.
    """
    (w1, b1), (w2, b2) = layers
    pads = [w.shape[0] // 2 if padding else 0 for w in (w1, w2)]
    var = ops.conv2d(jnp.ones((1, *size, w1.shape[2])), w1**2, padding=pads[0])
    mean = jnp.broadcast_to(b1, var.shape)
    mean_act = lrelu_mean(mean, jnp.sqrt(var))
    mean2 = ops.bias_act(ops.conv2d(mean_act, w2, padding=pads[1]), b2)
    return TwoLayers(mean[0], var[0], mean_act[0], mean2[0])


def autocorrelation(kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """R(d) = E[F_1(i) F_1(i + d)] = b^2 + sum_a w(a) w(a - d) of an unpadded layer, for i.i.d. standard normal inputs.

    Args: kernel [k, k, C, D], bias [D].
    Returns: [2k - 1, 2k - 1, D]; d = 0 is in the middle, and R is b^2 beyond.
    """

    def one(w: jax.Array) -> jax.Array:
        return ops.conv2d(w[None], w[..., None], padding=kernel.shape[0] - 1)[0, ..., 0]

    return jax.vmap(one, in_axes=-1, out_axes=-1)(kernel) + (bias**2)[None, None, :]


# Estimates ------------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Over samples, at every position: mean and variance [H, W, C], float64, and the number of samples."""

    mean: np.ndarray
    var: np.ndarray
    count: int


def _batches(key: jax.Array, samples: int, batch: int) -> Iterable[jax.Array]:
    if samples < 2 * batch or samples % batch:
        raise ValueError(f'samples={samples} must be a multiple of the batch of {batch}, at least twice it.')
    return jax.random.split(key, samples // batch)


def _in_order(features: Features, key: jax.Array, batch: int, head: Head, found: dict) -> dict:
    """The entries of `found` in the order of the layers, which compiled functions do not keep."""
    names = []
    jax.eval_shape(lambda key: names.extend(features(key, batch, head)), key)
    return {name: found[name] for name in names}


def _sum(program: Callable, keys: Iterable[jax.Array]) -> Any:
    """The sum of program(key) in float64, over batches that are float32 inside."""
    total = None
    for key in keys:
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), program(key))
        total = part if total is None else jax.tree.map(np.add, total, part)
    return total


def moments(features: Features, key: jax.Array, samples: int, *, head: Head = 'own', batch: int = 64) -> dict:
    """`Moments` of every layer. Raises: ValueError unless samples is a multiple of batch, at least twice it."""

    @jax.jit
    def program(key: jax.Array) -> dict:
        return {name: (x.sum(0), (x**2).sum(0)) for name, x in features(key, batch, head).items()}

    sums = _in_order(features, key, batch, head, _sum(program, _batches(key, samples, batch)))
    means = {name: (s / samples, s2 / samples) for name, (s, s2) in sums.items()}
    return {name: Moments(m, np.maximum(m2 - m**2, 0), samples) for name, (m, m2) in means.items()}


def position_products(
    features: Features, layer: str, key: jax.Array, samples: int, *, head: Head = 'own', batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """R(i, j) = E[F(i) F(j)], averaged over channels, of all pairs of positions of one layer, and its standard error.

    Returns: R [H, W, H, W], and the error, an average over pairs, from two halves of the samples.
    Raises: ValueError as `moments`.
    """

    @jax.jit
    def program(key: jax.Array) -> jax.Array:
        x = features(key, batch, head)[layer]
        return jnp.einsum('nhwc,nijc->hwij', x, x) / (batch * x.shape[-1])

    keys = list(_batches(key, samples, batch))
    keys = keys[: len(keys) // 2 * 2]
    halves = [_sum(program, keys[i::2]) / (len(keys) // 2) for i in (0, 1)]
    return (halves[0] + halves[1]) / 2, np.sqrt(np.mean((halves[0] - halves[1]) ** 2)) / 2


def by_offset(products: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean of R(i, j) over all pairs with the same j - i, [2H - 1, 2W - 1], and how far R is from it, an rms."""
    height, width = products.shape[:2]
    rows, columns = (np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1 for n in (height, width))
    index = rows[:, None, :, None] * (2 * width - 1) + columns[None, :, None, :]
    total = np.bincount(index.ravel(), products.ravel(), minlength=(2 * height - 1) * (2 * width - 1))
    mean = total / np.bincount(index.ravel(), minlength=total.size)
    return mean.reshape(2 * height - 1, -1), float(np.sqrt(np.mean((products - mean[index]) ** 2)))


def border_distance(height: int, width: int) -> np.ndarray:
    """Pixels between a position and the nearest border, [H, W]; 0 on the border."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (height, width))
    return np.minimum(rows[:, None], columns[None, :])


def _middle(x: np.ndarray) -> np.ndarray:
    """The middle quarter along both axes, [h, w, ...], of 1 or 2 positions at least."""
    for axis in (0, 1):
        n = x.shape[axis]
        keep = max(n // 4, 1)
        keep += (n - keep) % 2
        x = x.take(range((n - keep) // 2, (n + keep) // 2), axis)
    return x


def deviation(m: Moments) -> np.ndarray:
    """|M(i) - M_middle| / S_middle, [H, W]: how much the mean depends on position, in standard deviations of the maps.

    A root mean square over channels. Where there is no dependence it is about 1 / sqrt(samples).
    """
    centre = _middle(m.mean).mean((0, 1))
    scale = _middle(m.var).mean() or 1.0
    return np.sqrt(((m.mean - centre) ** 2).mean(-1) / scale)


def spread(m: Moments) -> np.ndarray:
    """Standard deviation over samples, a root mean square over channels, divided by that of the middle, [H, W].

    Where a border is frozen, the same in all images, it is small.
    """
    return np.sqrt(m.var.mean(-1) / (_middle(m.var).mean() or 1.0))


def departure(maps: np.ndarray) -> np.ndarray:
    """How far maps [N, H, W, C] are from their own middle position, relative to the rms of all values, [H, W].

    The largest over samples and channels; rounding alone gives some 1e-6.
    """
    maps = np.asarray(maps, np.float64)
    middle = maps[:, maps.shape[1] // 2, maps.shape[2] // 2]
    return np.abs(maps - middle[:, None, None]).max((0, -1)) / (np.sqrt(np.mean(maps**2)) or 1.0)


def affected_width(deviating: np.ndarray, tolerance: float = 1e-4) -> int:
    """Rings from the border on, up to the innermost with a deviation above the tolerance; [H, W] -> 0 for none."""
    distance = border_distance(*deviating.shape)
    return int(np.max(distance + 1, where=deviating > tolerance, initial=0))


class ReadOut(NamedTuple):
    """A linear read-out of positions.

    r2: of x and of y on held-out samples; 1 is exact, 0 no better than the middle of the image.
    mean: the position (x, y) that is read off on average at every position, [H, W, 2].
    """

    r2: np.ndarray
    mean: np.ndarray


def read_out(features: Features, key: jax.Array, samples: int, *, head: Head = 'own', batch: int = 64) -> dict:
    """The `ReadOut` of every layer: least squares of (x, y) in [-1, 1] on the C features of a position and 1.

    Half of the samples are fitted, the other half is held out. Raises: ValueError as `moments`.
    """

    @jax.jit
    def program(key: jax.Array) -> dict:
        out = {}
        for name, x in features(key, batch, head).items():
            height, width, channels = x.shape[1:]
            points = coords.grid(height, width).reshape(-1, 2)
            x = jnp.concatenate([jnp.ones((*x.shape[:3], 1)), x], -1).reshape(batch, -1, channels + 1)
            out[name] = (jnp.einsum('npc,npd->cd', x, x), jnp.einsum('npc,pd->cd', x, points), x.sum(0))
        return out

    keys = list(_batches(key, samples, batch))
    fitted, held = (_sum(program, keys[i::2]) for i in (0, 1))
    shapes = jax.eval_shape(lambda key: features(key, batch, head), keys[0])
    results = {}
    for name, (gram, cross, _) in _in_order(features, key, batch, head, fitted).items():
        size = shapes[name].shape[1:3]
        # Relative to the diagonal, in case that features are equal to each other, or constant.
        weights = np.linalg.lstsq(gram + 1e-6 * np.diag(np.diag(gram)), cross, rcond=None)[0]
        gram, cross, total = held[name]
        squares = (np.asarray(coords.grid(*size), np.float64) ** 2).sum((0, 1)) * len(keys[1::2]) * batch
        error = squares - 2 * (weights * cross).sum(0) + np.einsum('cd,ce,ed->d', weights, gram, weights)
        mean = (total @ weights / (len(keys[1::2]) * batch)).reshape(*size, 2)
        # An axis of one position has nothing to read.
        results[name] = ReadOut(1 - error / np.where(squares > 0, squares, np.inf), mean)
    return results


def principal_colours(grids: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Grids [H, W, C] as colours [H, W, 3] in [0, 1], their three principal components in a common basis and scale.

    Returns: the colours, and the share of the variance of each component, all of them.
    """
    rows = np.concatenate([g.reshape(-1, g.shape[-1]) for g in grids]).astype(np.float64)
    centre = rows.mean(0)
    _, values, basis = np.linalg.svd(rows - centre, full_matrices=False)
    basis = np.pad(basis, ((0, max(3 - len(basis), 0)), (0, 0)))[:3]
    scale = np.abs((rows - centre) @ basis.T).max() or 1.0
    colours = [0.5 + 0.5 * (g.astype(np.float64) - centre) @ basis.T / scale for g in grids]
    return colours, values**2 / (values**2).sum()


def distances(grid: np.ndarray) -> np.ndarray:
    """Euclidean distances between the codes of all positions, row by row: [H, W, C] -> [H W, H W]."""
    rows = grid.reshape(-1, grid.shape[-1]).astype(np.float64)
    return np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))


# Pictures -------------------------------------------------------------------------------------------------------------

SEQUENTIAL = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
_TILE, _GAP, _LABEL = 132, 10, 150


def coloured(x: np.ndarray, low: float, high: float, ramp: tuple = SEQUENTIAL) -> np.ndarray:
    """[H, W] -> uint8 [H, W, 3], grey where x is NaN."""
    t = np.clip((x - low) / ((high - low) or 1.0), 0, 1)
    stops = np.linspace(0, 1, len(ramp))
    rgb = np.stack([np.interp(np.nan_to_num(t), stops, [c[i] for c in ramp]) for i in range(3)], -1)
    return np.where(np.isnan(x)[..., None], 160, rgb.round()).astype(np.uint8)


def picture_table(
    title: str, rows: dict[str, list[tuple[str, np.ndarray]]], legend: tuple | None = None
) -> Image.Image:
    """Rows of captioned uint8 pictures under a title; legend: (low, high, ramp, what) of a colour bar."""
    small, large, across = ImageFont.load_default(12), ImageFont.load_default(15), max(map(len, rows.values()))
    label = max(_LABEL, *(20 + int(small.getlength(line)) for name in rows for line in name.split('\n')))
    width = label + across * (_TILE + _GAP)
    top, step = 34, _TILE + 24
    out = Image.new('RGB', (max(width, 760), top + len(rows) * step + (44 if legend else 6)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', large)
    for i, (name, pictures) in enumerate(rows.items()):
        y = top + i * step
        draw.multiline_text((8, y + 18 + _TILE // 3), name, 'black', small)
        for j, (caption, picture) in enumerate(pictures):
            x = label + j * (_TILE + _GAP)
            draw.text((x, y + 2), caption, 'black', small)
            image = Image.fromarray(picture)
            scale = _TILE / max(image.size)
            size = tuple(max(round(n * scale), 1) for n in image.size)
            out.paste(image.resize(size, Image.Resampling.NEAREST), (x, y + 18))
    if legend:
        low, high, ramp, what = legend
        y, bar = top + len(rows) * step + 4, coloured(np.linspace(0, 1, 240)[None].repeat(12, 0), 0, 1, ramp)
        out.paste(Image.fromarray(bar), (label, y))
        draw.text((label, y + 15), f'{low:.3g}', 'black', small)
        draw.text((label + 240, y + 15), f'{high:.3g}', 'black', small, anchor='ra')
        draw.text((label + 252, y), what, 'black', small)
    return out


def number_table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]], what: str) -> Image.Image:
    """Rows of numbers in [0, 1], on colours; NaN stays empty."""
    font = ImageFont.load_default(12)
    cell = max(64, *(12 + int(font.getlength(name)) for name in columns))
    label = 40 + max(int(font.getlength(name)) for name in rows)
    out = Image.new('RGB', (max(label + cell * len(columns) + 10, 560), 86 + 30 * len(rows)), 'white')
    draw = ImageDraw.Draw(out)
    draw.text((8, 8), title, 'black', ImageFont.load_default(15))
    for j, name in enumerate(columns):
        draw.text((label + j * cell + cell / 2, 50), name, 'black', font, anchor='mm')
    for i, (name, values) in enumerate(rows.items()):
        y = 62 + 30 * i
        draw.text((8, y + 15), name, 'black', font, anchor='lm')
        for j, value in enumerate(values):
            x = label + j * cell
            fill = tuple(coloured(np.array([[value]]), 0, 1)[0, 0].tolist())
            draw.rectangle((x, y, x + cell - 3, y + 27), fill)
            if not np.isnan(value):
                ink = 'black' if value > 0.55 else 'white'
                draw.text((x + cell / 2 - 1, y + 14), f'{round(value, 3) + 0.0:.3f}', ink, font, anchor='mm')
    draw.text((8, 66 + 30 * len(rows)), what, 'black', font)
    return out


# Studies --------------------------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """numbers: JSON values by name; pictures: by file name without suffix."""

    numbers: dict[str, Any]
    pictures: dict[str, Image.Image]


def default_sources(key: jax.Array, *, depth: int = 6, width: int = 16, size: int = 16) -> dict[str, Features]:
    """One random stack of 3x3 convolutions without and with zero padding; `size`: of the last maps."""
    layers = random_layers(key, depth, width)
    return {
        name: stack_features(layers, (size, size), padding=name == 'zero padding')
        for name in ('no padding', 'zero padding')
    }


def _short(name: str) -> str:
    return name.removeprefix('synthesis/')[-20:]


def rounded(x: Any) -> Any:
    """Arrays and numbers as JSON, to five digits."""
    return [rounded(v) for v in x] if np.ndim(x) else float(f'{float(x):.5g}')


def _at(x: np.ndarray) -> dict[str, float]:
    """A map at its corners, its edges without corners, and its middle; and by distance from the border."""
    distance = border_distance(*x.shape)
    corners = x[[0, 0, -1, -1], [0, -1, 0, -1]]
    edges = np.concatenate([x[[0, -1], 1:-1].ravel(), x[1:-1, [0, -1]].ravel()])
    profile = [x[distance == d].mean() for d in range(distance.max() + 1)]
    parts = {'corners': corners.mean(), 'edges': edges.mean() if edges.size else corners.mean()}
    return {name: rounded(v) for name, v in (parts | {'middle': _middle(x).mean(), 'by_distance': profile}).items()}


def padding_study(sources: dict[str, Features], key: jax.Array, samples: int, *, batch: int = 64) -> Study:
    """What zero padding does to the statistics of maps, layer by layer.

    Pictures: `mean`, the `deviation` of the mean at i.i.d. inputs; `spread`, the standard deviation over images of the
    generator as it is; `identical`, the `departure` of maps whose input is the same everywhere.

    Args: sources: by the name to show. Raises: ValueError as `moments`.
    """
    numbers, maps = {}, {'mean': {}, 'spread': {}, 'identical': {}}
    for name, features in sources.items():
        iid = moments(features, key, samples, head='iid', batch=batch)
        own = moments(features, key, samples, head='own', batch=batch)
        same = jax.jit(lambda key, features=features: features(key, 4, 'identical'))(key)
        same = _in_order(features, key, 4, 'identical', same)
        maps['mean'][name] = {layer: deviation(m) for layer, m in iid.items()}
        maps['spread'][name] = {layer: spread(m) for layer, m in own.items()}
        maps['identical'][name] = {layer: departure(np.asarray(x)) for layer, x in same.items()}
        numbers[name] = {
            layer: {
                'shape': list(m.mean.shape),
                'mean_deviation': _at(maps['mean'][name][layer]),
                'mean_deviation_of_sampling': rounded(1 / math.sqrt(samples)),
                'spread': _at(maps['spread'][name][layer]),
                'identical_input_affected_width': affected_width(maps['identical'][name][layer]),
                'identical_input_departure': rounded(maps['identical'][name][layer].max()),
            }
            for layer, m in iid.items()
        }
    titles = {
        'mean': ('Mean over samples at i.i.d. inputs: |M - M of the middle|', 'in standard deviations of the maps'),
        'spread': ('Standard deviation over samples', 'relative to that of the middle'),
        'identical': ('One vector at all positions, no noise: |F - F of the middle|', 'relative to the rms of the map'),
    }
    pictures = {}
    for kind, (title, what) in titles.items():
        values = np.concatenate([x.ravel() for rows in maps[kind].values() for x in rows.values()])
        low, high = (np.quantile(values, q) for q in (0.002, 0.998))
        low = low if kind == 'spread' else 0.0
        high = max(high, low + 1e-6)
        rows = {
            _wrapped(name): [
                (f'{_short(layer)}, {x.shape[0]}x{x.shape[1]}', coloured(x, low, high)) for layer, x in layers.items()
            ]
            for name, layers in maps[kind].items()
        }
        pictures[kind] = picture_table(title, rows, (low, high, SEQUENTIAL, what))
    return Study(numbers, pictures)


def _wrapped(name: str) -> str:
    return name.replace(', ', ',\n')


def autocorrelation_study(
    sources: dict[str, Features], layer: str, key: jax.Array, samples: int, *, reach: int = 4, batch: int = 64
) -> Study:
    """R(i, i + d) of one layer at i.i.d. inputs around a corner, an edge and the middle, and the mean over all pairs.

    Without padding it is a function of d alone. Only of layers before any resize: resizing makes it depend on where
    between two samples a position lies, padding or not.

    Raises: ValueError as `moments`.
    """
    numbers, windows = {}, {}
    for name, features in sources.items():
        products, error = position_products(features, layer, key, samples, head='iid', batch=batch)
        mean, rms = by_offset(products)
        height, width = products.shape[:2]
        power = mean[height - 1, width - 1]
        numbers[name] = {
            'layer': layer,
            'shape': [height, width],
            'off_offset_mean': rounded(rms / power),
            'off_offset_mean_of_sampling': rounded(error / power),
        }
        padded = np.pad(products, ((0, 0), (0, 0), (reach, reach), (reach, reach)), constant_values=np.nan) / power
        centre = np.pad(mean, reach, constant_values=np.nan)[height - 1 :, width - 1 :][
            : 2 * reach + 1, : 2 * reach + 1
        ]
        windows[name] = [('mean over all i', centre / power)]
        for what, i, j in (('corner', 0, 0), ('edge', 0, width // 2), ('middle', height // 2, width // 2)):
            window = padded[i, j, i : i + 2 * reach + 1, j : j + 2 * reach + 1]
            windows[name].append((f'i = {what}', window))
            numbers[name][f'at_{what}'] = rounded(window[reach, reach])
    values = np.concatenate([w.ravel() for row in windows.values() for _, w in row])
    low, high = np.nanmin(values), np.nanmax(values)
    rows = {_wrapped(n): [(caption, coloured(w, low, high)) for caption, w in row] for n, row in windows.items()}
    title = f'R(i, i + d) of {layer}, d from -{reach} to {reach} on both axes; grey: outside'
    legend = (low, high, SEQUENTIAL, 'relative to R(0) over all positions')
    return Study(numbers, {'autocorrelation': picture_table(title, rows, legend)})


def position_study(sources: dict[str, Features], key: jax.Array, samples: int, *, batch: int = 64) -> Study:
    """How well a linear map tells the position of a feature vector, layer by layer (`read_out`).

    Every source is read twice: as it is, and with one vector at all positions of its input, where only padding and
    resizing can tell. Pictures: `r2`, and `position`, the x that is read off on average.

    Raises: ValueError as `moments`.
    """
    found = {
        f'{name}, {what}': read_out(features, key, samples, head=head, batch=batch)
        for name, features in sources.items()
        for head, what in (('own', 'own input'), ('identical', 'identical input'))
    }
    numbers = {
        name: {layer: {'shape': list(r.mean.shape[:2]), 'r2_x': rounded(r.r2[0]), 'r2_y': rounded(r.r2[1])}
               for layer, r in layers.items()}
        for name, layers in found.items()
    }  # fmt: skip
    columns = max((list(map(_short, layers)) for layers in found.values()), key=len)
    r2 = {name: [float(r.r2.mean()) for r in layers.values()] for name, layers in found.items()}
    rows = {
        _wrapped(name): [(_short(layer), coloured(r.mean[..., 0], -1, 1, DIVERGING)) for layer, r in layers.items()]
        for name, layers in found.items()
    }
    what = 'R^2 on held-out samples, mean of x and y'
    pictures = {
        'r2': number_table('Position (x, y), read off linearly', columns, r2, what),
        'position': picture_table('x that is read off, mean over samples', rows, (-1, 1, DIVERGING, 'x')),
    }
    return Study(numbers, pictures)


def encoding_grids(constant: np.ndarray, dim: int = 16) -> dict[str, list[np.ndarray]]:
    """Encodings at 5 x 5 and 7 x 7 positions: the larger interpolated from the smaller, or built anew ("expanded").

    A constant [h, w, C] is interpolated to both from its own size. dim: channels per axis of the sinusoidal encoding.
    """
    spe = functools.partial(encodings.spe, dim=dim)
    height, width = constant.shape[:2]
    learned = [encodings.learned_constant(jnp.asarray(constant), (n - height, n - width)) for n in (5, 7)]
    grids = {'learned constant,\ninterpolated': [jnp.asarray(constant), *learned]}
    for name, encode, interpolate in (
        ('Cartesian (CSG),\ninterpolated', encodings.csg, True),
        ('Cartesian (CSG),\nexpanded', encodings.csg, False),
        ('sinusoidal (SPE),\ninterpolated', spe, True),
        ('sinusoidal (SPE),\nexpanded', spe, False),
    ):
        grids[name] = [encodings.at_scale(encode, (5, 5), extra, interpolate=interpolate) for extra in (0, 2)]
    return {name: [np.asarray(g) for g in row] for name, row in grids.items()}


def encodings_study(constant: np.ndarray, dim: int = 16) -> Study:
    """The spaces that encodings span: `encoding_grids` as `principal_colours`, with `distances` beside them.

    constant: [h, w, C], learned or random. Picture: `encodings`.
    """
    numbers, rows = {}, {}
    grids = encoding_grids(constant, dim)
    for name, row in grids.items():
        colours, variance = principal_colours(row)
        tiles, numbers[name.replace('\n', ' ')] = [], {'shapes': [list(g.shape) for g in row]}
        for grid, colour in zip(row, colours, strict=True):
            size, apart = f'{grid.shape[0]}x{grid.shape[1]}', distances(grid)
            tiles.append((size, (255 * colour.clip(0, 1)).round().astype(np.uint8)))
            tiles.append((f'{size}: distances', coloured(apart, 0, apart.max())))
        away = distances(np.asarray(coords.pixel_grid(*row[-1].shape[:2])))
        upper = np.triu_indices(len(away), 1)
        numbers[name.replace('\n', ' ')] |= {
            'variance_of_three_components': rounded(variance[:3].sum()),
            'effective_dimensions': rounded(1 / (variance**2).sum()),
            'nearest_positions': rounded(distances(row[-1])[upper].min() / distances(row[-1])[upper].mean()),
            'correlation_with_distance': rounded(np.corrcoef(distances(row[-1])[upper], away[upper])[0, 1]),
        }
        rows[name] = tiles
    title = 'Encodings: principal components as colours; distances between positions, row by row'
    legend = (0, 1, SEQUENTIAL, 'distance, relative to the largest of each grid')
    return Study(numbers, {'encodings': picture_table(title, rows, legend)})


def constant_of(params: dict) -> np.ndarray:
    """The learned constant [h, w, C] of a generator. Raises: ValueError if it has none."""
    found = [
        x for path, x in jax.tree_util.tree_leaves_with_path(params)
        if getattr(path[-1], 'key', None) == 'const' and x.ndim == 3
    ]  # fmt: skip
    if len(found) != 1:
        raise ValueError('this generator has no learned constant; choose one whose input is one, or leave out --model.')
    return np.asarray(found[0])


def save(study: Study, folder: str | pathlib.Path, name: str, about: dict[str, Any]) -> list[pathlib.Path]:
    """Writes folder/NAME.json, `about` and the numbers, and a PNG per picture, once all are made. Returns: paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'{name}.json', *(f'{name}_{kind}.png' for kind in study.pictures)]
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        unfinished = pathlib.Path(directory)
        (unfinished / names[0]).write_text(json.dumps(about | {'numbers': study.numbers}, indent=1) + '\n')
        for file, picture in zip(names[1:], study.pictures.values(), strict=True):
            picture.save(unfinished / file)
        return [(unfinished / file).replace(folder / file) for file in names]
