"""pegan_jax: GANs that know where a pixel is."""

import importlib
from typing import Any

from pegan_jax import coords, encodings, filters, losses, ops
from pegan_jax.gan import GAN, Stage, Update

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
    'explore',
    'export',
    'filters',
    'inpaint',
    'interpolate',
    'load',
    'load_config',
    'losses',
    'ops',
    'push',
    'render',
    'sample',
]

# Imported when first asked for: they bring Optax, Orbax and SciPy, which take as long to import as JAX.
_LATER = {
    'Config': 'config', 'load_config': 'config', 'TrainState': 'train.state', 'Model': 'sampling', 'load': 'sampling',
    'sample': 'sampling', 'interpolate': 'sampling', 'render': 'sampling', 'inpaint': 'inpainting',
    'convert': 'interop', 'explore': 'explorer', 'export': 'sharing', 'push': 'sharing',
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_LATER[name]}'), name)


def __dir__() -> list[str]:
    return __all__
