"""What systems that complete images share: masks for training, checks, and how a completion is put together.

Masks are 1 in holes and 0 elsewhere. A `model` has the fields img_resolution, masks and mask_folder.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.data import mask_files, masks
from pegan_jax.gan import sample_keys
from pegan_jax.settings import ConfigError


def check_masks(model: Any) -> None:
    """Raises ConfigError unless there is a folder of masks if, and only if, masks come from one."""
    if (model.masks == 'folder') != (model.mask_folder is not None):
        raise ConfigError(
            f"model.masks={model.masks!r} and model.mask_folder={model.mask_folder!r}: masks='folder' needs one, and "
            'the other masks have none.'
        )


def check_data(config: Any) -> None:
    """Raises ConfigError unless images have the model's size."""
    data, model = config.data, config.model
    if data.size != model.size:
        raise ConfigError(
            f'data.resolution={data.resolution} differs from model.img_resolution={model.img_resolution}: set both to '
            'the same size.'
        )


def check_shapes(multiple: int, channels: int, image: jax.Array, planes: dict[str, jax.Array]) -> None:
    """Raises ValueError unless image is [N, H, W, channels], sides multiples, and planes are [1 or N, H, W, 1]."""
    n, height, width = image.shape[:3] if image.ndim == 4 else (0, 0, 0)
    if image.shape != (n, height, width, channels) or not n or height % multiple or width % multiple:
        raise ValueError(
            f'image of shape {image.shape}; expected [N, H, W, {channels}] with sides that are multiples of {multiple}.'
        )
    for name, plane in planes.items():
        if plane.shape not in ((1, height, width, 1), (n, height, width, 1)):
            raise ValueError(f'{name} of shape {plane.shape}; expected [1 or {n}, {height}, {width}, 1].')


def folder_masks(model: Any) -> Callable | None:
    """`GAN.rows` with masks='folder': 'mask', bool [n, H, W], any of its masks. None: masks are drawn on the device.

    Files are read at the first call: a model can be used without its masks.
    """
    if model.masks != 'folder':
        return None
    read = functools.cache(lambda: mask_files.read_folder(model.mask_folder, *model.size).astype(bool))

    def rows(seed: int, numbers: Iterable[int]) -> dict[str, np.ndarray]:
        found = read()
        return {'mask': found[[np.random.default_rng((seed, n)).integers(len(found)) for n in numbers]]}

    return rows


def step_mask(model: Any, batch: dict, key: jax.Array) -> jax.Array:
    """One mask for all images of a step, on all devices: it depends only on the step. [1, H, W, 1] float32."""
    if 'mask' in batch:
        return batch['mask'][:1, ..., None].astype(jnp.float32)
    return masks.draw(key, *model.size, model.masks)[None]


def row_masks(model: Any, batch: dict, key: jax.Array) -> jax.Array:
    """A mask for every row of a batch, [N, H, W, 1] float32."""
    if 'mask' in batch:
        return batch['mask'][..., None].astype(jnp.float32)
    return jax.vmap(lambda key: masks.draw(key, *model.size, model.masks))(sample_keys(key, batch['index']))


def composite(refined: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The generated pixels in the holes, elsewhere exactly those of the image."""
    return refined * mask + image * (1 - mask)
