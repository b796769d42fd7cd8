"""What training and sampling show of CIPS (Anokhin et al. 2021, sections 3 and 4.3): whole images, patches, arcs.

Real images are turned and cut on the device; D and G share the coordinates of what is left. `config` is that of a run
whose model is a `cips.Config`; patches have random scales.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from pegan_jax import coords, encodings
from pegan_jax.gan import Stage, sample_keys
from pegan_jax.settings import UserError


def doublings(config: Any) -> int:
    """How often the native size doubles to give that of the data: 0, or more for data finer than the native grid."""
    ratio = config.data.size[0] // config.model.size[0]
    return max(ratio.bit_length() - 1, 0)


def stage_at(config: Any, step: int, nimg: int, seed: int) -> Stage:
    """The resolution of the images: the data's, or with `progressive_kimg` the one that is due."""
    model = config.model
    if model.progressive_kimg is None:
        return Stage(config.data.resolution)
    times = 2 ** min(int(nimg // (1000 * model.progressive_kimg)), doublings(config))
    height, width = model.size
    return Stage(times * height if isinstance(model.img_resolution, int) else (times * height, times * width))


def image_grid(model: Any, size: tuple[int, int]) -> jax.Array:
    """The coordinates [H, W, 2] of whole images of a size; on a cylinder, those of the arc about azimuth 0."""
    return coords.grid(*size) if model.panorama_width is None else coords.cylinder_crop(*size, -model.span, model.span)


def prepare(config: Any, batch: dict, key: jax.Array, stage: Stage) -> dict:
    """Rotates and crops real images on the device, and returns the coordinates that D and G share.

    The scale of patches is drawn once per step for the whole batch, everything else per sample.

    Args:
      batch: 'image' [b, *stage.size, C] float32, 'index' [b], and with data.outside 'offset' [b, 2], in pixels of data.
    Returns: the batch with 'image' [b, h, w, C] and 'grid' [b, h, w, 2], of the size that the discriminator sees.
    """
    model = config.model
    size = model.size if model.rotate else stage.size
    scale_key, sample_key = jax.random.split(key)
    scale = jnp.int32(0)
    if model.patch_size is not None:
        scale = jax.random.randint(scale_key, (), 0, scale_count(model, size))

    def one(key: jax.Array, image: jax.Array, offset: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        turn_key, azimuth_key, crop_key = jax.random.split(key, 3)
        if model.rotate:
            image = rotated(image, jax.random.uniform(turn_key, (), maxval=2 * math.pi), size)
        if model.panorama_width is None:
            grid = coords.grid(*size)
        else:
            x0 = jax.random.uniform(azimuth_key, (), minval=-1.0, maxval=1.0)
            grid = coords.cylinder_crop(*size, x0, model.span)
        if offset is not None:  # a stage of another size has the same corners
            grid = grid + coords.pixel_shift(offset, config.data.size)[None, None]
        if model.patch_size is not None:
            start, stride = patch_start(crop_key, size, model.patch_size, scale), 2**scale
            image, grid = (coords.multiscale_crop(a, start, stride, model.patch_size) for a in (image, grid))
        return image, grid

    offset = batch['offset'] if config.data.outside else None
    image, grid = jax.vmap(one)(sample_keys(sample_key, batch['index']), batch['image'], offset)
    return {**batch, 'image': image, 'grid': grid}


def scale_count(model: Any, size: tuple[int, int]) -> int:
    """How many scales of patches are drawn from images of a size.

    `num_scales`; or, as released, log2(native side / patch_size) + 1, which leaves out the coarsest scales of finer
    data.
    """
    most = coords.multiscale_count(min(size), model.patch_size)
    return min(model.num_scales or coords.multiscale_count(min(model.size), model.patch_size), most)


def patch_start(key: jax.Array, size: tuple[int, int], patch: int, scale: jax.Array) -> jax.Array:
    """(row, column), int32 [2], where a patch starts: `coords.multiscale_start`, with each axis' own length."""
    keys = jax.random.split(key)
    starts = [coords.multiscale_start(k, side, patch, scale) for k, side in zip(keys, size, strict=True)]
    return jnp.stack([starts[0][0], starts[1][1]])


def rotated(image: jax.Array, angle: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of an image [H, W, C] turned by `angle` radians about its centre, read bilinearly: [*size, C].

    Pixels keep their pitch. No border is invented as long as H and W are at least the diagonal of `size`.
    """
    height, width, _ = image.shape
    half = jnp.array([size[1] - 1, size[0] - 1], jnp.float32) / 2
    offset = coords.transform(coords.pixel_grid(*size) - half[None, None, :], coords.rotate(angle))
    # The pixel centres of a table of H x W are at (2 j + 1) / W - 1, that is at 2 (j - (W - 1) / 2) / W.
    return encodings.embedding(image, offset * 2 / jnp.array([width, height], jnp.float32)[None, None, :])


def view(config: Any, size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """The grid of images of another size, with the same distance between samples, and of a scene that a matrix moves.

    Args:
      size: (height, width); None: that of the samples in training; the borders are then those of their frame.
      transform: [3, 3] on positions in units of the frame's shorter side, about its middle.
    Returns: {'grid'}, an option of `cips.images`.
    Raises: ValueError for a matrix of another shape.
    """
    model = config.model
    native = model.size if model.rotate else config.data.size
    height, width = native if size is None else size
    y = (height - 1) / max(native[0] - 1, 1)
    if model.panorama_width is None:
        frame, low, high = 1.0, -(width - 1) / max(native[1] - 1, 1), (width - 1) / max(native[1] - 1, 1)
    else:  # The last column of a whole circle would repeat the first, so the end is left out.
        frame, low, high = model.span, -model.span * width / native[1], model.span * (width - 2) / native[1]
    grid = coords.grid(height, width, x=(low, high), y=(-y, y))
    if transform is None:
        return {'grid': grid}
    if jnp.shape(transform) != (3, 3):
        raise UserError(f'transform has shape {jnp.shape(transform)}; CIPS takes one matrix [3, 3] for all images.')
    unit = coords.zoom(native[1] / min(native) / (2 * frame), native[0] / min(native) / 2)
    return {'grid': coords.transform(grid, coords.compose(unit, jnp.asarray(transform), jnp.linalg.inv(unit)))}
