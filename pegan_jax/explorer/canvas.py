"""The canvas view: whole images of models that move or resize them, and what their layers give."""

import functools
import math
import shlex
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from pegan_jax import coords
from pegan_jax.analysis.features import record_maps
from pegan_jax.explorer import queries
from pegan_jax.explorer.maps import png
from pegan_jax.explorer.queries import Query, Style
from pegan_jax.gan import Sampler
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model
from pegan_jax.sampling.pictures import pictures
from pegan_jax.settings import UserError

LARGEST = 2**24  # pixels of a canvas


class Place(NamedTuple):
    """The view of the scene: (height, width) or None, content moved by (x, y) and turned by an angle in degrees."""

    size: tuple[int, int] | None
    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0


def place(query: Query) -> Place:
    """The place of a query: height, width, dx, dy, angle. Raises: UserError."""
    size = None
    if 'height' in query or 'width' in query:
        size = (queries.whole(query, 'height', 1, 2**14), queries.whole(query, 'width', 1, 2**14))
        if math.prod(size) > LARGEST:
            raise UserError(f'{size[1]} x {size[0]} pixels; a canvas has at most {LARGEST:,}.')
    moved = [queries.number(query, name, -1000, 1000, 0.0) for name in ('dx', 'dy')]
    return Place(size, *moved, queries.number(query, 'angle', -360, 360, 0.0))


def _options(model: Model, where: Place) -> dict:
    """`size` and `transform` of `pictures`; a model that moves things always gets a matrix, so one program serves."""
    if 'transform' not in model.sampler.options:
        if (where.x, where.y, where.angle) != (0, 0, 0):
            raise UserError(f'{model.config.system} moves nothing; leave out dx, dy and angle.')
        return {'size': where.size}
    motion = (coords.rotate(math.radians(where.angle)), coords.translate(where.x, where.y))
    return {'size': where.size, 'transform': coords.compose(*motion)}


def picture(model: Model, wanted: Style, where: Place) -> bytes:
    """An image as PNG. Raises: UserError for what the system does not have."""
    options = _options(model, where)
    return png(to_uint8(pictures(model, queries.styles(model, wanted), [wanted.seed], **options))[0])


# Layers ---------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _program(sampler: Sampler, fixed: tuple) -> Callable:
    """(variables, w, arrays) -> `record_maps`, compiled."""

    def maps(variables: dict, w: jax.Array, arrays: dict) -> dict[str, jax.Array]:
        run = functools.partial(sampler.synthesise, variables, w, **arrays, **dict(fixed))
        found = record_maps(run, lambda x: x)
        names.extend(found)  # when it is traced: compiled functions do not keep the order
        return found

    names = []
    program = jax.jit(maps)

    def ordered(variables: dict, w: jax.Array, arrays: dict) -> dict[str, jax.Array]:
        found = program(variables, w, arrays)
        return {name: found[name] for name in names}

    return ordered


@queries.kept(2)
def layers(model: Model, wanted: Style, where: Place) -> dict[str, np.ndarray]:
    """The maps [H, W, C] of all layers of an image, float32, in the order in which they are computed."""
    asked = {name: value for name, value in _options(model, where).items() if value is not None}
    options = model.sampler.view(asked.get('size'), asked.get('transform')) if asked else {}
    arrays = {name: value for name, value in options.items() if isinstance(value, (jax.Array, np.ndarray))}
    fixed = tuple((name, value) for name, value in options.items() if name not in arrays)
    found = _program(model.sampler, fixed)(model.variables, queries.styles(model, wanted), arrays)
    return {name: np.asarray(value[0], np.float32) for name, value in found.items()}


def table(model: Model, wanted: Style, where: Place) -> list[dict]:
    """Name, size, mean and standard deviation of the output of every layer, None for what is not finite."""

    def told(number: np.floating) -> float | None:  # JSON has no others
        return float(number) if np.isfinite(number) else None

    return [
        {'name': name, 'shape': value.shape, 'mean': told(value.mean()), 'std': told(value.std())}
        for name, value in layers(model, wanted, where).items()
    ]


