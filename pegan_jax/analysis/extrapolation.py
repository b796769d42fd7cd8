"""What a generator knows beyond its frame: windows ever farther outside, against the true worlds there.

The procedural worlds are known everywhere. A model learns their frame, [-1, 1]^2, and is asked for windows of the same
size and pitch, moved to the right or down by a distance, in frames. Their scores are against the true distribution of
the same windows, which no training sees. Any model can be asked: it is a function of latents and a grid.

    from pegan_jax.analysis import extrapolation

    def images(index, grid):  # latents index [N], positions grid [H, W, 2]: float32 [N, H, W, 3 or 1] in [-1, 1]
        return my_network(my_latents(index), grid)

    curves = extrapolation.curves(images, 'my network', side=32, folder='features')
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import config as configs
from pegan_jax import coords
from pegan_jax.analysis.drawing import Study, line_chart, picture_table, rounded
from pegan_jax.data import worlds
from pegan_jax.files import as_path
from pegan_jax.metrics.names import parse_all
from pegan_jax.pixels import to_uint8, with_channels
from pegan_jax.sampling import Model
from pegan_jax.scoring.images import FAKE_WORLDS, REAL_WORLDS, Images, digest_of, is_worlds, worlds_digest
from pegan_jax.scoring.scores import scorer_of
from pegan_jax.settings import UserError

Generate = Callable[[np.ndarray, np.ndarray], np.ndarray]

DISTANCES = (0.0, 0.25, 0.5, 1.0, 2.0)
DIRECTIONS = {'right': (1, 0), 'down': (0, 1)}
SCORES = ('fd_worlds', 'swd', 'horizon', 'rows', 'spectral')
BATCH = 32


def window(side: int, direction: str, distance: float) -> np.ndarray:
    """Positions [side, side, 2] of the pixels' centres, (x, y) in units in which the frame is [-1, 1]^2, y down."""
    right, down = (round(distance * side) * step for step in DIRECTIONS[direction])
    return np.asarray(coords.grid(side, side, centered=True)) + np.array([right, down], np.float32) * np.float32(
        2 / side
    )


def shift(grid: np.ndarray) -> tuple[int, int]:
    """How many pixels a window of `window` lies to the right of the frame, and below it."""
    right, down = np.rint(np.asarray(grid).mean((0, 1)) * len(grid) / 2)
    return int(right), int(down)


def cut(whole: Callable[[tuple[int, int]], np.ndarray], size: tuple[int, int], moved: tuple[int, int]) -> np.ndarray:
    """A window of a model that takes only a size, out of an image about the same middle that contains it.

    Args: whole: (height, width) -> images [N, height, width, C]; size: of the frame; moved: by `shift`.
    Returns: [N, *size, C].
    """
    right, down = moved
    made = np.asarray(whole((size[0] + 2 * abs(down), size[1] + 2 * abs(right))))
    top, left = abs(down) + down, abs(right) + right
    return made[:, top : top + size[0], left : left + size[1]]


@functools.partial(jax.jit, static_argnums=2)
def _world(seeds: jax.Array, grid: jax.Array, footprint: float) -> jax.Array:
    return jax.vmap(lambda seed: worlds.world(seed, grid, footprint))(seeds)


def true_worlds(first: int = FAKE_WORLDS, fold: Callable[[np.ndarray], np.ndarray] | None = None) -> Generate:
    """Images of worlds from number `first` on; with a fold of positions, a continuation of their frame alone."""

    def images(index: np.ndarray, grid: np.ndarray) -> np.ndarray:
        at = grid if fold is None else fold(grid)
        return np.asarray(_world(np.asarray(first + index, np.int32), jnp.asarray(at, jnp.float32), 2 / len(grid)))

    return images


def _repeated(p: np.ndarray) -> np.ndarray:
    return (p + 1) % 2 - 1


def _mirrored(p: np.ndarray) -> np.ndarray:
    return 1 - np.abs((p + 1) % 4 - 2)


def _stretched(p: np.ndarray) -> np.ndarray:
    return np.clip(p, -1 + 1 / len(p), 1 - 1 / len(p))


# The best possible: other worlds. What needs no knowledge: their frame repeated, mirrored, or its border stretched.
REFERENCES = {
    'other worlds': true_worlds(),
    'frame repeated': true_worlds(fold=_repeated),
    'frame mirrored': true_worlds(fold=_mirrored),
    'border stretched': true_worlds(fold=_stretched),
}


def of_model(model: Model, seed: int = 0) -> Generate:
    """A trained model as a function of latents (seeds from `seed` on) and a grid of `window`.

    CIPS computes the positions; a model whose scenes can be moved moves them; one that takes only a size makes an
    image about the same middle that is large enough to contain the window.
    Raises: UserError for a model that has one view only, or completes images.
    """
    sampler, size = model.sampler, model.size
    if sampler.view is None:
        raise UserError(f'{model.config.system} has one view, and nothing outside of it; use a model with coordinates.')
    native = np.asarray(sampler.view(None, None)['grid'], np.float64) if sampler.pixelwise else None

    def images(index: np.ndarray, grid: np.ndarray) -> np.ndarray:
        right, down = shift(grid)
        seeds = [seed + int(i) for i in index]
        w = model.styles(seeds, label=model.classes_of(seeds))
        if native is not None:
            at = native + (native[1, 1] - native[0, 0]) * np.array([right, down])
            return np.asarray(model.synthesise(w, grid=at.astype(np.float32)))
        if 'transform' in sampler.options:
            matrix = coords.translate(-right / min(size), -down / min(size))
            return np.asarray(model.synthesise(w, **sampler.view(None, matrix)))
        return cut(lambda large: model.synthesise(w, **sampler.view(large, None)), size, (right, down))

    return images


