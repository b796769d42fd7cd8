"""The spaces that positional encodings span, and what the two halves of CIPS's encoding contribute."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, encodings
from pegan_jax.analysis.drawing import SEQUENTIAL, Study, as_picture, coloured, line_chart, picture_table, rounded
from pegan_jax.metrics.spectra import radial_curve
from pegan_jax.models import cips
from pegan_jax.sampling import Model, frame_grid, sample
from pegan_jax.settings import UserError


def principal_colours(grids: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Grids [H, W, C] as colours [H, W, 3] in [0, 1], their three principal components in a common basis and scale.

    Returns: the colours, and the share of the variance of every component.
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


# The halves of the encoding of CIPS -----------------------------------------------------------------------------------

HALVES = {'lff': 'Fourier features', 'emb': 'embedding'}


def coordinate_encodings(model: Model) -> dict[str, np.ndarray]:
    """The encoding of the training frame by a CIPS, {half: [H, W, hidden_size]}, as sampling reads it."""
    params, grid = model.variables['params'], frame_grid(model)
    points = jnp.asarray(grid.at(np.arange(grid.shape[0] * grid.shape[1]).reshape(grid.shape[:2])))
    found, wraps = {}, model.sampler.span is not None
    if 'lff' in params:
        at = encodings.cylinder(points) if wraps else points
        found[HALVES['lff']] = encodings.fourier_features(at, params['lff']['kernel'], params['lff']['bias'])
    if 'emb' in params:
        found[HALVES['emb']] = encodings.embedding(jnp.asarray(params['emb']), points, wrap_x=wraps)
    return {name: np.asarray(x) for name, x in found.items()}


def component_colours(encoding: np.ndarray) -> np.ndarray:
    """[H, W, C] as uint8 [H, W, 3]: the first three principal components of positions, each from its least to its most.

    The sign of a component is such that its largest loading is positive.
    """
    rows = encoding.reshape(-1, encoding.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(0)
    basis = np.linalg.svd(rows, full_matrices=False)[2][:3]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], axis=1)
    parts = rows @ (basis * np.where(largest < 0, -1, 1)).T
    low, high = parts.min(0), parts.max(0)
    colours = (parts - low) / np.maximum(high - low, 1e-12)
    colours = np.pad(colours, ((0, 0), (0, 3 - colours.shape[1])))
    return (255 * colours).round().astype(np.uint8).reshape(*encoding.shape[:2], 3)


def without(model: Model, half: str) -> Model:
    """A CIPS whose encoding has zeros in one half, 'lff' (Fourier features) or 'emb' (embedding)."""
    params = model.variables['params']
    zeros = jax.tree.map(jnp.zeros_like, params[half])
    return dataclasses.replace(model, variables={**model.variables, 'params': {**params, half: zeros}})


def halves_study(models: dict[str, Model], count: int = 4, seed: int = 0) -> Study:
    """The encoding of CIPS (Anokhin et al. 2021, figures 4 to 6): its principal components, spectra, and use.

    Numbers: the share of each half's power, without its mean, beyond a quarter of a cycle per pixel, and how much
    samples change without it (mean absolute difference of colours, which span 2). Pictures: `components` as colours
    beside the mean magnitude over channels; `magnitudes` by radius; `zeroed`, samples with zeros in either half.
    Raises: UserError for a model that is not a CIPS.
    """
    numbers, rows, curves, images = {}, {}, {}, {}
    for name, model in models.items():
        if not isinstance(model.config.model, cips.Config):
            raise UserError(f'{name} is of system {model.config.system!r}, which has no such halves; choose a cips.')
        numbers[name], seeds = {}, range(seed, seed + count)
        rows[name] = []
        samples = sample(model, seeds)
        table = {'both': samples}
        keys = {label: key for key, label in HALVES.items()}
        for half, encoding in coordinate_encodings(model).items():
            x = np.moveaxis(encoding - encoding.mean((0, 1)), -1, 0)
            power = np.abs(np.fft.fft2(x)) ** 2
            radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in encoding.shape[:2]), indexing='ij'))
            shown = np.fft.fftshift(np.log10(np.sqrt(power).mean(0) + 1e-6))
            rows[name] += [
                (half, component_colours(encoding)),
                ('its magnitude', coloured(shown, shown.max() - 4, shown.max())),
            ]
            curve = radial_curve(power.mean(0))
            curves[f'{name}: {half}'] = (range(1, len(curve)), 10 * np.log10(np.maximum(curve[1:], 1e-12)))
            made = sample(without(model, keys[half]), seeds)
            table[f'no {half}'] = made
            numbers[name][half] = {
                'share of power beyond a quarter of a cycle per pixel': rounded(
                    power[:, radius > 0.25].sum() / power.sum()
                ),
                'change of samples without it': rounded(np.abs(made - samples).mean()),
            }
        for i, s in enumerate(seeds):
            images[f'{name},\nseed {s}'] = [(kind, as_picture(x[i])) for kind, x in table.items()]
    title = 'Encodings of the training frame: principal components, and mean magnitudes over four decades'
    pictures = {
        'components': picture_table(title, rows),
        'magnitudes': line_chart('Power of encodings by radius, mean of channels', curves, 'cycles per side', 'dB'),
        'zeroed': picture_table('Samples without one half of the encoding', images),
    }
    return Study(numbers, pictures)
