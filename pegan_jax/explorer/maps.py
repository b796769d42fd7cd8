"""The map view: tiles of any place, at any pitch and angle, from a model that computes every pixel on its own.

Positions on the map are in units in which pixels of training are squares and the shorter side of the frame is 2: for a
square image they are its coordinates. A view is a lattice of pixels: pixel (row i, column j) is at
rotate(angle) (x + pitch j, y + pitch i), so that what is seen at an angle is computed there, not turned afterwards.
"""

import io
import math
import shlex
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pegan_jax import sampling
from pegan_jax.explorer import queries
from pegan_jax.explorer.queries import Query, Style
from pegan_jax.files import Path
from pegan_jax.gan import Sampler
from pegan_jax.pixels import as_image, to_uint8
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

SIDE = 128  # of a tile, in pixels: all have one shape, so that one program makes them
TILES = 512  # kept of a model
FAR = 1e6  # positions are within
LARGEST = 2**30  # pixels that are saved through the page


class Stopped(Exception):
    """Nobody waits for a file any longer."""


class Frame(NamedTuple):
    """Where the training images lie on the map.

    half: half of their width and height there; scale: (x, y), coordinates per unit of the map.
    """

    half: tuple[float, float]
    scale: tuple[float, float]


@queries.kept(1)
def frame(model: Model) -> Frame:
    """The frame of a model. Raises: UserError for a model that does not compute pixels one by one."""
    if not model.sampler.pixelwise:
        raise UserError(f'{model.config.system} makes whole images, which have no map; see its canvas.')
    height, width = model.size
    x = y = 1.0
    if model.sampler.view is not None:
        x, y = -np.asarray(model.sampler.view(None, None)['grid'], np.float64)[0, 0]
    short = min(height, width)
    half = (width / short, height / short)
    return Frame(half, (float(x) / half[0], float(y) / half[1]))


class View(NamedTuple):
    """A lattice of pixels: the first one's position before turning, the distance between two, the angle in degrees."""

    x: float
    y: float
    pitch: float
    angle: float
    height: int
    width: int


def view(query: Query, *, tile: bool = False) -> View:
    """The view of a query: x, y, pitch, angle, and height and width unless it is a tile. Raises: UserError."""
    place = [queries.number(query, name, -FAR, FAR) for name in ('x', 'y')]
    pitch = queries.number(query, 'pitch', 1e-30, FAR)
    angle = queries.number(query, 'angle', -360, 360, 0.0)
    size = [SIDE, SIDE] if tile else [queries.whole(query, name, 1, 2**20) for name in ('height', 'width')]
    return View(*place, pitch, angle, *size)


def points(model: Model, wanted: View) -> np.ndarray:
    """The coordinates of a view, [height, width, 2], computed in float64 and given as float32."""
    x = wanted.x + wanted.pitch * np.arange(wanted.width)
    y = wanted.y + wanted.pitch * np.arange(wanted.height)[:, None]
    angle, scale = math.radians(wanted.angle), frame(model).scale
    turned = (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y)
    return np.stack([turned[0] * scale[0], turned[1] * scale[1]], axis=-1).astype(np.float32)


@queries.kept(TILES)
def tile(model: Model, wanted: Style, place: View) -> bytes:
    """A tile as PNG. Raises: UserError as `queries.styles`."""
    image = sampling.render(model, queries.styles(model, wanted)[0], points(model, place), chunk=SIDE * SIDE)
    return png(to_uint8(image))


def prepare(models: Sequence[Model]) -> None:
    """Makes a tile of every model that has a map and no labels, so that their programs are at hand."""
    for model in models:
        if isinstance(model.gan.sampler, Sampler) and model.gan.sampler.pixelwise and not model.gan.c_dim:
            tile(model, Style(0), View(-1.0, -1.0, 2 / SIDE, 0.0, SIDE, SIDE))


