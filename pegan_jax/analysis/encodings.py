"""The spaces that positional encodings span."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, encodings
from pegan_jax.analysis.drawing import SEQUENTIAL, Study, coloured, picture_table, rounded
from pegan_jax.settings import UserError


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
        raise UserError('this generator has no learned constant; choose one whose input is one, or leave out --model.')
    return np.asarray(found[0])