def layer_picture(model: Model, wanted: Style, where: Place, name: str, kind: str, channel: int) -> bytes:
    """A layer as PNG: three channels as colours, or its spectrum. Raises: UserError for an unknown layer.

    kind: 'channels', from `channel` on, mean +- 2.5 standard deviations of each over the range of colours; 'spectrum',
      the logarithm of the mean power of all channels, frequency 0 in the middle, 80 dB over the range of greys.
    """
    found = layers(model, wanted, where)
    if name not in found:
        raise UserError(f'layer={name!r} is no layer of this image; it has {", ".join(found)}.')
    return png(spectrum(found[name]) if kind == 'spectrum' else colours(found[name], channel))


def colours(maps: np.ndarray, channel: int) -> np.ndarray:
    """Three channels of maps [H, W, C], each about its mean, as uint8 [H, W, 3]; with fewer than three, one in grey."""
    count = maps.shape[-1]
    index = [min(channel, count - 1)] * 3 if count < 3 else np.minimum(np.arange(channel, channel + 3), count - 1)
    chosen = maps[..., index]
    scale = 2.5 * chosen.std((0, 1)) + 1e-12
    return to_uint8((chosen - chosen.mean((0, 1))) / scale)


def spectrum(maps: np.ndarray) -> np.ndarray:
    """log10 of the mean power over channels of maps [H, W, C] without their means, as uint8 [H, W, 1]."""
    centred = maps - maps.mean((0, 1))
    power = np.square(np.abs(np.fft.fftshift(np.fft.fft2(centred, axes=(0, 1)), axes=(0, 1)))).mean(-1)
    decibels = 10 * np.log10(power / max(power.max(), 1e-30) + 1e-30)
    return to_uint8(decibels / 40 + 1)[..., None]


# Commands -------------------------------------------------------------------------------------------------------------


def command(model: Model, wanted: Style, where: Place) -> dict[str, str | None]:
    """{'cli': the command line that makes the image, None if there is none, 'python': lines that do}."""
    options = _options(model, where)
    moved = 'transform' in options and (where.x, where.y, where.angle) != (0, 0, 0)
    cli = None
    if wanted.to is None:
        size = '' if where.size is None else f' --size {where.size[0]}x{where.size[1]}'
        motion = f' --rotate {where.angle:g}' if moved and where.angle else ''
        motion += f' --translate={where.x:g},{where.y:g}' if moved and (where.x, where.y) != (0, 0) else ''
        cli = (
            f'python -m pegan_jax sample {shlex.join(queries.model_words(model))} --seeds {wanted.seed}{size}{motion}'
            f'{queries.style_options(wanted)} --out image.png'
        )
    given = '' if where.size is None else f', size={where.size}'
    given += f', transform=np.array({np.asarray(options["transform"]).tolist()})' if moved else ''
    made = (
        f'sampling.sample(model, [{wanted.seed}]{queries.style_text(wanted)}{given})'
        if wanted.to is None
        else f'sampling.of_styles(model, w{given})'
    )
    lines = [
        *(['import numpy as np'] if moved or wanted.layers else []),
        'import pegan_jax',
        'from pegan_jax import pixels, sampling',
        '',
        queries.load_line(model),
        *([] if wanted.to is None else queries.blend_lines(wanted)),
        f"pixels.save({made}[0], 'image.png')",
    ]
    return {'cli': cli, 'python': '\n'.join(lines)}


def describe(model: Model) -> dict:
    """What the page has to know about a model with a canvas."""
    moved = 'transform' in model.sampler.options
    turned = moved and _shows(model, None, coords.rotate(0.1))
    return {'sized': _shows(model, model.size, None), 'moved': moved, 'turned': turned}


def _shows(model: Model, size: tuple[int, int] | None, matrix: np.ndarray | None) -> bool:
    """Whether a model makes images of a size, or of a scene that a matrix moves."""
    view = model.sampler.view
    if view is None:
        return False
    try:
        view(size, matrix)
    except UserError:  # creps only moves, a Fourier StyleGAN2 has one size
        return False
    return True
