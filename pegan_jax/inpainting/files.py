"""Completes image files, and folders of them."""

import contextlib
import functools
import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from pegan_jax.data import mask_files, sources
from pegan_jax.files import Path, check_file, whole
from pegan_jax.inpainting.arrays import (
    attention_flow,
    check_attention,
    check_model,
    composite,
    inputs,
    padded_size,
)
from pegan_jax.inpainting.strategies import ORIGINAL, Strategy, check_strategy, inpaint_by
from pegan_jax.pixels import UnreadableImage, as_image, formats_of, has_16_bits, to_rgb
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

logger = logging.getLogger(__name__)

SUFFIXES = {'.png': 'PNG', '.tif': 'TIFF', '.tiff': 'TIFF'}  # for results: formats that keep every pixel
LINE = 0.6 * 255  # lighter pixels of sketches are lines
MASK = '_mask'  # follows the name of an image in that of its mask
FAR = 8  # times the side of the images of training; from here on a model sees too little of an image
LARGE = 4_000_000  # pixels of an image; from here on a model takes long
_ORIENTATION = 0x0112  # EXIF


class Pair(NamedTuple):
    """The files of one image."""

    image: Path
    mask: Path
    sketch: Path | None
    out: Path


class Picture(NamedTuple):
    """A decoded image: uint8 [H, W, C]; its transparency [H, W] if that is kept apart.

    kept: what else a file says, as Pillow's `save` takes it: colour profile, EXIF without orientation, resolution.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    kept: Mapping[str, Any] = MappingProxyType({})


def _open(path: Path, max_pixels: int, data: bytes | None = None) -> Image.Image:
    try:
        if data is None:
            with path.open('rb') as file:
                head = file.read(12)
        formats = formats_of(head if data is None else data[:12])
        image = Image.open(path if data is None else io.BytesIO(data), formats=formats)
    except UnreadableImage as error:
        raise UserError(f'{path} is {error}.') from None
    except UnidentifiedImageError:  # its message is only the path, or an object of this program
        raise UserError(f'{path} cannot be read as an image: it is damaged, or none of {", ".join(formats)}.') from None
    except Exception as error:  # what Pillow raises for damaged files, of many types
        raise UserError(f'{path} cannot be read as an image: {error}.') from None
    if image.width * image.height > max_pixels:
        raise UserError(f'{path} has {image.width} x {image.height} pixels; at most {max_pixels:,} are read.')
    return image


def _size(path: Path, max_pixels: int) -> tuple[int, int]:
    """(height, width) as seen. The header tells it, except in a PNG, where the orientation may come last."""
    with _open(path, max_pixels) as image:
        try:
            # For a TIFF, Pillow gives the size after turning.
            turned = image.format != 'TIFF' and image.getexif().get(_ORIENTATION, 1) >= 5
        except Exception as error:  # as above, and what Pillow raises for damaged files, of many types
            raise UserError(f'{path} cannot be decoded: {error}.') from None
        return image.size if turned else image.size[::-1]


def read_picture(path: Path, max_pixels: int = 100_000_000, data: bytes | None = None) -> Picture:
    """Decodes a file: upright by its EXIF orientation, any colour mode as RGB; colours under transparency are kept.

    data: the content of the file, if at hand; the path then only names it.

    Raises: ValueError for what is no image, is cut off, has float pixels or more than max_pixels.
    """
    with _open(path, max_pixels, data) as image:
        try:
            if has_16_bits(image):
                logger.warning('%s has 16 bits per channel; the result has 8.', path)
            kept = _kept(image)
            return Picture(*to_rgb(image), kept)
        except Exception as error:  # as above, and what Pillow raises for damaged files, of many types
            raise UserError(f'{path} cannot be decoded: {error}.') from None


def _kept(image: Image.Image) -> dict[str, Any]:
    kept = {}
    if image.mode in ('RGB', 'RGBA') and (profile := image.info.get('icc_profile')):
        kept['icc_profile'] = profile
    if image.format != 'TIFF':  # there EXIF is also how pixels are stored
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())  # a copy, because the orientation is needed to turn the image upright
        exif.pop(_ORIENTATION, None)
        if len(exif):
            kept['exif'] = exif.tobytes()
    if dpi := image.info.get('dpi'):
        kept['dpi'] = tuple(map(float, dpi))
    return kept


def as_seen(picture: Picture, channels: int, path: Path) -> Picture:
    """The result of `read_picture` as a model of 1, 3 or 4 channels sees it: the fourth channel, of RGBA, is opacity.

    Raises: ValueError for colours that a grey model would not keep.
    """
    pixels, alpha, kept = picture
    if channels == 3:
        return picture
    if channels == 4:
        opaque = np.full(pixels.shape[:2], 255, np.uint8) if alpha is None else alpha
        return Picture(np.concatenate([pixels, opaque[..., None]], axis=-1), None, kept)
    if (pixels != pixels[..., :1]).any():
        raise UserError(
            f'{path} has colours, and the model is grey (model.img_channels=1): known pixels would not stay as they '
            'are; make the file grey before, or use a model of colours.'
        )
    return Picture(pixels[..., :1], alpha, {k: v for k, v in kept.items() if k != 'icc_profile'})


def check_size(path: Path, found: tuple[int, int], size: tuple[int, int], what: str) -> None:
    """Raises: UserError unless a mask or a sketch, of `found` (height, width), is as large as its image."""
    if found != size:
        raise UserError(
            f'{path} has {found[1]} x {found[0]} pixels and the image {size[1]} x {size[0]}; the {what} must be as '
            'large.'
        )


def read_mask(
    path: Path,
    size: tuple[int, int],
    *,
    invert: bool = False,
    colour: mask_files.Colour | None = None,
    max_pixels: int,
) -> np.ndarray:
    """The hole of a mask file, bool [H, W], as `mask_files.read` finds it.

    Raises: ValueError as `mask_files.read`, for another size, or if no pixel is known.
    """
    mask = mask_files.read(path, invert=invert, colour=colour, option='--mask-colour', max_pixels=max_pixels)
    check_size(path, mask.shape, size, 'mask')
    if mask.all():
        raise UserError(
            f'{path} is a hole everywhere ({"black" if invert else "white"}), so that nothing is known which it could '
            'be filled from; --invert-mask exchanges hole and known pixels.'
        )
    return mask


def read_sketch(path: Path, size: tuple[int, int], *, invert: bool = False, max_pixels: int) -> np.ndarray:
    """The lines of a sketch file, bool [H, W]: light ones, or with `invert` dark ones; the first channel counts.

    Raises: ValueError as `read_picture`, or for another size.
    """
    pixels, alpha, _ = read_picture(path, max_pixels)
    check_size(path, pixels.shape[:2], size, 'sketch')
    grey = pixels[..., 0] if alpha is None else np.where(alpha > 127, pixels[..., 0], 0).astype(np.uint8)
    lines = (255 - grey if invert else grey) > LINE
    if lines.mean() > 0.5:
        logger.warning(
            'most of the sketch %s is %s, which is the lines; --invert-sketch exchanges lines and paper.',
            path, 'dark' if invert else 'light',
        )  # fmt: skip
    return lines


def save(path: Path, picture: Picture) -> None:
    """Writes an image file, whole or not at all.

    Raises: ValueError for a suffix other than those of SUFFIXES.
    """
    check_suffix(path)
    pixels, alpha, kept = picture
    channels = pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], axis=-1)
    with whole(path) as unfinished:
        as_image(channels).save(unfinished, SUFFIXES[path.suffix.lower()], **kept)


def check_suffix(path: Path) -> None:
    """Raises: ValueError unless a file of this name keeps every pixel."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f'--out {path}: a file {path.suffix or "without suffix"} would not keep the known pixels as they are; '
            f'write {", ".join(SUFFIXES)}.'
        )
    check_file(path)


