"""Feature networks by name: what scores compare, with the files that their weights come from."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.weights import inception, perceptual, public, vit
from pegan_jax.weights.worlds import load_worlds, worlds_features

RESIZE = ('published', 'clean')


def exactly(run: Callable) -> Callable:
    """run, with full float32 precision: GPUs and TPUs round products to 10 or 8 bits unless told not to."""

    @functools.wraps(run)
    def exact(*args: Any) -> Any:
        with jax.default_matmul_precision('highest'):
            return run(*args)

    return exact


class Network(NamedTuple):
    """A function of images.

    identity: differs whenever features may differ: weights, what is done to images.
    features: (params, images uint8 [N, H, W, 3]) -> [N, ...]; the caller compiles it. None: rows are taken as they
      are.
    params: its weights.
    about: which network, and the SHA-256 of its file.
    classifier: [features, classes] of the last layer, for Inception Score.
    """

    identity: str
    features: Callable | None = None
    params: Any = None
    about: Mapping[str, Any] = {}
    classifier: np.ndarray | None = None


ROWS = Network('rows')
FILES = {
    'inception': 'inception',
    'vgg16_fc': 'vgg16',
    'vgg16': 'lpips',
    'stem': 'inception_imagenet',
    'lpips': 'lpips',
    'dinov2': 'dinov2',
    'clip': 'clip',
}

_TRANSFORMERS = {'dinov2': (vit.load_dinov2, vit.dinov2_features), 'clip': (vit.load_clip, vit.clip_features)}


def _files(name: str, given: Mapping[str, pathlib.Path]) -> list[str]:
    """Names of the files of a network; LPIPS also takes torchvision's VGG-16 if only its heads are given."""
    return ['vgg16', 'lpips_heads'] if FILES[name] == 'lpips' and 'lpips_heads' in given else [FILES[name]]


def _inception(params: dict, images: jax.Array, *, resize: str) -> jax.Array:
    return inception.InceptionV3().apply({'params': params}, inception.prepare(images, resize))


def _stem(params: dict, images: jax.Array) -> jax.Array:
    maps = inception.Stem().apply({'params': params}, images.astype(jnp.float32) / 127.5 - 1)
    return maps.reshape(len(maps), -1, maps.shape[-1])


def open_network(
    name: str, given: Mapping[str, pathlib.Path], cache: pathlib.Path, *, fetch: bool = False, resize: str = 'published'
) -> Network:
    """A network by its name in `metrics.names`.

    Args:
      given, cache, fetch: as for `public.find`.
      resize: that of images for Inception-v3, see `inception.prepare`.
    Raises: UserError if its file is not at hand, ForeignFileError if the file is another one.
    """
    if name == '':
        return ROWS
    if name == 'worlds':
        params = load_worlds()
        digest = hashlib.sha256(b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(params))).hexdigest()
        return Network(f'worlds {digest}', worlds_features, params, {'network': 'worlds', 'sha256': digest})
    files = [public.find(file, given, cache, fetch=fetch) for file in _files(name, given)]
    about = {'network': name, 'file': [str(f.path) for f in files], 'sha256': [f.sha256 for f in files]}
    identity, file = ' '.join([name, *about['sha256']]), files[0]
    if name == 'inception':
        params, classifier = inception.load_inception(file.path)
        features = functools.partial(_inception, resize=resize)
        return Network(f'{identity} {resize}', features, params, about | {'resize': resize}, classifier)
    if name == 'vgg16_fc':
        return Network(identity, perceptual.classifier_features, perceptual.load_classifier(file.path), about)
    if name == 'stem':
        return Network(identity, _stem, inception.load_stem(file.path), about)
    if name in _TRANSFORMERS:
        load, features = _TRANSFORMERS[name]
        net, params = load(file.path)
        about |= {'layers': net.layers, 'width': net.width}  # the size, which the name does not say
        return Network(identity, functools.partial(features, net), params, about)
    params = perceptual.load_lpips([f.path for f in files])
    if name == 'lpips':
        return Network(identity, None, params, about)
    return Network(identity, perceptual.mean_features, params['vgg'], about)
