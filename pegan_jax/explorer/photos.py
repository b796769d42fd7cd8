"""The inpainting view: photographs that are held in memory, and what fills their holes."""

import hashlib
import pathlib
import shlex
import threading
from collections import OrderedDict

import numpy as np

from pegan_jax import inpainting, pixels
from pegan_jax.explorer import queries
from pegan_jax.explorer.maps import png
from pegan_jax.explorer.queries import Query
from pegan_jax.inpainting import Picture, Strategy
from pegan_jax.inpainting.strategies import NAMES
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

MAX_BYTES = 64 * 2**20  # of a file
MAX_PIXELS = 50_000_000
HELD = 3  # photographs
NAMELESS = pathlib.Path('this file')  # in errors


class Photos:
    """The photographs that were loaded last, by the hash of their files; older ones are forgotten."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> tuple[str, Picture]:
        """Decodes a file; returns its name and the picture. Raises: UserError for no image, or too large a one."""
        picture = inpainting.read_picture(NAMELESS, MAX_PIXELS, data)
        name = hashlib.sha256(data).hexdigest()[:20]
        with self._lock:
            self._held[name] = picture
            self._held.move_to_end(name)
            while len(self._held) > HELD:
                self._held.popitem(last=False)
        return name, picture

    def get(self, name: str) -> Picture:
        """Raises: UserError for one that is not held."""
        with self._lock:
            if name not in self._held:
                raise UserError(f'the photograph is no longer held: the server keeps the last {HELD}; load it again.')
            self._held.move_to_end(name)
            return self._held[name]


def planes(data: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The hole and the lines, bool [H, W]: red and green of a PNG. Raises: UserError for another size."""
    image = pixels.decode_image(data, MAX_PIXELS)
    if image.shape[:2] != size:
        raise UserError(
            f'the mask has {image.shape[1]} x {image.shape[0]} pixels and the photograph {size[1]} x {size[0]}; load '
            'the photograph again.'
        )
    return image[..., 0] > 127, image[..., 1] > 127


def strategy(query: Query) -> Strategy:
    """The strategy of a query. Raises: UserError."""
    chosen = Strategy(
        queries.one_of(query, 'strategy', NAMES),
        queries.whole(query, 'margin', 0, 10**5, Strategy().margin),
        queries.whole(query, 'limit', 0, 10**5, Strategy().limit),
    )
    inpainting.check_strategy(chosen)
    return chosen


def fill(
    model: Model | None, photo: Picture, hole: np.ndarray, lines: np.ndarray, chosen: Strategy, flow: bool
) -> bytes:
    """The photograph with its hole filled, as PNG with the metadata of its file; model None: biharmonic.

    Raises: UserError for no hole, or one that is everywhere, and as `inpainting.inpaint`.
    """
    if not hole.any():
        raise UserError('there is no hole yet: paint over what should go.')
    channels = 3 if model is None else model.config.data.channels
    seen = inpainting.as_seen(photo, channels, NAMELESS)
    sketch = lines if model is not None and lines.any() and model.completer.guided else None
    if flow:
        if model is None:
            raise UserError('biharmonic has no attention to show; choose a DeepFillv2.')
        inpainting.check_attention(model)
    filled = inpainting.inpaint_by(chosen, model, seen.pixels, hole, sketch, flow=flow)
    return png(_opaque_or_not(filled, seen), **seen.kept)


def shown(photo: Picture) -> bytes:
    """The photograph, upright, as a PNG with its colour profile, for the page to draw."""
    profile = {name: value for name, value in photo.kept.items() if name == 'icc_profile'}
    return png(_opaque_or_not(photo.pixels, photo), **profile)


def _opaque_or_not(pixels: np.ndarray, photo: Picture) -> np.ndarray:
    """Pixels [H, W, C] with the opacity of the photograph, if it has one."""
    return pixels if photo.alpha is None else np.concatenate([pixels, photo.alpha[..., None]], axis=-1)


def command(model: Model | None, chosen: Strategy, file: str, sketch: bool, flow: bool) -> str:
    """The command line that fills a photograph of this file name as the page does; model None: biharmonic."""
    stem = file.rpartition('.')[0] or file
    words = ['--method', 'biharmonic'] if model is None else queries.model_words(model)
    words += ['--image', file, '--mask', f'{stem}_mask.png']
    words += ['--sketch', f'{stem}_sketch.png'] * (sketch and model is not None) + ['--flow'] * flow
    if chosen.name != 'original':
        length = ('--margin', chosen.margin) if chosen.name == 'crop' else ('--limit', chosen.limit)
        words += ['--strategy', chosen.name, *map(str, length)]
    return shlex.join(['python', '-m', 'pegan_jax', 'inpaint', *words, '--out', f'{stem}_filled.png'])
