"""Inception-v3, in the form that defines FID, and its first layers, which define SIFID.

It is the network of TensorFlow's archive of 2015-12-05 (Szegedy et al. 2016), as in the file that users of pytorch-fid
and torch-fidelity have: 1008 classes; means of pools leave padding out; the pool of the last block takes maxima.
"""

import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops import conv2d, resize_bicubic, resize_corner
from pegan_jax.weights import contents, reader, rules

SIDE = 299
FEATURES, CLASSES = 2048, 1008
BATCH_NORM_EPSILON = 1e-3


class _Unit(nn.Module):
    """Convolution, its batch normalisation in kernel and bias (see `_folded`), and ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)  # height, width
    stride: int = 1
    same: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.he_normal(), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        height, width = ((n // 2 if self.same else 0) for n in self.kernel)
        x = conv2d(x, kernel, padding=(width, width, height, height), stride=self.stride)
        return jax.nn.relu(x + bias[None, None, None, :])


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


class _Branches(nn.Module):
    """Parts of a block, side by side: each is a chain of (name, features, kernel), or a pool before one."""

    chains: tuple
    pool: str = 'average'  # before the chain 'branch_pool'; or 'max'
    stride: int = 1  # of the last unit of each chain, unpadded; a chain without units is then a pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outs = []
        for chain in self.chains:
            y = x
            for i, (name, features, kernel) in enumerate(chain):
                if name == 'branch_pool':
                    y = _average(y) if self.pool == 'average' else nn.max_pool(y, (3, 3), (1, 1), 'SAME')
                last = i == len(chain) - 1 and self.stride > 1
                if isinstance(features, tuple):  # the chain ends in two units side by side
                    parts = [_Unit(features[1], k, name=f'{name}{s}')(y) for k, s in zip(kernel, 'ab', strict=True)]
                    y = jnp.concatenate(parts, axis=-1)
                else:
                    y = _Unit(features, kernel, self.stride if last else 1, not last, name=name)(y)
            outs.append(y if chain else _max_pool(x))
        return jnp.concatenate(outs, axis=-1)


def _block_a(pool_features: int) -> tuple:
    return (
        (('branch1x1', 64, (1, 1)),),
        (('branch5x5_1', 48, (1, 1)), ('branch5x5_2', 64, (5, 5))),
        (('branch3x3dbl_1', 64, (1, 1)), ('branch3x3dbl_2', 96, (3, 3)), ('branch3x3dbl_3', 96, (3, 3))),
        (('branch_pool', pool_features, (1, 1)),),
    )


_BLOCK_B = (
    (('branch3x3', 384, (3, 3)),),
    (('branch3x3dbl_1', 64, (1, 1)), ('branch3x3dbl_2', 96, (3, 3)), ('branch3x3dbl_3', 96, (3, 3))),
    (),
)


def _block_c(n: int) -> tuple:
    wide, high = (1, 7), (7, 1)
    double = ((1, 1), high, wide, high, wide)
    return (
        (('branch1x1', 192, (1, 1)),),
        (('branch7x7_1', n, (1, 1)), ('branch7x7_2', n, wide), ('branch7x7_3', 192, high)),
        tuple((f'branch7x7dbl_{i}', 192 if i == 5 else n, kernel) for i, kernel in enumerate(double, 1)),
        (('branch_pool', 192, (1, 1)),),
    )


_BLOCK_D = (
    (('branch3x3_1', 192, (1, 1)), ('branch3x3_2', 320, (3, 3))),
    (
        ('branch7x7x3_1', 192, (1, 1)),
        ('branch7x7x3_2', 192, (1, 7)),
        ('branch7x7x3_3', 192, (7, 1)),
        ('branch7x7x3_4', 192, (3, 3)),
    ),
    (),
)
_BLOCK_E = (
    (('branch1x1', 320, (1, 1)),),
    (('branch3x3_1', 384, (1, 1)), ('branch3x3_2', (2, 384), ((1, 3), (3, 1)))),
    (
        ('branch3x3dbl_1', 448, (1, 1)),
        ('branch3x3dbl_2', 384, (3, 3)),
        ('branch3x3dbl_3', (2, 384), ((1, 3), (3, 1))),
    ),
    (('branch_pool', 192, (1, 1)),),
)


class Stem(nn.Module):
    """The layers up to the second pool, x [N, H, W, 3] in [-1, 1], sides of at least 19 -> [N, h, w, 192]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _stem(x)


def _stem(x: jax.Array) -> jax.Array:
    x = _Unit(32, (3, 3), 2, False, name='Conv2d_1a_3x3')(x)
    x = _Unit(32, (3, 3), 1, False, name='Conv2d_2a_3x3')(x)
    x = _max_pool(_Unit(64, (3, 3), name='Conv2d_2b_3x3')(x))
    x = _Unit(80, (1, 1), name='Conv2d_3b_1x1')(x)
    return _Unit(192, (3, 3), 1, False, name='Conv2d_4a_3x3')(x)


