"""How well a linear map tells the position of a feature vector, layer by layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.analysis.drawing import DIVERGING, Study, coloured, number_table, picture_table, rounded, short, wrapped
from pegan_jax.analysis.features import Features, Head, batch_keys, in_order, sum_over


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

    keys = list(batch_keys(key, samples, batch))
    fitted, held = (sum_over(program, keys[i::2]) for i in (0, 1))
    shapes = jax.eval_shape(lambda key: features(key, batch, head), keys[0])
    results = {}
    for name, (gram, cross, _) in in_order(features, key, batch, head, fitted).items():
        size = shapes[name].shape[1:3]
        # Relative to the diagonal, in case features are equal to each other, or constant.
        weights = np.linalg.lstsq(gram + 1e-6 * np.diag(np.diag(gram)), cross, rcond=None)[0]
        gram, cross, total = held[name]
        squares = (np.asarray(coords.grid(*size), np.float64) ** 2).sum((0, 1)) * len(keys[1::2]) * batch
        error = squares - 2 * (weights * cross).sum(0) + np.einsum('cd,ce,ed->d', weights, gram, weights)
        mean = (total @ weights / (len(keys[1::2]) * batch)).reshape(*size, 2)
        # An axis of one position has nothing to read.
        results[name] = ReadOut(1 - error / np.where(squares > 0, squares, np.inf), mean)
    return results


def position_study(sources: dict[str, Features], key: jax.Array, samples: int, *, batch: int = 64) -> Study:
    """How well a linear map tells the position of a feature vector, layer by layer (`read_out`).

    Every source is read twice: as it is, and with one vector at all positions of its input, so that only padding and
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
    r2 = {name: [(short(layer), float(r.r2.mean())) for layer, r in layers.items()] for name, layers in found.items()}
    rows = {
        wrapped(name): [(short(layer), coloured(r.mean[..., 0], -1, 1, DIVERGING)) for layer, r in layers.items()]
        for name, layers in found.items()
    }
    what = 'R^2 on held-out samples, mean of x and y'
    pictures = {
        'r2': number_table('Position (x, y), read off linearly', r2, what),
        'position': picture_table('x that is read off, mean over samples', rows, (-1, 1, DIVERGING, 'x')),
    }
    return Study(numbers, pictures)
