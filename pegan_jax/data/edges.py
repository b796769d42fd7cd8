"""Line drawings of images, which replace a user's sketch in training: 255 is a line, 0 is none."""

import logging
import pathlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from pegan_jax.data import sources
from pegan_jax.files import Path, absolute, whole
from pegan_jax.pixels import UnreadableImage, read_image, with_channels
from pegan_jax.settings import DataConfig, UserError

logger = logging.getLogger(__name__)

Method = Literal['canny', 'dog']

SIGMA = 1.4  # of the Gaussian, in pixels


def extract(image: np.ndarray, method: Method) -> np.ndarray:
    """Lines of an image, made thicker by a pixel on both sides, about as thick as those of HED.

    Grey values are 0.299 R + 0.587 G + 0.114 B; RGBA is put over black.
    'canny': Canny's edges of grey values, with thresholds at a tenth and a fifth of the largest gradient.
    'dog': where the gradient of the Gaussian-blurred grey values (derivative of Gaussian) exceeds 0.6 times its 99.5th
    percentile; no thinning.

    Args:
      image: uint8 [H, W, C], with 1, 3 or 4 channels.
    Returns: uint8 [H, W, 1].
    Raises: ValueError for another method.
    """
    from skimage import feature, filters  # takes long to import

    if image.shape[-1] != 3:
        image = with_channels(image, 3)
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    if method not in ('canny', 'dog'):
        raise UserError(f"method={method!r} of edges; use 'canny' or 'dog'.")
    blurred = ndimage.gaussian_filter(grey, SIGMA, mode='nearest')
    # Gradients below one grey level per pixel are noise in flat images.
    if method == 'canny':
        # In the units of skimage's Canny: sums of Sobel's weights, which are 8 times a difference between neighbours.
        gradient = np.hypot(*(ndimage.sobel(blurred, axis, mode='nearest') for axis in (0, 1)))
        largest = max(gradient.max(), 8 / 255)
        lines = feature.canny(grey, SIGMA, 0.1 * largest, 0.2 * largest, mode='nearest')
    else:
        gradient = filters.sobel(blurred, mode='nearest')
        lines = gradient > 0.6 * max(np.percentile(gradient, 99.5), 1 / 255)
    lines = ndimage.binary_dilation(lines, np.ones((3, 3)))
    return lines[..., None].astype(np.uint8) * 255


def extract_folder(
    folder: Path, out: Path, draw: Callable[[np.ndarray], np.ndarray], *, progress: bool = False
) -> tuple[int, int]:
    """Draws the lines of all images in a folder: those of NAME as NAME_edge.png, in the same sub-folders of `out`.

    Training finds them if `out` is the folder itself. Images that cannot be read are left out, with a warning.

    Args:
      draw: uint8 [H, W, 3] -> uint8 [H, W, 1], such as `extract` by a method.
    Returns: how many were drawn, out of how many images.
    Raises: UserError if the folder has no image, `out` lies inside it, or two images would share a drawing.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder of images.')
    if absolute(folder) in absolute(out).parents:
        raise UserError(
            f'{out} lies inside of {folder}, whose images would then include the edges; choose the folder itself, or '
            'one outside.'
        )
    names = sources.image_names(folder)
    names = sorted(set(names) - set(sources.edge_files(names).values()))
    if not names:
        known = ', '.join('*' + suffix for suffix in sources.SUFFIXES)
        raise UserError(f'{folder} holds no image; expected files named {known}.')
    targets = {}
    for name in names:
        target = pathlib.PurePath(name).with_suffix('')
        targets.setdefault(out / target.with_name(f'{target.name}_edge.png'), []).append(name)
    if twice := [shared for shared in targets.values() if len(shared) > 1]:
        raise UserError(f'{" and ".join(twice[0])} would share one file of edges; rename all but one of them.')
    drawn = 0
    for target, (name,) in tqdm(targets.items(), 'edges', unit='image', disable=not progress):
        try:
            image = read_image(folder / name, DataConfig.max_pixels)
        except (UnreadableImage, OSError) as error:
            logger.warning('left out: %s', error)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as unfinished:
            Image.fromarray(draw(image)[..., 0]).save(unfinished, 'PNG')
        drawn += 1
    return drawn, len(names)