def png(pixels: np.ndarray, **kept: Any) -> bytes:
    """uint8 [H, W, C] as a PNG file, compressed little, which is quick; kept: its metadata, as in `Picture`."""
    file = io.BytesIO()
    as_image(pixels).save(file, 'PNG', compress_level=1, **kept)
    return file.getvalue()


def _lattice(model: Model, place: View) -> tuple[dict, np.ndarray | None]:
    """The extent and the matrix of `lazy_grid` for a view; the matrix is None where the extent says all."""
    scale = frame(model).scale
    ends = ((place.x, place.x + place.pitch * (place.width - 1)), (place.y, place.y + place.pitch * (place.height - 1)))
    if place.angle == 0:
        return {axis: (low * s, high * s) for axis, (low, high), s in zip('xy', ends, scale, strict=True)}, None
    angle = math.radians(place.angle)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    return dict(zip('xy', ends, strict=True)), (np.diag([*scale, 1.0]) @ turn).astype(np.float32)


def save(model: Model, wanted: Style, place: View, path: Path, bits: int, stop: threading.Event) -> None:
    """A view of any size into a PNG, by `render_file`.

    Raises: UserError for more than LARGEST pixels; Stopped soon after `stop` is set.
    """
    if place.height * place.width > LARGEST:
        raise UserError(
            f'{place.width} x {place.height} are more than a gigapixel; copy the command and run it in a terminal, '
            'where it takes no memory and tells how far it is.'
        )

    def unless_stopped(piece: np.ndarray) -> np.ndarray:
        if stop.is_set():
            raise Stopped
        return piece

    extent, matrix = _lattice(model, place)
    grid = sampling.lazy_grid(place.height, place.width, **extent, matrix=matrix, warp=unless_stopped)
    sampling.render_file(model, queries.styles(model, wanted)[0], grid, path, bits=bits, chunk=SIDE * SIDE)


def command(model: Model, wanted: Style, place: View, bits: int) -> dict[str, str | None]:
    """{'cli': the command line that makes a view, None if there is none, 'python': lines that do}."""
    extent, matrix = _lattice(model, place)
    (x0, x1), (y0, y1) = extent['x'], extent['y']
    isotropic = math.isclose(*frame(model).scale)
    cli = None
    if wanted.to is None and (matrix is None or isotropic):
        ends = ','.join(f'{v:.9g}' for v in (x0, x1, y0, y1))
        if matrix is not None:  # the command turns coordinates
            ends = ','.join(f'{v * frame(model).scale[0]:.9g}' for v in (x0, x1, y0, y1))
        turn = '' if matrix is None else f' --rotate {place.angle:g}'
        cli = (
            f'python -m pegan_jax render {shlex.join(queries.model_words(model))} --seed {wanted.seed} '
            f'--size {place.height}x{place.width} --extent={ends}{turn}{queries.style_options(wanted)}'
            f'{" --bits 16" * (bits == 16)} --out view.png'
        )
    extents = f'x=({x0:.9g}, {x1:.9g}), y=({y0:.9g}, {y1:.9g})'
    moved = '' if matrix is None else f', matrix=np.array({matrix.tolist()})'
    blend = [] if wanted.to is None else queries.blend_lines(wanted)
    what = f'{wanted.seed}' if wanted.to is None else 'w[0]'
    arguments = queries.style_text(wanted) if wanted.to is None else ''
    deep = ', bits=16' if bits == 16 else ''
    lines = [
        *(['import numpy as np'] if moved or wanted.layers else []),
        'import pegan_jax',
        'from pegan_jax import sampling',
        '',
        queries.load_line(model),
        *blend,
        f'grid = sampling.lazy_grid({place.height}, {place.width}, {extents}{moved})',
        f"sampling.render_file(model, {what}, grid, 'view.png'{deep}{arguments})",
    ]
    return {'cli': cli, 'python': '\n'.join(lines)}


def describe(model: Model) -> dict:
    """What the page has to know about a model with a map."""
    return {'frame': frame(model).half, 'tile': SIDE}