class InceptionV3(nn.Module):
    """x [N, 299, 299, 3], from `prepare` -> features [N, 2048], the means of the last block."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _max_pool(_stem(x))
        for name, pool_features in (('Mixed_5b', 32), ('Mixed_5c', 64), ('Mixed_5d', 64)):
            x = _Branches(_block_a(pool_features), name=name)(x)
        x = _Branches(_BLOCK_B, stride=2, name='Mixed_6a')(x)
        for name, n in (('Mixed_6b', 128), ('Mixed_6c', 160), ('Mixed_6d', 160), ('Mixed_6e', 192)):
            x = _Branches(_block_c(n), name=name)(x)
        x = _Branches(_BLOCK_D, stride=2, name='Mixed_7a')(x)
        x = _Branches(_BLOCK_E, name='Mixed_7b')(x)
        x = _Branches(_BLOCK_E, pool='max', name='Mixed_7c')(x)
        return x.mean(axis=(1, 2))


def prepare(images: jax.Array, resize: str = 'published') -> jax.Array:
    """uint8 [N, H, W, 3] -> [N, 299, 299, 3] in [-1, 1): (x - 128) / 128 of the resized image.

    resize: 'published': bilinear as in the network's own graph, `resize_corner`, not antialiased; 'clean': bicubic,
      antialiased, between 0 and 255 and not rounded, as in clean-fid (Parmar et al. 2022).
    """
    x = images.astype(jnp.float32)
    x = resize_corner(x, (SIDE, SIDE)) if resize == 'published' else jnp.clip(resize_bicubic(x, (SIDE, SIDE)), 0, 255)
    return (x - 128) / 128


def load_inception(path: str | pathlib.Path) -> tuple[dict, np.ndarray]:
    """Parameters of `InceptionV3`, and the kernel [2048, 1008] of its classifier, whose bias is not used.

    Args:
      path: pytorch-fid's file (pt_inception-2015-12-05-6726825d.pth).
    Raises: ForeignFileError if there is no such file, or it holds anything else; the message names torchvision's own
      Inception-v3, which has other weights and other pools.
    """
    found = contents.arrays(reader.read(path))
    if 'fc.weight' in found and len(found['fc.weight']) != CLASSES:
        raise contents.ForeignFileError(
            f'{path} has {len(found["fc.weight"])} classes, not {CLASSES}: an Inception-v3, but not that of FID.'
        )
    table = [rules.Rule(r'fc\.weight', 'fc', rules.dense), *_TABLE]
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))['params']
    target = shapes | {'fc': jax.ShapeDtypeStruct((FEATURES, CLASSES), np.float32)}
    params = rules.fill(path, _folded(found, target), table, target, ignored=[r'fc\.bias', r'AuxLogits\..*'])
    return params, params.pop('fc')


def load_stem(path: str | pathlib.Path) -> dict:
    """Parameters of `Stem` from torchvision's file of Inception-v3, or another with its names; the rest is left out.

    Raises: ForeignFileError as `load_inception`.
    """
    target = jax.eval_shape(Stem().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    found = {k: v for k, v in contents.arrays(reader.read(path)).items() if k.startswith('Conv2d_')}
    return rules.fill(path, _folded(found, target), _TABLE, target)


_TABLE = [
    rules.Rule(
        r'((?:Conv|Mixed)\w+(?:\.\w+)?)\.weight',
        lambda name: f'{name.replace("_branch", "/branch")}/kernel',
        rules.conv,
    ),
    rules.Rule(
        r'((?:Conv|Mixed)\w+(?:\.\w+)?)\.bias', lambda name: f'{name.replace("_branch", "/branch")}/bias', rules.flat
    ),
]


def _folded(found: dict, target: dict) -> dict:
    """Convolutions with their normalisation in them: weight g / s and bias b - m g / s, s = (v + epsilon)^(1/2)."""
    folded = {}
    for name, array in found.items():
        unit, _, rest = name.rpartition('.conv.')
        if rest == 'weight' and all(
            f'{unit}.bn.{k}' in found for k in ('weight', 'bias', 'running_mean', 'running_var')
        ):
            scale, shift, mean, variance = (
                found[f'{unit}.bn.{k}'].astype(np.float64) for k in ('weight', 'bias', 'running_mean', 'running_var')
            )
            scale = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
            folded[f'{unit}.weight'] = (array * scale[:, None, None, None]).astype(np.float32)
            folded[f'{unit}.bias'] = (shift - mean * scale).astype(np.float32)
        elif not re.fullmatch(r'.*\.bn\.(weight|bias|running_mean|running_var|num_batches_tracked)', name):
            folded[name] = array
    return folded
