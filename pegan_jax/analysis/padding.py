"""What zero padding does to the statistics of maps (Xu et al. 2021, arXiv 2012.05217), measured and in closed form.

A convolution without padding treats all positions alike. With zero padding the border differs, every further layer
carries that inwards, and the network can tell where it is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import ops
from pegan_jax.analysis.drawing import SEQUENTIAL, Study, coloured, picture_table, rounded, short, wrapped
from pegan_jax.analysis.features import Features, Head, batch_keys, in_order, sum_over

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


def moments(features: Features, key: jax.Array, samples: int, *, head: Head = 'own', batch: int = 64) -> dict:
    """`Moments` of every layer. Raises: ValueError unless samples is a multiple of batch, at least twice it."""

    @jax.jit
    def program(key: jax.Array) -> dict:
        return {name: (x.sum(0), (x**2).sum(0)) for name, x in features(key, batch, head).items()}

    sums = in_order(features, key, batch, head, sum_over(program, batch_keys(key, samples, batch)))
    means = {name: (s / samples, s2 / samples) for name, (s, s2) in sums.items()}
    return {name: Moments(m, np.maximum(m2 - m**2, 0), samples) for name, (m, m2) in means.items()}


def position_products(
    features: Features, layer: str, key: jax.Array, samples: int, *, head: Head = 'own', batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """R(i, j) = E[F(i) F(j)], averaged over channels, for all pairs of positions of one layer, and its standard error.

    Returns: R [H, W, H, W], and the error, an average over pairs, from two halves of the samples.
    Raises: ValueError as `moments`.
    """

    @jax.jit
    def program(key: jax.Array) -> jax.Array:
        x = features(key, batch, head)[layer]
        return jnp.einsum('nhwc,nijc->hwij', x, x) / (batch * x.shape[-1])

    keys = list(batch_keys(key, samples, batch))
    keys = keys[: len(keys) // 2 * 2]
    halves = [sum_over(program, keys[i::2]) / (len(keys) // 2) for i in (0, 1)]
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
    """The middle quarter along both axes, [h, w, ...], with at least 1 or 2 positions."""
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


# Studies --------------------------------------------------------------------------------------------------------------


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
        same = in_order(features, key, 4, 'identical', same)
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
            wrapped(name): [
                (f'{short(layer)}, {x.shape[0]}x{x.shape[1]}', coloured(x, low, high)) for layer, x in layers.items()
            ]
            for name, layers in maps[kind].items()
        }
        pictures[kind] = picture_table(title, rows, (low, high, SEQUENTIAL, what))
    return Study(numbers, pictures)


def autocorrelation_study(
    sources: dict[str, Features], layer: str, key: jax.Array, samples: int, *, reach: int = 4, batch: int = 64
) -> Study:
    """R(i, i + d) of one layer at i.i.d. inputs around a corner, an edge and the middle, and the mean over all pairs.

    Without padding it is a function of d alone. Use only layers before any resize: resizing makes it depend on where
    between two samples a position lies, with or without padding.

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
    rows = {wrapped(n): [(caption, coloured(w, low, high)) for caption, w in row] for n, row in windows.items()}
    title = f'R(i, i + d) of {layer}, d from -{reach} to {reach} on both axes; grey: outside'
    legend = (low, high, SEQUENTIAL, 'relative to R(0) over all positions')
    return Study(numbers, {'autocorrelation': picture_table(title, rows, legend)})
