"""Pixels for people and files: [-1, 1] and integers, grids of several images, decoding, writing piece by piece."""

import io
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pegan_jax.files import Path, as_path, check_file, whole
from pegan_jax.settings import UserError

FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'DIB', 'TIFF', 'GIF', 'AVIF', 'JPEG2000', 'PPM', 'TGA')
HEIF = (b'heic', b'heix', b'mif1', b'msf1', b'heim', b'heis')  # brands of files, after 'ftyp'
PNG_COLOURS = {1: 0, 3: 2, 4: 6}  # the colour type of a number of channels


class UnreadableImage(UserError):
    """Bytes that are not a usable image; the message says why."""


# Numbers --------------------------------------------------------------------------------------------------------------


def to_uint(images: np.ndarray | jax.Array, bits: int) -> np.ndarray:
    """[-1, 1] to 0..2^bits - 1: round((2^bits - 1) (x + 1) / 2), clamped; bits is 8 or 16."""
    top = 2**bits - 1
    levels = np.clip(np.rint((np.asarray(images, np.float32) + 1) * (top / 2)), 0, top)
    return levels.astype(f'uint{bits}')


def to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    """[-1, 1] to 0..255: round(127.5 (x + 1)), clamped."""
    return to_uint(images, 8)


def as_floats(images: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """0..255 to [-1, 1], float32."""
    return images.astype(np.float32) / 127.5 - 1


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 pixels [..., C] with another number of channels: 1 is grey, 3 is RGB, 4 is RGBA.

    Where opacity is dropped, colours are put over black; opacity that is added is 255. Grey is the luminance of ITU-R
    BT.601, 0.299 R + 0.587 G + 0.114 B, rounded as in Pillow: for equal colours it is exactly their value.
    """
    if pixels.shape[-1] == 4 != channels:
        pixels = np.round(pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    if pixels.shape[-1] == 1 != channels:
        pixels = np.repeat(pixels, 3, axis=-1)
    if channels == 1 != pixels.shape[-1]:
        return ((pixels.astype(np.int32) @ np.array([19595, 38470, 7471]) + 2**15) >> 16).astype(np.uint8)[..., None]
    if channels == 4 != pixels.shape[-1]:
        return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    return pixels


def as_image(pixels: np.ndarray) -> Image.Image:
    """Pillow's image of uint8 [H, W, C]: grey, grey with opacity, RGB or RGBA for a C of 1, 2, 3 or 4."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] side by side, row by row: [rows * H, columns * W, C]; missing ones are zeros."""
    rows = -(-len(images) // columns)
    n, h, w, c = images.shape
    padded = np.zeros((rows * columns, h, w, c), images.dtype)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


# Decoding -------------------------------------------------------------------------------------------------------------


def to_rgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels, uint8 [H, W, 3], and their opacity, uint8 [H, W], or None if all are opaque by format.

    Turned upright by its EXIF orientation; 16-bit grey is scaled to 8 bits; of several frames, the first.

    Raises: ValueError for float pixels, and whatever Pillow raises for damaged data.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise UserError('float pixels have no defined range')
    if image.mode.startswith('I'):  # 16 bits, stored in 16 or 32: white is 65535
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.repeat(np.round(grey / 257).astype(np.uint8)[..., None], 3, axis=-1), None
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        pixels = np.array(image.convert('RGBA'))
        return pixels[..., :3], pixels[..., 3]
    return np.array(image.convert('RGB')), None


def has_16_bits(image: Image.Image) -> bool:
    """Whether a file's channels have 16 bits, as far as Pillow says it; must be asked before the pixels are read."""
    # Colours with 16 bits have a mode with 8; only the decoder's arguments tell. A BMP has its 16 bits per pixel.
    deep = image.format in ('PNG', 'TIFF') and any(';16' in str(tile) for tile in image.tile)
    return deep or image.mode.startswith('I')


def formats_of(head: bytes) -> tuple[str, ...]:
    """Formats that Pillow may try for a file with these first 12 bytes. Raises: UnreadableImage without its package."""
    if head[4:8] != b'ftyp' or head[8:12] not in HEIF:
        return FORMATS
    try:
        import pillow_heif  # an extra
    except ImportError:
        raise UnreadableImage("a HEIC photograph, which needs: pip install 'pegan_jax[heif]'") from None
    pillow_heif.register_heif_opener()
    return ('HEIF',)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads only the header. Raises UnreadableImage for what is not an image, or has more than max_pixels."""
    if not data:
        raise UnreadableImage('empty file')
    formats = formats_of(data[:12])
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(f'not an image of type {", ".join(formats)}') from error
    except Exception as error:  # Pillow's decoders raise many types on malformed headers
        raise UnreadableImage(f'not an image: {error}') from error
    if image.width * image.height > max_pixels:
        raise UnreadableImage(f'{image.width} x {image.height} pixels, more than data.max_pixels={max_pixels}')
    return image


def decode_image(data: bytes, max_pixels: int, channels: int = 3, *, draft: bool = False) -> np.ndarray:
    """Decodes image bytes (of the FORMATS, and HEIC with the extra `heif`) to uint8 [H, W, channels].

    Turned upright by its EXIF orientation; 16-bit grey is scaled to 8 bits; of several frames, the first.

    Args:
      channels: 1, 3 or 4, as `with_channels` makes them.
      draft: JPEG only: read everything, but compute an eighth of the resolution.
    Raises: UnreadableImage for what is not an image, is truncated, has float pixels, or has more than max_pixels (the
      header tells, before anything is decoded; Pillow's own limit of 179 million applies as well).
    """
    image = _open(data, max_pixels)
    try:
        if draft:
            image.draft(None, (1, 1))
        pixels, alpha = to_rgb(image)
    except Exception as error:  # as above, and truncated data
        raise UnreadableImage(f'cannot be decoded: {error}') from error
    return with_channels(pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], axis=-1), channels)


def decode_raw(data: bytes, max_pixels: int, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of an image: uint8 or uint16 [H, W, 1] if it has no colours, else uint8 [H, W, 3]; and its alpha.

    indices: of a picture with a palette, as masks of labels are, the numbers of the colours instead, uint8 [H, W, 1].
    Turned upright by its EXIF orientation; of several frames, the first. Raises: UnreadableImage as `decode_image`.
    """
    image = _open(data, max_pixels)
    try:
        if has_16_bits(image) and image.mode.startswith('I'):
            grey = np.clip(np.asarray(ImageOps.exif_transpose(image)).astype(np.int64), 0, 65535)
            return grey.astype(np.uint16)[..., None], None
        if indices and image.mode == 'P':
            return np.array(ImageOps.exif_transpose(image))[..., None], None
        pixels, alpha = to_rgb(image)
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        raise UnreadableImage(f'cannot be decoded: {error}') from error
    return pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels, alpha


def read_image(path: Path, max_pixels: int, channels: int = 3) -> np.ndarray:
    """`decode_image` of a file. Raises: UnreadableImage, with its name."""
    try:
        return decode_image(path.read_bytes(), max_pixels, channels)
    except UnreadableImage as error:
        raise UnreadableImage(f'{path}: {error}') from error


# Writing --------------------------------------------------------------------------------------------------------------


def save(image: np.ndarray, path: str | os.PathLike, *, bits: int = 8) -> None:
    """Writes one image [..., C] to a file, like `write`. Raises: ValueError as there."""
    write(as_path(path), [image.reshape(-1, image.shape[-1])], image.shape[:-1], bits)


def check_name(path: Path) -> None:
    """Raises: UserError unless `write` writes files of this name."""
    if path.suffix.lower() not in ('.png', '.npy'):
        raise UserError(f'{path.name}: the suffix is {path.suffix!r}; use .png, or .npy for float32.')
    check_file(path)


def write(path: Path, pieces: Iterable[np.ndarray], shape: tuple[int, ...], bits: int) -> None:
    """Writes colours [n, C] that arrive in pieces, in order, so that memory does not grow with the image.

    Args:
      path: a .png, clamped to [-1, 1] and rounded to `bits`; or .npy, float32 unchanged. It appears when complete. A
        PNG is grey, RGB or RGBA for a C of 1, 3 or 4.
      shape: that of the whole without its last axis; for a PNG (height, width).
      bits: 8 or 16, per channel of a PNG.
    Raises: ValueError for another suffix, other bits, or a PNG of another shape or number of channels.
    """
    check_name(path)
    picture = path.suffix.lower() == '.png'
    if picture and len(shape) != 2:
        raise UserError(f'grid has shape {(*shape, 2)}; a PNG needs [H, W, 2], other coordinates can go to .npy.')
    if bits not in (8, 16):
        raise UserError(f'bits={bits}; a PNG has 8 or 16 per channel.')
    with whole(path) as unfinished, unfinished.open('wb') as file:
        if picture:
            _write_png(file, iter(pieces), *shape, bits)
            return
        for number, piece in enumerate(pieces):
            if number == 0:
                header = {'descr': '<f4', 'fortran_order': False, 'shape': (*shape, piece.shape[-1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(piece.astype('<f4').tobytes())


def _write_png(file: BinaryIO, pieces: Iterator[np.ndarray], height: int, width: int, bits: int) -> None:
    """An image whose pixels arrive in pieces, in order; Pillow writes no 16-bit RGB, and only whole images."""
    first, *_ = head = list(itertools.islice(pieces, 1))
    channels = first.shape[-1]
    if channels not in PNG_COLOURS:
        raise UserError(f'{channels} channels; a PNG has 1 (grey), 3 (RGB) or 4 (RGBA).')

    def block(kind: bytes, data: bytes) -> None:
        file.write(struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)))

    file.write(b'\x89PNG\r\n\x1a\n')
    block(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, PNG_COLOURS[channels], 0, 0, 0))
    compressor, row_bytes = zlib.compressobj(), width * channels * bits // 8
    waiting, above = np.zeros(0, np.uint8), np.zeros((1, row_bytes), np.uint8)
    for piece in itertools.chain(head, pieces):
        levels = to_uint(piece, bits).astype(f'>u{bits // 8}')
        waiting = np.concatenate([waiting, levels.reshape(-1).view(np.uint8)])
        rows = waiting[: len(waiting) // row_bytes * row_bytes].reshape(-1, row_bytes)
        waiting = waiting[rows.size :]
        # Filter 2, the difference from the row above: neighbours are alike, so it compresses well.
        filtered = rows - np.concatenate([above, rows])[: len(rows)]
        above = rows[-1:] if len(rows) else above
        block(b'IDAT', compressor.compress(np.pad(filtered, ((0, 0), (1, 0)), constant_values=2).tobytes()))
    block(b'IDAT', compressor.flush())
    block(b'IEND', b'')
