"""Masks in files, as people have them: which pixels are the hole.

White on black is the rule. Labels, colours and transparency are understood too; a guess is reported in one line with
the share of the hole, so that a wrong guess shows.
"""

import logging
import os

import numpy as np
from PIL import Image

from pegan_jax.data import sources
from pegan_jax.files import Path, as_path
from pegan_jax.pixels import UnreadableImage, decode_raw
from pegan_jax.settings import ConfigError, UserError

logger = logging.getLogger(__name__)

LABELS = 16  # values of a mask that counts objects, at most
NEAR = 64  # channels of a colour differ by less, so that the fringes of a JPEG belong to what they surround

Colour = int | tuple[int, int, int]


def read(
    path: Path,
    *,
    invert: bool = False,
    colour: Colour | None = None,
    option: str | None = None,
    max_pixels: int = 100_000_000,
) -> np.ndarray:
    """The hole of a mask file, bool [H, W]; the arguments are those of `holes`.

    Raises: UnreadableImage for what is no image, is cut off, has float pixels or more than max_pixels; and as `holes`.
    """
    try:
        pixels, alpha = decode_raw(path.read_bytes(), max_pixels, indices=isinstance(colour, int))
    except UnreadableImage as error:
        raise UnreadableImage(f'{path}: {error}') from None
    return holes(pixels, alpha, str(path), invert=invert, colour=colour, option=option)


def holes(
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    name: str,
    *,
    invert: bool = False,
    colour: Colour | None = None,
    option: str | None = None,
) -> np.ndarray:
    """Which pixels of a mask are the hole, bool [H, W].

    Args:
      pixels: uint8 or uint16 [H, W, 1], or uint8 [H, W, 3].
      alpha: uint8 [H, W], or None.
      name: the mask's, for people.
      invert: the other pixels are the hole.
      colour: the hole has this colour, or this value in a mask without colours, or of a palette; None: it is guessed.
      option: how people say the colour, such as --mask-colour, if they can.
    Raises: UserError if no pixel has the colour.
    """
    if colour is not None:
        found, guess = _of_one_colour(pixels, colour, name), None
    elif alpha is not None and 0 < np.mean(alpha < 128) < 1:
        found, guess = _of_transparency(pixels, alpha >= 128)
    elif pixels.shape[-1] == 3:
        found, guess = _of_colours(pixels, option)
    else:
        found, guess = _of_values(pixels[..., 0], option)
    found = found != invert
    if guess is not None:
        turned = ', turned around by --invert-mask' if invert else ''
        logger.warning('mask %s: %s%s; %.1f %% of the image is hole.', name, guess, turned, 100 * found.mean())
    return found


def _near(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Whether pixels have a colour: [H, W]."""
    return np.abs(pixels.astype(np.int32) - np.asarray(colour, np.int32)).max(-1) < NEAR


def _of_one_colour(pixels: np.ndarray, colour: Colour, name: str) -> np.ndarray:
    if isinstance(colour, int):
        found = (pixels == colour).all(-1)
    else:
        found = _near(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), colour)
    if not found.any():
        values, counts = np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0, return_counts=True)
        there = ' '.join(','.join(map(str, value)) for value in values[np.argsort(-counts)][:5].tolist())
        shown = colour if isinstance(colour, int) else ','.join(map(str, colour))
        raise UserError(f'{name} has no pixel of --mask-colour {shown}; its most frequent are {there}.')
    return found


def _of_transparency(pixels: np.ndarray, opaque: np.ndarray) -> tuple[np.ndarray, str]:
    inside = pixels[opaque].astype(np.int32)
    low, high = inside.min(0), inside.max(0)
    if pixels.shape[-1] == 1 and set(np.unique(inside).tolist()) == {0, 255}:
        return opaque & (pixels[..., 0] > 127), 'white is the hole; black and what is transparent are known'
    if (high - low).max() < NEAR and low.max() > 127 and opaque.mean() < 0.5:
        return opaque, 'the strokes on a transparent ground are the hole'
    return ~opaque, 'what is transparent is the hole'


def _of_colours(pixels: np.ndarray, option: str | None) -> tuple[np.ndarray, str]:
    black, white = _near(pixels, (0, 0, 0)), _near(pixels, (255, 255, 255))
    if black.mean() > 0.01:
        ground, what = black, 'black'
    elif white.mean() > 0.01:
        ground, what = white, 'white'
    else:
        values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        most = values[np.argmax(counts)]
        ground, what = _near(pixels, most), f'the colour {",".join(map(str, most.tolist()))}'
    pick = f' ({option} R,G,B picks one)' if option else ''
    return ~ground, f'all colours but {what} are the hole{pick}'


def _of_values(grey: np.ndarray, option: str | None) -> tuple[np.ndarray, str | None]:
    values, white = np.unique(grey), np.iinfo(grey.dtype).max
    if set(values.tolist()) in ({0}, {0, 1}, {white}, {0, white}):
        return grey > 0, None
    if len(values) <= LABELS and values[-1] <= white // 2:
        listed = ', '.join(map(str, values.tolist()))
        pick = f' ({option} N picks one)' if option and len(values) > 2 else ''
        return grey > 0, f'it has the values {listed}, of which all but 0 are the hole{pick}'
    middle = white / 2
    return grey > middle, f'it has {len(values)} grey values, of which those above {middle:g} are the hole'


def read_folder(folder: str | os.PathLike, height: int, width: int, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """All masks in a folder, searched recursively, in the order of their paths, resized by nearest neighbours.

    Args:
      max_pixels: larger files are refused before they are decoded.
    Returns: [K, height, width] uint8; 1 is a hole. All are held in memory.
    Raises: ConfigError if there is no such folder, it has no image, an image cannot be read or is a hole everywhere, or
      none has a hole.
    """
    root = as_path(folder)
    if not root.is_dir():
        raise ConfigError(f'{str(folder)!r} is not a folder of masks; give the path of one.')
    paths = [root / n for n in sources.image_names(root)]
    if not paths:
        raise ConfigError(
            f'{str(folder)!r} holds no mask; expected images named {", ".join("*" + s for s in sources.SUFFIXES)}.'
        )
    masks = np.empty((len(paths), height, width), np.uint8)
    for k, path in enumerate(paths):
        try:
            mask = read(path, max_pixels=max_pixels).astype(np.uint8)
        except (UnreadableImage, OSError) as error:
            raise ConfigError(f'{error}; repair this mask, or take it out of the folder.') from error
        masks[k] = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        if masks[k].all():
            raise ConfigError(f'mask {path} is a hole everywhere: white is a hole. Invert it, or take it out.')
    if not masks.any():
        raise ConfigError(f'no mask in {str(folder)!r} has a hole; white is a hole.')
    return masks
