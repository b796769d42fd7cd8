"""What the studies of holes share: a hole in the middle, images, models with random weights."""

from collections.abc import Sequence

import jax
import numpy as np

from pegan_jax.config import DataConfig, load_config, system_module
from pegan_jax.evaluation import read_images
from pegan_jax.pixels import as_floats
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError


def share_of_hole(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of hole pixels under each position of a smaller map: [N, H, W, 1] -> [N, h, w]."""
    n, height, width, _ = mask.shape
    blocks = np.asarray(mask).reshape(n, size[0], height // size[0], size[1], width // size[1])
    return blocks.mean(axis=(2, 4))


def box_mask(height: int, width: int) -> np.ndarray:
    """A box of half the height and width in the middle, from multiples of 8: [1, height, width, 1] float32.

    Raises: ValueError for sides under 32, which have no room for it.
    """
    if min(height, width) < 32:
        raise UserError(f'a hole in the middle of {height} x {width} pixels; both sides must be at least 32.')
    mask = np.zeros((1, height, width, 1), np.float32)
    top, left = (n // 4 // 8 * 8 for n in (height, width))
    mask[:, top : height - top, left : width - left] = 1
    return mask


def random_models(names: Sequence[str], key: jax.Array) -> dict[str, Model]:
    """Shipped configurations with random weights, by name."""
    models = {}
    for name in names:
        config = load_config(name)
        gan = system_module(config.system).build(config)
        params, buffers, _ = jax.jit(gan.init)(key)
        models[name] = Model(config, gan, {'params': params['g'], 'buffers': buffers['g']}, 0)
    return models


def worlds_for(models: dict[str, Model], count: int = 4) -> np.ndarray:
    """Procedural worlds that training does not see, of the models' size: [count, H, W, C] float32 in [-1, 1].

    Raises: ValueError for models of several sizes or numbers of channels.
    """
    sizes = {model.config.data.size for model in models.values()}
    if len(sizes) > 1:
        raise UserError(f'the models are for images of {sorted(sizes)}; compare models of one size.')
    channels = {model.config.data.channels for model in models.values()}
    if len(channels) > 1:
        raise UserError(f'the models are for images of {sorted(channels)} channels; compare models of one kind.')
    images = read_images(DataConfig(tfds='worlds', resolution=sizes.pop(), channels=channels.pop()), count)
    return as_floats(images)
