"""Batches of images from seeds: `sample`, `interpolate`, `style_mix`."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.gan import per_layer
from pegan_jax.sampling.model import Label, Model
from pegan_jax.settings import UserError


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """(height, width). Raises: UserError unless these are two whole numbers above 0."""
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise UserError(f'size={size!r}; give (height, width) in whole pixels, such as size=(128, 128).')
    return height, width


def _options(
    model: Model,
    seeds: Sequence[int],
    grid: np.ndarray | jax.Array | None,
    size: tuple[int, int] | None,
    transform: np.ndarray | jax.Array | None,
    noise_mode: str | None,
) -> dict:
    """Options of `Sampler.synthesise` for as many images as there are seeds."""
    if grid is not None and not hasattr(grid, 'ndim'):
        raise UserError('grid is no array; render takes grids that are computed as they are needed.')
    options = {} if grid is None else {'grid': grid}
    size = None if size is None else check_size(size)
    if size is not None or transform is not None:
        if grid is not None:
            raise UserError('a grid already tells size and transform; leave those out.')
        matrix = None if transform is None else jnp.asarray(transform, jnp.float32)
        if matrix is not None:
            coords.check_matrices(matrix, len(seeds))
        if model.sampler.view is None:
            raise UserError(
                f'{model.config.system} has no coordinates: it makes images of one size, and moves nothing; leave out '
                'size and transform.'
            )
        options = model.sampler.view(size, matrix)
    if noise_mode is not None:
        if noise_mode not in ('const', 'random', 'none'):
            raise UserError(f"noise_mode={noise_mode!r}; use 'const', 'random' or 'none'.")
        options['noise'] = noise_mode
    if noise_mode == 'random':
        options['noise'] = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
    for name in options:
        if name not in model.sampler.options:
            takes = ', '.join(model.sampler.options) or 'none'
            raise UserError(f'{model.config.system} takes no {name} when sampling; it takes {takes}.')
    return options


def pictures(
    model: Model,
    w: jax.Array,
    noise_seeds: Sequence[int],
    *,
    grid: np.ndarray | jax.Array | None = None,
    size: tuple[int, int] | None = None,
    transform: np.ndarray | jax.Array | None = None,
    noise_mode: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Images of styles [N, w_dim] or [N, num_ws, w_dim], batch_size at a time; the rest as in `sample`."""
    if batch_size < 1:
        raise UserError(f'batch_size={batch_size} must be at least 1.')
    options = _options(model, noise_seeds, grid, size, transform, noise_mode)
    # What every image has of its own: random noise and, maybe, a matrix.
    own = {
        k: v
        for k, v in options.items()
        if (k == 'noise' and noise_mode == 'random') or (k == 'transform' and v.ndim == 3)
    }
    out = []
    for i in range(0, len(w), batch_size):
        # The last batch is filled up: one compiled program serves all.
        index = np.minimum(np.arange(i, i + min(batch_size, len(w))), len(w) - 1)
        images = model.synthesise(w[index], **(options | {k: v[index] for k, v in own.items()}))
        out.append(np.asarray(images)[: len(w) - i])
    return np.concatenate(out)


