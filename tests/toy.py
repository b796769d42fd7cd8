"""The example of a system, on random images: what tests of the trainer run, as it compiles in no time."""

import dataclasses

import numpy as np
from example import waves
from example.waves_config import SYSTEMS, get_config
from PIL import Image

from pegan_jax.config import override

__all__ = [
    'SYSTEMS', 'Config', 'assert_equal_up_to_rounding', 'get_config', 'settings', 'toy_batch', 'toy_gan',
    'write_images',
]  # fmt: skip

SIDE = 8
Config = waves.Config


def toy_gan(lr=0.02):
    """The system, with this learning rate for G and D."""
    config = get_config()
    return waves.build(dataclasses.replace(config, optim=dataclasses.replace(config.optim, g_lr=lr, d_lr=lr)))


def toy_batch(step, size):
    """uint8 images [size, SIDE, SIDE, 3], equal on every process."""
    return np.random.default_rng(step).integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)


def write_images(folder, count):
    """`toy_batch` as PNG files 0.png, 1.png ...; returns the folder."""
    for i, image in enumerate(toy_batch(0, count)):
        Image.fromarray(image).save(folder / f'{i}.png')
    return folder


def settings(folder, *overrides):
    """The example's configuration on a folder of images, with fields of its section train, such as 'keep=1'."""
    return override(get_config(str(folder)), [f'train.{item}' for item in overrides])


def assert_equal_up_to_rounding(got, want, name=''):
    """Sums in another order: within 1e-4 of the largest entry. A factor or other random numbers are far outside.

    Sums are of numbers of about 1, as images and scores are, also those that come out near 0.
    """
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max() + 1e-5, err_msg=name)
