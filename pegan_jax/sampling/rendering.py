"""One image of any size, computed point by point: `render`, `render_foveated`."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from pegan_jax import coords, pixels
from pegan_jax.sampling.model import Model, local_mesh
from pegan_jax.settings import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class LazyGrid:
    """A grid that is never in memory: coordinate (i, j) is (x[j], y[i]), then moved by a matrix of `coords`.

    x, y: columns [W] and rows [H], float32; matrix: [3, 3] as for `coords.transform`, or None.
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray | jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 2), as of the array it stands for."""
        return (len(self.y), len(self.x), 2)

    def at(self, index: np.ndarray) -> np.ndarray:
        """Coordinates [..., 2] of indices [...] into the flattened grid."""
        row, column = np.divmod(index, len(self.x))
        points = np.stack([self.x[column], self.y[row]], axis=-1)
        return points if self.matrix is None else np.asarray(coords.transform(points, self.matrix))


def lazy_grid(
    height: int,
    width: int,
    *,
    x: tuple[float, float] = (-1.0, 1.0),
    y: tuple[float, float] = (-1.0, 1.0),
    crop: tuple[int, int, int, int] | None = None,
    matrix: np.ndarray | jax.Array | None = None,
) -> LazyGrid:
    """`coords.grid`, and of that a `coords.crop`, and of that a `coords.transform`, for `render`; takes no memory.

    Args:
      height, width, x, y: as for `coords.grid`.
      crop: (top, left, height, width) in pixels, of which each keeps the coordinate it has in the whole.
      matrix: [3, 3], for example `coords.rotate(0.3)`.
    Raises: ValueError for an empty grid, a crop that is not inside it.
    """
    top, left, h, w = (0, 0, height, width) if crop is None else crop
    columns = coords.crop(coords.grid(1, width, x=x), 0, left, 1, w)[0, :, 0]
    rows = coords.crop(coords.grid(height, 1, y=y), top, 0, h, 1)[:, 0, 1]
    return LazyGrid(np.asarray(columns), np.asarray(rows), matrix)


Grid = np.ndarray | jax.Array | LazyGrid


def _lookup(grid: Grid) -> tuple[tuple[int, ...], Callable]:
    """A grid's shape without its last axis, and the function from flat indices to coordinates."""
    if isinstance(grid, LazyGrid):
        return grid.shape[:-1], grid.at
    points = np.asarray(coords.as_coords(grid))
    flat = points.reshape(-1, 2)
    return points.shape[:-1], lambda index: flat[index]


