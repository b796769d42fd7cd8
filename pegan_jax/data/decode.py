"""What an image file shows, by Pillow."""

import numpy as np
from PIL import Image, ImageOps

FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF')


def to_rgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels, uint8 [H, W, 3], and their opacity, uint8 [H, W], or None if all are opaque by format.

    Turned upright by its EXIF orientation; 16-bit grey is scaled to 8 bits; of several frames, the first.

    Raises: ValueError for float pixels, and whatever Pillow raises for damaged data.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise ValueError('float pixels have no defined range')
    if image.mode.startswith('I'):  # 16 bits, stored in 16 or 32: white is 65535
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.repeat(np.round(grey / 257).astype(np.uint8)[..., None], 3, axis=-1), None
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        pixels = np.array(image.convert('RGBA'))
        return pixels[..., :3], pixels[..., 3]
    return np.array(image.convert('RGB')), None


def has_16_bits(image: Image.Image) -> bool:
    """Whether a file's channels have 16 bits, as far as Pillow says it; must be asked before the pixels are read."""
    # Colours of 16 bits have a mode of 8; only the decoder's arguments tell. A BMP of 16 bits has them per pixel.
    deep = image.format in ('PNG', 'TIFF') and any(';16' in str(tile) for tile in image.tile)
    return deep or image.mode.startswith('I')
