"""SinGANs of the original program: a folder with Gs.pth, Zs.pth, NoiseAmp.pth and reals.pth.

Each file is a list with an entry per scale, coarse to fine: generators, pickled whole; the noises that make the
reconstruction, padded; amplitudes; the image in the size of the scale. Images are RGB.
"""

import os
from typing import Any

import numpy as np

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from pegan_jax.files import Path, as_path
from pegan_jax.interop import singan as mmgen
from pegan_jax.interop.imported import Imported
from pegan_jax.models import singan
from pegan_jax.weights import contents, reader
from pegan_jax.weights.contents import ForeignFileError

LICENCE = (
    'Converted weights keep the rights of their source: the licence of the SinGAN program, and the rights in the image '
    'that was learned; converting them grants no other.'
)

FILES = ('Gs', 'Zs', 'NoiseAmp', 'reals')


def find(path: str | os.PathLike) -> Path | None:
    """The folder that a path names, directly or by one of its files; None if there is no Gs.pth."""
    path = as_path(path)
    folder = path.parent if path.name in {f'{name}.pth' for name in FILES} else path
    return folder if (folder / 'Gs.pth').is_file() else None


def read(folder: Path) -> dict[str, Any]:
    """{'Gs': [...], 'Zs': [...], 'NoiseAmp': [...], 'reals': [...]}. Raises: ForeignFileError if a file is missing."""
    if missing := [f'{name}.pth' for name in FILES if not (folder / f'{name}.pth').is_file()]:
        raise ForeignFileError(
            f'{folder} has a Gs.pth but not {" and ".join(missing)}; the four files of TrainedModels belong together.'
        )
    return {name: reader.read(folder / f'{name}.pth') for name in FILES}


def recognises(tree: Any) -> bool:
    """Whether what `read` returned is one of these."""
    return isinstance(tree, dict) and tree.keys() == set(FILES)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """{'Gs.0.head.conv.weight': array, ..., 'Zs.0': ..., 'reals.0': ...}."""
    return contents.arrays(tree)


def _lists(tree: Any) -> tuple[list, list, np.ndarray, list]:
    """Generators, noises, amplitudes and images, one of each per scale."""
    generators, zs, amp, reals = (tree[name] for name in FILES)
    if not all(isinstance(found, list) for found in (generators, zs, amp, reals)) or not generators:
        raise ForeignFileError('its four files are not all lists with an entry per scale.')
    if not len(generators) == len(zs) == len(amp):
        raise ForeignFileError(f'has {len(generators)} generators, {len(zs)} noises and {len(amp)} amplitudes.')
    if not all(isinstance(a, np.ndarray) and a.ndim == 4 and len(a) == 1 for a in (*zs, *reals)):
        raise ForeignFileError('the noises or images are not all arrays of shape (1, channels, height, width).')
    if len(reals) < len(generators):
        raise ForeignFileError(f'has {len(generators)} generators but only {len(reals)} images.')
    return generators, zs, np.asarray([np.asarray(a).reshape(()) for a in amp], np.float32), reals[: len(generators)]


def _networks(generators: list) -> dict[str, np.ndarray]:
    found = {f'blocks.{s}.{name}': a for s, g in enumerate(generators) for name, a in contents.arrays(g).items()}
    return mmgen.folded(found)


def infer(tree: Any) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run with this model, and {setting: value} of what the files tell."""
    generators, zs, _, reals = _lists(tree)
    found = _networks(generators)
    first, tail = (found.get(f'blocks.0.{name}.conv.weight') for name in ('head', 'tail'))
    if first is None or tail is None or first.ndim != 4 or tail.ndim != 4:
        raise ForeignFileError('is not a SinGAN: the first generator has no head and tail of convolutions.')
    kernel = first.shape[2]
    layers = sum(name.startswith('blocks.0.') and name.endswith('conv.weight') for name in found)
    margin = (kernel - 1) // 2 * layers
    sizes = [image.shape[2:] for image in reals]
    fields = {
        'img_channels': tail.shape[0],
        'kernel_size': kernel,
        'num_layers': layers,
        'base_channels': first.shape[0],
        'min_feat_channels': tail.shape[1],
        'padding': 'noise' if np.any(_border(zs[0], margin)) else 'zero',
        'max_size': max(sizes[-1]),
        'min_size': min(sizes[0]),
    }
    try:
        config = Config(
            'singan',
            singan.Config(**fields),
            DataConfig(image='unknown', channels=tail.shape[0]),
            OptimConfig(g_lr=5e-4, d_lr=5e-4, beta1=0.5, beta2=0.999),
            TrainConfig(batch_size=1, keep_best=0),
        )
    except ConfigError as error:
        raise ForeignFileError(f'does not describe a SinGAN of this library: {error}') from None
    return config, fields | {'scales': ', '.join(f'{h}x{w}' for h, w in sizes)}


def _border(noise: np.ndarray, margin: int) -> np.ndarray:
    """The part of a padded noise that lies outside the image."""
    inner = noise.copy()
    inner[:, :, margin:-margin, margin:-margin] = 0
    return inner


def load(tree: Any, *, sampling_only: bool = False) -> Imported:
    """Converts what `read` returned, to sample from and to edit with; no file has the critics.

    Raises: ForeignFileError if one array is left over, missing or misshapen.
    """
    config, inferred = infer(tree)
    generators, zs, amp, reals = _lists(tree)
    model = config.model
    net = mmgen.networks(model, _networks(generators), '', len(generators), singan.g_block, bgr=False)
    z, crop = zs[0], model.margin - model.noise_margin
    z = z[:, :, crop : z.shape[2] - crop, crop : z.shape[3] - crop]
    wanted = tuple(side + 2 * model.noise_margin for side in reals[0].shape[2:])
    if z.shape[2:] != wanted or any(np.any(noise) for noise in zs[1:]):
        raise ForeignFileError(
            f'the first noise is {"x".join(map(str, zs[0].shape[2:]))} with its padding of {model.margin}, which does '
            f'not fit the image of {"x".join(map(str, reals[0].shape[2:]))}, or the later noises are not all zero.'
        )
    if np.any(z != z[:, :1]):
        raise ForeignFileError('the first noise differs between its channels, which the original program never does.')
    buffers = {
        'stats': net['stats'],
        'noise': _nhwc(z[:, :1]),
        'amp': amp,
        'scale': np.int32(len(generators) - 1),
        'reals': {f'scale{s}': _nhwc(image) for s, image in enumerate(reals)},
    }
    return Imported(config, inferred, {'params': net['params'], 'buffers': buffers}, None)


def _nhwc(array: np.ndarray) -> np.ndarray:
    return np.asarray(array[0].transpose(1, 2, 0), np.float32)