def _pieces(
    model: Model, seed: int | jax.Array, count: int, at: Callable, styles: dict, chunk: int, progress: bool
) -> Iterator[np.ndarray]:
    """The colours of coordinates at(0), ..., at(count - 1), in order: arrays [at most chunk, C]."""
    if chunk < 1:
        raise UserError(f'chunk={chunk} must be at least 1.')
    if not model.sampler.pixelwise:
        raise UserError(
            f'{model.config.system} makes whole images, not single coordinates; use sample with size and transform.'
        )
    mesh = local_mesh()
    w = model.styles([seed], **styles) if isinstance(seed, (int, np.integer)) else seed
    w, variables = jax.device_put((w, model.variables), NamedSharding(mesh, P()))
    chunk = -(-min(chunk, count) // mesh.size) * mesh.size
    with tqdm(total=count, unit='px', unit_scale=True, disable=not progress) as bar:
        for start in range(0, count, chunk):
            # Past the end the last coordinate is repeated: one compiled program serves all pieces.
            points = at(np.minimum(np.arange(start, start + chunk), count - 1))
            piece = np.asarray(model.synthesise_points(variables, w, points))[0, : count - start]
            bar.update(len(piece))
            yield piece


def render(
    model: Model,
    seed: int | jax.Array,
    grid: Grid,
    *,
    chunk: int = 65_536,
    progress: bool = False,
    out: np.ndarray | None = None,
    **styles: Any,
) -> np.ndarray:
    """One image at any coordinates, in pieces, so that beside the image itself memory does not grow with the grid.

    Every piece is divided over the devices of this process; neither their number nor `chunk` changes the image.

    Args:
      seed: or w of one image, [1, w_dim] or [1, num_ws, w_dim], as `Model.styles` gives it.
      grid: coordinates [..., 2] from `coords`, of any shape, inside or outside the training range; or a `lazy_grid`.
      chunk: coordinates computed at once, on all devices together.
      progress: show a bar.
      out: array [*grid.shape[:-1], C], such as a np.memmap, to be filled and returned.
      styles: truncation_psi, truncation_cutoff and label, as in `sample`.
    Returns: float32 [*grid.shape[:-1], C].
    Raises: ValueError for a model that does not compute pixels one by one, chunk below 1, coordinates that are not
      finite, an `out` of another shape; and as `Model.styles`.
    """
    shape, at = _lookup(grid)
    start, flat = 0, None
    for piece in _pieces(model, seed, int(np.prod(shape)), at, styles, chunk, progress):
        if flat is None:
            whole = (*shape, piece.shape[-1])
            out = np.empty(whole, np.float32) if out is None else out
            if out.shape != whole or not out.flags.c_contiguous:
                raise UserError(f'out has shape {out.shape}; expected a contiguous array {whole}.')
            flat = out.reshape(-1, piece.shape[-1])
        flat[start : start + len(piece)] = piece
        start += len(piece)
    return out


def render_file(
    model: Model,
    seed: int | jax.Array,
    grid: Grid,
    path: str | pathlib.Path,
    *,
    bits: int = 8,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> None:
    """`render` into a file, piece by piece, so that memory does not grow with the image.

    Args:
      path: a .png (grey, RGB or RGBA as the model is), clamped to [-1, 1] and rounded to `bits`; or .npy, float32
        as it is. It appears when complete.
      bits: 8 or 16, of each channel of a PNG.
      styles: as in `render`.
    Raises: ValueError for another suffix, other bits, a PNG of a grid that is not [H, W, 2]; and as `render`.
    """
    shape, at = _lookup(grid)
    pieces = _pieces(model, seed, int(np.prod(shape)), at, styles, chunk, progress)
    pixels.write(pathlib.Path(path), pieces, shape, bits)


# Foveated images ------------------------------------------------------------------------------------------------------


def render_foveated(
    model: Model,
    seed: int,
    grid: Grid,
    fraction: float,
    *,
    std: float = 0.4,
    position_seed: int = 0,
    chunk: int = 65_536,
    progress: bool = False,
    **styles: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """An image of which a fraction of the pixels is synthesised, dense in the middle, and the rest interpolated.

    Args:
      grid: [H, W, 2], array or `lazy_grid`.
      fraction, std: of `coords.foveated`; CIPS shows 0.05, 0.25, 0.5 and 1.
      position_seed: of the choice of pixels.
      chunk, progress, styles: as in `render`.
    Returns: the image, float32 [H, W, C], and where its pixels were synthesised, bool [H, W].
    Raises: ValueError as `render`, `coords.foveated` and `fill_scattered`.
    """
    shape, at = _lookup(grid)
    if len(shape) != 2:
        raise UserError(f'grid has shape {(*shape, 2)}; foveation chooses from a grid [H, W, 2].')
    index, _ = coords.foveated(jax.random.key(position_seed), coords.pixel_grid(*shape), fraction, std=std)
    index = np.sort(np.asarray(index))
    values = render(model, seed, at(index), chunk=chunk, progress=progress, **styles)
    chosen = np.zeros(shape, bool)
    chosen.flat[index] = True
    return fill_scattered(index, values, *shape), chosen


def fill_scattered(index: np.ndarray, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image of which some pixels are known: cubic between them (Clough-Tocher on their Delaunay triangulation).

    Args:
      index: distinct indices [K] into the flattened image, ascending; values: [K, C].
    Returns: float32 [height, width, C]: `values` at `index`, the nearest of them outside of their convex hull.
    Raises: ValueError if some pixel is missing and the known ones do not span a triangle.
    """
    from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator  # takes long to import
    from scipy.spatial import QhullError  # as well

    out = np.empty((height * width, values.shape[-1]), np.float32)
    out[index] = values
    missing = np.setdiff1d(np.arange(height * width), index, assume_unique=True)
    if len(missing):
        known = np.stack(np.divmod(index, width), axis=-1)
        wanted = np.stack(np.divmod(missing, width), axis=-1)
        try:
            filled = CloughTocher2DInterpolator(known, values)(wanted)
        except QhullError:
            raise UserError(
                f'{len(index)} of {height} x {width} pixels do not span a triangle; take a larger fraction.'
            ) from None
        outside = np.isnan(filled).any(axis=-1)
        filled[outside] = NearestNDInterpolator(known, values)(wanted[outside])
        out[missing] = filled
    return out.reshape(height, width, -1)
