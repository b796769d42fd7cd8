"""A small feature network that comes with the package, so that a fresh install has a score of distributions.

It was trained on the procedural worlds (benchmarks/worlds_network.py) to tell how an image was degraded, if at all, and
what the world is: horizon, hour, season, colours. Its distances are meaningful for images of that kind.
"""

import functools
import importlib.resources
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops import conv2d

SIDE, FEATURES = 64, 128
CHANNELS = (32, 64, 96, 128)


class WorldsNet(nn.Module):
    """Images [N, 64, 64, 3] in [-1, 1] -> features [N, 128], and `outputs` numbers that one layer makes of them."""

    outputs: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        for n, channels in enumerate(CHANNELS):
            kernel = self.param(f'conv{n}', nn.initializers.he_normal(), (3, 3, x.shape[-1], channels))
            bias = self.param(f'bias{n}', nn.initializers.zeros, (channels,))
            x = jax.nn.leaky_relu(conv2d(x, kernel, padding=1, stride=2) + bias[None, None, None, :], 0.2)
        features = jax.nn.leaky_relu(nn.Dense(FEATURES, name='features')(x.reshape(len(x), -1)), 0.2)
        return features, nn.Dense(self.outputs, name='outputs')(features) if self.outputs else None


@functools.cache
def load_worlds() -> dict:
    """Parameters of `WorldsNet`, without outputs, as they come with the package."""
    data = importlib.resources.files('pegan_jax.weights').joinpath('worlds.npz').read_bytes()
    with np.load(io.BytesIO(data)) as file:
        flat = {name: file[name].astype(np.float32) for name in file.files}
    tree = {name: array for name, array in flat.items() if '/' not in name}
    return tree | {'features': {k: flat[f'features/{k}'] for k in ('kernel', 'bias')}}


def worlds_features(params: dict, images: jax.Array) -> jax.Array:
    """Features [N, 128] of images uint8 [N, H, W, 3], resized bilinearly to 64 x 64, antialiased."""
    x = images.astype(jnp.float32) / 127.5 - 1
    x = jax.image.resize(x, (len(x), SIDE, SIDE, 3), 'linear', antialias=True)
    return WorldsNet().apply({'params': params}, x)[0]
