"""Coordinates of images that may be larger than memory: regular grids, panoramas, spheres, and a user's own."""

import dataclasses
import functools
import math
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords
from pegan_jax.files import Path
from pegan_jax.sampling.model import Model
from pegan_jax.settings import UserError

Range = tuple[float, float]
Parts = float | np.ndarray  # of a pixel; an array gives its shape, [..., 1], to the coordinates


@dataclasses.dataclass(frozen=True, eq=False)
class LazyGrid:
    """A grid that is never in memory: coordinate (i, j) is (x[j], y[i]), then moved by a matrix, then warped.

    x, y: columns [W] and rows [H], float32; matrix: [3, 3] as for `coords.transform`, or None.
    warp: points [..., 2] -> coordinates [..., 2], or None.
    extent: (low, high) of x and of y for a whole regular grid; None for others.
    pitch: distances of columns [W] and of rows [H] to their neighbours; None: those between x, and between y.

    Raises: ValueError for a matrix that moves a corner beyond the range of float32.
    """

    x: np.ndarray
    y: np.ndarray
    matrix: np.ndarray | jax.Array | None = None
    warp: Callable | None = None
    extent: tuple[Range, Range] | None = None
    pitch: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.matrix is None:
            return
        corners = np.array([(x, y) for x in self.x[[0, -1]] for y in self.y[[0, -1]]], np.float32)
        with np.errstate(over='ignore', invalid='ignore'):
            moved = coords.transform(corners, self.matrix)
        if not np.isfinite(moved).all():
            low, high = corners.min(0).tolist(), corners.max(0).tolist()
            raise UserError(
                f'the corners of a grid of x in {low[0]:g}..{high[0]:g}, y in {low[1]:g}..{high[1]:g} are moved beyond '
                'the range of float32; choose a smaller extent, or a motion that takes them less far.'
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 2), the shape of the array it stands for."""
        return (len(self.y), len(self.x), 2)

    def pitches(self) -> tuple[np.ndarray, np.ndarray]:
        """`pitch`, or what stands for it."""
        return self.pitch or tuple(np.gradient(a) if len(a) > 1 else np.zeros_like(a) for a in (self.x, self.y))

    def at(self, index: np.ndarray, down: Parts = 0.0, right: Parts = 0.0) -> np.ndarray:
        """Coordinates [..., 2] of indices [...] into the flattened grid, or of parts of a pixel beside them."""
        row, column = np.divmod(index, len(self.x))
        x, y = self.x[column], self.y[row]
        if np.any(down) or np.any(right):
            wide, tall = self.pitches()
            x, y = x + np.float32(right) * wide[column], y + np.float32(down) * tall[row]
        points = np.stack([x, y], axis=-1)
        if self.matrix is not None:
            points = np.asarray(coords.transform(points, self.matrix))
        return points if self.warp is None else np.asarray(self.warp(jnp.asarray(points)), np.float32)


Grid = np.ndarray | jax.Array | LazyGrid


def lookup(grid: Grid) -> tuple[tuple[int, ...], Callable]:
    """A grid's shape without its last axis, and the function `LazyGrid.at`.

    In an array [H, W, 2], a pixel's neighbours tell the place beside it; other arrays have no such place.
    """
    if isinstance(grid, LazyGrid):
        return grid.shape[:-1], grid.at
    points = np.asarray(coords.as_coords(grid))
    flat, shape = points.reshape(-1, 2), points.shape[:-1]

    @functools.cache
    def steps(axis: int) -> np.ndarray:
        return (np.gradient(points, axis=axis) if shape[axis] > 1 else np.zeros_like(points)).reshape(-1, 2)

    def at(index: np.ndarray, down: Parts = 0.0, right: Parts = 0.0) -> np.ndarray:
        if not (np.any(down) or np.any(right)):
            return flat[index]
        down, right = (np.float32(part)[..., None] for part in (down, right))
        return flat[index] + down * steps(0)[index] + right * steps(1)[index]

    return shape, at


def lazy_grid(
    height: int,
    width: int,
    *,
    x: Range = (-1.0, 1.0),
    y: Range = (-1.0, 1.0),
    crop: tuple[int, int, int, int] | None = None,
    matrix: np.ndarray | jax.Array | None = None,
    warp: Callable | None = None,
) -> LazyGrid:
    """`coords.grid`, then `coords.crop` and `coords.transform` of the result, for `render`; takes no memory.

    Args:
      height, width, x, y: as for `coords.grid`.
      crop: (top, left, height, width) in pixels; each pixel keeps the coordinate it has in the whole.
      matrix: [3, 3], for example `coords.rotate(0.3)`.
      warp: function of points [..., 2] that gives their coordinates [..., 2], applied last.
    Raises: ValueError for an empty grid or a crop that is not inside it.
    """
    columns, rows = coords.grid(1, width, x=x)[0, :, 0], coords.grid(height, 1, y=y)[:, 0, 1]
    whole = LazyGrid(np.asarray(columns), np.asarray(rows), matrix, warp, (tuple(x), tuple(y)))
    return whole if crop is None else cropped(whole, *crop)


def cropped(grid: LazyGrid, top: int, left: int, height: int, width: int) -> LazyGrid:
    """A window of a grid, in pixels. Raises: ValueError if it is not inside."""
    rows = coords.crop(grid.y[:, None, None], top, 0, height, 1)[:, 0, 0]
    columns = coords.crop(grid.x[None, :, None], 0, left, 1, width)[0, :, 0]
    wide, tall = grid.pitches()
    pitch = (wide[left : left + width], tall[top : top + height])
    return dataclasses.replace(grid, x=np.asarray(columns), y=np.asarray(rows), extent=None, pitch=pitch)


def unstretched(frame: tuple[int, int], size: tuple[int, int]) -> dict[str, Range]:
    """The extent {'x': (low, high), 'y': (low, high)} of an image of a size whose pixels have the frame's shape.

    The shorter side keeps [-1, 1]; the longer one shows more. Both arguments: (height, width).
    """
    aspect = (size[1] / size[0]) / (frame[1] / frame[0])
    x, y = max(aspect, 1.0), max(1 / aspect, 1.0)
    return {'x': (-x, x), 'y': (-y, y)}


def motion(model: Model, matrix: np.ndarray | jax.Array | None, azimuth: float = 0.0) -> np.ndarray | jax.Array | None:
    """Turns a matrix on positions into one on a model's coordinates, whose x and y have units of their own.

    Positions are in units of half the frame's shorter side, about the middle of the frame, or an azimuth (radians).
    In a square frame they are the coordinates; on a cylinder x is an azimuth over pi. A model that computes whole
    images takes positions as they are.
    """
    if matrix is None or not model.sampler.pixelwise:
        return matrix
    height, width = model.size
    least, span = min(height, width), model.sampler.span or 1.0
    return _in_units(matrix, width / least / span, height / least, azimuth)


def _in_units(matrix: np.ndarray | jax.Array, x: float, y: float, azimuth: float) -> np.ndarray:
    """Turns a matrix on positions into one on coordinates; positions are x, y times coordinates from an azimuth on."""
    unit = np.diag([x, y, 1.0])
    unit[0, 2] = -x * azimuth / math.pi
    return np.linalg.inv(unit) @ np.asarray(matrix) @ unit


def frame_grid(model: Model, size: tuple[int, int] | None = None, **options: np.ndarray | Callable | None) -> LazyGrid:
    """What images of training show, in a size; another aspect shows more along the longer side, as `unstretched` says.

    options: crop of `lazy_grid`; matrix, as for `motion`.
    """
    frame = model.size
    size = size or frame
    extent = unstretched(frame, size)
    if model.sampler.span is None:
        return lazy_grid(*size, **extent, **options | {'matrix': motion(model, options.get('matrix'))})
    return panorama(model, *size, arc=model.sampler.span * extent['x'][1], y=extent['y'], **options)


# Cylinders ------------------------------------------------------------------------------------------------------------


def _span(model: Model) -> float:
    """The fraction of the circle that an image of training covers. Raises: ValueError for a flat model."""
    if model.sampler.span is None:
        raise UserError(
            f'this {model.config.system} is not on a cylinder, so it has no circle; take panorama64, train '
            'cips:panorama, or choose an extent.'
        )
    return model.sampler.span


def half_height(model: Model) -> float:
    """The `half_height` of `coords.on_cylinder`, in radii, that makes pixels of training square."""
    height, width = model.size
    return math.pi * _span(model) * height / width


def panorama(
    model: Model,
    height: int,
    width: int | None = None,
    *,
    arc: float = 1.0,
    azimuth: float = 0.0,
    y: Range = (-1.0, 1.0),
    crop: tuple[int, int, int, int] | None = None,
    matrix: np.ndarray | jax.Array | None = None,
) -> LazyGrid:
    """An arc of the cylinder about an azimuth. Its end is left out: the last column of a circle would repeat the first.

    Args:
      width: None makes pixels square.
      arc: fraction of the circle, of any length; azimuth: that of the middle, in radians; matrix: as for `motion`.
    Raises: ValueError for a flat model, an arc that is not positive, an empty grid, or a crop outside it.
    """
    frame, span = model.size, _span(model)
    if not arc > 0:
        raise UserError(f'arc={arc} must be positive; 1 is the whole circle.')
    if width is None:
        width = max(round(height * frame[1] / frame[0] * arc / span * 2 / (y[1] - y[0])), 1)
    coords.check_size(height, width)
    rows = coords.grid(height, 1, y=y)[:, 0, 1]
    columns = azimuth / math.pi + arc * (2 * np.arange(width) - width) / width
    whole = LazyGrid(columns.astype(np.float32), np.asarray(rows), motion(model, matrix, azimuth))
    return whole if crop is None else cropped(whole, *crop)


def sphere(
    model: Model,
    height: int,
    width: int | None = None,
    *,
    reach: float = 1.0,
    azimuth: float = 0.0,
    matrix: np.ndarray | jax.Array | None = None,
) -> LazyGrid:
    """The whole sphere, `coords.equirectangular`, about an azimuth; width is twice the height if None.

    matrix: acts on positions in the picture, in units of half its height, about its middle.

    Raises: ValueError for a flat model, an empty grid, or a reach that is not positive.
    """
    width = width or 2 * height
    rows = coords.grid(height, 1, centered=True)[:, 0, 1]
    columns = coords.panorama_grid(1, width)[0, :, 0]
    warp = functools.partial(coords.equirectangular, half_height=half_height(model), reach=reach)
    if matrix is not None:
        matrix = _in_units(matrix, 2.0, 1.0, azimuth)
    return LazyGrid(np.asarray(columns) + np.float32(azimuth / math.pi), np.asarray(rows), matrix, warp)


def planet(
    model: Model,
    height: int,
    width: int | None = None,
    *,
    radius: float = 2.0,
    reach: float = 1.0,
    azimuth: float = 0.0,
    up: bool = False,
    matrix: np.ndarray | jax.Array | None = None,
) -> LazyGrid:
    """A "little planet", `coords.stereographic`: half of the shorter side is `radius` times the circle of the horizon.

    Args:
      width: the height if None.
      azimuth: the one above the middle, in radians; with `up`, which puts the sky in the middle, the one below it.
    Raises: as `sphere`.
    """
    width = width or height
    turn = coords.rotate(-azimuth if up else azimuth)
    motion = turn if matrix is None else coords.compose(turn, matrix)
    warp = functools.partial(coords.stereographic, half_height=half_height(model), reach=reach, up=up)
    extent = {axis: (radius * low, radius * high) for axis, (low, high) in unstretched((1, 1), (height, width)).items()}
    return dataclasses.replace(lazy_grid(height, width, **extent, matrix=motion, warp=warp), extent=None)


# Files ----------------------------------------------------------------------------------------------------------------


def read_coords(path: Path, matrix: np.ndarray | jax.Array | None = None) -> np.ndarray:
    """Coordinates [..., 2] from an .npy file; a matrix moves the content. Raises: UserError for other files."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} is no array of NumPy; write one with numpy.save ({error}).') from None
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path} holds several arrays; write one, [H, W, 2], with numpy.save.')
    try:
        points = coords.as_coords(array)
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    return np.asarray(points if matrix is None else coords.transform(points, matrix))