def pairs(image: Path, mask: Path, out: Path, sketch: Path | None = None) -> list[Pair]:
    """The files to work on: single ones, or those in folders, matched by their names without suffix.

    A single mask (or sketch) beside a folder of images is for all of them. The mask of photo.jpg may be named
    photo_mask.png as well, in a folder of its own or beside the image.

    Raises: ValueError for missing files, images without a mask or sketch, names that occur twice, or an `out` that does
      not fit.
    """
    if not image.is_dir():
        for name, path in (('image', image), ('mask', mask), ('sketch', sketch)):
            if path is not None and not path.is_file():
                raise UserError(f'--{name} {path} is not a file{", but a folder" if path.is_dir() else ""}.')
        check_suffix(out)
        return [Pair(image, mask, sketch, out)]
    if out.suffix.lower() in SUFFIXES or out.is_file():
        raise UserError(f'--image {image} is a folder, so --out is one as well; {out} looks like a file.')
    images, partners = _by_stem(image), {}
    if mask.is_dir() and mask.samefile(image):
        images = {stem: path for stem, path in images.items() if not stem.endswith(MASK)}
    for path in (mask, sketch):  # which may lie beside the images
        images = {stem: p for stem, p in images.items() if path is None or not path.is_file() or not p.samefile(path)}
    if not images:
        raise UserError(f'--image {image} holds no image beside the mask and the sketch; name another folder.')
    for what, path in (('mask', mask), ('sketch', sketch)):
        if path is None or path.is_file():
            partners[what] = dict.fromkeys(images, path)
            continue
        found = _by_stem(path)
        beside = what == 'mask' and path.samefile(image)
        partners[what] = {stem: found.get(stem + MASK, None if beside else found.get(stem)) for stem in images}
        if missing := [stem for stem, partner in partners[what].items() if partner is None]:
            more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
            named = f'{missing[0]}{MASK}.png' if beside else f'{missing[0]}.png'
            raise UserError(
                f'{path} has no {what} of {", ".join(missing[:5])}{more} in {image}; it would be named {named}.'
            )
    return [
        Pair(path, partners['mask'][stem], partners['sketch'][stem], out / f'{stem}.png')
        for stem, path in images.items()
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    """{name without suffix: path} of the image files in a folder, sorted."""
    if not folder.is_dir():
        raise UserError(f'{folder} is neither a file nor a folder.')
    out = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in sources.SUFFIXES or path.name.startswith('.') or not path.is_file():
            continue
        if path.stem in out:
            raise UserError(f'{folder} has two images named {path.stem}: {out[path.stem].name} and {path.name}.')
        out[path.stem] = path
    if not out:
        raise UserError(f'{folder} has no image; expected names with {", ".join(sources.SUFFIXES)}.')
    return out


class _Loaded(NamedTuple):
    """The files of a `Pair`, read."""

    pair: Pair
    picture: Picture
    mask: np.ndarray
    sketch: np.ndarray | None


def inpaint_files(
    model: Model | None,
    files: Sequence[Pair],
    *,
    invert_mask: bool = False,
    mask_colour: mask_files.Colour | None = None,
    invert_sketch: bool = False,
    flow: bool = False,
    strategy: Strategy = ORIGINAL,
    batch_size: int = 8,
    max_pixels: int = 100_000_000,
    progress: bool = False,
) -> None:
    """Completes image files, images of one size together; every result is written as soon as it is ready.

    The transparency of an image comes back unchanged, and colours under it count as known; an image that is its own
    mask comes back opaque. A model of RGBA completes transparency too. A grey model takes files without colours,
    whatever their mode, and its results are grey. An image whose mask has no hole is written as it is, with a warning.
    An image that cannot be read or filled does not keep the others from being completed.

    Args:
      model: None means `biharmonic`.
      invert_mask, mask_colour: see `mask_files.holes`.
      flow: also writes `attention_flow` beside every result, as NAME_flow.png.
      strategy: for large images; with any other than 'original', images are filled one by one.
    Raises: ValueError as `read_picture`, `read_mask`, `read_sketch`, `inpaint`; for several images after all others
      are written, naming those that are not; and at once if a result would overwrite an input or another result.
    """
    check_strategy(strategy)
    if model is not None:
        check_model(model, sketch=any(pair.sketch is not None for pair in files))
        if flow:
            check_attention(model)
    elif flow or any(pair.sketch is not None for pair in files):
        raise UserError('the method biharmonic has neither attention nor sketches; leave out --flow and --sketch.')
    _check_outputs(files, flow)
    channels = 3 if model is None else model.config.data.channels
    together = model is not None and strategy.name == 'original'  # images of one padded size
    groups, failures, advised = {}, {}, False
    for pair in files:
        with _noted(pair, failures):
            size = _pair_size(pair, max_pixels)
            if together and math.prod(size) > LARGE:
                logger.warning(
                    '%s has %.0f megapixels, which take some %.0f GB of memory, and minutes on a CPU; the strategies '
                    'resize and crop take less.',
                    pair.image, math.prod(size) / 1e6, math.prod(size) * 0.45e-6,
                )  # fmt: skip
            if together and not advised and max(size) > FAR * (side := max(model.config.data.size)):
                advised = True
                logger.warning(
                    '%s has a side of %d pixels, and training had %d: --strategy resize --limit %d may look better.',
                    pair.image, max(size), side, max(2 * side, 64),
                )  # fmt: skip
            groups.setdefault(padded_size(model, size) if together else size, []).append(pair)
    with tqdm(total=len(files), unit='image', disable=not progress) as bar:
        for group in groups.values():
            step = min(batch_size, len(group)) if together else 1
            for i in range(0, len(group), step):
                loaded = []
                for pair in group[i : i + step]:
                    with _noted(pair, failures):
                        options = {'invert': invert_mask, 'colour': mask_colour}
                        loaded.append(_load(pair, channels, options, invert_sketch, max_pixels))
                batch = _filled(model, loaded, step) if together else [None] * len(loaded)
                for item, pixels in zip(loaded, batch, strict=True):
                    with _noted(item.pair, failures):
                        arrays = (item.picture.pixels, item.mask, item.sketch)
                        if pixels is None:
                            pixels = inpaint_by(strategy, model, *arrays)
                        by_crop = functools.partial(inpaint_by, strategy, flow=True)
                        colours = (attention_flow if together else by_crop)(model, *arrays) if flow else None
                    if item.pair not in failures:
                        _save(item, pixels, colours)
                bar.update(len(group[i : i + step]))
    if len(files) == 1 and failures:
        raise UserError(*failures.values())
    if failures:
        raise UserError(
            f'{len(failures)} of {len(files)} images could not be filled, and the others are written: '
            f'{" ".join(failures.values())}'
        )


@contextlib.contextmanager
def _noted(pair: Pair, failures: dict[Pair, str]) -> Iterator[None]:
    """Notes why an image cannot be filled."""
    try:
        yield
    except UserError as error:
        named = any(str(path) in str(error) for path in pair if path is not None)
        failures[pair] = str(error) if named else f'{pair.image}: {error}'
    except OSError as error:
        failures[pair] = f'{error.filename or pair.image}: {error.strerror or error}.'


def _pair_size(pair: Pair, max_pixels: int) -> tuple[int, int]:
    """(height, width) of all files of a pair, from their headers. Raises: UserError if they differ."""
    size = _size(pair.image, max_pixels)
    for path in (pair.mask, pair.sketch):
        if path is not None and (other := _size(path, max_pixels)) != size:
            raise UserError(
                f'{path} has {other[1]} x {other[0]} pixels and {pair.image} {size[1]} x {size[0]}; '
                'they must be of one size.'
            )
    return size


def _flow_path(out: Path) -> Path:
    return out.with_name(f'{out.stem}_flow.png')


def _check_outputs(files: Sequence[Pair], flow: bool) -> None:
    """Raises: ValueError if a result would overwrite an input or another result."""
    taken = {path.resolve(): 'is an input' for pair in files for path in pair[:3] if path is not None}
    for pair in files:
        for out in (pair.out, _flow_path(pair.out)) if flow else (pair.out,):
            if reason := taken.get(out.resolve()):
                raise UserError(f'--out would overwrite {out}, which {reason}; choose another --out.')
            taken[out.resolve()] = 'is another result'


def _load(pair: Pair, channels: int, of_mask: dict[str, Any], invert_sketch: bool, max_pixels: int) -> _Loaded:
    picture = as_seen(read_picture(pair.image, max_pixels), channels, pair.image)
    size = picture.pixels.shape[:2]
    mask = read_mask(pair.mask, size, **of_mask, max_pixels=max_pixels)
    if not mask.any():
        logger.warning('%s has no hole; %s is written as it is.', pair.mask, pair.image)
    if pair.sketch is None:
        return _Loaded(pair, picture, mask, None)
    return _Loaded(pair, picture, mask, read_sketch(pair.sketch, size, invert=invert_sketch, max_pixels=max_pixels))


def _save(item: _Loaded, pixels: np.ndarray, colours: np.ndarray | None) -> None:
    """Writes a completed image, and the colours of its flow."""
    out, alpha = item.pair.out, item.picture.alpha
    out.parent.mkdir(parents=True, exist_ok=True)
    if alpha is not None and item.pair.mask == item.pair.image:
        alpha = np.where(item.mask, np.uint8(255), alpha)
    save(out, item.picture._replace(pixels=pixels, alpha=alpha))
    if colours is not None:
        save(_flow_path(out), Picture(colours))


def _filled(model: Model, loaded: Sequence[_Loaded], count: int) -> Iterator[np.ndarray]:
    """The completed pixels, `count` images at once: the batch is filled up, so that one program serves all."""
    if not loaded:
        return
    items = [*loaded, *[loaded[-1]] * (count - len(loaded))]
    # Images of a group may differ in size by less than a multiple, so each is padded separately.
    rows = [
        inputs(model, item.picture.pixels[None], item.mask[None], None if item.sketch is None else item.sketch[None])
        for item in items
    ]
    filled = np.asarray(model.complete({k: np.concatenate([row[k] for row in rows]) for k in rows[0]}))
    for item, result in zip(loaded, filled, strict=False):
        height, width = item.mask.shape
        yield composite(item.picture.pixels, item.mask, result[:height, :width])
