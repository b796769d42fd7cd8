"""Feature networks with weights that the user supplies: VGG-16, and HED (edges) on its stack. Nothing is downloaded."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.ops import resize_half_pixel
from pegan_jax.weights import contents, reader, rules

# Index of a convolution among torchvision's `vgg16().features`, and its features; a pool follows every block.
BLOCKS = (
    ((0, 64), (2, 64)),
    ((5, 128), (7, 128)),
    ((10, 256), (12, 256), (14, 256)),
    ((17, 512), (19, 512), (21, 512)),
    ((24, 512), (26, 512), (28, 512)),
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]
HED_MEAN = (104.00698793, 116.66876762, 122.67891434)  # BGR in [0, 255]


class VGG16(nn.Module):
    """The convolutions of VGG-16 (Simonyan and Zisserman 2015, configuration D), x [N, H, W, 3] as they expect it.

    Returns: what comes out of the first `blocks` blocks, each before its pool: block n (from 0) has H // 2^n rows.
    """

    blocks: int = 5

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        maps = []
        for block in BLOCKS[: self.blocks]:
            if maps:
                x = pool(x)
            for index, features in block:
                x = jax.nn.relu(nn.Conv(features, (3, 3), padding=1, name=f'features_{index}')(x))
            maps.append(x)
        return tuple(maps)


def pool(x: jax.Array) -> jax.Array:
    """Maxima of 2x2 pixels; an odd last row or column is left out."""
    return nn.max_pool(x, (2, 2), (2, 2))


def vgg_pools(params: dict, images: jax.Array) -> tuple[jax.Array, ...]:
    """Feature maps after the first three pools, which perceptual losses compare (Liu et al. 2018, section 3.3).

    Args:
      params: from `load_vgg`.
      images: [N, H, W, 3] in [0, 1], both sides at least 8.
    Returns: [N, H // 2, W // 2, 64], [N, H // 4, W // 4, 128], [N, H // 8, W // 8, 256].
    """
    mean, std = (jnp.array(v)[None, None, None, :] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return tuple(map(pool, VGG16(blocks=3).apply({'params': params}, (images - mean) / std)))


def load_vgg(path: str | pathlib.Path) -> dict:
    """Parameters of `VGG16` from a torch file of torchvision's `vgg16`; its classifier is left out.

    Raises: ForeignFileError if there is no such file, or it holds anything else.
    """
    found = contents.arrays(reader.read(path))
    table = [
        rules.Rule(r'features\.(\d+)\.weight', 'features_{0}/kernel', rules.conv),
        rules.Rule(r'features\.(\d+)\.bias', 'features_{0}/bias', rules.flat),
    ]
    return _apply(path, found, table, VGG16(), ignored=[r'classifier\..*'])


def _apply(path: str | pathlib.Path, found: dict, table: list, net: nn.Module, **options: Any) -> dict:
    target = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    return rules.fill(path, found, table, target, **options)


# HED ------------------------------------------------------------------------------------------------------------------


class HED(nn.Module):
    """Holistically-nested edge detection (Xie and Tu 2015): x [N, H, W, 3], sides multiples of 16 -> [N, H, W].

    Five side outputs, a 1x1 convolution of each block, are enlarged bilinearly, and a 1x1 convolution of all of them
    gives logits; the result is between 0 and 1. Borders are padded with zeros as in VGG; the released network pads by
    35 pixels.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = VGG16(name='vgg')(x)
        sides = [nn.Conv(1, (1, 1), name=f'side_{n}')(side) for n, side in enumerate(maps)]
        sides = [resize_half_pixel(side, x.shape[1:3]) for side in sides]
        return jax.nn.sigmoid(nn.Conv(1, (1, 1), name='fuse')(jnp.concatenate(sides, axis=-1)))[..., 0]


def load_hed(path: str | pathlib.Path) -> dict:
    """Parameters of `HED` from a torch file, whatever its names: weights and biases in turn, in order.

    That is: thirteen 3x3 convolutions and, among or after them, five 1x1 convolutions of the side outputs and one that
    fuses them.

    Raises: ForeignFileError if there is no such file, or it holds anything else; for safetensors, which have no order.
    """
    if str(path).endswith('.safetensors'):
        raise contents.ForeignFileError(
            f'{path}: HED is read in the order of its file, and safetensors have none; give the torch file.'
        )
    found = list(contents.arrays(reader.read(path)).items())
    if len(found) != 38:
        raise contents.ForeignFileError(f'{path} is not a file of HED: it has {len(found)} arrays; expected 38.')
    indices = iter([index for block in BLOCKS for index, _ in block])
    heads = iter([*(f'side_{n}' for n in range(5)), 'fuse'])
    layers = {}
    for (name, weight), (bias_name, bias) in zip(found[::2], found[1::2], strict=True):
        if weight.ndim != 4 or bias.ndim != 1:
            raise contents.ForeignFileError(
                f'{path} is not a file of HED: expected weights and biases in turn, but {contents.shown(name)} has the '
                f'shape {weight.shape} and {contents.shown(bias_name)} {bias.shape}.'
            )
        layer = next(heads, 'more') if weight.shape[2:] == (1, 1) else f'vgg/features_{next(indices, "more")}'
        layers |= {f'{layer}/kernel': weight, f'{layer}/bias': bias}
    table = [rules.Rule(r'(.*/kernel)', '{0}', rules.conv), rules.Rule(r'(.*/bias)', '{0}', rules.flat)]
    return _apply(path, layers, table, HED())


@jax.jit
def _hed(params: dict, x: jax.Array) -> jax.Array:
    return HED().apply({'params': params}, x)


def hed_edges(params: dict, image: np.ndarray) -> np.ndarray:
    """How likely each pixel is an edge, uint8 [H, W, 1] with 255 for certainty, in an image uint8 [H, W, 3] (RGB).

    The border is repeated up to multiples of 64 pixels, so that few programs are compiled for many sizes.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 64), (0, -width % 64), (0, 0)), mode='edge')
    x = padded[None, ..., ::-1].astype(np.float32) - np.array(HED_MEAN, np.float32)
    edges = np.asarray(_hed(params, x))[0, :height, :width]
    return np.round(edges * 255).astype(np.uint8)[..., None]
