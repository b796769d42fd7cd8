"""pegan_jax: GANs that know where a pixel is."""

from pegan_jax import coords, encodings, filters, losses, ops
from pegan_jax.config import Config, load_config
from pegan_jax.gan import GAN, Stage, Update
from pegan_jax.inpainting import inpaint
from pegan_jax.interop import convert
from pegan_jax.sampling import Model, interpolate, load, render, sample
from pegan_jax.train.state import TrainState

__version__ = '0.1.0'

__all__ = [
    'GAN',
    'Config',
    'Model',
    'Stage',
    'TrainState',
    'Update',
    'convert',
    'coords',
    'encodings',
    'filters',
    'inpaint',
    'interpolate',
    'load',
    'load_config',
    'losses',
    'ops',
    'render',
    'sample',
]