def sample(
    model: Model,
    seeds: Sequence[int],
    *,
    label: Label | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    grid: np.ndarray | jax.Array | None = None,
    size: tuple[int, int] | None = None,
    transform: np.ndarray | jax.Array | None = None,
    noise_mode: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Images from seeds.

    Args:
      label: for a model trained with labels: a class or its name, one for all images or one for each; or labels
        themselves, floats [c_dim] or [N, c_dim].
      truncation_psi: 1 is off, 0 the mean image; above 1 images differ more.
      truncation_cutoff: how many layers, from the first on, are truncated; None: all.
      grid: for CIPS: coordinates [..., 2] from `coords`; None: the training grid.
      size: for models with coordinates: (height, width); a larger image shows more, at the pixel pitch of training.
      transform: for models with coordinates: [3, 3], or with StyleGAN3 [N, 3, 3]. It acts on positions in units of the
        training images' shorter side about the middle; `coords.translate`, `rotate`, `zoom` move the content as named.
      noise_mode: for StyleGAN2, MS-PIE and CIPS: 'const' (default) takes the model's own numbers (CIPS has
        none); 'random' draws them; 'none' uses no noise.
      batch_size: images computed at once.
    Returns: float32 [N, H, W, C], or with a grid [N, *grid.shape[:-1], C]; nominally in [-1, 1], not clamped.
    Raises: ValueError for no seeds, options that the model does not have, or a transform that is
      not affine, or is neither one for all images nor one for each.
    """
    if np.ndim(seeds) != 1:
        raise UserError(f'seeds={seeds!r}; give a list of whole numbers, such as seeds=[0].')
    if not len(seeds):
        raise UserError('seeds is empty; give at least one, such as seeds=[0].')
    w = model.styles(seeds, truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    options = {'grid': grid, 'size': size, 'transform': transform, 'noise_mode': noise_mode}
    return pictures(model, w, seeds, batch_size=batch_size, **options)


def of_styles(model: Model, ws: np.ndarray, **options: Any) -> np.ndarray:
    """Images of styles [N, num_ws, w_dim] or [N, w_dim], such as a projection finds.

    Args: options: grid, size, transform, noise_mode (random as for seeds 0 to N - 1), batch_size, as in `sample`.
    Returns: float32 [N, H, W, C].
    Raises: ValueError for styles of another shape, and as `sample`.
    """
    ws = jnp.asarray(ws, jnp.float32)
    model.check_styles(ws.shape[1:])
    return pictures(model, ws, list(range(len(ws))), **options)


def stream(
    model: Model, seeds: Sequence[int], *, label: Label | None = None, batch_size: int = 8, **options: Any
) -> Iterator[np.ndarray]:
    """The images of `sample`, batch_size at a time, so that memory does not grow with the number of seeds.

    Args: as in `sample`; a transform is one for all images.
    Yields: float32 [at most batch_size, H, W, C].
    Raises: as `sample`; at once for labels, and for systems that make no images from seeds.
    """
    labels = model.labels(label, len(seeds))
    model.sampler.draw(seeds[:1])

    def batches() -> Iterator[np.ndarray]:
        for i in range(0, len(seeds), batch_size):
            # The last batch is filled up: one compiled program serves all.
            index = np.minimum(np.arange(i, i + min(batch_size, len(seeds))), len(seeds) - 1)
            of_these = None if labels is None else labels[index]
            images = sample(model, [seeds[k] for k in index], label=of_these, batch_size=batch_size, **options)
            yield images[: len(seeds) - i]

    return batches()


def interpolate(
    model: Model,
    seed_a: int,
    seed_b: int,
    steps: int,
    *,
    label: Label | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Images on the way from one seed to another: w = (1 - t) w_a + t w_b for `steps` equal steps of t in [0, 1].

    Args: as in `sample`; options: its grid, size, transform, noise_mode (random as for seed_a), batch_size.
    Returns: float32 [steps, H, W, C]; the first and the last are the samples of the two seeds.
    Raises: ValueError for steps below 2, and as `sample`.
    """
    if steps < 2:
        raise UserError(f'steps={steps} must be at least 2: both ends are among them.')
    ends = model.styles([seed_a, seed_b], truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    if not jnp.issubdtype(ends.dtype, jnp.floating):
        raise UserError(f'{model.config.system} has nothing between two seeds: its latents are keys of noise.')
    t = jnp.linspace(0, 1, steps).reshape(steps, *(1,) * (ends.ndim - 1))
    return pictures(model, (1 - t) * ends[:1] + t * ends[1:], [seed_a] * steps, **options)


def style_mix(
    model: Model,
    rows: Sequence[int],
    columns: Sequence[int],
    layers: Iterable[int],
    *,
    label: Label | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    **options: Any,
) -> np.ndarray:
    """The picture of style mixing (Karras et al. 2019, figure 3): the images of `rows`, with some styles replaced.

    Args:
      rows, columns: seeds.
      layers: where the style of the column replaces that of the row, counted from 0 (coarse) to num_ws - 1 (fine).
      The rest as in `interpolate`; random noise is that of the row.
    Returns: float32 [1 + rows, 1 + columns, H, W, C]: the images of the columns above, those of the rows at the left,
      mixed ones elsewhere, and black (transparent for RGBA) at the top left.
    Raises: ValueError for no seeds, layers that do not exist, and as `sample`.
    """
    count, layers = model.num_ws, sorted(set(layers))
    if not (len(rows) and len(columns)):
        raise UserError(f'rows={list(rows)}, columns={list(columns)}; both need at least one seed.')
    if not layers or not 0 <= layers[0] <= layers[-1] < count:
        raise UserError(f'layers={layers}; the model has layers 0 to {count - 1}, and at least one is to be mixed.')
    w = model.styles([*rows, *columns], truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    ws = per_layer(model.sampler, w)
    chosen = np.isin(np.arange(count), layers)[None, None, :, None]
    mixed = jnp.where(chosen, ws[None, len(rows) :], ws[: len(rows), None]).reshape(-1, *ws.shape[1:])
    noise = [*rows, *columns, *np.repeat(rows, len(columns)).tolist()]
    images = pictures(model, jnp.concatenate([ws, mixed]), noise, **options)
    left, above, inner = np.split(images, [len(rows), len(rows) + len(columns)])
    inner = inner.reshape(len(rows), len(columns), *images.shape[1:])
    top = np.concatenate([np.full_like(images[:1], -1), above])
    return np.concatenate([top[None], np.concatenate([left[:, None], inner], axis=1)])


def frame_view(
    frame: tuple[int, int],
    size: tuple[int, int],
    *,
    x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0),
    matrix: np.ndarray | jax.Array | None = None,
) -> jax.Array:
    """The `transform` of `sample` that shows an extent in an image of a size.

    Args:
      frame: (height, width) of the training images, whose borders have the coordinates -1 and 1.
      size: that of the image, as for `sample`.
      x, y: coordinates of its borders.
      matrix: [3, 3], moves the content, in units of half the frame's shorter side, about its middle.
    Returns: [3, 3].
    """
    unit, scales, middles = min(frame), [], []
    for (low, high), side, pixels in ((x, frame[1], size[1]), (y, frame[0], size[0])):
        scales.append((high - low) * side / (2 * pixels))
        middles.append((high + low) * side / (4 * unit))
    extent = jnp.array([[scales[0], 0, middles[0]], [0, scales[1], middles[1]], [0, 0, 1]], jnp.float32)
    if matrix is None:
        return extent
    return coords.compose(coords.zoom(2), matrix, coords.zoom(0.5), extent)
