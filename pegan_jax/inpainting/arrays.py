"""Completes images with holes, as arrays: by a trained model, or without one."""

import functools
from typing import Any

import jax
import numpy as np

from pegan_jax.models import attention, deepfill
from pegan_jax.pixels import to_uint8
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError


def inpaint(model: Model, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None = None) -> np.ndarray:
    """Fills the holes of one image, or of several of one size, each with a mask of its own.

    Args:
      model: from `pegan_jax.load`, of the system 'deepfill' or 'pconv'.
      image: [H, W, C] or [N, H, W, C] uint8, of any size; what it shows in the holes does not matter.
      mask: [H, W] or [N, H, W] of 0 and 1 (or booleans): 1 is a hole.
      sketch: like mask, for a guided model: 1 is a line; only lines in the holes count.
    Returns: as image; known pixels are those of the image.
    Raises: ValueError for other types and shapes, a mask without a known pixel, a sketch for a model that takes none.
    """
    image, mask, sketch = _checked(model, image, mask, sketch)
    single = image.ndim == 3
    batch = [None if a is None else a[None] if single else a for a in (image, mask, sketch)]
    out = composite(batch[0], batch[1], _run(model, *batch))
    return out[0] if single else out


def attention_flow(model: Model, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None = None) -> np.ndarray:
    """Where the contextual attention of a DeepFillv2 copies from, as colours: hue is direction, white is no offset.

    Args: as `inpaint`, for one image.
    Returns: [H, W, 3] uint8; each block of 8 x 8 pixels has one colour.
    Raises: ValueError as `inpaint`, and for models without attention.
    """
    check_attention(model)
    image, mask, sketch = _checked(model, image, mask, sketch)
    if image.ndim != 3:
        raise UserError(f'image has the shape {image.shape}; the flow is that of one image, [H, W, C].')
    height, width = mask.shape
    padded = inputs(model, *(None if a is None else a[None] for a in (image, mask, sketch)))
    offsets = _offsets(model.config.model, model.variables['params'], padded)
    picture = to_uint8(attention.flow_picture(offsets, rate=1))[0]
    return picture.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


@functools.partial(jax.jit, static_argnums=0)
def _offsets(config: Any, params: dict, inputs: dict) -> jax.Array:
    return deepfill.generate(config, params, inputs).offsets


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills the holes smoothly, without a model: the solution of the biharmonic equation, by scikit-image.

    A baseline: it continues shades and does not invent texture.

    Args: image [H, W, C] or [N, H, W, C] uint8; mask [H, W] or [N, H, W], 1 is a hole.
    Returns: as image; known pixels are those of the image.
    Raises: ValueError as `inpaint`.
    """
    from skimage.restoration import inpaint_biharmonic  # takes long to import

    image, mask, _ = _checked(None, image, mask, None)
    if image.ndim == 4:
        return np.stack([biharmonic(*pair) for pair in zip(image, mask, strict=True)])
    if not mask.any():
        return image.copy()
    filled = inpaint_biharmonic(image / 127.5 - 1, mask, split_into_regions=True, channel_axis=-1)
    return composite(image, mask, filled)


def composite(image: np.ndarray, mask: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """uint8 pixels of the image where the mask is 0, and those of `filled`, in [-1, 1], where it is 1."""
    return np.where(mask[..., None], to_uint8(filled), image)


def _checked(
    model: Model | None, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The arguments of `inpaint`, with the mask as booleans."""
    if model is not None:
        check_model(model, sketch=sketch is not None)
    image, mask = np.asarray(image), np.asarray(mask)
    channels = (1, 3, 4) if model is None else (model.config.data.channels,)
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] not in channels:
        c = ' or '.join(map(str, channels))
        raise UserError(f'image is {image.dtype} {image.shape}; expected uint8 [H, W, C] or [N, H, W, C], C = {c}.')
    for name, array in (('mask', mask), ('sketch', sketch)):
        if array is None:
            continue
        array = np.asarray(array)
        if array.shape != image.shape[:-1]:
            raise UserError(f'{name} has the shape {array.shape}, the image {image.shape}; expected the same pixels.')
        if not np.isin(array, (0, 1)).all():
            raise UserError(f'{name} has other values than 0 and 1; for a grey image, pass {name} > 127.')
    mask = mask.astype(bool)
    if mask.all(axis=(-2, -1)).any():
        raise UserError(
            'the mask is 1 everywhere, so that nothing is known which the hole could be filled from; 1 (white) is the '
            'hole: is it inverted?'
        )
    return image, mask, None if sketch is None else np.asarray(sketch).astype(np.float32)


def check_model(model: Model, *, sketch: bool = False) -> None:
    """Raises: ValueError if a model does not complete images, or is given sketches and takes none."""
    completer = model.completer  # which others do not have
    if sketch and not completer.guided:
        why = 'it was trained without'
        if getattr(model.config.model, 'guided', False):
            why = f'model.conv_type={model.config.model.conv_type!r} sees no lines in holes, multiplied by the mask'
        raise UserError(
            f'this model takes no sketch: {why}. Leave the sketch out, or use a DeepFillv2 with model.guided=True and '
            "model.conv_type='gated' or 'vanilla', such as configs/deepfill.py:guided."
        )


def check_attention(model: Model) -> None:
    """Raises: ValueError for models without attention."""
    if not isinstance(model.config.model, deepfill.Config):
        raise UserError(f'the model is of system {model.config.system!r}, which has no attention; deepfill has.')


def padded_size(model: Model, size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) that a model computes for an image of a size: rounded up to the multiples that it needs."""
    multiple = model.completer.side_multiple
    return tuple(-(-side // multiple) * multiple for side in size)


def inputs(model: Model, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None) -> dict[str, np.ndarray]:
    """Inputs of `Completer.complete`: batches, padded at the end with the last row and column, which count as known."""
    size = mask.shape[1:]
    pad = [(0, 0), *((0, n - m) for n, m in zip(padded_size(model, size), size, strict=True)), (0, 0)]
    arrays = {
        'image': np.pad(image.astype(np.float32) / 127.5 - 1, pad, 'edge'),
        'mask': np.pad(mask[..., None].astype(np.float32), pad),
    }
    if model.completer.guided:
        lines = np.zeros(mask.shape, np.float32) if sketch is None else sketch
        arrays['sketch'] = np.pad(lines[..., None], pad)
    return arrays


def _run(model: Model, image: np.ndarray, mask: np.ndarray, sketch: np.ndarray | None) -> np.ndarray:
    height, width = mask.shape[1:]
    return np.asarray(model.complete(inputs(model, image, mask, sketch)))[:, :height, :width]