def _shown(pixels: np.ndarray, grey: bool) -> np.ndarray:
    """uint8 RGB of pixels [..., C], grey if they are compared with a model of one channel."""
    return with_channels(with_channels(pixels, 1) if grey else pixels, 3)


def _rows(images: Generate, identity: str, grid: np.ndarray, grey: bool = False) -> Images:
    def read(start: int, stop: int) -> np.ndarray:
        made = np.concatenate([to_uint8(images(np.arange(i, i + BATCH), grid)) for i in range(start, stop, BATCH)])
        if made.shape[-1] == 1 and not grey:
            raise UserError(f'images of {identity} have one channel; compare them with grey worlds by grey=True.')
        return _shown(made[: stop - start], grey)

    corners = [np.asarray(grid)[i, i].tolist() for i in (0, -1)]
    about = {'images': identity, 'worlds': worlds_digest(), 'window': corners} | ({'grey': True} if grey else {})
    return Images(None, lambda start, stop: repr((about, start, stop)), read, about)


def curves(
    images: Generate,
    identity: str,
    *,
    side: int,
    folder: str | os.PathLike,
    count: int = 1000,
    distances: Sequence[float] = DISTANCES,
    directions: Sequence[str] = tuple(DIRECTIONS),
    grey: bool = False,
) -> dict[str, dict[str, list[float]]]:
    """Scores of windows over their distance from the frame.

    Args:
      images: (index [N], grid [side, side, 2]) -> float32 [N, side, side, 3 or 1] in [-1, 1]; index i gives the same
        scene wherever the window is.
      identity: differs whenever images may differ: their features are kept in `folder` by this name.
      side: that of training images, which were `data.worlds`.
      folder: keeps features, and those of other calls.
      count: images for each of SCORES, as in `evaluate`.
      grey: compare as grey images, as images of one channel are.
    Returns: {direction: {score: [one per distance]}}.
    """
    scorer = scorer_of(parse_all(','.join(f'{score}{count}' for score in SCORES)), as_path(folder))
    found = {}
    for direction in directions:
        rows = []
        for distance in distances:
            grid = window(side, direction, distance)
            real = _rows(true_worlds(REAL_WORLDS), f'worlds {REAL_WORLDS}', grid, grey)
            rows.append(scorer(_rows(images, identity, grid, grey), real)[0])
        found[direction] = {name: [row[name] for row in rows] for name in rows[0]}
    return found


def extrapolation_study(
    models: dict[str, Model], count: int = 1000, folder: str | os.PathLike = 'features', seed: int = 0
) -> Study:
    """Curves of models that were trained on worlds, beside REFERENCES; and what they show on a wide window.

    With models of one channel all is grey.

    Args: models: by the name to show, all of the same size and number of channels; count: images for each score;
      seed: that of the first image.
    Raises: ValueError for models that differ in size or number of channels or were not trained on worlds, and as
      `of_model`.
    """
    sides = {model.size for model in models.values()}
    if len(sides) > 1 or len(set(next(iter(sides)))) > 1:
        raise UserError(f'models have the sizes {sorted(sides)}; compare those of one square size.')
    for name, model in models.items():
        if not is_worlds(model.config.data):
            raise UserError(f'{name} was not trained on worlds; the outside is known for these alone.')
        if model.config.data.size != model.size:
            raise UserError(
                f'{name} was trained on turned windows of worlds, whose frame it does not show; name a model without '
                'model.rotate.'
            )
    channels = {name: model.config.data.channels for name, model in models.items()}
    if len(set(channels.values())) > 1:
        told = ', '.join(f'{name} {number}' for name, number in channels.items())
        raise UserError(f'models have different numbers of channels ({told}); compare those of one number.')
    side, grey = next(iter(sides))[0], 1 in channels.values()
    asked = {
        name: (of_model(model, seed), f'{digest_of(model.variables)}, {configs.to_json(model.config)}, seed {seed}')
        for name, model in models.items()
    }
    asked |= {name: (images, name) for name, images in REFERENCES.items()}
    found = {
        name: curves(images, identity, side=side, folder=folder, count=count, grey=grey)
        for name, (images, identity) in asked.items()
    }
    pictures, first = {}, next(iter(found.values()))
    for direction in DIRECTIONS:
        for score in first[direction]:
            pictures[f'{score}_{direction}'] = line_chart(
                f'{score} of windows moved {direction}',
                {name: (DISTANCES, np.log10(np.maximum(of[direction][score], 1e-6))) for name, of in found.items()},
                'distance in frames', f'log10 of {score}',
            )  # fmt: skip
    index, rows = np.arange(3), {}
    for name, (images, _) in asked.items():
        wide = np.concatenate([images(index, window(side, 'right', d)) for d in (0.0, 1.0, 2.0)], axis=2)
        shown = _shown(to_uint8(wide), grey)
        rows[name] = [(f'latent {i}', image) for i, image in zip(index, shown, strict=True)]
    pictures['wide'] = picture_table('From the frame to two frames on the right of it', rows)
    numbers: dict[str, Any] = {'distances': list(DISTANCES), 'count': count}
    for name, of in found.items():
        numbers[name] = {d: {score: rounded(values) for score, values in scores.items()} for d, scores in of.items()}
    return Study(numbers, pictures)
