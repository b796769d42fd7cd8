"""Frames of videos, one at a time, for any number of frames: latents that change, and a camera that moves."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling.model import Label, Model
from pegan_jax.sampling.pictures import pictures, sample
from pegan_jax.settings import UserError


def interpolation(
    model: Model,
    seeds: Sequence[int],
    *,
    cells: tuple[int, int] = (1, 1),
    w_frames: int = 120,
    label: Label | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    **options: Any,
) -> tuple[int, Iterator[np.ndarray]]:
    """A loop through the latents of seeds, like that of the official StyleGAN3 scripts.

    Each cell of a grid has its own seeds, len(seeds) / cells of them in order (they repeat if there are fewer). Between
    seeds, w follows a periodic cubic spline: the last frame leads to the first.

    Args:
      cells: (rows, columns) of the grid.
      w_frames: frames from one seed to the next.
      label, truncation_psi, truncation_cutoff, options: as in `sample`; the noise is constant.
    Returns: the number of frames, and the frames, uint8 [rows H, columns W, C].
    Raises: ValueError as `sample`, and for a model that cannot interpolate between seeds.
    """
    from scipy.interpolate import make_interp_spline  # takes long to import

    rows, columns = cells
    if min(rows, columns, w_frames) < 1:
        raise UserError(f'cells={cells} and w_frames={w_frames} must be at least 1.')
    count = rows * columns
    keys = max(1, -(-len(seeds) // count))
    turns = np.arange(count * keys) % len(seeds)
    rows_of = model.labels(label, len(seeds))
    seeds, label = [seeds[i] for i in turns], None if rows_of is None else rows_of[turns]
    w = model.styles(seeds, truncation_psi, truncation_cutoff=truncation_cutoff, label=label)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise UserError(f'{model.config.system} has nothing between two seeds: its latents are keys of noise.')
    w = np.asarray(w).reshape(count, keys, *w.shape[1:])
    # Two periods on either side make the spline's ends meet as in a loop.
    spline = make_interp_spline(np.arange(-2 * keys, 3 * keys), np.tile(w, (1, 5, *(1,) * (w.ndim - 2))), axis=1)

    def frames() -> Iterator[np.ndarray]:
        for frame in range(keys * w_frames):
            moment = jnp.asarray(spline(frame / w_frames), jnp.float32)
            yield image_grid(to_uint8(pictures(model, moment, seeds[:count], **options)), columns)

    return keys * w_frames, frames()


def _camera(motion: str) -> Callable[[float], jax.Array]:
    """t in [0, 1) -> the matrix [3, 3] of a motion that ends where it begins."""

    def pan(t: float) -> jax.Array:
        return coords.translate(math.sin(2 * math.pi * t), 0.5 * math.sin(4 * math.pi * t))

    def turn(t: float) -> jax.Array:
        return coords.rotate(2 * math.pi * t)

    def zoom(t: float) -> jax.Array:
        return coords.zoom(2 ** math.sin(2 * math.pi * t))

    motions = {'translate': pan, 'rotate': turn, 'zoom': zoom}
    if motion == 'tour':
        return lambda t: list(motions.values())[int(3 * t)](3 * t % 1)
    return motions[motion]


CAMERAS = ('translate', 'rotate', 'zoom', 'tour')


def camera(
    model: Model, seeds: Sequence[int], motion: str, *, columns: int = 1, frames: int = 240, **options: Any
) -> tuple[int, Iterator[np.ndarray]]:
    """The same scenes while the camera moves: out of the frame and back, once around, in and out, or all of these.

    Args:
      motion: 'translate', by up to one image; 'rotate'; 'zoom', by up to 2; 'tour', one after the other.
      columns: those of the grid of seeds.
      options: as in `sample`, except its transform.
    Returns: the number of frames, and the frames, uint8 [rows H, columns W, C].
    Raises: ValueError as `sample`, such as for a model without coordinates.
    """
    if motion not in CAMERAS:
        raise UserError(f'motion={motion!r}; use {", ".join(CAMERAS)}.')
    if frames < 1:
        raise UserError(f'frames={frames} must be at least 1.')
    path = _camera(motion)

    def every() -> Iterator[np.ndarray]:
        for frame in range(frames):
            images = sample(model, seeds, transform=path(frame / frames), **options)
            yield image_grid(to_uint8(images), min(columns, len(seeds)))

    return frames, every()
