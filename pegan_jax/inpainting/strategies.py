"""Large photographs: filled as they are, made smaller, or in windows around their holes, as IOPaint offers it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from pegan_jax.inpainting.arrays import attention_flow, biharmonic, inpaint
from pegan_jax.pixels import as_image
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

Fill = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]  # image, mask, sketch -> image
NAMES = ('original', 'resize', 'crop')
STEP = 64  # sides of windows are multiples of it if the image allows, so that few programs are compiled


class Strategy(NamedTuple):
    """How a photograph is brought to a model.

    name: 'original', as it is; 'resize', smaller, and what fills the holes is enlarged again; 'crop', a window around
      every hole, at full resolution.
    margin: for 'crop', how many pixels around a hole the model sees.
    limit: for 'resize', the longer side in pixels; smaller images stay as they are.
    """

    name: Literal['original', 'resize', 'crop'] = 'original'
    margin: int = 128
    limit: int = 1024


ORIGINAL = Strategy()


def check_strategy(strategy: Strategy) -> None:
    """Raises: UserError for an unknown name, or an impossible margin or limit."""
    if strategy.name not in NAMES:
        raise UserError(f'strategy={strategy.name!r}; use {", ".join(NAMES)}.')
    if strategy.margin < 8:
        raise UserError(f'margin={strategy.margin} must be at least 8: a hole is filled from what is around it.')
    if strategy.limit < 64:
        raise UserError(f'limit={strategy.limit} must be at least 64 pixels.')


def inpaint_by(
    strategy: Strategy,
    model: Model | None,
    image: np.ndarray,
    mask: np.ndarray,
    sketch: np.ndarray | None = None,
    *,
    flow: bool = False,
) -> np.ndarray:
    """`inpaint` of one image, by a strategy; known pixels stay as they are, bit for bit.

    Args:
      model: None means `biharmonic`.
      flow: fill the holes with the colours of `attention_flow` instead.
    Returns: as image, [H, W, C] uint8.
    Raises: UserError as `check_strategy` and `inpaint`.
    """
    check_strategy(strategy)

    def fill(image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None) -> np.ndarray:
        if model is None:
            return biharmonic(image, mask)
        return attention_flow(model, image, mask, sketch) if flow else inpaint(model, image, mask, sketch)

    image, mask = np.asarray(image), np.asarray(mask).astype(bool)
    if strategy.name == 'resize' and max(mask.shape) > strategy.limit:
        filled = _smaller(strategy.limit, fill, image, mask, sketch)
    elif strategy.name == 'crop' and mask.any():
        filled = image.copy()
        for window in windows(mask, strategy.margin):
            filled[window] = fill(image[window], mask[window], None if sketch is None else sketch[window])
    else:
        filled = fill(image, mask, sketch)
    return np.where(mask[..., None], filled, image)


def _smaller(limit: int, fill: Fill, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None) -> np.ndarray:
    """`fill` of the image whose longer side is `limit`, enlarged again: [H, W, C].

    A small pixel is the mean of those that it covers, and is a hole (or on a line) if any of them is. Raises: UserError
    if scattered small holes thereby become one.
    """
    height, width = mask.shape
    size = tuple(max(round(side * limit / max(mask.shape)), 1) for side in (width, height))

    def resized(pixels: np.ndarray, size: tuple[int, int], kernel: Image.Resampling) -> np.ndarray:
        planes = [as_image(plane[..., None]).resize(size, kernel) for plane in np.moveaxis(pixels, -1, 0)]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)

    def any_of(plane: np.ndarray) -> np.ndarray:
        # As floats: in 8 bits, a small share would round to nothing.
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0

    small = resized(image, size, Image.Resampling.BOX)
    small_mask = any_of(mask)
    if small_mask.all() and not mask.all():
        raise UserError(
            f'limit={limit}: a hole is in every pixel of the smaller image, {size[1]} x {size[0]}, so that nothing '
            'known is left; use the strategy crop or original, or a larger limit.'
        )
    filled = fill(small, small_mask, None if sketch is None else any_of(sketch))
    return resized(filled, (width, height), Image.Resampling.BICUBIC)


def windows(mask: np.ndarray, margin: int) -> list[tuple[slice, slice]]:
    """Windows (rows, columns) around the holes of a mask [H, W], `margin` pixels wider, that do not overlap."""
    from scipy.ndimage import find_objects, label, maximum_filter  # takes long to import

    found = find_objects(label(maximum_filter(mask.astype(np.uint8), 2 * margin + 1))[0])
    while True:
        taken, rounded = np.zeros(mask.shape, bool), [_rounded(window, mask.shape) for window in found]
        for window in rounded:
            taken[window] = True
        found = find_objects(label(taken)[0])  # those that overlap or touch are one
        if len(found) == len(rounded):
            return rounded


def _rounded(window: tuple[slice, slice], shape: tuple[int, int]) -> tuple[slice, slice]:
    """A window whose sides are the next multiples of STEP, or those of the image, moved to lie inside the image."""
    out = []
    for part, side in zip(window, shape, strict=True):
        length = part.stop - part.start
        rounded = min(-(-length // STEP) * STEP, side)
        low = min(max(part.start - (rounded - length) // 2, 0), side - rounded)
        out.append(slice(low, low + rounded))
    return tuple(out)
